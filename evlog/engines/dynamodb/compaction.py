"""Removing what policies hide, and erasing what redactions name.

1. A step removes some events of one stream in one transaction, which also lists their positions as gaps. Ids
   and tags stay: they are known by digests. So a compaction that is killed leaves no event half removed.
2. From the redaction on, readers show a redacted event without its content, also while the table still has
   it. Erasing is repeated until it is done: of each event in one transaction, with its tags, which are known
   only from it, and the digest of its id.
"""

from __future__ import annotations

from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final

from evlog.engines.deciding import encode_tags, removed_record
from evlog.engines.dynamodb.client import key_of
from evlog.engines.dynamodb.core import MAX_ACTIONS, Change
from evlog.engines.dynamodb.items import (
    POLICIES,
    decode_event,
    decode_id,
    encode_event,
    encode_removed,
    event_key,
    id_key,
    is_policy,
    number,
    number_in,
    tag_items,
)
from evlog.engines.keyed import checkpoints
from evlog.engines.retention import check_subscriptions
from evlog.model.events import SYSTEM_PREFIX, Event, now_ns
from evlog.model.history import check_mirror, check_standing
from evlog.model.named import NamedTuple
from evlog.model.reports import Compaction, Removal
from evlog.model.retention import KEEP_ALL, hides

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evlog.engine import Progress
    from evlog.engines.dynamodb.core import Core, Moment
    from evlog.engines.dynamodb.items import LogState
    from evlog.engines.dynamodb.reading import Reader
    from evlog.engines.keyed import KeyValue
    from evlog.model.history import RemovedRecord

_STEP_EVENTS: Final = (MAX_ACTIONS - 2) // 3  # the log, the head; of an event: itself, its gap, its policy
_STEP_OF_STREAMS: Final = (MAX_ACTIONS - 1) // 4  # each may have a head of its own


class _Hidden(NamedTuple):
    """What compaction removes of a stream."""

    removal: Removal
    last_version: int
    """of those removed"""
    last_position: int
    now_us: int
    """when it was found"""


def find_hidden(core: Core, reader: Reader, state: LogState) -> list[_Hidden]:
    """Return what compaction removes, by stream."""
    rules, now_us = core.policies.rules(state), now_ns() // 1000
    found = []
    for stream, head in reader.heads(state):
        rule = rules.rule_for(stream)
        if rule is None or rule == KEEP_ALL or not head.events:
            continue
        events = size = last_version = last_position = 0
        for event in reader.stream_events(state, stream, 1, None):
            if not hides(rule, event, head.version, now_us):
                break  # every rule hides the oldest events
            events, last_version, last_position = events + 1, event.version, event.position
            size += len(event.data) + len(event[8] or b"")
        if events:
            removal = Removal(rules.describe(stream), stream, events, size)
            found.append(_Hidden(removal, last_version, last_position, now_us))
    return found


def compact(
    core: Core, reader: Reader, records: KeyValue, *, dry_run: bool, force: bool, progress: Progress | None
) -> Compaction:
    """Remove what policies hide; each step is a transaction of its own, and durable."""
    state = core.state()
    hidden = find_hidden(core, reader, state)
    events = sum(each.removal.events for each in hidden)
    if dry_run:
        shown = sorted((each.removal for each in hidden), key=lambda each: -each.events)
        return Compaction(state.position, shown, events, 1, 0, state.size, 0, resumed=False)
    check_standing(core.address.text, state.standing)
    if not force:
        last_hidden = {each.removal.stream: each.last_position for each in hidden}
        check_subscriptions(checkpoints(records), reader.read_all, last_hidden)
    erase(core)
    removed = 0
    for each in hidden:
        while True:
            count = _remove_step(core, reader, each)
            removed += count
            if progress is not None and count:
                progress(removed, events)
            if count < _STEP_EVENTS:
                break
    return Compaction(state.position, [], removed, 1, 1, state.size, core.state().size, resumed=False)


def _remove_step(core: Core, reader: Reader, hidden: _Hidden) -> int:
    """Remove the first events of a stream; return how many. Fewer than a step: it was the last.

    Only what the present policies hide, too: a user may have changed them since the compaction began.
    """
    stream = hidden.removal.stream

    def plan(moment: Moment) -> Change:
        rule = core.policies.rules(moment.state).rule_for(stream) or KEEP_ALL
        version = moment.heads([stream])[stream].version
        found = reader.stream_events(moment.state, stream, 1, hidden.last_version, limit=_STEP_EVENTS)
        gone = takewhile(lambda event: hides(rule, event, version, hidden.now_us), found)
        return _removal(moment, list(islice(gone, _STEP_EVENTS)))

    return _remove(core, plan)


def _remove(core: Core, plan: Callable[[Moment], Change], *, by_mirror: bool = False) -> int:
    """Remove what a plan with `_removal` says; return how many events. What is redacted is erased before."""
    while True:
        count: int | None = core.change(plan, by_mirror=by_mirror)
        if count is not None:
            return count
        erase(core)


def _removal(moment: Moment, events: Sequence[Event]) -> Change:
    """Return the change that removes some events, and results in their number.

    None is the result where redacted events are not yet erased: their tags are known only from them.
    """
    if moment.state.erased < moment.state.redactions:
        return moment.unchanged()
    if not events:
        return moment.unchanged(0)
    heads = moment.heads(event.stream for event in events)
    own = size = 0
    actions = []
    for event in events:
        head = heads[event.stream]
        heads[event.stream] = head._replace(events=head.events - 1)
        own += not event.stream.startswith(SYSTEM_PREFIX)
        size += len(event.data) + len(event[8] or b"")
        removed = removed_record(event, is_last=True)  # whether it is the last is known when it is asked for
        actions.append({"Put": {"Item": encode_removed(removed)}})
        keys = [event_key(event.stream, event.version)]
        keys += [(POLICIES, number(event.position))] if is_policy(event) else []
        actions += [{"Delete": {"Key": key_of(key)}} for key in keys]
    state = moment.state._replace(
        events=moment.state.events - own,
        size=moment.state.size - size,
        removed=moment.state.removed + len(events),
    )
    return Change(state, heads, actions, len(events))


def remove_history(core: Core, source_id: str, removed: Sequence[RemovedRecord]) -> None:
    """Remove from a mirror what its source has removed, and erase what is redacted."""
    from evlog.engines.dynamodb.history import discard_staged

    check_mirror(core.address.text, core.state().standing, source_id)
    discard_staged(core)  # of a mirror that was killed or suspended: it counts what was there before
    erase(core)
    for at in range(0, len(removed), _STEP_OF_STREAMS):
        keys = [event_key(each.stream, each.version) for each in removed[at : at + _STEP_OF_STREAMS]]

        def plan(moment: Moment, keys: list[tuple[str, str]] = keys) -> Change:
            check_mirror(core.address.text, moment.state.standing, source_id)
            redacted = core.redacted(moment.state)
            found = core.client.get_many(keys)
            events = [Event(redacted.record(decode_event(found[key]))) for key in keys if key in found]
            return _removal(moment, events)

        _remove(core, plan, by_mirror=True)


def erase(core: Core) -> None:
    """Erase the content of all redacted events from the table; durable when this returns."""
    state = core.state()
    if state.erased == state.redactions:
        return
    for redaction in core.redactions(state)[state.erased :]:
        for position, id, _ in redaction.events:
            _erase_event(core, position, id)

    def plan(moment: Moment) -> Change:
        return Change(moment.state._replace(erased=max(moment.state.erased, state.redactions)), {}, [])

    core.change(plan, by_mirror=True)


def _erase_event(core: Core, position: int, id: bytes) -> None:
    """Erase an event, its tags and the digest of its id, in one transaction of this store's table."""

    def plan(moment: Moment) -> Change:
        known = core.client.get(id_key(id))
        place = None if known is None else decode_id(known)
        if known is None or place is None or place.position != position:
            return moment.unchanged()
        item = core.client.get(event_key(place.stream, place.version))
        event = None if item is None else decode_event(item)
        puts, keys = [], list[tuple[str, str]]()
        if item is not None and event is not None and not event.redacted:
            left = Event(core.redacted(moment.state).record(event))
            puts.append(encode_event(left, number_in(item, "frame")))
            tags = tag_items(position, event.stream, event.version, encode_tags(event))
            keys += [(each["PK"]["S"], each["SK"]["S"]) for each in tags]
        if place.digest:
            puts.append(known | {"digest": {"B": b""}})
        actions = [{"Put": {"Item": item}} for item in puts]
        actions += [{"Delete": {"Key": key_of(key)}} for key in keys]
        return Change(moment.state, {}, actions or None)

    core.change(plan, by_mirror=True)
