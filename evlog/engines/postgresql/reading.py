"""Reading: events in pages, ids, versions and streams."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from evlog.engines.postgresql.connections import Connections
from evlog.engines.postgresql.policies import PolicyCache
from evlog.engines.postgresql.rows import COLUMNS, moment, where_of
from evlog.model.events import SYSTEM_PREFIX, Event
from evlog.model.reports import StreamInfo, retention_of
from evlog.model.retention import KEEP_ALL, first_visible_version, visible_since_us

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from evlog.engines.postgresql.connections import Connection
    from evlog.model.filters import EventFilter
    from evlog.model.retention import Rule

_PAGE_ROWS: Final = 2000


class Reader:
    """Reads of one engine. Any thread may use it."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self.policies = PolicyCache(connections.address)

    def read_stream(
        self,
        stream: str,
        first_version: int,
        last_version: int | None,
        filter: EventFilter,
        *,
        reverse: bool,
        limit: int | None,
    ) -> Iterator[Event]:
        """Iterate over the visible events of a stream."""
        with self._connections.lend() as connection:
            rule = self.policies.refreshed(connection).rule_for(stream)
            first, since_us = max(1, first_version), filter.since_us
            if rule is not None:
                version = self.versions_in(connection, [stream])[0]
                first = max(first, first_visible_version(rule, version))
                hidden_us = visible_since_us(rule, time.time_ns() // 1000)
                since_us = max(since_us or 0, hidden_us) if hidden_us is not None else since_us
        conditions, values = where_of(filter, since_us=since_us)
        conditions.append("stream_id = %(stream)s")
        values["stream"] = stream
        return self._pages("version", first, last_version, conditions, values, reverse=reverse, limit=limit)

    def read_all(
        self, after: int, to: int | None, filter: EventFilter, *, reverse: bool, limit: int | None
    ) -> Iterator[Event]:
        """Iterate over the events behind `after` up to and including `to`."""
        conditions, values = where_of(filter)
        if filter.stream is not None:
            conditions.append("stream_id = %(stream)s")
            values["stream"] = filter.stream
        elif not filter.include_system:
            conditions.append(f"stream_id not like '{SYSTEM_PREFIX}%%'")
        if filter.category is not None:
            conditions.append("stream_type = %(category)s")
            values["category"] = filter.category
        self._connections.check_open()
        return self._pages("global_position", after + 1, to, conditions, values, reverse=reverse, limit=limit)

    def _pages(
        self,
        key: str,
        low: int,
        high: int | None,
        conditions: list[str],
        values: dict[str, Any],
        *,
        reverse: bool,
        limit: int | None,
    ) -> Iterator[Event]:
        """Iterate page by page, so that no transaction outlives a page."""
        number = 1 if key == "version" else 0  # of the key among the columns
        rows = min(100, _PAGE_ROWS)
        while limit is None or limit > 0:
            rows = rows if limit is None else min(rows, limit)
            bounds = [f"{key} >= {low}"] + ([f"{key} <= {high}"] if high is not None else [])
            statement = self._connections.address.sql(
                "select {columns} from {schema}.events where {conditions} order by {key} limit {rows}",
                columns=COLUMNS,
                conditions=" and ".join(bounds + conditions),
                key=f"{key} desc" if reverse else key,
                rows=str(rows),
            )
            with self._connections.lend() as connection:
                found = connection.cursor(binary=True).execute(statement, values).fetchall()
            yield from map(Event, found)
            if len(found) < rows:
                return
            if reverse:
                high = found[-1][number] - 1
            else:
                low = found[-1][number] + 1
            if limit is not None:
                limit -= len(found)
            rows = _PAGE_ROWS

    def find_ids(self, ids: Sequence[bytes]) -> dict[bytes, int]:
        """Return the positions of known ids, also of those whose events were removed."""
        with self._connections.lend() as connection:
            rows = connection.execute(
                self._connections.address.sql(
                    "select id, global_position from {schema}.events where id = any(%(ids)s::uuid[]) "
                    "union all select id, global_position from {schema}.removed_ids "
                    "where id = any(%(ids)s::uuid[])"
                ),
                {"ids": [id.hex() for id in ids]},
            ).fetchall()
        return {id.bytes: position for id, position in rows}

    def versions(self, streams: Sequence[str]) -> list[int]:
        """Return the last version of each stream, visible or not."""
        with self._connections.lend() as connection:
            return self.versions_in(connection, streams)

    def versions_in(self, connection: Connection, streams: Sequence[str]) -> list[int]:
        """Return the last versions, by a connection that the caller has."""
        rows = connection.execute(
            self._connections.address.sql(
                "select stream_id, version from {schema}.last_versions where stream_id = any(%s)"
            ),
            (list(streams),),
        ).fetchall()
        found: dict[str, int] = dict(rows)
        return [found.get(stream, 0) for stream in streams]

    def streams(
        self, category: str | None, prefix: str | None, *, include_deleted: bool, include_system: bool
    ) -> Iterator[StreamInfo]:
        """Iterate over the streams by name."""
        with self._connections.lend() as connection:
            rules = self.policies.refreshed(connection)
            rows = connection.execute(
                self._connections.address.sql(
                    "select stream_id, version, events, (extract(epoch from last_time) * 1000000)::bigint "
                    "from {schema}.last_versions "
                    "where (%(category)s::text is null or stream_type = %(category)s) "
                    "and (%(prefix)s::text is null or starts_with(stream_id, %(prefix)s)) "
                    "order by stream_id"
                ),
                {"category": category, "prefix": prefix},
            ).fetchall()
            now_us = time.time_ns() // 1000
            found = []
            for name, version, events, time_us in rows:
                if name.startswith(SYSTEM_PREFIX) and not include_system:
                    continue
                first, count, kept = version - events + 1, events, None
                rule = rules.rule_for(name)
                if rule is not None and rule != KEEP_ALL:
                    kept = retention_of(rule, version)
                    if kept.deleted and not include_deleted:
                        continue
                    first, count = self._visible(connection, name, rule, version, first, now_us)
                found.append(StreamInfo(name, count, first, version, time_us, kept))
        return iter(found)

    def _visible(
        self, connection: Connection, stream: str, rule: Rule, version: int, first: int, now_us: int
    ) -> tuple[int, int]:
        """Return the first visible version of a stream, and how many events are visible."""
        first = max(first, first_visible_version(rule, version))
        since_us = visible_since_us(rule, now_us)
        if since_us is not None:
            row = connection.execute(
                self._connections.address.sql(
                    "select count(*) from {schema}.events "
                    "where stream_id = %s and version >= %s and created_at >= %s"
                ),
                (stream, first, moment(since_us)),
            ).fetchone()
            assert row is not None
            first = max(first, version - row[0] + 1)
        return first, max(0, version - first + 1)

    def head(self) -> int:
        """Return the last position."""
        with self._connections.lend() as connection:
            return self.head_in(connection)

    def head_in(self, connection: Connection) -> int:
        """Return the last position, by a connection that the caller has."""
        row = connection.execute(
            self._connections.address.sql("select position from {schema}.head")
        ).fetchone()
        assert row is not None
        position: int = row[0]
        return position
