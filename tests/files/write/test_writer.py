"""Appending: what it says, time, rolls, sizes; what is refused leaves nothing behind."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import evlog
from evlog import ANY, NO_STREAM, EventStore, NewEvent
from evlog.errors import (
    ClockError,
    EventTooLarge,
    InvalidArgument,
    InvalidEvent,
    InvalidStreamName,
    LockTimeout,
    StoreFull,
)
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import Disk, WriteFile
from evlog.files.format.frames import PREALLOCATION_BYTES
from evlog.files.log.column_index import ColumnIndex
from evlog.model.encoding import encode_events
from evlog.model.events import MAX_EVENT_BYTES, MAX_VERSION
from tests.support.helpers import (
    Clock,
    engine_of,
    fill,
    frames_of,
    new,
    number_id,
    numbers,
    open_files,
    segment_files,
    small_store,
    writer_of,
)

# --- what an append says


def test_result_says_where_the_events_stand(store: EventStore) -> None:
    first = store.append("a", [new(1), new(2, id=number_id(2))])
    second = store.append("b", [new(3)])
    third = store.append("a", [new(4)])
    assert first[:6] == ("a", 1, 2, 1, 2, False)
    assert second[:6] == ("b", 3, 3, 1, 1, False)
    assert third[:6] == ("a", 4, 4, 3, 3, False)
    assert first.ids == tuple(event.id for event in store.read("a", to_version=2))
    assert first.ids[1] == number_id(2)


def test_append_many_is_one_frame_with_a_result_for_each_append(store: EventStore) -> None:
    results = store.append_many([("a", [new(1), new(2)]), ("b", [new(3)], NO_STREAM), ("a", [new(4)], 2)])
    assert [result[:6] for result in results] == [
        ("a", 1, 2, 1, 2, False),
        ("b", 3, 3, 1, 1, False),
        ("a", 4, 4, 3, 3, False),
    ]
    assert segment_files(store, "log")[0].read_bytes().count(b"\xe5EVF") == 1


@pytest.mark.parametrize("appends", [{"a": []}, ["a"], [("a",)], [None], [5]])
def test_what_is_not_a_pair_of_a_stream_and_events_is_refused(store: EventStore, appends: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"give \(stream, events\)"):
        store.append_many([("a", [new(1)]), *appends])
    assert store.head == 0


def test_events_may_come_from_a_generator(store: EventStore) -> None:
    store.append("a", (new(number) for number in range(5)))
    store.append_many((name, iter([new(5)])) for name in ("b", "c"))
    assert numbers(store.read_all()) == [0, 1, 2, 3, 4, 5, 5]


def test_batch_result_has_one_entry_for_each_event(store: EventStore) -> None:
    events = encode_events([new(number, id=number_id(number)) for number in range(4)])
    store.append_encoded(["a", "b"], events[:2])
    result = store.append_encoded(
        ["a", "c", "b", "a"], [events[0], events[2], events[1], events[3]], skip_known=True
    )
    assert result.versions == [1, 1, 1, 2]
    assert result.positions == [1, 3, 2, 4]
    assert result.duplicates == [True, False, True, False]
    assert (result.appended, result.duplicate_count) == (2, 2)
    assert (result.first_position, result.last_position) == (3, 4)
    again = store.append_encoded(["a"], events[:1])
    assert (again.appended, again.first_position, again.last_position) == (0, None, None)


# --- time


def test_time_is_the_clocks_and_never_decreases(store: EventStore, clock: Clock) -> None:
    noon = clock.us
    for step in (0, 5, -3_600_000_000, 4, 6, -1):
        clock.us = noon + step
        store.append("s", [new()])
    assert [event.time_us - noon for event in store.read_all()] == [0, 5, 5, 5, 6, 6]


@pytest.mark.parametrize("count", [1, 8, 9, 16])  # in the active segment, just full, just rolled
def test_time_never_decreases_across_segments_and_writers(
    store: EventStore, clock: Clock, count: int
) -> None:
    noon = clock.us
    for _ in range(count):
        store.append("s", [new()])
    clock.us = noon - 1_000_000
    with evlog.open(store.path) as other:
        other.append("s", [new()])
        clock.us = noon + 7
        other.append("s", [new()])
        clock.us = noon
        store.append("s", [new()])
    assert [event.time_us - noon for event in store.read_all(after=count)] == [0, 7, 7]


class FullAfterRoll(Disk):
    """A disk that is too full for the first frame of the second segment."""

    full = True

    def write_at(self, file: WriteFile, data: bytes, offset: int) -> None:
        if self.full and offset and file.path.endswith(f"{9:020d}.0.log"):
            raise StoreFull(file.path, "no room")
        super().write_at(file, data, offset)


class Syncing(Disk):
    """Notes what is synced."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def sync(self, file: WriteFile) -> None:
        self.names.append(os.path.basename(file.path))
        super().sync(file)

    def sync_dir(self, path: str) -> None:
        self.names.append(os.path.basename(path))
        super().sync_dir(path)


def test_a_roll_syncs_only_what_a_power_loss_must_not_take(memory_path: Path) -> None:
    disk = Syncing()
    with small_store(memory_path / "store", disk=disk) as store:
        fill(store, 8)
        disk.names.clear()
        store.append("s", [new()])
    full, next_ = f"{1:020d}.0", f"{9:020d}.0"
    roll = [f"{full}.log", f"{full}.offsets", f"{next_}.log", "segments", "manifest.json.tmp", "store"]
    assert disk.names == [*roll, f"{next_}.log"]


def test_a_writer_syncs_the_names_of_a_store_before_it_acknowledges_anything(memory_path: Path) -> None:
    """The process that made the store may have died before it did."""
    path = memory_path / "above" / "store"
    path.parent.mkdir()
    small_store(path).close()
    disk = Syncing()
    with small_store(path, disk=disk) as store:
        store.append("s", [new()])
    assert disk.names == ["segments", "store", "above", f"{1:020d}.0.log"]


class Beginning(Disk):
    """Notes of which files the device is asked to write a part, and what is synced."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def begin_write_back(self, file: WriteFile, offset: int, length: int) -> None:
        self.calls.append((file.path, offset + length))
        super().begin_write_back(file, offset, length)

    def sync(self, file: WriteFile) -> None:
        self.calls.append((file.path, 0))
        super().sync(file)


@pytest.mark.parametrize(("size", "sync"), [(1 << 16, "always"), (1 << 10, "always"), (1 << 16, "none")])
def test_only_a_large_frame_is_on_its_way_to_the_device_before_its_sync(
    memory_path: Path, size: int, sync: str
) -> None:
    disk = Beginning()
    with small_store(memory_path / "store", sync=sync, disk=disk) as store:
        store.append("s", [new(0)])
        disk.calls.clear()
        store.append("s", [NewEvent("T", b"x" * size, content_type="binary")])
        log = next((memory_path / "store" / "segments").glob("*.log"))
        begun = [(str(log), os.path.getsize(log))] if size > 1 << 10 else []
        assert disk.calls == ([*begun, (str(log), 0)] if sync == "always" else [])


def test_time_never_decreases_behind_an_empty_segment(memory_path: Path, clock: Clock) -> None:
    noon = clock.us
    disk = FullAfterRoll()
    with small_store(memory_path / "store", disk=disk) as store:
        fill(store, 8)
        with pytest.raises(StoreFull):
            store.append("s", [new()])
        assert store.info().segments == 2
        clock.us = noon - 1_000_000
        with evlog.open(store.path) as other:
            other.append("s", [new()])
            assert next(other.read("s")).time_us == noon
        disk.full = False
        store.append("s", [new()])
        assert [event.time_us for event in store.read("s")] == [noon, noon]


def test_a_clock_that_no_event_can_have_is_refused(store: EventStore, clock: Clock) -> None:
    for outside in (-1, -2_000_000_000_000_000, 253_402_300_800_000_000):
        clock.us = outside
        with pytest.raises(ClockError) as caught:
            store.append("s", [new()])
        assert caught.value.attributes() == {"time_us": outside}
        assert "outside the years 1970 to 9999" in str(caught.value)
    clock.us = 1_700_000_000_000_000
    store.append("s", [new()])
    clock.us = -5  # set back too far: time does not decrease, and the store stays usable
    store.append("s", [new()])
    assert [event.time_us for event in store.read("s")] == [1_700_000_000_000_000] * 2


def test_a_store_works_after_the_last_nanosecond_that_python_counts(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflow() -> int:
        raise OverflowError

    seconds = 253_402_300_799.0  # the last of the year 9999
    monkeypatch.setattr("time.time_ns", overflow)
    monkeypatch.setattr("time.clock_gettime", lambda _: seconds)
    store.set_retention("s", max_age=60)
    id = store.append("s", [new()]).ids[0]
    assert store.get(id).time.year == 9999
    store.compact()
    assert store.info().clock_ahead_seconds == 0
    assert store.verify().ok
    seconds += 1
    with pytest.raises(ClockError):
        store.append("s", [new()])
    assert store.verify().ok


def test_info_says_by_how_much_the_clock_is_behind_the_last_event(store: EventStore, clock: Clock) -> None:
    assert store.info().clock_ahead_seconds == 0
    store.append("s", [new()])
    assert store.info().clock_ahead_seconds == 0
    clock.us -= 3_600_000_000
    assert store.info().clock_ahead_seconds == 3600
    store.append("s", [new()])
    assert store.info().clock_ahead_seconds == 3600  # the later event has that time, too
    clock.us += 3_600_000_001
    assert store.info().clock_ahead_seconds == 0


def test_events_of_one_append_have_one_time(store: EventStore) -> None:
    store.append("s", [new() for _ in range(20)])
    assert len({event.time_us for event in store.read_all()}) == 1


# --- rolling


def test_segment_rolls_when_it_has_so_many_events(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_events=5) as store:
        for size in (5, 1, 4, 3, 3, 6, 12, 1):
            store.append("s", [new()] * size)
        segments = engine_of(store)._opened().manifest.segments
        assert [segment.first_position for segment in segments] == [1, 6, 11, 14, 17, 23, 35]
        assert [segment.events for segment in segments] == [5, 5, 3, 3, 6, 12, 0]
        assert [event.position for event in store.read_all()] == list(range(1, 36))


def test_segment_rolls_before_it_is_longer_than_so_many_bytes(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_bytes=10_000, segment_events=1 << 20) as store:
        for _ in range(50):
            store.append("s", [NewEvent("T", bytes(900), content_type="binary")])
        sizes = [path.stat().st_size for path in segment_files(store, "log")]
        assert len(sizes) == 5
        assert all(9_000 < size <= 10_000 for size in sizes)
        store.append("s", [NewEvent("T", bytes(50_000), content_type="binary")])  # larger than a segment
        store.append("s", [new()])
        assert [path.stat().st_size > 50_000 for path in segment_files(store, "log")[-3:]] == [
            False,
            True,
            False,
        ]
        assert store.stream_version("s") == 52
        assert len(next(store.read("s", 51)).data) == 50_000


def test_first_frame_may_be_larger_than_a_segment(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_bytes=1, segment_events=1) as store:
        store.append("s", [new(number) for number in range(7)])
        store.append("s", [new(7)])
        assert numbers(store.read_all()) == list(range(8))
        assert store.info().segments == 2


def test_sealed_segment_has_its_indexes_after_the_append_that_sealed_it(store: EventStore) -> None:
    fill(store, 9)
    names = [name for name in os.listdir(f"{store.path}/segments") if name.startswith(f"{1:020d}.")]
    suffixes = sorted(name.rpartition(".")[2] for name in names)
    assert suffixes == ["ids", "log", "offsets", "streams", "types"]


# --- preallocation


def test_small_appends_are_written_into_room_that_one_of_them_made(store: EventStore) -> None:
    fill(store, 1)
    (log,) = segment_files(store, "log")
    frames = [frames_of(log)]
    with small_store(store.path) as other:
        for writer in (store, other, store, other):
            assert log.stat().st_size == PREALLOCATION_BYTES
            writer.append("s", [new()])
            frames.append(frames_of(log))
    assert all(after.startswith(before) for before, after in pairwise(frames))
    assert len(frames[-1]) > len(frames[0])


def test_frame_that_does_not_fit_into_the_room_makes_more_if_it_is_small(memory_path: Path) -> None:
    with small_store(memory_path / "store") as store:
        fill(store, 1)
        (log,) = segment_files(store, "log")
        sizes = []
        for data_bytes in (60_000, 6_000, 60_000, 6_000):
            store.append("s", [NewEvent("T", b"x" * data_bytes, content_type="binary")])
            sizes.append((log.stat().st_size, len(frames_of(log))))
        assert [size for size, _ in sizes] == [65536, 2 * 65536, 2 * 65536, 3 * 65536]
        assert store.stream_version("s") == 4


def test_log_is_never_lengthened_beyond_a_segment_and_a_sealed_one_has_no_room(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_bytes=10_000, segment_events=3) as store:
        for number in range(8):
            store.append("s", [new(number)])
            *sealed, active = segment_files(store, "log")
            assert active.stat().st_size == 10_000
            assert all(log.read_bytes() == frames_of(log) for log in sealed)
        infos = engine_of(store)._opened().manifest.segments[:-1]
        assert [info.log_bytes for info in infos] == [log.stat().st_size for log in sealed]


class NoRoom(Disk):
    """A disk that has space for one frame only."""

    def write_at(self, file: WriteFile, data: bytes, offset: int) -> None:
        if len(data) > 2000:
            super().write_at(file, data[:1000], offset)
            raise StoreFull(file.path, "no room")
        super().write_at(file, data, offset)


def test_frame_is_written_where_there_is_room_for_it_and_none_behind_it(memory_path: Path) -> None:
    disk = NoRoom()
    with small_store(memory_path / "store", disk=disk) as store, small_store(store.path, disk=disk) as other:
        for number in range(6):
            (store if number % 3 else other).append("s", [new(number)])
        with pytest.raises(StoreFull):
            store.append("s", [NewEvent("T", bytes(3000), content_type="binary")])
        assert store.torn_tails == other.torn_tails == []
        for reader in (store, other, evlog.open(store.path)):
            assert numbers(reader.read_all()) == [0, 1, 2, 3, 4, 5]


def test_frame_that_a_dead_writer_left_in_the_room_is_taken_in(store: EventStore) -> None:
    fill(store, 1)
    marks = Path(store.path, "durable").read_bytes()
    with small_store(store.path) as other:
        assert other.append("s", [new(1)]).first_position == 2
    Path(store.path, "durable").write_bytes(marks)  # it died before it left its mark
    assert store.append("s", [new(2)], expected=1).first_position == 3
    assert numbers(store.read_all()) == [0, 1, 2]


# --- sizes


def test_largest_event_is_written_and_a_larger_one_refused(store: EventStore) -> None:
    data = os.urandom(1024) * (MAX_EVENT_BYTES // 1024)
    store.append("s", [NewEvent("T", data, content_type="binary")])
    before = segment_files(store, "log")[0].stat().st_size
    with pytest.raises(EventTooLarge) as caught:
        store.append("s", [new(), NewEvent("T", data + b"x", content_type="binary")])
    assert caught.value.size_bytes == MAX_EVENT_BYTES + 1
    assert segment_files(store, "log")[0].stat().st_size == before
    with evlog.open(store.path) as other:
        assert next(other.read("s")).data == data


def test_append_beyond_a_frame_is_refused(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, unchanged: Callable[[], None]
) -> None:
    monkeypatch.setattr("evlog.files.write.tail.MAX_BODY_BYTES", 10_000)
    unchanged()
    with pytest.raises(evlog.AppendTooLarge) as caught:
        store.append("s", [NewEvent("T", "x" * 1000)] * 10)
    assert caught.value.limit_bytes == 10_000
    assert caught.value.size_bytes > 10_000
    store.append("t", [NewEvent("T", "x" * 1000)] * 9)
    unchanged()


def test_full_stream_is_refused(store: EventStore) -> None:
    store.append("s", [new()])
    streams = writer_of(store)._planner._streams
    streams.versions[streams["s"]] = MAX_VERSION - 1
    with pytest.raises(InvalidArgument, match="stream"):
        store.append("s", [new()] * 2)
    assert store.append("s", [new()]).last_version == 2  # looked up again
    streams.versions[streams["s"]] = MAX_VERSION - 1
    assert store.append("s", [new()]).last_version == MAX_VERSION
    store.append("t", [new()])


# --- refused


BAD_APPENDS: list[tuple[Any, Any, type[Exception]]] = [
    ("s", [], InvalidArgument),
    ("s", [new(), "no event"], InvalidEvent),
    ("s", [new(), NewEvent("")], InvalidEvent),
    ("s", [new(), NewEvent("T", b"{")], InvalidEvent),
    ("s", new(), InvalidArgument),
    ("", [new()], InvalidStreamName),
    ("$s", [new()], InvalidStreamName),
    ("s\n", [new()], InvalidStreamName),
    ("\udcff", [new()], InvalidStreamName),
    (None, [new()], InvalidStreamName),
    (5, [new()], InvalidStreamName),
    (["s"], [new()], InvalidStreamName),
    (b"s", [new()], InvalidStreamName),
]


@pytest.mark.parametrize(("stream", "events", "error"), BAD_APPENDS, ids=repr)
@pytest.mark.parametrize("expected", [ANY, NO_STREAM])
def test_bad_append_is_refused(
    store: EventStore,
    unchanged: Callable[[], None],
    stream: Any,
    events: Any,
    error: type[Exception],
    expected: Any,
) -> None:
    store.append("s", [new()])
    unchanged()
    with pytest.raises(error):
        store.append(stream, events, expected)
    with pytest.raises(error):
        store.append_many([("t", [new()]), (stream, events, expected)])


def test_nothing_at_all_is_refused(store: EventStore) -> None:
    with pytest.raises(InvalidArgument):
        store.append_many([])
    with pytest.raises(InvalidArgument):
        store.append_encoded([], [])
    with pytest.raises(InvalidArgument):
        store.append_encoded(["a"], encode_events([new(), new()]))


def test_lock_that_is_not_free_in_time_is_its_own_error(store: EventStore) -> None:
    with FileLock(f"{store.path}/lock", 0), evlog.open(store.path, lock_timeout=0.01) as other:
        with pytest.raises(LockTimeout) as caught:
            other.append("s", [new()])
        assert caught.value.attributes() == {"path": f"{store.path}/lock", "timeout_seconds": 0.01}
        assert other.head == 0
    store.append("s", [new()])


def test_a_writer_keeps_no_segment_open_that_was_removed(memory_path: Path) -> None:
    """Else its space would not become free as long as the writer is open."""
    with small_store(memory_path / "store", segment_events=4) as store:
        fill(store, 12)
        store.set_retention("s-0", max_count=1)
        store.compact()
        assert not [name for name in open_files(store.path) if name.endswith(".log (deleted)")]


def test_unsynced_appends_are_there_for_every_reader(memory_path: Path) -> None:
    with small_store(memory_path / "store", sync="none") as store:
        fill(store, 20)
        with evlog.open(store.path) as other:
            assert numbers(other.read_all()) == list(range(20))
            other.append("s-0", [new(20)])
        assert numbers(store.read_all()) == list(range(21))


def test_time_does_not_fall_behind_what_another_open_writer_wrote(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with evlog.open(store.path) as other:
        store.append("s", [new()])
        other.append("s", [new()])  # both have looked at everything by now
        ahead = time.time_ns() + 3_600_000_000_000
        with monkeypatch.context() as patch:
            patch.setattr(time, "time_ns", lambda: ahead)
            other.append("s", [new()])
        store.append("s", [new()])
        assert [event.time_us for event in store.read("s", from_version=3)] == [ahead // 1000] * 2


@pytest.mark.exact_hashes
def test_a_writer_reads_the_ids_of_a_segment_before_it_takes_the_lock(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the lock it would delay all others."""
    with small_store(memory_path / "store", segment_events=1000) as store:
        fill(store, 100)
    with evlog.open(memory_path / "store") as store:
        lock, known_ids = writer_of(store)._lock, ColumnIndex._known_ids
        read: list[bool] = []

        def watched_known_ids(index: ColumnIndex) -> set[int]:
            if not index._ids:
                read.append(lock._held is not None)
            return known_ids(index)

        monkeypatch.setattr(ColumnIndex, "_known_ids", watched_known_ids)
        for number in range(120, 100, -1):  # ids that rise are not looked up
            store.append("s-0", [new(number, id=number_id(number))])
        assert read == [False]
