from __future__ import annotations

import json
import uuid
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evlog.errors import EventTooLarge, EvlogError, InvalidArgument, InvalidEvent, InvalidStreamName
from evlog.model.events import MAX_EVENT_BYTES, Event
from evlog.model.json_lines import (
    CACHE_SIZE,
    Checked,
    InvalidLine,
    canonical_uuid,
    encode_lines,
    encode_results,
    encode_time,
    own_decoder,
    quote,
)
from tests.support.helpers import TOO_DEEP

ID = uuid.UUID("01930000-0000-7000-8000-00000000002a")
TIME_US = 1_795_431_060_123_456


def event(data: bytes = b"{}", code: int = 0, **changes: Any) -> Event:
    fields = {
        "position": 17,
        "version": 3,
        "stream": "order-42",
        "type": "OrderPaid",
        "id": ID.bytes,
        "time": TIME_US,
        "code": code,
        "data": data,
        "metadata": None,
    }
    return Event(tuple((fields | changes).values()))


def line_of(*events: Event) -> bytes:
    return b"".join(encode_lines(events))


def test_an_event_is_the_line_of_the_contract() -> None:
    assert line_of(event(b'{"amount":10}')) == (
        b'{"position":17,"stream":"order-42","version":3,"id":"01930000-0000-7000-8000-00000000002a",'
        b'"type":"OrderPaid","time":"2026-11-23T10:51:00.123456Z","data":{"amount":10},"metadata":{}}\n'
    )


def test_text_says_its_content_type_and_is_a_string() -> None:
    line = line_of(event("ü\n\x1b☃".encode(), 1))
    assert b'"content_type":"text","data":"' in line
    assert json.loads(line)["data"] == "ü\n\x1b☃"
    assert line.count(b"\n") == 1


def test_binary_is_base64_in_the_place_of_data() -> None:
    found = json.loads(line_of(event(b"\x00\xff", 2)))
    assert found["content_type"] == "binary"
    assert found["data_base64"] == b64encode(b"\x00\xff").decode()
    assert "data" not in found


def test_json_data_comes_out_byte_for_byte() -> None:
    data = '{ "n" : 1.10, "big": 1e400, "u": "\\u00e9é" }'.encode()
    assert data in line_of(event(data))


def test_names_are_escaped_only_where_json_demands_it() -> None:
    found = line_of(event(stream='a-"☃\\', type="T"))
    assert '"stream":"a-\\"☃\\\\"'.encode() in found


@pytest.mark.parametrize(
    ("time_us", "text"),
    [
        (0, b"1970-01-01T00:00:00.000000Z"),
        (TIME_US, b"2026-11-23T10:51:00.123456Z"),
        (253_402_300_799_999_999, b"9999-12-31T23:59:59.999999Z"),
    ],
)
def test_a_time_is_iso_8601_to_the_microsecond(time_us: int, text: bytes) -> None:
    assert encode_time(time_us) == text


def test_the_second_that_is_kept_is_never_used_for_another() -> None:
    times = [TIME_US, TIME_US + 1, TIME_US + 1_000_000, TIME_US]
    found = [json.loads(line)["time"] for line in line_of(*(event(time=t) for t in times)).splitlines()]
    assert found == [encode_time(t).decode() for t in times]


def test_chunks_are_given_out_when_they_are_full() -> None:
    one = len(line_of(event()))
    chunks = list(encode_lines([event()] * 5, chunk_bytes=2 * one))
    assert [len(chunk) // one for chunk in chunks] == [2, 2, 1]


def test_no_events_give_no_chunks() -> None:
    assert list(encode_lines([])) == []


def test_result_lines_are_those_of_the_contract() -> None:
    found = encode_results(["a-1", "b"], [1, 2], [7, 3], [ID.bytes, ID.bytes], [False, True])
    assert [json.loads(line) for line in found.splitlines()] == [
        {"stream": "a-1", "version": 1, "position": 7, "id": str(ID), "duplicate": False},
        {"stream": "b", "version": 2, "position": 3, "id": str(ID), "duplicate": True},
    ]


names = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=20).filter(
    lambda name: not name.startswith("$")
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
contents = st.one_of(
    st.tuples(st.just(0), json_values.map(lambda value: json.dumps(value).encode())),
    st.tuples(st.just(1), st.text(st.characters(codec="utf-8")).map(str.encode)),
    st.tuples(st.just(2), st.binary(max_size=30)),
)


@given(
    names,
    names,
    contents,
    st.uuids(),
    st.none() | st.dictionaries(names, json_values, min_size=1, max_size=3),
)
def test_what_comes_out_goes_in_as_the_same_event(
    stream: str, type: str, content: tuple[int, bytes], id: uuid.UUID, metadata: dict[str, Any] | None
) -> None:
    code, data = content
    encoded = None if metadata is None else json.dumps(metadata).encode()
    line = line_of(event(data, code, stream=stream, type=type, id=id.bytes, metadata=encoded))
    assert line.count(b"\n") == 1
    assert own_decoder()(line[:-1]) == (stream, (type, id.bytes, code, data, encoded))


def decode(line: bytes, stream: str | None = None) -> Any:
    return own_decoder(stream)(line)


def test_only_the_type_has_to_be_there_if_the_stream_is_given() -> None:
    assert decode(b'{"type":"T"}', "s") == ("s", ("T", None, 0, b"{}", None))


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        (b'"data": { "a" : 1.10 } ', (0, b'{ "a" : 1.10 }')),
        (b'"data":null', (0, b"null")),
        (b'"data":"text","content_type":"json"', (0, b'"text"')),
        (b'"data":"a\\u00e9\\n","content_type":"text"', (1, "aé\n".encode())),
        (b'"content_type":"text"', (1, b"")),
        (b'"data_base64":"AP8=","content_type":"binary"', (2, b"\x00\xff")),
        (b'"content_type":"binary"', (2, b"")),
        (b'"data":{"a":\r1}\r', (0, b'{"a": 1}')),
        (b'"data":1,"position":99,"version":"x","time":[1]', (0, b"1")),
    ],
)
def test_content_is_taken_as_it_is(fields: bytes, content: tuple[int, bytes]) -> None:
    _, (_, _, code, data, _) = decode(b'{"stream":"s","type":"T",' + fields + b"}")
    assert (code, data) == content


@pytest.mark.parametrize(
    ("metadata", "stored"),
    [(b"{}", None), (b"null", None), (b'{"a":1.10}', b'{"a":1.10}'), (b'{"a":\r1}', b'{"a": 1}')],
)
def test_metadata_is_an_object_or_nothing(metadata: bytes, stored: bytes | None) -> None:
    assert decode(b'{"stream":"s","type":"T","metadata":' + metadata + b"}")[1][4] == stored


@pytest.mark.parametrize("id", [str(ID), str(ID).upper(), ID.hex, f"{{{ID}}}", f"urn:uuid:{ID}"])
def test_an_id_is_a_uuid_in_any_spelling(id: str) -> None:
    assert decode(b'{"stream":"s","type":"T","id":"' + id.encode() + b'"}')[1][1] == ID.bytes


@pytest.mark.parametrize(
    ("line", "error", "text"),
    [
        (b"", InvalidLine, "is empty"),
        (b"nonsense", InvalidLine, "is not JSON: invalid character"),
        (b'{"stream":"s","type":"T"', InvalidLine, "is not JSON: it ends too early"),
        (b'{"stream":"s","type":"T"}{}', InvalidLine, "is not JSON: trailing characters"),
        (b'{"stream":"s","type":"T","data":NaN}', InvalidLine, "is not JSON"),
        (b'{"stream":"s","type":"T","data":"\\ud800"}', InvalidLine, "has a lone surrogate"),
        (b'{"stream":"s","type":"T","data":"\xff"}', InvalidLine, "is not UTF-8"),
        (b'{"stream":"s","type":"T","data":"a\rb"}', InvalidLine, "is not JSON"),
        (b'{"stream":"s","type":"T","data":' + TOO_DEEP + b"}", InvalidLine, "too deeply"),
        (b'["a"]', InvalidLine, "is an array, not an object"),
        (b'{"type":"T"}', InvalidLine, "has no field `stream`"),
        (b'{"stream":"s"}', InvalidLine, "has no field `type`"),
        (b'{"stream":1,"type":"T"}', InvalidLine, "has a number in `stream`, not a string"),
        (b'{"stream":"s","type":"T","kind":1}', InvalidLine, "unknown field `kind`; .* STREAM and TYPE"),
        (b'{"stream":"","type":"T"}', InvalidStreamName, "is empty"),
        (b'{"stream":"$s","type":"T"}', InvalidStreamName, "reserved"),
        (b'{"stream":"s","type":"a\\nb"}', InvalidEvent, "control character"),
        (b'{"stream":"s","type":"T","id":"key-1"}', InvalidEvent, "not a UUID"),
        (b'{"stream":"s","type":"T","id":""}', InvalidEvent, "not a UUID"),
        (b'{"stream":"s","type":"T","metadata":[]}', InvalidEvent, "must be a JSON object"),
        (b'{"stream":"s","type":"T","content_type":"xml"}', InvalidEvent, "use json, text, binary"),
        (b'{"stream":"s","type":"T","content_type":"text","data":1}', InvalidEvent, "must be a JSON string"),
        (b'{"stream":"s","type":"T","content_type":"binary","data_base64":"?"}', InvalidEvent, "not base64"),
        (b'{"stream":"s","type":"T","content_type":"binary","data":"x"}', InvalidEvent, "data_base64"),
        (b'{"stream":"s","type":"T","data_base64":"AA=="}', InvalidEvent, "data_base64"),
    ],
)
def test_a_bad_line_is_refused_with_its_reason(line: bytes, error: type[EvlogError], text: str) -> None:
    with pytest.raises(error, match=text):
        decode(line)


def test_a_line_for_another_stream_is_refused() -> None:
    with pytest.raises(InvalidLine, match="is for stream 'b', not 'a'"):
        decode(b'{"stream":"b","type":"T"}', "a")
    assert decode(b'{"stream":"a","type":"T"}', "a")[0] == "a"


def test_an_event_over_the_limit_is_refused() -> None:
    head, tail = b'{"stream":"s","type":"T","data":"', b'"}'
    largest = head + b"x" * (MAX_EVENT_BYTES - 2) + tail
    assert len(decode(largest)[1][3]) == MAX_EVENT_BYTES
    with pytest.raises(EventTooLarge):
        decode(head + b"x" * (MAX_EVENT_BYTES - 1) + tail)


@pytest.mark.parametrize("text", ["", str(ID)[:-1], ID.hex, str(ID).replace("0", "g"), f" {str(ID)[1:]}"])
def test_only_the_usual_spelling_is_a_canonical_uuid(text: str) -> None:
    assert canonical_uuid(text) is None


def test_names_that_were_checked_take_bounded_memory() -> None:
    asked: list[str] = []

    def check(name: str) -> str:
        asked.append(name)
        return name

    checked = Checked(check)
    for number in range(CACHE_SIZE + 10):
        assert checked[str(number)] == checked[str(number)] == str(number)
    assert len(checked) <= CACHE_SIZE
    assert len(asked) == CACHE_SIZE + 10


def test_a_refused_name_is_not_remembered() -> None:
    def check(name: str) -> str:
        raise InvalidArgument(name)

    checked = Checked(check)
    for _ in range(2):
        with pytest.raises(InvalidArgument):
            checked["a"]


@given(st.text(st.characters(codec="utf-8")))
def test_a_quoted_text_is_that_text_in_one_line(text: str) -> None:
    assert json.loads(quote(text)) == text
    assert b"\n" not in quote(text)
