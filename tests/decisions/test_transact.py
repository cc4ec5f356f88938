"""What `transact` refuses of its arguments, and of what a decision returns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from evlog import Event, EventStore, InvalidArgument, NewEvent


@pytest.mark.parametrize("pair", [("b",), (), ("b", [NewEvent("T")], 3), ("b", 5), ("b", NewEvent("T"))])
def test_a_pair_is_a_stream_and_its_events(store: EventStore, pair: Any) -> None:
    with pytest.raises(InvalidArgument):
        store.transact("a", lambda _: [pair])
    assert store.head == 0


@pytest.mark.parametrize("key", ["", 5])
def test_what_is_not_a_key_is_refused_before_anything_is_decided(store: EventStore, key: Any) -> None:
    decided: list[object] = []
    with pytest.raises(InvalidArgument, match="key"):
        store.transact("a", decided.append, key=key)
    assert decided == []


def test_a_decision_may_be_a_generator_and_not_async(store: EventStore) -> None:
    def decide(history: list[Event]) -> Iterator[NewEvent]:
        yield NewEvent("T", len(history))

    async def decide_later(history: list[Event]) -> list[NewEvent]:
        return [NewEvent("T", len(history))]

    async def decide_one_by_one(history: list[Event]) -> AsyncIterator[NewEvent]:
        yield NewEvent("T", len(history))

    for wrong in (decide_later, decide_one_by_one):
        with pytest.raises(InvalidArgument, match="decide is an async function"):
            store.transact("a", wrong)  # type: ignore[arg-type]
    assert len(store.transact("a", decide)) == 1
