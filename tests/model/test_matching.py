"""The text that a pattern needs: in everything that it matches."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evlog.errors import InvalidArgument
from evlog.model.matching import check_fields, needed_text


@pytest.mark.parametrize(
    ("pattern", "needed"),
    [
        ("abc", "abc"),
        ("amount.*99", "amount"),
        ('"amount":9[0-9]', '"amount":9'),
        ('{"a":1', '{"a":1'),
        (r"\d{3}-foo", "-foo"),
        (r"\.com$", ".com"),
        ("x?yz", "yz"),
        ("ab+cd*", "ab"),
        ("a{0,2}bc", "bc"),
        ("abcd?e", "abc"),
        ("xyz{0}a", "xy"),
        ("a|b", ""),
        ("(?i)foo", ""),
        (r"\x41bc", ""),
        (r"[\]]abc", ""),
        ("ä.*b", ""),
    ],
)
def test_needed_text_is_the_longest_that_is_easily_seen(pattern: str, needed: str) -> None:
    assert needed_text(pattern) == needed


ATOMS = ["a", "b", "0", "-", "{", "}", "]", ".", "[ab]", "[^a]", r"\d", r"\.", "(a)", "a|b"]
REPEATS = ["", "", "", "?", "*", "+", "{2}", "{,1}", "*?", "^", "$"]
PIECES = st.builds("{}{}".format, st.sampled_from(ATOMS), st.sampled_from(REPEATS))


@given(st.lists(PIECES, max_size=5).map("".join), st.text("ab0.{}]-", max_size=6))
def test_what_a_pattern_matches_has_its_needed_text(pattern: str, text: str) -> None:
    try:
        found = re.search(pattern, text)
    except (re.error, OverflowError):
        return
    if found:
        assert needed_text(pattern) in found[0]


@pytest.mark.parametrize("value", [{1: 2}, [{None: 1}], {1, 2}, float("nan"), b"x"])
def test_a_field_is_compared_with_what_metadata_can_hold(value: object) -> None:
    assert check_fields({"a": {"1": [2]}}) == (("a", '{"1":[2]}'),)
    with pytest.raises(InvalidArgument, match="metadata cannot be"):
        check_fields({"a": value})
