"""asyncio: appends, reads and subscriptions; what cancelling, stopping and closing leave."""

from __future__ import annotations

import asyncio
import gc
import inspect
import signal
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar, assert_type

import pytest

import evlog
from evlog import (
    CorruptionError,
    InvalidArgument,
    NewEvent,
    StoreClosed,
    StoreFull,
    StoreNotFound,
    SubscriptionBusy,
    WrongExpectedVersion,
    aio,
)
from evlog.aio.workers import Workers

_T = TypeVar("_T")

LONG_SECONDS = 60.0


def run(body: Coroutine[Any, Any, _T]) -> _T:
    async def bounded() -> _T:
        async with asyncio.timeout(LONG_SECONDS):
            return await body

    return asyncio.run(bounded())


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def new(number: int) -> NewEvent:
    return NewEvent("T", number)


def number_of(event: evlog.Event) -> int:
    return int(event.data)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - threads make it true
        await asyncio.sleep(0.001)


def follower_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "evlog-subscription"}


async def canceled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_it_appends_and_reads_as_a_store_does(path: str) -> None:
    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store:
            result = await store.append("a", [new(1), new(2)], evlog.NO_STREAM)
            assert (result.first_version, result.last_version) == (1, 2)
            with pytest.raises(WrongExpectedVersion):
                await store.append("a", [new(3)], 1)
            one, other = await store.append_many([("b", [new(3)]), ("a", [new(4)], 2)])
            assert (one.last_position, other.last_position) == (3, 4)
            [decided] = await store.transact("a", lambda history: [new(len(history))])
            assert decided.last_version == 4
            assert [number_of(event) async for event in store.read("a")] == [1, 2, 4, 3]
            assert [number_of(event) async for event in store.read("a", reverse=True, limit=1)] == [3]
            assert [number_of(event) async for event in store.read_all(after=2)] == [3, 4, 3]
            last = await store.last("a")
            assert last is not None
            assert number_of(last) == 3
            assert await store.last("none") is None
            assert len(await store.query("type=T")) == 5
            assert (await store.call(store.store.info)).events == 5
            with pytest.raises(InvalidArgument):
                await anext(store.read("a", -1))
        with pytest.raises(StoreClosed):
            store.store.head  # noqa: B018

    run(body())


def test_a_read_is_of_any_length(path: str) -> None:
    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store:
            await store.append("a", [new(number) for number in range(5000)])
            assert [number_of(event) async for event in store.read("a")] == list(range(5000))
            events = store.read_all()
            assert [number_of(await anext(events)) for _ in range(40)] == list(range(40))

    run(body())


def test_no_store_is_an_error_of_open(path: str) -> None:
    with pytest.raises(StoreNotFound):
        run(aio.open(path))


def test_tasks_append_at_the_same_time_and_lose_nothing(path: str) -> None:
    async def body() -> None:
        async with await aio.open(path, create=True, threads=8) as store:

            async def append(stream: str) -> None:
                for number in range(10):
                    await store.append(stream, [new(number)], number)

            await asyncio.gather(*(append(f"s-{number}") for number in range(32)))
            assert store.store.head == 320

    run(body())


def test_the_loop_goes_on_while_a_call_blocks(path: str) -> None:
    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store:
            blocked = threading.Event()
            waiting = asyncio.create_task(store.call(blocked.wait, LONG_SECONDS))
            await store.append("a", [new(1)])  # by another thread
            assert not waiting.done()
            blocked.set()
            assert await waiting

    run(body())


def test_a_canceled_append_that_has_begun_goes_on_and_one_that_waits_is_dropped(path: str) -> None:
    async def body() -> None:
        async with await aio.open(path, create=True, threads=1, sync="none") as store:
            begun, blocked = threading.Event(), threading.Event()

            def decide(_: list[evlog.Event]) -> list[NewEvent]:
                begun.set()
                assert blocked.wait(LONG_SECONDS)
                return [new(1)]

            first = asyncio.create_task(store.transact("first", decide))
            await until(begun.is_set)
            second = asyncio.create_task(store.append("second", [new(2)]))
            await asyncio.sleep(0)
            await canceled(first)
            await canceled(second)
            blocked.set()
            third = await store.append("third", [new(3)])  # behind both in the only thread
            assert third.first_position == 2
            assert [event.stream async for event in store.read_all()] == ["first", "third"]

    run(body())


def test_what_a_call_raises_is_raised(path: str) -> None:
    def stop() -> None:
        raise StopIteration

    async def body() -> None:
        workers = Workers(1, "test")
        with pytest.raises(ZeroDivisionError):
            await workers.submit(lambda: 1 // 0)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await workers.submit(stop)
        workers.stop()

    run(body())


# --- following


async def first(events: AsyncIterator[evlog.Event], count: int) -> list[int]:
    return [number_of(await anext(events)) for _ in range(count)]


def test_a_subscription_delivers_what_is_there_and_what_comes(path: str) -> None:
    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store:
            await store.append("a", [new(number) for number in range(700)])
            async with store.subscribe() as events:
                assert events.position == 0
                assert await first(events, 700) == list(range(700))
                waiting = asyncio.create_task(first(events, 1))
                await asyncio.sleep(0)
                await store.append("b", [new(700)])
                assert await waiting == [700]
                assert events.position == 700  # the last one is not acknowledged
            assert [number_of(event) async for event in store.subscribe(follow=False, after=699)] == [
                699,
                700,
            ]
            assert [event async for event in store.subscribe(after=701, idle=0.001)] == []
            assert [event async for event in store.subscribe(after=701, timeout=0.001)] == []

    run(body())


def test_a_canceled_wait_loses_no_event(path: str) -> None:
    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store:
            async with store.subscribe("mail") as events:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(events), 0.001)
                await store.append("a", [new(1), new(2)])
                assert await first(events, 1) == [1]
            async with store.subscribe("mail") as events:
                assert await first(events, 1) == [1]  # it was not acknowledged
                events.acknowledge()
            async with store.subscribe("mail") as events:
                assert await first(events, 1) == [2]
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(events), 0.001)  # which acknowledged it
                await store.append("a", [new(3)])
                # The thread takes it for the task that was cancelled: it was not delivered.
                await until(lambda: bool(events._follower.taken))
            async with store.subscribe("mail") as events:
                assert await first(events, 1) == [3]

    run(body())


def test_a_task_that_asks_while_the_thread_takes_for_a_canceled_one_gets_its_events(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_taken, may_end = threading.Event(), threading.Event()
    at_hand = evlog.Subscription.next_at_hand

    def held(run: evlog.Subscription) -> evlog.Event | None:
        if run._handed is not None:  # the thread has taken the first event, and not ended
            has_taken.set()
            assert may_end.wait(LONG_SECONDS)
        return at_hand(run)

    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store:
            await store.append("a", [new(1)])
            async with store.subscribe() as events:
                monkeypatch.setattr(evlog.Subscription, "next_at_hand", held)
                first_task = asyncio.create_task(anext(events))
                await until(has_taken.is_set)
                await canceled(first_task)
                second_task = asyncio.create_task(anext(events))
                await asyncio.sleep(0)
                may_end.set()
                assert number_of(await second_task) == 1
                await store.append("a", [new(2)])
                assert await first(events, 1) == [2]

    run(body())


def test_a_checkpoint_passes_only_what_was_acknowledged(path: str) -> None:
    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store:
            await store.append("a", [new(number) for number in range(1, 10)])
            async with store.subscribe("mail") as events:
                assert await first(events, 4) == [1, 2, 3, 4]
                assert events.position == 3
                events._save_due = 0.0
                assert await first(events, 1) == [5]
                assert store.store.subscription("mail").position == 4
            assert store.store.subscription("mail").position == 4
            async for event in (events := store.subscribe("mail")):
                if event.position == 7:
                    events.stop()
            await events.close()
            await events.close()
            assert store.store.subscription("mail").position == 7

    run(body())


def test_a_parked_event_is_passed_and_those_taken_with_it_are_not(path: str) -> None:
    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store:
            await store.append("a", [new(number) for number in range(1, 6)])
            async with store.subscribe("mail") as events:
                await first(events, 1)
                event = await anext(events)
                await events.park(event, "no")
                assert store.store.subscription("mail").position == 2
                with pytest.raises(InvalidArgument):
                    await events.park(event, "no")
                assert await first(events, 2) == [3, 4]
            assert store.store.subscription("mail").position == 3
            async with store.subscribe("mail", follow=False) as events:
                async for event in events:
                    if event.position in (4, 5):
                        await events.park(event, "no")
            assert [parked.position for parked in store.store.parked("mail")] == [2, 4, 5]
            async with store.subscribe("other") as events:
                await events.park(await anext(events), "no")
                assert await first(events, 4) == [2, 3, 4, 5]
                events.acknowledge()
            assert store.store.subscription("other").position == 5
            assert store.store.subscription("mail").position == 5

    run(body())


@pytest.mark.parametrize("by", ["park", "consume"])
def test_a_canceled_park_acknowledges_its_event_alone(
    path: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, blocked = threading.Event(), threading.Event()
    park = evlog.Subscription.park

    def park_slowly(*arguments: Any, **options: Any) -> None:
        begun.set()
        blocked.wait(LONG_SECONDS)
        park(*arguments, **options)

    async def fail(event: evlog.Event) -> None:
        raise ValueError(event.position)

    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store:
            await store.append("a", [new(number) for number in range(1, 6)])
            async with store.subscribe("mail") as events:
                if by == "park":
                    parking = events.park(await anext(events), "no")
                else:
                    parking = events.consume(fail, retries=1, on_failure="park")
                task = asyncio.create_task(parking)
                await until(begun.is_set)
                await canceled(task)
                if by == "park":
                    assert (await anext(events)).position == 2
                blocked.set()
            assert store.store.subscription("mail").position == 1
            assert [parked.position for parked in store.store.parked("mail")] == [1]

    monkeypatch.setattr(evlog.Subscription, "park", park_slowly)
    run(body())


def test_a_name_is_free_when_its_run_is_closed(path: str) -> None:
    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store:
            await store.append("a", [new(1)])
            async with store.subscribe("mail") as events:
                await first(events, 1)
                with pytest.raises(SubscriptionBusy):
                    await anext(store.subscribe("mail"))
            async with store.subscribe("mail") as events:
                await first(events, 1)

    run(body())


@pytest.mark.parametrize("how", ["thread", "signal", "task"])
def test_stop_wakes_a_waiting_task(path: str, how: str) -> None:
    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store:
            events = store.subscribe()
            waiting = asyncio.create_task(_count(events))
            await until(lambda: events._follower.run is not None)
            if how == "thread":
                threading.Thread(target=events.stop).start()
            elif how == "signal":
                before = signal.signal(signal.SIGUSR1, lambda *_: events.stop())
                try:
                    signal.raise_signal(signal.SIGUSR1)
                finally:
                    signal.signal(signal.SIGUSR1, before)
            else:
                await events.close()
            assert await waiting == 0
            assert await _count(events) == 0

    run(body())


async def _count(events: AsyncIterator[evlog.Event]) -> int:
    return len([event async for event in events])


def test_closing_the_store_ends_a_waiting_task(path: str) -> None:
    async def body() -> None:
        store = await aio.open(path, create=True, sync="none")
        events = store.subscribe("mail")
        waiting = asyncio.create_task(_count(events))
        await until(lambda: events._follower.run is not None)
        await store.close()
        with pytest.raises(StoreClosed):
            await waiting
        await events.close()

    run(body())


@pytest.mark.parametrize("forgotten", [True, False])
def test_a_canceled_task_leaves_no_thread(path: str, forgotten: bool) -> None:
    async def follow(store: aio.AsyncStore) -> None:
        if forgotten:
            async for _ in store.subscribe():
                pass
        else:
            async with store.subscribe("mail") as events:
                async for _ in events:
                    pass

    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store:
            before = follower_threads()  # of a test before this one, perhaps, which are about to end
            tasks = [asyncio.create_task(follow(store)) for _ in range(5 if forgotten else 1)]
            count = len(tasks)
            await until(lambda: len(follower_threads() - before) == count)
            for task in tasks:
                await canceled(task)
            del task, tasks
            gc.collect()
            await until(lambda: not follower_threads() - before)

    run(body())


def test_the_end_of_the_loop_does_not_wait_for_calls(path: str) -> None:
    blocked = threading.Event()

    async def body() -> Workers:
        workers = Workers(1, "test")
        workers.submit(blocked.wait, LONG_SECONDS)
        workers.stop()
        return workers

    workers = run(body())
    blocked.set()  # its result finds the loop closed
    del workers


def test_a_canceled_call_keeps_its_thread_and_another_call_gets_another() -> None:
    blocked = threading.Event()

    async def body() -> None:
        workers = Workers(2, "test")
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        def block() -> None:
            loop.call_soon_threadsafe(begun.set)
            blocked.wait(LONG_SECONDS)

        call = workers.submit(block)
        await begun.wait()
        call.cancel()
        await asyncio.sleep(0)
        assert await workers.submit(int) == 0
        blocked.set()
        workers.stop()

    run(body())


def test_a_call_has_the_context_variables_of_its_task(path: str) -> None:
    user = ContextVar("user", default="nobody")

    async def decided_by(name: str, store: aio.AsyncStore) -> str:
        user.set(name)
        await store.transact(name, lambda _: [NewEvent("T", user.get())])
        assert await store.call(user.get) == name
        last = await store.last(name)
        assert last is not None
        return str(last.json())

    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store:
            names = ["ann", "bob", "eve"]
            assert await asyncio.gather(*(decided_by(name, store) for name in names)) == names

    run(body())


class Large:
    pass


def test_a_result_is_kept_by_no_thread() -> None:
    async def body() -> None:
        workers = Workers(1, "test")
        result = weakref.ref(await workers.submit(Large))
        await until(lambda: result() is None)
        workers.stop()

    run(body())


def test_a_thread_that_cannot_be_started_now_is_started_by_a_later_call(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store:
            await store.append("a", [new(1), new(2)])
            async with store.subscribe("mail") as events:
                with monkeypatch.context() as patch:
                    patch.setattr(threading.Thread, "start", refuse)
                    with pytest.raises(RuntimeError, match="new thread"):
                        await anext(events)
                assert number_of(await anext(events)) == 1
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", refuse)
                # By the thread that there is.
                last = await asyncio.gather(*(store.last("a") for _ in range(5)))
            assert [event and number_of(event) for event in last] == [2] * 5

    run(body())


def test_another_event_loop_is_refused_before_anything_is_done(path: str) -> None:
    async def begin() -> tuple[aio.AsyncStore, aio.AsyncSubscription]:
        store = await aio.open(path, create=True, sync="none")
        await store.append("a", [new(1)])
        events = store.subscribe("mail")
        await anext(events)
        return store, events

    async def use(store: aio.AsyncStore, events: aio.AsyncSubscription) -> None:
        for call in (store.append("a", [new(2)]), anext(events), events.close()):
            with pytest.raises(InvalidArgument, match="another event loop"):
                await call
        assert store.store.head == 1
        await store.close()

    run(use(*run(begin())))


def test_a_closed_store_refuses_every_call(path: str) -> None:
    async def body() -> None:
        store = await aio.open(path, create=True, sync="none")
        await store.append("a", [new(1)])
        events = store.subscribe("mail")
        event = await anext(events)
        await store.close()
        await store.close()
        await events.close()
        with pytest.raises(StoreClosed):
            await store.append("a", [new(2)])
        with pytest.raises(StoreClosed):
            await store.last("a")
        with pytest.raises(StoreClosed):
            await anext(store.read("a"))
        with pytest.raises(StoreClosed):
            await anext(store.subscribe())
        with pytest.raises(StoreClosed):
            await events.park(event, "no")

    run(body())


def test_closing_the_store_does_not_wait_for_calls(path: str) -> None:
    blocked = threading.Event()

    async def body() -> None:
        async with await aio.open(path, create=True, sync="none", threads=1) as store:
            call = asyncio.create_task(store.call(blocked.wait, LONG_SECONDS))
            waiting = asyncio.create_task(store.append("a", [new(1)]))
            await asyncio.sleep(0)
        blocked.set()
        await call
        with pytest.raises(StoreClosed):
            await waiting

    run(body())


def test_a_closed_store_refuses_calls_while_an_earlier_one_is_blocked(path: str) -> None:
    blocked = threading.Event()

    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store:
            call = asyncio.create_task(store.call(blocked.wait, LONG_SECONDS))
            await asyncio.sleep(0)
        try:
            with pytest.raises(StoreClosed):
                await asyncio.wait_for(store.last("a"), LONG_SECONDS / 2)
        finally:
            blocked.set()
        await call

    run(body())


@pytest.mark.parametrize("what", ["subscription", "store"])
def test_a_canceled_close_closes(path: str, what: str) -> None:
    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store:
            await store.append("a", [new(1)])
            events = store.subscribe("mail")
            await anext(events)
            closing = asyncio.create_task(events.close() if what == "subscription" else store.close())
            await asyncio.sleep(0)  # it has asked a thread, and waits
            await canceled(closing)
            with evlog.open(path) as other:
                await until(lambda: not other.subscription("mail").running)
            await events.close()

    run(body())


def test_one_task_at_a_time_takes_events(path: str) -> None:
    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store, store.subscribe() as events:
            waiting = asyncio.create_task(anext(events))
            await asyncio.sleep(0)
            with pytest.raises(InvalidArgument, match="another task"):
                await anext(events)
            await store.append("a", [new(1)])
            assert number_of(await waiting) == 1
            await store.append("a", [new(2)])
            assert number_of(await anext(events)) == 2

    run(body())


async def _collect(events: AsyncIterator[evlog.Event], seen: list[int]) -> None:
    async for event in events:
        seen.append(event.position)  # noqa: PERF401 - those before an error count, too


def _damage(path: str, mark: bytes) -> None:
    (log,) = Path(path, "segments").glob("*.log")
    raw = log.read_bytes()
    assert raw.count(mark) == 1
    log.write_bytes(raw.replace(mark, mark[::-1]))


def test_events_before_damage_are_delivered_before_the_error(path: str) -> None:
    async def body() -> None:
        async with await aio.open(path, create=True) as store:
            for number in range(1, 51):
                await store.append("a", [new(number if number != 45 else 123454321000)])
        _damage(path, b"123454321000")
        async with await aio.open(path) as store:
            for read in (store.read("a"), store.read_all()):
                seen: list[int] = []
                with pytest.raises(CorruptionError):
                    await _collect(read, seen)
                assert seen == list(range(1, 45))
            seen = []
            async with store.subscribe("mail") as events:
                for _ in range(2):
                    with pytest.raises(CorruptionError):
                        await _collect(events, seen)
            assert seen == list(range(1, 45))
            assert store.store.subscription("mail").position == 44

    run(body())


def test_few_large_events_are_in_memory_at_once(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0

    def counting(events: Iterator[evlog.Event]) -> Iterator[evlog.Event]:
        nonlocal taken
        for event in events:
            taken += 1
            yield event

    async def body() -> None:
        nonlocal taken
        async with await aio.open(path, create=True, sync="none") as store:
            for _ in range(8):
                await store.append("a", [NewEvent("T", b"x" * 400_000, content_type="binary")])
            read = store.store.read
            monkeypatch.setattr(
                store.store, "read", lambda *args, **options: counting(read(*args, **options))
            )
            before = 0
            async for event in store.read("a"):
                before += 1
                assert (event.position, taken - before <= 2) == (before, True)
            assert before == 8
            async with store.subscribe(follow=False) as events:
                for position in range(1, 9):
                    assert (await anext(events)).position == position
                    assert len(events._follower.taken) <= 3

    run(body())


def test_a_full_disk_does_not_end_a_subscription(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store:
            await store.append("a", [new(number) for number in range(1, 6)])
            async with store.subscribe("mail", follow=False) as events:
                assert await first(events, 1) == [1]
                assert events._follower.run is not None
                with monkeypatch.context() as patch:
                    patch.setattr(events._follower.run._checkpoint, "save", _full)
                    events._save_due = 0.0
                    assert [number_of(event) async for event in events] == [2, 3, 4, 5]
            assert store.store.subscription("mail").position == 5

    run(body())


def _full(*_arguments: object) -> None:
    raise StoreFull("checkpoint", "no space")


# --- handlers


class Handler:
    """An async handler that fails for some numbers, as often as is said."""

    def __init__(self, failures: dict[int, int] | None = None) -> None:
        self.failures = failures or {}
        self.called: list[int] = []

    async def __call__(self, event: evlog.Event) -> None:
        await asyncio.sleep(0)
        number = number_of(event)
        self.called.append(number)
        if self.failures.get(number, 0) > 0:
            self.failures[number] -= 1
            raise ValueError(f"cannot handle {number}")


def test_consume_retries_then_parks_or_stops(path: str) -> None:
    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store:
            await store.append("a", [new(number) for number in range(1, 6)])
            handler = Handler({2: 1, 4: 9})
            with pytest.raises(ValueError, match="cannot handle 4"):
                await store.consume("mail", handler, follow=False, retry_delay=0)
            assert handler.called == [1, 2, 2, 3, 4, 4, 4]
            assert store.store.subscription("mail").position == 3
            handler = Handler({4: 9})
            await store.consume("mail", handler, idle=0, retries=2, retry_delay=0, on_failure="park")
            assert handler.called == [4, 4, 5]
            (parked,) = store.store.parked("mail")
            assert (parked.position, parked.attempts, parked.error) == (4, 2, "ValueError: cannot handle 4")
            assert store.store.subscription("mail").position == 5

    run(body())


def test_consume_takes_a_function_and_refuses_what_has_not_run(path: str) -> None:
    async def generates(_event: evlog.Event) -> AsyncIterator[int]:
        yield 1

    def yields(_event: evlog.Event) -> Iterator[int]:
        yield 1

    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store:
            await store.append("a", [new(1), new(2)])
            seen: list[evlog.Event] = []
            await store.consume("mail", seen.append, follow=False)
            assert [number_of(event) for event in seen] == [1, 2]
            for handler in (generates, yields):
                with pytest.raises(InvalidArgument, match="nothing has run"):
                    await store.consume("other", handler, follow=False, retries=0)
            assert store.store.subscription("other").position == 0
            arguments: list[dict[str, Any]] = [
                {"on_failure": "skip"},
                {"retries": -1},
                {"retry_delay": -1},
                {"handler": None},
            ]
            for wrong in arguments:
                with pytest.raises(InvalidArgument):
                    await store.consume("mail", **{"handler": seen.append, **wrong})

    run(body())


@pytest.mark.parametrize("while_it", ["handles", "pauses", "waits"])
@pytest.mark.parametrize("how", ["stop", "thread", "store"])
def test_consuming_ends_when_its_run_is_stopped(path: str, how: str, while_it: str) -> None:
    async def body() -> None:
        reached = asyncio.Event()

        async def handle(event: evlog.Event) -> None:
            if number_of(event) == 3:
                reached.set()
                if while_it == "handles":
                    await ending
                if while_it == "pauses":
                    raise ValueError(event)

        async def end() -> None:
            await reached.wait()
            if how == "store":
                await store.close()
            elif how == "thread":
                await asyncio.to_thread(events.stop)
            else:
                events.stop()

        async with await aio.open(path, create=True, sync="none") as store:
            await store.append("a", [new(number) for number in (1, 2, 3)])
            events = store.subscribe("mail")
            ending = asyncio.create_task(end())
            try:
                async with events:
                    await events.consume(handle, retry_delay=LONG_SECONDS)
                assert how != "store"
            except StoreClosed:
                assert how == "store"
            await ending
        async with await aio.open(path) as store:
            undone = while_it == "pauses" or (how, while_it) == ("store", "handles")
            assert store.store.subscription("mail").position == (2 if undone else 3)

    run(body())


def test_consuming_calls_upcasters_once_for_each_event(path: str) -> None:
    upcasters = evlog.Upcasters()
    upcasters.register("T", lambda data, _event: data + 100)
    seen: list[int] = []

    def handle(event: evlog.Event) -> None:
        seen.append(event.json())
        if event.position == 2 and len(seen) == 2:
            raise ValueError(event)

    async def body() -> None:
        async with await aio.open(path, create=True, sync="none", upcasters=upcasters) as store:
            await store.append("a", [NewEvent("T", number) for number in range(3)])
            async with store.subscribe("mail", follow=False) as events:
                with pytest.raises(ValueError, match="position="):
                    await events.consume(handle, retries=1)
                await events.consume(handle)
                assert seen == [100, 101, 101, 102]
            async with store.subscribe(follow=False) as events:
                assert (await anext(events)).json() == 100
                with pytest.raises(InvalidArgument, match="begin another run"):
                    await events.consume(handle)

    run(body())


def test_a_store_that_is_closed_loses_no_event_that_was_taken_ahead(path: str) -> None:
    seen = []

    async def take(store: aio.AsyncStore) -> None:
        async for event in store.subscribe("mail"):
            seen.append(event.position)
            if event.position == 2:
                await store.close()

    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store:
            await store.append("a", [new(number) for number in range(1, 6)])
            with pytest.raises(StoreClosed):
                await take(store)
            assert seen == [1, 2]
        with evlog.open(path) as again:
            assert again.subscription("mail").position == 1

    run(body())


@pytest.mark.parametrize("while_it", ["handles", "pauses", "waits"])
def test_a_canceled_consume_acknowledges_what_was_handled(path: str, while_it: str) -> None:
    async def body() -> None:
        reached = asyncio.Event()

        async def handle(event: evlog.Event) -> None:
            if number_of(event) == 3:
                reached.set()
                if while_it == "handles":
                    await asyncio.Event().wait()
                if while_it == "pauses":
                    raise ValueError(event)

        async with await aio.open(path, create=True, sync="none") as store:
            await store.append("a", [new(number) for number in (1, 2, 3)])
            consuming = asyncio.create_task(store.consume("mail", handle, retry_delay=LONG_SECONDS))
            await reached.wait()
            await asyncio.sleep(0)
            await canceled(consuming)
            info = store.store.subscription("mail")
            assert (info.position, info.running) == (3 if while_it == "waits" else 2, False)

    run(body())


def test_a_state_is_that_of_the_store(path: str) -> None:
    """Type checkers judge each `assert_type`."""

    def add(total: int, event: evlog.Event) -> int:
        return total + number_of(event)

    async def body() -> None:
        async with await aio.open(path, create=True, sync="none") as store:
            await store.append("a-1", [new(1), new(2)])
            assert assert_type((await store.state("a-1", evlog.Fold(add, 0))).value, int) == 3
            await store.append("b-1", [new(4)])
            assert (await store.state("a-1", add, 0)).value == 3
            assert (await store.state("a-1", add, 0, at=1)).value == 1
            state = await store.state(fold=add, initial=0, category="a", snapshot="sum")
            assert state == store.store.state(fold=add, initial=0, category="a", snapshot="sum")
            assert (await store.state(fold=add, initial=0, query="type=T")).value == 7

    run(body())


def test_what_waits_for_others_leaves_the_threads_to_them(path: str) -> None:
    async def body() -> None:
        async with await aio.open(path, create=True, sync="none", threads=1) as store:
            with pytest.raises(evlog.SubscriptionNotFound):
                await store.wait_for_subscription("n", 1)
            await store.consume("n", ignore, follow=False)
            waiting = [
                asyncio.create_task(store.wait_for_subscription("n", 2)),
                asyncio.create_task(store.wait_for("sum", 2)),
            ]
            await store.append("a", [new(1), new(2)])
            assert not await store.wait_for_subscription("n", 2, timeout=0)
            assert not await store.wait_for("sum", 2, timeout=0.001)
            await store.consume("n", ignore, follow=False)
            await store.state(fold=evlog.Fold(count, 0), snapshot="sum")
            assert await asyncio.gather(*waiting) == [True, True]
            with pytest.raises(InvalidArgument):
                await store.wait_for("sum", 2, timeout=-1)
            endless = asyncio.create_task(store.wait_for_subscription("n", 3))
        with pytest.raises(StoreClosed):
            await endless

    async def ignore(event: evlog.Event) -> None:
        pass

    def count(total: int, event: evlog.Event) -> int:
        return total + 1

    run(body())


def test_its_methods_take_the_arguments_of_the_store() -> None:
    for name, method in vars(aio.AsyncStore).items():
        if name.startswith("_") or name in ("call", "close"):
            continue
        asynchronous = inspect.signature(method).parameters
        expected = dict(inspect.signature(getattr(evlog.EventStore, name)).parameters)
        if name == "consume":
            del expected["in_transaction"]  # its connection belongs to a thread
        assert list(asynchronous) == list(expected), name
        for each, parameter in asynchronous.items():
            if (name, each) == ("consume", "handler"):
                parameter = parameter.replace(annotation=expected[each].annotation)
            assert parameter == expected[each], (name, each)  # also its kind and its type
        assert f"EventStore.{name}`" in (method.__doc__ or ""), name
