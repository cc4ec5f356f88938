"""What all tests share: hypothesis profiles, a clock that a test sets, and randomness that repeats.

`HYPOTHESIS_PROFILE=long` makes every property test look fifty times as far; CI runs the quick profile.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from evlog import EventStore
from tests.support.helpers import Clock, FixedRandom, content, small_store

_COMMON = {
    "deadline": None,  # a slow machine is no failure
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
    "print_blob": True,
}
settings.register_profile("quick", max_examples=40, stateful_step_count=25, **_COMMON)  # type: ignore[arg-type]
settings.register_profile("long", max_examples=2000, stateful_step_count=60, **_COMMON)  # type: ignore[arg-type]
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A directory in memory where there is such a place: syncs cost nothing in it."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="evlog-test-") as directory:
        yield Path(directory)


@pytest.fixture
def store(memory_path: Path) -> Iterator[EventStore]:
    """An empty store whose segments hold eight events."""
    with small_store(memory_path / "store") as opened:
        yield opened


@pytest.fixture
def unchanged(store: EventStore) -> Iterator[Callable[[], None]]:
    """Call it before something that is to be refused: at the end every byte of the log must be as it was."""
    before: list[Any] = []
    yield lambda: before.append(content(store))
    assert before
    assert content(store) == before[-1]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of day, standing still until the test moves it."""
    fixed = Clock()
    monkeypatch.setattr(time, "time_ns", fixed)
    return fixed


@pytest.fixture
def fixed_random(monkeypatch: pytest.MonkeyPatch) -> FixedRandom:
    """The same tags and ids at every run."""
    fixed = FixedRandom()
    monkeypatch.setattr(os, "urandom", fixed)
    return fixed
