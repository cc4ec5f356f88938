"""Reads of streams and of the log, filters, times, lists, the store in numbers, and its check."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from evlog import EventNotFound, EventStore, InvalidArgument
from evlog.testing.base import EngineTests, OpenStore, new, numbers


class ReadTests(EngineTests):
    """What a read gives."""

    def test_a_stream_is_read_by_version(self, filled: EventStore) -> None:
        assert numbers(filled.read("a-1")) == [1, 5, 9, 13, 17]
        assert numbers(filled.read("a-1", reverse=True)) == [17, 13, 9, 5, 1]
        assert numbers(filled.read("a-1", 2, 3)) == [5, 9]
        assert numbers(filled.read("a-1", 4, reverse=True, limit=1)) == [17]
        assert numbers(filled.read("a-1", limit=2)) == [1, 5]
        assert numbers(filled.read("a-1", limit=0)) == []
        assert numbers(filled.read("none")) == numbers(filled.read("a-1", 6)) == []
        assert [event.version for event in filled.read("b-0", 2, 4)] == [2, 3, 4]

    def test_the_log_is_read_by_position(self, filled: EventStore) -> None:
        positions = [event.position for event in filled.read_all()]
        assert positions == sorted(set(positions))
        assert numbers(filled.read_all()) == list(range(20))
        assert numbers(filled.read_all(reverse=True, limit=3)) == [19, 18, 17]
        assert numbers(filled.read_all(after=positions[4], to=positions[6])) == [5, 6]
        assert numbers(filled.read_all(after=positions[-1])) == []

    def test_filters_combine(self, filled: EventStore) -> None:
        assert numbers(filled.read_all(category="a")) == [n for n in range(20) if n % 4 < 2]
        assert numbers(filled.read_all(types=["U"])) == list(range(1, 20, 2))
        assert numbers(filled.read_all(category="b", types=["T", "none"], limit=2)) == [2, 6]
        assert numbers(filled.read("a-0", types=["U"])) == []
        assert numbers(filled.read_all(types=[])) == []
        for read in (filled.read_all, filled.streams):
            with pytest.raises(InvalidArgument, match="invalid category 'a-1'"):
                read(category="a-1")

    def test_times_bound_a_read(self, filled: EventStore) -> None:
        events = list(filled.read_all())
        middle = events[10].time
        assert [e for e in events if e.time >= middle] == list(filled.read_all(since=middle))
        assert [e for e in events if e.time < middle] == list(filled.read_all(until=middle))
        later = events[-1].time + timedelta(seconds=1)
        assert list(filled.read("a-0", since=later)) == list(filled.read_all(since=later)) == []

    def test_a_read_takes_what_is_there_when_it_is_called(self, store: EventStore) -> None:
        store.append("a", [new(0)])
        assert numbers(store.read_all()) == [0]
        store.append("a", [new(1)])
        assert numbers(store.read_all()) == numbers(store.read("a")) == [0, 1]

    def test_streams_are_listed_by_name(self, filled: EventStore) -> None:
        filled.append("ä", [new(20)])
        assert [info.stream for info in filled.streams()] == ["a-0", "a-1", "b-0", "b-1", "ä"]
        assert [info.stream for info in filled.streams(category="b")] == ["b-0", "b-1"]
        assert [info.stream for info in filled.streams(prefix="a")] == ["a-0", "a-1"]
        info = next(filled.streams(prefix="a-1"))
        assert (info.events, info.first_version, info.last_version) == (5, 1, 5)
        assert info.last_time == next(filled.read("a-1", reverse=True)).time

    def test_any_name_is_a_stream(self, store: EventStore) -> None:
        names = ["-", "--1", "-a", "a-", ".", "..", "a.b*>-2", " a", "a ", "%", "%2E-1", "a/b\\c", "'\"-1"]
        names += ["ü-\U0001f600", "\u00a0-1", "x" * 255, "y" * 100 + "-" + "z" * 154, "\U0001f600" * 63]
        for number, name in enumerate(names):
            store.append(name, [new(3 * number)])
            store.append(name, [new(3 * number + 1), new(3 * number + 2)])
        for number, name in enumerate(names):
            assert numbers(store.read(name)) == list(range(3 * number, 3 * number + 3))
            assert store.stream_version(name) == 3
            if category := name.partition("-")[0]:
                assert name in {event.stream for event in store.read_all(category=category)}
        assert [event.stream for event in store.read_all(limit=4)] == [*3 * names[:1], names[1]]
        assert {info.stream for info in store.streams()} == set(names)
        assert store.verify().ok

    def test_a_store_in_numbers(self, filled: EventStore, open_store: OpenStore) -> None:
        info = filled.info()
        assert (info.events, info.streams, info.last_position) == (20, 4, filled.head)
        assert info.id == filled.id
        with open_store() as again:
            assert again.id == filled.id
            assert not again.created
        assert filled.capabilities.engine

    def test_a_sound_store_verifies(self, filled: EventStore) -> None:
        report = filled.verify()
        assert report.ok
        assert (report.events, report.position) == (20, filled.head)

    def test_one_event_is_got_by_id_or_position(self, filled: EventStore) -> None:
        event = next(filled.read("b-0", 2))
        id = UUID(int=7)
        assert event.id == id
        for name in (id, str(id), id.hex, id.bytes, event.position):
            assert filled.get(name) == event
        for missing in (UUID(int=99), str(UUID(int=99)), 0, filled.head + 1):
            with pytest.raises(EventNotFound) as caught:
                filled.get(missing)
            assert not caught.value.removed
        for wrong in ("7f", b"7", -1):
            with pytest.raises(InvalidArgument):
                filled.get(wrong)

    def test_the_last_event_of_a_stream(self, filled: EventStore) -> None:
        last = filled.last("a-0")
        assert last == list(filled.read("a-0"))[-1]
        assert filled.last("none") is None
        if filled.capabilities.retention:
            filled.delete_stream("a-0")
            assert filled.last("a-0") is None
