from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evlog.cli._support.foreign import foreign_decoder, keyed_decoder, time_reader
from evlog.errors import EvlogError, InvalidArgument, InvalidStreamName
from evlog.model.events import id_of_key, idempotency_id
from evlog.model.json_lines import InvalidLine
from evlog.model.paths import pick_fields, split_path
from tests.support.helpers import TOO_DEEP

LINE = b'{"host":"h1","at":{"kind":"up","n":1.50,"on":true,"none":null},"id":"k-1","list":[1]}'


def decode(line: bytes = LINE, **options: Any) -> Any:
    return foreign_decoder(**({"stream": "s", "type": "T"} | options))(line)


def test_the_whole_line_is_the_data_if_nothing_else_is_said() -> None:
    assert decode() == ("s", ("T", None, 0, LINE, None))
    assert decode(data_field=".") == decode()


@pytest.mark.parametrize("line", [b"1", b'"a"', b"null", b"[1, 2]", b" 1.10 "])
def test_any_json_will_do_where_no_field_is_needed(line: bytes) -> None:
    assert decode(line)[1][3] == line.strip()


def test_a_carriage_return_is_never_stored() -> None:
    assert decode(b'{"a":\r1}\r')[1][3] == b'{"a": 1}'


@pytest.mark.parametrize(
    ("field", "stream"),
    [
        ("host", "h1"),
        (".host", "h1"),
        ("at.kind", "up"),
        ("at.n", "1.50"),
        ("at.on", "true"),
        ("host-{.host}", "host-h1"),
        ("{.host}", "h1"),
        ("{.host}-{.at.kind}!", "h1-up!"),
        ("a{.host}{.host}b", "ah1h1b"),
    ],
)
def test_a_stream_comes_from_a_field_or_a_template(field: str, stream: str) -> None:
    for _ in range(2):
        assert decode(stream=None, stream_field=field)[0] == stream


def test_a_value_that_was_seen_before_gives_the_same_name() -> None:
    of = foreign_decoder(None, "T", stream_field="x-{.a}")
    assert [of(line)[0] for line in (b'{"a":"1"}', b'{"a":2}', b'{"a":"1"}', b'{"a":"\\u0031"}')] == [
        "x-1",
        "x-2",
        "x-1",
        "x-1",
    ]


def test_stream_and_type_are_the_fields_of_that_name_if_nothing_is_said() -> None:
    line = b'{"stream":"a","type":"B","x":1}'
    assert decode(line, stream=None, type=None, data_field="x") == ("a", ("B", None, 0, b"1", None))


def test_a_dot_in_a_name_is_written_with_a_backslash() -> None:
    line = b'{"a.b":{"c":"x"},"a":{"b":"y"}}'
    assert decode(line, stream=None, stream_field=r"a\.b.c")[0] == "x"
    assert decode(line, stream=None, stream_field="a.b")[0] == "y"


def test_a_field_inside_the_one_that_is_the_data_is_found() -> None:
    line = b'{"event":{"type":"up", "n":1},"x":2}'
    assert decode(line, type=None, type_field="event.type", data_field="event") == (
        "s",
        ("up", None, 0, b'{"type":"up", "n":1}', None),
    )


def test_one_field_may_serve_twice() -> None:
    name, (kind, _, _, data, _) = decode(
        stream=None, type=None, stream_field="host", type_field="host", data_field="host"
    )
    assert (name, kind, data) == ("h1", "h1", b'"h1"')


def test_metadata_is_the_same_for_all() -> None:
    assert decode(metadata=b'{"a":1}')[1][4] == b'{"a":1}'


def test_an_id_is_a_uuid_or_an_idempotency_key() -> None:
    id = uuid.uuid4()
    assert decode(b'{"id":"%b"}' % str(id).encode(), id_field="id")[1][1] == id.bytes
    assert decode(b'{"id":"%b"}' % id.hex.encode(), id_field="id")[1][1] == idempotency_id(id.hex).bytes
    assert decode(b'{"id":17}', id_field="id")[1][1] == idempotency_id("17").bytes


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_a_key_gives_the_id_that_the_library_gives(key: str) -> None:
    import json

    line = json.dumps({"id": key}).encode()
    assert decode(line, id_field="id")[1][1] == idempotency_id(key).bytes


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"stream": None, "stream_field": "nothing"}, InvalidLine, "has no field `nothing`"),
        ({"stream": None, "stream_field": "at.nothing"}, InvalidLine, "has no field `at.nothing`"),
        ({"stream": None, "stream_field": "no.such"}, InvalidLine, "has no field `no.such`"),
        ({"stream": None, "stream_field": "host.x"}, InvalidLine, "has a string in `host`, not an object"),
        ({"stream": None, "stream_field": "at.none"}, InvalidLine, "has null in `at.none`"),
        ({"stream": None, "stream_field": "at"}, InvalidLine, "has an object in `at`"),
        ({"stream": None, "stream_field": "x{.list}"}, InvalidLine, "has an array in `list`"),
        ({"stream": None, "stream_field": "${.host}"}, InvalidStreamName, "reserved"),
        ({"type": None, "type_field": "kind"}, InvalidLine, "has no field `kind`"),
        ({"id_field": "at.on"}, InvalidLine, "has a boolean in `at.on`"),
        ({"id_field": "at"}, InvalidLine, "has an object in `at`"),
        ({"id_field": "key"}, InvalidLine, "has no field `key`"),
        ({"data_field": "payload"}, InvalidLine, "has no field `payload`"),
    ],
)
def test_a_line_without_what_is_asked_for_is_refused(
    options: dict[str, Any], error: type[EvlogError], text: str
) -> None:
    with pytest.raises(error, match=text):
        decode(**options)


@pytest.mark.parametrize("line", [b"", b"{", b'{"a":NaN}', b'{"a":"\xff"}', b"1 2", TOO_DEEP])
def test_what_is_not_asked_for_is_checked_all_the_same(line: bytes) -> None:
    with pytest.raises(InvalidLine):
        decode(line)
    with pytest.raises(InvalidLine):
        decode(line.replace(b"{", b'{"host":"h",', 1), stream=None, stream_field="host")


def test_an_empty_key_is_refused() -> None:
    with pytest.raises(InvalidLine, match="has an empty text in `id`"):
        decode(b'{"id":""}', id_field="id")


@pytest.mark.parametrize("field", ["", ".", "a..b", "a.", "..a"])
def test_a_path_with_an_empty_name_is_refused(field: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid field"):
        split_path(field)


def test_paths_are_picked_in_the_order_in_which_they_are_asked_for() -> None:
    paths = [("a",), ("b", "c"), ("b",), ("a", "d"), ("b", "e")]
    line = b'{"b":{"e":1,"c":2},"a":{"d":3}}'
    assert [bytes(raw) for raw in pick_fields(paths)(line)] == [
        b'{"d":3}',
        b"2",
        b'{"e":1,"c":2}',
        b"3",
        b"1",
    ]


TEXT: dict[str, Any] = {"data_field": "p", "data_is_text": True}


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ('{"a":1.0e3}', b'{"a":1.0e3}'),
        ('{\r\n "a": "\u2028"\n}\n', '{   "a": "\u2028" }'.encode()),
        ("7", b"7"),
        ("null", b"null"),
        ('"text"', b'"text"'),
    ],
)
def test_json_in_a_string_becomes_the_data(text: str, data: bytes) -> None:
    assert decode(json.dumps({"p": text}).encode(), **TEXT)[1][3] == data


def test_data_that_is_json_already_is_kept() -> None:
    assert decode(b'{"p":{"a":1}}', **TEXT)[1][3] == b'{"a":1}'
    assert decode(b'{"p":null}', **TEXT)[1][3] == b"null"


@pytest.mark.parametrize("text", ["", "{", "NaN", "a", '{"a":"\n"}'])
def test_a_string_without_json_is_a_bad_line(text: str) -> None:
    with pytest.raises(InvalidLine, match="has no JSON text in `p`"):
        decode(json.dumps({"p": text}).encode(), **TEXT)


def test_an_id_can_be_a_template() -> None:
    both: dict[str, Any] = {"id_field": "{.topic}/{.partition}"}
    _, (_, id, _, _, metadata) = decode(b'{"topic":"a","partition":3}', **both)
    assert id == id_of_key("a/3")
    assert metadata == b'{"$idempotencyKey":"a/3"}'
    with pytest.raises(InvalidLine, match="no field `partition`"):
        decode(b'{"topic":"a"}', **both)


OWN = b'{"stream":"s","type":"T","data":{"n":1.50},"metadata":{"a":"b"},"tags":["t:1"],"id":"k","my key":7}'


@pytest.mark.parametrize(
    ("field", "key"),
    [
        ("id", "k"),
        (".id", "k"),
        ("my key", "7"),
        ("data.n", "1.50"),
        ("{.stream}/{.tags}", None),
        ("{.stream}/{.id}", "s/k"),
    ],
)
def test_a_line_of_evlogs_own_shape_has_its_key_in_any_field(field: str, key: str | None) -> None:
    of = keyed_decoder(None, None, field)
    line = OWN if field in {"my key", "{.my key}"} else OWN.replace(b',"my key":7', b"")
    if key is None:
        with pytest.raises(InvalidLine, match="an array"):
            of(line)
        return
    metadata = b'{"$tags":["t:1"],"a":"b","$idempotencyKey":"%b"}' % key.encode()
    assert of(line) == ("s", ("T", id_of_key(key), 0, b'{"n":1.50}', metadata))


def test_a_uuid_in_the_field_is_the_id_of_a_line_of_evlogs_own_shape() -> None:
    id = uuid.uuid4()
    of = keyed_decoder("s", b'{"x":1}', "key")
    assert of(b'{"type":"T","key":"%b"}' % str(id).encode()) == ("s", ("T", id.bytes, 0, b"{}", b'{"x":1}'))


def test_a_key_that_the_metadata_has_is_not_written_twice() -> None:
    of = keyed_decoder("s", None, "id")
    line = b'{"type":"T","id":"k","metadata":{"$idempotencyKey":"%b"}}'
    assert of(line % b"k")[1][4] == b'{"$idempotencyKey":"k"}'
    with pytest.raises(InvalidLine, match="another"):
        of(line % b"other")


def test_a_field_that_neither_an_event_nor_the_key_has_is_refused() -> None:
    with pytest.raises(InvalidLine, match="unknown field `my key`"):
        keyed_decoder(None, None, "id")(OWN)
    with pytest.raises(InvalidLine, match="no field `key`"):
        keyed_decoder("s", None, "key")(b'{"type":"T"}')


def test_a_time_is_compared_with_the_clock_when_its_line_comes() -> None:
    clock = [5_000_000, 6_000_000]
    of = time_reader("t", lambda: clock.pop(0))
    with pytest.raises(InvalidLine, match="after now"):
        of(b'{"t":6}')
    assert of(b'{"t":6}') == 6_000_000
