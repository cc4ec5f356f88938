"""The DynamoDB engine: implements `evlog.engine.Engine` with the items of `items.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

from evlog.engine import Capabilities
from evlog.engines.deciding import PendingAppend
from evlog.engines.dynamodb import compaction, history, verify
from evlog.engines.dynamodb.appends import MAX_EVENT_BYTES, MAX_EVENTS, append
from evlog.engines.dynamodb.client import Address, Client
from evlog.engines.dynamodb.core import Core, read_heads
from evlog.engines.dynamodb.feed import DynamodbFeed
from evlog.engines.dynamodb.items import FORMAT
from evlog.engines.dynamodb.reading import Reader
from evlog.engines.dynamodb.records import Records
from evlog.engines.dynamodb.table import open_table
from evlog.engines.keyed import KeepsRecords, StoreRecords
from evlog.engines.reading import ReadsByReader
from evlog.engines.retention import KeepsPolicies, finished_compaction
from evlog.errors import Unsupported
from evlog.model.filters import LogSelection
from evlog.model.reports import StoreInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evlog.engine import Progress
    from evlog.model.appends import AppendRequest, BatchResult
    from evlog.model.events import Event
    from evlog.model.filters import EventFilter
    from evlog.model.history import HistoryPiece, RemovedRecord, Standing
    from evlog.model.reports import Compaction, TornTail, VerifyReport
    from evlog.model.retention import Rules

CAPABILITIES: Final = Capabilities(
    engine="dynamodb",
    durability=(
        "An append returns when DynamoDB has committed its transaction, which it stores in several zones of "
        "the region."
    ),
    max_event_bytes=MAX_EVENT_BYTES,
    max_append_events=MAX_EVENTS,
    max_mirrored_events=None,
    verify="structure",
)


def open_engine(url: str, *, create: bool, sync: bool, lock_timeout_seconds: float | None) -> DynamodbEngine:
    """Open the store in a table: `dynamodb://region/table[?profile=…&endpoint=…]`.

    Credentials come from AWS's own chain: the environment, a profile, a role. With `create` the table is
    created, too, billed by requests. `sync` makes no difference: what is committed is durable.

    Raises:
        StoreNotFound: there is no such table, or no store in it, and `create` is false.
        StoreUnreachable, StoreAccessDenied: the service cannot be reached, or refuses.
        UnsupportedFormat, ServerUnsuitable: the store's format is newer, or the table has other keys.
    """
    del sync
    return DynamodbEngine(Address(url), create=create, lock_timeout_seconds=lock_timeout_seconds)


class DynamodbEngine(ReadsByReader, KeepsPolicies, KeepsRecords):
    """A store in a table of DynamoDB."""

    capabilities = CAPABILITIES

    def __init__(self, address: Address, *, create: bool, lock_timeout_seconds: float | None) -> None:
        self.address = address.text
        self.torn_tails: Sequence[TornTail] = ()
        client = Client(address)
        try:
            self.store_id, self.created = open_table(client, create=create)
        except BaseException:
            client.close()
            raise
        client.timeout_seconds = address.timeout_seconds
        self._client = client
        self._core = Core(client, self.store_id, lock_timeout_seconds=lock_timeout_seconds)
        self._reader = Reader(self._core)
        self._records = StoreRecords(Records(client), self.store_id, self._core.state)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def append(self, request: AppendRequest) -> BatchResult:
        """Append all events in one transaction, or none; durable when this returns."""
        self._client.check_open()
        return append(self._core, self._reader, PendingAppend(request))

    # --- reading

    @property
    def reader(self) -> Reader:
        """What reads the store."""
        return self._reader

    def head(self) -> int:
        return self._core.state().position

    # --- following

    def follow(self, filter: EventFilter) -> DynamodbFeed:
        self._client.check_open()
        return DynamodbFeed(self._core, filter, self.read_all)

    # --- snapshots

    @property
    def records(self) -> StoreRecords:
        """The records of the store."""
        self._client.check_open()
        return self._records

    def removals(self) -> int:
        return self._core.state().removed

    # --- retention

    def rules(self) -> Rules:
        """Return the policies in force."""
        return self._core.policies.rules(self._core.state())

    def flush(self) -> None:
        """Return at once: what was appended is durable."""

    def erase(self) -> None:
        """Erase redacted events from the table."""
        compaction.erase(self._core)

    def compact(self, *, dry_run: bool, force: bool, compress: bool, progress: Progress | None) -> Compaction:
        """Remove what policies hide; each step is a transaction of its own, and durable."""
        if compress:
            raise Unsupported("dynamodb", "compression")
        done = compaction.compact(
            self._core, self._reader, self._records, dry_run=dry_run, force=force, progress=progress
        )
        if done.events_removed and not dry_run:
            self.append(finished_compaction(done.events_removed, done.position))
        return done

    # --- the whole store

    def info(self) -> StoreInfo:
        """Return the store in numbers; bytes are those of data and metadata."""
        state = self._core.state()
        edges = [
            next(self.read_all(LogSelection(0, state.position, limit=1, reverse=reverse)), None)
            for reverse in (False, True)
        ]
        first, last = edges
        rules = self._core.policies.rules(state)
        heads = read_heads(self._client, list(rules.streams), state.position)
        policies, deleted = rules.counts({stream: head.version for stream, head in heads.items()})
        return StoreInfo(
            path=self.address,
            id=UUID(self.store_id),
            format=FORMAT,
            events=state.events,
            streams=state.streams - deleted,
            bytes=state.size,
            segments=1,
            first_position=0 if first is None else first.position,
            last_position=0 if last is None else last.position,
            first_time=None if first is None else first.time,
            last_time=None if last is None else last.time,
            policies=policies,
            deleted_streams=deleted,
        )

    def verify(self, *, quick: bool, against: str | None, progress: Progress | None) -> VerifyReport:
        """Check events, ids and streams against each other, and compute the digest of all events."""
        return verify.verify(
            self._core, self._reader, self._records, quick=quick, against=against, progress=progress
        )

    # --- mirrors

    @property
    def standing(self) -> Standing:
        """What the store is to others now."""
        return self._core.state().standing

    def change_standing(self, before: Standing, after: Standing, *, head: int | None = None) -> bool:
        return history.change_standing(self._core, before, after, head)

    def read_frames(self, after: int, to: int) -> Iterator[tuple[int, Event]]:
        return self._reader.read_frames(after, to)

    def read_removed(self, after: int, to: int) -> Iterator[RemovedRecord]:
        return self._reader.removed(after, to)

    def append_history(self, piece: HistoryPiece) -> None:
        history.append_history(self._core, piece)

    def remove_history(self, source_id: str, removed: Sequence[RemovedRecord]) -> None:
        """Remove what the source's compactions have removed, and erase what is redacted."""
        compaction.remove_history(self._core, source_id, removed)
