"""AsyncStore: an `EventStore` for the tasks of an event loop. Read this first.

1. Appends and reads are calls of the store in threads, a few dozen at most. Appends of several tasks at once
   share one sync of the log, as those of several threads do.
2. A subscription has a thread of its own, which waits as `Subscription` does: woken, not polling.
3. A task that is cancelled stops at once. An append that had begun continues, so it may or may not be in the
   log, as after a lost connection. A retry with the same ids makes sure that it is.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from functools import partial, update_wrapper
from itertools import islice
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

from evlog.aio.subscription import BYTES_AT_ONCE, AsyncSubscription
from evlog.aio.workers import Workers
from evlog.model.arguments import check_seconds
from evlog.model.checkpoints import check_kept_name
from evlog.store import EventStore, pauses_until
from evlog.store import open as open_store
from evlog.subscriptions.retry import check_handling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping
    from datetime import datetime
    from typing import Self
    from uuid import UUID

    from evlog.model.events import Event
    from evlog.model.types import OnFailure

_T = TypeVar("_T")
_P = ParamSpec("_P")

_THREADS: Final = 32
_FIRST_EVENTS: Final = 32
_EVENTS_AT_ONCE: Final = 1024


async def open(
    path: str | os.PathLike[str], create: bool = False, *, threads: int = _THREADS, **options: Any
) -> AsyncStore:
    """Open a store for the tasks of the running event loop. Arguments and errors are those of `evlog.open`.

    Args:
        threads: at most this many calls run at the same time; others wait in line.
        options: the other arguments of `evlog.open`.
    """
    workers = Workers(threads, "evlog")
    try:
        store = await workers.submit(open_store, path, create, **options)
    except BaseException:
        workers.stop()
        raise
    return AsyncStore(store, workers)


def _with_parameters_of(
    method: Callable[Concatenate[EventStore, _P], object],
) -> Callable[[Callable[..., _T]], Callable[Concatenate[AsyncStore, _P], _T]]:
    """Return a decorator: for type checkers and `help`, a method takes what a method of EventStore takes."""

    def decorate(function: Callable[..., _T]) -> Callable[Concatenate[AsyncStore, _P], _T]:
        returned = inspect.signature(function).return_annotation
        signature = inspect.signature(method).replace(return_annotation=returned)
        function.__signature__ = signature  # type: ignore[attr-defined]
        return function

    return decorate


def _in_thread(
    method: Callable[Concatenate[EventStore, _P], _T],
) -> Callable[[Callable[..., None]], Callable[Concatenate[AsyncStore, _P], Coroutine[Any, Any, _T]]]:
    """Return a decorator: a method with a docstring calls one of EventStore, of the same name, in a thread.

    Type checkers relate the arguments to the result, as they do for the method itself.
    """

    def decorate(
        function: Callable[..., None],
    ) -> Callable[Concatenate[AsyncStore, _P], Coroutine[Any, Any, _T]]:
        async def call(self: AsyncStore, /, *arguments: _P.args, **options: _P.kwargs) -> _T:
            return await self._workers.submit(getattr(self.store, method.__name__), *arguments, **options)

        update_wrapper(call, function).__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
        return call

    return decorate


class AsyncStore:
    """An open store, for the tasks of one event loop. Made by `evlog.aio.open`; `async with` closes it.

    Attributes:
        store: the `EventStore`; its other methods are called by `call`.
    """

    def __init__(self, store: EventStore, workers: Workers) -> None:
        self.store = store
        self._workers = workers
        self._closing: asyncio.Future[None] | None = None

    async def call(self, function: Callable[_P, _T], /, *arguments: _P.args, **options: _P.kwargs) -> _T:
        """Call anything that blocks in one of the threads, e.g. `await store.call(store.store.info)`."""
        return await self._workers.submit(function, *arguments, **options)

    # --- appending

    @_in_thread(EventStore.append)
    def append(self) -> None:
        """Append events to one stream, all of them or none; durable when this returns.

        Arguments and errors are those of `EventStore.append`. A task that is cancelled meanwhile does not
        know whether they were appended: give the events ids, or idempotency keys, where that matters.
        """

    @_in_thread(EventStore.append_many)
    def append_many(self) -> None:
        """Append to several streams, all of it or nothing. As `EventStore.append_many`."""

    @_in_thread(EventStore.transact)
    def transact(self) -> None:
        """Read, decide, append. As `EventStore.transact`; `decide` is called in a thread."""

    # --- reading

    @_with_parameters_of(EventStore.read)
    def read(self, *arguments: Any, **options: Any) -> AsyncIterator[Event]:
        """Iterate over the visible events of one stream. As `EventStore.read`; errors come with an event."""
        return self._iterate(self.store.read, *arguments, **options)

    @_with_parameters_of(EventStore.read_all)
    def read_all(self, *arguments: Any, **options: Any) -> AsyncIterator[Event]:
        """Iterate over the events of all streams. As `EventStore.read_all`; errors come with an event."""
        return self._iterate(self.store.read_all, *arguments, **options)

    async def _iterate(
        self, read: Callable[..., Iterator[Event]], *arguments: Any, **options: Any
    ) -> AsyncIterator[Event]:
        """Read some events at a time, each time in a thread."""
        events = await self._workers.submit(read, *arguments, **options)
        count = _FIRST_EVENTS
        while True:
            some, is_end, error = await self._workers.submit(_take, events, count)
            for event in some:
                yield event
            if error is not None:
                raise error
            if is_end:
                return
            count = _EVENTS_AT_ONCE

    @_in_thread(EventStore.last)
    def last(self) -> None:
        """Return the last visible event of a stream. As `EventStore.last`."""

    @_in_thread(EventStore.query)
    def query(self) -> None:
        """Return the events that a query selects. As `EventStore.query`."""

    @_in_thread(EventStore.state)
    def state(self) -> None:
        """Fold events into a state. As `EventStore.state`; `fold` is called in a thread."""

    # --- following

    @_with_parameters_of(EventStore.subscribe)
    def subscribe(self, name: str | None = None, **options: Any) -> AsyncSubscription:
        """Follow the log. As `EventStore.subscribe`, which is called, and may fail, at the first event.

        Use it in `async with`, or close it: this saves the checkpoint of a name, and frees the name.
        """
        return AsyncSubscription(partial(self.store.subscribe, name, **options), name, options.get("idle"))

    async def consume(
        self,
        name: str,
        handler: Callable[[Event], object],
        *,
        after: int | None = None,
        stream: str | None = None,
        category: str | None = None,
        types: Collection[str] | None = None,
        tags: Collection[str] | None = None,
        correlation: UUID | str | None = None,
        metadata: Mapping[str, object] | None = None,
        grep: str | Collection[str] | None = None,
        since: datetime | None = None,
        to: int | None = None,
        follow: bool = True,
        idle: float | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - that of the subscription, as in EventStore
        shard: tuple[int, int] | None = None,
        retries: int = 3,
        retry_delay: float | None = None,
        on_failure: OnFailure = "stop",
    ) -> None:
        """Await the handler with every event of a named subscription: at least once, in order.

        As `EventStore.consume`. If the task is cancelled, the event that is being handled is not
        acknowledged: the next run begins with it.

        Args:
            handler: an async function. What an ordinary function does, it does in the event loop, and so do
                upcasters here: they must not block.
        """
        check_kept_name(name)
        check_handling(handler, retries, retry_delay, on_failure)
        async with self.subscribe(
            name,
            after=after,
            stream=stream,
            category=category,
            types=types,
            tags=tags,
            correlation=correlation,
            metadata=metadata,
            grep=grep,
            since=since,
            to=to,
            follow=follow,
            idle=idle,
            timeout=timeout,
            shard=shard,
        ) as subscription:
            await subscription.consume(
                handler, retries=retries, retry_delay=retry_delay, on_failure=on_failure
            )

    @_with_parameters_of(EventStore.wait_for)
    async def wait_for(self, *arguments: Any, **options: Any) -> bool:
        """Wait until a snapshot has come to a position. As `EventStore.wait_for`; no thread waits."""
        return await self._wait_until(self.store.wait_for, *arguments, **options)

    @_with_parameters_of(EventStore.wait_for_subscription)
    async def wait_for_subscription(self, *arguments: Any, **options: Any) -> bool:
        """Wait until a subscription has come to a position, without a thread that waits.

        As `EventStore.wait_for_subscription`.
        """
        return await self._wait_until(self.store.wait_for_subscription, *arguments, **options)

    async def _wait_until(self, look: Callable[..., bool], *arguments: Any, **options: Any) -> bool:
        """Look again until it is true; between two looks the threads are free for other calls."""
        pauses = pauses_until(*check_seconds(timeout=options.pop("timeout", None)))
        while not await self._workers.submit(look, *arguments, **options, timeout=0):
            pause_seconds = next(pauses, None)
            if pause_seconds is None:
                return False
            await asyncio.sleep(pause_seconds)
        return True

    # --- ending

    async def close(self) -> None:
        """Close the store and end its subscriptions; tasks that wait for events get StoreClosed.

        It also ends calls that wait in line. A task that is cancelled meanwhile does not keep it open.
        """
        if self._closing is None:
            self._workers.stop()
            # A thread of its own: all others may be in calls that wait for other processes.
            closer = Workers(1, "evlog")
            self._closing = closer.submit(self.store.close)
            closer.stop()
        await asyncio.wait([self._closing])
        self._closing.result()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncStore of {self.store!r}>"


def _take(events: Iterator[Event], count: int) -> tuple[list[Event], bool, Exception | None]:
    """Return the next events, whether there are no more, and what was raised after them."""
    some: list[Event] = []
    add, left = some.append, BYTES_AT_ONCE
    try:
        for event in islice(events, count):
            add(event)
            left -= len(event[7])
            if left <= 0:
                return some, False, None
    except Exception as error:  # noqa: BLE001 - the events before it come first
        return some, True, error
    return some, len(some) < count, None
