"""Reading: events in pages, ids, versions and streams.

A page is one statement, which begins after the last event of the page before. The first page of a stream
comes in one round trip with the answer whether there are policies that are not known here.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final

from evlog.engines.postgresql import wire
from evlog.engines.postgresql.connections import Connections, Statement
from evlog.engines.postgresql.policies import PolicyCache
from evlog.engines.postgresql.rows import COLUMNS, Conditions, conditions_of, load_rows, moment
from evlog.engines.reading import matching_content
from evlog.errors import CorruptionError
from evlog.model.events import SYSTEM_PREFIX, Event, now_ns
from evlog.model.reports import StreamInfo, retention_of
from evlog.model.retention import KEEP_ALL, first_visible_version, visible_since_us

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evlog.engines.postgresql.connections import Connection, Parameters, Row, Session
    from evlog.model.filters import EventFilter, LogSelection, StreamSelection
    from evlog.model.retention import Rule, Rules

PAGE_ROWS: Final = 2000
_FIRST_ROWS: Final = 100
_PAGE_BYTES: Final = 8 << 20  # a page of large events has fewer rows


class Reader:
    """Reads of one engine. Any thread may use it."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self.policies = PolicyCache(connections.address)
        self._statements: dict[tuple[str, ...], Statement] = {}  # each is made once; threads may race
        sql = connections.address.sql
        self._head = Statement(sql("select position from {schema}.head where {same}"))
        versions = "select stream_id, version from {schema}.last_versions where {same} and stream_id = "
        self._version = Statement(sql(f"{versions}$1"))  # planned once, the other one at each call
        self._versions = Statement(sql(f"{versions}any($1)"))

    @matching_content
    def read_stream(self, selection: StreamSelection) -> Iterator[Event]:
        stream, first_version, last_version, filter, limit, reverse = selection
        pages = _Pages("version", max(1, first_version), last_version, reverse=reverse, limit=limit)
        first: list[Event] = []
        # In one round trip: whether there are policies that are not known here, and the first page.
        conditions = self._stream_conditions(stream, filter, filter.since_us)
        asked = [self.policies.question, *([self._page(pages, conditions)] if pages.rows else [])]
        known, *results = self._connections.retry(lambda session: session.run(asked))
        rules = self.policies.maybe_current(known) or self._connections.retry(self.policies.refreshed)
        rule = rules.rule_for(stream)
        if rule is None:
            first = [event for result in results for event in load_rows(result, Event)]
            pages.advance(first)
        else:
            pages.low = max(pages.low, first_visible_version(rule, self.versions([stream])[0]))
            hidden_us, since_us = visible_since_us(rule, now_ns() // 1000), filter.since_us
            since_us = max(since_us or 0, hidden_us) if hidden_us is not None else since_us
            conditions = self._stream_conditions(stream, filter, since_us)
        return self._read(pages, conditions, first)

    def _stream_conditions(self, stream: str, filter: EventFilter, since_us: int | None) -> Conditions:
        conditions = conditions_of(filter, since_us)
        conditions.add("stream_id = {}", stream.encode())
        return conditions

    @matching_content
    def read_all(self, selection: LogSelection) -> Iterator[Event]:
        after, to, filter, limit, reverse = selection
        conditions = conditions_of(filter)
        if filter.stream is not None:
            conditions.add("stream_id = {}", filter.stream.encode())
        elif not filter.include_system:
            conditions.texts.append(f"stream_id not like '{SYSTEM_PREFIX}%'")
        if filter.category is not None:
            conditions.add("stream_type = {}", filter.category.encode())
        self._connections.check_open()
        pages = _Pages("global_position", after + 1, to, reverse=reverse, limit=limit)
        return self._read(pages, conditions, [])

    def _read(self, pages: _Pages, conditions: Conditions, found: list[Event]) -> Iterator[Event]:
        """Iterate page by page, each in a transaction of its own, after the events that were found before."""
        yield from found
        while pages.rows:
            page = self._page(pages, conditions)
            (result,) = self._connections.retry(lambda session: session.run([page]))  # noqa: B023 - called here
            found = load_rows(result, Event)
            pages.advance(found)
            yield from found

    def _page(self, pages: _Pages, conditions: Conditions) -> tuple[Statement, Parameters]:
        """Return the statement of the next page, with its parameters."""
        bounds, values = pages.bounds(len(conditions.values))
        key = pages.key, "desc" if pages.reverse else "", *bounds, *conditions.texts
        statement = self._statements.get(key)
        if statement is None:
            statement = self._statements[key] = Statement(
                self._connections.address.sql(
                    "select {columns} from {schema}.events where {same} and {conditions} "
                    "order by {key} {direction} limit {rows}",
                    columns=COLUMNS,
                    conditions=" and ".join((*conditions.texts, *bounds[:-1])),
                    key=key[0],
                    direction=key[1],
                    rows=bounds[-1],
                ),
                # The best plan of a selection depends on what is selected.
                is_prepared=all(text.startswith("stream_id") for text in conditions.texts),
            )
        return statement, (*conditions.values, *values)

    def find_ids(self, ids: Sequence[bytes]) -> dict[bytes, int]:
        query = (
            "select id, global_position from {schema}.events where {same} and id = any(%(ids)s::uuid[]) "
            "union all select id, global_position from {schema}.removed_ids "
            "where id = any(%(ids)s::uuid[])"
        )
        rows = self._connections.fetch(query, {"ids": [id.hex() for id in ids]})
        return {id.bytes: position for id, position in rows}

    def versions(self, streams: Sequence[str]) -> list[int]:
        return self._connections.retry(lambda session: self.versions_in(session, streams))

    def versions_in(self, session: Session, streams: Sequence[str]) -> list[int]:
        """Return the last versions, by a connection that the caller has."""
        is_one = len(streams) == 1
        asked = (self._version, streams[0].encode()) if is_one else (self._versions, wire.texts(streams))
        (result,) = session.run([(asked[0], asked[1:])])
        found: dict[str, int] = dict(load_rows(result, tuple))
        return [found.get(stream, 0) for stream in streams]

    def streams(
        self, category: str | None, prefix: str | None, *, include_deleted: bool, include_system: bool
    ) -> Iterator[StreamInfo]:

        after = ""  # the last stream that was returned: no name is empty

        def pages_in(session: Session) -> Iterator[list[StreamInfo]]:
            nonlocal after
            now_us = now_ns() // 1000
            for rules, rows in self._pages_of_streams(session, category, prefix, after):
                page = []
                for name, version, events, time_us in rows:
                    if name.startswith(SYSTEM_PREFIX) and not include_system:
                        continue
                    if time_us is None:
                        detail = f"stream {name!r} is listed with events, and has none"
                        raise CorruptionError(self._connections.address.text, None, detail)
                    first, count, kept = version - events + 1, events, None
                    rule = rules.rule_for(name)
                    if rule is not None and rule != KEEP_ALL:
                        kept = retention_of(rule, version)
                        if kept.deleted and not include_deleted:
                            continue
                        first, count = self._visible(session, name, rule, version, first, now_us)
                    page.append(StreamInfo(name, count, first, version, time_us, kept))
                if len(rows) < PAGE_ROWS:
                    session.execute("commit")
                yield page
                after = rows[-1][0] if rows else after

        self._connections.check_open()
        return chain.from_iterable(self._connections.retry_each(pages_in))

    def _pages_of_streams(
        self, session: Session, category: str | None, prefix: str | None, after: str
    ) -> Iterator[tuple[Rules, list[Row]]]:
        """Iterate over the streams after one, in one transaction, with the rules in force then.

        The caller ends the transaction after the last page, the first one that is not full.
        """
        sql = self._connections.address.sql
        session.execute("begin isolation level repeatable read read only")
        rules = self.policies.refreshed(session)
        session.execute(
            sql(
                "declare evlog_streams cursor for "
                "select stream_id, version, events, (extract(epoch from last_time) * 1000000)::bigint "
                "from {schema}.last_versions where {same} and stream_id > %(after)s "
                "and (%(category)s::text is null or stream_type = %(category)s) "
                "and (%(prefix)s::text is null or starts_with(stream_id, %(prefix)s)) "
                "order by stream_id"
            ),
            {"category": category, "prefix": prefix, "after": after},
        )
        is_last = False
        while not is_last:
            rows = session.execute(f"fetch {PAGE_ROWS} from evlog_streams").fetchall()
            is_last = len(rows) < PAGE_ROWS
            yield rules, rows

    def _visible(
        self, connection: Connection, stream: str, rule: Rule, version: int, first: int, now_us: int
    ) -> tuple[int, int]:
        """Return the first visible version of a stream, and how many events are visible."""
        first = max(first, first_visible_version(rule, version))
        since_us = visible_since_us(rule, now_us)
        if since_us is not None:
            ((count,),) = connection.execute(
                self._connections.address.sql(
                    "select count(*) from {schema}.events "
                    "where stream_id = %s and version >= %s and created_at >= %s"
                ),
                (stream, first, moment(since_us)),
            ).fetchall()
            first = max(first, version - count + 1)
        return first, max(0, version - first + 1)

    def head(self) -> int:
        (result,) = self._connections.retry(lambda session: session.run([(self._head, ())]))
        ((position,),) = load_rows(result, tuple)
        return int(position)


class _Pages:
    """The rest of a read: its bounds, by version or position, and the number of rows of the next page.

    Attributes:
        rows: of the next page; 0 at the end.
    """

    def __init__(self, key: str, low: int, high: int | None, *, reverse: bool, limit: int | None) -> None:
        self.key = key
        self.low = low
        self.reverse = reverse
        self._high = high
        self._left = limit
        self.rows = min(_FIRST_ROWS, PAGE_ROWS) if limit is None else min(_FIRST_ROWS, PAGE_ROWS, limit)

    def bounds(self, number: int) -> tuple[list[str], list[bytes]]:
        """Return the conditions of the next page and its limit, with parameters after `number` others."""
        values = [self.low, self.rows] if self._high is None else [self.low, self._high, self.rows]
        texts = [f"{self.key} >= ${number + 1}", f"{self.key} <= ${number + 2}", f"${number + len(values)}"]
        return texts if len(values) == 3 else [texts[0], texts[2]], [wire.int8(value) for value in values]

    def advance(self, found: list[Event]) -> None:
        """Continue after a page."""
        if not found or len(found) < self.rows:
            self.rows = 0
            return
        last = found[-1][1 if self.key == "version" else 0]
        if self.reverse:
            self._high = last - 1
        else:
            self.low = last + 1
        sample = found[::16]
        size = sum(len(event[7]) for event in sample) // len(sample) + 1
        self.rows = max(1, min(PAGE_ROWS, _PAGE_BYTES // size))
        if self._left is not None:
            self._left -= len(found)
            self.rows = min(self.rows, self._left)
