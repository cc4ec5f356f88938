"""Subjects, messages and ids: everything comes back, and other clients can read the headers."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evlog.engines.messages import encode_headers
from evlog.engines.nats import layout
from evlog.engines.nats.jetstream import Outgoing, Stored
from evlog.engines.nats.session import parse_headers
from evlog.errors import CorruptionError
from evlog.model.events import Event
from evlog.model.history import RemovedRecord, Standing
from tests.engines.test_messages import events

SUBJECTS = layout.Subjects("x", "00000000-0000-7000-8000-0123456789ab")
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def stored(message: Outgoing) -> Stored:
    """Return what a server gives back of a message."""
    _, headers = parse_headers(b"NATS/1.0\r\n" + message.headers + b"\r\n")
    return Stored(1, message.subject.decode(), headers, message.data)


@given(events, st.integers(1, 1 << 60))
def test_an_event_comes_back(event: Event, frame: int) -> None:
    assert layout.decode_event(stored(layout.encode_event(SUBJECTS, event, frame))) == (frame, event)


def test_headers_are_plain_where_nothing_has_to_be_escaped() -> None:
    event = Event((7, 2, "order-ü", "Paid 5", UUID(int=1).bytes, 5, 0, b"{}", b'{"k":"v w"}'))
    assert stored(layout.encode_event(SUBJECTS, event, 6)).headers == encode_headers(event, 6)


@given(names)
def test_a_name_is_one_token_and_comes_back(name: str) -> None:
    token = layout.token(name)
    assert not set(token) & set(" .*>\t\r\n")
    assert token.isascii()
    assert layout.of_token(token) == name


def test_streams_are_under_their_category() -> None:
    prefix = "evlog.x.0123456789ab."
    assert SUBJECTS.stream("order-4.2") == f"{prefix}e.u.order.order-4%2E2"
    assert SUBJECTS.stream("$$order-4") == f"{prefix}e.s.$$order.$$order-4"
    assert SUBJECTS.category("order") == f"{prefix}e.u.order.*"
    assert SUBJECTS.last("a") == f"{prefix}l.a.a"
    assert SUBJECTS.stream("-1") == f"{prefix}e.u.%.-1"  # a token cannot be empty


@given(st.integers(1, (1 << 40) - 1000), st.integers(1, 999))
def test_a_made_id_is_a_uuid7_that_holds_its_sequence(first: int, count: int) -> None:
    ids = layout.make_sequence_ids(first, count)
    assert [layout.sequence_in(id) for id in ids] == list(range(first, first + count))
    assert {UUID(bytes=id).version for id in ids} == {7}
    assert sorted(ids) == ids


@given(st.binary(min_size=16, max_size=16))
def test_other_ids_hold_no_sequence(id: bytes) -> None:
    uuid = UUID(bytes=id)
    assert (layout.sequence_in(id) is None) == (uuid.variant != "specified in RFC 4122" or uuid.version != 7)


def test_messages_that_are_not_events_come_back() -> None:
    place = layout.place_headers(9, 5)
    control = layout.Control(Standing("a", "b"), 3, 4)
    assert layout.decode_control(stored(layout.encode_control(SUBJECTS, control, 9, 5))) == control
    removed = RemovedRecord(1, 2, "s", bytes(16), b"d", 5, b"t")
    assert layout.decode_removed(stored(layout.encode_removed(SUBJECTS, removed, place))) == removed
    assert layout.decode_last(stored(layout.encode_last(SUBJECTS, "s", 7, 5, place))) == (7, 5)
    event = Event((7, 2, "s", "T", bytes(16), 5, 0, b"{}", None))
    for kept in ((6, event), None):
        message = stored(layout.encode_redacted(SUBJECTS, 7, kept, place))
        assert layout.decode_redacted(message) == (7, kept)
    message = stored(layout.encode_id(SUBJECTS, bytes(16), 17, place))
    assert (layout.decode_id(message), message.number("Evlog-Position")) == (17, 9)
    for name in ("none", "Evlog-Store"):
        with pytest.raises(CorruptionError, match="no number"):
            Stored(1, "evlog.x.c", {"Evlog-Store": b"id"}, b"").number(name)


@pytest.mark.parametrize("data", [b"", b"\x91\x01", b"x", b"\xc1"])
@pytest.mark.parametrize(
    "decode",
    [
        layout.decode_control,
        layout.decode_removed,
        layout.decode_last,
        layout.decode_redacted,
        layout.decode_id,
        layout.decode_event,
    ],
)
def test_a_damaged_message_is_damage(decode: Any, data: bytes) -> None:
    with pytest.raises(CorruptionError, match="message 1 of evlog") as caught:
        decode(Stored(1, "evlog.x.c", {}, data))
    assert "salvage" not in str(caught.value)


@pytest.mark.parametrize(
    ("decode", "values"),
    [
        (layout.decode_control, ["", "", 0, 0, []]),
        (layout.decode_removed, [1, 1, "s", bytes(16), b"", 0, b""]),
        (layout.decode_last, [1, 1]),
        (layout.decode_redacted, [1, [1, [1, 1, "s", "T", bytes(16), 1, 0, b"", b""]]]),
    ],
)
def test_a_value_of_another_type_is_damage(decode: Any, values: list[Any]) -> None:
    decode(Stored(1, "evlog.x.c", {}, msgpack.packb(values)))
    for at in range(len(values)):
        wrong = [*values[:at], 1.5, *values[at + 1 :]]
        with pytest.raises(CorruptionError):
            decode(Stored(1, "evlog.x.c", {}, msgpack.packb(wrong)))
