"""Three brokers: the one that leads is killed, then a second one.

Three servers take a minute to start on two cores, so it runs with `EVLOG_TEST_CLUSTER=1` only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient

import evlog
from evlog import NewEvent
from evlog.errors import ENDS_RETRIES
from tests.support.kafka import KafkaServer, serving_cluster


@pytest.fixture
def brokers(kafka_jars: str) -> Iterator[list[KafkaServer]]:
    with serving_cluster(kafka_jars, 3) as cluster:
        yield cluster


def url_of(brokers: list[KafkaServer], **options: object) -> str:
    hosts = ",".join(f"127.0.0.1:{broker.port}" for broker in brokers)
    return f"kafka://{hosts}/shop?" + "&".join(f"{name}={value}" for name, value in options.items())


def leader_of(brokers: list[KafkaServer]) -> KafkaServer:
    client = AdminClient({"bootstrap.servers": ",".join(f"127.0.0.1:{broker.port}" for broker in brokers)})
    node = client.list_topics("shop", timeout=60).topics["shop"].partitions[0].leader
    return next(broker for broker in brokers if broker.node == node)


@pytest.mark.skipif("EVLOG_TEST_CLUSTER" not in os.environ, reason="EVLOG_TEST_CLUSTER is not set")
def test_one_broker_can_be_lost_and_without_two_nothing_is_acknowledged(brokers: list[KafkaServer]) -> None:
    with evlog.open(url_of(brokers, timeout=100), create=True) as store:
        assert "at least 2 of 3" in store.capabilities.durability
        store.append("a", [NewEvent("T", 0)])
        first = leader_of(brokers)
        first.kill()
        for number in range(1, 4):
            assert store.append("a", [NewEvent("T", number)]).last_version == number + 1
        second = leader_of([broker for broker in brokers if broker is not first])
    with evlog.open(url_of(brokers, timeout=5)) as store:
        second.kill()
        with pytest.raises(ENDS_RETRIES) as caught:
            store.append("a", [NewEvent("T", 4)])
        assert caught.value.exit_code == 12
    for broker in (first, second):
        broker.begin()
    with evlog.open(url_of(brokers, timeout=100)) as store:
        result = store.append("a", [NewEvent("T", 5)])
        events = list(store.read("a"))
        assert [event.data for event in events[:4]] == [b"0", b"1", b"2", b"3"]
        assert events[-1].id == result.ids[0]
        assert len(events) in (5, 6)  # what was not acknowledged may be there, once
        assert store.verify().ok
