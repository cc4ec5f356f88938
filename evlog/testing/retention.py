"""Retention hides and compaction removes, where the engine offers them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

import evlog
from evlog import NO_STREAM, EventStore
from evlog.testing.base import EngineTests, new, numbers, run_to_end

SELECTIONS: dict[str, tuple[dict[str, Any], int | None]] = {  # what blocks the removal from a-0 up to 21
    "all": ({}, 21),
    "the stream": ({"stream": "a-0"}, 21),
    "its category": ({"category": "a"}, 21),
    "a type": ({"types": ["U"]}, 21),
    "another type of it": ({"types": ["T"]}, 17),
    "a text": ({"grep": "16"}, 17),
    "a tag": ({"tags": ["course:c1"]}, 21),
    "metadata": ({"metadata": {"user": "ann"}}, 21),
    "another stream": ({"stream": "a-1"}, None),
    "another category": ({"category": "b"}, None),
    "no such type": ({"types": ["X"]}, None),
    "no such text": ({"grep": "no number"}, None),
    "no such tag": ({"tags": ["course:c2"]}, None),
    "no such metadata": ({"metadata": {"user": "bob"}}, None),
}


class RetentionTests(EngineTests):
    """What is hidden and removed."""

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

    @pytest.mark.parametrize("selection", SELECTIONS)
    def test_a_subscription_blocks_a_compaction_only_for_what_it_selects(
        self, filled: EventStore, selection: str
    ) -> None:
        if not filled.capabilities.compaction:
            pytest.skip("the engine has no compaction")
        marked = filled.append("a-0", [new(20, "U", tags=["course:c1"], metadata={"user": "ann"})])
        filled.append("a-0", [new(21)])
        filled.set_retention("a-0", max_count=1)
        filters, position = SELECTIONS[selection]
        with filled.subscribe("mail", follow=False, **filters):
            pass
        filled.reset_subscription("mail", 1)
        if position is None:
            assert filled.compact().events_removed == 6
        else:
            with pytest.raises(evlog.SubscriptionBehind) as raised:
                filled.compact()
            assert (raised.value.checkpoint, raised.value.position) == (1, position)
            assert filled.get(marked.first_position).json() == 20
            assert filled.compact(force=True).events_removed == 6

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
