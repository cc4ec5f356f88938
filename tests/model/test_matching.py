"""The text that a pattern needs: in everything that it matches."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evlog.model.matching import needed_text


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
        ("a|b", ""),
        ("(?i)foo", ""),
        (r"\x41bc", ""),
        (r"[\]]abc", ""),
        ("ä.*b", ""),
    ],
)
def test_needed_text_is_the_longest_that_is_easily_seen(pattern: str, needed: str) -> None:
    assert needed_text(pattern) == needed


@given(st.text("ab0\\.*+?{}[]^$,-|()dw", max_size=8), st.text("ab0.{}[]-,", max_size=12))
def test_what_a_pattern_matches_has_its_needed_text(pattern: str, text: str) -> None:
    try:
        found = re.search(pattern, text)
    except (re.error, OverflowError):
        return
    if found:
        assert needed_text(pattern) in found[0] or needed_text(pattern) in text
