"""What only a store in PostgreSQL has: its rights, its connections, its schema, followers of slow commits."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

import evlog
from evlog import NewEvent
from evlog.engines.postgresql.appends import FLUSH
from evlog.engines.postgresql.checkpoints import PostgresqlCheckpoint
from evlog.engines.postgresql.connections import (
    Address,
    Connections,
    DatabaseNotFound,
    Session,
    Statement,
    translate,
)
from evlog.engines.postgresql.engine import PostgresqlEngine
from evlog.model.appends import AppendRequest
from evlog.model.events import JSON_CODE, MAX_EVENT_BYTES, Event
from evlog.testing.base import in_threads
from tests.support.postgresql import PostgresqlServer
from tests.support.programs import let_go, start_python, suspended
from tests.support.server import free_port
from tests.support.tcp_proxy import ANSWER, REQUEST, proxying

Url = Callable[[], str]
LONG_SECONDS = 120.0

# A call of the function `append` for one event: stream, type, id, JSON, whether it is the store's own.
APPEND_CALL = (
    "append(false, null, array[%s], array[%s], array[%s::uuid], false, false, null, array[%s]::json[], null, "
    "null, null, null, null, null, null, false, %s)"
)
RACER = """
import sys, uuid, evlog
with evlog.open(sys.argv[1]) as store:
    sys.stdin.readline()
    results = [store.append("a", [evlog.NewEvent("T", n, id=uuid.UUID(int=n + 1))]) for n in range(20)]
print(sum(not result.duplicate for result in results))
"""


def connect(url: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(url.partition("?")[0], autocommit=True)


@pytest.mark.parametrize("what", [REQUEST, ANSWER])
def test_an_append_whose_connection_breaks_is_made_once(
    postgresql_server: PostgresqlServer, postgresql_url: Url, what: str
) -> None:
    url = postgresql_url()
    with proxying(postgresql_server.port) as proxy:
        through = url.replace(f":{postgresql_server.port}/", f":{proxy.port}/")
        with evlog.open(through, create=True) as store:
            for number in range(5):
                proxy.cut(what)
                result = store.append("a", [NewEvent("T", number), NewEvent("U", number)], 2 * number)
                assert (result.first_version, result.duplicate) == (2 * number + 1, False)
            assert proxy.cuts == 5
            assert [event.position for event in store.read_all()] == list(range(1, 11))


CLOSE = "select 'another thread closes the store'"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("alter role {role} nologin", evlog.StoreAccessDenied),
        ("alter role {role} set statement_timeout = 1; select {schema}.lock_log()", evlog.EngineError),
        ("alter role {role} set lock_timeout = 1; select {schema}.lock_log()", evlog.LockTimeout),
        ("alter schema {schema} rename to {schema}_moved", evlog.StoreNotFound),
        ("update {schema}.log set moved_to = 'elsewhere'", evlog.StoreMoved),
        ("update {schema}.log set mirror_of = gen_random_uuid()", evlog.StoreIsMirror),
        ("update {schema}.log set format = 2", evlog.UnsupportedFormat),
        (CLOSE, evlog.StoreClosed),
    ],
)
def test_an_error_after_a_lost_answer_leaves_the_outcome_unknown(
    postgresql_server: PostgresqlServer,
    postgresql_url: Url,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    error: type[evlog.EvlogError],
) -> None:
    url = postgresql_url()
    schema = url.partition("schema=")[2]
    role = f"role_{schema}"
    evlog.open(url, create=True).close()
    with connect(url) as admin, proxying(postgresql_server.port) as proxy:
        admin.execute(f"create role {role} superuser login".encode())
        through = url.replace(f":{postgresql_server.port}/", f":{proxy.port}/").replace("evlog@", f"{role}@")
        with evlog.open(through) as store, psycopg.connect(url.partition("?")[0]) as other:
            store.append("a", [NewEvent("T", 0)])
            assert isinstance(store.engine, PostgresqlEngine)
            connections = store.engine._core.connections
            forget = connections.forget_idle

            def changed() -> None:
                forget()
                monkeypatch.setattr(connections, "forget_idle", forget)
                if change == CLOSE:
                    store.close()
                for statement in change.format(role=role, schema=schema).split("; "):
                    (other if "lock_log" in statement else admin).execute(statement.encode())

            monkeypatch.setattr(connections, "forget_idle", changed)
            proxy.cut(ANSWER)
            with pytest.raises(evlog.AppendUnknown) as unknown:
                store.append("a", [NewEvent("T", 1)])
            assert unknown.value.exit_code == 12
            assert "\n" not in str(unknown.value)
            with pytest.raises(error):  # what is known not to be made has the error itself
                store.append("a", [NewEvent("T", 2)])
        place = schema + "_moved" * ("rename" in change)
        count = admin.execute(f"select count(*) from {place}.events".encode()).fetchone()
        assert count == (2,)


@pytest.mark.parametrize(
    ("state", "text", "kind"),
    [
        (
            "22P02",
            "ungültige Eingabesyntax für Typ bigint: »7 is a newer format of evlog«",
            evlog.UnsupportedFormat,
        ),
        (
            "22P02",
            "ungültige Eingabesyntax für Typ bigint: »x is another store of evlog«",
            evlog.StoreReplaced,
        ),
        ("55000", "Wiederherstellung läuft", evlog.StoreUnreachable),
        (
            "25006",
            "INSERT kann nicht in einer Read-Only-Transaktion ausgeführt werden",
            evlog.StoreUnreachable,
        ),
        ("3D000", "Datenbank »x« existiert nicht", evlog.StoreNotFound),
        ("42P01", "Relation »events« existiert nicht", evlog.StoreNotFound),
        ("28P01", "Passwort-Authentifizierung für Benutzer »x« fehlgeschlagen", evlog.StoreAccessDenied),
        ("42501", "keine Berechtigung für Tabelle events", evlog.StoreAccessDenied),
        ("55P03", "storniere Anfrage wegen Zeitüberschreitung einer Sperre", evlog.LockTimeout),
        ("53100", "konnte Datei nicht erweitern", evlog.StoreFull),
        ("57P01", "breche Verbindung ab aufgrund von Anweisung des Administrators", evlog.StoreUnreachable),
    ],
)
def test_errors_are_known_in_any_language_of_the_server(state: str, text: str, kind: type) -> None:
    """Of a statement the server says its code. Of a connection that fails libpq gives only the text."""
    error = psycopg.errors.lookup(state)(text)
    assert isinstance(translate(error, Address("postgresql://h/x")), kind)


@pytest.mark.parametrize("detail", ["", ", detail = 'x'", """, detail = '{"error":"Unheard","at":0}'"""])
def test_a_refusal_that_evlog_does_not_know_is_the_servers(postgresql_url: Url, detail: str) -> None:
    """Of a trigger that somebody has added, or of a newer evlog."""
    with evlog.open(url := postgresql_url(), create=True) as store, connect(url) as admin:
        schema = url.partition("schema=")[2]
        admin.execute(
            f"create function {schema}.refuse() returns trigger language plpgsql as "
            f"$$ begin raise exception 'not today' using errcode = 'EV000'{detail}; end $$".encode()
        )
        admin.execute(
            f"create trigger t before insert on {schema}.events execute function {schema}.refuse()".encode()
        )
        with pytest.raises(evlog.EngineError, match="not today"):
            store.append("a", [NewEvent("T", 0)])


def test_a_database_that_is_dropped_while_it_is_open_is_gone(postgresql_server: PostgresqlServer) -> None:
    with connect(postgresql_server.url()) as admin:
        admin.execute("create database dropped")
        with evlog.open(postgresql_server.url("dropped"), create=True) as store:
            store.append("a", [NewEvent("T", 0)])
            admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'dropped'")
            admin.execute("drop database dropped")
            uses: list[Callable[[], object]] = [
                lambda: store.append("a", [NewEvent("T", 1)]),
                lambda: store.head,
                lambda: store.subscription("n"),
            ]
            for use in uses:
                with pytest.raises(evlog.StoreNotFound, match="while it was open"):
                    use()


def test_an_append_whose_flush_fails_is_sent_again(
    postgresql_url: Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Statement(b"select 1 / 0")
    with evlog.open(postgresql_url() + "&timeout=0.5", create=True) as store:
        with monkeypatch.context() as patch:
            patch.setattr("evlog.engines.postgresql.appends._FLUSH", (failing, ()))
            with pytest.raises(evlog.AppendUnknown, match="committed and not flushed"):
                store.append("a", [NewEvent("T", 0)], 0)
        assert [event.version for event in store.read("a")] == [1]
        flush = Statement(FLUSH)
        failures = iter([failing, failing])

        def run(session: Session, *transactions: Any) -> Any:
            statement = next(failures, flush) if len(transactions[0]) > 2 else flush
            parts = [(statement if each.text == FLUSH else each, values) for each, values in transactions[0]]
            return session_run(session, parts, *transactions[1:])

        session_run = Session.run
        monkeypatch.setattr(Session, "run", run)
        result = store.append("a", [NewEvent("T", 1)], 1)
        assert (result.first_version, result.duplicate) == (2, False)
        assert [event.version for event in store.read("a")] == [1, 2]


def test_an_id_that_eight_processes_append_is_stored_once(postgresql_url: Url) -> None:
    url = postgresql_url()
    evlog.open(url, create=True).close()
    racers = [start_python("-c", RACER, url) for _ in range(8)]
    for racer in racers:
        let_go(racer)
    stored = [int(racer.communicate(timeout=LONG_SECONDS)[0]) for racer in racers]
    assert sum(stored) == 20
    with evlog.open(url) as store:
        assert [event.version for event in store.read("a")] == list(range(1, 21))


def test_a_follower_misses_nothing_of_commits_that_are_slow(postgresql_url: Url) -> None:
    url = postgresql_url()
    with evlog.open(url, create=True) as store, store.subscribe() as run, connect(url) as slow:
        store.append("a", [NewEvent("T", 0)])
        schema = url.partition("schema=")[2]
        with slow.transaction():
            slow.execute(f"select {schema}.{APPEND_CALL}".encode(), ("b", "T", uuid4(), "1", False))
            waiting = threading.Thread(target=store.append, args=("a", [NewEvent("T", 2)]))
            waiting.start()  # it gets its position after the slow one has committed
            first = run.next_event(LONG_SECONDS)
            assert first is not None
            assert first.data == b"0"
            assert run.next_event(0) is None
        later = [run.next_event(LONG_SECONDS), run.next_event(LONG_SECONDS)]
        waiting.join()
        assert [event and (event.position, event.data) for event in later] == [(2, b"1"), (3, b"2")]


def test_a_follower_gets_only_what_is_flushed(postgresql_url: Url) -> None:
    url = postgresql_url()
    schema = url.partition("schema=")[2]
    with evlog.open(url, create=True) as store, store.subscribe() as run, connect(url) as other:
        other.execute("set synchronous_commit = off")
        other.execute("checkpoint")
        row = other.execute("select pid from pg_stat_activity where backend_type = 'walwriter'").fetchone()
        assert row is not None
        walwriter = int(str(row[0]))
        with suspended(walwriter):  # what would flush the commit in time
            with other.transaction():
                other.execute(f"select {schema}.{APPEND_CALL}".encode(), ("a", "T", uuid4(), "1", False))
                row = other.execute("select pg_current_wal_insert_lsn()").fetchone()
                assert row is not None
            assert run.next_event(LONG_SECONDS) is not None
            flushed = other.execute("select pg_current_wal_flush_lsn() >= %s::pg_lsn", row).fetchone()
        assert flushed == (True,)


def test_a_store_without_listen_is_polled(postgresql_url: Url) -> None:
    url = postgresql_url()
    with evlog.open(url, create=True) as other, evlog.open(f"{url}&listen=no") as store:
        other.append("a", [NewEvent("T", 0)])
        with store.subscribe() as run:
            assert run.next_event(LONG_SECONDS) is not None
            timer = threading.Timer(0.1, other.append, ("a", [NewEvent("T", 1)]))
            timer.start()
            event = run.next_event(LONG_SECONDS)
            timer.join()
        assert event is not None
        assert event.data == b"1"
        assert run.polling


@pytest.mark.parametrize("data", [b'"' + b"x" * 10 + b'\\u0000"', b"[" * 20_000 + b"]" * 20_000])
def test_json_comes_back_byte_for_byte(postgresql_url: Url, data: bytes) -> None:
    url = postgresql_url()
    event = ("T", UUID(int=1).bytes, 0, data, None)
    with evlog.open(url, create=True) as store:
        store.append_encoded(["a"], [event])
        assert next(store.read("a")).data == data
        assert store.append_encoded(["a"], [event]).duplicates == [True]
        assert store.verify().ok


def test_a_redaction_and_a_policy_beside_json_that_the_server_refuses_are_mirrored(
    postgresql_url: Url, tmp_path: Path
) -> None:
    url = postgresql_url()
    with evlog.open(tmp_path / "source", create=True) as source, evlog.open(url, create=True) as store:
        source.append("a", [NewEvent("T", "secret"), NewEvent("T", 2)])
        evlog.mirror(source, store)
        source.append_encoded(["a"], [("T", UUID(int=1).bytes, 0, b"[" * 20_000 + b"]" * 20_000, None)])
        source.redact(1, reason="r")
        source.delete_stream("b", tombstone=True, expected=evlog.NO_STREAM)
        evlog.mirror(source, store, cutover=True)
        assert [event.redacted for event in store.read("a")] == [True, False, False]
        with pytest.raises(evlog.StreamTombstoned):
            store.append("b", [NewEvent("T", 1)])
        assert store.verify().ok


@pytest.mark.parametrize("tags", [["t"], ['a"]b', "c\\", "]"], ["x:\\u0000", "ü", '","']])
def test_metadata_with_a_nul_may_have_tags(postgresql_url: Url, tags: list[str]) -> None:
    with evlog.open(postgresql_url(), create=True) as store:
        for metadata in ({"x": "\0", "y": ["]\0"]}, {"x": "\\u0000]"}, {}):
            store.append("a", [NewEvent("T", 1, metadata=metadata, tags=tags)])
        for tag in tags:
            assert [list(event.tags) for event in store.read_all(tags=[tag])] == [tags] * 3


def test_a_schema_that_many_create_at_once_is_created_once(postgresql_url: Url) -> None:
    url = postgresql_url()
    begun = threading.Barrier(4)
    stores: list[evlog.EventStore] = []

    def create() -> None:
        begun.wait()
        stores.append(evlog.open(url, create=True))

    in_threads([create] * 4)
    assert len({store.id for store in stores}) == 1
    assert sorted(store.created for store in stores) == [False, False, False, True]
    for store in stores:
        store.close()


def test_a_role_that_may_only_append_can_do_nothing_else(
    postgresql_server: PostgresqlServer, postgresql_url: Url
) -> None:
    url = postgresql_url()
    schema = url.partition("schema=")[2]
    evlog.open(url, create=True).close()
    with connect(url) as connection:
        for statement in (
            f"create role writer_{schema} login",
            f"grant usage on schema {schema} to writer_{schema}",
            f"grant execute on function {schema}.describe, {schema}.append to writer_{schema}",
        ):
            connection.execute(statement.encode())
    limited = url.replace("//evlog@", f"//writer_{schema}@")
    with evlog.open(limited) as store:
        event = NewEvent("T", 0, id=UUID(int=1))
        assert not store.append("a", [event], 0).duplicate
        assert store.append("a", [event], 0).duplicate
        uses: list[Callable[[], object]] = [
            lambda: list(store.read_all()),
            lambda: store.set_retention("a", max_count=1),
            lambda: store.delete_stream("a"),
            store.compact,
        ]
        for use in uses:
            with pytest.raises(evlog.StoreAccessDenied):
                use()
    with connect(limited) as connection:
        for call in (
            f"select {schema}.remove_events('a', 99, now(), 99)",
            f"update {schema}.log set position = 0",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(call.encode())
        for system in (False, True):  # nor by the function itself: a policy could hide events
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(
                    f"select {schema}.{APPEND_CALL}".encode(), ("$$a", "$metadata", uuid4(), "{}", system)
                )
    with evlog.open(url) as store:
        assert store.verify().ok
        assert store.head == 1


def test_each_failure_to_open_has_its_error(
    postgresql_server: PostgresqlServer, postgresql_url: Url, tmp_path: Path
) -> None:
    with connect(postgresql_server.url()) as connection:
        connection.execute("create database latin encoding 'LATIN1' template template0 locale 'C'")
    url = postgresql_url()
    cases: list[tuple[str, type[evlog.EvlogError], int]] = [
        (url, evlog.StoreNotFound, 5),
        (postgresql_server.url("nothing"), DatabaseNotFound, 5),
        (url.replace("evlog@", "nobody:secret@"), evlog.StoreAccessDenied, 1),
        (url.replace(str(postgresql_server.port), str(free_port())), evlog.StoreUnreachable, 12),
        (url.replace("evlog@127.0.0.1", "evlog:secret@no.invalid"), evlog.StoreUnreachable, 12),
        (postgresql_server.url("latin"), evlog.ServerUnsuitable, 10),
        (f"{url}&schema=Upper", evlog.InvalidArgument, 2),
        (f"{url}&listen=maybe", evlog.InvalidArgument, 2),
        (f"{url}&unheard=of", evlog.InvalidArgument, 2),
        (f"{url}&sslmode=maybe", evlog.InvalidArgument, 2),
        (url.replace(str(postgresql_server.port), "99999"), evlog.InvalidArgument, 2),
        (url.replace("127.0.0.1", "[::1"), evlog.InvalidArgument, 2),
    ]
    for where, error, code in cases:
        with pytest.raises(error) as caught:
            evlog.open(where, create=error is not evlog.StoreNotFound)
        assert caught.value.exit_code == code, where
        assert "secret" not in f"{caught.value} {caught.value!r} {caught.value.attributes()}"
        assert "\n" not in str(caught.value)


def test_an_unreachable_server_is_reported_in_one_printable_line() -> None:
    with pytest.raises(evlog.StoreUnreachable) as caught:
        evlog.open(f"postgresql://evlog@127.0.0.1:{free_port()}/evlog")
    assert str(caught.value).isprintable()  # libpq gives several lines, with tabs
    assert "refused); check the address" in str(caught.value)  # and ends with a question


@pytest.mark.parametrize(("given", "environment", "waits"), [("", "", "10"), ("3", "", "3"), ("", "4", None)])
def test_a_silent_server_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch, given: str, environment: str, waits: str | None
) -> None:
    if environment:
        monkeypatch.setenv("PGCONNECT_TIMEOUT", environment)  # libpq looks it up itself
    else:
        monkeypatch.delenv("PGCONNECT_TIMEOUT", raising=False)
    address = Address("postgresql://here/shop" + (given and f"?connect_timeout={given}"))
    assert conninfo_to_dict(address.conninfo).get("connect_timeout") == waits


def test_a_server_that_vanishes_is_noticed_after_ten_seconds() -> None:
    told = conninfo_to_dict(Address("postgresql://here/shop").conninfo)
    names = "tcp_user_timeout", "keepalives_idle", "keepalives_interval", "keepalives_count"
    assert [told[name] for name in names] == ["10000", "5", "2", "3"]
    told = conninfo_to_dict(Address("postgresql://here/shop?keepalives_idle=60&tcp_user_timeout=0").conninfo)
    assert (told["keepalives_idle"], told["tcp_user_timeout"]) == ("60", "0")


def test_a_cancelled_statement_is_not_a_lock_of_another_writer(postgresql_url: Url) -> None:
    url = postgresql_url()
    schema = url.partition("schema=")[2]
    limited = f"{url}&options=-cstatement_timeout%3D100"
    with evlog.open(url, create=True) as store, evlog.open(limited) as late, connect(url) as other:
        store.append("a", [NewEvent("T", 0)])
        with other.transaction():
            other.execute(f"lock table {schema}.events, {schema}.streams".encode())
            for change in (lambda: late.append("a", [NewEvent("T", 1)]), late.info):
                with pytest.raises(
                    evlog.EngineError, match=r"\(canceling statement due to statement timeout\)"
                ):
                    change()
        assert late.append("a", [NewEvent("T", 1)]).first_position == 2


def test_a_connection_to_what_has_become_a_standby_is_replaced(postgresql_url: Url) -> None:
    url = postgresql_url()
    with evlog.open(url, create=True) as store:
        for number in range(3):
            store.append("a", [NewEvent("T", number)])
            assert isinstance(store.engine, PostgresqlEngine)
            with store.engine._core.connections.lend() as connection:
                connection.execute("set default_transaction_read_only = on")
        with evlog.open(f"{url}&options=-cdefault_transaction_read_only%3Don") as standby:
            changes: list[Callable[[], object]] = [
                lambda: standby.append("a", [NewEvent("T", 3)]),
                lambda: standby.subscribe("n"),
                lambda: standby.set_retention("a", max_count=1),
                lambda: standby.engine.snapshot("s", None).save(b"x", None),
            ]
            for change in changes:
                with pytest.raises(evlog.StoreUnreachable, match="it takes no writes: cannot execute"):
                    change()
            assert len(list(standby.read("a"))) == 3


def test_an_append_that_no_message_to_the_server_holds_is_refused(postgresql_url: Url) -> None:
    with evlog.open(postgresql_url(), create=True) as store:
        event = ("T", None, 1, b"x" * MAX_EVENT_BYTES, None)
        with pytest.raises(evlog.AppendTooLarge) as caught:
            store.append_encoded(["a"] * 33, [event] * 33)
        assert caught.value.limit_bytes == 32 * MAX_EVENT_BYTES
        assert store.head == 0


@pytest.mark.parametrize(
    "made", ["table {}.log (a int)", "function {}.f() returns int language sql as 'select 1'"]
)
def test_a_schema_that_others_use_is_left_alone(postgresql_url: Url, made: str) -> None:
    url = postgresql_url()
    schema = url.partition("schema=")[2]
    rights = "select array_agg(proacl::text) from pg_proc where pronamespace = %s::regnamespace"
    with connect(url) as connection:
        connection.execute(f"create schema {schema}".encode())
        evlog.open(url.replace(schema, f"{schema}_empty"), create=True).close()
        connection.execute(f"create {made.format(schema)}".encode())
        before = connection.execute(rights, (schema,)).fetchone()
        with pytest.raises(evlog.StoreNotFound):
            evlog.open(url)
        with pytest.raises(evlog.ServerUnsuitable, match=f"schema {schema} has tables or functions"):
            evlog.open(url, create=True)
        assert connection.execute(rights, (schema,)).fetchone() == before


def test_the_settings_of_a_session_change_nothing_that_is_read(postgresql_url: Url) -> None:
    url = postgresql_url()
    settings = (
        "-c DateStyle=German -c TimeZone=Asia/Kolkata -c IntervalStyle=sql_standard -c bytea_output=escape"
    )
    with evlog.open(url, create=True) as store:
        store.append("a", [NewEvent("T", 1)])
        store.append("a", [NewEvent("T", b"x", content_type="binary")])
        with evlog.open(f"{url}&options={quote(settings)}") as other:
            assert list(other.read_all()) == list(store.read_all())
            info = other.info()
            assert (info.last_time, str(info.last_time)) == (
                store.info().last_time,
                str(store.info().last_time),
            )
            assert other.verify().digest == store.verify().digest


def test_a_password_is_never_shown(postgresql_url: Url) -> None:
    url = postgresql_url().replace("evlog@", "evlog:secret@") + "&sslpassword=secret"
    with evlog.open(url, create=True) as store:
        assert "evlog@" in store.path
        for shown in (repr(store), store.path, store.info().path):
            assert "secret" not in shown
    with pytest.raises(evlog.StoreClosed) as caught:
        store.append("a", [NewEvent("T")])
    assert "secret" not in str(caught.value)


def test_a_forked_child_and_its_parent_both_work_on(postgresql_url: Url) -> None:
    url = postgresql_url()
    with evlog.open(url, create=True) as store:
        store.append("a", [NewEvent("T", 0)])
        child = os.fork()
        if not child:
            try:
                store.append("a", [NewEvent("T", 1)])
                store.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        store.append("a", [NewEvent("T", 2)])
        assert [event.data for event in store.read("a")] == [b"0", b"1", b"2"]


def test_connections_that_the_server_ended_are_replaced(postgresql_url: Url) -> None:
    url = postgresql_url()
    with evlog.open(url, create=True) as store, connect(url) as other, store.subscribe() as run:
        end = (
            "select count(pg_terminate_backend(pid, 10000)) from pg_stat_activity "
            "where application_name = 'evlog'"
        )
        store.append("a", [NewEvent("T", 0)])
        assert run.next_event(LONG_SECONDS) is not None
        for number in range(1, 4):
            other.execute(end)
            assert store.head == number
            store.append("a", [NewEvent("T", number)])
            event = run.next_event(LONG_SECONDS)
            assert event is not None
            assert event.data == str(number).encode()


def end_sessions(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    connection.execute(
        "select count(pg_terminate_backend(pid, 10000)) from pg_stat_activity "
        "where application_name = 'evlog'"
    )


@pytest.mark.parametrize("listen", ["yes", "no"])
def test_a_named_run_whose_session_the_server_ended_takes_its_name_again(
    postgresql_url: Url, listen: str
) -> None:
    url = f"{postgresql_url()}&listen={listen}"
    with evlog.open(url, create=True) as store, connect(url) as other:
        store.append("a", [NewEvent("T", number) for number in range(5)])
        with store.subscribe("n") as run:
            for number in range(3):
                event = run.next_event(LONG_SECONDS)
                assert event is not None
                assert event.data == str(number).encode()
                end_sessions(other)
                if number == 1:
                    run.park(event, "x")
                else:
                    run.acknowledge()
                    run.save()
                with pytest.raises(evlog.SubscriptionBusy):
                    store.subscribe("n")
        info = store.subscription("n")
        assert (info.position, info.parked, info.running) == (3, 1, False)
        run = store.subscribe("n")
        assert run.next_event(LONG_SECONDS) is not None
        run.acknowledge()
        end_sessions(other)
        store.subscribe("n").close()  # it saves nothing: the first run can continue
        run.save()
        last = run.next_event(LONG_SECONDS)
        assert last is not None
        end_sessions(other)
        store.reset_subscription("n", 1)
        with pytest.raises(evlog.SubscriptionBusy):
            run.transaction().__enter__()
        with pytest.raises(evlog.SubscriptionBusy):
            run.park(last, "x")
        run.close()
        assert (store.subscription("n").position, store.subscription("n").parked) == (1, 1)


def test_a_read_continues_where_its_connection_broke(
    postgresql_server: PostgresqlServer, postgresql_url: Url
) -> None:
    url = postgresql_url()
    with proxying(postgresql_server.port) as proxy:
        through = url.replace(f":{postgresql_server.port}/", f":{proxy.port}/")
        with evlog.open(through, create=True) as store:
            store.append("a", [NewEvent("T", number) for number in range(300)])
            for events in (store.read_all(), store.read("a"), store.subscribe(follow=False)):
                found = [next(iter(events)).version]
                proxy.cut(ANSWER)
                found += [event.version for event in events]
                assert found == list(range(1, 301))
            reads: list[Callable[[], object]] = [
                lambda: next(store.read("a", reverse=True)).version,
                lambda: store.head,
                lambda: store.stream_version("a"),
                lambda: store.engine.removals() + 300,
                lambda: store.info().events,
                lambda: store.verify().events,
                lambda: next(store.streams()).events,
                lambda: 300 + len(store.subscriptions()),
                lambda: 300 + len(store.snapshots()),
                lambda: 300 + (store.engine.snapshot("s", None).load() is not None),
                lambda: 300 + len(list(store.engine.read_removed(0, 300))),
            ]
            for read in reads:
                proxy.cut(ANSWER)
                assert read() == 300
            assert proxy.cuts == 14


def test_the_server_does_not_end_the_idle_session_of_a_named_run(postgresql_url: Url) -> None:
    url = f"{postgresql_url()}&options=-cidle_session_timeout%3D1h"
    with evlog.open(url, create=True) as store:
        run = store.subscribe("n")
        assert isinstance(run._checkpoint, PostgresqlCheckpoint)
        holder = run._checkpoint._holder
        assert holder is not None
        assert holder.execute("show idle_session_timeout").fetchone() == ("0",)
        run.close()
        assert holder.execute("show idle_session_timeout").fetchone() == ("1h",)


def test_the_server_looks_after_ten_seconds_whether_a_named_run_has_vanished(postgresql_url: Url) -> None:
    with evlog.open(postgresql_url(), create=True) as store:
        place = store.engine.checkpoint("n")
        assert isinstance(place, PostgresqlCheckpoint)
        place.acquire()
        assert place._holder is not None
        names = "tcp_user_timeout", "tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count"
        found = [place._holder.execute("select current_setting(%s)", (name,)).fetchone() for name in names]
        assert found == [("10000",), ("5",), ("2",), ("3",)]  # of the socket itself
        place.release()


def test_a_database_whose_transactions_are_stricter_is_used_all_the_same(postgresql_url: Url) -> None:
    url = postgresql_url() + "&options=-cdefault_transaction_isolation%3Dserializable"
    evlog.open(url, create=True).close()

    def work() -> None:
        with evlog.open(url) as store:
            for number in range(10):
                store.append("a", [NewEvent("T", number)])

    in_threads([work] * 4)
    with evlog.open(url) as store:
        events: list[Event] = list(store.read("a"))
        assert [event.position for event in events] == list(range(1, 41))


def test_a_closed_follower_leaves_other_descriptors_alone(postgresql_url: Url) -> None:
    with evlog.open(postgresql_url(), create=True) as store:
        feed = store.engine.follow(evlog.EventFilter())
        feed.close()
        reused = [os.pipe() for _ in range(4)]  # the numbers of the feed's own
        feed.close()
        del feed
        for out, into in reused:
            os.write(into, b"x")
            assert os.read(out, 1) == b"x"
            os.close(out)
            os.close(into)


def test_an_append_updates_no_row(postgresql_url: Url) -> None:
    """A dump keeps every version of a row alive: a counter would make each append walk past all of them."""
    url = postgresql_url()
    schema = url.partition("schema=")[2]
    with evlog.open(url, create=True) as store, connect(url) as connection:
        store.append_many([("a", [NewEvent("T", 0)]), ("b", [NewEvent("T", 1)])])

        def places() -> list[tuple[object, ...]]:
            query = f"select ctid::text from {schema}.log union all select ctid::text from {schema}.streams"
            return connection.execute(query.encode()).fetchall()

        before = places()
        for number in range(5):
            store.append("a", [NewEvent("T", number)])
            store.append_many([("a", [NewEvent("T", number)]), ("b", [NewEvent("T", number)])])
        assert places() == before


def test_versions_positions_and_times_continue_behind_what_compactions_removed(postgresql_url: Url) -> None:
    with evlog.open(postgresql_url(), create=True) as store:
        result = store.append("a", [NewEvent("T", number) for number in range(3)])
        last = next(store.read("a", reverse=True))
        store.set_retention("a", before=4)
        store.compact()
        assert list(store.read_all()) == []
        assert (store.stream_version("a"), next(iter(store.streams())).events) == (3, 0)
        head = store.head
        again = store.append("a", [NewEvent("T", 3)], 3)
        assert (again.first_version, again.first_position) == (4, head + 1)
        assert next(store.read("a")).time >= last.time
        assert again.first_position > result.last_position
        store.compact()
        assert store.verify().ok


def test_a_clock_that_is_ahead_has_a_compaction_remove_nothing_too_early(
    postgresql_url: Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = time.time_ns
    with evlog.open(postgresql_url(), create=True) as store:
        store.append("a", [NewEvent("T", 1)])
        store.set_retention("a", max_age=timedelta(days=1))
        with monkeypatch.context() as patch:
            patch.setattr(time, "time_ns", lambda: now_ns() + 10**15)
            assert list(store.read("a")) == []
            assert store.compact().events_removed == 0
        assert len(list(store.read("a"))) == 1


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_writers_race_in_every_isolation(
    postgresql_server: PostgresqlServer, postgresql_url: Url, isolation: str
) -> None:
    url = (
        f"{postgresql_url()}&options=-c%20default_transaction_isolation%3D{isolation.replace(' ', '%5C%20')}"
    )
    evlog.open(url, create=True).close()

    def write(me: int) -> None:
        with evlog.open(url) as store:
            for number in range(10):
                store.append(f"s-{me % 2}", [NewEvent("T", number)])

    in_threads(partial(write, me) for me in range(4))
    with evlog.open(url) as store:
        assert [event.position for event in store.read_all()] == list(range(1, 41))
        assert store.verify().ok


def test_statements_stay_prepared_after_a_rollback(postgresql_url: Url) -> None:
    with evlog.open(postgresql_url(), create=True) as store:
        store.append("a", [NewEvent("T", 1)])
        assert len(list(store.read("a"))) == 1
        assert isinstance(store.engine, PostgresqlEngine)
        with store.engine._core.connections.lend() as connection:
            for number in range(10):  # psycopg would prepare it after some times
                connection.execute("select %s::int", (number,))
            with pytest.raises(ZeroDivisionError), connection.transaction():
                raise ZeroDivisionError
        assert len(list(store.read("a"))) == 1
        store.append("a", [NewEvent("T", 2)])


def test_an_append_waits_no_longer_than_its_lock_timeout(postgresql_url: Url) -> None:
    url = postgresql_url()
    schema = url.partition("schema=")[2]
    with evlog.open(url, create=True) as store, evlog.open(url, lock_timeout=0.2) as limited:
        for _ in range(3):
            limited.append("a", [NewEvent("T", 0)])  # alone, and not alone
            with connect(url) as other, other.transaction():
                other.execute(f"select {schema}.lock_log()".encode())
                with pytest.raises(evlog.LockTimeout):
                    limited.append("a", [NewEvent("T", 1)])
            store.append("a", [NewEvent("T", 2)])
        assert [event.data for event in store.read_all()] == [b"0", b"2"] * 3


def test_a_refused_append_keeps_its_session(postgresql_url: Url, monkeypatch: pytest.MonkeyPatch) -> None:
    url = postgresql_url()
    with evlog.open(url, create=True) as one, evlog.open(url) as two:
        for store in (one, two, one, two):
            store.append("a", [NewEvent("T", 0, id=uuid4())])
        monkeypatch.setattr(Session, "connect", lambda *_, **__: pytest.fail("a session was lost"))
        for store in (one, two, one, one, one):
            with pytest.raises(evlog.WrongExpectedVersion):
                store.append("a", [NewEvent("T", 1)], 99)
            store.append("a", [NewEvent("T", 2)])


def test_numbers_that_the_server_cannot_hold_are_numbers(postgresql_url: Url) -> None:
    huge = 10**30
    with evlog.open(postgresql_url(), create=True) as store:
        store.append("a", [NewEvent("T", 0)])
        with pytest.raises(evlog.WrongExpectedVersion):
            store.append("a", [NewEvent("T", 1)], huge)
        with pytest.raises(evlog.InvalidArgument):
            store.append("a", [NewEvent("T", 1)], conditions=[evlog.IfNone("*", after=huge)])
        most = (1 << 63) - 1
        assert list(store.read("a", most)) == list(store.read_all(most)) == []
        assert len(list(store.read("a", 1, most, limit=most))) == len(list(store.read_all(0, most))) == 1


def test_only_a_writer_that_is_alone_commits_with_its_flush(
    postgresql_url: Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgresql_url()
    sent: list[list[bytes]] = []
    run = Session.run

    def recorded(session: Session, *transactions: Any) -> Any:
        sent.append([statement.text for statements in transactions for statement, _ in statements])
        return run(session, *transactions)

    def flushes_apart(store: evlog.EventStore, event: NewEvent) -> bool:
        del sent[:]
        store.append("a", [event])
        return sent[-1][-1] == FLUSH

    with evlog.open(url, create=True) as one, evlog.open(url) as two:
        monkeypatch.setattr(Session, "run", recorded)
        assert [flushes_apart(one, NewEvent("T", number)) for number in range(4)] == [
            True,
            True,
            False,
            False,
        ]
        assert flushes_apart(two, NewEvent("T", 4))
        assert not flushes_apart(one, NewEvent("T", 5))  # it has not noticed yet
        assert [flushes_apart(one, NewEvent("T", number)) for number in (6, 7)] == [True, False]
        known = next(one.read("a"))
        assert flushes_apart(one, NewEvent("T", 0, id=known.id))  # another writer's may not be flushed


def engine_of(store: evlog.EventStore) -> PostgresqlEngine:
    assert isinstance(store.engine, PostgresqlEngine)
    return store.engine


def test_a_transaction_that_fails_at_its_commit_fails_with_the_servers_error(postgresql_url: Url) -> None:
    address = Address(url := postgresql_url())
    evlog.open(url, create=True).close()
    add = Statement(address.sql("insert into {schema}.once values (1)"))
    one = Statement(b"select 1")
    with Connections(address).take() as session:
        session.execute(
            address.sql("create table {schema}.once (x int unique deferrable initially deferred)")
        )
        assert len(session.run([(add, ())])) == 1
        for _ in range(2):  # what a failed transaction has prepared stays prepared
            with pytest.raises(psycopg.errors.UniqueViolation):
                session.run([(add, ())], [(one, ())])
        assert len(session.run([(one, ())])) == 1


@pytest.mark.parametrize("listen", ["yes", "no"])
def test_streams_are_listed_in_pages_as_of_one_moment(
    postgresql_url: Url, monkeypatch: pytest.MonkeyPatch, listen: str
) -> None:
    monkeypatch.setattr("evlog.engines.postgresql.reading.PAGE_ROWS", 2)
    with evlog.open(f"{postgresql_url()}&listen={listen}", create=True) as store:
        for name in ("a-1", "a-2", "a-3", "a-4", "a-5", "$own"):
            store.engine.append(AppendRequest.own(name, ("T", None, JSON_CODE, b"0", None)))
        store.set_retention("a-5", max_count=1)
        found = store.streams()
        before = next(found)
        store.append_many([("a-3", [NewEvent("T")]), ("a-5", [NewEvent("T")]), ("a-9", [NewEvent("T")])])
        rest = [(info.stream, info.last_version, info.events) for info in found]
        assert before.stream == "a-1"
        assert rest == [("a-2", 1, 1), ("a-3", 1, 1), ("a-4", 1, 1), ("a-5", 1, 1)]
        assert [(info.stream, info.last_version) for info in store.streams()][2:] == [
            ("a-3", 2),
            ("a-4", 1),
            ("a-5", 2),
            ("a-9", 1),
        ]
        assert next(store.streams(prefix="a-2")).stream == "a-2"


def test_a_listing_of_streams_continues_after_its_connection_is_lost(
    postgresql_url: Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.engines.postgresql.reading.PAGE_ROWS", 2)
    with evlog.open(url := postgresql_url(), create=True) as store:
        names = [f"a-{number}" for number in range(7)]
        store.append_many([(name, [NewEvent("T")]) for name in names])
        found = store.streams()
        taken = [next(found).stream for _ in range(3)]
        with connect(url) as other:
            other.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() "
                "and query like '%evlog_streams%'"
            )
        assert taken + [info.stream for info in found] == names
