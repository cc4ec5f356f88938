"""An engine in memory, written against `evlog.engine` alone: as small as a third party's engine can be.

It passes the conformance suite, and refuses retention, compaction and verify.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID, uuid4

from evlog.engine import Capabilities, Progress
from evlog.engines.deciding import PendingAppend, decide, removed_matches
from evlog.engines.keyed import (
    KeyedCheckpoint,
    KeyedSnapshot,
    Record,
    check_checkpoints,
    checkpoint_names,
    snapshot_names,
)
from evlog.errors import MirrorConflict, StoreClosed, StoreNotFound, Unsupported
from evlog.model.appends import AppendRequest, BatchResult, ExpectedVersion
from evlog.model.events import Event, category_of
from evlog.model.filters import EventFilter, LogSelection, StreamSelection
from evlog.model.history import HistoryPiece, RemovedRecord, Standing
from evlog.model.policy_changes import PolicyChange
from evlog.model.queries import IfNone
from evlog.model.redaction import Redacted, RedactionResult, encode_redaction, maybe_decode_redaction
from evlog.model.reports import (
    Compaction,
    PolicyInfo,
    Retention,
    StoreInfo,
    StreamInfo,
    TornTail,
    VerifyReport,
)
from evlog.model.retention import REDACTIONS_STREAM, SCHEMAS_STREAM, Rules

NAME = "memory"
CAPABILITIES = Capabilities(
    engine=NAME,
    durability="Nothing survives the process.",
    max_event_bytes=16 << 20,
    retention=False,
    compaction=False,
    verify="versions",
)


class Database:
    """What the engines of one store share."""

    def __init__(self) -> None:
        self.id = str(uuid4())
        self.events: list[Event] = []
        self.frames: list[int] = []  # of each event, the position of the first of its append
        self.head = 0
        self.standing = Standing()
        self.removed: dict[bytes, RemovedRecord] = {}
        self.by_id: dict[bytes, Event] = {}
        self.by_stream: dict[str, list[Event]] = {}
        self.records = MemoryRecords()
        self.changed = threading.Condition(threading.RLock())  # guards all of it

    def version(self, stream: str) -> int:
        events = self.by_stream.get(stream)
        removed = max((r.version for r in self.removed.values() if r.stream == stream), default=0)
        return max(removed, events[-1].version if events else 0)

    def add(self, event: Event, frame: int) -> None:
        self.events.append(event)
        self.frames.append(frame)
        self.by_stream.setdefault(event.stream, []).append(event)
        self.by_id[event.id_bytes] = event
        self.head = event.position

    def redact(self) -> None:
        """Apply all redactions."""
        made = filter(None, map(maybe_decode_redaction, self.by_stream.get(REDACTIONS_STREAM, ())))
        redacted = Redacted(made)
        for events in (self.events, *self.by_stream.values()):
            events[:] = [Event(redacted.record(event)) for event in events]
        self.by_id = {event.id_bytes: event for event in self.events}


DATABASES: dict[str, Database] = {}


def open_engine(
    url: str, *, create: bool = False, sync: bool = True, lock_timeout_seconds: float | None = None
) -> MemoryEngine:
    """Open `memory://NAME`."""
    made = Database()
    database = DATABASES.setdefault(url, made) if create else DATABASES.get(url)
    if database is None:
        raise StoreNotFound(url)
    return MemoryEngine(url, database, created=database is made)


class MemoryEngine:
    """An `evlog.engine.Engine`."""

    capabilities = CAPABILITIES
    torn_tails: Sequence[TornTail] = ()

    def __init__(self, address: str, database: Database, *, created: bool) -> None:
        self.address = address
        self.created = created
        self.store_id = database.id
        self._database = database
        self._closed = False

    def close(self) -> None:
        self._closed = True

    def _opened(self) -> Database:
        if self._closed:
            raise StoreClosed(self.address)
        return self._database

    def append(self, request: AppendRequest) -> BatchResult:
        database, pending = self._opened(), PendingAppend(request)
        with database.changed:
            decision = decide(View(self.address, database), pending)
            for event in decision.new:
                database.add(event, decision.new[0].position)
            database.changed.notify_all()
        return decision.result

    def read_stream(self, selection: StreamSelection) -> Iterator[Event]:
        stream, first_version, last_version, filter, limit, reverse = selection
        found = [
            event
            for event in self._opened().by_stream.get(stream, ())
            if first_version <= event.version and (last_version is None or event.version <= last_version)
        ]
        return select(found, filter, limit, reverse=reverse)

    def read_all(self, selection: LogSelection) -> Iterator[Event]:
        after, to, filter, limit, reverse = selection
        events = self._between(after, to)
        if not filter.include_system and filter.stream is None:
            events = [event for event in events if not event.stream.startswith("$")]
        return select(events, filter, limit, reverse=reverse)

    def _between(self, after: int, to: int | None) -> list[Event]:
        events = self._opened().events
        end = len(events) if to is None else bisect_right(events, to, key=lambda event: event.position)
        return events[bisect_right(events, after, key=lambda event: event.position) : end]

    def find_ids(self, ids: Sequence[bytes]) -> dict[bytes, int]:
        known = self._opened().removed | self._opened().by_id
        return {id: known[id].position for id in ids if id in known}

    def versions(self, streams: Sequence[str]) -> list[int]:
        return [self._opened().version(stream) for stream in streams]

    def streams(
        self, category: str | None, prefix: str | None, *, include_deleted: bool, include_system: bool
    ) -> Iterator[StreamInfo]:
        for name, events in sorted(self._opened().by_stream.items()):
            if name.startswith("$") and not include_system:
                continue
            if name.startswith(prefix or "") and category in (None, category_of(name)):
                yield StreamInfo(name, len(events), events[0].version, events[-1].version, events[-1].time_us)

    def head(self) -> int:
        return self._opened().head

    def follow(self, filter: EventFilter) -> MemoryFeed:
        return MemoryFeed(self, self._opened(), filter)

    def checkpoint(self, name: str) -> KeyedCheckpoint:
        return KeyedCheckpoint(self._opened().records, name)

    def checkpoint_names(self) -> list[str]:
        return checkpoint_names(self._opened().records)

    def info(self) -> StoreInfo:
        events, streams = self._opened().events, self._opened().by_stream
        first, last = (events[0], events[-1]) if events else (None, None)
        return StoreInfo(
            path=self.address,
            id=UUID(self.store_id),
            format=1,
            events=sum(not event.stream.startswith("$") for event in events),
            streams=sum(not name.startswith("$") for name in streams),
            bytes=sum(len(event.data) for event in events),
            segments=1,
            first_position=first.position if first else 0,
            last_position=last.position if last else 0,
            first_time=first.time if first else None,
            last_time=last.time if last else None,
            policies=0,
            deleted_streams=0,
        )

    def retention(self, stream: str | None, category: str | None) -> Retention:
        self._opened()
        return Retention()

    def policies(self) -> list[PolicyInfo]:
        return []

    def set_retention(self, change: PolicyChange) -> None:
        raise Unsupported(NAME, "retention")

    def delete_stream(self, stream: str, *, tombstone: bool, expected: ExpectedVersion) -> int:
        raise Unsupported(NAME, "retention")

    def redact(self, events: Sequence[Event], reason: str) -> RedactionResult:
        database = self._opened()
        if not events:
            return RedactionResult((), (), 0, erased=True)
        with database.changed:
            event = encode_redaction(events, reason)
            result = self.append(AppendRequest.own(REDACTIONS_STREAM, event))
            database.redact()
        return RedactionResult(
            tuple(event.position for event in events), (), result.positions[0], erased=True
        )

    def compact(self, *, dry_run: bool, force: bool, compress: bool, progress: Progress | None) -> Compaction:
        raise Unsupported(NAME, "compaction")

    def verify(self, *, quick: bool, against: str | None, progress: Progress | None) -> VerifyReport:
        findings = check_checkpoints(self._opened().records, self.head)
        return VerifyReport(len(self._opened().events), 1, 0, self.head(), None, tuple(findings))

    def snapshot(self, name: str, stream: str | None) -> KeyedSnapshot:
        return KeyedSnapshot(self._opened().records, name, stream)

    def snapshot_names(self) -> list[tuple[str, str | None]]:
        return snapshot_names(self._opened().records)

    def removals(self) -> int:
        return len(self._opened().removed)

    @property
    def standing(self) -> Standing:
        return self._opened().standing

    def change_standing(self, before: Standing, after: Standing, *, head: int | None = None) -> bool:
        database = self._opened()
        with database.changed:
            if database.standing != before or head not in (None, database.head):
                return False
            database.standing = after
            return True

    def read_frames(self, after: int, to: int) -> Iterator[tuple[int, Event]]:
        events, frames = self._opened().events, self._opened().frames
        pairs = list(zip(frames, events, strict=False))
        return iter([(max(frame, after + 1), event) for frame, event in pairs if after < event[0] <= to])

    def read_removed(self, after: int, to: int) -> Iterator[RemovedRecord]:
        removed = sorted(self._opened().removed.values())
        return iter([each for each in removed if after < each.position <= to])

    def remove_history(self, source_id: str, removed: Sequence[RemovedRecord]) -> None:
        database = self._opened()
        with database.changed:
            if database.standing != Standing(source_id):
                raise MirrorConflict(source_id, self.address, "it is no mirror of it", "no")
            positions = {each.position for each in removed}
            pairs = zip(database.frames, list(database.events), strict=True)
            kept = [(frame, event) for frame, event in pairs if event.position not in positions]
            database.removed.update((each.id, each) for each in removed)
            head = database.head
            database.events, database.frames, database.by_stream, database.by_id = [], [], {}, {}
            for frame, event in kept:
                database.add(event, frame)
            database.head = head

    def append_history(self, piece: HistoryPiece) -> None:
        database = self._opened()
        with database.changed:
            if database.standing != Standing(piece.source_id) or database.head != piece.after:
                raise MirrorConflict(piece.source_id, self.address, "it is not where the piece begins", "no")
            database.removed.update((each.id, each) for each in piece.removed)
            for event, frame in zip(piece.events, piece.frames, strict=True):
                database.add(event, frame)
            database.head = piece.end
            database.redact()
            database.changed.notify_all()


class View:
    """A database as decisions see it: `evlog.engines.deciding.LogView`. The caller holds its lock."""

    def __init__(self, address: str, database: Database) -> None:
        self.address = address
        self.head = database.head
        self.time_us = database.events[-1].time_us if database.events else 0
        self.standing = database.standing
        self.rules = Rules()
        self.rules.schemas = database.version(SCHEMAS_STREAM)
        self._database = database

    def known(self, ids: Sequence[bytes]) -> Mapping[bytes, Event | RemovedRecord]:
        found = self._database.removed | self._database.by_id
        return {id: found[id] for id in ids if id in found}

    def versions(self, streams: Sequence[str]) -> Mapping[str, int]:
        return {stream: self._database.version(stream) for stream in streams}

    def first_match(self, condition: IfNone) -> int | None:
        found = [
            event.position
            for event in self._database.events
            if event.position > condition.after and condition.query.matches(event)
        ]
        removed = self._database.removed.values()
        found += [each.position for each in removed if removed_matches(condition, each)]
        return min(found, default=None)


def select(
    events: Sequence[Event], filter: EventFilter, limit: int | None, *, reverse: bool
) -> Iterator[Event]:
    """Iterate over those of the events that a filter selects."""
    content = filter.make_matcher() or (lambda _: True)
    ordered = reversed(events) if reverse else events
    matching = (event for event in ordered if filter.selects(event) and content(event))
    return (event for _, event in zip(range(limit), matching)) if limit is not None else matching  # noqa: B905


class MemoryFeed:
    """An `evlog.engine.Feed`."""

    polling = False

    def __init__(self, engine: MemoryEngine, database: Database, filter: EventFilter) -> None:
        self._engine = engine
        self._database = database
        self._filter = filter
        self._woken = False

    def committed(self, after: int) -> int:
        return self._database.head

    def end(self) -> int:
        return self._database.head

    def read(self, after: int, to: int) -> Iterator[Event]:
        return self._engine.read_all(LogSelection(after, to, self._filter))

    def wait(self, after: int, timeout_seconds: float) -> bool:
        changed = self._database.changed
        with changed:
            limit = min(timeout_seconds, threading.TIMEOUT_MAX)
            changed.wait_for(lambda: self._woken or self.committed(after) > after, limit)
            self._woken = False
            return self.committed(after) > after

    def wake(self) -> None:
        with self._database.changed:
            self._woken = True
            self._database.changed.notify_all()

    def make_durable(self, position: int) -> None:
        pass

    def close(self) -> None:
        pass


class MemoryRecords:
    """Records by key: `evlog.engines.keyed.KeyValue`."""

    engine = NAME
    address = "memory"

    def __init__(self) -> None:
        self._records: dict[tuple[str, ...], Record] = {}
        self._revision = 0
        self._mutex = threading.Lock()  # guards both

    def get(self, key: tuple[str, ...]) -> Record | None:
        return self._records.get(key)

    def put(self, key: tuple[str, ...], value: bytes, revision: int | None) -> int | None:
        with self._mutex:
            if self._present(key) != revision:
                return None
            self._revision += 1
            self._records[key] = Record(value, self._revision)
            return self._revision

    def delete(self, key: tuple[str, ...], revision: int) -> bool:
        with self._mutex:
            return self._present(key) == revision and self._records.pop(key, None) is not None

    def list(self, prefix: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Record]]:
        with self._mutex:
            return iter([pair for pair in self._records.items() if pair[0][: len(prefix)] == prefix])

    def _present(self, key: tuple[str, ...]) -> int | None:
        record = self._records.get(key)
        return None if record is None else record.revision
