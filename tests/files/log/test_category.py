"""Reads by category: by the range of stream hashes in `.streams`, or by searching the entries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import evlog
from evlog import EventStore, NewEvent
from evlog.model.encoding import encode_events
from tests.support.helpers import small_store

EVENTS = 10_000


def category(number: int) -> str:
    """Most events are of `usual`; a few are of `rare`, one of `first` and one of `last`."""
    if number in (0, EVENTS - 1):
        return "first" if not number else "last"
    return f"rare-{number % 3}" if number % 499 == 0 else f"usual-{number % 90}"


@pytest.fixture(params=[EVENTS + 1, 2500], ids=["active", "sealed"])
def store(request: pytest.FixtureRequest, memory_path: Path) -> EventStore:
    with small_store(memory_path / "store", segment_events=request.param, sync="none") as made:
        for begin in range(0, EVENTS, 500):
            numbers = range(begin, begin + 500)
            made.append_encoded(
                list(map(category, numbers)), encode_events([NewEvent("T", number) for number in numbers])
            )
    return evlog.open(memory_path / "store")


def check(store: EventStore) -> None:
    names = list(map(category, range(EVENTS)))
    for wanted in ("rare", "first", "last", "usual", "none"):
        expected = [number for number, name in enumerate(names) if name.partition("-")[0] == wanted]
        for after, to in ((0, None), (1500, 8000), (9000, None)):
            own = [number for number in expected if after <= number < (to or EVENTS)]
            for reverse in (False, True):
                found = [
                    int(event.data) for event in store.read_all(after, to, category=wanted, reverse=reverse)
                ]
                assert found == (own[::-1] if reverse else own)
        last = [int(event.data) for event in store.read_all(category=wanted, reverse=True, limit=3)]
        assert last == expected[::-1][:3]


def test_a_category_is_found_among_others(store: EventStore) -> None:
    check(store)
    store.close()


def missing(path: Path) -> None:
    path.unlink()


def damaged(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    for at in range(64, len(raw), 50):
        raw[at] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("harm", [missing, damaged])
def test_a_category_is_found_without_a_sound_index(store: EventStore, harm: Callable[[Path], None]) -> None:
    store.close()
    for path in Path(store.path).glob("segments/*.streams"):
        harm(path)
    with evlog.open(store.path) as again:
        check(again)
