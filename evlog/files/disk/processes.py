"""Do pieces of work on several cores: in this process, and in helper processes where that is worth it.

1. Processes, because most of the work is decoding, which holds the interpreter's lock. They are started with
   this interpreter rather than forked: that is safe in a program with threads, and needs no main guard.
2. A helper gets work only once it has said that it is ready. One that never does (the executable is not
   Python, no memory is left) delays nothing: this process does the work.
3. The work of a helper that dies is done in this process.
4. Helpers are in a process group of their own, out of reach of the terminal's Ctrl-C. They end when this
   process ends, however it ends.
"""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Semaphore, Thread
from typing import IO, Any, Final, Self, TypeVar

from evlog.files.disk.helper import READY, serve
from evlog.process.forks import register_fork_reset
from evlog.process.threads import without_signals

if sys.platform == "linux":
    import fcntl

# The package itself would import all of evlog; without it a helper is ready in a third of the time. Nor does
# msgspec need typing_extensions: without it, and what `helper` leaves out, 38 ms instead of 46.
_BOOT: Final = (
    "import sys; _, package_path, module, *sys.path = sys.argv; package = type(sys)('evlog'); "
    "package.__path__ = [package_path]; sys.modules.update(evlog=package, typing_extensions=None); "
    "from evlog.files.disk.helper import serve; serve(module)"
)
_PACKAGE: Final = os.path.abspath(f"{__file__}/../../..")
MAX_PROCESSES: Final = 4  # each takes some 100 MB; the work is bound by memory and disk beyond that
# Between two reads of a pipe the thread that reads waits for the interpreter's lock, often 5 ms, and the
# helper for space in the pipe: so it should hold a whole answer.
_PIPE_BYTES: Final = 1 << 20
_LEAST_PIPE_BYTES: Final = 1 << 12  # on any system
# For each helper: the results that a slow caller has not taken are in memory. With 4, helpers have to wait
# while a compaction ends a segment, which takes 5 % more time; 16 gain nothing.
_RESULTS_WAITING: Final = 8

_T = TypeVar("_T")
Function = Callable[..., Any]
Call = tuple[Function, tuple[Any, ...]]


def core_count() -> int:
    """Return how many processes are worth it: the cores that this one may use, at most MAX_PROCESSES."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(count, MAX_PROCESSES, _maybe_quota() or count))


def _maybe_quota() -> int | None:
    """Return how many cores' time a container's limit allows, None without a limit."""
    for paths in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            texts: list[str] = []
            for path in paths:
                with open(f"/sys/fs/cgroup/{path}", encoding="ascii") as file:
                    texts += file.read().split()
            return max(1, -(-int(texts[0]) // int(texts[1]))) if int(texts[0]) > 0 else None
        except (OSError, ValueError, IndexError, ZeroDivisionError):
            continue  # another version of control groups; or no limit, "max"
    return None


class Workers:
    """This process and some helpers beside it; a context manager that ends them.

    Args:
        count: how many processes are to work, this one included, at most MAX_PROCESSES; with one there are no
            helpers.
        module: what the helpers import before they are called for the first time.
    """

    def __init__(self, count: int, module: str = serve.__module__) -> None:
        helpers = range(min(count, MAX_PROCESSES) - 1)
        self._helpers = [helper for _ in helpers if (helper := _maybe_start(module))]
        register_fork_reset(self)

    @property
    def count(self) -> int:
        """How many processes work."""
        return 1 + sum(helper.alive for helper in self._helpers)

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
        """Yield the results of the same calls in the order of the arguments.

        Where too many wait for one that a helper has, which may be suspended, this process makes that one.
        """
        done: dict[int, Any] = {}
        wanted = 0
        most = 2 * ahead * (1 + len(self._helpers))  # twice as many as wait where all are equally fast
        for at, result in self.run(function, arguments, ahead=ahead):
            if at >= wanted:
                done[at] = result
            while wanted in done or len(done) >= most:
                if wanted not in done:
                    done[wanted] = without_collector(function, *arguments[wanted])
                yield done.pop(wanted)
                wanted += 1
            if wanted == len(arguments):
                return

    def run_all(
        self, calls: Sequence[Call], *, ahead: int = 1, first: Callable[[], None] | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Make the calls, about in their order; yield the place of each with its result, as they come.

        Args:
            calls: functions that a helper can import by their names, and their arguments; what these take and
                give can be pickled.
            ahead: how many calls a helper is given at once, as far as a pipe holds them, so that it need not
                wait for the next while this process makes its own. In a compaction it waits for a sixth of
                its time with 1, and for a twentieth with 4. Towards the end it is given fewer.
            first: what only this process can do; it does it while the helpers start.
        """
        run = _Run(calls, ahead, _RESULTS_WAITING * len(self._helpers), 1 + len(self._helpers))
        try:
            for helper in self._helpers:
                helper.runs.put(run)
            if first is not None:
                without_collector(first)
            for _ in calls:
                at, done, result = run.next_result()
                if not done:  # if it fails here as well, the error is met where it can be handled
                    function, arguments = calls[at]
                    result = without_collector(function, *arguments)
                yield at, result
        finally:
            run.stop()

    def close(self) -> None:
        """End the helpers, whatever they are doing."""
        helpers, self._helpers = self._helpers, []
        for helper in helpers:
            helper.kill()
        for helper in helpers:
            helper.end()

    def reset_after_fork(self) -> None:
        """Leave the helpers to the parent; a pipe that a child keeps open would keep them alive."""
        for helper in self._helpers:
            helper.leave()
        self._helpers = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Run:
    """The calls of one run: those that wait for a process, and the results that wait for the caller."""

    def __init__(self, calls: Sequence[Call], ahead: int, results: int, processes: int) -> None:
        self.calls = calls
        self._ahead = ahead
        self._processes = processes
        self.results: SimpleQueue[tuple[int, bool, Any]] = SimpleQueue()  # place, whether it was made, result
        self._waiting = deque(range(len(calls)))
        self._room = Semaphore(results)  # helpers take no more calls while this many results are not taken
        self._stopped = False

    def maybe_take(self, held: int) -> int | None:
        """Return the next call for a helper, None if it gets no other now.

        Args:
            held: how many calls it has not answered. It gets another only while more than `held` are left
                for each process: otherwise the others would be idle at the end while it has calls.
        """
        if held and (held >= self._ahead or len(self._waiting) <= held * self._processes):
            return None
        self._room.acquire()
        try:
            return self._waiting.popleft()
        except IndexError:
            self._room.release()
            return None

    def next_result(self) -> tuple[int, bool, Any]:
        """Return a helper's result, or that of a call made here; wait only where no call is left."""
        try:
            result = self.results.get_nowait()
        except Empty:
            try:
                at = self._waiting.popleft()
            except IndexError:
                result = self.results.get()
            else:
                function, arguments = self.calls[at]
                return at, True, without_collector(function, *arguments)
        self._room.release()
        return result

    def stop(self) -> None:
        """Give out no more calls; the results are no longer wanted."""
        self._waiting.clear()
        self._room.release(MAX_PROCESSES)


class _Helper:
    """A helper process, the pipes to it and from it, and the thread that gives it work.

    The thread sends a further call only if a pipe holds all that are not answered: else it would wait for the
    helper to read, and the helper, which may be writing an answer that no pipe holds, for it.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.alive = True
        self.ready = False
        self.runs: SimpleQueue[_Run | None] = SimpleQueue()
        self.process = process
        self.tasks, self.answers = process.stdin, process.stdout
        self._ahead_bytes = _widen(self.tasks) // 2  # each call may leave a part of a page unused
        _widen(self.answers)
        self._thread = Thread(target=self._feed, name="evlog-feeder", daemon=True)
        without_signals(self._thread.start)

    def _feed(self) -> None:
        """Have the helper work on the runs in turn, once it is ready."""
        try:
            self.alive = self.ready = self.answers.read(len(READY)) == READY
        except (OSError, ValueError):
            self.alive = False
        while self.alive and (run := self.runs.get()) is not None:
            sent: deque[tuple[int, int]] = deque()  # calls that are not answered, each with its size
            while self.alive:
                while (at := run.maybe_take(len(sent))) is not None:
                    try:
                        call = pickle.dumps(run.calls[at], pickle.HIGHEST_PROTOCOL)
                    except Exception:  # noqa: BLE001 - for example no memory is left: it is made here
                        run.results.put((at, False, None))
                        continue
                    while sent and len(call) + sum(size for _, size in sent) > self._ahead_bytes:
                        run.results.put((sent.popleft()[0], *self._receive()))
                    sent.append((at, len(call)))
                    self._send(call)
                if not sent:
                    break
                run.results.put((sent.popleft()[0], *self._receive()))
            for at, _ in sent:
                run.results.put((at, False, None))

    def _send(self, call: bytes) -> None:
        try:
            self.tasks.write(call)
            self.tasks.flush()
        except (OSError, ValueError):
            self.alive = False

    def _receive(self) -> tuple[bool, Any]:
        """Return whether the helper made the call that it was sent first, and the result."""
        try:
            done, result = pickle.load(self.answers)  # noqa: S301 - from a process that this one started
        except Exception:  # noqa: BLE001 - whatever it was: the answer is lost, or makes no sense
            self.alive = False
            return False, None
        return done, result

    def kill(self) -> None:
        """Kill the process; its thread is told by the end of the pipe."""
        self.process.kill()
        self.process.wait()
        self.runs.put(None)

    def end(self) -> None:
        """Wait for the thread of a killed helper and close the pipes."""
        self._thread.join()
        self.answers.close()
        try:
            self.tasks.close()
        except OSError:
            pass  # what was on its way to the helper

    def leave(self) -> None:
        """Close a forked child's copies of the pipes, without writing what they buffer."""
        for pipe in (self.tasks, self.answers):
            pipe.raw.close()  # type: ignore[attr-defined]


class CallBeside:
    """One call in a helper process, while this process does something else. Its result is not wanted.

    The helper ends by itself, also when this process ends before it.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    @classmethod
    def maybe_start(cls, function: Function, *arguments: Any, keep: tuple[int, ...] = ()) -> Self | None:
        """Start the call; return None where no process can be started, or there is one core only.

        Args:
            function: what a helper can import by its name; its arguments can be pickled, into a page.
            keep: descriptors that the helper inherits, under the same numbers.
        """
        command = _maybe_command(function.__module__)
        if command is None or core_count() < 2:
            return None
        call = pickle.dumps((function, arguments), pickle.HIGHEST_PROTOCOL)
        null = subprocess.DEVNULL
        try:
            process = subprocess.Popen(  # noqa: S603 - this interpreter, with a constant program
                command, stdin=subprocess.PIPE, stdout=null, stderr=null, process_group=0, pass_fds=keep
            )
            assert process.stdin is not None
            with suppress(OSError), process.stdin as tasks:
                tasks.write(call)
        except OSError:
            return None
        return cls(process)

    def is_done(self) -> bool:
        """Return whether the helper has ended, however it did; in a forked child it has."""
        return self.process.poll() is not None

    def end(self, timeout_seconds: float) -> None:
        """Wait until the helper has ended; kill it after the time, as it may be suspended."""
        try:
            self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _maybe_command(module: str) -> list[str] | None:
    """Return the command of a helper; None where the executable is not Python.

    In a frozen program or one that embeds Python, `sys.executable` is that program.
    """
    name = os.path.basename(sys.executable or "").lower()
    if getattr(sys, "frozen", False) or not name.startswith(("python", "pypy")):
        return None
    return [sys.executable, "-S", "-c", _BOOT, _PACKAGE, module, *sys.path]


def _maybe_start(module: str) -> _Helper | None:
    """Start a helper; return None where no process can be started."""
    command = _maybe_command(module)
    if command is None:
        return None
    try:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, with a constant program
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=_PIPE_BYTES, process_group=0
        )
    except OSError:
        return None
    try:
        return _Helper(process)
    except RuntimeError:  # no thread can be started
        process.kill()
        process.communicate()
        return None


def _widen(pipe: IO[bytes]) -> int:
    """Have a pipe hold a whole answer, where that is possible; return how many bytes it holds."""
    if sys.platform != "linux":
        return _LEAST_PIPE_BYTES
    try:
        return fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:  # this user has many pipes already; it works as well, but slower
        return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)


def without_collector(function: Callable[..., _T], *arguments: Any) -> _T:
    """Call a function that makes many objects and no cycles, without looking for cycles meanwhile."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        return function(*arguments)
    finally:
        if enabled:
            gc.enable()
