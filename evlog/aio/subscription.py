"""Following the log from a task: one thread waits for events, and tasks wait for the thread.

1. The thread takes what is there, up to some hundred events at once; the task gets them one by one.
2. An event is acknowledged when the next one is asked for, as with `Subscription`; a checkpoint never passes
   an event that was not.
3. A task that is cancelled while it waits loses nothing: the next task that asks gets the events that the
   thread finds. `close`, or the end of `async with`, wakes the thread and ends it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from evlog.aio.workers import Workers
from evlog.errors import InvalidArgument, StoreFull
from evlog.subscriptions.retry import (
    MAX_SLEEP_SECONDS,
    Failure,
    WrongHandler,
    check_handling,
    describe_error,
    pauses,
    refuse_unrun,
    upcasting,
)

if TYPE_CHECKING:
    from typing import Self

    from evlog.model.events import Event, Upcast
    from evlog.model.types import OnFailure
    from evlog.subscriptions.run import Subscription

_EVENTS_AT_ONCE: Final = 256
BYTES_AT_ONCE: Final = 1 << 20  # of data that is read ahead; one event more can be taken
_SAVE_SECONDS: Final = 1.0


def _take_notice(asked: asyncio.Future[None]) -> None:
    """Have asyncio not report an error as lost: the next task that asks gets it."""
    if not asked.cancelled():
        asked.exception()


class _Follower:
    """The thread's side: the run, and the events taken from it. One thread calls its methods, in turn."""

    def __init__(self, begin: Callable[[], Subscription], idle_seconds: float | None) -> None:
        self._begin = begin
        self._idle_seconds = idle_seconds
        self.run: Subscription | None = None  # set once, by the thread
        self._upcast: Upcast | None = None  # what `take_upcast` has taken
        self.stopped = False  # set by any thread, never cleared
        # Written by the thread while the task waits for it, else by the task.
        self.taken: list[Event] = []  # by the last `take`
        self.next = 0  # the next of these that is delivered to the task
        self.handed: Event | None = None  # delivered, not acknowledged; written by the task alone
        # Parked last; written by the thread. The task may have been cancelled, and may have a later event.
        self.parked: Event | None = None

    def undone(self) -> Event | None:
        """Return the first event that was taken and not acknowledged, which no checkpoint may pass."""
        handed, parked = self.handed, self.parked
        if handed is not None and handed is not parked:
            return handed
        following = self.taken[self.next : self.next + 2]  # the first may be parked, and was given back
        return next((event for event in following if event is not parked), None)

    def give_back(self) -> None:
        """Have an event that was not acknowledged delivered again; for the task."""
        if self.handed is not None:
            self.next -= 1  # before the next line: at each moment `undone` returns the event
            self.handed = None

    def _begun(self) -> Subscription:
        run = self.run
        if run is None:
            run = self._begin()
            run.hold_at(self.undone)
            self.run = run
            if self.stopped:  # meanwhile, by a thread that did not see the run
                run.stop()
        return run

    def take_upcast(self) -> Upcast | None:
        upcast = self._begun().take_upcast()
        if upcast is not None:
            if self.undone() is not None:  # in today's shape already, when `consume` would make it so
                raise InvalidArgument("consume comes after events were taken", "begin another run for it")
            self._upcast = upcast
        return self._upcast

    def take(self) -> None:
        """Wait for an event; take it and others read with it. None at the end, or after `stop`."""
        run = self._begun()
        self.taken, self.next = [], 0
        event = run.next_event(self._idle_seconds)
        if event is None:
            self.save()
        left = BYTES_AT_ONCE
        try:
            while event is not None:
                self.taken.append(event)
                left -= len(event[7])
                event = run.next_at_hand() if left > 0 and len(self.taken) < _EVENTS_AT_ONCE else None
        except Exception:  # noqa: BLE001, S110 - the events before come first; the next call raises it again
            pass

    def save(self) -> None:
        assert self.run is not None
        try:
            self.run.save()
        except StoreFull:
            pass  # tried again in a second: until then events may come again

    def park(self, event: Event, error: str, attempts: int) -> None:
        assert self.run is not None
        self.run.park(event, error, attempts, is_last=False)
        self.parked = event
        self.save()  # what is parked need not be handled again

    def rest(self, seconds: float) -> bool:
        assert self.run is not None
        return self.run.rest(min(seconds, MAX_SLEEP_SECONDS))

    def close(self) -> None:
        if self.run is None:
            return
        if self.undone() is None:
            self.run.acknowledge()
        self.run.close()

    def stop(self) -> None:
        self.stopped = True
        if (run := self.run) is not None:
            run.stop()


class AsyncSubscription:
    """A run over the events that match, live. Made by `AsyncStore.subscribe`.

    An async iterator, and an async context manager that closes it. For one task at a time; `stop` may be
    called by any thread or signal handler.
    """

    def __init__(self, begin: Callable[[], Subscription], name: str | None, idle: float | None) -> None:
        self.name = name
        # Neither the follower nor its thread knows this object, so it can be collected while they wait.
        self._follower = _Follower(begin, idle)
        self._worker = Workers(1, "evlog-subscription")
        self._asked: asyncio.Future[None] | None = None  # the thread's present `take`
        self._save_due = time.monotonic() + _SAVE_SECONDS
        self._is_awaited = False  # whether a task is in `__anext__`
        self._closing: asyncio.Future[None] | None = None

    @property
    def position(self) -> int:
        """The last position that was scanned, matched or not, and acknowledged; 0 before the first wait."""
        run = self._follower.run
        return 0 if run is None else run.position

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Return the next event; this acknowledges the one before.

        Raises:
            StopAsyncIteration: at the end, when the time is over, or after `stop` or `close`.
            InvalidArgument: another task waits for the next event.
            As `EventStore.subscribe` and `Subscription.next_event`.
        """
        if self._is_awaited:
            raise InvalidArgument(
                "another task takes the events of this subscription", "hand them over, or use shards"
            )
        self._is_awaited = True
        follower = self._follower
        try:
            follower.handed = None
            is_due = self._asked is not None or follower.next == len(follower.taken)
            if is_due and not follower.stopped:
                await self._take()
            elif self.name is not None and time.monotonic() >= self._save_due:
                self._save_due = time.monotonic() + _SAVE_SECONDS
                await self._worker.submit(follower.save)
        finally:
            self._is_awaited = False
        if follower.stopped or not follower.taken:
            raise StopAsyncIteration
        assert follower.run is not None
        follower.run.check_store()  # when it was closed, the checkpoint was saved for the last time
        event = follower.handed = follower.taken[follower.next]
        follower.next += 1
        return event

    async def _take(self) -> None:
        """Wait until the thread has taken events, or has found the end."""
        if self._asked is None:
            self._asked = self._worker.submit(self._follower.take)
            self._asked.add_done_callback(_take_notice)
        asked = self._asked
        await asyncio.wait([asked])  # a task that is cancelled here leaves it to the next one that asks
        self._asked = None
        asked.result()

    async def consume(
        self,
        handler: Callable[[Event], object],
        *,
        retries: int = 3,
        retry_delay: float | None = None,
        on_failure: OnFailure = "stop",
    ) -> None:
        """Await the handler with every event, as `AsyncStore.consume`; returns soon after `stop`.

        As `Subscription.consume`. In a store with upcasters no event of the run may have been taken before,
        and the run is for further calls of this afterwards.
        """
        check_handling(handler, retries, retry_delay, on_failure)
        if on_failure == "park" and self.name is None:
            raise InvalidArgument("only a named subscription can park an event; give it a name")
        handler = upcasting(handler, await self._worker.submit(self._follower.take_upcast))
        try:
            async for event in self:
                failure = await self._attempt(handler, event, retries, retry_delay)
                if failure is None:
                    continue
                if failure.attempts < retries:  # stopped
                    return
                if on_failure == "stop":
                    raise failure.error
                await self.park(event, describe_error(failure.error), failure.attempts)
        finally:
            self._follower.give_back()

    async def _attempt(
        self, handler: Callable[[Event], object], event: Event, retries: int, delay_seconds: float | None
    ) -> Failure | None:
        """Await the handler until it returns, with pauses. As `evlog.subscriptions.retry.attempt`."""
        attempts = 0
        for pause_seconds in pauses(delay_seconds):
            try:
                result = handler(event)
                if isinstance(result, Awaitable):
                    await result
                else:
                    refuse_unrun(result)
                return None
            except WrongHandler:
                raise
            except Exception as error:  # noqa: BLE001 - the caller decides what a failure means
                attempts += 1
                failure = Failure(error, attempts)
            if attempts >= retries or await self._worker.submit(self._follower.rest, pause_seconds):
                return failure
        raise AssertionError("pauses do not end")

    async def park(self, event: Event, error: str, attempts: int = 1) -> None:
        """Set the last delivered event aside with its error, durably. As `Subscription.park`."""
        handed = self._follower.handed
        if handed is None or handed[0] != event[0]:
            raise InvalidArgument(f"position {event[0]} is not the last delivered event; park that one")
        await self._worker.submit(self._follower.park, handed, error, attempts)
        self._follower.handed = None

    def acknowledge(self) -> None:
        """Acknowledge the last delivered event: the checkpoint may pass it."""
        self._follower.handed = None

    def stop(self) -> None:
        """End the iteration after the event that is being handled; from any thread or signal handler."""
        self._follower.stop()

    async def close(self) -> None:
        """End the run: save the checkpoint without an event that was not acknowledged, and free the name.

        A task that is cancelled meanwhile does not keep it from ending.

        Raises:
            As `Subscription.close`.
        """
        if self._closing is None:
            self.stop()
            self._closing = self._worker.submit(self._follower.close)
            self._worker.stop()  # after that
        # Without a name nothing is saved. The kernel takes 10 ms and more to close a watch: a task that was
        # cancelled does not wait for it.
        if self.name is not None:
            await asyncio.wait([self._closing])  # a task that is cancelled here does not take it back
            self._closing.result()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __del__(self) -> None:
        if hasattr(self, "_follower"):
            self._follower.stop()  # so that the thread ends: it may wait for events that no task will ask for
