"""Tags of events, and reads and subscriptions by tag."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from evlog import EventFilter, EventStore, NewEvent
from evlog.testing.base import EngineTests, check_selection, new, numbers, run_to_end

SELECTIONS: list[tuple[dict[str, Any], Iterable[int]]] = [  # and which numbers of `tagged` they give
    ({"tags": ["2:1"]}, range(1, 20, 2)),
    ({"tags": ["2:0", "3:0"]}, (6, 12, 18)),
    ({"tags": ["2:0", "3:0", "5:3"]}, (18,)),
    ({"tags": ["3:1", "3:2"]}, ()),
    ({"tags": ["none"]}, ()),
    ({"tags": []}, range(20)),
    ({"tags": ["3:0"], "types": ["T"]}, (3, 6, 9)),
    ({"tags": ["3:0"], "types": []}, ()),
    ({"tags": ["3:0"], "category": "b"}, (3, 6, 15, 18)),
    ({"tags": ["3:0"], "category": "b", "types": ["U"]}, (15, 18)),
]


class TagTests(EngineTests):
    """What is found by tags."""

    @pytest.fixture
    def tagged(self, store: EventStore) -> EventStore:
        """Numbers 0 to 19 in streams a-0, a-1, b-0, b-1 in turn; n has a tag `m:R` for each m of 2, 3, 5."""
        for number in range(20):
            stream = ("a-0", "a-1", "b-0", "b-1")[number % 4]
            tags = [f"{modulus}:{number % modulus}" for modulus in (2, 3, 5)]
            store.append(stream, [new(number, "TU"[number // 10], tags=tags if number else None)])
        return store

    def test_an_event_comes_back_with_its_tags(self, store: EventStore, other: EventStore) -> None:
        tags = ("b", "a", 'x"],}\\', "tag: ü", "y" * 255)
        store.append(
            "s", [NewEvent("T", tags=tags, metadata={"m": [1, "2:0"]}), NewEvent("T", tags=["a", "a"])]
        )
        first, second = other.read("s")
        assert (first.tags, first.metadata) == (tags, {"m": [1, "2:0"]})
        assert (second.tags, second.metadata, second.metadata_bytes) == (("a",), {}, b"{}")

    def test_a_retry_with_other_tags_is_a_retry(self, store: EventStore) -> None:
        first, again = ([new(0, id=bytes(15) + b"\1", tags=[tag])] for tag in "ab")
        store.append("s", first)
        assert store.append("s", again).duplicate
        assert [event.tags for event in store.read("s")] == [("a",)]

    def test_a_read_of_the_log_is_by_tags(self, tagged: EventStore) -> None:
        for options, expected in SELECTIONS:
            check_selection(tagged, list(expected), **options)

    def test_a_read_of_a_stream_is_by_tags(self, tagged: EventStore) -> None:
        assert numbers(tagged.read("a-1", tags=["3:2"])) == [5, 17]
        assert numbers(tagged.read("a-1", tags=["3:2"], types=["U"])) == [17]
        assert numbers(tagged.read("a-1", tags=["2:1"], reverse=True, limit=2)) == [17, 13]
        assert numbers(tagged.read("a-1", 2, 4, tags=["2:1"])) == [5, 9, 13]
        assert numbers(tagged.read("a-0", tags=["2:0"])) == [4, 8, 12, 16]

    def test_positions_and_times_bound_a_read_by_tags(self, tagged: EventStore) -> None:
        events = list(tagged.read_all())
        places = [event.position for event in events]
        assert numbers(tagged.read_all(places[6], places[12], tags=["2:0"])) == [8, 10, 12]
        middle = events[9].time
        late = [event for event in events if event.time >= middle and "3:0" in event.tags]
        early = [event for event in events if event.time < middle and "3:0" in event.tags]
        assert list(tagged.read_all(since=middle, tags=["3:0"])) == late
        assert list(tagged.read_all(until=middle, tags=["3:0"])) == early

    def test_a_name_keeps_its_tags(self, tagged: EventStore, other: EventStore) -> None:
        with tagged.subscribe("n", tags=["3:0", "2:0"], follow=False) as run:
            assert numbers(run) == [6, 12, 18]
        assert other.subscription("n").filter == EventFilter(tags=["2:0", "3:0"])
        tagged.append("c", [new(20, tags=["2:0", "3:0"]), new(21, tags=["2:0"])])
        with other.subscribe("n", tags=["2:0", "3:0"], follow=False) as run:
            assert numbers(run) == [20]
        with pytest.raises(ValueError, match="filter"):
            other.subscribe("n", tags=["2:0"])
        tagged.append("c", [new(22, tags=["2:0", "3:0"]), new(23, tags=["2:0"])])
        assert run_to_end(other, "n") == [22]
