from __future__ import annotations

import pytest

from evlog.cli._support.fields import as_text, make_field, parse_fields
from evlog.errors import InvalidArgument
from tests.model.test_json_lines import ID, event

DATA = '{"a":{"b":1.10,"c.d":"ü"},"n":null,"big":1e400,"l":[1]}'.encode()


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
        ("data.nothing", None),
        ("data.l.x", None),
        ("data.a.b.x", None),
        ("metadata.user", None),
    ],
)
def test_a_field_is_json_as_it_is_stored(name: str, value: bytes | None) -> None:
    assert make_field(name)(event(DATA)) == value


def test_metadata_is_looked_into() -> None:
    assert make_field("metadata.user")(event(metadata=b'{"user":"ann"}')) == b'"ann"'


def test_text_and_binary_are_strings_with_nothing_inside() -> None:
    assert make_field("data")(event(b"a\nb", 1)) == b'"a\\nb"'
    assert make_field("data")(event(b"\xff", 2)) == b'"/w=="'
    assert make_field("data.a")(event(b'{"a":1}', 1)) is None


@pytest.mark.parametrize("name", ["", "amount", "data.", "data..a", "stream.x", "Position"])
def test_what_is_no_field_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"(unknown|invalid) field"):
        make_field(name)


def test_fields_are_named_once_each() -> None:
    assert parse_fields("position, data.a") == ["position", "data.a"]
    with pytest.raises(InvalidArgument, match="twice"):
        parse_fields("id,id")


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (b"null", ""), (b'"a\\nb"', "a\nb"), (b"1.10", "1.10"), (b"[1]", "[1]")]
)
def test_a_text_is_the_content_of_a_string_and_other_json_as_it_is(value: bytes | None, text: str) -> None:
    assert as_text(value) == text
