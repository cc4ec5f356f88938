"""Servers for the tests of the NATS engine: one that all share, each with a store of its own name."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.support import nats
from tests.support.postgresql import scratch

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def nats_server() -> Iterator[nats.Cluster]:
    """A server that no test stops."""
    with scratch() as folder, nats.serving(folder) as cluster:
        yield cluster


@pytest.fixture
def nats_url(nats_server: nats.Cluster) -> Callable[[], str]:
    """Make the URL of a store that is not there yet."""
    return lambda: nats_server.url(f"t{next(_NUMBERS)}")
