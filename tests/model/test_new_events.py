"""Columns of new events are checked and encoded as the events that they stand for."""

from __future__ import annotations

import os
from typing import Any
from uuid import UUID

import pytest

from evlog import EventTooLarge, InvalidArgument, InvalidEvent, NewEvent, NewEvents
from evlog.model import events as ev
from evlog.model.encoding import encode_events

COUNT = 20
IDS = [os.urandom(16) for _ in range(COUNT)]
STREAMS = [f"s-{number % 3}" for number in range(COUNT)]
DATA: list[Any] = [b'{"n":%d}' % number for number in range(COUNT)]


@pytest.mark.parametrize(
    ("columns", "in_c"),
    [
        ({}, True),
        ({"ids": IDS}, True),
        ({"data": [b"[\n]", *DATA[1:]]}, True),
        ({"data": tuple(DATA), "types": [f"T{number % 2}" for number in range(COUNT)]}, True),
        ({"ids": [*IDS[1:], None]}, False),
        ({"ids": [UUID(bytes=id) for id in IDS]}, False),
        ({"data": range(COUNT)}, False),
        ({"data": map(str, range(COUNT)), "content_type": "text"}, False),
        ({"content_type": ["json"] * 19 + ["binary"]}, False),
        ({"metadata": [None, {"a": 1}, b'{"b":2}', *[None] * 17]}, False),
        ({"tags": [None, ["a", "b"], ("c",), *[None] * 17]}, False),
    ],
)
def test_columns_are_encoded_as_their_events(columns: dict[str, Any], in_c: bool) -> None:
    new = NewEvents(**{"streams": STREAMS, "types": "T", "data": DATA} | columns)
    appends = list(new)
    assert [stream for stream, _ in appends] == STREAMS
    encoded = new.encode()
    assert encoded == encode_events([event for _, (event,) in appends])
    assert encoded == [encode_events(events)[0] for _, events in appends]
    assert isinstance(encoded, ev.EncodedEvents) is in_c


def test_a_text_stands_for_all_events() -> None:
    new = NewEvents("s", "T", ["a", "b"], content_type="text")
    assert list(new) == [("s", [NewEvent("T", text, content_type="text")]) for text in "ab"]
    assert new == NewEvents(["s"] * 2, ("T", "T"), iter("ab"), content_type=["text", "text"])
    assert new != NewEvents("s", "T", ["a", "c"], content_type="text")
    assert len(new) == 2
    assert repr(new) == "<NewEvents: 2>"


def test_what_becomes_of_the_callers_columns_changes_nothing() -> None:
    streams, data = ["a"], [b"1"]
    new = NewEvents(streams, "T", data)
    streams.append("b")
    data[0] = b"2"
    assert list(new) == [("a", [NewEvent("T", b"1")])]


def test_no_events_are_columns_too() -> None:
    assert NewEvents("s", "T", []).encode() == []


@pytest.mark.parametrize("name", ["streams", "types", "ids", "metadata", "tags", "content_type"])
def test_a_column_of_another_length_is_refused(name: str) -> None:
    columns: dict[str, Any] = {"streams": "s", "types": "T", "data": [1, 2], name: ["x"] * 3}
    with pytest.raises(InvalidArgument, match=f"^3 {name} for the data of 2 events; give one for each"):
        NewEvents(**columns)


@pytest.mark.parametrize(
    ("column", "bad", "field"),
    [
        ("types", "T\n", "type"),
        ("types", 7, "type"),
        ("types", [], "type"),
        ("ids", bytes(15), "id"),
        ("ids", "no", "id"),
        ("data", b"{", "data"),
        ("data", b"\xff", "data"),
        ("data", {1, 2}, "data"),
        ("metadata", b"[]", "metadata"),
        ("content_type", "no", "content type"),
    ],
)
def test_the_first_bad_event_is_named(column: str, bad: object, field: str) -> None:
    columns: dict[str, Any] = {
        "types": ["T"] * COUNT,
        "ids": IDS,
        "data": DATA,
        "metadata": [None] * COUNT,
        "content_type": ["json"] * COUNT,
    }
    columns[column] = [*columns[column][:15], bad, *columns[column][16:18], b"", b""]
    with pytest.raises(InvalidEvent, match=rf"^event\[15\] {field} ") as caught:
        NewEvents(STREAMS, **columns).encode()
    assert (caught.value.field, caught.value.index) == (field, 15)
    with pytest.raises(InvalidEvent) as alone:
        encode_events(list(NewEvents(STREAMS, **columns))[15][1])
    assert (alone.value.reason, alone.value.index) == (caught.value.reason, None)


def test_an_event_that_is_too_large_is_named() -> None:
    large = b'"' + bytes(ev.MAX_EVENT_BYTES) + b'"'
    with pytest.raises(EventTooLarge, match=r"^event\[2\] of 16777218 bytes ") as caught:
        NewEvents("s", "T", [b"1", b"2", large], ids=IDS[:3]).encode()
    assert caught.value.index == 2
