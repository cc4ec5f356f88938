"""The files of a named subscription: its checkpoint, and the events that it parked. Lines of JSON with a CRC.

`subscriptions/NAME.json` is one line:

    {"format":1,"store_id":"…","name":"…","filter":{"stream":null,"category":null,"types":null,
     "tags":["…"],"metadata":{"…":"…"},"grep":["…"]},"position":17,"event_id":"32 hex digits",
     "time_us":…,"crc32":"8 hex digits"}

Everything up to `position` is scanned, and the event there has this id. `filter` is null after a damaged
checkpoint was reset, and has the last three only if they are set; `event_id` is null at position 0.

`subscriptions/NAME.parked` has a line for each event that was parked, or failed again, and one for each that
was removed from the list since; the last line of a position counts, and lines that do not may be missing:

    {"position":17,"stream":"…","version":3,"type":"…","id":"32 hex digits","error":"…","attempts":3,
     "time_us":…,"crc32":"8 hex digits"}
    {"position":17,"done":true,"crc32":"8 hex digits"}
"""

from __future__ import annotations

from uuid import UUID

from evlog.errors import UnsupportedFormat
from evlog.files.format.headers import FORMAT_VERSION, FormatFault
from evlog.files.format.lines import decode_line, encode_line
from evlog.model.checkpoints import Checkpoint, ParkedEvent
from evlog.model.events import Event
from evlog.model.filters import EventFilter

MAX_CHECKPOINT_BYTES = 1 << 24  # far more than a filter with the types of a large program
MAX_PARKED_BYTES = 1 << 28


def encode_checkpoint(store_id: str, name: str, checkpoint: Checkpoint) -> bytes:
    """Return the line of a checkpoint."""
    position, event_id, filter, time_us = checkpoint
    return encode_line(
        {
            "format": FORMAT_VERSION,
            "store_id": store_id,
            "name": name,
            "filter": None if filter is None else filter.as_object(),
            "position": position,
            "event_id": None if event_id is None else event_id.hex(),
            "time_us": time_us,
        }
    )


def decode_checkpoint(raw: bytes, path: str, store_id: str, name: str) -> Checkpoint:
    """Return the checkpoint of a line.

    Raises:
        FormatFault: it is damaged, or another subscription's or store's.
        UnsupportedFormat: a newer evlog wrote it.
    """
    line = decode_line(raw)
    try:
        if line["format"] > FORMAT_VERSION:
            raise UnsupportedFormat(path, line["format"], FORMAT_VERSION)
        if line["name"] != name or line["store_id"] != store_id:
            raise FormatFault("it belongs to another subscription or store")
        filter = None if line["filter"] is None else EventFilter.of_object(line["filter"])
        event_id = None if line["event_id"] is None else UUID(line["event_id"]).bytes
        checkpoint = Checkpoint(line["position"], event_id, filter, line["time_us"])
    except FormatFault:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as fault:
        raise FormatFault(f"a field is missing or wrong: {fault!r}") from None
    position, event_id, _, time_us = checkpoint
    if (
        type(position) is not int
        or type(time_us) is not int
        or position < 0
        or (event_id is None) != (not position)
    ):
        raise FormatFault(f"position {position!r} with event id {event_id!r} at {time_us!r} makes no sense")
    return checkpoint


def encode_parked(event: Event, error: str, attempts: int, time_us: int) -> bytes:
    """Return the line that parks an event."""
    return encode_line(
        {
            "position": event.position,
            "stream": event.stream,
            "version": event.version,
            "type": event.type,
            "id": event.id_bytes.hex(),
            "error": error,
            "attempts": attempts,
            "time_us": time_us,
        }
    )


def encode_unparked(position: int) -> bytes:
    """Return the line that removes an event from the list."""
    return encode_line({"position": position, "done": True})


def decode_parked(raw: bytes) -> tuple[int, ParkedEvent | None]:
    """Return the position of a line's event and what is parked there; None where it was removed.

    Raises:
        FormatFault: it is damaged.
    """
    line = decode_line(raw)
    try:
        position = line["position"]
        if type(position) is not int:
            raise FormatFault(f"position {position!r} is not a number")
        if line.pop("done", False):
            return position, None
        parked = ParkedEvent(**line | {"id": UUID(line["id"])})
    except FormatFault:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as fault:
        raise FormatFault(f"a field is missing or wrong: {fault!r}") from None
    numbers = (parked.version, parked.attempts, parked.time_us)
    texts = (parked.stream, parked.type, parked.error)
    if not all(type(each) is int for each in numbers) or not all(type(each) is str for each in texts):
        raise FormatFault("a field of a parked event has another type")
    return position, parked
