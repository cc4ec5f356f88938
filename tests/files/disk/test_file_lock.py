"""The writers' lock: one holder at a time, among threads, processes and users of filelock."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import filelock
import pytest

from evlog.errors import LockLost, LockTimeout, NotAStore, StoreAccessDenied, StoreNotFound, SystemCallFailed
from evlog.files.disk.file_lock import FileLock, SharedLock, holder_of
from evlog.files.disk.files import Disk, WriteFile
from evlog.testing.base import in_threads
from tests.support.contention import wait_until
from tests.support.helpers import open_files
from tests.support.programs import next_line, run_python, start_python

HOLDER = """
import sys
from evlog.files.disk.file_lock import FileLock
lock = FileLock(sys.argv[1], None)
lock.acquire()
print("held", flush=True)
sys.stdin.readline()
lock.release()
print("free", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "lock")


@pytest.fixture
def holder(path: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until it is given a line."""
    with start_python("-c", HOLDER, path) as process:
        assert next_line(process) == "held\n"
        yield process
        process.kill()


def test_lock_is_taken_given_back_and_taken_again(path: str) -> None:
    lock = FileLock(path, 0)
    for _ in range(3):
        with lock as file:
            assert os.fstat(file.fd).st_ino == os.stat(path).st_ino
    lock.close()
    with lock:
        pass


@pytest.mark.parametrize("timeout", [0, 0.01, 0.1])
def test_held_lock_times_out_with_its_own_error(path: str, timeout: float) -> None:
    with FileLock(path, 0):
        other = FileLock(path, timeout)
        with pytest.raises(LockTimeout) as caught:
            other.acquire()
        assert (caught.value.path, caught.value.timeout_seconds) == (path, timeout)
    with FileLock(path, 0):
        pass


def test_thread_of_the_same_lock_times_out_too(path: str) -> None:
    lock = FileLock(path, 0.05)
    with lock:
        caught: list[BaseException] = []
        thread = threading.Thread(target=lambda: _note_error(lock, caught))
        thread.start()
        thread.join()
    assert [type(error) for error in caught] == [LockTimeout]


def _note_error(lock: FileLock, caught: list[BaseException]) -> None:
    try:
        lock.acquire()
    except LockTimeout as error:
        caught.append(error)


def test_process_that_waits_gets_the_lock_when_it_is_free(path: str, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(LockTimeout):
        FileLock(path, 0).acquire()
    for timeout in (None, 20.0):
        if timeout is None:
            assert holder.stdin is not None
            holder.stdin.write("\n")
            holder.stdin.flush()
        with FileLock(path, timeout):
            pass


def test_wait_with_a_time_limit_ends_when_the_holder_gives_the_lock_back(path: str) -> None:
    first, second = FileLock(path, 0), FileLock(path, 20)
    first.acquire()
    got: list[int] = []

    def wait() -> None:
        with second as file:
            got.append(file.fd)

    thread = threading.Thread(target=wait)
    thread.start()
    assert not got
    first.release()
    thread.join()
    assert got


def test_killed_holder_frees_the_lock(path: str, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(LockTimeout):
        FileLock(path, 0).acquire()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with FileLock(path, 0):
        pass


def test_filelock_cannot_take_what_evlog_holds(path: str) -> None:
    with FileLock(path, 0), pytest.raises(filelock.Timeout):
        filelock.FileLock(path).acquire(timeout=0)
    with filelock.FileLock(path, timeout=0):
        pass


def test_evlog_cannot_take_what_filelock_holds(path: str) -> None:
    with filelock.FileLock(path), pytest.raises(LockTimeout):
        FileLock(path, 0.02).acquire()
    with FileLock(path, 20):
        pass


def test_timeouts_leave_no_thread_and_no_descriptor(path: str) -> None:
    first = FileLock(path, 0)
    first.acquire()
    late = FileLock(path, 0.03)
    late.open()
    files, threads = open_files(path), set(threading.enumerate())
    for _ in range(5):
        with pytest.raises(LockTimeout):
            late.acquire()
        with SharedLock(path, 0.03) as alone:
            assert not alone
    assert open_files(path) == files
    assert set(threading.enumerate()) <= threads
    first.release()
    with FileLock(path, 0):
        pass


def test_only_one_of_many_threads_is_inside(path: str) -> None:
    shared = FileLock(path, None)
    inside = 0
    most = 0
    rounds = 0

    def work(lock: FileLock) -> None:
        nonlocal inside, most, rounds
        for _ in range(50):
            with lock:
                inside += 1
                most = max(most, inside)
                rounds += 1
                inside -= 1

    locks = [shared, shared, shared, FileLock(path, None), FileLock(path, 30)]
    in_threads(partial(work, lock) for lock in locks)
    assert (most, rounds) == (1, 250)


class Meeting(Disk):
    """Opens files only when two threads want to at once, or a moment has passed."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2)
        self.opened = 0

    def open(
        self, path: str, *, create: bool = False, truncate: bool = False, readable: bool = True
    ) -> WriteFile:
        try:
            self.barrier.wait(0.1)
        except threading.BrokenBarrierError:
            pass
        self.opened += 1
        return super().open(path, create=create, truncate=truncate, readable=readable)


def test_threads_that_first_use_a_lock_at_once_share_it(path: str) -> None:
    disk = Meeting()
    lock = FileLock(path, 20, disk)
    shared = threading.Barrier(2)

    def work() -> None:
        shared.wait()
        with lock as file:
            with pytest.raises(LockTimeout):
                FileLock(path, 0).acquire()
            inside.append(file.fd)

    inside: list[int] = []
    in_threads([work] * 2)
    assert len(inside) == 2
    assert disk.opened == 1
    with FileLock(path, 0):
        pass


class Noticing:
    """A threading.Lock that tells when a thread begins to wait for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waited_for = threading.Event()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self.lock.acquire(blocking=False):
            return True
        if not blocking:
            return False
        self.waited_for.set()
        return self.lock.acquire(timeout=timeout)

    def release(self) -> None:
        self.lock.release()


def test_thread_that_waits_behind_a_waiting_thread_gets_the_lock_too(path: str) -> None:
    other, lock = FileLock(path, 0), FileLock(path, 20)
    noticing = Noticing()
    lock._threads = noticing
    got: list[int] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with lock as file:
                os.fstat(file.fd)
                got.append(file.fd)
        except BaseException as error:  # noqa: BLE001 - shown by the assertion
            errors.append(error)

    with lock:  # opened
        pass
    marks = lock.open()
    other.acquire()
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert noticing.waited_for.wait(20)  # one waits for the file, the other behind it
    other.release()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(got) == 2
    os.fstat(marks.fd)  # a thread may be writing through it
    with other:
        pass


@pytest.mark.parametrize("timeout", [None, 20.0])
def test_removed_lock_file_is_noticed_by_the_next_acquire(path: str, timeout: float | None) -> None:
    lock = FileLock(path, timeout)
    with lock:
        pass
    os.unlink(path)
    other = FileLock(path, 0)
    with other:
        assert FileLock(path, 0).maybe_acquire() is None
        lock.timeout_seconds = 0
        with pytest.raises(LockTimeout):
            lock.acquire()
        assert lock.maybe_acquire() is None
    lock.timeout_seconds = timeout
    with lock, pytest.raises(LockTimeout):
        other.acquire()


def test_lock_file_that_is_removed_while_a_thread_waits_is_noticed(path: str) -> None:
    other, lock = FileLock(path, None), FileLock(path, None)
    other.acquire()
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    wait_until(lambda: is_waited_for(path))
    os.unlink(path)
    other.release()
    thread.join(10)
    assert other.maybe_acquire() is None
    lock.release()


def test_lock_file_that_is_replaced_while_it_is_held_is_noticed(path: str) -> None:
    lock = FileLock(path, 0)
    with lock:
        lock.check_held()
        os.unlink(path)
        with pytest.raises(LockLost):
            lock.check_held()
        Path(path).write_bytes(b"")
        with pytest.raises(LockLost):
            lock.check_held()


def test_asking_needs_no_exclusive_lock_and_no_permission_to_write(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS refuses an exclusive lock on a descriptor that is open for reading."""
    real = fcntl.flock

    def flock(fd: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    lock = FileLock(path, 0)
    with lock:
        assert FileLock(path, 0).is_held()
    assert not FileLock(path, 0).is_held()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EBADF, errno.EINVAL, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_named(path: str, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    Path(path).write_bytes(b"")

    def flock(_fd: int, operation: int) -> None:
        if operation != fcntl.LOCK_UN:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    for timeout in (None, 0, 1):
        with pytest.raises(SystemCallFailed) as caught:
            FileLock(path, timeout).acquire()
        assert caught.value.reason == os.strerror(number)
    with pytest.raises(SystemCallFailed):
        FileLock(path, 0).is_held()
    with pytest.raises(SystemCallFailed), SharedLock(path, 1):
        pass


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_long_wait_names_the_holder_once(
    path: str,
    holder: subprocess.Popen[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    timeout: float | None,
) -> None:
    monkeypatch.setattr("evlog.files.disk.file_lock._REPORT_SECONDS", 0.05)
    # Its own handler alone, whatever other tests have had libraries do to the handlers of all loggers.
    logger = logging.getLogger("evlog")
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    monkeypatch.setattr(logger, "propagate", False)
    waiting = FileLock(path, timeout)
    thread = threading.Thread(target=waiting.acquire)
    thread.start()
    wait_until(lambda: bool(caplog.records))
    holder.kill()
    thread.join(20)
    (record,) = caplog.records
    if os.path.exists("/proc/locks"):
        assert f"process {holder.pid} (" in record.getMessage()
    waiting.release()
    wait_until(lambda: waiting._reporter is None)


@pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="the system does not tell which process it is")
def test_a_holder_that_is_stopped_is_said_to_be(path: str, holder: subprocess.Popen[str]) -> None:
    assert str(holder_of(path)).startswith(f"process {holder.pid} (python")
    assert str(holder_of(path)).endswith(f", user {os.getuid()})")
    holder.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, holder.pid, os.WSTOPPED | os.WNOWAIT)
    assert str(holder_of(path)).endswith(f"), which is stopped: `kill -CONT {holder.pid}` continues it")


def test_only_users_that_may_write_can_open_the_writers_lock(tmp_path: Path) -> None:
    for mode, expected in ((0o755, 0o600), (0o775, 0o660), (0o777, 0o666), (0o700, 0o600)):
        directory = tmp_path / f"{mode:o}"
        directory.mkdir()
        directory.chmod(mode)
        with FileLock(str(directory / "lock"), 0, readable=False):
            assert stat.S_IMODE((directory / "lock").stat().st_mode) == expected
        with FileLock(str(directory / "durable"), 0):
            assert stat.S_IMODE((directory / "durable").stat().st_mode) == mode & 0o666


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_child_does_not_keep_a_dead_parents_lock(path: str) -> None:
    code = (
        "import os, sys; from evlog.files.disk.file_lock import FileLock;"
        "lock = FileLock(sys.argv[1], 0); lock.acquire();"
        "child = os.fork();"
        "print('child' if child == 0 else 'parent', flush=True) if child == 0 else None;"
        "sys.stdin.readline() if child == 0 else os.kill(os.getpid(), 9)"
    )
    with start_python("-c", code, path) as parent:
        assert next_line(parent) == "child\n"  # lives, reading
        assert parent.wait() == -signal.SIGKILL
        with FileLock(path, 0):
            pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_child_neither_has_nor_gives_back_its_parents_lock(path: str) -> None:
    code = """
import os, sys
from evlog.errors import LockTimeout
from evlog.files.disk.file_lock import FileLock
lock = FileLock(sys.argv[1], 0)
lock.acquire()
child = os.fork()
if child == 0:
    try:
        lock.acquire()
    except LockTimeout:
        os._exit(0)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the child took the lock"
try:
    FileLock(sys.argv[1], 0).acquire()
except LockTimeout:
    lock.release()
else:
    raise AssertionError("the child's end gave the lock back")
"""
    run_python("-c", code, path)


def test_lock_file_that_cannot_be_made_is_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound):
        FileLock(str(tmp_path / "missing" / "lock"), 0).acquire()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotAStore, match="it is a file"):
        FileLock(str(tmp_path / "file" / "lock"), 0).acquire()


def test_lock_file_without_permission_is_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreAccessDenied):
        FileLock(str(tmp_path / "lock"), 0).acquire()


def test_disk_of_the_lock_is_the_one_it_was_given(path: str) -> None:
    opened: list[str] = []

    class Noting(Disk):
        def open(
            self, path: str, *, create: bool = False, truncate: bool = False, readable: bool = True
        ) -> WriteFile:
            opened.append(path)
            return super().open(path, create=create, truncate=truncate, readable=readable)

    with FileLock(path, 0, Noting()):
        pass
    assert opened == [path]


def test_a_shared_look_needs_no_file_and_waits_for_writers(memory_path: Path) -> None:
    path = f"{memory_path}/lock"
    with SharedLock(path, 0.0) as alone:
        assert alone
    lock = FileLock(path, None)
    with lock, SharedLock(path, 0.01) as alone:
        assert not alone
    with SharedLock(path, 0.0) as alone, SharedLock(path, 0.0) as both:
        assert alone
        assert both
        assert FileLock(path, 0.0).maybe_acquire() is None
    with lock:
        pass
    lock.close()


def is_waited_for(path: str) -> bool:
    """Return whether a process waits for the lock on the file, by the kernel's list."""
    inode = f":{os.stat(path).st_ino} "
    return any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


@pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="the system does not tell which processes wait")
def test_a_lock_that_is_closed_while_a_thread_waits_is_that_threads(path: str) -> None:
    """If the file were closed at once, the kernel would free the lock as soon as it is granted."""
    other, closed = FileLock(path, None), FileLock(path, None)
    other.acquire()
    thread = threading.Thread(target=closed.acquire)
    thread.start()
    wait_until(lambda: is_waited_for(path))
    closed.close()
    other.release()
    thread.join(10)
    assert other.maybe_acquire() is None
    closed.release()
    assert other.maybe_acquire() is not None
    other.release()


@pytest.mark.parametrize(
    "take", [FileLock.acquire, partial(FileLock.maybe_acquire, wait_for_threads=True), FileLock.maybe_acquire]
)
def test_an_interrupt_that_comes_with_the_lock_frees_it(
    path: str, monkeypatch: pytest.MonkeyPatch, take: Callable[[FileLock], object]
) -> None:
    lock, other = FileLock(path, None), FileLock(path, 0)

    def interrupted(file: WriteFile, *, shared: bool = False) -> bool:
        assert not shared
        fcntl.flock(file.fd, fcntl.LOCK_EX)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("evlog.files.disk.file_lock._lock", interrupted)
        patch.setattr("evlog.files.disk.file_lock.try_lock", interrupted)
        with pytest.raises(KeyboardInterrupt):
            take(lock)
    with other, pytest.raises(AssertionError):
        lock.release()
    with lock:
        assert other.is_held()


def test_an_interrupt_before_the_lock_is_given_back_does_not_keep_it(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, other = FileLock(path, None), FileLock(path, 0)
    lock.acquire()
    interrupts = iter([True])

    def interrupted(fd: int) -> None:
        if next(interrupts, False):
            raise KeyboardInterrupt
        fcntl.flock(fd, fcntl.LOCK_UN)

    with monkeypatch.context() as patch:
        patch.setattr("evlog.files.disk.file_lock.unlock", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lock.release()
    with other:
        pass
    with lock:
        pass


def test_inexact_lock_notices_a_removed_file_at_the_next_look_at_its_name(path: str) -> None:
    lock = FileLock(path, 0, exact=False)
    with lock:
        pass
    os.unlink(path)
    lock._named_until = 0.0
    with lock, pytest.raises(LockTimeout):
        FileLock(path, 0).acquire()
