"""Verifying a store in NATS: positions, versions, times and ids of all events, and their digest.

The server checks the checksums of its files itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evlog.engines.digest import LogDigest
from evlog.engines.keyed import check_checkpoints
from evlog.model.pins import maybe_parse_pin
from evlog.model.redaction import Redaction, maybe_decode_redaction, since
from evlog.model.reports import DAMAGE, Finding, VerifyReport

if TYPE_CHECKING:
    from evlog.engine import Progress
    from evlog.engines.nats.core import Core
    from evlog.model.events import Event
    from evlog.model.reports import StoreInfo


def verify(
    core: Core, info: StoreInfo, *, quick: bool, against: str | None, progress: Progress | None
) -> VerifyReport:
    """Check a store. `quick` only counts positions."""
    pin = maybe_parse_pin(against, quick=quick)
    head, state = core.head(), core.reader.state()
    findings, digest = list[Finding](), None
    redactions = list[Redaction]()
    events = sum(core.reader.counts(core.subjects.events).values()) + len(state.stubs)
    if not quick:
        checks = _Checks()
        made = LogDigest(pin)
        for _, event in core.reader.read_frames(0, head):
            checks.add(event)
            made.add(event)
            if event.stream.startswith("$") and (redaction := maybe_decode_redaction(event)) is not None:
                redactions.append(redaction)
            if progress is not None and not event.position % 1000:
                progress(event.position, head)
        digest, events = made.end(head), checks.events
        findings += checks.findings
        findings += made.check_redacted(redactions, state.control.standing)
        findings += made.check_pin(lambda position: len(core.reader.removed(0, position)))
    missing = head - events - state.control.removed - state.control.lost
    # What is removed and not purged yet is only in the number of messages.
    is_known = not (quick and state.control.purging) and state.control == core.reader.state().control
    if missing and head == core.head() and is_known:
        detail = f"positions are missing: the log ends at {head}, and {events} are accounted for"
        findings.append(Finding("position", DAMAGE, "", None, None, detail))
    findings += check_checkpoints(core.records, core.head)
    report = VerifyReport(events, info.segments, info.bytes, head, digest, tuple(findings))
    return report if pin is None else report._replace(redactions=since(redactions, pin[0]))


class _Checks:
    """What must hold from event to event."""

    def __init__(self) -> None:
        self.events = 0
        self.findings: list[Finding] = []
        self._position = self._time_us = 0
        self._versions: dict[str, int] = {}
        self._ids: set[bytes] = set()

    def add(self, event: Event) -> None:
        """Check the next event."""
        position, version, stream, _, id, time_us, *_ = event
        self.events += 1
        if position <= self._position:
            self._find("order", position, "the position is not above that of the event before it")
        if version <= self._versions.get(stream, 0):
            self._find("order", position, "the version is not above that of the event before it")
        if time_us < self._time_us:
            self._find("time", position, "the event is older than the one before it")
        if id in self._ids:
            self._find("id", position, "the id of the event is also that of another one")
        self._position, self._time_us = position, time_us
        self._versions[stream] = version
        self._ids.add(id)

    def _find(self, kind: str, position: int, detail: str) -> None:
        self.findings.append(Finding(kind, DAMAGE, "", None, position, detail))
