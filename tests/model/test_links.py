"""Links between events: what a new event takes, what an event gives, and what is kept of it."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import evlog
from evlog import Event, InvalidEvent, NewEvent
from evlog.model import events as model
from evlog.model.encoding import encode_events
from evlog.model.links import add_links

ID = uuid.UUID("2f0a7d0c-6a39-4b55-8a6e-0d3a2f1b9c11")


def as_read(new: NewEvent) -> Event:
    """Return the event as a store would give it back."""
    type, id, code, data, metadata = encode_events([new])[0]
    return Event((1, 1, "s", type, id or ID.bytes, 0, code, data, metadata))


def test_links_are_kept_in_the_metadata_under_names_that_others_know() -> None:
    new = NewEvent(
        "T",
        metadata={"user": "ann"},
        idempotency_key="payment-7",
        correlation_id="order-42",
        causation_id=ID,
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    event = as_read(new)
    assert event.metadata == {
        "user": "ann",
        "$correlationId": "order-42",
        "$causationId": str(ID),
        "$idempotencyKey": "payment-7",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    assert (event.correlation_id, event.causation_id) == ("order-42", str(ID))
    assert (event.idempotency_key, event.traceparent) == ("payment-7", event.metadata["traceparent"])
    assert event.id == evlog.idempotency_id("payment-7")


def test_an_event_without_links_has_none_and_one_of_another_kind_is_none() -> None:
    assert as_read(NewEvent("T")).correlation_id is None
    assert as_read(NewEvent("T", metadata={"$correlationId": 7})).correlation_id is None


def test_links_are_found_beside_numbers_that_python_cannot_hold() -> None:
    digits = b"9" * 5000
    event = as_read(NewEvent("T", metadata=b'{"n":%b,"e":1e999}' % digits, idempotency_key="k"))
    assert event.metadata_bytes == b'{"n":%b,"e":1e999,"$idempotencyKey":"k"}' % digits
    assert (event.idempotency_key, event.correlation_id) == ("k", None)
    assert event.caused("U").metadata == {"$correlationId": str(event.id), "$causationId": str(event.id)}
    with pytest.raises(InvalidEvent, match="Python cannot hold"):
        event.metadata  # noqa: B018


def test_metadata_in_bytes_stays_as_it_is_beside_links() -> None:
    new = NewEvent("T", metadata=b' {"n":1.10, "a":[1e400]} ', correlation_id="é")
    assert as_read(new).metadata_bytes == b'{"n":1.10, "a":[1e400],"$correlationId":"\xc3\xa9"}'
    assert (
        as_read(NewEvent("T", metadata=b" { }", causation_id="x")).metadata_bytes == b'{"$causationId":"x"}'
    )


@pytest.mark.parametrize(
    "options",
    [
        {"correlation_id": "x", "metadata": {"$correlationId": "x"}},
        {"correlation_id": "x", "metadata": b'{"$correlation\\u0049d":"y"}'},
        {"correlation_id": "x", "metadata": b"[]"},
        {"correlation_id": "x", "metadata": b"{"},
        {"correlation_id": "x", "metadata": []},
        {"correlation_id": ""},
        {"causation_id": 7},
        {"traceparent": b"00-"},
        {"idempotency_key": ""},
        {"idempotency_key": "\ud800"},
        {"idempotency_key": 7},
        {"idempotency_key": "k", "id": ID},
    ],
)
def test_what_is_not_a_link_or_is_given_twice_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent):
        NewEvent("T", **options)


def test_a_text_that_is_not_unicode_is_refused_before_it_is_stored() -> None:
    for metadata in (None, b'{"a":1}', {"a": 1}):
        with pytest.raises(InvalidEvent):
            encode_events([NewEvent("T", metadata=metadata, correlation_id="\ud800")])


def test_defaults_are_used_where_nothing_else_says_it() -> None:
    defaults = {"$correlationId": "default", "$causationId": "default"}
    assert add_links({"$correlationId": "own"}, {"$causationId": "given"}, defaults) == {
        "$correlationId": "own",
        "$causationId": "given",
    }
    assert add_links(b'{"$correlationId":null}', {}, {"$correlationId": "default"}) == (
        b'{"$correlationId":null}'
    )
    assert add_links(None, {}, {}) is None


def test_a_caused_event_belongs_to_the_same_story_and_names_its_cause() -> None:
    first = as_read(NewEvent("OrderPlaced", id=ID, traceparent="00-1-2-01"))
    second = as_read(first.caused("OrderPaid", {"n": 1}, metadata={"by": "ann"}))
    assert second.metadata == {
        "by": "ann",
        "$correlationId": str(ID),
        "$causationId": str(ID),
        "traceparent": "00-1-2-01",
    }
    third = second.caused("OrderShipped", idempotency_key="k", traceparent=None, correlation_id="other")
    assert as_read(third).metadata == {
        "$correlationId": "other",
        "$causationId": str(second.id),
        "$idempotencyKey": "k",
    }


@given(st.text(min_size=1).filter(lambda text: text.isprintable()))
def test_the_id_of_a_key_is_its_uuid5(key: str) -> None:
    expected = uuid.uuid5(uuid.UUID(model.ID_NAMESPACE), key)
    assert model.id_of_key(key) == expected.bytes
    assert evlog.idempotency_id(key) == expected
