"""Appending events with the times that they had in another system.

1. While an import runs, the store's standing says so: its events are appended as a mirror's are, with times
   that are given, and every other change is refused.
2. Times never decrease in a store: an event whose time is earlier than that of the event before gets that
   time. No time is after now, because all later events would get it, too.
3. Events whose id is known are skipped. So an import that was killed is run again, from the beginning of its
   input or from any earlier place; it opens the store at its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evlog.errors import EventTooLarge, IdConflict, InvalidArgument, StreamTombstoned
from evlog.model.appends import BatchResult
from evlog.model.events import (
    REDACTED_BEGIN,
    Event,
    check_stream_name,
    id_text,
    make_ids,
    microseconds_of,
    now_ns,
)
from evlog.model.filters import LogSelection
from evlog.model.history import IMPORT_ID, HistoryPiece, Standing, refusal
from evlog.model.links import KEY, text_in
from evlog.schemas.registry import load
from evlog.transfer.mirrors import acquire_lock, engine_of, make_durable
from evlog.transfer.targets import OPEN, refuse_mirrors_only

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from typing import Self

    from evlog.engine import CheckpointStore
    from evlog.model.events import EncodedEvent
    from evlog.model.new_events import NewEvents
    from evlog.schemas.registry import Schemas
    from evlog.store import EventStore

IMPORTING: Final = Standing(mirror_of=IMPORT_ID)
_REMOVED: Final = REDACTED_BEGIN + b'"}'
_DENSE: Final = 4  # known events are read in one go where at least every fourth one is wanted


class Import:
    """Appends events with the times that they had elsewhere; a context manager.

    While it is entered, the store takes no other appends, policies or named subscriptions: they get
    StoreIsMirror. Leaving it lets the store take them again. If the process is killed before that, import
    again; what is there already is skipped.

    Args:
        store: an open store. It may have events.

    Attributes:
        delayed: how many events had an earlier time than the event before them, and got that event's time.

    Raises:
        MirrorBusy, StoreIsMirror, StoreMoved: from entering it: another import runs, or the store takes no
            appends.
    """

    def __init__(self, store: EventStore) -> None:
        self._engine = engine_of("store", store)
        self._lock: CheckpointStore | None = None  # held while it is entered
        self._schemas: Schemas | None = None
        self._tombstones: frozenset[str | None] = frozenset()
        self._head = self._last_us = 0
        self._is_sure = False  # of these two: an append whose answer is lost may have been made
        self.delayed = 0

    def __enter__(self) -> Self:
        engine = self._engine
        refuse_mirrors_only(engine)
        self._lock = acquire_lock(engine)
        try:
            standing = engine.standing
            if standing not in (OPEN, IMPORTING) or not engine.change_standing(standing, IMPORTING):
                raise refusal(engine.address, engine.standing)
            self._begin()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def _begin(self) -> None:
        engine = self._engine
        self._schemas = load(engine)
        policies = engine.policies() if engine.capabilities.retention else []
        self._tombstones = frozenset(each.stream for each in policies if each.retention.tombstone)
        self._find_end()

    def _find_end(self) -> None:
        self._head = self._engine.head()
        make_durable(self._engine, self._head)  # what is known is not appended again
        last = next(self._engine.read_all(LogSelection.last()), None)
        self._last_us = 0 if last is None else last.time_us
        self._is_sure = True

    def _leave(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            try:
                self._engine.change_standing(IMPORTING, OPEN)
            finally:
                lock.release()

    def append(self, events: NewEvents, times: Sequence[datetime]) -> BatchResult:
        """Append events in this order, each with its time; durable when this returns.

        Args:
            events: those whose ids are known with the same content are skipped.
            times: one for each event, aware, not before 1970 and not after now.

        Raises:
            InvalidArgument: a time is none of these. Nothing was written, as with all below.
            IdConflict: an id is known with other content.
            SchemaViolation, StreamTombstoned, EventTooLarge: the store does not take an event.
            Whatever appending raises.
        """
        for moment in times:
            if getattr(moment, "tzinfo", None) is None:
                raise InvalidArgument(f"{moment!r} has no time zone; give an aware datetime")
        return self.append_encoded(events.streams, events.encode(), list(map(microseconds_of, times)))

    def append_encoded(
        self, streams: Sequence[str], events: Sequence[EncodedEvent], times_us: Sequence[int]
    ) -> BatchResult:
        """Append events that are encoded already; otherwise as `append`.

        Args:
            times_us: UTC, in microseconds since 1970.
        """
        if self._lock is None:
            raise InvalidArgument("the import was not entered; use it in a with statement")
        self._check(streams, events, times_us)
        if not self._is_sure:
            self._find_end()
        made = iter(make_ids(sum(event[1] is None for event in events)))
        ids = [event[1] or next(made) for event in events]
        places = self._known(ids, events)
        versions = dict(zip(names := list(dict.fromkeys(streams)), self._engine.versions(names), strict=True))
        records: list[Event] = []
        position, last_us, delayed = self._head, self._last_us, 0
        result = BatchResult(streams, [], [], ids, [])
        for stream, event, id, time_us in zip(streams, events, ids, times_us, strict=True):
            known = places.get(id)
            if known is not None:
                _compare(known, stream, event, id)
            else:
                if stream in self._tombstones:
                    raise StreamTombstoned(stream)
                position, versions[stream] = position + 1, versions[stream] + 1
                delayed += time_us < last_us
                last_us = max(time_us, last_us)
                type, _, code, data, metadata = event
                places[id] = Event(
                    (position, versions[stream], stream, type, id, last_us, code, data, metadata)
                )
                records.append(places[id])
            result.versions.append(places[id][1])
            result.positions.append(places[id][0])
            result.duplicates.append(known is not None)
        if records:
            frames = [record[0] for record in records]  # each was appended alone
            self._is_sure = False
            self._engine.append_history(HistoryPiece(IMPORT_ID, self._head, position, records, frames))
            self._is_sure = True
        self._head, self._last_us, self.delayed = position, last_us, self.delayed + delayed
        return result

    def _check(self, streams: Sequence[str], events: Sequence[EncodedEvent], times_us: Sequence[int]) -> None:
        if not len(streams) == len(events) == len(times_us):
            raise InvalidArgument(f"{len(times_us)} times for {len(events)} events; give one for each event")
        if events and not 0 <= min(times_us) <= max(times_us) <= now_ns() // 1000:
            raise InvalidArgument("a time is before 1970 or after now; check the clock of its source")
        most = self._engine.capabilities.max_event_bytes
        for _, _, _, data, metadata in events:
            if (size := len(data) + len(metadata or b"")) > most:
                raise EventTooLarge(size, most)
        for stream in set(streams):
            check_stream_name(stream)
        if self._schemas is not None:
            self._schemas.check(self._engine, events)

    def _known(self, ids: Sequence[bytes], events: Sequence[EncodedEvent]) -> dict[bytes, Event]:
        """Return the events whose ids are known. A removed one has no content, as a redacted one."""
        given = [id for id, event in zip(ids, events, strict=True) if event[1] is not None]
        found = self._engine.find_ids(given) if given else {}
        places = sorted(set(found.values()))
        if places and places[-1] - places[0] < _DENSE * len(places):
            known = {each.position: each for each in self._read(places[0], places[-1])}
        else:
            known = {each.position: each for place in places for each in self._read(place, place)}
        return {id: known.get(place) or _without_content(place, 0, "", id) for id, place in found.items()}

    def _read(self, first: int, last: int) -> list[Event]:
        """Return the events between two positions, also removed ones."""
        removed = [_without_content(*each[:4]) for each in self._engine.read_removed(first - 1, last)]
        return [*removed, *self._engine.read_all(LogSelection(first - 1, last))]


def _without_content(position: int, version: int, stream: str, id: bytes) -> Event:
    return Event((position, version, stream, "", id, 0, 0, b"null", _REMOVED))


def _compare(known: Event, stream: str, event: EncodedEvent, id: bytes) -> None:
    """Raise IdConflict unless an event is the known one, as far as that has its content."""
    type, _, code, data, metadata = event
    if known.redacted:  # or removed
        return
    if (known.stream, known.type, known[6], known.data) != (stream, type, code, data):
        key = None if metadata is None else text_in(metadata, KEY)
        raise IdConflict(id_text(id), known.stream, known.position, "is known with different content", key)
