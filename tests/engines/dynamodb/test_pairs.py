"""Two operations at once: see `tests/engines/pairs.py`. EVLOG_TEST_STRIDE=1 stops at every request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import evlog
from evlog.engines.dynamodb.client import Address, Client
from tests.engines.pairs import SCENES, check_compaction, check_pairs, pairs_of


@contextmanager
def requests(before: Callable[[], None]) -> Iterator[None]:
    """Call a function before each request."""
    send = Client._send

    def hooked(client: Client, operation: str, arguments: dict[str, Any]) -> Any:
        before()
        return send(client, operation, arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "_send", hooked)
        yield


def remove(url: str) -> None:
    """Remove a store."""
    client = Client(Address(url))
    client.call("delete_table")
    client.close()


STRIDES = dict(zip(SCENES, (43, 13, 3, 17), strict=True))


@pytest.mark.parametrize("scene", SCENES)
def test_two_operations_at_once_keep_every_promise(
    dynamodb_url: Callable[[], str], memory_path: Path, monkeypatch: pytest.MonkeyPatch, scene: str
) -> None:
    monkeypatch.setattr("evlog.engines.keyed.LEASE_SECONDS", 0.4)
    monkeypatch.setattr("evlog.engines.dynamodb.core._LEASE_US", 300_000)

    check_pairs(pairs_of(scene, dynamodb_url, memory_path, requests, remove), STRIDES[scene])


def test_a_compaction_removes_only_what_is_hidden_at_each_step(
    dynamodb_url: Callable[[], str], memory_path: Path
) -> None:
    check_compaction(dynamodb_url(), memory_path)


def test_a_redaction_erases_nothing_in_a_table_that_was_made_again(
    dynamodb_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event at the same place there is another one."""
    url, put = dynamodb_url(), Client.put

    def replace_table(client: Client, *given: Any) -> None:
        monkeypatch.setattr(Client, "put", put)
        remove(url)
        with evlog.open(url, create=True) as other:
            other.append("a", [evlog.NewEvent("T", "again")])
        client.put(*given)

    with evlog.open(url, create=True) as store:
        store.append("a", [evlog.NewEvent("T", "old", idempotency_key="k")])
        monkeypatch.setattr(Client, "put", replace_table)
        with pytest.raises(evlog.StoreReplaced):
            store.redact(1, reason="r")
    with evlog.open(url) as store:
        assert [event.json() for event in store.read_all(include_system=True)] == ["again"]
        assert not store.append("a", [evlog.NewEvent("T", "old", idempotency_key="k")]).duplicate
