"""One thread is stopped at each line of an append while another one does something: the promises hold."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

import evlog
from evlog.errors import EvlogError, StoreClosed, StoreIOError
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import Disk, WriteFile
from evlog.files.format.paths import lock_path
from evlog.model.appends import AppendRequest, AppendResult, BatchResult
from evlog.model.encoding import encode_events
from tests.support.contention import claim_slot, current_round
from tests.support.helpers import new, number_id, small_store, writer_of
from tests.support.schedules import Stopped

LEAD = ("write/writer.py", "write/group_commit.py", "disk/file_lock.py")
WRITE = ("write/writer.py", "write/tail.py", "write/building.py", "write/sync_marks.py", "write/roll.py")


class ArmingDisk(Disk):
    """Arms the stopped thread once it has synced a log, and fails what a test asks for."""

    def __init__(self) -> None:
        self.stopped: Stopped | None = None
        self.fails: Callable[[], bool] = lambda: False

    def sync(self, file: WriteFile) -> None:
        super().sync(file)
        if self.stopped is not None and threading.current_thread() is self.stopped:
            self.stopped.armed.set()
        if file.path.endswith(".log") and self.fails():
            raise StoreIOError(file.path, "Input/output error")


def in_thread(job: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=job, daemon=True)
    thread.start()
    return thread


def ended(thread: threading.Thread) -> None:
    thread.join(60)
    assert not thread.is_alive(), "the other thread hangs"


def check(path: Path, ids: set[int]) -> None:
    """Check that everything acknowledged is there once, and that the store takes appends."""
    with evlog.open(path) as store:
        assert store.verify().ok
        found = [event.id for event in store.read_all()]
        assert len(found) == len(set(found))
        assert {number_id(number) for number in ids} <= set(found)
        store.append("last", [new()])


@pytest.mark.parametrize("segment_events", [10, 1000], ids=["the other thread rolls", "one segment"])
def test_a_thread_that_notes_its_sync_late_misleads_no_other(memory_path: Path, segment_events: int) -> None:
    for line in count(1):
        path = memory_path / f"store-{line}"
        disk = ArmingDisk()
        with small_store(path, segment_events=segment_events, disk=disk, lock_timeout=None) as store:
            for number in range(9):
                store.append("a", [new(number, id=number_id(number))])
            first = Stopped(lambda: store.append("a", [new(id=number_id(9))]), line, WRITE)
            disk.stopped = first
            stopped = first.start_and_stop()
            other = in_thread(lambda: store.append("b", [new(id=number_id(10))]))
            other.join(0.01)  # where the first thread holds a mutex, the other one comes after it
            assert isinstance(first.finish(), AppendResult)
            ended(other)
            store.append("b", [new(id=number_id(11))])
        check(path, set(range(12)))
        if not stopped:
            assert line > 5
            return


def test_a_writer_that_has_released_the_lock_lets_no_other_wait(memory_path: Path) -> None:
    """Others wait for a round of the leader. Stopped at any line, it holds a round only with the lock."""
    free_lines = taken_lines = 0
    for line in count(1):
        path = memory_path / f"store-{line}"
        with small_store(path, lock_timeout=None) as store, small_store(path, lock_timeout=None) as other:
            store.append("a", [new()])
            claim_slot(store)
            claim_slot(other)
            writer_of(store)._contended = 1  # so that it leads
            leader = Stopped(lambda: store.append("a", [new()]), line, LEAD)
            leader.armed.set()
            stopped = leader.start_and_stop()
            lock = FileLock(lock_path(str(path)), 0)
            free = lock.maybe_acquire() is not None
            taken = current_round(other).is_taken()
            if free:
                lock.release()
            assert not (free and taken), f"stopped at line {line}, it delays every writer that waits"
            free_lines += free
            taken_lines += taken
            assert isinstance(leader.finish(), AppendResult)
        if not stopped:
            break
    assert free_lines > 10
    assert taken_lines > 10


def test_a_store_that_is_closed_while_a_thread_appends_says_so(memory_path: Path) -> None:
    """The append is acknowledged, or it raises StoreClosed; there is no third outcome."""
    outcomes = set()
    for line in count(1):
        path = memory_path / f"store-{line}"
        store = small_store(path, segment_events=4, lock_timeout=None)
        for number in range(3):
            store.append("a", [new(number, id=number_id(number))])
        events = encode_events([new(id=number_id(3 + at)) for at in range(1 + line % 2)])
        writer = writer_of(store)  # not through the engine, which would hide a wrong error
        request = AppendRequest(["a"] * len(events), events)
        thread = Stopped(lambda: writer.append(request), line, WRITE)  # noqa: B023
        thread.armed.set()
        stopped = thread.start_and_stop()
        store.close()
        outcome = thread.finish()
        outcomes.add(type(outcome))
        assert isinstance(outcome, BatchResult | StoreClosed), outcome
        with pytest.raises(StoreClosed):
            store.append("a", [new()])
        check(path, {0, 1, 2, 3} if isinstance(outcome, BatchResult) else {0, 1, 2})
        if not stopped:
            break
    assert outcomes == {BatchResult, StoreClosed}


@pytest.mark.parametrize("rolls", [False, True])
def test_a_failed_sync_is_seen_by_every_thread_that_shares_the_descriptor(
    memory_path: Path, rolls: bool
) -> None:
    """Linux reports it once for each open file: the thread that syncs next is told nothing."""
    for line in count(1):
        path = memory_path / f"store-{line}"
        disk = ArmingDisk()
        store = small_store(path, segment_events=2 if rolls else 1000, disk=disk, lock_timeout=None)
        store.append("a", [new(id=number_id(0))])
        failures = iter([True])
        disk.fails = lambda: next(failures, False)  # noqa: B023
        events = [new(id=number_id(number)) for number in (1, 2)]
        first = Stopped(lambda: store.append("a", events), line, WRITE)  # noqa: B023
        disk.stopped = first
        results: list[object] = []

        def append() -> None:
            try:
                results.append(store.append("b", [new(id=number_id(3))]))  # noqa: B023
            except EvlogError as error:
                results.append(error)  # noqa: B023

        stopped = first.start_and_stop()
        other = in_thread(append)
        other.join(0.01)
        assert isinstance(first.finish(), StoreIOError)
        ended(other)
        assert [type(result) for result in results] == [StoreIOError]
        store.close()
        check(path, {0})
        if not stopped:
            assert line > 3
            return


def test_threads_that_append_roll_read_and_close_at_the_same_time(memory_path: Path) -> None:
    """Every append is acknowledged and there, or refused because the store was closed."""
    for turn in range(12):
        path = memory_path / f"store-{turn}"
        store = small_store(path, segment_events=3, lock_timeout=None)
        store.append("a", [new()])
        begin = threading.Barrier(6)
        acknowledged: list[int] = []
        wrong: list[BaseException] = []

        def append(thread: int) -> None:
            begin.wait()  # noqa: B023
            for number in range(1000):
                try:
                    store.append(f"s-{thread}", [new(id=number_id(1000 * thread + number))])  # noqa: B023
                except StoreClosed:
                    return
                except BaseException as error:  # noqa: BLE001 - for the test to judge
                    wrong.append(error)  # noqa: B023
                    return
                acknowledged.append(1000 * thread + number)  # noqa: B023

        def read() -> None:
            begin.wait()  # noqa: B023
            try:
                while True:
                    positions = [event.position for event in store.read_all()]  # noqa: B023
                    assert positions == list(range(1, len(positions) + 1))
            except StoreClosed:
                return
            except BaseException as error:  # noqa: BLE001 - for the test to judge
                wrong.append(error)  # noqa: B023

        threads = [in_thread(lambda n=n: append(n)) for n in range(1, 5)] + [in_thread(read)]  # type: ignore[misc]
        begin.wait()
        while len(acknowledged) < 5 * turn and not wrong:
            threads[0].join(0.001)
        store.close()
        for thread in threads:
            ended(thread)
        assert wrong == []
        check(path, set(acknowledged))
