"""Two operations at once: see `tests/engines/pairs.py`. EVLOG_TEST_STRIDE=1 stops at every request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import evlog
from evlog.engines.dynamodb import compaction, items
from evlog.engines.dynamodb.client import Address, Client
from evlog.engines.dynamodb.engine import DynamodbEngine
from evlog.engines.dynamodb.items import LOG_KEY
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
    """All that is known of the event is the same there: what the store was made from was imported again."""
    url, made = dynamodb_url(), items.tag_items
    event = evlog.NewEvent("T", "same", idempotency_key="k", tags=["t"])

    def replace_table(*given: Any) -> Any:
        monkeypatch.setattr(compaction, "tag_items", made)
        remove(url)
        with evlog.open(url, create=True) as other:
            other.append("a", [event])
            other.append("b", [evlog.NewEvent("T", "in the place of the redaction")])
        return made(*given)

    with evlog.open(url, create=True) as store:
        store.append("a", [event])
        monkeypatch.setattr(compaction, "tag_items", replace_table)
        with pytest.raises(evlog.StoreReplaced):
            store.redact(1, reason="r")
    with evlog.open(url) as store:
        assert [(each.position, each.json()) for each in store.read_all(tags=["t"])] == [(1, "same")]
        with pytest.raises(evlog.ConditionFailed):
            store.append("a", [evlog.NewEvent("T")], conditions=evlog.IfNone("tag=t"))


def test_a_writer_that_remembers_appends_nothing_to_a_table_that_was_made_again(
    dynamodb_url: Callable[[], str],
) -> None:
    """The other store is as far as the one that the writer knows."""
    url = dynamodb_url()
    with evlog.open(url, create=True) as store:
        store.append("a", [evlog.NewEvent("T", "old")])
        remove(url)
        with evlog.open(url, create=True) as other:
            other.append("b", [evlog.NewEvent("T", "again")])
        with pytest.raises(evlog.StoreReplaced):
            store.append("a", [evlog.NewEvent("T", "lost")])
    with evlog.open(url) as store:
        assert [event.json() for event in store.read_all()] == ["again"]
        assert store.verify().ok


def test_a_writer_that_waits_takes_no_lease_in_a_table_that_was_made_again(
    dynamodb_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is made again between its look at the lease and its request for it."""
    url, update = dynamodb_url(), Client.update

    def replace_table(*given: Any) -> Any:
        monkeypatch.setattr(Client, "update", update)
        remove(url)
        evlog.open(url, create=True).close()
        return update(*given)

    with evlog.open(url, create=True) as store:
        store.append("a", [evlog.NewEvent("T")])
        assert isinstance(store.engine, DynamodbEngine)
        store.engine._core._turns = 1  # others were in the way before
        monkeypatch.setattr(Client, "update", replace_table)
        with pytest.raises(evlog.StoreReplaced):
            store.append("a", [evlog.NewEvent("T")])
    client = Client(Address(url))
    found = client.get(LOG_KEY)
    client.close()
    assert found is not None
    assert not found.get("owner", {"S": ""})["S"]
