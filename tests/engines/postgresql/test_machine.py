"""Small pages of reads do not change the answers of random calls."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from evlog.testing import compare_with_directory, stores_by_url
from tests.engines.postgresql.test_conformance import RANDOM_RUNS


def test_small_pages_do_not_change_what_is_read(
    postgresql_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.engines.postgresql.reading.PAGE_ROWS", 3)
    compare_with_directory(stores_by_url(postgresql_url), runs=RANDOM_RUNS)
