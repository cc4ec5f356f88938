"""A crash at every disk call of a compaction; unsynced data survive in every legal way."""

from __future__ import annotations

import contextlib
import errno
import itertools
import random
import traceback

import pytest

from evlog import NewEvent
from evlog.errors import StoreFull, StoreIOError
from tests.crash import compaction_storm, explore, faults
from tests.crash.check import materialise, open_store
from tests.crash.compaction import (
    Facts,
    check_events,
    check_ids,
    check_interrupted,
    check_left,
    compacting,
)
from tests.crash.explore import Outcome, Seen
from tests.crash.faults import Fault
from tests.crash.history import Knowledge
from tests.crash.recordings import Recording, scratch
from tests.crash.states import State, crash_states, kept_state

MIN_DISTINCT_STATES = 150


def interruptions(
    recording: Recording, facts: Facts, most: int, stride: int, share: int, moments: range
) -> Outcome:
    """Kill, and fail the power, after each operation; check what is left, one state in `share` thoroughly."""
    seen = Seen()
    failures: list[str] = []
    for moment, system, known in recording.moments():
        if moment not in moments:
            continue
        states: list[State] = []
        states += explore.killed_states(system, recording.ops[moment : moment + 1], stride, moment % stride)
        states += crash_states(system, random.Random(moment), most)
        for state in states:
            if not seen.is_new(state):
                continue
            with scratch() as root:
                try:
                    thorough = state.digest()[0] % share == 0
                    check_interrupted(state, facts, known, root, thorough=thorough)
                except Exception:  # noqa: BLE001 - any error is a finding
                    failures.append(f"after operation {moment}:\n{traceback.format_exc()}")
    return Outcome(seen.digests, failures)


@pytest.mark.parametrize(
    ("compress", "most", "stride", "share", "step"), [(False, 2, 700, 10, 2), (True, 1, 1500, 20, 6)]
)
def test_an_interrupted_compaction_loses_nothing_and_is_taken_up_again(
    compress: bool, most: int, stride: int, share: int, step: int
) -> None:
    recording, facts = compacting(compress=compress)
    assert len(facts.hidden) > 30
    jobs: list[explore.Job] = [
        (interruptions, (recording, facts, most, stride, share, moments))
        for moments in explore.shares(recording, step)
    ]
    outcome = explore.run(jobs)
    explore.expect(outcome, MIN_DISTINCT_STATES)


_FAILURES = [
    ("pwrite", errno.EIO, 5),
    ("pwrite", errno.ENOSPC, 4),
    ("fdatasync", errno.EIO, 2),
    ("fsync", errno.EIO, 1),
    ("open", errno.ENOSPC, 4),
    ("replace", errno.EIO, 1),
    ("replace", errno.ENOSPC, 1),
]


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(("kind", "code", "stride"), _FAILURES)
def test_a_failing_disk_call_is_told_and_the_next_compaction_goes_on(
    kind: str, code: int, stride: int, compress: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording, facts = compacting(compress=compress)
    start = kept_state(recording.start)
    for number in itertools.count(1, stride):
        fault = Fault(kind, number, code)
        with scratch() as root, monkeypatch.context() as patch:
            path = materialise(start, root)
            faults.install(fault, patch)
            store = open_store(path)
            store.append("kept", [NewEvent("Before")])
            fault.arm()
            full = code in faults.FULL and kind not in {"fdatasync", "fsync"}
            with contextlib.suppress(StoreFull if full else StoreIOError):
                store.compact(compress=compress)
            fault.clear()
            store.close()
            check_left(path, facts, Knowledge([], created=True), thorough=False)
            with open_store(path) as other:
                other.compact(compress=compress)
                check_events(other, facts, Knowledge([], created=True), compacted=True)
                check_ids(other, facts, 1)
        if not fault.fired:
            break
    assert number > 1


def test_writers_readers_and_a_follower_go_on_through_compactions() -> None:
    with scratch() as root:
        assert compaction_storm.rage(f"{root}/store", compaction_storm.SHORT) >= 2
