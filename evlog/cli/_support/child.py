"""One run of a shell command, as `--exec` needs it.

1. The command leads a process group of its own. If evlog ends while the command runs, it asks the whole group
   to end, then kills it: no process of the group may still run when the next run begins.
2. evlog waits only for the command itself. A process that the command leaves behind may keep its pipes open.
3. For the kernel the command runs in the background of a terminal, so the kernel stops it when it reads the
   terminal. evlog then lends it the terminal, as a shell does for a command in the foreground, and takes it
   back when the command ends.
"""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from types import FrameType
    from typing import Final

_SHELL: Final = "/bin/sh"
_GRACE_SECONDS: Final = 2.0  # between the request to end and the kill
_LOOK_AGAIN_SECONDS: Final = 0.01
_PIECE_BYTES: Final = 64 * 1024
_PIECES: Final = 16  # read at one time: more than a pipe holds, but not endless if the writer is fast
_KEPT_BYTES: Final = 2000  # of the end of what the command writes to stderr
# How often evlog checks whether the command has ended, if a parent process has blocked SIGCHLD.
_LOOK_MILLISECONDS: Final = 500
_WANTS_TERMINAL: Final = (signal.SIGTTIN, signal.SIGTTOU)


class OutputTooLong(Exception):
    """The command writes more to stdout than is allowed."""


class TookTooLong(Exception):
    """The command did not end in the time that it has."""


class NoTerminal(Exception):
    """The command tried to use a terminal on which evlog itself runs in the background."""


class Child:
    """A command while it runs.

    Args:
        command: what `sh -c` is given.
        environment: all of it.
        keeps_stderr: copy what the command writes to stderr, and keep the end of it in `kept`.
        max_output_bytes: keep what it writes to stdout in `output`; None: stdout is evlog's own.

    Raises:
        OSError: it could not be started.
    """

    def __init__(
        self,
        command: str,
        environment: Mapping[bytes, bytes],
        *,
        keeps_stderr: bool = False,
        max_output_bytes: int | None = None,
    ) -> None:
        self.kept = bytearray()
        self.output = bytearray()
        self._max_output_bytes = max_output_bytes
        self._stdin: io.FileIO | None = None
        self._stdout: io.FileIO | None = None
        self._stderr: io.FileIO | None = None
        self._terminal = _Terminal()
        self._code: int | None = None
        self._news = _ChildSignal()
        pipes: dict[int, tuple[int, int]] = {}  # the command's end and ours, by the command's descriptor
        try:
            pipes[0] = os.pipe()
            if max_output_bytes is not None:
                pipes[1] = os.pipe()[::-1]
            if keeps_stderr:
                pipes[2] = os.pipe()[::-1]
            self.pid = os.posix_spawn(
                _SHELL,
                [_SHELL, "-c", command],
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, pipes[number][0], number) for number in pipes],
                setpgroup=0,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores them
            )
        except BaseException:
            self._news.close()
            _close(*(ours for _, ours in pipes.values()))
            raise
        finally:
            _close(*(theirs for theirs, _ in pipes.values()))
        for _, ours in pipes.values():
            os.set_blocking(ours, False)
        self._stdin = io.FileIO(pipes[0][1], "w")
        self._stdout = io.FileIO(pipes[1][1]) if 1 in pipes else None
        self._stderr = io.FileIO(pipes[2][1]) if 2 in pipes else None

    def run(
        self, data: bytes, let_through: AbstractContextManager[None], timeout_seconds: float | None = None
    ) -> int:
        """Give the command its stdin and wait for its end.

        Args:
            let_through: entered where a stop may interrupt. It is not entered between the end of the command
                and the recording of its exit code, or evlog would wait for the command again.
            timeout_seconds: how long it may take; None: without a limit.

        Returns:
            Its exit code, or the negative number of the signal that killed it.

        Raises:
            NoTerminal: it waits for a terminal that it cannot get.
            OutputTooLong: it writes more than `max_output_bytes` to stdout.
            TookTooLong: it has not ended in time; `close` ends it.
        """
        last_moment = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        rest = memoryview(data)
        while True:
            rest = self._write(rest)
            with let_through:
                self._read_stderr()
                self._read_stdout()
            code = self._look()
            with let_through:
                if code is not None:
                    self._read_stderr()
                    self._read_stdout()
                    return code
                left_seconds = None if last_moment is None else last_moment - time.monotonic()
                if left_seconds is not None and left_seconds <= 0:
                    raise TookTooLong
                self._wait(left_seconds)

    def close(self) -> None:
        """Close the pipes; end a command that still runs, with all of its group."""
        try:
            if self._code is None:
                self._end()
        finally:
            self._terminal.take_back()
            self._news.close()
            for pipe in (self._stdin, self._stdout, self._stderr):
                if pipe is not None:
                    pipe.close()

    def _write(self, rest: memoryview) -> memoryview:
        """Write as much as the pipe takes; close it after the last byte, or if the command does not read."""
        if self._stdin is None:
            return rest
        try:
            while rest:
                written = self._stdin.write(rest)
                if written is None:
                    return rest
                rest = rest[written:]
        except BrokenPipeError:
            pass
        self._stdin.close()
        self._stdin = None
        return rest

    def _read_stdout(self) -> None:
        """Keep all of stdout that is there now."""
        while piece := None if self._stdout is None else self._stdout.read(_PIECE_BYTES):
            self.output += piece
            if len(self.output) > (self._max_output_bytes or 0):
                raise OutputTooLong
        if piece == b"" and self._stdout is not None:
            self._stdout.close()
            self._stdout = None

    def _read_stderr(self) -> None:
        """Copy to stderr what is there now, and keep the end of it."""
        for _ in range(_PIECES):
            piece = None if self._stderr is None else self._stderr.read(_PIECE_BYTES)
            if not piece:
                break
            _copy_to_stderr(piece)
            self.kept += piece
            del self.kept[:-_KEPT_BYTES]
        if piece == b"" and self._stderr is not None:
            self._stderr.close()
            self._stderr = None

    def _wait(self, most_seconds: float | None) -> None:
        poll = select.poll()
        poll.register(self._news.fd, select.POLLIN)
        if self._stdin is not None:
            poll.register(self._stdin, select.POLLOUT)
        for pipe in (self._stdout, self._stderr):
            if pipe is not None:
                poll.register(pipe, select.POLLIN)
        milliseconds = _LOOK_MILLISECONDS
        if most_seconds is not None:
            milliseconds = min(milliseconds, int(most_seconds * 1000) + 1)
        poll.poll(milliseconds)
        self._news.clear()

    def _look(self) -> int | None:
        """Return the exit code if the command has ended; let a stopped one continue."""
        pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return None
        if not os.WIFSTOPPED(status):
            self._code = os.waitstatus_to_exitcode(status)
            if self._terminal.take_back() and self._code in {-signal.SIGINT, 128 + signal.SIGINT}:
                signal.raise_signal(signal.SIGINT)  # Ctrl-C, which went to the command alone
            return self._code
        signum = os.WSTOPSIG(status)
        if signum in _WANTS_TERMINAL:
            if not self._terminal.lend(self.pid):
                raise NoTerminal
            _signal_group(self.pid, signal.SIGCONT)
        elif signum == signal.SIGTSTP and self._terminal.take_back():
            # Ctrl-Z, which went to the command alone.
            os.killpg(os.getpgrp(), signal.SIGTSTP)
            _signal_group(self.pid, signal.SIGCONT)
        return None

    def _end(self) -> None:
        """End the command and its whole group, also what it started and left behind."""
        if self._stdin is not None:
            self._stdin.close()
            self._stdin = None
        last_moment = time.monotonic() + _GRACE_SECONDS
        _signal_group(self.pid, signal.SIGTERM)
        _signal_group(self.pid, signal.SIGCONT)  # a stopped process would not notice
        while time.monotonic() < last_moment:
            self._reap(os.WNOHANG)
            if not (_signal_group(self.pid, 0) and _is_at_work(self.pid)):
                return
            time.sleep(_LOOK_AGAIN_SECONDS)
        _signal_group(self.pid, signal.SIGKILL)
        self._reap(0)

    def _reap(self, options: int) -> None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)


class _ChildSignal:
    """A descriptor that is readable after a child has ended or stopped, until it is closed.

    The handler of SIGCHLD stays for good: Python reports a signal that comes while its handler is removed, on
    stderr.
    """

    def __init__(self) -> None:
        self.fd, self._writing = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._writing, False)
        if not callable(signal.getsignal(signal.SIGCHLD)):
            signal.signal(signal.SIGCHLD, _ignore)
        self._former_fd = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)

    def close(self) -> None:
        signal.set_wakeup_fd(self._former_fd)
        _close(self.fd, self._writing)

    def clear(self) -> None:
        """Forget the signals that came until now."""
        try:
            os.read(self.fd, _PIECE_BYTES)
        except BlockingIOError:
            pass


class _Terminal:
    """The terminal of this session, which a command can borrow."""

    def __init__(self) -> None:
        self._fd: int | None = None  # open while it is lent
        self._group = 0

    def lend(self, group: int) -> bool:
        """Make a process group the terminal's foreground; return False if evlog is not there itself."""
        try:
            fd = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
        except OSError:
            return False
        try:
            if os.tcgetpgrp(fd) in {os.getpgrp(), group}:
                # Without the terminal evlog is in the background; with the signal blocked it may still write.
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
                os.tcsetpgrp(fd, group)
                self._close()
                self._fd, self._group = fd, group
                return True
        except OSError:
            pass
        os.close(fd)
        return False

    def take_back(self) -> bool:
        """Make evlog's own group the foreground again; return whether the terminal was lent."""
        if self._fd is None:
            return False
        try:
            present = os.tcgetpgrp(self._fd)
            if present == self._group or not _signal_group(present, 0):  # else a shell has given it to others
                os.tcsetpgrp(self._fd, os.getpgrp())
        except OSError:
            pass  # the terminal was closed
        self._close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTTOU])
        return True

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _copy_to_stderr(data: bytes) -> None:
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
            sys.stderr.buffer.write(data)
            sys.stderr.buffer.flush()
    except (OSError, ValueError):
        pass  # there is no place left to show it


def _ignore(_signum: int, _frame: FrameType | None) -> None:
    """Let the signal write to the wake-up descriptor."""


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def _signal_group(group: int, signum: int) -> bool:
    """Return whether the group has a process that could get the signal."""
    try:
        os.killpg(group, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _is_at_work(group: int) -> bool:
    """Return whether a process of the group still runs: an ended one is listed until its parent reaps it."""
    try:
        pids = [name for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return True  # unknown
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                state, _parent, its_group = file.read().rpartition(b")")[2].split()[:3]
        except OSError:
            continue  # it has ended meanwhile
        if int(its_group) == group and state not in {b"Z", b"X"}:
            return True
    return False
