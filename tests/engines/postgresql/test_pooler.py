"""A store behind PgBouncer in transaction mode: no client has a session, and every promise holds.

evlog finds out by itself that there is a pooler: the URLs here say nothing of it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import psycopg
import pytest

import evlog
from evlog import NewEvent
from evlog.testing import Conformance
from tests.engines.load import loading
from tests.support import pgbouncer
from tests.support.postgresql import NEWEST, PostgresqlServer, scratch, serving
from tests.support.programs import next_line, start_python

pytestmark = NEWEST
LONG_SECONDS = 120.0
CONNECTIONS = 5  # of the pool: fewer than the clients of most tests

Url = Callable[[], str]

CONSUMER = """
import sys, evlog
with evlog.open(sys.argv[1]) as store, store.subscribe("n") as run:
    for event in run:
        print(event.position, flush=True)
"""


@pytest.fixture(scope="session")
def needs_pgbouncer() -> None:
    if pgbouncer.program() is None:
        assert not os.environ.get("EVLOG_TEST_SERVERS"), "pgbouncer is missing: .ci/run installs it"
        pytest.skip("pgbouncer is not installed (Debian: pgbouncer)")


@pytest.fixture(scope="session")
def pooler_port(needs_pgbouncer: None, postgresql_server: PostgresqlServer) -> Iterator[int]:
    with (
        scratch() as folder,
        pgbouncer.pooling(
            folder, postgresql_server.port, mode="transaction", connections=CONNECTIONS
        ) as port,
    ):
        yield port


@pytest.fixture
def pooled_url(postgresql_server: PostgresqlServer, pooler_port: int, postgresql_url: Url) -> Url:
    return lambda: postgresql_url().replace(f":{postgresql_server.port}/", f":{pooler_port}/")


class TestPooled(Conformance):
    random_runs = 5

    @pytest.fixture
    def new_url(self, pooled_url: Url) -> Url:
        return pooled_url


def test_a_name_is_taken_for_pooled_and_for_direct_connections(
    postgresql_server: PostgresqlServer, pooler_port: int, pooled_url: Url
) -> None:
    pooled = pooled_url()
    direct = pooled.replace(f":{pooler_port}/", f":{postgresql_server.port}/")
    evlog.open(pooled, create=True).close()
    for first, second in ((pooled, direct), (direct, pooled), (pooled, pooled)):
        with evlog.open(first) as store, store.subscribe("n"), evlog.open(second) as other:
            for _ in range(2 * CONNECTIONS):  # on whichever connection the pooler gives
                with pytest.raises(evlog.SubscriptionBusy):
                    other.subscribe("n")
                other.append("a", [NewEvent("T", 0)])
            assert other.subscription("n").running
        with evlog.open(second) as store:
            assert not store.subscription("n").running


def test_the_name_of_a_killed_consumer_is_free(pooled_url: Url) -> None:
    url = pooled_url()
    with evlog.open(url, create=True) as store:
        store.append("a", [NewEvent("T", 0)])
        consumer = start_python("-c", CONSUMER, url)
        assert next_line(consumer) == "1\n"
        with pytest.raises(evlog.SubscriptionBusy):
            store.subscribe("n")
        consumer.kill()
        consumer.communicate()
        while store.subscription("n").running:
            pass  # until the pooler has told the server
        with store.subscribe("n", follow=False) as run:
            assert [event.data for event in run] == [b"0"]


def test_a_consumer_whose_lock_is_lost_saves_nothing_more(
    postgresql_server: PostgresqlServer, pooled_url: Url
) -> None:
    end = "select count(pg_terminate_backend(pid, 10000)) from pg_locks where locktype = 'advisory'"
    with (
        evlog.open(pooled_url(), create=True) as store,
        psycopg.connect(postgresql_server.url(), autocommit=True) as connection,
    ):
        store.append("a", [NewEvent("T", 0), NewEvent("T", 1)])
        run = store.subscribe("n")
        assert [run.next_event(LONG_SECONDS) is not None for _ in range(2)] == [True, True]
        connection.execute(end)
        with store.subscribe("n", follow=False) as other:
            assert [event.data for event in other] == [b"0", b"1"]
        with pytest.raises(evlog.SubscriptionBusy):
            run.close()
        assert store.subscription("n").position == 2


def test_more_clients_than_connections_write_and_follow(pooled_url: Url) -> None:
    url = pooled_url()
    evlog.open(url, create=True).close()
    followed: list[list[int]] = []

    def write(me: int) -> None:
        with evlog.open(url) as store:
            for number in range(20):
                store.append(f"s-{me}", [NewEvent("T", number)], number)

    def follow() -> None:
        with evlog.open(url) as store, store.subscribe() as run:
            assert run.polling
            followed.append([event.position for event in islice(run, 160)])

    threads = [threading.Thread(target=write, args=(me,)) for me in range(8)]
    threads += [threading.Thread(target=follow) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_SECONDS)
    assert followed == [list(range(1, 161))] * 3


def test_sessions_of_a_pooler_are_used_when_the_url_says_so(
    needs_pgbouncer: None, postgresql_server: PostgresqlServer, postgresql_url: Url
) -> None:
    port = postgresql_server.port
    with scratch() as folder, pgbouncer.pooling(folder, port, mode="session", connections=10) as pooler:
        url = postgresql_url().replace(f":{port}/", f":{pooler}/") + "&listen=yes"
        with evlog.open(url, create=True) as store, store.subscribe("n") as run, evlog.open(url) as other:
            with pytest.raises(evlog.SubscriptionBusy):
                other.subscribe("n")
            for number in range(8):
                other.append("a", [NewEvent("T", number)])
                assert run.next_event(LONG_SECONDS) is not None
            assert not run.polling


def test_nothing_is_lost_when_the_server_behind_a_pooler_is_killed(
    needs_pgbouncer: None, postgresql_programs: Path
) -> None:
    settings = {"fsync": "off", "wal_writer_delay": "10s"}  # as in test_crash.py
    with (
        scratch() as one,
        scratch() as two,
        serving(one, postgresql_programs, **settings) as server,
        pgbouncer.pooling(two, server.port, mode="transaction", connections=CONNECTIONS) as port,
        loading(server.url().replace(f":{server.port}/", f":{port}/")) as load,
    ):
        load.wait_for_appends(100)
        server.kill()
        server.start(**settings)
        load.wait_for_appends(100)
