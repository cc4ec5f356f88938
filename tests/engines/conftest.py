"""Servers for the tests of engines: one for all tests, in which every test has a schema of its own."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import postgresql

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def postgresql_programs() -> Path:
    """The programs of PostgreSQL's server; without them a test fails in CI, and is skipped elsewhere."""
    programs = postgresql.binaries()
    if programs is None:
        required = os.environ.get("CI") or os.environ.get("EVLOG_TEST_SERVERS")
        assert not required, "PostgreSQL's server is missing: .ci/run installs it"
        pytest.skip("PostgreSQL's server is not installed (Debian: postgresql-15)")
    return programs


@pytest.fixture(scope="session")
def postgresql_server(postgresql_programs: Path) -> Iterator[postgresql.PostgresqlServer]:
    """A server that no test stops."""
    with tempfile.TemporaryDirectory(prefix="evlog-test-") as folder:
        os.chmod(folder, 0o755)
        with postgresql.serving(Path(folder), postgresql_programs, fsync="off") as server:
            yield server


@pytest.fixture
def postgresql_url(postgresql_server: postgresql.PostgresqlServer) -> Callable[[], str]:
    """Make the URL of a store that is not there yet."""
    return lambda: postgresql_server.url(schema=f"t{next(_NUMBERS)}")
