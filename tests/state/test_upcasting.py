"""Upcasting of events that are not JSON, or have no data any more; functions that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_type

import pytest

import evlog
from evlog import Event, EventStore, EventTypes, Fold, InvalidArgument, InvalidEvent, NewEvent, Upcasters, aio


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


@pytest.mark.parametrize("data", [b"\xff", "\ud800"])
def test_a_text_that_is_not_unicode_is_the_upcaster_s_fault(store: EventStore, data: str | bytes) -> None:
    upcasters = Upcasters()
    upcasters.register("Note", lambda _data, _event: data)
    store.append("s", [NewEvent("Note", "hé", content_type="text")])
    with pytest.raises(InvalidEvent, match=r"not UTF-8|not valid Unicode"):
        list(EventStore(store.engine, upcasters=upcasters).read("s"))


def test_null_stays_null_and_a_function_that_returns_nothing_is_refused(store: EventStore) -> None:
    store.append("s", [NewEvent("T", b"null"), NewEvent("T", 1)])
    upcasters = Upcasters()
    upcasters.register("T", lambda data, _: None if data else data)
    events = EventStore(store.engine, upcasters=upcasters).read("s")
    assert next(events).data == b"null"
    with pytest.raises(InvalidArgument, match="returned None"):
        next(events)


def test_what_is_not_an_upcaster_is_refused(store: EventStore) -> None:
    wrong: Any = {"T": lambda data, _: data}
    with pytest.raises(InvalidArgument):
        evlog.open(store.path, upcasters=wrong)
    with pytest.raises(InvalidArgument):
        Upcasters().register("T", wrong)


# --- functions that fail


class Failing:
    """An upcaster that fails for one number until it is repaired."""

    def __init__(self, error: Exception, number: int = 2) -> None:
        self.error: Exception | None = error
        self.number = number

    def __call__(self, data: int, _: Event) -> int:
        if self.error is not None and data == self.number:
            raise self.error
        return 10 * data


@pytest.fixture
def failing() -> Failing:
    return Failing(KeyError("currency"))


@pytest.fixture
def shaped(store: EventStore, failing: Failing) -> EventStore:
    """A store of the events 1, 2 and 3 whose upcaster fails for 2."""
    store.append("o-1", [NewEvent("T", number) for number in (1, 2, 3)])
    upcasters = Upcasters()
    upcasters.register("T", failing)
    return EventStore(store.engine, upcasters=upcasters)


def consume(store: EventStore, handler: Callable[[Event], object], **options: Any) -> None:
    store.consume("n", handler, follow=False, retry_delay=0, **options)


def consume_in_a_task(store: EventStore, handler: Callable[[Event], object], **options: Any) -> None:
    async def handle(event: Event) -> None:
        handler(event)

    async def body() -> None:
        workers = aio.workers.Workers(2, "test")
        await aio.AsyncStore(store, workers).consume("n", handle, follow=False, retry_delay=0, **options)
        workers.stop()

    asyncio.run(body())


both = pytest.mark.parametrize("consume", [consume, consume_in_a_task])


@both
def test_an_event_whose_upcaster_fails_is_parked_and_replayed(
    shaped: EventStore, failing: Failing, consume: Callable[..., None]
) -> None:
    handled: list[int] = []
    consume(shaped, lambda event: handled.append(event.json()), on_failure="park", retries=2)
    assert handled == [10, 30]
    [parked] = shaped.parked("n")
    assert (parked.position, parked.attempts, parked.error) == (2, 2, "KeyError: 'currency'")
    assert shaped.replay_parked("n", lambda event: handled.append(event.json())) == (0, 1, 0)
    failing.error = None
    assert shaped.replay_parked("n", lambda event: handled.append(event.json())) == (1, 0, 0)
    assert handled == [10, 30, 20]


@both
def test_a_consumer_stops_with_what_an_upcaster_raised_and_continues_there(
    shaped: EventStore, failing: Failing, consume: Callable[..., None]
) -> None:
    handled: list[int] = []
    with pytest.raises(KeyError, match="currency"):
        consume(shaped, lambda event: handled.append(event.json()))
    assert shaped.subscription("n").position == 1
    failing.error = None
    consume(shaped, lambda event: handled.append(event.json()))
    assert handled == [10, 20, 30]


@pytest.mark.parametrize("error", [KeyError("currency"), StopIteration()])
def test_a_run_stays_before_an_event_whose_upcaster_fails(shaped: EventStore, error: Exception) -> None:
    failing = Failing(error)
    upcasters = Upcasters()
    upcasters.register("T", failing)
    shaped = EventStore(shaped.engine, upcasters=upcasters)
    with shaped.subscribe("n", follow=False) as run:
        assert next(run).json() == 10
        for _ in range(2):
            with pytest.raises((KeyError, RuntimeError)):
                run.next_event()
        assert run.position == 1
        failing.error = None
        assert [event.json() for event in run] == [20, 30]


@pytest.mark.parametrize("error", [KeyError("currency"), StopIteration()])
def test_no_read_ends_early_because_an_upcaster_fails(store: EventStore, error: Exception) -> None:
    store.append("o-1", [NewEvent("T", number, correlation_id="c") for number in (1, 2, 3)])
    upcasters = Upcasters()
    upcasters.register("T", Failing(error))
    shaped = EventStore(store.engine, upcasters=upcasters)
    reads: list[Callable[[], object]] = [
        lambda: list(shaped.read("o-1")),
        lambda: list(shaped.read_all()),
        lambda: shaped.query("type=T"),
        lambda: shaped.get(2),
        lambda: shaped.trace(1),
        lambda: shaped.state("o-1", lambda state, event: state + event.json(), 0),
        lambda: shaped.transact("o-1", lambda _: None),
    ]
    for read in reads:
        with pytest.raises((KeyError, RuntimeError, StopIteration)):
            read()


def test_a_cause_whose_upcaster_fails_is_not_left_out_of_a_story(store: EventStore) -> None:
    cause = store.append("o-1", [NewEvent("T", 2)]).ids[0]
    store.append("o-1", [NewEvent("Other", 1, causation_id=cause)])
    upcasters = Upcasters()
    upcasters.register("T", Failing(InvalidArgument("no currency")))
    with pytest.raises(InvalidArgument, match="no currency"):
        EventStore(store.engine, upcasters=upcasters).trace(2)


def test_what_the_store_reads_for_itself_needs_no_upcaster(shaped: EventStore) -> None:
    shaped.append("other-1", [NewEvent("Other", 7)])
    shaped.append("o-1", [NewEvent("T", 2)])
    with shaped.subscribe("others", category="other", follow=False) as run:
        assert [event.json() for event in run] == [7]
    info = shaped.subscription("others")
    assert (info.position, info.lag_events) == (5, 0)
    with shaped.subscribe("others", follow=False) as run:
        assert list(run) == []
    total = Fold(lambda state, event: state + event.json(), 0, name="total")
    for _ in range(2):
        state = shaped.state(None, total, category="other", snapshot="s")
        assert (state.value, state.position) == (7, 5)
    assert shaped.redact(2, reason="asked for").redacted == (2,)
