"""Appending: deduplicate, check the expected version, write one frame, acknowledge after the sync.

Everything up to the write happens under the writers' lock, the sync after it was given back. A writer that
has to wait for the lock puts its append into the queue; and who finds such appends there when its turn comes
writes them with its own, as one frame, and syncs before it gives the lock back: many then share the price of
one turn and one sync. What is refused, or known already, harms no other: it is left to whoever asked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

from evlog.errors import (
    CorruptionError,
    EvlogError,
    IdConflict,
    InvalidArgument,
    StoreFull,
    StreamTombstoned,
    WrongExpectedVersion,
)
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import Disk
from evlog.files.disk.fork import register_fork_reset
from evlog.files.format import paths
from evlog.files.log.log import Log
from evlog.files.write.dedupe import Deduplicator
from evlog.files.write.group_commit import Answer, CommitQueue, Request, may_fit
from evlog.files.write.stream_versions import StreamVersions
from evlog.files.write.sync_marks import Durability
from evlog.files.write.tail import LogEnd, Place
from evlog.model.appends import Append, Batch, BatchResult, Expectation, join
from evlog.model.events import EncodedEvent
from evlog.model.reports import TornTail

# What refuses one append and leaves the writer fit for the next.
_REFUSALS: Final = (
    WrongExpectedVersion,
    IdConflict,
    StreamTombstoned,
    InvalidArgument,
    StoreFull,
    CorruptionError,  # of what only this append needed to be read, perhaps
)


# So many requests are answered: their appends are made with the own one, and synced before the lock is given
# back, so that as many gather meanwhile, which saves processor time. Where fewer wait it is quicker for each
# to append for itself, with its sync beside those of the others.
_MANY: Final = 4


class Writer:
    """The one way into a store's log, for all threads of a process.

    Args:
        log: the segments, shared with the readers of this process.
        sync: whether an append returns only when it is on the device.
        lock_timeout_seconds: how long to wait for other writers; None waits for ever.
    """

    def __init__(self, log: Log, *, sync: bool, lock_timeout_seconds: float | None, disk: Disk) -> None:
        self._log = log
        self._sync = sync
        self._lock = FileLock(paths.lock_path(log.store), lock_timeout_seconds, disk, readable=False)
        self._disk = disk
        self._queues: list[CommitQueue] = []
        self._free_queues: list[CommitQueue] = []
        # Nobody could take a request back when its time is over; and whoever does not sync leads nobody.
        self._may_ask = sync and lock_timeout_seconds is None
        self._crowded = False  # many others wait for the lock, too, as far as this writer has last seen
        self._durability = Durability(log.store, lock_timeout_seconds, disk)
        self._dedupe = Deduplicator(log)
        self._versions = StreamVersions(log)
        self._end = LogEnd(log, self._versions, self._durability, disk, sync=sync)
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Begin anew in a forked child."""
        for queue in self._queues:
            queue.leave()
        self._queues, self._free_queues = [], []
        self._end.reset_after_fork()

    @property
    def torn_tails(self) -> list[TornTail]:
        """What this writer cut from the end of the log: appends that a crash had left unfinished."""
        return self._end.torn_tails

    def append(
        self,
        streams: Sequence[str],
        events: Sequence[EncodedEvent],
        expectations: Sequence[Expectation] = (),
        *,
        skip_known: bool = False,
        system: bool = False,
    ) -> BatchResult:
        """Append events as one frame: all of them, or none.

        Durable when this returns (with `sync`), also when everything in it was a duplicate.

        Args:
            system: the store itself appends, to streams of its own.

        Raises:
            WrongExpectedVersion, StreamTombstoned, IdConflict, InvalidArgument: refused, nothing was written.
            LockTimeout, StoreFull: not written.
            StoreIOError: not acknowledged; open the store again.
        """
        if not events:
            raise InvalidArgument("there is nothing to append; give at least one event")
        append = Append(streams, self._versions.hashes(streams, system=system), events, expectations)
        self._log.grow_tables()
        may_ask = self._may_ask and not (skip_known or system)
        if not (may_ask and may_fit(events) and append.is_of_one_stream):
            with self._lock:
                self._end.catch_up_locked()
                outcome = self._append_locked(append, skip_known=skip_known)
                place = self._end.place_locked()
            return self._finish(outcome, place)
        try:
            queue = self._free_queues.pop()
        except IndexError:
            queue = self._new_queue()
        try:
            if self._crowded or self._lock.maybe_acquire(wait_for_threads=True) is None:
                served = self._ask(queue, append)
                if served is not None:
                    return served
                self._lock.acquire()
            try:  # right behind the taking: an interrupt must not come between
                done = self._append_with_others_locked(append, queue)
            finally:
                self._lock.release()
            return self._finish(*done)
        finally:
            try:
                queue.withdraw()
            except BaseException:
                queue.withdraw()  # interrupted: others wait until its gate is open
                raise
            finally:
                self._free_queues.append(queue)

    def _append_with_others_locked(
        self, append: Append, queue: CommitQueue
    ) -> tuple[BatchResult | EvlogError, Place | None]:
        """Append, also for those who wait in the queue, if that is due.

        Returns:
            What became of it, and up to where the log is yet to be synced for it.
        """
        if queue.leads:
            answer = queue.find_answer_locked()
            if answer is not None:  # before anything else can fail: it is done
                queue.withdraw()
                return self._served(append, answer), None
        self._end.catch_up_locked()
        outcome = self._maybe_lead_locked(append, queue) if queue.leads else None
        place = None
        if outcome is None:
            outcome = self._append_locked(append)
            place = self._end.place_locked()
        if queue.wants_slot():
            queue.claim_slot_locked()
        if isinstance(outcome, BatchResult):
            if append.has_made_ids:  # what is known of it, a leader wrote that died before it could say so
                outcome = outcome._replace(duplicates=[False] * len(append.events))
            self._versions.learn(append.streams[0], outcome.positions[-1], outcome.versions[-1])
        return outcome, place

    def _finish(self, outcome: BatchResult | EvlogError, place: Place | None) -> BatchResult:
        """What is left to do without the lock."""
        if isinstance(outcome, EvlogError):
            raise outcome
        if self._sync and place is not None:
            self._end.acknowledge(place, written=not all(outcome.duplicates))
        self._end.build_indexes()
        return outcome

    def seal(self) -> None:
        """Begin the next segment, unless the active one is empty: a compaction rewrites sealed ones only.

        Raises:
            LockTimeout, StoreFull, StoreIOError: as `append`.
        """
        with self._lock:
            self._end.catch_up_locked()
            place = self._end.place_locked()
        # Megabytes, perhaps, that nobody has to wait for; what is left to sync under the lock came since.
        self._end.acknowledge(place, written=True)
        self._end.sync_offsets()
        with self._lock:
            self._end.catch_up_locked()
            self._end.seal_locked()

    def close(self) -> None:
        """Close the files. Nothing is lost: what was acknowledged is on the device."""
        self._end.close()
        # Not those in which threads wait, which let go of them when they are done: were their files closed
        # here, what they write might go to others that have got the numbers since.
        with contextlib.suppress(IndexError):
            while True:
                self._free_queues.pop().leave()
        self._queues = []
        self._lock.close()
        self._durability.lock.close()

    def _append_locked(self, append: Append, *, skip_known: bool = False) -> BatchResult:
        """Write what is not known of the append, and say where everything stands."""
        streams, events = append.streams, append.events
        known, ids, folds = self._dedupe.find_known_locked(streams, events, skip_known=skip_known)
        batch = Batch(streams, append.stream_hashes, events, ids, folds)
        count = len(events)
        if not known:
            versions, first = self._write_locked(batch, append.expectations)
            return BatchResult(streams, versions, list(range(first, first + count)), ids, [False] * count)
        versions = [0] * count
        positions = [0] * count
        new = [at for at in range(count) if at not in known]
        if new:
            new_versions, first = self._write_locked(batch.pick(new), append.expectations)
            for number, at in enumerate(new):
                versions[at], positions[at] = new_versions[number], first + number
        for at, twin in known.items():
            if isinstance(twin, int):  # the same event earlier in this append
                versions[at], positions[at] = versions[twin], positions[twin]
            else:
                versions[at], positions[at] = twin[1], twin[0]
        return BatchResult(streams, versions, positions, ids, [at in known for at in range(count)])

    def _write_locked(self, batch: Batch, expectations: Sequence[Expectation]) -> tuple[list[int], int]:
        """Write one frame; the versions of its events and the position of the first."""
        versions = self._versions.next_locked(batch.streams, batch.stream_hashes, expectations)
        return versions, self._end.append_locked(batch, versions)

    # --- with others

    def _new_queue(self) -> CommitQueue:
        """A place to wait in: each thread that appends at the same time has its own."""
        queue = CommitQueue(self._log.store, self._disk)
        self._queues.append(queue)
        return queue

    def _ask(self, queue: CommitQueue, append: Append) -> BatchResult | None:
        """Have another writer append that gets the lock sooner; None if none did."""
        if self._end.failed is not None:
            return None
        append.give_ids()
        stream = append.streams[0]
        expected = append.expectations[0].version if append.expectations else None
        answer = queue.ask(stream, expected, self._versions.place_of(stream), append.events)
        return self._served(append, answer) if answer is not None else None

    def _served(self, append: Append, answer: Answer) -> BatchResult:
        result = append.result_at(answer.first_position, answer.first_version)
        self._versions.learn(append.streams[0], result.positions[-1], result.versions[-1])
        self._crowded = answer.together >= _MANY
        return result

    def _maybe_lead_locked(self, own: Append, queue: CommitQueue) -> BatchResult | EvlogError | None:
        """Append for those who wait, too, if they are many enough; what became of the own append, then.

        All of it is durable when this returns.
        """
        requests = queue.take_turn_locked()
        self._crowded = len(requests) >= _MANY
        if len(requests) < _MANY:
            queue.withdraw()  # so that they come for the lock while this one syncs
            return None
        stream = own.streams[0]  # to which others may have written, this writer's own events among that
        self._versions.confirm_locked(stream, own.stream_hashes[0], *self._versions.place_of(stream))
        answers, outcome = self._append_all_locked([*map(self._append_of, requests), own])
        self._end.acknowledge(self._end.place_locked(), written=True)
        queue.answer_locked(zip(requests, answers, strict=False))
        return outcome

    def _append_of(self, request: Request) -> Append:
        streams = [request.stream] * len(request.events)
        hashes = self._versions.hashes(streams)
        self._versions.confirm_locked(request.stream, hashes[0], request.last_position, request.last_version)
        expected = request.expected
        expectations = () if expected is None else (Expectation(0, request.stream, expected),)
        return Append(streams, hashes, request.events, expectations)

    def _append_all_locked(
        self, appends: Sequence[Append]
    ) -> tuple[list[Answer | None], BatchResult | EvlogError]:
        """Append all as one frame; or each by itself, if one is refused, that it may harm no other.

        Returns:
            What to tell those who wait, and what became of the last.
        """
        together = len(appends)
        try:
            whole = self._append_locked(join(appends))
        except _REFUSALS:
            outcomes = [self._try_to_append_locked(append) for append in appends]
            return [_answer(outcome, together) for outcome in outcomes], outcomes[-1]
        starts = [0, *accumulate(len(append.events) for append in appends)]
        end = starts.pop()
        last = whole.part(starts[-1], end)
        if any(whole.duplicates):
            parts = [whole.part(start, end) for start, end in pairwise([*starts, end])]
            return [_answer(part, together) for part in parts], last
        positions, versions = whole.positions, whole.versions
        return [Answer(positions[start], versions[start], together) for start in starts], last

    def _try_to_append_locked(self, append: Append) -> BatchResult | EvlogError:
        try:
            self._end.catch_up_locked()
            return self._append_locked(append)
        except _REFUSALS as refusal:
            return refusal


def _answer(outcome: BatchResult | EvlogError, together: int) -> Answer | None:
    """What to tell whoever waits; one that is refused, or a duplicate, has to see for itself."""
    if isinstance(outcome, EvlogError) or any(outcome.duplicates):
        return None
    return Answer(outcome.positions[0], outcome.versions[0], together)
