"""Appending: deduplicate, check the expected version, write one frame, acknowledge after the sync.

Everything up to the write happens under the writers' lock, the sync after it was given back. A writer that
has to wait for the lock puts its append into the queue; and who finds such appends there when its turn comes
writes them with its own, as one frame, and syncs before it gives the lock back: many then share the price of
one turn and one sync. What is refused, or known already, harms no other: it is left to whoever asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

from evlog import paths
from evlog.batch import Append, Batch, BatchResult, Expectation, join
from evlog.commit_queue import Answer, CommitQueue, Request
from evlog.dedupe import Deduplicator
from evlog.disk import Disk
from evlog.durability import Durability
from evlog.errors import (
    EvlogError,
    IdConflict,
    InvalidArgument,
    StoreFull,
    StreamTombstoned,
    WrongExpectedVersion,
)
from evlog.events import EncodedEvent
from evlog.lock import FileLock, leave_at_fork
from evlog.log import Log
from evlog.log_end import LogEnd
from evlog.recovery import TornTail
from evlog.versions import StreamVersions

# What refuses one append and leaves the writer fit for the next.
_REFUSALS: Final = (WrongExpectedVersion, IdConflict, StreamTombstoned, InvalidArgument, StoreFull)


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
        self._lock = FileLock(paths.lock_path(log.store), lock_timeout_seconds, disk)
        self._queue = CommitQueue(log.store, disk)
        # Nobody could take a request back when its time is over; and whoever does not sync leads nobody.
        self._may_ask = sync and lock_timeout_seconds is None
        self._crowded = False  # others wait for the lock, too, as far as this writer has last seen
        self._durability = Durability(log.store, lock_timeout_seconds, disk)
        self._dedupe = Deduplicator(log)
        self._versions = StreamVersions(log)
        self._end = LogEnd(log, self._versions, self._durability, disk, sync=sync)
        leave_at_fork(self)

    def leave_to_parent(self) -> None:
        """Begin anew in a forked child."""
        self._queue.leave()
        self._end.leave_to_parent()

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
        if self._may_ask and append.is_of_one_stream and not (skip_known or system):
            served = self._lock.acquire_unless(lambda: self._ask(append), ask_first=self._crowded)
            if served is not None:
                return served
        else:
            self._lock.acquire()
        try:
            self._end.catch_up_locked()
            if self._crowded:  # others may have written to the stream, this writer's own events among that
                self._versions.confirm_locked(
                    streams[0], append.stream_hashes[0], *self._versions.place_of(streams[0])
                )
            if self._queue.leads:
                result, durable = self._lead_locked(append)
            else:
                result, durable = self._append_locked(append, skip_known=skip_known), not self._sync
            place = self._end.place_locked()
            if self._crowded:
                self._versions.learn(streams[-1], result.positions[-1], result.versions[-1])
            if self._queue.wants_slot():
                self._queue.claim_slot_locked()
        finally:
            if self._queue.leads:
                self._queue.withdraw()
            self._lock.release()
        if not durable:
            self._end.acknowledge(place, written=not all(result.duplicates))
        self._end.build_indexes()
        return result

    def seal(self) -> None:
        """Begin the next segment, unless the active one is empty: a compaction rewrites sealed ones only.

        Raises:
            LockTimeout, StoreFull, StoreIOError: as `append`.
        """
        with self._lock:
            self._end.catch_up_locked()
            self._end.seal_locked()

    def close(self) -> None:
        """Close the files. Nothing is lost: what was acknowledged is on the device."""
        self._end.close()
        self._queue.leave()
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

    def _ask(self, append: Append) -> BatchResult | None:
        """Have another writer append that gets the lock sooner; None if none did."""
        if self._end.failed is not None:
            return None
        self._crowded = True
        append.give_ids()
        stream = append.streams[0]
        expected = append.expectations[0].version if append.expectations else None
        answer = self._queue.ask(stream, expected, self._versions.place_of(stream), append.events)
        if answer is None:
            return None
        result = append.result_at(*answer)
        self._versions.learn(stream, result.positions[-1], result.versions[-1])
        return result

    def _lead_locked(self, own: Append) -> tuple[BatchResult, bool]:
        """Append for all who wait, too; what became of the own append, and whether it is durable already."""
        answer, requests = self._queue.take_turn_locked()
        self._crowded = len(requests) > 0
        mine = own.result_at(*answer) if answer is not None else None
        if not requests:
            return (mine, True) if mine is not None else (self._append_locked(own), False)
        appends = [self._append_of(request) for request in requests]
        outcomes = self._append_all_locked(appends if mine is not None else [*appends, own])
        self._end.acknowledge(self._end.place_locked(), written=True)
        self._queue.answer_locked(zip(requests, map(_answer, outcomes), strict=False))
        outcome = outcomes[-1] if mine is None else mine
        if isinstance(outcome, EvlogError):
            raise outcome
        return outcome, True

    def _append_of(self, request: Request) -> Append:
        streams = [request.stream] * len(request.events)
        hashes = self._versions.hashes(streams)
        self._versions.confirm_locked(request.stream, hashes[0], request.last_position, request.last_version)
        expected = request.expected
        expectations = () if expected is None else (Expectation(0, request.stream, expected),)
        return Append(streams, hashes, request.events, expectations)

    def _append_all_locked(self, appends: Sequence[Append]) -> list[BatchResult | EvlogError]:
        """Append all as one frame; or each by itself, if one is refused, that it may harm no other."""
        try:
            whole = self._append_locked(join(appends))
        except _REFUSALS:
            return [self._try_to_append_locked(append) for append in appends]
        ends = list(accumulate(len(append.events) for append in appends))
        return [whole.part(start, end) for start, end in pairwise([0, *ends])]

    def _try_to_append_locked(self, append: Append) -> BatchResult | EvlogError:
        try:
            self._end.catch_up_locked()
            return self._append_locked(append)
        except _REFUSALS as refusal:
            return refusal


def _answer(outcome: BatchResult | EvlogError) -> Answer | None:
    """What to tell whoever waits; one that is refused, or a duplicate, has to see for itself."""
    if isinstance(outcome, EvlogError) or any(outcome.duplicates):
        return None
    return Answer(outcome.positions[0], outcome.versions[0])
