"""The committed position of a log, and waiting until it advances.

1. A follower may deliver events up to the committed position: the last one that a writer has acknowledged.
   Recovery can still remove events after it and give their positions to other events.
2. The committed position advances when a writer updates `durable` or replaces the manifest. File system
   notifications report both; where they cannot be relied on, the feed polls.
3. If a writer dies between writing an event and updating `durable`, the feed syncs the log itself after one
   second.
4. A feed that was idle looks at once. One that a busy log floods rests between its looks, up to 0.1 s, so
   that many followers do not slow the writers: with what it delivers it uses 2 to 5 % of a processor.
   What counts is this thread's processor time, which grows where other processes empty the caches, and how
   long it waits for a processor, where the system says that: it grows where followers take all of them.
5. Events that come 5 ms apart or more are free while the thread hardly waits for a processor. Where it does,
   only its processor time counts for such events: the processors may be busy with something else.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left

from evlog.errors import CorruptionError, EvlogError, NotAStore
from evlog.files.disk.watch import TICK_SECONDS, Watch
from evlog.files.format.marks import MARK_BYTES, once_synced
from evlog.files.log.read import read_log, selection_of
from evlog.model.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from evlog.files.disk.files import Disk
    from evlog.files.log.log import Log
    from evlog.files.log.manifest_file import Stamp
    from evlog.model.events import Event
    from evlog.model.filters import EventFilter

_PATIENCE_SECONDS: Final = 1.0  # after this time the feed syncs what its writer has not acknowledged
# What a look costs, in multiples of its time, until the next may follow at once. With these prices fifty
# followers left one writer 0.78 of its rate on two processors; by processor time alone, 0.1 to 0.7.
_PRICE: Final = 60
_ONE_PRICE: Final = 20  # of a look that found one event, or had to wait this long for its news:
_WAITED_SECONDS: Final = 0.005
_APART_SECONDS: Final = 0.005
_HARDLY: Final = 0.5  # a share of the processor time
_CREDIT_SECONDS: Final = 0.1  # what a feed that was idle may owe before it rests: a dozen looks
_LAST_REST_SECONDS: Final = 0.1
_SCHEDSTAT: Final = "/proc/thread-self/schedstat"
_UNKNOWN: Final = float("nan")
_AHEAD_EVENTS: Final = 8


class _ReadAhead(NamedTuple):
    """Events that were read before they were committed."""

    content: object  # what must still be so when they are given out
    events: list[Event]
    head: int  # the last position then
    marks: bytes  # what the file `durable` holds once their writer has synced them


class CommittedFeed:
    """One follower's view of a log. For one thread at a time, except `wake`.

    Args:
        log: the segments; looking refreshes them.
        filter: which events `read` gives.
    """

    def __init__(self, log: Log, filter: EventFilter, disk: Disk) -> None:
        self._log = log
        self._filter = filter
        self._disk = disk
        self._watch = Watch(log.store)
        self._committed = 0  # as of the last look
        self._synced = (0, 0, 0)  # segment's tag, position and offset: made durable by this feed
        self._pulse: tuple[Stamp, bytes] | None = None
        self._marks = b""  # as of the last look
        self._ahead: _ReadAhead | None = None
        self._look_due = 0.0  # when to look at everything, even if the pulse is the same
        self._stale: tuple[int, float] | None = None  # since when this committed position has events after it
        self._price = 0  # of the last look that found something, until it is charged
        self._charged: tuple[float, ...] | None = None  # as of the last charge
        self._owed_until = 0.0  # when the looks so far are paid
        self._released = 0  # the segments up to this position are closed
        self._woken = False  # set by any thread, cleared by the one that waits

    @property
    def polling(self) -> bool:
        return self._watch.polling

    def committed(self, after: int) -> int:
        """Return the last position that may be delivered now; looks only if none after `after` is known.

        Raises:
            StoreNotFound: the store was removed.
            StoreReplaced: another store is in its place, or an older copy, which lacks what was committed.
            CorruptionError: all sound events are scanned, and what follows was acknowledged and is damaged.
            StoreIOError: the disk failed.
        """
        if self._committed <= after:
            self._look(after)
        return self._committed

    def end(self) -> int:
        """Return the last position of the log, after making its last frames durable if they are not."""
        self._look(0)
        if self._log.head > self._committed:
            self._sync_head()
        return self._committed

    def read(self, after: int, to: int) -> Iterator[Event]:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.content == self._content(after, to):
            return iter(ahead.events)
        self._release(after + 1)
        return self._read(after, to)

    def _read(self, after: int, to: int) -> Iterator[Event]:
        selection = selection_of(self._filter, after + 1, to, newest_singly=True)
        return read_log(self._log, selection, reverse=False, limit=None)

    def _read_ahead(self, after: int, marks: bytes) -> None:
        """Read a few events while their writer syncs them; `read` gives them out once they are committed.

        An event reaches another process 0.1 ms sooner after the end of its append.
        """
        head = self._log.head
        if after < head <= after + _AHEAD_EVENTS:
            content = self._content(after, head)
            try:
                self._ahead = _ReadAhead(content, list(self._read(after, head)), head, once_synced(marks))
            except EvlogError:
                self._ahead = None  # if they are committed, `read` raises it

    def _content(self, after: int, to: int) -> object:
        """Return a value that changes if other events take the places between the two positions."""
        active = self._log.active.segment
        return after, to, self._log.head, active.tag, active.index_crc

    def make_durable(self, position: int) -> None:
        """Return once every event up to the position, which is committed, is on the device."""
        if position > max(self._log.durable_position(), self._own_position()):
            self._sync_head()  # writers with sync="none" have acknowledged it

    def wait(self, after: int, timeout_seconds: float) -> bool:
        began = time.monotonic()
        deadline = began + timeout_seconds
        self._watch.begin()
        if self._price:
            self._owe(after, began)
        rest_seconds = min(self._owed_until - began - _CREDIT_SECONDS, _LAST_REST_SECONDS, timeout_seconds)
        if rest_seconds > 0:
            self._watch.rest(rest_seconds)
        while not self._look(after):  # the first look finds what came before the watch began
            left = min(TICK_SECONDS, deadline - time.monotonic())
            if left <= 0 or self._woken:
                self._woken = False
                return False
            self._watch.wait(left)
        self._watch.has_news()
        waited_seconds = time.monotonic() - began - max(rest_seconds, 0.0)
        is_busy = self._committed > after + 1 and waited_seconds < _WAITED_SECONDS
        self._price = _PRICE if is_busy else _ONE_PRICE
        return True

    def _owe(self, position: int, now: float) -> None:
        """Charge the looks since the last charge, with the handling of what they found up to the position."""
        price, self._price = self._price, 0
        before, spent, queued = self._charged, time.thread_time(), _UNKNOWN
        if before is not None:  # the first look imports what it needs
            passed, used = now - before[1], spent - before[2]
            is_apart = passed >= _APART_SECONDS * (position - before[0])
            if not is_apart or price * used > passed:  # else it is paid by now; to ask takes 20 µs
                queued = _queued_seconds()
                if not is_apart:
                    used += max(0.0, queued - before[3])  # 0 if that is NaN
                elif queued - before[3] < _HARDLY * used:
                    used = 0.0
                self._owed_until = max(self._owed_until, now) + min(price * used, _LAST_REST_SECONDS)
        self._charged = position, now, spent, queued

    def wake(self) -> None:
        self._woken = True
        self._watch.wake()

    def close(self) -> None:
        """Close the watch."""
        self._watch.close()

    def _look(self, after: int) -> bool:
        """Take in what the log has now, and return whether something after position `after` is committed."""
        log, ahead = self._log, self._ahead
        if ahead is not None and self._pulse is not None and log.read_marks() == ahead.marks:
            # The writer has synced what was read ahead, and nothing else has happened. The event comes 25 µs
            # after its append has returned, instead of 36 µs; the manifest is looked at after it.
            self._pulse, self._marks = (self._pulse[0], ahead.marks[MARK_BYTES:]), ahead.marks
            self._committed = max(self._committed, ahead.head)
            log.keep(self._committed)
            return self._committed > after
        now = time.monotonic()
        stamp, marks = log.stamp_and_marks()
        pulse = stamp, marks[MARK_BYTES:]  # all but how far it is written
        if pulse == self._pulse and now < self._look_due:
            log.raise_damage()
            if marks != self._marks:  # a writer has written, and syncs now
                self._marks = marks
                if log.follow(stamp, marks):
                    self._read_ahead(after, marks)
            return False
        is_due = now >= self._look_due
        self._look_due = now + _PATIENCE_SECONDS
        if is_due or not log.follow(stamp, marks):
            log.look()
        self._pulse, self._marks = pulse, marks
        self._committed = max(log.acknowledged_position(marks), self._own_position())
        log.keep(self._committed)
        if self._committed <= after:
            log.raise_damage()
            self._sync_stale_head(now)
        else:
            self._stale = None
        return self._committed > after

    def _own_position(self) -> int:
        tag, position, _ = self._synced
        return position if tag == self._log.active.segment.tag else 0

    def _sync_stale_head(self, now: float) -> None:
        """Make durable what its writer has not acknowledged in time."""
        if self._log.head <= self._committed:
            self._stale = None
        elif self._stale is None or self._stale[0] != self._committed:
            self._stale = (self._committed, now)
        elif now - self._stale[1] >= _PATIENCE_SECONDS:
            self._stale = None
            self._sync_head()

    def _sync_head(self) -> None:
        """Make all whole frames durable, as any of their writers would; not after a sync has failed."""
        log = self._log
        with log.mutex:
            active, head, end = log.active.segment, log.head, log.active.segment.end
        marks = log.marks()
        if marks.suspect is not None:
            return  # the next writer decides what is there
        tag, _, synced = self._synced
        known = max(marks.durable_offset, active.durable, synced if tag == active.tag else 0)
        try:
            is_there = active.is_on_device(self._disk, end, known)
        except (FileNotFoundError, NotAStore, CorruptionError) as error:
            log.look()  # raises if the store was removed or replaced
            if not isinstance(error, FileNotFoundError):
                raise
            return  # a compaction has replaced the segment, which was synced before
        if is_there:
            self._synced = (active.tag, head, end)
            self._committed = max(self._committed, head)
            log.keep(self._committed)

    def _release(self, low: int) -> None:
        """Close the segments before a position, so that a compaction can free their space."""
        sealed = self._log.sealed
        first = bisect_left(sealed, self._released, key=lambda part: part.last_position)
        for part in sealed[first : bisect_left(sealed, low, key=lambda part: part.last_position)]:
            part.close()
        self._released = low


def _queued_seconds() -> float:
    """Return how long this thread has waited for a processor so far; NaN where the system does not say."""
    try:
        fd = os.open(_SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return _UNKNOWN
    try:
        _, queued_ns, times = map(int, os.read(fd, 64).split())
        return queued_ns / 1e9 if times else _UNKNOWN  # a kernel that does not count gives zeros
    finally:
        os.close(fd)


def wait_for_file(path: str, timeout_seconds: float | None) -> bool:
    """Wait until there is a file at the path, whose directories may be missing too; False if not in time."""
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    while not os.path.lexists(path):
        watch = Watch(_nearest_directory(path))
        try:
            watch.begin()
            while _nearest_directory(path) == watch.directory and not os.path.lexists(path):
                left = TICK_SECONDS if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    return False
                watch.wait(left)
        finally:
            watch.close()
    return True


def _nearest_directory(path: str) -> str:
    """Return the deepest directory above the path that exists."""
    path = os.path.abspath(path)
    while not os.path.isdir(path := os.path.dirname(path)):
        pass
    return path
