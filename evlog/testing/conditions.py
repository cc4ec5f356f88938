"""Conditions of appends: no event matches a query, a stream is at a version. And reads for decisions."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest

import evlog
from evlog import ANY, NO_STREAM, STREAM_EXISTS, EventStore, IfNone, IfVersion, NewEvent, Query
from evlog.testing.base import LONG_SECONDS, EngineTests, OpenStore, in_threads, new, numbers


class ConditionTests(EngineTests):
    """What an append may depend on."""

    @pytest.fixture
    def course(self, store: EventStore) -> EventStore:
        """Course 1 is opened (0) and student 9 enrolled (1); course 2 is opened (2)."""
        if not store.capabilities.conditions:
            with pytest.raises(evlog.Unsupported):
                store.append("a", [new(0)], conditions=IfNone("*"))
            assert store.head == 0
            pytest.skip("the engine has no conditions")
        store.append("c-1", [new(0, "Opened", tags=["course:1"])])
        store.append("c-1", [new(1, "Enrolled", tags=["course:1", "student:9"])])
        store.append("c-2", [new(2, "Opened", tags=["course:2"])])
        return store

    def test_an_event_that_matches_refuses_an_append(self, course: EventStore) -> None:
        places = [0, *(event.position for event in course.read_all())]
        for query, after, first in (
            ("tag=course:1", 0, 1),
            ("tag=course:1", 1, 2),
            ("type=Enrolled,tag=course:1", 0, 2),
            ("type=Enrolled|Opened,tag=course:2", 0, 3),
            ("tag=course:1,tag=student:9", 0, 2),
            ("type=Opened", 1, 3),
            ("tag=course:2;tag=student:9", 0, 2),
            ("tag=student:9;tag=course:2", 2, 3),
            ("*", 2, 3),
        ):
            with pytest.raises(evlog.ConditionFailed) as caught:
                course.append("x", [new(3)], conditions=[IfNone("tag=none"), IfNone(query, places[after])])
            assert caught.value.position == places[first], query
            assert (caught.value.query, caught.value.after) == (str(Query.parse(query)), places[after])
            assert numbers(course.read_all()) == [0, 1, 2]

    def test_an_event_that_does_not_match_refuses_no_append(self, course: EventStore) -> None:
        places = [0, *(event.position for event in course.read_all())]
        queries = (
            ("*", 3),
            ("tag=course:1", 2),
            ("tag=course:2,tag=student:9", 0),
            ("type=Enrolled,tag=course:2", 0),
            ("type=opened", 0),
            ("tag=none;type=none", 0),
        )
        for version, (query, after) in enumerate(queries, 1):
            condition = IfNone(query, places[after])
            assert course.append("x", [new(3)], conditions=condition).first_version == version

    def test_what_an_append_writes_does_not_refuse_it(self, course: EventStore) -> None:
        once = IfNone("tag=once")
        both = [(stream, [new(number, tags=["once"])]) for stream, number in (("x", 3), ("y", 4))]
        results = course.append_many(both, conditions=once)
        assert [result.first_version for result in results] == [1, 1]
        with pytest.raises(evlog.ConditionFailed):
            course.append_many([("x", [new(5)]), ("y", [new(6)])], conditions=once)
        assert numbers(course.read_all()) == [0, 1, 2, 3, 4]

    def test_a_retry_succeeds_though_its_condition_fails(self, course: EventStore, other: EventStore) -> None:
        event = new(3, tags=["email:a"], id=bytes(15) + b"\7")
        first = course.append("x", [event], NO_STREAM, conditions=IfNone("tag=email:a"))
        again = other.append("x", [event], NO_STREAM, conditions=IfNone("tag=email:a"))
        assert again.duplicate
        assert again.first_position == first.first_position

    def test_a_position_beyond_the_end_is_refused(self, course: EventStore) -> None:
        with pytest.raises(evlog.InvalidArgument):
            course.append("x", [new(3)], conditions=IfNone("tag=none", course.head + 1))
        assert numbers(course.read_all()) == [0, 1, 2]

    def test_another_stream_must_be_at_a_version(self, course: EventStore) -> None:
        for condition in (
            IfVersion("c-1", 1),
            IfVersion("c-1", NO_STREAM),
            IfVersion("none", STREAM_EXISTS),
            IfVersion("none", 3),
        ):
            with pytest.raises(evlog.WrongExpectedVersion) as caught:
                course.append("x", [new(3)], 0, conditions=condition)
            assert caught.value.stream == condition.stream
            assert numbers(course.read_all()) == [0, 1, 2]
        for number, condition in enumerate(
            (
                IfVersion("c-1", 2),
                IfVersion("c-1", STREAM_EXISTS),
                IfVersion("c-1", ANY),
                IfVersion("none", 0),
            )
        ):
            conditions = [condition, IfVersion("c-2", 1)]
            assert course.append(f"x-{number}", [new(3)], 0, conditions=conditions).first_version == 1

    def test_conditions_of_every_kind_hold_together(self, course: EventStore) -> None:
        both: list[Any] = [IfVersion("c-1", 2), IfNone("tag=course:1", course.head)]
        assert course.append("c-2", [new(3, tags=["course:1"])], 1, conditions=both).first_version == 2
        with pytest.raises(evlog.ConditionFailed):
            course.append("c-2", [new(4)], 2, conditions=both)

    def test_a_query_gives_events_and_the_position_it_was_made_at(self, course: EventStore) -> None:
        found = course.query(Query(["Enrolled"], ["course:1"]) | Query(tags=["course:2"]))
        assert (numbers(found), found.position) == ([1, 2], course.head)
        nothing = course.query("type=Opened,tag=student:9")
        assert (numbers(nothing), nothing.position) == ([], course.head)
        assert numbers(course.query("type=Opened;tag=course:1")) == [0, 1, 2]
        assert numbers(course.query("*")) == [0, 1, 2]
        assert nothing.unchanged == IfNone("type=Opened,tag=student:9", course.head)

    def test_a_decision_fails_if_another_was_first(self, course: EventStore, other: EventStore) -> None:
        mine, theirs = course.query("tag=course:2"), other.query("tag=course:2")
        other.append("c-1", [new(3, tags=["course:1"])])  # of no interest to either
        course.append("x", [new(4, tags=["course:2"])], conditions=mine.unchanged)
        with pytest.raises(evlog.ConditionFailed) as caught:
            other.append("x", [new(5, tags=["course:2"])], conditions=theirs.unchanged)
        assert caught.value.position == course.head

    def test_hidden_events_count(self, course: EventStore) -> None:
        if not course.capabilities.retention:
            pytest.skip("the engine has no retention")
        course.set_retention("c-1", max_count=1)
        course.delete_stream("c-2")
        for query in ("type=Opened,tag=course:1", "tag=course:2"):
            with pytest.raises(evlog.ConditionFailed):
                course.append("x", [new(3)], conditions=IfNone(query))

    def test_the_stores_own_events_do_not_count(self, course: EventStore) -> None:
        if not course.capabilities.retention:
            pytest.skip("the engine has no retention")
        head = course.head
        course.set_retention("c-1", max_count=100)
        assert course.head > head
        assert course.append("x", [new(3)], conditions=IfNone("*", head)).first_version == 1

    def test_a_course_with_two_places_is_never_overbooked(
        self, course: EventStore, open_store: OpenStore
    ) -> None:
        start = threading.Barrier(6)
        outcomes: list[str] = []

        def enrol(student: int) -> None:
            with open_store() as store:
                start.wait(LONG_SECONDS)
                while True:
                    enrolled = store.query("type=Enrolled,tag=course:2")
                    if len(enrolled) >= 2:
                        outcomes.append("full")
                        return
                    event = NewEvent("Enrolled", tags=["course:2", f"student:{student}"])
                    try:
                        store.append(f"s-{student}", [event], conditions=enrolled.unchanged)
                    except evlog.ConditionFailed:
                        continue
                    outcomes.append("enrolled")
                    return

        in_threads(partial(enrol, student) for student in range(6))
        assert sorted(outcomes) == ["enrolled"] * 2 + ["full"] * 4
        assert len(course.query("type=Enrolled,tag=course:2")) == 2

    def test_of_many_who_take_a_unique_name_one_gets_it(
        self, course: EventStore, open_store: OpenStore
    ) -> None:
        start = threading.Barrier(5)
        taken: list[int] = []

        def take() -> None:
            with open_store() as store:
                start.wait(LONG_SECONDS)
                for number in range(10):
                    event = NewEvent("Taken", tags=[f"name:{number}"])
                    try:
                        store.append("names", [event], conditions=IfNone(Query(["Taken"], event.tags or ())))
                        taken.append(number)
                    except evlog.ConditionFailed:
                        pass

        in_threads([take] * 5)
        assert sorted(taken) == list(range(10))
        assert len(course.query("type=Taken")) == 10

    def test_events_that_a_compaction_removed_count_by_their_tags(self, course: EventStore) -> None:
        if not course.capabilities.compaction:
            pytest.skip("the engine has no compaction")
        places = [event.position for event in course.read_all()]
        course.append("c-1", [new(3, "Closed", tags=["course:1"])])
        course.set_retention("c-1", before=3)
        course.compact()
        course.delete_stream("c-2")
        course.compact()
        assert numbers(course.read_all()) == [3]
        for query, after, first in (
            ("type=Opened,tag=course:1", 0, 0),
            ("tag=course:1,tag=student:9", 0, 1),
            ("type=Enrolled|Opened,tag=course:1", places[0], 1),
            ("tag=course:2", places[1], 2),
            ("tag=none;tag=course:2", 0, 2),
        ):
            with pytest.raises(evlog.ConditionFailed) as caught:
                course.append("x", [new(4)], conditions=IfNone(query, after))
            assert caught.value.position == places[first]
        met = ("type=Closed,tag=student:9", "tag=course:2,tag=student:9", "type=Moved,tag=course:2")
        conditions = [
            *map(IfNone, met),
            IfNone("tag=course:2", places[2]),
            IfNone("tag=student:9", places[1]),
        ]
        assert course.append("x", [new(4)], conditions=conditions).first_version == 1
