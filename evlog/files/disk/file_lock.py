"""The locks between processes: exclusive locks on whole files, which end with their holder.

1. On POSIX it is `flock(2)`, the lock that filelock's `FileLock` takes, so a script may hold a store with
   `FileLock("STORE/lock")`. Where there is no `flock`, filelock does the locking. Rejected: filelock
   everywhere. Its import costs 40 ms, and it polls every 50 ms, which leaves a quarter of the throughput of
   16 writers.
2. The lock belongs to the open file: the kernel frees it when the last process that has the file open dies.
   A forked child therefore closes its copy of the descriptor at once.
3. Without a time limit a writer waits in the kernel, first come, first served. With a time limit it polls,
   because a blocked `flock` cannot be given one; so a timeout leaves no thread and no descriptor behind.
4. Only the file that the path names counts as locked. So the path is checked after locking: if the lock file
   was removed or replaced, it is opened again.
5. After a second of waiting one line is logged that names the holder, as far as the system tells.
"""

from __future__ import annotations

import os
import threading
import time

from evlog.errors import LockTimeout
from evlog.files.disk.files import DISK, ReadFile
from evlog.files.disk.opening import error_for
from evlog.process.forks import register_fork_reset

try:
    import fcntl
except ImportError:  # pragma: no cover - no POSIX
    fcntl = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, TypeVar, TypeVarTuple

    from evlog.files.disk.files import Disk, WriteFile

    _T = TypeVar("_T")
    _Arguments = TypeVarTuple("_Arguments")

# Most locks are held for microseconds; the pause between two tries grows with the time that passed.
_FIRST_PAUSE_SECONDS: Final = 0.0001
_LAST_PAUSE_SECONDS: Final = 0.01
_REPORT_SECONDS: Final = 1.0
_NAMED_SECONDS: Final = 0.05


class FileLock:
    """An exclusive lock on a file, between processes and between threads.

    Args:
        path: the lock file, made when missing.
        timeout_seconds: how long `acquire` may wait; None waits without a limit.
        readable: whether users that may not write to the directory can open the file. If they can, they can
            also lock it and delay every writer: so only a file with content is made readable.
        exact: whether a removed file has to be noticed at once; if not, within 50 ms.
        of_thread: whether the thread that takes the lock gives it back; then `run` can tell whose it is.
    """

    def __init__(
        self,
        path: str,
        timeout_seconds: float | None,
        disk: Disk = DISK,
        *,
        readable: bool = True,
        exact: bool = True,
        of_thread: bool = False,
    ) -> None:
        self.path = path
        self.timeout_seconds = timeout_seconds
        self._disk = disk
        self._readable = readable
        self._exact = exact
        self._opening = threading.Lock()  # guards: opening and replacing `_file`
        self._file: WriteFile | None = None  # for all threads of this process
        self._of_thread = of_thread
        # The lock between threads, taken before the one between processes. An RLock only to know its thread:
        # one that has it does not get it again.
        self._threads: Any = threading.RLock() if of_thread else threading.Lock()
        self._held: WriteFile | None = None  # guarded by _threads: the locked file
        self._named_until = 0.0  # guarded by _threads: until when the path need not be checked again
        self._blocked_since: float | None = None  # guarded by _threads: since when the kernel lets it wait
        self._reporter: threading.Thread | None = None  # guarded by _threads, but for its own end
        register_fork_reset(self)

    def open(self) -> WriteFile:
        """Return the lock file, opened by this process."""
        file = self._file
        if file is not None:
            return file
        with self._opening:
            if self._file is None:
                self._file = self._disk.open(self.path, create=True, readable=self._readable)
            return self._file

    def open_named(self) -> WriteFile:
        """Return the lock file, opened again if the one that was open was removed or replaced."""
        file = self._file or self.open()
        if os.fstat(file.fd).st_nlink:
            return file
        self._forget(file)
        return self.open()

    def acquire(self) -> WriteFile:
        """Take the lock and return the locked file.

        Raises:
            LockTimeout: it was not free in time.
            StoreAccessDenied: the file cannot be opened for writing.
            SystemCallFailed: the file system refuses to lock.
        """
        deadline = self._acquire_threads()
        try:
            while True:
                file = self._file or self.open()
                if not try_lock(file):
                    self._wait(file, deadline)
                if self._is_current(file):
                    break
                self._forget(file)
            self._held = file
        except BaseException:
            self._abandon()
            raise
        return file

    def maybe_acquire(self, *, wait_for_threads: bool = False) -> WriteFile | None:
        """Take the lock if it is free now, and return the locked file.

        Args:
            wait_for_threads: wait for other threads of this process, without a limit.
        """
        if self.is_mine() or not self._threads.acquire(blocking=wait_for_threads):
            return None
        try:
            while try_lock(file := self._file or self.open()):
                if self._is_current(file):
                    self._held = file
                    return file
                self._forget(file)
        except BaseException:
            self._abandon()
            raise
        self._threads.release()
        return None

    def check_held(self) -> None:
        """Raise LockLost if the lock file was removed or replaced since this process took the lock."""
        if self._held is None or not os.fstat(self._held.fd).st_nlink:
            from evlog.errors import LockLost

            raise LockLost(self.path)

    def is_held(self) -> bool:
        """Return whether a process holds the lock now. Needs no permission to write, and makes no file."""
        if self._held is not None:
            return True
        try:
            file = ReadFile(self.path)
        except FileNotFoundError:
            return False
        return not try_lock(file, shared=True)  # closing the file frees it

    def release(self) -> None:
        """Give the lock back."""
        held = self._held
        assert held is not None
        try:
            self._held = None
            unlock(held.fd)
        except BaseException:  # interrupted
            self._held = None
            unlock(held.fd)
            raise
        finally:
            self._threads.release()

    def leave(self) -> None:
        """Close the locked file, which a child process has inherited: the lock ends with that process."""
        held = self._held
        assert held is not None
        self._held = self._file = None
        self._disk.close(held)
        self._threads.release()

    def run(self, call: Callable[[*_Arguments], _T], *arguments: *_Arguments) -> _T:
        """Return the result of a call that takes the lock and gives it back; it leaves no lock behind.

        An interrupt may come between the lock and a `try`, or right before a `finally` gives it back.

        Raises:
            LockTimeout: this is a signal's handler in the middle of such a call.
        """
        if self.is_mine():
            raise LockTimeout(self.path, 0.0)
        try:
            return call(*arguments)
        except BaseException:
            if self.is_mine():
                self._abandon()
            raise

    def is_mine(self) -> bool:
        """Return whether this thread has the lock; only with `of_thread`."""
        return self._of_thread and self._threads._is_owned()  # noqa: SLF001 - as `threading.Condition` does

    def close(self) -> None:
        """Close the lock file, once no other thread waits with it or holds the lock.

        Closing it while a thread waits would free the lock as soon as the kernel grants it.
        """
        self._file = None

    def reset_after_fork(self) -> None:
        """Close a forked child's copies of the descriptor, which does not free the parent's lock."""
        for file in (self._held, self._file):
            if file is not None:  # a thread of the parent may have been using it
                self._disk.close(file)
        self._held = self._file = self._reporter = self._blocked_since = None
        self._opening = threading.Lock()
        self._threads = threading.RLock() if self._of_thread else threading.Lock()

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()

    def _abandon(self) -> None:
        """Free what an interrupted thread took: the interrupt may have come when it just had the lock."""
        try:
            for file in (self._held, self._file):
                if file is not None:
                    unlock(file.fd)
            self._held = None
        except OSError:
            pass  # it was not locked; only POSIX ignores that
        finally:
            self._threads.release()

    def _is_current(self, file: WriteFile) -> bool:
        """Return whether the path still names the open file.

        A removed or replaced file has no name, which costs 1 µs to see, each time. One that was moved has
        another name, which costs 5 µs to see: every 50 ms.
        """
        now = time.monotonic()
        if now < self._named_until and not self._exact:
            return True
        opened = os.fstat(file.fd)
        if now < self._named_until and opened.st_nlink:
            return True
        try:
            named = os.lstat(self.path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise error_for(error, self.path) from error
        self._named_until = now + _NAMED_SECONDS
        return named.st_ino == opened.st_ino and named.st_dev == opened.st_dev

    def _forget(self, file: WriteFile) -> None:
        """Unlock a file that the path no longer names; the next `open` opens the one that it does name."""
        unlock(file.fd)
        self._named_until = 0.0
        with self._opening:
            if self._file is file:
                self._file = None

    def _acquire_threads(self) -> float | None:
        """Take the lock between the threads of this process; return the deadline of the whole wait."""
        timeout = self.timeout_seconds
        if timeout is None:
            self._threads.acquire()
            return None
        deadline = time.monotonic() + timeout
        if not self._threads.acquire(timeout=min(timeout, threading.TIMEOUT_MAX)):
            raise LockTimeout(self.path, timeout)
        return deadline

    def _wait(self, file: WriteFile, deadline: float | None) -> None:
        """Wait for another process: until the deadline, or without a limit."""
        if deadline is None:
            self._block(file)
        elif not _poll(file, deadline, shared=False):
            raise LockTimeout(self.path, self.timeout_seconds or 0.0)

    def _block(self, file: WriteFile) -> None:
        """Wait in the kernel. Another thread reports a long wait; it ends a second after the last wait."""
        self._blocked_since = time.monotonic()
        if self._reporter is None:
            from evlog.process.threads import without_signals

            self._reporter = threading.Thread(target=self._report_waits, name="evlog-lock", daemon=True)
            try:
                without_signals(self._reporter.start)
            except RuntimeError:  # no thread can be started: the wait is not reported
                self._reporter = None
        try:
            _lock(file)
        finally:
            self._blocked_since = None

    def _report_waits(self) -> None:
        since = self._blocked_since
        while since is not None:
            time.sleep(_REPORT_SECONDS)
            before, since = since, self._blocked_since
            if since == before:
                _report(self.path)
                break
        self._reporter = None


class SharedLock:
    """Keeps writers out while a reader reads; needs no permission to write. A context manager.

    Entering returns whether the lock was taken. It is not if a writer holds it for longer than the timeout,
    or if this user may not open the lock file. Without a lock file there is no writer. The wait is not
    reported: it is short, and the reader continues without the lock.
    """

    def __init__(self, path: str, timeout_seconds: float) -> None:
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._file: ReadFile | None = None

    def __enter__(self) -> bool:
        from evlog.errors import StoreAccessDenied

        try:
            file = ReadFile(self._path)
        except FileNotFoundError:
            return True
        except StoreAccessDenied:
            return False
        if not _poll(file, time.monotonic() + self._timeout_seconds, shared=True):
            return False
        self._file = file
        return True

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            unlock(self._file.fd)
        self._file = None


def _poll(file: WriteFile | ReadFile, deadline: float, *, shared: bool) -> bool:
    """Try until the deadline; return whether the lock was taken."""
    pause = _FIRST_PAUSE_SECONDS
    report_at = deadline if shared else time.monotonic() + _REPORT_SECONDS
    while not try_lock(file, shared=shared):
        now = time.monotonic()
        if now >= deadline:
            return False
        if now >= report_at:
            report_at = deadline
            _report(file.path)
        time.sleep(min(pause, deadline - now))
        pause = min(1.5 * pause, _LAST_PAUSE_SECONDS)
    return True


def _report(path: str) -> None:
    """Report that a lock has been waited for, and which process holds it."""
    holder = holder_of(path) or "another process"
    say(f"waiting for the lock {path}, held by {holder}; it is taken when the holder ends or releases it")


def _log(text: str) -> None:
    """Log a line; without any configuration of logging it goes to stderr."""
    import logging

    logging.getLogger("evlog").warning("evlog: %s", text)


say: Callable[[str], None] = _log
"""What is called with a line about a long wait, from any thread; the command line replaces it."""


def holder_of(path: str) -> str | None:
    """Return a text that names the process that has locked the file, as far as Linux tells; else None."""
    try:
        status = os.stat(path)
        place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        with open("/proc/locks", encoding="ascii") as lines:
            locks = map(str.split, lines)  # 1: FLOCK ADVISORY WRITE pid major:minor:inode start end
            pids = [int(words[4]) for words in locks if words[1] == "FLOCK" and words[5] == place]
        pid = next(pid for pid in pids if pid > 0)  # 0 is a process of another container
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            name, _, rest = file.read().partition("(")[2].rpartition(") ")
        holder = f"process {pid} ({ascii(name)[1:-1]}, user {os.stat(f'/proc/{pid}').st_uid})"
        # By Ctrl-Z, say, or by a debugger: it does not release the lock by itself.
        is_stopped = rest[:1] in {"T", "t"}
        return f"{holder}, which is stopped: `kill -CONT {pid}` continues it" if is_stopped else holder
    except (OSError, LookupError, ValueError, StopIteration):
        return None


if fcntl is not None:
    _EXCLUSIVE: Final = fcntl.LOCK_EX
    _EXCLUSIVE_NOW: Final = fcntl.LOCK_EX | fcntl.LOCK_NB
    _SHARED_NOW: Final = fcntl.LOCK_SH | fcntl.LOCK_NB

    def try_lock(file: WriteFile | ReadFile, *, shared: bool = False) -> bool:
        """Lock an open file if it is free now; return whether that was so. Closing the file frees it."""
        try:
            fcntl.flock(file.fd, _SHARED_NOW if shared else _EXCLUSIVE_NOW)
        except BlockingIOError:
            return False
        except OSError as error:
            raise error_for(error, file.path) from error
        return True

    def _lock(file: WriteFile) -> None:
        try:
            fcntl.flock(file.fd, _EXCLUSIVE)
        except OSError as error:
            raise error_for(error, file.path) from error

    def unlock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)

else:  # pragma: no cover - no POSIX

    def try_lock(file: WriteFile | ReadFile, *, shared: bool = False) -> bool:  # noqa: ARG001
        from filelock import lock_descriptor

        return lock_descriptor(file.fd, blocking=False)

    def _lock(file: WriteFile) -> None:
        from filelock import lock_descriptor

        lock_descriptor(file.fd, poll_interval=0.002)

    def unlock(fd: int) -> None:
        from filelock import unlock_descriptor

        unlock_descriptor(fd)
