"""The NATS engine: implements `evlog.engine.Engine` on a stream of JetStream."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from evlog.engine import Capabilities
from evlog.engines.deciding import PendingAppend
from evlog.engines.keyed import KeepsRecords, StoreRecords
from evlog.engines.messages import POSITION, TIME
from evlog.engines.nats import compaction, history, verify
from evlog.engines.nats.address import Address
from evlog.engines.nats.core import Core
from evlog.engines.nats.feed import NatsFeed
from evlog.engines.nats.jetstream import BATCH, FORMAT
from evlog.engines.reading import ReadsByReader
from evlog.engines.retention import KeepsPolicies
from evlog.errors import Unsupported
from evlog.model.appends import AppendRequest
from evlog.model.events import moment_of
from evlog.model.reports import StoreInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evlog.engine import Progress
    from evlog.engines.nats.reading import Reader
    from evlog.model.appends import BatchResult
    from evlog.model.events import Event
    from evlog.model.filters import EventFilter
    from evlog.model.history import HistoryPiece, RemovedRecord, Standing
    from evlog.model.reports import Compaction, TornTail, VerifyReport
    from evlog.model.retention import Rules

NAME = "nats"


def open_engine(
    url: str,
    *,
    create: bool,
    sync: bool,  # noqa: ARG001 - servers decide when they sync
    lock_timeout_seconds: float | None,
) -> NatsEngine:
    """Open the store in NATS: `nats://[user:password@]host[:port][,host…]/NAME[?replicas=3]`.

    Raises:
        StoreNotFound: there is no such store, and `create` is false.
        StoreUnreachable, StoreAccessDenied: no server can be reached, or it refuses.
        UnsupportedFormat, ServerUnsuitable: the store is newer, or the server cannot keep one.
    """
    return NatsEngine(Address(url), create=create, lock_timeout_seconds=lock_timeout_seconds)


def capabilities_of(max_event_bytes: int, replicas: int) -> Capabilities:
    """Return what a store can do on servers that take events of this size, with this number of replicas."""
    kept = "the server has it" if replicas == 1 else f"a majority of its {replicas} servers has it"
    durability = (
        f"An append returns when {kept}; a power cut of all of them can lose the last two minutes, "
        "unless the servers run with sync_interval: always."
    )
    return Capabilities(
        engine=NAME,
        durability=durability,
        max_event_bytes=max_event_bytes,
        max_append_events=BATCH,
        max_mirrored_events=None,
        verify="structure",
    )


class NatsEngine(ReadsByReader, KeepsPolicies, KeepsRecords):
    """A store in NATS JetStream."""

    def __init__(self, address: Address, *, create: bool, lock_timeout_seconds: float | None) -> None:
        self.address = address.text
        self.torn_tails: Sequence[TornTail] = ()
        self._core = Core(address, create=create, lock_timeout_seconds=lock_timeout_seconds)
        self.store_id, self.created = self._core.store_id, self._core.created

    @property
    def capabilities(self) -> Capabilities:
        """What a store in NATS can do."""
        core = self._core
        return capabilities_of(core.appender.max_event_bytes, int(core.config.get("num_replicas", 1)))

    def close(self) -> None:
        """Close the connections."""
        self._core.connections.close()

    def append(self, request: AppendRequest) -> BatchResult:
        """Append all events in one atomic batch, or none; a majority has them when this returns."""
        return self._core.appender.append(PendingAppend(request))

    # --- reading

    @property
    def reader(self) -> Reader:
        """What reads the store."""
        return self._core.reader

    def head(self) -> int:
        return self._core.head()

    @property
    def records(self) -> StoreRecords:
        """The records of the store."""
        self._core.connections.check_open()
        return self._core.records

    def follow(self, filter: EventFilter) -> NatsFeed:
        core = self._core
        core.connections.check_open()
        return NatsFeed(core.jetstream, core.reader, core.subjects.all, filter, self.read_all)

    # --- records by key

    def removals(self) -> int:
        return self._core.reader.state().control.removed

    # --- retention

    def rules(self) -> Rules:
        """Return the rules in force now."""
        return self._core.reader.state().rules

    def flush(self) -> None:
        """Return at once: what was appended is with a majority."""
        self._core.connections.check_open()

    def erase(self) -> None:
        """Erase the messages of redacted events."""
        history.finish_redactions(self._core)

    def compact(self, *, dry_run: bool, force: bool, compress: bool, progress: Progress | None) -> Compaction:
        """Remove what policies hide, stream by stream, durably."""
        if compress:
            raise Unsupported(NAME, "compression")
        return compaction.compact(self._core, dry_run=dry_run, force=force, progress=progress)

    # --- the whole store

    def info(self) -> StoreInfo:
        core = self._core
        reader, state = core.reader, core.reader.state()
        counts = reader.counts(core.subjects.user_events)
        stubs = [event.stream for _, event in state.stubs if not event.stream.startswith("$")]
        every = list(reader.streams(None, None, include_deleted=True, include_system=False))
        policies, deleted = state.rules.counts({info.stream: info.last_version for info in every})
        first = core.jetstream.next(core.subjects.events, 1)
        last, _ = core.jetstream.last_and_control(core.subjects.events)
        edges = [None if each is None else moment_of(each.number(TIME)) for each in (first, last)]
        return StoreInfo(
            path=self.address,
            id=UUID(self.store_id),
            format=FORMAT,
            events=sum(counts.values()) + len(stubs) - reader.count_unpurged(state),
            streams=len(every) - deleted,
            bytes=compaction.bytes_of(core),
            segments=1,
            first_position=0 if first is None else first.number(POSITION),
            last_position=0 if last is None else last.number(POSITION),
            first_time=edges[0],
            last_time=edges[1],
            policies=policies,
            deleted_streams=deleted,
        )

    def verify(self, *, quick: bool, against: str | None, progress: Progress | None) -> VerifyReport:
        """Check all messages, and compute the digest of all events."""
        return verify.verify(self._core, self.info(), quick=quick, against=against, progress=progress)

    # --- mirrors

    @property
    def standing(self) -> Standing:
        """What the store is to others now."""
        return self._core.reader.state().control.standing

    def change_standing(self, before: Standing, after: Standing, *, head: int | None = None) -> bool:
        return history.change_standing(self._core, before, after, head)

    def read_frames(self, after: int, to: int) -> Iterator[tuple[int, Event]]:
        return self._core.reader.read_frames(after, to)

    def read_removed(self, after: int, to: int) -> Iterator[RemovedRecord]:
        return iter(self._core.reader.removed(after, to))

    def append_history(self, piece: HistoryPiece) -> None:
        """Append a piece of the source's history; a majority has it when this returns."""
        history.append_history(self._core, piece)

    def remove_history(self, source_id: str, removed: Sequence[RemovedRecord]) -> None:
        history.remove_history(self._core, source_id, removed)
