"""Following: every acknowledged event once, in order, across everything that happens to a log meanwhile."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import evlog
from evlog import EventStore
from evlog.errors import CorruptionError, InvalidArgument, StoreNotFound, StoreReplaced
from evlog.files.format import paths
from evlog.files.log import read as reader
from evlog.subscriptions import run as follow
from evlog.subscriptions.run import Subscription
from tests.support.following import LONG_SECONDS, Script, drain, fill_from
from tests.support.helpers import (
    Clock,
    engine_of,
    fill,
    flip_bit,
    frames_of,
    new,
    numbers,
    segment_files,
    small_store,
)

# --- what is there


@pytest.mark.parametrize("wrong", [float("nan"), "1", b"1", [1]])
def test_a_wait_is_for_a_number_of_seconds(store: EventStore, wrong: Any) -> None:
    with store.subscribe() as subscription:
        with pytest.raises(InvalidArgument, match="timeout_seconds"):
            subscription.next_event(wrong)
        assert subscription.next_event(-1) is None  # as 0: what is left of a time that is over


def test_without_follow_it_ends_where_the_log_ended_when_asked(store: EventStore) -> None:
    fill(store, 20)
    with store.subscribe(follow=False) as subscription:
        fill_more = [new(20)]
        store.append("s-0", fill_more)
        assert numbers(subscription) == list(range(20))
        assert subscription.position == 20
        assert subscription.next_event(None) is None


def test_an_empty_store_has_nothing_to_give(store: EventStore) -> None:
    with store.subscribe(follow=False) as subscription:
        assert list(subscription) == []
    with store.subscribe(timeout=0) as subscription:
        assert list(subscription) == []


@pytest.mark.parametrize("piece_events", [1, 3, 8, 1 << 16])
@pytest.mark.parametrize("after", [0, 1, 7, 8, 9, 29, 30, 31])
def test_it_begins_behind_a_position(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, after: int, piece_events: int
) -> None:
    monkeypatch.setattr(follow, "_PIECE_EVENTS", piece_events)
    fill(store, 30)
    with store.subscribe(after=after) as subscription:
        assert drain(subscription) == list(range(after, 30))
        store.append_many([("x", [new(30), new(31)])])
        assert drain(subscription) == list(range(max(30, after), 32))


FILTERS: list[tuple[dict[str, Any], Callable[[int], bool]]] = [
    ({"stream": "s-1"}, lambda n: n % 3 == 1),
    ({"stream": "s-1", "types": ["T0"]}, lambda n: n % 3 == 1 and n % 2 == 0),
    ({"stream": "none"}, lambda _: False),
    ({"category": "s"}, lambda _: True),
    ({"category": "x"}, lambda _: False),
    ({"category": "s", "types": ["T1"]}, lambda n: n % 2 == 1),
    ({"types": ["T0", "T1"]}, lambda _: True),
    ({"types": ["T1", "none"]}, lambda n: n % 2 == 1),
    ({"types": []}, lambda _: False),
]


@pytest.mark.parametrize("search_more_than", [0, 2048])
@pytest.mark.parametrize("piece_events", [5, 1 << 16])
@pytest.mark.parametrize(("filter", "keep"), FILTERS)
def test_a_filter_gives_the_same_events_live_as_afterwards(
    store: EventStore,
    monkeypatch: pytest.MonkeyPatch,
    filter: dict[str, Any],
    keep: Callable[[int], bool],
    piece_events: int,
    search_more_than: int,
) -> None:
    monkeypatch.setattr(follow, "_PIECE_EVENTS", piece_events)
    monkeypatch.setattr("evlog.files.log.read._SEARCH_MORE_THAN", search_more_than)
    expected = list(filter_numbers(keep, 40))
    with store.subscribe(**filter) as live:
        found = []
        for count in (3, 9, 26, 40):
            with small_store(store.path) as writer:
                fill_from(writer, count)
            found += drain(live)
            assert found == [number for number in expected if number < count]
            assert live.position == count
    with store.subscribe(**filter, follow=False) as late:
        assert numbers(late) == expected
        assert late.position == 40


def filter_numbers(keep: Callable[[int], bool], count: int) -> Iterator[int]:
    return (number for number in range(count) if keep(number))


def test_since_is_where_it_begins(store: EventStore, clock: Clock) -> None:
    for number in range(20):
        clock.us += 1_000_000
        store.append("s", [new(number)])
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=clock.us - 4_000_000)
    for since, first in (
        (moment, 15),
        (moment - timedelta(microseconds=1), 15),
        (moment + timedelta(microseconds=1), 16),
    ):
        with store.subscribe(since=since, follow=False) as subscription:
            assert numbers(subscription) == list(range(first, 20))
    with store.subscribe(since=moment, after=17, follow=False) as subscription:
        assert numbers(subscription) == [17, 18, 19]
    with store.subscribe(since=moment - timedelta(days=1), follow=False) as subscription:
        assert len(list(subscription)) == 20


def test_since_may_lie_ahead(store: EventStore, clock: Clock) -> None:
    store.append("s", [new(0)])
    ahead = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=clock.us + 5)
    with store.subscribe(since=ahead) as subscription:
        for number in range(1, 10):
            clock.us += 1
            store.append("s", [new(number)])
        assert drain(subscription) == list(range(5, 10))


@pytest.mark.parametrize(
    "bad",
    [
        {"after": -1},
        {"to": -1},
        {"timeout": -1.0},
        {"timeout": float("nan")},
        {"types": "T"},
        {"stream": "s", "category": "s"},
        {"stream": ""},
        {"since": datetime(2026, 1, 1)},  # noqa: DTZ001 - the very thing that is refused
    ],
)
def test_arguments_that_make_no_sense_are_refused(store: EventStore, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        store.subscribe(**bad)


# --- once, and in order


def test_what_was_given_out_is_acknowledged_when_the_next_is_asked_for(store: EventStore) -> None:
    fill(store, 5)
    with store.subscribe() as subscription:
        assert subscription.position == 0
        for asked in range(1, 4):
            assert next(subscription).position == asked
            assert subscription.position == asked - 1
        subscription.acknowledge()
        subscription.acknowledge()
        assert subscription.position == 3
        assert drain(subscription) == [3, 4]
        assert subscription.position == 5


def test_a_loop_acknowledges_what_it_went_on_from(store: EventStore) -> None:
    fill(store, 20)
    with store.subscribe() as subscription:
        for event in subscription:
            assert subscription.position == event.position - 1
            if event.position == 12:
                break
        assert subscription.position == 11
        assert next(subscription).position == 13  # asking for the next acknowledges the twelfth


def test_loops_and_single_events_may_be_mixed(store: EventStore) -> None:
    fill(store, 20)
    seen = []
    with store.subscribe(timeout=0) as subscription:
        for event in subscription:
            seen.append(event.position)
            if event.position % 3 == 0:
                more = subscription.next_event(0)
                if more is not None:
                    seen.append(more.position)
            if event.position % 5 == 0:
                subscription.acknowledge()
        assert seen == list(range(1, 21))
        assert subscription.position == 20


def test_an_error_while_reading_leaves_nothing_out_afterwards(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 20)
    original = reader.read_log
    failing = [True]

    def read_log(*arguments: Any, **options: Any) -> Iterator[evlog.Event]:
        for event in original(*arguments, **options):
            if event.position == 7 and failing:
                failing.pop()
                raise KeyboardInterrupt
            yield event

    monkeypatch.setattr("evlog.files.follow.feed.read_log", read_log)

    def at_hand(subscription: Subscription) -> list[int]:
        first = subscription.next_event(0)
        rest = numbers(iter(subscription.next_at_hand, None))
        return rest if first is None else [int(first.data), *rest]

    def in_a_loop(subscription: Subscription) -> list[int]:
        first = subscription.next_event(0)
        return [] if first is None else [int(first.data), *numbers(subscription.events_at_hand())]

    for take in (drain, numbers, at_hand, in_a_loop):
        failing[:] = [True]
        with store.subscribe(timeout=0) as subscription:
            with pytest.raises(KeyboardInterrupt):
                take(subscription)
            assert subscription.position == 6
            assert take(subscription) == list(range(6, 20))


def test_damage_is_raised_after_what_stands_before_it_and_again_when_asked_again(store: EventStore) -> None:
    fill(store, 20)
    log = segment_files(store, "log")[1]  # positions 9 to 16
    flip_bit(log, -2)
    with small_store(store.path) as fresh, fresh.subscribe() as subscription:
        seen: list[int] = []
        for _ in range(2):
            with pytest.raises(CorruptionError):
                seen.extend(event.position for event in iter(partial(subscription.next_event, 0), None))
        assert seen == list(range(1, 16))
        assert subscription.position == 15


def test_damage_of_the_acknowledged_end_is_raised(store: EventStore) -> None:
    fill(store, 4)
    log = segment_files(store, "log")[-1]
    os.truncate(log, len(frames_of(log)) - 1)
    with small_store(store.path) as fresh, fresh.subscribe() as subscription:
        assert [subscription.next_event(0) is not None for _ in range(3)] == [True] * 3
        with pytest.raises(CorruptionError):
            subscription.next_event(0)


# --- what happens to a store


def test_it_goes_on_across_many_rolls_by_others(store: EventStore, other: EventStore) -> None:
    with store.subscribe() as subscription:
        seen = []
        for count in range(5, 200, 13):
            fill_from(other, count)
            seen += drain(subscription)
            assert seen == list(range(count))


def test_segments_that_were_read_are_let_go_of(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_PIECE_EVENTS", 8)
    fill(store, 80)
    with small_store(store.path) as fresh, fresh.subscribe() as subscription:
        log = engine_of(fresh)._log
        assert log is not None
        drain(subscription)
        fill_from(store, 160)
        drain(subscription)
        assert len(log.sealed) == 19
        assert sum(part._segment is not None for part in log.sealed) <= 4


def test_a_store_that_is_removed_ends_it(store: EventStore, script: Script) -> None:
    fill(store, 1)
    with store.subscribe() as subscription:
        drain(subscription)
        script.steps = [lambda: shutil.rmtree(store.path)]
        with pytest.raises(StoreNotFound):
            subscription.next_event(LONG_SECONDS)


def test_another_store_in_its_place_ends_it(store: EventStore, memory_path: Path) -> None:
    fill(store, 1)
    with store.subscribe() as subscription:
        drain(subscription)
        with small_store(memory_path / "new") as another:
            fill(another, 5)
        shutil.rmtree(store.path)
        os.rename(memory_path / "new", store.path)
        with pytest.raises(StoreReplaced):
            subscription.next_event(0)


@pytest.mark.parametrize("own_events", [0, 2, 12, 30])
@pytest.mark.parametrize("name", [None, "mail"])
def test_an_older_copy_in_its_place_ends_it(
    store: EventStore, memory_path: Path, own_events: int, name: str | None
) -> None:
    """Else the run would skip what the copy has at positions that it has passed: 19 to 30."""
    fill(store, 18)
    shutil.copytree(store.path, memory_path / "older")
    fill_from(store, 30)
    with small_store(store.path) as reader:
        subscription = reader.subscribe(name)
        assert drain(subscription) == list(range(30))
        os.rename(store.path, memory_path / "newer")
        os.rename(memory_path / "older", store.path)
        with small_store(store.path) as other:
            fill_from(other, 18 + own_events)
        for _ in range(2):
            with pytest.raises(StoreReplaced):
                subscription.next_event(0)
        if name is not None:
            with pytest.raises(StoreReplaced):
                subscription.close()
            with small_store(store.path) as other, other.subscribe(name, follow=False) as again:
                assert len(drain(again)) == 18 + own_events


@pytest.mark.parametrize("removed", [range(3), range(1)])
def test_it_goes_on_after_a_compaction_has_removed_what_it_was_told_of(
    store: EventStore, other: EventStore, removed: range
) -> None:
    fill(store, 22)
    with store.subscribe() as subscription:
        assert drain(subscription) == list(range(22))
        for number in removed:
            other.delete_stream(f"s-{number}")
        assert other.compact().events_removed
        other.append("s-0", [new(50)])
        assert drain(subscription) == [50]


def test_closing_twice_is_closing_once_and_nothing_comes_after(store: EventStore) -> None:
    fill(store, 5)
    subscription = store.subscribe()
    for event in subscription:
        assert event.position == 1
        subscription.close()
    subscription.close()
    assert subscription.next_event(0) is None
    assert list(subscription) == []


def test_a_run_without_a_name_has_nothing_to_save_or_to_park(store: EventStore) -> None:
    fill(store, 1)
    with store.subscribe() as subscription:
        assert subscription.name is None
        event = next(subscription)
        with pytest.raises(InvalidArgument):
            subscription.park(event, "boom")
        subscription.save()
    assert not os.path.exists(paths.subscriptions_path(store.path))


def test_reading_needs_no_permission_to_write(store: EventStore) -> None:
    fill(store, 20)
    before = {path: path.stat().st_mtime_ns for path in Path(store.path).rglob("*")}
    with store.subscribe(follow=False) as subscription:
        assert len(list(subscription)) == 20
    assert {path: path.stat().st_mtime_ns for path in Path(store.path).rglob("*")} == before


@pytest.mark.parametrize("taken", [0, 1, 7, 8, 20, 39, 40])
def test_a_compaction_beneath_it_shows_as_gaps_alone(
    store: EventStore, other: EventStore, taken: int
) -> None:
    fill(store, 40)
    with store.subscribe() as subscription:
        seen = [int(event.data) for event in itertools.islice(subscription, taken)]
        for stream in ("s-0", "s-1"):
            other.set_retention(stream, max_count=1)
        other.append("s-2", [new(40)])
        other.compact(force=True)
        left = numbers(other.read_all())
        assert len(left) < 41
        seen += drain(subscription)  # of the piece that it had begun, removed ones too
        assert seen == sorted(set(seen))
        assert {*range(taken), *left} <= set(seen) <= set(range(41))
        other.append("s-0", [new(41)])
        assert drain(subscription) == [41]


def test_the_stores_own_events_come_only_where_their_stream_is_named(store: EventStore) -> None:
    with (
        store.subscribe() as all_,
        store.subscribe(stream="$$s-0") as own,
        store.subscribe(category="s") as some,
    ):
        fill(store, 4)
        store.set_retention("s-0", max_count=1)
        store.append("s-0", [new(4)])
        assert drain(all_) == drain(some) == [0, 1, 2, 3, 4]
        assert all_.position == some.position == store.head == 6
        event = own.next_event(0)
        assert event is not None
        assert (event.position, event.type) == (5, "$metadata")


def test_a_wake_looks_at_no_segment_but_those_it_reads(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 100)
    with store.subscribe(after=96) as subscription:
        monkeypatch.setattr("evlog.files.log.parts.SealedSegment", lambda *_: pytest.fail("it is opened"))
        assert drain(subscription) == [96, 97, 98, 99]
        fill_from(store, 103)
        assert drain(subscription) == [100, 101, 102]


def in_another_thread(call: Callable[[], object]) -> object:
    """Return what the call returned there, or its error."""
    with ThreadPoolExecutor() as threads:
        future = threads.submit(call)
        return future.exception() or future.result()


def test_a_thread_that_takes_events_while_another_loops_over_them_is_refused(store: EventStore) -> None:
    fill(store, 10)
    run = store.subscribe(follow=False)
    taken = []
    for event in run:
        taken.append(event.position)
        if event.position == 5:
            assert isinstance(in_another_thread(run.next_event), InvalidArgument)
            assert isinstance(in_another_thread(lambda: list(run)), InvalidArgument)
            assert isinstance(in_another_thread(lambda: list(run.events_at_hand())), InvalidArgument)
    assert taken == list(range(1, 11))


def test_a_thread_that_takes_events_while_another_waits_for_one_is_refused(store: EventStore) -> None:
    run = store.subscribe()
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(run.next_event)
        while run._taker is None and not waiting.done():
            pass
        with pytest.raises(InvalidArgument, match="another thread takes the events"):
            run.next_event(0)
        fill(store, 1)
        event = waiting.result()
    assert event is not None
    assert event.position == 1
    assert run.next_event(0) is None  # one thread after another is no fault
