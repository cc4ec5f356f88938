"""`read -C N`: what surrounds the events that match."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Evlog, as_lines


@pytest.fixture
def filled(evlog: Evlog) -> Evlog:
    """Ten events by turns in two streams; positions 4 and 7 are of type Bad, 7 in stream a-1."""
    rows = [
        {"stream": f"a-{n % 2}", "type": "Bad" if n in {4, 7} else "Good", "data": {"n": n}}
        for n in range(1, 11)
    ]
    evlog("append", "--lines", stdin=as_lines(rows))
    return evlog


@pytest.mark.parametrize(
    ("arguments", "positions"),
    [
        (["-C", "0"], [4, 7]),
        (["-C", "1"], [3, 4, 5, 6, 7, 8]),
        (["-C", "2"], [2, 3, 4, 5, 6, 7, 8, 9]),
        (["-C", "99"], list(range(1, 11))),
        (["-C", "1", "-n", "1"], [3, 4, 5]),
        (["-C", "1", "--after", "5"], [6, 7, 8]),
        (["-C", "1", "--category", "a"], [3, 4, 5, 6, 7, 8]),
        (["--context", "1", "a-1"], [5, 7, 9]),
        (["-C", "9", "a-0"], [2, 4, 6, 8, 10]),
    ],
)
def test_each_event_comes_once_and_in_order(
    filled: Evlog, arguments: list[str], positions: list[int]
) -> None:
    found = filled("read", "--type", "Bad", *arguments)
    assert [event["position"] for event in found.lines] == positions


def test_without_a_match_there_is_nothing_around_it(filled: Evlog) -> None:
    assert filled("read", "--type", "None", "-C", "3").out == b""


def test_context_is_for_reading_forwards(filled: Evlog) -> None:
    assert filled("read", "-C", "1", "--reverse").code == 2
