"""What the store's own events say of changes of the history: compactions, and redactions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from evlog.errors import EvlogError
from evlog.files.check import findings as kinds
from evlog.files.check.files import StoreSnapshot
from evlog.files.format import paths
from evlog.files.log.crafted import SENSELESS
from evlog.files.log.log import Log
from evlog.files.log.read_stream import Bounds, read_stream
from evlog.model.events import moment_of
from evlog.model.pins import Pin
from evlog.model.redaction import Redaction, maybe_decode_redaction, record_digest, unnamed
from evlog.model.reports import Finding
from evlog.model.retention import COMPACTIONS_STREAM, STARTED_TYPE


def explain_compaction(store: str, pin: Pin) -> str:
    """Return why the digest of a position does not hold: the last compaction that reached it."""
    started = None
    try:
        with Log(store) as log:
            notes = read_stream(log, COMPACTIONS_STREAM, Bounds(), {STARTED_TYPE}, reverse=False, limit=None)
            for event in notes:
                document = _maybe_object(event.data)
                if document is None or not document.get("rules"):
                    continue  # it removed nothing
                if document.get("position") == pin.position and document.get("digest") == pin.digest:
                    when = _when(event.time_us)
                    rules = _rules(document)
                    return f"history was as pinned until it was compacted on {when} {rules}; pin a new digest"
                started = started or (event.time_us, document)
    except EvlogError:
        pass  # damage that is reported already
    if started is None:
        return f"history up to position {pin.position} was compacted; pin a new digest"
    time_us, document = started
    return (
        f"history up to position {pin.position} was compacted, first on {_when(time_us)} {_rules(document)}; "
        "pin a new digest"
    )


def _maybe_object(data: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _when(time_us: int) -> str:
    return moment_of(time_us).strftime("%Y-%m-%dT%H:%M:%SZ")


def _rules(document: dict[str, Any]) -> str:
    rules = document.get("rules")
    if not isinstance(rules, list) or not rules:
        return "by rules that it does not name"
    shown = [json.dumps(rule, ensure_ascii=True, separators=(",", ":")) for rule in rules[:5]]
    more = f" and {len(rules) - 5} more" if len(rules) > 5 else ""
    return f"by {', '.join(shown)}{more}"


# --- redactions


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
        with Log(seen.store) as log:
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
    strange = unnamed(redacted, redactions)
    if strange and not damaged and not any(seen.manifest.standing):  # a mirror gets redactions later
        detail = f"{len(strange)} events are redacted, and no redaction names them"
        findings.append(kinds.damage(kinds.REDACTED, name, None, strange[0], detail))
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
