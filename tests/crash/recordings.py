"""Scenarios run on the test disk, recorded operation by operation, so that a crash after each can be made.

Each is deterministic, except the one with threads. Segments are small, so that a few appends roll. Batches
are of one event or several, of one stream or several, of every content type, one larger than two sectors.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from evlog.errors import StoreIOError
from evlog.files.disk.file_lock import FileLock
from evlog.files.format.paths import lock_path
from evlog.store import EventStore
from evlog.testing.base import in_threads
from tests.crash.check import materialise, open_store
from tests.crash.disk import RecordingDisk, World
from tests.crash.history import Append, Batch, History, Knowledge, event
from tests.crash.model import FileSystem, Op
from tests.crash.states import State, kept_state
from tests.support.contention import Crowd

FAST_DIRECTORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Recording(NamedTuple):
    """A world at the start, the operations on it, and what the clients knew at the start."""

    name: str
    start: FileSystem
    ops: list[Op]
    batches: list[Batch]
    known: Knowledge

    def moments(self) -> Iterator[tuple[int, FileSystem, Knowledge]]:
        """Yield the file system and the clients' knowledge before the first operation and after each."""
        system = self.start.copy()
        known = copy.deepcopy(self.known)
        known.batches = self.batches
        yield 0, system, known
        for number, op in enumerate(self.ops, 1):
            system.apply(op)
            known.take_in(op)
            yield number, system, known


@contextmanager
def scratch() -> Iterator[str]:
    """Yield a directory on a fast file system, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="evlog-crash-", dir=FAST_DIRECTORY) as directory:
        yield directory


def record(world: World, history: History, name: str, known: Knowledge | None = None) -> Recording:
    return Recording(name, world.start, world.ops, history.batches, known or Knowledge([]))


def sample_appends(first: int) -> list[list[Append]]:
    """Return seven appends of twelve events, which roll twice in segments of four; ids count from `first`."""
    n = first
    return [
        [("a", [event(n)])],
        [("b-1", [event(n + 1), event(n + 2, b"\0\xff" * 9, content_type="binary")])],
        [("a", [event(n + 3, "text", content_type="text", metadata={"who": "me"})])],
        [("a", [event(n + 4)]), ("b-1", [event(n + 5)])],
        [("c", [event(n + 6, {"long": "x" * 1100})])],
        [("b-1", [event(n + 7), event(n + 8)]), ("d", [event(n + 9)])],
        [("a", [event(n + 10)])],
        [("c", [event(n + 11)])],
    ]


def one_writer() -> Recording:
    """Create a store, fill it over two rolls, and open it again in between."""
    with scratch() as root:
        world = World(root)
        history = History(world)
        with open_store(f"{root}/above/store", create=True, disk=RecordingDisk(world)) as store:
            world.note("created", 0)
            for appends in sample_appends(0)[:5]:
                history.send(store, appends)
        with open_store(f"{root}/above/store", disk=RecordingDisk(world)) as store:
            for appends in sample_appends(0)[5:] + sample_appends(20)[:2]:
                history.send(store, appends)
        return record(world, history, "one_writer")


def unsynced_writers() -> Recording:
    """Have frames of several writers wait for one sync, and write more while it runs."""
    with scratch() as root:
        world = World(root)
        history = History(world)
        disk = RecordingDisk(world)
        path = f"{root}/above/store"
        with (
            open_store(path, create=True, disk=disk, segment_events=9) as durable,
            open_store(path, disk=RecordingDisk(world), sync="none") as lazy,
            open_store(path, disk=RecordingDisk(world), sync="none") as other,
        ):
            world.note("created", 0)
            lock = FileLock(lock_path(path), 0)
            number = 0
            written: list[int] = []

            def write(store: EventStore = lazy) -> None:
                nonlocal number
                appends = [(f"s-{number % 3}", [event(100 + number, {"n": "y" * (number * 37 % 300)})])]
                batch = history.sent(appends)
                history.batches[batch].results = store.append_many(appends)
                written.append(batch)
                number += 1

            def write_beside() -> None:
                if not lock.is_held():  # else it is the sync of a roll or of a recovery
                    write()

            for at in range(5):
                write(lazy)
                write(other)
                if at % 2:
                    write(lazy)
                disk.during_sync = write_beside
                before = list(written)
                history.send(durable, [("durable", [event(200 + at)])])
                disk.during_sync = None
                for batch in before:  # one sync serves everything that was written before it
                    world.note("acked", batch)
                    written.remove(batch)
        return record(world, history, "unsynced_writers")


def threads() -> Recording:
    """Have three writers append at once, in the scheduler's order."""
    with scratch() as root:
        world = World(root)
        history = History(world)
        path = f"{root}/above/store"
        open_store(path, create=True, disk=RecordingDisk(world), segment_events=6).close()
        world.note("created", 0)

        def write(writer: int) -> None:
            with open_store(path, disk=RecordingDisk(world)) as store:
                for at in range(4):
                    history.send(
                        store,
                        [
                            (f"w-{writer}", [event(100 * writer + at)]),
                            ("all", [event(1000 + 100 * writer + at)]),
                        ],
                    )

        in_threads(partial(write, writer) for writer in range(3))
        return record(world, history, "threads")


def crowded() -> Recording:
    """Have three writers wait for the lock at a time; one of them appends for all, over several rolls."""
    with scratch() as root:
        world = World(root)
        history = History(world)
        path = f"{root}/above/store"
        open_store(path, create=True, disk=RecordingDisk(world), segment_events=8).close()
        world.note("created", 0)
        with Crowd(path, [RecordingDisk(world) for _ in range(3)]) as crowd:
            for turn in range(6):
                outcomes = crowd.together(
                    *(partial(_send, history, f"w-{writer}", 100 * turn + 10 * writer) for writer in range(3))
                )
                assert [outcome for outcome in outcomes if isinstance(outcome, BaseException)] == []
                crowd.stores.append(crowd.stores.pop(0))
        return record(world, history, "crowded")


def _send(history: History, stream: str, number: int, store: EventStore) -> None:
    history.send(store, [(stream, [event(number + at) for at in range(1 + number % 3)])])


def failed_sync(number: int) -> Recording:
    """Fail the writer's n-th sync; open it again, retry, and continue."""
    with scratch() as root:
        world = World(root)
        history = History(world)
        path = f"{root}/above/store"
        open_store(path, create=True, disk=RecordingDisk(world)).close()
        world.note("created", 0)
        store = open_store(path, disk=RecordingDisk(world, fail_sync=number))
        for appends in sample_appends(0):
            batch = history.sent(appends)
            try:
                results = store.append_many(appends)
            except StoreIOError:
                store.close()
                store = open_store(path, disk=RecordingDisk(world))
                results = store.append_many(appends)
            history.acked(batch, results)
        store.close()
        return record(world, history, f"failed_sync({number})")


def recovery_after(recording: Recording, moment: int, state: State | None) -> Recording:
    """Recover from a crash: open the store, send everything unacknowledged again, and one more append.

    Args:
        moment: the number of operations that had been done.
        state: what the power loss left; None: the process was killed, and what it wrote may still be lost.
    """
    system, known = next((s, k) for number, s, k in recording.moments() if number == moment)
    batches = [
        Batch(batch.appends, batch.results if number in known.acked else None)
        for number, batch in enumerate(recording.batches)
    ]
    known = Knowledge(batches, list(known.sent), list(known.acked), known.created)
    with scratch() as root:
        materialise(kept_state(system) if state is None else state, root)
        world = World(root, system if state is None else FileSystem.of(state.files, state.directories))
        history = History(world, batches)
        with open_store(f"{root}/above/store", create=True, disk=RecordingDisk(world)) as store:
            world.note("created", 0)
            for number in [number for number in known.sent if number not in known.acked]:
                history.acked(number, store.append_many(batches[number].appends))
            history.send(store, [("recovered", [event(50_000)])])
            history.send(store, [("recovered", [event(50_001), event(50_002)]), ("a", [event(50_003)])])
        return record(world, history, f"recovery_after({recording.name}, {moment})", known)
