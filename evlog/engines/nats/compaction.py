"""Removing what policies hide, stream by stream: what is kept of the events is stored before the purge."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final

from evlog.engines.deciding import PendingAppend
from evlog.engines.keyed import check_subscriptions
from evlog.engines.nats.history import finish_redactions, remove_events
from evlog.model.appends import AppendRequest
from evlog.model.events import JSON_CODE, METADATA_PREFIX, category_of
from evlog.model.history import Standing, refusal
from evlog.model.reports import Compaction, Removal
from evlog.model.retention import (
    COMPACTIONS_STREAM,
    FINISHED_TYPE,
    KEEP_ALL,
    first_visible_version,
    visible_since_us,
)

if TYPE_CHECKING:
    from evlog.engine import Progress
    from evlog.engines.nats.core import Core
    from evlog.model.events import Event

_OVERHEAD_BYTES: Final = 300  # of a message's headers, about


def compact(core: Core, *, dry_run: bool, force: bool, progress: Progress | None) -> Compaction:
    """Remove what policies hide; each stream is removed durably, one after the other."""
    position, size = core.head(), bytes_of(core)
    removals = _removals(core)
    events = sum(len(hidden) for _, hidden in removals)
    shown = sorted((removal for removal, _ in removals), key=lambda each: -each.events)
    if dry_run:
        return Compaction(position, shown, events, 1, 0, size, 0, resumed=False)
    standing = core.reader.state().control.standing
    if standing != Standing():
        raise refusal(core.address.text, standing)
    if not force:
        check_subscriptions(
            core.records,
            ((each.stream, [(event.type, event.position) for event in hidden]) for each, hidden in removals),
        )
    removed = 0
    for removal, hidden in removals:
        remove_events(core, removal.stream, hidden)
        removed += len(hidden)
        if progress is not None:
            progress(removed, events)
    if removed:
        data = json.dumps({"events": removed, "position": position}).encode()
        event = (FINISHED_TYPE, None, JSON_CODE, data, None)
        request = AppendRequest.own(COMPACTIONS_STREAM, event)
        core.appender.append(PendingAppend(request))
    finish_redactions(core)
    return Compaction(position, [], removed, 1, 1, size, bytes_of(core), resumed=False)


def bytes_of(core: Core) -> int:
    """Return the size of all messages."""
    return int(core.jetstream.call("STREAM.INFO", {})["state"]["bytes"])


def _removals(core: Core) -> list[tuple[Removal, list[Event]]]:
    """Return what compaction removes of each stream."""
    state, now_us = core.reader.state(), time.time_ns() // 1000
    rules = state.rules
    found = []
    for info in core.reader.streams(None, None, include_deleted=True, include_system=True):
        stream, version = info.stream, info.last_version
        rule = rules.rule_for(stream)
        if rule is None or rule == KEEP_ALL:
            continue
        first, since_us = first_visible_version(rule, version), visible_since_us(rule, now_us)
        hidden = []
        for event in core.reader.read_whole(stream):
            if event.version >= first and (since_us is None or event.time_us >= since_us):
                break
            hidden.append(event)
        if hidden:
            name = {"stream": stream} if stream in rules.streams else {"category": category_of(stream)}
            if stream.startswith(METADATA_PREFIX):
                name = {"stream": stream}
            size = sum(len(event.data) + len(event[8] or b"") + _OVERHEAD_BYTES for event in hidden)
            found.append((Removal(name, stream, len(hidden), size), hidden))
    return found
