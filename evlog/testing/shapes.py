"""Typed data, and old events in today's shape."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec
import pytest

from evlog import Event, EventStore, EventTypes, Fold, InvalidArgument, InvalidEvent, NewEvent, Upcasters
from evlog.testing.base import EngineTests


class Colour(Enum):
    """An enumeration in a dataclass."""

    RED = "red"


@dataclass
class Item:
    """A dataclass in a Struct."""

    name: str
    price: Decimal
    colour: Colour = Colour.RED


class Placed(msgspec.Struct, rename="camel"):
    """A Struct whose names in JSON are others."""

    order_id: UUID
    placed_at: datetime
    items: list[Item]


@dataclass
class Paid:
    """A dataclass."""

    amount: Decimal
    on: date


class Model:
    """What evlog needs of a pydantic model."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def model_dump(self, *, mode: str, by_alias: bool) -> dict[str, Any]:
        assert mode in ("json", "python")
        assert by_alias
        return self.fields

    @classmethod
    def model_validate_json(cls, raw: bytes) -> Model:
        fields = msgspec.json.decode(raw)
        if "bad" in fields:
            raise ValueError("bad\n  is not good")
        return cls(**fields)


PLACED = Placed(
    UUID(int=7),
    datetime(2026, 11, 23, 10, 51, 0, 5, UTC),
    [Item("pen", Decimal("1.50")), Item("ink", Decimal(9))],
)


class ShapeTests(EngineTests):
    """What comes back of typed data, and of old events."""

    def test_typed_data_are_json_and_come_back(self, store: EventStore) -> None:
        model = Model(a=[1, {"b": None}])
        at = datetime(2026, 11, 23, tzinfo=UTC)
        store.append(
            "s",
            [
                NewEvent("Placed", PLACED),
                NewEvent("Paid", Paid(Decimal("10.50"), date(2026, 11, 24))),
                NewEvent("Model", model),
                NewEvent("Mixed", {"at": at, "id": UUID(int=1), "deep": [PLACED.items[1], {"m": model}]}),
            ],
        )
        placed, paid, modelled, mixed = store.read("s")
        assert placed.json() == {
            "orderId": str(UUID(int=7)),
            "placedAt": "2026-11-23T10:51:00.000005Z",
            "items": [
                {"name": "pen", "price": "1.50", "colour": "red"},
                {"name": "ink", "price": "9", "colour": "red"},
            ],
        }
        assert placed.json(Placed) == PLACED
        assert paid.json(Paid) == Paid(Decimal("10.50"), date(2026, 11, 24))
        assert modelled.json(Model).fields == model.fields
        assert mixed.json()["deep"] == [placed.json()["items"][1], {"m": {"a": [1, {"b": None}]}}]
        assert mixed.json(dict[str, Any])["at"] == "2026-11-23T00:00:00Z"

    def test_what_json_cannot_hold_is_refused(self, store: EventStore) -> None:
        paid: Any = Paid(Decimal(1), object())  # type: ignore[arg-type]
        item: Any = Item("x", float("nan"))  # type: ignore[arg-type]
        for data in (object(), {1, 2}, {"x": b"bytes"}, {"x": frozenset()}, paid, item):
            with pytest.raises(InvalidEvent, match="not JSON"):
                store.append("s", [NewEvent("T", data)])
            assert store.head == 0, data

    def test_data_that_do_not_fit_a_type_are_refused(self, store: EventStore) -> None:
        store.append("s", [NewEvent("T", {"amount": "x", "bad": 1})])
        (event,) = store.read("s")
        for kind in (Paid, Model, Placed, int):
            with pytest.raises(InvalidEvent, match=f"at position 1 do not fit {kind.__name__}"):
                event.json(kind)

    def test_event_types_and_their_classes(self, store: EventStore) -> None:
        types = EventTypes({"OrderPlaced": Placed, "OrderPaid": Paid})
        paid = Paid(Decimal(10), date(2026, 1, 1))
        store.append("s", [types.new(PLACED, tags=["a"]), types.new(paid), NewEvent("Other")])
        first, second, third = store.read("s")
        assert (first.type, first.tags, second.type) == ("OrderPlaced", ("a",), "OrderPaid")
        assert [types.decode(first), types.decode(second)] == [PLACED, paid]
        assert "OrderPaid" in types
        assert "Other" not in types
        assert EventTypes([Placed]).new(PLACED).type == "Placed"
        for wrong in (lambda: types.decode(third), lambda: types.new(Item("x", Decimal(1)))):
            with pytest.raises(InvalidArgument, match="class"):
                wrong()
        with pytest.raises(InvalidArgument, match="two classes"):
            EventTypes([Placed, Placed])

    def test_a_typed_state_comes_back_from_its_snapshot(self, store: EventStore) -> None:
        def pay(state: Paid, event: Event) -> Paid:
            return Paid(state.amount + event.json(Paid).amount, state.on)

        fold = Fold(pay, lambda: Paid(Decimal(0), date(2026, 1, 1)), kind=Paid, name="paid")
        for _ in range(3):
            store.append("s", [NewEvent("Paid", Paid(Decimal("1.10"), date(2026, 1, 1)))])
            state = store.state("s", fold, snapshot="n")
        assert state.value == Paid(Decimal("3.30"), date(2026, 1, 1))

    # --- upcasting

    def test_old_events_are_read_in_today_s_shape(self, store: EventStore) -> None:
        upcasters = Upcasters()

        @upcasters("Placed")
        def add_currency(data: Any, _: Event) -> Any:
            return {"currency": "EUR", **data}

        @upcasters("Placed", to="OrderPlaced")
        def rename(data: Any, event: Event) -> Any:
            data["number"] = event.stream.partition("-")[2]
            return data

        upcasters.register("OrderPlaced", lambda data, _: data | {"v": data.get("v", 0) + 1})
        upcasters.register("Note", lambda text, _: {"text": text.decode()})
        upcasters.register("Raw", lambda raw, _: raw[::-1])
        store.append("order-1", [NewEvent("Placed", {"total": 3}, metadata={"m": 1}, tags=["t"])])
        store.append(
            "order-1",
            [
                NewEvent("OrderPlaced", {"total": 4, "v": 6}),
                NewEvent("Other", [1]),
                NewEvent("Note", "hi", content_type="text"),
                NewEvent("Raw", b"ab", content_type="binary"),
            ],
        )
        stored = list(store.read("order-1"))
        new = EventStore(store.engine, upcasters=upcasters)
        events = list(new.read("order-1"))
        assert [event.type for event in events] == ["OrderPlaced", "OrderPlaced", "Other", "Note", "Raw"]
        assert events[0].json() == {"currency": "EUR", "total": 3, "number": "1", "v": 1}
        assert [event.json() for event in events[1:4]] == [{"total": 4, "v": 7}, [1], {"text": "hi"}]
        assert events[4].data == b"ba"
        assert (events[0].metadata, events[0].tags) == ({"m": 1}, ("t",))
        for old, event in zip(stored, events, strict=True):
            assert old[:3] + old[4:6] + old[8:] == event[:3] + event[4:6] + event[8:]
        assert list(new.read_all()) == list(new.query("*")) == events
        assert new.get(1) == new.trace(1)[0].event == events[0]
        with new.subscribe("n", follow=False) as run:
            assert list(run) == events
        state = new.state("order-1", at=2).value
        assert state == {"currency": "EUR", "total": 4, "number": "1", "v": 7}
        seen: list[Any] = []
        new.transact("order-1", seen.extend)
        assert seen == events
        assert list(store.read("order-1")) == stored
        types = upcasters.stored_types("OrderPlaced", "Other")
        assert types == ["OrderPlaced", "Other", "Placed"]
        assert list(new.read_all(types=types)) == events[:3]

    def test_upcasters_that_make_no_sense_are_refused(self, store: EventStore) -> None:
        upcasters = Upcasters()
        upcasters.register("A", lambda data, _: data, to="B")
        upcasters.register("B", lambda data, _: data, to="C")
        for type, to in (("A", None), ("C", "A"), ("C", "C"), ("", None), ("D", "")):
            with pytest.raises(InvalidArgument):
                upcasters.register(type, lambda data, _: data, to=to)
        upcasters.register("N", lambda *_: None)
        upcasters.register("O", lambda *_: object())
        new = EventStore(store.engine, upcasters=upcasters)
        for type in ("N", "O"):
            store.append(type, [NewEvent(type)])
            with pytest.raises(InvalidArgument):
                list(new.read(type))
