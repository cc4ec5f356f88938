"""The file of a snapshot: a line of JSON with a CRC, then the content, whose length and CRC are in the line.

    {"format":1,"store_id":"…","name":"…","stream":"…","bytes":N,"content_crc":N,"crc32":"8 hex digits"}
    …content…

`stream` is null for a snapshot of a selection of the log. The content is what `evlog/state/snapshots.py`
writes; no engine parses it.
"""

from __future__ import annotations

from zlib import crc32

from evlog.files.format.headers import FORMAT_VERSION, FormatFault
from evlog.files.format.lines import decode_line, encode_line

MAX_SNAPSHOT_BYTES = 1 << 30
MAX_HEADER_BYTES = 4096  # a name and a stream, of at most 355 bytes, escaped


def encode_snapshot(store_id: str, name: str, stream: str | None, content: bytes) -> bytes:
    """Return the whole file."""
    header = encode_line(
        {
            "format": FORMAT_VERSION,
            "store_id": store_id,
            "name": name,
            "stream": stream,
            "bytes": len(content),
            "content_crc": crc32(content),
        }
    )
    return header + content


def decode_snapshot_name(raw: bytes) -> tuple[str, str | None]:
    """Return the name and the stream in the beginning of a file.

    Raises:
        FormatFault: it is damaged, or in a newer format.
    """
    return _decode_header(raw)[1:3]


def decode_snapshot(raw: bytes, store_id: str, name: str, stream: str | None) -> bytes:
    """Return the content.

    Raises:
        FormatFault: it is damaged, in a newer format, or not this snapshot of this store.
    """
    found_id, *found, content_bytes, content_crc, at = _decode_header(raw)
    if found_id != store_id or found != [name, stream]:
        raise FormatFault("it belongs to another snapshot or store")
    content = raw[at:]
    if len(content) != content_bytes or crc32(content) != content_crc:
        raise FormatFault("its content is cut off or damaged")
    return content


def _decode_header(raw: bytes) -> tuple[str, str, str | None, int, int, int]:
    """Return store id, name, stream, the content's length and CRC, and where it begins."""
    at = raw.find(b"\n", 0, MAX_HEADER_BYTES) + 1
    line = decode_line(raw[:at])
    if line.get("format") != FORMAT_VERSION:
        raise FormatFault(f"its format is {line.get('format')!r:.20}")
    fields = [line.get(key) for key in ("store_id", "name", "stream", "bytes", "content_crc")]
    kinds = (str, str, str | None, int, int)
    if not all(isinstance(field, kind) for field, kind in zip(fields, kinds, strict=True)):
        raise FormatFault("a field is missing or wrong")
    return (*fields, at)  # type: ignore[return-value]  # checked above
