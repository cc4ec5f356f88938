"""What an event is: `NewEvent` before it is appended, `Event` as it is read; stream names and ids. Pure.

An `Event` is its record, the tuple that one msgpack call decodes, with names for its items. Making one costs
a single call in C. What costs more (UUID, datetime, JSON) is made when asked for.

In this order: encoded events, `NewEvent`, `Event`, tags in metadata, names, ids.
"""

from __future__ import annotations

import os
import time
from _collections_abc import Sequence  # collections.abc would import the package collections
from _thread import allocate_lock
from itertools import chain
from operator import itemgetter
from struct import Struct

from evlog.errors import ClockError, CorruptionError, InvalidArgument, InvalidEvent, InvalidStreamName

TYPE_CHECKING = False
if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime
    from typing import Any, Final, Literal, TypeVar, overload
    from uuid import UUID

    _Kind = TypeVar("_Kind")

    Upcast = Callable[["Event"], "Event"]
    """Returns a stored event in today's shape."""

    _Tuple = tuple[Any, ...]
    _Chain = chain["Event"]
else:
    _Tuple, _Chain = tuple, chain

MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
MAX_NAME_BYTES: Final = 255
MAX_VERSION: Final = (1 << 32) - 1
MAX_TIME_US: Final = 253_402_300_799_999_999  # the end of the year 9999, the last of a datetime

CONTENT_TYPES: Final = ("json", "text", "binary")  # a record stores the index
JSON_CODE, TEXT_CODE, BINARY_CODE = range(3)

# The namespace of idempotency keys. It must never change: the same key has to give the same id always.
ID_NAMESPACE: Final = "7b1f9a52-6d0e-5b8f-9c3a-e0f1d2c3b4a5"
_ID_NAMESPACE_BYTES: Final = bytes.fromhex(ID_NAMESPACE.replace("-", ""))
_UUID5_BITS: Final = 5 << 76 | 2 << 62  # RFC 9562: version and variant
_UUID5_MASK: Final = (1 << 128) - 1 ^ (15 << 76 | 3 << 62)

# How the names of the store's own streams begin: of all, and of those with a stream's or category's policy.
SYSTEM_PREFIX: Final = "$"
METADATA_PREFIX: Final = "$$"
CATEGORY_PREFIX: Final = "$$$ce-"

TAGS_BEGIN: Final = b'{"$tags":['  # how the metadata of an event with tags begins
REDACTED_BEGIN: Final = b'{"$redacted":"'  # and that of a redacted event
OWN_BEGINS: Final = (TAGS_BEGIN, REDACTED_BEGIN)  # of metadata that `split_tags` takes something from

_QUOTE: Final = 0x22
_ARRAY_AT: Final = len(TAGS_BEGIN) - 1  # where their array begins
_CONTROL: Final = frozenset(map(chr, (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)))
_SHOWN_CHARACTERS: Final = 200
_MANY_NAMES: Final = 16
_PRINTABLE: Final = bytes(range(0x20, 0x7F))
_RANDOM_BITS: Final = (1 << 62) - 1
_TAIL: Final = Struct("8s")
_MAX_ID_MS: Final = (1 << 48) - 1  # a clock outside these years is refused when the event is written
_VARIANT: Final = bytes(byte & 0x3F | 0x80 for byte in range(256))  # RFC 9562: the two bits 10

Record = tuple[int, int, str, str, bytes, int, int, bytes, bytes | None]
"""position, version, stream, type, id, time in µs, content type code, data, metadata JSON or None"""

EncodedEvent = tuple[str, bytes | None, int, bytes, bytes | None]
"""type, id (None: the store makes one), content type code, data, metadata JSON or None"""


class EncodedEvents(Sequence[EncodedEvent]):
    """Encoded events of a bulk load, by columns: without a tuple for each event, which no pass in C needs.

    It compares like a list of the tuples.
    """

    __slots__ = ("columns",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, *columns: Sequence[Any]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, at: int) -> EncodedEvent: ...
        @overload
        def __getitem__(self, at: slice) -> EncodedEvents: ...

    def __getitem__(self, at: int | slice) -> EncodedEvent | EncodedEvents:
        cells = tuple(column[at] for column in self.columns)
        return EncodedEvents(*cells) if isinstance(at, slice) else cells  # type: ignore[return-value]

    def __iter__(self) -> Iterator[EncodedEvent]:
        return zip(*self.columns, strict=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return repr(list(self))


def columns_of(events: Sequence[EncodedEvent]) -> Iterable[Sequence[Any]]:
    """Return the columns of encoded events: types, ids, content type codes, data, metadata."""
    # By the class: `isinstance` asks the class Sequence, which costs a single append a microsecond.
    return events.columns if events.__class__ is EncodedEvents else zip(*events, strict=True)


def column_of(events: Sequence[EncodedEvent], number: int) -> Sequence[Any]:
    """Return one of the columns."""
    if events.__class__ is EncodedEvents:
        return events.columns[number]
    return [event[number] for event in events]


class NewEvent:
    """An event that is to be appended.

    Args:
        type: what happened, e.g. "OrderPaid": 1 to 255 bytes of UTF-8, no control characters.
        data: for "json" an object that JSON can express (None is `{}`), also with dataclasses, msgspec
            Structs, pydantic models, datetimes, UUIDs and Decimals in it, or `bytes` that are JSON already
            and are kept byte for byte; for "text" a `str` or UTF-8 `bytes`; for "binary" `bytes`.
        id: a UUID (or its text, or its 16 bytes) that makes a retry harmless; left out, the store makes a
            UUIDv7.
        metadata: a JSON object.
        tags: short texts such as "course:c1", by which events are found and conditions are checked: each 1 to
            255 bytes of UTF-8 without control characters, at most 64.
        content_type: "json", "text" or "binary".
        idempotency_key: any text that names this event: its id is made from it, and a conflict names
            it. Kept in the metadata as `$idempotencyKey`.
        correlation_id: a text or UUID shared by all events of one story; in the metadata `$correlationId`,
            which is KurrentDB's name.
        causation_id: the id of the event that this one reacts to; `$causationId`. `Event.caused` sets both.
        traceparent: W3C's text for a trace, kept under this name.

    Raises:
        InvalidEvent: an id is given together with a key, or a link is not a text or is in the metadata, too.
    """

    __slots__ = ("content_type", "data", "id", "metadata", "tags", "type")

    def __init__(
        self,
        type: str,
        data: Any = None,
        *,
        id: UUID | str | bytes | None = None,
        metadata: dict[str, Any] | bytes | None = None,
        tags: Iterable[str] | None = None,
        content_type: Literal["json", "text", "binary"] = "json",
        idempotency_key: str | None = None,
        correlation_id: UUID | str | None = None,
        causation_id: UUID | str | None = None,
        traceparent: str | None = None,
    ) -> None:
        self.type = type
        self.data = data
        self.id = id
        self.metadata: dict[str, Any] | bytes | None = metadata
        # An iterator gives its tags once, and an event may be appended again.
        self.tags = tuple(tags) if tags is not None and hasattr(tags, "__next__") else tags
        self.content_type: str = content_type
        if not (idempotency_key is correlation_id is causation_id is traceparent is None):
            from evlog.model.links import CAUSATION, CORRELATION, KEY, TRACE, add_links

            if idempotency_key is not None:
                if id is not None:
                    raise InvalidEvent("id", "and idempotency_key both name the event; give one of them")
                self.id = id_of_key(idempotency_key)
            links = {
                CORRELATION: correlation_id,
                CAUSATION: causation_id,
                KEY: idempotency_key,
                TRACE: traceparent,
            }
            self.metadata = add_links(metadata, links)

    def __repr__(self) -> str:
        data = repr(self.data)
        shown = [repr(self.type), data if len(data) <= _SHOWN_CHARACTERS else f"{data[:_SHOWN_CHARACTERS]}…"]
        if self.content_type != "json":
            shown.append(f"content_type={self.content_type!r}")
        if self.id is not None:
            shown.append(f"id={id_text(self.id) if isinstance(self.id, bytes) else str(self.id)}")
        shown += [f"{name}={value!r}" for name in ("metadata", "tags") if (value := getattr(self, name))]
        return f"NewEvent({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NewEvent):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]  # data may be a dict


class Event(_Tuple):
    """An event as it is in the log: immutable, equal to another when every field is.

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
        try:
            return moment_of(self[5])
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
        """The metadata without the tags, parsed at each use."""
        metadata = self._all_metadata()
        metadata.pop("$tags", None)
        metadata.pop("$redacted", None)
        return metadata

    @property
    def metadata_bytes(self) -> bytes:
        """The metadata without the tags, as JSON text; `{}` where there is none."""
        try:
            return split_tags(self[8])[1]
        except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
            raise self._senseless("metadata", error) from None

    @property
    def redacted(self) -> bool:
        """Whether its data, metadata and tags were erased by a redaction; `json()` is None then."""
        metadata = self[8]
        try:
            return metadata is not None and metadata.startswith(REDACTED_BEGIN)
        except (TypeError, AttributeError) as error:
            raise self._senseless("metadata", error) from None

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags, in the order in which they were given."""
        try:
            return tags_of(self[8])
        except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
            raise self._senseless("metadata", error) from None

    @property
    def correlation_id(self) -> str | None:
        """What the event belongs to: `$correlationId` in the metadata."""
        return self.link("$correlationId")

    @property
    def causation_id(self) -> str | None:
        """The id of the event that this one reacts to: `$causationId` in the metadata."""
        return self.link("$causationId")

    @property
    def idempotency_key(self) -> str | None:
        """The text that the event's id was made from: `$idempotencyKey` in the metadata."""
        return self.link("$idempotencyKey")

    @property
    def traceparent(self) -> str | None:
        """The trace that the event belongs to, as W3C's Trace Context writes it."""
        return self.link("traceparent")

    def link(self, name: str) -> str | None:
        """Return the text that the metadata has under a name; None if there is none.

        Raises:
            CorruptionError: the metadata are not JSON, so evlog did not write them.
        """
        from evlog.model.json_text import decode_without_numbers

        value = self._all_metadata(decode_without_numbers).get(name)
        return value if isinstance(value, str) else None

    def _all_metadata(self, decode: Callable[[str], Any] | None = None) -> dict[str, Any]:
        """Return the metadata with evlog's own fields."""
        metadata = self._parse("metadata", self[8], decode) if self[8] else {}
        if not isinstance(metadata, dict):
            raise self._senseless("metadata", ValueError("it is not an object"))
        return metadata

    def caused(self, type: str, data: Any = None, **options: Any) -> NewEvent:
        """Return a new event that is linked to this one: what a handler appends as its reaction.

        It has this event's correlation id (or its id, if it has none) and traceparent, and this event as
        its cause.

        Args:
            type, data, options: as `NewEvent`. With an idempotency key made from this event's id, a handler
                that is called again for the same event appends nothing twice.
        """
        own = str(self.id)
        links = {
            "correlation_id": self.correlation_id or own,
            "causation_id": own,
            "traceparent": self.traceparent,
        }
        return NewEvent(type, data, **links | options)

    @property
    def category(self) -> str:
        """The part of the stream's name before its first `-`."""
        try:
            return category_of(self[2])
        except (TypeError, AttributeError) as error:
            raise self._senseless("stream", error) from None

    if TYPE_CHECKING:

        @overload
        def json(self) -> Any: ...
        @overload
        def json(self, kind: builtins.type[_Kind]) -> _Kind: ...
        @overload
        def json(self, kind: Any) -> Any: ...

    def json(self, kind: Any = None) -> Any:
        """Return the data, parsed as JSON at each call; text comes as a `str`.

        Args:
            kind: make a value of this type of it: a msgspec Struct, a dataclass, a pydantic model, or any
                type that msgspec knows.

        Raises:
            InvalidEvent: the data do not fit the type, the content type is binary, or Python cannot hold
                the JSON: a number of thousands of digits, or nesting that is deeper than its stack.
            CorruptionError: the data are not JSON, so evlog did not write them.
        """
        code = self[6]
        if kind is not None and code != BINARY_CODE:
            from evlog.model.json_text import encode_json
            from evlog.model.typed import from_json

            raw = self[7] if code == JSON_CODE else encode_json(self.json()).encode()
            try:
                return from_json(raw, kind, self[0])
            except InvalidEvent:
                if self.redacted:
                    raise InvalidEvent(
                        "data", f"at position {self[0]} was redacted; see event.redacted before"
                    ) from None
                raise
        if code == JSON_CODE:
            return self._parse("data", self[7])
        if code == TEXT_CODE:
            try:
                return self[7].decode()
            except (ValueError, AttributeError) as error:
                raise self._senseless("data", error) from None
        raise InvalidEvent("data", "is binary, not JSON; use event.data")

    def _parse(self, field: str, raw: bytes, decode: Callable[[str], Any] | None = None) -> Any:
        """Return the value of the JSON in a field, which `json.loads` decodes if nothing else does."""
        import json

        try:
            return (decode or json.loads)(raw.decode())
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError) as error:
            raise self._senseless(field, error) from None
        except (ValueError, RecursionError) as error:  # more digits, or depth, than Python takes
            reason = " ".join(str(error).split())
            raise InvalidEvent(
                field, f"at position {self[0]} is JSON that Python cannot hold: {reason}"
            ) from None

    def _senseless(self, field: str, error: Exception) -> CorruptionError:
        """Return the error for a field that evlog never writes: its CRC is valid, so another program did."""
        position = self[0]
        detail = f"its {field} makes no sense ({type(error).__name__}: {str(error)[:80]})"
        return CorruptionError(f"event {position!r:.40}", None, detail, position)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> Any:
        """Let models of pydantic hold events, and dump them with the names that `evlog read` prints."""
        from pydantic_core import core_schema

        dump = core_schema.plain_serializer_function_ser_schema(
            cls._as_object, return_schema=core_schema.dict_schema()
        )
        return core_schema.is_instance_schema(cls, serialization=dump)

    def _as_object(self) -> dict[str, Any]:
        from binascii import b2a_base64

        names = ("position", "stream", "version", "id", "type", "time")
        shown = {name: getattr(self, name) for name in names}
        if self[6] != JSON_CODE:
            shown["content_type"] = self.content_type
        if self[6] == BINARY_CODE:
            shown["data_base64"] = b2a_base64(self[7], newline=False).decode()
        else:
            shown["data"] = None if self.redacted else self.json()
        shown["metadata"] = self.metadata
        if self.tags:
            shown["tags"] = list(self.tags)
        if self.redacted:
            shown["redacted"] = True
        return shown

    def __repr__(self) -> str:
        return (
            f"Event(position={self[0]}, stream={self[2]!r}, version={self[1]}, type={self[3]!r}, "
            f"id={self.id}, data={self[7][:60]!r}{'…' if len(self[7]) > 60 else ''})"
        )


class BatchedEvents(_Chain):
    """An iterator over events whose records can be had in batches instead, as they are decoded.

    No Python code runs between two events of a batch.

    Attributes:
        batches: lists of records, of any size. Use either these or the iterator: both take from one source.
            A scan of `batches` takes a quarter less time, because it makes no `Event` objects.
    """

    batches: Iterator[Sequence[Record]]
    # Held here as well: on an error a chain drops its source, even while another thread iterates over it.
    _source: Iterator[Iterator[Event]]

    @classmethod
    def of(cls, batches: Iterator[Sequence[Record]], limit: int | None) -> BatchedEvents:
        """Return the events of the batches, at most `limit`."""
        if limit is not None:
            batches = _limited(batches, limit)
        source = _Source(batches)
        events: BatchedEvents = cls.from_iterable(source)  # type: ignore[assignment]
        events.batches, events._source = batches, source
        return events


def upcast_all(events: Iterator[Event], upcast: Upcast | None) -> Iterator[Event]:
    """Return the events in today's shape; as they are if `upcast` is None."""
    # By no `map`: a StopIteration of an upcaster would pass for the end of the events.
    return events if upcast is None else (upcast(event) for event in events)


class _Source:
    """Iterates over the events of each batch. If two threads ask at the same time, both get an error.

    An error ends the chain of events, so with an error for one thread the other would see an early end.
    """

    __slots__ = ("_is_shared", "_mutex", "_next")

    def __init__(self, batches: Iterator[Sequence[Record]]) -> None:
        self._next = map(_events, batches).__next__
        self._mutex = allocate_lock()  # held while a batch is read
        self._is_shared = False  # set by a thread that found it held, never cleared

    def __iter__(self) -> Iterator[Iterator[Event]]:
        return self

    def __next__(self) -> Iterator[Event]:
        if not self._mutex.acquire(blocking=False):
            self._is_shared = True
            raise _shared()
        try:
            events = self._next()
        finally:
            self._mutex.release()
        if self._is_shared:
            raise _shared()
        return events


def _shared() -> InvalidArgument:
    return InvalidArgument("another thread takes events of the same read", "let each thread read for itself")


def _limited(batches: Iterator[Sequence[Record]], limit: int) -> Iterator[Sequence[Record]]:
    if limit == 0:
        return
    for records in batches:
        if len(records) >= limit:
            yield records[:limit]
            return
        limit -= len(records)
        yield records


def _events(records: Sequence[Record]) -> Iterator[Event]:
    return map(Event, records)


# --- tags in metadata


def split_tags(metadata: bytes | None) -> tuple[bytes, bytes]:
    """Return the tags of encoded metadata as a JSON array, and the metadata without them.

    Raises:
        ValueError: its beginning is not as evlog writes it.
    """
    if metadata is None or not metadata.startswith(TAGS_BEGIN):
        is_redacted = metadata is not None and metadata.startswith(REDACTED_BEGIN)
        return b"[]", b"{}" if is_redacted else metadata or b"{}"
    text, end, _ = _scan(metadata)
    return text[_ARRAY_AT:end].encode(), b"{" + text[end + (text[end] == ",") :].encode()


def tags_of(metadata: bytes | None) -> tuple[str, ...]:
    """Return the tags in encoded metadata. Raises as `split_tags`."""
    if metadata is None or not metadata.startswith(TAGS_BEGIN):
        return ()
    # Without escapes, quotes are only around tags, so the text can be split at them: five times as fast as
    # the parser. A tag that begins with `]` leaves a quote in the last piece, and is left to the parser.
    end = metadata.find(b'"]')
    text = metadata[_ARRAY_AT + 2 : end]
    if end > _ARRAY_AT + 2 and b"\\" not in text and metadata[end + 2 : end + 3] in (b",", b"}"):
        tags = text.decode().split('","')
        if '"' not in tags[-1] and metadata[_ARRAY_AT + 1] == _QUOTE:
            return tuple(tags)
    return tuple(_scan(metadata)[2])


def _scan(metadata: bytes) -> tuple[str, int, list[str]]:
    """Return metadata that begins with tags as a text, the index after the tags, and the tags."""
    from evlog.model.json_text import scan_json

    text = metadata.decode()
    tags, end = scan_json(text, _ARRAY_AT)
    if set(map(type, tags)) != {str} or text[end : end + 1] not in (",", "}"):
        raise ValueError("its tags are not a list of texts")
    return text, end, tags


# --- names


def category_of(stream: str) -> str:
    """Return the category of a stream: its name before the first `-`, or all of it."""
    return stream.partition("-")[0]


def check_stream_name(stream: str) -> str:
    """Return the name, or raise InvalidStreamName saying what is wrong with it."""
    if check_readable_name(stream).startswith(SYSTEM_PREFIX):
        raise InvalidStreamName(stream, "begins with $, which is reserved for the store's own streams")
    return stream


def check_stream_names(streams: Sequence[str]) -> None:
    """Raise InvalidStreamName if there is a name among these that no stream can have."""
    if len(streams) >= _MANY_NAMES:
        try:
            joined = " ".join(streams)
        except TypeError:  # one is not a text
            joined = "\n"  # refused below
        if (
            joined.isascii()
            and not joined.encode().translate(None, _PRINTABLE)
            and " $" not in joined
            and joined[:1] != SYSTEM_PREFIX
            and 0 < min(lengths := set(map(len, streams))) <= max(lengths) <= MAX_NAME_BYTES
        ):
            return  # the common case of a batch: five times as fast as one check for each name
    for stream in streams:
        check_stream_name(stream)


def check_readable_name(stream: str) -> str:
    """Return the name if a stream may have it, reserved or not, or raise InvalidStreamName."""
    # The common case: a sixth of the steps of the checks below.
    if (
        stream.__class__ is str
        and stream.isascii()
        and stream.isprintable()
        and 0 < len(stream) <= MAX_NAME_BYTES
        and stream[0] != SYSTEM_PREFIX
    ):
        return stream
    name = stream
    if isinstance(stream, str) and stream.startswith(METADATA_PREFIX):
        # The prefix does not count: the rest is limited to the usual length.
        name = stream.removeprefix(CATEGORY_PREFIX).removeprefix(METADATA_PREFIX)
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
    """Return what is wrong with a name that has to be short, printable UTF-8; None if nothing."""
    if isinstance(name, str) and name.isascii() and name.isprintable() and 0 < len(name) <= max_bytes:
        return None  # the common case: three times as fast as the checks below
    if not isinstance(name, str):
        return f"is of type {name.__class__.__name__}, not str"
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


# --- ids

_sha1: Any = None  # made at the first use; two threads set it to the same


def idempotency_id(key: str) -> UUID:
    """Return the event id of an idempotency key: a UUIDv5 in evlog's own namespace."""
    import uuid  # `from uuid import UUID` would take a third of this call's time

    return uuid.UUID(bytes=id_of_key(key))


def id_of_key(key: str) -> bytes:
    """Return the id of an idempotency key, 16 bytes: what `uuid.uuid5` makes, in a sixth of its time.

    Raises:
        InvalidEvent: the key is empty, or not a text.
    """
    global _sha1
    if not isinstance(key, str) or not key:
        raise InvalidEvent("idempotency key", "must be a text that is not empty")
    if _sha1 is None:
        try:
            from _sha1 import sha1  # type: ignore[import-not-found]  # hashlib's import costs a shell command milliseconds
        except ImportError:  # pragma: no cover - another interpreter than CPython
            from hashlib import sha1
        _sha1 = sha1
    try:
        digest = int.from_bytes(_sha1(_ID_NAMESPACE_BYTES + key.encode()).digest()[:16])
    except UnicodeEncodeError:
        raise InvalidEvent("idempotency key", "is not valid Unicode (a lone surrogate)") from None
    return (digest & _UUID5_MASK | _UUID5_BITS).to_bytes(16)


def now_ns() -> int:
    """Return the system clock's time, nanoseconds since 1970; after 2262-04-11 to a few microseconds."""
    try:
        return time.time_ns()
    except OverflowError:  # more than Python counts: a clock that is set wrong must stop no reader
        return int(time.clock_gettime(time.CLOCK_REALTIME) * 1_000_000_000)


def make_ids(count: int) -> list[bytes]:
    """Return new UUIDv7s (RFC 9562), 16 bytes each: milliseconds, 12 bits below them, 62 random bits."""
    ms, rest_ns = divmod(now_ns(), 1_000_000)
    fraction = (rest_ns << 12) // 1_000_000
    head = (ms & _MAX_ID_MS).to_bytes(6, "big") + (0x7000 | fraction).to_bytes(2, "big")
    if count == 1:  # most appends have one event: three times as fast as the code below
        return [head + (1 << 63 | int.from_bytes(os.urandom(8)) & _RANDOM_BITS).to_bytes(8)]
    random = bytearray(os.urandom(8 * count))
    random[0::8] = random[0::8].translate(_VARIANT)
    return [head + tail for (tail,) in _TAIL.iter_unpack(random)]


def now_moment() -> datetime:
    """Return the system clock's time as a datetime, UTC.

    Raises:
        ClockError: it is outside the years that a datetime has.
    """
    now_us = now_ns() // 1000
    try:
        return moment_of(now_us)
    except OverflowError:
        raise ClockError(now_us) from None


def moment_of(time_us: int) -> datetime:
    """Return a time in microseconds since 1970 as a datetime, UTC."""
    from datetime import UTC, datetime, timedelta

    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)


def microseconds_of(moment: datetime) -> int:
    """Return an aware datetime in microseconds since 1970."""
    from datetime import UTC, datetime, timedelta

    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def id_text(id: bytes) -> str:
    """Return the 16 bytes of an id as UUIDs are written."""
    text = id.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
