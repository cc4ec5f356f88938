"""Mirrors: what the store is to others, and appending pieces of another store's history.

A piece may be longer than a transaction. Its items are put beyond the end of the log, where no reader looks,
and one transaction then moves the end. A mirror takes no other appends meanwhile.

1. First the log's item says which run writes a piece. The keys of the piece's items are noted before they are
   put. If the process is killed, the next piece, or the change that ends the mirror, deletes these items.
2. The head of a stream keeps what it was until the end of the log has reached the piece's.
3. Another mirror may go on while this one is suspended: its lease has ended. So every transaction has the
   condition that this run still writes the piece, and a run that deletes what another one has left writes its
   own name first. A BatchWriteItem would be cheaper, but has no conditions: a process that wakes would write
   over later events.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from evlog.engines.dynamodb.appends import add_events, event_items
from evlog.engines.dynamodb.client import Refused, key_of
from evlog.engines.dynamodb.core import MAX_ACTIONS, Change, read_heads
from evlog.engines.dynamodb.items import (
    HEADS,
    LOG_KEY,
    STAGED,
    Head,
    decode_head,
    decode_note,
    encode_head,
    encode_id,
    encode_lost,
    encode_note,
    encode_removed,
    number_in,
    number_of_key,
    tag_items,
)
from evlog.errors import MirrorConflict
from evlog.model.events import SYSTEM_PREFIX
from evlog.model.history import Standing, check_continues, check_mirror

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from evlog.engines.dynamodb.client import Item
    from evlog.engines.dynamodb.core import Core, Moment
    from evlog.engines.dynamodb.items import LogState
    from evlog.model.history import HistoryPiece

_NOTED: Final = 500  # keys in one item
_MAX_BYTES: Final = 3_500_000  # of a transaction; the service takes 4 MiB
_ITEM_OVERHEAD: Final = 300  # names and numbers
_PAUSE_SECONDS: Final = 0.05


def change_standing(core: Core, before: Standing, after: Standing, head: int | None) -> bool:
    """Replace the standing, durably, if it is `before` and the log ends at `head`; else return False."""
    discard_staged(core)

    def plan(moment: Moment) -> Change:
        state = moment.state
        if moment.is_unsure and state.standing == after:
            return moment.unchanged(True)
        if state.standing != before or head not in (None, state.position) or state.staged:
            return moment.unchanged(False)
        return Change(state._replace(mirror_of=after.mirror_of, moved_to=after.moved_to), {}, [], True)

    is_changed: bool = core.change(plan, by_mirror=True)
    return is_changed


def append_history(core: Core, piece: HistoryPiece) -> None:
    """Append a piece of the source's history: all of it, or nothing; durable when this returns.

    Raises:
        MirrorConflict: the store is not a mirror of the source, or does not end where the piece begins.
    """
    _check(core, core.state(), piece)
    discard_staged(core)
    before = core.state()
    _check(core, before, piece)
    run = uuid4().hex
    names = {event.stream for event in piece.events} | {removed.stream for removed in piece.removed}
    old = read_heads(core.client, list(names), before.position)
    state, heads = _add(before, old, piece)
    items = event_items(piece.events, piece.frames)
    for removed in piece.removed:
        items += [encode_removed(removed), encode_id(removed)]
        items += tag_items(removed.position, removed.stream, removed.version, removed.tags)
    items += [encode_lost(first, last) for first, last in _lost(piece)]
    items += [encode_head(stream, head, old[stream], piece.end) for stream, head in heads.items()]
    noted = [(item["PK"]["S"], item["SK"]["S"]) for item in items]
    notes = [encode_note(f"{STAGED}{run}#{at:06d}", keys) for at, keys in enumerate(_pages(noted))]

    def begin(moment: Moment) -> Change:
        if moment.state.run == run:
            return moment.unchanged()  # an earlier try has done it
        _check(core, moment.state, piece)
        if moment.state.staged:
            raise _other_writes(core, moment.state)
        return Change(moment.state._replace(staged=piece.end, run=run), {}, [])

    def end(moment: Moment) -> Change:
        if moment.is_unsure and moment.state.position == piece.end:
            return moment.unchanged()
        if moment.state.run != run:
            raise _other_writes(core, moment.state)
        return Change(state, {}, [])

    core.change(begin, by_mirror=True)
    _write(core, run, [{"Put": {"Item": item}} for item in (*notes, *items)])
    core.change(end, by_mirror=True)
    core.client.write_many((), [(LOG_KEY[0], note["SK"]["S"]) for note in notes])


def _write(core: Core, run: str, actions: Sequence[dict[str, Any]]) -> None:
    """Do actions in order, as many at once as a transaction takes. Raises MirrorConflict."""
    is_ours = {
        "Key": key_of(LOG_KEY),
        "ConditionExpression": "#run = :run",
        "ExpressionAttributeNames": {"#run": "run"},
        "ExpressionAttributeValues": {":run": {"S": run}},
    }
    at = 0
    while at < len(actions):
        end, size = at, 0
        while end < min(len(actions), at + MAX_ACTIONS - 1):
            size += _size_of(actions[end])
            if size > _MAX_BYTES and end > at:
                break
            end += 1
        try:
            core.client.transact([{"ConditionCheck": is_ours}, *actions[at:end]])
        except Refused:  # also where the service was busy with one of the items
            if (state := core.state()).run != run:
                raise _other_writes(core, state) from None
            time.sleep(random.uniform(0.5, 1.5) * _PAUSE_SECONDS)  # noqa: S311 - no secret
        else:
            at = end


def _size_of(action: dict[str, Any]) -> int:
    item = action["Put"]["Item"] if "Put" in action else {}
    texts = (value.get("S", value.get("B", "")) for value in item.values())
    return _ITEM_OVERHEAD + sum(len(text.encode() if isinstance(text, str) else text) for text in texts)


def _other_writes(core: Core, state: LogState) -> MirrorConflict:
    reason, advice = "another mirror has begun to write", "start the mirror again"
    return MirrorConflict(f"store {state.mirror_of}", core.address.text, reason, advice)


def _pages(keys: list[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    return (keys[at : at + _NOTED] for at in range(0, len(keys), _NOTED))


def _check(core: Core, state: LogState, piece: HistoryPiece) -> None:
    check_mirror(core.address.text, state.standing, piece.source_id)
    check_continues(core.address.text, state.position, piece.after, piece.source_id)


def _add(before: LogState, old: Mapping[str, Head], piece: HistoryPiece) -> tuple[LogState, dict[str, Head]]:
    """Return the log's state and its streams once a piece is added."""
    state, heads = add_events(before, old, piece.events)
    streams = 0
    for removed in piece.removed:
        head = heads[removed.stream]
        streams += not head.version and not removed.stream.startswith(SYSTEM_PREFIX)
        is_later = removed.version > head.version
        heads[removed.stream] = head._replace(
            version=max(head.version, removed.version),
            time_us=max(head.time_us, removed.time_us) if is_later else head.time_us,
        )
    return state._replace(
        position=piece.end,
        time_us=max(before.time_us, state.time_us, *(removed.time_us for removed in piece.removed)),
        streams=state.streams + streams,
        removed=state.removed + len(piece.removed),
        lost=state.lost + piece.lost,
        staged=0,
        run="",
    ), heads


def _lost(piece: HistoryPiece) -> Iterator[tuple[int, int]]:
    """Iterate over the ranges of positions that the source has lost."""
    there = sorted([event.position for event in piece.events] + [each.position for each in piece.removed])
    before = piece.after
    for position in (*there, piece.end + 1):
        if position > before + 1:
            yield before + 1, position - 1
        before = position


def discard_staged(core: Core) -> None:
    """Delete what a piece has left that was not committed, if there is any. Raises MirrorConflict."""
    state = core.state()
    if not state.staged:
        return
    run = uuid4().hex

    def begin(moment: Moment) -> Change:
        return Change(moment.state._replace(run=run), {}, [] if moment.state.staged else None)

    def end(moment: Moment) -> Change:
        if not moment.state.staged:
            return moment.unchanged()  # an earlier try has done it
        if moment.state.run != run:
            raise _other_writes(core, moment.state)
        return Change(moment.state._replace(staged=0, run=""), {}, [])

    core.change(begin, by_mirror=True)
    client, state = core.client, core.state()
    if state.run != run:  # the piece was committed meanwhile, or another process deletes it
        return
    position = state.position
    for note in client.query(LOG_KEY[0], STAGED, STAGED + "\U0010ffff"):
        keys = decode_note(note)
        actions = []
        for key, item in client.get_many(keys).items():
            delete = {"Delete": {"Key": key_of(key)}}
            if key[0] != HEADS:
                actions += [delete] if _position_of(item) > position else []
            elif "at" in item and number_in(item, "at") > position:
                head = decode_head(item, position)
                actions.append({"Put": {"Item": encode_head(key[1], head)}} if head.version else delete)
        actions.append({"Delete": {"Key": key_of((note["PK"]["S"], note["SK"]["S"]))}})
        _write(core, run, actions)
    core.change(end, by_mirror=True)


def _position_of(item: Item) -> int:
    """Return the position that an item belongs to; of lost positions the first."""
    for name in ("position", "at", "first"):
        if name in item:
            return number_in(item, name)
    return number_of_key(item)
