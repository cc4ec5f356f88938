"""A crash at every disk call of a compaction, with every legal fate of what was not synced."""

from __future__ import annotations

import random
import traceback

from tests.crash import compaction_storm, explore
from tests.crash.compaction import Facts, check_interrupted, compacting
from tests.crash.explore import Outcome
from tests.crash.recordings import Recording, scratch
from tests.crash.states import State, crash_states

MIN_DISTINCT_STATES = 300


def interruptions(recording: Recording, facts: Facts, most: int, stride: int, moments: range) -> Outcome:
    """Kill and power off after each operation, and check what is left."""
    digests: set[bytes] = set()
    failures: list[str] = []
    for moment, system, known in recording.moments():
        if moment not in moments:
            continue
        states: list[State] = []
        states += explore.killed_states(system, recording.ops[moment : moment + 1], stride, moment % stride)
        states += crash_states(system, random.Random(moment), most)
        for state in states:
            digest = state.digest()
            if digest in digests:
                continue
            digests.add(digest)
            with scratch() as root:
                try:
                    check_interrupted(state, facts, known, root, thorough=digest[0] % 5 == 0)
                except Exception:  # noqa: BLE001 - any error is a finding
                    failures.append(f"after operation {moment}:\n{traceback.format_exc()}")
    return Outcome(digests, failures)


def test_an_interrupted_compaction_loses_nothing_and_is_taken_up_again() -> None:
    recording, facts = compacting()
    assert len(facts.hidden) > 30
    jobs: list[explore.Job] = [
        (interruptions, (recording, facts, 3, 700, share)) for share in explore.shares(recording)
    ]
    outcome = explore.run(jobs)
    explore.expect(outcome, MIN_DISTINCT_STATES)


def test_writers_readers_and_a_follower_go_on_through_compactions() -> None:
    with scratch() as root:
        assert compaction_storm.rage(f"{root}/store", compaction_storm.SHORT) >= 2
