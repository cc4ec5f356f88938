"""What an event is: `NewEvent` going in, `Event` coming out, stream names, ids and content types.

Pure: no I/O, no clock but for making ids. Everything that can be wrong with an event is found here,
before a lock is taken or a byte is written. This module knows nothing of files or frames.

An `Event` is its record, the tuple that one msgpack call decodes, with names put on it: making one costs
a single C call, and what is dearer (UUID, datetime, JSON) is made when asked for.
"""

from __future__ import annotations

import os
import sys
import time
from itertools import repeat
from operator import attrgetter, itemgetter
from struct import Struct

from evlog.errors import CorruptionError, EventTooLarge, InvalidEvent, InvalidStreamName
from evlog.model.json_text import make_decoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime
    from typing import Any, Final
    from uuid import UUID

    _Tuple = tuple[Any, ...]
else:
    _Tuple = tuple

MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
MAX_NAME_BYTES: Final = 255

CONTENT_TYPES: Final = ("json", "text", "binary")  # a record stores the index
_CONTENT_CODES: Final = {name: code for code, name in enumerate(CONTENT_TYPES)}
JSON_CODE, TEXT_CODE, BINARY_CODE = range(3)

# The namespace of idempotency keys. It must never change: the same key has to give the same id for ever.
ID_NAMESPACE: Final = "7b1f9a52-6d0e-5b8f-9c3a-e0f1d2c3b4a5"

# How the names of the store's own streams begin: of all, and of those with a stream's or category's policy.
SYSTEM_PREFIX: Final = "$"
METADATA_PREFIX: Final = "$$"
CATEGORY_PREFIX: Final = "$$$ce-"

_class_of: Final = attrgetter("__class__")
_FIELDS: Final = tuple(map(attrgetter, ("type", "id", "data", "metadata", "content_type")))
_CONTROL: Final = frozenset(map(chr, (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)))
_LINE_BREAKS_TO_SPACES: Final = bytes.maketrans(b"\r\n", b"  ")
_TAIL: Final = Struct("8s")
_MAX_CHECKED_TYPES: Final = 1 << 14
_BULK_EVENTS: Final = 16  # from so many on, passes by column cost less than a loop
_VARIANT: Final = bytes(byte & 0x3F | 0x80 for byte in range(256))  # RFC 9562: the two bits 10
# From this many JSON payloads on, msgspec's import (tens of milliseconds) pays for itself.
_BULK_JSON: Final = 64
_SINGLES_BEFORE_BULK: Final = 2000

Record = tuple[int, int, str, str, bytes, int, int, bytes, bytes | None]
"""position, version, stream, type, id, time in µs, content type code, data, metadata JSON or None"""

EncodedEvent = tuple[str, bytes | None, int, bytes, bytes | None]
"""type, id (None: the store makes one), content type code, data, metadata JSON or None"""


class NewEvent:
    """An event that is to be appended.

    Args:
        type: what happened, e.g. "OrderPaid": 1 to 255 bytes of UTF-8, no control characters.
        data: for "json" an object that JSON can express (None is `{}`), or `bytes` that are JSON already
            and are kept byte for byte; for "text" a `str` or UTF-8 `bytes`; for "binary" `bytes`.
        id: a UUID (or its text, or its 16 bytes) that makes a retry harmless; left out, the store makes a
            UUIDv7. `idempotency_id` makes one from any text.
        metadata: a JSON object. `$correlationId` and `$causationId` are KurrentDB's names.
        content_type: "json", "text" or "binary".
    """

    __slots__ = ("content_type", "data", "id", "metadata", "type")

    def __init__(
        self,
        type: str,
        data: Any = None,
        *,
        id: UUID | str | bytes | None = None,
        metadata: dict[str, Any] | bytes | None = None,
        content_type: str = "json",
    ) -> None:
        self.type = type
        self.data = data
        self.id = id
        self.metadata = metadata
        self.content_type = content_type

    def __repr__(self) -> str:
        return f"NewEvent({self.type!r}, {self.data!r}, id={self.id!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NewEvent):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]  # data may be a dict


class Event(_Tuple):
    """An event as it stands in the log: immutable, equal to another when every field is.

    `position` and `version` count from 1; `data` is exactly what was appended.
    """

    __slots__ = ()

    position: int = property(itemgetter(0), doc="Place in the whole log.")  # type: ignore[assignment]
    version: int = property(itemgetter(1), doc="Place in its stream.")  # type: ignore[assignment]
    stream: str = property(itemgetter(2), doc="The stream's name.")  # type: ignore[assignment]
    type: str = property(itemgetter(3), doc="What happened.")  # type: ignore[assignment]
    id_bytes: bytes = property(itemgetter(4), doc="The id's 16 bytes.")  # type: ignore[assignment]
    time_us: int = property(itemgetter(5), doc="UTC, µs since 1970.")  # type: ignore[assignment]
    data: bytes = property(itemgetter(7), doc="The payload's bytes.")  # type: ignore[assignment]

    @property
    def id(self) -> UUID:
        """The event's id."""
        from uuid import UUID

        try:
            return UUID(bytes=self[4])
        except (TypeError, ValueError, AssertionError) as error:
            raise self._senseless("id", error) from None

    @property
    def time(self) -> datetime:
        """When the store wrote it: UTC, to the microsecond, never less than the event before."""
        from datetime import UTC, datetime, timedelta

        try:
            return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self[5])
        except (TypeError, OverflowError) as error:
            raise self._senseless("time", error) from None

    @property
    def content_type(self) -> str:
        """What the data is: "json", "text" or "binary"."""
        try:
            return CONTENT_TYPES[self[6]]
        except (TypeError, LookupError) as error:
            raise self._senseless("content type", error) from None

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata, parsed at each use."""
        import json

        try:
            metadata = json.loads(self[8]) if self[8] else {}
            if isinstance(metadata, dict):
                return metadata
            raise ValueError("it is not an object")
        except (TypeError, ValueError, RecursionError) as error:
            raise self._senseless("metadata", error) from None

    @property
    def metadata_bytes(self) -> bytes:
        """The metadata as JSON text, `{}` where there is none."""
        return self[8] or b"{}"

    @property
    def category(self) -> str:
        """The part of the stream's name before its first `-`."""
        try:
            return category_of(self[2])
        except (TypeError, AttributeError) as error:
            raise self._senseless("stream", error) from None

    def json(self) -> Any:
        """The data parsed as JSON at each call; text comes as a `str`.

        Raises:
            InvalidEvent: the content type is binary.
            CorruptionError: a store from somebody else holds data that is not JSON.
        """
        import json

        code = self[6]
        try:
            if code == JSON_CODE:
                return json.loads(self[7])
            if code == TEXT_CODE:
                return self[7].decode()
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            raise self._senseless("data", error) from None
        raise InvalidEvent("data", "is binary, not JSON; use event.data")

    def _senseless(self, field: str, error: Exception) -> CorruptionError:
        """Return the error for a field that evlog never writes: its CRC is right, so it was made that way."""
        position = self[0]
        detail = f"its {field} makes no sense ({type(error).__name__}: {str(error)[:80]})"
        return CorruptionError(f"event {position!r:.40}", None, detail, position)

    def __repr__(self) -> str:
        return (
            f"Event(position={self[0]}, stream={self[2]!r}, version={self[1]}, type={self[3]!r}, "
            f"id={self.id}, data={self[7][:60]!r}{'…' if len(self[7]) > 60 else ''})"
        )


def category_of(stream: str) -> str:
    """The category of a stream: its name before the first `-`, or all of it."""
    return stream.partition("-")[0]


def check_stream_name(stream: str) -> str:
    """Return the name, or raise InvalidStreamName saying what is wrong with it."""
    if check_readable_name(stream).startswith(SYSTEM_PREFIX):
        raise InvalidStreamName(stream, "begins with $, which is reserved for the store's own streams")
    return stream


def check_readable_name(stream: str) -> str:
    """Return the name if a stream may have it, reserved or not, or raise InvalidStreamName."""
    name = stream
    if isinstance(stream, str) and stream.startswith(METADATA_PREFIX):
        name = stream.removeprefix(CATEGORY_PREFIX).removeprefix(METADATA_PREFIX)  # that has the usual length
    reason = maybe_name_fault(name)
    if reason is not None:
        raise InvalidStreamName(stream, reason)
    return stream


def check_type(type: str) -> str:
    """Return the event type, or raise InvalidEvent saying what is wrong with it."""
    reason = maybe_name_fault(type)
    if reason is not None:
        raise InvalidEvent("type", f"{reason}; use 1 to 255 bytes of printable UTF-8")
    return type


def maybe_name_fault(name: object, max_bytes: int = MAX_NAME_BYTES) -> str | None:
    """What is wrong with a name that has to be short, printable UTF-8; None if nothing."""
    if not isinstance(name, str):
        return f"is a {name.__class__.__name__}, not a str"
    if not name:
        return "is empty"
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode (a lone surrogate)"
    if size_bytes > max_bytes:
        return f"is {size_bytes} bytes long"
    if not name.isprintable() and not _CONTROL.isdisjoint(name):
        return "has a control character or line break in it"
    return None


def idempotency_id(key: str) -> UUID:
    """The event id that stands for an idempotency key: a UUIDv5 in evlog's own namespace."""
    if not isinstance(key, str) or not key:
        raise InvalidEvent("idempotency key", "must be a text that is not empty")
    from uuid import UUID, uuid5

    try:
        return uuid5(UUID(ID_NAMESPACE), key)
    except UnicodeEncodeError:
        raise InvalidEvent("idempotency key", "is not valid Unicode (a lone surrogate)") from None


_MAX_ID_MS: Final = (1 << 48) - 1  # a clock outside these years is refused when the event is written


def make_ids(count: int) -> list[bytes]:
    """New UUIDv7s (RFC 9562), as 16 bytes each: milliseconds, 12 bits below them, 62 random bits."""
    now_ns = time.time_ns()
    ms, rest_ns = divmod(now_ns, 1_000_000)
    fraction = (rest_ns << 12) // 1_000_000
    head = (ms & _MAX_ID_MS).to_bytes(6, "big") + (0x7000 | fraction).to_bytes(2, "big")
    random = bytearray(os.urandom(8 * count))
    random[0::8] = random[0::8].translate(_VARIANT)
    return [head + tail for (tail,) in _TAIL.iter_unpack(random)]


def id_text(id: bytes) -> str:
    """The 16 bytes of an id as UUIDs are written."""
    text = id.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


_checked_types: set[str] = set()  # names that passed: a program has few types


def encode_events(events: Sequence[NewEvent]) -> list[EncodedEvent]:
    """Check events and turn each into what a record holds of it.

    Raises:
        InvalidEvent, EventTooLarge: the first event that cannot be stored.
    """
    alike = _encode_alike(events) if len(events) >= _BULK_EVENTS else None
    encoded, unchecked = alike or _encode_each(events)
    try:
        types: Iterable[Any] = set(map(itemgetter(0), encoded)) - _checked_types
    except TypeError:  # one cannot be hashed, so it is no text
        types = map(itemgetter(0), encoded)
    for type in types:
        if len(_checked_types) >= _MAX_CHECKED_TYPES:
            _checked_types.clear()
        _checked_types.add(check_type(type))
    if unchecked and check_json(unchecked):
        # Valid JSON has no raw line break inside a string, so those there are stand between tokens.
        encoded = [
            (type, id, code, data if code != JSON_CODE else data.translate(_LINE_BREAKS_TO_SPACES), metadata)
            for type, id, code, data, metadata in encoded
        ]
    return encoded


def _encode_alike(events: Sequence[NewEvent]) -> tuple[list[EncodedEvent], Sequence[bytes]] | None:
    """Encode a bulk load by columns, in C; None if some event is not JSON in bytes with an id in bytes."""
    if set(map(_class_of, events)) != {NewEvent}:
        return None
    # A list for each field, rather than a tuple for each event, which the garbage collector would look at.
    types, ids, datas, metadatas, content_types = ([*map(field, events)] for field in _FIELDS)
    alike = (
        set(map(_class_of, datas)) == set(map(_class_of, ids)) == {bytes}
        and metadatas.count(None) == content_types.count("json") == len(ids)
        and set(map(len, ids)) == {16}
        and max(map(len, datas)) <= MAX_EVENT_BYTES
    )
    return (list(zip(types, ids, repeat(JSON_CODE), datas, metadatas)), datas) if alike else None


def _encode_each(events: Sequence[NewEvent]) -> tuple[list[EncodedEvent], Sequence[bytes]]:
    """Encode any events; also the JSON that was given as bytes and is still to be checked, all together."""
    encoded: list[EncodedEvent] = []
    unchecked: list[bytes] = []
    for event in events:
        if event.__class__ is not NewEvent and not isinstance(event, NewEvent):
            raise InvalidEvent("", f"expected a NewEvent, got a {event.__class__.__name__}")
        data = event.data
        code = JSON_CODE
        if data.__class__ is bytes and event.content_type == "json":
            unchecked.append(data)
        else:
            code, data = _encode_data(event.content_type, data)
        id = event.id
        if id is not None:
            # By its name: a program that has a UUID has imported the class, others need not.
            is_uuid = id.__class__.__name__ == "UUID"
            id = id.int.to_bytes(16) if is_uuid else _encode_id(id)  # type: ignore[union-attr]
        metadata = event.metadata
        if metadata is not None:
            metadata = _encode_metadata(metadata)
        if len(data) > MAX_EVENT_BYTES or (metadata and len(data) + len(metadata) > MAX_EVENT_BYTES):
            raise EventTooLarge(len(data) + len(metadata or b""), MAX_EVENT_BYTES)
        encoded.append((event.type, id, code, data, metadata))
    return encoded, unchecked


def _encode_data(content_type: str, data: Any) -> tuple[int, bytes]:
    """The code of the content type, and the payload's bytes."""
    code = _CONTENT_CODES.get(content_type)
    if code is None:
        raise InvalidEvent("content type", f"{content_type!r} is none of {', '.join(CONTENT_TYPES)}")
    if isinstance(data, bytearray | memoryview):
        data = bytes(data)
    if code == JSON_CODE:
        if isinstance(data, bytes):
            check_json([data])
            return code, data.translate(_LINE_BREAKS_TO_SPACES)
        return code, dump_json({} if data is None else data, "data")
    if data is None:
        return code, b""
    if code == TEXT_CODE:
        return code, _encode_text(data)
    if isinstance(data, bytes):
        return code, data
    raise InvalidEvent("data", f"of content type binary must be bytes, not {data.__class__.__name__}")


def _encode_text(data: Any) -> bytes:
    try:
        if isinstance(data, str):
            return data.encode()
        if isinstance(data, bytes):
            data.decode()
            return data
    except UnicodeEncodeError:
        raise InvalidEvent("data", "is not valid Unicode (a lone surrogate)") from None
    except UnicodeDecodeError as error:
        raise InvalidEvent("data", f"is not UTF-8 text at byte {error.start}; use binary") from None
    raise InvalidEvent("data", f"of content type text must be str or bytes, not {data.__class__.__name__}")


def _encode_metadata(metadata: dict[str, Any] | bytes) -> bytes | None:
    if isinstance(metadata, bytes):
        check_json([metadata], "metadata")
        if not metadata.lstrip().startswith(b"{"):
            raise InvalidEvent("metadata", "must be a JSON object")
        return metadata.translate(_LINE_BREAKS_TO_SPACES)
    if not isinstance(metadata, dict):
        raise InvalidEvent("metadata", "must be a JSON object (a dict)")
    return dump_json(metadata, "metadata") if metadata else None


def _encode_id(id: UUID | str | bytes) -> bytes:
    raw = id if isinstance(id, bytes) else getattr(id, "bytes", None)
    if raw is None:
        from uuid import UUID

        try:
            raw = UUID(id).bytes  # type: ignore[arg-type]
        except (ValueError, AttributeError, TypeError):
            raise InvalidEvent("id", f"{id!r} is not a UUID; use idempotency_id for other texts") from None
    if not isinstance(raw, bytes) or len(raw) != 16:
        raise InvalidEvent("id", "must be a UUID of 16 bytes")
    return raw


def dump_json(value: Any, field: str) -> bytes:
    """Encode a Python object as compact strict JSON, or raise InvalidEvent."""
    import json

    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidEvent(field, f"is not JSON: {error}") from None


def check_json(payloads: Sequence[bytes], field: str = "data") -> bool:
    """Check that each payload is strict JSON in UTF-8: RFC 8259, no NaN, no lone surrogates.

    Returns:
        Whether there is a line break in any of them.

    Raises:
        InvalidEvent: the first that is not.
    """
    if len(payloads) == 1:
        payload = payloads[0]
        check = _single_checker()
        try:
            payload.decode()
            check(payload)
        except (ValueError, RecursionError):
            _explain_json(payload, check, field)
        return b"\n" in payload or b"\r" in payload
    from collections import deque

    bulk = len(payloads) >= _BULK_JSON or "msgspec" in sys.modules
    check = _bulk_checker() if bulk else _check_json_one
    try:
        # msgspec takes the strings that it skips unread, so UTF-8 is checked here; a character cannot
        # be put together from two payloads across the line break.
        joined = b"\n".join(payloads)
        joined.decode()
        deque(map(check, payloads), maxlen=0)
    except (ValueError, RecursionError):
        for payload in payloads:
            _explain_json(payload, check, field)
        raise AssertionError("a payload failed together with the others and not alone") from None
    return joined.count(b"\n") >= len(payloads) or b"\r" in joined


def _explain_json(payload: bytes, check: Callable[[bytes], object], field: str) -> None:
    """Raise the InvalidEvent that says what is wrong with this payload, if anything is."""
    try:
        payload.decode()
        check(payload)
    except UnicodeDecodeError as error:
        raise InvalidEvent(field, f"is not JSON: not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise InvalidEvent(field, "is not JSON that can be read: it is nested too deeply") from None
    except ValueError as error:
        raise InvalidEvent(field, f"is not JSON: {error}") from None


def _check_json_one(payload: bytes) -> None:
    value = _strict_decode(payload.decode())  # a str: bytes would be taken as UTF-16, too
    if b"\\u" in payload:
        import json

        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a lone surrogate in a string") from None


# Numbers stay text: of any size they are JSON, and Python refuses to convert the longest.
_strict_decode: Final = make_decoder(str)


def _single_checker() -> Callable[[bytes], object]:
    """The one that needs no import, until so many single payloads came that the import pays."""
    global _singles
    if "msgspec" in sys.modules or _singles >= _SINGLES_BEFORE_BULK:
        return _bulk_checker()
    _singles += 1
    return _check_json_one


_singles = 0


def _bulk_checker() -> Callable[[bytes], object]:
    global _decode_raw
    if _decode_raw is None:
        import msgspec

        _decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
    return _decode_raw


_decode_raw: Callable[[bytes], object] | None = None  # set twice to the same by two threads: harmless
