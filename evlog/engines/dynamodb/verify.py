"""Verifying a store in DynamoDB: every event and position, ids and heads, and the digest of all events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evlog.engines.deciding import content_digest
from evlog.engines.digest import LogDigest
from evlog.engines.dynamodb.items import decode_id, id_key
from evlog.engines.dynamodb.reading import IndexBehind
from evlog.engines.keyed import check_checkpoints
from evlog.model.filters import LogSelection
from evlog.model.pins import maybe_parse_pin
from evlog.model.redaction import since
from evlog.model.reports import DAMAGE, Finding, VerifyReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evlog.engine import Progress
    from evlog.engines.dynamodb.core import Core
    from evlog.engines.dynamodb.items import LogState
    from evlog.engines.dynamodb.reading import Reader
    from evlog.engines.keyed import KeyValue
    from evlog.model.events import Event

_BATCH: Final = 500


def verify(
    core: Core,
    reader: Reader,
    records: KeyValue,
    *,
    quick: bool,
    against: str | None,
    progress: Progress | None,
) -> VerifyReport:
    """Check a store. `quick` leaves out what reads every event."""
    pin = maybe_parse_pin(against, quick=quick)
    state = core.state()
    events = sum(head.events for _, head in reader.heads(state))
    findings = _check_counts(core, events, state) + check_checkpoints(records, lambda: core.state().position)
    digest, redactions = None, core.redactions(state)
    if not quick:
        whole = LogDigest(pin)
        try:
            findings += _check_events(core, reader, state, whole, progress)
            digest = whole.end(state.position)
        except IndexBehind as error:
            findings.append(_damage("position", None, f"{error.reason}; nothing says that they were removed"))
        findings += whole.check_redacted(redactions, state.standing)
        if digest is not None:
            findings += whole.check_pin(lambda position: sum(1 for _ in reader.removed(0, position)))
    report = VerifyReport(events, 1, state.size, state.position, digest, tuple(findings))
    return report if pin is None else report._replace(redactions=since(redactions, pin[0]))


def _check_counts(core: Core, events: int, state: LogState) -> list[Finding]:
    counted = events + state.removed + state.lost
    if counted == state.position or core.state() != state:
        return []
    return [_damage("position", None, f"the log ends at {state.position}, and {counted} are accounted for")]


def _check_events(
    core: Core, reader: Reader, state: LogState, whole: LogDigest, progress: Progress | None
) -> list[Finding]:
    """Check every event beside its id and its stream's head; add it to the digest."""
    findings: list[Finding] = []
    versions: dict[str, int] = {}
    last_us = 0
    batch: list[Event] = []
    for event in reader.read_all(LogSelection(to=state.position)):
        whole.add(event)
        if event.time_us < last_us:
            findings.append(_damage("time", event.position, "the event is older than the one before it"))
        if event.version <= versions.get(event.stream, 0):
            detail = "the version of the event is not above that of the one before it"
            findings.append(_damage("order", event.position, detail))
        last_us, versions[event.stream] = event.time_us, event.version
        batch.append(event)
        if len(batch) == _BATCH:
            findings += _check_ids(core, batch)
            batch = []
            if progress is not None:
                progress(event.position, state.position)
    findings += _check_ids(core, batch)
    heads = dict(reader.heads(core.state()))
    for stream, version in versions.items():
        if stream not in heads or heads[stream].version < version:
            findings.append(
                _damage("version", None, f"stream {stream} has events and is not listed with them")
            )
    return findings


def _check_ids(core: Core, events: Sequence[Event]) -> list[Finding]:
    findings = []
    found = core.client.get_many([id_key(event.id_bytes) for event in events])
    for event in events:
        item = found.get(id_key(event.id_bytes))
        known = None if item is None else decode_id(item)
        if known is None or known[:3] != (event.position, event.version, event.stream):
            findings.append(_damage("id", event.position, "the id of the event is not known as its own"))
        elif (
            not event.redacted
            and known.digest != content_digest(event.stream, event.type, event[6], event.data)
            and event.position not in core.redacted(core.state())  # a redaction runs at this moment
        ):
            findings.append(_damage("content", event.position, "the content is not what was appended"))
    return findings


def _damage(kind: str, position: int | None, detail: str) -> Finding:
    return Finding(kind, DAMAGE, "", None, position, detail)
