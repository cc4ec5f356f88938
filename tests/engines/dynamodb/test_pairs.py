"""Two operations at once: see `tests/engines/pairs.py`. EVLOG_TEST_STRIDE=1 stops at every request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

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
