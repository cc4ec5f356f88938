"""The active segment: taken in from .offsets or from the log alike, up to the last whole frame."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

import evlog
from evlog import EventStore, NewEvent
from evlog.errors import CorruptionError
from evlog.files.format.entries import ENTRY_BYTES
from evlog.files.format.frames import FRAME_MAGIC, FrameHeader, check_body
from evlog.files.format.hashes import hash_stream
from evlog.files.format.headers import FILE_HEADER_BYTES, KIND_STREAMS
from evlog.files.log import active as active_module
from evlog.files.log.active import ActiveSegment
from evlog.files.log.log import Log
from evlog.files.log.parts import ActivePart
from tests.support.helpers import (
    engine_of,
    facts,
    fill,
    flip_bit,
    frames_of,
    new,
    numbers,
    segment_files,
    small_store,
)
from tests.support.interrupts import Interrupted


@pytest.fixture
def store(memory_path: Path) -> EventStore:
    """Twelve events in frames of one to three, all in the active segment."""
    store = small_store(memory_path / "store", segment_events=1000)
    for number in range(6):
        store.append(f"s-{number % 2}", [new(number)] * (number % 3 + 1))
    return store


def active(store: EventStore) -> ActiveSegment:
    return Log(store.path).active.segment


def follow(store: EventStore, behind: ActiveSegment) -> bool:
    """Have the segment take in what the mark of the last append speaks of."""
    written = Log(store.path).marks().written
    assert written is not None
    return behind.follow(written)


def state(segment: ActiveSegment) -> tuple[object, ...]:
    return bytes(segment.entries), segment.count, segment.end, segment.index_crc, segment.torn_bytes


@pytest.mark.parametrize("source", ["entries", "frames"])
def test_an_interrupted_look_is_made_again(
    store: EventStore, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(1, 1000):
        behind = active(store)
        for number in range(3):
            store.append("s-0", [new(number)])
        if source == "frames":
            monkeypatch.setattr(behind, "_read_offsets", lambda _length=None: bytearray())
        with Interrupted(step, active_module) as interrupted:
            assert source == "entries" or behind.refresh(0)
            assert source == "frames" or follow(store, behind)
        assert behind.refresh(0)
        assert state(behind) == state(active(store))
        assert behind.is_unchanged()
        if not interrupted.happened:
            assert step > 5
            return
    raise AssertionError("the look never got through")


def test_entries_are_the_same_from_offsets_and_from_the_log(store: EventStore) -> None:
    (offsets,) = segment_files(store, "offsets")
    content = offsets.read_bytes()
    expected = state(active(store))
    assert expected[1] == 12
    dice = random.Random(1)
    changes: list[bytes | None] = [
        None,
        b"",
        bytes(len(content)),
        content[:64],
        content + bytes(400),
        content * 2,
    ]
    changes += [content[: dice.randrange(len(content))] for _ in range(10)]
    for _ in range(40):  # holes of zeros, as after a power loss, and flipped bits
        start = dice.randrange(len(content))
        end = min(len(content), start + dice.randrange(1, 100))
        changes.append(content[:start] + bytes(end - start) + content[end:])
        changes.append(
            content[:start] + bytes([content[start] ^ 1 << dice.randrange(8)]) + content[start + 1 :]
        )
    for change in changes:
        offsets.unlink(missing_ok=True)
        if change is not None:
            offsets.write_bytes(change)
        assert state(active(store)) == expected


def test_damaged_offsets_are_whole_again_after_the_next_append(store: EventStore) -> None:
    (offsets,) = segment_files(store, "offsets")
    content = offsets.read_bytes()
    for change in (None, b"", content[:100], content + b"junk" * 20, content[:64] + bytes(len(content) - 64)):
        offsets.unlink(missing_ok=True)
        if change is not None:
            offsets.write_bytes(change)
        with evlog.open(store.path) as other:
            other.append("s", [new()])
        segment = active(store)
        assert offsets.read_bytes()[64:] == bytes(segment.entries)
        assert segment.entries_on_disk == segment.count == len(segment.entries) // ENTRY_BYTES


def test_refresh_takes_in_only_what_is_new(store: EventStore) -> None:
    segment = active(store)
    for _ in range(5):
        store.append("s-0", [new(), new()])
        before = bytes(segment.entries)
        assert segment.refresh(0)
        assert segment.entries[: len(before)] == before
        assert state(segment) == state(active(store))


def test_torn_tail_is_not_taken_in_and_is_named(store: EventStore) -> None:
    (log,) = segment_files(store, "log")
    whole = frames_of(log)
    expected = state(active(store))[:4]
    frame = whole[whole.rindex(FRAME_MAGIC) :]
    for tail in (frame, frame[:20], FRAME_MAGIC, os.urandom(3000) + b"x", b"\xe5" * 50, bytes(5000) + b"x"):
        for room in (b"", bytes(70_000)):
            log.write_bytes(whole + tail + room)
            segment = active(store)
            assert state(segment) == (*expected, len(tail.rstrip(b"\0")))
            assert segment.fault
            assert numbers(evlog.open(store.path).read_all()) == numbers(store.read_all())
    log.write_bytes(whole)


def test_zeros_behind_the_last_frame_are_room_and_no_tail(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.files.log.segment._WINDOW_BYTES", 1000)
    (log,) = segment_files(store, "log")
    whole = frames_of(log)
    expected = state(active(store))[:4]
    for size in (0, 1, 39, 40, 41, 1000, 5000):
        log.write_bytes(whole + bytes(size))
        segment = active(store)
        assert state(segment) == (*expected, 0)
        assert not segment.fault


def test_reader_sees_what_is_written_into_the_room_and_that_the_room_was_cut(store: EventStore) -> None:
    (log,) = segment_files(store, "log")
    reader = active(store)
    size = log.stat().st_size
    store.append("s-0", [new(12)])
    assert log.stat().st_size == size
    assert reader.refresh(0)
    assert state(reader) == state(active(store))
    log.write_bytes(frames_of(log))
    assert reader.refresh(0)
    assert state(reader) == state(active(store))


@pytest.mark.parametrize("kept", ["offsets", "log alone"])
def test_every_cut_of_an_unacknowledged_log_keeps_the_frames_before_it(store: EventStore, kept: str) -> None:
    (log,) = segment_files(store, "log")
    whole = frames_of(log)
    events = facts(store.read_all())
    ends = [at for at in range(64, len(whole)) if whole[at : at + 4] == FRAME_MAGIC] + [len(whole)]
    assert len(ends) == 7
    sizes = [0, 1, 3, 6, 7, 9, 12]
    Path(store.path, "durable").unlink()  # nothing is known to have been acknowledged
    if kept == "log alone":
        segment_files(store, "offsets")[0].unlink()
    for length in range(64, len(whole), 7):
        count = max(size for size, end in zip(sizes, ends, strict=True) if end <= length)
        for room in (0, len(whole)):
            log.write_bytes(whole[:length] + bytes(room))
            with evlog.open(store.path) as other:
                assert facts(other.read_all()) == events[:count]


def test_log_that_was_cut_under_a_reader_is_read_again(store: EventStore) -> None:
    (log,) = segment_files(store, "log")
    whole = log.read_bytes()
    last = whole.rindex(FRAME_MAGIC)
    Path(store.path, "durable").unlink()
    with evlog.open(store.path) as reader:
        assert reader.head == 12
        with log.open("r+b") as file:
            file.truncate(last)
        assert reader.head == 9
        assert len(list(reader.read_all())) == 9


def test_reader_and_writer_notice_that_another_frame_stands_where_one_was_cut(store: EventStore) -> None:
    (log,) = segment_files(store, "log")
    last = len(frames_of(log))
    with evlog.open(store.path, sync="none") as unsynced:
        unsynced.append("s-0", [new(50)] * 3)
    with evlog.open(store.path) as reader, evlog.open(store.path, sync="none") as writer:
        assert reader.head == 15
        assert writer.append("writers", [new(51)], expected=0).first_position == 16
        with log.open("r+b") as file:  # as recovery does with what was never acknowledged
            file.truncate(last)
        with evlog.open(store.path) as other:
            other.append("other", [new(77, metadata={"longer": "x" * 500})] * 2)
        assert numbers(reader.read_all(after=12)) == [77, 77]
        assert reader.stream_version("other") == 2
        assert writer.append("other", [new(78)], expected=2).first_position == 15
        assert writer.append("writers", [new(79)], expected=0).first_position == 16
        assert numbers(reader.read_all(after=12)) == [77, 77, 78, 79]


def test_reader_notices_a_shorter_frame_where_one_was_cut_in_the_room(store: EventStore) -> None:
    (log,) = segment_files(store, "log")
    last, size = len(frames_of(log)), log.stat().st_size
    with evlog.open(store.path, sync="none") as unsynced:
        unsynced.append("s-0", [new(50, metadata={"longer": "x" * 500})])
    reader = active(store)
    assert reader.count == 13
    with log.open("r+b") as file:
        file.truncate(last)
    with evlog.open(store.path) as other:
        other.append("other", [new(77)])
    assert log.stat().st_size == size
    assert not reader.refresh(0)


def test_frames_that_are_known_to_be_synced_are_never_cut(store: EventStore) -> None:
    (log,) = segment_files(store, "log")
    whole = frames_of(log)
    for at in (70, 200, whole.rindex(FRAME_MAGIC) + 5, len(whole) - 1):
        log.write_bytes(whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :])
        segment_files(store, "offsets")[0].unlink(missing_ok=True)
        with evlog.open(store.path) as other:
            with pytest.raises(CorruptionError) as caught:
                other.append("s", [new()])
            assert caught.value.path == str(log)
            with pytest.raises(CorruptionError):
                list(other.read_all())
        assert log.stat().st_size == len(whole)
        log.write_bytes(whole)


def test_entries_of_a_damaged_frame_are_never_looked_up(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a thread that comes while the frame is read: what it keeps of the entries cannot shrink."""
    (log,) = segment_files(store, "log")
    Path(store.path, "durable").unlink()
    known = active(store)
    part = ActivePart(ActiveSegment(store.path, known.header.store_id, known.info))
    flip_bit(log, len(frames_of(log)) - 1)
    seen = []

    def check_body_meanwhile(header: FrameHeader, body: bytes) -> None:
        seen.append(part.index.keys(KIND_STREAMS))
        check_body(header, body)

    monkeypatch.setattr(active_module, "check_body", check_body_meanwhile)
    assert part.segment.refresh(0)
    monkeypatch.undo()
    assert (part.count, seen[0]) == (9, [])
    with evlog.open(store.path) as other:
        other.append("s-0", [new()] * 3)
    assert part.segment.refresh(0)
    fresh = Log(store.path).active
    hashes = [hash_stream("s-0"), hash_stream("s-1")]
    assert part.index.last_numbers(KIND_STREAMS, hashes) == fresh.index.last_numbers(KIND_STREAMS, hashes)


def test_large_active_segment_is_read_in_windows(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evlog.files.log.active._WINDOW_BYTES", 300)
    monkeypatch.setattr("evlog.files.log.active._FRAME_READ_BYTES", 100)
    with small_store(memory_path / "store", segment_events=1000) as store:
        fill(store, 50)
        assert numbers(store.read_all()) == list(range(50))
        segment_files(store, "offsets")[0].unlink()
        with evlog.open(store.path) as other:
            assert numbers(other.read_all()) == list(range(50))
            assert numbers(other.read_all(reverse=True)) == list(range(50))[::-1]
        segment = active(store)
        assert segment.later_frames_durable(64) > 64


@pytest.mark.parametrize("held_at_once", [50, 1 << 20])
def test_the_log_in_memory_is_what_the_file_has(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, held_at_once: int
) -> None:
    monkeypatch.setattr(active_module, "_PIECES_BEFORE_HOLDING", 0)
    monkeypatch.setattr(active_module, "_HELD_AT_ONCE", held_at_once)
    with small_store(memory_path / "store", segment_events=1000) as store:
        segment = engine_of(store)._log.active.segment  # type: ignore[union-attr]
        dice = random.Random(held_at_once)
        for number in range(40):
            store.append("s", [new(number), NewEvent("T", b"x" * dice.randrange(300), content_type="binary")])
            raw = Path(segment.log_path).read_bytes()
            offsets = [dice.randrange(segment.end) for _ in range(30)]
            places = [(offset, min(dice.randrange(400), segment.end - offset), 0, 0) for offset in offsets]
            assert segment.log_pieces(places) == [raw[at : at + length] for at, length, _, _ in places]
        while segment.maybe_in_memory() is None:
            assert held_at_once == 50
        assert [event.version for event in store.read("s")] == list(range(1, 81))


def test_a_log_that_is_too_long_is_not_kept_in_memory(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active_module, "_PIECES_BEFORE_HOLDING", 0)
    monkeypatch.setattr(active_module, "_MAX_HELD_BYTES", 5000)
    segment = engine_of(store)._log.active.segment  # type: ignore[union-attr]
    before = len(list(store.read("s-1")))
    assert segment.maybe_in_memory() is not None
    store.append("s-1", [NewEvent("T", b"x" * 5000, content_type="binary")])
    assert len(list(store.read("s-1"))) == before + 1
    assert segment.maybe_in_memory() is None


def test_a_log_for_which_there_is_no_memory_is_read_from_its_file(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the address space (`ulimit -v`) does not keep a process from reading."""
    monkeypatch.setattr(active_module, "_PIECES_BEFORE_HOLDING", 0)
    monkeypatch.setattr(active_module, "_MAX_HELD_BYTES", 1 << 56)
    segment = engine_of(store)._log.active.segment  # type: ignore[union-attr]
    assert len(list(store.read("s-1"))) > 0
    assert segment.maybe_in_memory() is None


def test_what_is_wrong_in_memory_is_read_again(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(active_module, "_PIECES_BEFORE_HOLDING", 0)
    segment = engine_of(store)._log.active.segment  # type: ignore[union-attr]
    there = list(store.read("s-1"))
    held = segment.maybe_in_memory()
    assert held is not None
    held[FILE_HEADER_BYTES : segment.end] = bytes(segment.end - FILE_HEADER_BYTES)
    assert list(store.read("s-1")) == there != []


def test_what_a_mark_speaks_of_is_taken_in_by_its_entries(store: EventStore) -> None:
    behind = active(store)
    assert follow(store, behind)  # nothing new is all there is
    for number in range(3):
        store.append("s-1", [new(number)] * 2)
    assert follow(store, behind)
    assert state(behind) == state(active(store))
    store.append("s-2", [new()])
    assert behind.refresh(0)  # and on from there, by itself
    assert state(behind) == state(active(store))


def test_entries_that_are_not_those_of_the_mark_are_not_taken_in(store: EventStore) -> None:
    behind = active(store)
    before = state(behind)
    store.append("s-1", [new()])
    store.append("s-1", [new()])
    (offsets,) = segment_files(store, "offsets")
    content = offsets.read_bytes()
    at = 64 + before[1] * ENTRY_BYTES  # type: ignore[operator]
    for damaged in (
        content[: at + 3] + bytes([content[at + 3] ^ 1]) + content[at + 4 :],
        content[:-1],
        content[:at] + content[at + ENTRY_BYTES :],
    ):
        offsets.write_bytes(damaged)
        assert not follow(store, behind)
        assert state(behind) == before
    assert behind.refresh(0)
    assert state(behind) == state(active(store))
    assert store.append("s-1", [new()], expected=8).first_position == 15
