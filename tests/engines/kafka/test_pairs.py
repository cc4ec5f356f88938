"""Two operations at once: see `tests/engines/pairs.py`. EVLOG_TEST_STRIDE=1 stops at every request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evlog.engines.kafka import client, writing
from evlog.engines.kafka.client import Client
from evlog.engines.kafka.reading import Reader
from tests.engines.kafka.test_engine import delete_topic
from tests.engines.pairs import SCENES, check_pairs, pairs_of


@contextmanager
def requests(before: Callable[[], None]) -> Iterator[None]:
    """Call a function before each request."""
    calls = (writing, "interruptible"), (client, "interruptible"), (Client, "end"), (Reader, "wait_for")
    with pytest.MonkeyPatch.context() as patch:
        for place, name in calls:
            patch.setattr(place, name, _after(before, getattr(place, name)))
        yield


def _after(before: Callable[[], None], call: Callable[..., Any]) -> Callable[..., Any]:
    def hooked(*given: Any, **options: Any) -> Any:
        before()
        return call(*given, **options)

    return hooked


STRIDES = dict(zip(SCENES, (43, 13, 3, 17), strict=True))


@pytest.mark.parametrize("scene", SCENES)
def test_two_operations_at_once_keep_every_promise(
    kafka_url: Callable[[], str], memory_path: Path, monkeypatch: pytest.MonkeyPatch, scene: str
) -> None:
    monkeypatch.setattr("evlog.engines.keyed.LEASE_SECONDS", 0.4)
    monkeypatch.setattr("evlog.engines.kafka.writing._TURN_SECONDS", 0.1)
    monkeypatch.setattr("evlog.engines.kafka.client._REMADE_SECONDS", 0)
    monkeypatch.setattr("evlog.engines.kafka.client._UNKNOWN_SECONDS", 0.5)

    check_pairs(pairs_of(scene, kafka_url, memory_path, requests, delete_topic), STRIDES[scene])
