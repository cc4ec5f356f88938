"""Removing what policies hide: in steps of bounded size, because writers wait for a step."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from evlog.engines.postgresql.history import standing
from evlog.engines.postgresql.rows import moment
from evlog.errors import SubscriptionBehind
from evlog.model.appends import AppendRequest
from evlog.model.events import JSON_CODE, METADATA_PREFIX, SYSTEM_PREFIX, category_of
from evlog.model.history import Standing, refusal
from evlog.model.reports import Compaction, Removal
from evlog.model.retention import KEEP_ALL, REDACTIONS_STREAM, first_visible_version, visible_since_us

if TYPE_CHECKING:
    from evlog.engine import Progress
    from evlog.engines.postgresql.connections import Connection, Session
    from evlog.engines.postgresql.core import Core

_REMOVE_ROWS: Final = 10_000  # in one transaction
_COMPACTIONS: Final = "$compactions"


def compact(core: Core, *, dry_run: bool, force: bool, progress: Progress | None) -> Compaction:
    """Remove what policies hide; each step is a transaction of its own, and durable."""
    connections = core.connections
    position, size = core.reader.head(), connections.retry(core.bytes_in)
    removals = connections.retry(lambda connection: _removals(core, connection))
    events = sum(removal.events for removal, _, _ in removals)
    shown = sorted((removal for removal, _, _ in removals), key=lambda each: -each.events)
    if dry_run:
        return Compaction(position, shown, events, 1, 0, size, 0, resumed=False)
    if (now := standing(core)) != Standing():
        raise refusal(core.address.text, now)
    if not force:
        connections.retry(lambda connection: _check_subscriptions(core, connection, removals))
    removed_before, removed = core.removals(), 0
    for removal, first, before in removals:
        while True:
            ((count,),) = connections.fetch(
                "select {schema}.remove_events(%s, %s, %s, %s)", (removal.stream, first, before, _REMOVE_ROWS)
            )
            removed += count
            if progress is not None:
                progress(removed, events)
            if count < _REMOVE_ROWS:
                break
    # A step whose answer was lost counted nothing; another compaction may have removed other events.
    removed = min(events, core.removals() - removed_before)
    if removed:
        data = {"events": removed, "position": position}
        event = ("$CompactionFinished", None, JSON_CODE, json.dumps(data).encode(), None)
        core.appender.append(AppendRequest.own(_COMPACTIONS, event))
    _vacuum_redacted(core)
    return Compaction(position, [], removed, 1, 1, size, connections.retry(core.bytes_in), resumed=False)


def _vacuum_redacted(core: Core) -> None:
    """Have the server free the versions of rows from before redactions, which its files still hold."""
    if core.reader.versions([REDACTIONS_STREAM])[0]:
        statement = core.sql("vacuum {schema}.events")
        core.connections.retry(lambda connection: connection.execute(statement))


def _removals(core: Core, connection: Session) -> list[tuple[Removal, int, datetime]]:
    """Return what compaction removes of each stream: how much, before which version, before which time."""
    rules = core.reader.policies.refreshed(connection)
    # Its own clock: it gave the events their times, and what is removed too early is lost.
    row = connection.execute("select (extract(epoch from clock_timestamp()) * 1000000)::bigint").fetchone()
    assert row is not None
    (now_us,) = row
    found = []
    rows = connection.execute(
        core.sql("select stream_id, version from {schema}.last_versions where events > 0 order by stream_id")
    ).fetchall()
    for stream, version in rows:
        rule = rules.rule_for(stream)
        if rule is None or rule == KEEP_ALL:
            continue
        first = first_visible_version(rule, version)
        since_us = visible_since_us(rule, now_us)
        before = datetime.min.replace(tzinfo=UTC) if since_us is None else moment(since_us)
        row = connection.execute(
            core.sql(
                "select count(*), coalesce(sum(pg_column_size(events.*)), 0)::bigint from {schema}.events "
                "where stream_id = %s and (version < %s or created_at < %s)"
            ),
            (stream, first, before),
        ).fetchone()
        assert row is not None
        if row[0]:
            name = {"stream": stream} if stream in rules.streams else {"category": category_of(stream)}
            if stream.startswith(METADATA_PREFIX):
                name = {"stream": stream}
            found.append((Removal(name, stream, row[0], row[1]), first, before))
    return found


def _check_subscriptions(
    core: Core, connection: Connection, removals: list[tuple[Removal, int, datetime]]
) -> None:
    """Raise SubscriptionBehind if a subscription's filter selects an event that would be removed unread."""
    for name in core.checkpoint_names():
        known = core.checkpoint(name).load()
        if known is None or known.filter is None:
            continue
        filter = known.filter
        for removal, first, before in removals:
            if removal.stream.startswith(SYSTEM_PREFIX) or filter.stream not in (None, removal.stream):
                continue
            if filter.category not in (None, category_of(removal.stream)):
                continue
            row = connection.execute(
                core.sql(
                    "select max(global_position) from {schema}.events where stream_id = %s "
                    "and (version < %s or created_at < %s) and global_position > %s "
                    "and (%s::text[] is null or event_type = any(%s))"
                ),
                (removal.stream, first, before, known.position, *[filter.types and list(filter.types)] * 2),
            ).fetchone()
            if row is not None and row[0] is not None:
                raise SubscriptionBehind(name, known.position, row[0])
