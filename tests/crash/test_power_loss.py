"""A crash at every disk call; unsynced data survive in every legal way, and nothing acknowledged is lost."""

from __future__ import annotations

import random

from tests.crash import explore, recordings
from tests.crash.check import frame_offsets, materialise, open_store
from tests.crash.disk import RecordingDisk, World
from tests.crash.history import Batch, History, Knowledge, event
from tests.crash.model import FileSystem
from tests.crash.recordings import Recording
from tests.crash.states import SECTOR_BYTES, crash_states, kept_state

MIN_DISTINCT_STATES = 2500
_PADDING = 342  # bytes of data, so that the second of two frames begins at a sector's edge


def test_whatever_a_crash_leaves_every_acknowledged_event_is_there() -> None:
    jobs: list[explore.Job] = []
    stride = explore.usually(97, long=23)
    for recording, most in (
        (recordings.one_writer(), explore.usually(7, long=11)),
        (recordings.unsynced_writers(), explore.usually(6, long=11)),
        (recordings.threads(), explore.usually(2, long=3)),
        (recordings.crowded(), explore.usually(2, long=3)),
    ):
        shares = explore.shares(recording)
        jobs += [(explore.power_losses, (recording, most, share, stride)) for share in shares]
    outcome = explore.run(jobs)
    explore.expect(outcome, MIN_DISTINCT_STATES)


def test_a_crash_within_a_recovery_from_a_crash_loses_nothing() -> None:
    recording = recordings.one_writer()
    jobs: list[explore.Job] = [
        (explore_recoveries, (recording, range(first, len(recording.ops), 48))) for first in (3, 27)
    ]
    outcome = explore.run(jobs)
    explore.expect(outcome, 1000)


def test_a_tail_that_was_cut_never_comes_back() -> None:
    """The second of two unsynced frames survives; another, of equal size, takes the place of the first.

    The second begins at a sector's edge, from which on the zeros that follow the other one may be lost.
    """
    with recordings.scratch() as root:
        world = World(root)
        path = f"{root}/above/store"
        with open_store(path, create=True, disk=RecordingDisk(world), sync="none") as store:
            for number in (1, 2):
                store.append("one", [event(number, "x" * _PADDING)])
        state = kept_state(world.now)
    log = next(path for path in state.files if path.endswith(".log"))
    first, second, _ = frame_offsets(state.files[log])
    assert second % SECTOR_BYTES == 0, f"add {-second % SECTOR_BYTES} to _PADDING"
    state.files[log] = state.files[log][:first] + bytes(second - first) + state.files[log][second:]
    with recordings.scratch() as root:
        path = materialise(state, root)
        world = World(root, FileSystem.of(state.files, state.directories))
        history = History(world)
        with open_store(path, disk=RecordingDisk(world)) as store:
            history.send(store, [("two", [event(3, "x" * _PADDING)])])
            assert len(store.torn_tails) == 1
        recording = recordings.record(world, history, "cut tail", Knowledge([], created=True))
    lost = [[("one", [event(number, "x" * _PADDING)])] for number in (1, 2)]
    recording = recording._replace(batches=[*recording.batches, *map(Batch, lost)])
    recording.known.sent += [1, 2]
    moments = range(len(recording.ops) + 1)
    explore.expect(explore.power_losses(recording, None, moments), 20)


def explore_recoveries(recording: Recording, moments: range) -> explore.Outcome:
    """Crash, recover, crash again: killed or powered off the first time, powered off the second."""
    digests: set[bytes] = set()
    failures: list[str] = []
    step = explore.step_of(3)
    for moment, system, _ in recording.moments():
        if moment not in moments:
            continue
        dice = random.Random(moment)
        lost = list(crash_states(system, dice, 12))
        for state in [None, dice.choice(lost)]:
            second = recordings.recovery_after(recording, moment, state)
            outcome = explore.power_losses(second, 2, range(moment % step, len(second.ops) + 1, step))
            digests |= outcome.digests
            failures += outcome.failures
    return explore.Outcome(digests, failures)
