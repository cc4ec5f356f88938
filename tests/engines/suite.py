"""The conformance suite: what every engine must do, through the public API alone.

A test module subclasses `Conformance` and defines the fixture `open_store`: a function that opens the same
empty store again and again. Tests that need what an engine does not offer are skipped by its capabilities,
and then check that the engine refuses it. Nothing here looks inside an engine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

import evlog
from evlog import ANY, NO_STREAM, STREAM_EXISTS, Event, EventStore, NewEvent

OpenStore = Callable[[], EventStore]
LONG_SECONDS = 60.0


def new(number: int, type: str = "T", **options: Any) -> NewEvent:
    return NewEvent(type, number, **options)


def numbers(events: Iterable[Event]) -> list[int]:
    return [int(event.data) for event in events]


def run_to_end(store: EventStore, name: str) -> list[int]:
    """Run a subscription to the end of the log, and return the numbers that it delivered."""
    with store.subscribe(name, follow=False) as run:
        return numbers(run)


class Conformance:
    """Every test gets an empty store."""

    @pytest.fixture
    def store(self, open_store: OpenStore) -> Iterator[EventStore]:
        with open_store() as opened:
            yield opened

    @pytest.fixture
    def other(self, store: EventStore, open_store: OpenStore) -> Iterator[EventStore]:
        """The same store, opened again."""
        with open_store() as opened:
            yield opened

    @pytest.fixture
    def filled(self, store: EventStore) -> EventStore:
        """Numbers 0 to 19 in streams a-0, a-1, b-0, b-1 in turn, of types T and U in turn."""
        for number in range(20):
            stream = ("a-0", "a-1", "b-0", "b-1")[number % 4]
            store.append(stream, [new(number, "TU"[number % 2], id=UUID(int=number + 1))])
        return store

    # --- appending

    def test_an_event_comes_back_as_it_was_appended(self, store: EventStore, other: EventStore) -> None:
        metadata = {"$correlationId": "c", "é": [1, None]}
        events = [
            NewEvent("J", b'{"b":1,"a":1.0e3,"b":2,"n":1e400}', metadata=metadata),
            NewEvent("T", "line\nline\x00", content_type="text"),
            NewEvent("B", bytes(range(256)), content_type="binary"),
        ]
        result = store.append("s-1", events)
        json, text, binary = other.read("s-1")
        assert (json.data, json.metadata, json.content_type) == (events[0].data, metadata, "json")
        assert (text.data, text.content_type) == (b"line\nline\x00", "text")
        assert (binary.data, binary.content_type) == (events[2].data, "binary")
        assert (json.id, text.id, binary.id) == result.ids
        assert json.time <= text.time <= binary.time
        assert json.metadata_bytes == b'{"$correlationId":"c","\xc3\xa9":[1,null]}'

    def test_positions_and_versions_count_from_one_and_rise(
        self, store: EventStore, other: EventStore
    ) -> None:
        first = store.append("a", [new(0), new(1)])
        second = other.append("b", [new(2)])
        third = store.append("a", [new(3)])
        assert (first.first_version, first.last_version, first.duplicate) == (1, 2, False)
        assert (second.first_version, third.first_version) == (1, 3)
        assert 1 <= first.first_position < first.last_position < second.first_position < third.first_position
        assert store.head == third.last_position
        assert [store.stream_version(name) for name in ("a", "b", "c")] == [3, 1, 0]

    @pytest.mark.parametrize(
        ("expected", "met"),
        [(ANY, True), (NO_STREAM, False), (STREAM_EXISTS, True), (1, False), (2, True), (3, False)],
    )
    def test_the_expected_version_decides(self, store: EventStore, expected: Any, met: bool) -> None:
        store.append("a", [new(0), new(1)], NO_STREAM)
        if met:
            assert store.append("a", [new(2)], expected).first_version == 3
            return
        with pytest.raises(evlog.WrongExpectedVersion) as caught:
            store.append("a", [new(2)], expected)
        assert (caught.value.stream, caught.value.actual) == ("a", 2)
        assert numbers(store.read_all()) == [0, 1]

    @pytest.mark.parametrize("expected", [STREAM_EXISTS, 1])
    def test_a_stream_that_is_not_there_has_version_zero(self, store: EventStore, expected: Any) -> None:
        with pytest.raises(evlog.WrongExpectedVersion):
            store.append("a", [new(0)], expected)
        assert store.append("a", [new(0)], 0).first_version == 1

    def test_a_retry_is_a_duplicate_with_the_first_result(self, store: EventStore, other: EventStore) -> None:
        events = [new(0, id=UUID(int=1)), new(1, id=UUID(int=2))]
        first = store.append("a", events, NO_STREAM)
        store.append("a", [new(2)])
        again = other.append("a", events, NO_STREAM)  # before the version is compared
        assert again.duplicate
        assert (again.first_position, again.last_version) == (first.first_position, 2)
        assert numbers(store.read("a")) == [0, 1, 2]

    @pytest.mark.parametrize(
        ("stream", "event"),
        [
            ("b", new(0, id=UUID(int=1))),
            ("a", new(1, id=UUID(int=1))),
            ("a", new(0, "U", id=UUID(int=1))),
            ("a", NewEvent("T", "0", id=UUID(int=1), content_type="text")),
        ],
    )
    def test_a_known_id_with_other_content_is_a_conflict(
        self, store: EventStore, stream: str, event: NewEvent
    ) -> None:
        store.append("a", [new(0, id=UUID(int=1))])
        with pytest.raises(evlog.IdConflict):
            store.append(stream, [event])
        assert store.head == 1

    def test_a_batch_of_which_a_part_is_known_is_a_conflict_or_is_skipped(self, store: EventStore) -> None:
        from evlog.model.encoding import encode_events

        store.append("a", [new(0, id=UUID(int=1))])
        events = [new(0, id=UUID(int=1)), new(1, id=UUID(int=2))]
        with pytest.raises(evlog.IdConflict):
            store.append("a", events)
        result = store.append_encoded(["a", "a"], encode_events(events), skip_known=True)
        assert list(result.duplicates) == [True, False]
        assert list(result.versions) == [1, 2]

    def test_an_id_given_twice_in_one_append_is_refused(self, store: EventStore) -> None:
        with pytest.raises(evlog.InvalidArgument):
            store.append("a", [new(0, id=UUID(int=1)), new(1, id=UUID(int=1))])
        assert store.head == 0

    def test_several_streams_are_appended_all_or_not_at_all(self, store: EventStore) -> None:
        first, second = store.append_many([("a", [new(0), new(1)], NO_STREAM), ("b", [new(2)])])
        assert (first.last_version, second.first_version) == (2, 1)
        with pytest.raises(evlog.WrongExpectedVersion):
            store.append_many([("a", [new(3)]), ("b", [new(4)], 5)])
        assert numbers(store.read_all()) == [0, 1, 2]
        third, fourth = store.append_many([("a", [new(3)], 2), ("a", [new(4)], 3)])  # one after the other
        assert (third.first_version, fourth.first_version) == (3, 4)

    def test_nothing_can_be_appended_that_is_nothing(self, store: EventStore) -> None:
        for call in (lambda: store.append("a", []), lambda: store.append_many([("a", [])])):
            with pytest.raises(evlog.InvalidArgument):
                call()

    # --- reading

    def test_a_stream_is_read_by_version(self, filled: EventStore) -> None:
        assert numbers(filled.read("a-1")) == [1, 5, 9, 13, 17]
        assert numbers(filled.read("a-1", reverse=True)) == [17, 13, 9, 5, 1]
        assert numbers(filled.read("a-1", 2, 3)) == [5, 9]
        assert numbers(filled.read("a-1", 4, reverse=True, limit=1)) == [17]
        assert numbers(filled.read("a-1", limit=2)) == [1, 5]
        assert numbers(filled.read("a-1", limit=0)) == []
        assert numbers(filled.read("none")) == numbers(filled.read("a-1", 6)) == []
        assert [event.version for event in filled.read("b-0", 2, 4)] == [2, 3, 4]

    def test_the_log_is_read_by_position(self, filled: EventStore) -> None:
        positions = [event.position for event in filled.read_all()]
        assert positions == sorted(set(positions))
        assert numbers(filled.read_all()) == list(range(20))
        assert numbers(filled.read_all(reverse=True, limit=3)) == [19, 18, 17]
        assert numbers(filled.read_all(after=positions[4], to=positions[6])) == [5, 6]
        assert numbers(filled.read_all(after=positions[-1])) == []

    def test_filters_combine(self, filled: EventStore) -> None:
        assert numbers(filled.read_all(category="a")) == [n for n in range(20) if n % 4 < 2]
        assert numbers(filled.read_all(types=["U"])) == list(range(1, 20, 2))
        assert numbers(filled.read_all(category="b", types=["T", "none"], limit=2)) == [2, 6]
        assert numbers(filled.read("a-0", types=["U"])) == []
        assert numbers(filled.read_all(types=[])) == []

    def test_times_bound_a_read(self, filled: EventStore) -> None:
        events = list(filled.read_all())
        middle = events[10].time
        assert [e for e in events if e.time >= middle] == list(filled.read_all(since=middle))
        assert [e for e in events if e.time < middle] == list(filled.read_all(until=middle))
        later = events[-1].time + timedelta(seconds=1)
        assert list(filled.read("a-0", since=later)) == list(filled.read_all(since=later)) == []

    def test_a_read_takes_what_is_there_when_it_is_called(self, store: EventStore) -> None:
        store.append("a", [new(0)])
        assert numbers(store.read_all()) == [0]
        store.append("a", [new(1)])
        assert numbers(store.read_all()) == numbers(store.read("a")) == [0, 1]

    def test_streams_are_listed_by_name(self, filled: EventStore) -> None:
        filled.append("ä", [new(20)])
        assert [stream.name for stream in filled.streams()] == ["a-0", "a-1", "b-0", "b-1", "ä"]
        assert [stream.name for stream in filled.streams(category="b")] == ["b-0", "b-1"]
        assert [stream.name for stream in filled.streams(prefix="a")] == ["a-0", "a-1"]
        info = next(filled.streams(prefix="a-1"))
        assert (info.events, info.first_version, info.last_version) == (5, 1, 5)
        assert info.last_time == next(filled.read("a-1", reverse=True)).time

    def test_a_store_in_numbers(self, filled: EventStore, open_store: OpenStore) -> None:
        info = filled.info()
        assert (info.events, info.streams, info.last_position) == (20, 4, filled.head)
        assert info.id == filled.id
        with open_store() as again:
            assert again.id == filled.id
            assert not again.created
        assert filled.capabilities.engine

    # --- closing

    def test_a_closed_store_says_so(self, filled: EventStore) -> None:
        filled.close()
        filled.close()
        uses: list[Callable[[], object]] = [
            lambda: filled.append("a", [new(0)]),
            lambda: filled.head,
            lambda: list(filled.read("a")),
            lambda: list(filled.read_all()),
            filled.subscribe,
            filled.subscriptions,
            lambda: filled.consume("n", print),
            filled.info,
        ]
        for use in uses:
            with pytest.raises(evlog.StoreClosed):
                use()
        assert "closed" in repr(filled)

    def test_threads_that_use_a_store_while_it_is_closed_get_that_error_alone(
        self, filled: EventStore
    ) -> None:
        uses: list[Callable[[], object]] = [
            lambda: filled.append("a", [new(0)]),
            lambda: filled.append_many([("a", [new(0)]), ("b", [new(1)])]),
            lambda: list(filled.read("a-1")),
            lambda: list(filled.read_all(reverse=True, limit=3)),
            lambda: list(filled.streams()),
            lambda: filled.subscribe(follow=False, after=filled.head).close(),
        ]
        begun = threading.Barrier(len(uses) + 1)
        errors: list[BaseException] = []

        def work(use: Callable[[], object]) -> None:
            try:
                use()
                begun.wait()
                while True:
                    use()
            except BaseException as error:  # noqa: BLE001 - looked at below
                errors.append(error)

        threads = [threading.Thread(target=work, args=(use,)) for use in uses]
        for thread in threads:
            thread.start()
        begun.wait()
        filled.close()
        for thread in threads:
            thread.join(LONG_SECONDS)
        assert {type(error) for error in errors} == {evlog.StoreClosed}, errors
        assert len(errors) == len(uses)

    # --- many writers

    def test_writers_that_expect_a_version_exclude_each_other(self, open_store: OpenStore) -> None:
        won: list[int] = []

        def work(me: int) -> None:
            with open_store() as store:
                for version in range(10):
                    try:
                        store.append("a", [new(me)], version)
                    except evlog.WrongExpectedVersion:
                        while store.stream_version("a") <= version:
                            pass
                    else:
                        won.append(version)

        threads = [threading.Thread(target=work, args=(me,)) for me in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(won) == list(range(10))
        with open_store() as store:
            assert [event.version for event in store.read("a")] == list(range(1, 11))

    def test_an_id_that_many_append_at_once_is_stored_once(self, open_store: OpenStore) -> None:
        results: list[Any] = []
        start = threading.Barrier(4)

        def work() -> None:
            with open_store() as store:
                start.wait()
                results.extend(store.append("a", [new(n, id=UUID(int=n + 1))]) for n in range(10))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with open_store() as store:
            assert sorted(numbers(store.read_all())) == list(range(10))
        assert sum(not result.duplicate for result in results) == 10

    # --- following

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

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, range(20)),
            ({"stream": "a-1"}, range(1, 20, 4)),
            ({"category": "b", "types": ["U"]}, range(3, 20, 4)),
            ({"types": ["T"]}, range(0, 20, 2)),
            ({"stream": "none"}, ()),
        ],
    )
    def test_a_follower_has_a_filter(
        self, filled: EventStore, options: dict[str, Any], expected: Iterable[int]
    ) -> None:
        with filled.subscribe(follow=False, **options) as run:
            assert numbers(run) == list(expected)
            assert run.position == filled.head

    def test_a_follower_begins_behind_a_position_or_at_a_time(self, filled: EventStore) -> None:
        events = list(filled.read_all())
        with filled.subscribe(after=events[16].position, follow=False) as run:
            assert numbers(run) == [17, 18, 19]
        since = events[15].time
        with filled.subscribe(since=since, follow=False) as run:
            assert list(run) == [event for event in events if event.time >= since]

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

    # --- named subscriptions

    def test_a_name_continues_where_its_last_run_ended(self, filled: EventStore, other: EventStore) -> None:
        with filled.subscribe("n", follow=False) as run:
            for event in run:
                if event.data == b"5":
                    break
        assert filled.subscription("n").lag_events == 15
        with other.subscribe("n", follow=False) as run:
            assert numbers(run) == list(range(5, 20))
        assert [info.name for info in filled.subscriptions()] == ["n"]
        assert filled.subscription("n").position == filled.head
        assert run_to_end(filled, "n") == []

    def test_a_name_keeps_its_filter_and_runs_once(self, filled: EventStore, other: EventStore) -> None:
        with filled.subscribe("n", types=["T"]):
            with pytest.raises(evlog.SubscriptionBusy):
                other.subscribe("n", types=["T"])
            assert other.subscription("n").running
        with pytest.raises(evlog.InvalidArgument):
            other.subscribe("n")
        assert other.subscription("n").filter == evlog.EventFilter(types=["T"])

    def test_a_name_is_reset_and_deleted(self, filled: EventStore) -> None:
        position = next(filled.read("a-1")).position
        filled.consume("n", lambda _: None, follow=False)
        filled.reset_subscription("n", position)
        assert run_to_end(filled, "n") == list(range(2, 20))
        with pytest.raises(evlog.InvalidArgument):
            filled.reset_subscription("n", filled.head + 1)
        filled.delete_subscription("n")
        with pytest.raises(evlog.SubscriptionNotFound):
            filled.subscription("n")
        assert filled.subscriptions() == []

    def test_a_first_run_does_not_begin_behind_the_end(self, filled: EventStore) -> None:
        with pytest.raises(evlog.InvalidArgument):
            filled.subscribe("n", after=filled.head + 1)
        assert filled.subscriptions() == []

    def test_events_that_fail_are_parked_and_replayed(self, filled: EventStore) -> None:
        bad = {3, 7}

        def handler(event: Event) -> None:
            if int(event.data) in bad:
                raise ValueError(f"bad {int(event.data)}")

        filled.consume("n", handler, follow=False, retries=1, on_failure="park")
        first, second = filled.parked("n")
        assert (first.stream, first.version, first.error, first.attempts) == (
            "b-1",
            1,
            "ValueError: bad 3",
            1,
        )
        assert second.id == UUID(int=8)
        assert filled.subscription("n").parked == 2
        bad.discard(3)
        assert filled.replay_parked("n", handler) == (1, 1, 0)
        (left,) = filled.parked("n")
        assert (left.position, left.attempts) == (second.position, 2)
        bad.clear()
        assert filled.replay_parked("n", handler) == (1, 0, 0)
        assert filled.parked("n") == []

    def test_a_handler_that_fails_stops_a_run_before_its_event(self, filled: EventStore) -> None:
        def handler(event: Event) -> None:
            if event.data == b"4":
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            filled.consume("n", handler, follow=False, retries=1)
        assert run_to_end(filled, "n") == list(range(4, 20))

    # --- retention

    def test_retention_hides_and_compaction_removes(self, filled: EventStore) -> None:
        if not filled.capabilities.retention:
            refused: list[Callable[[], object]] = [
                lambda: filled.set_retention("a-0", max_count=1),
                lambda: filled.delete_stream("a-0"),
            ]
            for call in refused:
                with pytest.raises(evlog.Unsupported):
                    call()
            assert len(list(filled.read_all())) == 20
            pytest.skip("the engine has no retention")
        filled.set_retention("a-0", max_count=1)
        filled.set_retention(category="b", max_count=2)
        filled.delete_stream("a-1")
        assert numbers(filled.read("a-0")) == [16]
        assert numbers(filled.read("b-1")) == [15, 19]
        assert (numbers(filled.read("a-1")), filled.has_stream("a-1")) == ([], False)
        assert filled.retention("a-0").max_count == 1
        assert {policy.stream or policy.category for policy in filled.policies()} == {"a-0", "a-1", "b"}
        assert filled.append("a-1", [new(20)], NO_STREAM).first_version == 6
        if not filled.capabilities.compaction:
            return
        filled.compact()
        assert sorted(numbers(filled.read_all())) == [14, 15, 16, 18, 19, 20]
        assert filled.append("a-1", [new(1, "U", id=UUID(int=2))]).duplicate  # ids are remembered
        assert filled.stream_version("a-0") == 5

    def test_a_subscription_survives_a_compaction_of_the_event_it_is_at(self, filled: EventStore) -> None:
        if not filled.capabilities.compaction:
            with pytest.raises(evlog.Unsupported):
                filled.compact()
            pytest.skip("the engine has no compaction")
        position = list(filled.read("b-1"))[-1].position
        filled.consume("n", lambda _: None, follow=False)
        assert filled.subscription("n").position == position
        filled.delete_stream("b-1")
        filled.compact()
        filled.append("a-0", [new(20)])
        assert run_to_end(filled, "n") == [20]

    # --- checking

    def test_a_sound_store_verifies(self, filled: EventStore) -> None:
        report = filled.verify()
        assert report.ok
        assert (report.events, report.position) == (20, filled.head)
