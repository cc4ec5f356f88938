"""Handling several events at once: which are at hand, and where a run continues if that fails."""

from __future__ import annotations

import time
from itertools import count

import pytest

from evlog import EventStore
from tests.support.helpers import fill, new, numbers


def test_what_is_at_hand_was_read_already_and_comes_in_order(store: EventStore) -> None:
    fill(store, 20)
    with store.subscribe() as subscription:
        assert subscription.next_at_hand() is None  # nothing has looked yet
        first = subscription.next_event(0)
        rest = list(iter(subscription.next_at_hand, None))
        assert first is not None
        assert numbers([first, *rest]) == list(range(20))
        store.append("s-0", [new(20)])
        assert subscription.next_at_hand() is None
        found = subscription.next_event(0)
        assert found is not None
        assert found.position == 21
        assert subscription.next_at_hand() is None


def test_asking_for_what_is_at_hand_acknowledges_the_event_before(store: EventStore) -> None:
    fill(store, 3)
    with store.subscribe() as subscription:
        subscription.next_event(0)
        assert subscription.position == 0
        subscription.next_at_hand()
        assert subscription.position == 1


def test_a_loop_over_what_is_at_hand_acknowledges_what_it_went_on_from(store: EventStore) -> None:
    fill(store, 9)
    with store.subscribe() as subscription:
        assert list(subscription.events_at_hand()) == []  # nothing has looked yet
        subscription.next_event(0)
        for event in subscription.events_at_hand():
            assert subscription.position == event.position - 1
            if event.position == 5:
                break
        assert subscription.position == 4
        assert numbers(subscription.events_at_hand()) == [5, 6, 7, 8]
        assert subscription.position == 9
        subscription.stop()
        assert list(subscription.events_at_hand()) == []


def test_an_event_that_was_taken_and_not_handled_comes_again(store: EventStore) -> None:
    fill(store, 9)
    subscription = store.subscribe("a")
    subscription.next_event(0)
    undone = subscription.next_at_hand()
    assert len(list(iter(subscription.next_at_hand, None))) == 7
    subscription.hold_at(lambda: undone)
    subscription.close()
    assert store.subscription("a").position == 1
    with store.subscribe("a", follow=False) as again:
        assert numbers(again) == list(range(1, 9))


def test_a_slow_consumer_has_its_checkpoint_saved_while_events_are_at_hand(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 9)
    clock = count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with store.subscribe("a", follow=False) as subscription:
        for position in range(1, 8):
            assert subscription.next_event(0)
            assert store.subscription("a").position == position - 1
