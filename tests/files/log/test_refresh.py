"""What a long reader sees when it looks at the written mark only: all that a newly opened reader sees."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import evlog
from evlog import EventStore, StoreFull, StoreNotFound
from evlog.files.disk.files import Disk, ReadFile, WriteFile
from evlog.files.log import log as log_module
from evlog.files.log.log import Log
from evlog.model.history import Standing
from tests.support.helpers import engine_of, fill, new, small_store


class Death(BaseException):
    """The writer is killed here, as far as others can tell."""


class SteppingDisk(Disk):
    """Calls `between` before and after each step of a writer, and kills the writer at one of them."""

    def __init__(self) -> None:
        self.between: Callable[[], None] = lambda: None
        self.dies_at = 0  # 0: never
        self.steps = 0

    def _step(self, act: Callable[[], None]) -> None:
        self.between()
        self.steps += 1
        if self.steps == self.dies_at:
            raise Death
        act()
        self.between()

    def write_at(self, file: WriteFile, data: bytes, offset: int) -> None:
        self._step(lambda: Disk.write_at(self, file, data, offset))

    def cut(self, file: WriteFile, length: int) -> None:
        self._step(lambda: Disk.cut(self, file, length))

    def sync(self, file: WriteFile) -> None:
        self._step(lambda: Disk.sync(self, file))

    def replace(self, source: str, target: str) -> None:
        self._step(lambda: Disk.replace(self, source, target))

    def remove(self, path: str) -> None:
        self._step(lambda: Disk.remove(self, path))


@pytest.fixture(autouse=True)
def _only_by_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have readers never check whether the store is in its place."""
    monkeypatch.setattr(log_module, "_IN_PLACE_SECONDS", 1e6)


@pytest.fixture
def disk() -> SteppingDisk:
    return SteppingDisk()


@pytest.fixture
def store(memory_path: Path, disk: SteppingDisk) -> Iterator[EventStore]:
    with small_store(memory_path / "store", disk=disk) as made:
        fill(made, 3)
        yield made


def seen(log: Log) -> tuple[int, object, object]:
    log.refresh()
    return log.head, log.manifest.segments[:], log.manifest.standing


CHANGES: dict[str, Callable[[EventStore], object]] = {
    "append": lambda store: store.append("s-1", [new(1), new(2)]),
    "append to several streams": lambda store: store.append_many([("a", [new()]), ("b", [new(), new()])]),
    "append and roll": lambda store: store.append("s-1", [new(number) for number in range(7)]),
    "delete": lambda store: store.delete_stream("s-1"),
    "retain": lambda store: store.set_retention("s-1", max_count=1),
    "redact": lambda store: store.redact(2, reason="asked"),
    "compact": lambda store: (store.delete_stream("s-1"), store.compact()),
    "move": lambda store: engine_of(store).change_standing(Standing(), Standing(moved_to="/elsewhere")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_reader_sees_between_any_two_steps_what_a_new_reader_sees(
    store: EventStore, disk: SteppingDisk, change: Callable[[EventStore], object]
) -> None:
    log = Log(store.path)
    before = seen(log)

    def compare() -> None:
        assert seen(log) == seen(Log(store.path))

    disk.between = compare
    change(store)
    disk.between = lambda: None
    assert before != seen(log) == seen(Log(store.path))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_reader_sees_what_a_killed_writer_left(
    memory_path: Path, change: Callable[[EventStore], object]
) -> None:
    for at in range(1, 1000):
        disk = SteppingDisk()
        with small_store(memory_path / f"store-{at}", disk=disk) as store:
            fill(store, 3)
            log = Log(store.path)
            disk.steps, disk.dies_at = 0, at
            try:
                change(store)
            except Death:
                pass
            else:
                break
            assert seen(log) == seen(Log(store.path))
            with small_store(store.path) as other:  # recovers
                if engine_of(other).standing == Standing():
                    other.append("next", [new()])
            assert seen(log) == seen(Log(store.path))
    assert at > 3


class LosingDisk(SteppingDisk):
    """A device that has nothing of a log from an offset on, as after a failed sync."""

    def __init__(self, lost_from: int) -> None:
        super().__init__()
        self.lost_from = lost_from

    def drop_cache(self, file: WriteFile | ReadFile, offset: int = 0) -> None:
        super().drop_cache(file, offset)
        length = os.path.getsize(file.path) - self.lost_from
        with open(file.path, "r+b") as log:
            log.seek(self.lost_from)
            log.write(bytes(length))


def test_a_reader_sees_what_recovery_finds_lost(store: EventStore, disk: SteppingDisk) -> None:
    log = Log(store.path)
    disk.steps, disk.dies_at = 0, 4
    with pytest.raises(Death):  # at the sync, after the mark, the frame and its entries
        store.append("s-1", [new()])
    end = log.active.segment.end
    assert seen(log)[0] == 4
    with small_store(store.path, disk=LosingDisk(end)) as other:
        other.append("s-2", [new()])
        assert seen(log) == seen(Log(store.path))
        assert [event.stream for event in other.read_all()][3:] == ["s-2"]


def test_an_unchanged_log_costs_one_read(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(store.path)
    monkeypatch.setattr(log, "look", None)
    monkeypatch.setattr(log, "mutex", None)
    monkeypatch.setattr(os, "stat", None)
    log.refresh()
    assert log.head == 3


def test_what_others_append_is_taken_in_by_the_mark(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(store.path)
    monkeypatch.setattr(log, "look", None)
    for number in range(4):
        store.append("s-1", [new(number)])
        log.refresh()
        assert log.head == 4 + number


def test_what_this_process_appends_needs_no_look(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    log = engine_of(store)._log
    assert log is not None
    monkeypatch.setattr(log, "look", None)
    monkeypatch.setattr(log, "maybe_follow", None)
    for number in range(4):
        assert store.append("s-1", [new(number)]).first_position == store.head == 4 + number


def test_an_append_without_room_for_its_mark_is_refused(store: EventStore, disk: SteppingDisk) -> None:
    log = Log(store.path)

    def no_room(file: WriteFile, data: bytes, offset: int) -> None:
        if file.path.endswith("durable"):
            raise StoreFull(file.path, "No space left on device")
        Disk.write_at(disk, file, data, offset)

    disk.write_at = no_room  # type: ignore[method-assign]
    with pytest.raises(StoreFull):
        store.append("s-1", [new()])
    assert seen(log) == seen(Log(store.path))
    del disk.write_at
    assert store.append("s-1", [new()]).first_position == 4
    assert seen(log) == seen(Log(store.path))


def test_a_store_that_is_removed_or_replaced_is_noticed_in_time(memory_path: Path) -> None:
    store = small_store(memory_path / "store")
    fill(store, 3)
    log = Log(store.path)
    os.rename(store.path, memory_path / "moved")
    with small_store(memory_path / "store") as other:
        assert log._known is not None
        log._look_due = 0.0  # the time is over
        with pytest.raises(evlog.StoreReplaced):
            log.refresh()
        other.close()
    os.rename(store.path, memory_path / "other")
    log._look_due = 0.0
    with pytest.raises(StoreNotFound):
        log.refresh()
    os.rename(memory_path / "moved", store.path)
    log.refresh()
    assert log.head == 3


@pytest.mark.parametrize("harm", ["remove", "empty", "old", "zeros", "another"])
def test_marks_that_are_not_those_of_the_store_hide_nothing(store: EventStore, harm: str) -> None:
    """As after a restore from a backup, or by mistake."""
    path = Path(store.path, "durable")
    old = path.read_bytes()
    store.append("s-1", [new()])
    log = Log(store.path)
    if harm == "remove":
        path.unlink()
    elif harm == "another":
        path.unlink()
        path.write_bytes(old)
    else:
        path.write_bytes({"empty": b"", "old": old, "zeros": bytes(160)}[harm])
    log._look_due = 0.0
    with evlog.open(store.path) as other:
        for number in range(5, 12):
            log.refresh()
            assert log.head == number - 1
            other.append("s-2", [new(number)])
            log.refresh()
            assert log.head == number


@pytest.mark.parametrize("harm", ["remove", "empty", "copy"])
def test_an_open_writer_leaves_its_marks_where_readers_look(store: EventStore, harm: str) -> None:
    """Also across segments: a writer that rolls must not rest on the marks of a removed file."""
    log = Log(store.path)
    path = Path(store.path, "durable")
    other = path.with_suffix(".other")
    other.write_bytes(b"" if harm == "empty" else path.read_bytes())
    if harm == "remove":
        path.unlink()
    else:
        other.rename(path)
    log._look_due = 0.0
    log.refresh()
    for number in range(4, 40):
        store.append("s-1", [new(number)])
        log.refresh()
        assert log.head == number
    assert len(log.sealed) > 2


def test_a_reader_that_cannot_read_the_marks_looks_at_the_log(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(store.path)
    monkeypatch.setattr(ReadFile, "is_in_place", lambda *_: False)
    store.append("s-1", [new()])
    log.refresh()
    assert log.head == 4


def test_a_forked_child_looks_for_itself(store: EventStore) -> None:
    log = Log(store.path)
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        try:
            log.refresh()
            with evlog.open(store.path) as own:
                own.append("s-1", [new()])
            log.refresh()
            os._exit(log.head)
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
    log.refresh()
    assert log.head == 4
