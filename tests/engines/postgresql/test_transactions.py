"""A projection in the store's own database: what a handler writes is there exactly once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import evlog
from evlog import Event, EventStore, NewEvent
from tests.engines.postgresql.test_engine import connect
from tests.support.programs import next_line, start_python

Url = Callable[[], str]
KILLS = int(os.environ.get("EVLOG_TEST_KILLS", "4"))
LONG_SECONDS = 120.0
EVENTS = 120
CONSUMER = """
import sys, evlog

def handle(event, connection):
    connection.execute(f"insert into {sys.argv[2]} (position) values (%s)", (event.position,))
    print(event.position, flush=True)

with evlog.open(sys.argv[1]) as store:
    store.consume("totals", handle, in_transaction=True, follow=False)
"""


class Projection:
    """A store, and a table beside it that says how often each event was handled."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.store = evlog.open(url, create=True)
        self.database = connect(url)
        self.table = f"totals_{url.partition('schema=')[2]}"
        self.database.execute(f"create table {self.table} (position bigint)".encode())

    def append(self, count: int) -> None:
        self.store.append("a", [NewEvent("T", number) for number in range(count)])

    def write(self, event: Event, connection: psycopg.Connection[Any]) -> None:
        connection.execute(f"insert into {self.table} (position) values (%s)".encode(), (event.position,))

    def handle(
        self, run: evlog.Subscription, *events: Event, then: Callable[[Any], object] = lambda _: None
    ) -> None:
        with run.transaction() as connection:
            for event in events:
                self.write(event, connection)
            then(connection)

    def handled(self) -> list[object]:
        rows = self.database.execute(f"select position from {self.table} order by 1".encode()).fetchall()
        return [position for (position,) in rows]

    def checkpoint(self) -> int:
        return self.store.subscription("totals").position

    def close(self) -> None:
        self.store.close()
        self.database.close()


@pytest.fixture
def projection(postgresql_url: Url) -> Iterator[Projection]:
    made = Projection(postgresql_url())
    yield made
    made.close()


def take(run: evlog.Subscription) -> Event:
    event = run.next_event(LONG_SECONDS)
    assert event is not None
    return event


def test_a_consumer_that_is_killed_handles_every_event_once(projection: Projection) -> None:
    projection.append(EVENTS)
    for kill in range(KILLS + 1):
        with start_python("-c", CONSUMER, projection.url, projection.table) as consumer:
            if kill < KILLS:
                for _ in range(3 + 5 * kill % 7):
                    assert next_line(consumer)  # printed within the transaction
                consumer.kill()
                consumer.wait()
                while projection.store.subscription("totals").running:
                    pass  # until the server has noticed it
            else:
                consumer.communicate(timeout=LONG_SECONDS)
                assert consumer.returncode == 0
    assert projection.handled() == list(range(1, EVENTS + 1))
    assert projection.checkpoint() == EVENTS


def test_a_block_that_fails_keeps_nothing_and_its_event_may_be_tried_again(projection: Projection) -> None:
    projection.append(2)
    with projection.store.subscribe("totals", follow=False) as run:
        for event in run:
            with pytest.raises(psycopg.errors.UndefinedTable):
                projection.handle(run, event, then=lambda c: c.execute("select * from nowhere"))
            with run.transaction() as connection:
                projection.write(event, connection)
            assert projection.checkpoint() == event.position
    assert projection.handled() == [1, 2]


def test_events_that_a_failed_block_took_come_again(
    projection: Projection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.subscriptions.run._SAVE_SECONDS", 0.0)  # a save is always due
    projection.append(6)
    with projection.store.subscribe("totals") as run:
        assert take(run).position == 1

        def take_three(connection: psycopg.Connection[Any]) -> None:
            for _ in range(3):
                projection.write(take(run), connection)
            run.save()
            raise KeyError

        with pytest.raises(KeyError):
            projection.handle(run, then=take_three)
        assert projection.checkpoint() == 0
        with run.transaction() as connection:
            for _ in range(4):
                projection.write(take(run), connection)
        assert (projection.checkpoint(), run.position) == (4, 4)
        assert take(run).position == 5
    assert projection.handled() == [1, 2, 3, 4]


def test_a_handler_that_fails_is_called_again_and_its_event_parked(projection: Projection) -> None:
    projection.append(3)
    calls: list[int] = []

    def handle(event: Event, connection: psycopg.Connection[Any]) -> None:
        projection.write(event, connection)
        calls.append(event.position)
        if event.position == 2:
            raise ValueError

    consume(projection.store, handle, retries=2, on_failure="park")
    assert calls == [1, 2, 2, 3]
    assert projection.handled() == [1, 3]
    assert [parked.position for parked in projection.store.parked("totals")] == [2]


def test_a_handler_of_which_a_call_runs_nothing_acknowledges_nothing(projection: Projection) -> None:
    async def handle(event: Event, connection: psycopg.Connection[Any]) -> None:
        projection.write(event, connection)

    projection.append(1)
    with pytest.raises(evlog.InvalidArgument, match="of which nothing has run"):
        consume(projection.store, handle, retries=1)
    assert projection.store.subscription("totals").position == 0


def consume(store: EventStore, handler: Callable[..., object], **options: Any) -> None:
    store.consume("totals", handler, in_transaction=True, follow=False, **options)


@pytest.mark.parametrize("listen", ["yes", "no"])
def test_a_run_that_lost_its_name_commits_nothing(projection: Projection, listen: str) -> None:
    projection.append(3)
    end = "select pg_terminate_backend(pid, 10000) from pg_stat_activity where application_name = 'evlog'"
    with evlog.open(f"{projection.url}&listen={listen}") as store:
        run = store.subscribe("totals")
        first = take(run)

        def lose(_: object) -> None:
            projection.database.execute(end)
            consume(projection.store, projection.write)  # another run takes over

        with pytest.raises((evlog.StoreUnreachable, psycopg.OperationalError)):
            projection.handle(run, first, then=lose)
        with pytest.raises((evlog.StoreUnreachable, evlog.SubscriptionBusy)):
            projection.handle(run, first)
        run.close()
    assert projection.handled() == [1, 2, 3]
    assert projection.checkpoint() == 3


def test_a_run_is_closed_behind_its_transaction(projection: Projection) -> None:
    projection.append(2)
    run = projection.store.subscribe("totals")
    event = take(run)
    closing = threading.Thread(target=run.close)
    with run.transaction() as connection:
        closing.start()
        projection.write(event, connection)
    closing.join(LONG_SECONDS)
    assert projection.checkpoint() == 1
    run = projection.store.subscribe("totals")
    event = take(run)
    with run.transaction() as connection:
        projection.write(event, connection)
        run.close()  # as a signal handler may
        projection.write(event, connection)
    with pytest.raises(evlog.InvalidArgument), run.transaction():
        pass
    assert projection.handled() == [1, 2, 2]
    assert projection.checkpoint() == 2


def test_only_a_named_subscription_of_a_server_has_transactions(
    projection: Projection, tmp_path: Path
) -> None:
    with projection.store.subscribe() as run, pytest.raises(evlog.InvalidArgument), run.transaction():
        pytest.fail("it has begun")
    with evlog.open(tmp_path / "store", create=True) as store:
        store.append("a", [NewEvent("T")])
        with pytest.raises(evlog.Unsupported):
            consume(store, lambda *_: None)
        with store.subscribe("totals", follow=False) as run:
            assert [event.position for event in run] == [1]  # the mutex is free again


def test_a_connection_that_was_lent_can_be_used_again(projection: Projection) -> None:
    projection.append(2)
    assert len(list(projection.store.read("a"))) == 2  # the session has prepared statements

    def spoil(connection: psycopg.Connection[Any]) -> None:
        connection.execute("deallocate all")

    run = projection.store.subscribe("totals")
    projection.handle(run, take(run), then=spoil)
    run.close()
    for _ in range(2):
        assert len(list(projection.store.read("a"))) == 2
        with pytest.raises(evlog.WrongExpectedVersion):
            projection.store.append("a", [NewEvent("T")], 9)
    projection.append(1)
    assert projection.store.head == 3
