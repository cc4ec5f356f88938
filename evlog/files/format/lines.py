"""JSON lines that end with their CRC: the manifest, checkpoints and parked events.

    {"format":1,…,"crc32":"8 hex digits"}

The CRC is that of all bytes before `,"crc32"`. This rule holds for all formats to come.
"""

from __future__ import annotations

from zlib import crc32

from evlog.files.format.headers import FormatFault
from evlog.model.json_text import decode_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

_CRC_KEY: Final = b',"crc32":"'
_DEEPLY_NESTED: Final = 100  # brackets; what evlog writes has a few, and a stack overflows at hundreds


def encode_line(document: dict[str, Any]) -> bytes:
    """Return a JSON object as one line that ends with its CRC."""
    import json

    return sign_line(json.dumps(document, separators=(",", ":")).encode()[:-1])


def sign_line(body: bytes) -> bytes:
    """Return a JSON object without its closing brace as a line that ends with its CRC."""
    return body + _CRC_KEY + b'%08x"}\n' % crc32(body)


def decode_line(raw: bytes) -> dict[str, Any]:
    """Return the JSON object of a line.

    Raises:
        FormatFault: it is cut off, damaged, or not such a line.
    """
    body = check_line(raw)
    try:
        return decode_object(body + b"}")
    except ValueError as error:
        raise FormatFault(f"a line is not JSON: {error}") from None


def decode_object(text: bytes) -> dict[str, Any]:
    """Decode the JSON object in a file of a store.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
        RecursionError: the caller's stack is too deep, which is not damage.
    """
    try:
        document: dict[str, Any] = decode_json(text.decode())
    except RecursionError:
        if text.count(b"[") + text.count(b"{") < _DEEPLY_NESTED:
            raise
        raise ValueError("it is nested too deeply") from None
    return document


def crc_of_line(raw: bytes) -> int:
    """Return the CRC that a line ends with, which was checked before."""
    return int(raw[-len('01234567"}\n') : -len('"}\n')], 16)


def check_line(raw: bytes) -> bytes:
    """Return what the CRC at the end of a line covers.

    Raises:
        FormatFault: the line is cut off, damaged, or not such a line.
    """
    body, key, crc = raw.rpartition(_CRC_KEY)
    if not key:
        raise FormatFault("a line is cut off")
    if crc != b'%08x"}\n' % crc32(body):
        raise FormatFault("a line fails its CRC")
    return body
