"""Events at the door: what is taken, what is refused and why, and what comes out of a record again."""

from __future__ import annotations

import json
import os
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import InitVar, dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar
from uuid import RFC_4122, UUID

import pydantic
import pytest

import evlog
from evlog import (
    AppendResult,
    Event,
    EventStore,
    EventTooLarge,
    InvalidEvent,
    InvalidStreamName,
    NewEvent,
    idempotency_id,
)
from evlog.model import encoding as en
from evlog.model import events as ev
from evlog.model.encoding import encode_events
from evlog.model.events import check_stream_name, check_type, make_ids
from evlog.model.types import ContentType
from tests.support.helpers import TOO_DEEP, Clock
from tests.support.programs import run_python


def encode(event: NewEvent) -> ev.EncodedEvent:
    return encode_events([event])[0]


# --- data


class Name(str, Enum):  # noqa: UP042 - its members do not format as their text
    PAID = "Paid"


@dataclass
class Holder:
    value: Any


class Model(pydantic.BaseModel):
    value: Any


class Sorting(pydantic.BaseModel):
    value: set[str]

    @pydantic.field_serializer("value")
    def _sorted(self, value: set[str]) -> list[str]:
        return sorted(value)


TAKEN: list[tuple[Any, str, bytes]] = [
    (None, "json", b"{}"),
    ({"a": [1, 2.5, None, True, "é"]}, "json", '{"a":[1,2.5,null,true,"é"]}'.encode()),
    ("text", "json", b'"text"'),
    (0, "json", b"0"),
    (False, "json", b"false"),
    ({"a": -0.0, "b": 1 << 70}, "json", b'{"a":-0.0,"b":1180591620717411303424}'),
    ({Name.PAID: (Name.PAID, [1])}, "json", b'{"Paid":["Paid",[1]]}'),
    (Holder({7: b"x"}), "json", b'{"value":{"7":"eA=="}}'),
    (Sorting(value={"b", "a"}), "json", b'{"value":["a","b"]}'),
    (b' { "a" : 1.0 } ', "json", b' { "a" : 1.0 } '),
    (b'{"b":2,"a":1,"a":1}', "json", b'{"b":2,"a":1,"a":1}'),
    (bytearray(b"[1]"), "json", b"[1]"),
    (memoryview(b"[1]"), "json", b"[1]"),
    (b'"\\ud83d\\ude00"', "json", b'"\\ud83d\\ude00"'),
    (None, "text", b""),
    ("grüß\nGott", "text", "grüß\nGott".encode()),
    ("grüß".encode(), "text", "grüß".encode()),
    (bytearray(b"x"), "text", b"x"),
    (None, "binary", b""),
    (bytes(range(256)), "binary", bytes(range(256))),
    (memoryview(b"\xff"), "binary", b"\xff"),
]


@pytest.mark.parametrize(("data", "content_type", "stored"), TAKEN)
def test_data_is_stored_as_these_bytes(data: Any, content_type: ContentType, stored: bytes) -> None:
    assert encode(NewEvent("T", data, content_type=content_type))[2:4] == (
        ev.CONTENT_TYPES.index(content_type),
        stored,
    )


REFUSED: list[tuple[Any, str | None]] = [
    (float("nan"), "json"),
    (float("inf"), "json"),
    ({"a": {1, 2}}, "json"),
    ({1: 2}, "json"),
    ({1: 2, "1": 3}, "json"),
    ([{"a": ({"b": {None: 1}},)}], "json"),
    ({True: 1}, "json"),
    ({1.5: 1}, "json"),
    ({("a",): 1}, "json"),
    (Holder({1, 2}), "json"),
    (Holder([Holder({"a": frozenset("b")})]), "json"),
    (Holder({1: 2, "1": 3}), "json"),
    (Holder({None: 1}), "json"),
    (Holder(Model(value={1})), "json"),
    ("\ud800", "json"),
    ({"\udfff": 1}, "json"),
    (b"NaN", "json"),
    (b"[Infinity]", "json"),
    (b"-Infinity", "json"),
    (b"", "json"),
    (b" ", "json"),
    (b"{", "json"),
    (b"{} {}", "json"),
    (b"{'a':1}", "json"),
    (b'{"a":1,}', "json"),
    (b"01", "json"),
    (b'"a\nb"', "json"),
    (b'"\xff"', "json"),
    (b'\xef\xbb\xbf"bom"', "json"),
    ('"sixteen"'.encode("utf-16"), "json"),
    (b'"\\ud800"', "json"),
    (b"\xff", "text"),
    ("\ud800", "text"),
    (5, "text"),
    ("text", "binary"),
    (5, "binary"),
    ({}, "binary"),
    (None, "xml"),
    (None, None),
    (None, ""),
]


@pytest.mark.parametrize(("data", "content_type"), REFUSED, ids=repr)
def test_data_is_refused_with_one_line(data: Any, content_type: Any) -> None:
    with pytest.raises(InvalidEvent) as caught:
        encode(NewEvent("T", data, content_type=content_type))
    assert caught.value.field == ("data" if content_type in ev.CONTENT_TYPES else "content type")
    assert "\n" not in str(caught.value)


def test_object_that_refers_to_itself_is_refused() -> None:
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(InvalidEvent):
        encode(NewEvent("T", ring))
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidEvent):
        encode(NewEvent("T", deep))


def test_keys_of_metadata_are_texts_too() -> None:
    with pytest.raises(InvalidEvent, match=r"^event metadata is not JSON: keys must be str, not int \(1\)$"):
        encode(NewEvent("T", metadata={"a": [{1: 2}]}))


def test_typed_data_come_back_as_they_were() -> None:
    data = encode(NewEvent("T", Holder({7: b"x"})))[3]
    assert event_of(0, data).json(dict[str, dict[int, bytes]]) == {"value": {7: b"x"}}


@dataclass
class Registered:
    """Has attributes that are the class's, of which JSON gets nothing."""

    allowed: ClassVar[frozenset[str]] = frozenset({"EUR", "USD"})
    made: ClassVar[list[Any]] = []  # holds objects of the class: a circle
    places: InitVar[frozenset[int]] = frozenset({2})
    amount: int = 1

    def __post_init__(self, places: frozenset[int]) -> None:
        self.made.append(self)


def test_what_belongs_to_a_class_is_not_data() -> None:
    assert encode(NewEvent("T", {"paid": Registered(amount=5)}))[3] == b'{"paid":{"amount":5}}'


def test_a_class_of_attrs_is_refused_where_something_of_it_would_be_lost() -> None:
    attrs = pytest.importorskip("attrs")
    paid = attrs.make_class("Paid", ["amount"])
    assert encode(NewEvent("T", paid([1])))[3] == b'{"amount":[1]}'
    with pytest.raises(InvalidEvent, match="type set is not JSON"):
        encode(NewEvent("T", paid({"EUR", "USD"})))
    with pytest.raises(InvalidEvent, match="_amount of Private would be left out"):
        encode(NewEvent("T", attrs.make_class("Private", ["_amount"])(1)))


def test_tags_of_an_iterator_are_there_at_the_second_append_too() -> None:
    event = NewEvent("T", tags=iter("ab"))
    assert encode(event) == encode(event) == encode(NewEvent("T", tags=["a", "b"]))


def test_line_breaks_between_tokens_become_spaces_and_nothing_else_changes() -> None:
    data = b'{\r\n "a\\n": [1,\n\t2],\r "b": "\\r\\n"}\n'
    stored = encode(NewEvent("T", data))[3]
    assert stored == b'{   "a\\n": [1, \t2],  "b": "\\r\\n"} '
    assert json.loads(stored) == json.loads(data)


def test_line_breaks_are_found_in_any_event_of_a_bulk() -> None:
    for broken in (0, 50, 99):
        rows = encode_events([NewEvent("T", b'{"a":\n1}' if at == broken else b"{}") for at in range(100)])
        assert [row[3] for row in rows] == [b'{"a": 1}' if at == broken else b"{}" for at in range(100)]


def test_line_breaks_in_text_stay_also_beside_json_with_line_breaks() -> None:
    rows = encode_events([NewEvent("T", b"[\n]"), NewEvent("T", "a\nb", content_type="text")])
    assert [row[3] for row in rows] == [b"[ ]", b"a\nb"]


def test_first_bad_event_of_a_bulk_is_the_one_that_is_named() -> None:
    events = [NewEvent("T", b"{}") for _ in range(200)]
    events[150].data = b'{"broken"'
    events[160].data = b"\xff"
    with pytest.raises(InvalidEvent, match="JSON"):
        encode_events(events)
    for event in events:
        event.data = b'"half of an \xc3'
    with pytest.raises(InvalidEvent, match="UTF-8"):
        encode_events(events)


ODD: list[NewEvent] = [
    NewEvent("T", {"a": 1}, id=bytes(16)),
    NewEvent("T", b"{}"),
    NewEvent("T", b"{}", id=UUID(int=1)),
    NewEvent("T", b"{}", id=bytes(16), metadata={"a": 1}),
    NewEvent("T", b"not JSON", id=bytes(16), content_type="text"),
]


@pytest.mark.parametrize("odd", [None, *ODD])
@pytest.mark.parametrize("at", [0, 3])
def test_events_of_one_form_are_encoded_as_each_of_them_alone(odd: NewEvent | None, at: int) -> None:
    events = [NewEvent("T", b'{"n":%d}' % number, id=os.urandom(16)) for number in range(en._BULK_EVENTS)]
    if odd is not None:
        events[at] = odd
    encoded, _ = en._encode_each(events)
    columns = encode_events(events)
    assert columns == encoded
    assert isinstance(columns, ev.EncodedEvents) is (odd is None)
    if isinstance(columns, ev.EncodedEvents):
        assert columns[3] == encoded[3]
        assert columns[2:5] == encoded[2:5]
        assert [*columns] == encoded
        assert len(columns) == len(encoded)
        assert [*ev.columns_of(columns)] == [list(column) for column in ev.columns_of(encoded)]
        assert [ev.column_of(columns, at) for at in range(5)] == [*columns.columns]
        assert [ev.column_of(encoded, at) for at in range(5)] == [*columns.columns]


@pytest.mark.parametrize(
    "bad",
    [
        NewEvent("T", b"{", id=bytes(16)),
        NewEvent("T", b"{}", id=bytes(15)),
        NewEvent("T", b'"' + bytes(ev.MAX_EVENT_BYTES) + b'"', id=bytes(16)),
        NewEvent("T\n", b"{}", id=bytes(16)),
        NewEvent("T", b"{}", id=bytes(16), content_type="no"),  # type: ignore[arg-type]
        NewEvent("T", b"{}", id=bytes(16), metadata=[]),  # type: ignore[arg-type]
    ],
    ids=["data", "id", "size", "type", "content type", "metadata"],
)
def test_bad_event_among_events_of_one_form_is_refused(bad: NewEvent) -> None:
    good = [NewEvent("T", b"{}", id=os.urandom(16)) for _ in range(en._BULK_EVENTS)]
    with pytest.raises((InvalidEvent, EventTooLarge)):
        encode_events([*good, bad])


def test_what_is_not_an_event_is_refused() -> None:
    for thing in (None, "T", {"type": "T"}, ("T", None)):
        with pytest.raises(InvalidEvent):
            encode_events([thing])  # type: ignore[list-item]


# --- size


@pytest.mark.parametrize("metadata", [None, b'{"a":1}'])
def test_event_of_exactly_the_limit_is_taken_and_one_more_byte_is_not(metadata: bytes | None) -> None:
    room = ev.MAX_EVENT_BYTES - len(metadata or b"")
    assert ev.MAX_EVENT_BYTES == 16 * 1024 * 1024
    encode(NewEvent("T", bytes(room), content_type="binary", metadata=metadata))
    with pytest.raises(EventTooLarge) as caught:
        encode(NewEvent("T", bytes(room + 1), content_type="binary", metadata=metadata))
    assert caught.value.attributes() == {
        "size_bytes": ev.MAX_EVENT_BYTES + 1,
        "limit_bytes": ev.MAX_EVENT_BYTES,
    }
    assert "reference" in str(caught.value)


# --- metadata


def test_metadata_is_a_json_object() -> None:
    assert encode(NewEvent("T"))[4] is None
    assert encode(NewEvent("T", metadata={}))[4] is None
    assert encode(NewEvent("T", metadata={"k": "é"}))[4] == '{"k":"é"}'.encode()
    assert encode(NewEvent("T", metadata=b'\n{"k":\n1}'))[4] == b' {"k": 1}'


@pytest.mark.parametrize(
    "metadata",
    [[], "x", 5, b"[]", b"5", b"", b"{", b'{"k":NaN}', {"k": float("nan")}, {"k": {1}}, {"\ud800": 1}],
    ids=repr,
)
def test_metadata_of_another_form_is_refused(metadata: Any) -> None:
    with pytest.raises(InvalidEvent) as caught:
        encode(NewEvent("T", metadata=metadata))
    assert caught.value.field == "metadata"


# --- ids


def test_id_may_be_a_uuid_its_text_or_its_bytes() -> None:
    id = UUID("12345678-9abc-def0-1234-56789abcdef0")
    for form in (id, str(id), str(id).upper(), id.hex, f"{{{id}}}", id.bytes):
        assert encode(NewEvent("T", id=form))[1] == id.bytes
    assert encode(NewEvent("T"))[1] is None


@pytest.mark.parametrize("id", ["", "x", "1234", b"", b"x" * 15, b"x" * 17, 5, 1.5, [], object], ids=repr)
def test_id_of_another_form_is_refused(id: Any) -> None:
    with pytest.raises(InvalidEvent) as caught:
        encode(NewEvent("T", id=id))
    assert caught.value.field == "id"


def test_idempotency_ids_are_pinned_for_ever() -> None:
    assert ev.ID_NAMESPACE == "7b1f9a52-6d0e-5b8f-9c3a-e0f1d2c3b4a5"
    pinned = {
        "a": "4f49f139-e4a6-51b2-a5b6-cb6a4c20a623",
        "order-42/paid": "6a63a90d-2e09-5d2a-978e-eff97a475edd",
        "é": "8fea2c0f-677b-540c-a954-89b855e91546",
        " ": "f879184b-0fb4-5810-95ed-4cefabc37916",
        "x" * 10_000: "ff42dece-0add-5523-9890-816d3afebb9d",
    }
    assert {key: str(idempotency_id(key)) for key in pinned} == pinned
    assert idempotency_id("a").version == 5


@pytest.mark.parametrize("key", ["", None, 5, b"a", "\ud800"], ids=repr)
def test_idempotency_key_must_be_a_text(key: Any) -> None:
    with pytest.raises(InvalidEvent):
        idempotency_id(key)


def test_made_ids_are_uuid7_of_now(clock: Clock) -> None:
    clock.us = 1_700_000_000_123_456
    ids = [UUID(bytes=id) for id in make_ids(1000)]
    assert len(set(ids)) == 1000
    for id in ids:
        assert id.version == 7
        assert id.variant == "specified in RFC 4122"
        assert id.int >> 80 == 1_700_000_000_123
        assert id.int >> 64 & 0xFFF == (456_000 << 12) // 1_000_000
    assert make_ids(0) == []


def test_made_ids_rise_with_the_clock(clock: Clock) -> None:
    made = []
    for step in (0, 1, 10, 999, 1_000, 10**6, 10**9):
        clock.us = 1_700_000_000_000_000 + step
        made.append(make_ids(1)[0])
    assert made == sorted(made)


def test_made_ids_differ_by_their_random_bits(clock: Clock) -> None:
    seen = [0] * 64
    for id in make_ids(500):
        for bit in range(62):
            seen[bit] += int.from_bytes(id, "big") >> bit & 1
    assert all(150 < count < 350 for count in seen[:62])


# --- names

GOOD_NAMES = [
    "a",
    "order-42",
    "-",
    "a b",
    "é",
    "日本",
    "a" * 255,
    "é" * 127,
    "😀",
    "a$b",
    "..",
    "/",
    '"',
]
BAD_NAMES: list[Any] = [
    "", "a" * 256, "é" * 128, "a\nb", "a\tb", "\0", "a\x7f", "\x85", "a\u2028b", "a\u2029", "\ud800", None, 5,
    b"a",
]  # fmt: skip


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_name_is_taken_as_stream_and_as_type(name: str) -> None:
    assert check_stream_name(name) == name
    assert check_type(name) == name


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_name_is_refused_as_stream_and_as_type(name: Any) -> None:
    with pytest.raises(InvalidStreamName) as caught:
        check_stream_name(name)
    assert caught.value.stream == name
    assert len(str(caught.value)) < 250
    assert str(caught.value).isprintable()
    with pytest.raises(InvalidEvent) as refused:
        encode(NewEvent(name))
    assert refused.value.field == "type"


def test_stream_beginning_with_a_dollar_is_reserved_and_a_type_is_not() -> None:
    with pytest.raises(InvalidStreamName, match="reserved"):
        check_stream_name("$all")
    assert check_type("$deleted") == "$deleted"


def test_a_message_names_the_type_of_what_has_another(store: Any) -> None:
    with pytest.raises(InvalidStreamName, match="stream name 5 is of type int, not str"):
        check_stream_name(5)  # type: ignore[arg-type]
    with pytest.raises(InvalidEvent, match="expected a NewEvent, not an object of type int"):
        store.append("s", [5])


# --- NewEvent and Event


def test_new_events_are_equal_when_every_field_is() -> None:
    event = NewEvent("T", {"a": 1}, metadata={"m": 1})
    assert event == NewEvent("T", {"a": 1}, metadata={"m": 1})
    for other in (NewEvent("U", {"a": 1}), NewEvent("T", {"a": 2}), NewEvent("T", {"a": 1}), None, "T"):
        assert event != other
    assert "T" in repr(event)
    with pytest.raises(TypeError):
        hash(event)


def event_of(code: int = 0, data: bytes = b'{"a":1}', metadata: bytes | None = None) -> Event:
    return Event((3, 2, "order-42-b", "T", bytes(range(16)), 1_700_000_000_123_456, code, data, metadata))


def test_event_puts_names_on_its_record() -> None:
    event = event_of()
    assert (event.position, event.version, event.stream, event.type) == (3, 2, "order-42-b", "T")
    assert event.id == UUID(bytes=bytes(range(16)))
    assert event.id_bytes == bytes(range(16))
    assert event.category == "order"
    assert event_of() == event
    assert len({event, event_of()}) == 1
    with pytest.raises(AttributeError):
        event.position = 4
    assert "order-42-b" in repr(event)
    assert repr(event_of(data=b"x" * 1000)).count("x") < 100


def test_event_time_is_aware_and_exact_to_the_microsecond() -> None:
    time = event_of().time
    assert time.utcoffset() == timedelta(0)
    assert (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) == 1_700_000_000_123_456


def test_event_json_is_parsed_text_is_decoded_and_binary_refused() -> None:
    assert event_of().json() == {"a": 1}
    assert event_of(1, "é".encode()).json() == "é"
    assert [event_of(code).content_type for code in range(3)] == ["json", "text", "binary"]
    with pytest.raises(InvalidEvent):
        event_of(2, b"\xff").json()
    changed = event_of()
    changed.json()["a"] = 2
    assert changed.json() == {"a": 1}


@pytest.mark.parametrize("raw", [b'{"a":%b}' % (b"1" * 5000), b'{"a":%b}' % TOO_DEEP])
def test_json_that_python_cannot_hold_is_not_damage(raw: bytes) -> None:
    for parse in (event_of(data=raw).json, lambda: event_of(metadata=raw).metadata):
        with pytest.raises(
            InvalidEvent, match=r"^event (meta)?data at position \d+ is JSON that Python cannot"
        ):
            parse()


def test_event_metadata_is_parsed_and_never_none() -> None:
    assert event_of().metadata == {}
    assert event_of().metadata_bytes == b"{}"
    assert event_of(metadata=b'{"m":1}').metadata == {"m": 1}
    assert event_of(metadata=b'{"m":1}').metadata_bytes == b'{"m":1}'


@pytest.mark.parametrize(
    ("stream", "category"), [("order-42", "order"), ("order", "order"), ("-x", ""), ("a-b-c", "a")]
)
def test_category_ends_before_the_first_dash(stream: str, category: str) -> None:
    assert ev.category_of(stream) == category


# --- the check of JSON that a single event gets and the one that a bulk gets


def test_few_payloads_do_not_import_msgspec_and_many_do() -> None:
    code = (
        "import sys; from evlog.model.encoding import check_json;"
        "check_json([b'{}'] * 63); assert 'msgspec' not in sys.modules;"
        "check_json([b'{}'] * 64); assert 'msgspec' in sys.modules"
    )
    run_python("-c", code)


def test_number_of_any_length_is_json_to_both_checks() -> None:
    number = bytes(random.Random(1).choices(b"123456789", k=10_000))
    en._check_json_one(number)
    en._bulk_checker()(number)


@pytest.mark.parametrize("count", [1, 2, 50])
def test_ids_are_distinct_uuids_of_version_7_with_the_present_time(count: int) -> None:
    before = time.time_ns() // 1_000_000
    ids = [UUID(bytes=id) for made in (make_ids(count) for _ in range(200 // count)) for id in made]
    after = time.time_ns() // 1_000_000
    assert len(set(ids)) == len(ids)
    assert {(id.version, id.variant) for id in ids} == {(7, RFC_4122)}
    assert all(before <= id.int >> 80 <= after for id in ids)


def test_the_clock_is_read_in_one_place() -> None:
    """Tests move the clock there, and it works after 2262, where `time` raises OverflowError."""
    package = Path(evlog.__file__).parent
    reads = r"\btime_ns\(\)|\btime\.time\(\)|\bdatetime\.(?:utc)?now\(|\btoday\("
    calls = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for _ in re.findall(reads, path.read_text())
    ]
    assert calls == ["model/events.py"]


def test_what_is_appended_and_its_result_are_shown_in_a_line() -> None:
    assert repr(NewEvent("T")) == "NewEvent('T', None)"
    id = UUID(int=1)
    shown = repr(NewEvent("T", b"x", id=id, metadata={"a": 1}, tags=["t"], content_type="binary"))
    assert shown == f"NewEvent('T', b'x', content_type='binary', id={id}, metadata={{'a': 1}}, tags=['t'])"
    assert repr(NewEvent("T", id=id.bytes)) == f"NewEvent('T', None, id={id})"
    assert len(repr(NewEvent("T", "x" * 10_000))) < 300
    result = AppendResult("s", 1, 9, 1, 9, False, (id.bytes,) * 9)
    assert repr(result) == (
        "AppendResult(stream='s', first_position=1, last_position=9, first_version=1, last_version=9, "
        f"duplicate=False, ids=({id}, {id}, {id}…))"
    )


@pytest.mark.parametrize("at", [0, 9, 19])
def test_stream_names_of_a_batch_are_checked_as_each_of_them_alone(at: int) -> None:
    batch: list[Any] = [f"order-{number}" for number in range(20)]
    for name in [*GOOD_NAMES, "a $b"]:
        batch[at] = name
        ev.check_stream_names(batch)
    for bad in [*BAD_NAMES, "$x"]:
        batch[at] = bad
        with pytest.raises(InvalidStreamName) as caught:
            ev.check_stream_names(batch)
        assert caught.value.stream == bad


def test_both_of_two_threads_that_take_from_one_iterator_get_an_error() -> None:
    # In a process of its own: without what `of` holds, CPython frees what still runs, and crashes.
    code = """
from evlog import InvalidArgument
from evlog.model.events import BatchedEvents

def batches():
    try:
        next(events)  # as in another thread, meanwhile
    except InvalidArgument as error:
        print(error)
    yield [(1, 1, "a", "T", bytes(16), 0, 0, b"{}", None)]

events = BatchedEvents.of(batches(), None)
try:
    print([event.position for event in events])
except InvalidArgument as error:
    print(error)
"""
    done = run_python("-c", code, env={"PYTHONMALLOC": "debug"})  # what is freed is overwritten at once
    message = "another thread takes events of the same read; let each thread read for itself\n"
    assert done.stdout == 2 * message


def test_an_iterator_can_be_handed_to_another_thread(store: EventStore) -> None:
    store.append("s", [NewEvent("T", number) for number in range(20)])
    events = store.read("s")
    first = next(events)
    with ThreadPoolExecutor(1) as pool:
        assert [first, *pool.submit(list, events).result()] == list(store.read("s"))
