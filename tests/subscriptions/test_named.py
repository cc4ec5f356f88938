"""Named subscriptions: runs that go on where the last one ended, handlers that fail, what is parked."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from evlog import Event, EventFilter, EventStore
from evlog.errors import (
    CorruptionError,
    InvalidArgument,
    StoreAccessDenied,
    StoreFull,
    StoreNotFound,
    StoreReplaced,
    SubscriptionAhead,
    SubscriptionBusy,
    SubscriptionNotFound,
)
from evlog.files.format import paths
from evlog.model.checkpoints import Checkpoint
from evlog.subscriptions.retry import Failure, attempt
from evlog.subscriptions.run import Subscription
from tests.support.helpers import (
    Clock,
    engine_of,
    fill,
    flip_bit,
    new,
    numbers,
    segment_files,
    small_store,
)
from tests.support.programs import next_line, start_python

CONSUMER = """
import sys, evlog
with evlog.open(sys.argv[1]) as store:
    for event in store.subscribe("mail"):
        print(event.position, flush=True)
"""


class Failing:
    """A handler that fails for some numbers, some or all of the times."""

    def __init__(self, failures: dict[int, int]) -> None:
        self.failures = dict(failures)
        self.called: list[int] = []

    def __call__(self, event: Event) -> None:
        number = int(event.data)
        self.called.append(number)
        if self.failures.get(number, 0):
            self.failures[number] -= 1
            raise ValueError(f"cannot handle {number}")


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between retries, which take no time here."""
    slept: list[float] = []
    monkeypatch.setattr("evlog.subscriptions.retry.time.sleep", slept.append)
    monkeypatch.setattr(Subscription, "rest", lambda _run, seconds: slept.append(seconds))
    return slept


def names_on_disk(store: EventStore) -> list[str]:
    return sorted(os.listdir(paths.subscriptions_path(store.path)))


# --- runs


def test_an_event_that_was_not_acknowledged_comes_again(store: EventStore) -> None:
    fill(store, 10)
    with store.subscribe("mail") as run:
        for event in run:
            if event.position == 4:
                break
    assert store.subscription("mail").position == 3
    with store.subscribe("mail") as run:
        assert next(run).position == 4
        run.acknowledge()
    with store.subscribe("mail") as run:
        assert next(run).position == 5


def test_an_error_in_the_loop_leaves_its_event_unacknowledged(store: EventStore) -> None:
    fill(store, 10)
    with pytest.raises(ZeroDivisionError), store.subscribe("mail") as run:
        assert [1 // (event.position - 7) for event in run]
    assert store.subscription("mail").position == 6


def test_a_filtered_run_moves_on_over_what_does_not_match(store: EventStore) -> None:
    fill(store, 10)
    with store.subscribe("mail", types=["none"], timeout=0) as run:
        assert list(run) == []
        assert run.position == 10
    info = store.subscription("mail")
    assert (info.position, info.lag_events, info.lag_seconds) == (10, 0, 0.0)


def test_where_it_begins_counts_for_the_first_run_only(store: EventStore) -> None:
    fill(store, 10)
    with store.subscribe("mail", after=7, timeout=0) as run:
        assert numbers(run) == [7, 8, 9]
    with store.subscribe("mail", after=2, timeout=0) as run:
        assert numbers(run) == []


def test_a_name_keeps_its_filter(store: EventStore) -> None:
    fill(store, 10)
    store.subscribe("mail", types=["B", "A"]).close()
    store.subscribe("mail", types=["A", "B"]).close()
    for other in ({"types": ["A"]}, {"types": ["A", "B"], "category": "s"}, {"stream": "s-1"}):
        with pytest.raises(InvalidArgument, match="another name"):
            store.subscribe("mail", **other)
    store.subscribe("mail").close()  # its own filter
    assert store.subscription("mail").filter == EventFilter(types=("A", "B"))
    assert not store.subscription("mail").running


def test_one_run_of_a_name_at_a_time_and_none_left_locked(store: EventStore) -> None:
    run = store.subscribe("mail")
    for path in (store.path, store.path + "/."):
        with small_store(path) as other, pytest.raises(SubscriptionBusy):
            other.subscribe("mail")
    store.subscribe("other").close()
    run.close()
    store.subscribe("mail").close()


def test_a_crashed_runs_name_is_free_at_once_and_little_comes_again(store: EventStore) -> None:
    fill(store, 20)
    with start_python("-c", CONSUMER, store.path) as process:
        assert [int(next_line(process)) for _ in range(20)] == list(range(1, 21))
        assert store.subscription("mail").running
        process.kill()
    with store.subscribe("mail", timeout=0) as run:
        again = [event.position for event in run]
    assert again == list(range(21 - len(again), 21))


def test_the_checkpoint_is_saved_about_once_a_second_and_at_the_end(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("evlog.subscriptions.run.time.monotonic", lambda: now[0])
    fill(store, 60)
    for taking in ("loop", "calls"):
        saved: set[int] = set()
        with store.subscribe(taking, follow=False) as run:
            events = run if taking == "loop" else iter(lambda run=run: run.next_event(0), None)  # type: ignore[misc]
            for _ in events:
                saved.add(store.subscription(taking).position)
                now[0] += 0.125
        assert sorted(saved) == list(range(0, 60, 8))
        assert store.subscription(taking).position == 60


def test_a_run_whose_store_was_moved_ends_with_that(memory_path: Path) -> None:
    store = small_store(memory_path / "store", sync="none")
    fill(store, 3)
    run = store.subscribe("mail", timeout=0)
    assert numbers([event for event in (run.next_event(), run.next_event()) if event]) == [0, 1]
    os.rename(store.path, memory_path / "elsewhere")
    uses: list[Callable[[], object]] = [
        lambda: store.append("s-1", [new()]),
        run.close,  # it has a checkpoint to save
        lambda: store.subscribe("mail"),
        store.compact,
    ]
    for use in uses:
        with pytest.raises(StoreNotFound) as caught:
            use()
        assert caught.value.path == store.path
    store.close()


def test_a_run_whose_store_was_replaced_ends_with_that(memory_path: Path) -> None:
    with small_store(memory_path / "store", sync="none") as store:
        fill(store, 3)
        run = store.subscribe("mail", timeout=0)
        assert numbers([event for event in (run.next_event(), run.next_event()) if event]) == [0, 1]
        os.rename(store.path, memory_path / "elsewhere")
        small_store(store.path).close()
        with pytest.raises(StoreReplaced):
            run.close()


def test_a_run_ends_well_after_a_compaction_has_replaced_the_active_segment(memory_path: Path) -> None:
    with small_store(memory_path / "store", sync="none") as store:
        fill(store, 3)
        with small_store(memory_path / "store") as other, store.subscribe("mail", timeout=0) as run:
            assert numbers([event for event in (run.next_event(), run.next_event()) if event]) == [0, 1]
            other.delete_stream("s-2")
            assert other.compact(force=True).events_removed
        assert store.subscription("mail").position == 1


def test_no_room_for_a_checkpoint_stops_nobody_but_is_told_at_the_end(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 10)
    run = store.subscribe("mail", follow=False)

    def refuse(path: str, content: bytes) -> None:
        raise StoreFull(path, "No space left on device")

    monkeypatch.setattr(engine_of(store)._disk, "create_file", refuse)
    monkeypatch.setattr("evlog.subscriptions.run._SAVE_SECONDS", 0.0)
    run._save_due = 0.0
    assert len(list(run)) == 10
    with pytest.raises(StoreFull):
        run.close()
    monkeypatch.undo()
    assert not store.subscription("mail").running
    with store.subscribe("mail", follow=False) as run:
        assert len(list(run)) == 10


@pytest.mark.parametrize("name", ["", "x" * 101, "a\nb"])
def test_a_bad_name_is_refused_wherever_it_is_given(store: EventStore, name: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.subscribe(name),
        lambda: store.consume(name, print),
        lambda: store.subscription(name),
        lambda: store.parked(name),
        lambda: store.reset_subscription(name, 0),
        lambda: store.delete_subscription(name),
        lambda: store.replay_parked(name, print),
    ]
    for call in calls:
        with pytest.raises(InvalidArgument):
            call()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_name_needs_permission_to_write(store: EventStore) -> None:
    os.chmod(store.path, 0o555)
    try:
        with pytest.raises(StoreAccessDenied):
            store.subscribe("mail")
    finally:
        os.chmod(store.path, 0o755)


def test_a_checkpoint_beyond_the_end_of_the_log_is_not_silently_waited_out(
    store: EventStore, memory_path: Path
) -> None:
    fill(store, 10)
    store.subscribe("mail", after=10).close()
    with small_store(memory_path / "older") as older:
        fill(older, 4)
        files = older.engine.checkpoint("mail")
        files.acquire()
        files.create(Checkpoint(10, bytes(16), EventFilter()))
        files.release()
        with pytest.raises(SubscriptionAhead, match="position 10"):
            older.subscribe("mail")
        with pytest.raises(SubscriptionAhead, match="position 10"):
            older.subscription("mail")
        [info] = older.subscriptions()
        assert (info.position, info.lag_events, "position 10" in str(info.damage)) == (10, 0, True)
        fill(older, 8)  # now the log is longer than the checkpoint, with another event there
        assert older.subscriptions()[0].damage is not None
        older.reset_subscription("mail", 4)
        older.subscribe("mail").close()
        assert older.subscriptions()[0].damage is None


# --- handlers


def test_a_failing_handler_is_called_again_after_growing_pauses(
    store: EventStore, pauses: list[float]
) -> None:
    fill(store, 3)
    handler = Failing({1: 9})
    store.consume("mail", handler, follow=False, retries=10)
    assert handler.called == [0, *[1] * 10, 2]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])


def test_after_so_many_failures_the_last_error_comes_out_and_the_event_again(store: EventStore) -> None:
    fill(store, 5)
    handler = Failing({2: 4})
    with pytest.raises(ValueError, match="cannot handle 2"):
        store.consume("mail", handler, follow=False)
    assert handler.called == [0, 1, 2, 2, 2]
    assert store.subscription("mail").position == 2
    assert not store.subscription("mail").running
    store.consume("mail", handler, follow=False)
    assert handler.called == [0, 1, 2, 2, 2, 2, 2, 3, 4]


@pytest.mark.parametrize("seconds", [math.inf, 1e300, 10**30])
def test_a_pause_is_never_longer_than_a_thread_can_sleep(
    store: EventStore, pauses: list[float], seconds: float
) -> None:
    fill(store, 1)
    store.consume("mail", Failing({0: 1}), follow=False, retries=2, retry_delay=seconds)
    assert 10**9 < pauses[0] < threading.TIMEOUT_MAX


@pytest.mark.parametrize("retries", [0, 1])
def test_without_retries_the_first_failure_is_the_last(
    store: EventStore, retries: int, pauses: list[float]
) -> None:
    fill(store, 1)
    with pytest.raises(ValueError, match="cannot handle 0"):
        store.consume("mail", Failing({0: 1}), follow=False, retries=retries)
    assert pauses == []


def test_what_is_parked_is_not_handled_again_after_a_crash(store: EventStore) -> None:
    fill(store, 3)
    with store.subscribe("mail") as run:
        run.park(next(run), "boom")
        assert store.subscription("mail").position == 1  # saved at once
        with pytest.raises(InvalidArgument):
            run.park(next(store.read_all()), "boom")


def test_an_interrupt_is_not_a_failure_of_the_handler(store: EventStore) -> None:
    fill(store, 3)

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.consume("mail", interrupt, on_failure="park")
    assert store.parked("mail") == []
    assert store.subscription("mail").position == 0


@pytest.mark.parametrize("bad", [{"retries": -1}, {"on_failure": "ignore"}, {"timeout": -1}])
def test_arguments_that_make_no_sense_are_refused(store: EventStore, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        store.consume("mail", print, **bad)
    assert store.subscriptions() == []


def test_an_attempt_tells_of_each_failure_but_the_last(store: EventStore) -> None:
    fill(store, 1)
    event = next(store.read_all())
    told: list[tuple[str, int, float]] = []
    failure = attempt(
        Failing({0: 5}), event, 3, lambda error, number, pause: told.append((str(error), number, pause))
    )
    assert told == [("cannot handle 0", 1, 0.1), ("cannot handle 0", 2, 0.2)]
    assert isinstance(failure, Failure)
    assert failure.attempts == 3
    assert attempt(Failing({0: 2}), event, 3) is None


# --- parked events


@pytest.fixture
def parked(store: EventStore) -> EventStore:
    """A store whose subscription has parked the numbers 2, 5 and 7."""
    fill(store, 10)
    store.consume("mail", Failing({2: 9, 5: 9, 7: 9}), follow=False, retries=1, on_failure="park")
    return store


def test_a_replay_that_is_interrupted_keeps_what_it_has_not_handled(parked: EventStore) -> None:
    def handler(event: Event) -> None:
        if event.data == b"5":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parked.replay_parked("mail", handler)
    assert [event.position for event in parked.parked("mail")] == [6, 8]
    parked.subscribe("mail").close()


async def in_a_coroutine(event: Event) -> None:
    raise AssertionError


def in_a_generator(event: Event) -> Iterator[None]:
    yield


async def in_an_async_generator(event: Event) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize("handler", [in_a_coroutine, in_a_generator, in_an_async_generator])
def test_a_handler_of_which_a_call_runs_nothing_acknowledges_nothing(
    parked: EventStore, handler: Callable[[Event], object]
) -> None:
    hidden = partial(lambda handler, event: handler(event), handler)
    with pytest.raises(InvalidArgument, match="of which nothing has run; give a function that has handled"):
        parked.consume("other", hidden, follow=False, on_failure="park")
    assert (parked.subscription("other").position, parked.parked("other")) == (0, [])
    before = parked.parked("mail")
    with pytest.raises(InvalidArgument, match="of which nothing has run"):
        parked.replay_parked("mail", hidden)
    assert parked.parked("mail") == before


def test_a_handler_that_cannot_be_called_with_an_event_is_refused_before_any(parked: EventStore) -> None:
    before = parked.parked("mail")
    wrong: list[Any] = [lambda: None, lambda event, connection: None, parked.redact]
    for handler in wrong:
        with pytest.raises(InvalidArgument, match="the handler cannot be called with the event: "):
            parked.consume("other", handler, follow=False, on_failure="park")
        with pytest.raises(InvalidArgument, match="the handler cannot be called with the event: "):
            parked.replay_parked("mail", handler)
    assert "other" not in {info.name for info in parked.subscriptions()}
    assert parked.parked("mail") == before
    seen: list[Event] = []
    parked.consume("other", seen.append, follow=False)
    assert len(seen) == 10


def test_parked_events_that_a_compaction_removed_leave_the_list(parked: EventStore) -> None:
    parked.set_retention("s-2", max_count=1)  # 2 and 5 are in it
    parked.compact()
    assert parked.replay_parked("mail", Failing({})) == (1, 0, 2)
    assert parked.parked("mail") == []


# --- looking after them


def test_a_list_says_how_far_behind_each_is(
    store: EventStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        clock.us += 1_000_000
        store.append("s", [new(number)])
    monkeypatch.setattr("evlog.subscriptions.named.now_ns", lambda: (clock.us + 5_000_000) * 1000)
    assert store.subscriptions() == []
    running = store.subscribe("b", after=4, types=["T"])
    with store.subscribe("a", timeout=0) as run:
        list(run)
    a, b = store.subscriptions()
    assert a[:7] == ("a", EventFilter(), 10, 0, 0.0, 0, False)
    assert b[:7] == ("b", EventFilter(types=("T",)), 4, 6, 10.0, 0, True)
    assert a.saved_us > 0
    assert store.subscription("b") == b
    running.close()


def test_what_there_is_not_is_not_found_and_not_made(store: EventStore) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.subscription("mail"),
        lambda: store.parked("mail"),
        lambda: store.reset_subscription("mail", 0),
        lambda: store.delete_subscription("mail"),
        lambda: store.replay_parked("mail", print),
    ]
    for call in calls:
        with pytest.raises(SubscriptionNotFound):
            call()
    assert not os.path.exists(paths.subscriptions_path(store.path))


def test_a_reset_has_the_next_run_begin_elsewhere(store: EventStore) -> None:
    fill(store, 10)
    store.consume("mail", print, follow=False, types=["T0"])
    store.reset_subscription("mail", 4)
    with store.subscribe("mail", types=["T0"], follow=False) as run:
        assert numbers(run) == [4, 6, 8]
        with pytest.raises(SubscriptionBusy):
            store.reset_subscription("mail", 0)
    store.reset_subscription("mail", 0)
    store.reset_subscription("mail", 10)
    for to in (-1, 11):
        with pytest.raises(InvalidArgument):
            store.reset_subscription("mail", to)
    assert store.subscription("mail").position == 10


def test_deleting_forgets_everything(parked: EventStore) -> None:
    run = parked.subscribe("mail")
    with pytest.raises(SubscriptionBusy):
        parked.delete_subscription("mail")
    run.close()
    parked.delete_subscription("mail")
    assert parked.subscriptions() == []
    assert names_on_disk(parked) == []
    with parked.subscribe("mail", types=["T1"], timeout=0) as run:  # the name is free for another filter
        assert numbers(run) == [1, 3, 5, 7, 9]
    assert parked.parked("mail") == []


def test_a_damaged_checkpoint_hides_no_other_and_is_reset_or_deleted_but_not_run(store: EventStore) -> None:
    store.subscribe("mail", types=["A"]).close()
    store.subscribe("other").close()
    path = Path(paths.subscription_path(store.path, "mail", "json"))
    path.write_bytes(path.read_bytes()[:-3])
    calls: list[Callable[[], object]] = [
        lambda: store.subscribe("mail"),
        lambda: store.subscription("mail"),
    ]
    for call in calls:
        with pytest.raises(CorruptionError, match="reset"):
            call()
    damaged, other = store.subscriptions()
    assert (damaged.name, other.name, other.damage) == ("mail", "other", None)
    assert damaged.damage is not None
    store.reset_subscription("mail", 0)
    store.subscribe("mail", types=["B"]).close()  # its filter is not known any more: the next run sets it
    assert store.subscription("mail").filter == EventFilter(types=["B"])
    with pytest.raises(InvalidArgument):
        store.subscribe("mail", types=["A"])
    path.write_bytes(b"")
    store.delete_subscription("mail")
    store.subscribe("mail").close()


def test_consume_needs_a_name(store: EventStore) -> None:
    fill(store, 1)
    nothing: Any = None
    with pytest.raises(InvalidArgument, match="name"):
        store.consume(nothing, lambda _: None, follow=False)


def test_damage_of_the_log_is_not_taken_for_damage_of_a_subscription(store: EventStore) -> None:
    fill(store, 20)
    log = segment_files(store, "log")[1]  # positions 9 to 16
    flip_bit(log, -2)
    with small_store(store.path) as fresh:
        with pytest.raises(CorruptionError), fresh.subscribe("mail") as run:
            list(run)
        info = fresh.subscription("mail")
        assert (info.position, info.lag_events, info.damage) == (15, 5, None)
        assert info.lag_seconds > 0
        assert fresh.subscriptions()[0].position == 15
