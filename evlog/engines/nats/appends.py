"""Appends: read the end of the stream, decide, and store on the condition that the stream still ends there.

1. While no other writer appends, what a writer knows of the stream's end stays true, and an append is one
   request. After another writer's append the server refuses it; then the writer reads and decides again.
2. When an answer is lost, the append may be stored already, or later. The writer decides again with the same
   ids. Either it finds them, or the stream still ends where it did: then only one of the two batches can be
   stored.
3. With more messages than one batch takes, the index of ids is stored first. An entry whose event is
   never stored points to another event or to none, which a look-up notices.
"""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Final

from evlog.engines.deciding import Decision, PendingAppend, decide, removed_matches
from evlog.engines.messages import POSITION, TIME
from evlog.engines.nats.connections import Connections
from evlog.engines.nats.jetstream import BATCH, JetStream, Outgoing, Stored, WrongSequence
from evlog.engines.nats.layout import (
    Control,
    Subjects,
    encode_control,
    encode_event,
    encode_id,
    make_sequence_ids,
    metadata_bytes,
    place_headers,
    sequence_in,
    tail_place,
)
from evlog.engines.nats.session import Lost, NoResponder, NotConnected
from evlog.engines.waiting import Pause
from evlog.errors import (
    ENDS_RETRIES,
    EventTooLarge,
    EvlogError,
    InvalidEvent,
    LockTimeout,
    StoreUnreachable,
    TooManyEvents,
    unknown_after,
)
from evlog.model.events import METADATA_PREFIX
from evlog.model.filters import ANYTHING, LogSelection
from evlog.model.retention import REDACTIONS_STREAM, SCHEMAS_STREAM
from evlog.process.forks import register_fork_reset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evlog.engines.nats.reading import Reader, State
    from evlog.model.appends import BatchResult
    from evlog.model.events import Event
    from evlog.model.history import RemovedRecord, Standing
    from evlog.model.queries import IfNone, Item
    from evlog.model.retention import Rules

_HEADERS_BYTES: Final = 2048  # of an event's message, beside its metadata, at most
MAX_METADATA_BYTES: Final = 65_535 - _HEADERS_BYTES
"""The most bytes of an event's metadata: a server limits the headers of a message."""

_REMEMBERED: Final = 10_000
_QUERIES: Final = 256
_LOOKED_UP: Final = 300  # ids or streams in one look-up
# Whenever another writer takes its turn, the waiting ones lose tries. With eight writers on three servers,
# halving these pauses and the appends in a row halved the appends a second.
_FIRST_WAIT_SECONDS: Final = 0.002
_LAST_WAIT_SECONDS: Final = 0.064
_IN_A_ROW: Final = 16
_YIELD_SECONDS: Final = 0.008
_RECENT_SECONDS: Final = 1.0


class Moved(Exception):
    """The stream has grown since the view of it was read."""


class View:
    """The log as of the stream's end: `evlog.engines.deciding.LogView`. Raises Moved."""

    def __init__(
        self,
        appender: Appender,
        tail: Stored,
        state: State,
        versions: dict[str, int],
        found: Mapping[str, Stored | None],
    ) -> None:
        self.address = appender.connections.address.text
        self.head = tail.number(POSITION)
        self.time_us = tail.number(TIME)
        self.tail = tail
        self.state = state
        self.remembered = versions
        self._found = found  # the last messages of some subjects; None: there is none
        self._appender = appender

    @property
    def standing(self) -> Standing:
        """What the store is to others."""
        return self.state.control.standing

    @property
    def rules(self) -> Rules:
        """The policies in force."""
        return self.state.rules

    def known(self, ids: Sequence[bytes]) -> Mapping[bytes, Event | RemovedRecord]:
        """Return the events that have these ids, those removed too."""
        subjects = self._appender.subjects
        names = [name for id in ids for name in (subjects.id(id), subjects.removed_id(id))]
        found = self._look(names)
        if not found and not self.state.stubs and not any(map(sequence_in, ids)):
            return {}
        return self._appender.reader.known(ids, found, self.tail.sequence)

    def versions(self, streams: Sequence[str]) -> Mapping[str, int]:
        remembered, reader = self.remembered, self._appender.reader
        missing = [stream for stream in streams if stream not in remembered]
        if missing:
            found = self._look([name for stream in missing for name in reader.version_subjects(stream)])
            if len(remembered) > _REMEMBERED:
                remembered.clear()
                missing = list(streams) if len(missing) < len(streams) else missing
                found = self._look([name for each in missing for name in reader.version_subjects(each)])
            remembered.update((stream, reader.version_in(found, stream)) for stream in missing)
        return {stream: remembered[stream] for stream in streams}

    def first_match(self, condition: IfNone) -> int | None:
        """Return the position of the first event, also a removed one, that breaks a condition."""
        found = self._appender.scan_query(condition, self.head)
        if self.state.control.removed and any(tags for _, tags in condition.query.items):
            removed = self._appender.reader.removed(condition.after)
            places = [each.position for each in removed if removed_matches(condition, each)]
            found = min(filter(None, (found, *places)), default=None)
        return found

    def _look(self, subjects: Sequence[str]) -> dict[str, Stored]:
        """Return the last messages of subjects, as of the stream's end."""
        jetstream = self._appender.jetstream
        if all(subject in self._found for subject in subjects):
            return {name: there for name in subjects if (there := self._found[name]) is not None}
        found: dict[str, Stored] = {}
        for at in range(0, len(subjects), _LOOKED_UP):
            tail, some, up_to = jetstream.look(subjects[at : at + _LOOKED_UP])
            if tail.sequence != self.tail.sequence or up_to != tail.sequence:
                raise Moved
            found |= some
        return found


class Appender:
    """Appends of one engine, one at a time. Any thread may use it."""

    def __init__(
        self,
        connections: Connections,
        jetstream: JetStream,
        subjects: Subjects,
        reader: Reader,
        lock_timeout_seconds: float | None,
        max_payload: int,
    ) -> None:
        self.connections = connections
        self.jetstream = jetstream
        self.subjects = subjects
        self.reader = reader
        self.max_event_bytes = largest_event_bytes(max_payload)
        self._lock_timeout_seconds = lock_timeout_seconds
        self._mutex = threading.Lock()  # guards the four below, and is held during an append
        self._lost = float("-inf")  # when another writer's append last made one of this engine fail
        self._won = 0  # appends since then
        self._view: View | None = None  # as of the last append of this engine
        self._scanned: OrderedDict[tuple[Item, ...], tuple[int, int]] = OrderedDict()
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Read the stream's end again in a forked child."""
        self._mutex = threading.Lock()
        self._view = None

    def forget(self) -> None:
        """Read the stream's end again before the next append: the caller has stored something."""
        with self._mutex:
            self._view = None

    def append(self, pending: PendingAppend, control: Control | None = None) -> BatchResult:
        """Append all events, or none; stored by a majority of the replicas when this returns.

        Args:
            control: what the message of `c` is to say after it; None: as before.
        """
        for _, _, _, data, metadata in pending.events:
            self.check_size(data, metadata)
        if len(pending.events) > BATCH:
            raise TooManyEvents(len(pending.events), f"{BATCH} events")
        if not self._mutex.acquire(
            timeout=-1 if self._lock_timeout_seconds is None else self._lock_timeout_seconds
        ):
            raise LockTimeout(self.connections.address.text, self._lock_timeout_seconds or 0.0)
        try:
            return self._append_locked(pending, control)
        except BaseException:
            self._view = None
            raise
        finally:
            self._mutex.release()

    def check_size(self, data: bytes, metadata: bytes | None) -> None:
        """Raise EventTooLarge or InvalidEvent if an event does not fit into a message."""
        if 3 * len(metadata or b"") + len(data) <= min(MAX_METADATA_BYTES, self.max_event_bytes):
            return  # the common case: it fits even if every byte has to be escaped
        in_headers = metadata_bytes(metadata)
        if in_headers > MAX_METADATA_BYTES:
            reason = f"is {in_headers} bytes as a header; a NATS server takes at most {MAX_METADATA_BYTES}"
            raise InvalidEvent("metadata", reason)
        if len(data) + in_headers > self.max_event_bytes:
            raise EventTooLarge(len(data) + in_headers, self.max_event_bytes)

    def _append_locked(self, pending: PendingAppend, control: Control | None) -> BatchResult:
        begin = time.monotonic()
        pause: Pause | None = None
        is_unsure = False  # it was sent and not answered: it may have been made
        tries = 0
        try:
            while True:
                given = sum(event[1] is not None for event in pending.events)
                early = given if len(pending.events) + given + 1 > BATCH else 0
                try:
                    view, decision = self._decide_locked(pending, early)
                    if not decision.new:
                        self._view = view
                        return decision.result
                except Moved:
                    tries += 1
                    self._wait_for_others(begin, tries)
                    continue
                try:
                    self._store(view, decision, pending, control, early)
                except WrongSequence:
                    tries += 1
                    self._wait_for_others(begin, tries)
                except (Lost, NoResponder) as error:
                    if not isinstance(error, NoResponder | NotConnected):
                        is_unsure = True
                        pending.give_ids(decision.result.ids)
                    pause = pause or Pause(time.monotonic() + self.connections.address.timeout_seconds)
                    if not pause.take():
                        raise self.connections.unreachable(error) from None
                else:
                    self._let_others_in()
                    return decision.result
        except ENDS_RETRIES as error:
            if not is_unsure:
                raise
            raise unknown_after(error, self.connections.address.text) from error

    def _decide_locked(self, pending: PendingAppend, early: int) -> tuple[View, Decision]:
        """Decide with what is remembered, else with the stream's end: only that is a reason to refuse."""
        view, self._view = self._view, None
        if view is not None:
            try:
                return view, self._decide(view, pending, early)
            except StoreUnreachable:
                raise
            except EvlogError:
                pass  # other writers may have appended since
        view = self._look_locked(pending)
        return view, self._decide(view, pending, early)

    def _decide(self, view: View, pending: PendingAppend, early: int) -> Decision:
        return decide(view, pending, partial(_make_ids, view.tail.sequence + 1 + early))

    def _look_locked(self, pending: PendingAppend) -> View:
        """Read the stream's end, with the ids and streams of an append if they are few."""
        streams = dict.fromkeys([*pending.streams, *(each.stream for each in pending.expectations)])
        about = [name for stream in streams for name in self.reader.version_subjects(stream)]
        ids = [event[1] for event in pending.events if event[1] is not None]
        about += [name for id in ids for name in (self.subjects.id(id), self.subjects.removed_id(id))]
        if len(about) > _LOOKED_UP:
            about = []
        tail, control, found = self.jetstream.look_at_end(about)
        known = {name: found.get(name) for name in about}
        return View(self, tail, self.reader.state_at(control), {}, known)

    def _store(
        self, view: View, decision: Decision, pending: PendingAppend, control: Control | None, early: int
    ) -> None:
        """Store the events of a decision, and remember the new end of the stream."""
        subjects, new = self.subjects, decision.new
        frame, sequence = new[0].position, view.tail.sequence
        last = new[-1]
        place = place_headers(last.position, last.time_us)
        # Also ids that an earlier try has made: another writer may have taken the sequences in them.
        named = {event[1] for event in pending.events if event[1] is not None}
        index = [
            encode_id(subjects, event.id_bytes, number, tail_place(view.tail) if early else place)
            for number, event in enumerate(new, sequence + 1 + early)
            if event.id_bytes in named
        ]
        messages = [encode_event(subjects, event, frame) for event in new]
        concerns_all = control is not None or any(map(_concerns_all, new))
        if concerns_all:
            control = control or view.state.control
            index_last = [encode_control(subjects, control, last.position, last.time_us)]
        else:
            index_last = []
        if early:
            # If some ids are known, there are fewer entries than the sequences in ids were computed with.
            index += [index[0]] * (early - len(index)) if index else []
            sequence = self.publish_all(index, sequence)
            index = []
        sequence = self.publish_all([*messages, *index, *index_last], sequence)
        if concerns_all:
            return
        tail = Stored(sequence, "", {POSITION: b"%d" % last.position, TIME: b"%d" % last.time_us}, b"")
        view.remembered.update((event.stream, event.version) for event in new)
        self._view = View(self, tail, view.state, view.remembered, {})

    def publish_all(self, messages: Sequence[Outgoing], sequence: int) -> int:
        """Store messages after a sequence, at most `BATCH` of them at once; return the last one's sequence.

        Raises:
            WrongSequence, Lost, NoResponder: see `JetStream.publish`.
        """
        for at in range(0, len(messages), BATCH):
            condition = b"Nats-Expected-Last-Sequence: %d\r\n" % sequence
            sequence = self.jetstream.publish(messages[at : at + BATCH], condition)
        return sequence

    def _wait_for_others(self, begin: float, tries: int) -> None:
        """Pause, longer after each failed try, so that of many writers only a few try at a time."""
        now, timeout = time.monotonic(), self._lock_timeout_seconds
        if timeout is not None and now - begin > timeout:
            raise LockTimeout(self.connections.address.text, timeout)
        self._lost, self._won = now, 0
        seconds = min(_FIRST_WAIT_SECONDS * 2**tries, _LAST_WAIT_SECONDS)
        time.sleep(seconds * (0.5 + random.random() / 2))  # noqa: S311 - no secret

    def _let_others_in(self) -> None:
        """Pause after some appends in a row: the writer that has just appended would always be the first."""
        self._won += 1
        if self._won >= _IN_A_ROW:
            self._won = 0
            if time.monotonic() - self._lost < _RECENT_SECONDS:
                time.sleep(_YIELD_SECONDS)

    def scan_query(self, condition: IfNone, head: int) -> int | None:
        """Return the position of the first event up to `head` that a query selects, after a position.

        Up to where a query has selected nothing is remembered.
        """
        items, after = condition.query.items, condition.after
        low, high = self._scanned.pop(items, (after, after))
        if not low <= after <= high:
            low = high = after
        for event in self.reader.read_all(LogSelection(high, head, ANYTHING)):
            if condition.query.matches(event):
                return event.position
        self._scanned[items] = (low, head)
        if len(self._scanned) > _QUERIES:
            self._scanned.popitem(last=False)
        return None


def largest_event_bytes(max_payload: int) -> int:
    """Return the most bytes of an event's data and metadata where a server takes such payloads."""
    return max_payload - _HEADERS_BYTES


def _make_ids(first_sequence: int, _: int, count: int) -> list[bytes]:
    return make_sequence_ids(first_sequence, count)


def _concerns_all(event: Event) -> bool:
    stream = event.stream
    return stream.startswith(METADATA_PREFIX) or stream in (SCHEMAS_STREAM, REDACTIONS_STREAM)
