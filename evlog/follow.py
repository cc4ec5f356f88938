"""Following: every matching event once, in position order, those that come later too.

A run delivers only what is acknowledged, so no power loss can take back what was delivered, and nothing else
can take its position. It reads a bounded piece of the log, hands out its events one by one, and goes on
behind it; at the end it waits for the file system to say that a writer has acknowledged more. Rolls,
compactions and recoveries are the log's business: what counts here is the position that was scanned.

It reads no further ahead than one piece, so a slow consumer slows nobody. It takes no lock on the log.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from evlog import paths
from evlog.checkpoint import Checkpoint, Filter, SubscriptionFiles
from evlog.disk import Disk
from evlog.errors import InvalidArgument, StoreFull, StoreNotFound
from evlog.events import Event
from evlog.log import Log, SegmentMoved
from evlog.notify import TICK_SECONDS, Watch
from evlog.reader import Selection, read_log

_PIECE_EVENTS: Final = 1 << 16
_SAVE_SECONDS: Final = 1.0
# A writer that died before it said that its append is on the device is given so long to say it.
_PATIENCE_SECONDS: Final = 1.0
# A busy writer's appends are taken together: after news upon news the next look comes so much later.
_BUSY_SECONDS: Final = 0.002
_QUIET_SECONDS: Final = 0.05
_FIRST_PAUSE_SECONDS: Final = 0.001
_LAST_PAUSE_SECONDS: Final = 0.010


class Subscription:
    """A run over the events that match, in position order, live. Made by `EventStore.subscribe`.

    An iterator and a context manager that closes it; for one thread at a time. An event is acknowledged when
    the next one is asked for, or by `acknowledge`.
    """

    def __init__(
        self,
        log: Log,
        filter: Filter,
        after: int,
        since_us: int | None,
        follow: bool,
        timeout_seconds: float | None,
        disk: Disk,
        files: SubscriptionFiles | None = None,
    ) -> None:
        self._log = log
        self._store_id = log.manifest.store_id
        self._disk = disk
        self._filter = filter
        types = None if filter.types is None else frozenset(filter.types)
        self._selection = Selection(
            category=filter.category,
            types=types,
            since_us=since_us,
            stream=filter.stream,
            newest_singly=True,
        )
        self._timeout_seconds = timeout_seconds
        self._files = files
        self._saved = after  # the position in the checkpoint
        self._save_due = time.monotonic() + _SAVE_SECONDS
        self._watch = Watch(log.store)
        self._closed = False
        self._handed: Event | None = None  # given out, not acknowledged
        self._scanned = after
        self._ready: Iterator[Event] = iter(())  # the events of the piece being read
        self._piece_end = self._released = after
        self._horizon = 0
        self._synced: tuple[int, int] = (0, 0)  # segment's tag, position: made durable by this run itself
        self._pulse: object = None
        self._look_due = 0.0  # when to look more closely, whatever the pulse says
        self._beyond: tuple[int, float] | None = None  # the horizon that did not move since, with more behind
        self._news_at = 0.0
        self._pause_seconds = 0.0
        self._end = None if follow else self._head_now()

    @property
    def name(self) -> str | None:
        """The durable subscription's name, None for a run without one."""
        return None if self._files is None else self._files.name

    @property
    def position(self) -> int:
        """The last position that was scanned, matched or not, and acknowledged."""
        return self._scanned if self._handed is None else self._handed.position - 1

    @property
    def polling(self) -> bool:
        """Whether it has to look for news again and again; known once it has waited."""
        return self._watch.polling

    # --- taking events

    def __iter__(self) -> Iterator[Event]:
        """The events as they come, until none has come for `timeout`, or all are there without `follow`."""
        files = self._files
        while True:
            event = self.next_event(self._timeout_seconds)
            if event is None:
                return
            yield event
            try:
                for event in self._ready:  # the rest of what was found, at the price of a loop
                    self._handed = event
                    yield event
                    if self._handed is not event:  # acknowledged, parked or closed meanwhile
                        break
                    self._scanned = event[0]
                    self._handed = None
                    if files is not None and time.monotonic() >= self._save_due:
                        self._save()
            except GeneratorExit:
                raise
            except BaseException:
                self._leave_piece()
                raise

    def __next__(self) -> Event:
        event = self.next_event(self._timeout_seconds)
        if event is None:
            raise StopIteration
        return event

    def next_event(self, timeout_seconds: float | None = None) -> Event | None:
        """The next event that matches; this acknowledges the one before.

        Args:
            timeout_seconds: how long to wait for it; 0 takes only what is there, None waits for ever. Without
                `follow` nothing is waited for.

        Returns:
            The event, or None when none came in time or, without `follow`, when all were given out.

        Raises:
            StoreNotFound: the store is gone.
            CorruptionError: acknowledged events are damaged; those before them were given out.
            StoreIOError: the disk failed.
        """
        self.acknowledge()
        if self._closed:
            return None
        self._maybe_save()
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            event = self._next_ready()
            if event is not None:
                self._handed = event
                return event
            self._scanned = max(self._scanned, self._piece_end)
            if self._begin_piece():
                continue
            if self._end is not None or not self._wait_for_news(deadline):
                return None

    def next_at_hand(self) -> Event | None:
        """The next event that matches, if it was read already; this acknowledges the one before.

        Nothing is looked for and nothing waited for, so None says only that `next_event` has to be asked. Nor
        is a checkpoint saved: who deals with several events at once may still `close` before the first.

        Raises:
            CorruptionError: as `next_event`.
        """
        self.acknowledge()
        self._handed = self._next_ready()
        return self._handed

    def _next_ready(self) -> Event | None:
        try:
            return next(self._ready, None)
        except BaseException:  # damage, or a signal's handler: what it had yet to give is not scanned
            self._leave_piece()
            raise

    def acknowledge(self) -> None:
        """Say that the event given out last is done with: the checkpoint may pass it."""
        if self._handed is not None:
            self._scanned = self._handed[0]
            self._handed = None

    def park(self, event: Event, error: str, attempts: int = 1) -> None:
        """Put the event given out last aside with what went wrong, durably, and go on without it.

        Raises:
            InvalidArgument: the run has no name, or it is another event.
        """
        if self._files is None:
            raise InvalidArgument("only a named subscription can park an event; give it a name")
        if self._handed is None or self._handed[0] != event[0]:
            raise InvalidArgument(f"position {event[0]} is not the event given out last; park that one")
        self._files.park_locked(event, error, attempts)
        self.acknowledge()
        self._save()  # what is parked need not be handled again

    def save(self) -> None:
        """Save the checkpoint now, durable when this returns; a run without a name has none."""
        if self._files is not None and not self._closed:
            self._save(force=True)
            self._files.sync_locked()

    def close(self, undone: Event | None = None) -> None:
        """Save the checkpoint, without an event that was not acknowledged, and free the name.

        Args:
            undone: the first of those that `next_event` and then `next_at_hand` gave out that was not dealt
                with after all, though later ones were asked for: the next run begins with it.

        Raises:
            StoreFull, StoreIOError: the checkpoint could not be saved; the last events will come again.
        """
        if self._closed:
            return
        if undone is not None:
            self._handed = undone
        try:
            self.save()
        finally:
            self._closed = True
            self._ready = iter(())
            self._watch.close()
            if self._files is not None:
                self._files.unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the checkpoint

    def _maybe_save(self) -> None:
        if self._files is not None and time.monotonic() >= self._save_due:
            self._save()

    def _save(self, *, force: bool = False) -> None:
        assert self._files is not None
        self._save_due = time.monotonic() + _SAVE_SECONDS
        position = self.position
        if position == self._saved:
            return
        if position > max(self._log.durable_position(), self._own_horizon()):
            self._sync_head()  # writers with sync="none": a checkpoint must not outlive what it has passed
        try:
            self._files.save_locked(Checkpoint(position, self._filter))
        except StoreFull:
            if force:
                raise
            return  # tried again in a second: without it events may come again, no more
        self._saved = position

    # --- reading

    def _begin_piece(self) -> bool:
        """Begin with the next piece of the log; False if nothing is there beyond what was scanned."""
        low = self._scanned + 1
        if low > self._horizon and not self._look():
            return False
        high = min(self._horizon, self._scanned + _PIECE_EVENTS)
        if self._end is not None:
            high = min(high, self._end)
        if low > high:
            return False
        self._release(low)
        self._piece_end = high
        self._ready = read_log(
            self._log,
            self._selection._replace(first_position=low, last_position=high),
            reverse=False,
            limit=None,
        )
        return True

    def _leave_piece(self) -> None:
        """Read on from what was scanned: what the piece had yet to give is lost with its iterator."""
        self._ready = iter(())
        self._piece_end = self._scanned

    def _release(self, low: int) -> None:
        """Let go of the segments behind the position, so that a compaction may free their space."""
        sealed = self._log.sealed
        first = bisect_left(sealed, self._released, key=lambda part: part.last_position)
        for part in sealed[first : bisect_left(sealed, low, key=lambda part: part.last_position)]:
            part.close()
        self._released = low

    def _look(self) -> bool:
        """Take in what the log has now; whether that is more than was scanned."""
        log = self._log
        now = time.monotonic()
        pulse = log.pulse()
        if pulse == self._pulse and now < self._look_due:
            log.raise_damage()
            return False
        self._look_due = now + _PATIENCE_SECONDS
        log.refresh()
        self._pulse = pulse
        if log.manifest.store_id != self._store_id:
            raise StoreNotFound(log.store)
        self._horizon = max(log.acknowledged_position(), self._own_horizon())
        if self._horizon > self._scanned:
            self._beyond = None
            return True
        log.raise_damage()
        return self._wait_out(now)

    def _own_horizon(self) -> int:
        tag, position = self._synced
        return position if tag == self._log.active.segment.tag else 0

    def _wait_out(self, now: float) -> bool:
        """Make durable what nobody acknowledges; whether it was done."""
        if self._log.head <= self._horizon:
            self._beyond = None
            return False
        if self._beyond is None or self._beyond[0] != self._horizon:
            self._beyond = (self._horizon, now)
            return False
        if now - self._beyond[1] < _PATIENCE_SECONDS:
            return False
        self._beyond = None
        return self._sync_head()

    def _sync_head(self) -> bool:
        """Make all whole frames durable, as any of their writers would have; False if that is in doubt."""
        log = self._log
        with log.mutex:
            active, head = log.active.segment, log.head
        if log.marks().suspect is not None:
            return False  # a sync has failed: only a writer that looks at the device can tell
        active.sync(self._disk)
        self._synced = (active.tag, head)
        self._horizon = max(self._horizon, head)
        return self._horizon > self._scanned

    def _head_now(self) -> int:
        """Where a run without `follow` ends. What a writer left unsynced is made durable at once."""
        self._look()
        if self._log.head > self._horizon:
            self._sync_head()
        return self._horizon

    # --- waiting

    def _wait_for_news(self, deadline: float | None) -> bool:
        """Wait until there is more; False if there is none at the deadline (a time.monotonic())."""
        now = time.monotonic()
        if deadline is not None and deadline <= now:
            return False
        self._watch.begin()
        if now - self._news_at > _QUIET_SECONDS:
            self._pause_seconds = 0.0
        if self._pause_seconds:
            time.sleep(self._pause_seconds if deadline is None else min(self._pause_seconds, deadline - now))
        found = self._look()  # also for what came before the watch began
        self._pause_seconds *= 2 if found else 0.5
        while not found:
            now = time.monotonic()
            left = TICK_SECONDS if deadline is None else deadline - now
            if left <= 0:
                return False
            self._watch.wait(min(left, self._save_in(now)))
            found = self._look()
            self._maybe_save()
        self._note_news(time.monotonic())
        return True

    def _save_in(self, now: float) -> float:
        """Seconds until the checkpoint is to be saved; a tick's, if it is."""
        if self._files is None or self.position == self._saved:
            return TICK_SECONDS
        return max(0.0, self._save_due - now)

    def _note_news(self, now: float) -> None:
        """Choose the pause before the next look: none after a quiet time, longer while the log is busy."""
        self._watch.has_news()
        quiet_seconds = now - self._news_at
        self._news_at = now
        if quiet_seconds > _QUIET_SECONDS or self._pause_seconds < _FIRST_PAUSE_SECONDS:
            self._pause_seconds = _FIRST_PAUSE_SECONDS if quiet_seconds < _BUSY_SECONDS else 0.0
        self._pause_seconds = min(self._pause_seconds, _LAST_PAUSE_SECONDS)


def wait_for_store(path: str | os.PathLike[str], timeout_seconds: float | None = None) -> bool:
    """Wait until there is a store at the path; False if there is none in time.

    Args:
        path: the store's directory, which need not exist, nor those above it.
        timeout_seconds: None waits for ever.
    """
    manifest = paths.manifest_path(os.fspath(path))
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    while not os.path.lexists(manifest):
        watch = Watch(_nearest_directory(manifest))
        try:
            watch.begin()
            while _nearest_directory(manifest) == watch.directory and not os.path.lexists(manifest):
                left = TICK_SECONDS if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    return False
                watch.wait(left)
        finally:
            watch.close()
    return True


def _nearest_directory(path: str) -> str:
    """The deepest directory above the path that exists."""
    path = os.path.abspath(path)
    while not os.path.isdir(path := os.path.dirname(path)):
        pass
    return path


def position_before(log: Log, since_us: int) -> int:
    """The last position whose event is earlier than the moment; 0 if none is."""
    while True:
        try:
            parts = log.parts()
            at = bisect_left(parts[:-1], since_us, key=lambda part: part.info.last_time_us)
            for part in parts[at:]:
                count = part.count
                number = part.segment.number_at_time(since_us, count)
                if number < count:
                    return part.segment.record(number)[0] - 1
            return log.head
        except SegmentMoved:
            log.refresh()
