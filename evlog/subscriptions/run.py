"""One run of a subscription: every matching event once, in position order, also those that come later.

1. A run delivers only committed events: no failure removes a delivered event or gives its position to another
   one.
2. It reads a bounded piece of the log, delivers its events one by one, and continues after it; at the end it
   waits. Its place is the last position that was scanned, matched or not.
3. An event is acknowledged when the next one is asked for. A checkpoint never passes an unacknowledged event.
4. One thread at a time takes events; a second thread gets InvalidArgument. It would acknowledge an event that
   the first has not handled, and two threads in one iterator of `itertools` can crash the process. Any thread
   and any signal handler may call `stop` or `close`; both wake a waiting run, also between two tries of a
   handler.
5. A forked child never writes its parent's checkpoint.
6. During a transaction (`Subscription.transaction`) only the transaction saves the checkpoint.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from _thread import allocate_lock
from contextlib import contextmanager

from evlog.errors import InvalidArgument, StoreClosed, StoreFull, SubscriptionBusy
from evlog.model.arguments import check_seconds
from evlog.model.checkpoints import Checkpoint
from evlog.model.events import Event, upcast_all
from evlog.model.filters import EventFilter, LogSelection
from evlog.process.threads import interruptible
from evlog.subscriptions.retry import attempt, call, check_handling, describe_error, upcasting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Final, Self, TypeVar

    from evlog.engine import CheckpointStore, Engine
    from evlog.model.events import Upcast
    from evlog.model.types import OnFailure

    _T = TypeVar("_T")

_PIECE_EVENTS: Final = 1 << 16
_SAVE_SECONDS: Final = 1.0
_HURRY_SECONDS: Final = 0.5
_FOREVER: Final = float("inf")


class Subscription:
    """A run over the events that match, in position order, live. Made by `EventStore.subscribe`.

    An iterator, and a context manager that closes it. One thread iterates; `stop` and `close` may be called
    from any thread or signal handler.
    """

    def __init__(
        self,
        engine: Engine,
        filter: EventFilter,
        after: int,
        *,
        to: int | None,
        follow: bool,
        idle_seconds: float | None,
        timeout_seconds: float | None,
        upcast: Upcast | None,
        checkpoint: CheckpointStore | None = None,
        name: str | None = None,
        takes: Callable[[Event], bool] | None = None,
    ) -> None:
        self.name = name  # of a named subscription; with its shard
        self._takes = takes  # which events of the filter are the run's; None: all
        self._upcast = upcast  # turns an event into today's shape; None: it is delivered as stored
        self._engine = engine
        self._filter = filter
        self._idle_seconds = idle_seconds
        self._deadline = _FOREVER if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._checkpoint = checkpoint
        self._process = os.getpid()
        # Held while an event is looked for and while the checkpoint is written; `close` waits for it. The
        # attributes below are written by the thread that iterates, and with the mutex by `close`.
        self._mutex = threading.RLock()
        self._saved = after  # the position in the checkpoint
        self._save_due = time.monotonic() + _SAVE_SECONDS
        self._handed: Event | None = None  # delivered, not acknowledged
        self._held: Callable[[], Event | None] = _nothing  # as `hold_at` says
        self._scanned = after
        # In a transaction of the caller's: `_handed` and `_scanned` at its begin. It holds the mutex.
        self._transaction: tuple[Event | None, int] | None = None
        self._ready: Iterator[Event] = iter(())  # the events of the piece that is being read
        self._piece_end = after
        # Flags that any thread sets, never cleared.
        self._stopped = self._closed = self._store_closed = self._close_wanted = False
        self._running = allocate_lock()  # held until `stop`; a signal handler may release it
        self._running.acquire()
        self._taker: int | None = None  # the thread that is in `next_event` or `events_at_hand`
        self._inside = False  # whether a method is running that holds the mutex
        self._feed = engine.follow(filter)
        self._follow = follow  # until the time is over
        self._end = to  # nothing after this position is delivered; None: no end
        if not follow:
            try:
                end = self._feed.end()
            except BaseException:
                self._feed.close()  # no caller has this run
                raise
            self._end = end if to is None else min(to, end)

    @property
    def position(self) -> int:
        """The last position that was scanned, matched or not, and acknowledged."""
        held = self._held()
        if held is None:
            held = self._handed
        return self._scanned if held is None else held[0] - 1

    def hold_at(self, undone: Callable[[], Event | None]) -> None:
        """Have the checkpoint pass no event that is still undone, although later ones were taken.

        Args:
            undone: returns the first event that was taken and is not handled, if there is one; called by any
                thread.
        """
        self._held = undone

    @property
    def polling(self) -> bool:
        """Whether new events are found by polling; known after the first wait."""
        return self._feed.polling

    def take_upcast(self) -> Upcast | None:
        """Have events delivered as they are stored; return what turns them into today's shape."""
        return self._deliver_in_shape_of(None)

    def _deliver_in_shape_of(self, upcast: Upcast | None) -> Upcast | None:
        """Have the next events turned into a shape by `upcast`; return what did so before."""
        before, self._upcast = self._upcast, upcast
        if before is not upcast:
            self._exclusively(self._leave_piece)  # its events are in the former shape
        return before

    # --- taking events

    def __iter__(self) -> Iterator[Event]:
        """Iterate until `to`, `idle`, `timeout` or `stop` ends it, or without `follow` to the log's end."""
        while True:
            event = self.next_event(self._idle_seconds)
            if event is None:
                self._exclusively(self._save)  # here, because the program may never call `close`
                return
            yield event
            yield from self.events_at_hand(saves=True)

    def __next__(self) -> Event:
        event = self.next_event(self._idle_seconds)
        if event is None:
            self._exclusively(self._save)
            raise StopIteration
        return event

    def next_event(self, timeout_seconds: float | None = None) -> Event | None:
        """Return the next event that matches; this acknowledges the one before.

        Args:
            timeout_seconds: how long to wait for it; 0 takes only what is there, None waits without a limit.
                Without `follow` it never waits. A server that does not answer is waited for as its URL says.

        Returns:
            The event, or None when none came in time, after `stop` or `close`, or at the end: that of `to`,
            or without `follow` of the log.

        Raises:
            StoreClosed: the store was closed.
            StoreNotFound, StoreReplaced: the store was removed; another one is in its place.
            CorruptionError: committed events are damaged; those before them were delivered.
            StoreIOError: the disk failed.
            InvalidArgument: another thread takes events, or the time is not a number.
            What an upcaster raises: the event is not delivered, and the next call begins with it.
        """
        self._begin_taking()
        try:
            if self._checkpoint is not None:
                self._check_process()
                if time.monotonic() >= self._save_due:
                    self.acknowledge()
                    self._exclusively(self._save)
            event = self.next_at_hand()  # most events are; this takes no mutex
            return event if event is not None else self._exclusively(self._next_event, timeout_seconds)
        finally:
            self._taker = None

    def _begin_taking(self) -> None:
        thread = threading.get_ident()
        if self._taker not in (None, thread) and self._process == os.getpid():
            raise InvalidArgument(
                "another thread takes the events of this subscription", "hand them over, or use shards"
            )
        self._taker = thread

    def _next_event(self, timeout_seconds: float | None) -> Event | None:
        self._check_process()
        deadline = self._deadline
        if timeout_seconds is not None:
            if not hasattr(timeout_seconds.__class__, "__float__") or not timeout_seconds < 0:  # that is over
                (timeout_seconds,) = check_seconds(timeout_seconds=timeout_seconds)
            deadline = min(deadline, time.monotonic() + timeout_seconds)
        while not self._stopped:
            event = self._next_ready()
            if event is not None:
                self._handed = event
                return event
            self._scanned = max(self._scanned, self._piece_end)
            if self._begin_piece():
                continue
            if self._is_at_end() or not self._wait(deadline):
                break
        self.check_store()
        return None

    def next_at_hand(self) -> Event | None:
        """Return the next event that matches, if it was read already; this acknowledges the one before.

        It never reads the log and never waits, so None only means that `next_event` must be called. It saves
        no checkpoint: a caller that handles several events at once may still `close` before the first of
        them.

        Raises:
            CorruptionError: as `next_event`.
        """
        if self._handed is not None:
            self._scanned = self._handed[0]
            self._handed = None
        if self._stopped:
            return None
        event = self._handed = self._next_ready()
        return event

    def events_at_hand(self, *, saves: bool = False) -> Iterator[Event]:
        """Iterate over what `next_at_hand` returns; faster than calling it for each event.

        Args:
            saves: save the checkpoint about once a second.

        Raises:
            CorruptionError, InvalidArgument: as `next_event`.
        """
        self._begin_taking()
        try:
            self.acknowledge()
            saves = saves and self._checkpoint is not None
            if self._stopped:
                return
            for event in self._ready:
                self._handed = event
                yield event
                if self._handed is not event or self._stopped:  # acknowledged, parked or stopped meanwhile
                    return
                self._scanned = event[0]
                self._handed = None
                if saves and time.monotonic() >= self._save_due:
                    self._exclusively(self._save)
        except GeneratorExit:
            raise
        except BaseException:  # damage, or a signal's handler: the rest of the piece is not scanned
            self._leave_piece()
            raise
        finally:
            self._taker = None

    def acknowledge(self) -> None:
        """Acknowledge the last delivered event: the checkpoint may pass it."""
        if self._handed is not None:
            self._scanned = self._handed[0]
            self._handed = None

    def park(self, event: Event, error: str, attempts: int = 1, *, is_last: bool = True) -> None:
        """Set the last delivered event aside with its error, durably, and continue without it.

        Args:
            is_last: if false, it may be an earlier one, and those after it are not handled yet.

        Raises:
            InvalidArgument: the run has no name or is closed, or it is another event.
            StoreClosed: the store was closed.
        """
        if self._checkpoint is None:
            raise InvalidArgument("only a named subscription can park an event; give it a name")
        self._check_process()
        if is_last:
            self._exclusively(self._park, self._checkpoint, event, error, attempts)
        else:
            self._exclusively(self._as_handed, event, self._park, self._checkpoint, event, error, attempts)

    def _as_handed(self, event: Event, call: Callable[..., object], *arguments: Any) -> None:
        """Call a method as if the event were the last one delivered, although later ones were taken."""
        handed, scanned = self._handed, self._scanned
        self._handed = event
        try:
            call(*arguments)
        finally:
            self._scanned = max(self._scanned, scanned)
            if handed is not event:
                self._handed = handed

    def _park(self, checkpoint: CheckpointStore, event: Event, error: str, attempts: int) -> None:
        self.check_store()
        if self._closed:
            raise InvalidArgument("the run is closed; park an event before that")
        if self._handed is None or self._handed[0] != event[0]:
            raise InvalidArgument(f"position {event[0]} is not the last delivered event; park that one")
        checkpoint.park(event, error, attempts)
        self.acknowledge()
        self._save()  # what is parked need not be handled again

    def consume(
        self,
        handler: Callable[..., object],
        *,
        retries: int = 3,
        retry_delay: float | None = None,
        on_failure: OnFailure = "stop",
        in_transaction: bool = False,
    ) -> None:
        """Call the handler with every event, as `EventStore.consume`; returns soon after `stop`.

        The event that is being handled then is handled to its end. If its handler has failed, it is not tried
        again. An event whose handler failed last is not acknowledged: the next call or run begins with it.

        Raises:
            As `EventStore.consume`.
        """
        check_handling(handler, retries, retry_delay, on_failure, in_transaction=in_transaction)
        if on_failure == "park" and self._checkpoint is None:
            raise InvalidArgument("only a named subscription can park an event; give it a name")
        upcast = self._deliver_in_shape_of(None)
        try:
            self._consume(upcasting(handler, upcast), retries, retry_delay, on_failure, in_transaction)
        finally:
            self._exclusively(self._give_back)
            self._deliver_in_shape_of(upcast)

    def _give_back(self) -> None:
        """Have an event that was not acknowledged delivered again."""
        if self._handed is not None:
            self._handed = None
            self._leave_piece()

    def _consume(
        self,
        handler: Callable[..., object],
        retries: int,
        delay_seconds: float | None,
        on_failure: OnFailure,
        in_transaction: bool,
    ) -> None:
        def handle(event: Event) -> None:
            with self.transaction() as connection:
                call(handler, event, connection)

        if in_transaction:
            with self.transaction():
                pass  # refused at once where there is none, and not as a failure of the first event
        tried = handle if in_transaction else handler
        for event in self:
            failure = attempt(tried, event, retries, delay_seconds=delay_seconds, rest=self.rest)
            if failure is None:
                continue
            if failure.attempts < retries:  # stopped
                return
            if on_failure == "stop":
                raise failure.error
            self.park(event, describe_error(failure.error), failure.attempts)

    def rest(self, seconds: float) -> bool:
        """Wait for some seconds, but only until `stop`; return whether it was called.

        Raises:
            StoreClosed: the store was closed.
        """
        if not self._running.acquire(timeout=seconds):
            return False
        self._wake_rest()
        self.check_store()
        return True

    def check_store(self) -> None:
        """Raise StoreClosed if the run was closed with its store."""
        if self._store_closed:
            raise StoreClosed(self._engine.address)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Begin a transaction of the store's database: it saves the checkpoint with what the caller writes.

            for event in run:
                with run.transaction() as connection:
                    connection.execute("update totals set amount = amount + %s", (event.json()["amount"],))

        So each event takes effect exactly once, also after a crash. The connection is one of the engine's
        client (for PostgreSQL, psycopg). At the end of the block the transaction is committed with the
        checkpoint, durably, and every delivered event is acknowledged. A block may also take several events
        by `next_event`. If the block raises, the transaction is rolled back. The last event that was
        delivered before the block stays delivered and can be tried in another transaction; events that the
        block took are delivered again.

        Raises:
            InvalidArgument: the run has no name.
            Unsupported: the engine has no such transactions: the directory, for example.
            SubscriptionBusy: the run has lost its name to another one.
        """
        checkpoint = self._checkpoint
        if checkpoint is None:
            raise InvalidArgument("only a named subscription has a checkpoint; give it a name")
        self._check_process()
        with self._mutex:  # until the transaction ends, no other thread can use the run
            if self._closed or self._transaction is not None:
                raise InvalidArgument("the run is closed, or in a transaction already; use one at a time")
            connection = checkpoint.begin(self._saved)
            self._transaction = self._handed, self._scanned
            error: BaseException | None = None
            try:
                yield connection
            except BaseException as failure:
                error = failure
                raise
            finally:
                self._end_transaction(checkpoint, error)

    def _end_transaction(self, checkpoint: CheckpointStore, error: BaseException | None) -> None:
        """Commit a transaction with the checkpoint, or roll it back if there is an error."""
        assert self._transaction is not None
        handed, scanned = self._transaction
        has_taken_none = self._handed is handed
        is_committed = False
        try:
            try:
                if error is None:
                    self.acknowledge()
                    checkpoint.save(checkpoint_at(self._engine, self.position, kept(self._filter)))
            except BaseException as failure:
                error = failure
                raise
            finally:
                checkpoint.end(error)
            is_committed = error is None
        finally:
            self._transaction = None
            if is_committed:
                self._saved = self.position
            else:
                self._handed, self._scanned = handed if has_taken_none else None, scanned
                if not has_taken_none:
                    self._leave_piece()
            self._close_if_wanted()

    # --- ending

    def stop(self) -> None:
        """End the iteration after the event that is being handled; from any thread or signal handler."""
        self._stopped = True
        self._wake_rest()
        self._feed.wake()

    def _wake_rest(self) -> None:
        try:
            self._running.release()
        except RuntimeError:
            pass  # it is free since an earlier call

    def save(self) -> None:
        """Save the checkpoint now, durable when this returns; a run without a name has none."""
        if self._checkpoint is None or self._process != os.getpid():
            return
        self._exclusively(self._save, True)

    def close(self) -> None:
        """End the run: save the checkpoint without an event that was not acknowledged, and free the name.

        In a forked child this does nothing: the run is the parent's.

        Raises:
            StoreFull, StoreIOError: the checkpoint could not be saved; the last events will come again.
        """
        if self._process != os.getpid():
            return
        self.stop()  # so that a thread that waits for events releases the mutex
        with self._mutex:
            self._close_wanted = True
            self._close_if_wanted()

    def _close_if_wanted(self) -> None:
        # A signal handler may have interrupted a method of this thread, which then closes at its end.
        if self._close_wanted and not self._inside and self._transaction is None:
            self._close()

    def _close(self) -> None:
        if self._closed:
            return
        try:
            self._save_and_release()
        finally:
            self._closed = True
            self._leave_piece()
            self._feed.close()

    def _is_hurried(self) -> bool:
        """Return whether an interrupt ends the run, which must not wait for a server that does not answer."""
        error = sys.exception()
        is_interrupt = error is not None and not isinstance(error, Exception | GeneratorExit)
        return is_interrupt and self._engine.capabilities.engine != "directory"

    def _save_and_release(self) -> None:
        checkpoint = self._checkpoint
        if checkpoint is None:
            return

        def end() -> None:
            try:
                self._save(durably=True)
            finally:
                checkpoint.release()

        if not self._is_hurried():
            end()
            return
        try:
            interruptible(end, _HURRY_SECONDS)
        except TimeoutError:
            pass  # the last events come again, and the server frees the name of a run that has ended

    def close_with_store(self) -> None:
        """Close the run because its store is closed: a thread that iterates gets StoreClosed."""
        self._store_closed = True
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exclusively(self, call: Callable[..., _T], *arguments: Any) -> _T:
        """Call a method with the mutex, then close the run if a signal handler asked for it meanwhile."""
        with self._mutex:
            try:
                self._inside = True
                return call(*arguments)
            finally:
                self._inside = False
                self._close_if_wanted()

    # --- the checkpoint

    def _save(self, durably: bool = False) -> None:
        checkpoint, position = self._checkpoint, self.position
        if checkpoint is None or self._closed or self._transaction is not None:
            return
        self._save_due = time.monotonic() + _SAVE_SECONDS
        if position != self._saved:
            self._feed.make_durable(position)  # a checkpoint must not outlive the events that it has passed
            try:
                checkpoint.save(checkpoint_at(self._engine, position, kept(self._filter)))
            except StoreFull:
                if durably:
                    raise
                return  # tried again in a second: until then events may come again
            self._saved = position
        if durably:
            checkpoint.sync()

    def _wait(self, deadline: float) -> bool:
        """Wait for new events; save the checkpoint when it is due. False at the deadline."""
        now = time.monotonic()
        until = deadline
        if self._checkpoint is not None and self.position != self._saved:
            if now >= self._save_due:
                self._save()
            else:
                until = min(deadline, self._save_due)
        if until <= now:
            return until < deadline
        return self._feed.wait(self._scanned, until - now) or (until < deadline and not self._stopped)

    # --- reading

    def _next_ready(self) -> Event | None:
        try:
            return next(self._ready, None)
        except BaseException:  # damage, or a signal's handler: the rest of the piece is not scanned
            self._leave_piece()
            raise

    def _is_at_end(self) -> bool:
        return not self._follow or (self._end is not None and self._scanned >= self._end)

    def _begin_piece(self) -> bool:
        """Begin with the next piece of the log; False if nothing is committed beyond what was scanned."""
        committed = self._feed.committed(self._scanned)
        if self._follow and time.monotonic() >= self._deadline:
            self._follow = False  # the end is fixed now: a run that is slower than the writers had none
            self._end = committed if self._end is None else min(self._end, committed)
        high = min(committed, self._scanned + _PIECE_EVENTS)
        if self._end is not None:
            high = min(high, self._end)
        if high <= self._scanned:
            return False
        self._piece_end = high
        self._ready = self._feed.read(self._scanned, high)
        if self._takes is not None:
            self._ready = filter(self._takes, self._ready)
        self._ready = upcast_all(self._ready, self._upcast)
        return True

    def _leave_piece(self) -> None:
        """Give up the rest of a piece whose iterator failed; the next piece begins after the scanned part."""
        self._ready = iter(())
        self._piece_end = self._scanned

    def _check_process(self) -> None:
        """In a forked child refuse a named run, which is the parent's; let a run without a name continue."""
        if self._process == os.getpid():
            return
        if self.name is not None:
            raise SubscriptionBusy(self.name)
        self._process = os.getpid()
        self._mutex = threading.RLock()  # a thread of the parent may have held it
        self._feed = self._engine.follow(self._filter)
        self._leave_piece()


def _nothing() -> None:
    return None


def kept(filter: EventFilter) -> EventFilter:
    """Return what a checkpoint keeps of a filter: not the times, which only say where a first run begins."""
    if filter.since_us is filter.until_us is None and not filter.include_system:
        return filter
    return filter.replace(since_us=None, until_us=None, include_system=False)


def checkpoint_at(engine: Engine, position: int, filter: EventFilter | None) -> Checkpoint:
    """Return the checkpoint for a scanned position: at the last event up to there, with its id.

    A compaction leaves gaps. With no event at its position, a checkpoint could not distinguish its own log
    from an older copy that has grown since.
    """
    event = next(engine.read_all(LogSelection.last(position)), None)
    if event is None:
        return Checkpoint(0, None, filter)
    return Checkpoint(event.position, event.id_bytes, filter)
