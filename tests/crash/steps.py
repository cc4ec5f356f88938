"""A scenario of steps with visible effects: recorded, and crashed at any operation."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from evlog import EventStore
from tests.crash import explore
from tests.crash.check import materialise, open_store
from tests.crash.disk import RecordingDisk, World
from tests.crash.history import History, Knowledge
from tests.crash.recordings import Recording, record, scratch
from tests.crash.states import crash_states

View = TypeVar("View")


def record_steps(
    name: str,
    steps: Sequence[Callable[[EventStore], object]],
    view: Callable[[EventStore], View],
    check_end: Callable[[str], None] | None = None,
) -> tuple[Recording, list[View]]:
    """Do the steps, opening the store again for every third one; return also what is seen after each.

    Args:
        check_end: called with the store's path after the last step.
    """
    with scratch() as root:
        world = World(root)
        path = f"{root}/above/store"
        open_store(path, create=True, disk=RecordingDisk(world)).close()
        world.note("created", 0)
        store = open_store(path, disk=RecordingDisk(world))
        views = [view(store)]
        for number, step in enumerate(steps):
            if number % 3 == 2:
                store.close()
                store = open_store(path, disk=RecordingDisk(world))
            world.note("sent", number)
            step(store)
            world.note("acked", number)
            views.append(view(store))
        store.close()
        if check_end is not None:
            check_end(path)
        return record(world, History(world), name, Knowledge([])), views


def crashes(
    recording: Recording,
    views: list[View],
    moments: Collection[int],
    check: Callable[[str, Knowledge, list[View], bool], None],
    stride: int,
    most: int,
) -> explore.Outcome:
    """Kill after each of the operations and within the next one, or cut the power; check what is there.

    Args:
        check: called with the store's path, what was acknowledged, the views, and whether to be thorough,
            which is one time in four.
        stride: within a write it is killed at every stride-th byte.
        most: of the states that a power loss can leave, this many are tried.
    """
    checked: set[tuple[bytes, int, int]] = set()
    failures: list[str] = []
    for moment, system, known in recording.moments():
        if moment not in moments:
            continue
        states = [
            *explore.killed_states(system, recording.ops[moment : moment + 1], stride, moment % stride),
            *crash_states(system, random.Random(moment), most),
        ]
        for state in states:
            key = (state.digest(), len(known.acked), len(known.sent))
            if key in checked:
                continue
            checked.add(key)
            with scratch() as root:
                try:
                    check(materialise(state, root), known, views, key[0][0] % 4 == 0)
                except Exception as error:  # noqa: BLE001 - any error is a finding
                    failures.append(f"after operation {moment}: {error!r}")
    return explore.Outcome({digest for digest, _, _ in checked}, failures)
