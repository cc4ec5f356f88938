"""A table that is deleted and made again while a client has it open: see `tests/engines/replaced.py`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from evlog.engines.dynamodb.client import Address, Client
from evlog.engines.dynamodb.items import LOG_KEY
from tests.engines.dynamodb.test_pairs import remove
from tests.engines.replaced import CHANGES, USES, check_newer, check_run, check_uses

Url = Callable[[], str]


@pytest.mark.parametrize("is_used", [False, True])
def test_nothing_is_read_or_written_in_another_store(dynamodb_url: Url, is_used: bool) -> None:
    check_uses(dynamodb_url, remove, CHANGES | USES, is_used=is_used)


@pytest.mark.parametrize("name", [None, "n"])
def test_a_run_ends_where_another_store_was_made(dynamodb_url: Url, name: str | None) -> None:
    check_run(dynamodb_url(), remove, name)


def _raise_format(url: str) -> None:
    values = {":f": {"N": "2"}, ":one": {"N": "1"}}
    client = Client(Address(url))
    client.update(LOG_KEY, "SET #f = :f ADD revision :one", None, values, {"#f": "format"})
    client.close()


def test_a_store_that_a_newer_evlog_has_changed_is_left_alone(dynamodb_url: Url) -> None:
    check_newer(dynamodb_url(), _raise_format)
