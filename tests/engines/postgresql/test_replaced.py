"""A schema that is dropped and made again while a client has it open: see `tests/engines/replaced.py`."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.engines.replaced import CHANGES, USES, check_newer, check_run, check_uses

Url = Callable[[], str]


def drop(url: str) -> None:
    """Drop a store's schema."""
    address, _, options = url.partition("?schema=")
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f"drop schema {options.partition('&')[0]} cascade".encode())


@pytest.mark.parametrize("is_used", [False, True])
def test_nothing_is_read_or_written_in_another_store(postgresql_url: Url, is_used: bool) -> None:
    check_uses(postgresql_url, drop, CHANGES | USES, is_used=is_used)


@pytest.mark.parametrize("listen", ["yes", "no"])
@pytest.mark.parametrize("name", [None, "n"])
def test_a_run_ends_where_another_store_was_made(postgresql_url: Url, name: str | None, listen: str) -> None:
    check_run(f"{postgresql_url()}&listen={listen}", drop, name)


def _raise_format(url: str) -> None:
    address, _, schema = url.partition("?schema=")
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f"update {schema}.log set format = 2".encode())


def test_a_store_that_a_newer_evlog_has_changed_is_left_alone(postgresql_url: Url) -> None:
    check_newer(postgresql_url(), _raise_format)
