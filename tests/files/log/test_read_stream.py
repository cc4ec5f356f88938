"""Reading one stream: guesses that a record has to confirm, and damage among the segments of a stream."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

import evlog
from evlog import Event, EventStore, NewEvent
from evlog.errors import CorruptionError
from evlog.files.format.entries import ENTRY_BYTES
from evlog.files.format.frames import unpack_records
from evlog.files.format.headers import FILE_HEADER_BYTES
from evlog.files.log import parts
from evlog.files.log.index import SealedIndex
from evlog.files.log.log import Log
from evlog.files.log.read_stream import Bounds, maybe_read_few, read_stream
from evlog.files.log.sealed_segment import SealedSegment
from tests.support.helpers import engine_of, flip_bit, frames_of, new, numbers, segment_files, small_store


@pytest.fixture(autouse=True, params=["unchecked", "checked"])
def indexes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the indexes checked at once, as after many look-ups: then they are looked up directly."""
    if request.param == "checked":
        monkeypatch.setattr(SealedIndex, "maybe_checked", SealedIndex.maybe_sorted)


def test_a_guess_that_another_stream_has_led_astray_hides_nothing(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("log.read_stream", "log.log", "write.plan"):
        monkeypatch.setattr(f"evlog.files.{module}.hash_stream", lambda _: 1 << 40, raising=False)
    with small_store(memory_path / "store", segment_events=10) as store:
        for stream, count in (("c", 5), ("a", 4), ("x", 1)):
            store.append(stream, [new(number) for number in range(1, count + 1)])
        # The next segment: by its first entry, version 6 of "a" would be where that of "c" is.
        for stream, version in (("b", 1), ("a", 5), ("a", 6), ("b", 2), ("b", 3), ("c", 6), ("a", 7)):
            store.append(stream, [new(version)], expected=version - 1)
        assert len(segment_files(store, "log")) == 2
        for first in range(1, 9):
            assert numbers(store.read("a", first)) == list(range(first, 8))
            assert numbers(store.read("a", first, limit=1)) == [first][: 8 - first]
            assert numbers(store.read("a", first, reverse=True)) == list(range(first, 8))[::-1]


@pytest.mark.exact_hashes  # else any damaged event may be a policy
def test_events_before_damage_in_a_later_segment_are_read_first(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_events=4) as store:
        for number in range(11):
            store.append("s", [new(number)])
    logs = segment_files(store, "log")
    flip_bit(logs[1], -1)  # the last one of the second segment
    with small_store(memory_path / "store") as store:
        found: list[Event] = []
        with pytest.raises(CorruptionError):
            found.extend(store.read("s"))  # it keeps what came before
        assert numbers(found) == list(range(7))


@pytest.mark.exact_hashes  # else any damaged event may be a policy
@pytest.mark.parametrize("reverse", [False, True])
def test_a_log_that_is_missing_hides_nothing_before_it(memory_path: Path, *, reverse: bool) -> None:
    with small_store(memory_path / "store", segment_events=4) as store:
        for number in range(11):
            store.append("s", [new(number)])
    segment_files(store, "log")[1].unlink()
    with small_store(memory_path / "store") as store:
        found: list[Event] = []
        with pytest.raises(CorruptionError):
            found.extend(store.read("s", reverse=reverse))
        assert numbers(found) == ([10, 9, 8] if reverse else [0, 1, 2, 3])


@pytest.mark.exact_hashes  # else any damaged event may be a policy
def test_damage_before_the_first_version_that_is_read_is_not_met(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_events=1000) as store:
        for first, end in ((0, 50), (50, 51), (51, 351)):
            store.append("s", [new(number) for number in range(first, end)])
        active = engine_of(store)._opened().active.segment
        ((offset, length, _, _),) = active.places([50])
    flip_bit(Path(active.log_path), offset + length - 1)
    with evlog.open(store.path) as damaged:
        assert numbers(damaged.read("s", 52)) == list(range(51, 351))
        with pytest.raises(CorruptionError):
            list(damaged.read("s", 51))


@pytest.mark.parametrize("limit", [None, 64])
def test_damage_at_the_end_of_the_log_is_raised_after_a_short_stream(
    store: EventStore, limit: int | None
) -> None:
    """It may have held further events of the stream."""
    for number in range(3):
        store.append("s", [new(number)])
    (log,) = segment_files(store, "log")
    log.write_bytes(frames_of(log)[:-5])
    with evlog.open(store.path) as damaged:
        found: list[Event] = []
        with pytest.raises(CorruptionError):
            found.extend(damaged.read("s", limit=limit))
        assert numbers(found) == [0, 1]


def test_entries_of_a_stream_are_as_of_one_moment(store: EventStore) -> None:
    """Though the segment that they are in grows."""
    store.append("s", [new(number) for number in range(3)])
    entries = engine_of(store)._opened().stream_entries("s")
    store.append("s", [new(3)])
    assert entries.within(entries.last)[2] == 3
    assert numbers(store.read("s")) == [0, 1, 2, 3]


# --- neighbours in a frame, which are read and checked as one


@pytest.fixture(params=["sealed", "active"])
def long_stream(request: pytest.FixtureRequest, memory_path: Path) -> EventStore:
    """Versions 1 to 90 of one stream, in frames of 30, 3, 27 and 30 events."""
    with small_store(memory_path / "store", segment_events=90) as store:
        for count in (30, 3, 27, 30):
            store.append("long-1", [new(number) for number in range(count)])
        if request.param == "sealed":
            store.append("other-1", [new()])
        return store


def test_pages_of_neighbours_are_right_across_frames(long_stream: EventStore) -> None:
    with evlog.open(long_stream.path) as store:
        for first in range(1, 91):
            for limit in (1, 4, 5, 6, 20, 64, 90):
                found = [event.version for event in store.read("long-1", first, limit=limit)]
                assert found == list(range(first, min(first + limit, 91))), (first, limit)


def test_neighbours_in_a_frame_are_one_piece_up_to_its_end(long_stream: EventStore) -> None:
    log = Log(long_stream.path)
    segment = log.parts()[0].segment
    for low, high, pieces, count in ((0, 20, 1, 20), (5, 60, 1, 25), (31, 50, 19, 19), (33, 90, 1, 27)):
        found, taken = segment.pieces(range(low, high))
        assert (len(found), taken) == (pieces, count), (low, high)
        assert [record[1] for record in unpack_records(found, taken)] == list(range(low + 1, low + count + 1))


def test_a_flipped_bit_among_neighbours_is_found_and_those_before_it_are_read(
    long_stream: EventStore,
) -> None:
    segment = Log(long_stream.path).parts()[0].segment
    whole = Path(segment.log_path).read_bytes()
    for number in (5, 6, 24, 29, 31, 40):
        offset, length, _, _ = segment.places([number])[0]
        for at in range(offset, offset + length, 7):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << at % 8
            Path(segment.log_path).write_bytes(damaged)
            found: list[int] = []
            with evlog.open(long_stream.path) as store, pytest.raises(CorruptionError) as caught:
                found.extend(event.version for event in store.read("long-1", 6, limit=50))
            assert found == list(range(6, number + 1))
            assert (caught.value.offset, caught.value.position) == (offset, number + 1)


def test_events_far_from_each_other_are_read_in_order(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_events=1000) as store:
        for number in range(10):
            store.append("rare", [new(number)])
            store.append("usual", [new(other) for other in range(99)])
        store.append("usual", [new()])
        assert len(segment_files(store, "log")) == 2
        found = list(store.read("rare"))
        assert found == list(map(store.get, range(1, 1000, 100)))
        assert [event.version for event in found] == list(range(1, 11))


# --- a few events, which are read in one go


@pytest.fixture
def short_streams(memory_path: Path) -> EventStore:
    """Streams of 30, 12 and 1 events over six segments; the last segment has events of one stream only."""
    with small_store(memory_path / "store", segment_events=7) as store:
        for number in range(1, 31):
            store.append("a", [new(number)])
            if number % 3 == 0 and number < 25:
                store.append("b", [new(number // 3)])
        store.append("c", [new(1)])
        store.append("b", [new(number) for number in range(9, 13)])
        assert len(segment_files(store, "log")) > 5
        return store


def test_a_few_events_are_read_in_one_go_and_are_those_that_a_general_read_finds(
    short_streams: EventStore,
) -> None:
    log = Log(short_streams.path)
    for stream, first, last, limit, reverse in product(
        ("a", "b", "c", "none"), (0, 1, 2, 8, 12, 13, 31), (None, 1, 8, 40), (None, 1, 7, 64), (False, True)
    ):
        found = maybe_read_few(log, stream, first, last, reverse=reverse, limit=limit)
        general = read_stream(log, stream, Bounds(first, last), None, reverse=reverse, limit=limit)
        is_empty = last is not None and last < first
        if (reverse and (first > 1 or last is not None)) or is_empty or (first > 1 and stream == "none"):
            assert found is None
        else:
            assert found is not None
            assert list(found) == list(general), (stream, first, last, limit, reverse)


def test_many_events_and_unusual_ones_are_left_to_a_general_read(memory_path: Path) -> None:
    def is_left(stream: str, first: int = 1, last: int | None = None, limit: int | None = None) -> bool:
        return maybe_read_few(log, stream, first, last, reverse=False, limit=limit) is None

    with small_store(memory_path / "store", segment_events=50) as store:
        store.append("many", [new(number) for number in range(257)])
        store.append("large", [NewEvent("T", {"x": "x" * 700_000}) for _ in range(4)])
        store.append("kept-1", [new(number) for number in range(9)])
        store.set_retention("kept-1", max_count=5)
        log = Log(store.path)
        assert is_left("many")
        assert not is_left("many", 2)
        assert is_left("many", limit=257)
        assert is_left("many", last=257)
        assert not is_left("many", last=256)
        assert is_left("large")
        assert not is_left("large", limit=1)
        assert is_left("kept-1")
        for number in range(1, 310):  # more than 256 only with those in the active segment, then without, too
            store.append_many([(stream, [new(number)]) for stream in ("x", "y")])
            assert is_left("x") == (number > 256)
            assert numbers(store.read("x")) == list(range(1, number + 1))
        assert [event.version for event in store.read("kept-1")] == [5, 6, 7, 8, 9]
    with small_store(memory_path / "spread", segment_events=1) as store:
        for _ in range(4):
            store.append("large", [NewEvent("T", {"x": "x" * 700_000})])
        log = Log(store.path)
        assert not is_left("large", limit=2)
        assert is_left("large", limit=3)


def test_a_salvaged_stream_with_versions_missing_in_its_middle_is_read_within_bounds(
    memory_path: Path,
) -> None:
    whole = small_store(memory_path / "store", segment_events=4)
    for number in range(20):
        whole.append("a", [new(number)])
    segment_files(whole, "log")[1].unlink()
    assert evlog.salvage_store(whole.path, memory_path / "out").losses
    salvaged = small_store(memory_path / "out")
    there = [event.version for event in salvaged.read_all()]
    assert there == [*range(1, 5), *range(9, 21)]
    for first, last, limit in product(range(1, 22), range(1, 22), (None, 1, 3)):
        wanted = [version for version in there if first <= version <= last][:limit]
        assert [event.version for event in salvaged.read("a", first, last, limit=limit)] == wanted


@pytest.fixture
def checked(short_streams: EventStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[EventStore]:
    """The same, opened, with the indexes of all sealed segments looked up directly from the next read on."""
    monkeypatch.setattr("evlog.files.log.index._FINDS_BEFORE_CHECKING_ALL", 0)
    with evlog.open(short_streams.path) as store:
        assert numbers(store.read("a")) == list(range(1, 31))
        assert numbers(store.read("b")) == list(range(1, 13))  # else the next read of "a" is no direct one
        yield store


def test_a_stream_is_looked_up_directly_once_the_indexes_are_checked(
    checked: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SealedIndex, "find", lambda *_: pytest.fail("the index was asked"))
    assert numbers(checked.read("a")) == list(range(1, 31))
    assert numbers(checked.read("b", limit=9)) == list(range(1, 10))
    assert numbers(checked.read("b", 1, 4, limit=9)) == list(range(1, 5))
    assert numbers(checked.read("b", reverse=True)) == list(range(12, 0, -1))


def test_a_stream_that_cannot_be_looked_up_directly_is_tried_once(
    short_streams: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[parts.SealedPart] = []

    def note(part: parts.SealedPart) -> None:
        tried.append(part)

    monkeypatch.setattr(parts.SealedPart, "maybe_direct", note)
    with evlog.open(short_streams.path) as store:
        for _ in range(3):
            assert numbers(store.read("a")) == list(range(1, 31))
    assert len(tried) == 1


def test_entries_that_are_damaged_after_a_direct_look_up_are_repaired(checked: EventStore) -> None:
    assert numbers(checked.read("a")) == list(range(1, 31))
    for offsets in segment_files(checked, "offsets")[:-1]:
        flip_bit(offsets, FILE_HEADER_BYTES + ENTRY_BYTES + 16)  # where the record of the second entry begins
    assert numbers(checked.read("a")) == list(range(1, 31))
    assert numbers(checked.read("b")) == list(range(1, 13))


@pytest.mark.exact_hashes  # else any damaged event may be a policy
def test_a_record_that_is_damaged_after_a_direct_look_up_is_found(checked: EventStore) -> None:
    assert numbers(checked.read("a")) == list(range(1, 31))
    flip_bit(segment_files(checked, "log")[1], b"\xc4\x0211\xc0", 3)  # in the data of version 11
    found: list[Event] = []
    with pytest.raises(CorruptionError):
        found.extend(checked.read("a"))
    assert numbers(found) == list(range(1, 11))


def test_a_segment_that_is_closed_for_another_one_is_not_kept_by_direct_look_ups(
    checked: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert numbers(checked.read("a")) == list(range(1, 31))
    sealed = engine_of(checked)._opened().sealed
    assert all(part.direct for part in sealed)
    monkeypatch.setattr(parts, "max_open_parts", lambda _logs: 2)
    sealed[0].close()
    assert numbers(checked.read("a")) == list(range(1, 31))
    assert len([part for part in sealed if part.direct]) <= 2


def test_a_segment_that_another_thread_closes_is_not_kept_by_direct_look_ups(
    checked: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = engine_of(checked)._opened().sealed[0]
    part.direct, look = None, SealedSegment.maybe_in_memory

    def close_meanwhile(segment: SealedSegment) -> object:
        part.close()
        return look(segment)

    monkeypatch.setattr(SealedSegment, "maybe_in_memory", close_meanwhile)
    assert part.maybe_direct() is not None
    assert part.direct is None


def test_what_is_known_of_a_stream_follows_other_writers(short_streams: EventStore) -> None:
    with evlog.open(short_streams.path) as reader, evlog.open(short_streams.path) as writer:
        for number in range(31, 60):  # over several rolls
            assert numbers(reader.read("a", limit=3, reverse=True)) == [number - 1, number - 2, number - 3]
            assert numbers(reader.read("a", number)) == []
            writer.append("a", [new(number)])
            assert numbers(reader.read("a", number)) == [number]
        writer.redact(reader.get(1).position, reason="asked")
        assert next(reader.read("a", limit=1)).redacted
        writer.set_retention("a", max_count=2)
        assert numbers(reader.read("a", limit=3)) == [58, 59]
        writer.set_retention("a", clear=True)
        assert numbers(reader.read("a", 2, limit=3)) == [2, 3, 4]
        writer.set_retention("b", before=9)
        assert numbers(reader.read("b")) == [9, 10, 11, 12]
        writer.compact()
        writer.set_retention("b", clear=True)
        assert numbers(reader.read("a", 2, limit=3)) == [2, 3, 4]
        for first, last, versions in (
            (1, None, [9, 10, 11, 12]),
            (1, 8, []),
            (1, 9, [9]),
            (10, 11, [10, 11]),
        ):
            assert [event.version for event in reader.read("b", first, last)] == versions


def test_files_of_replaced_segments_are_not_kept_for_the_next_page(short_streams: EventStore) -> None:
    with evlog.open(short_streams.path) as store:
        assert len(list(store.read("b"))) == 12
        store.delete_stream("b")
        store.compact()
        assert store.head  # this looks at the log, and reads no stream
        maps = Path("/proc/self/maps").read_text()
        assert not [line for line in maps.splitlines() if short_streams.path in line and "(deleted)" in line]
