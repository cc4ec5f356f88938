"""The power fails, or a mirror into a directory is killed, at any of its disk calls: the next run goes on. So
does that of a fork.

What the last run had acknowledged is there, the next run copies the rest, and the store is sound.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from uuid import UUID

import pytest

import evlog
from evlog import EventStore, NewEvent
from evlog.testing.mirroring import everything
from evlog.transfer import fork
from tests.crash.check import materialise, open_store
from tests.crash.disk import RecordingDisk, World
from tests.crash.recordings import scratch
from tests.crash.states import State, crash_states, kept_state

pytestmark = pytest.mark.usefixtures("no_writer_at_work")

STATES_A_CALL = 3
EVERY = 3  # of the calls that are looked at


@pytest.fixture(scope="module")
def source() -> Iterator[EventStore]:
    """A store with gaps, policies, a deleted stream, and a subscription that has parked events."""
    with scratch() as root, open_store(f"{root}/source", create=True) as store:
        for number in range(10):
            store.append("abc"[number % 3], [NewEvent("T", number, id=UUID(int=number + 1)), NewEvent("U")])

        def fail(event: evlog.Event) -> None:
            raise ValueError(event.position)

        store.consume("n", fail, follow=False, retries=0, on_failure="park", types=["T"])
        store.delete_stream("a")
        store.compact()
        store.append("d", [NewEvent("T", 10)])
        yield store


def live_on(source: EventStore) -> None:
    """Remove events that were copied, in several segments."""
    source.set_retention("b", max_count=3)
    source.delete_stream("c")
    source.compact()
    for number in range(11, 14):
        source.append("abd"[number % 3], [NewEvent("T", number)])


def copy(source: EventStore, destination: EventStore, world: World | None = None) -> None:
    with evlog.Mirror(source, destination, piece_events=3) as mirror:

        def acknowledge(_done: int, _total: int) -> None:
            if world is not None:
                world.note("acked", mirror.result.position)

        mirror.copy(acknowledge)


def states(world: World) -> Iterator[tuple[str, State, int, bool]]:
    """Yield what crashes leave, with up to where was acknowledged, and whether the store was there."""
    system, acked, created = world.start.copy(), 0, False
    for number, op in enumerate(world.ops):
        system.apply(op)
        if op.kind == "note":
            acked, created = max(acked, op.token), True
        if number % EVERY:
            continue
        yield f"killed after call {number}", kept_state(system), acked, created
        for state in crash_states(system, random.Random(number), STATES_A_CALL):
            yield f"power loss after call {number}", state, acked, created


def test_a_mirror_goes_on_after_a_crash_at_any_call(source: EventStore) -> None:
    with scratch() as root:
        world = World(root)
        with open_store(f"{root}/above/store", create=True, disk=RecordingDisk(world)) as destination:
            world.note("created", 0)
            copy(source, destination, world)
            ever = set(everything(source))
            live_on(source)
            copy(source, destination, world)
            assert everything(destination) == everything(source)
    expected, seen = everything(source), set()
    ever.update(expected)
    for label, state, acked, created in states(world):
        if (key := (state.digest(), acked)) in seen:
            continue
        seen.add(key)
        with scratch() as root, open_store(materialise(state, root), create=True) as store:
            head = store.head
            assert head >= acked, label
            there = everything(store)
            assert ever.issuperset(there), label
            assert {event for event in expected if event.position <= head}.issubset(there), label
            assert not created or store.engine.standing.mirror_of or not acked, label
            copy(source, store)
            assert everything(store) == expected, label
            assert [place[:7] for place in store.parked("n")] == [place[:7] for place in source.parked("n")]
            assert store.subscription("n").position == source.subscription("n").position
            if state.digest()[0] % 8 == 0:  # it waits a second for indexes that a crash has taken
                report = store.verify()
                assert report.ok, (label, report.findings)
    assert len(seen) > 100


def test_a_fork_goes_on_after_a_crash_at_any_call(source: EventStore) -> None:
    with scratch() as root:
        world = World(root)
        with open_store(f"{root}/above/store", create=True, disk=RecordingDisk(world)) as destination:
            fork(source, destination)
    expected, seen = everything(source), set()
    for label, state, _, _ in states(world):
        if (key := state.digest()) in seen:
            continue
        seen.add(key)
        with scratch() as root, open_store(materialise(state, root), create=True) as store:
            standing = store.standing
            if store.head:
                assert standing.is_unfinished_fork or standing == evlog.Standing(), label
                with pytest.raises(evlog.MirrorConflict):
                    evlog.mirror(source, store)
            if standing.is_unfinished_fork or not store.head:
                fork(source, store)
            assert everything(store) == expected, label
            store.append("own", [NewEvent("T")])
    assert len(seen) > 20


def test_a_fork_from_before_redactions_goes_on_after_a_crash_at_any_call() -> None:
    with scratch() as root, open_store(f"{root}/source", create=True) as source:
        source.append("a", [NewEvent("T", {"secret": number}) for number in range(4)])
        at = source.head
        source.redact(2, reason="a request")
        source.redact(3, 4, reason="another one")
        world = World(root)
        with open_store(f"{root}/above/store", create=True, disk=RecordingDisk(world)) as destination:
            fork(source, destination, at=at)
            expected = described(destination)
        seen, own = set(), set()
        for label, state, _, _ in states(world):
            if (key := state.digest()) in seen:
                continue
            seen.add(key)
            with scratch() as place, open_store(materialise(state, place), create=True) as store:
                if store.standing.is_unfinished_fork or not store.head:
                    own.add(store.head - at)
                    if store.head > at:
                        with pytest.raises(evlog.MirrorConflict, match=f"up to position {at}; "):
                            fork(source, store)
                    fork(source, store, at=at)
                assert described(store) == expected, label
                assert store.verify().ok, label
        assert {0, 1, 2} <= own  # killed before, between and after the redactions


def described(store: EventStore) -> list[tuple[object, ...]]:
    """Return all but the ids, which each fork makes for the redactions of its own."""
    return [(*event[:4], *event[5:]) for event in everything(store)]
