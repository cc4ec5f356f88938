"""What the log itself says of how it came to be as it is: the compactions that are recorded in it.

A compaction begins with an event in `$compactions` that names what it is about to remove by which rules; so
whoever finds that old positions hash differently now can be told when and why.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from evlog.errors import EvlogError
from evlog.files.check.digest import Pin
from evlog.files.log.log import Log
from evlog.files.log.read import Bounds, read_stream

COMPACTIONS: Final = "$compactions"
STARTED: Final = "$CompactionStarted"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def explain_compaction(store: str, pin: Pin) -> str:
    """Why the digest of a position is not what it was: the last compaction that reached it."""
    started = None
    try:
        log = Log(store)
        for event in read_stream(log, COMPACTIONS, Bounds(), {STARTED}, reverse=False, limit=None):
            document = _maybe_object(event.data)
            if document is None:
                continue
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
    except ValueError:
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
