"""Two operations of one store at once: one stops at a request to the server while the other runs.

1. One table of operations for all engines. `check_pairs` runs every pair, stopped at every stride-th
   request.
2. While the first operation is stopped, so are the threads that it has started, as in a process that is
   suspended: its leases end. A second operation that waits for the first one waits until that continues.
3. Afterwards the promises are checked: what was acknowledged is there once, at its place, and nothing else
   is. Ids are refused for good, removed and redacted content cannot be read, and subscriptions skip nothing.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from traceback import extract_tb
from typing import Any
from uuid import UUID

import pytest

import evlog
from evlog import Event, EventStore, IfNone, NewEvent
from evlog.testing.base import LONG_SECONDS
from evlog.transfer.mirrors import Mirror, promote
from tests.crash.explore import step_of

Hook = Callable[[Callable[[], None]], AbstractContextManager[None]]
"""Calls a function before each request that the engine sends, inside the block."""

SAME = UUID(int=77)
KNOWN = UUID(int=1)
_BLOCKED_SECONDS = 0.5  # after which an operation counts as one that waits for the other
_TAG = "course:c"


class Scene:
    """A prepared store, and what the operations on it were told."""

    has_store = True

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.head = 0
        self.acknowledged: list[tuple[str, UUID, int, int, object]] = []
        self.refused: list[object] = []  # the data of appends that failed
        self.known: dict[UUID, NewEvent] = {}
        self.streams: dict[UUID, str] = {}
        self.delivered: list[int] = []  # by runs of the named subscription
        self.done: set[str] = set()
        self.kept: set[int] = set()  # versions of b-1 that were there once its policy was removed

    def append(self, store: EventStore, appends: list[tuple[str, list[NewEvent]]], **options: object) -> None:
        """Append, and note what is acknowledged, or refused."""
        try:
            results = store.append_many(appends, **options)  # type: ignore[arg-type]
        except evlog.AppendUnknown:
            raise
        except evlog.EvlogError:
            self.refused += [event.data for _, events in appends for event in events if event.id is None]
            raise
        for (stream, events), result in zip(appends, results, strict=True):
            for at, (event, id) in enumerate(zip(events, result.ids, strict=True)):
                place = id, result.first_position + at, result.first_version + at
                self.acknowledged.append((stream, *place, event.data))

    def prepare(self) -> None:
        """Make the store."""
        with evlog.open(self.url, create=True) as store:
            number = itertools.count(1)
            for stream in ("a-1", "b-1", "b-2", "a-1", "b-1", "b-2", "b-1"):
                event = NewEvent("T", f"old {stream}", id=UUID(int=next(number)))
                self.append(store, [(stream, [event])])
            with store.subscribe("known", follow=False) as run:
                for _ in range(2):
                    event_read = run.next_event(0)
                    assert event_read is not None
                    self.delivered.append(event_read.position)
                run.acknowledge()
            self.head = store.head

    def check(self) -> None:
        """Check what must be true afterwards."""
        with evlog.open(self.url) as store:
            assert store.verify().ok
            own = list(store.read_all(include_system=True))
            self._check_events(own, store.head)
            self._check_streams(store)
            if "moved" in self.done:
                self._check_moved()
            else:
                self._check_later(store)
                assert store.verify().ok

    def _check_events(self, own: list[Event], head: int) -> None:
        by_id = {event.id: event for event in own}
        assert len(by_id) == len(own), "an event is there twice"
        positions = [event.position for event in own]
        assert positions == sorted(set(positions))
        if not self._may_lack():
            assert positions == list(range(1, head + 1)), "positions have gaps"
        for stream, id, position, version, data in self.acknowledged:
            event = by_id.get(id)
            if event is None:
                assert stream in self._may_lack(), f"{stream} lacks {data} at {position}"
                continue
            assert (event.stream, event.position, event.version) == (stream, position, version)
            if f"redact {position}" in self.done:
                assert (event.redacted, event.json()) == (True, None)
            else:
                assert event.json() == data
        found = [event.json() for event in own if not event.stream.startswith("$") and not event.redacted]
        assert not [data for data in self.refused if data in found], "what was refused is there"
        assert sum(_TAG in event.tags for event in own) <= 1

    def _check_streams(self, store: EventStore) -> None:
        for stream in ("a-1", "a-2", "b-1", "b-2"):
            versions = [event.version for event in store.read(stream)]
            if stream not in self._may_lack():
                assert versions == list(range(1, len(versions) + 1))
            assert store.stream_version(stream) >= max(versions, default=0)
        if "retain" in self.done and store.retention("b-1").max_count:
            assert len(list(store.read("b-1"))) == 1
        elif "retain" in self.done:
            assert {event.version for event in store.read("b-1")} >= self.kept, "what was visible is removed"

    def _check_moved(self) -> None:
        with evlog.open(self.folder / "moved") as moved:
            there = {event.id: event.position for event in moved.read_all(include_system=True)}
            for stream, id, position, _, data in self.acknowledged:
                assert there.get(id) == position or stream in self._may_lack(), f"{data} was not moved"

    def _check_later(self, store: EventStore) -> None:
        """Check what later runs find: ids, the subscription, and the mirrors that were made."""
        for stream, id, position, _, data in self.acknowledged:
            again = store.append(stream, [NewEvent("T", data, id=id)])
            assert (again.duplicate, again.first_position) == (True, position), f"{data} was taken again"
        _run_known(self, store, "")
        missed = {event.position for event in store.read_all()} - set(self.delivered)
        assert not missed, f"a subscription has skipped {missed}"
        for copy in self.folder.glob("copy *"):
            with evlog.open(copy) as mirrored:
                evlog.mirror(store, mirrored)
                assert Mirror(store, mirrored).check().difference is None

    def _may_lack(self) -> set[str]:
        """Return the streams of which events may be removed."""
        return {
            stream
            for what, stream in (("retain", "b-1"), ("delete", "b-2"))
            if any(each.startswith(what) for each in self.done)
        }

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """Open the store, if it is there, as a long process has it open."""
        if not self.has_store:
            yield None
            return
        with evlog.open(self.url) as store:
            assert store.head == self.head
            yield store


Operation = Callable[[Any, Any, str], object]
"""Takes a scene, an open store, and the side of the pair: A or B."""

Table = dict[str, tuple[Operation, tuple[type[Exception], ...]]]
"""Operations, each with the errors that another one at the same time may cause."""


def _run_known(scene: Scene, store: EventStore, _: str) -> None:
    with store.subscribe("known", follow=False) as run:
        for event in run:
            scene.delivered.append(event.position)


def _follow(_: Scene, store: EventStore, __: str) -> None:
    with store.subscribe(after=0, follow=False) as run:
        positions = [event.position for event in run]
    assert positions == sorted(set(positions))
    there = [event.position for event in store.read_all(to=positions[-1])]
    assert set(there) <= set(positions)


def _retain(scene: Scene, store: EventStore, _: str) -> None:
    store.set_retention("b-1", max_count=1)
    scene.done.add("retain")
    store.compact(force=True)


def _relax(scene: Scene, store: EventStore, _: str) -> None:
    store.set_retention("b-1", clear=True)
    if not store.engine.removals():  # NATS shows events for a moment that are recorded as removed
        scene.kept = {event.version for event in store.read("b-1")}


def _delete(scene: Scene, store: EventStore, side: str) -> None:
    store.delete_stream("b-2")
    scene.done.add(f"delete {side}")
    store.compact(force=True)


def _redact(scene: Scene, store: EventStore, _: str, position: int = 1) -> None:
    store.redact(position, reason="r")
    scene.done.add(f"redact {position}")


def _mirror_out(scene: Scene, store: EventStore, side: str) -> None:
    evlog.mirror(store, scene.folder / f"copy {side}")


def _cut_over(scene: Scene, store: EventStore, _: str) -> None:
    evlog.mirror(store, scene.folder / "moved", cutover=True)
    scene.done.add("moved")


def _expecting(scene: Scene, store: EventStore, side: str) -> None:
    event = NewEvent("T", f"expecting {side}")
    try:
        result = store.append("a-1", [event], 2)
    except evlog.EvlogError:
        scene.refused.append(event.data)
        raise
    scene.acknowledged.append(("a-1", result.ids[0], result.first_position, result.first_version, event.data))
    assert result.first_version == 3


WRITES: Table = {
    "append": (lambda scene, store, side: scene.append(store, [("a-1", [NewEvent("T", side)])]), ()),
    "append, expected": (_expecting, (evlog.WrongExpectedVersion,)),
    "append, if none": (
        lambda scene, store, side: scene.append(
            store,
            [("a-1", [NewEvent("T", f"only {side}", tags=[_TAG])])],
            conditions=IfNone(f"tag={_TAG}"),
        ),
        (evlog.ConditionFailed,),
    ),
    "batch": (
        lambda scene, store, side: scene.append(
            store,
            [
                ("a-1", [NewEvent("T", f"{side} 1")]),
                (f"c-{side}", [NewEvent("T", f"{side} 2")]),
                ("b-1", [NewEvent("T", f"{side} 3"), NewEvent("T", f"{side} 4")]),
            ],
        ),
        (),
    ),
    "same id": (
        lambda scene, store, _: scene.append(store, [("a-2", [NewEvent("T", "same", id=SAME)])]),
        (),
    ),
    "resend": (
        lambda scene, store, _: scene.append(store, [("a-1", [NewEvent("T", "old a-1", id=KNOWN)])]),
        (),
    ),
    "subscription": (_run_known, (evlog.SubscriptionBusy,)),
    "follow": (_follow, ()),
    "mirror out": (_mirror_out, ()),
    "cutover": (_cut_over, (evlog.SubscriptionBusy, evlog.MirrorBusy)),
}
POLICIES: Table = {
    "redact": (_redact, (evlog.EventNotFound,)),
    "redact what is removed": (
        lambda scene, store, side: _redact(scene, store, side, 2),
        (evlog.EventNotFound,),
    ),
    "retain": (_retain, ()),
    "retain no more": (_relax, ()),
    "delete": (_delete, ()),
}


class Stop:
    """Stops the threads of one operation at its n-th request."""

    def __init__(self, request: int | None) -> None:
        self.requests = 0
        self._request = request
        self._mutex = threading.Lock()  # guards the three below
        self._others = {each.ident for each in threading.enumerate()}
        self._stopped: set[int | None] = set()
        self._is_over = False
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def before(self) -> None:
        me = threading.get_ident()
        with self._mutex:
            if self._is_over:
                return
            if not self.reached.is_set():
                if me in self._others:
                    return
                self.requests += 1
                if self._request is None or self.requests < self._request:
                    return
                self._stopped = {each.ident for each in threading.enumerate()} - self._others
                self.reached.set()
            elif me not in self._stopped:
                return
        assert self.go_on.wait(LONG_SECONDS)

    def end(self) -> None:
        with self._mutex:
            self._is_over = True
        self.go_on.set()


def _run(operation: Operation, scene: Scene, store: EventStore, side: str, found: dict[str, object]) -> None:
    try:
        operation(scene, store, side)
    except BaseException as error:  # noqa: BLE001 - judged below
        found[side] = error
    else:
        found[side] = None


def run_pair(
    scene: Scene, first: Operation, second: Operation, request: int, hook: Hook
) -> dict[str, object] | None:
    """Run both operations, the first one stopped at a request; return their errors.

    Returns:
        None if the first one has sent fewer requests.
    """
    found: dict[str, object] = {}
    with scene.opened() as one, scene.opened() as two:
        stop = Stop(request)
        a = threading.Thread(target=_run, args=(first, scene, one, "A", found), daemon=True)
        b = threading.Thread(target=_run, args=(second, scene, two, "B", found), daemon=True)
        with hook(stop.before):
            a.start()
            while not stop.reached.wait(0.002) and a.is_alive():
                pass
            if not stop.reached.is_set():
                a.join()
                return None
            b.start()
            b.join(_BLOCKED_SECONDS)
            stop.end()
            for thread in (a, b):
                thread.join(LONG_SECONDS)
                assert not thread.is_alive(), "an operation hangs"
    return found


# --- other scenes


class MirrorScene(Scene):
    """A mirror of a directory that has more events since, and has removed and redacted some."""

    def prepare(self) -> None:
        source = Scene(str(self.source), self.folder)
        source.prepare()
        with evlog.open(self.source) as store, evlog.open(self.url, create=True) as copy:
            evlog.mirror(store, copy)
            source.append(store, [("a-1", [NewEvent("T", f"new {number}")]) for number in range(3)])
            if copy.capabilities.redaction:
                store.redact(1, reason="r")
            store.set_retention("b-1", max_count=1)
            store.compact(force=True)
            self.head = copy.head

    @property
    def source(self) -> Path:
        """Return the path of the source."""
        return self.folder / "source"

    def check(self) -> None:
        with evlog.open(self.url) as store, evlog.open(self.source) as source:
            assert store.verify().ok
            own = {event.id: event for event in store.read_all()}
            assert len(own) == len(list(store.read_all()))
            for stream, id, position, version, _ in self.acknowledged:
                assert own[id][:3] == (position, version, stream)
            if "promote" not in self.done:
                if "cutover" not in self.done:
                    evlog.mirror(source, store)
                if not self.acknowledged:  # after a cutover
                    assert Mirror(source, store).check().difference is None
                there = {event.position for event in store.read_all()} - {
                    each[2] for each in self.acknowledged
                }
                assert there == {event.position for event in source.read_all()}
                assert [each.name for each in store.subscriptions()] == ["known"]


def _mirror_in(scene: Scene, store: EventStore, _: str) -> None:
    assert isinstance(scene, MirrorScene)
    evlog.mirror(scene.source, store)


def _cut_over_in(scene: Scene, store: EventStore, _: str) -> None:
    assert isinstance(scene, MirrorScene)
    evlog.mirror(scene.source, store, cutover=True)
    scene.done.add("cutover")


def _promote(scene: Scene, store: EventStore, _: str) -> None:
    promote(store)
    scene.done.add("promote")


_MIRROR = evlog.MirrorBusy, evlog.MirrorConflict
MIRROR: Table = {
    "mirror in": (_mirror_in, _MIRROR),
    "cutover in": (_cut_over_in, (*_MIRROR, evlog.StoreMoved, evlog.SubscriptionBusy)),
    "promote": (_promote, (evlog.MirrorBusy, evlog.InvalidArgument)),
    "append": (WRITES["append"][0], (evlog.StoreIsMirror,)),
    "follow": (_follow, ()),
}


class NewScene(Scene):
    """A store that is not there."""

    has_store = False

    def prepare(self) -> None:
        """Do nothing."""

    def check(self) -> None:
        with evlog.open(self.url, create=True) as store:
            found = [(event.id, event.position) for event in store.read_all()]
            assert found == sorted(
                ((each[1], each[2]) for each in self.acknowledged), key=lambda each: each[1]
            )
            assert store.verify().ok
            assert store.append("a-1", [NewEvent("T", 0)]).first_position == len(found) + 1


def _create(scene: Scene, _: EventStore | None, side: str) -> None:
    with evlog.open(scene.url, create=True) as store:
        scene.append(store, [("a-1", [NewEvent("T", side)])])


def _open(scene: Scene, _: EventStore | None, __: str) -> None:
    with evlog.open(scene.url) as store:
        assert store.head <= 1
        assert store.verify().ok


CREATE: Table = {
    "create": (_create, ()),
    "open": (_open, (evlog.StoreNotFound,)),
}


class RemovedScene(Scene):
    """A store that is removed, and perhaps made again."""

    def check(self) -> None:
        if "again" not in self.done:
            with pytest.raises(evlog.StoreNotFound):
                evlog.open(self.url)
            return
        with evlog.open(self.url) as store:
            assert [event.json() for event in store.read_all(include_system=True)] == ["again"]
            assert store.verify().ok


def removing(remove: Callable[[str], None]) -> Table:
    """Return the operations that remove a store, given what does it."""

    def remove_it(scene: Scene, _: EventStore, __: str) -> None:
        remove(scene.url)

    def make_again(scene: Scene, _: EventStore, __: str) -> None:
        remove(scene.url)
        with evlog.open(scene.url, create=True) as store:
            store.append("a-1", [NewEvent("T", "again")])
        scene.done.add("again")

    return {"remove": (remove_it, ()), "remove and make again": (make_again, ())}


GONE = evlog.StoreNotFound, evlog.StoreReplaced, evlog.StreamNotFound, evlog.EventNotFound

# --- all pairs


class Pairs:
    """All pairs of two tables on one engine.

    Args:
        new_url: names a store that is not there yet.
        folder: for mirrors.
        firsts: the operations that are stopped.
        seconds: those that run meanwhile; None: the same.
        may: errors that every first operation may raise.
    """

    def __init__(
        self,
        kind: type[Scene],
        new_url: Callable[[], str],
        folder: Path,
        hook: Hook,
        firsts: Table,
        seconds: Table | None = None,
        may: tuple[type[Exception], ...] = (),
    ) -> None:
        self._kind = kind
        self._new_url = new_url
        self._folder = folder
        self._hook = hook
        self._firsts = firsts
        self._seconds = firsts if seconds is None else seconds
        self._may = may

    def _scene(self) -> Scene:
        scene = self._kind(self._new_url(), Path(mkdtemp(dir=self._folder)))
        scene.prepare()
        return scene

    def requests(self, name: str) -> int:
        """Return how many requests an operation sends, with no other one meanwhile."""
        scene = self._scene()
        found: dict[str, object] = {}
        with scene.opened() as store:
            stop = Stop(None)
            thread = threading.Thread(target=_run, args=(self._firsts[name][0], scene, store, "A", found))
            with self._hook(stop.before):
                thread.start()
                thread.join(LONG_SECONDS)
        assert isinstance(found["A"], (type(None), *self._firsts[name][1])), found
        return stop.requests

    def schedules(self, stride: int) -> Iterator[tuple[str, str, int]]:
        """Iterate over every stride-th pair, stopped at every stride-th request, at least at one."""
        step = step_of(stride)
        requests: dict[str, int] = {}
        for number, (first, second) in enumerate(itertools.product(self._firsts, self._seconds)):
            if number % step:
                continue
            if first not in requests:
                requests[first] = self.requests(first)
            count = requests[first]
            for request in range(1 + number // step % min(step, count), count + 1, step):
                yield first, second, request

    def failure(self, first: str, second: str, request: int) -> str | None:
        """Run a pair; return what is wrong afterwards."""
        scene = self._scene()
        (one, may), (two, also) = self._firsts[first], self._seconds[second]
        try:
            found = run_pair(scene, one, two, request, self._hook)
            if found is None:
                return None
            for name, allowed in (("A", may + self._may), ("B", also)):
                error = found[name]
                moved = isinstance(error, evlog.StoreMoved) and "cutover" in (first, second)
                if error is not None and not moved and not isinstance(error, allowed):
                    return f"{name} raised {error!r} at {_place(error)}"
            scene.check()
        except (AssertionError, evlog.EvlogError) as error:
            return f"{error!r:.500} at {_place(error)}"
        return None


def _place(error: object) -> str:
    assert isinstance(error, BaseException)
    frames = reversed(extract_tb(error.__traceback__)[-3:])
    return " < ".join(f"{frame.name}:{frame.lineno}" for frame in frames)


SCENES = "a store", "a mirror", "a new store", "a store that is removed"


def pairs_of(
    scene: str, new_url: Callable[[], str], folder: Path, hook: Hook, remove: Callable[[str], None]
) -> Pairs:
    """Return the pairs of one of SCENES.

    Args:
        remove: removes the store with a URL from its server.
    """
    if scene == "a mirror":
        return Pairs(MirrorScene, new_url, folder, hook, MIRROR)
    if scene == "a new store":
        return Pairs(NewScene, new_url, folder, hook, CREATE)
    with evlog.open(new_url(), create=True) as store:
        table = WRITES | (POLICIES if store.capabilities.compaction else {})
    if scene == "a store":
        return Pairs(Scene, new_url, folder, hook, table)
    return Pairs(RemovedScene, new_url, folder, hook, table, removing(remove), may=GONE)


def check_pairs(pairs: Pairs, stride: int) -> None:
    """Run every stride-th pair, and fail with all that is wrong. EVLOG_TEST_STRIDE=1 runs all of them."""
    found, count = [], 0
    for first, second, request in pairs.schedules(stride):
        begun = time.monotonic()
        wrong = pairs.failure(first, second, request)
        count += 1
        line = f"{first} stopped at request {request}, {second}: {wrong} ({time.monotonic() - begun:.1f} s)"
        print(line, flush=True)
        if wrong is not None:
            found.append(line)
    assert count
    assert not found, f"{len(found)} of {count} pairs failed:\n" + "\n".join(found)


def check_compaction(url: str, folder: Path) -> None:
    """Check that a compaction removes only what is hidden then, and nothing once the store has moved."""
    with evlog.open(url, create=True) as store:
        for stream in ("b-1", "b-2", "b-3"):
            store.append(stream, [NewEvent("T", number) for number in range(3)])
        store.set_retention(category="b", max_count=1)
        with evlog.open(url) as other:

            def clear(*_: int) -> None:
                other.set_retention(category="b", clear=True)

            def move(*_: int) -> None:
                evlog.mirror(other, folder / "moved", cutover=True)

            assert store.compact(progress=clear).events_removed == 2
            assert sorted(info.events for info in store.streams()) == [1, 3, 3]
            store.set_retention(category="b", max_count=1)
            with pytest.raises(evlog.StoreMoved):
                store.compact(progress=move)
        left = [event.position for event in store.read_all()]
    with evlog.open(folder / "moved") as moved:
        assert [event.position for event in moved.read_all()] == left
