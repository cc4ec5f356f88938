"""The two checks of JSON agree on any bytes: that of single events (json) and that of many (msgspec)."""

from __future__ import annotations

import json
import sys
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from evlog.errors import InvalidEvent
from evlog.model import encoding as en
from evlog.model import events as ev

texts = st.text(st.characters(codec="utf-8"), max_size=10)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
documents = st.builds(
    lambda value, escaped, indent: json.dumps(value, ensure_ascii=escaped, indent=indent).encode(),
    values,
    st.booleans(),
    st.sampled_from([None, 1, "\t", "\r\n"]),
)
TOKENS = [
    "{", "}", "[", "]", ",", ":", '"', "\\", "\\u", "d800", "dc00", "0061", "\\n", "\\x", "tru", "true",
    "null",
    "nan", "NaN", "Infinity", "-", "+", "0", "1", "9", ".", "e", "E", " ", "\t", "\n", "\r", "\v", "\f", "\0",
    "\x1f", "\x7f", "\xa0", "\ufeff", "\u2028", "a", "'", "/", "//", "😀",
]  # fmt: skip
fragments = st.lists(st.sampled_from(TOKENS), max_size=12).map(lambda tokens: "".join(tokens).encode())


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Return a document with a byte changed, put in or taken out."""
    whole = bytearray(draw(documents))
    at = draw(st.integers(0, len(whole) - 1))
    how = draw(st.integers(0, 2))
    byte = draw(st.sampled_from(b'"\\{}[],:\0\n\t 0e-.u\x80\xc3\xff') | st.integers(0, 255))
    if how == 0:
        whole[at] = byte
    elif how == 1:
        whole.insert(at, byte)
    else:
        del whole[at]
    return bytes(whole)


def taken_alone(payload: bytes) -> bool:
    had = sys.modules.pop("msgspec", None)  # what check_json goes by to choose
    try:
        return taken([payload])
    finally:
        if had is not None:
            sys.modules["msgspec"] = had


def taken(payloads: list[bytes]) -> bool:
    try:
        en.check_json(payloads)
    except InvalidEvent:
        return False
    return True


@given(fragments | damaged() | documents | st.binary(max_size=12))
@example(b'"\\ud800"')
@example(b'"\\ud83d\\ude00"')
@example(b'"\\ude00\\ud83d"')
@example(b'{"\\ud800":1}')
@example(b'"\\ud800\xed\xb0\x80"')
@example(b"1e999")
@example(b"-0")
@example(b'"a\0"')
@example(b"\x0b1")
@example(b"\xef\xbb\xbf1")
@example(b"[" * 100 + b"]" * 100)
def test_both_checks_agree(payload: bytes) -> None:
    alone = taken_alone(payload)
    assert taken([payload, *[b"0"] * 63]) == alone
    assert taken([*[b"0"] * 64, payload]) == alone


@given(documents)
def test_every_document_is_taken_and_stays_what_it_was(payload: bytes) -> None:
    assert taken_alone(payload)
    row = en.encode_events([ev.NewEvent("T", payload)])[0]
    assert json.loads(row[3]) == json.loads(payload)
    assert b"\n" not in row[3]
    assert b"\r" not in row[3]


@given(values)
def test_every_value_comes_back_equal(value: Any) -> None:
    row = en.encode_events([ev.NewEvent("T", value)])[0]
    assert json.loads(row[3]) == ({} if value is None else value)


@given(st.lists(documents | damaged(), max_size=8), st.booleans())
def test_a_batch_is_taken_when_every_payload_is(payloads: list[bytes], bulk: bool) -> None:
    filler = [b"0"] * (64 if bulk else 0)
    assert taken(filler + payloads) == all(taken_alone(payload) for payload in payloads)
