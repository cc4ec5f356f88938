"""Retention hides and compaction removes, where the engine offers them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

import evlog
from evlog import NO_STREAM, EventStore
from evlog.testing.base import EngineTests, new, numbers, run_to_end

# What blocks the removal from a-0 up to a position, and what does not.
BLOCKING: list[tuple[dict[str, Any], int]] = [
    ({}, 21),
    ({"stream": "a-0"}, 21),
    ({"category": "a"}, 21),
    ({"types": ["U"]}, 21),
    ({"types": ["T"]}, 17),
    ({"grep": "16"}, 17),
    ({"tags": ["course:c1"]}, 21),
    ({"metadata": {"user": "ann"}}, 21),
]
HARMLESS: list[dict[str, Any]] = [
    {"stream": "a-1"},
    {"category": "b"},
    {"types": ["X"]},
    {"grep": "no number"},
    {"tags": ["course:c2"]},
    {"metadata": {"user": "bob"}},
]


def leave_behind(store: EventStore, name: str, filters: dict[str, Any]) -> None:
    """Begin a subscription that has read one event."""
    with store.subscribe(name, follow=False, **filters):
        pass
    store.reset_subscription(name, 1)


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
        rules = {removal.stream: removal.rule for removal in filled.compact(dry_run=True).removals}
        assert rules["a-0"] == {"stream": "a-0", "$maxCount": 1}
        assert rules["b-1"] == {"category": "b", "$maxCount": 2}
        filled.compact()
        assert sorted(numbers(filled.read_all())) == [14, 15, 16, 18, 19, 20]
        assert filled.append("a-1", [new(1, "U", id=UUID(int=2))]).duplicate  # ids are remembered
        assert filled.stream_version("a-0") == 5

    def test_a_subscription_blocks_a_compaction_only_for_what_it_selects(self, filled: EventStore) -> None:
        if not filled.capabilities.compaction:
            pytest.skip("the engine has no compaction")
        marked = filled.append("a-0", [new(20, "U", tags=["course:c1"], metadata={"user": "ann"})])
        filled.append("a-0", [new(21)])
        filled.set_retention("a-0", max_count=1)
        for number, filters in enumerate(HARMLESS):
            leave_behind(filled, f"harmless-{number}", filters)
        for filters, position in BLOCKING:
            leave_behind(filled, "mail", filters)
            with pytest.raises(evlog.SubscriptionBehind) as raised:
                filled.compact()
            assert (raised.value.subscription, raised.value.checkpoint) == ("mail", 1)
            assert raised.value.position == position, filters
            assert filled.get(marked.first_position).json() == 20
            filled.delete_subscription("mail")
        assert filled.compact().events_removed == 6

    def test_a_compaction_can_be_forced_past_a_subscription(self, filled: EventStore) -> None:
        if not filled.capabilities.compaction:
            pytest.skip("the engine has no compaction")
        filled.set_retention("a-0", max_count=1)
        leave_behind(filled, "mail", {})
        with pytest.raises(evlog.SubscriptionBehind):
            filled.compact()
        assert filled.compact(force=True).events_removed == 4

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
