"""Removing what policies hide, stream by stream: what is kept of the events is stored before the purge.

From the message that stores it, no reader returns the events, whatever becomes of their policies: what a
reader can see is not purged.
"""

from __future__ import annotations

from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Final, NamedTuple

from evlog.engines.deciding import PendingAppend
from evlog.engines.keyed import checkpoints
from evlog.engines.nats.history import finish_redactions, finish_removals, remove_events
from evlog.engines.retention import check_subscriptions, finished_compaction
from evlog.model.events import now_ns
from evlog.model.history import check_standing
from evlog.model.reports import Compaction, Removal
from evlog.model.retention import KEEP_ALL, hides

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
    check_standing(core.address.text, core.reader.state().control.standing)
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
        core.appender.append(PendingAppend(finished_compaction(removed, position)))
    finish_redactions(core)
    return Compaction(position, [], removed, 1, 1, size, bytes_of(core), resumed=False)


def _count_hidden(core: Core, found: _Hidden, state: State, events: Sequence[Event]) -> int:
    """Return how many of some events the present policies hide: a user may have changed them meanwhile."""
    check_standing(core.address.text, state.control.standing)
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
