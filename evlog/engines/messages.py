"""An event as a message of a log of messages: headers that any consumer reads, and its data as the payload.

    Evlog-Position      place in the whole log, decimal
    Evlog-Version       place in its stream, decimal
    Evlog-Stream        the stream's name, UTF-8
    Evlog-Type          the event's type, UTF-8
    Evlog-Id            a UUID, as it is usually written
    Evlog-Time          when it was written, microseconds since 1970, decimal
    Evlog-Frame         the position of the first event that was appended together with it, decimal
    Evlog-Content-Type  json, text or binary
    Evlog-Metadata      a JSON object, with the tags as "$tags"; left out where there is none

Values are bytes here. An engine whose headers are lines of text escapes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evlog.errors import CorruptionError
from evlog.model.events import CONTENT_TYPES, Event, id_text

if TYPE_CHECKING:
    from collections.abc import Mapping

POSITION: Final = "Evlog-Position"
VERSION: Final = "Evlog-Version"
STREAM: Final = "Evlog-Stream"
TYPE: Final = "Evlog-Type"
ID: Final = "Evlog-Id"
TIME: Final = "Evlog-Time"
FRAME: Final = "Evlog-Frame"
CONTENT_TYPE: Final = "Evlog-Content-Type"
METADATA: Final = "Evlog-Metadata"

_CODES: Final = {name.encode(): code for code, name in enumerate(CONTENT_TYPES)}
_ID_BYTES: Final = 16


def encode_headers(event: Event, frame: int) -> dict[str, bytes]:
    """Return the headers of an event; its payload is `event.data`."""
    position, version, stream, type, id, time_us, code, _, metadata = event
    headers = {
        POSITION: b"%d" % position,
        VERSION: b"%d" % version,
        STREAM: stream.encode(),
        TYPE: type.encode(),
        ID: id_text(id).encode(),
        TIME: b"%d" % time_us,
        FRAME: b"%d" % frame,
        CONTENT_TYPE: CONTENT_TYPES[code].encode(),
    }
    if metadata is not None:
        headers[METADATA] = metadata
    return headers


def decode_message(headers: Mapping[str, bytes], data: bytes, where: str) -> tuple[int, Event]:
    """Return the frame and the event of a message.

    Args:
        where: what the message is called in an error.

    Raises:
        CorruptionError: it is not an event's.
    """
    try:
        id = bytes.fromhex(headers[ID].replace(b"-", b"").decode("ascii"))
        if len(id) != _ID_BYTES:
            raise ValueError(f"an id has {_ID_BYTES} bytes")
        event = Event(
            (
                int(headers[POSITION]),
                int(headers[VERSION]),
                headers[STREAM].decode(),
                headers[TYPE].decode(),
                id,
                int(headers[TIME]),
                _CODES[headers[CONTENT_TYPE]],
                data,
                headers.get(METADATA),
            )
        )
        return int(headers[FRAME]), event
    except (LookupError, ValueError, TypeError, AttributeError) as error:  # Kafka's headers may be null
        reason = f"its headers are not an event's ({type(error).__name__}: {str(error)[:80]})"
        raise CorruptionError(where, None, reason) from None
