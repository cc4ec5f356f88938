"""One process is killed at any of its disk calls; another that has the store open continues.

What the killed process wrote is still in the page cache: all others read it, and it is durable only once
another one syncs it. So what the survivor acknowledges must also outlast a power loss.
"""

from __future__ import annotations

from evlog.store import EventStore
from tests.crash import explore, recordings
from tests.crash.check import check_reads, check_recovery, open_store
from tests.crash.disk import Killed, RecordingDisk, World
from tests.crash.explore import Outcome
from tests.crash.history import History, all_known, event

_MOST_OPERATIONS = 400  # a scenario that never runs to its end has no end


class Machine:
    """A world for one store, and what its clients know."""

    def __init__(self, root: str) -> None:
        self.path = f"{root}/above/store"
        self.world = World(root)
        self.history = History(self.world)

    def open(self, *, create: bool = False, kill_at: int | None = None, torn: int = 0) -> EventStore:
        disk = RecordingDisk(self.world, kill_at=kill_at, torn=torn)
        return open_store(self.path, create=create, disk=disk)

    def append_until_killed(self, store: EventStore) -> bool:
        """Append over a roll; return whether the store's process was killed."""
        try:
            for appends in recordings.sample_appends(0)[:4]:
                self.history.send(store, appends)
        except Killed:
            return True
        return False

    def send_again(self, store: EventStore) -> None:
        """Retry what was not acknowledged."""
        for number, batch in enumerate(self.history.batches):
            if batch.results is None:
                self.history.acked(number, store.append_many(batch.appends))

    def power_losses(self, name: str, start: int, stride: int, most: int) -> Outcome:
        """Lose power after every `stride`-th operation from `start` on, and after the last."""
        recording = recordings.record(self.world, self.history, name)
        moments = [*range(start, len(recording.ops), stride), len(recording.ops)]
        return explore.power_losses(recording, most, moments)


def kill_beside_a_live_process(kill_at: int, torn: int) -> Outcome | None:
    """Kill one of two writers before its n-th operation, beside a reader. Return None if none was killed."""
    with recordings.scratch() as root:
        machine = Machine(root)
        with machine.open(create=True) as survivor, machine.open() as reader:
            machine.world.note("created", 0)
            machine.history.send(survivor, [("first", [event(900)])])
            if not machine.append_until_killed(machine.open(kill_at=kill_at, torn=torn)):
                return None
            start = len(machine.world.ops)
            known = all_known(machine.history.batches)
            check_reads(reader, known)
            machine.history.send(survivor, [("survivor", [event(901)])])
            machine.send_again(survivor)
            known = all_known(machine.history.batches)
            check_reads(survivor, known)
            check_reads(reader, known)
        outcome = machine.power_losses(f"kill at {kill_at}, torn at {torn}", start, 40, 2)
        check_recovery(machine.path, known)
        return outcome


def kill_a_creator(kill_at: int, _: int) -> Outcome | None:
    """Kill a process before the n-th operation of creating a store; the next one creates or finds it."""
    with recordings.scratch() as root:
        machine = Machine(root)
        try:
            machine.open(create=True, kill_at=kill_at)
        except Killed:
            pass
        else:
            return None
        start = len(machine.world.ops)
        with machine.open(create=True) as store:
            machine.world.note("created", 0)
            machine.history.send(store, [("first", [event(0)])])
            check_reads(store, all_known(machine.history.batches))
        return machine.power_losses(f"create killed at {kill_at}", start, 5, 6)


def at_every_operation(scenario: str, first: int, stride: int) -> Outcome:
    """Run a scenario with its victim killed at every `stride`-th operation from the first on."""
    kill = kill_beside_a_live_process if scenario == "append" else kill_a_creator
    outcomes: list[Outcome] = []
    for kill_at in range(first, _MOST_OPERATIONS, stride):
        outcome = kill(kill_at, 0)
        if outcome is None:
            return explore.together(outcomes)
        outcomes.append(outcome)
        if kill_at % 6 == 0:
            outcomes += [more for torn in (17, 60) if (more := kill(kill_at, torn)) is not None]
    raise AssertionError("the scenario never ran to its end")


def test_other_processes_go_on_when_one_dies_in_an_append_or_roll() -> None:
    jobs: list[explore.Job] = [(at_every_operation, ("append", first, 2)) for first in (1, 2)]
    outcome = explore.run(jobs)
    explore.expect(outcome, 50)


def test_what_a_dead_creator_left_is_made_durable_by_the_next() -> None:
    outcome = at_every_operation("create", 1, 1)
    explore.expect(outcome, 50)
