"""The service is suspended, and connections are cut, under every call.

The stand-in keeps its data in memory, so it is not killed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import evlog
from evlog import NewEvent
from evlog.engines.dynamodb.client import Address, Client
from evlog.engines.dynamodb.table import create_table
from evlog.testing.base import LONG_SECONDS
from tests.engines.outages import (
    UNREACHABLE,
    check_cuts,
    check_interrupts,
    check_stop,
    expected,
    outcomes,
    prepare,
)
from tests.support.ministack import Ministack, serving
from tests.support.tcp_proxy import proxying


def test_no_call_waits_without_end_for_a_suspended_server(
    dynamodb_server: Ministack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("evlog.engines.dynamodb.client._ANSWER_SECONDS", 1)
    with serving() as server:
        prepare(server.url("shop"))
        codes = expected(server.url("shop"), UNREACHABLE)
        assert outcomes(server.url("shop") + "&timeout=1", server.suspended(), UNREACHABLE) == codes
        with evlog.open(server.url("shop") + "&timeout=100") as store:
            assert store.verify().ok
        check_interrupts(server.url("shop") + "&timeout=1000", server.suspended())


def test_a_follower_that_is_stopped_does_not_wait_for_a_suspended_server(
    dynamodb_server: Ministack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.engines.dynamodb.client._ANSWER_SECONDS", 1000)
    with serving() as server:
        check_stop(server.url("shop") + "&timeout=1000", server.suspended())


def test_every_call_is_made_once_when_its_connection_is_cut(
    dynamodb_server: Ministack,
    dynamodb_url: Callable[[], str],
) -> None:
    url = dynamodb_url()
    prepare(url)
    with proxying(dynamodb_server.port) as proxy:
        check_cuts(url.replace(str(dynamodb_server.port), str(proxy.port)), proxy)


def _items_of(client: Client) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.call("scan", ConsistentRead=True)["Items"]
    return items


@pytest.mark.parametrize("has_grown", [False, True])
def test_a_follower_skips_nothing_in_a_table_that_was_restored_from_a_backup(
    dynamodb_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch, has_grown: bool
) -> None:
    url = dynamodb_url()
    client = Client(Address(url))
    with evlog.open(url, create=True) as store, store.subscribe(after=0) as run:
        store.append("a", [NewEvent("T", 0)])
        backup = _items_of(client)
        store.append("a", [NewEvent("T", 1)])
        for _ in range(2):
            assert run.next_event(LONG_SECONDS) is not None
        client.call("delete_table")
        create_table(client)
        client.write_many(backup, ())
        assert store.head == 1
        if has_grown:
            store.append("a", [NewEvent("T", "another"), NewEvent("T", 2)])
            monkeypatch.setattr("evlog.engines.dynamodb.feed._DOUBT_SECONDS", 0.0)
        else:
            monkeypatch.setattr("evlog.engines.following._SHORTER_SECONDS", 0.0)
        with pytest.raises(evlog.StoreReplaced):
            run.next_event(LONG_SECONDS)
    client.close()
