"""A topic that is deleted and made again while a client has it open: see `tests/engines/replaced.py`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.engines.kafka.test_engine import delete_topic
from tests.engines.replaced import CHANGES, USES, check_run, check_uses

Url = Callable[[], str]
# A topic refuses the first three. Snapshots are in the local index of this store alone: no server is asked.
_WITHOUT = "redact", "retain", "compact", "snapshots", "snapshot", "delete_snapshot", "a new snapshot"
_ALL = {name: use for name, use in (CHANGES | USES).items() if name not in _WITHOUT}


@pytest.fixture(autouse=True)
def asks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each call ask for the topic's id: the tests make topics again faster than people do."""
    monkeypatch.setattr("evlog.engines.kafka.client._REMADE_SECONDS", 0)
    monkeypatch.setattr("evlog.engines.kafka.feed._LOOK_SECONDS", 1)


@pytest.mark.parametrize("is_used", [False, True])
def test_nothing_is_read_or_written_in_another_store(kafka_url: Url, is_used: bool) -> None:
    check_uses(kafka_url, delete_topic, _ALL, is_used=is_used)


@pytest.mark.parametrize("name", [None, "n"])
def test_a_run_ends_where_another_store_was_made(kafka_url: Url, name: str | None) -> None:
    check_run(kafka_url(), delete_topic, name)
