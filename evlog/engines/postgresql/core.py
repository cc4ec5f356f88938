"""What the parts of the engine share: the connections, reads, appends and checkpoints of one open store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evlog.engines.postgresql.appends import Appender
from evlog.engines.postgresql.checkpoints import PostgresqlCheckpoint
from evlog.engines.postgresql.connections import Connections
from evlog.engines.postgresql.reading import Reader

if TYPE_CHECKING:
    from evlog.engines.postgresql.connections import Address, Connection


class Core:
    """An open store."""

    def __init__(
        self,
        address: Address,
        connections: Connections,
        store_id: str,
        *,
        sync: bool,
        lock_timeout_seconds: float | None,
    ) -> None:
        self.address = address
        self.sql = address.sql
        self.connections = connections
        self.store_id = store_id
        self.appender = Appender(connections, store_id, sync=sync, lock_timeout_seconds=lock_timeout_seconds)
        self.reader = Reader(connections)

    def lock(self, connection: Connection) -> None:
        """Take the store's lock until the end of the transaction.

        Raises:
            psycopg.Error: `{same}` does not hold: see `Address.sql`.
        """
        connection.execute(self.sql("select {schema}.lock_log()"))
        connection.execute(self.sql("select 1 where {same}"))

    def checkpoint(self, name: str) -> PostgresqlCheckpoint:
        self.connections.check_open()
        return PostgresqlCheckpoint(self.connections, self.store_id, name)

    def checkpoint_names(self) -> list[str]:
        rows = self.connections.fetch(
            "select subscription_id from {schema}.subscription_checkpoints where {same}"
        )
        return sorted(name for (name,) in rows)

    def removals(self) -> int:
        """Return how many events compactions have removed."""
        count: int
        ((count,),) = self.connections.fetch("select removed from {schema}.log where {same}")
        return count

    def bytes_in(self, connection: Connection) -> int:
        """Return the size of all tables and indexes, by a connection that the caller has."""
        size: int
        ((size,),) = connection.execute(
            "select coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint from pg_class c "
            "join pg_namespace n on n.oid = c.relnamespace where n.nspname = %s and c.relkind = 'r'",
            (self.address.schema,),
        ).fetchall()
        return size
