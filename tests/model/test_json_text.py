"""JSON without the package `json`: the same texts and the same refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evlog.model.json_text import decode_json, encode_json
from tests.support.programs import run_python

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(_values)
def test_values_are_encoded_as_json_does_it_and_come_back(value: Any) -> None:
    text = encode_json(value)
    assert text == json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    assert decode_json(text) == value


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": object()}, {(1, 2): 3}, _circle()])
def test_values_that_json_cannot_represent_are_refused_each_time(value: Any) -> None:
    for _ in range(2):
        with pytest.raises((ValueError, TypeError)) as refused:
            encode_json(value)
        with pytest.raises((ValueError, TypeError)) as expected:
            json.dumps(value, ensure_ascii=False, allow_nan=False)
        assert str(refused.value).startswith(str(expected.value)[:30])


@pytest.mark.parametrize("text", ["{", "[1", '{"a"', '{"a":1', '"a', '"\\x"'])
def test_bad_json_is_refused_in_a_process_that_never_imported_json(text: str) -> None:
    program = """
import sys
from evlog.model.json_text import decode_json, scan_json
assert "json" not in sys.modules
for decode in (decode_json, lambda text: scan_json(text, 0)):
    try:
        decode(sys.argv[1])
    except ValueError as error:
        print(error)
    for name in [name for name in sys.modules if name.startswith("json")]:
        del sys.modules[name]
"""
    done = run_python("-c", program, text)
    with pytest.raises(ValueError) as expected:
        json.loads(text)
    assert done.stdout == f"{expected.value}\n" * 2
