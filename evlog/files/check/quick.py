"""The quick look at a store: lengths and headers of all files, and the end of the log."""

from __future__ import annotations

from collections.abc import Callable

from evlog.errors import CorruptionError
from evlog.files.check import findings as kinds
from evlog.files.check.files import Look, check_names, check_sizes, file_bytes, is_being_indexed
from evlog.files.log.log import Log
from evlog.model.reports import Finding, VerifyReport


def torn(size: int) -> str:
    return f"{size} bytes of an append that was never acknowledged; the next writer cuts them"


def verify_quickly(seen: Look, checkpoints_of: Callable[[int], list[Finding]]) -> VerifyReport:
    """Lengths and headers of all files, and the end of the log as a reader would look at it."""
    findings = [*seen.findings, *check_sizes(seen)]
    infos = seen.manifest.segments
    events = sum(info.events for info in infos)
    head = infos[-1].first_position - 1
    if any(finding.kind == kinds.MISSING for finding in findings):
        for info in infos[:-1]:
            is_being_indexed(seen, info)
        findings = [*seen.findings, *check_sizes(seen)]
    try:
        log = Log(seen.store)
        active = log.active.segment
        events += active.count
        head = log.head
        name = f"segments/{infos[-1].first_position:020d}.{infos[-1].generation}"
        if log.damage is not None:
            findings.append(_as_finding(seen.store, log.damage))
        elif (
            active.torn_bytes and seen.settled and active.info == infos[-1] and active.end < seen.active_bytes
        ):
            detail = torn(active.torn_bytes)
            findings.append(kinds.note(kinds.TAIL, f"{name}.log", active.end, head + 1, detail))
        # Others may be writing by now: what counts is what stood there at the look.
        lacking = active.entries_on_disk < active.count_before(seen.active_bytes)
        if seen.settled and lacking and active.info == infos[-1]:
            detail = "it does not hold the entries of the whole log; it is derived, nothing is lost"
            findings.append(kinds.note(kinds.INDEX, f"{name}.offsets", None, None, detail))
    except CorruptionError as damage:
        findings.append(_as_finding(seen.store, damage))
    findings += checkpoints_of(head)
    findings += check_names(seen)
    return VerifyReport(events, len(infos), file_bytes(seen), head, None, tuple(findings))


def _as_finding(store: str, damage: CorruptionError) -> Finding:
    file = damage.path.removeprefix(store + "/")
    return kinds.damage(kinds.FRAME, file, damage.offset, damage.position, damage.detail)
