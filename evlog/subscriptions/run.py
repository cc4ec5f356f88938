"""Following: every matching event once, in position order, those that come later too.

A run delivers only what is acknowledged, so no power loss can take back what was delivered, and nothing else
can take its position. It reads a bounded piece of the log, hands out its events one by one, and goes on
behind it; at the end it waits. How far the log is acknowledged is for lookout.py to say; rolls, compactions
and recoveries are the log's business: what counts here is the position that was scanned.

It reads no further ahead than one piece, so a slow consumer slows nobody. It takes no lock on the log.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from evlog.errors import InvalidArgument, StoreFull
from evlog.files.disk.files import Disk
from evlog.files.follow.checkpoint_file import Checkpoint, Filter, SubscriptionFiles
from evlog.files.follow.feed import Lookout
from evlog.files.log.log import Log, SegmentMoved
from evlog.files.log.read import Selection, read_log
from evlog.model.events import Event

_PIECE_EVENTS: Final = 1 << 16
_SAVE_SECONDS: Final = 1.0


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
        self._lookout = Lookout(log, disk)
        self._closed = False
        self._handed: Event | None = None  # given out, not acknowledged
        self._scanned = after
        self._ready: Iterator[Event] = iter(())  # the events of the piece being read
        self._piece_end = self._released = after
        self._end = None if follow else self._lookout.look_to_end()

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
        return self._lookout.polling

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
        self._save_if_due()
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            event = self._next_ready()
            if event is not None:
                self._handed = event
                return event
            self._scanned = max(self._scanned, self._piece_end)
            if self._begin_piece():
                continue
            if self._end is not None or not self._lookout.wait(self._scanned, deadline, self._save_if_due):
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
            self._lookout.close()
            if self._files is not None:
                self._files.unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the checkpoint

    def _save_if_due(self) -> float:
        """Save the checkpoint if it is time to; seconds until it is."""
        if self._files is None or self.position == self._saved:
            return _SAVE_SECONDS
        left = self._save_due - time.monotonic()
        if left > 0:
            return left
        self._save()
        return _SAVE_SECONDS

    def _save(self, *, force: bool = False) -> None:
        assert self._files is not None
        self._save_due = time.monotonic() + _SAVE_SECONDS
        position = self.position
        if position == self._saved:
            return
        self._lookout.make_durable(position)  # a checkpoint must not outlive what it has passed
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
        if low > self._lookout.horizon and not self._lookout.look(self._scanned):
            return False
        high = min(self._lookout.horizon, self._scanned + _PIECE_EVENTS)
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
