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
from importlib import import_module
from queue import Empty, SimpleQueue
from threading import Semaphore, Thread
from types import TracebackType
from typing import Any, Final, Self, TypeVar

if sys.platform == "linux":
    import fcntl

# The package itself would bring all of evlog with it, and a helper is at work in a third of the time without.
_BOOT: Final = (
    "import sys; _, package_path, module, *sys.path = sys.argv; package = type(sys)('evlog'); "
    "package.__path__ = [package_path]; sys.modules['evlog'] = package; "
    "from evlog.files.disk.processes import serve; serve(module)"
)
_PACKAGE: Final = os.path.abspath(f"{__file__}/../../..")
# Between two reads of a pipe the thread that reads waits for the interpreter's lock, often 5 ms, and the
# helper for room in the pipe: so it should hold a whole answer.
_PIPE_BYTES: Final = 1 << 20
_RESULTS_WAITING: Final = 4  # for each helper; more would fill the memory of who looks at them slowly

_T = TypeVar("_T")
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
        module: what the helpers import before they are called for the first time.
    """

    def __init__(self, count: int, module: str = __name__) -> None:
        self._helpers = [helper for _ in range(count - 1) if (helper := _maybe_start(module))]
        self._feeders: list[_Feeder] = []

    @property
    def count(self) -> int:
        """How many processes work."""
        return 1 + len(self._helpers)

    def run(
        self,
        function: Function,
        arguments: Sequence[tuple[Any, ...]],
        *,
        ahead: int = 1,
        first: Callable[[], None] | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """Call the function with each tuple of arguments; see `run_all`."""
        return self.run_all([(function, own) for own in arguments], ahead=ahead, first=first)

    def run_in_order(
        self, function: Function, arguments: Sequence[tuple[Any, ...]], *, ahead: int = 1
    ) -> Iterator[Any]:
        """The same, but the results in the order of the arguments."""
        done: dict[int, Any] = {}
        wanted = 0
        for at, result in self.run(function, arguments, ahead=ahead):
            done[at] = result
            while wanted in done:
                yield done.pop(wanted)
                wanted += 1

    def run_all(
        self, calls: Sequence[Call], *, ahead: int = 1, first: Callable[[], None] | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Make the calls, about in their order; the place of each with its result, as they come.

        Args:
            calls: functions that a helper can import by their names, and their arguments; what these take and
                give can be pickled.
            ahead: how many calls a helper is given at once, so that it need not wait for the next while this
                process does its own. More than one only of calls so small that a pipe holds them all (a few
                KiB): two that send to each other what no pipe holds wait for ever.
            first: what only this process can do; it does it while the helpers begin.
        """
        waiting = deque(enumerate(calls))
        results: SimpleQueue[tuple[int, bool, Any]] = SimpleQueue()
        room = Semaphore(_RESULTS_WAITING * len(self._helpers))
        self._feeders = [_Feeder(helper, waiting, results, room, ahead) for helper in self._helpers]
        if first is not None:
            without_collector(first)
        for _ in calls:
            at, done, result = self._next_result(waiting, results, room)
            if not done:  # should it fail here as well, the error is met where it can be handled
                function, arguments = calls[at]
                result = without_collector(function, *arguments)
            yield at, result
        self._join_feeders()
        for helper in [helper for helper in self._helpers if not helper.alive]:
            self._helpers.remove(helper)
            helper.end()

    def _next_result(
        self, waiting: deque[tuple[int, Call]], results: SimpleQueue[tuple[int, bool, Any]], room: Semaphore
    ) -> tuple[int, bool, Any]:
        """A helper's result, or that of a call made here, or a helper's that has to be waited for."""
        try:
            result = results.get_nowait()
        except Empty:
            try:
                at, (function, arguments) = waiting.popleft()
            except IndexError:
                result = results.get()
            else:
                return at, True, without_collector(function, *arguments)
        room.release()
        return result

    def close(self) -> None:
        """End the helpers, whatever they are doing."""
        for feeder in self._feeders:
            feeder.stop()
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


class _Feeder(Thread):
    """Keeps a helper busy as long as there is something to do, and room for its results."""

    def __init__(
        self,
        helper: _Helper,
        waiting: deque[tuple[int, Call]],
        results: SimpleQueue[tuple[int, bool, Any]],
        room: Semaphore,
        ahead: int,
    ) -> None:
        super().__init__(name="evlog-feeder", daemon=True)
        self._helper = helper
        self._waiting = waiting
        self._results = results
        self._room = room
        self._ahead = ahead
        self._sent: deque[int] = deque()
        self._stopped = False
        self.start()

    def run(self) -> None:
        """Send and receive, until all is done or the helper is dead."""
        while self._helper.alive:
            while self._waiting and len(self._sent) < self._ahead and self._send_next():
                pass
            if not self._sent or self._stopped:
                break
            self._results.put((self._sent.popleft(), *self._helper.receive()))
        for at in self._sent:
            self._results.put((at, False, None))

    def _send_next(self) -> bool:
        """Whether there was another call."""
        self._room.acquire()
        try:
            at, (function, arguments) = self._waiting.popleft()
        except IndexError:
            self._room.release()
            return False
        self._sent.append(at)
        self._helper.send(function, arguments)
        return True

    def stop(self) -> None:
        """Do no more; the results are no longer wanted."""
        self._stopped = True
        self._waiting.clear()
        self._room.release()


class _Helper:
    """One helper process and the pipes to it and from it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.alive = True
        self._process = process
        self._tasks, self._results = process.stdin, process.stdout

    def send(self, function: Function, arguments: tuple[Any, ...]) -> None:
        try:
            self._tasks.write(pickle.dumps((function, arguments), pickle.HIGHEST_PROTOCOL))
            self._tasks.flush()
        except OSError:
            self.alive = False

    def receive(self) -> tuple[bool, Any]:
        """Whether the helper did what it was sent first, and the result."""
        try:
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


def _maybe_start(module: str) -> _Helper | None:
    """A helper, or None where no process can be started."""
    command = [sys.executable, "-c", _BOOT, _PACKAGE, module, *sys.path]
    try:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, with a constant program
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=_PIPE_BYTES,
            process_group=0,
        )
    except OSError:
        return None
    assert process.stdout is not None
    _maybe_widen(process.stdout.fileno())
    return _Helper(process)


def _maybe_widen(pipe: int) -> None:
    """Have a pipe hold a whole result, where the system lets it."""
    if sys.platform == "linux":
        try:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        except OSError:
            pass  # this user has many pipes already; all works as well, but slower


def serve(module: str) -> None:
    """Be a helper: do what comes in on stdin until it ends."""
    import_module(module)
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
            results.write(
                pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
            )  # in one call, so that it is read in one
            results.flush()
        except OSError:
            os._exit(0)


def without_collector(function: Callable[..., _T], *arguments: Any) -> _T:
    """Call a function that makes many objects and no cycles: to look for these again and again is in vain."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        return function(*arguments)
    finally:
        if enabled:
            gc.enable()
