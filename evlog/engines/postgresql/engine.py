"""The PostgreSQL engine: implements `evlog.engine.Engine` with the tables and functions of `schema.sql`."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from evlog.engine import Capabilities
from evlog.engines.postgresql import compaction, history, verify
from evlog.engines.postgresql.connections import FORMAT, Address, Connections
from evlog.engines.postgresql.core import Core
from evlog.engines.postgresql.feed import PostgresqlFeed
from evlog.engines.postgresql.rows import moment
from evlog.engines.postgresql.schema import open_schema
from evlog.engines.reading import ReadsByReader
from evlog.engines.retention import KeepsPolicies
from evlog.errors import Unsupported
from evlog.model.appends import AppendRequest
from evlog.model.events import MAX_EVENT_BYTES
from evlog.model.reports import StoreInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evlog.engine import Progress
    from evlog.engines.postgresql.checkpoints import PostgresqlCheckpoint
    from evlog.engines.postgresql.connections import Session
    from evlog.engines.postgresql.reading import Reader
    from evlog.engines.postgresql.snapshots import PostgresqlSnapshot
    from evlog.model.appends import BatchResult
    from evlog.model.events import Event
    from evlog.model.filters import EventFilter
    from evlog.model.history import HistoryPiece, RemovedRecord, Standing
    from evlog.model.reports import Compaction, TornTail, VerifyReport
    from evlog.model.retention import Rules


def open_engine(
    url: str, *, create: bool, sync: bool, lock_timeout_seconds: float | None
) -> PostgresqlEngine:
    """Open the store in a PostgreSQL database: `postgresql://[user@]host[:port]/database[?schema=evlog]`.

    The URL is libpq's; `schema` and `listen` are evlog's. With `listen=no`, and behind a pooler, followers
    poll.

    Raises:
        StoreNotFound: there is no such database, or no store in the schema and `create` is false.
        StoreUnreachable, StoreAccessDenied: the server cannot be reached, or refuses.
        UnsupportedFormat, ServerUnsuitable: the schema is newer, or the server cannot keep a store.
    """
    return PostgresqlEngine(Address(url), create=create, sync=sync, lock_timeout_seconds=lock_timeout_seconds)


class PostgresqlEngine(ReadsByReader, KeepsPolicies):
    """A store in a schema of a PostgreSQL database."""

    def __init__(
        self, address: Address, *, create: bool, sync: bool, lock_timeout_seconds: float | None
    ) -> None:
        self.address = address.text
        self.torn_tails: Sequence[TornTail] = ()
        self._sync = sync
        connections = Connections(address)
        try:
            self.store_id, self.created = connections.retry(
                lambda connection: open_schema(address, connection, create=create),
                address.open_timeout_seconds,
            )
            address.expect(self.store_id)
            if not address.listens:
                connections.forget_idle()  # it was opened as a session's
        except BaseException:
            connections.close()
            raise
        self._core = Core(
            address, connections, self.store_id, sync=sync, lock_timeout_seconds=lock_timeout_seconds
        )

    @property
    def capabilities(self) -> Capabilities:
        """What a store in PostgreSQL can do."""
        durability = (
            "An append returns when the server has flushed it, and synchronous standbys have it; with "
            "asynchronous standbys a failover can lose the last appends."
            if self._sync
            else "An append returns when the server has it; a crash of the server can lose the last appends."
        )
        return Capabilities(
            engine="postgresql", durability=durability, max_event_bytes=MAX_EVENT_BYTES, verify="structure"
        )

    def close(self) -> None:
        """Close the connections."""
        self._core.connections.close()

    def append(self, request: AppendRequest) -> BatchResult:
        """Append all events in one transaction, or none; flushed when this returns (with `sync`)."""
        return self._core.appender.append(request)

    # --- reading

    @property
    def reader(self) -> Reader:
        """What reads the store."""
        return self._core.reader

    def head(self) -> int:
        return self._core.reader.head()

    # --- following

    def follow(self, filter: EventFilter) -> PostgresqlFeed:
        self._core.connections.check_open()
        return PostgresqlFeed(self._core.connections, filter, self.read_all, self._core.appender.flush)

    def checkpoint(self, name: str) -> PostgresqlCheckpoint:
        return self._core.checkpoint(name)

    def checkpoint_names(self) -> list[str]:
        return self._core.checkpoint_names()

    # --- snapshots

    def snapshot(self, name: str, stream: str | None) -> PostgresqlSnapshot:
        from evlog.engines.postgresql.snapshots import PostgresqlSnapshot

        self._core.connections.check_open()
        return PostgresqlSnapshot(self._core.connections, name, stream)

    def snapshot_names(self) -> list[tuple[str, str | None]]:
        from evlog.engines.postgresql.snapshots import list_snapshots

        return list_snapshots(self._core.connections)

    def removals(self) -> int:
        return self._core.removals()

    # --- retention

    def rules(self) -> Rules:
        """Return the policies in force."""
        return self._core.connections.retry(self._core.reader.policies.refreshed)

    def flush(self) -> None:
        """Return once everything that is committed is flushed."""
        self._core.appender.flush()

    def erase(self) -> None:
        """Return once earlier redactions are durable: a trigger erases in the transaction of each."""
        self.flush()

    def compact(self, *, dry_run: bool, force: bool, compress: bool, progress: Progress | None) -> Compaction:
        """Remove what policies hide; each step is a transaction of its own, and durable."""
        if compress:
            raise Unsupported("postgresql", "compression")
        return compaction.compact(self._core, dry_run=dry_run, force=force, progress=progress)

    # --- the whole store

    def info(self) -> StoreInfo:
        return self._core.connections.retry(self._info)

    def _info(self, connection: Session) -> StoreInfo:
        ((events, streams),) = connection.execute(
            self._core.sql(
                "select h.position - removed - lost - (select count(*) from {schema}.events "
                "where stream_id >= '$' and stream_id < '%'), (select count(*) from {schema}.streams "
                "where not starts_with(stream_id, '$')) from {schema}.log, {schema}.head h"
            )
        ).fetchall()
        time_us = "(extract(epoch from created_at) * 1000000)::bigint"
        edges = connection.execute(
            self._core.sql(
                "(select global_position, {time_us} from {schema}.events order by 1 limit 1) union all "
                "(select global_position, {time_us} from {schema}.events order by 1 desc limit 1)",
                time_us=time_us,
            )
        ).fetchall()
        rules = self._core.reader.policies.refreshed(connection)
        names = list(rules.streams)
        versions = self._core.reader.versions_in(connection, names)
        policies, deleted = rules.counts(dict(zip(names, versions, strict=True)))
        size = self._core.bytes_in(connection)
        (first, first_us), (last, last_us) = (edges[0], edges[-1]) if edges else ((0, None), (0, None))
        return StoreInfo(
            path=self.address,
            id=UUID(self.store_id),
            format=FORMAT,
            events=events,
            streams=streams - deleted,
            bytes=size,
            segments=1,
            first_position=first,
            last_position=last,
            first_time=None if first_us is None else moment(first_us),
            last_time=None if last_us is None else moment(last_us),
            policies=policies,
            deleted_streams=deleted,
        )

    def verify(self, *, quick: bool, against: str | None, progress: Progress | None) -> VerifyReport:
        """Check the tables against each other, and compute the digest of all events."""
        return verify.verify(self._core, self.info(), quick=quick, against=against, progress=progress)

    # --- mirrors

    @property
    def standing(self) -> Standing:
        """What the store is to others now."""
        return history.standing(self._core)

    def change_standing(self, before: Standing, after: Standing, *, head: int | None = None) -> bool:
        return history.change_standing(self._core, before, after, head)

    def read_frames(self, after: int, to: int) -> Iterator[tuple[int, Event]]:
        return history.read_frames(self._core, after, to)

    def read_removed(self, after: int, to: int) -> Iterator[RemovedRecord]:
        return history.read_removed(self._core, after, to)

    def append_history(self, piece: HistoryPiece) -> None:
        """Append a piece of the source's history in one transaction, flushed when this returns."""
        history.append_history(self._core, piece)

    def remove_history(self, source_id: str, removed: Sequence[RemovedRecord]) -> None:
        history.remove_history(self._core, source_id, removed)
