"""Where snapshots are kept: rows of the table `snapshots`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evlog.engines.postgresql.connections import Connections


class PostgresqlSnapshot:
    """One snapshot. An `evlog.engine.SnapshotStore`."""

    def __init__(self, connections: Connections, name: str, stream: str | None) -> None:
        self._connections = connections
        self._sql = connections.address.sql
        self._key = {"name": name, "stream": stream or ""}

    def load(self) -> bytes | None:
        query = (
            "select snapshot_data from {schema}.snapshots "
            "where {same} and stream_id = %(stream)s and name = %(name)s"
        )
        rows = self._connections.fetch(query, self._key)
        return bytes(rows[0][0]) if rows else None

    def save(self, content: bytes, before: bytes | None) -> bool:
        """Replace the content if it is still `before`; else return False."""
        if before is None:
            statement = (
                "insert into {schema}.snapshots (stream_id, name, snapshot_data, version, created_at) "
                "values (%(stream)s, %(name)s, %(content)s, 1, case when {same} then clock_timestamp() end) "
                "on conflict do nothing"
            )
        else:
            statement = (
                "update {schema}.snapshots set snapshot_data = %(content)s, version = version + 1, "
                "created_at = clock_timestamp() "
                "where {same} and stream_id = %(stream)s and name = %(name)s and snapshot_data = %(before)s"
            )
        values = {**self._key, "content": content, "before": before}
        return self._connections.retry(
            lambda connection: connection.execute(self._sql(statement), values).rowcount == 1
        )

    def delete(self) -> bool:
        was_there = self.load() is not None  # a second try would find nothing
        statement = (
            "delete from {schema}.snapshots where {same} and stream_id = %(stream)s and name = %(name)s"
        )
        self._connections.retry(lambda connection: connection.execute(self._sql(statement), self._key))
        return was_there


def list_snapshots(connections: Connections) -> list[tuple[str, str | None]]:
    """Return the name and the stream of each snapshot, sorted by name."""
    rows = connections.fetch("select name, stream_id from {schema}.snapshots where {same}")
    return [(name, stream or None) for name, stream in sorted(rows)]
