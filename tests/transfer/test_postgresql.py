"""Mirrors to a PostgreSQL server whose connection breaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg

import evlog
from evlog import NewEvent
from evlog.testing.mirroring import everything
from tests.support.postgresql import PostgresqlServer
from tests.support.tcp_proxy import ANSWER, REQUEST, proxying

ROUND_TRIPS = 9  # of one piece, and some more


def test_a_piece_whose_answer_is_lost_is_appended_once(
    postgresql_server: PostgresqlServer, postgresql_url: Callable[[], str], tmp_path: Path
) -> None:
    url = postgresql_url()
    with (
        proxying(postgresql_server.port) as proxy,
        evlog.open(tmp_path / "source", create=True) as source,
        evlog.open(url.replace(f":{postgresql_server.port}/", f":{proxy.port}/"), create=True) as destination,
        evlog.Mirror(source, destination) as mirror,
    ):
        for passing in range(ROUND_TRIPS):
            for what in (REQUEST, ANSWER):
                source.append("a", [NewEvent("T", passing), NewEvent("T", what)])
                proxy.cut(what, passing)
                try:
                    mirror.copy()
                except evlog.StoreUnreachable:  # behind the piece: subscriptions are not asked for again
                    mirror.copy()
                assert everything(destination) == everything(source)
        assert proxy.cuts > ROUND_TRIPS
        assert destination.verify().ok


def test_json_that_the_server_refuses_keeps_its_bytes(
    postgresql_url: Callable[[], str], tmp_path: Path
) -> None:
    url = f"{postgresql_url()}&options=-cmax_stack_depth%3D100kB"
    with (
        evlog.open(tmp_path / "source", create=True) as source,
        evlog.open(url, create=True) as destination,
    ):
        source.append("a", [NewEvent("T", b"[" * 900 + b"]" * 900), NewEvent("T", b'{"a": 1,"a":2}')])
        evlog.mirror(source, destination)
        assert everything(destination) == everything(source)
        with psycopg.connect(url.partition("?")[0]) as connection:
            schema = url.partition("schema=")[2].partition("&")[0]
            (raw,) = connection.execute(f"select count(raw) from {schema}.events").fetchall()
        assert raw == (2,)
