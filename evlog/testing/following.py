"""Followers get the events that are there, then new ones, and are ended from elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import pytest

import evlog
from evlog import EventStore
from evlog.testing.base import LONG_SECONDS, EngineTests, OpenStore, new, numbers


class FollowTests(EngineTests):
    """What a follower gets."""

    def test_a_follower_gets_what_is_there_then_what_comes(
        self, filled: EventStore, other: EventStore
    ) -> None:
        with filled.subscribe() as run:
            assert numbers(iter(lambda: run.next_event(0), None)) == list(range(20))
            other.append("a-0", [new(20)])
            event = run.next_event(LONG_SECONDS)
            assert event is not None
            assert event.data == b"20"
            assert run.next_event(0) is None
            assert run.position == event.position

    def test_an_append_wakes_a_follower(self, store: EventStore, other: EventStore) -> None:
        found: list[int] = []

        def follow() -> None:
            for event in store.subscribe():
                found.append(int(event.data))
                if event.data == b"9":
                    return

        thread = threading.Thread(target=follow)
        thread.start()
        for number in range(10):
            other.append("a", [new(number)])
        thread.join(LONG_SECONDS)
        assert found == list(range(10))

    def test_a_follower_has_a_filter(self, filled: EventStore) -> None:
        cases: list[tuple[dict[str, Any], Iterable[int]]] = [
            ({}, range(20)),
            ({"stream": "a-1"}, range(1, 20, 4)),
            ({"category": "b", "types": ["U"]}, range(3, 20, 4)),
            ({"types": ["T"]}, range(0, 20, 2)),
            ({"stream": "none"}, ()),
        ]
        for options, expected in cases:
            with filled.subscribe(follow=False, **options) as run:
                assert numbers(run) == list(expected), options
                assert run.position == filled.head

    def test_a_follower_begins_behind_a_position_or_at_a_time(self, filled: EventStore) -> None:
        events = list(filled.read_all())
        with filled.subscribe(after=events[16].position, follow=False) as run:
            assert numbers(run) == [17, 18, 19]
        since = events[15].time
        with filled.subscribe(since=since, follow=False) as run:
            assert list(run) == [event for event in events if event.time >= since]

    def test_a_follower_ends_at_a_position_and_waits_for_it(
        self, filled: EventStore, other: EventStore
    ) -> None:
        at = [event.position for event in filled.read_all()]
        with filled.subscribe("n", types=["T"], to=at[5], timeout=LONG_SECONDS) as run:
            assert numbers(run) == [0, 2, 4]
        assert filled.subscription("n").position == at[5]  # it was scanned, though it does not match
        with filled.subscribe("n", to=at[5]) as run:
            assert numbers(run) == []
        with filled.subscribe("n", to=at[-1] + 100, follow=False) as run:
            assert numbers(run) == list(range(6, 20, 2))
        with filled.subscribe("n", to=at[-1] + 2, timeout=LONG_SECONDS) as run:
            assert run.next_event(0) is None
            other.append("a-0", [new(number) for number in (20, 21, 22, 23)])
            assert numbers(run) == [20, 21]
            assert run.position == at[-1] + 2

    @pytest.mark.parametrize("how", ["stop", "close"])
    def test_another_thread_ends_a_waiting_follower(self, store: EventStore, how: str) -> None:
        run = store.subscribe("n")
        ended = threading.Event()

        def follow() -> None:
            assert list(run) == []
            ended.set()

        thread = threading.Thread(target=follow)
        thread.start()
        getattr(run, how)()
        assert ended.wait(LONG_SECONDS)
        thread.join()
        run.close()
        store.subscribe("n").close()  # its name is free

    def test_closing_the_store_ends_its_followers(self, store: EventStore, open_store: OpenStore) -> None:
        store.append("a", [new(0)])
        seen: list[object] = []
        waiting = threading.Event()

        def follow() -> None:
            try:
                for event in store.subscribe("n"):
                    seen.append(event.data)
                    waiting.set()
            except evlog.StoreClosed as error:
                seen.append(type(error))

        thread = threading.Thread(target=follow)
        thread.start()
        assert waiting.wait(LONG_SECONDS)
        store.close()
        thread.join(LONG_SECONDS)
        assert seen == [b"0", evlog.StoreClosed]
        with open_store() as again:
            again.subscribe("n").close()

    def test_idle_and_timeout_end_a_run_after_what_is_there(self, filled: EventStore) -> None:
        for options in ({"idle": 0.0}, {"idle": 0.01}, {"timeout": 0.0}, {"timeout": 0.01, "idle": 60.0}):
            with filled.subscribe(**options) as run:  # type: ignore[arg-type]
                assert numbers(run) == list(range(20))
        for bad in ({"idle": -1.0}, {"timeout": -1.0}, {"idle": float("nan")}):
            with pytest.raises(evlog.InvalidArgument):
                filled.subscribe(**bad)  # type: ignore[arg-type]

    def test_timeout_ends_a_run_to_which_events_keep_coming(self, store: EventStore) -> None:
        ended = threading.Event()

        def append() -> None:
            while not ended.is_set():
                store.append("a", [new(1)])

        thread = threading.Thread(target=append)
        thread.start()
        try:
            with store.subscribe(timeout=0.2, idle=LONG_SECONDS) as run:
                for _ in run:
                    pass
        finally:
            ended.set()
            thread.join()
