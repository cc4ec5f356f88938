"""Deduplication: an id is written once; a retry succeeds, other content is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import evlog
from evlog import EventStore, NewEvent
from evlog.errors import (
    CorruptionError,
    IdConflict,
    InvalidEvent,
    WrongExpectedVersion,
)
from evlog.model.encoding import encode_events
from tests.support.helpers import content, fill, flip_bit, new, number_id, small_store


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
    before = content(known)
    results = known.append_many(
        [("a", [new(0, id=number_id(0)), new(1, id=number_id(1))], 0), ("b", [new(2, id=number_id(2))], 0)]
    )
    assert [result[:6] for result in results] == [("a", 1, 2, 1, 2, True), ("b", 3, 3, 1, 1, True)]
    assert known.append("a", [new(1, id=number_id(1))], expected=77)[1:6] == (2, 2, 2, 2, True)
    assert content(known) == before


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
    before = content(known)
    with pytest.raises(IdConflict) as caught:
        known.append_encoded([stream], encode_events([event]), skip_known=skip_known)
    assert caught.value.attributes() | {"reason": ""} == {
        "id": str(number_id(0)),
        "stream": "a",
        "position": 1,
        "reason": "",
        "key": None,
    }
    assert content(known) == before


def test_metadata_of_a_retry_may_differ_and_the_first_stays(known: EventStore) -> None:
    assert known.append("a", [new(0, id=number_id(0), metadata={"try": 2})]).duplicate
    assert next(known.read("a")).metadata == {}


def test_append_of_which_a_part_is_known_is_a_conflict(known: EventStore) -> None:
    before = content(known)
    for batch in ([0, 9], [9, 0], [0, 1, 2, 9]):
        with pytest.raises(IdConflict) as caught:
            known.append_many([("b" if n in (2, 5) else "a", [new(n, id=number_id(n))]) for n in batch])
        assert caught.value.position in (1, 2, 3)
    with pytest.raises(IdConflict):
        known.append("a", [new(0, id=number_id(0)), new(1)])  # the second has no id, so it is new
    assert content(known) == before


def test_import_skips_what_is_known_line_by_line(known: EventStore) -> None:
    head = known.head
    events = encode_events([new(n, id=number_id(n)) for n in (9, 0, 5, 8)])
    result = known.append_encoded(["a", "a", "b", "c"], events, skip_known=True)
    assert result.duplicates == [False, True, True, False]
    assert result.positions == [head + 1, 1, 4, head + 2]
    assert result.versions == [3, 1, 2, 1]


@pytest.mark.parametrize(
    "order",
    [[0, 2, 1, 7, 4], [0, 9, 8, 7, 6, 5], [3, 0, 9, 1, 7], [0, 5, 5, 6, 6, 6, 6]],
    ids=str,
)
@pytest.mark.parametrize("sealed", [False, True])
def test_known_ids_are_found_in_any_order(tmp_path: Path, order: list[int], sealed: bool) -> None:
    """Also where the first and the last lie as far apart as if all between them were sent."""
    events = [new(number, id=number_id(number)) for number in range(10)]
    with small_store(tmp_path / "s", segment_events=10) as store:
        store.append("a", events[:5])
        store.append("a", events[5:])
        if sealed:
            store.append("b", [new()])
    with evlog.open(tmp_path / "s") as store:
        assert store.info().segments == 1 + sealed
        sent = encode_events([events[number] for number in order])
        result = store.append_encoded(["a"] * len(order), sent, skip_known=True)
        assert result.duplicates == [True] * len(order)
        assert result.positions == [number + 1 for number in order]


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


def test_batch_sent_again_is_known_whatever_lies_around_and_between_its_events(store: EventStore) -> None:
    """Large enough to be compared with the log as a whole, where it is there as a whole."""
    batch = [new(number, id=number_id(number)) for number in range(40)]
    store.append("before", [new()])
    store.append("a", batch[:20])
    store.append_many([("b" if number % 3 else "c", [batch[number]]) for number in range(20, 40)])
    store.append("after", [new()])
    before = content(store)
    again = store.append("a", batch[:20])
    assert again[1:6] == (2, 21, 1, 20, True)
    assert again.ids == tuple(number_id(number) for number in range(20))
    results = store.append_many([("b" if number % 3 else "c", [batch[number]]) for number in range(20, 40)])
    assert [(result.first_position, result.duplicate) for result in results] == [
        (position, True) for position in range(22, 42)
    ]
    assert [result.first_version for result in results if result.stream == "c"] == list(range(1, 8))
    assert store.append("a", batch[19::-1]).duplicate  # in another order
    assert store.append("a", batch[1:18]).duplicate  # a part of the frame
    both = [("a", batch[:20]), *(("b" if number % 3 else "c", [batch[number]]) for number in range(20, 40))]
    assert all(result.duplicate for result in store.append_many(both))  # two frames
    noted = [NewEvent(e.type, e.data, id=e.id, metadata={"try": 2}) for e in batch[:20]]
    assert store.append("a", noted).duplicate
    assert content(store) == before


@pytest.mark.parametrize("at", [0, 7, 19])
def test_batch_sent_again_with_one_other_event_is_a_conflict(store: EventStore, at: int) -> None:
    batch = [new(number, id=number_id(number)) for number in range(20)]
    store.append("a", batch)
    before = content(store)
    for other in (new(99, id=number_id(at)), new(at, "U", id=number_id(at)), new(99, id=number_id(99))):
        with pytest.raises(IdConflict):
            store.append("a", [*batch[:at], other, *batch[at + 1 :]])
    with pytest.raises(IdConflict):
        store.append("b", batch)
    with pytest.raises(IdConflict):  # the first is the last in the log
        store.append("a", [batch[19], *(new(number, id=number_id(number)) for number in range(50, 70))])
    assert content(store) == before


def test_damage_in_a_batch_that_is_sent_again_is_found(store: EventStore) -> None:
    batch = [new(number, id=number_id(number)) for number in range(20)]
    store.append("a", batch)
    log = next(Path(store.path).glob("segments/*.log"))
    flip_bit(log, number_id(9).bytes, 20)
    with evlog.open(store.path) as opened, pytest.raises(CorruptionError):
        opened.append("a", batch)
