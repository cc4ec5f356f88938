"""Threads that make blocking calls for the tasks of one event loop.

1. A thread starts when a call finds none that is free, up to a limit; further calls wait in line.
2. A task that is cancelled stops waiting at once. A call that has not begun is dropped, one that has begun
   runs to its end, and its result is dropped. Until then its thread is not free.
3. After `stop` each call has a thread of its own, which ends with it: a call of a closed store fails as it
   should.
4. A call has the context variables of its task, as with `asyncio.to_thread`: what `decide` or a fold asks
   for may be in one.
5. Results of calls that end close together wake the loop once. A pool of `concurrent.futures` wakes the loop
   for each result, so an append takes 1.5 times as much processor time with it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from evlog.errors import InvalidArgument
from evlog.process.threads import without_signals

_T = TypeVar("_T")


class _Call(NamedTuple):
    future: asyncio.Future[Any]
    context: Context
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]


class Workers:
    """Threads for the event loop that is running now; every method but `run_all` is called in it.

    Args:
        limit: at most this many threads.
        name: of the threads, for a debugger.
    """

    def __init__(self, limit: int, name: str) -> None:
        self.loop = asyncio.get_running_loop()
        self._limit = limit
        self._name = name
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._results = _Results(self.loop)
        self._threads = 0  # those that `stop` has to end
        self._stopped = False

    def submit(self, function: Callable[..., _T], /, *arguments: Any, **options: Any) -> asyncio.Future[_T]:
        """Have a thread call the function; return the future of its result.

        Raises:
            InvalidArgument: another event loop is running. Its tasks would wait without end.
            RuntimeError: the system starts no thread now, and there is none that could make the call.
        """
        if asyncio.get_running_loop() is not self.loop:
            raise InvalidArgument("the store was opened in another event loop", "open it in this one, too")
        future: asyncio.Future[_T] = self.loop.create_future()
        results = self._results
        call = _Call(future, copy_context(), function, arguments, options)
        if self._stopped:
            calls: SimpleQueue[_Call | None] = SimpleQueue()  # the other one may wait for a blocked call
            calls.put(call)
            calls.put(None)
            self._start_thread(calls)
        else:
            if results.awaited >= self._threads and self._threads < self._limit:
                try:
                    self._start_thread(self._calls)
                    self._threads += 1
                except RuntimeError:
                    if not self._threads:
                        raise
            self._calls.put(call)
        results.awaited += 1
        return future

    def _start_thread(self, calls: SimpleQueue[_Call | None]) -> None:
        # A thread has no reference to this object, so the object can be collected while threads wait. A
        # daemon thread does not delay the exit of a program that forgot to close its store.
        thread = threading.Thread(target=_serve, args=(calls, self._results), name=self._name, daemon=True)
        without_signals(thread.start)

    def stop(self) -> None:
        """Have the threads end after the calls that they have."""
        self._stopped = True
        for _ in range(self._threads):
            self._calls.put(None)
        self._threads = 0

    def __del__(self) -> None:
        if hasattr(self, "_threads"):
            self.stop()


class _Results:
    """Results on their way from threads to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # Each operation is one step of C. A thread adds its result before it looks at the flag, and the loop
        # clears the flag before it takes results: none is left behind.
        self._done: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._is_coming = False
        self.awaited = 0  # how many calls there are whose results did not come yet; for the loop alone

    def add(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._done.append((future, result, error))
        if not self._is_coming:
            self._is_coming = True
            try:
                self._loop.call_soon_threadsafe(self._hand_out)
            except RuntimeError:
                pass  # the loop is closed, and with it every task that could ask for the result

    def _hand_out(self) -> None:
        self._is_coming = False
        while self._done:
            future, result, error = self._done.popleft()
            self.awaited -= 1
            if future.done():  # cancelled
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)


def _serve(calls: SimpleQueue[_Call | None], results: _Results) -> None:
    """Make calls until there is a None."""
    while (call := calls.get()) is not None:
        _make(call, results)
        del call  # nothing is kept alive while this waits for the next call


def _make(call: _Call, results: _Results) -> None:
    future, context, function, arguments, options = call
    if future.cancelled():
        return results.add(future, None, None)
    try:
        result = context.run(function, *arguments, **options)
    except BaseException as error:  # noqa: BLE001 - the task that waits for it gets it
        if isinstance(error, StopIteration):  # which a future refuses
            error = RuntimeError("a call for asyncio raised StopIteration")
        return results.add(future, None, error)
    return results.add(future, result, None)
