"""What is in the JetStream stream of a store: subjects, and messages that are not events.

    evlog.NAME.STORE.e.u.CATEGORY.STREAM   an event; its headers are those of `evlog/engines/messages.py`
    evlog.NAME.STORE.e.s.CATEGORY.STREAM   an event of the store's own, whose stream begins with $
    evlog.NAME.STORE.i.ID                  an id that was given: the sequence of its event
    evlog.NAME.STORE.r.ID                  a removed event: its `RemovedRecord`, as msgpack
    evlog.NAME.STORE.l.CATEGORY.STREAM     the version and time of a stream's last event, when it is removed
    evlog.NAME.STORE.x                     a redacted event: its record without content, as msgpack
    evlog.NAME.c                           control: which store it is, what it is to others, what is removed

1. STORE is the end of the store's id: 12 hex digits, all of them random. A purge names a subject, and the
   server checks nothing else. So a compaction that was suspended just before its purge removes nothing of
   another store that was made under the name meanwhile.
2. Categories, streams and ids are percent-encoded tokens: letters, digits, - _ ~ $ stay as they are. The
   category of a stream whose name begins with - is empty: its token is %.
3. Every message has `Evlog-Position` and `Evlog-Time`. Of one that is not an event, they are those of the
   last event before it. So both never fall from message to message, and the last one says where the log ends.
4. No message is removed while it is the last one: what removes writes a message first.
5. Event and index messages of an append are one atomic batch, which the server stores only if the stream
   ends where the writer has looked. An id that evlog makes needs no index: the sequence is in it.
6. Events are removed by messages that say so, and then purged. Until they are, `c` says up to which version
   of their stream no reader returns any.
7. A message of `c` comes with every change of what all appends depend on: policies, schemas, redactions.
   One with the header `Evlog-Format` comes with another format: programs that have the store open see it.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

import msgpack

from evlog.engines.messages import (
    CONTENT_TYPE,
    FRAME,
    ID,
    METADATA,
    POSITION,
    STREAM,
    TIME,
    TYPE,
    VERSION,
    decode_message,
)
from evlog.engines.nats.jetstream import STORE, Outgoing, Stored
from evlog.model.events import CONTENT_TYPES, Event, category_of, id_text, now_ns
from evlog.model.history import REMOVED_KINDS, RemovedRecord, Standing, is_made_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evlog.model.history import Kind

_SAFE: Final = "-_~$"
_EMPTY: Final = "%"  # no other text has this token
_ESCAPED: Final = re.compile(rb"[\x00-\x1f\x7f%]|^ | $")
_SEQUENCE_BITS: Final = 40
_STORE_DIGITS: Final = 12
_MAX_CACHED: Final = 10_000
_LINES: Final = b"".join(
    b"%b: %%%b\r\n" % (name.encode(), kind)
    for name, kind in (
        (POSITION, b"d"),
        (VERSION, b"d"),
        (STREAM, b"b"),
        (TYPE, b"b"),
        (ID, b"b"),
        (TIME, b"d"),
        (FRAME, b"d"),
        (CONTENT_TYPE, b"b"),
    )
)
_RECORD_KINDS: Final = (int, int, str, str, bytes, int, int, bytes, bytes | None)
_CONTENT_TYPES: Final = [name.encode() for name in CONTENT_TYPES]


def token(text: str) -> str:
    """Return a text as one token of a subject. A token cannot be empty, as the category of `-1` is."""
    return quote(text, safe=_SAFE).replace(".", "%2E") or _EMPTY


def of_token(text: str) -> str:
    """Return the text of a token."""
    return unquote_to_bytes(text).decode()


class Subjects:
    """The subjects of one store, and its id."""

    def __init__(self, name: str, store_id: str) -> None:
        self.store_id = store_id
        self.all = f"evlog.{name}.>"
        self.control = f"evlog.{name}.c"
        self.prefix = f"evlog.{name}.{store_id[-_STORE_DIGITS:]}."
        self.redacted = f"{self.prefix}x"
        self.events = f"{self.prefix}e.>"
        self.user_events = f"{self.prefix}e.u.>"
        self.own_events = f"{self.prefix}e.s.>"
        self.removed = f"{self.prefix}r.>"
        self.lasts = f"{self.prefix}l.>"
        # Caches; threads may add the same pairs twice.
        self._streams: dict[str, str] = {}
        self._escaped: dict[str, bytes] = {}

    def stream(self, stream: str) -> str:
        """Return the subject of a stream's events."""
        subject = self._streams.get(stream)
        if subject is None:
            kind = "s" if stream.startswith("$") else "u"
            subject = f"{self.prefix}e.{kind}.{token(category_of(stream))}.{token(stream)}"
            if len(self._streams) >= _MAX_CACHED:
                self._streams.clear()
            self._streams[stream] = subject
        return subject

    def escaped(self, name: str) -> bytes:
        """Return the name of a stream or a type as the value of a header."""
        value = self._escaped.get(name)
        if value is None:
            value = _ESCAPED.sub(_escape, name.encode())
            if len(self._escaped) >= _MAX_CACHED:
                self._escaped.clear()
            self._escaped[name] = value
        return value

    def last(self, stream: str) -> str:
        """Return the subject of what is kept of a stream whose last event is removed."""
        return f"{self.prefix}l.{token(category_of(stream))}.{token(stream)}"

    def category(self, category: str) -> str:
        """Return the filter of the events of a category."""
        kind = "s" if category.startswith("$") else "u"
        return f"{self.prefix}e.{kind}.{token(category)}.*"

    def id(self, id: bytes) -> str:
        """Return the subject of an id that was given."""
        return f"{self.prefix}i.{id.hex()}"

    def removed_id(self, id: bytes) -> str:
        """Return the subject of a removed event."""
        return f"{self.prefix}r.{id.hex()}"


# --- events


def encode_event(subjects: Subjects, event: Event, frame: int) -> Outgoing:
    """Return the message of an event: its headers are those of `messages.encode_headers`, escaped."""
    position, version, stream, type, id, time_us, code, data, metadata = event
    lines = _LINES % (
        position,
        version,
        subjects.escaped(stream),
        subjects.escaped(type),
        id_text(id).encode(),
        time_us,
        frame,
        _CONTENT_TYPES[code],
    )
    if metadata is not None:
        lines += b"%b: %b\r\n" % (METADATA.encode(), _ESCAPED.sub(_escape, metadata))
    return Outgoing(subjects.stream(stream).encode(), lines, data)


def metadata_bytes(metadata: bytes | None) -> int:
    """Return how many bytes metadata has in the headers of a message."""
    if metadata is None:
        return 0
    return len(_ESCAPED.sub(_escape, metadata))


def decode_event(stored: Stored) -> tuple[int, Event]:
    """Return the frame and the event of a message. Raises CorruptionError."""
    headers = stored.headers
    if any(b"%" in value for value in headers.values()):
        headers = {name: unquote_to_bytes(value) for name, value in headers.items()}
    return decode_message(headers, stored.data, f"message {stored.sequence} of {stored.subject}")


def _escape(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]


# --- other messages


class Control(NamedTuple):
    """The content of a message of `c`."""

    standing: Standing = Standing()
    removed: int = 0
    """how many events compactions have removed"""
    lost: int = 0
    """how many positions are of no event, and of no removed one: of a mirror whose source has lost them"""
    purging: tuple[tuple[str, int], ...] = ()
    """streams, each with the version up to which its events are removed; their messages may be there yet"""


def place_headers(position: int, time_us: int) -> bytes:
    """Return the headers of a message that is not an event."""
    return b"%b: %d\r\n%b: %d\r\n" % (POSITION.encode(), position, TIME.encode(), time_us)


def encode_control(subjects: Subjects, control: Control, position: int, time_us: int) -> Outgoing:
    """Return a message of `c`."""
    purging = (control.purging,) if control.purging else ()
    data = msgpack.packb((*control.standing, control.removed, control.lost, *purging))
    headers = b"%b: %b\r\n" % (STORE.encode(), subjects.store_id.encode())
    return Outgoing(subjects.control.encode(), headers + place_headers(position, time_us), data)


def decode_control(stored: Stored) -> Control:
    """Return the content of a message of `c`."""
    mirror_of, moved_to, removed, lost, *rest = _unpack(stored, (str, str, int, int), (tuple,))
    return Control(Standing(mirror_of, moved_to), removed, lost, *rest)


def encode_id(subjects: Subjects, id: bytes, sequence: int, place: bytes) -> Outgoing:
    """Return the message that says where the event with an id is."""
    return Outgoing(subjects.id(id).encode(), place, b"%d" % sequence)


def decode_id(stored: Stored) -> int:
    """Return the sequence of the event with an id."""
    try:
        return int(stored.data)
    except ValueError:
        raise stored.damaged("it is no sequence") from None


def encode_removed(subjects: Subjects, removed: RemovedRecord, place: bytes) -> Outgoing:
    """Return the message for a removed event."""
    return Outgoing(subjects.removed_id(removed.id).encode(), place, msgpack.packb(tuple(removed)))


def decode_removed(stored: Stored) -> RemovedRecord:
    """Return the removed event of a message."""
    return RemovedRecord._make(_unpack(stored, REMOVED_KINDS))


def encode_last(subjects: Subjects, stream: str, version: int, time_us: int, place: bytes) -> Outgoing:
    """Return the message for a stream whose last event is removed."""
    return Outgoing(subjects.last(stream).encode(), place, msgpack.packb((version, time_us)))


def decode_last(stored: Stored) -> tuple[int, int]:
    """Return the version and the time of the last event of a stream."""
    version, time_us = _unpack(stored, (int, int))
    return version, time_us


def encode_redacted(
    subjects: Subjects, position: int, kept: tuple[int, Event] | None, place: bytes
) -> Outgoing:
    """Return the message of a redacted event without content, with its frame; None: it is removed."""
    document = None if kept is None else (kept[0], tuple(kept[1]))
    return Outgoing(subjects.redacted.encode(), place, msgpack.packb((position, document)))


def decode_redacted(stored: Stored) -> tuple[int, tuple[int, Event] | None]:
    """Return the position of a redacted event, and its record without content, with its frame."""
    position, document = _unpack(stored, (int, tuple | None))
    if document is None:
        return position, None
    if len(document) == 2 and is_made_of(document[1], _RECORD_KINDS):
        return position, (document[0], Event(document[1]))
    raise stored.damaged("it is not a redacted event")


def _unpack(stored: Stored, kinds: Sequence[Kind], optional: Sequence[Kind] = ()) -> tuple[Any, ...]:
    try:
        values = msgpack.unpackb(stored.data, use_list=False, strict_map_key=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise stored.damaged(str(error)) from None
    if is_made_of(values, kinds) or (optional and is_made_of(values, (*kinds, *optional))):
        return tuple(values)
    raise stored.damaged("it has other values than evlog's")


# --- ids


def make_sequence_ids(first_sequence: int, count: int) -> list[bytes]:
    """Return new UUIDv7s in which the sequences of their messages are, or of messages shortly before."""
    ms = now_ns() // 1_000_000
    random = os.urandom(5 * count)
    made = []
    for number in range(count):
        sequence = (first_sequence + number) & ((1 << _SEQUENCE_BITS) - 1)
        chance = int.from_bytes(random[5 * number : 5 * number + 5]) & ((1 << 34) - 1)
        bits = ms << 80 | 7 << 76 | (sequence >> 28) << 64 | 2 << 62 | (sequence & ((1 << 28) - 1)) << 34
        made.append((bits | chance).to_bytes(16))
    return made


def sequence_in(id: bytes) -> int | None:
    """Return the sequence in an id that `make_sequence_ids` may have made; None if it has not."""
    bits = int.from_bytes(id)
    if bits >> 76 & 15 != 7 or bits >> 62 & 3 != 2:
        return None
    return (bits >> 64 & 0xFFF) << 28 | bits >> 34 & ((1 << 28) - 1)


def tail_place(tail: Stored) -> bytes:
    """Return the headers of a message that follows the last one and is not an event."""
    return place_headers(tail.number(POSITION), tail.number(TIME))


def is_event(subjects: Subjects, stored: Stored) -> bool:
    """Return whether a message is an event."""
    return stored.subject.startswith(f"{subjects.prefix}e.")
