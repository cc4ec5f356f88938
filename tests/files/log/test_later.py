"""An older manifest.json beside the present segments: later events are neither missed nor overwritten."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import evlog
from evlog import CorruptionError
from tests.support.helpers import fill, new, numbers, small_store, writer_of

MANIFEST = "manifest.json"
NEXT_LOG = "segments/00000000000000000009.0.log"


def files_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture
def restored(memory_path: Path) -> Path:
    """A store of three segments, with its manifest of the time when it had one."""
    path, older = memory_path / "store", memory_path / "older.json"
    with small_store(path, segment_events=8) as store:
        fill(store, 8)
        shutil.copy(path / MANIFEST, older)
        for number in range(8, 20):
            store.append("later", [new(number)])
    shutil.copy(path / MANIFEST, memory_path / MANIFEST)
    shutil.copy(older, path / MANIFEST)
    return path


@pytest.mark.parametrize("marks", [True, False])
def test_with_an_older_manifest_nothing_is_changed_and_the_newest_one_brings_all_back(
    restored: Path, marks: bool
) -> None:
    if not marks:
        (restored / "durable").unlink()
    with evlog.open(restored) as store:
        before = files_of(restored)
        for change in (lambda: store.append("later", [new()]), store.compact):
            with pytest.raises(CorruptionError, match=f"is older than {NEXT_LOG}"):
                change()
        after = files_of(restored)
        assert {name: after[name] for name in before} == before
        shutil.copy(restored.parent / MANIFEST, restored / MANIFEST)
        assert store.append("later", [new(20)], expected=12).first_position == 21
        assert numbers(store.read_all()) == list(range(21))
    assert evlog.verify_store(restored).ok


def test_readers_and_verify_report_an_older_manifest(restored: Path) -> None:
    """The mark that the last writer left names a later segment than the manifest."""
    with evlog.open(restored) as store:
        for read in (
            lambda: store.head,
            lambda: store.stream_version("later"),
            lambda: list(store.read("later")),
            lambda: list(store.read_all()),
        ):
            with pytest.raises(CorruptionError, match=f"is older than {NEXT_LOG}"):
                read()
    for quick in (False, True):
        report = evlog.verify_store(restored, quick=quick)
        assert not report.ok
        damages = {(each.kind, each.file) for each in report.findings if each.severity == "damage"}
        assert damages == {("manifest", MANIFEST)}


def test_salvage_with_an_older_manifest_copies_the_later_events(restored: Path) -> None:
    out = restored.parent / "out"
    assert evlog.salvage_store(restored, out).losses == ()
    with evlog.open(out) as store:
        assert numbers(store.read_all()) == list(range(20))


def test_a_segment_with_events_is_not_overwritten_by_a_roll(memory_path: Path, restored: Path) -> None:
    with small_store(memory_path / "other", segment_events=8) as store:
        fill(store, 8)
        later = memory_path / "other" / NEXT_LOG
        shutil.copy(restored / NEXT_LOG, later)
        before = later.read_bytes()
        with pytest.raises(CorruptionError, match=f"is older than {NEXT_LOG}"):
            store.append("s", [new()])
        assert later.read_bytes() == before
        later.unlink()
        assert store.append("s", [new()]).first_position == 9


@pytest.mark.parametrize("marks", ["none", "older", "newest"])
def test_nothing_is_appended_to_a_segment_that_another_one_follows(memory_path: Path, marks: str) -> None:
    """The segment of the older manifest is not full, so its writer would not begin the next one."""
    path, older = memory_path / "store", memory_path / "older"
    with small_store(path, segment_events=20) as store:
        fill(store, 8)
        shutil.copytree(path, older)
        writer_of(store).seal()
        store.append("later", [new(8)])
    shutil.copy(older / MANIFEST, path / MANIFEST)
    if marks == "none":
        (path / "durable").unlink()
    elif marks == "older":
        shutil.copy(older / "durable", path / "durable")
    before = files_of(path)
    with evlog.open(path) as store, pytest.raises(CorruptionError, match=f"is older than {NEXT_LOG}"):
        store.append("later", [new()])
    assert {name: files_of(path)[name] for name in before} == before


def test_a_torn_first_frame_of_the_active_segment_is_not_a_later_event(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_events=8) as store:
        fill(store, 8)
        writer_of(store).seal()
    log = memory_path / "store" / NEXT_LOG
    log.write_bytes(log.read_bytes() + b"torn")
    with evlog.open(memory_path / "store") as store:
        assert store.append("s", [new()]).first_position == 9
        assert [torn.cut_bytes for torn in store.torn_tails] == [4]
