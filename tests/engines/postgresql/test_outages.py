"""The server is suspended, killed and started again, and connections are cut, under every call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

import evlog
from evlog import EventStore, NewEvent
from evlog.engines.postgresql.connections import Session
from evlog.testing.base import LONG_SECONDS
from tests.engines.outages import (
    DONE,
    UNREACHABLE,
    check_cuts,
    check_interrupts,
    check_once,
    check_stop,
    expected,
    outcomes,
    prepare,
)
from tests.support.contention import wait_until
from tests.support.postgresql import NEWEST, PostgresqlServer, scratch, serving
from tests.support.tcp_proxy import proxying

pytestmark = NEWEST


@pytest.fixture
def server(postgresql_programs: Path) -> Iterator[PostgresqlServer]:
    with scratch() as folder, serving(folder, postgresql_programs, fsync="off") as server:
        yield server


def test_no_call_waits_without_end_for_a_suspended_server(server: PostgresqlServer) -> None:
    prepare(server.url())
    codes = expected(server.url(), UNREACHABLE)
    assert outcomes(server.url(timeout="0.9"), server.suspended(), UNREACHABLE) == codes
    with evlog.open(server.url()) as store:
        assert store.verify().ok


def test_an_interrupted_call_does_not_wait_for_a_suspended_server(server: PostgresqlServer) -> None:
    prepare(server.url())
    check_interrupts(server.url(timeout="1000"), server.suspended())


@pytest.mark.parametrize("is_connected", [True, False])
def test_a_follower_that_is_stopped_does_not_wait_for_a_suspended_server(
    server: PostgresqlServer, monkeypatch: pytest.MonkeyPatch, is_connected: bool
) -> None:
    monkeypatch.setattr("evlog.engines.postgresql.connections._SILENT_SECONDS", 1000 if is_connected else 0.5)
    check_stop(
        server.url(timeout="9000", connect_timeout="1000"),
        server.suspended(),
        "_look" if is_connected else "_ask",
    )
    with psycopg.connect(server.url(), autocommit=True) as admin:
        connected = "select count(*) from pg_stat_activity where application_name = 'evlog'"
        wait_until(lambda: admin.execute(connected).fetchone() == (0,))  # also if one was being made


def test_every_call_continues_on_a_server_that_was_killed_and_started(server: PostgresqlServer) -> None:
    @contextmanager
    def restart() -> Iterator[None]:
        server.kill()
        yield
        server.start()

    url = server.url(timeout="100")
    prepare(url)
    assert outcomes(url, restart(), DONE) == expected(url, DONE)
    with evlog.open(url) as store:
        check_once(store)


def test_every_call_is_made_once_when_its_connection_is_cut(
    postgresql_server: PostgresqlServer, postgresql_url: Callable[[], str]
) -> None:
    url = postgresql_url()
    prepare(url)
    with proxying(postgresql_server.port) as proxy:
        check_cuts(url.replace(str(postgresql_server.port), str(proxy.port)), proxy)


def test_a_statement_that_lasts_is_waited_for(
    postgresql_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is silent, and gives signs of life."""
    url, signs = postgresql_url() + "&timeout=0.3", threading.Semaphore(0)
    check = Session.check_life

    def counted(session: Session, seconds: float | None = None) -> None:
        check(session, seconds)
        signs.release()

    with evlog.open(url, create=True) as store, psycopg.connect(url.partition("?")[0]) as other:
        monkeypatch.setattr(Session, "check_life", counted)
        schema = url.partition("schema=")[2].partition("&")[0]
        other.execute(f"lock table {schema}.events in access exclusive mode".encode())
        versions: list[int] = []
        calls = [
            threading.Thread(target=lambda: versions.append(store.append("a", [NewEvent("T")]).last_version)),
            threading.Thread(target=lambda: versions.append(store.info().format)),
        ]
        for call in calls:
            call.start()
        for _ in range(6):
            assert signs.acquire(timeout=LONG_SECONDS)
        assert versions == []
        other.rollback()
        for call in calls:
            call.join(LONG_SECONDS)
        assert versions == [1, 1]


@pytest.mark.parametrize("has_grown", [False, True])
def test_a_follower_skips_nothing_where_its_last_events_are_lost(
    postgresql_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch, has_grown: bool
) -> None:
    """A backup was restored, or an asynchronous standby that lacked them has been promoted."""
    monkeypatch.setattr("evlog.engines.following._SHORTER_SECONDS", 0.0 if not has_grown else LONG_SECONDS)
    url = postgresql_url()
    schema = url.partition("schema=")[2]
    with evlog.open(url, create=True) as store, store.subscribe(after=0) as run:
        store.append("a", [NewEvent("T", 0), NewEvent("T", 1)])
        for _ in range(2):
            assert run.next_event(LONG_SECONDS) is not None
        assert run.next_event(0) is None
        with psycopg.connect(url.partition("?")[0], autocommit=True) as other:
            other.execute(f"delete from {schema}.events where global_position = 2".encode())
            other.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                f"where query like '%{schema}.%' and pid <> pg_backend_pid()".encode()
            )
        if has_grown:
            store.append("a", [NewEvent("T", "another"), NewEvent("T", 2)])
        with pytest.raises(evlog.StoreReplaced):
            run.next_event(LONG_SECONDS)


def test_calls_that_wait_while_the_schema_is_dropped_find_no_store(postgresql_url: Callable[[], str]) -> None:
    url = postgresql_url()
    schema = url.partition("schema=")[2]
    uses: list[Callable[[EventStore], object]] = [
        lambda store: store.append("a", [NewEvent("T", 1)]),
        lambda store: list(store.read("a")),
        lambda store: store.reset_subscription("known", 1),
        lambda store: store.delete_stream("a-1"),
        lambda store: store.redact(2, reason="r"),
        lambda store: store.compact(force=True),
    ]
    prepare(url)
    errors: list[BaseException] = []

    def make(use: Callable[[EventStore], object], store: EventStore) -> None:
        try:
            use(store)
        except evlog.EvlogError as error:
            errors.append(error)

    with ExitStack() as stack, psycopg.connect(url.partition("?")[0]) as other:
        stores = [stack.enter_context(evlog.open(url)) for _ in uses]
        for store in stores:
            assert list(store.read("a-1"))
        other.execute(f"drop schema {schema} cascade".encode())
        calls = [threading.Thread(target=make, args=each) for each in zip(uses, stores, strict=True)]
        for call in calls:
            call.start()
        with psycopg.connect(url.partition("?")[0], autocommit=True) as third:
            deadline = time.monotonic() + LONG_SECONDS
            waiting = (
                "select count(*) from pg_stat_activity where wait_event_type = 'Lock' "
                f"and query like '%{schema}%'"
            )
            while third.execute(waiting.encode()).fetchone() != (len(uses),):
                assert time.monotonic() < deadline
        other.commit()
        for call in calls:
            call.join(LONG_SECONDS)
    assert [type(error) for error in errors] == [evlog.StoreNotFound] * len(uses)
    assert all("while it was open" in str(error) for error in errors)
