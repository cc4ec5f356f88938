"""Retention and deletion as users see them: what is hidden, from which reads, and what stays the same."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

import evlog
from evlog import ANY, NO_STREAM, STREAM_EXISTS, EventStore, NewEvent, PolicyInfo, Retention
from evlog.errors import (
    InvalidArgument,
    InvalidStreamName,
    StreamNotFound,
    StreamTombstoned,
    WrongExpectedVersion,
)
from evlog.files.log.log import Log
from evlog.model.encoding import encode_events
from evlog.testing.base import in_threads
from tests.support.helpers import Clock, fill, new, number_id, numbers, small_store

SECOND = 1_000_000


def policy_events(store: EventStore, name: str) -> list[dict[str, Any]]:
    """Return the data of every event of a metadata stream, also of those that the last one hides."""
    return [event.json() for event in store.read_all(include_system=True) if event.stream == name]


# --- what is hidden


@pytest.fixture
def ten(store: EventStore) -> EventStore:
    """Ten events in stream s, over two segments; number and version are the same."""
    for number in range(1, 11):
        store.append("s", [new(number, id=number_id(number))])
    return store


def test_a_count_keeps_the_last_ones(ten: EventStore) -> None:
    assert ten.set_retention("s", max_count=3) == Retention(max_count=3)
    assert numbers(ten.read("s")) == [8, 9, 10]
    assert [event.version for event in ten.read("s")] == [8, 9, 10]
    ten.append("s", [new(11)])
    assert numbers(ten.read("s", reverse=True)) == [11, 10, 9]


def test_a_version_hides_those_below(ten: EventStore) -> None:
    ten.set_retention("s", before=5)
    assert numbers(ten.read("s")) == [5, 6, 7, 8, 9, 10]
    assert numbers(ten.read("s", 3, 6)) == [5, 6]
    assert numbers(ten.read("s", to_version=4)) == []
    ten.set_retention("s", before=1)
    assert len(numbers(ten.read("s"))) == 10


def test_age_hides_at_the_moment_of_the_read(store: EventStore, clock: Clock) -> None:
    for number in range(1, 11):
        store.append("s", [new(number)])
        clock.us += SECOND
    store.set_retention("s", max_age=3)
    assert numbers(store.read("s")) == [8, 9, 10]
    read = store.read("s")
    clock.us += SECOND
    assert numbers(read) == [9, 10]
    clock.us += 5 * SECOND
    assert numbers(store.read("s")) == []
    assert len(numbers(store.read_all())) == 10


def test_the_narrowest_word_counts(store: EventStore, clock: Clock) -> None:
    for number in range(1, 11):
        store.append("s", [new(number)])
        clock.us += SECOND
    store.set_retention("s", max_count=6, max_age=timedelta(seconds=8), before=4)
    assert numbers(store.read("s")) == [5, 6, 7, 8, 9, 10]
    clock.us += 4 * SECOND
    assert numbers(store.read("s")) == [7, 8, 9, 10]
    store.set_retention("s", before=9)
    assert numbers(store.read("s")) == [9, 10]


@pytest.mark.parametrize("count", [5, 100])
def test_reads_select_from_what_is_visible(memory_path: Any, count: int) -> None:
    """Over several segments, and with more events of the stream in each than are fetched at once."""
    with small_store(memory_path / "store", segment_events=count * 2) as store:
        for number in range(1, count * 4 + 1):
            store.append_many([("s", [new(number, f"T{number % 2}")]), ("other", [new(0)])])
        store.set_retention("s", max_count=count * 3)
        everything = list(range(count + 1, count * 4 + 1))
        assert numbers(store.read("s")) == everything
        assert numbers(store.read("s", reverse=True)) == everything[::-1]
        assert numbers(store.read("s", types={"T1"})) == [number for number in everything if number % 2]
        assert numbers(store.read("s", limit=2)) == everything[:2]
        assert numbers(store.read("s", count - 1, count + 2)) == everything[:2]
        assert numbers(store.read("s", reverse=True, to_version=count + 2)) == everything[1::-1]


def test_a_category_keeps_of_each_of_its_streams(store: EventStore) -> None:
    fill(store, 12)
    store.append("t-0", [new(1), new(2)])
    assert store.set_retention(category="s", max_count=1) == Retention(max_count=1)
    assert [numbers(store.read(f"s-{number}")) for number in range(3)] == [[9], [10], [11]]
    assert numbers(store.read("t-0")) == [1, 2]
    store.set_retention("s-1", max_count=2)
    assert [len(numbers(store.read(f"s-{number}"))) for number in range(3)] == [1, 2, 1]
    assert store.retention("s-0") == store.retention(category="s") == Retention(max_count=1)
    assert store.retention("s-1") == Retention(max_count=2)
    assert store.retention("t-0") == store.retention(category="t") == Retention()
    store.set_retention("s-1", clear=True)
    assert store.retention("s-1") == Retention(max_count=1)


def test_a_stream_can_have_a_policy_before_it_has_events(store: EventStore) -> None:
    store.set_retention("s", max_count=2)
    store.append("s", [new(number) for number in range(5)])
    assert numbers(store.read("s")) == [3, 4]


def test_every_reader_sees_the_policy_at_its_next_read(ten: EventStore) -> None:
    with evlog.open(ten.path) as other:
        assert len(numbers(other.read("s"))) == 10
        ten.set_retention("s", max_count=1)
        assert numbers(other.read("s")) == [10]
        other.set_retention("s", max_count=2)
        assert numbers(ten.read("s")) == [9, 10]


def test_a_read_counts_from_where_it_began(ten: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An append between the look at the last version and that at the segments shifts nothing."""
    ten.set_retention("s", max_count=2)
    look_up = Log.find_version

    def appending(log: Log, stream: str, stream_hash: int) -> int:
        version = look_up(log, stream, stream_hash)
        monkeypatch.setattr(Log, "find_version", look_up)
        ten.append("s", [new(11)])
        return version

    monkeypatch.setattr(Log, "find_version", appending)
    assert numbers(ten.read("s")) == [9, 10]
    assert numbers(ten.read("s")) == [10, 11]


def test_what_is_hidden_is_there_for_read_all(ten: EventStore) -> None:
    ten.set_retention("s", max_count=1)
    ten.delete_stream("s")
    assert numbers(ten.read_all()) == list(range(1, 11))
    assert numbers(ten.read_all(category="s", reverse=True, limit=1)) == [10]


def test_settings_add_up_until_they_are_cleared(store: EventStore) -> None:
    store.append("s", [new(1)])
    store.set_retention("s", max_count=5)
    store.set_retention("s", max_age=60)
    assert store.set_retention("s", before=2) == Retention(5, 60, 2)
    assert store.set_retention("s", max_count=6, clear=True) == Retention(6)
    assert store.set_retention("s", clear=True) == Retention()
    assert policy_events(store, "$$s") == [
        {"$maxCount": 5},
        {"$maxCount": 5, "$maxAge": 60},
        {"$maxCount": 5, "$maxAge": 60, "$tb": 2},
        {"$maxCount": 6},
        {},
    ]
    assert [event.json() for event in store.read("$$s")] == [{}]
    assert store.policies() == []


def test_setting_what_is_set_writes_nothing(store: EventStore) -> None:
    store.set_retention("s", max_count=5)
    head = store.head
    store.set_retention("s", max_count=5)
    store.set_retention("never-set", clear=True)
    assert store.head == head


def test_policies_are_listed_by_name(store: EventStore) -> None:
    store.append("b", [new(1)])
    store.set_retention(category="z", max_age=10)
    store.set_retention("c", max_count=1)
    store.delete_stream("b")
    assert store.policies() == [
        PolicyInfo("b", None, Retention(before=2, deleted=True)),
        PolicyInfo("c", None, Retention(max_count=1)),
        PolicyInfo(None, "z", Retention(max_age_seconds=10)),
    ]


def test_names_of_full_length_can_have_policies(store: EventStore) -> None:
    name = "x" * 255
    store.append(name, [new(1), new(2)])
    store.set_retention(name, max_count=1)
    store.set_retention(category=name, max_age=100)
    assert numbers(store.read(name)) == [2]
    assert store.stream_version("$$" + name) == store.stream_version("$$$ce-" + name) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"stream": "s"},
        {"stream": "s", "category": "s", "max_count": 1},
        {"max_count": 1},
        {"category": "s", "before": 2},
        {"category": "a-b", "max_count": 1},
        {"category": "", "max_count": 1},
        {"stream": "", "max_count": 1},
        {"stream": "$s", "max_count": 1},
        {"category": "$s", "max_count": 1},
        {"stream": "s", "max_count": 0},
        {"stream": "s", "max_count": True},
        {"stream": "s", "max_age": 0},
        {"stream": "s", "max_age": 1.5},
        {"stream": "s", "max_age": timedelta(milliseconds=1500)},
        {"stream": "s", "max_age": timedelta(days=-1)},
        {"stream": "s", "before": 0},
        {"stream": "s", "before": 12},
        {"stream": "new", "before": 2},
    ],
)
def test_what_makes_no_sense_is_refused(
    ten: EventStore, unchanged: Callable[[], None], arguments: dict[str, Any]
) -> None:
    unchanged()
    with pytest.raises(InvalidArgument):
        ten.set_retention(**arguments)


# --- deleting


def test_a_deleted_stream_is_empty_and_goes_on_with_its_versions(ten: EventStore) -> None:
    assert ten.delete_stream("s") == 10
    assert numbers(ten.read("s")) == []
    assert ten.retention("s") == Retention(before=11, deleted=True)
    assert not ten.has_stream("s")
    assert ten.stream_version("s") == 10
    result = ten.append("s", [new(11), new(12)])
    assert (result.first_version, result.last_version) == (11, 12)
    assert numbers(ten.read("s")) == [11, 12]
    assert ten.has_stream("s")
    assert ten.delete_stream("s") == 12
    assert policy_events(ten, "$$s") == [{"$deleted": 10}, {"$deleted": 12}]


@pytest.mark.parametrize("expected", [ANY, NO_STREAM, 10])
def test_a_deleted_stream_does_not_exist_and_has_its_last_version(ten: EventStore, expected: Any) -> None:
    """As KurrentDB takes an append after a soft delete."""
    ten.delete_stream("s")
    assert ten.append("s", [new(11)], expected=expected).first_version == 11


@pytest.mark.parametrize(("expected", "actual"), [(STREAM_EXISTS, 0), (9, 10), (11, 10), (1, 10)])
def test_a_deleted_stream_does_not_exist(ten: EventStore, expected: Any, actual: int) -> None:
    ten.delete_stream("s")
    with pytest.raises(WrongExpectedVersion) as caught:
        ten.append("s", [new(11)], expected=expected)
    assert (caught.value.expected, caught.value.actual) == (expected, actual)


def test_a_deleted_stream_exists_again_after_the_first_event_of_the_same_append(ten: EventStore) -> None:
    ten.delete_stream("s")
    with pytest.raises(WrongExpectedVersion) as caught:
        ten.append_many([("s", [new(11)], NO_STREAM), ("s", [new(12)], NO_STREAM)])
    assert caught.value.actual == 11
    ten.append_many([("s", [new(11)], NO_STREAM), ("s", [new(12)], STREAM_EXISTS), ("s", [new(13)], 12)])
    assert numbers(ten.read("s")) == [11, 12, 13]


def test_a_stream_whose_events_are_all_too_old_exists_still(store: EventStore, clock: Clock) -> None:
    store.append("s", [new(1)])
    store.set_retention("s", max_age=1)
    clock.us += 9 * SECOND
    assert numbers(store.read("s")) == []
    assert store.has_stream("s")
    with pytest.raises(WrongExpectedVersion):
        store.append("s", [new(2)], expected=NO_STREAM)
    store.append("s", [new(2)], expected=STREAM_EXISTS)


def test_another_writer_knows_of_the_deletion(ten: EventStore) -> None:
    with evlog.open(ten.path) as other:
        other.append("s", [new(11)], expected=10)
        ten.delete_stream("s", expected=11)
        with pytest.raises(WrongExpectedVersion):
            other.append("s", [new(12)], expected=STREAM_EXISTS)
        other.append("s", [new(12)], expected=NO_STREAM)
        ten.delete_stream("s", tombstone=True)
        with pytest.raises(StreamTombstoned):
            other.append("s", [new(13)])


def test_deleting_what_is_deleted_succeeds_and_writes_nothing(ten: EventStore) -> None:
    ten.delete_stream("s")
    head = ten.head
    assert [ten.delete_stream("s", expected=expected) for expected in (ANY, NO_STREAM, 10)] == [10, 10, 10]
    with pytest.raises(WrongExpectedVersion):
        ten.delete_stream("s", expected=STREAM_EXISTS)
    with pytest.raises(WrongExpectedVersion):
        ten.delete_stream("s", expected=9)
    assert ten.head == head


def test_deleting_expects_as_appending_does(ten: EventStore, unchanged: Callable[[], None]) -> None:
    unchanged()
    expected: Any
    for expected in (NO_STREAM, 9, 11):
        with pytest.raises(WrongExpectedVersion):
            ten.delete_stream("s", expected=expected)
    for expected in (ANY, NO_STREAM, STREAM_EXISTS, 5):
        with pytest.raises(StreamNotFound):
            ten.delete_stream("other", expected=expected)
    with pytest.raises(InvalidStreamName):
        ten.delete_stream("$$s")
    with pytest.raises(InvalidArgument):
        ten.delete_stream("s", expected=-1)


def test_hiding_all_events_does_not_delete_the_stream(ten: EventStore) -> None:
    assert ten.set_retention("s", before=11) == Retention(before=11)
    assert numbers(ten.read("s")) == []
    assert ten.has_stream("s")
    assert ten.info().deleted_streams == 0
    assert [info.stream for info in ten.streams()] == ["s"]
    with pytest.raises(WrongExpectedVersion):
        ten.append("s", [new(11)], expected=NO_STREAM)
    assert ten.append("s", [new(11)], expected=STREAM_EXISTS).first_version == 11
    assert numbers(ten.read("s")) == [11]


@pytest.mark.parametrize("settings", [{"before": 1}, {"before": 5}, {"max_count": 3}, {"max_age": 9}])
def test_only_clear_takes_a_deletion_back(ten: EventStore, settings: dict[str, Any]) -> None:
    ten.delete_stream("s")
    kept = ten.set_retention("s", **settings)
    assert (kept.before, kept.deleted) == (11, True)
    assert not ten.has_stream("s")
    assert numbers(ten.read("s")) == []
    ten.append("s", [new(11)], expected=NO_STREAM)
    ten.set_retention("s", before=1)
    assert numbers(ten.read("s")) == [11]
    assert not ten.set_retention("s", clear=True).deleted
    assert numbers(ten.read("s")) == list(range(1, 12))


def test_a_stream_that_is_hidden_can_be_deleted(ten: EventStore) -> None:
    ten.set_retention("s", before=11)
    assert ten.delete_stream("s") == 10
    assert not ten.has_stream("s")
    assert ten.info().deleted_streams == 1


def test_a_tombstone_is_for_ever(ten: EventStore) -> None:
    assert ten.delete_stream("s", tombstone=True) == 10
    assert ten.retention("s") == Retention(before=11, deleted=True, tombstone=True)
    assert numbers(ten.read("s")) == []
    head = ten.head
    for expected in (ANY, NO_STREAM, STREAM_EXISTS, 10):
        with pytest.raises(StreamTombstoned) as caught:
            ten.append("s", [new(11)], expected=expected)
        assert caught.value.stream == "s"
    for settings in ({"clear": True}, {"max_count": 5}, {"before": 1}):
        with pytest.raises(StreamTombstoned):
            ten.set_retention("s", **settings)
    assert ten.delete_stream("s") == ten.delete_stream("s", tombstone=True) == 10
    assert ten.head == head
    with evlog.open(ten.path) as fresh, pytest.raises(StreamTombstoned):
        fresh.append("s", [new(11)])


def test_a_deleted_stream_can_get_a_tombstone(ten: EventStore) -> None:
    ten.delete_stream("s")
    ten.delete_stream("s", tombstone=True)
    assert policy_events(ten, "$$s") == [{"$deleted": 10}, {"$deleted": 10, "$tombstone": True}]


def test_a_name_that_was_never_used_gets_a_tombstone_only_where_that_is_expected(store: EventStore) -> None:
    with pytest.raises(StreamNotFound):
        store.delete_stream("typo", tombstone=True)
    assert store.delete_stream("reserved", tombstone=True, expected=NO_STREAM) == 0
    with pytest.raises(StreamTombstoned):
        store.append("reserved", [new(1)])
    assert store.info().deleted_streams == 0


def test_one_tombstone_refuses_an_append_to_several_streams(
    ten: EventStore, unchanged: Callable[[], None]
) -> None:
    ten.delete_stream("s", tombstone=True)
    unchanged()
    with pytest.raises(StreamTombstoned):
        ten.append_many([("a", [new(1)]), ("s", [new(2)])])
    with pytest.raises(StreamTombstoned):
        ten.append_encoded(["a", "s"], encode_events([new(1), new(2)]), skip_known=True)


def test_a_retry_of_what_was_hidden_since_is_a_duplicate(ten: EventStore) -> None:
    def retried() -> list[tuple[int, bool]]:
        results = [ten.append("s", [new(n, id=number_id(n))], expected=99) for n in (1, 10)]
        results += ten.append_many([("s", [new(5, id=number_id(5))])])
        return [(result.first_version, result.duplicate) for result in results]

    expected = [(1, True), (10, True), (5, True)]
    ten.set_retention("s", max_count=1)
    assert retried() == expected
    ten.delete_stream("s")
    assert retried() == expected
    ten.delete_stream("s", tombstone=True)
    assert retried() == expected
    known = encode_events([new(n, id=number_id(n)) for n in (1, 2)])
    assert ten.append_encoded(["s", "s"], known, skip_known=True).duplicates == [True, True]


def test_changes_at_the_same_time_are_all_made(store: EventStore) -> None:
    """Each sets a word of its own, from its own store object; none may undo another's."""
    store.append("s", [new(number) for number in range(9)])
    settings: list[dict[str, Any]] = [{"max_count": 5}, {"max_age": 500}, {"before": 3}]
    barrier = threading.Barrier(len(settings))

    def change(setting: dict[str, Any]) -> None:
        with evlog.open(store.path, sync="none") as own:
            barrier.wait()
            own.set_retention("s", **setting)

    for _ in range(5):
        store.set_retention("s", clear=True, max_count=9)
        in_threads(partial(change, setting) for setting in settings)
        assert store.retention("s") == Retention(5, 500, 3)


def test_appends_are_refused_once_a_tombstone_is_acknowledged(store: EventStore) -> None:
    store.append("s", [new(0)])
    gone = threading.Event()
    late: list[int] = []

    def append() -> None:
        with evlog.open(store.path, sync="none") as own:
            while True:
                was_gone = gone.is_set()
                try:
                    own.append("s", [new(1)])
                except StreamTombstoned:
                    return
                if was_gone:
                    late.append(1)
                    return

    threads = [threading.Thread(target=append) for _ in range(3)]
    for thread in threads:
        thread.start()
    with evlog.open(store.path) as own:
        own.delete_stream("s", tombstone=True)
        gone.set()
    for thread in threads:
        thread.join()
    assert not late
    assert numbers(store.read("s")) == []


# --- the store's own events


def test_the_stores_own_events_are_left_out_unless_asked_for(store: EventStore) -> None:
    fill(store, 3)
    store.set_retention("s-1", max_count=1)
    fill_more = [store.append("s-2", [new(10)]).last_position, store.append("s-2", [new(11)]).last_position]
    assert fill_more == [5, 6]
    assert [event.position for event in store.read_all()] == [1, 2, 3, 5, 6]
    assert [event.position for event in store.read_all(reverse=True)] == [6, 5, 3, 2, 1]
    assert [event.position for event in store.read_all(include_system=True)] == [1, 2, 3, 4, 5, 6]
    assert list(store.read_all(types={"$metadata"})) == []
    assert [event.stream for event in store.read_all(types={"$metadata"}, include_system=True)] == ["$$s-1"]
    assert list(store.read_all(category="$$s")) == []
    assert [e.position for e in store.read_all(category="$$s", include_system=True)] == [4]
    assert [event.json() for event in store.read("$$s-1")] == [{"$maxCount": 1}]
    assert [info.stream for info in store.streams()] == ["s-0", "s-1", "s-2"]
    assert [info.stream for info in store.streams(include_system=True)] == ["$$s-1", "s-0", "s-1", "s-2"]
    assert store.head == 6


def test_users_cannot_append_to_the_stores_own_streams(store: EventStore) -> None:
    store.set_retention("s", max_count=1)
    for name in ("$$s", "$compactions", "$$$ce-s"):
        with pytest.raises(InvalidStreamName):
            store.append(name, [NewEvent("$metadata", {})])
        with pytest.raises(InvalidStreamName):
            store.append_many([("s", [new(1)]), (name, [new(1)], 1)])
    assert store.head == 1


def test_a_policy_is_one_event_of_json(store: EventStore) -> None:
    store.set_retention("s", max_count=1)
    (event,) = store.read("$$s")
    assert (event.type, event.content_type, event.version, event.metadata) == ("$metadata", "json", 1, {})
    assert event.data == json.dumps({"$maxCount": 1}, separators=(",", ":")).encode()
