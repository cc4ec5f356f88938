"""What `transact` refuses of its arguments, and of what a decision returns."""

from __future__ import annotations

from typing import Any

import pytest

from evlog import EventStore, InvalidArgument, NewEvent


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
