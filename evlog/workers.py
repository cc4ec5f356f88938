"""Doing pieces of work on all cores: one helper process for each, or this process where that is not worth it.

Processes, because most of the work is decoding, which holds the interpreter's lock. They are started afresh
rather than forked, which is safe in a program with threads, and need no guard around its main module. A
helper that dies is not missed: what it had to do is done here. They are no concern of the terminal's Ctrl-C,
and end when this process does, however it ends.
"""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Final, Self

try:
    import fcntl
except ImportError:  # pragma: no cover - no POSIX
    fcntl = None  # type: ignore[assignment]

_BOOT: Final = "import sys; sys.path[:] = sys.argv[1:]; from evlog.workers import serve; serve()"
_LOST: Final = (OSError, EOFError)
_PIPE_BYTES: Final = 1 << 20  # as large as Linux lets anybody have it

Function = Callable[..., Any]


def core_count() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workers:
    """Some helper processes; a context manager that ends them.

    Args:
        count: how many; with fewer than two there are none, and all is done in this process.
        lends_a_hand: whether this process does pieces of work as well, in the place of one of the helpers:
            right where the pieces are small, and the one who waits for results has little to do with them.
    """

    def __init__(self, count: int, *, lends_a_hand: bool = False) -> None:
        wanted = count - lends_a_hand if count > 1 else 0
        self._helpers = [helper for _ in range(wanted) if (helper := _maybe_start())]
        self._lends_a_hand = lends_a_hand

    def run(
        self, function: Function, arguments: Sequence[tuple[Any, ...]], *, ahead: int = 1
    ) -> Iterator[tuple[int, Any]]:
        """Call the function with each tuple of arguments; the place of each with its result, as they come.

        Args:
            function: one that a helper can import by its name; what it takes and gives can be pickled.
            ahead: how many tasks a helper is given at once, so that it need not wait for the next while this
                process does its own. More than one only of tasks so small that a pipe holds them all (a few
                KiB): two that send to each other what no pipe holds wait for ever.
        """
        waiting = list(range(len(arguments)))[::-1]
        busy: dict[_Helper, deque[int]] = {}
        while waiting or busy:
            for helper in self._helpers:
                queue = busy.setdefault(helper, deque()) if waiting else deque()
                while waiting and len(queue) < ahead:
                    queue.append(waiting.pop())
                    helper.send(function, arguments[queue[-1]])
            own = bool(waiting) and (self._lends_a_hand or not busy)
            if own:
                at = waiting.pop()
                yield at, _without_collector(function, arguments[at])
            ready = wait([helper.results for helper in busy], 0 if own else None) if busy else ()
            for helper in [helper for helper in busy if helper.results in ready]:
                at = busy[helper].popleft()
                done, result = helper.receive()
                if done:
                    yield at, result
                lost = [] if done else [at]
                if not helper.alive:
                    lost += busy[helper]
                    busy[helper].clear()
                    self._helpers.remove(helper)
                    helper.end()
                if not busy[helper]:
                    del busy[helper]
                for at in lost:  # should it fail here as well, the error is met where it can be handled
                    yield at, _without_collector(function, arguments[at])

    @property
    def count(self) -> int:
        """How many helpers there are."""
        return len(self._helpers)

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

    def close(self) -> None:
        """End the helpers, whatever they are doing."""
        for helper in self._helpers:
            helper.end()
        self._helpers = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Helper:
    """One helper process and the pipes to it and from it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.alive = True
        self._process = process
        self._tasks = Connection(os.dup(process.stdin.fileno()), readable=False)
        self.results = Connection(os.dup(process.stdout.fileno()), writable=False)
        _widen(self.results.fileno())
        process.stdin.close()
        process.stdout.close()

    def send(self, function: Function, arguments: tuple[Any, ...]) -> None:
        try:
            self._tasks.send((function, arguments))
        except _LOST:
            self.alive = False  # its results end at once, too

    def receive(self) -> tuple[bool, Any]:
        """Whether the task was done, and its result."""
        try:
            done, result = self.results.recv()
        except _LOST:
            self.alive = False
            return False, None
        return done, result

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._tasks.close()
        self.results.close()


def _maybe_start() -> _Helper | None:
    """A helper, or None where no process can be started."""
    command = [sys.executable, "-c", _BOOT, *sys.path]
    try:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, with a constant program
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
        )
    except OSError:
        return None
    return _Helper(process)


def _widen(pipe: int) -> None:
    """Have the pipe hold a result, so that its sender need not wait for who has other things to do."""
    if fcntl is not None and hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):  # all users' pipes together may have come to a limit
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def serve() -> None:
    """Be a helper: do what comes in on stdin until it ends."""
    tasks, results = Connection(os.dup(0), writable=False), Connection(os.dup(1), readable=False)
    os.dup2(2, 1)
    gc.disable()  # nothing made here is a cycle, and there are millions of tuples to look through
    while True:
        try:
            function, arguments = tasks.recv()
        except _LOST:
            os._exit(0)
        try:
            answer = True, function(*arguments)
        except Exception:  # noqa: BLE001 - it will be met again where it can be handled
            answer = False, None
        try:
            results.send(answer)
        except _LOST:
            os._exit(0)


def _without_collector(function: Function, arguments: tuple[Any, ...]) -> Any:
    enabled = gc.isenabled()
    gc.disable()
    try:
        return function(*arguments)
    finally:
        if enabled:
            gc.enable()
