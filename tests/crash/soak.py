"""The long run: `python -m tests.crash.soak --minutes N`. It does what the tests do, with other random seeds.

A round has three parts: a recording of random writers, of which one may meet a failed sync, with the legal
states after each operation; crashes within the recoveries from crashes; and a storm of killed processes. It
stops at the first failure and prints the seed that repeats it (`--seed`), as far as threads permit.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time

from evlog.errors import StoreIOError
from tests.crash import explore, recordings
from tests.crash.check import open_store
from tests.crash.disk import RecordingDisk, World
from tests.crash.explore import Job, Outcome
from tests.crash.history import Append, History, event
from tests.crash.recordings import Recording
from tests.crash.storm import Storm
from tests.crash.test_power_loss import explore_recoveries

_STORM_SECONDS = 20.0


def random_appends(dice: random.Random, first: int) -> list[Append]:
    """Return appends to one to three streams, of one to four events each, some larger than two sectors."""
    appends: list[Append] = []
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        events = []
        for _ in range(dice.choice((1, 1, 2, 4))):
            events.append(event(first, {"x": "x" * dice.choice((0, 9, 200, 600, 1300))}))
            first += 1
        appends.append((f"s-{dice.randrange(4)}", events))
    return appends


def random_writers(dice: random.Random, name: str) -> Recording:
    """Record writers with and without syncs in turns; some are opened again, one sync may fail."""
    with recordings.scratch() as root:
        path = f"{root}/above/store"
        world = World(root)
        world.tells_all = dice.random() < 0.5
        history = History(world)
        size = dice.choice((1, 3, 6, 20))
        open_store(path, create=True, disk=RecordingDisk(world), segment_events=size).close()
        world.note("created", 0)
        lazy = open_store(path, disk=RecordingDisk(world), sync="none")
        store = open_store(path, disk=RecordingDisk(world, fail_sync=dice.choice((None, None, 2, 5, 9))))
        for turn in range(10):
            for part in range(dice.choice((0, 0, 1, 3))):
                batch = history.sent(random_appends(dice, 1000 * turn + 100 * part))
                try:
                    lazy.append_many(history.batches[batch].appends)
                except StoreIOError:
                    lazy = open_store(path, disk=RecordingDisk(world), sync="none")
            batch = history.sent(random_appends(dice, 1000 * turn + 500))
            try:
                results = store.append_many(history.batches[batch].appends)
            except StoreIOError:
                store = open_store(path, disk=RecordingDisk(world))
                results = store.append_many(history.batches[batch].appends)
            history.acked(batch, results)
            if dice.random() < 0.2:
                store = open_store(path, disk=RecordingDisk(world))
        return recordings.record(world, history, name)


def one_round(seed: int) -> Outcome:
    dice = random.Random(seed)
    recording = random_writers(dice, f"soak {seed}")
    jobs: list[Job] = [
        (explore.power_losses, (recording, 12, share, 29)) for share in explore.shares(recording, 1)
    ]
    threads = recordings.threads()
    jobs += [(explore.power_losses, (threads, 8, share)) for share in explore.shares(threads, 1)]
    moments = range(dice.randrange(120), len(recording.ops), 120)
    jobs.append((explore_recoveries, (recording, moments)))
    return explore.run(jobs)


def storm(seed: int) -> int:
    with recordings.scratch() as root:
        os.mkdir(f"{root}/above")
        weather = Storm(f"{root}/above/store", random.Random(seed))
        weather.rage(_STORM_SECONDS)
        weather.finish()
        weather.check()
        return weather.kills


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to go on (default 10)")
    parser.add_argument("--seed", type=int, default=None, help="of the first round; left out, by the clock")
    arguments = parser.parse_args()
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    end = time.monotonic() + 60 * arguments.minutes
    states: set[bytes] = set()
    kills = 0
    while True:
        outcome = one_round(seed)
        if outcome.failures:
            print(f"seed {seed}: {len(outcome.failures)} states failed, the first:\n{outcome.failures[0]}")
            return 1
        states |= outcome.digests
        kills += storm(seed)
        print(
            f"seed {seed}: {len(states)} distinct crash states and {kills} killed writers so far, all well",
            flush=True,
        )
        seed += 1
        if time.monotonic() > end:
            return 0


if __name__ == "__main__":
    sys.exit(main())
