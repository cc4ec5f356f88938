"""The locks between processes: one whole-file lock, waited for without polling, dead with its holder.

On POSIX it is `flock(2)`, the very lock that filelock's `FileLock` takes, so a script may hold a store with
`FileLock("STORE/lock")`. It is called here directly because filelock costs a shell command 40 ms of import
and waits by polling every 50 ms, which gave a quarter of the throughput with 16 writers; where there is
no `flock`, filelock does it. The lock is the descriptor's: the kernel frees it when its last holder dies.

A forked child shares the descriptor and would keep a dead parent's lock; so it closes its copy at once.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Protocol

from evlog.errors import LockTimeout
from evlog.files.disk.files import DISK, Disk, ReadFile, WriteFile, error_for

try:
    import fcntl
except ImportError:  # pragma: no cover - no POSIX
    fcntl = None  # type: ignore[assignment]


# A wait with a time limit begins with tries: a thread for each costs more than most waits take.
_FIRST_PAUSE_SECONDS: Final = 0.0001
_LAST_PAUSE_SECONDS: Final = 0.002
_TRYING_SECONDS: Final = 0.02


class FileLock:
    """An exclusive lock on a file, between processes and between threads.

    Args:
        path: the lock file, made when missing.
        timeout_seconds: how long `acquire` may wait; None waits for ever.
    """

    def __init__(self, path: str, timeout_seconds: float | None, disk: Disk = DISK) -> None:
        self.path = path
        self.timeout_seconds = timeout_seconds
        self._disk = disk
        self._file: WriteFile | None = None
        self._held: WriteFile | None = None  # the locked one; waiting replaces `_file`
        self._opening = threading.Lock()
        self._threads = threading.Lock()
        leave_at_fork(self)

    def open(self) -> WriteFile:
        """The lock file, opened by this process."""
        file = self._file
        if file is not None:
            return file
        with self._opening:
            if self._file is None:
                self._file = self._disk.open(self.path, create=True)
            return self._file

    def acquire(self) -> WriteFile:
        """Take the lock and return the locked file.

        Raises:
            LockTimeout: it was not free in time.
            StoreAccessDenied: the file cannot be opened for writing.
        """
        left = self.timeout_seconds
        if left is None:
            self._threads.acquire()
        else:
            left = self._acquire_threads(left)
        try:
            file = self._file or self.open()
            if left is None:
                _lock(file.fd)
            elif not _try_lock(file.fd):
                file = self._wait(file, left)
            self._held = file
        except BaseException:
            self._let_go()
            raise
        return file

    def maybe_acquire(self, *, wait_for_threads: bool = False) -> WriteFile | None:
        """Take the lock if it is free now, and return the locked file.

        Args:
            wait_for_threads: wait for other threads of this process, however long it takes.
        """
        if not self._threads.acquire(blocking=wait_for_threads):
            return None
        try:
            file = self._file or self.open()
            if _try_lock(file.fd):
                self._held = file
                return file
        except BaseException:
            self._let_go()
            raise
        self._threads.release()
        return None

    def is_held(self) -> bool:
        """Whether somebody holds the lock now. Needs no permission to write, and makes no file."""
        if self._held is not None:
            return True
        try:
            file = ReadFile(self.path)
        except FileNotFoundError:
            return False
        return not _try_lock(file.fd)  # which its closing gives back

    def release(self) -> None:
        """Give the lock back."""
        held = self._held
        assert held is not None
        try:
            self._held = None
            _unlock(held.fd)
        except BaseException:
            _unlock(held.fd)  # interrupted
            raise
        finally:
            self._threads.release()

    def close(self) -> None:
        """Close the lock file, once no other thread waits with it or holds the lock any more.

        Were it closed under one who waits, the kernel would free the lock the moment it is given.
        """
        self._file = None

    def leave_to_parent(self) -> None:
        """Begin anew in a forked child; closing its copy of the descriptor does not free the parent's."""
        for file in (self._held, self._file):
            if file is not None:  # another thread of the parent may have it in use
                self._disk.close(file)
        self._held = self._file = None
        self._opening = threading.Lock()
        self._threads = threading.Lock()

    def _let_go(self) -> None:
        """Free what an interrupted thread took: the interrupt may have come when it just had the lock."""
        try:
            for file in (self._held, self._file):
                if file is not None:
                    _unlock(file.fd)
            self._held = None
        except OSError:
            pass  # it was not locked; only POSIX does not mind
        finally:
            self._threads.release()

    __enter__ = acquire

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _acquire_threads(self, timeout: float) -> float:
        """Take the lock between the threads of this process; what is left of the timeout."""
        if self._threads.acquire(blocking=False):
            return timeout
        started = time.monotonic()
        if not self._threads.acquire(timeout=min(timeout, threading.TIMEOUT_MAX)):
            raise LockTimeout(self.path, timeout)
        return max(0.0, timeout - (time.monotonic() - started))

    def _wait(self, file: WriteFile, timeout_seconds: float) -> WriteFile:
        """Wait for at most so long, first by trying again and again: most locks are held for microseconds."""
        pause_seconds = _FIRST_PAUSE_SECONDS
        deadline = time.monotonic() + timeout_seconds
        patient_at = deadline - timeout_seconds + _TRYING_SECONDS
        while (now := time.monotonic()) < min(deadline, patient_at):
            time.sleep(min(pause_seconds, deadline - now))
            if _try_lock(file.fd):
                return file
            pause_seconds = min(2 * pause_seconds, _LAST_PAUSE_SECONDS)
        if now < deadline:
            locked = self._wait_aside(deadline - now)
            if locked is not None:
                self._file = locked  # the old one closes itself once no other thread uses it
                return locked
        raise LockTimeout(self.path, self.timeout_seconds or 0.0)

    def _wait_aside(self, timeout_seconds: float) -> WriteFile | None:
        """Wait in a thread, because a blocked flock cannot be given a time limit.

        The thread has a descriptor of its own, which it hands over with the lock on it. One that comes too
        late closes it, which frees the lock; the process may end meanwhile, the thread is a daemon.
        """
        waiter = _Waiter(self._disk.open(self.path, create=True), self._disk)
        try:
            return waiter.wait(timeout_seconds)
        except BaseException:
            waiter.abandon()
            raise


@contextmanager
def held_shared(path: str, timeout_seconds: float) -> Iterator[bool]:
    """Keep writers out for a moment, for who may only read; whether that succeeded.

    It does not where somebody holds the lock for longer than that. Without a lock file there is no writer.
    """
    try:
        file = ReadFile(path)
    except FileNotFoundError:
        yield True
        return
    if not _try_lock_shared(file.fd) and not (timeout_seconds and _SharedWaiter(file).wait(timeout_seconds)):
        yield False
        return
    try:
        yield True
    finally:
        _unlock(file.fd)


class _SharedWaiter:
    """Waits for a shared lock in a thread, as a blocked flock cannot be given a time limit.

    A lock that comes too late is given back at once: the process may live on for long.
    """

    def __init__(self, file: ReadFile) -> None:
        self._file = file
        self._mutex = threading.Lock()
        self._locked = threading.Event()
        self._abandoned = False
        threading.Thread(target=self._run, name="evlog-lock", daemon=True).start()

    def _run(self) -> None:
        _lock_shared(self._file.fd)
        with self._mutex:
            if self._abandoned:
                _unlock(self._file.fd)
            else:
                self._locked.set()

    def wait(self, timeout_seconds: float) -> bool:
        self._locked.wait(timeout_seconds)
        with self._mutex:
            self._abandoned = not self._locked.is_set()
        return not self._abandoned


class _Waiter:
    def __init__(self, file: WriteFile, disk: Disk) -> None:
        self._file = file
        self._disk = disk
        self._mutex = threading.Lock()
        self._locked = threading.Event()
        self._abandoned = False
        self._error: OSError | None = None
        leave_at_fork(self)
        threading.Thread(target=self._run, name="evlog-lock", daemon=True).start()

    def _run(self) -> None:
        try:
            _lock(self._file.fd)
        except OSError as error:
            self._error = error
        with self._mutex:
            if self._abandoned:
                self._disk.close(self._file)
            self._locked.set()

    def wait(self, timeout_seconds: float) -> WriteFile | None:
        self._locked.wait(min(timeout_seconds, threading.TIMEOUT_MAX))
        with self._mutex:
            if not self._locked.is_set():
                self._abandoned = True
                return None
        if self._error is not None:
            raise error_for(self._error, self._file.path)
        return self._file

    def leave_to_parent(self) -> None:
        """Close a forked child's copy of the descriptor: the thread did not come along."""
        self._disk.close(self._file)

    def abandon(self) -> None:
        with self._mutex:
            self._abandoned = True
            if self._locked.is_set():
                self._disk.close(self._file)


class LeftAtFork(Protocol):
    """What a forked child must not share with its parent."""

    def leave_to_parent(self) -> None:
        """Begin anew; runs in the child, before anything else does."""


def leave_at_fork(holder: LeftAtFork) -> None:
    """Have the holder begin anew in every child that is forked, as long as somebody else refers to it."""
    _to_leave_at_fork.add(holder)


_to_leave_at_fork: weakref.WeakSet[LeftAtFork] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for holder in list(_to_leave_at_fork):
        holder.leave_to_parent()


os.register_at_fork(after_in_child=_after_fork_in_child)

if fcntl is not None:

    def _try_lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX)

    def _try_lock_shared(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _lock_shared(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_SH)

    def _unlock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)

else:  # pragma: no cover - no POSIX

    def _try_lock(fd: int) -> bool:
        from filelock import lock_descriptor

        return lock_descriptor(fd, blocking=False)

    def _lock(fd: int) -> None:
        from filelock import lock_descriptor

        lock_descriptor(fd, poll_interval=0.002)

    _try_lock_shared = _try_lock
    _lock_shared = _lock

    def _unlock(fd: int) -> None:
        from filelock import unlock_descriptor

        unlock_descriptor(fd)
