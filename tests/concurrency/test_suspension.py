"""A suspended process (Ctrl-Z, a debugger, `docker pause`) delays others only if it has the writers' lock."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import evlog
from evlog.files.disk import range_lock
from evlog.files.disk.file_lock import FileLock
from evlog.files.format.paths import durable_path, lock_path
from tests.support.contention import wait_until
from tests.support.helpers import new, small_store
from tests.support.programs import start_python, suspend

pytestmark = pytest.mark.skipif(not range_lock.AVAILABLE, reason="there is no queue here")

WRITERS = 5
APPEND = """
import sys
import evlog
from evlog.files.write import writer

writer._MANY = int(sys.argv[3])
store = evlog.open(sys.argv[1])
number = 0
while True:
    store.append("w-" + sys.argv[2], [evlog.NewEvent("T", number)])
    number += 1
    print(number, flush=True)
"""


class Writers:
    """Processes that append one event after another, and print each number."""

    def __init__(self, path: Path, many: int) -> None:
        self.store = str(path / "store")
        small_store(self.store, segment_events=100_000).close()
        self._outputs = [path / f"{number}.txt" for number in range(WRITERS)]
        self.processes = []
        for number, output in enumerate(self._outputs):
            with output.open("wb") as file:
                self.processes.append(
                    start_python("-c", APPEND, self.store, str(number), str(many), stdin=None, stdout=file)
                )
        for number in range(WRITERS):
            self.wait_for_progress(number, 5)

    def size(self, number: int) -> int:
        return self._outputs[number].stat().st_size

    def wait_for_progress(self, number: int, lines: int = 3) -> None:
        before = self.size(number)
        wait_until(lambda: self.size(number) > before + 6 * lines)

    def suspend(self, number: int) -> None:
        suspend(self.processes[number].pid)

    def resume(self, number: int) -> None:
        self.processes[number].send_signal(signal.SIGCONT)

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture(params=[1, 4], ids=["they append for each other", "few append for each other"])
def writers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Writers]:
    made = Writers(tmp_path, request.param)
    try:
        yield made
    finally:
        made.end()


def test_a_suspended_waiter_delays_no_other(writers: Writers) -> None:
    lock = FileLock(lock_path(writers.store), 60.0)
    for turn in range(2 * WRITERS):
        suspended = turn % WRITERS
        with lock:  # as a backup script may hold it: so all writers begin to wait
            pause_until_all_wait(writers)
            writers.suspend(suspended)
        for number in range(WRITERS):
            if number != suspended:
                writers.wait_for_progress(number)
        writers.resume(suspended)
        writers.wait_for_progress(suspended)
    writers.end()
    assert evlog.verify_store(writers.store).ok


def pause_until_all_wait(writers: Writers) -> None:
    """Return once no writer makes progress: a few appends may have been synced without the lock."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        before = [writers.size(number) for number in range(WRITERS)]
        time.sleep(0.05)
        if before == [writers.size(number) for number in range(WRITERS)]:
            return
    raise AssertionError("the writers go on while the lock is held")


def test_a_writer_that_is_suspended_at_any_moment_delays_others_only_with_the_lock(writers: Writers) -> None:
    lock = FileLock(lock_path(writers.store), 60.0)
    for turn in range(30):
        suspended = turn % WRITERS
        writers.suspend(suspended)
        others = [number for number in range(WRITERS) if number != suspended]
        try:
            wait_until_progress_or_held_by(writers, others, lock, suspended)
        finally:
            writers.resume(suspended)
        writers.wait_for_progress(suspended, 1)
    writers.end()
    assert evlog.verify_store(writers.store).ok


def wait_until_progress_or_held_by(
    writers: Writers, others: list[int], lock: FileLock, suspended: int
) -> None:
    before = {number: writers.size(number) for number in others}
    pid = writers.processes[suspended].pid
    locked = f" {pid} "

    def is_so() -> bool:
        if all(writers.size(number) > before[number] for number in others):
            return True
        inode = os.stat(lock.path).st_ino
        lines = Path("/proc/locks").read_text("ascii").splitlines()
        return any(
            "FLOCK" in line and "->" not in line and locked in line and f":{inode} " in line for line in lines
        )

    wait_until(is_so)


def test_a_process_that_is_suspended_with_the_lock_on_the_marks_delays_no_append(tmp_path: Path) -> None:
    with small_store(tmp_path / "store", segment_events=3, lock_timeout=None) as store:
        store.append("s", [new()])
        holder = FileLock(durable_path(store.path), 0)
        with holder:  # another open file: to the store it is another process
            for version in range(1, 8):
                assert store.append("s", [new()], expected=version).first_version == version + 1
            with evlog.open(store.path) as other:
                assert other.append("s", [new()]).first_version == 9
        assert store.append("s", [new()]).first_version == 10
    assert evlog.verify_store(tmp_path / "store").ok
