"""Removing what policies hide, stream by stream: what is kept of the events is stored before the purge.

From the message that stores it, no reader returns the events, whatever becomes of their policies: what a
reader can see is not purged.
"""

from __future__ import annotations

import json
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Final, NamedTuple

from evlog.engines.deciding import PendingAppend
from evlog.engines.keyed import checkpoints
from evlog.engines.nats.history import finish_redactions, finish_removals, remove_events
from evlog.engines.retention import check_subscriptions
from evlog.model.appends import AppendRequest
from evlog.model.events import JSON_CODE, now_ns
from evlog.model.history import Standing, refusal
from evlog.model.reports import Compaction, Removal
from evlog.model.retention import (
    COMPACTIONS_STREAM,
    FINISHED_TYPE,
    KEEP_ALL,
    hides,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evlog.engine import Progress
    from evlog.engines.nats.core import Core
    from evlog.engines.nats.reading import State
    from evlog.model.events import Event

_OVERHEAD_BYTES: Final = 300  # of a message's headers, about


class _Hidden(NamedTuple):
    """What compaction removes of a stream."""

    removal: Removal
    events: list[Event]
    version: int
    """of the stream, when the compaction began"""
    now_us: int
    """the time then"""


def compact(core: Core, *, dry_run: bool, force: bool, progress: Progress | None) -> Compaction:
    """Remove what policies hide; each stream is removed durably, one after the other."""
    position, size = core.head(), bytes_of(core)
    removals = _removals(core)
    events = sum(len(each.events) for each in removals)
    shown = sorted((each.removal for each in removals), key=lambda each: -each.events)
    if dry_run:
        return Compaction(position, shown, events, 1, 0, size, 0, resumed=False)
    _check_standing(core, core.reader.state())
    if not force:
        last_hidden = {each.removal.stream: each.events[-1].position for each in removals}
        check_subscriptions(checkpoints(core.records), core.reader.read_all, last_hidden)
    removed = finish_removals(core)  # of a compaction that was killed
    for each in removals:
        count = partial(_count_hidden, core, each)
        removed += remove_events(core, each.removal.stream, each.events, count_removable=count)
        if progress is not None:
            progress(removed, events)
    finish_removals(core)
    if removed:
        data = json.dumps({"events": removed, "position": position}).encode()
        event = (FINISHED_TYPE, None, JSON_CODE, data, None)
        request = AppendRequest.own(COMPACTIONS_STREAM, event)
        core.appender.append(PendingAppend(request))
    finish_redactions(core)
    return Compaction(position, [], removed, 1, 1, size, bytes_of(core), resumed=False)


def _check_standing(core: Core, state: State) -> None:
    if state.control.standing != Standing():
        raise refusal(core.address.text, state.control.standing)


def _count_hidden(core: Core, found: _Hidden, state: State, events: Sequence[Event]) -> int:
    """Return how many of some events the present policies hide: a user may have changed them meanwhile."""
    _check_standing(core, state)
    rule = state.rules.rule_for(found.removal.stream)
    return sum(hides(rule, event, found.version, found.now_us) for event in events)


def bytes_of(core: Core) -> int:
    """Return the size of all messages."""
    return int(core.jetstream.call("STREAM.INFO", {})["state"]["bytes"])


def _removals(core: Core) -> list[_Hidden]:
    """Return what compaction removes of each stream."""
    state, now_us = core.reader.state(), now_ns() // 1000
    rules = state.rules
    found = []
    for info in core.reader.streams(None, None, include_deleted=True, include_system=True):
        stream, version = info.stream, info.last_version
        rule = rules.rule_for(stream)
        if rule is None or rule == KEEP_ALL:
            continue
        events = core.reader.read_whole(stream)
        hidden = list(takewhile(lambda event: hides(rule, event, version, now_us), events))  # noqa: B023
        if hidden:
            size = sum(len(event.data) + len(event[8] or b"") + _OVERHEAD_BYTES for event in hidden)
            removal = Removal(rules.describe(stream), stream, len(hidden), size)
            found.append(_Hidden(removal, hidden, version, now_us))
    return found
