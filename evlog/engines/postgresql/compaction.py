"""Removing what policies hide: in steps of bounded size, because writers wait for a step."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from evlog.engines.postgresql.history import REMOVE_ROWS, STANDING, standing
from evlog.engines.postgresql.rows import moment
from evlog.engines.retention import check_subscriptions, finished_compaction
from evlog.model.history import Standing, check_standing
from evlog.model.reports import Compaction, Removal
from evlog.model.retention import KEEP_ALL, REDACTIONS_STREAM, first_visible_version, visible_since_us

if TYPE_CHECKING:
    from evlog.engine import Progress
    from evlog.engines.postgresql.connections import Session
    from evlog.engines.postgresql.core import Core
    from evlog.model.retention import Rule


class _Hidden(NamedTuple):
    """What compaction removes of a stream."""

    removal: Removal
    limits: tuple[int, datetime]
    """before which version, and before which time"""
    last_position: int
    """of those removed"""
    version: int
    """of the stream, when the compaction began"""
    now_us: int
    """the server's clock then"""


def compact(core: Core, *, dry_run: bool, force: bool, progress: Progress | None) -> Compaction:
    """Remove what policies hide; each step is a transaction of its own, and durable."""
    connections = core.connections
    position, size = core.reader.head(), connections.retry(core.bytes_in)
    removals = connections.retry(lambda connection: _removals(core, connection))
    events = sum(each.removal.events for each in removals)
    shown = sorted((each.removal for each in removals), key=lambda each: -each.events)
    if dry_run:
        return Compaction(position, shown, events, 1, 0, size, 0, resumed=False)
    check_standing(core.address.text, standing(core))
    if not force:
        known = ((name, core.checkpoint(name).load()) for name in core.checkpoint_names())
        last_hidden = {each.removal.stream: each.last_position for each in removals}
        check_subscriptions(known, core.reader.read_all, last_hidden)
    removed_before, removed = core.removals(), 0
    for each in removals:
        while True:
            count = connections.retry(partial(_remove_step, core, each))
            removed += count
            if progress is not None:
                progress(removed, events)
            if count < REMOVE_ROWS:
                break
    # A step whose answer was lost counted nothing; another compaction may have removed other events.
    removed = min(events, core.removals() - removed_before)
    if removed:
        core.appender.append(finished_compaction(removed, position))
    _vacuum_redacted(core)
    return Compaction(position, [], removed, 1, 1, size, connections.retry(core.bytes_in), resumed=False)


def _remove_step(core: Core, hidden: _Hidden, connection: Session) -> int:
    """Remove some events of a stream; return how many. Fewer than a step: these were the last.

    Only what the present policies hide, too: a user may have changed them since the compaction began.
    """
    stream = hidden.removal.stream
    with connection.transaction():
        core.lock(connection)
        (row,) = connection.execute(core.sql(STANDING)).fetchall()
        check_standing(core.address.text, Standing(*row))
        rule = core.reader.policies.refreshed(connection).rule_for(stream) or KEEP_ALL
        (first, before), present = hidden.limits, _limits_of(rule, hidden.version, hidden.now_us)
        limits = min(first, present[0]), min(before, present[1])
        statement = core.sql("select {schema}.remove_events(%s, %s, %s, %s)")
        count: int
        ((count,),) = connection.execute(statement, (stream, *limits, REMOVE_ROWS)).fetchall()
        return count


def _limits_of(rule: Rule, version: int, now_us: int) -> tuple[int, datetime]:
    """Return before which version and before which time a rule hides the events of a stream."""
    since_us = visible_since_us(rule, now_us)
    before = datetime.min.replace(tzinfo=UTC) if since_us is None else moment(since_us)
    return first_visible_version(rule, version), before


def _vacuum_redacted(core: Core) -> None:
    """Have the server free the versions of rows from before redactions, which its files still hold."""
    if core.reader.versions([REDACTIONS_STREAM])[0]:
        statement = core.sql("vacuum {schema}.events")
        core.connections.retry(lambda connection: connection.execute(statement))


def _removals(core: Core, connection: Session) -> list[_Hidden]:
    """Return what compaction removes of each stream."""
    rules = core.reader.policies.refreshed(connection)
    # Its own clock: it gave the events their times, and what is removed too early is lost.
    clock = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint"
    ((now_us,),) = connection.execute(clock).fetchall()
    found = []
    rows = connection.execute(
        core.sql("select stream_id, version from {schema}.last_versions where events > 0 order by stream_id")
    ).fetchall()
    for stream, version in rows:
        rule = rules.rule_for(stream)
        if rule is None or rule == KEEP_ALL:
            continue
        limits = _limits_of(rule, version, now_us)
        ((events, size, last_position),) = connection.execute(
            core.sql(
                "select count(*), coalesce(sum(pg_column_size(events.*)), 0)::bigint, max(global_position) "
                "from {schema}.events where stream_id = %s and (version < %s or created_at < %s)"
            ),
            (stream, *limits),
        ).fetchall()
        if events:
            removal = Removal(rules.describe(stream), stream, events, size)
            found.append(_Hidden(removal, limits, last_position, version, now_us))
    return found
