"""Many processes decide about one account, and are killed meanwhile: no overdraft, nothing lost or twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import evlog
from evlog import EventStore, NewEvent
from tests.decisions.worker import AMOUNT, balance_of
from tests.support.programs import next_line, start_python

KILLS = int(os.environ.get("EVLOG_TEST_KILLS", "8"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    with evlog.open(tmp_path / "store", create=True, segment_events=64) as opened:
        yield opened


def start(store: EventStore, name: str, count: int) -> subprocess.Popen[str]:
    return start_python("-m", "tests.decisions.worker", store.path, name, str(count))


def decisions(store: EventStore) -> dict[str, int]:
    """Return what each decision has withdrawn, by its key."""
    withdrawn: dict[str, int] = {}
    for event in store.read("account"):
        if event.type == "Withdrawn":
            assert event.idempotency_key is not None
            key = event.idempotency_key.rpartition("/")[0]
            withdrawn[key] = withdrawn.get(key, 0) + event.json()
    return withdrawn


def test_twelve_processes_never_overdraw_and_lose_no_decision(store: EventStore) -> None:
    store.append("account", [NewEvent("Deposited", 20 * AMOUNT + 2)])
    workers = [start(store, f"w{number}", 4) for number in range(12)]
    printed = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 12
    assert balance_of(list(store.read("account"))) == 2
    made = decisions(store)
    assert sorted(made.values()) == [AMOUNT] * 20
    claimed = {
        f"w{worker}-{line.split()[0]}"
        for worker, lines in enumerate(printed)
        for line in lines.splitlines()
        if line.split()[1] != "0"
    }
    assert claimed == made.keys()


def test_each_decision_is_made_once_also_under_sigkill(store: EventStore) -> None:
    store.append("account", [NewEvent("Deposited", 10_000)])
    names = ("a", "b", "c")
    workers = {name: start(store, name, 12) for name in names}
    acknowledged = dict.fromkeys(names, 0)
    dice = random.Random(7)
    for _ in range(KILLS):  # a killed worker begins again with its first decision
        name = dice.choice(names)
        worker = workers[name]
        for _ in range(dice.randrange(1, 8)):
            line = next_line(worker)
            acknowledged[name] = max(acknowledged[name], int(line.split()[0]) + 1 if line else 0)
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        made = decisions(store)
        assert all(f"{name}-{number}" in made for number in range(acknowledged[name]))
        workers[name] = start(store, name, 12)
    for worker in workers.values():
        worker.communicate(timeout=120)
        assert worker.returncode == 0
    made = decisions(store)
    assert made == {f"{name}-{number}": AMOUNT for name in names for number in range(12)}
    assert store.verify().ok
