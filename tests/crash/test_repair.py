"""Repair and salvage interrupted anywhere: nothing is lost, and the next run completes the work."""

from __future__ import annotations

import random

import pytest

from evlog.files.check.repair import repair_store
from evlog.files.check.salvage import salvage_store
from evlog.files.check.verify import verify_store
from evlog.store import EventStore
from tests.crash import recordings
from tests.crash.check import materialise, open_store
from tests.crash.damage import (
    ACTIVE,
    DIRECTORIES,
    DURABLE,
    SEALED,
    STORE,
    Files,
    flip,
    segment,
    sound_store,
)
from tests.crash.disk import RecordingDisk, World
from tests.crash.explore import Explorer, killed_states
from tests.crash.history import History
from tests.crash.model import FileSystem
from tests.crash.recordings import Recording, record
from tests.crash.states import State, crash_states

pytestmark = pytest.mark.usefixtures("no_writer_at_work")

OUT = "above/out"


def repairable() -> Files:
    """Return a store that has everything that a repair repairs."""
    files = dict(sound_store()[0].files)
    log = segment(ACTIVE, "log")
    files[log] += files[log][64:100]
    del files[DURABLE], files[segment(SEALED[0], "ids")]
    for path in (segment(SEALED[1], "offsets"), segment(SEALED[2], "streams"), segment(ACTIVE, "offsets")):
        files[path] = flip(files[path], 70)
    files[f"{STORE}/segments/00000000000000000001.0.types.0badcafe.tmp"] = b"x"
    files[f"{STORE}/segments/00000000000000000001.5.log"] = b"x"
    return files


def recorded_repair() -> Recording:
    known = sound_store()[1]
    with recordings.scratch() as root:
        files = repairable()
        path = materialise(State(files, DIRECTORIES), root)
        world = World(root, FileSystem.of(files, DIRECTORIES))
        done = repair_store(path, disk=RecordingDisk(world))
        assert done.report.ok
        return record(world, History(world, known.batches), "repair", known)


def test_an_interrupted_repair_loses_nothing_and_can_be_done_again() -> None:
    recording = recorded_repair()
    explorer = Explorer()
    dice = random.Random(3)
    moments = 0
    for moment, system, known in recording.moments():
        moments += 1
        states = [
            *crash_states(system, dice, 4),
            *killed_states(system, recording.ops[moment : moment + 1], 31, 0),
        ]
        for state in states:
            if not explorer.check(state, known, f"after operation {moment}"):
                continue
            with recordings.scratch() as root:
                assert repair_store(materialise(state, root)).report.ok, f"after operation {moment}"
    assert explorer.failures == []
    assert moments > 20


def test_an_interrupted_salvage_is_a_whole_store_or_none() -> None:
    state, known = sound_store()
    files = dict(state.files)
    files[segment(SEALED[1], "log")] = flip(files[segment(SEALED[1], "log")], -1)
    with recordings.scratch() as root:
        path = materialise(State(files, DIRECTORIES), root)
        world = World(root, FileSystem.of(files, DIRECTORIES))
        lost = salvage_store(path, f"{root}/{OUT}", disk=RecordingDisk(world)).losses
        recording = record(world, History(world, known.batches), "salvage", known)
    assert [loss.events for loss in lost] == [1]
    dice = random.Random(4)
    whole = 0
    for _, system, _ in recording.moments():
        for left in crash_states(system, dice, 4):
            if f"{OUT}/manifest.json" not in left.files:
                continue
            whole += 1
            with recordings.scratch() as root:
                materialise(left, root)
                assert verify_store(f"{root}/{OUT}").ok  # the empty `.offsets` is not synced
                with open_store(f"{root}/{OUT}") as store:
                    assert len(positions(store)) == 14
    assert whole


def positions(store: EventStore) -> list[int]:
    return [event.position for event in store.read_all()]
