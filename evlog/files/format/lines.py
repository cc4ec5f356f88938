"""JSON lines that end with their CRC: the manifest, checkpoints and parked events."""

from __future__ import annotations

import json
from typing import Any, Final
from zlib import crc32

from evlog.files.format.headers import FormatFault

_LINE_CRC: Final = b',"crc32":"'


def encode_line(document: dict[str, Any]) -> bytes:
    """A JSON object as one line that ends with its CRC."""
    body = json.dumps(document, separators=(",", ":")).encode()[:-1]
    return body + _LINE_CRC + b'%08x"}\n' % crc32(body)


def decode_line(raw: bytes) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
        FormatFault: it is cut off, damaged, or never was such a line.
    """
    body, key, crc = raw.rpartition(_LINE_CRC)
    if not key or crc != b'%08x"}\n' % crc32(body):
        raise FormatFault("a line is cut off or fails its CRC")
    try:
        document: dict[str, Any] = json.loads(body + b"}")
    except (ValueError, RecursionError) as error:
        raise FormatFault(f"a line is not JSON: {error}") from None
    return document
