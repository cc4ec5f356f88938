"""Repair rebuilds what is derived, cuts what was never acknowledged, and names what is lost exactly."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import evlog
from evlog import EventStore, Loss
from evlog.files.check import repair, salvage
from evlog.files.check.losses import SegmentRecords
from evlog.files.check.repair import find_losses, repair_store
from evlog.files.check.task import SegmentTask
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import Disk
from evlog.files.format.entries import ENTRY_BYTES
from evlog.files.format.headers import FILE_HEADER_BYTES
from evlog.files.format.sorted_index import page_crcs
from tests.support.forge import DATA, forge, read_frames
from tests.support.helpers import facts, fill, frames_of, new, segment_files, small_store

DERIVED = ("offsets", "streams", "types", "ids")


@pytest.fixture
def filled(store: EventStore) -> EventStore:
    """Three segments: positions 1 to 8, 9 to 16, 17 to 20; streams s-0, s-1, s-2 in turn."""
    fill(store, 20)
    store.close()
    os.utime(f"{store.path}/manifest.json", (0, 0))  # so that verify does not wait for indexes
    return store


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 16
    path.write_bytes(content)


def cut(path: Path, _: int = 0) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def remove(path: Path, _: int = 0) -> None:
    path.unlink()


def empty(path: Path, _: int = 0) -> None:
    path.write_bytes(b"")


def lengthen(path: Path, _: int = 0) -> None:
    path.write_bytes(path.read_bytes() + b"\1" * 55)


@pytest.mark.parametrize("damage", [flip, cut, remove, empty, lengthen])
@pytest.mark.parametrize("suffix", DERIVED)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_derived_files_are_made_anew(
    filled: EventStore, damage: Callable[[Path, int], None], suffix: str, place: int
) -> None:
    files = segment_files(filled, suffix)
    if place < len(files):
        before = {path: path.read_bytes() for path in Path(filled.path, "segments").iterdir()}
        damage(files[place], 90)
        done = repair_store(filled.path)
        assert done.report.ok
        assert done.repaired
        assert done.losses == ()
        assert {path: path.read_bytes() for path in before} == before


def test_an_index_whose_content_is_wrong_though_its_crcs_hold_is_found_and_made_anew(
    filled: EventStore,
) -> None:

    for suffix, first, second in (("streams", -24, -20), ("types", -20, -16), ("ids", -12, -8)):
        path = segment_files(filled, suffix)[0]
        before = path.read_bytes()
        content = bytearray(before)
        content[first : first + 4], content[second : second + 4] = content[second:][:4], content[first:][:4]
        content[-4:] = page_crcs(bytes(content[FILE_HEADER_BYTES:-4]))
        path.write_bytes(content)
        done = repair_store(filled.path)
        assert [finding.kind for finding in done.repaired] == ["index"], suffix
        assert path.read_bytes() == before


def test_a_torn_tail_is_cut(filled: EventStore) -> None:
    log = segment_files(filled, "log")[-1]
    whole = frames_of(log)
    log.write_bytes(whole + whole[64:90])
    done = repair_store(filled.path)
    assert [finding.kind for finding in done.repaired] == ["tail"]
    assert done.report.ok
    assert log.read_bytes().rstrip(b"\0") == whole.rstrip(b"\0")  # preallocated zeros may be cut, too


@pytest.mark.parametrize("content", [None, b"", b"\0" * 64, b"x" * 64, b"x" * 99])
def test_marks_are_written_anew(filled: EventStore, content: bytes | None) -> None:
    path = Path(filled.path, "durable")
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    done = repair_store(filled.path)
    assert done.repaired
    assert done.report.ok


def test_leftovers_are_removed_and_what_may_hold_events_stays(filled: EventStore) -> None:
    folder = Path(filled.path, "segments")
    log = segment_files(filled, "log")[-1]
    next_log = folder / "00000000000000000021.0.log"
    leftovers = [
        folder / f"00000000000000000001.0.ids.{os.getpid()}.tmp",
        folder / "00000000000000000009.7.log",
        folder / "00000000000000000009.7.offsets",
        folder / "00000000000000000021.1.log",
        Path(filled.path, "manifest.json.tmp"),
    ]
    for path in leftovers:
        path.write_bytes(b"x")
    kept = [next_log, folder / "notes.txt", folder / "00000000000000000001.0.ids.live.tmp"]
    for path in kept:
        path.write_bytes(log.read_bytes())
    with FileLock(str(kept[-1]), 0.0):
        done = repair_store(filled.path)
    assert not any(path.exists() for path in leftovers)
    assert all(path.exists() for path in kept)
    assert {finding.file for finding in done.report.findings} == {
        f"segments/{next_log.name}",
        "segments/notes.txt",
    }


def test_repairing_a_sound_store_changes_nothing(filled: EventStore) -> None:
    before = {path: path.stat() for path in Path(filled.path).rglob("*")}
    done = repair_store(filled.path)
    assert done.report.ok
    assert done.repaired == ()
    after = {path: path.stat() for path in Path(filled.path).rglob("*")}
    assert {path: status.st_mtime_ns for path, status in after.items()} == {
        path: status.st_mtime_ns for path, status in before.items()
    }


# --- what is lost


def event_at(filled: EventStore, place: int, number: int) -> int:
    """Return the offset of an event's last byte in a segment's log."""
    offsets = segment_files(filled, "offsets")[place].read_bytes()
    entry = offsets[64 + ENTRY_BYTES * number :][:ENTRY_BYTES]
    return int.from_bytes(entry[16:20], "little") + int.from_bytes(entry[20:24], "little") - 1


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_damaged_event_is_lost_and_named_and_nothing_is_touched(filled: EventStore, place: int) -> None:
    log = segment_files(filled, "log")[place]
    flip(log, event_at(filled, place, 2))
    damaged = log.read_bytes()
    done = repair_store(filled.path)
    assert log.read_bytes() == damaged
    assert [finding.kind for finding in done.report.findings] == ["frame"]
    position = 8 * place + 3
    stream, version = f"s-{(position - 1) % 3}", (position - 1) // 3 + 1
    file = f"segments/{log.name}"
    assert done.losses == (Loss(file, position, position, 1, {stream: [version]}),)


@pytest.mark.exact_hashes
def test_of_a_damaged_batch_only_the_damaged_events_are_lost(store: EventStore) -> None:
    store.append_many([(f"s-{at}", [evlog.NewEvent("T", at)]) for at in range(6)])
    flip(segment_files(store, "log")[0], event_at(store, 0, 4))
    (loss,) = find_losses(store.path)
    assert (loss.first_position, loss.last_position, loss.events) == (5, 5, 1)
    assert list(loss.streams.values()) == [[1]]
    assert next(iter(loss.streams)).startswith("#")  # nothing whole tells the name


def test_without_offsets_a_damaged_frame_is_lost_as_a_whole(filled: EventStore) -> None:
    flip(segment_files(filled, "log")[0], event_at(filled, 0, 2))
    segment_files(filled, "offsets")[0].unlink()
    (loss,) = find_losses(filled.path)
    assert (loss.first_position, loss.last_position, loss.events, loss.streams) == (3, 3, 1, {})


@pytest.mark.parametrize("offsets", [True, False])
def test_a_missing_log_is_lost_and_named_by_what_its_offsets_say(filled: EventStore, offsets: bool) -> None:
    segment_files(filled, "log")[1].unlink()
    if not offsets:
        segment_files(filled, "offsets")[1].unlink()
    (loss,) = find_losses(filled.path)
    assert (loss.first_position, loss.last_position, loss.events) == (9, 16, 8)
    names = {"s-0": [4, 5, 6], "s-1": [4, 5], "s-2": [3, 4, 5]}
    assert loss.streams == (names if offsets else {})


@pytest.mark.parametrize("place", [1, 2])
@pytest.mark.parametrize("frames", [None, 0, 1, 2])
@pytest.mark.parametrize("more_bytes", [0, 7])
def test_the_events_that_a_log_has_lost_at_its_end_are_named_and_their_positions_not_used_again(
    filled: EventStore, memory_path: Path, place: int, frames: int | None, more_bytes: int
) -> None:
    log = segment_files(filled, "log")[place]
    sizes = [FILE_HEADER_BYTES, event_at(filled, place, 0) + 1, event_at(filled, place, 1) + 1]
    size = 0 if frames is None else sizes[frames]  # None: a file that the file system has emptied
    os.truncate(log, size + more_bytes)
    first, last = 8 * place + 1 + (frames or 0), min(8 * place + 8, 20)
    lost = range(first, last + 1)
    done = repair_store(filled.path)
    (loss,) = done.losses
    assert (loss.first_position, loss.last_position, loss.events) == (first, last, len(lost))
    assert {(name, version) for name, versions in loss.streams.items() for version in versions} == {
        fact[1:3] for fact in all_facts() if fact[0] in lost
    }
    (told,) = [finding for finding in done.report.findings if "cannot be read" in finding.detail]
    assert f"{len(lost)} events" in told.detail
    assert not [finding for finding in done.report.findings if "repair rebuilds" in finding.detail]
    store, report = salvaged(filled, memory_path)
    with store:
        assert report.findings == ()
        assert facts(store.read_all()) == [fact for fact in all_facts() if fact[0] not in lost]
        assert store.append("new", [evlog.NewEvent("T")]).first_position == 21
        assert store.verify().ok


def test_a_zeroed_middle_of_a_log_is_one_loss(filled: EventStore) -> None:
    log = segment_files(filled, "log")[0]
    content = log.read_bytes()
    start, end = event_at(filled, 0, 1) + 1, event_at(filled, 0, 4) + 1
    log.write_bytes(content[:start] + bytes(end - start) + content[end:])
    (loss,) = find_losses(filled.path)
    assert (loss.first_position, loss.last_position, loss.events) == (3, 5, 3)
    assert loss.streams == {"s-2": [1], "s-0": [2], "s-1": [2]}


# --- salvage


def salvaged(filled: EventStore, memory_path: Path) -> tuple[EventStore, evlog.VerifyReport]:
    before = {path: path.read_bytes() for path in Path(filled.path).rglob("*") if path.is_file()}
    out = memory_path / "out"
    evlog.salvage_store(filled.path, out)
    assert {path: path.read_bytes() for path in before} == before, "the source was written"
    return evlog.open(out), evlog.verify_store(out)


def all_facts() -> list[tuple[int, str, int, str, bytes]]:
    return [(n + 1, f"s-{n % 3}", n // 3 + 1, f"T{n % 2}", b"%d" % n) for n in range(20)]


def test_a_sound_store_is_salvaged_whole_with_the_same_digest(filled: EventStore, memory_path: Path) -> None:
    digest = evlog.verify_store(filled.path).digest
    store, report = salvaged(filled, memory_path)
    with store:
        assert report.ok
        assert report.digest == digest
        assert facts(store.read_all()) == all_facts()
        assert store.append("s-0", [evlog.NewEvent("T")]).first_position == 21
        assert store.verify().ok


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("number", [0, 2, 3, 7])
def test_everything_but_a_damaged_event_is_salvaged(
    filled: EventStore, memory_path: Path, place: int, number: int
) -> None:
    if place == 2 and number > 3:
        return
    flip(segment_files(filled, "log")[place], event_at(filled, place, number))
    store, report = salvaged(filled, memory_path)
    position = 8 * place + number + 1
    with store:
        assert report.findings == ()
        assert facts(store.read_all()) == [fact for fact in all_facts() if fact[0] != position]
        for name in ("s-0", "s-1", "s-2"):
            its = [fact for fact in all_facts() if fact[1] == name and fact[0] != position]
            assert facts(store.read(name)) == its
        for fact in all_facts():
            assert len(list(store.read_all(after=fact[0] - 1, to=fact[0]))) == (fact[0] != position)
        result = store.append("s-0", [evlog.NewEvent("T")])
        assert result.first_position == 21
        assert store.verify().ok


@pytest.mark.parametrize("place", [0, 1, 2])
def test_everything_but_a_missing_log_is_salvaged(filled: EventStore, memory_path: Path, place: int) -> None:
    segment_files(filled, "log")[place].unlink()
    store, report = salvaged(filled, memory_path)
    lost = range(8 * place + 1, 8 * place + 9)
    with store:
        assert report.findings == ()
        assert facts(store.read_all()) == [fact for fact in all_facts() if fact[0] not in lost]
        assert store.append("new", [evlog.NewEvent("T")]).first_position == 21, "a position was used twice"
        assert store.verify().ok


@pytest.mark.parametrize("damage", [remove, empty, flip])
def test_a_store_without_a_manifest_is_salvaged_whole(
    filled: EventStore, memory_path: Path, damage: Callable[[Path, int], None]
) -> None:
    store_id = filled.path and evlog.open(filled.path).id
    damage(Path(filled.path, "manifest.json"), 50)
    assert [finding.kind for finding in evlog.verify_store(filled.path).findings] == ["manifest"]
    store, report = salvaged(filled, memory_path)
    with store:
        assert report.ok
        assert store.id == store_id
        assert facts(store.read_all()) == all_facts()


def test_salvage_never_writes_where_something_is(filled: EventStore, memory_path: Path) -> None:
    out = memory_path / "out"
    out.mkdir()
    (out / "x").write_text("x")
    for place in (out, out / "x", Path(filled.path)):
        with pytest.raises(evlog.NotAStore):
            evlog.salvage_store(filled.path, place)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_salvage_that_fails_removes_what_it_copied(
    filled: EventStore, memory_path: Path, is_there: bool
) -> None:
    class FullDisk(Disk):
        def create_file(self, path: str, content: bytes) -> None:
            if path.endswith(".types"):
                raise evlog.StoreFull(path, "no room")
            super().create_file(path, content)

    out = memory_path / "out"
    if is_there:
        out.mkdir()
    with pytest.raises(evlog.StoreFull):
        salvage.salvage_store(filled.path, str(out), disk=FullDisk())
    assert not out.exists()
    assert salvaged(filled, memory_path)[1].ok


@pytest.mark.parametrize("is_checked", [False, True])
def test_a_segment_that_a_compaction_removes_before_it_is_salvaged_is_not_lost(
    filled: EventStore, memory_path: Path, monkeypatch: pytest.MonkeyPatch, is_checked: bool
) -> None:
    def compact_around(task: SegmentTask) -> SegmentRecords:
        records = SegmentRecords(task) if is_checked else None
        with evlog.open(filled.path) as store:
            store.set_retention("s-0", max_count=1)
            store.compact()
        return records or SegmentRecords(task)

    out = memory_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(salvage, "SegmentRecords", compact_around)
        with pytest.raises(evlog.StoreBusy):
            evlog.salvage_store(filled.path, out)
    assert not out.exists()
    assert evlog.salvage_store(filled.path, out).losses == ()
    assert evlog.verify_store(out).ok


@pytest.mark.parametrize("has_manifest", [True, False])
def test_a_salvage_is_not_made_in_a_store(filled: EventStore, memory_path: Path, has_manifest: bool) -> None:
    small_store(memory_path / "other").close()
    if not has_manifest:
        os.unlink(f"{filled.path}/manifest.json")
    for out in (f"{filled.path}/out", f"{filled.path}/a/b", str(memory_path / "other" / "out")):
        with pytest.raises(evlog.NotAStore, match="it is in the store"):
            evlog.salvage_store(filled.path, out)
        assert not os.path.lexists(out)


def test_of_senseless_records_the_rest_is_salvaged(filled: EventStore, memory_path: Path) -> None:
    with evlog.open(filled.path) as store:
        frames = read_frames(store, 0)
        frames[2][0][DATA] = b"{"
        forge(store, 0, frames)
    store, report = salvaged(filled, memory_path)
    with store:
        assert report.findings == ()
        assert facts(store.read_all()) == [fact for fact in all_facts() if fact[0] != 3]


def test_salvage_and_repair_follow_no_link_out_of_the_store(filled: EventStore, memory_path: Path) -> None:
    outside = memory_path / "outside"
    outside.mkdir()
    (outside / "a.json").write_text("secret")
    (outside / "b.ids.tmp").write_text("kept")
    Path(filled.path, "subscriptions").symlink_to(outside)
    Path(filled.path, "segments", "00000000000000000009.7.log").symlink_to(outside / "a.json")
    Path(filled.path, "segments", "b.0badcafe.tmp").symlink_to(outside / "b.ids.tmp")
    segment_files(filled, "ids")[0].unlink()
    evlog.salvage_store(filled.path, memory_path / "out")
    assert "secret" not in {path.read_text("latin-1") for path in (memory_path / "out").rglob("*.json")}
    repair_store(filled.path)
    assert sorted(path.read_text() for path in outside.iterdir()) == ["kept", "secret"]


@pytest.mark.usefixtures("no_writer_at_work")
@pytest.mark.parametrize("tags", [[], ["t"]])
def test_a_segment_that_a_compaction_replaced_meanwhile_gets_no_files(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, tags: list[str]
) -> None:
    for number in range(20):
        store.append("s-0", [new(number, tags=tags)])
    segment_files(store, "types")[0].unlink()
    sound_entries = repair._sound_entries

    def compact_meanwhile(task: SegmentTask) -> bytes | None:
        entries = sound_entries(task)
        with evlog.open(store.path) as other:
            other.set_retention("s-0", max_count=1)
            other.compact(force=True)
        return entries

    monkeypatch.setattr(repair, "_sound_entries", compact_meanwhile)
    done = repair_store(store.path)
    assert done.report.findings == ()
    assert not list(Path(store.path, "segments").glob("00000000000000000001.0.*"))
