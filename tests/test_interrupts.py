"""Ctrl-C between any two disk calls of an append, or lines of what takes the lock: the store goes on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import evlog
from evlog import LockTimeout
from evlog.files import engine
from evlog.files.disk import file_lock
from evlog.files.disk.files import Disk, WriteFile
from evlog.files.follow import checkpoint_file
from evlog.files.log.log import Log
from evlog.files.write import sync_marks, tail, writer
from evlog.subscriptions import shards
from tests.support.helpers import engine_of, new, number_id, numbers, small_store, writer_of
from tests.support.interrupts import Interrupted

CALLS = ("open", "write_at", "cut", "sync", "sync_dir", "replace", "remove", "create_file")


class InterruptedDisk(Disk):
    """Raises KeyboardInterrupt at the n-th call, before or after it is done."""

    def __init__(self) -> None:
        self.left = -1
        self.after = False

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            if self.left == 0 and not self.after:
                self.left = -1
                raise KeyboardInterrupt
            result = call(*arguments, **named)
            if self.left == 0:
                self.left = -1
                raise KeyboardInterrupt
            if self.left > 0:
                self.left -= 1
            return result

        return counted

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return self._counted(found) if name in CALLS else found


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("segment_events", [3, 100])
def test_interrupted_append_is_whole_or_absent_and_the_store_goes_on(
    memory_path: Path, segment_events: int, after: bool
) -> None:
    for calls in range(60):
        path = memory_path / f"store-{calls}"
        disk = InterruptedDisk()
        with small_store(path, segment_events=segment_events, disk=disk) as store:
            store.append("s", [new(0, id=number_id(0)), new(1, id=number_id(1))])
            batch = [new(number, id=number_id(number)) for number in (2, 3)]
            disk.left, disk.after = calls, after
            try:
                store.append("s", batch, expected=2)
                done = True
            except KeyboardInterrupt:
                done = False
            disk.left = -1
            assert numbers(store.read_all()) in ([0, 1], [0, 1, 2, 3])
            assert store.append("s", batch, expected=2)[1:5] == (3, 4, 3, 4)
            assert store.append("s", [new(4)], expected=4).first_position == 5
            for subject in (store, evlog.open(path)):
                assert numbers(subject.read_all()) == [0, 1, 2, 3, 4]
                assert subject.stream_version("s") == 5
        if done:
            return
    raise AssertionError("the append never got through")


@pytest.mark.parametrize("streams", [["s"], ["s", "t"]])
def test_an_interrupt_between_any_two_lines_leaves_no_lock_behind(
    memory_path: Path, streams: list[str]
) -> None:
    with small_store(memory_path / "store", lock_timeout=None) as store:
        store.append("s", [new()])
        locks = writer_of(store)._lock, writer_of(store)._marks.lock._lock
        for count in range(1, 1000):
            with Interrupted(count, file_lock, sync_marks, writer) as interrupted:
                store.append_many([(stream, [new()]) for stream in streams])
            for lock in locks:
                assert not lock.is_mine(), count
                assert not lock.is_held(), count
            if not interrupted.happened:
                assert count > 20
                return
    raise AssertionError("the append never got through")


def test_an_interrupted_begin_of_a_run_leaves_no_lock_behind(memory_path: Path) -> None:
    with small_store(memory_path / "store") as store:
        checkpoint = engine_of(store).checkpoint("audit")
        for count in range(1, 1000):
            with Interrupted(count, shards, checkpoint_file, engine) as interrupted:
                shards.acquire_one(store.engine, checkpoint)
            if not interrupted.happened:
                assert count > 5
                return
            checkpoint.acquire()
            checkpoint.release()
    raise AssertionError("the run never began")


class AppendingDisk(Disk):
    """Makes a call in the middle of the next sync of a log, as a signal's handler may."""

    def __init__(self) -> None:
        self.call: Callable[[], object] | None = None

    def sync(self, file: WriteFile) -> None:
        call, self.call = self.call, None
        if call is not None:
            call()
        super().sync(file)


def test_a_signal_handler_that_appends_during_a_sync_does_not_wait_for_itself(memory_path: Path) -> None:
    disk = AppendingDisk()
    with small_store(memory_path / "store", lock_timeout=None, disk=disk) as store:
        store.append("s", [new(0)])
        disk.call = lambda: store.append("s", [new(2)])
        thread = threading.Thread(target=store.append, args=("s", [new(1)]), daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive(), "it hangs"
        assert numbers(store.read_all()) == [0, 1, 2]
        log = Log(store.path)
        assert log.durable_position() == log.head


def test_a_retry_after_an_interrupt_is_durable_when_it_returns(memory_path: Path) -> None:
    """The writer has taken in what another one wrote and did not sync; a duplicate of it has to be synced."""
    path = memory_path / "store"
    with small_store(path, segment_events=10_000, sync="none") as other, small_store(path) as store:
        store.append("s", [new()])
        for count in range(1, 1000):
            event = new(id=number_id(count))
            other.append("s", [event])
            with Interrupted(count, tail) as interrupted:
                store.append("s", [event])
            assert store.append("s", [event]).duplicate
            log = Log(store.path)
            assert log.durable_position() == log.head, count
            if not interrupted.happened:
                assert count > 5
                return
    raise AssertionError("the append never got through")


def test_a_signal_handler_that_appends_during_an_append_is_refused(memory_path: Path) -> None:
    with small_store(memory_path / "store", lock_timeout=None) as store:
        refused: list[LockTimeout] = []

        def handle(frame: FrameType, event: str, _argument: object) -> None:
            if event == "call" and frame.f_code.co_name == "_append_locked":
                sys.settrace(None)
                for _ in range(2):
                    with pytest.raises(LockTimeout) as caught:
                        store.append("s", [new(1)])
                    refused.append(caught.value)

        before = sys.gettrace()
        sys.settrace(handle)
        try:
            store.append("s", [new(0)])
        finally:
            sys.settrace(before)
        assert len(refused) == 2
        assert numbers(store.read_all()) == [0]
        assert not writer_of(store)._lock.is_held()


def test_what_is_collected_needs_nothing_of_an_init_that_was_interrupted() -> None:
    root = Path(evlog.__file__).parent
    classes: list[Any] = []
    for path in root.rglob("*.py"):
        if "def __del__(" in path.read_text():
            name = ".".join(path.relative_to(root.parent).with_suffix("").parts)
            own = [each for each in vars(import_module(name)).values() if isinstance(each, type)]
            classes += [each for each in own if "__del__" in vars(each) and each.__module__ == name]
    assert len(classes) >= 8
    for each in classes:
        each.__new__(each).__del__()
