"""The conformance suite on the directory engine."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import pytest

from evlog.testing import Conformance, NewStore, OpenStore
from tests.support.helpers import small_store


def stores_in(folder: Path, segment_events: int) -> NewStore:
    numbers = itertools.count()

    def name_store() -> OpenStore:
        return partial(small_store, folder / f"store-{next(numbers)}", segment_events=segment_events)

    return name_store


class TestDirectory(Conformance):
    """Segments of three events, beside those of eight that random calls are compared with."""

    @pytest.fixture
    def new_store(self, memory_path: Path) -> NewStore:
        return stores_in(memory_path, 3)


class TestOneSegment(Conformance):
    """A small store has only its active segment, with look-ups of its own for tags, versions and policies."""

    @pytest.fixture
    def new_store(self, memory_path: Path) -> NewStore:
        return stores_in(memory_path, 10_000)
