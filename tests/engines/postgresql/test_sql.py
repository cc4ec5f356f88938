"""SQL over a store in PostgreSQL: the same rows, and the same conditions reach the server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import evlog
from tests.adapters.test_sql import fill, rows
from tests.support.helpers import small_store

QUERIES = [
    "select position, stream, version, type, data, metadata, tags, raw from events order by 1",
    "select count(*) from events where time > now() - interval 1 hour and time < '2100-01-01'",
    "select position from events where stream in ('order-1', 'it''s \"q\"') and position between 3 and 30",
    "select position from events where category = 'order' and type in ('Paid', 'Placed') order by 1",
    "select count(*) from events where time < '0001-01-01' or type = '' or stream = chr(1)",
    "select stream, events, last_version from streams where category = 'order' order by 1",
    "select count(*) from Paid join Placed using (category)",
]


@pytest.mark.parametrize("sql", QUERIES)
def test_a_query_gives_what_it_gives_of_a_directory(
    postgresql_url: Callable[[], str], tmp_path: Path, sql: str
) -> None:
    with evlog.open(postgresql_url(), create=True) as store, small_store(tmp_path / "store") as local:
        assert rows(fill(store), sql) == rows(fill(local), sql)
