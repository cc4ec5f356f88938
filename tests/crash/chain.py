"""Two faults in a row: a process is killed, another process runs a command, then the power fails.

After each kill point of a run of appends and rolls, of a compaction and of a repair, each of append, compact
and repair runs on what the killed process left and had not synced. After each disk call of that command the
power fails: each directory keeps or loses its unsynced names, all files keep or lose their unsynced bytes.

    python -m tests.crash.chain    every kill point, and many more power losses; the test takes a share
"""

from __future__ import annotations

import copy
import random
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from evlog.files.check.repair import repair_store
from tests.crash import explore, recordings
from tests.crash.check import check_recovery, materialise, open_store
from tests.crash.compaction import Facts, check_interrupted, compacting
from tests.crash.damage import ACTIVE, DIRECTORIES, STORE, segment, sound_store
from tests.crash.disk import RecordingDisk, World
from tests.crash.explore import Outcome, Seen
from tests.crash.history import Batch, History, Knowledge, event
from tests.crash.model import FileSystem
from tests.crash.recordings import Recording, record, scratch
from tests.crash.states import State, crash_states, kept_state, lost_names

Check = Callable[[State, Knowledge, str], None]
"""Check a state with what the clients know, in an empty directory."""

_NAME_CALLS: Final = frozenset({"rename", "remove", "create", "sync_dir"})


def histories() -> dict[str, tuple[Recording, Check]]:
    """Return what is interrupted first, with what must be true of a store after it."""
    compaction, facts = compacting()
    return {
        "append and roll": (recordings.one_writer(), _check_appends),
        "compact": (compaction, partial(_check_compaction, facts)),
        "repair": (repairing(), _check_appends),
    }


def _check_compaction(facts: Facts, state: State, known: Knowledge, root: str) -> None:
    check_interrupted(state, facts, known, root, thorough=state.digest()[0] % 16 == 0)


def _check_appends(state: State, known: Knowledge, root: str) -> None:
    check_recovery(materialise(state, root), known, thorough=state.digest()[0] % 16 == 0)


def repairing() -> Recording:
    """Record a repair that cuts a torn tail, removes unnamed files and rebuilds indexes."""
    state, known = sound_store()
    files = dict(state.files)
    log = segment(ACTIVE, "log")
    files[log] += files[log][64:100]
    for name in (f"{1:020d}.5.log", f"{1:020d}.5.offsets", f"{1:020d}.0.types.0badcafe.tmp"):
        files[f"{STORE}/segments/{name}"] = b"x"
    del files[segment(ACTIVE, "offsets")]
    with scratch() as root:
        path = materialise(State(files, DIRECTORIES), root)
        world = World(root, FileSystem.of(files, DIRECTORIES))
        repair_store(path, disk=RecordingDisk(world))
        return record(world, History(world, known.batches), "repair", known)


# --- the command in another process


def _append(path: str, disk: RecordingDisk, history: History, known: Knowledge) -> None:
    """Retry what was not acknowledged, then append and roll."""
    with open_store(path, create=not known.created, disk=disk) as store:
        history.world.note("created", 0)
        for number in [number for number in known.sent if number not in known.acked]:
            history.acked(number, store.append_many(history.batches[number].appends))
        for at in range(5):
            history.send(store, [("chained", [event(70_000 + at)])])


def _compact(path: str, disk: RecordingDisk, _: History, known: Knowledge) -> None:
    if known.created:
        with open_store(path, disk=disk) as store:
            store.compact()


def _repair(path: str, disk: RecordingDisk, _: History, known: Knowledge) -> None:
    if known.created:
        repair_store(path, disk=disk)


COMMANDS: Final = {"append": _append, "compact": _compact, "repair": _repair}


def after_kill(recording: Recording, command: str, system: FileSystem, known: Knowledge) -> Recording:
    """Record the command, run on what a killed process left; what that did not sync may still be lost."""
    batches = [
        Batch(batch.appends, batch.results if number in known.acked else None)
        for number, batch in enumerate(recording.batches)
    ]
    known = Knowledge(batches, list(known.sent), list(known.acked), known.created)
    with scratch() as root:
        path = materialise(kept_state(system), root)
        world = World(root, system)
        history = History(world, batches)
        COMMANDS[command](path, RecordingDisk(world), history, copy.deepcopy(known))
        return record(world, history, command, known)


# --- the power loss


def power_losses(system: FileSystem, dice: random.Random, most: int) -> Iterator[State]:
    """Yield states after a power loss: all that differ by names, and at most `most` others."""
    yield from lost_names(system)
    if most:
        yield from crash_states(system, dice, most)


def explore_chain(
    name: str, recording: Recording, check: Check, command: str, moments: list[int], most: int
) -> Outcome:
    """Kill after each of these operations, run the command, lose power after each of its operations."""
    seen = Seen(1) if most else Seen()
    failures: list[str] = []
    for moment, system, known in recording.moments():
        if moment not in moments:
            continue
        second = after_kill(recording, command, system, known)
        dice = random.Random(f"{name} {moment} {command}")
        for later, left, then_known in second.moments():
            if later and second.ops[later - 1].kind not in _NAME_CALLS and not most:
                continue  # only the calls that change or sync names add such states
            for state in power_losses(left, dice, most):
                if not seen.is_new(state, bytes([len(then_known.acked) % 256])):
                    continue
                with scratch() as root:
                    try:
                        check(state, then_known, root)
                    except Exception:  # noqa: BLE001 - any error is a finding
                        where = f"{name} killed at {moment}, then {command}, power loss at {later}"
                        failures.append(f"{where}:\n{traceback.format_exc()}")
    return Outcome(seen.digests, failures)


def jobs(stride: int, most: int) -> Iterator[explore.Job]:
    """Yield the work: of the kill points beside a rename each, of the others one in `stride`.

    An append or a compaction after an interrupted one has most states by far: with a stride, a third of its
    kill points.
    """
    for name, (recording, check) in histories().items():
        for command in COMMANDS:
            moments = _moments(recording, stride)
            if stride > 1 and name == "compact" and command != "repair":
                moments = moments[::3]  # renames have two each: these are before some and after others
            for first in range(explore.WORKERS):
                own = moments[first :: explore.WORKERS]
                yield explore_chain, (name, recording, check, command, own, most)


def _moments(recording: Recording, stride: int) -> list[int]:
    beside = {
        at + step
        for at, op in enumerate(recording.ops)
        if op.kind == "rename" and op.target.endswith("manifest.json")
        for step in (0, 1)
    }
    return sorted(beside | set(range(0, len(recording.ops) + 1, stride)))


if __name__ == "__main__":
    outcome = explore.run(jobs(1, 6))
    print(f"{len(outcome.digests)} states, {len(outcome.failures)} failures", *outcome.failures[:3], sep="\n")
    sys.exit(bool(outcome.failures))
