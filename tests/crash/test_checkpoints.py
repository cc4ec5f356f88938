"""A crash at every disk call of a subscription: no event is skipped, and no parked event is lost.

In one recording a run begins, saves, parks and ends; the next one continues; some parked events are replayed;
the checkpoint is reset; the subscription is deleted and begun again. After each operation the process is
killed, or the power fails and unsynced data survive in every legal way. Then the subscription is checked and
run again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from evlog import Event, EventStore
from evlog.errors import SubscriptionNotFound
from tests.crash.check import materialise, open_store
from tests.crash.disk import RecordingDisk, World
from tests.crash.explore import killed_states
from tests.crash.history import event
from tests.crash.model import FileSystem, Op
from tests.crash.recordings import scratch
from tests.crash.states import State, crash_states

NAME = "Ärger/.."
EVENTS = 9


@dataclass
class Known:
    """What the consumer knows at one moment."""

    begun: bool = False  # the subscription must be there
    ended: bool = False  # it may be deleted
    least: int = 0  # a checkpoint of this position is durable
    most: int = 0  # acknowledged up to here
    target: int | None = None  # of a reset under way
    parked: set[int] = field(default_factory=set)
    moving: set[int] = field(default_factory=set)  # being parked, or taken off the list

    def take_in(self, op: Op) -> None:
        if op.kind == "note":
            getattr(self, "_" + op.path)(op.token)

    def _begun(self, position: int) -> None:
        self.begun, self.ended, self.target = True, False, None
        self.least, self.most = position, max(self.most, position)

    def _acked(self, position: int) -> None:
        self.most = position

    def _saved(self, position: int) -> None:
        self.least = self.most = position
        self.target = None

    def _resetting(self, position: int) -> None:
        self.target = position

    def _parking(self, position: int) -> None:
        self.moving.add(position)
        self.most = position  # with it the event is acknowledged

    def _parked(self, position: int) -> None:
        self.moving.discard(position)
        self.parked.add(position)

    def _unparking(self, position: int) -> None:
        self.parked.discard(position)
        self.moving.add(position)

    def _unparked(self, position: int) -> None:
        self.moving.discard(position)

    def _deleting(self, _: int) -> None:
        self.begun, self.ended = False, True
        self.moving |= self.parked
        self.parked.clear()

    def _deleted(self, _: int) -> None:
        self.moving.clear()
        self.least = self.most = 0


def consume(store: EventStore, world: World, script: str) -> None:
    """Do a run: `.` takes an event and acknowledges it, `p` parks it, `s` saves as the clock would."""
    with store.subscribe(NAME) as run:
        world.note("begun", run.position)
        for step in script:
            if step == "s":
                run._save()
                continue
            taken = run.next_event(0)
            assert taken is not None
            if step == "p":
                world.note("parking", taken.position)
                run.park(taken, "boom")
                world.note("parked", taken.position)
            else:
                world.note("acked", taken.position)
                run.acknowledge()
        position = run.position
    world.note("saved", position)


def replay(store: EventStore, world: World, failing: int) -> None:
    waiting = [place.position for place in store.parked(NAME)]

    def handler(event: Event) -> None:
        if event.position == failing:
            raise ValueError("again")
        world.note("unparking", event.position)

    store.replay_parked(NAME, handler)
    for position in waiting:
        if position != failing:
            world.note("unparked", position)


def record() -> tuple[FileSystem, list[Op]]:
    """Return the file system with the events, all durable, and the subscription's operations on it."""
    with scratch() as root:
        world = World(root)
        path = f"{root}/above/store"
        with open_store(path, create=True, disk=RecordingDisk(world)) as store:
            for number in range(EVENTS):
                store.append("s", [event(number)])
        first = len(world.ops)
        system = FileSystem()
        for op in world.ops:
            system.apply(op)
        with open_store(path, disk=RecordingDisk(world)) as store:
            consume(store, world, "..s.p")
            consume(store, world, "s.ps")
            replay(store, world, failing=4)
            world.note("resetting", 2)
            store.reset_subscription(NAME, 2)
            world.note("saved", 2)
            consume(store, world, "p.")
            replay(store, world, failing=0)
            consume(store, world, ".p")
            world.note("deleting", 0)
            store.delete_subscription(NAME)
            world.note("deleted", 0)
            consume(store, world, ".p")
        return system, world.ops[first:]


def moments() -> Iterator[tuple[int, FileSystem, Known, list[Op]]]:
    """Yield what is on the disk and known after each operation, and the operation that follows."""
    system, ops = record()
    known = Known()
    yield 0, system, known, ops[:1]
    for number, op in enumerate(ops, 1):
        system.apply(op)
        known.take_in(op)
        yield number, system, known, ops[number : number + 1]


def check(state: State, known: Known) -> None:
    with scratch() as root, open_store(materialise(state, root)) as store:
        try:
            info = store.subscription(NAME)
        except SubscriptionNotFound:
            assert not known.begun, "the subscription is missing"
        else:
            assert known.least <= info.position <= known.most or info.position == known.target
            listed = {place.position for place in store.parked(NAME)}
            assert known.parked <= listed <= known.parked | known.moving, "a parked event is lost, or added"
            for position in known.parked & listed:
                assert next(store.read_all(position - 1, position), None) is not None
        with store.subscribe(NAME, follow=False) as run:
            start = run.position
            assert [event.position for event in run] == list(range(start + 1, EVENTS + 1))
        assert store.subscription(NAME).position == EVENTS
        before = {place.position for place in store.parked(NAME)}
        store.reset_subscription(NAME, 0)
        store.consume(
            NAME,
            lambda event: 1 // (event.position - 1),
            follow=False,
            retries=1,
            retry_delay=0,
            on_failure="park",
        )
        assert {place.position for place in store.parked(NAME)} == before | {1}
        store.delete_subscription(NAME)
        assert store.subscriptions() == []


@pytest.mark.parametrize("how", ["killed", "power"])
def test_whatever_a_crash_leaves_no_event_is_passed_over_and_nothing_parked_is_lost(how: str) -> None:
    seen: set[tuple[bytes, str]] = set()
    for number, system, known, following in moments():
        dice = random.Random(number)
        states = (
            crash_states(system, dice, 7)
            if how == "power"
            else killed_states(system, following, 40, number % 40)
        )
        for state in states:
            key = (state.digest(), repr(known))
            if key in seen:
                continue
            seen.add(key)
            try:
                check(state, known)
            except Exception as error:
                raise AssertionError(f"after operation {number}, {known}") from error
    assert len(seen) >= (300 if how == "power" else 150)
