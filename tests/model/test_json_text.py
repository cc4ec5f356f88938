"""JSON without the package `json`: the same texts and the same refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evlog.model.json_text import decode_json, encode_json

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
