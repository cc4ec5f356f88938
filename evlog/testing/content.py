"""Reads, subscriptions and states by what metadata and data hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import pytest

from evlog import EventFilter, EventStore, InvalidArgument, NewEvent
from evlog.testing.base import EngineTests, check_selection, new, numbers

STORY = UUID(int=1 << 127)
SELECTIONS: list[tuple[dict[str, Any], Iterable[int]]] = [  # and which numbers of `told` they give
    ({"metadata": {"user": "ann"}}, range(4, 30, 6)),
    ({"metadata": {"user": "bén"}}, range(1, 30, 6)),
    ({"metadata": {"user": "ann/x"}}, range(2, 30, 3)),
    ({"metadata": {"n": 7}}, [7]),
    ({"metadata": {"n": "7"}}, [7]),
    ({"metadata": {"n": 7, "ok": True, "user": "bén"}}, [7]),
    ({"metadata": {"n": 7, "ok": False}}, []),
    ({"metadata": {"user": "an"}}, []),
    ({"metadata": {"x": "1"}}, []),
    ({"metadata": {"none": "ann"}}, []),
    ({"correlation": STORY}, [1, 16]),
    ({"correlation": str(STORY), "metadata": {"n": 16}}, [16]),
    ({"correlation": "x"}, []),
    ({"grep": "17"}, [17]),
    ({"grep": "^1[0-3]$"}, range(10, 14)),
    ({"grep": ["bén", '"n":1']}, [1, 13, 19]),
    ({"grep": r"b\wn"}, range(1, 30, 6)),
    ({"grep": "t"}, [n for n in range(30) if n % 3]),
    ({"grep": "."}, range(30)),
    ({"metadata": {"user": "bén"}, "grep": "9", "types": ["U"], "category": "a"}, [19]),
    ({"metadata": {"user": "ann/x"}, "tags": ["t"], "grep": "(?i)ANN.X"}, range(2, 30, 3)),
    ({"metadata": {}, "grep": []}, range(30)),
]


class ContentTests(EngineTests):
    """What is found by metadata, correlation and patterns."""

    @pytest.fixture
    def told(self, store: EventStore) -> EventStore:
        """Numbers 0 to 29 in streams a-0, a-1, b-0; two of three have metadata, two belong to a story."""
        for number in range(0, 30, 3):
            store.append("a-0", [new(number)])
            metadata: dict[str, Any] = {"n": number + 1, "user": "ann" if number % 2 else "bén", "ok": True}
            link = {} if number % 5 else {"correlation_id": STORY}
            store.append("a-1", [new(number + 1, "U", metadata=metadata, **link)])
            store.append("b-0", [new(number + 2, metadata={"user": "ann/x", "x": {"n": 1}}, tags=["t"])])
        return store

    def test_a_read_is_by_content(self, told: EventStore) -> None:
        for options, expected in SELECTIONS:
            wanted = list(expected)
            check_selection(told, wanted, **options)
            of_stream = {name: value for name, value in options.items() if name != "category"}
            own = [number for number in wanted if number % 3 == 1]
            assert numbers(told.read("a-1", **of_stream)) == own
            assert numbers(told.read("a-1", **of_stream, limit=1, reverse=True)) == own[-1:]
            assert told.state(None, lambda n, _: n + 1, 0, **options).value == len(wanted)

    def test_json_that_hides_a_text_is_found(self, store: EventStore) -> None:
        for number, metadata in enumerate(
            (
                rb'{"\u0075ser":"a\u006en"}',
                rb'{"user":"a\/b"}',
                rb'{"user":"x\"y\\z"}',
                rb'{"user":"line\n"}',
                rb'{"user":1.50e3}',
                rb'{"user":null}',
                rb'{"user":"\u0000"}',
                rb'{"user":{"ann":1}}',
            )
        ):
            store.append("s", [new(number, metadata=metadata)])
        for text, expected in (
            ("ann", [0]),
            ("a/b", [1]),
            ('x"y\\z', [2]),
            ("line\n", [3]),
            ("1.50e3", [4]),
            ("1500.0", []),
            ("null", [5]),
            ("\0", [6]),
            ('{"ann":1}', [7]),
        ):
            assert numbers(store.read_all(metadata={"user": text})) == expected, text

    def test_text_and_binary_data_are_searched(self, store: EventStore) -> None:
        store.append("s", [NewEvent("T", "größe 1.5", content_type="text")])
        store.append("s", [NewEvent("T", b"\xff\x00one", content_type="binary"), NewEvent("T", "two")])
        for pattern, versions in (
            ("größe", [1]),
            ("gr..e", [1]),
            ("one$", [2]),
            ("o", [2, 3]),
            (r"1\.5", [1]),
        ):
            assert [event.version for event in store.read("s", grep=pattern)] == versions
            assert [event.version for event in store.read_all(grep=pattern)] == versions

    def test_what_makes_no_sense_is_refused(self, told: EventStore) -> None:
        for options in (
            {"grep": "("},
            {"grep": ""},
            {"grep": [1]},
            {"grep": "\ud800"},
            {"metadata": {"": "x"}},
            {"metadata": {"x": object()}},
            {"correlation": "\ud800"},
        ):
            with pytest.raises(InvalidArgument):
                told.read_all(**options)

    def test_a_name_keeps_what_its_content_must_be(self, told: EventStore, other: EventStore) -> None:
        options: dict[str, Any] = {"metadata": {"user": "bén", "ok": True}, "grep": ["1", "."]}
        with told.subscribe("n", follow=False, **options) as run:
            assert numbers(run) == [1, 13, 19]
        filter = EventFilter(metadata=[("ok", "true"), ("user", "bén")], grep=[".", "1"])
        assert other.subscription("n").filter == filter
        told.append("c", [new(31, metadata={"user": "bén", "ok": True}), new(32)])
        with other.subscribe("n", follow=False, **options) as run:
            assert numbers(run) == [31]
        with pytest.raises(ValueError, match="filter"):
            other.subscribe("n", follow=False, metadata={"user": "bén"})
