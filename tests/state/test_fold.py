"""What a fold keeps of a state: what comes back is what was kept, or it is refused."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from http import HTTPStatus
from typing import Any, NamedTuple, assert_type

import pytest

from evlog import Event, EventStore, Fold, InvalidArgument, Upcasters
from tests.support.helpers import fill, new


class Color(Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Totals:
    by_number: dict[int, Decimal] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    color: Color = Color.RED
    at: datetime = datetime(2020, 1, 1, tzinfo=UTC)


def count(totals: dict[int, int], event: Event) -> dict[int, int]:
    totals[event.version % 2] = totals.get(event.version % 2, 0) + 1
    return totals


def test_a_state_has_the_type_of_its_fold(store: EventStore) -> None:
    """Type checkers judge each `assert_type`."""

    def add(total: int, event: Event) -> int:
        return total + len(event.data)

    def latest(_before: str | None, event: Event) -> str:
        return event.type

    assert assert_type(store.state("a", Fold(add, 0)).value, int) == 0
    assert assert_type(store.state("a", Fold(add, lambda: 1)).value, int) == 1
    assert assert_type(store.state("a", Fold(latest)).value, str | None) is None
    assert assert_type(store.state("a", add, 0).value, Any) == 0
    assert assert_type(store.state("a").value, Any) is None


@pytest.mark.parametrize(
    "state",
    [
        {1: 2},
        [{"a": {True: 1}}],
        {"at": datetime(2020, 1, 1, tzinfo=UTC)},
        Decimal("1.10"),
        Totals(),
        Counter("aab"),
        {"a": [defaultdict(int, b=1)]},
        Point(1, 2),
        HTTPStatus.OK,
    ],
)
@pytest.mark.parametrize("kind", [None, dict])
def test_a_state_that_json_would_change_needs_a_kind(store: EventStore, state: Any, kind: Any) -> None:
    fill(store, 1)
    fold = Fold(lambda _state, _event: state, name="fold", kind=kind)
    with pytest.raises(InvalidArgument, match="the state is not"):
        store.state(fold=fold, snapshot="state")
    assert store.snapshots() == []
    assert store.state(fold=fold).value == state


@pytest.mark.parametrize(
    "state",
    [None, 1.5, 1 << 70, "é", {"a": [1, {"b": None}]}, (1, ("a", [2])), {"a": (1, 2)}],
)
def test_what_json_has_needs_no_kind(state: Any) -> None:
    fold = Fold(lambda _state, _event: state, name="fold")
    assert fold.encode(fold.decode(fold.encode(state))) == fold.encode(state)


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ({1: 2, 30: 4}, dict[int, int]),
        ({"a", "b"}, set[str]),
        ({"a": {1, 2}}, dict[str, frozenset[int]]),
        ({Color.RED: 1}, dict[Color, int]),
        (Totals({1: Decimal("1.10")}, {"x", "y"}), Totals),
        (Counter("aab"), Counter),
        (Point(1, 2), Point),
    ],
)
def test_a_kind_gives_back_what_was_kept(state: Any, kind: Any) -> None:
    fold = Fold(lambda _state, _event: state, name="fold", kind=kind)
    assert fold.decode(fold.encode(state)) == state


def test_a_state_that_is_not_of_its_kind_is_refused(store: EventStore) -> None:
    fill(store, 1)
    for state, kind in (({"a": 1.5}, dict[str, int]), (defaultdict(int, a=1), defaultdict), (1, Totals)):
        fold = Fold(lambda state, _event: state, state, name="fold", kind=kind)
        with pytest.raises(InvalidArgument, match="is not of the kind"):
            store.state(fold=fold, snapshot="state")
    assert store.snapshots() == []


def test_no_count_is_lost_with_keys_that_are_not_texts(store: EventStore) -> None:
    fold = Fold(count, dict, name="count", kind=dict[int, int])
    for number in range(1, 6):
        store.append("s", [new(number)])
        state = store.state("s", fold, snapshot="count")
        assert state == store.state("s", fold)
        assert sum(state.value.values()) == number


@dataclass
class Before:
    number: int = 0


@dataclass
class After:
    total: int


def test_a_snapshot_of_another_kind_is_rebuilt(store: EventStore) -> None:
    def count_before(state: Before, _event: Event) -> Before:
        return Before(state.number + 1)

    def count_after(state: After, _event: Event) -> After:
        return After(state.total + 1)

    fill(store, 3)
    before = store.state(fold=Fold(count_before, Before, name="count", kind=Before), snapshot="count")
    assert before.value == Before(3)
    fold = Fold(count_after, lambda: After(0), name="count", kind=After)
    for _ in range(2):
        assert store.state(fold=fold, snapshot="count").value == After(3)
    assert store.snapshot("count").position == 3


def test_what_is_not_a_fold_is_refused() -> None:
    wrong: Any = 5
    for arguments in ({"apply": wrong}, {"apply": None}, {"apply": count, "name": wrong}):
        with pytest.raises(InvalidArgument):
            Fold(**arguments)


def test_a_fold_of_which_a_call_runs_nothing_is_refused(store: EventStore) -> None:
    async def add_later(total: int, _: Event) -> int:
        return total + 1

    def add_each(total: int, _: Event) -> Iterator[int]:
        yield total + 1

    for wrong, kind in ((add_later, "an async"), (add_each, "a generator")):
        with pytest.raises(InvalidArgument, match=f"the fold is {kind} function"):
            store.state(fold=wrong, initial=0)
        with pytest.raises(InvalidArgument, match=f"{kind} function"):
            Upcasters().register("T", wrong)
