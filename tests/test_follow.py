"""Following: every acknowledged event once, in order, across everything that happens to a log meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import evlog
from evlog import EventStore, follow, paths, reader
from evlog.disk import Disk, ReadFile, WriteFile
from evlog.errors import CorruptionError, InvalidArgument, StoreIOError, StoreNotFound
from evlog.follow import Subscription, wait_for_store
from evlog.format import MARK_AT, SUSPECT_MAGIC, Mark, encode_mark
from evlog.notify import TICK_SECONDS
from tests.helpers import Clock, fill, frames_of, new, numbers, segment_files, small_store

LONG_SECONDS = 60.0


class Script:
    """Stands in for the file system's notifications and for time: each wait does the next thing on a list.

    A wait with nothing to do lets the time pass that it was given.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[Callable[[], object] | None] = []
        self.waits: list[float] = []
        self.sleeps: list[float] = []
        self.during_sleep: Callable[[float], object] = lambda _: None
        self.now = 1000.0
        script = self

        class ScriptedWatch:
            polling = False

            def __init__(self, directory: str) -> None:
                self.directory = directory

            def begin(self) -> None:
                pass

            def wait(self, timeout_seconds: float) -> None:
                script.waits.append(timeout_seconds)
                step = script.steps.pop(0) if script.steps else None
                if step is None:
                    script.now += timeout_seconds
                else:
                    step()

            def has_news(self) -> None:
                pass

            def close(self) -> None:
                pass

        class Time:
            def monotonic(self) -> float:
                return script.now

            def sleep(self, seconds: float) -> None:
                script.sleeps.append(seconds)
                script.now += seconds
                script.during_sleep(seconds)

        monkeypatch.setattr(follow, "Watch", ScriptedWatch)
        monkeypatch.setattr(follow, "time", Time())


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    return Script(monkeypatch)


@pytest.fixture
def other(store: EventStore) -> Iterator[EventStore]:
    """Another writer's handle of the same store."""
    with small_store(store.path) as opened:
        yield opened


def drain(subscription: Subscription) -> list[int]:
    """The numbers of all events that are there now."""
    return [int(event.data) for event in iter(partial(subscription.next_event, 0), None)]


class Unacknowledging(Disk):
    """A writer that dies, or is stopped, between its write and the sync."""

    def sync(self, file: WriteFile) -> None:
        if file.path.endswith(".log"):
            raise KeyboardInterrupt


def write_unacknowledged(store: EventStore, number: int) -> None:
    """Append as a writer that never comes to acknowledge it."""
    with small_store(store.path, disk=Unacknowledging()) as dying, pytest.raises(KeyboardInterrupt):
        dying.append("dying", [new(number)])


# --- what is there


def test_everything_there_is_comes_first_then_what_comes_later(store: EventStore, other: EventStore) -> None:
    fill(store, 30)
    with store.subscribe() as subscription:
        assert drain(subscription) == list(range(30))
        other.append("s-0", [new(30)])
        assert drain(subscription) == [30]
        assert drain(subscription) == []
        store.append("s-0", [new(31), new(32)])
        assert drain(subscription) == [31, 32]


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
    monkeypatch.setattr("evlog.reader._SEARCH_MORE_THAN", search_more_than)
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


def fill_from(store: EventStore, count: int) -> None:
    """As `fill`, but from where the store is."""
    for number in range(store.head, count):
        store.append(f"s-{number % 3}", [new(number, f"T{number % 2}")])


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

    monkeypatch.setattr("evlog.follow.read_log", read_log)
    for take in (drain, numbers):
        failing[:] = [True]
        with store.subscribe(timeout=0) as subscription:
            with pytest.raises(KeyboardInterrupt):
                take(subscription)
            assert subscription.position == 6
            assert take(subscription) == list(range(6, 20))


def test_damage_is_raised_after_what_stands_before_it_and_again_when_asked_again(store: EventStore) -> None:
    fill(store, 20)
    log = segment_files(store, "log")[1]  # positions 9 to 16
    raw = bytearray(log.read_bytes())
    raw[-2] ^= 1
    log.write_bytes(raw)
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


# --- only what is acknowledged


def test_an_event_is_not_given_out_before_it_is_acknowledged(
    store: EventStore, other: EventStore, script: Script
) -> None:
    fill(store, 3)
    with store.subscribe() as subscription:
        assert drain(subscription) == [0, 1, 2]
        write_unacknowledged(store, 3)
        assert numbers(store.read_all(after=3)) == [3]  # a reader sees it
        assert drain(subscription) == []
        other.append("s", [new(4)])  # whose sync covers it
        assert drain(subscription) == [3, 4]


def test_what_nobody_acknowledges_is_made_durable_after_a_while_and_given_out(
    store: EventStore, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 3)
    synced: list[str] = []
    monkeypatch.setattr(store._disk, "sync_seen", lambda file: synced.append(file.path))
    with store.subscribe() as subscription:
        assert drain(subscription) == [0, 1, 2]
        write_unacknowledged(store, 3)
        began = script.now
        event = subscription.next_event(LONG_SECONDS)
        assert event is not None
        assert event.data == b"3"
        assert synced == [str(segment_files(store, "log")[-1])]
        assert 1.0 <= script.now - began <= 2.0
        fill_from(store, 30)
        assert drain(subscription) == list(range(4, 30))
        assert len(synced) == 1


def test_without_follow_what_is_there_is_made_durable_at_once(
    store: EventStore, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(store._disk, "sync_seen", lambda file: synced.append(file.path))
    fill(store, 3)
    write_unacknowledged(store, 3)
    with store.subscribe(follow=False) as subscription:
        assert len(synced) == 1
        assert numbers(subscription) == [0, 1, 2, 3]


def test_after_a_failed_sync_nothing_is_given_out_until_a_writer_has_looked(
    store: EventStore, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 3)
    with store.subscribe() as subscription:
        assert drain(subscription) == [0, 1, 2]
        write_unacknowledged(store, 3)
        tag, offset = store._log.active.segment.tag, store._log.durable_offset()  # type: ignore[union-attr]
        with open(paths.durable_path(store.path), "r+b") as marks:
            marks.seek(MARK_AT[SUSPECT_MAGIC])
            marks.write(encode_mark(SUSPECT_MAGIC, Mark(tag, offset)))
        monkeypatch.setattr(store._disk, "sync_seen", lambda _: pytest.fail("it must not sync"))
        assert subscription.next_event(10.0) is None
        with small_store(store.path) as writer:
            writer.append("s", [new(4)])
        assert drain(subscription) == [3, 4]


def test_a_disk_that_fails_the_followers_own_sync_is_an_error(
    store: EventStore, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: ReadFile) -> None:
        raise StoreIOError(file.path, "Input/output error")

    write_unacknowledged(store, 0)
    monkeypatch.setattr(store._disk, "sync_seen", fail)
    with store.subscribe() as subscription, pytest.raises(StoreIOError):
        subscription.next_event(LONG_SECONDS)


def test_a_tail_that_is_cut_and_written_anew_is_given_out_as_it_is_now(
    store: EventStore, script: Script
) -> None:
    fill(store, 3)
    with store.subscribe() as subscription:
        assert drain(subscription) == [0, 1, 2]
        write_unacknowledged(store, 3)
        assert drain(subscription) == []
        log = segment_files(store, "log")[-1]
        os.truncate(log, len(frames_of(log)) - 1)  # a power loss, as far as a process can live through one
        with small_store(store.path) as writer:
            writer.append("other", [new(4)])
            assert len(writer.torn_tails) == 1
        assert drain(subscription) == [4]


def test_what_a_writer_without_sync_acknowledges_is_given_out_at_once(
    store: EventStore, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(store._disk, "sync_seen", lambda file: synced.append(file.path))
    with store.subscribe("mail") as subscription, small_store(store.path, sync="none") as lazy:
        fill_from(lazy, 3)
        assert drain(subscription) == [0, 1, 2]
        assert synced == []
        subscription.save()
        assert len(synced) == 1  # the checkpoint must not outlive the events


# --- waiting


def test_it_wakes_for_what_other_processes_append(store: EventStore, other: EventStore) -> None:
    with store.subscribe() as subscription:
        timer = threading.Timer(0.01, lambda: other.append("s", [new(0)]))
        timer.start()
        event = subscription.next_event(LONG_SECONDS)
        timer.join()
        assert event is not None


def test_it_finds_everything_by_polling_too(
    store: EventStore, other: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "inotify_simple", None)
    with store.subscribe() as subscription:
        timer = threading.Timer(0.01, lambda: [other.append("s", [new(number)]) for number in range(20)])
        timer.start()
        found = [subscription.next_event(LONG_SECONDS) for _ in range(20)]
        timer.join()
        assert [int(event.data) for event in found if event is not None] == list(range(20))
        assert subscription.polling


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_on_a_local_disk_it_does_not_poll(store: EventStore) -> None:
    with store.subscribe(timeout=0.001) as subscription:
        assert list(subscription) == []
        assert not subscription.polling


def test_what_comes_between_the_last_look_and_the_wait_is_not_waited_for(
    store: EventStore, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.subscribe() as subscription:
        monkeypatch.setattr(subscription._watch, "begin", lambda: store.append("s", [new(0)]))
        assert subscription.next_event(LONG_SECONDS) is not None
        assert script.waits == []


def test_a_wait_ends_after_its_time_and_the_next_goes_on(store: EventStore, script: Script) -> None:
    fill(store, 1)
    with store.subscribe(timeout=2.5) as subscription:
        began = script.now
        assert numbers(subscription) == [0]
        assert script.now - began == 2.5
        script.steps = [None, lambda: fill_from(store, 2), None, lambda: fill_from(store, 3)]
        assert numbers(subscription) == [1, 2]


def test_idle_it_ticks_once_a_second(store: EventStore, script: Script) -> None:
    with store.subscribe() as subscription:
        assert subscription.next_event(10.0) is None
        assert script.waits == [TICK_SECONDS] * 10
        assert script.sleeps == []


def test_a_first_event_after_a_quiet_time_goes_out_at_once(store: EventStore, script: Script) -> None:
    with store.subscribe() as subscription:
        for number in range(5):
            script.steps = [lambda number=number: fill_from(store, number + 1)]  # type: ignore[misc]
            script.now += 0.1
            assert subscription.next_event(LONG_SECONDS) is not None
        assert script.sleeps == []


def test_under_a_busy_writer_it_looks_every_ten_milliseconds(store: EventStore, script: Script) -> None:
    count = 0

    def append() -> None:
        nonlocal count
        count += 1
        fill_from(store, count)

    with store.subscribe() as subscription:
        script.steps = [append] * 1000
        for _ in range(3):  # news upon news
            assert subscription.next_event(LONG_SECONDS) is not None

        def append_every_millisecond(seconds: float) -> None:
            for _ in range(max(1, int(seconds * 1000))):
                append()

        script.during_sleep = append_every_millisecond
        script.sleeps.clear()
        while script.now < 1000.5:
            assert subscription.next_event(LONG_SECONDS) is not None
        assert script.sleeps[:6] == pytest.approx([0.001, 0.002, 0.004, 0.008, 0.01, 0.01])
        assert max(script.sleeps) == 0.01
        assert len(script.sleeps) < 60
        script.during_sleep = lambda _: None
        script.steps = []
        drain(subscription)
        assert subscription.next_event(0.2) is None  # and quiet again
        script.sleeps.clear()
        script.steps = [append]
        assert subscription.next_event(LONG_SECONDS) is not None
        assert script.sleeps == []


def test_a_handler_that_raises_ends_the_wait(store: EventStore) -> None:
    class Enough(Exception):
        pass

    def stop(number: int, frame: FrameType | None) -> None:
        raise Enough

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with store.subscribe() as subscription:
            fill(store, 1)
            assert drain(subscription) == [0]
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            with pytest.raises(Enough):
                subscription.next_event(None)
            fill_from(store, 2)
            assert drain(subscription) == [1]
    finally:
        signal.signal(signal.SIGALRM, before)


# --- what happens to a store


def test_it_goes_on_across_many_rolls_by_others(store: EventStore, other: EventStore) -> None:
    with store.subscribe() as subscription:
        seen = []
        for count in range(5, 200, 13):
            fill_from(other, count)
            seen += drain(subscription)
            assert seen == list(range(count))


def test_segments_that_were_read_are_let_go_of(store: EventStore) -> None:
    fill(store, 40)
    with small_store(store.path) as fresh, fresh.subscribe() as subscription:
        log = fresh._log
        assert log is not None
        drain(subscription)
        fill_from(store, 60)
        drain(subscription)
        held = [part for part in log.sealed if part._segment is not None]
        assert len(held) <= 2


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
        with pytest.raises(StoreNotFound):
            subscription.next_event(0)


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


# --- a store that is not there yet


def test_there_is_nothing_to_wait_for_where_there_is_a_store(store: EventStore) -> None:
    assert wait_for_store(store.path, 0)
    assert wait_for_store(Path(store.path))


def test_a_store_that_does_not_come_in_time_is_not_there(memory_path: Path, script: Script) -> None:
    began = script.now
    assert not wait_for_store(memory_path / "a" / "b" / "store", 3.5)
    assert script.now - began == 3.5


def test_it_waits_through_every_directory_that_is_missing(memory_path: Path, script: Script) -> None:
    path = memory_path / "a" / "b" / "store"
    script.steps = [
        None,
        (memory_path / "a").mkdir,
        (memory_path / "other").mkdir,
        (memory_path / "a" / "b").mkdir,
        path.mkdir,
        (path / "segments").mkdir,
        lambda: small_store(path).close(),
    ]
    assert wait_for_store(path)
    assert script.steps == []


def test_a_store_that_is_made_wakes_who_waits_for_it(memory_path: Path) -> None:
    path = memory_path / "a" / "store"
    timer = threading.Timer(0.01, lambda: small_store(path).close())
    timer.start()
    assert wait_for_store(path, LONG_SECONDS)
    timer.join()
