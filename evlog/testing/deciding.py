"""Decisions: made from what is there, appended if it is still so, made once if they have a key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

import evlog
from evlog import Event, EventStore, NewEvent, Query
from evlog.testing.base import EngineTests, in_threads, new, numbers

COURSE = Query(types=["Enrolled"], tags=["course:c1"])


class DecideTests(EngineTests):
    """`EventStore.transact`."""

    def test_a_decision_is_made_from_the_stream_and_appended(self, store: EventStore) -> None:
        def count(history: list[Event]) -> list[NewEvent]:
            return [new(len(history)), new(len(history))]

        (first,) = store.transact("a", count)
        (second,) = store.transact("a", count)
        assert (first.first_version, second.last_version, second.duplicate) == (1, 4, False)
        assert numbers(store.read("a")) == [0, 0, 2, 2]

    def test_a_decision_to_do_nothing_appends_nothing(self, store: EventStore) -> None:
        decisions: list[Callable[[list[Event]], Any]] = [lambda _: None, lambda _: [], lambda _: ()]
        for decide in decisions:
            assert list(store.transact("a", decide, key="k")) == []
            assert store.head == 0

    def test_a_decision_that_came_too_late_is_made_again(self, store: EventStore, other: EventStore) -> None:
        seen = []

        def decide(history: list[Event]) -> list[NewEvent]:
            seen.append(numbers(history))
            if len(seen) < 3:
                other.append("a", [new(len(seen))])
            return [new(9)]

        assert store.transact("a", decide)[0].first_version == 3
        assert seen == [[], [1], [1, 2]]

    def test_a_race_that_is_always_lost_is_an_error(self, store: EventStore, other: EventStore) -> None:
        tries = []

        def decide(history: list[Event]) -> list[NewEvent]:
            tries.append(len(history))
            other.append("a", [new(0)])
            return [new(9)]

        with pytest.raises(evlog.WrongExpectedVersion):
            store.transact("a", decide, retries=2)
        assert tries == [0, 1, 2]
        assert numbers(store.read("a")) == [0, 0, 0]

    def test_a_decision_that_fails_appends_nothing(self, store: EventStore) -> None:
        def decide(_: list[Event]) -> list[NewEvent]:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            store.transact("a", decide)
        assert store.head == 0

    def test_a_decision_can_be_about_other_streams(self, store: EventStore, other: EventStore) -> None:
        """Also if nothing of it is in the stream that it was made from, that has to be as it was read."""
        calls = []

        def decide(history: list[Event]) -> list[Any]:
            calls.append(len(history))
            if len(calls) == 1:
                other.append("a", [new(0)])
            return [("b", [new(1), new(2)]), ("c", [new(3)])]

        b, c = store.transact("a", decide)
        assert (b.stream, b.last_version, c.stream, c.last_version) == ("b", 2, "c", 1)
        assert calls == [0, 1]
        (a, d) = store.transact("a", lambda _: [new(4), ("d", [new(5)])])
        assert (a.stream, a.first_version, d.stream) == ("a", 2, "d")

    @pytest.fixture
    def places(self, store: EventStore) -> EventStore:
        if not store.capabilities.conditions:
            with pytest.raises(evlog.Unsupported):
                store.transact(COURSE, lambda _: [("a", [new(1)])])
            pytest.skip("the engine has no conditions on queries")
        return store

    def test_a_decision_can_be_made_from_a_query(self, places: EventStore, other: EventStore) -> None:
        """Ten students want two places."""
        calls = []

        def enrol(student: int) -> Any:
            def decide(history: list[Event]) -> list[Any]:
                calls.append(student)
                if student == 1 and calls.count(1) == 1:
                    other.append("s-9", [new(9, "Enrolled", tags=["course:c1"])])
                if len(history) >= 2:
                    return []
                return [(f"s-{student}", [new(student, "Enrolled", tags=["course:c1"])])]

            return decide

        made = [places.transact(COURSE, enrol(student)) for student in range(1, 11)]
        assert [len(results) for results in made] == [1] + [0] * 9
        assert calls.count(1) == 2
        assert numbers(places.query(COURSE)) == [9, 1]
        other.append("x", [new(0, "Moved", tags=["course:c1"]), new(0, "Enrolled", tags=["course:c2"])])
        with pytest.raises(evlog.InvalidArgument, match="no stream"):
            places.transact(COURSE, lambda _: [new(1)])

    def test_a_race_about_a_query_that_is_always_lost_is_an_error(
        self, places: EventStore, other: EventStore
    ) -> None:
        def decide(_: list[Event]) -> list[Any]:
            other.append("a", [new(0, "Enrolled", tags=["course:c1"])])
            return [("a", [new(1)])]

        with pytest.raises(evlog.ConditionFailed):
            places.transact(COURSE, decide, retries=1)
        assert numbers(places.read_all()) == [0, 0]

    def test_a_decision_with_a_key_is_made_once(self, store: EventStore, other: EventStore) -> None:
        made = store.transact("a", lambda _: [new(1), ("b", [new(2), new(3)])], key="k")
        for count in (1, 3, 4):  # another run would decide otherwise

            def decide(_: list[Event], count: int = count) -> list[NewEvent]:
                return [new(9)] * count

            again = other.transact("a", decide, key="k")
            assert [result.duplicate for result in again] == [True, True]
            assert [result[:5] for result in again] == [result[:5] for result in made]
        assert numbers(store.read_all()) == [1, 2, 3]
        assert [event.idempotency_key for event in store.read_all()] == ["k/1", "k/2", "k/3"]
        assert store.transact("a", lambda _: [new(4)], key="other")[0].last_version == 2

    def test_a_key_of_something_else_is_a_conflict(self, store: EventStore) -> None:
        store.transact("a", lambda _: [("b", [new(1)])], key="k")
        assert store.transact("a", lambda _: [], key="k")[0].duplicate
        for about in ("b", "c"):
            with pytest.raises(evlog.IdConflict, match="belongs to a decision about 'a'") as caught:
                store.transact(about, lambda _: [new(1)], key="k")
            assert (caught.value.key, caught.value.stream) == ("k", "b")
        store.append("a", [new(2, idempotency_key="other/1")])
        with pytest.raises(evlog.IdConflict, match="belongs to no decision"):
            store.transact("a", lambda _: [new(2)], key="other")

    def test_a_long_decision_is_found_whole(self, store: EventStore) -> None:
        for count in (1, 8, 9, 10, 17, 18):
            (made,) = store.transact(f"s-{count}", lambda _, count=count: [new(0)] * count, key=f"k{count}")  # type: ignore[misc]
            (again,) = store.transact(f"s-{count}", lambda _: [], key=f"k{count}")
            assert again.duplicate
            assert again[:5] == made[:5]

    @pytest.mark.parametrize("mine", [1, 2, 3])
    def test_of_two_runs_with_one_key_the_first_decides(
        self, store: EventStore, other: EventStore, mine: int
    ) -> None:
        def decide(_: list[Event]) -> list[NewEvent]:
            other.transact("a", lambda _: [new(0), new(0)], key="k")
            return [new(0)] * mine  # the same content, less, or more

        (result,) = store.transact("a", decide, key="k")
        assert (result.first_version, result.last_version, result.duplicate) == (1, 2, True)
        assert numbers(store.read("a")) == [0, 0]

    def test_an_event_of_a_keyed_decision_has_no_id_of_its_own(self, store: EventStore) -> None:
        for event in (new(0, id=evlog.idempotency_id("x")), new(0, idempotency_key="x")):
            with pytest.raises(evlog.InvalidEvent):
                store.transact("a", lambda _, event=event: [event], key="k")  # type: ignore[misc]
        assert store.head == 0
        (result,) = store.transact("a", lambda _: [new(0, metadata={"by": "ann"})], key="k")
        assert next(store.read("a")).metadata == {"by": "ann", "$idempotencyKey": "k/1", "$decidedFrom": "a"}
        assert not result.duplicate

    def test_a_decision_of_which_events_were_removed_counts_as_made(self, store: EventStore) -> None:
        if not store.capabilities.compaction:
            pytest.skip("the engine has no compaction")
        store.transact("a", lambda _: [new(1), new(2)], key="k")
        store.set_retention("a", max_count=1)
        store.compact()
        (result,) = store.transact("a", lambda _: [new(9)], key="k")
        assert (result.first_version, result.last_version, result.duplicate) == (2, 2, True)
        store.delete_stream("a")
        store.append("b", [new(3)])
        store.compact()
        assert list(store.transact("a", lambda _: [new(9)], key="k")) == []
        assert numbers(store.read_all()) == [3]

    def test_a_deleted_stream_is_empty_and_keeps_its_version(self, store: EventStore) -> None:
        if not store.capabilities.retention:
            pytest.skip("the engine has no retention")
        store.append("a", [new(1), new(2)])
        store.delete_stream("a")
        (result,) = store.transact("a", lambda history: [new(len(history))])
        assert result.first_version == 3
        assert numbers(store.read("a")) == [0]

    def test_threads_that_withdraw_never_overdraw(self, store: EventStore, other: EventStore) -> None:
        store.append("account", [new(20, "Deposited")])
        done: list[Sequence[Any]] = []

        def withdraw(history: list[Event]) -> list[NewEvent]:
            balance = sum(int(e.data) if e.type == "Deposited" else -int(e.data) for e in history)
            return [new(2, "Withdrawn")] if balance >= 2 else []

        def work(opened: EventStore) -> None:
            for _ in range(5):
                done.append(opened.transact("account", withdraw, retries=1000))  # noqa: PERF401

        in_threads(partial(work, opened) for opened in (store, other) * 2)
        assert (len(done), sum(map(len, done))) == (20, 10)
        assert store.stream_version("account") == 11
