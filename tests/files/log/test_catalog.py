"""What is in a store: streams by name, counts, sizes, first and last."""

from __future__ import annotations

import os
import random
import tracemalloc
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import evlog
from evlog import EventStore, NewEvent, StreamInfo
from evlog.files.log.segment import Segment
from tests.support.helpers import Clock, fill, new, segment_files

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def test_empty_store_in_numbers(store: EventStore) -> None:
    info = store.info()
    assert info.path == store.path
    assert info.id == store.id
    assert (info.format, info.events, info.streams, info.segments) == (1, 0, 0, 1)
    assert (info.first_position, info.last_position, info.first_time, info.last_time) == (0, 0, None, None)
    assert list(store.streams()) == []


@pytest.mark.parametrize("count", [1, 7, 8, 9, 40])
def test_store_in_numbers(store: EventStore, clock: Clock, count: int) -> None:
    for number in range(count):
        clock.us += 10
        store.append(f"s-{number % 5}", [new(number)])
    info = store.info()
    assert (info.events, info.streams, info.segments) == (count, min(count, 5), (count + 7) // 8)
    assert (info.first_position, info.last_position) == (1, count)
    assert info.last_time is not None
    assert info.last_time - EPOCH == timedelta(microseconds=clock.us)
    assert info.first_time == info.last_time - timedelta(microseconds=10 * (count - 1))
    files = [os.path.join(place, name) for place, _, names in os.walk(store.path) for name in names]
    assert info.bytes == sum(map(os.path.getsize, files))


def test_streams_come_by_name_with_their_counts(store: EventStore, clock: Clock) -> None:
    expected: dict[str, StreamInfo] = {}
    for number in range(60):
        clock.us += 1
        name = f"{'zyx'[number % 3]}-{number % 7}"
        version = store.append(name, [new(number)]).last_version
        expected[name] = StreamInfo(name, version, 1, version, clock.us)
    assert list(store.streams()) == [expected[name] for name in sorted(expected)]
    for info in store.streams():
        assert info.last_time == EPOCH + timedelta(microseconds=info.last_time_us)
        assert store.stream_version(info.stream) == info.last_version
        assert info.name == info.stream


FILTERS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["a", "a-1", "a-2", "ab-1", "b-a-1", "é-1"]),
    ({"category": "a"}, ["a", "a-1", "a-2"]),
    ({"category": "b"}, ["b-a-1"]),
    ({"category": ""}, []),
    ({"prefix": "a"}, ["a", "a-1", "a-2", "ab-1"]),
    ({"prefix": "a-"}, ["a-1", "a-2"]),
    ({"prefix": ""}, ["a", "a-1", "a-2", "ab-1", "b-a-1", "é-1"]),
    ({"category": "a", "prefix": "a-2"}, ["a-2"]),
    ({"category": "a", "prefix": "ab"}, []),
]


@pytest.mark.parametrize(("arguments", "names"), FILTERS, ids=str)
def test_streams_of_a_category_or_with_a_prefix(
    store: EventStore, arguments: dict[str, Any], names: list[str]
) -> None:
    for name in ("b-a-1", "é-1", "a-2", "ab-1", "a", "a-1"):
        store.append(name, [new(), new()])
    assert [info.stream for info in store.streams(**arguments)] == names


@pytest.mark.parametrize("compacted", [False, True])
def test_streams_of_a_category_are_the_same_as_among_all(store: EventStore, compacted: bool) -> None:
    choice = random.Random(1).choice
    names = [f"{category}{rest}" for category in ("a", "b", "bc", "é") for rest in ("", "-1", "-2", "-1-x")]
    for number in range(120):
        store.append(choice([*names, *[f"many-{number % 4}"] * 20]), [new(number)])
    if compacted:
        store.set_retention(category="b", max_count=1)
        store.set_retention("a-1", max_count=2)
        store.delete_stream("é-1")
        store.compact()
        store.append("bc-1", [new()])
    for system in (False, True):
        among: dict[str, Any] = {"include_deleted": True, "include_system": system}
        every = list(store.streams(**among))
        for prefix in {info.stream[:length] for info in every for length in range(9)}:
            expected = [info for info in every if info.stream.startswith(prefix)]
            assert list(store.streams(prefix=prefix, **among)) == expected
        for category in {info.stream.partition("-")[0] for info in every}:
            expected = [info for info in every if info.stream.partition("-")[0] == category]
            assert list(store.streams(category=category, **among)) == expected


@pytest.mark.exact_hashes
@pytest.mark.parametrize("arguments", [{"category": "few"}, {"prefix": "few-"}], ids=str)
def test_only_records_of_a_category_are_read_for_its_streams(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]
) -> None:
    fill(store, 60)
    store.append("few-1", [new()])
    read: list[int] = []
    records = Segment.records

    def counting(segment: Segment, numbers: Sequence[int]) -> Any:
        read.append(len(numbers))
        return records(segment, numbers)

    monkeypatch.setattr(Segment, "records", counting)
    assert [info.stream for info in store.streams(**arguments)] == ["few-1"]
    assert sum(read) == 1


@pytest.mark.parametrize("compacted", [False, True])
def test_listing_streams_does_not_keep_an_event_of_each(store: EventStore, compacted: bool) -> None:
    data = bytes(1 << 16)
    for number in range(400):
        for _ in range(1 + (number == 0)):
            store.append(f"s-{number}", [NewEvent("T", data, content_type="binary")])
    if compacted:
        store.set_retention("s-0", max_count=1)
        store.compact()
    with evlog.open(store.path) as other:
        tracemalloc.start()
        try:
            assert sum(1 for _ in other.streams()) == 400
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 200 * len(data), peak


def compacted(store: EventStore) -> int:
    """Leave some streams one event and others none; return how many there are."""
    for number in range(40):
        store.append(f"s-{number % 13}", [new(number)])
        store.append(f"t-{number % 7}", [new(number + 100)])
    store.set_retention(category="s", max_count=1)
    for stream in ("t-1", "t-2"):
        store.set_retention(stream, before=7)
    store.compact()
    store.append("t-2", [new(300)])
    store.set_retention("t-2", before=8)
    store.compact()
    return 20


@pytest.mark.exact_hashes
def test_streams_are_counted_after_a_compaction_without_reading_an_event_of_each(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = compacted(store)
    monkeypatch.setattr("evlog.files.log.catalog.all_streams", None)
    assert store.info().streams == count


def test_streams_are_counted_after_a_compaction_whatever_the_hashes_of_their_names(
    store: EventStore,
) -> None:
    count = compacted(store)
    assert store.info().streams == count == len(list(store.streams(include_deleted=True)))


@pytest.mark.parametrize("suffix", ["streams", "offsets", "types", "ids"])
@pytest.mark.parametrize("damage", [b"", b"junk" * 100, None])
def test_damaged_or_missing_index_changes_no_answer(
    store: EventStore, suffix: str, damage: bytes | None
) -> None:
    fill(store, 30)
    with evlog.open(store.path) as whole:
        streams, info = list(whole.streams()), whole.info()
    for path in segment_files(store, suffix):
        if damage is None:
            path.unlink()
        else:
            path.write_bytes(damage)
    with evlog.open(store.path) as other:
        assert list(other.streams()) == streams
        assert other.info()._replace(bytes=0) == info._replace(bytes=0)


def test_file_that_disappears_while_sizes_are_added_is_not_missed(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 10)
    before = store.info()
    temporary = Path(store.path, "segments", "x.1.tmp")
    real = os.scandir

    def scan_then_remove(path: str) -> Any:
        temporary.write_bytes(b"soon gone")
        entries = list(real(path))
        temporary.unlink()

        class Listing:
            def __enter__(self) -> Any:
                return iter(entries)

            def __exit__(self, *_: object) -> None:
                pass

        return Listing()

    monkeypatch.setattr(os, "scandir", scan_then_remove)
    assert store.info() == before
