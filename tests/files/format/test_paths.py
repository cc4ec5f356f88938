"""File names: what is built parses back, and nothing else parses."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evlog.files.format import paths


@given(st.integers(1, 10**20 - 1), st.integers(0, 2**32 - 1), st.sampled_from(paths.SUFFIXES))
def test_name_that_was_built_parses_back(first: int, generation: int, suffix: str) -> None:
    path = paths.segment_path("/store", first, generation, suffix)
    directory, name = os.path.split(path)
    assert directory == paths.segments_path("/store")
    assert paths.maybe_parse_segment_name(name) == (first, generation, suffix)


def test_names_are_these() -> None:
    assert paths.segment_path("s", 1, 0, "log") == "s/segments/00000000000000000001.0.log"
    assert paths.manifest_path("s") == "s/manifest.json"
    assert paths.lock_path("s") == "s/lock"
    assert paths.durable_path("s") == "s/durable"
    assert frozenset({"lock", "durable", "segments", "manifest.json.tmp"}) == paths.INIT_LEFTOVERS


@given(st.lists(st.integers(1, 10**20 - 1), min_size=2, max_size=2, unique=True))
def test_names_sort_as_positions_do(positions: list[int]) -> None:
    names = [paths.segment_path("", position, 0, "log") for position in positions]
    assert (names[0] < names[1]) == (positions[0] < positions[1])


@pytest.mark.parametrize(
    "name",
    [
        "",
        "manifest.json",
        "1.0.log",
        "00000000000000000001.log",
        "00000000000000000001.0.txt",
        "00000000000000000001.0.log.123.tmp",
        "00000000000000000001.0.log\n",
        "x00000000000000000001.0.log",
        "000000000000000000001.0.log",
        "00000000000000000001.-1.log",
        "00000000000000000001.12345678901.log",
        "٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠١.0.log",  # noqa: RUF001 - digits, but not ours
    ],
)
def test_foreign_name_parses_to_nothing(name: str) -> None:
    assert paths.maybe_parse_segment_name(name) is None
