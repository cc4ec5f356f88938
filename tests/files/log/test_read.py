"""Reading: every filter in both directions against a plain list, a steady view, constant memory."""

from __future__ import annotations

import itertools
import os
import re
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any

import pytest

import evlog
from evlog import Event, EventStore, NewEvent
from evlog.errors import CorruptionError, InvalidArgument, InvalidStreamName
from evlog.files.format.entries import ENTRY_BYTES
from evlog.model.filters import _microseconds
from tests.support.helpers import Clock, engine_of, facts, fill, new, numbers, segment_files, small_store

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_US = 1_700_000_000_000_000
STREAMS = ("order-1", "order-2", "order", "orders-1", "é-1")


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EventStore, list[Event]]]:
    """Four segments of frames of one to four events; types and streams of many shares; times that repeat."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time_ns", clock)
        store = small_store(tmp_path_factory.mktemp("history") / "store", segment_events=12, sync="none")
        number = 0
        for step in range(18):
            clock.us = FIRST_US + step // 2 * 10
            batch = []
            for _ in range(step % 4 + 1):
                type = "Rare" if number in (3, 30) else ("A", "B")[number % 2]
                batch.append((STREAMS[number * number % 5], [new(number, type)]))
                number += 1
            store.append_many(batch)
    events = list(store.read_all())
    assert numbers(events) == list(range(number))
    assert store.info().segments == 4
    yield store, events
    store.close()


def at(us: int | None) -> datetime | None:
    return None if us is None else EPOCH + timedelta(microseconds=us)


def expected(
    events: list[Event], keep: Callable[[Event], bool], reverse: bool, limit: int | None
) -> list[Event]:
    found = [event for event in events if keep(event)]
    return (found[::-1] if reverse else found)[:limit]


RANGES: list[tuple[int, int | None]] = [
    (0, None),
    (0, 0),
    (5, None),
    (11, 12),
    (12, 30),
    (40, 41),
    (50, None),
    (9, 4),
]
TIMES: list[tuple[int | None, int | None]] = [
    (None, None),
    (FIRST_US + 20, None),
    (None, FIRST_US + 20),
    (FIRST_US + 15, FIRST_US + 45),
    (FIRST_US + 20, FIRST_US + 20),
    (FIRST_US + 10**9, FIRST_US),
    (0, FIRST_US + 1),
]
TYPES: list[list[str] | None] = [None, ["A"], ["Rare"], ["Rare", "B"], ["Missing"], []]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("category", [None, "order", "é", "orde"])
@pytest.mark.parametrize("types", TYPES, ids=str)
def test_read_all_is_the_filter_of_the_whole_list(
    history: tuple[EventStore, list[Event]], types: list[str] | None, category: str | None, reverse: bool
) -> None:
    store, events = history
    for (after, to), (since, until), limit in itertools.product(RANGES, TIMES, (None, 0, 7)):

        def keep(
            event: Event,
            after: int = after,
            to: int | None = to,
            since: int | None = since,
            until: int | None = until,
        ) -> bool:
            return (
                event.position > after
                and (to is None or event.position <= to)
                and (since is None or event.time_us >= since)
                and (until is None or event.time_us < until)
                and (types is None or event.type in types)
                and (category is None or event.stream.split("-")[0] == category)
            )

        found = store.read_all(
            after,
            to,
            category=category,
            types=types,
            since=at(since),
            until=at(until),
            reverse=reverse,
            limit=limit,
        )
        assert list(found) == expected(events, keep, reverse, limit)


VERSIONS: list[tuple[int, int | None]] = [
    (0, None), (1, None), (1, 1), (2, 5), (3, 3), (5, 2), (4, 1000), (1000, None), (1, 0),
]  # fmt: skip


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("stream", [*STREAMS, "missing", "$reserved"])
def test_read_of_a_stream_is_the_filter_of_the_whole_list(
    history: tuple[EventStore, list[Event]], stream: str, reverse: bool
) -> None:
    store, events = history
    for (first, last), (since, until), types, limit in itertools.product(
        VERSIONS, TIMES, TYPES, (None, 0, 2)
    ):

        def keep(
            event: Event,
            first: int = first,
            last: int | None = last,
            since: int | None = since,
            until: int | None = until,
            types: list[str] | None = types,
        ) -> bool:
            return (
                event.stream == stream
                and event.version >= first
                and (last is None or event.version <= last)
                and (since is None or event.time_us >= since)
                and (until is None or event.time_us < until)
                and (types is None or event.type in types)
            )

        found = store.read(
            stream, first, last, types=types, since=at(since), until=at(until), reverse=reverse, limit=limit
        )
        assert list(found) == expected(events, keep, reverse, limit)


def test_every_event_of_a_large_frame_is_read_one_by_one(
    history: tuple[EventStore, list[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, events = history
    monkeypatch.setattr("evlog.files.log.segment._WHOLE_BODY_BYTES", 150)  # frames of more than two events
    monkeypatch.setattr("evlog.files.log.segment.RECORDS_AT_ONCE", 2)
    for after, to in itertools.product(range(0, 45, 3), range(0, 45, 4)):
        assert list(store.read_all(after, to)) == events[after:to]
        assert list(store.read_all(after, to, reverse=True)) == events[after:to][::-1]


# --- arguments


@pytest.mark.parametrize("bad", [{"after": -1}, {"to": -1}, {"limit": -1}, {"limit": 10**30}], ids=str)
def test_senseless_bounds_of_read_all_are_refused(store: EventStore, bad: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument):
        store.read_all(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad", [{"from_version": -1}, {"to_version": -1}, {"limit": -1}, {"limit": 10**30}], ids=str
)
def test_senseless_bounds_of_read_are_refused(store: EventStore, bad: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument):
        store.read("s", **bad)  # type: ignore[arg-type]


def test_arguments_are_checked_before_the_first_event_is_asked_for(store: EventStore) -> None:
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 - that is the point
    for arguments in ({"since": naive}, {"until": naive}, {"types": "T"}):
        with pytest.raises(InvalidArgument):
            store.read_all(**arguments)
        with pytest.raises(InvalidArgument):
            store.read("s", **arguments)


@pytest.mark.parametrize("name", ["\udcff", "", None, 5, b"s", "a\nb"], ids=repr)
def test_name_that_no_stream_can_have_is_refused(store: EventStore, name: Any) -> None:
    with pytest.raises(InvalidStreamName):
        store.read(name)
    with pytest.raises(InvalidStreamName):
        store.stream_version(name)
    with pytest.raises(InvalidArgument):
        store.read_all(types=[name])


class Summer(tzinfo):
    """A zone with summer time, as zoneinfo's are: one object, two offsets."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(hours=2 if moment is not None and 3 < moment.month < 11 else 1)

    def dst(self, moment: datetime | None) -> timedelta:
        return self.utcoffset(moment) - timedelta(hours=1)

    def tzname(self, moment: datetime | None) -> str:
        return "Summer"


@pytest.mark.parametrize("zone", [UTC, Summer(), timezone(timedelta(hours=-7, minutes=-30))])
@pytest.mark.parametrize("month", [1, 7])
def test_moment_is_the_same_in_every_zone(zone: tzinfo, month: int) -> None:
    moment = datetime(2026, month, 1, 12, 30, 15, 123456, tzinfo=UTC)
    us = round(moment.timestamp()) * 1_000_000 + 123456
    assert _microseconds(moment.astimezone(zone)) == us
    assert _microseconds(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == -1


# --- a steady view


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("way", ["all", "stream"])
def test_read_sees_the_log_as_it_was_when_it_began(store: EventStore, way: str, reverse: bool) -> None:
    fill(store, 20, streams=1)
    events = store.read_all(reverse=reverse) if way == "all" else store.read("s-0", reverse=reverse)
    seen = [next(events)]
    for number in range(20, 60):
        store.append("s-0", [new(number)])
        seen += itertools.islice(events, 1)
    seen += events
    assert numbers(seen) == (list(range(20))[::-1] if reverse else list(range(20)))
    assert len(list(store.read_all())) == 60


def test_reads_under_way_go_on_after_the_store_is_closed(store: EventStore) -> None:
    fill(store, 30)
    whole, stream = store.read_all(), store.read("s-1")
    next(whole), next(stream)
    store.close()
    assert numbers(whole) == list(range(1, 30))
    assert numbers(stream) == list(range(4, 30, 3))


def test_two_reads_do_not_disturb_each_other(store: EventStore) -> None:
    fill(store, 30)
    reads = [store.read_all(), store.read_all(reverse=True), store.read("s-0"), store.read_all(types=["T1"])]
    rows = [numbers(filter(None, column)) for column in zip(*itertools.zip_longest(*reads), strict=True)]
    assert rows == [list(range(30)), list(range(30))[::-1], list(range(0, 30, 3)), list(range(1, 30, 2))]


def test_reader_follows_a_writer_in_another_object(store: EventStore) -> None:
    with evlog.open(store.path) as reader:
        for number in range(40):
            store.append(f"s-{number % 3}", [new(number)])
            assert reader.head == number + 1
            assert numbers(reader.read_all(after=number)) == [number]
            assert reader.stream_version(f"s-{number % 3}") == number // 3 + 1
            assert len(list(reader.read(f"s-{number % 3}"))) == number // 3 + 1


def test_reading_creates_and_changes_no_file(store: EventStore) -> None:
    fill(store, 30)
    store.close()
    before = _tree(store.path)
    with evlog.open(store.path) as reader:
        assert len(list(reader.read_all())) == 30
        assert len(list(reader.read("s-0"))) == 10
        assert len(list(reader.streams())) == 3
        assert reader.info().events == 30
    assert _tree(store.path) == before


def _tree(path: str) -> dict[str, tuple[int, int, bytes]]:
    files = [os.path.join(directory, name) for directory, _, names in os.walk(path) for name in names]
    return {
        name: (os.stat(name).st_ino, os.stat(name).st_mtime_ns, Path(name).read_bytes()) for name in files
    }


# --- memory


def test_reading_takes_the_same_memory_for_any_log(memory_path: Path) -> None:
    with small_store(
        memory_path / "store", sync="none", segment_bytes=3 << 20, segment_events=1 << 20
    ) as store:
        for frame in range(90):
            size = 300 if frame == 50 else 3  # one frame of 30 MB among those of 300 KB
            store.append(f"s-{frame % 3}", [NewEvent("T", bytes(100_000), content_type="binary")] * size)
    reads: list[tuple[int, Callable[[EventStore], Iterator[Event]]]] = [
        (567, lambda store: store.read_all()),
        (567, lambda store: store.read_all(reverse=True)),
        (387, lambda store: store.read("s-2")),
        (567, lambda store: store.read_all(types=["T"])),
        (567, lambda store: store.read_all(category="s")),
    ]
    for count, read in reads:
        with evlog.open(memory_path / "store") as store:
            tracemalloc.start()
            try:
                assert sum(1 for _ in read(store)) == count
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert peak < 12 << 20, (peak, read)  # of 57 MB in the log, 30 in one frame


def test_facts_name_every_event_once(history: tuple[EventStore, list[Event]]) -> None:
    store, events = history
    by_stream = [fact for name in STREAMS for fact in facts(store.read(name))]
    assert sorted(by_stream) == facts(events)


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "active"])
@pytest.mark.parametrize("wrong", [0, 1, 50, 0xFFFFFFFF])
def test_page_is_right_whatever_versions_the_entries_name(tmp_path: Path, sealed: bool, wrong: int) -> None:
    with small_store(tmp_path / "store", segment_events=100, sync="none") as writer:
        for _ in range(10):
            writer.append("long-1", [new(number) for number in range(10)])
        if sealed:
            writer.append("other-1", [new()])
    every = list(range(1, 101))
    for number in (0, 31, 49, 50, 51, 99):
        with evlog.open(tmp_path / "store") as store:
            log = engine_of(store)._log
            assert log is not None
            part = log.parts()[0]
            entries = bytearray(part.segment.entries)
            entries[number * ENTRY_BYTES + 36 : number * ENTRY_BYTES + 40] = wrong.to_bytes(4, "little")
            part.segment.entries = entries
            for first, last in ((1, 31), (31, 50), (50, None), (51, 52), (100, None), (101, None), (1, 99)):
                found = [event.version for event in store.read("long-1", first, last)]
                assert found == every[first - 1 : last], (number, first, last)
                back = store.read("long-1", first, last, reverse=True, limit=3)
                assert [event.version for event in back] == found[::-1][:3]


def test_every_page_of_a_stream_in_many_segments_is_right(tmp_path: Path) -> None:
    """Where it begins is found in growing steps; segments without the stream are among those looked at."""
    with small_store(tmp_path / "store", segment_events=7, sync="none") as store:
        for number in range(60):
            names = ["long-1"] * (number % 4) + ["other-1"] * (number % 3)
            store.append_many([(name, [new(number)]) for name in names or ["third-1"] * 9])
        assert store.info().segments > 20
        versions = [event.version for event in store.read("long-1")]
        assert versions == list(range(1, 91))
        for first in range(1, 92):
            for limit in (1, 5, 40):
                page = store.read("long-1", first, limit=limit)
                assert [event.version for event in page] == versions[first - 1 :][:limit]
                back = store.read("long-1", to_version=first, limit=limit, reverse=True)
                assert [event.version for event in back] == versions[:first][::-1][:limit]
            both = store.read("long-1", first, first + 30)
            assert [event.version for event in both] == versions[first - 1 : first + 30]


@pytest.mark.parametrize("reverse", [False, True])
def test_page_goes_on_after_a_compaction_has_merged_its_segments(tmp_path: Path, reverse: bool) -> None:
    with small_store(tmp_path / "store", segment_events=50, sync="none") as store:
        for _ in range(16):
            store.append_many([("long-1", [new()] * 10), ("short-1", [new()] * 40)])
        wanted = list(range(11, 151))[:: -1 if reverse else 1]
        store.set_retention("short-1", max_count=1)
        others = [evlog.open(store.path) for _ in range(8)]  # each has opened what it has read
        reads = [other.read("long-1", 11, 150, reverse=reverse) for other in others]
        seen = [[next(read).version for _ in range(19 * at + 1)] for at, read in enumerate(reads)]
        with evlog.open(tmp_path / "store") as other:
            assert other.compact().segments_after < 10
        for begun, read in zip(seen, reads, strict=True):
            assert begun + [event.version for event in read] == wanted


def test_search_finds_what_is_in_frames_of_any_size_and_passes_no_damage(tmp_path: Path) -> None:
    sizes = (1, 2, 40, 1, 15, 16, 17, 300, 3)
    with small_store(tmp_path / "store", segment_events=200, sync="none") as store:
        number = 0
        for _ in range(3):
            for size in sizes:
                store.append_many([(f"s-{at % 5}", [new(number + at)]) for at in range(size)])
                number += size
        for text in ("7", "99", "1000", "10.*4$", "x"):
            for after, to in ((0, None), (33, 900), (399, 401)):
                wanted = [place for place in range(after, to or number) if re.search(text, str(place))]
                assert numbers(store.read_all(after, to, grep=text)) == wanted
                assert numbers(store.read_all(after, to, grep=text, reverse=True)) == wanted[::-1]
        log = segment_files(store, "log")[1]
        content = bytearray(log.read_bytes())
        content[len(content) // 2] ^= 1
        log.write_bytes(content)
    with evlog.open(tmp_path / "store") as store, pytest.raises(CorruptionError):
        list(store.read_all(grep="nowhere"))


@pytest.mark.exact_hashes  # else any damaged event may be a policy
@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "active"])
def test_a_damaged_event_hides_no_other_one_of_its_append(tmp_path: Path, sealed: bool) -> None:
    with small_store(tmp_path / "store", segment_events=20, sync="none") as store:
        store.append("s-1", [new(number) for number in range(20 if sealed else 19)])
        if sealed:
            store.append("s-1", [new(20)])
    with evlog.open(tmp_path / "store") as store:
        log = segment_files(store, "log")[0]
        content = bytearray(log.read_bytes())
        content[content.index(b"\x00\xc4\x017\xc0") + 3] ^= 1  # the data, 7
        with log.open("r+b") as file:  # the same file, which the store has open
            file.write(content)
        for position in range(1, 20):
            if position != 8:
                assert store.get(position).json() == position - 1
        with pytest.raises(CorruptionError):
            store.get(8)
        assert numbers(store.read_all(limit=7)) == list(range(7))
        assert numbers(store.read_all(8, 19, reverse=True, limit=11)) == list(range(18, 7, -1))
        found: list[Event] = []
        with pytest.raises(CorruptionError):
            found.extend(store.read_all(limit=10))
        assert numbers(found) == list(range(7))


def test_pages_of_the_log_are_right_in_frames_of_any_size(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_events=25, sync="none") as store:
        for number, count in enumerate((1, 1, 3, 40, 1, 1, 1, 60, 2, 1)):
            store.append(f"s-{number % 3}", [new(at) for at in range(count)])
        store.set_retention("s-1", max_count=1000)
        everything = list(store.read_all())
        for after in range(0, len(everything) + 2, 3):
            for limit in (1, 2, 10, 30, 100):
                assert list(store.read_all(after, limit=limit)) == everything[after:][:limit]
                back = list(store.read_all(to=after, reverse=True, limit=limit))
                assert back == everything[:after][::-1][:limit]
