"""The records of a topic, and what they mean in their order. Pure.

An event is a record with the headers of `evlog/engines/messages.py`, and one more:

    key               the stream's name, UTF-8
    value             the data, byte for byte
    time              the event's, in milliseconds
    Evlog-Frame-Last  the position of the last event that was appended together with it, decimal

A record without a key is evlog's own. It has one header, `Evlog-Control`, and a value in msgpack:

    standing  [mirror_of, moved_to]          from here on the store refuses appends, or takes them again
    gap       [after, end, events, removed]  this many records follow: `removed` records of rows, then
                                             `events` events; the other positions up to `end` are lost
    removed   [row, …]                       the events of a gap that the source had removed
    forget    [row, …]                       events that the source has removed since they were copied
    format    number                         from here on a newer evlog writes records of another format

A row is [position, version, stream, id, digest, time, tags]. Any other record is another program's, and means
nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgpack

from evlog.engines.messages import POSITION, decode_message, encode_headers
from evlog.errors import CorruptionError, UnsupportedFormat
from evlog.model.history import REMOVED_KINDS, HistoryPiece, RemovedRecord, Standing, is_made_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from evlog.model.events import Event

FRAME_LAST: Final = "Evlog-Frame-Last"
CONTROL: Final = "Evlog-Control"
FORMAT: Final = 1
_ROWS: Final = 1000  # in one record: at most 700 KB


Record = tuple[bytes | None, bytes | None, dict[str, bytes], int, str]
"""For a producer: key, value, headers, time in ms (0: now), topic (empty: the writer's own)."""


def encode_event(event: Event, frame: int, last: bytes) -> Record:
    """Return the record of an event.

    Args:
        frame: the position of the first event of its append.
        last: that of the last one, decimal.
    """
    headers = encode_headers(event, frame)
    headers[FRAME_LAST] = last
    return event[2].encode(), event[7], headers, max(0, event[5] // 1000), ""


def encode_standing(standing: Standing) -> Record:
    """Return the record of a standing that begins."""
    return _encode_control("standing", [standing.mirror_of, standing.moved_to])


def encode_forget(removed: Sequence[RemovedRecord]) -> list[Record]:
    """Return the records of events that the source has removed since they were copied."""
    return [_encode_control("forget", rows) for rows in _in_rows(removed)]


def encode_piece(piece: HistoryPiece) -> Iterator[Record]:
    """Iterate over the records of a piece of history."""
    if not piece.is_whole:
        rows = list(_in_rows(piece.removed))
        yield _encode_control("gap", [piece.after, piece.end, len(piece.events), len(rows)])
        for each in rows:
            yield _encode_control("removed", each)
    yield from encode_events(piece)


def encode_events(piece: HistoryPiece) -> Iterator[Record]:
    """Iterate over the records of the events of a piece."""
    ends = {frame: event[0] for event, frame in zip(piece.events, piece.frames, strict=True)}
    lasts = {frame: b"%d" % end for frame, end in ends.items()}
    for event, frame in zip(piece.events, piece.frames, strict=True):
        yield encode_event(event, frame, lasts[frame])


def _encode_control(kind: str, value: object) -> Record:
    return None, msgpack.packb(value), {CONTROL: kind.encode()}, 0, ""


def _in_rows(removed: Sequence[RemovedRecord]) -> Iterator[list[tuple[object, ...]]]:
    for at in range(0, len(removed), _ROWS):
        yield [tuple(each) for each in removed[at : at + _ROWS]]


class Assembler:
    """Puts records, fed in the topic's order, together to what can be applied as a whole.

    Args:
        where: what the topic is called in an error.
        source_id: the store's id, for the pieces.
        head: up to which position everything is applied already: what comes again is passed over.
        last: the last event that is applied.
    """

    def __init__(self, where: str, source_id: str, head: int, last: Event | None = None) -> None:
        self.head = head
        self._last = None if last is None else (last.position, last.id_bytes)
        self._where = where
        self._source_id = source_id
        self._gap: tuple[int, int, int] | None = None  # after, end, how many events
        self._rows_left = 0  # records of rows that the gap still needs
        self._removed: list[RemovedRecord] = []
        self._events: list[Event] = []
        self._frames: list[int] = []

    @property
    def is_between(self) -> bool:
        """Whether nothing is begun: what follows can be understood without what was before."""
        return self._gap is None and not self._events

    def take_whole(self, piece: HistoryPiece) -> bool:
        """Pass over a piece that needs no decoding; return False if it does not follow what was fed."""
        if not self.is_between or piece.after != self.head:
            return False
        self.head = piece.end
        return True

    def feed(
        self, offset: int, key: bytes | None, value: bytes | None, headers: dict[str, bytes]
    ) -> HistoryPiece | Standing | list[RemovedRecord] | None:
        """Take one record; return what it completes.

        Raises:
            CorruptionError: it makes no sense, or cannot be there.
            UnsupportedFormat: a newer evlog writes the records after it.
        """
        if key is not None and POSITION in headers:
            frame, event = decode_message(headers, value or b"", self._at(offset))
            return self._add_event(offset, event, frame, headers)
        if key is not None or CONTROL not in headers:
            return None  # another program's
        try:
            return self._take_control(headers[CONTROL].decode(), msgpack.unpackb(value or b""))
        except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
            raise CorruptionError(
                self._at(offset), None, f"a record of evlog makes no sense: {error}"
            ) from None

    def _at(self, offset: int) -> str:
        return f"{self._where}, offset {offset}"

    def _take_control(self, kind: str, value: Any) -> HistoryPiece | Standing | list[RemovedRecord] | None:
        if kind == "format":
            raise UnsupportedFormat(self._where, int(value), FORMAT)
        if kind == "standing":
            if not is_made_of(value, (str, str)):
                raise ValueError("it is no standing")
            return Standing(*value)
        if kind == "forget":
            return _removed_in(value)
        if kind == "removed" and self._rows_left:
            self._removed += _removed_in(value)
            self._rows_left -= 1
        elif kind == "gap" and self.is_between:
            after, end, events, self._rows_left = map(int, value)
            self._gap = after, end, events
        else:
            raise ValueError(f"a record {kind!r} cannot be here")
        return self._maybe_complete_gap()

    def _maybe_complete_gap(self) -> HistoryPiece | None:
        assert self._gap is not None
        after, end, events = self._gap
        if self._rows_left or len(self._events) < events:
            return None
        piece = HistoryPiece(self._source_id, after, end, self._events, self._frames, self._removed)
        self._gap, self._events, self._frames, self._removed = None, [], [], []
        if end <= self.head:
            return None
        if after != self.head:
            raise ValueError(f"positions {after + 1} to {end} follow position {self.head}")
        self.head = end
        return piece

    def _add_event(
        self, offset: int, event: Event, frame: int, headers: dict[str, bytes]
    ) -> HistoryPiece | None:
        position = event[0]
        if self._gap is None and position <= self.head:
            if self._last is not None and position == self._last[0] and event[4] != self._last[1]:
                reason = f"the event at position {position} is not the one that the local index has"
                raise CorruptionError(self._at(offset), None, reason, position)
            return None
        before = self._events[-1][0] if self._events else self.head
        try:
            last = int(headers[FRAME_LAST])
            if not frame <= position <= last or (self._gap is None and position != before + 1):
                raise ValueError(f"position {position} follows position {before}")
            if self._rows_left:
                raise ValueError("an event comes before the rows of its gap")
        except (LookupError, ValueError, TypeError) as error:
            raise CorruptionError(
                self._at(offset), None, f"an event cannot be here: {error}", position
            ) from None
        self._events.append(event)
        self._frames.append(frame)
        if self._gap is not None:
            return self._maybe_complete_gap()
        if position < last:
            return None
        events, frames, after = self._events, self._frames, self.head
        self._events, self._frames, self.head = [], [], last
        return HistoryPiece(self._source_id, after, last, events, frames)


def _removed_in(rows: Any) -> list[RemovedRecord]:
    if not all(is_made_of(row, REMOVED_KINDS) for row in rows):
        raise ValueError("a row is not a removed event")
    return [RemovedRecord(*row) for row in rows]


def maybe_identify(key: bytes | None, headers: dict[str, bytes]) -> tuple[int, bytes] | None:
    """Return the position and the id of an event's record; None of any other record."""
    if key is None or POSITION not in headers:
        return None
    _, event = decode_message(headers, b"", "")
    return event.position, event.id_bytes
