"""A feed delivers nothing before it is acknowledged, misses nothing, and costs nothing while idle."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from evlog import EventStore, wait_for_store
from evlog.errors import CorruptionError, StoreIOError, StoreNotFound
from evlog.files.disk.files import ReadFile, WriteFile
from evlog.files.disk.watch import TICK_SECONDS
from evlog.files.follow import feed
from evlog.files.format import paths
from evlog.files.format.marks import DURABLE_MAGIC, MARK_AT, SUSPECT_MAGIC, Mark, encode_mark
from evlog.files.log.log import Log
from tests.support.contention import wait_until
from tests.support.following import LONG_SECONDS, Script, drain, fill_from, write_unacknowledged
from tests.support.helpers import engine_of, fill, frames_of, new, numbers, segment_files, small_store


def acknowledge(store: EventStore) -> None:
    """Write the durable mark for all that the log holds, as the writer does after its sync."""
    assert store.head
    active = engine_of(store)._log.active.segment  # type: ignore[union-attr]
    with open(paths.durable_path(store.path), "r+b") as marks:
        marks.seek(MARK_AT[DURABLE_MAGIC])
        marks.write(encode_mark(DURABLE_MAGIC, Mark(active.tag, active.end)))


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
    monkeypatch.setattr(engine_of(store)._disk, "sync_seen", lambda file: synced.append(file.path))
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
    monkeypatch.setattr(engine_of(store)._disk, "sync_seen", lambda file: synced.append(file.path))
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
        tag, offset = engine_of(store)._log.active.segment.tag, engine_of(store)._log.durable_offset()  # type: ignore[union-attr]
        with open(paths.durable_path(store.path), "r+b") as marks:
            marks.seek(MARK_AT[SUSPECT_MAGIC])
            marks.write(encode_mark(SUSPECT_MAGIC, Mark(tag, offset)))
        monkeypatch.setattr(engine_of(store)._disk, "sync_seen", lambda _: pytest.fail("it must not sync"))
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
    monkeypatch.setattr(engine_of(store)._disk, "sync_seen", fail)
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


def test_an_event_is_read_while_its_writer_syncs_it(
    store: EventStore, other: EventStore, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 3)
    with store.subscribe() as subscription:
        assert drain(subscription) == [0, 1, 2]
        write_unacknowledged(store, 3)
        assert drain(subscription) == []
        monkeypatch.setattr(feed, "read_log", lambda *_, **__: pytest.fail("it was read before"))
        acknowledge(store)
        assert drain(subscription) == [3]
        monkeypatch.undo()
        other.append("s", [new(4)])
        assert drain(subscription) == [4]


def test_an_event_that_was_read_ahead_is_given_out_by_the_durable_mark_alone(
    store: EventStore, other: EventStore, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 3)
    disk = engine_of(other)._disk
    sync = disk.sync
    with store.subscribe() as subscription:
        assert drain(subscription) == [0, 1, 2]

        def sync_while_followed(file: WriteFile) -> None:
            assert drain(subscription) == []  # it is read ahead
            assert drain(subscription) == []
            sync(file)
            assert drain(subscription) == []

        other.append("s", [new(3)])
        assert drain(subscription) == [3]
        monkeypatch.setattr(disk, "sync", sync_while_followed)
        other.append("s", [new(4)])
        with monkeypatch.context() as patched:
            patched.setattr(Log, "stamp_and_marks", lambda _: pytest.fail("it looked at the manifest"))
            event = subscription.next_event(0.1)
        assert event is not None
        assert event.data == b"4"
        os.unlink(paths.manifest_path(store.path))
        with pytest.raises(StoreNotFound):
            subscription.next_event(0.1)


def test_damage_that_is_read_ahead_is_raised_once_it_is_committed(store: EventStore, script: Script) -> None:
    fill(store, 3)
    with store.subscribe() as subscription:
        assert drain(subscription) == [0, 1, 2]
        write_unacknowledged(store, 3)
        assert store.head == 4
        end = engine_of(store)._log.active.segment.end  # type: ignore[union-attr]
        with segment_files(store, "log")[-1].open("r+b") as log:
            log.seek(end - 3)
            log.write(b"\xff")
        assert drain(subscription) == []
        acknowledge(store)
        with pytest.raises(CorruptionError):
            drain(subscription)


def test_what_a_writer_without_sync_acknowledges_is_given_out_at_once(
    store: EventStore, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(engine_of(store)._disk, "sync_seen", lambda file: synced.append(file.path))
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
    with store.subscribe() as subscription:
        # It is known once it has waited, which a slow machine's first call does not come to.
        wait_until(lambda: subscription.next_event(0.01) is None and not subscription.polling)


def test_what_comes_between_the_last_look_and_the_wait_is_not_waited_for(
    store: EventStore, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.subscribe() as subscription:
        feed: Any = subscription._feed
        monkeypatch.setattr(feed._watch, "begin", lambda: store.append("s", [new(0)]))
        assert subscription.next_event(LONG_SECONDS) is not None
        assert script.waits == []


def test_a_wait_ends_after_its_time_and_the_next_goes_on(store: EventStore, script: Script) -> None:
    fill(store, 1)
    with store.subscribe(idle=2.5) as subscription:
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


def append_after(
    store: EventStore, script: Script, *, seconds: float, thread_seconds: float, queued_seconds: float = 0.0
) -> Callable[[], None]:
    """Return what passes the time, also that of the follower's thread, and then appends an event."""

    def append() -> None:
        script.now += seconds
        script.thread_seconds += thread_seconds
        script.queued_seconds += queued_seconds
        fill_from(store, store.head + 1)

    return append


def test_a_quick_exchange_after_a_quiet_time_is_never_delayed(store: EventStore, script: Script) -> None:
    append = append_after(store, script, seconds=0.001, thread_seconds=0.0003)
    with store.subscribe() as subscription:
        for _ in range(3):
            for _ in range(10):
                script.steps = [append]
                assert subscription.next_event(LONG_SECONDS) is not None
            script.now += 0.5
        assert script.sleeps == []


def test_a_hundred_events_a_second_are_each_given_out_at_once(store: EventStore, script: Script) -> None:
    append = append_after(store, script, seconds=0.01, thread_seconds=0.0004)
    with store.subscribe() as subscription:
        for _ in range(200):
            script.steps = [append]
            assert subscription.next_event(LONG_SECONDS) is not None
        assert script.sleeps == []


def sleeps_of_following(store: EventStore, script: Script, append: Callable[[], None]) -> list[float]:
    """Return the rests of a feed that is told of an append 200 times."""
    script.sleeps = []
    with store.subscribe(after=store.head) as subscription:
        for _ in range(200):
            script.steps = [append]
            assert subscription.next_event(LONG_SECONDS) is not None
    return script.sleeps


def test_events_far_apart_are_never_delayed_where_a_processor_is_free(
    store: EventStore, script: Script
) -> None:
    append = append_after(store, script, seconds=0.01, thread_seconds=0.003, queued_seconds=0.001)
    assert sleeps_of_following(store, script, append) == []


@pytest.mark.parametrize("queued_seconds", [0.002, math.nan])
def test_events_far_apart_are_delayed_where_a_processor_may_be_missing(
    store: EventStore, script: Script, queued_seconds: float
) -> None:
    append = append_after(store, script, seconds=0.01, thread_seconds=0.003, queued_seconds=queued_seconds)
    assert sleeps_of_following(store, script, append)


def test_what_a_feed_waits_for_a_processor_counts_in_a_flood(store: EventStore, script: Script) -> None:
    def used(queued_seconds: float) -> float:
        """Return the processor time that a feed uses in a second of a flood."""
        append = append_after(
            store, script, seconds=0.001, thread_seconds=0.0003, queued_seconds=queued_seconds
        )
        script.during_sleep = lambda seconds: fill_from(store, store.head + round(seconds * 1000))
        script.thread_seconds = 0.0
        end = script.now + 1.0
        with store.subscribe(after=store.head) as subscription:
            while script.now < end:
                script.steps = [append]
                assert subscription.next_event(LONG_SECONDS) is not None
        return script.thread_seconds

    free = used(0.0)
    assert used(0.0006) < 0.6 * free
    assert used(math.nan) == pytest.approx(free, rel=0.1)


def test_a_feed_that_rested_in_a_flood_rests_no_more_once_events_are_far_apart(
    store: EventStore, script: Script
) -> None:
    def trickle(seconds: float) -> None:
        for _ in range(round(seconds * 100)):
            script.thread_seconds += 0.001
            fill_from(store, store.head + 1)

    flood = append_after(store, script, seconds=0.001, thread_seconds=0.001)
    slow = append_after(store, script, seconds=0.01, thread_seconds=0.001)
    with store.subscribe() as subscription:
        for append in [flood] * 100 + [slow] * 300:
            script.steps = [append]
            if append is slow:
                script.during_sleep = trickle
            assert subscription.next_event(LONG_SECONDS) is not None
        assert script.sleeps
        script.sleeps.clear()
        drain(subscription)
        for _ in range(100):
            script.steps = [slow]
            assert subscription.next_event(LONG_SECONDS) is not None
        assert script.sleeps == []


@pytest.mark.parametrize(("content", "seconds"), [("70 2500000000 3\n", 2.5), ("0 0 0\n", math.nan)])
def test_how_long_a_thread_has_waited_is_read_from_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, seconds: float
) -> None:
    path = tmp_path / "schedstat"
    monkeypatch.setattr(feed, "_SCHEDSTAT", str(path))
    assert math.isnan(feed._queued_seconds())  # another system
    path.write_text(content)
    assert feed._queued_seconds() == pytest.approx(seconds, nan_ok=True)


def test_the_kernel_is_not_asked_where_nothing_is_owed(
    store: EventStore, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def queued_seconds() -> float:
        asked.append(script.now)
        return 0.0

    monkeypatch.setattr(feed, "_queued_seconds", queued_seconds)
    sleeps_of_following(store, script, append_after(store, script, seconds=0.01, thread_seconds=0.0004))
    assert asked == []
    sleeps_of_following(store, script, append_after(store, script, seconds=0.01, thread_seconds=0.0006))
    assert asked


def test_an_exchange_that_goes_on_is_delayed_little(store: EventStore, script: Script) -> None:
    append = append_after(store, script, seconds=0.001, thread_seconds=0.0003)
    with store.subscribe() as subscription:
        for _ in range(100):
            script.steps = [append]
            assert subscription.next_event(LONG_SECONDS) is not None
        assert script.sleeps
        assert max(script.sleeps) < 0.01


@pytest.mark.parametrize(("look_seconds", "share"), [(0.0002, 1 / 40), (0.001, 1 / 40), (0.003, 1 / 25)])
def test_under_a_busy_writer_a_feed_rests_by_what_its_looks_cost(
    store: EventStore, script: Script, look_seconds: float, share: float
) -> None:
    def append(seconds: float = 0.001) -> None:
        for _ in range(max(1, int(seconds * 1000))):
            fill_from(store, store.head + 1)

    with store.subscribe() as subscription:
        script.steps = [append] * 10000
        script.during_sleep = append
        while script.now < 1002.0:
            if subscription.next_at_hand() is None:
                script.now += look_seconds
                script.thread_seconds += look_seconds
                assert subscription.next_event(LONG_SECONDS) is not None
        assert script.thread_seconds < 2.0 * share
        assert 0.0 < max(script.sleeps) <= 0.1
        script.during_sleep = lambda _: None
        script.steps = []
        drain(subscription)
        append()
        assert subscription.next_event(0) is not None  # what is there is there, rest or not
        drain(subscription)
        assert subscription.next_event(0.5) is None  # and quiet again
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
            with pytest.raises(Enough):  # noqa: PT012 - the alarm may come at once
                signal.setitimer(signal.ITIMER_REAL, 0.01)
                subscription.next_event(None)
            fill_from(store, 2)
            assert drain(subscription) == [1]
    finally:
        signal.signal(signal.SIGALRM, before)


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
