"""Why a pinned digest no longer holds: which compaction removed events, when and by which rules."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from evlog.errors import EvlogError
from evlog.files.log.log import Log
from evlog.files.log.read_stream import Bounds, read_stream
from evlog.model.pins import Pin
from evlog.model.retention import COMPACTIONS_STREAM, STARTED_TYPE

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def explain_compaction(store: str, pin: Pin) -> str:
    """Return why the digest of a position does not hold: the last compaction that reached it."""
    started = None
    try:
        log = Log(store)
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
    return (_EPOCH + timedelta(microseconds=time_us)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _rules(document: dict[str, Any]) -> str:
    rules = document.get("rules")
    if not isinstance(rules, list) or not rules:
        return "by rules that it does not name"
    shown = [json.dumps(rule, ensure_ascii=True, separators=(",", ":")) for rule in rules[:5]]
    more = f" and {len(rules) - 5} more" if len(rules) > 5 else ""
    return f"by {', '.join(shown)}{more}"
