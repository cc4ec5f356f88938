"""Appending: expected versions, deduplication, time, rolls, sizes; what is refused leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import evlog
from evlog import ANY, NO_STREAM, STREAM_EXISTS, EventStore, NewEvent
from evlog.errors import (
    EventTooLarge,
    IdConflict,
    InvalidArgument,
    InvalidEvent,
    InvalidStreamName,
    LockTimeout,
    WrongExpectedVersion,
)
from evlog.events import MAX_EVENT_BYTES, encode_events
from evlog.lock import FileLock
from tests.helpers import Clock, facts, fill, new, number_id, numbers, segment_files, small_store


@pytest.fixture
def unchanged(store: EventStore) -> Iterator[Callable[[], None]]:
    """Call it before something that is to be refused: at the end every byte of the log must be as it was."""
    before: list[Any] = []

    def remember() -> None:
        before.append(_content(store))

    yield remember
    assert before
    assert _content(store) == before[-1]


def _content(store: EventStore) -> Any:
    return [path.read_bytes() for path in segment_files(store, "log")], facts(store.read_all())


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


# --- the expected version

# existing versions of stream "s", expected, whether it is met
EXPECTATIONS: list[tuple[int, Any, bool]] = [
    (0, ANY, True), (1, ANY, True), (3, ANY, True),
    (0, NO_STREAM, True), (1, NO_STREAM, False), (3, NO_STREAM, False),
    (0, STREAM_EXISTS, False), (1, STREAM_EXISTS, True), (3, STREAM_EXISTS, True),
    (0, 1, False), (1, 1, True), (3, 1, False), (3, 3, True), (3, 4, False), (3, 2**40, False),
]  # fmt: skip


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(("existing", "expected", "met"), EXPECTATIONS)
def test_expected_version(
    store: EventStore, existing: int, expected: Any, met: bool, sealed: bool, reopened: bool
) -> None:
    if existing:
        store.append("s", [new(number) for number in range(existing)])
    if sealed:
        fill(store, 20)
    subject = small_store(store.path) if reopened else store
    before = _content(store)
    if met:
        assert subject.append("s", [new()], expected).first_version == existing + 1
        return
    with pytest.raises(WrongExpectedVersion) as caught:
        subject.append("s", [new()], expected)
    assert caught.value.attributes() == {"stream": "s", "expected": expected, "actual": existing}
    assert _content(store) == before


MANY: list[tuple[list[tuple[str, int, Any]], tuple[str, Any, int] | None]] = [
    # appends (stream, number of events, expected) to a store where "a" is at 2; what is refused
    ([("a", 1, 2), ("b", 1, 0)], None),
    ([("a", 2, 2), ("a", 1, 4)], None),
    ([("a", 1, 2), ("b", 2, 0), ("a", 1, 3), ("b", 1, 2)], None),
    ([("b", 1, 0), ("b", 1, "exists")], None),
    ([("a", 1, "any"), ("a", 1, 3)], None),
    ([("b", 1, "any"), ("b", 1, 0)], ("b", 0, 1)),
    ([("a", 1, 2), ("a", 1, 2)], ("a", 2, 3)),
    ([("a", 1, 2), ("b", 1, "exists")], ("b", "exists", 0)),
    ([("b", 1, 0), ("a", 1, 1)], ("a", 1, 2)),
    ([("a", 1, 0), ("b", 1, 5)], ("a", 0, 2)),
    ([("b", 1, "exists"), ("b", 1, "any")], ("b", "exists", 0)),
]


@pytest.mark.parametrize(("appends", "refused"), MANY)
def test_expected_versions_of_one_append_are_checked_in_order_and_together(
    store: EventStore, appends: list[tuple[str, int, Any]], refused: tuple[str, Any, int] | None
) -> None:
    store.append("a", [new(), new()])
    before = _content(store)
    batch = [(stream, [new()] * count, expected) for stream, count, expected in appends]
    if refused is None:
        store.append_many(batch)
        assert store.head == 2 + sum(count for _, count, _ in appends)
        return
    with pytest.raises(WrongExpectedVersion) as caught:
        store.append_many(batch)
    assert (caught.value.stream, caught.value.expected, caught.value.actual) == refused
    assert _content(store) == before


def test_expectation_of_an_import_is_of_the_time_before_it(store: EventStore) -> None:
    events = encode_events([new(), new()])
    store.append_encoded(["a", "a"], events, expected={"a": 0, "other": 0})
    with pytest.raises(WrongExpectedVersion):
        store.append_encoded(["a", "a"], events, expected={"a": 1})
    with pytest.raises(WrongExpectedVersion):
        store.append_encoded(["a"], events[:1], expected={"other": "exists"})


@pytest.mark.parametrize(
    "expected", [-1, "none", "", None, 1.0, True, False, b"any", "1", [], float("nan")], ids=repr
)
def test_expected_version_of_another_form_is_refused(store: EventStore, expected: Any) -> None:
    with pytest.raises(InvalidArgument):
        store.append("a", [new()], expected)
    assert store.head == 0


def test_another_writers_events_count(store: EventStore) -> None:
    with evlog.open(store.path) as other:
        for version in range(0, 40, 2):
            store.append("s", [new()], expected=version)
            other.append("s", [new()], expected=version + 1)
            with pytest.raises(WrongExpectedVersion):
                store.append("s", [new()], expected=version + 1)
    assert [event.version for event in store.read("s")] == list(range(1, 41))


# --- deduplication


@pytest.fixture(params=["active", "sealed", "reopened", "other writer"])
def known(request: pytest.FixtureRequest, store: EventStore) -> Iterator[EventStore]:
    """A store in which streams a and b have the ids 0..2 of one append, and 5 alone."""
    store.append_many(
        [("a", [new(0, id=number_id(0)), new(1, id=number_id(1))]), ("b", [new(2, id=number_id(2))])]
    )
    store.append("b", [new(5, id=number_id(5))])
    if request.param == "sealed":
        for number in range(100, 120):
            store.append("filler", [new(number, id=number_id(number))])
    if request.param in ("reopened", "other writer"):
        with evlog.open(store.path) as other:
            if request.param == "other writer":
                store.append("filler", [new()])
            yield other
    else:
        yield store


def test_retry_of_a_whole_append_is_a_success_that_writes_nothing(known: EventStore) -> None:
    before = _content(known)
    results = known.append_many(
        [("a", [new(0, id=number_id(0)), new(1, id=number_id(1))], 0), ("b", [new(2, id=number_id(2))], 0)]
    )
    assert [result[:6] for result in results] == [("a", 1, 2, 1, 2, True), ("b", 3, 3, 1, 1, True)]
    assert known.append("a", [new(1, id=number_id(1))], expected=77)[1:6] == (2, 2, 2, 2, True)
    assert _content(known) == before


def test_retry_of_parts_of_several_appends_is_a_duplicate_too(known: EventStore) -> None:
    result = known.append("b", [new(2, id=number_id(2)), new(5, id=number_id(5))])
    assert result[1:6] == (3, 4, 1, 2, True)


OTHER_CONTENT = {
    "stream": ("b", new(0, id=number_id(0))),
    "type": ("a", new(0, "U", id=number_id(0))),
    "data": ("a", new(7, id=number_id(0))),
    "content type": ("a", NewEvent("T", "0", id=number_id(0), content_type="text")),
}


@pytest.mark.parametrize("difference", OTHER_CONTENT)
@pytest.mark.parametrize("skip_known", [False, True])
def test_known_id_with_other_content_is_a_conflict(
    known: EventStore, difference: str, skip_known: bool
) -> None:
    stream, event = OTHER_CONTENT[difference]
    before = _content(known)
    with pytest.raises(IdConflict) as caught:
        known.append_encoded([stream], encode_events([event]), skip_known=skip_known)
    assert caught.value.attributes() | {"reason": ""} == {
        "id": str(number_id(0)),
        "stream": "a",
        "position": 1,
        "reason": "",
    }
    assert _content(known) == before


def test_metadata_of_a_retry_may_differ_and_the_first_stays(known: EventStore) -> None:
    assert known.append("a", [new(0, id=number_id(0), metadata={"try": 2})]).duplicate
    assert next(known.read("a")).metadata == {}


def test_append_of_which_a_part_is_known_is_a_conflict(known: EventStore) -> None:
    before = _content(known)
    for batch in ([0, 9], [9, 0], [0, 1, 2, 9]):
        with pytest.raises(IdConflict) as caught:
            known.append_many([("b" if n in (2, 5) else "a", [new(n, id=number_id(n))]) for n in batch])
        assert caught.value.position in (1, 2, 3)
    with pytest.raises(IdConflict):
        known.append("a", [new(0, id=number_id(0)), new(1)])  # the second has no id, so it is new
    assert _content(known) == before


def test_import_skips_what_is_known_line_by_line(known: EventStore) -> None:
    head = known.head
    events = encode_events([new(n, id=number_id(n)) for n in (9, 0, 5, 8)])
    result = known.append_encoded(["a", "a", "b", "c"], events, skip_known=True)
    assert result.duplicates == [False, True, True, False]
    assert result.positions == [head + 1, 1, 4, head + 2]
    assert result.versions == [3, 1, 2, 1]


def test_expectations_of_an_import_hold_for_what_is_new(known: EventStore) -> None:
    events = encode_events([new(0, id=number_id(0)), new(9, id=number_id(9))])
    with pytest.raises(WrongExpectedVersion):
        known.append_encoded(["a", "a"], events, expected={"a": 0}, skip_known=True)
    assert known.append_encoded(["a", "a"], events, expected={"a": 2}, skip_known=True).versions == [1, 3]


def test_id_twice_in_one_append_is_refused(store: EventStore, unchanged: Callable[[], None]) -> None:
    unchanged()
    twice = [new(1, id=number_id(1)), new(1, id=number_id(1))]
    with pytest.raises(InvalidEvent) as caught:
        store.append("a", twice)
    assert caught.value.field == "id"
    with pytest.raises(InvalidEvent):
        store.append_many([("a", twice[:1]), ("b", twice[1:])])


def test_import_skips_the_second_of_twins_and_refuses_unequal_ones(store: EventStore) -> None:
    twins = encode_events([new(1, id=number_id(1)), new(1, id=number_id(1)), new(2), new(1, id=number_id(1))])
    result = store.append_encoded(["a"] * 4, twins, skip_known=True)
    assert result.positions == [1, 1, 2, 1]
    assert result.versions == [1, 1, 2, 1]
    assert result.duplicates == [False, True, False, True]
    unequal = encode_events([new(3, id=number_id(3)), new(4, id=number_id(3))])
    with pytest.raises(IdConflict):
        store.append_encoded(["a", "a"], unequal, skip_known=True)
    same = encode_events([new(3, id=number_id(3))] * 2)
    with pytest.raises(IdConflict):
        store.append_encoded(["a", "b"], same, skip_known=True)
    assert store.head == 2


def test_known_twins_in_one_append_are_duplicates(known: EventStore) -> None:
    result = known.append("a", [new(0, id=number_id(0)), new(0, id=number_id(0))])
    assert result[1:6] == (1, 1, 1, 1, True)


def test_every_id_is_known_for_ever(store: EventStore) -> None:
    fill(store, 100)
    for subject in (store, small_store(store.path)):
        for number in range(100):
            event = new(number, f"T{number % 2}", id=number_id(number))
            assert subject.append(f"s-{number % 3}", [event])[1:6] == (
                number + 1, number + 1, number // 3 + 1, number // 3 + 1, True,
            )  # fmt: skip
        assert subject.head == 100


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


def test_events_of_one_append_have_one_time(store: EventStore) -> None:
    store.append("s", [new() for _ in range(20)])
    assert len({event.time_us for event in store.read_all()}) == 1


# --- rolling


def test_segment_rolls_when_it_has_so_many_events(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_events=5) as store:
        for size in (5, 1, 4, 3, 3, 6, 12, 1):
            store.append("s", [new()] * size)
        segments = store._opened().manifest.segments
        assert [segment.first_position for segment in segments] == [1, 6, 11, 14, 17, 23, 35]
        assert [segment.events for segment in segments] == [5, 5, 3, 3, 6, 12, 0]
        assert [event.position for event in store.read_all()] == list(range(1, 36))


def test_segment_rolls_before_it_is_longer_than_so_many_bytes(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_bytes=10_000, segment_events=1 << 20) as store:
        for _ in range(50):
            store.append("s", [NewEvent("T", bytes(900), content_type="binary")])
        sizes = [path.stat().st_size for path in segment_files(store, "log")]
        assert len(sizes) == 5
        assert all(9_000 < size <= 10_000 for size in sizes[:-1])
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
    monkeypatch.setattr("evlog.format.MAX_BODY_BYTES", 10_000)
    unchanged()
    with pytest.raises(evlog.AppendTooLarge) as caught:
        store.append("s", [NewEvent("T", "x" * 1000)] * 10)
    assert caught.value.limit_bytes == 10_000
    assert caught.value.size_bytes > 10_000
    store.append("t", [NewEvent("T", "x" * 1000)] * 9)
    unchanged()


def test_full_stream_is_refused(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evlog.versions.MAX_VERSION", 5)
    store.append("s", [new()] * 5)
    with pytest.raises(InvalidArgument, match="stream"):
        store.append("s", [new()])
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


def test_unsynced_appends_are_there_for_every_reader(memory_path: Path) -> None:
    with small_store(memory_path / "store", sync="none") as store:
        fill(store, 20)
        with evlog.open(store.path) as other:
            assert numbers(other.read_all()) == list(range(20))
            other.append("s-0", [new(20)])
        assert numbers(store.read_all()) == list(range(21))
