"""Which appends can be a request to another writer: of one stream, with no condition but its version."""

from __future__ import annotations

import pytest

from evlog.model.appends import Append, Expectation
from evlog.model.encoding import encode_events
from tests.support.helpers import new


@pytest.mark.parametrize(
    ("streams", "expectations", "simple"),
    [
        ("a", [], True),
        ("aaa", [], True),
        ("ab", [], False),
        ("aa", [(0, "a", 3)], True),
        ("aa", [(1, "a", 3)], False),
        ("aa", [(0, "a", 3), (1, "a", 4)], False),
        ("a", [(0, "b", 3)], False),
    ],
)
def test_an_append_is_of_one_stream_if_its_condition_is_too(
    streams: str, expectations: list[tuple[int, str, int]], simple: bool
) -> None:
    events = encode_events([new(number) for number in range(len(streams))])
    found = [Expectation(*expectation) for expectation in expectations]
    append = Append(list(streams), events, found)
    assert append.is_of_one_stream is simple
