"""Mirrors are killed at random while eight processes write: both ends are equal, and nothing comes twice.

`EVLOG_TEST_KILLS=50` kills fifty times.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import evlog
from evlog import EventStore, NewEvent
from evlog.testing.mirroring import everything
from evlog.transfer.subscriptions import LOCK_NAME

KILLS = int(os.environ.get("EVLOG_TEST_KILLS", "5"))
WRITERS = 8
LONG_SECONDS = 300.0

# Appends one to five events at once, to one stream or several, until the file is there.
WRITER = """
import os, random, sys, evlog
path, me, stop = sys.argv[1:]
chance = random.Random(int(me))
with evlog.open(path) as store:
    number = 0
    while not os.path.exists(stop):
        counts = [chance.randrange(1, 6) for _ in range(chance.choice((1, 1, 1, 2)))]
        appends = []
        for count in counts:
            events = [evlog.NewEvent("T", [number := number + 1, int(me)]) for _ in range(count)]
            appends.append((f"s-{chance.randrange(20)}", events))
        store.append_many(appends)
"""


def start(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def end(process: subprocess.Popen[bytes]) -> bytes:
    """Wait until a process has ended, and return what it has said on stderr."""
    _, err = process.communicate(timeout=LONG_SECONDS)
    return err


def fill(path: Path) -> None:
    """Make a store with a history: policies, a deleted stream, and gaps."""
    with evlog.open(path, create=True, segment_events=500) as store:
        for number in range(100):
            store.append(f"old-{number % 5}", [NewEvent("T", n) for n in range(number % 4 + 1)])
        store.set_retention("old-1", max_count=5)
        store.delete_stream("old-2")
        store.compact()


def remove_some(path: str, stream: str) -> None:
    with evlog.open(path) as store:
        store.set_retention(stream, max_count=9)
        store.compact(force=True)


def wait_until_unlocked(destination: str) -> None:
    """Return once the server has noticed that the mirror was killed."""
    if "://" not in destination:
        return  # the lock of a directory ends with its process
    with evlog.open(destination) as store:
        while store.engine.checkpoint(LOCK_NAME).is_running():
            pass


def same(source: EventStore, destination: EventStore) -> None:
    """Assert that a mirror has everything that its source has, and nothing else."""
    assert everything(source) == everything(destination)
    assert list(source.streams(include_deleted=True, include_system=True)) == list(
        destination.streams(include_deleted=True, include_system=True)
    )
    assert evlog.Mirror(source, destination).check().ok
    assert destination.head == source.head
    report = destination.verify()
    assert report.ok, report.findings


@pytest.mark.parametrize("seed", [int(os.environ.get("EVLOG_TEST_SEED", "1"))])
def test_mirrors_that_are_killed_copy_everything_once(
    tmp_path: Path, postgresql_url: Callable[[], str], seed: int
) -> None:
    chance = random.Random(seed)
    source, back, merged, stop = (str(tmp_path / name) for name in ("source", "back", "merged", "stop"))
    middle = postgresql_url()
    fill(tmp_path / "source")
    evlog.open(middle, create=True).close()
    with evlog.open(merged, create=True) as store:
        store.append("own", [NewEvent("T", 0)])
    commands = [(source, middle), (middle, back), (source, merged, "--merge")]

    def mirror(*words: str) -> subprocess.Popen[bytes]:
        wait_until_unlocked(words[1])
        return start("-m", "evlog", "mirror", *words)

    writers = [start("-c", WRITER, source, str(me), stop) for me in range(WRITERS)]
    mirrors = [mirror(*words, "--follow") for words in commands]
    try:
        for number in range(KILLS * len(commands)):
            time.sleep(chance.uniform(0.05, 0.6))
            chosen = number % len(commands)
            assert mirrors[chosen].poll() is None, end(mirrors[chosen])
            mirrors[chosen].kill()
            end(mirrors[chosen])
            mirrors[chosen] = mirror(*commands[chosen], "--follow")
            if chosen == 1:
                remove_some(source, f"s-{number % 20}")
    finally:
        Path(stop).touch()
        for process in mirrors:
            process.kill()
            end(process)
        for writer in writers:
            err = end(writer)  # under load it says that it waits for the lock
            assert writer.returncode == 0, err
    for words in commands:
        process = mirror(*words)
        err = end(process)
        assert process.returncode == 0, err
    with evlog.open(source) as one, evlog.open(middle) as two, evlog.open(back) as three:
        same(one, two)
        same(two, three)
        with evlog.open(merged) as other:
            assert evlog.Mirror(one, other, merge=True).check().ok
            left = {event.id_bytes for event in one.read_all()}
            own = [event for event in other.read_all() if event.id_bytes in left]
            assert [event[2:5] + event[6:] for event in own] == [
                event[2:5] + event[6:] for event in one.read_all()
            ]
            assert other.verify().ok
