"""Reading a store in NATS: its rules and redactions as of now, streams, the log, ids.

1. Redacted events are no longer messages of their streams. Their records without content are kept in memory
   and merged into each piece that is read. The list of redacted events is read after the piece, so an event
   whose message was erased meanwhile is not missed.
2. Removed events may be messages of their streams yet. Reads leave them out.
3. Where in the stream a read begins is found by `seeking.py`.
"""

from __future__ import annotations

import threading
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from evlog.engines.messages import ID, POSITION, TIME, VERSION
from evlog.engines.nats.jetstream import BATCH, JetStream, Stored
from evlog.engines.nats.layout import (
    Control,
    Subjects,
    decode_control,
    decode_event,
    decode_id,
    decode_last,
    decode_redacted,
    decode_removed,
    is_event,
    of_token,
    sequence_in,
)
from evlog.engines.nats.seeking import NEAR, Seeker
from evlog.engines.reading import matching_content
from evlog.model.events import Event, id_text, now_ns
from evlog.model.filters import StreamSelection
from evlog.model.redaction import Redacted, maybe_decode_redaction
from evlog.model.reports import StreamInfo, retention_of
from evlog.model.retention import KEEP_ALL, Rules, first_visible_version, visible_since_us
from evlog.process.forks import register_fork_reset

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from evlog.model.filters import EventFilter, LogSelection
    from evlog.model.history import RemovedRecord

_FIRST_WINDOW: Final = 512
_WINDOW_PER_EVENT: Final = 8  # where only some events are asked for: a checkpoint asks for one
_FIELDS: Final = {POSITION: 0, VERSION: 1}  # of a record
_END: Final = 1 << 62
_LISTED: Final = 400  # streams whose last messages are looked up at once: each has one or two
Framed = tuple[int, Event]
"""An event, after the position of the first one of its append."""
Begun = tuple["Stored | None", "State"]
"""What a read begins with: the last message that it may return, and the state."""


class Stubbed(NamedTuple):
    """The redacted events of a stream: how many, and the last version and time."""

    events: int = 0
    version: int = 0
    time_us: int = 0


_NO_STUBS: Final = Stubbed()


class State:
    """The control messages and the store's own events, folded up to a sequence. Replaced whole."""

    def __init__(self) -> None:
        self.sequence = 0  # of the last message of `c` that was read
        self.control = Control()
        self.rules = Rules()
        self.redacted = Redacted(())
        self.stubs: list[Framed] = []  # redacted events without their content, by position
        self.stubbed: dict[str, Stubbed] = {}  # the same by stream


class Reader:
    """Reads of one engine. Any thread may use it."""

    def __init__(self, jetstream: JetStream, subjects: Subjects) -> None:
        self._jetstream = jetstream
        self._subjects = subjects
        self.seeker = Seeker(jetstream, subjects)
        self._mutex = threading.Lock()  # guards what is below
        self._state = State()
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        self._mutex = threading.Lock()

    # --- the state

    def state(self) -> State:
        """Return the state as it is now."""
        return self.state_at(self._jetstream.last_control())

    def state_at(self, control: Stored) -> State:
        """Return the state as of the message of `c` that is the last one."""
        state = self._state
        if state.sequence >= control.sequence:
            return state
        new = State()
        new.sequence, new.control = control.sequence, decode_control(control)
        new.rules.update(state.rules)
        new.rules.redactions = list(state.rules.redactions)
        first, last = state.sequence + 1, control.sequence
        for stored in self._jetstream.scan(self._subjects.own_events, first, last):
            new.rules.add(decode_event(stored)[1])
        stubs: dict[int, Framed | None] = {framed[1].position: framed for framed in state.stubs}
        for stored in self._jetstream.scan(self._subjects.redacted, first, last):
            position, kept = decode_redacted(stored)
            stubs[position] = kept
        new.redacted = Redacted(filter(None, map(maybe_decode_redaction, new.rules.redactions)))
        new.stubs = [kept for _, kept in sorted(stubs.items()) if kept is not None]
        for _, event in new.stubs:
            events, version, time_us = new.stubbed.get(event.stream, _NO_STUBS)
            new.stubbed[event.stream] = Stubbed(
                events + 1, max(version, event.version), max(time_us, event.time_us)
            )
        with self._mutex:
            if new.sequence > self._state.sequence:
                self._state = new
            return self._state

    # --- events

    @matching_content
    def read_all(self, selection: LogSelection) -> Iterator[Event]:
        after, to, filter, limit, reverse = selection
        subject = self._filter_subject(filter)
        begun = self._begin(subject)
        found = self._framed(begun, subject, POSITION, after, to, filter.since_us, limit, reverse=reverse)
        if filter.until_us is not None and not reverse:
            found = _before(found, filter.until_us)
        events = (event for _, event in found if filter.selects(event))
        return islice(events, limit)

    @matching_content
    def read_stream(self, selection: StreamSelection) -> Iterator[Event]:
        stream, first, last, filter, limit, reverse = selection
        subject = self._subjects.stream(stream)
        begun = self._begin(subject)
        rule = begun[1].rules.rule_for(stream)
        since_us = None
        if rule is not None and rule != KEEP_ALL:
            first = max(first, first_visible_version(rule, self.versions([stream])[0]))
            since_us = visible_since_us(rule, now_ns() // 1000)
        found = self._framed(
            begun, subject, VERSION, first - 1, last, filter.since_us, limit, reverse=reverse
        )
        events = (
            event
            for _, event in found
            if (since_us is None or event.time_us >= since_us) and filter.selects(event)
        )
        return islice(events, limit)

    def read_whole(self, stream: str) -> Iterator[Event]:
        """Iterate over all events of a stream, visible or not."""
        subject = self._subjects.stream(stream)
        found = self._framed(self._begin(subject), subject, VERSION, 0, None, None, None, reverse=False)
        return (event for _, event in found)

    def read_frames(self, after: int, to: int) -> Iterator[Framed]:
        """Iterate over all events between two positions, each with the first position of its append."""
        subject = self._subjects.events
        found = self._framed(self._begin(subject), subject, POSITION, after, to, None, None, reverse=False)
        return ((max(frame, after + 1), event) for frame, event in found)

    def _filter_subject(self, filter: EventFilter) -> str:
        if filter.stream is not None:
            return self._subjects.stream(filter.stream)
        if filter.category is not None:
            return self._subjects.category(filter.category)
        return self._subjects.events if filter.include_system else self._subjects.user_events

    def _begin(self, subject: str) -> Begun:
        """Return the last message of a filter, and the state, as they are now."""
        last, control = self._jetstream.last_and_control(subject)
        return last, self.state_at(control)

    def _framed(
        self,
        begun: Begun,
        subject: str,
        by: str,
        after: int,
        to: int | None,
        since_us: int | None,
        limit: int | None,
        *,
        reverse: bool,
    ) -> Iterator[Framed]:
        """Iterate over the events of a filter whose position or version is between two others."""
        if to is not None and to <= after:
            return iter(())
        last, state = begun
        if reverse:
            return self._backwards(state, subject, by, after, to, last, limit)
        return self._forwards(state, subject, by, after, to, since_us, last)

    def _forwards(
        self,
        state: State,
        subject: str,
        by: str,
        after: int,
        to: int | None,
        since_us: int | None,
        last: Stored | None,
    ) -> Iterator[Framed]:
        at, end = _FIELDS[by], _END if to is None else to
        if last is not None:
            first = self.seeker.seek(subject, by, after, last)
            if since_us is not None:
                first = max(first, self.seeker.seek(subject, TIME, since_us - 1, last))
            for found in self._jetstream.chunks(subject, first, last.sequence):
                framed = [decode_event(stored) for stored in found]
                reached = framed[-1][1][at]
                if reached <= after:
                    continue
                if found[-1].sequence >= last.sequence or reached >= end:
                    break
                yield from self._merged(state, subject, at, after, reached, framed)
                self.seeker.remember(found[-1])
                after = reached
            else:
                found, framed = [], []
                state = self.state()  # the last message was erased meanwhile
        else:
            found, framed = [], []
        yield from self._merged(state, subject, at, after, end, framed)
        if found and framed[-1][1][at] <= end:
            self.seeker.remember(found[-1])

    def _backwards(
        self,
        state: State,
        subject: str,
        by: str,
        after: int,
        to: int | None,
        last: Stored | None,
        limit: int | None,
    ) -> Iterator[Framed]:
        """Read windows of sequences, each twice as long as the one before."""
        at, top = _FIELDS[by], _END if to is None else to
        end = 0 if last is None else last.sequence  # what is after it was read, or is not asked for
        window = _FIRST_WINDOW if limit is None else min(_FIRST_WINDOW, _WINDOW_PER_EVENT * limit)
        if to is not None and last is not None and last.number(by) > to + min(NEAR, window):
            end = self.seeker.seek_end(subject, by, to, last)
        first = self._jetstream.first_sequence
        while end >= first:
            begin = max(first, end - window + 1)
            framed = [decode_event(stored) for stored in self._jetstream.scan(subject, begin, end)]
            if framed:
                low = max(after, framed[0][1][at] - 1)
                if top == (_END if to is None else to) and last is not None:
                    state = self.state()
                yield from reversed(self._merged(state, subject, at, low, top, framed))
                top = min(top, low)
                if low <= after:
                    return
            end, window = begin - 1, min(2 * window, 1 << 16)
        if last is not None:
            state = self.state()  # what was there first may be erased
        yield from reversed(self._merged(state, subject, at, after, top, []))

    def _merged(
        self, state: State, subject: str, at: int, after: int, to: int, found: list[Framed]
    ) -> list[Framed]:
        """Return those of a piece of what was read that are between two numbers, with redacted events.

        Args:
            state: as of the read's begin. Where numbers are missing, it is looked at again.
        """
        framed = _without_removed(state, (each for each in found if after < each[1][at] <= to))
        if framed and framed[-1][1][at] - after != len(framed):
            state = self.state()
        if not state.stubs and not state.rules.redactions:
            return framed
        stubs = [
            stub
            for stub in state.stubs
            if after < stub[1][at] <= to
            and stub[1].position in state.redacted
            and _subject_matches(subject, self._subjects.stream(stub[1].stream))
        ]
        places = {stub[1].position for stub in stubs}
        rest = [each for each in framed if each[1].position not in places]
        merged = sorted(stubs + rest, key=lambda each: each[1].position)
        return [(frame, Event(state.redacted.record(event))) for frame, event in merged]

    # --- look-ups

    def tail(self, timeout_seconds: float | None = None) -> Stored:
        """Return the last message of the store; the time-out is that of `Connections.retry`."""
        return self._jetstream.needed(self._jetstream.last_and_control(">", timeout_seconds)[0])

    def known(
        self, ids: Sequence[bytes], found: Mapping[str, Stored], tail_sequence: int
    ) -> dict[bytes, Event | RemovedRecord]:
        """Return the events with these ids.

        Args:
            found: the last messages of the ids' subjects.
            tail_sequence: as of which sequence.
        """
        stubs = {framed[1].id_bytes: framed[1] for framed in self._state.stubs}
        known: dict[bytes, Event | RemovedRecord] = {}
        for id in ids:
            removed = found.get(self._subjects.removed_id(id))
            index = found.get(self._subjects.id(id))
            event = None if index is None else self._event_at(id, decode_id(index), 1)
            if event is None:
                event = stubs.get(id)
            if event is None and (made := sequence_in(id)) and made <= tail_sequence:
                event = self._event_at(id, made, BATCH)
            if event is not None:
                known[id] = Event(self._state.redacted.record(event))
            elif removed is not None:
                known[id] = decode_removed(removed)
        return known

    def _event_at(self, id: bytes, sequence: int, within: int) -> Event | None:
        """Return the event with an id, if it is at a sequence, or in the same append shortly after it."""
        text = id_text(id).encode()
        stored = self._jetstream.get(sequence)
        if stored is None or not is_event(self._subjects, stored):
            return None
        if stored.headers.get(ID) == text:
            return decode_event(stored)[1]
        if within > 1:
            frame = decode_event(stored)[0]
            for each in self._jetstream.scan(self._subjects.events, sequence, sequence + within):
                other, event = decode_event(each)
                if other != frame:
                    break
                if event.id_bytes == id:
                    return event
        return None

    def find_ids(self, ids: Sequence[bytes]) -> dict[bytes, int]:
        self.state()
        subjects = [name for id in ids for name in (self._subjects.id(id), self._subjects.removed_id(id))]
        found = self._jetstream.last_of_each(subjects)
        known = self.known(ids, found, self.tail().sequence)
        return {id: known[id][0] for id in ids if id in known}

    def versions(self, streams: Sequence[str]) -> list[int]:
        subjects = [name for stream in streams for name in self.version_subjects(stream)]
        found = self._jetstream.last_of_each(subjects)
        return [self.version_in(found, stream) for stream in streams]

    def version_subjects(self, stream: str) -> tuple[str, str]:
        """Return the subjects whose last messages have the last version of a stream."""
        return self._subjects.stream(stream), self._subjects.last(stream)

    def version_in(self, found: Mapping[str, Stored], stream: str) -> int:
        """Return the last version of a stream, by the last messages of its subjects."""
        event, kept = (found.get(subject) for subject in self.version_subjects(stream))
        version = 0 if event is None else event.number(VERSION)
        stubbed = self._state.stubbed.get(stream, _NO_STUBS)
        return max(version, 0 if kept is None else decode_last(kept)[0], stubbed.version)

    def removed(self, after: int = 0, to: int | None = None) -> list[RemovedRecord]:
        """Return the removed events between two positions, by position."""
        last, _ = self._jetstream.last_and_control(self._subjects.removed)
        if last is None:
            return []
        found = {}
        for stored in self._jetstream.scan(self._subjects.removed, 1, last.sequence):
            record = decode_removed(stored)
            if record.position > after and (to is None or record.position <= to):
                found[record.position] = record
        return [found[position] for position in sorted(found)]

    # --- streams

    def counts(self, filter: str) -> dict[str, int]:
        """Return how many messages each subject of a filter has, as the leader has it."""
        found: dict[str, int] = {}
        for _, page in self._count_pages(filter):
            found |= page
        return found

    def _count_pages(self, filter: str) -> Iterator[tuple[int, dict[str, int]]]:
        """Iterate over pages of `counts`, each with the sequence up to which it counts at least."""
        offset = 0
        while True:
            answer = self._jetstream.call("STREAM.INFO", {"subjects_filter": filter, "offset": offset})
            page: dict[str, int] = answer["state"].get("subjects") or {}
            offset += len(page)
            yield int(answer["state"]["last_seq"]), page
            if not page or offset >= answer.get("total", 0):
                return

    def count_unpurged(self, state: State) -> int:
        """Return how many messages are events of users that are removed and not purged yet."""
        count = 0
        for stream, version in state.control.purging:
            if not stream.startswith("$"):
                subject = self._subjects.stream(stream)
                last = self.seeker.sequence_up_to(subject, version)
                count += sum(1 for _ in self._jetstream.scan(subject, 1, last))
        return count

    def streams(
        self, category: str | None, prefix: str | None, *, include_deleted: bool, include_system: bool
    ) -> Iterator[StreamInfo]:
        state, now_us = self.state(), now_ns() // 1000
        end, counts = self._stream_counts(state, include_system=include_system)
        lasts = {_stream_in(subject) for subject in self.counts(self._subjects.lasts)}
        names = [
            name
            for name in sorted(counts.keys() | lasts, key=lambda name: name.encode())
            if name.startswith(prefix or "")
            and (include_system or not name.startswith("$"))
            and category in (None, name.partition("-")[0])
        ]
        for at in range(0, len(names), _LISTED):
            part = names[at : at + _LISTED]
            subjects = [self._subjects.stream(name) for name in part]
            subjects += [self._subjects.last(name) for name in part if name in lasts]
            found = self._jetstream.last_of_each(subjects)
            for name in part:
                last = found.get(self._subjects.stream(name))
                if (last is None and name not in lasts) or (last is not None and last.sequence > end):
                    info = self._info(state, name, *self._look_again(state, name), now_us)
                else:
                    info = self._info(state, name, found, counts.get(name, 0), now_us)
                if include_deleted or info.retention is None or not info.retention.deleted:
                    yield info

    def _stream_counts(self, state: State, *, include_system: bool) -> tuple[int, dict[str, int]]:
        """Return how many events each stream has, and the sequence up to which at least they are counted."""
        end, counts = _END, dict[str, int]()
        for up_to, page in self._count_pages(
            self._subjects.events if include_system else self._subjects.user_events
        ):
            end = min(end, up_to)
            counts.update((_stream_in(subject), count) for subject, count in page.items())
        for name, stubbed in state.stubbed.items():
            counts[name] = counts.get(name, 0) + stubbed.events
        return end, counts

    def _look_again(self, state: State, name: str) -> tuple[dict[str, Stored], int]:
        """Return the last messages of a stream that has changed meanwhile, and how many events it has."""
        subject = self._subjects.stream(name)
        while True:
            ((end, counts),) = self._count_pages(subject)
            found = self._jetstream.last_of_each(self.version_subjects(name))
            last = found.get(subject)
            if last is None or last.sequence <= end:
                return found, counts.get(subject, 0) + state.stubbed.get(name, _NO_STUBS).events

    def _info(
        self, state: State, name: str, found: Mapping[str, Stored], count: int, now_us: int
    ) -> StreamInfo:
        """Return a stream with this number of events and these last messages."""
        rule = state.rules.rule_for(name)
        version = self.version_in(found, name)
        last, kept = (found.get(subject) for subject in self.version_subjects(name))
        time_us = max(
            0 if last is None else last.number(TIME),
            0 if kept is None else decode_last(kept)[1],
            state.stubbed.get(name, _NO_STUBS).time_us,
        )
        there_from = max(version - count, dict(state.control.purging).get(name, 0)) + 1
        first = max(there_from, first_visible_version(rule, version))
        since_us = visible_since_us(rule, now_us)
        if since_us is not None and first <= version:
            visible = self.read_stream(StreamSelection(name, first, limit=1))
            first = next((each.version for each in visible), version + 1)
        retention = None if rule is None or rule == KEEP_ALL else retention_of(rule, version)
        return StreamInfo(name, version - first + 1, first, version, time_us, retention)


def _stream_in(subject: str) -> str:
    return of_token(subject.rpartition(".")[2])


def _without_removed(state: State, found: Iterable[Framed]) -> list[Framed]:
    if not state.control.purging:
        return list(found)
    removed = dict(state.control.purging)
    return [framed for framed in found if framed[1].version > removed.get(framed[1].stream, 0)]


def _before(found: Iterator[Framed], until_us: int) -> Iterator[Framed]:
    for framed in found:
        if framed[1].time_us >= until_us:
            return
        yield framed


def _subject_matches(filter: str, subject: str) -> bool:
    if filter.endswith(".>"):
        return subject.startswith(filter[:-1])
    if filter.endswith(".*"):
        return subject.rpartition(".")[0] == filter[:-2]
    return subject == filter
