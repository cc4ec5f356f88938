"""The primary dies under writers and a follower, and a synchronous standby takes its place.

Programs use one URL that names both servers. Nothing acknowledged is missing on the standby, and nothing that
a follower has seen.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

import evlog
from evlog import AppendResult, Event, NewEvent
from evlog.engines.postgresql.connections import Session
from tests.engines.load import loading
from tests.support.postgresql import NEWEST, PostgresqlServer, scratch, serving

LONG_SECONDS = 120.0
WAITING = "select (select count(*) from pg_stat_activity where wait_event = 'SyncRep')"


class Pair(NamedTuple):
    primary: PostgresqlServer
    standby: PostgresqlServer

    def url(self) -> str:
        ports = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"
        return f"postgresql://evlog@{ports}/postgres?target_session_attrs=read-write"

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.primary.url(), autocommit=True)


@pytest.fixture
def pair(postgresql_programs: Path) -> Iterator[Pair]:
    """A primary that waits for its standby."""
    with (
        scratch() as one,
        scratch() as two,
        serving(one, postgresql_programs, fsync="off") as primary,
        PostgresqlServer(two, postgresql_programs) as standby,
    ):
        standby.create_from(primary)
        standby.start(fsync="off", max_standby_streaming_delay="0")
        pair = Pair(primary, standby)
        with pair.connect() as connection:
            connection.execute("alter system set synchronous_standby_names = '*'")
            connection.execute("select pg_reload_conf()")
            wait_until(connection, "select count(*) = 1 from pg_stat_replication where sync_state = 'sync'")
        yield pair


def wait_until(connection: psycopg.Connection[tuple[object, ...]], question: str) -> None:
    for _ in range(6000):
        if connection.execute(question.encode()).fetchone() == (True,):
            return
        connection.execute("select pg_sleep(0.01)")
    raise AssertionError(question)


def test_nothing_acknowledged_is_lost_when_a_standby_takes_over(pair: Pair) -> None:
    with loading(pair.url()) as load:
        load.wait_for_appends(100)
        pair.primary.kill()
        pair.standby.promote()
        load.wait_for_appends(100)


@NEWEST
def test_a_follower_gets_only_what_the_standby_has(pair: Pair) -> None:
    with evlog.open(pair.url(), create=True) as store, store.subscribe() as run, pair.connect() as connection:
        store.append("a", [NewEvent("T", 0)])
        assert run.next_event(LONG_SECONDS) is not None
        late = threading.Thread(target=store.append, args=("a", [NewEvent("T", 1)]))
        with pair.standby.suspended():
            late.start()  # it waits for the standby
            wait_until(connection, "select position = 2 from evlog.head")
            connection.execute("set synchronous_commit = local")
            connection.execute("select pg_logical_emit_message(true, 'test', '')")  # the primary flushes it
            assert run.next_event(0) is None
        event = run.next_event(LONG_SECONDS)
        assert event is not None
        assert event.data == b"1"
        late.join(LONG_SECONDS)


@NEWEST
def test_a_follower_whose_wait_for_a_standby_is_cancelled_waits_again(pair: Pair) -> None:
    looks = "from pg_stat_activity where wait_event = 'SyncRep' and query like 'select position%'"
    with evlog.open(pair.url(), create=True) as store, store.subscribe() as run, pair.connect() as connection:
        late = threading.Thread(target=store.append, args=("a", [NewEvent("T", 0)]))
        with pair.standby.suspended():
            late.start()
            wait_until(connection, "select position = 1 from evlog.head")
            for _ in range(2):
                assert run.next_event(0) is None  # its look is under way
                wait_until(connection, f"select count(*) = 1 {looks}")
                connection.execute(f"select pg_cancel_backend(pid) {looks}".encode())
                wait_until(connection, f"select count(*) = 0 {looks}")
        event = run.next_event(LONG_SECONDS)
        assert event is not None
        late.join(LONG_SECONDS)


@NEWEST
def test_a_follower_that_waits_for_a_standby_can_be_ended(pair: Pair) -> None:
    with evlog.open(pair.url(), create=True) as store, pair.connect() as connection:
        run = store.subscribe()
        followed: list[list[Event]] = []
        late = threading.Thread(target=store.append, args=("a", [NewEvent("T", 0)]))
        follower = threading.Thread(target=lambda: followed.append(list(run)))
        with pair.standby.suspended():
            late.start()
            wait_until(connection, "select position = 1 from evlog.head")
            follower.start()
            wait_until(connection, f"{WAITING} > 1")
            run.stop()
            follower.join(LONG_SECONDS)
            assert followed == [[]]
            run.close()
            wait_until(connection, f"{WAITING} < 2")  # the server, too, is told that the follower has gone
        late.join(LONG_SECONDS)


@NEWEST
def test_a_cancelled_wait_for_the_standby_acknowledges_nothing(pair: Pair) -> None:
    waits = "from pg_stat_activity where wait_event = 'SyncRep'"
    with evlog.open(pair.url(), create=True) as store, pair.connect() as connection:
        for number in range(3):  # the last of them alone
            store.append("a", [NewEvent("T", number)])
        results: list[AppendResult] = []
        late = threading.Thread(target=lambda: results.append(store.append("a", [NewEvent("T", 3)])))
        with pair.standby.suspended():
            late.start()
            began: object = "-infinity"
            for _ in range(4):  # the append waits again each time
                wait_until(connection, f"select exists (select {waits} and query_start > '{began}')")
                assert results == []
                row = connection.execute(f"select max(query_start) {waits}".encode()).fetchone()
                assert row is not None
                (began,) = row
                connection.execute(f"select pg_cancel_backend(pid) {waits}".encode())
        late.join(LONG_SECONDS)
        assert [result.first_position for result in results] == [4]
        assert store.head == 4


def open_standby(pair: Pair) -> evlog.EventStore:
    """Open the store on the standby, once it has what was appended."""
    with psycopg.connect(pair.standby.url(), autocommit=True) as connection:
        wait_until(connection, "select to_regclass('evlog.events') is not null")
        wait_until(connection, "select position > 0 from evlog.head")
    return evlog.open(pair.standby.url())


@NEWEST
def test_a_standby_is_read_and_followed_and_goes_on_as_the_primary(pair: Pair) -> None:
    with evlog.open(pair.url(), create=True) as store:
        store.append("a", [NewEvent("T", 0)])
        with open_standby(pair) as reader, reader.subscribe() as run:
            for number in range(3):
                event = run.next_event(LONG_SECONDS)
                assert event is not None
                assert event.data == b"%d" % number
                if number == 1:
                    pair.primary.kill()
                    pair.standby.promote()
                store.append("a", [NewEvent("T", number + 1)])
            assert reader.verify().ok


@NEWEST
def test_a_read_that_a_standby_cancels_is_made_again(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    run, sleep = Session.run, "select pg_sleep(600) from evlog.events"
    cancelled: list[psycopg.Error] = []

    def slow(session: Session, *_: object, **__: object) -> object:
        monkeypatch.setattr(Session, "run", run)
        try:
            return session.execute(sleep.encode())
        except psycopg.Error as error:
            cancelled.append(error)
            raise

    with evlog.open(pair.url(), create=True) as store, pair.connect() as primary:
        store.append("a", [NewEvent("T", 0)])
        with open_standby(pair) as reader, psycopg.connect(pair.standby.url(), autocommit=True) as standby:
            monkeypatch.setattr(Session, "run", slow)
            found: list[Event] = []
            reading = threading.Thread(target=lambda: found.extend(reader.read_all()))
            reading.start()
            wait_until(standby, f"select exists (select from pg_stat_activity where query = '{sleep}')")
            with primary.transaction():
                primary.execute("lock table evlog.events in access exclusive mode")
                primary.execute("select pg_current_xact_id()")
            reading.join(LONG_SECONDS)
            assert [event.data for event in found] == [b"0"]
            assert [error.sqlstate for error in cancelled] == ["40001"]
