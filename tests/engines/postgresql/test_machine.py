"""The directory and PostgreSQL do the same random things and give the same answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

import evlog
from evlog import EventStore
from tests.engines.test_machine import Comparison
from tests.support.helpers import small_store
from tests.support.postgresql import PostgresqlServer

NUMBERS: Iterator[int] = itertools.count()


@pytest.mark.parametrize("page_rows", [3, 2000])
def test_postgresql_answers_as_the_directory_does(
    postgresql_server: PostgresqlServer, monkeypatch: pytest.MonkeyPatch, page_rows: int
) -> None:
    monkeypatch.setattr("evlog.engines.postgresql.reading._PAGE_ROWS", page_rows)

    class Machine(Comparison):
        def open_both(self) -> tuple[EventStore, EventStore]:
            url = postgresql_server.url(schema=f"machine{next(NUMBERS)}")
            return small_store(f"{self.directory}/store"), evlog.open(url, create=True)

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=max(5, settings().max_examples // 10), deadline=None)
    )
