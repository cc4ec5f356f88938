"""Snapshots of a store in a directory: damage, copies, older logs, other users, and many processes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import evlog
from evlog import Event, EventStore, Fold, NewEvent
from evlog.errors import InvalidArgument, StoreAccessDenied
from evlog.files.disk.files import Disk, ReadFile
from evlog.files.engine import DirectoryEngine
from evlog.files.follow.snapshot_file import SnapshotFile
from tests.support.helpers import small_store
from tests.support.programs import next_line, start_python


def total(state: int, event: Event) -> int:
    return state + int(event.data)


class Counted(Fold):
    def __init__(self) -> None:
        self.calls = 0
        super().__init__(self._total, 0, name="total")

    def _total(self, state: int, event: Event) -> int:
        self.calls += 1
        return total(state, event)


@pytest.fixture
def path(memory_path: Path) -> Path:
    """A store with the numbers 1 to 10 in the stream s, and its state in two snapshots."""
    path = memory_path / "store"
    with small_store(path, segment_events=3) as store:
        for number in range(1, 11):
            store.append("s", [NewEvent("T", number)])
        for stream in ("s", None):
            assert store.state(stream, Counted(), snapshot="t").value == 55
    return path


class Times:
    """Folds that differ, though they have the same code."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, state: int, event: Event) -> int:
        return state + self.factor * int(event.data)

    def add(self, state: int, event: Event) -> int:
        return self(state, event)


def times(state: int, event: Event, *, factor: int) -> int:
    return Times(factor)(state, event)


def closure(factor: int) -> Callable[[int, Event], int]:
    def add(state: int, event: Event) -> int:
        return Times(factor)(state, event)

    return add


@pytest.mark.parametrize(
    "make",
    [
        Times,
        lambda factor: Times(factor).add,
        lambda factor: partial(times, factor=factor),
        closure,
        lambda factor: lambda state, event: state + factor * int(event.data),
    ],
)
def test_a_fold_that_could_be_taken_for_another_needs_a_name(
    path: Path, make: Callable[[int], Callable[[int, Event], int]]
) -> None:
    with evlog.open(path) as store:
        assert store.state("s", make(2), 0).value == 110
        with pytest.raises(InvalidArgument, match="needs to know its fold"):
            store.state("s", make(2), 0, snapshot="t")
        for factor in (2, 3):
            fold = Fold(make(factor), 0, name=f"times {factor}")
            assert store.state("s", fold, snapshot="t").value == 55 * factor
        assert store.state("s", total, 0, snapshot="t").value == 55


def test_another_initial_value_is_another_state(path: Path) -> None:
    with evlog.open(path) as store:
        for initial in (0, 1000, 0):
            assert store.state("s", total, initial, snapshot="t").value == 55 + initial


def files(path: Path) -> list[Path]:
    return sorted(file for file in (path / "snapshots").iterdir() if file.name != "lock")


def state(path: Path, stream: str | None) -> tuple[int, int]:
    """Return the state, and how many events were folded for it."""
    fold = Counted()
    with evlog.open(path) as store:
        return store.state(stream, fold, snapshot="t").value, fold.calls


def test_any_flipped_bit_is_found_and_rebuilt(path: Path) -> None:
    for file, stream in zip(files(path), ("s", None), strict=True):
        raw = file.read_bytes()
        for at in range(0, len(raw), 7):
            file.write_bytes(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
            report = evlog.verify_store(path)
            assert report.ok
            assert [finding.kind for finding in report.findings] == ["snapshot"]
            quick = evlog.verify_store(path, quick=True)
            assert len(quick.findings) == (at <= raw.index(b"\n"))  # only its first line is read
            assert state(path, stream) == (55, 10)
        assert state(path, stream) == (55, 0)
    assert evlog.verify_store(path).findings == ()


def test_a_cut_or_empty_file_is_rebuilt(path: Path) -> None:
    for file, stream in zip(files(path), ("s", None), strict=True):
        raw = file.read_bytes()
        for length in (0, 1, raw.index(b"\n"), len(raw) - 1):
            file.write_bytes(raw[:length])
            assert state(path, stream) == (55, 10)


def test_an_older_log_under_a_newer_snapshot(path: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(path, older)
    with evlog.open(path) as store:
        store.append("s", [NewEvent("T", 100)])
    for stream in ("s", None):
        assert state(path, stream) == (155, 1)
    shutil.rmtree(older / "snapshots")
    shutil.copytree(path / "snapshots", older / "snapshots")
    for stream in ("s", None):
        assert state(older, stream) == (55, 10)
    shutil.rmtree(older / "snapshots")
    shutil.copytree(path / "snapshots", older / "snapshots")
    with evlog.open(older) as store:  # another event takes the place of the one that was lost
        store.append("s", [NewEvent("T", 1000)])
    for stream in ("s", None):
        assert state(older, stream) == (1055, 11)


def test_a_snapshot_of_another_store_counts_as_damaged(path: Path, tmp_path: Path) -> None:
    with small_store(tmp_path / "other") as store:
        for number in range(1, 11):
            store.append("s", [NewEvent("T", 2 * number)])
    shutil.copytree(path / "snapshots", tmp_path / "other" / "snapshots")
    assert len(evlog.verify_store(tmp_path / "other").findings) == 2
    assert state(tmp_path / "other", "s") == (110, 10)


def test_a_link_in_the_place_of_a_snapshot_is_not_followed(path: Path, tmp_path: Path) -> None:
    file = files(path)[0]
    shutil.move(file, tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with evlog.open(path) as store:
        assert store.state("s", Counted(), snapshot="t").value == 55
    assert (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_reader_without_permission_to_write_uses_snapshots_and_saves_none(path: Path) -> None:
    with evlog.open(path) as store:
        store.append("s", [NewEvent("T", 1)])
    (path / "snapshots").chmod(0o500)
    (path / "snapshots" / "lock").chmod(0o400)
    try:
        with evlog.open(path) as store:
            with pytest.raises(StoreAccessDenied):
                store.state("s", Counted(), snapshot="t")
            assert store.state("s", Counted(), at=11, snapshot="t").value == 56
    finally:
        (path / "snapshots").chmod(0o700)


class RecordingDisk(Disk):
    """Notes what is synced, and when a file is made."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def sync_seen(self, file: ReadFile) -> None:
        super().sync_seen(file)
        self.calls.append(f"sync {Path(file.path).name.rpartition('.')[2]}")

    def create_file(self, path: str, content: bytes) -> None:
        self.calls.append(f"make {Path(path).name}")
        super().create_file(path, content)


def test_a_snapshot_is_saved_only_when_its_events_are_durable(memory_path: Path) -> None:
    disk = RecordingDisk()
    small_store(memory_path / "unsynced").close()
    with EventStore(DirectoryEngine(str(memory_path / "unsynced"), sync=False, disk=disk)) as store:
        store.append("s", [NewEvent("T", 1)])
        store.state(None, Counted(), snapshot="t")
    assert disk.calls[-2:] == ["sync log", "make t.log.tmp"]


def test_a_snapshot_that_is_saved_beside_a_redaction_keeps_nothing_of_what_is_erased(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_store(memory_path / "store") as store, small_store(memory_path / "store") as other:
        store.append("s", [NewEvent("T", {"mail": "secret"})])
        store.state("s", snapshot="before")
        save, delete = SnapshotFile.save, SnapshotFile.delete

        def redact_and_save(file: SnapshotFile, content: bytes, before: bytes | None) -> bool:
            monkeypatch.setattr(SnapshotFile, "save", save)
            assert other.redact(1, reason="asked").snapshots == ("before",)
            return save(file, content, before)

        def delete_twice(file: SnapshotFile) -> bool:  # a fold has deleted it, too
            return delete(file) and delete(file)

        monkeypatch.setattr(SnapshotFile, "save", redact_and_save)
        monkeypatch.setattr(SnapshotFile, "delete", delete_twice)
        assert store.state("s", snapshot="late").value == {"mail": "secret"}
        assert [path.name for path in Path(store.path, "snapshots").iterdir()] == ["lock"]


PROJECT = """
import sys, evlog
from evlog import Fold

def total(state, event):
    return [state[0] + int(event.data), state[1] + 1]

fold = Fold(total, [0, 0], name="total")
with evlog.open(sys.argv[1]) as store:
    while True:
        store.state(None, fold, snapshot="p")
        print("saved", flush=True)
"""


def test_killed_projections_have_each_event_once(memory_path: Path) -> None:
    path = memory_path / "killed"
    with small_store(path) as store:
        sent = 0
        for _ in range(6):
            workers = [start_python("-c", PROJECT, str(path)) for _ in range(2)]
            for worker in workers:
                for _ in range(3):
                    assert next_line(worker) == "saved\n"
                    sent += 1
                    store.append("s", [NewEvent("T", sent)])
            for worker in workers:
                worker.kill()
                worker.communicate()
            if store.snapshots():
                kept = json.loads(store.snapshot("p").state)
                assert kept == [sum(range(1, kept[1] + 1)), kept[1]]
        assert store.verify().ok
