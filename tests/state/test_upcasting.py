"""Upcasting of events that are not JSON, or have no data any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_type

import pytest

import evlog
from evlog import Event, EventStore, EventTypes, InvalidArgument, InvalidEvent, NewEvent, Upcasters


@dataclass
class Paid:
    amount: int


def test_no_function_is_called_for_a_redacted_event(store: EventStore) -> None:
    upcasters = Upcasters()

    @upcasters("Paid", to="OrderPaid")
    def rename(data: Any, _: Event) -> Any:
        return {"amount": data["cents"] / 100}

    @upcasters("OrderPaid")
    def add_currency(data: Any, _: Event) -> Any:
        return {"currency": "EUR", **data}

    store.append(
        "o", [NewEvent("Paid", {"cents": number}, metadata={"user": "ann"}) for number in (100, 200)]
    )
    store.redact(1, reason="asked for")
    new = EventStore(store.engine, upcasters=upcasters)
    redacted, other = new.read("o")
    assert (redacted.type, redacted.redacted, redacted.json()) == ("OrderPaid", True, None)
    assert (redacted.position, redacted.metadata) == (1, {})
    assert other.json() == {"currency": "EUR", "amount": 2}
    assert new.get(1) == redacted
    with new.subscribe(follow=False) as run:
        assert list(run) == [redacted, other]


def test_typed_data_of_a_redacted_event_are_an_error_that_says_so(store: EventStore) -> None:
    types = EventTypes([Paid])
    store.append("o", [types.new(Paid(1))])
    store.redact(1, reason="asked for")
    with pytest.raises(InvalidEvent, match="redacted"):
        types.decode(store.get(1))
    assert store.get(1).json(Paid | None) is None


def test_a_type_checker_knows_what_comes_back(store: EventStore) -> None:
    def rename(data: dict[str, int], _: Event) -> dict[str, int]:
        return data

    store.append("o", [NewEvent("Paid", Paid(1))])
    assert assert_type(store.get(1).json(Paid), Paid) == Paid(1)
    assert assert_type(store.get(1).json(dict[str, int]), dict[str, int]) == {"amount": 1}
    assert Upcasters()("Paid")(rename)({"a": 1}, store.get(1)).get("a") == 1
    store.consume("n", lambda event: event.position + 1, follow=False)


def test_text_is_a_value_of_type_str(store: EventStore) -> None:
    types = EventTypes({"Note": str, "Paid": Paid})
    store.append("s", [NewEvent(name, 'h"é', content_type="text") for name in ("Note", "Paid")])
    note, paid = store.read("s")
    assert types.decode(note) == note.json() == note.json(str) == 'h"é'
    with pytest.raises(InvalidEvent, match="do not fit Paid"):
        types.decode(paid)


def test_text_stays_text_and_json_stays_json(store: EventStore) -> None:
    upcasters = Upcasters()
    upcasters.register("Note", lambda data, _: data.decode().upper())
    upcasters.register("Raw", lambda _data, _event: b'{"a":1}')
    upcasters.register("Bad", lambda _data, _event: b"{")
    store.append("s", [NewEvent("Note", "hé", content_type="text"), NewEvent("Raw"), NewEvent("Bad")])
    new = EventStore(store.engine, upcasters=upcasters)
    note, raw = new.read_all(to=2)
    assert (note.data, note.content_type, note.json()) == ("HÉ".encode(), "text", "HÉ")
    assert raw.json() == {"a": 1}
    with pytest.raises(InvalidEvent, match="not JSON"):
        list(new.read("s"))


def test_what_is_not_an_upcaster_is_refused(store: EventStore) -> None:
    wrong: Any = {"T": lambda data, _: data}
    with pytest.raises(InvalidArgument):
        evlog.open(store.path, upcasters=wrong)
    with pytest.raises(InvalidArgument):
        Upcasters().register("T", wrong)
