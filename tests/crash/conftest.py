"""What several tests of crashes ask for."""

from __future__ import annotations

import pytest

from evlog.files.check import files


@pytest.fixture
def no_writer_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have verify not wait for a missing index, though the manifest was made a moment ago."""
    monkeypatch.setattr(files, "_INDEXING_SECONDS", 0.0)
