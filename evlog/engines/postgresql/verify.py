"""Verifying a store in PostgreSQL: its tables against each other, and a digest of every event.

The files are checked by the server's own means: `data_checksums` and `pg_amcheck`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from evlog.engines.digest import LogDigest
from evlog.engines.postgresql.history import standing
from evlog.model.filters import LogSelection, StreamSelection
from evlog.model.pins import maybe_parse_pin
from evlog.model.redaction import Redaction, maybe_decode_redaction, since
from evlog.model.reports import DAMAGE, Finding, VerifyReport
from evlog.model.retention import REDACTIONS_STREAM

if TYPE_CHECKING:
    from evlog.engine import Progress
    from evlog.engines.postgresql.core import Core
    from evlog.model.reports import StoreInfo

# Each query finds violations: the kind of the finding, and rows of (position or null, detail).
_QUICK_CHECKS: Final = (
    (
        "position",
        """select null, format('positions are missing: the log ends at %s, and %s are accounted for',
                               h.position, c.n)
           from {schema}.log l, {schema}.head h, (select (select count(*) from {schema}.events)
                                                       + (select count(*) from {schema}.removed_ids) as n) c
           where h.position <> c.n + l.lost""",
    ),
    (
        "checkpoint",
        """select null, format('subscription %s is at position %s, beyond the end of the log',
                               subscription_id, last_position)
           from {schema}.subscription_checkpoints, {schema}.head h where last_position > h.position""",
    ),
)
_FULL_CHECKS: Final = (
    (
        "id",
        """select e.global_position, 'the id of the event is also the id of a removed one'
           from {schema}.events e join {schema}.removed_ids r on r.id = e.id""",
    ),
    (
        "version",
        """select null, format('stream %s is at version %s with %s events, but has %s events and %s removed '
                               'ones, the last at version %s', s.stream_id, s.version, s.events,
                               coalesce(e.n, 0), coalesce(r.n, 0), greatest(e.last, r.last))
           from {schema}.last_versions s
           left join (select stream_id, count(*) n, max(version) last from {schema}.events group by 1) e
               using (stream_id)
           left join (select stream_id, count(*) n, max(version) last from {schema}.removed_ids group by 1) r
               using (stream_id)
           where s.events <> coalesce(e.n, 0) or s.version <> greatest(e.last, r.last)
              or (s.version <> coalesce(e.n, 0) + coalesce(r.n, 0)
                  and (select lost from {schema}.log) = 0)""",
    ),
    (
        "version",
        """select min(global_position), format('stream %s has events and is not listed', stream_id)
           from {schema}.events e
           where not exists (select 1 from {schema}.streams s where s.stream_id = e.stream_id)
           group by stream_id""",
    ),
    (
        "order",
        """select global_position, 'the version of the event is not above that of the one before it'
           from (select global_position, version,
                        lag(version) over (partition by stream_id order by global_position) as before
                 from {schema}.events) e
           where before >= version""",
    ),
    (
        "time",
        """select global_position, 'the event is older than the one before it'
           from (select global_position, created_at, lag(created_at) over (order by global_position) as before
                 from {schema}.events) e
           where before > created_at""",
    ),
)


def verify(
    core: Core,
    info: StoreInfo,
    *,
    quick: bool,
    against: str | None,
    progress: Progress | None,
) -> VerifyReport:
    """Check a store. `quick` leaves out the digest and the checks that read every event."""
    pin = maybe_parse_pin(against, quick=quick)
    head = core.reader.head()
    findings = []
    for kind, query in _QUICK_CHECKS if quick else _QUICK_CHECKS + _FULL_CHECKS:
        for position, detail in core.connections.fetch(query):
            findings.append(Finding(kind, DAMAGE, "", None, position, detail))
    digest, redactions = None, list[Redaction]()
    if not quick:
        whole, digest = _digest(core, head, pin, progress)
        redactions = _redactions(core)
        findings += whole.check_redacted(redactions, standing(core))
        findings += whole.check_pin(partial(_count_removed, core))
    ((events,),) = core.connections.fetch("select count(*) from {schema}.events where {same}")
    report = VerifyReport(events, info.segments, info.bytes, head, digest, tuple(findings))
    return report if pin is None else report._replace(redactions=since(redactions, pin[0]))


def _redactions(core: Core) -> list[Redaction]:
    events = core.reader.read_stream(StreamSelection(REDACTIONS_STREAM))
    return [found for found in map(maybe_decode_redaction, events) if found is not None]


def _digest(
    core: Core, head: int, pin: tuple[int, str] | None, progress: Progress | None
) -> tuple[LogDigest, str]:
    """Return the digest up to `head` as a text, and the object that has computed it."""
    digest = LogDigest(pin)
    for event in core.reader.read_all(LogSelection(to=head)):
        digest.add(event)
        if progress is not None and not event.position % 1000:
            progress(event.position, head)
    return digest, digest.end(head)


def _count_removed(core: Core, position: int) -> int:
    count: int
    query = "select count(*) from {schema}.removed_ids where global_position <= %s"
    ((count,),) = core.connections.fetch(query, (position,))
    return count
