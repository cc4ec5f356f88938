"""Fixtures of several tests of crashes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from evlog.files.check import files
from tests.crash import recordings


@pytest.fixture
def root() -> Iterator[str]:
    with recordings.scratch() as directory:
        yield directory


@pytest.fixture
def no_writer_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have verify not wait for a missing index, though the manifest was made a moment ago."""
    monkeypatch.setattr(files, "_INDEXING_SECONDS", 0.0)
