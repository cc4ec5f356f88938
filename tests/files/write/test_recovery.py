"""Making a store whole again, step by step. What may be lost in a crash is shown in tests/crash."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import evlog
from evlog import EventStore
from evlog.errors import CorruptionError
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import DISK
from evlog.files.format.frames import FRAME_MAGIC
from evlog.files.format.marks import DURABLE_MAGIC, Mark, encode_mark
from evlog.files.format.sorted_index import SORTED_SUFFIXES
from evlog.files.log.log import Log
from evlog.files.log.sealed_segment import SealedSegment
from evlog.files.write.derived import build_indexes, remove_leftovers_locked
from evlog.model.reports import TornTail
from tests.support.helpers import facts, fill, frames_of, new, numbers, segment_files, small_store


def test_torn_tail_is_cut_by_the_next_writer_and_reported(store: EventStore) -> None:
    fill(store, 3)
    (log,) = segment_files(store, "log")
    end = len(frames_of(log))
    events = facts(store.read_all())
    write_at(log, end, b"half a frame" * 100)
    torn = log.read_bytes()
    with evlog.open(store.path) as other:
        assert facts(other.read_all()) == events
        assert other.torn_tails == []
        assert log.read_bytes() == torn  # a reader cuts nothing
        other.append("s", [new()])
        assert other.torn_tails == [TornTail(str(log), end, 1200)]
        assert end < len(frames_of(log)) < end + 1200
        assert facts(other.read_all(to=3)) == events
    with evlog.open(store.path) as other:
        other.append("s", [new()])
        assert other.torn_tails == []


def test_writer_that_is_open_cuts_what_another_left(store: EventStore) -> None:
    fill(store, 3)
    (log,) = segment_files(store, "log")
    write_at(log, len(frames_of(log)), b"x" * 5000)
    assert store.append("s-0", [new()], expected=1).first_position == 4
    assert [tail.cut_bytes for tail in store.torn_tails] == [5000]
    assert len(frames_of(log)) < 5000


@pytest.mark.parametrize("room", [0, 1, 39, 5000, 100_000])
def test_preallocated_zeros_of_any_length_are_not_a_torn_tail(store: EventStore, room: int) -> None:
    fill(store, 3)
    (log,) = segment_files(store, "log")
    log.write_bytes(frames_of(log) + bytes(room))
    with evlog.open(store.path) as other:
        assert other.append("s-0", [new(3)], expected=1).first_position == 4
        assert store.append("s-0", [new(4)], expected=2).first_position == 5
        assert (store.torn_tails, other.torn_tails) == ([], [])
    assert numbers(store.read_all()) == [0, 1, 2, 3, 4]


def write_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_tail_is_damage_when_it_had_been_synced(store: EventStore) -> None:
    fill(store, 3)
    (log,) = segment_files(store, "log")
    content = frames_of(log)
    tag = Log(store.path).active.segment.tag
    log.write_bytes(content + b"x" * 100)
    marks = Path(store.path, "durable").read_bytes()
    mark = encode_mark(DURABLE_MAGIC, Mark(tag, len(content) + 100))
    Path(store.path, "durable").write_bytes(marks[:104] + mark)
    with evlog.open(store.path) as other:
        with pytest.raises(CorruptionError) as caught:
            other.append("s", [new()])
        assert (caught.value.path, caught.value.offset) == (str(log), len(content))
    assert log.read_bytes() == content + b"x" * 100


def test_shortened_log_is_damage_when_it_had_been_synced(store: EventStore) -> None:
    fill(store, 3)
    (log,) = segment_files(store, "log")
    content = frames_of(log)
    last = content.rindex(FRAME_MAGIC)
    cuts = [(len(content) - 1, 0), (len(content) - 50, 0), (last, 0), (last, 5000), (64, 0), (64, 5000)]
    for length, room in cuts:  # zeros instead of a frame are not room if one was there
        log.write_bytes(content[:length] + bytes(room))
        with evlog.open(store.path) as other:
            with pytest.raises(CorruptionError):
                other.append("s", [new()])
            with pytest.raises(CorruptionError):
                other.head  # noqa: B018 - asked for its error
        assert log.read_bytes() == content[:length] + bytes(room)


@pytest.mark.parametrize("suffix", [*SORTED_SUFFIXES.values(), "offsets"])
@pytest.mark.parametrize("change", ["missing", "empty", "stale"])
def test_what_a_sealed_segment_lacks_is_built_as_it_was(store: EventStore, suffix: str, change: str) -> None:
    fill(store, 20)
    path, other = segment_files(store, suffix)[:2]
    content = path.read_bytes()
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if change == "empty" else other.read_bytes())
    part = Log(store.path).sealed[0]
    build_indexes(part, DISK)
    assert path.read_bytes() == content
    assert part.index.missing() == []
    assert not [name for name in os.listdir(path.parent) if name.endswith(".tmp")]


def test_segment_sealed_by_a_writer_that_died_is_indexed_by_the_next(store: EventStore) -> None:
    fill(store, 20)
    for suffix in SORTED_SUFFIXES.values():
        segment_files(store, suffix)[-1].unlink()
    with evlog.open(store.path) as other:
        other.append("s", [new()])
    for suffix in SORTED_SUFFIXES.values():
        assert len(segment_files(store, suffix)) == 2


def test_index_that_cannot_be_built_fails_no_append(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_store(memory_path / "store") as store:
        monkeypatch.setattr("evlog.files.disk.files.Disk.replace", _no_room_for_indexes(store.path))
        fill(store, 30)
        assert segment_files(store, "ids") == []
        assert store.stream_version("s-0") == 10
        assert not [name for name in os.listdir(f"{store.path}/segments") if name.endswith(".tmp")]


def _no_room_for_indexes(path: str) -> object:
    from evlog.files.disk.files import Disk

    real = Disk.replace

    def replace(disk: Disk, source: str, target: str) -> None:
        if target.startswith(f"{path}/segments/"):
            raise evlog.StoreFull(target, "no room")
        real(disk, source, target)

    return replace


def test_a_temporary_file_is_removed_unless_a_process_is_writing_it(store: EventStore) -> None:
    directory = Path(store.path, "segments")
    gone = [f"a.log.{os.getpid()}.tmp", "a.log.1.tmp", "a.tmp", ".tmp"]  # each container has a process 1
    for name in [*gone, "live.tmp", "notes.txt", "tmp"]:
        (directory / name).touch()
    with FileLock(f"{directory}/live.tmp", 0.0):
        remove_leftovers_locked(store.path, DISK)
        assert not {*gone} & {*os.listdir(directory)}
        assert {"live.tmp", "notes.txt", "tmp"} <= {*os.listdir(directory)}
    remove_leftovers_locked(store.path, DISK)
    assert "live.tmp" not in os.listdir(directory)


def test_a_new_writer_does_not_read_a_sealed_segment_whose_indexes_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_store(tmp_path) as store:
        fill(store, 20)
    asked: list[SealedSegment] = []
    monkeypatch.setattr(SealedSegment, "checked_entries", asked.append)
    with small_store(tmp_path) as store:
        store.append("s-0", [new()])
    assert asked == []
