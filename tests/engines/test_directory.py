"""The conformance suite on the directory engine."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.engines.suite import Conformance, OpenStore
from tests.support.helpers import small_store


class TestDirectory(Conformance):
    @pytest.fixture
    def open_store(self, memory_path: Path) -> OpenStore:
        return partial(small_store, memory_path / "store")
