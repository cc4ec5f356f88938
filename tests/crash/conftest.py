"""Fixtures of several tests of crashes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash import recordings


@pytest.fixture
def root() -> Iterator[str]:
    with recordings.scratch() as directory:
        yield directory
