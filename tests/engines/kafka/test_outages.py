"""The broker is suspended, killed and started again, under every call; connections are cut under appends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka.admin import AdminClient

import evlog
from evlog import NewEvent
from evlog.testing.base import LONG_SECONDS
from tests.engines.outages import (
    DONE,
    UNREACHABLE,
    check_interrupts,
    check_once,
    check_stop,
    expected,
    outcomes,
    prepare,
)
from tests.support.kafka import KafkaServer, serving
from tests.support.postgresql import scratch
from tests.support.tcp_proxy import ANSWER, REQUEST, TcpProxy, proxying

# Calls of the client that take no signal.
WAITING_LONG = """
import evlog.engines.kafka.writing
evlog.engines.kafka.writing.ANSWER_SECONDS = 1000
"""


def test_no_call_waits_without_end_and_every_call_continues_after_a_restart(kafka_jars: str) -> None:
    with serving(kafka_jars) as server:
        prepare(server.url("t"))
        codes = expected(server.url("t"), UNREACHABLE)
        assert outcomes(server.url("t", timeout=2), server.suspended(), UNREACHABLE) == codes
        with evlog.open(server.url("t", timeout=100)) as store:
            assert store.verify().ok
        check_interrupts(server.url("t", timeout=1000), server.suspended(), WAITING_LONG)

        @contextmanager
        def restart() -> Iterator[None]:
            server.kill()
            yield
            server.start()

        url = server.url("u", timeout=100)
        prepare(url)
        assert outcomes(url, restart(), DONE) == expected(url, DONE)
        with evlog.open(url) as store:
            check_once(store)


def test_a_follower_that_is_stopped_does_not_wait_for_a_suspended_broker(
    kafka_jars: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(kafka_jars) as server:
        monkeypatch.setattr("evlog.engines.kafka.feed._LOOK_SECONDS", 0.5)
        check_stop(server.url("t", timeout=1000), server.suspended(), "_ask")


@pytest.fixture
def proxied(kafka_jars: str) -> Iterator[tuple[KafkaServer, TcpProxy]]:
    """A broker that clients reach by a proxy only."""
    with scratch() as folder, KafkaServer(folder, kafka_jars) as server, proxying(server.port) as proxy:
        server.create(**{"advertised.listeners": f"PLAINTEXT://127.0.0.1:{proxy.port}"})
        server.start()
        yield server, proxy


@pytest.mark.parametrize("what", [REQUEST, ANSWER])
def test_an_append_whose_connection_is_cut_is_stored_once(
    proxied: tuple[KafkaServer, TcpProxy], what: str
) -> None:
    server, proxy = proxied
    with evlog.open(server.url("cut", timeout=100), create=True) as store:
        for passing in range(8):  # so that each request of a transaction is the one that is cut
            proxy.cut(what, passing)
            key = f"k{passing}" if passing % 2 else None
            result = store.append("a", [NewEvent("T", passing, idempotency_key=key)], passing)
            assert result.last_version == passing + 1
        assert proxy.cuts > 1
        proxy.cut("nothing")
        assert [event.json() for event in store.read("a")] == list(range(8))
        assert store.verify().ok


def test_a_topic_that_is_deleted_while_it_is_open_is_not_found(
    kafka_server: KafkaServer, kafka_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.engines.kafka.client._UNKNOWN_SECONDS", 0.5)
    monkeypatch.setattr("evlog.engines.kafka.feed._LOOK_SECONDS", 0.5)
    url = kafka_url()
    with evlog.open(url, create=True) as store:
        store.append("a", [NewEvent("T", 0)])
        with store.subscribe(after=1) as run:
            client = AdminClient({"bootstrap.servers": f"127.0.0.1:{kafka_server.port}"})
            topic = url.rpartition("/")[2]
            client.delete_topics([topic])[topic].result(LONG_SECONDS)
            uses: list[Callable[[], object]] = [
                lambda: run.next_event(LONG_SECONDS),
                lambda: store.head,
                lambda: store.append("a", [NewEvent("T", 1)]),
            ]
            for use in uses:
                with pytest.raises(evlog.StoreNotFound, match="while it was open"):
                    use()


def test_a_question_about_a_topic_creates_none(
    kafka_server: KafkaServer, kafka_url: Callable[[], str]
) -> None:
    """Brokers create topics that clients ask for, unless they are told not to; events would expire there."""
    url = kafka_url()
    for _ in range(2):
        with pytest.raises(evlog.StoreNotFound):
            evlog.open(url)
    client = AdminClient({"bootstrap.servers": f"127.0.0.1:{kafka_server.port}"})
    assert url.rpartition("/")[2] not in client.list_topics(timeout=LONG_SECONDS).topics
    with evlog.open(url, create=True) as store:
        store.append("a", [NewEvent("T", 0)])
