"""Appending. Read this first: it follows one append from the lock to the acknowledgement.

    plan      what is new, whether its conditions hold, its versions        plan.py
    put       one frame at the end of the active log                        tail.py
    sync      the log up to there is on the device                          sync_marks.py
    result    the acknowledgement

Plan and put need the writers' lock; the sync comes after it was released. A writer that finds the lock taken
asks the writer that holds it to append for it: many then share one frame and one sync (group_commit.py). If
one of the joined appends is refused, each is tried alone, so that only its own writer gets the error.
"""

from __future__ import annotations

import time

from evlog.errors import (
    ConditionFailed,
    CorruptionError,
    EvlogError,
    IdConflict,
    InvalidArgument,
    StoreClosed,
    StoreFull,
    StreamTombstoned,
    WrongExpectedVersion,
)
from evlog.files.disk.file_lock import FileLock
from evlog.files.format import paths
from evlog.files.format.manifest import OPEN
from evlog.files.write.plan import Planner
from evlog.files.write.sync_marks import SyncMarks
from evlog.files.write.tail import LogTail
from evlog.model.appends import Append, Expectation, SchemasChanged
from evlog.model.events import check_stream_names
from evlog.process.forks import register_fork_reset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final, TypeVar

    from evlog.files.disk.files import Disk
    from evlog.files.log.log import Log
    from evlog.files.write.group_commit import Place, Request, Slot
    from evlog.files.write.plan import Plan
    from evlog.files.write.sync_marks import SyncPoint
    from evlog.model.appends import AppendRequest, BatchResult
    from evlog.model.events import EncodedEvent
    from evlog.model.queries import IfNone
    from evlog.model.reports import TornTail

    _T = TypeVar("_T")

# Errors that refuse one append; the writer can make the next one.
_REFUSALS: Final = (
    WrongExpectedVersion,
    ConditionFailed,
    IdConflict,
    StreamTombstoned,
    InvalidArgument,
    SchemasChanged,
    StoreFull,
    CorruptionError,  # perhaps of an event that only this append had to read
)

# This many requests are appended together, and synced before the lock is released, so that as many gather
# meanwhile. Fewer are quicker when each writer appends alone, with its sync beside those of the others.
_MANY = 4
# After this time a leader begins its last round; its own append is durable after the first. Twice the time
# makes 1.05 times the appends, and doubles the longest wait, which is the leader's.
_LEAD_SECONDS: Final = 0.012
# The same while a writer waits for the lock itself. If four of 16 writers do, each gets twice the
# appends, and with 0 five times, and the others two thirds.
_WANTED_LEAD_SECONDS: Final = 0.004
# A leader's pause between rounds, in which the writers that it has answered ask again. With 16 writers rounds
# are of 13 appends instead of 8, and two cores make 1.15 times the appends. A longer one gains no more.
_GATHER_SECONDS: Final = 0.00005
_CONTENDED_APPENDS: Final = 32  # without any request, before a writer stops looking for them
_PREPARE_EVERY: Final = 16  # appends that others made: this process may read meanwhile what they appended
_MAX_TRIES: Final = 16  # after each round, or a pause where no writer leads, before it waits for the lock
_FIRST_PAUSE_SECONDS: Final = 0.0001
# The same for a writer whose last append another one made: one of the others leads soon. With 0.0001, 16
# writers make 0.93 of the appends, and four as many.
_SERVED_PAUSE_SECONDS: Final = 0.0006
_LAST_PAUSE_SECONDS: Final = 0.016  # with 0.002, 200 writers make three quarters of the appends


class Writer:
    """The one way into a store's log, for all threads of a process.

    Args:
        log: the segments, shared with the readers of this process.
        sync: whether an append returns only when it is on the device.
        lock_timeout_seconds: how long to wait for other writers; None waits without a limit.
    """

    def __init__(self, log: Log, *, sync: bool, lock_timeout_seconds: float | None, disk: Disk) -> None:
        self._log = log
        self._sync = sync
        self._disk = disk
        self._lock = FileLock(
            paths.lock_path(log.store), lock_timeout_seconds, disk, readable=False, of_thread=True
        )
        self._planner = Planner(log)
        self._marks = SyncMarks(log.store, disk)
        self._tail = LogTail(log, self._planner, self._marks, disk, sync=sync)
        self._closed = False  # set once, by any thread; read under the lock
        # Requests cannot wait with a time limit, and a writer that does not sync must not lead.
        self._may_ask = sync and lock_timeout_seconds is None
        # Not guarded, hints only: an older value costs time, nothing else.
        self._contended = 0  # for how many more appends others are likely to wait for the lock, too
        self._served_in_a_row = 0  # appends that other writers made: they are likely to make the next, too
        self._slots: list[Slot] = []  # every slot; not guarded: only `append` is used
        # Not guarded: a thread takes one by `pop` and gives it back by `append`.
        self._free_slots: list[Slot] = []
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Open everything again in a forked child; the slots and their locks stay with the parent."""
        for slot in self._slots:
            slot.close()
        self._slots, self._free_slots = [], []
        self._tail.reset_files()

    @property
    def torn_tails(self) -> list[TornTail]:
        """What this writer cut from the end of the log: appends that a crash had left unfinished."""
        return self._tail.torn_tails

    def append(self, request: AppendRequest) -> BatchResult:
        """Append events as one frame: all of them, or none.

        Durable when this returns (with `sync`), also when everything in it was a duplicate.

        Raises:
            WrongExpectedVersion, ConditionFailed, StreamTombstoned, IdConflict, InvalidArgument,
                SchemasChanged: refused, nothing was written.
            LockTimeout, StoreFull, StoreReplaced, StoreClosed, ClockError: not written.
            StoreIOError: not acknowledged; open the store again.
        """
        append = self._prepared(request)
        if not self._served_in_a_row:  # else it is done while this writer waits
            self._log.active.index.prepare_if_due()  # before the lock: it delays no other writer
            if self._sync and not self._closed:
                self._tail.prepare()
        if self._may_ask and not (request.skip_known or request.system) and append.is_of_one_stream:
            return self._lock.run(self._append_among_others, append)
        result, point = self._with_lock(lambda: self._append_alone_locked(append))
        return self._acknowledge(result, point)

    def _append_alone_locked(self, append: Append) -> tuple[BatchResult, SyncPoint]:
        self._catch_up_locked()
        result = self._append_locked(append)
        return result, self._tail.end_locked()

    def _append_locked(self, append: Append) -> BatchResult:
        """Write what is new of the append."""
        plan = self._planner.plan_locked(append)
        if plan.events:
            self._lock.check_held()  # this process may have been suspended since it took the lock
        first_position = self._tail.put_locked(plan) if plan.events else 0
        return plan.result(first_position)

    def _acknowledge(self, result: BatchResult, point: SyncPoint | None) -> BatchResult:
        """Return the result once it is durable; without the lock."""
        if self._sync and point is not None:
            self._marks.make_durable(point, written=not all(result.duplicates))
        self._tail.builder.build()
        return result

    def _catch_up_locked(self) -> None:
        """Take in what others did; raise if the store takes no ordinary appends, or this writer none more."""
        if self._closed:
            raise StoreClosed(self._log.store)
        self._tail.catch_up_locked()
        standing = self._log.manifest.standing
        if standing != OPEN:
            from evlog.model.history import Standing, refusal

            raise refusal(self._log.store, Standing(*standing))

    def plan(self, request: AppendRequest) -> Plan:
        """Return what `append` would write to the log as it is now; nothing is written.

        Raises:
            What `append` raises to refuse it. The standing is not looked at.
        """
        append = self._prepared(request)
        return self.exclusively(lambda _tail, planner: planner.plan_locked(append))

    def _prepared(self, request: AppendRequest) -> Append:
        streams, events, expectations, conditions, skip_known, schemas, system = request
        if not events:
            raise InvalidArgument("there is nothing to append; give at least one event")
        if not system:
            check_stream_names(streams)
        before = [(0, condition) for condition in conditions] if conditions else ()
        for condition in conditions:  # before the lock: once it takes 0.4 s for 200,000 events with tags
            self._log.active.prepare_tags(condition.after)
        return Append(streams, events, expectations, before, skip_known=skip_known, schemas=schemas)

    def exclusively(self, call: Callable[[LogTail, Planner], _T]) -> _T:
        """Call with the writers' lock held and everything taken in, also where appends are refused."""
        if self._sync and not self._closed:
            self._tail.prepare()
        return self._with_lock(lambda: self._call_locked(call))

    def _call_locked(self, call: Callable[[LogTail, Planner], _T]) -> _T:
        if self._closed:
            raise StoreClosed(self._log.store)
        self._tail.catch_up_locked()
        self._lock.check_held()  # this process may have been suspended since it took the lock
        return call(self._tail, self._planner)

    def make_durable(self, point: SyncPoint | None) -> None:
        """Return once the log is durable up to the point (with `sync`), and its segments have indexes."""
        if self._sync and point is not None:
            self._marks.make_durable(point, written=True)
        self._tail.builder.build()

    def seal(self) -> None:
        """Begin the next segment, unless the active one is empty: a compaction rewrites sealed ones only.

        Raises:
            LockTimeout, StoreFull, StoreIOError: as `append`.
        """
        self._lock.run(self._seal)

    def _seal(self) -> None:
        with self._lock:
            self._catch_up_locked()
            point = self._tail.end_locked()
        # Synced without the lock, perhaps megabytes: under the lock only what was written since is synced.
        self._marks.make_durable(point, written=True)
        self._tail.sync_offsets(point)
        with self._lock:
            self._catch_up_locked()
            self._tail.seal_locked()

    def close(self) -> None:
        """Refuse every later append. What was acknowledged is durable; a running append ends normally.

        The files are closed now, or when the last running append has ended.
        """
        self._closed = True
        held = False
        try:
            held = self._lock.maybe_acquire() is not None
            if held:
                self._tail.reset_files()
                self._marks.forget()
        except EvlogError:
            pass  # the lock file cannot be opened; the files are closed with the writer
        finally:
            if held:
                self._lock.release()
        while self._free_slots:
            try:
                self._free_slots.pop().close()
            except IndexError:
                break
        self._lock.close()
        self._marks.close()
        self._tail.builder.end()

    # --- with others

    def _with_lock(self, call: Callable[[], _T]) -> _T:
        """Call with the writers' lock held."""
        return self._lock.run(lambda: self._take_and_call(call))

    def _take_and_call(self, call: Callable[[], _T]) -> _T:
        slot = None
        held = self._may_ask and self._lock.maybe_acquire(wait_for_threads=True) is not None
        try:
            if not held:
                slot = (self._maybe_slot() or self._maybe_claim_slot()) if self._may_ask else None
                held = self._wait_for_lock(slot)
            return call()
        finally:
            try:
                if slot is not None:
                    self._give_back(slot)
            finally:
                if held:
                    self._lock.release()

    def _append_among_others(self, append: Append) -> BatchResult:
        """Append when the lock is free, or have the writer that has it append for this one."""
        slot = self._maybe_slot()
        held = waited = False
        try:
            if slot is None or not self._served_in_a_row:
                held = self._lock.maybe_acquire(wait_for_threads=not self._contended) is not None
            if not held:
                waited = True
                self._contended = _CONTENDED_APPENDS
                if slot is None:
                    slot = self._maybe_claim_slot()
                if slot is not None and self._submit(slot, append):
                    place, held = self._wait_to_be_served(slot)
                    if place is not None:
                        return self._served(append, place)
                if not held:
                    held = self._wait_for_lock(slot)
            self._served_in_a_row = 0
            if slot is not None and (waited or self._contended):
                result, point = self._append_with_slot_locked(append, slot)
            else:
                result, point = self._append_alone_locked(append)
        finally:
            try:
                if slot is not None:
                    self._give_back(slot)  # while the lock is held: one suspended in between would delay all
            finally:
                if held:
                    self._lock.release()
        return self._acknowledge(result, point)

    def _wait_to_be_served(self, slot: Slot) -> tuple[Place | None, bool]:
        """Wait for the response to the slot's request, or for the lock, whichever comes first; not for long.

        Returns:
            Where the events are, or None; and whether this writer has the lock.
        """
        # It is likely to lead soon; doing this then would delay all others.
        if self._served_in_a_row % _PREPARE_EVERY == 1:
            self._log.active.index.prepare()
        pause_seconds = _SERVED_PAUSE_SECONDS if self._served_in_a_row else _FIRST_PAUSE_SECONDS
        for _ in range(_MAX_TRIES):
            has_ended = slot.wait_for_round()
            place = slot.maybe_response()
            if place is not None:
                return place, False
            if self._lock.maybe_acquire() is not None:
                return None, True
            if not slot.is_pending:
                break
            if not has_ended:
                time.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, _LAST_PAUSE_SECONDS)
        return None, False

    def _wait_for_lock(self, slot: Slot | None) -> bool:
        """Take the lock; a writer that leads others meanwhile ends its rounds sooner."""
        if slot is not None:
            slot.want_lock()
        return self._lock.acquire() is not None

    def _maybe_slot(self) -> Slot | None:
        try:
            return self._free_slots.pop() if self._free_slots else None
        except IndexError:  # another thread took it
            return None

    def _submit(self, slot: Slot, append: Append) -> bool:
        if self._marks.failed is not None or not slot.may_fit(append.events):
            return False
        append.give_ids()
        expected = append.expectations[0].version if append.expectations else None
        return slot.submit(
            append.streams[0], expected, list(append.events), append.conditions, append.schemas
        )

    def _served(self, append: Append, place: Place) -> BatchResult:
        self._contended = _CONTENDED_APPENDS
        self._served_in_a_row += 1
        return append.result_at(*place)

    def _append_with_slot_locked(self, append: Append, slot: Slot) -> tuple[BatchResult, SyncPoint | None]:
        """Append, also for those that wait in the queue, if they are many.

        Returns:
            The result, and up to where the log has to be synced for it, if it is not durable.
        """
        place = slot.maybe_response()
        if place is not None:  # before anything else can fail: another writer has appended it
            return self._served(append, place), None
        slot.lead_locked()
        self._catch_up_locked()
        requests = slot.take_requests_locked()
        self._contended = _CONTENDED_APPENDS if requests else max(0, self._contended - 1)
        if len(requests) >= _MANY:
            result, point = self._lead_locked(append, slot, requests), None
        else:
            result, point = self._append_locked(append), self._tail.end_locked()
        if append.has_made_ids:  # a known event was written by a leader that died before it could say so
            result.duplicates = [False] * len(append.events)
        return result, point

    def _lead_locked(self, own: Append, slot: Slot, requests: list[Request]) -> BatchResult:
        """Append for all that wait, in rounds; everything is durable when this returns."""
        outcome: BatchResult | EvlogError | None = None
        began = time.monotonic()
        is_last = False
        while requests:
            try:
                places, found = self._append_all_locked(requests, own if outcome is None else None)
                self._marks.make_durable(self._tail.end_locked(), written=True)
            except EvlogError:
                if outcome is None:
                    raise
                break  # what this writer appended is durable; the others find out by themselves
            slot.respond_locked(requests, places)
            if outcome is None:
                outcome = found
            if is_last:
                break
            time.sleep(_GATHER_SECONDS)
            led_seconds = time.monotonic() - began
            is_last = led_seconds > _LEAD_SECONDS or (
                led_seconds > _WANTED_LEAD_SECONDS and slot.is_lock_wanted_locked()
            )
            requests = slot.take_requests_locked(is_last=is_last)
        assert outcome is not None
        if isinstance(outcome, EvlogError):
            raise outcome
        return outcome

    def _append_all_locked(
        self, requests: Sequence[Request], own: Append | None
    ) -> tuple[list[Place | None], BatchResult | EvlogError | None]:
        """Append all as one frame; or each by itself, if one is refused.

        Returns:
            Where the events of each request are, None where its writer has to append them; and the outcome of
            `own`.
        """
        try:
            whole = self._append_locked(self._joined(requests, own))
        except _REFUSALS:
            outcomes = [self._try_to_append_locked(request) for request in requests]
            places = [_maybe_place(outcome, 0, None) for outcome in outcomes]
            return places, None if own is None else self._try_to_append_locked(own)
        at = 0
        places = []
        for request in requests:
            end = at + len(request.events)
            places.append(_maybe_place(whole, at, end))
            at = end
        return places, None if own is None else whole.part(at, len(whole.streams))

    def _joined(self, requests: Sequence[Request], own: Append | None = None) -> Append:
        """Return the appends of several requests, and this writer's own, as one, in their order.

        Raises:
            SchemasChanged: they were checked against different schemas.
        """
        streams: list[str] = []
        events: list[EncodedEvent] = []
        expectations: list[Expectation] = []
        conditions: list[tuple[int, IfNone]] = []
        schemas = requests[0].schemas
        for request in requests:
            at = len(events)
            if request.expected is not None:
                expectations.append(Expectation(at, request.stream, request.expected))
            if request.conditions:
                conditions += [(at, condition) for condition in request.conditions]
            if request.schemas != schemas:
                raise SchemasChanged
            events += request.events
            streams += [request.stream] * len(request.events)
        check_stream_names(streams)
        if own is not None:
            at = len(events)
            if own.schemas != schemas:
                raise SchemasChanged
            expectations += [
                Expectation(at + each.at, each.stream, each.version) for each in own.expectations
            ]
            conditions += [(at + before, condition) for before, condition in own.conditions]
            events += own.events
            streams += own.streams
        return Append(streams, events, expectations, conditions, schemas=schemas)

    def _try_to_append_locked(self, asked: Append | Request) -> BatchResult | EvlogError:
        try:
            self._catch_up_locked()
            return self._append_locked(asked if isinstance(asked, Append) else self._joined([asked]))
        except _REFUSALS as refusal:
            return refusal

    def _maybe_claim_slot(self) -> Slot | None:
        from evlog.files.write.group_commit import maybe_claim_slot  # only once a writer has to wait

        slot = maybe_claim_slot(self._log.store, self._disk)
        if slot is None:
            self._may_ask = False
        else:
            self._slots.append(slot)
        return slot

    def _give_back(self, slot: Slot) -> None:
        """Cancel the slot's request, unlock its rounds, which others may wait for, and free the slot."""
        try:
            slot.cancel()
        except BaseException:
            slot.cancel()  # interrupted
            raise
        finally:
            if slot.failed:
                self._may_ask = False
            if slot.failed or self._closed:
                slot.close()
            else:
                self._free_slots.append(slot)


def _maybe_place(outcome: BatchResult | EvlogError, start: int, end: int | None) -> Place | None:
    """Return what to tell a waiter; one that was refused, or sent a duplicate, has to append for itself."""
    if isinstance(outcome, EvlogError) or any(outcome.duplicates[start:end]):
        return None
    return outcome.positions[start], outcome.versions[start]
