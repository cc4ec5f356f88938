"""Ending a run from elsewhere: another thread, a signal handler, a closed store, a forked child."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import evlog
from evlog import Event, EventFilter, EventStore, NewEvent
from evlog.errors import InvalidArgument, StoreClosed, StoreFull, SubscriptionAhead, SubscriptionBusy
from evlog.files.disk.files import ReadFile
from evlog.subscriptions.retry import MAX_ERROR_CHARACTERS, describe_error
from tests.support.following import drain, fill_from
from tests.support.helpers import engine_of, fill, new, numbers, open_files, small_store
from tests.support.programs import run_python

LONG_SECONDS = 60.0


@contextmanager
def handling_alarm(action: Callable[[], object]) -> Iterator[None]:
    """Call the action from a signal handler, when SIGALRM comes inside the block."""

    def handle(number: int, frame: FrameType | None) -> None:
        action()

    before = signal.signal(signal.SIGALRM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


# --- stop and close


@pytest.mark.parametrize("how", ["stop", "close"])
def test_a_signal_handler_ends_a_waiting_run(store: EventStore, how: str) -> None:
    fill(store, 3)
    with store.subscribe("mail") as run:
        seen = []
        with handling_alarm(getattr(run, how)):
            for event in run:
                seen.append(event.position)
                if event.position == 3:
                    run.acknowledge()
                    signal.setitimer(signal.ITIMER_REAL, 0.01)  # mostly it waits then
        assert seen == [1, 2, 3]
        assert run.next_event(None) is None
    assert store.subscription("mail").position == 3
    store.subscribe("mail").close()


def test_a_polling_run_is_woken_too(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inotify_simple", None)
    with store.subscribe() as run:
        thread = threading.Timer(0.01, run.stop)
        thread.start()
        assert run.next_event(None) is None
        thread.join()


def test_a_run_that_is_stopped_delivers_nothing_more(store: EventStore) -> None:
    fill(store, 20)
    with store.subscribe("mail") as run:
        seen = []
        for event in run:
            seen.append(event.position)
            if event.position == 5:
                run.stop()
        assert seen == [1, 2, 3, 4, 5]
        assert run.position == 5
        assert run.next_event(0) is run.next_at_hand() is None
    assert store.subscription("mail").position == 5


@pytest.mark.parametrize("while_it", ["handles", "waits", "pauses"])
@pytest.mark.parametrize("how", ["signal", "thread", "store"])
def test_consuming_ends_when_its_run_is_stopped(store: EventStore, how: str, while_it: str) -> None:
    fill(store, 3)
    run = store.subscribe("mail")
    thread = threading.Timer(0.01, store.close if how == "store" else run.stop)

    def handle(event: Event) -> None:
        if event.position < 3:
            return
        if while_it == "waits":
            run.acknowledge()
        if how == "signal":
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        else:
            thread.start()
        if while_it == "handles":
            signal.pause() if how == "signal" else thread.join()
        if while_it == "pauses":
            raise ValueError(event)

    ending = pytest.raises(StoreClosed) if how == "store" else nullcontext()
    with handling_alarm(run.stop), ending, run:
        run.consume(handle, retry_delay=LONG_SECONDS)
    undone = while_it == "pauses" or (while_it, how) == ("handles", "store")
    with evlog.open(store.path) as again:
        assert again.subscription("mail").position == (2 if undone else 3)


def test_what_consuming_leaves_comes_again_in_the_same_run_in_todays_shape(
    memory_path: Path,
) -> None:
    upcasters = evlog.Upcasters()
    upcasters.register("T", lambda data, _event: data + 100)
    with evlog.open(memory_path / "store", create=True, upcasters=upcasters) as store:
        store.append("a", [NewEvent("T", number) for number in range(6)])
        seen: list[int] = []

        def handle(event: Event) -> None:
            seen.append(event.json())
            if seen.count(event.json()) == 1 and event.position in (3, 5):
                raise ValueError(event)

        with store.subscribe("mail", follow=False) as run:
            assert next(run).json() == 100
            for _ in range(2):
                with pytest.raises(ValueError, match="position="):
                    run.consume(handle, retries=1)
            assert seen == [101, 102, 102, 103, 104]
            assert run.position == 4
            assert [event.json() for event in run] == [104, 105]


def test_a_run_without_a_name_is_consumed_and_cannot_park(store: EventStore) -> None:
    fill(store, 3)
    seen: list[Event] = []
    with store.subscribe(after=1, follow=False) as run:
        with pytest.raises(InvalidArgument, match="give it a name"):
            run.consume(seen.append, on_failure="park")
        run.consume(seen.append)
    assert [event.position for event in seen] == [2, 3]


def test_closing_from_another_thread_does_not_acknowledge_the_present_event(
    store: EventStore,
) -> None:
    fill(store, 20)
    run = store.subscribe("mail")
    seen = []
    for event in run:
        seen.append(event.position)
        if event.position == 5:
            closing = threading.Thread(target=run.close)
            closing.start()
            closing.join()
    assert seen == [1, 2, 3, 4, 5]
    assert store.subscription("mail").position == 4


def test_closing_while_the_checkpoint_is_being_saved_leaves_a_whole_one(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler may run between any two steps of a save."""
    fill(store, 10)
    disk = engine_of(store)._disk
    steps = ("create_file", "replace", "sync_dir")
    for step in steps:
        run = store.subscribe(step, follow=False)
        assert numbers(iter(lambda run=run: run.next_event(0), None)) == list(range(10))  # type: ignore[misc]
        original = getattr(disk, step)

        def interrupt(*arguments: Any, run: Any = run, original: Any = original, step: str = step) -> Any:
            monkeypatch.undo()
            run.close()
            return original(*arguments)

        monkeypatch.setattr(disk, step, interrupt)
        run.save()
        assert store.subscription(step).position == 10
        assert not store.subscription(step).running
        with pytest.raises(InvalidArgument):
            run.park(next(store.read_all()), "boom")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files cannot be counted here")
def test_a_run_that_waited_leaves_no_file_open(store: EventStore) -> None:
    fill(store, 3)
    store.subscribe("mail", idle=0.001).close()
    before = open_files(store.path)
    with store.subscribe("mail", idle=0.001) as run:
        assert numbers(run) == [0, 1, 2]
        assert len(open_files(store.path)) > len(before)
    assert open_files(store.path) == before


def test_a_closed_store_ends_its_runs_and_saves_their_checkpoints(store: EventStore) -> None:
    fill(store, 5)
    with small_store(store.path) as other:
        run = other.subscribe("mail")
        assert drain(run) == list(range(5))
        other.close()
        for use in (lambda: run.next_event(0), lambda: next(run), lambda: list(run)):
            with pytest.raises(StoreClosed):
                use()
        run.close()
    assert store.subscription("mail").position == 5


def test_a_checkpoint_that_cannot_be_saved_keeps_no_other_run_open(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise StoreFull("checkpoint", "no space")

    fill(store, 3)
    runs = [store.subscribe(name) for name in ("a", "b", "c")]
    for run in runs:
        run.next_event(0)
        run.acknowledge()
        monkeypatch.setattr(run._checkpoint, "save", fail)
    with pytest.raises(StoreFull):
        store.close()
    for run in runs:
        with pytest.raises(StoreClosed):
            run.next_event(None)
    with pytest.raises(StoreClosed):
        store.head  # noqa: B018 - it is a property
    with small_store(store.path) as other:
        assert [info.running for info in other.subscriptions()] == [False] * 3


def test_a_run_that_is_closed_meanwhile_parks_nothing_and_says_why(store: EventStore) -> None:
    fill(store, 2)
    with store.subscribe("mail") as run:
        event = next(run)
    with pytest.raises(InvalidArgument, match="the run is closed"):
        run.park(event, "no")

    def close(event: Event) -> None:
        store.close()
        raise ValueError(event)

    with pytest.raises(StoreClosed):
        store.consume("mail", close, retries=1, on_failure="park")


def test_a_loop_to_the_end_saves_what_it_was_given(store: EventStore) -> None:
    fill(store, 3)
    run = store.subscribe("loop", follow=False)
    assert numbers(run) == [0, 1, 2]
    assert store.subscription("loop").position == 3
    run.close()
    run = store.subscribe("next", follow=False)
    assert [next(run, None) is None for _ in range(4)] == [False, False, False, True]
    assert store.subscription("next").position == 3
    run.close()


# --- forks

FORK = """
import os, sys, evlog
store = evlog.open(sys.argv[1])
follower = store.subscribe(after=store.head - 1)
assert follower.next_event(0) and follower.next_event(0.001) is None
with store.subscribe("mail") as run:
    for _ in range(3):
        next(run)
    before = store.subscription("mail")
    pid = os.fork()
    if not pid:
        try:
            try:
                next(run)
            except evlog.SubscriptionBusy:
                run.acknowledge()
                run.save()
                run.close()
                store.append("child", [evlog.NewEvent("T")])
                assert follower.next_event(30).stream == "child"
                os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    after = store.subscription("mail")
    assert (after.position, after.saved_us) == (before.position, before.saved_us)
    assert next(run).position == 4
    assert follower.next_event(30).stream == "child"
assert store.subscription("mail").position == 3
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_leaves_its_parents_run_alone(store: EventStore) -> None:
    fill(store, 20)
    run_python("-c", FORK, store.path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_while_another_thread_waits_in_a_run_leaves_the_child_free(store: EventStore) -> None:
    """The waiting thread holds the run's mutex; the child has no such thread."""
    run = store.subscribe("mail")
    thread = threading.Thread(target=run.next_event)
    thread.start()
    while not run._inside:
        pass
    pid = os.fork()
    if not pid:
        try:
            signal.alarm(20)
            run.close()
            try:
                run.next_event(0)
            except SubscriptionBusy:
                os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    run.close()
    thread.join()


# --- where a run begins


def test_a_first_run_begins_with_what_is_in_the_log_already(store: EventStore) -> None:
    fill(store, 3)
    ahead = datetime.now(UTC) + timedelta(hours=1)
    for options in ({"after": 4}, {"since": ahead}):
        with pytest.raises(InvalidArgument):
            store.subscribe("mail", **options)
    assert store.subscriptions() == []
    with store.subscribe(after=4) as run:  # without a name it waits until the log is there
        fill_from(store, 6)
        assert drain(run) == [4, 5]
    with store.subscribe("mail", after=6) as run:
        fill_from(store, 7)
        assert drain(run) == [6]


def restored(store: EventStore, copy: Path, *, then: int) -> EventStore:
    """Put an older copy of the log in the place of the store's, with the present checkpoints, and go on."""
    store.close()
    shutil.move(f"{store.path}/subscriptions", copy / "subscriptions")
    shutil.rmtree(store.path)
    shutil.copytree(copy, store.path)
    again = small_store(store.path)
    for number in range(then):
        again.append("new", [new(100 + number)])
    return again


@pytest.mark.parametrize("then", [0, 3, 4, 5, 20])
@pytest.mark.parametrize("filter", [{}, {"stream": "s-0"}, {"types": ["none"]}])
def test_a_checkpoint_of_a_newer_log_than_the_restored_one_skips_nothing_silently(
    store: EventStore, memory_path: Path, filter: dict[str, Any], then: int
) -> None:
    fill(store, 6)
    shutil.copytree(store.path, memory_path / "copy")
    fill_from(store, 10)
    with store.subscribe("mail", follow=False, **filter) as run:
        list(run)
    with restored(store, memory_path / "copy", then=then) as again:
        with pytest.raises(SubscriptionAhead) as caught:
            again.subscribe("mail", **filter)
        assert (caught.value.checkpoint, caught.value.head) == (10, 6 + then)
        with pytest.raises(SubscriptionAhead):
            again.subscription("mail")
        again.reset_subscription("mail", 6)
        with again.subscribe("mail", follow=False, **filter) as run:
            assert numbers(run) == ([100 + number for number in range(then)] if not filter else [])


def test_a_checkpoint_in_the_common_part_of_both_logs_goes_on(store: EventStore, memory_path: Path) -> None:
    fill(store, 6)
    shutil.copytree(store.path, memory_path / "copy")
    with store.subscribe("mail", follow=False) as run:
        list(run)
    fill_from(store, 10)
    with restored(store, memory_path / "copy", then=2) as again, again.subscribe("mail", follow=False) as run:
        assert numbers(run) == [100, 101]


@pytest.mark.parametrize("then", [0, 1, 2, 3, 9])
def test_a_checkpoint_at_a_gap_is_at_the_event_before_it(
    store: EventStore, memory_path: Path, then: int
) -> None:
    """Of a position at which there is no event any more, an older log could have another one."""
    fill(store, 4)
    store.append("x", [new(4), new(5)])
    store.delete_stream("x")
    store.compact()
    with store.subscribe("mail", follow=False, after=6) as run:
        assert run.position == 6
    assert store.subscription("mail").position == 4
    store.reset_subscription("mail", 6)
    assert store.subscription("mail").position == 4
    with store.subscribe("mail") as run:
        assert drain(run) == []
        for number in range(then):
            store.append("y", [new(6 + number)])
        assert drain(run) == list(range(6, 6 + then))


# --- errors and what they cost


class Odd(Exception):
    def __str__(self) -> str:
        return str(self.args[7])


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Odd(), "Odd"),
        (ValueError("no"), "ValueError: no"),
        (KeyError(), "KeyError"),
        (ValueError("no file \udcff"), r"ValueError: no file \udcff"),
        (InvalidArgument("use another"), "use another"),
        (ValueError("x" * 1_000_000), "ValueError: " + "x" * (MAX_ERROR_CHARACTERS - 13) + "…"),
    ],
)
def test_every_error_has_a_text_of_bounded_length(error: Exception, text: str) -> None:
    assert describe_error(error) == text


def test_an_error_without_a_text_is_parked_like_any_other(store: EventStore) -> None:
    fill(store, 2)

    def handler(event: Event) -> None:
        raise Odd

    store.consume("mail", handler, follow=False, retries=1, on_failure="park")
    assert [place.error for place in store.parked("mail")] == ["Odd", "Odd"]


@pytest.mark.parametrize("fails", [True, False])
def test_a_replay_reads_the_list_once_however_long_it_is(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    fill(store, 30)

    def handler(event: Event) -> None:
        assert not fails

    store.consume("mail", lambda _: 1 // 0, follow=False, retries=1, on_failure="park")
    opened: list[str] = []

    def read_file(path: str) -> ReadFile:
        opened.append(path)
        return ReadFile(path)

    monkeypatch.setattr("evlog.files.follow.checkpoint_file.ReadFile", read_file)
    store.replay_parked("mail", handler)
    assert sum(path.endswith(".parked") for path in opened) <= 2
    assert len(store.parked("mail")) == (30 if fails else 0)


def test_a_filter_is_a_value() -> None:
    filter = EventFilter(category="a", types=["T", "S"])
    assert filter == EventFilter(None, "a", ("S", "T"))
    assert hash(filter) == hash(EventFilter(None, "a", ("S", "T")))
    assert filter != EventFilter(category="a")
    assert repr(filter) == "EventFilter(category='a', types=('S', 'T'))"
    assert str(EventFilter()) == "all events"
    with pytest.raises(AttributeError):
        filter.stream = "x"


def test_a_run_that_begins_while_its_store_is_closed_ends_too(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evlog.subscriptions import named

    begin = named.begin

    def begin_and_close(*arguments: Any, **options: Any) -> Any:
        run = begin(*arguments, **options)
        store.close()
        return run

    monkeypatch.setattr(named, "begin", begin_and_close)
    run = store.subscribe()
    with pytest.raises(StoreClosed):
        run.next_event(None)
