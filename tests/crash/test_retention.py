"""Policies and deletions through crashes: an acknowledged one holds, an interrupted one is whole or absent.

A scenario of appends, policies and deletions is recorded; after each of its disk calls the process is killed
or the power fails. What the streams show then must be what they showed after the last acknowledged step, or
after the step that was running; and the remaining steps must lead to the same end.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from evlog import EventStore
from evlog.errors import StreamTombstoned
from tests.crash import explore
from tests.crash.check import materialise, open_store
from tests.crash.disk import RecordingDisk, World
from tests.crash.history import Knowledge, event
from tests.crash.recordings import scratch
from tests.crash.states import crash_states
from tests.crash.steps import crashes, record_steps

Step = Callable[[EventStore], object]
View = tuple[object, ...]

# Each step may be done twice in a row: after a crash it is not known whether it was done.
STEPS: Final[tuple[Step, ...]] = (
    lambda store: store.append("s", [event(1), event(2), event(3)]),
    lambda store: store.append_many([("t-1", [event(4), event(5)]), ("u", [event(6)])]),
    lambda store: store.set_retention("s", max_count=2),
    lambda store: store.append("s", [event(7)]),
    lambda store: store.set_retention(category="t", max_count=1),
    lambda store: store.set_retention("s", before=4),
    lambda store: store.append_many([("t-1", [event(8)]), ("s", [event(9)])]),
    lambda store: store.delete_stream("s"),
    lambda store: store.append("s", [event(10)]),
    lambda store: store.delete_stream("u", tombstone=True),
    lambda store: store.set_retention("s", clear=True),
    lambda store: store.append("t-1", [event(11)]),
)


def view(store: EventStore) -> View:
    """Return what a user can see of the streams and of the policies."""
    streams = ("s", "t-1", "u")
    shown = tuple(tuple(e.version for e in store.read(stream)) for stream in streams)
    kept = tuple(store.retention(stream) for stream in streams)
    versions = tuple(store.stream_version(stream) for stream in streams)
    return shown, kept, versions, len(list(store.read_all(include_system=True)))


def check(path: str, known: Knowledge, views: list[View], _thorough: bool) -> None:
    if not known.created:
        return
    with open_store(path) as store:
        found = view(store)
        assert found in views[len(known.acked) : len(known.sent) + 1]
        for step in STEPS[len(known.acked) :]:
            step(store)
        assert view(store) == views[-1]
        with open_store(path) as fresh:
            assert view(fresh) == views[-1]
            try:
                fresh.append("u", [event(99)])
            except StreamTombstoned:
                return
            raise AssertionError("the tombstone is forgotten")


def test_whatever_a_crash_leaves_every_acknowledged_policy_holds() -> None:
    recording, views = record_steps("retention", STEPS, view)
    assert len(set(views)) == len(views), "a step that changes nothing tests nothing"
    jobs: list[explore.Job] = [
        (crashes, (recording, views, share, check, 61, 4)) for share in explore.shares(recording)
    ]
    explore.expect(explore.run(jobs), 150)


def test_a_policy_that_another_did_not_sync_is_durable_once_it_is_set_again() -> None:
    """A policy that changes nothing is not written again, and is durable all the same."""
    with scratch() as root:
        world = World(root)
        path = f"{root}/above/store"
        with (
            open_store(path, create=True, disk=RecordingDisk(world)) as durable,
            open_store(path, disk=RecordingDisk(world), sync="none") as lazy,
        ):
            durable.append("s", [event(1)])
            durable.append("u", [event(2)])
            lazy.set_retention("s", max_count=1)
            lazy.delete_stream("u", tombstone=True)
            durable.set_retention("s", max_count=1)
            durable.delete_stream("u", tombstone=True)
            expected = view(durable)
            assert len(list(durable.read_all(include_system=True))) == 4
    for state in crash_states(world.now, random.Random(1)):
        with scratch() as root, open_store(materialise(state, root)) as store:
            assert view(store) == expected
