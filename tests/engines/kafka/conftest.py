"""One broker for all tests of the engine; each store has its own topic, and all a cache of the tests' own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest

from tests.support import kafka

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def kafka_jars() -> str:
    """The server's jars; without Java and Maven, a test fails in CI and is skipped elsewhere."""
    jars = kafka.maybe_jars()
    if jars is None:
        assert not {"CI", "EVLOG_TEST_SERVERS"} & os.environ.keys(), ".ci/run installs Java and Maven"
        pytest.skip("Java 17 and Maven are needed for Apache Kafka (Debian: openjdk-17-jre-headless, maven)")
    return jars


@pytest.fixture(scope="session")
def kafka_server(kafka_jars: str) -> Iterator[kafka.KafkaServer]:
    """A broker that no test stops."""
    with kafka.serving(kafka_jars) as server:
        yield server


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep local indexes away from the user's cache."""
    with kafka.indexes_in(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture
def kafka_url(kafka_server: kafka.KafkaServer) -> Callable[[], str]:
    """Make the URL of a store that is not there yet."""
    return lambda: kafka_server.url(f"t{next(_NUMBERS)}")
