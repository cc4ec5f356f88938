"""Appending: one transaction that replaces the log's state and puts events, ids, tags and heads.

Every item of a transaction counts against the service's limit of 100: the log and each stream one, an event
two (its id is one), and one for each tag and each policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evlog.engines.deciding import PendingAppend, decide
from evlog.engines.dynamodb.core import MAX_ACTIONS, Change
from evlog.engines.dynamodb.items import Head, derived_items, encode_event, is_policy
from evlog.errors import AppendTooLarge, EventTooLarge, TooManyEvents
from evlog.model.events import SYSTEM_PREFIX
from evlog.model.history import RemovedRecord
from evlog.model.retention import REDACTIONS_STREAM, SCHEMAS_STREAM, Rules

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evlog.engines.dynamodb.client import Item
    from evlog.engines.dynamodb.core import Core, Moment
    from evlog.engines.dynamodb.items import LogState
    from evlog.engines.dynamodb.reading import Reader
    from evlog.model.appends import BatchResult
    from evlog.model.events import Event
    from evlog.model.queries import IfNone

MAX_EVENT_BYTES: Final = 390_000  # an item has 400 KB, with the names, keys and the rest
MAX_EVENTS: Final = 49  # of one stream, without tags
_MAX_BYTES: Final = 4_000_000  # of a transaction, with some room for what evlog adds
_EVENT_OVERHEAD: Final = 1_500


def append(core: Core, reader: Reader, pending: PendingAppend) -> BatchResult:
    """Append all events in one transaction, or none; durable on return.

    Raises:
        EventTooLarge, AppendTooLarge, TooManyEvents: it is over the service's limits.
    """
    _check_size(pending)
    pending.give_ids()

    def plan(moment: Moment) -> Change:
        decision = decide(_View(core, reader, moment, pending), pending)
        if not decision.new:
            return moment.unchanged(decision.result)
        state, heads = add_events(
            moment.state, moment.heads([event.stream for event in decision.new]), decision.new
        )
        puts = event_items(decision.new, [decision.new[0].position] * len(decision.new))
        check_count(len(puts) + len(heads) + 1, len(decision.new))
        _check_bytes([len(event.data) + len(event[8] or b"") for event in decision.new])
        actions = [
            {"Put": {"Item": item, "ConditionExpression": "attribute_not_exists(PK)"}} for item in puts
        ]
        return Change(state, heads, actions, decision.result)

    result: BatchResult = core.change(plan, is_quick=True)
    return result


class _View:
    """The log as a decision sees it: `evlog.engines.deciding.LogView`."""

    def __init__(self, core: Core, reader: Reader, moment: Moment, pending: PendingAppend) -> None:
        self._core = core
        self._reader = reader
        self._moment = moment
        self._pending = pending
        self.address = core.address.text
        self.head = moment.state.position
        self.time_us = moment.state.time_us
        self.standing = moment.state.standing

    @property
    def rules(self) -> Rules:
        """The retention policies in force."""
        state = self._moment.state
        rules = Rules()
        if state.policies:
            rules.update(self._core.policies.rules(state))
        rules.schemas = state.schemas
        return rules

    def known(self, ids: Sequence[bytes]) -> Mapping[bytes, Event | RemovedRecord]:
        """Return the events that have these ids: looked up when something was refused, and not before.

        A known id refuses the transaction, and then it is looked up.
        """
        made = () if self._moment.is_unsure else self._pending.made
        wanted = [id for id in ids if id not in made] if self._moment.is_fresh else []
        return self._reader.known(self._moment.state, wanted) if wanted else {}

    def versions(self, streams: Sequence[str]) -> Mapping[str, int]:
        return {stream: head.version for stream, head in self._moment.heads(streams).items()}

    def first_match(self, condition: IfNone) -> int | None:
        """Return the position of the first event that breaks a condition."""
        state = self._moment.state
        return self._reader.first_match(state, condition, self._core.redacted(state))


def event_items(events: Sequence[Event], frames: Sequence[int]) -> list[Item]:
    """Return all items of events."""
    items = []
    for event, frame in zip(events, frames, strict=True):
        items.append(encode_event(event, frame))
        items += derived_items(event)
    return items


def add_events(
    state: LogState, before: Mapping[str, Head], events: Sequence[Event]
) -> tuple[LogState, dict[str, Head]]:
    """Return the log's state and the streams once events are added; `before` has the streams as they are."""
    heads = dict(before)
    own = size = policies = redactions = streams = 0
    schemas = state.schemas
    for event in events:
        stream = event.stream
        head = heads[stream]
        is_own = stream.startswith(SYSTEM_PREFIX)
        own += not is_own
        streams += not head.version and not is_own
        policies += is_policy(event)
        redactions += stream == REDACTIONS_STREAM
        size += len(event.data) + len(event[8] or b"")
        schemas = event.version if stream == SCHEMAS_STREAM else schemas
        heads[stream] = Head(event.version, head.events + 1, event.time_us)
    return state._replace(
        position=events[-1].position if events else state.position,
        time_us=events[-1].time_us if events else state.time_us,
        events=state.events + own,
        streams=state.streams + streams,
        size=state.size + size,
        policies=state.policies + policies,
        schemas=schemas,
        redactions=state.redactions + redactions,
    ), heads


def _check_size(pending: PendingAppend) -> None:
    """Raise if an append can never fit into a transaction."""
    sizes = [len(event[3]) + len(event[4] or b"") for event in pending.events]
    if max(sizes) > MAX_EVENT_BYTES:
        raise EventTooLarge(max(sizes), MAX_EVENT_BYTES)
    if not pending.skip_known:
        _check_bytes(sizes)
        check_count(2 * len(sizes) + len(set(pending.streams)) + 1, len(sizes))


def _check_bytes(sizes: Sequence[int]) -> None:
    """Raise if a transaction with events of these sizes is too large."""
    total = sum(sizes) + _EVENT_OVERHEAD * len(sizes)
    if total > _MAX_BYTES:
        raise AppendTooLarge(total, _MAX_BYTES)


def check_count(actions: int, events: int) -> None:
    """Raise if a transaction has too many items."""
    if actions > MAX_ACTIONS:
        limit = f"{MAX_EVENTS} events, and {MAX_ACTIONS} items with their streams, ids and tags"
        raise TooManyEvents(events, limit)
