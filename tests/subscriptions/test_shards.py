"""Shards: which stream belongs to which, consumers that begin at once, and changes that are cut short."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from evlog import Event, EventStore, NewEvent, ShardsApart, Subscription, SubscriptionBusy
from evlog.subscriptions.shards import _AGAIN_SECONDS, Shard, maybe_parse, name_of, shard_of
from evlog.testing.base import in_threads
from tests.support.helpers import small_store
from tests.support.memory_engine import open_engine

STREAMS = [f"order-{number}" for number in range(12)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    with small_store(tmp_path / "store") as store:
        for stream in STREAMS * 2:
            store.append(stream, [NewEvent("T", stream)])
        yield store


def test_a_stream_belongs_to_the_same_shard_for_ever() -> None:
    found = {stream: shard_of(stream, 3) for stream in ("order-1", "order-2", "order-3", "größe", "a")}
    assert found == {"order-1": 2, "order-2": 1, "order-3": 3, "größe": 3, "a": 1}
    assert [shard_of("order-1", count) for count in (1, 2, 5, 1000)] == [1, 2, 5, 80]


def test_numbers_of_other_types_are_the_same_shard(store: EventStore) -> None:
    store.subscribe("n", shard=(True, 2)).close()
    assert [info.name for info in store.subscriptions()] == ["n#1/2", "n#2/2"]


def test_a_name_with_a_shard_is_read_as_it_is_written() -> None:
    for name in ("n", "a#b", "n#1/2", "ä#/"):
        assert maybe_parse(name_of(name, Shard(2, 13))) == (name, (2, 13))
    for name in ("n", "n#", "n#1", "n#1/", "n#01/2", "#1/2", "n#1/2 ", "n#1/2/3", "n#²/3", "n#-1/2", "n#1-2"):
        assert maybe_parse(name) is None


def test_consumers_that_begin_at_once_all_run(store: EventStore) -> None:
    taken: list[Event] = []
    barrier = threading.Barrier(8)

    def consume(number: int) -> None:
        barrier.wait()
        store.consume("n", taken.append, shard=(number, 8), follow=False)

    in_threads(partial(consume, number) for number in range(1, 9))
    assert sorted(event.position for event in taken) == list(range(1, 25))
    assert len(store.subscriptions()) == 8


def test_a_running_name_keeps_shards_away_at_once(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evlog.subscriptions.shards._AGAIN_SECONDS", None)  # a pause would be an error
    with store.subscribe("n"), pytest.raises(SubscriptionBusy):
        store.subscribe("n", shard=(1, 2))
    with store.subscribe("m", shard=(1, 2)), pytest.raises(SubscriptionBusy):
        store.subscribe("m", shard=(1, 2))


class Killed(BaseException):
    pass


class Failing:
    """Places of subscriptions whose n-th change is the last thing that their process does."""

    def __init__(self, store: EventStore, changes: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = changes
        made = store.engine.checkpoint

        def checkpoint(name: str) -> Any:
            place = made(name)
            for change in ("create", "delete", "park"):
                monkeypatch.setattr(place, change, self.counted(getattr(place, change)))
            return place

        monkeypatch.setattr(store.engine, "checkpoint", checkpoint)

    def counted(self, call: Any) -> Any:
        def counting(*arguments: Any) -> Any:
            if not self.left:
                raise Killed
            self.left -= 1
            return call(*arguments)

        return counting


@pytest.mark.parametrize("engine", ["directory", "memory"])
@pytest.mark.parametrize("changes", range(8))
@pytest.mark.parametrize("next_count", [1, 2, 3])
def test_a_change_that_is_cut_short_is_finished_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, changes: int, next_count: int
) -> None:
    address = f"memory://shards-{changes}-{next_count}"
    made = (
        small_store(tmp_path / "store")
        if engine == "directory"
        else EventStore(open_engine(address, create=True))
    )
    with made as store:
        for stream in STREAMS:
            store.append(stream, [NewEvent("T", stream)])
        for number in (1, 2):
            store.consume("n", fail_on_order_3, shard=(number, 2), follow=False, retries=1, on_failure="park")
        with monkeypatch.context() as patch:
            Failing(store, changes, patch)
            try:
                store.subscribe("n", shard=(1, 3)).close()
            except Killed:
                pass
        store.append("order-1", [NewEvent("T", "new")])
        taken: list[Event] = []
        for number in range(1, next_count + 1):
            store.consume("n", taken.append, shard=(number, next_count), follow=False)
        assert [event.json() for event in taken] == ["new"]
        assert [info.name for info in store.subscriptions()] == (
            ["n"] if next_count == 1 else [f"n#{number + 1}/{next_count}" for number in range(next_count)]
        )
        assert {place.stream for place in store.parked("n")} == {"order-3"}


def test_a_consumer_that_begins_during_a_change_undoes_it(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        store.consume("n", str, shard=(number, 2), follow=False)
    runs: list[Subscription] = []
    made = store.engine.checkpoint

    def checkpoint(name: str) -> Any:
        place = made(name)
        create = place.create

        def begin_first(known: Any) -> None:
            if not runs:
                monkeypatch.setattr(store.engine, "checkpoint", made)
                runs.append(store.subscribe("n", shard=(1, 2)))
            create(known)

        monkeypatch.setattr(place, "create", begin_first)
        return place

    monkeypatch.setattr(store.engine, "checkpoint", checkpoint)
    with pytest.raises(SubscriptionBusy):
        store.subscribe("n", shard=(1, 3))
    assert [(info.name, info.running) for info in store.subscriptions()] == [
        ("n#1/2", True),
        ("n#2/2", False),
    ]
    runs[0].close()
    store.subscribe("n", shard=(1, 3)).close()


def test_a_consumer_sees_a_change_that_began_before_it_had_its_name(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        store.consume("n", str, shard=(number, 2), follow=False)
    made = store.engine.checkpoint
    known = made("n#1/2").load()
    assert known is not None

    def checkpoint(name: str) -> Any:
        place = made(name)
        acquire = place.acquire

        def change_first() -> None:
            monkeypatch.setattr(store.engine, "checkpoint", made)
            other = made("n#1/3")
            other.acquire()
            other.create(known)
            other.release()
            acquire()

        monkeypatch.setattr(place, "acquire", change_first)
        return place

    monkeypatch.setattr(store.engine, "checkpoint", checkpoint)
    with store.subscribe("n", shard=(1, 2)):
        assert [info.name for info in store.subscriptions()] == ["n#1/2", "n#2/2"]


def test_a_consumer_waits_while_another_makes_the_checkpoints(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        store.consume("n", str, shard=(number, 2), follow=False)
    held = [store.engine.checkpoint(name) for name in ("n#1/2", "n")]
    for place in held:
        place.acquire()

    def release(seconds: float) -> None:
        if seconds == _AGAIN_SECONDS:
            for place in held:
                place.release()

    monkeypatch.setattr("evlog.subscriptions.shards.time.sleep", release)
    with store.subscribe("n", shard=(1, 2)) as run:
        assert run.position == store.head


def fail_on_order_3(event: Event) -> None:
    if event.stream == "order-3":
        raise ValueError("order-3")


def test_the_refusal_says_how_far_each_is(store: EventStore) -> None:
    store.consume("n", str, shard=(2, 2), follow=False)
    with pytest.raises(ShardsApart, match=r"n#1/2 is at 0, n#2/2 is at 24; run each"):
        store.subscribe("n", shard=(1, 4))


def test_a_compaction_waits_for_every_shard(store: EventStore) -> None:
    from evlog import SubscriptionBehind

    store.consume("n", str, shard=(2, 2), follow=False)
    store.set_retention("order-1", max_count=1)
    with pytest.raises(SubscriptionBehind, match="n#1/2"):
        store.compact()
