"""Events as the page shows them: JSON objects of texts and numbers, each of a bounded size.

A row of a list has the beginning of the data; an event by itself has up to `SHOWN_BYTES` of it. All of it can
be downloaded as a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from evlog.errors import CorruptionError
from evlog.model.events import BINARY_CODE, CONTENT_TYPES, id_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from evlog.model.events import Event
    from evlog.store import EventStore

SHOWN_BYTES: Final = 128 * 1024
_ROW_BYTES: Final = 1000
_DUMPED_BYTES: Final = 2048
_DUMPED_IN_LINE: Final = 16


def as_rows(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Return events for a list."""
    return [as_row(event) for event in events]


def as_row(event: Event) -> dict[str, Any]:
    """Return an event for a list, with the beginning of its data."""
    position, version, stream, type, id, time_us, code, data, _ = event
    row = {
        "position": position,
        "version": version,
        "stream": stream,
        "type": type,
        "id": id_text(id),
        "time_us": time_us,
        "data": f"{len(data):,} bytes" if code == BINARY_CODE else _text(data, _ROW_BYTES),
        "content_type": CONTENT_TYPES[code],
    }
    try:
        row |= {"tags": event.tags, "redacted": event.redacted, "cause": event.causation_id}
    except CorruptionError as error:  # only this field is damaged
        row |= {"tags": [], "redacted": False, "cause": None, "data": str(error)}
    return row


def as_event(store: EventStore, event: Event) -> dict[str, Any]:
    """Return an event by itself, with the positions of its neighbours in the stream."""
    data, metadata = event.data, event.metadata_bytes
    is_binary = event.content_type == "binary"
    shown = data[: _DUMPED_BYTES if is_binary else SHOWN_BYTES]
    return as_row(event) | {
        "data": _dump(shown) if is_binary else _text(shown, SHOWN_BYTES),
        "bytes": len(data),
        "shown_bytes": len(shown),
        "metadata": _text(metadata, SHOWN_BYTES),
        "correlation": event.correlation_id,
        "previous": _position(store, event.stream, event.version - 1),
        "next": _position(store, event.stream, event.version + 1),
    }


def _position(store: EventStore, stream: str, version: int) -> int | None:
    """Return where a version of a stream is; None if it is not there, or hidden."""
    return next((each.position for each in store.read(stream, version, version)), None) if version else None


def _text(raw: bytes, most: int) -> str:
    return raw[:most].decode(errors="replace")


def _dump(raw: bytes) -> str:
    """Return bytes as `hexdump -C` shows them."""
    lines = []
    for begin in range(0, len(raw), _DUMPED_IN_LINE):
        part = raw[begin : begin + _DUMPED_IN_LINE]
        printable = "".join(chr(byte) if 0x20 <= byte < 0x7F else "·" for byte in part)
        lines.append(f"{begin:08x}  {part.hex(' '):<{3 * _DUMPED_IN_LINE}} {printable}")
    return "\n".join(lines)
