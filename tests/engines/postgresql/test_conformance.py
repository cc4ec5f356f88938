"""The conformance suite on a real PostgreSQL server."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings

from evlog.testing import Conformance

RANDOM_RUNS = max(10, settings().max_examples // 10)


class TestPostgresql(Conformance):
    random_runs = RANDOM_RUNS

    @pytest.fixture
    def new_url(self, postgresql_url: Callable[[], str]) -> Callable[[], str]:
        return postgresql_url
