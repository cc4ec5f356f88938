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
from evlog.files.format.hashes import hash_stream
from evlog.files.log import catalog
from evlog.files.log.segment import Segment
from tests.support.helpers import TWINS, Clock, fill, new, segment_files

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
@pytest.mark.parametrize("compacted", [False, True])
def test_streams_that_are_taken_in_many_pieces_are_the_same_and_each_piece_is_small(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, compacted: bool
) -> None:
    for number in range(600):
        store.append(f"{'ab'[number % 2]}-{number % 70}", [new(number)])
    if compacted:
        store.set_retention(category="a", max_count=2)
        store.set_retention("b-1", before=10)
        store.compact()
        store.append("b-1", [new()])
    filters: list[dict[str, Any]] = [{}, {"category": "a"}, {"prefix": "b-1"}]
    expected = [list(store.streams(**arguments)) for arguments in filters], store.info()
    sizes: list[int] = []
    find_ends = catalog.Look.find_ends

    def sized(
        look: catalog.Look, low: int, high: int, *, first: bool
    ) -> tuple[Sequence[int], list[int], int]:
        found = find_ends(look, low, high, first=first)
        sizes.append(len(found[0]))
        return found

    monkeypatch.setattr(catalog.Look, "find_ends", sized)
    monkeypatch.setattr(catalog, "_LEAST_PIECE", 16)
    monkeypatch.setattr(catalog, "_SAMPLED", 3)
    assert ([list(store.streams(**arguments)) for arguments in filters], store.info()) == expected
    assert sizes
    assert max(sizes) < 8


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of events of each read from a log."""
    read: list[int] = []
    pieces = Segment.pieces

    def counting(segment: Segment, numbers: Sequence[int]) -> tuple[list[bytes], int]:
        found = pieces(segment, numbers)
        read.append(found[1])
        return found

    scan = Segment.scan

    def counting_scan(segment: Segment, first: int, end: int) -> Any:
        read.append(end - first)
        return scan(segment, first, end)

    monkeypatch.setattr(Segment, "pieces", counting)
    monkeypatch.setattr(Segment, "scan", counting_scan)
    return read


@pytest.mark.exact_hashes
@pytest.mark.parametrize("arguments", [{"category": "few"}, {"prefix": "few-"}], ids=str)
def test_only_records_of_a_category_are_read_for_its_streams(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]
) -> None:
    fill(store, 60)
    store.append("few-1", [new()])
    read = count_reads(monkeypatch)
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
    own = store.info().events
    read = count_reads(monkeypatch)
    assert store.info().streams == count
    assert sum(read) < own / 2  # the events of policies


@pytest.mark.exact_hashes
@pytest.mark.parametrize("order", ["in turns", "one after the other"])
@pytest.mark.parametrize("before", [{}, {0: 3}, {1: 4}, {0: 4}, {0: 4, 1: 2}, {0: 4, 1: 4}], ids=str)
def test_names_with_one_hash_are_counted_apart_and_no_others_event_by_event(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, order: str, before: dict[int, int]
) -> None:
    assert hash_stream(TWINS[0]) == hash_stream(TWINS[1])
    fill(store, 300, streams=30)
    for twin in [*sorted([0, 1] * 3), 1] if order == "one after the other" else [0, 1, 1, 0, 0, 1, 1]:
        store.append(TWINS[twin], [new()])
    store.append("again", [new()])
    store.set_retention("again", before=2)
    for twin, version in before.items():
        store.set_retention(TWINS[twin], before=version)
    store.compact()
    store.append("again", [new()])
    expected = {TWINS[0]: (3, 1, 3), TWINS[1]: (4, 1, 4)}
    for twin, first in before.items():
        last = expected[TWINS[twin]][2]
        expected[TWINS[twin]] = (last + 1 - first, first, last)
    read = count_reads(monkeypatch)
    assert store.info().streams == 33
    assert sum(read) < 30 or before == {1: 4}  # then the versions of one follow those of the other
    filters: list[dict[str, Any]] = [
        {},
        {"category": "c"},
        *({"prefix": text} for text in ("c-", "c", "c-5")),
    ]
    for arguments in filters:
        read.clear()
        found = {info.stream: info[1:4] for info in store.streams(**arguments, include_deleted=True)}
        assert sum(read) < 100
        assert {name: found.pop(name) for name in TWINS if name in found} == {
            name: counts for name, counts in expected.items() if name.startswith(arguments.get("prefix", ""))
        }
        assert list(found.values()) == ([] if arguments else [(1, 2, 2), *[(10, 1, 10)] * 30])


@pytest.mark.exact_hashes
def test_names_with_one_hash_do_not_hide_those_with_another_one(store: EventStore) -> None:
    """After a compaction one pair can seem to have as many events too few as another has too many."""
    first, trimmed = TWINS
    others = ("d-1020311", "d-1334400")
    assert hash_stream(others[0]) == hash_stream(others[1])
    for stream in (trimmed, trimmed, first, trimmed, others[0], others[1], others[0]):
        store.append(stream, [new()])
    store.set_retention(trimmed, before=3)
    store.compact()
    expected = {first: (1, 1, 1), trimmed: (1, 3, 3), others[0]: (2, 1, 2), others[1]: (1, 1, 1)}
    filters: list[dict[str, Any]] = [
        {},
        {"category": "c"},
        {"category": "d"},
        {"prefix": "c"},
        {"prefix": "d"},
    ]
    for arguments in filters:
        begin = next(iter(arguments.values()), "")
        assert {info.stream: info[1:4] for info in store.streams(**arguments)} == {
            name: counts for name, counts in expected.items() if name.startswith(begin)
        }


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
