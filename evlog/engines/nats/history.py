"""Mirrors: the standing of a store, and a piece of another store's history as messages.

A piece is stored in batches that end where an append of the source ended, or inside one of more than a
thousand events. After each batch the store is a mirror up to some position. A mirror that is started
again continues there.
"""

from __future__ import annotations

import time
from itertools import groupby
from typing import TYPE_CHECKING, Final

from evlog.engines.deciding import removed_record
from evlog.engines.messages import POSITION, TIME
from evlog.engines.nats.appends import MAX_METADATA_BYTES
from evlog.engines.nats.jetstream import BATCH, Outgoing, Stored, WrongSequence
from evlog.engines.nats.layout import (
    decode_event,
    encode_control,
    encode_event,
    encode_id,
    encode_last,
    encode_redacted,
    encode_removed,
    metadata_bytes,
    place_headers,
    sequence_in,
    tail_place,
)
from evlog.engines.nats.session import Lost, NoResponder
from evlog.engines.waiting import Pause
from evlog.errors import EventTooLarge, InvalidEvent, MirrorLimit
from evlog.model.events import Event
from evlog.model.history import HistoryPiece, RemovedRecord, Standing, check_continues, check_mirror
from evlog.model.redaction import maybe_decode_redaction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evlog.engines.nats.core import Core
    from evlog.engines.nats.layout import Control
    from evlog.engines.nats.reading import State

_MOST_EVENTS: Final = 450  # in one batch, but for a larger append: each may have an entry in the index of ids


def change_standing(core: Core, before: Standing, after: Standing, head: int | None) -> bool:
    """Replace the standing if it is `before` and the log ends at `head`; else return False."""

    def make(tail: Stored, state: State, was_sent: bool) -> list[Outgoing] | None:
        if was_sent and state.control.standing == after:
            return []
        if state.control.standing != before or head not in (None, tail.number(POSITION)):
            return None
        return [encode_control(core.subjects, state.control._replace(standing=after), *place_of(tail))]

    return write(core, make)


def write(core: Core, make: Callable[[Stored, State, bool], list[Outgoing] | None]) -> bool:
    """Store messages made from the stream's end and the state there; again if another writer was faster.

    Args:
        make: returns messages; None: nothing is to be stored, and the answer is False. It is told whether
            what it returned before may be stored, though no answer came. What does not fit into one batch
            is stored before, in batches of its own: the last `BATCH` messages are stored together.
    """
    pause = Pause(time.monotonic() + core.connections.address.timeout_seconds)
    was_sent = False
    while True:
        tail, control, _ = core.jetstream.look_at_end([])
        messages = make(tail, core.reader.state_at(control), was_sent)
        if messages is None:
            return False
        try:
            early = max(0, len(messages) - BATCH)
            sequence = core.appender.publish_all(messages[:early], tail.sequence)
            core.appender.publish_all(messages[early:], sequence)
        except WrongSequence:
            continue
        except (Lost, NoResponder) as error:
            was_sent = was_sent or isinstance(error, Lost)
            if not pause.take():
                raise core.connections.unreachable(error) from None
        else:
            core.appender.forget()
            return True


# --- a piece of history


Row = tuple[int, int, Event | RemovedRecord]
"""A position, the first position of its append, and what is there."""


class Part:
    """A part of a piece that is stored together: its events and removed events, and where it ends."""

    def __init__(self, after: int) -> None:
        self.after = self.end = after
        self.events: list[tuple[Event, int]] = []  # each with its frame
        self.removed: list[RemovedRecord] = []

    def __len__(self) -> int:
        return len(self.events) + len(self.removed)

    def add(self, frame: int, rows: Sequence[Row]) -> None:
        """Add what follows: all of one append, or of a larger one a part."""
        for position, _, item in rows:
            self.end = position
            if isinstance(item, RemovedRecord):
                self.removed.append(item)
            else:
                self.events.append((item, frame))


def append_history(core: Core, piece: HistoryPiece) -> None:
    """Append a piece of the source's history; stored by a majority when this returns.

    Raises:
        MirrorConflict: the store is not a mirror of the source, or does not end where the piece begins.
        MirrorLimit: an event is too large. Nothing was written.
    """
    for event in piece.events:
        try:
            core.appender.check_size(event[7], event[8])
        except (EventTooLarge, InvalidEvent) as error:
            what = f"an event with {metadata_bytes(event[8])} bytes of metadata"
            limit = f"{MAX_METADATA_BYTES} bytes, or {core.appender.max_event_bytes} with its data"
            raise MirrorLimit(event[0], what, limit) from error
    for part in _parts(piece):
        _append_part(core, piece.source_id, part)
    finish_redactions(core)


def _parts(piece: HistoryPiece) -> list[Part]:
    """Return a piece in parts that are small enough. One ends inside an append only if that is too large."""
    rows: list[Row] = [
        (event.position, frame, event) for event, frame in zip(piece.events, piece.frames, strict=True)
    ]
    rows += [(each.position, each.position, each) for each in piece.removed]
    rows.sort(key=lambda row: row[0])
    parts = [Part(piece.after)]
    for frame, items in groupby(rows, key=lambda row: row[1]):
        together = list(items)
        step = len(together) if len(together) <= BATCH else _MOST_EVENTS
        for at in range(0, len(together), step):
            some = together[at : at + step]
            if parts[-1] and len(parts[-1]) + len(some) > _MOST_EVENTS:
                parts.append(Part(parts[-1].end))
            parts[-1].add(frame, some)
    if parts[-1].end < piece.end and len(parts[-1]) > _MOST_EVENTS:
        parts.append(Part(parts[-1].end))
    parts[-1].end = piece.end
    return parts


def _append_part(core: Core, source_id: str, part: Part) -> None:
    def make(tail: Stored, state: State, was_sent: bool) -> list[Outgoing]:
        check_mirror(core.address.text, state.control.standing, source_id)
        position = tail.number(POSITION)
        if was_sent and position == part.end:
            return []
        check_continues(core.address.text, position, part.after, source_id)
        return _messages(core, tail, state.control, part)

    write(core, make)


def _messages(core: Core, tail: Stored, before: Control, part: Part) -> list[Outgoing]:
    """Return the messages of a part. The index of ids comes first if not all fit into one batch."""
    subjects, events = core.subjects, part.events
    is_early = len(events) > _MOST_EVENTS
    time_us = max(tail.number(TIME), events[-1][0].time_us if events else 0)
    place = place_headers(part.end, time_us)
    first = tail.sequence + 1 + (len(events) if is_early else 0)
    index = [
        encode_id(subjects, event.id_bytes, sequence, tail_place(tail) if is_early else place)
        for sequence, (event, _) in enumerate(events, first)
        if is_early or sequence_in(event.id_bytes) != sequence
    ]
    made = [encode_event(subjects, event, frame) for event, frame in events]
    made = index + made if is_early else made + index
    made += [encode_removed(subjects, each, place) for each in part.removed]
    lasts = {each.stream: each for each in part.removed}
    made += [encode_last(subjects, each.stream, each.version, each.time_us, place) for each in lasts.values()]
    lost = part.end - part.after - len(part)
    control = before._replace(removed=before.removed + len(part.removed), lost=before.lost + lost)
    if control != before or not made or any(event.stream.startswith("$") for event, _ in events):
        made.append(encode_control(subjects, control, part.end, time_us))
    return made


# --- removing and erasing


def remove_history(core: Core, source_id: str, removed: Sequence[RemovedRecord]) -> None:
    """Remove what the source's compactions have removed since it was copied.

    Raises:
        MirrorConflict: the store is not a mirror of the source.
    """
    check_mirror(core.address.text, core.reader.state().control.standing, source_id)
    finish_removals(core)
    wanted = {each.position: each for each in removed}
    if wanted:
        found = [
            (event, wanted[event.position])
            for _, event in core.reader.read_frames(min(wanted) - 1, max(wanted))
            if event.position in wanted
        ]
        by_stream: dict[str, list[tuple[Event, RemovedRecord]]] = {}
        for pair in found:
            by_stream.setdefault(pair[0].stream, []).append(pair)
        for stream, pairs in by_stream.items():
            remove_events(core, stream, [event for event, _ in pairs], [record for _, record in pairs])
        finish_removals(core)
    finish_redactions(core)


def remove_events(
    core: Core,
    stream: str,
    events: Sequence[Event],
    records: Sequence[RemovedRecord] | None = None,
    count_removable: Callable[[State, Sequence[Event]], int] | None = None,
) -> int:
    """Remove the first events of a stream; return how many. `finish_removals` is to be called later.

    A batch of messages says what is kept of some events, and that they are removed: no reader returns them
    from then on. The purge may come at any time after it.

    Args:
        records: what is kept; None: it is made here.
        count_removable: returns how many of some events may be removed, as the state is when they are; None:
            all of them.
    """
    last, last_version = events[-1], core.reader.versions([stream])[0]
    end = last if last.version == last_version else None
    removed = 0
    for at in range(0, len(events), _MOST_EVENTS):

        def make(tail: Stored, state: State, _: bool, at: int = at) -> list[Outgoing] | None:
            nonlocal removed
            some = [Event(state.redacted.record(event)) for event in events[at : at + _MOST_EVENTS]]
            if records is None:
                part = [removed_record(each, is_last=each.version == last_version) for each in some]
            else:
                part = list(records[at : at + _MOST_EVENTS])
            if count_removable is not None:
                part = part[: count_removable(state, some)]
            removed = at + len(part)
            return _removal(core, tail, state, part, end) if part else None

        if not write(core, make):
            break
    if removed:
        _purge(core, stream, events[removed - 1].version)
    return removed


def _removal(
    core: Core, tail: Stored, state: State, part: Sequence[RemovedRecord], end: Event | None
) -> list[Outgoing]:
    """Return the messages that remove some events of a stream.

    Args:
        part: what is kept of them.
        end: the last event of the stream; None: it stays.
    """
    subjects, stream, place = core.subjects, part[0].stream, tail_place(tail)
    # Another compaction, one that was killed or a lost answer may have stored some of it already.
    ids = [subjects.removed_id(each.id) for each in part]
    known = core.jetstream.last_of_each(ids)
    new = [each for each, id in zip(part, ids, strict=True) if id not in known]
    messages = [encode_removed(subjects, each, place) for each in new]
    stubs = {event.position for _, event in state.stubs}
    messages += [
        encode_redacted(subjects, each.position, None, place) for each in part if each.position in stubs
    ]
    if end is not None and part[-1].position == end.position:
        messages.append(encode_last(subjects, stream, end.version, end.time_us, place))
    purging = dict(_unpurged(core, state))
    purging[stream] = max(part[-1].version, purging.get(stream, 0))
    control = state.control._replace(removed=state.control.removed + len(new), purging=tuple(purging.items()))
    return [*messages, encode_control(subjects, control, *place_of(tail))]


def finish_removals(core: Core) -> int:
    """Purge what is removed, also by a process that was killed before it did; return how many messages."""
    state, count = core.reader.state(), 0
    if not state.control.purging:
        return 0
    for stream, version in _unpurged(core, state):
        count += _purge(core, stream, version)

    def make(tail: Stored, state: State, _: bool) -> list[Outgoing] | None:
        control = state.control._replace(purging=_unpurged(core, state))
        return None if control == state.control else [encode_control(core.subjects, control, *place_of(tail))]

    write(core, make)
    return count


def _unpurged(core: Core, state: State) -> tuple[tuple[str, int], ...]:
    """Return the streams that have to be purged yet, each up to a version, as far as is known here."""
    return tuple(each for each in state.control.purging if core.purged.get(each[0], 0) < each[1])


def _purge(core: Core, stream: str, version: int) -> int:
    """Remove the messages of a stream up to a version; return how many there were."""
    subject = core.subjects.stream(stream)
    sequence, count = core.reader.seeker.sequence_up_to(subject, version), 0
    if sequence:
        count = core.jetstream.purge(subject, sequence + 1)
    core.purged[stream] = max(version, core.purged.get(stream, 0))
    return count


def finish_redactions(core: Core) -> None:
    """Erase the messages of redacted events, after their records without content are stored."""
    state = core.reader.state()
    kept = {event.position for _, event in state.stubs}
    for redaction in filter(None, map(maybe_decode_redaction, state.rules.redactions)):
        if redaction.position in core.erased:
            continue
        for position in redaction.positions:
            stored = core.reader.seeker.message_at(position)
            core.jetstream.last_control()  # the message, and its sequence, are this store's
            if stored is None:
                continue
            frame, event = decode_event(stored)
            if event.redacted:
                continue  # a mirror's source had erased it before it was copied
            if position not in kept:
                _keep(core, position, frame, Event(state.redacted.record(event)))
            core.jetstream.erase(stored.sequence)
        core.erased.add(redaction.position)


def _keep(core: Core, position: int, frame: int, stub: Event) -> None:
    """Store the record of a redacted event without its content, unless the event is removed."""
    removed = core.subjects.removed_id(stub.id_bytes)

    def make(tail: Stored, state: State, _: bool) -> list[Outgoing] | None:
        if removed in core.jetstream.last_of_each([removed]):
            return None
        return [
            encode_redacted(core.subjects, position, (frame, stub), tail_place(tail)),
            encode_control(core.subjects, state.control, *place_of(tail)),
        ]

    write(core, make)


def place_of(tail: Stored) -> tuple[int, int]:
    """Return the position and the time of the last event."""
    return tail.number(POSITION), tail.number(TIME)
