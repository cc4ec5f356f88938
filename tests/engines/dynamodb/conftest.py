"""A server for all tests of this folder; each test has its own table."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest

from tests.support import ministack

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def dynamodb_server() -> Iterator[ministack.Ministack]:
    """A server that no test stops; without the package a test fails in CI and is skipped elsewhere."""
    if not ministack.IS_INSTALLED:
        missing = "no stand-in for DynamoDB is installed (PyPI: ministack)"
        if os.environ.get("CI") or os.environ.get("EVLOG_TEST_SERVERS"):
            pytest.fail(missing)
        pytest.skip(missing)
    before = {name: os.environ.get(name) for name in ministack.CREDENTIALS}
    os.environ.update(ministack.CREDENTIALS)
    try:
        with ministack.serving() as server:
            yield server
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@pytest.fixture
def dynamodb_url(dynamodb_server: ministack.Ministack) -> Callable[[], str]:
    """Make the URL of a store that is not there yet."""
    return lambda: dynamodb_server.url(f"test-{next(_NUMBERS)}")
