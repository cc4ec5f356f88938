"""Derived files that a helper process builds while its writer appends, and what happens when it does not."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evlog import EventStore
from evlog.errors import UnsafeFile
from evlog.files.disk.files import Disk
from evlog.files.disk.processes import CallBeside
from evlog.files.log.log import Log
from evlog.files.log.parts import SealedPart
from evlog.files.write.building import IndexBuilder, build_beside, extend_beside
from evlog.files.write.derived import build_indexes
from tests.support.contention import wait_until
from tests.support.helpers import engine_of, new, number_id, segment_files, small_store, writer_of

SUFFIXES = ("ids", "streams", "types")


@pytest.fixture
def store(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EventStore]:
    """A store whose segments of 8 events count as large ones, after seven appends by a writer of many."""
    monkeypatch.setattr("evlog.files.write.building._MANY_EVENTS", 8)
    monkeypatch.setattr("evlog.files.disk.processes.core_count", lambda: 2)
    with small_store(memory_path / "store") as opened:
        for number in range(7):
            append(opened, number)
        builder_of(opened)._appends = 9
        yield opened


class Suspended:
    """A helper that builds nothing, and ends when the test says so."""

    done = False

    @classmethod
    def maybe_start(cls, function: object, *arguments: object) -> Suspended:
        assert function is build_beside
        return cls()

    def is_done(self) -> bool:
        return self.done

    def end(self, timeout_seconds: float) -> None:
        self.done = True


def append(store: EventStore, number: int) -> tuple[int, bool]:
    result = store.append(f"s-{number % 3}", [new(number, f"T{number % 2}", id=number_id(number))])
    return result.first_position, result.duplicate


def builder_of(store: EventStore) -> IndexBuilder:
    return writer_of(store)._tail.builder


def names(store: EventStore) -> list[str]:
    """Return the suffixes of the derived files of sealed segments that are there."""
    return [suffix for suffix in SUFFIXES if segment_files(store, suffix)]


def expire(store: EventStore) -> None:
    """Let the time be over that another writer is given."""
    left = builder_of(store)._left
    assert left is not None
    builder_of(store)._left = left[0], 0.0


def begin_segment(store: EventStore) -> None:
    append(store, 7)
    append(store, 8)


def test_a_helper_builds_what_the_writer_then_uses(store: EventStore) -> None:
    begin_segment(store)
    building = builder_of(store)._building
    assert building is not None
    part, call = building
    assert part is not None
    wait_until(call.is_done)
    assert tuple(names(store)) == SUFFIXES
    built = [path.stat().st_ino for suffix in SUFFIXES for path in segment_files(store, suffix)]
    append(store, 9)
    assert builder_of(store)._building is None
    assert part.index.missing() == []
    assert [path.stat().st_ino for suffix in SUFFIXES for path in segment_files(store, suffix)] == built
    assert [append(store, number) for number in (1, 8, 9)] == [(2, True), (9, True), (10, True)]
    assert store.verify().ok


def test_nothing_waits_for_a_helper(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evlog.files.disk.processes.CallBeside", Suspended)
    begin_segment(store)
    assert builder_of(store)._building is not None
    for number in range(9, 15):
        assert append(store, number) == (number + 1, False)
    assert [append(store, number) for number in (0, 7, 8)] == [(1, True), (8, True), (9, True)]
    assert [event.version for event in store.read("s-1")] == [1, 2, 3, 4, 5]
    assert [event.position for event in store.read_all(types=["T1"])] == [2, 4, 6, 8, 10, 12, 14]
    assert names(store) == []
    append(store, 15)
    append(store, 16)  # the second segment is full: the helper is not waited for any longer
    assert [len(segment_files(store, suffix)) for suffix in SUFFIXES] == [2, 2, 2]
    assert builder_of(store)._building is None


def test_what_a_helper_has_not_built_the_writer_builds(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.files.disk.processes.CallBeside", Suspended)
    begin_segment(store)
    building = builder_of(store)._building
    assert building is not None
    building[1].end(0)
    append(store, 9)
    assert tuple(names(store)) == SUFFIXES
    assert builder_of(store)._building is None
    assert append(store, 3) == (4, True)


@pytest.mark.parametrize("reason", ["one core", "no process", "few events", "a writer of few appends"])
def test_without_a_helper_the_writer_builds_at_once(
    reason: str, store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason == "one core":
        monkeypatch.setattr("evlog.files.disk.processes.core_count", lambda: 1)
    elif reason == "no process":
        monkeypatch.setattr("sys.executable", "/nowhere/python3")
    elif reason == "few events":
        monkeypatch.setattr("evlog.files.write.building._MANY_EVENTS", 9)
    else:
        store.close()
        with small_store(store.path) as other:
            begin_segment(other)
            assert tuple(names(other)) == SUFFIXES
        return
    begin_segment(store)
    assert builder_of(store)._building is None
    assert tuple(names(store)) == SUFFIXES
    assert append(store, 3) == (4, True)


@pytest.fixture
def other(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[EventStore]:
    """Another writer, which knows the segment that the first one then seals; nothing builds its files."""
    monkeypatch.setattr("evlog.files.disk.processes.CallBeside", Suspended)
    with small_store(store.path) as opened:
        assert append(opened, 0) == (1, True)
        yield opened


def test_what_another_writer_has_sealed_is_left_to_it(store: EventStore, other: EventStore) -> None:
    begin_segment(store)
    for number in range(9, 12):
        assert append(other, number) == (number + 1, False)
        assert names(other) == []
    assert [append(other, number) for number in (0, 7, 8)] == [(1, True), (8, True), (9, True)]
    assert [event.version for event in other.read("s-1")] == [1, 2, 3, 4]
    assert [event.position for event in other.read_all(types=["T1"])] == [2, 4, 6, 8, 10, 12]


def test_after_some_time_a_writer_builds_what_another_has_not(store: EventStore, other: EventStore) -> None:
    begin_segment(store)
    append(other, 9)
    expire(other)
    append(other, 10)
    assert tuple(names(other)) == SUFFIXES
    assert builder_of(other)._left is None
    assert append(other, 3) == (4, True)


def test_the_files_of_another_writer_are_used_once_they_are_there(
    store: EventStore, other: EventStore
) -> None:
    log = engine_of(other)._log
    assert log is not None
    columns = log.active.index
    begin_segment(store)
    append(other, 9)
    part = log.sealed[0]
    assert part.index._columns is columns
    build_beside(store.path, part.info.tag)
    built = [path.stat().st_ino for suffix in SUFFIXES for path in segment_files(store, suffix)]
    log.filter.is_due = False
    append(other, 10)
    assert part.index.missing() == []
    assert [path.stat().st_ino for suffix in SUFFIXES for path in segment_files(store, suffix)] == built


def test_policies_that_others_set_before_they_sealed_the_segment_are_known(
    store: EventStore, other: EventStore
) -> None:
    store.set_retention("s-1", max_count=1)  # the last event of the segment
    append(store, 8)
    append(other, 10)
    assert names(other) == []
    assert [event.data for event in other.read("s-1")] == [b"10"]


def filter_is_whole(store: EventStore) -> bool:
    log = Log(store.path)
    return log.filter.load(log.sealed).uncovered == []


def make_filter_due(store: EventStore) -> None:
    """Have a writer of many appends find that no sealed segment has a block, as after a compaction."""
    for number in range(7, 30):
        append(store, number)
    building = builder_of(store)._building
    if building is not None:
        building[1].end(10.0)
        append(store, 30)
    log = engine_of(store)._log
    assert log is not None
    Path(log.filter.path).unlink()
    log.filter.load(log.sealed)
    builder_of(store)._appends = 9


def test_a_helper_extends_the_filter(store: EventStore) -> None:
    make_filter_due(store)
    assert not filter_is_whole(store)
    append(store, 100)
    building = builder_of(store)._building
    assert building is not None
    part, call = building
    assert part is None
    wait_until(call.is_done)
    assert filter_is_whole(store)
    append(store, 101)
    assert builder_of(store)._building is None
    assert append(store, 21) == (22, True)
    assert store.verify().ok


def test_one_of_two_writers_has_a_helper_extend_the_filter(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_filter_due(store)
    started: list[CallBeside] = []

    class Kept(CallBeside):
        """A helper that keeps what it inherits, and ends when the test says so."""

        @classmethod
        def maybe_start(cls, function: Any, *arguments: Any, keep: tuple[int, ...] = ()) -> Kept:
            assert function is extend_beside
            process = subprocess.Popen(["sleep", "600"], pass_fds=keep)
            started.append(cls(process))
            return cls(process)

    monkeypatch.setattr("evlog.files.disk.processes.CallBeside", Kept)
    append(store, 100)
    with small_store(store.path) as other:
        append(other, 101)
        append(other, 102)
        assert len(started) == 1
        assert not filter_is_whole(store)
        started[0].end(0)
        log = engine_of(other)._log
        assert log is not None
        log.filter.load(log.sealed)
        append(other, 103)
        assert filter_is_whole(store)


def test_without_a_helper_the_writer_extends_the_filter(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_filter_due(store)
    monkeypatch.setattr("evlog.files.disk.processes.core_count", lambda: 1)
    append(store, 100)
    assert builder_of(store)._building is None
    assert filter_is_whole(store)


def test_an_append_builds_files_that_cannot_be_used_once(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that is unusable again as soon as it is built must not be built in an endless loop."""
    built: list[object] = []

    def refuse(path: str) -> memoryview:
        raise UnsafeFile(path, "it is a device")

    def build(part: SealedPart, disk: Disk) -> bool:
        built.append(part)
        assert len(built) < 9, "the append does not end"
        return build_indexes(part, disk)

    with small_store(memory_path / "store") as store:
        monkeypatch.setattr("evlog.files.log.index.map_file", refuse)
        monkeypatch.setattr("evlog.files.write.building.build_indexes", build)
        for number in range(9):
            append(store, number)
        assert store.verify(quick=True).ok
    assert built


def test_a_closed_store_is_left_alone(store: EventStore) -> None:
    begin_segment(store)
    building = builder_of(store)._building
    assert building is not None
    store.close()
    assert building[1].is_done()
    assert tuple(names(store)) == SUFFIXES
    assert not list(Path(store.path, "segments").glob("*.tmp"))


def test_a_store_that_was_removed_is_not_made_again(tmp_path: Path) -> None:
    build_beside(str(tmp_path / "store"), 1)
    assert list(tmp_path.iterdir()) == []
