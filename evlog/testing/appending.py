"""An append: its results, expected versions, duplicates, several streams, many writers."""

from __future__ import annotations

import threading
from enum import Enum
from functools import partial
from typing import Any
from uuid import UUID

import pytest

import evlog
from evlog import ANY, NO_STREAM, STREAM_EXISTS, EventStore, NewEvent, NewEvents
from evlog.model.encoding import encode_events
from evlog.testing.base import EngineTests, OpenStore, in_threads, new, numbers


class Names(str, Enum):  # noqa: UP042 - unlike those of a StrEnum, its members do not format as their text
    """Names of each kind."""

    STREAM = "order-1"
    CATEGORY = "order"
    TYPE = "Paid"
    TAG = "vip"


class AppendTests(EngineTests):
    """What an append does."""

    def test_an_event_comes_back_as_it_was_appended(self, store: EventStore, other: EventStore) -> None:
        metadata = {"$correlationId": "c", "é": [1, None]}
        events = [
            NewEvent("J", b'{"b":1,"a":1.0e3,"b":2,"n":1e400}', metadata=metadata),
            NewEvent("T", "line\nline\x00", content_type="text"),
            NewEvent("B", bytes(range(256)), content_type="binary"),
        ]
        result = store.append("s-1", events)
        json, text, binary = other.read("s-1")
        assert (json.data, json.metadata, json.content_type) == (events[0].data, metadata, "json")
        assert (text.data, text.content_type) == (b"line\nline\x00", "text")
        assert (binary.data, binary.content_type) == (events[2].data, "binary")
        assert (json.id, text.id, binary.id) == result.ids
        assert json.time <= text.time <= binary.time
        assert json.metadata_bytes == b'{"$correlationId":"c","\xc3\xa9":[1,null]}'

    def test_members_of_an_enum_are_names_by_their_text(self, store: EventStore, other: EventStore) -> None:
        store.append(Names.STREAM, [NewEvent(Names.TYPE, 1, tags=[Names.TAG], metadata={"m": Names.TAG})])
        store.append_many([(Names.STREAM, [NewEvent(Names.TYPE, 2, tags=[Names.TAG])] * 20)])
        store.append("order-1", [NewEvent("Paid", 3, tags=["vip"])], expected=21)
        for reader in (store, other):
            assert len(list(reader.read(Names.STREAM, types=[Names.TYPE], tags=[Names.TAG]))) == 22
            assert len(list(reader.read_all(category=Names.CATEGORY, tags=[Names.TAG]))) == 22
            assert len(list(reader.read_all(metadata={"m": Names.TAG}))) == 1
            assert reader.stream_version(Names.STREAM) == 22
            assert [info.stream for info in reader.streams(category=Names.CATEGORY)] == ["order-1"]
        if store.capabilities.retention:
            store.set_retention(Names.STREAM, max_count=1)
            store.set_retention(category=Names.CATEGORY, max_count=5)
            assert other.retention("order-1").max_count == 1
            assert other.retention(category="order").max_count == 5
            assert numbers(other.read("order-1")) == [3]

    def test_positions_and_versions_count_from_one_and_rise(
        self, store: EventStore, other: EventStore
    ) -> None:
        first = store.append("a", [new(0), new(1)])
        second = other.append("b", [new(2)])
        third = store.append("a", [new(3)])
        assert (first.first_version, first.last_version, first.duplicate) == (1, 2, False)
        assert (second.first_version, third.first_version) == (1, 3)
        assert 1 <= first.first_position < first.last_position < second.first_position < third.first_position
        assert store.head == third.last_position
        assert [store.stream_version(name) for name in ("a", "b", "c")] == [3, 1, 0]

    def test_the_expected_version_decides(self, store: EventStore) -> None:
        store.append("a", [new(0), new(1)], NO_STREAM)
        expected: Any
        for expected in (NO_STREAM, 1, 3):
            with pytest.raises(evlog.WrongExpectedVersion) as caught:
                store.append("a", [new(2)], expected)
            assert (caught.value.stream, caught.value.actual) == ("a", 2)
            assert numbers(store.read_all()) == [0, 1]
        for version, expected in enumerate((2, STREAM_EXISTS, ANY), 3):
            assert store.append("a", [new(version)], expected).first_version == version

    def test_a_stream_that_is_not_there_has_version_zero(self, store: EventStore) -> None:
        for expected in (STREAM_EXISTS, 1):
            with pytest.raises(evlog.WrongExpectedVersion):
                store.append("a", [new(0)], expected)
        assert store.append("a", [new(0)], 0).first_version == 1

    def test_a_writer_decides_with_what_others_have_appended(
        self, store: EventStore, other: EventStore
    ) -> None:
        """Also where it remembers its last append."""
        store.append("a", [new(0)])
        other.append("a", [new(1)])
        assert store.append("a", [new(2)], 2).first_version == 3
        other.append("a", [new(3)])
        for expected in (2, 3):
            with pytest.raises(evlog.WrongExpectedVersion) as caught:
                store.append("a", [new(4)], expected)
            assert caught.value.actual == 4

    def test_a_retry_is_a_duplicate_with_the_first_result(self, store: EventStore, other: EventStore) -> None:
        events = [new(0, id=UUID(int=1)), new(1, id=UUID(int=2))]
        first = store.append("a", events, NO_STREAM)
        store.append("a", [new(2)])
        again = other.append("a", events, NO_STREAM)  # before the version is compared
        assert again.duplicate
        assert (again.first_position, again.last_version) == (first.first_position, 2)
        assert numbers(store.read("a")) == [0, 1, 2]

    def test_a_known_id_with_other_content_is_a_conflict(self, store: EventStore) -> None:
        store.append("a", [new(0, id=UUID(int=1))])
        for stream, event in (
            ("b", new(0, id=UUID(int=1))),
            ("a", new(1, id=UUID(int=1))),
            ("a", new(0, "U", id=UUID(int=1))),
            ("a", NewEvent("T", "0", id=UUID(int=1), content_type="text")),
        ):
            with pytest.raises(evlog.IdConflict):
                store.append(stream, [event])
            assert store.head == 1

    def test_a_batch_of_which_a_part_is_known_is_a_conflict_or_is_skipped(self, store: EventStore) -> None:
        store.append("a", [new(0, id=UUID(int=1))])
        events = [new(0, id=UUID(int=1)), new(1, id=UUID(int=2))]
        with pytest.raises(evlog.IdConflict):
            store.append("a", events)
        result = store.append_encoded(["a", "a"], encode_events(events), skip_known=True)
        assert list(result.duplicates) == [True, False]
        assert list(result.versions) == [1, 2]
        appends = [("a", [*events, new(2, id=UUID(int=3))]), ("b", [new(3, id=UUID(int=4))])]
        with pytest.raises(evlog.IdConflict):
            store.append_many(appends)
        for again in (False, True):
            both = store.append_many(appends, skip_known=True)
            assert [(each.last_version, each.duplicate) for each in both] == [(3, again), (1, again)]
        columns = NewEvents("b", "T", [b"3", b"4"], ids=[UUID(int=4), UUID(int=5)])
        assert [each.duplicate for each in store.append_many(columns, skip_known=True)] == [True, False]
        grown = store.append_many([("a", [new(5, id=UUID(int=6)), events[0]])], skip_known=True)[0]
        assert (grown.first_version, grown.last_version, grown.duplicate) == (1, 4, False)
        assert grown.last_position == store.head
        with pytest.raises(evlog.IdConflict):
            store.append_many([("b", [new(9, id=UUID(int=4))])], skip_known=True)
        with pytest.raises(evlog.InvalidArgument, match="expected versions"):
            store.append_many([("b", [new(5)], 2)], skip_known=True)
        assert numbers(store.read_all()) == [0, 1, 2, 3, 4, 5]

    def test_a_bulk_load_is_stored_and_known_again_as_a_whole(self, store: EventStore) -> None:
        events = [NewEvent(f"T{n % 2}", b'{"n":%d}' % n, id=UUID(int=n + 1).bytes) for n in range(20)]
        first = store.append("a", events, NO_STREAM)
        assert (first.first_version, first.last_version, first.duplicate) == (1, 20, False)
        assert [(event.type, event.data, event.id_bytes) for event in store.read("a")] == [
            (event.type, event.data, event.id) for event in events
        ]
        again = store.append("a", events, NO_STREAM)
        assert again[:5] == first[:5]
        assert (again.duplicate, again.ids, store.head) == (True, first.ids, first.last_position)
        events[13] = NewEvent("T1", b"{}", id=events[13].id)
        with pytest.raises(evlog.IdConflict):
            store.append("a", events)
        events[13] = NewEvent("T1", b"{}", id=UUID(int=99).bytes)
        with pytest.raises(evlog.IdConflict):
            store.append("a", events)
        assert store.append_encoded(["a"] * 20, encode_events(events), skip_known=True).appended == 1
        assert [event.data for event in store.read("a", from_version=20)] == [b'{"n":19}', b"{}"]

    def test_an_id_given_twice_in_one_append_is_refused(self, store: EventStore) -> None:
        with pytest.raises(evlog.InvalidArgument):
            store.append("a", [new(0, id=UUID(int=1)), new(1, id=UUID(int=1))])
        with pytest.raises(evlog.InvalidEvent, match="idempotency key 'k'"):
            store.append("a", [new(0, idempotency_key="k"), new(1), new(0, idempotency_key="k")])
        assert store.head == 0

    def test_several_streams_are_appended_all_or_not_at_all(self, store: EventStore) -> None:
        first, second = store.append_many([("a", [new(0), new(1)], NO_STREAM), ("b", [new(2)])])
        assert (first.last_version, second.first_version) == (2, 1)
        with pytest.raises(evlog.WrongExpectedVersion):
            store.append_many([("a", [new(3)]), ("b", [new(4)], 5)])
        assert numbers(store.read_all()) == [0, 1, 2]
        third, fourth = store.append_many([("a", [new(3)], 2), ("a", [new(4)], 3)])  # one after the other
        assert (third.first_version, fourth.first_version) == (3, 4)

    def test_columns_are_appended_as_their_events(self, store: EventStore) -> None:
        streams, ids = ["a", "b"] * 10, [UUID(int=n + 1).bytes for n in range(20)]
        data = [b'{"n":%d}' % n for n in range(20)]
        for again in (False, True):
            results = store.append_many(NewEvents(streams, "T", data, ids=ids))
            assert [(each.stream, each.first_version, each.ids[0].bytes) for each in results] == [
                (streams[n], n // 2 + 1, ids[n]) for n in range(20)
            ]
            assert {each.duplicate for each in results} == {again}
        for column in (
            {"metadata": [{"n": n} for n in range(3)]},
            {"tags": [["t"], None, ()]},
            {"ids": None},
        ):
            store.append_many(NewEvents("c", ("T", "U", "V"), [0, None, "x"], **column))
        stored = [(event.type, event.json(), event.metadata, event.tags) for event in store.read("c")]
        rows = [("T", 0), ("U", {}), ("V", "x")]
        assert stored == [
            *((*row, {"n": n}, ()) for n, row in enumerate(rows)),
            *((*row, {}, ("t",) * (n == 0)) for n, row in enumerate(rows)),
            *((*row, {}, ()) for row in rows),
        ]
        assert [event.data for event in store.read_all(limit=20)] == data

    def test_nothing_of_columns_is_appended_if_one_event_is_bad(self, store: EventStore) -> None:
        ids = [UUID(int=n + 1).bytes for n in range(20)]
        with pytest.raises(evlog.InvalidEvent) as caught:
            store.append_many(NewEvents("a", "T", [b"{}"] * 17 + [b"{", b"}", b"{}"], ids=ids))
        assert (caught.value.field, caught.value.index) == ("data", 17)
        with pytest.raises(evlog.InvalidStreamName):
            store.append_many(NewEvents(["a"] * 19 + ["a\n"], "T", [b"{}"] * 20, ids=ids))
        assert store.head == 0

    def test_nothing_can_be_appended_that_is_nothing(self, store: EventStore) -> None:
        for call in (
            lambda: store.append("a", []),
            lambda: store.append_many([("a", [])]),
            lambda: store.append_many(NewEvents("a", "T", [])),
        ):
            with pytest.raises(evlog.InvalidArgument):
                call()

    def test_writers_that_expect_a_version_exclude_each_other(self, open_store: OpenStore) -> None:
        won: list[int] = []

        def work(me: int) -> None:
            with open_store() as store:
                for version in range(10):
                    try:
                        store.append("a", [new(me)], version)
                    except evlog.WrongExpectedVersion:
                        while store.stream_version("a") <= version:
                            pass
                    else:
                        won.append(version)

        in_threads(partial(work, me) for me in range(4))
        assert sorted(won) == list(range(10))
        with open_store() as store:
            assert [event.version for event in store.read("a")] == list(range(1, 11))

    def test_an_id_that_many_append_at_once_is_stored_once(self, open_store: OpenStore) -> None:
        results: list[Any] = []
        start = threading.Barrier(4)

        def work() -> None:
            with open_store() as store:
                start.wait()
                results.extend(store.append("a", [new(n, id=UUID(int=n + 1))]) for n in range(10))

        in_threads([work] * 4)
        with open_store() as store:
            assert sorted(numbers(store.read_all())) == list(range(10))
        assert sum(not result.duplicate for result in results) == 10
