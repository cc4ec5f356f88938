"""The conformance suite on a real PostgreSQL server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import evlog
from tests.engines.suite import Conformance, OpenStore


class TestPostgresql(Conformance):
    @pytest.fixture
    def open_store(self, postgresql_url: Callable[[], str]) -> OpenStore:
        url = postgresql_url()
        return lambda: evlog.open(url, create=True)
