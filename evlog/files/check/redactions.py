"""Checking redacted events against the redactions that name them."""

from __future__ import annotations

from collections.abc import Sequence

from evlog.errors import EvlogError
from evlog.files.check import findings as kinds
from evlog.files.check.files import StoreSnapshot
from evlog.files.format import paths
from evlog.files.log.crafted import SENSELESS
from evlog.files.log.log import Log
from evlog.model.redaction import Redaction, maybe_decode_redaction, record_digest
from evlog.model.reports import Finding


def check_redactions(
    seen: StoreSnapshot, redacted: Sequence[int], *, damaged: bool
) -> tuple[list[Redaction], list[Finding]]:
    """Check that each record in a redacted event's place is accounted for by a redaction.

    Args:
        redacted: the positions of these records.
        damaged: whether damage was found: a redaction may be missing because of it.

    Returns:
        All redactions, and what is wrong.
    """
    try:
        log = Log(seen.store)
        redactions = log.retry_on_compaction(lambda: _read_redactions(log))
        wrong = log.retry_on_compaction(lambda: _find_wrong(log, redactions))
    except (EvlogError, *SENSELESS):
        return [], []  # damage, which is found elsewhere
    name = paths.SEGMENTS
    findings = [
        kinds.damage(
            kinds.REDACTED, name, None, position, "what is in a redacted event's place is not its own"
        )
        for position in wrong
    ]
    named = {position for redaction in redactions for position in redaction.positions}
    unnamed = [position for position in redacted if position not in named]
    if unnamed and not damaged and not any(seen.manifest.standing):  # a mirror gets redactions later
        detail = f"{len(unnamed)} events are redacted, and no redaction names them"
        findings.append(kinds.damage(kinds.REDACTED, name, None, unnamed[0], detail))
    return redactions, findings


def _read_redactions(log: Log) -> list[Redaction]:
    found = map(maybe_decode_redaction, log.policies().redactions)
    return [redaction for redaction in found if redaction is not None]


def _find_wrong(log: Log, redactions: Sequence[Redaction]) -> list[int]:
    """Return the positions of named events whose record is not that of the event that was redacted."""
    named = sorted({event for redaction in redactions for event in redaction.events})
    parts = [part for part in log.parts() if part.count]
    wrong, at = [], 0
    for position, id, digest in named:
        while at < len(parts) and parts[at].last_position < position:
            at += 1
        if at == len(parts):
            break
        segment = parts[at].segment
        number = segment.number_of(position)
        record = segment.record(number) if number < parts[at].count else None
        if record is None or record[0] != position:
            continue  # a compaction removed it
        if record[4] != id or record_digest(record) != digest:
            wrong.append(position)
    return wrong
