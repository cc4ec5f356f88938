"""What all topics share: the fixtures of empty stores, and events whose data is a number."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from uuid import UUID

import pytest

import evlog
from evlog import Event, EventStore, NewEvent

OpenStore = Callable[[], EventStore]
"""Opens the same store again and again; creates it the first time."""

NewStore = Callable[[], OpenStore]
"""Names an empty store, and returns what opens it."""

LONG_SECONDS = 60.0
"""How long a test waits for what happens at once, before it fails."""


class EngineTests:
    """The fixtures. A subclass defines `new_url`; one whose stores have no URL redefines `new_store`."""

    @pytest.fixture
    def new_url(self) -> Callable[[], str]:
        """Return a function that makes the URL of a store that does not exist yet."""
        raise NotImplementedError("define the fixture new_url: a function that makes the URL of a new store")

    @pytest.fixture
    def new_store(self, new_url: Callable[[], str]) -> NewStore:
        return stores_by_url(new_url)

    @pytest.fixture
    def open_store(self, new_store: NewStore) -> OpenStore:
        return new_store()

    @pytest.fixture
    def store(self, open_store: OpenStore) -> Iterator[EventStore]:
        with open_store() as opened:
            yield opened

    @pytest.fixture
    def other(
        self,
        store: EventStore,  # noqa: ARG002 - opened first
        open_store: OpenStore,
    ) -> Iterator[EventStore]:
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


def stores_by_url(new_url: Callable[[], str]) -> NewStore:
    """Return a function that names empty stores by their URLs."""

    def name_store() -> OpenStore:
        url = new_url()
        return lambda: evlog.open(url, create=True)

    return name_store


def new(number: int, type: str = "T", **options: Any) -> NewEvent:
    """Return an event whose data is a number."""
    return NewEvent(type, number, **options)


def check_selection(store: EventStore, wanted: list[int], **options: Any) -> None:
    """Read the log by these options in every way, and follow it: the wanted numbers are found."""
    assert numbers(store.read_all(**options)) == wanted, options
    assert numbers(store.read_all(**options, reverse=True)) == wanted[::-1]
    assert numbers(store.read_all(**options, limit=2)) == wanted[:2]
    assert numbers(store.read_all(**options, reverse=True, limit=1)) == wanted[-1:]
    with store.subscribe(follow=False, **options) as run:
        assert numbers(run) == wanted


def numbers(events: Iterable[Event]) -> list[int]:
    """Return the numbers that `new` was given."""
    return [int(event.data) for event in events]


def in_threads(calls: Iterable[Callable[[], object]]) -> None:
    """Make the calls at the same time, each in a thread of its own; at the end raise the first error."""
    errors: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_SECONDS)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads)


def run_to_end(store: EventStore, name: str) -> list[int]:
    """Run a subscription to the end of the log, and return the numbers that it delivered."""
    with store.subscribe(name, follow=False) as run:
        return numbers(run)
