"""The conformance suite on the directory engine."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import pytest

from evlog.testing import Conformance, NewStore, OpenStore
from tests.support.helpers import small_store


class TestDirectory(Conformance):
    """Segments of three events, beside those of eight that random calls are compared with."""

    @pytest.fixture
    def new_store(self, memory_path: Path) -> NewStore:
        numbers = itertools.count()

        def name_store() -> OpenStore:
            return partial(small_store, memory_path / f"store-{next(numbers)}", segment_events=3)

        return name_store
