from __future__ import annotations

import pytest

from evlog.cli._support.fields import Fields, as_text, parse_fields
from evlog.errors import InvalidArgument
from evlog.model.events import Event
from tests.model.test_json_lines import ID, event

DATA = '{"a":{"b":1.10,"c.d":"ü"},"n":null,"big":1e400,"l":[1]}'.encode()


def value_of(name: str, *events: Event) -> bytes:
    """Return the field of the first event, as JSON; other events are read in the same batch."""
    (column,) = Fields([name]).as_json(events)
    value, *_ = column
    return bytes(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("position", b"17"),
        ("stream", b'"order-42"'),
        ("category", b'"order"'),
        ("version", b"3"),
        ("id", b'"%b"' % str(ID).encode()),
        ("type", b'"OrderPaid"'),
        ("time", b'"2026-11-23T10:51:00.123456Z"'),
        ("content_type", b'"json"'),
        ("data", DATA),
        ("metadata", b"{}"),
        ("data.a.b", b"1.10"),
        ("data.a.c\\.d", '"ü"'.encode()),
        ("data.big", b"1e400"),
        ("data.n", b"null"),
        ("data.l", b"[1]"),
        ("data.nothing", b"null"),
        ("data.l.x", b"null"),
        ("data.a.b.x", b"null"),
        ("metadata.user", b"null"),
    ],
)
def test_a_field_is_json_as_it_is_stored(name: str, value: bytes | None) -> None:
    assert value_of(name, event(DATA)) == value
    assert value_of(name, event(DATA), event(b"x", 1)) == value


def test_metadata_is_looked_into() -> None:
    assert value_of("metadata.user", event(metadata=b'{"user":"ann"}')) == b'"ann"'


def test_text_and_binary_are_strings_with_nothing_inside() -> None:
    assert value_of("data", event(b"a\nb", 1)) == b'"a\\nb"'
    assert value_of("data", event(b"\xff", 2)) == b'"/w=="'
    assert value_of("data.a", event(b'{"a":1}', 1)) == b"null"


@pytest.mark.parametrize("name", ["", "amount", "data.", "data..a", "stream.x", "Position"])
def test_what_is_no_field_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"(unknown|invalid) field"):
        Fields([name])


def test_fields_are_named_once_each() -> None:
    assert parse_fields("position, data.a") == ["position", "data.a"]
    with pytest.raises(InvalidArgument, match="twice"):
        parse_fields("id,id")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"null", b""),
        (b'"a\\nb"', b"a\nb"),
        (b'"\\ud800"', b"\\ud800"),
        (b'"ab"', b"ab"),
        (b"1.10", b"1.10"),
        (b"[1]", b"[1]"),
        (b"{}", b"{}"),
    ],
)
def test_a_text_is_the_content_of_a_string_and_other_json_as_it_is(value: bytes, text: bytes) -> None:
    assert as_text(value) == text


def test_a_text_of_a_field_is_the_text_of_its_json() -> None:
    events = [event(DATA, metadata=b'{"user":"ann"}'), event(b"a\nb", 1), event(b"\xff", 2), event(b'"s"')]
    names = [
        *("position", "stream", "category", "version", "id", "type", "time", "content_type", "data"),
        *("metadata", "data.a", "data.a.b", "data.n", "metadata.user"),
    ]
    fields = Fields(names)
    for as_json, texts in zip(fields.as_json(events), fields.as_text(events), strict=True):
        assert [as_text(bytes(value)) for value in as_json] == [*texts]


def test_fields_of_one_event_do_not_depend_on_the_others() -> None:
    """A path that leads through something else than an object is looked for in another way."""
    fields = Fields(["data.a.b", "data.a", "data.c"])
    events = [event(b'{"a":{"b":1},"c":2}'), event(b'{"a":[],"c":3}'), event(b"[]"), event(b'{"\\u0061":7}')]
    rows = [tuple(map(bytes, row)) for row in zip(*fields.as_json(events), strict=True)]
    assert rows == [
        (b"1", b'{"b":1}', b"2"),
        (b"null", b"[]", b"3"),
        (b"null", b"null", b"null"),
        (b"null", b"7", b"null"),
    ]
