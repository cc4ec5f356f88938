"""Doing pieces of work on all cores: in this process, and in helpers beside it where that is worth it.

Processes, because most of the work is decoding, which holds the interpreter's lock. They are started afresh
rather than forked, which is safe in a program with threads, and need no guard around its main module. A
helper that dies is not missed: what it had to do is done here. They are no concern of the terminal's Ctrl-C,
and end when this process does, however it ends.
"""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Final, Self

# The package itself would bring all of evlog with it, and a helper is at work in a third of the time without.
_BOOT: Final = (
    "import sys; sys.path[:] = sys.argv[2:]; package = type(sys)('evlog'); package.__path__ = [sys.argv[1]]; "
    "sys.modules['evlog'] = package; from evlog.checking.workers import serve; serve()"
)
_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

Function = Callable[..., Any]


def core_count() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


Call = tuple[Function, tuple[Any, ...]]


class Workers:
    """This process and some helpers beside it; a context manager that ends them.

    Args:
        count: how many processes are to work, this one included; below two it works alone.
    """

    def __init__(self, count: int) -> None:
        self._helpers = [helper for _ in range(count - 1) if (helper := _maybe_start())]
        self._feeders: list[Thread] = []

    @property
    def count(self) -> int:
        """How many processes work."""
        return 1 + len(self._helpers)

    def run(self, function: Function, arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Call the function with each tuple of arguments; see `run_all`."""
        return self.run_all([(function, own) for own in arguments])

    def run_all(self, calls: Sequence[Call]) -> Iterator[tuple[int, Any]]:
        """Make the calls, about in their order; the place of each with its result, as they come.

        Args:
            calls: functions that a helper can import by their names, and their arguments; what these take and
                give can be pickled.
        """
        waiting = deque(enumerate(calls))
        results: SimpleQueue[tuple[int, bool, Any]] = SimpleQueue()
        self._feeders = [
            Thread(target=_feed, args=(helper, waiting, results), daemon=True) for helper in self._helpers
        ]
        for feeder in self._feeders:
            feeder.start()
        for _ in calls:
            at, done, result = self._next_result(waiting, results)
            if not done:  # should it fail here as well, the error is met where it can be handled
                function, arguments = calls[at]
                result = _without_collector(function, arguments)
            yield at, result
        self._join_feeders()
        for helper in [helper for helper in self._helpers if not helper.alive]:
            self._helpers.remove(helper)
            helper.end()

    def _next_result(
        self, waiting: deque[tuple[int, Call]], results: SimpleQueue[tuple[int, bool, Any]]
    ) -> tuple[int, bool, Any]:
        """A helper's result, or that of a call made here, or a helper's that has to be waited for."""
        try:
            return results.get_nowait()
        except Empty:
            pass
        try:
            at, (function, arguments) = waiting.popleft()
        except IndexError:
            return results.get()
        return at, True, _without_collector(function, arguments)

    def close(self) -> None:
        """End the helpers, whatever they are doing."""
        for helper in self._helpers:
            helper.kill()
        self._join_feeders()
        for helper in self._helpers:
            helper.end()
        self._helpers = []

    def _join_feeders(self) -> None:
        for feeder in self._feeders:
            feeder.join()
        self._feeders = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _feed(
    helper: _Helper, waiting: deque[tuple[int, Call]], results: SimpleQueue[tuple[int, bool, Any]]
) -> None:
    """Keep a helper busy as long as there is something to do."""
    while helper.alive:
        try:
            at, (function, arguments) = waiting.popleft()
        except IndexError:
            return
        results.put((at, *helper.call(function, arguments)))


class _Helper:
    """One helper process and the pipes to it and from it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.alive = True
        self._process = process
        self._tasks, self._results = process.stdin, process.stdout

    def call(self, function: Function, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
        """Whether the helper did it, and the result."""
        try:
            pickle.dump((function, arguments), self._tasks, pickle.HIGHEST_PROTOCOL)
            self._tasks.flush()
            done, result = pickle.load(self._results)  # noqa: S301 - this process started who wrote it
        except Exception:  # noqa: BLE001 - whatever came of it: it is lost, or said something senseless
            self.alive = False
            return False, None
        return done, result

    def kill(self) -> None:
        """Who waits for its answer is told that it is lost."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        self.kill()
        self._results.close()
        try:
            self._tasks.close()
        except OSError:
            pass  # what was on its way to the helper is of no use to anybody now


def _maybe_start() -> _Helper | None:
    """A helper, or None where no process can be started."""
    command = [sys.executable, "-c", _BOOT, _PACKAGE, *sys.path]
    try:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, with a constant program
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
        )
    except OSError:
        return None
    return _Helper(process)


def serve() -> None:
    """Be a helper: do what comes in on stdin until it ends."""
    tasks, results = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    gc.disable()  # nothing made here is a cycle, and there are millions of tuples to look through
    while True:
        try:
            function, arguments = pickle.load(tasks)  # noqa: S301 - from who started this process
        except EOFError:
            os._exit(0)
        try:
            answer = True, function(*arguments)
        except Exception:  # noqa: BLE001 - it will be met again where it can be handled
            answer = False, None
        try:
            pickle.dump(answer, results, pickle.HIGHEST_PROTOCOL)
            results.flush()
        except OSError:
            os._exit(0)


def _without_collector(function: Function, arguments: tuple[Any, ...]) -> Any:
    enabled = gc.isenabled()
    gc.disable()
    try:
        return function(*arguments)
    finally:
        if enabled:
            gc.enable()
