"""Each operation on a store is stopped before each of its system calls, and each other operation runs there.

    python -m tests.concurrency.pairs [FIRST,… [SECOND,…]]

tries every call of every pair, which takes a day, and prints each failure and how the operations ended;
EVLOG_TEST_STRIDE=20 tries each 20th. The tests try a part of it (test_pairs.py). `Check` has the promises.
"""

from __future__ import annotations

import gc
import itertools
import os
import re
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID

import pytest

import evlog
from evlog import Event, EventStore, NewEvent
from evlog.errors import EvlogError
from evlog.files.check import files as check_files
from evlog.files.check import verify as check_verify
from evlog.files.compaction.compact import acquire_lock
from evlog.files.follow import snapshot_file
from evlog.files.format import paths
from evlog.files.log.manifest_file import read_manifest
from evlog.model.filters import LogSelection
from evlog.model.history import Standing
from evlog.transfer.export import export
from evlog.transfer.fork import fork
from evlog.transfer.mirrors import Mirror, promote
from tests.crash.explore import step_of
from tests.support.helpers import compress_all, engine_of, open_files, small_store
from tests.support.system_calls import Actor, installed

STORES: Final = ("main", "copy", "mirror")
MODES: Final = ("cold", "warm", "shared")  # see Scene
# How an operation may end because of another one; anything else is a failure.
REFUSALS: Final = (
    evlog.CompactionRunning,
    evlog.ConditionFailed,
    evlog.InvalidArgument,
    evlog.MirrorBusy,
    evlog.MirrorConflict,
    evlog.StoreBusy,
    evlog.StoreDiverged,
    evlog.StoreIsMirror,
    evlog.StoreMoved,
    evlog.StreamTombstoned,
    evlog.SubscriptionBehind,
    evlog.SubscriptionBusy,
    evlog.SubscriptionNotFound,
    evlog.LockTimeout,
    evlog.WrongExpectedVersion,
)
SUBSCRIPTION: Final = "sub"
SECRET: Final = b"TOPSECRET"
PATIENCE_SECONDS: Final = 5.0  # with the second operation, before the first one goes on
SHARED_PATIENCE_SECONDS: Final = 0.1  # where both use one object, whose mutexes cannot be seen


class Fact(NamedTuple):
    """An event that was acknowledged."""

    position: int
    stream: str
    version: int
    id: UUID
    data: bytes


def fact_of(event: Event) -> Fact:
    return Fact(event.position, event.stream, event.version, event.id, event.data)


class Scene:
    """Three stores in a directory, and what is known of them.

    Args:
        mode: "cold": each operation opens the store itself; "warm": with an object that has read and
            appended before; "shared": both use one such object.
    """

    def __init__(self, root: str, template: Template, mode: str) -> None:
        self.root = root
        self.acked: dict[str, list[Fact]] = {name: [*template.facts] for name in STORES}
        self.delivered = set(template.delivered)
        self.removable: set[str] = {"old-1", "gone-1"}
        self.kept: set[int] = set()  # positions that were visible once nothing hid them
        self.notes: list[str] = []  # wrong answers that an operation got
        self.is_moved = self.is_promoted = self.is_reset = False
        self._numbers = itertools.count(1000)
        self._mode = mode
        self._warm: dict[tuple[int, str], EventStore] = {}

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def open(self, name: str) -> EventStore:
        return small_store(self.path(name), lock_timeout=None)

    def warm_up(self, number: int, names: Iterable[str]) -> None:
        """Open the stores for the first (0) or second operation, and look at what is in them."""
        if self._mode == "cold":
            return
        for name in names:
            key = (0 if self._mode == "shared" else number, name)
            if key not in self._warm:
                store = self._warm[key] = self.open(name)
                for _ in store.read_all():
                    pass
                if name == "main":
                    self.append(name, store, f"warm-{number}")

    @contextmanager
    def store(self, number: int, name: str) -> Iterator[EventStore]:
        warm = self._warm.get((0 if self._mode == "shared" else number, name))
        if warm is not None:
            yield warm
            return
        with self.open(name) as store:
            yield store

    def close(self) -> None:
        for store in self._warm.values():
            store.close()
        self._warm.clear()

    def append(
        self,
        name: str,
        store: EventStore,
        stream: str,
        count: int = 1,
        expected: int | str = "any",
        **more: Any,
    ) -> None:
        """Append, and note what was acknowledged."""
        numbers = [next(self._numbers) for _ in range(count)]
        events = [NewEvent("T", {"n": number}, id=UUID(int=number << 64 | number)) for number in numbers]
        done = store.append(stream, events, expected, **more)
        for at, event in enumerate(events):
            assert isinstance(event.id, UUID)
            data = b'{"n":%d}' % numbers[at]
            self.acked[name].append(
                Fact(done.first_position + at, stream, done.first_version + at, event.id, data)
            )


class Template(NamedTuple):
    """The stores as every scene begins with them."""

    root: str
    facts: list[Fact]
    delivered: set[int]
    secrets: list[int]  # positions; the first one is redacted already


def make_template(root: str) -> Template:
    """Make the stores: compacted, compressed, with policies, a redaction, a subscription and snapshots."""
    numbers = itertools.count(1)

    def add(store: EventStore, stream: str, **more: Any) -> None:
        number = next(numbers)
        data = {"n": number, "text": "the same words again " * 3}
        if stream.startswith("secret"):
            data["text"] = f"{SECRET.decode()}-{number}"
        store.append(stream, [NewEvent(f"T{number % 2}", data, id=UUID(int=number << 64 | number), **more)])

    def fold(state: int, event: Event) -> int:
        return state + 1

    path = f"{root}/main"
    delivered = set()
    with small_store(path) as store:
        for _ in range(3):
            for stream in ("keep-0", "old-1", "keep-1", "secret-1", "gone-1"):
                add(store, stream, tags=["t:1"] if stream == "keep-1" else [])
        facts = [fact_of(event) for event in store.read_all()]
        store.set_retention("old-1", max_count=1)
        store.compact(compress=True)
        with store.subscribe(SUBSCRIPTION, category="keep", follow=False) as run:
            for event in itertools.islice(run, 4):
                delivered.add(event.position)
                if event.position == 3:
                    run.park(event, "no")
        store.state(None, evlog.Fold(fold, 0, name="count"), snapshot="count")
        store.state("keep-0", evlog.Fold(fold, 0, name="count"), snapshot="count")
        evlog.backup_store(path, f"{root}/copy")
        evlog.mirror(store, f"{root}/mirror")
        for _ in range(2):
            for stream in ("keep-0", "old-1", "keep-1", "secret-1"):
                add(store, stream)
        store.delete_stream("gone-1")
        secrets = [event.position for event in store.read("secret-1")]
        store.redact(secrets[1], reason="asked")
        facts += [fact_of(event) for event in store.read_all(after=facts[-1].position)]
        add(store, "keep-0")
        fold_texts(store)
        store.state("keep-0", evlog.Fold(fold, 0, name="count"), snapshot="count")
        facts += [fact_of(event) for event in store.read_all(after=facts[-1].position)]
    return Template(root, facts, delivered, [secrets[1], secrets[2], secrets[-1]])


def copy_tree(source: str, target: str) -> None:
    """Copy a directory in memory; files with two names have two names in the copy."""
    known: dict[int, str] = {}
    for place, _, names in os.walk(source):
        below = target + place[len(source) :]
        os.mkdir(below)
        for name in names:
            inode = os.stat(f"{place}/{name}").st_ino
            if inode in known:
                os.link(known[inode], f"{below}/{name}")
            else:
                known[inode] = f"{below}/{name}"
                Path(f"{below}/{name}").write_bytes(Path(f"{place}/{name}").read_bytes())


# --- operations


class Operation(NamedTuple):
    """Something that is done to the stores.

    Args:
        run: called with the scene and the number of the operation in the pair.
        writes, reads: which stores it changes or only reads.
        prepare: called before everything.
    """

    name: str
    run: Callable[[Scene, int], object]
    writes: str = ""
    reads: str = ""
    prepare: Callable[[Scene], object] = lambda _: None

    @property
    def stores(self) -> set[str]:
        return {*self.writes.split(), *self.reads.split()}


OPERATIONS: Final[dict[str, Operation]] = {}


def operation(
    writes: str = "", reads: str = "", prepare: Callable[[Scene], object] = lambda _: None
) -> Callable[[Callable[[Scene, int], object]], None]:
    def add(run: Callable[[Scene, int], object]) -> None:
        name = run.__name__.strip("_")
        OPERATIONS[name] = Operation(name, run, writes, reads, prepare)

    return add


@operation("main")
def _append(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store:
        scene.append("main", store, f"own-{number}")


@operation("main")
def _append_batch(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store:
        scene.append("main", store, f"own-{number}", 7)
        scene.append("main", store, f"own-{number}", 3)


@operation("main")
def _append_expected(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store:
        version = store.stream_version("keep-0")
        none = evlog.IfNone("tag=t:1", after=store.head)
        scene.append("main", store, "keep-0", expected=version, conditions=none)


@operation("main")
def _append_known(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store:
        for fact in scene.acked["main"][:20]:
            if fact.stream in ("old-1", "keep-0"):
                text = {"n": fact.id.int >> 64, "text": "the same words again " * 3}
                done = store.append(fact.stream, [NewEvent(f"T{(fact.id.int >> 64) % 2}", text, id=fact.id)])
                if not done.duplicate or done.first_position != fact.position:
                    scene.notes.append(f"a known id was appended again: {done}")


@operation("main")
def _transact(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store:
        event_id = UUID(int=77 + number)
        event = NewEvent("D", {"n": number}, id=event_id)
        (done,) = store.transact("keep-1", lambda _: [event])
        scene.acked["main"].append(
            Fact(done.first_position, "keep-1", done.first_version, event_id, b'{"n":%d}' % number)
        )


@operation("main")
def _retain(scene: Scene, number: int) -> None:
    scene.removable.add("keep-1")
    with scene.store(number, "main") as store:
        store.set_retention("keep-1", max_count=4)


@operation("main")
def _retain_no_more(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store:
        store.set_retention("old-1", clear=True)
        scene.kept.update(event.position for event in store.read("old-1"))


@operation("main")
def _delete_stream(scene: Scene, number: int) -> None:
    scene.removable |= {"keep-1"}
    with scene.store(number, "main") as store:
        store.delete_stream("keep-1", tombstone=number == 1)


@operation("main")
def _redact(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store:
        secrets = [event.position for event in store.read("secret-1")]
        store.redact(*secrets[2:4], reason="asked")
    scene.removable.add("$redacted")


@operation("main")
def _compact(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store:
        store.compact(force=True)


@operation("main")
def _compact_checked(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store:
        store.compact()


@operation("main")
def _compress(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store:
        store.compact(compress=True, force=True)


def expect_in_order(scene: Scene, what: str, positions: list[int]) -> None:
    if positions != sorted(set(positions)):
        scene.notes.append(f"{what} {positions}")


@operation(reads="main")
def _read(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store:
        floor = len(scene.acked["main"])
        first = store.head
        seen = [event.position for event in store.read_all()]
        seen_keep = [event.version for event in store.read("keep-0")]
        expect_in_order(scene, "read_all gave", seen)
        expected = {
            fact.position
            for fact in scene.acked["main"][:floor]
            if fact.position <= first and fact.stream not in {*scene.removable, "keep-1"}
        }
        if missing := expected.difference(seen):
            scene.notes.append(f"read_all lacks {missing}")
        if seen_keep != list(range(1, len(seen_keep) + 1)) or len(seen_keep) < 6:
            scene.notes.append(f"read gave the versions {seen_keep}")


@operation(reads="main")
def _look(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store:
        names = {info.stream for info in store.streams()}
        if not {"keep-0", "secret-1"} <= names:
            scene.notes.append(f"streams gave {names}")
        store.info()
        [*store.read_all(types=["T1"], tags=["t:1"])]
        [*store.read_all(reverse=True, category="keep")]
        for fact in scene.acked["main"][:30]:
            with suppress(evlog.EventNotFound):
                if store.get(fact.id).position != fact.position:
                    scene.notes.append("an id is elsewhere")
        store.policies(), store.subscriptions(), store.snapshots(), store.redactions(), store.schemas()


@operation(reads="main")
def _follow(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store, store.subscribe(after=12) as run:
        seen = []
        while (event := run.next_event(0)) is not None:
            seen.append(event.position)
        expect_in_order(scene, "a follower got", seen)
        facts = [fact.position for fact in scene.acked["main"] if fact.stream in ("keep-0", "secret-1")]
        if missing := {position for position in facts[:10] if position > 12}.difference(seen):
            scene.notes.append(f"a follower missed {missing}")


@operation("main")
def _subscription(scene: Scene, number: int) -> None:
    with (
        scene.store(number, "main") as store,
        store.subscribe(SUBSCRIPTION, category="keep", follow=False) as run,
    ):
        for event in run:
            scene.delivered.add(event.position)
            if event.version % 3 == 0:
                run.save()
            if event.version == 4:
                run.park(event, "no")


@operation("main")
def _replay(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store:
        store.replay_parked(SUBSCRIPTION, lambda event: scene.delivered.add(event.position))


@operation("main")
def _reset_subscription(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store:
        store.reset_subscription(SUBSCRIPTION, to=2)


@operation("main")
def _delete_subscription(scene: Scene, number: int) -> None:
    scene.is_reset = True
    with scene.store(number, "main") as store:
        store.delete_subscription(SUBSCRIPTION)


@operation("main")
def _new_subscription(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store, store.subscribe("new", follow=False) as run:
        [*itertools.islice(run, 5)]


def texts(state: list[str], event: Event) -> list[str]:
    return [*state, event.data.decode()]


def fold_texts(store: EventStore, stream: str | None = None) -> None:
    store.state(stream, evlog.Fold(texts, list, name="texts"), snapshot="texts")


@operation("main")
def _fold(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store:
        fold_texts(store)
        fold_texts(store, "secret-1")


@operation("main")
def _delete_snapshots(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store:
        for info in store.snapshots():
            with suppress(evlog.SnapshotNotFound):
                store.delete_snapshot(info.name, info.stream)


@operation("main")
def _schema(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store:
        store.set_schema("Z", {"type": "object"})


def expect_sound(scene: Scene, what: str, findings: Any) -> None:
    found = [finding for finding in findings if finding.severity == "damage"]
    if found:
        scene.notes.append(f"{what} found {found}")


@operation(reads="main")
def _verify(scene: Scene, number: int) -> None:
    expect_sound(scene, "verify", evlog.verify_store(scene.path("main")).findings)


@operation(reads="main")
def _verify_quick(scene: Scene, number: int) -> None:
    expect_sound(scene, "verify", evlog.verify_store(scene.path("main"), quick=True).findings)


def spoil(scene: Scene) -> None:
    """Leave what crashes leave: missing or damaged indexes, a torn tail, temporary files."""
    segments = Path(scene.path("main"), "segments")
    sealed = sorted(segments.glob("*.streams"))
    for path, content in ((sealed[1], b"x"), (segments / "filter", b"x")):
        path.unlink()  # another process may have mapped it
        path.write_bytes(content)
    sealed[0].unlink()
    min(segments.glob("*.offsets")).unlink()
    (segments / "00000000000000000001.7.log").write_bytes(b"")
    (segments / f"{sealed[0].name}.0badcafe.tmp").write_bytes(b"")
    Path(scene.path("main"), "manifest.json.tmp").write_bytes(b"x")


def tear(scene: Scene) -> None:
    """Leave a torn frame at the log's end."""
    manifest = read_manifest(scene.path("main"))
    path = manifest.segments[-1].path(scene.path("main"), "log")
    content = Path(path).read_bytes().rstrip(b"\0")
    Path(path).write_bytes(content + content[-100:])


@operation("main", prepare=spoil)
def _repair(scene: Scene, number: int) -> None:
    expect_sound(scene, "repair", evlog.repair_store(scene.path("main")).report.findings)


@operation("main", prepare=tear)
def _recover(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store:
        scene.append("main", store, f"own-{number}")


@operation("main", prepare=tear)
def _repair_end(scene: Scene, number: int) -> None:
    expect_sound(scene, "repair", evlog.repair_store(scene.path("main")).report.findings)


@operation("main", prepare=spoil)
def _rebuild(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store:
        scene.append("main", store, f"own-{number}")
        [*store.read("keep-0")]


@operation(reads="main")
def _salvage(scene: Scene, number: int) -> None:
    out = f"{scene.root}/salvaged-{number}"
    report = evlog.salvage_store(scene.path("main"), out)
    if report.losses:
        scene.notes.append(f"salvage lost {report.losses}")
    expect_sound(scene, "verify of what was salvaged", evlog.verify_store(out).findings)


@operation("copy", reads="main")
def _backup(scene: Scene, number: int) -> None:
    expect_sound(scene, "backup", evlog.backup_store(scene.path("main"), scene.path("copy")).findings)


@operation(reads="main")
def _backup_new(scene: Scene, number: int) -> None:
    out = f"{scene.root}/backup-{number}"
    expect_sound(scene, "backup", evlog.backup_store(scene.path("main"), out).findings)
    with evlog.open(out) as store:
        [*store.subscribe(SUBSCRIPTION, follow=False)]


@operation("mirror", reads="main")
def _mirror(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as source, scene.store(number, "mirror") as target:
        evlog.mirror(source, target)


@operation("main mirror")
def _cutover(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as source, scene.store(number, "mirror") as target:
        evlog.mirror(source, target, cutover=True)
        scene.is_moved = True


@operation(reads="main")
def _fork(scene: Scene, number: int) -> None:
    out = f"{scene.root}/fork-{number}"
    with scene.store(number, "main") as source, small_store(out) as target:
        fork(source, target)
        expect_sound(scene, "verify of a fork", target.verify().findings)
        target.append("x", [NewEvent("T")])


@operation(reads="main")
def _export(scene: Scene, number: int) -> None:
    with scene.store(number, "main") as store:
        path = f"{scene.root}/export.jsonl"
        export(path, store.read_all, append=True, head=store.head)
        positions = [line.split(b",")[0] for line in Path(path).read_bytes().splitlines()]
        if len(positions) != len(set(positions)):
            scene.notes.append("an export has an event twice")


@operation("main")
def _import(scene: Scene, number: int) -> None:
    with small_store(f"{scene.root}/other-{number}") as other, scene.store(number, "main") as store:
        other.append("imported", [NewEvent("T", {"n": at}, id=UUID(int=500 + at)) for at in range(12)])
        evlog.mirror(other, store, merge=True)


# --- operations on the copy and on the mirror


@operation("copy")
def _append_to_copy(scene: Scene, number: int) -> None:
    with scene.store(number, "copy") as store:
        scene.append("copy", store, f"own-{number}", 5)


@operation("copy")
def _compact_copy(scene: Scene, number: int) -> None:
    with scene.store(number, "copy") as store:
        store.compact(force=True, compress=True)


@operation("copy")
def _subscription_of_copy(scene: Scene, number: int) -> None:
    with (
        scene.store(number, "copy") as store,
        store.subscribe(SUBSCRIPTION, category="keep", follow=False) as run,
    ):
        positions = [event.position for event in run]
        expect_in_order(scene, "the copy's subscription gave", positions)


@operation(reads="copy")
def _read_copy(scene: Scene, number: int) -> None:
    with scene.store(number, "copy") as store:
        positions = [event.position for event in store.read_all()]
        expect_in_order(scene, "the copy gave", positions)
        [*store.read("keep-0")]


@operation(reads="copy")
def _verify_copy(scene: Scene, number: int) -> None:
    expect_sound(scene, "verify of the copy", evlog.verify_store(scene.path("copy")).findings)


@operation("copy")
def _repair_copy(scene: Scene, number: int) -> None:
    expect_sound(scene, "repair of the copy", evlog.repair_store(scene.path("copy")).report.findings)


@operation("copy")
def _fold_copy(scene: Scene, number: int) -> None:
    with scene.store(number, "copy") as store:
        fold_texts(store)


@operation("mirror")
def _compact_mirror(scene: Scene, number: int) -> None:
    with scene.store(number, "mirror") as store:
        store.compact(force=True, compress=True)


@operation(reads="mirror")
def _read_mirror(scene: Scene, number: int) -> None:
    with scene.store(number, "mirror") as store:
        positions = [event.position for event in store.read_all()]
        expect_in_order(scene, "the mirror gave", positions)
        with store.subscribe() as run:
            while run.next_event(0) is not None:
                pass


@operation(reads="mirror")
def _verify_mirror(scene: Scene, number: int) -> None:
    expect_sound(scene, "verify of the mirror", evlog.verify_store(scene.path("mirror")).findings)


@operation("mirror")
def _repair_mirror(scene: Scene, number: int) -> None:
    expect_sound(scene, "repair of the mirror", evlog.repair_store(scene.path("mirror")).report.findings)


@operation("mirror")
def _fold_mirror(scene: Scene, number: int) -> None:
    with scene.store(number, "mirror") as store:
        fold_texts(store)


@operation("mirror")
def _promote(scene: Scene, number: int) -> None:
    with scene.store(number, "mirror") as store:
        promote(store)
        scene.is_promoted = True
        scene.append("mirror", store, f"own-{number}")


@operation(reads="mirror")
def _backup_mirror(scene: Scene, number: int) -> None:
    out = f"{scene.root}/mirrored-{number}"
    expect_sound(scene, "backup", evlog.backup_store(scene.path("mirror"), out).findings)


# --- checks


class Check:
    """What is promised once both operations have ended."""

    def __init__(self, scene: Scene, template: Template, stores: set[str]) -> None:
        self.scene = scene
        self.template = template
        self.stores = stores

    def run(self, follower: Any, seen: list[int]) -> None:
        scene = self.scene
        assert scene.notes == []
        for name in self.stores:
            report = evlog.verify_store(scene.path(name))
            assert report.ok, (name, report.findings)
        self._check_follower(follower, seen)
        self._check_erased("main", paths.SNAPSHOTS)
        with scene.open("main") as store:
            self._check_events("main", store)
            self._check_takes_more("main", store)
            if store.standing == Standing():
                self._check_subscription(store)
            self._check_snapshots(store)
        if "copy" in self.stores:
            self._check_copy()
        if "mirror" in self.stores:
            self._check_mirror()
        with scene.open("main") as store:
            if store.standing != Standing():
                return
            store.compact(force=True)
        self._check_files("main")

    def _check_events(self, name: str, store: EventStore) -> None:
        scene = self.scene
        events = list(store.engine.read_all(LogSelection()))
        positions = [event.position for event in events]
        assert positions == sorted(set(positions))
        assert len({event.id for event in events}) == len(events)
        versions: dict[str, int] = {}
        for event in events:
            if event.stream not in scene.removable and event.stream[0] != "$":
                assert event.version == versions.get(event.stream, 0) + 1, (name, event)
            versions[event.stream] = event.version
        found = {event.position: event for event in events}
        for fact in scene.acked[name]:
            there = found.get(fact.position)
            if there is None:
                assert fact.stream in scene.removable, (name, "lost", fact)
            else:
                assert fact_of(there)[:4] == fact[:4], (name, there, fact)
                assert there.redacted or there.data == fact.data, (name, there, fact)
        assert name != "main" or scene.kept <= found.keys(), "what was visible is removed"
        ids = [fact.id.bytes for fact in scene.acked[name]]
        known = engine_of(store).find_ids(ids)
        for fact in scene.acked[name]:
            assert known.get(fact.id.bytes) == fact.position, (name, "not known", fact)
        for event in events[-30:]:
            if event.stream[0] != "$":
                assert [each.position for each in store.read(event.stream, event.version, event.version)] in (
                    [event.position],
                    [],
                )

    def _check_takes_more(self, name: str, store: EventStore) -> None:
        if store.standing != Standing():
            with pytest.raises(EvlogError):
                store.append("more", [NewEvent("T")])
            return
        head = store.head
        self.scene.append(name, store, "more")
        fact = self.scene.acked[name][-1]
        assert fact.position == head + 1
        again = store.append("more", [NewEvent("T", fact.data, id=fact.id)])
        assert (again.duplicate, again.first_position) == (True, fact.position)
        for known in self.scene.acked[name][20:]:
            if known.stream.startswith("own-"):
                again = store.append(known.stream, [NewEvent("T", known.data, id=known.id)])
                assert (again.duplicate, again.first_position) == (True, known.position)

    def _check_follower(self, follower: Any, seen: list[int]) -> None:
        scene = self.scene
        wanted = {fact.position for fact in scene.acked["main"] if fact.stream not in scene.removable}
        # Where a mark is missing, a follower syncs the log itself after a second.
        while (event := follower.next_event(0 if wanted <= set(seen) else 5)) is not None:
            seen.append(event.position)
        follower.close()
        assert seen == sorted(set(seen))
        assert wanted <= set(seen), ("the follower missed", wanted.difference(seen))

    def _check_subscription(self, store: EventStore) -> None:
        scene = self.scene
        try:
            with store.subscribe(SUBSCRIPTION, category="keep", follow=False) as run:
                for event in run:
                    scene.delivered.add(event.position)
        except evlog.SubscriptionBusy:
            raise AssertionError("the subscription is still busy") from None
        except evlog.InvalidArgument:
            assert scene.is_reset
        wanted = {
            fact.position
            for fact in scene.acked["main"]
            if fact.stream.startswith("keep") and fact.stream not in scene.removable
        }
        assert wanted <= scene.delivered, ("not delivered", wanted - scene.delivered)

    def _check_snapshots(self, store: EventStore) -> None:
        for stream in (None, "secret-1"):
            kept = store.state(stream, evlog.Fold(texts, list, name="texts"), snapshot="texts")
            assert kept.value == store.state(stream, texts, []).value

    def _check_copy(self) -> None:
        scene = self.scene
        has_own = len(scene.acked["copy"]) > len(self.template.facts)
        with scene.open("copy") as copy:
            if copy.standing != Standing():  # copied when the source had moved
                return
            own = scene.acked["copy"]
            if has_own:
                events = {event.position: event for event in copy.read_all()}
                for fact in own[len(self.template.facts) :]:
                    assert fact_of(events[fact.position]) == fact
            [*copy.subscribe(SUBSCRIPTION, follow=False)]
            assert copy.compact(force=True)
        if has_own:
            self._check_files("copy")
            return
        if not _is_compacted(scene.path("copy")):  # its compaction has appended to the copy
            report = evlog.backup_store(scene.path("main"), scene.path("copy"))
            assert report.findings == ()
            with scene.open("copy") as copy, scene.open("main") as main:
                assert list(copy.read_all()) == list(main.read_all())
        self._check_files("copy")

    def _check_mirror(self) -> None:
        scene = self.scene
        with scene.open("mirror") as mirror, scene.open("main") as main:
            if scene.is_promoted or mirror.standing == Standing():
                own = scene.acked["mirror"][len(self.template.facts) :]
                events = {event.position: event for event in mirror.read_all()}
                for fact in own:
                    assert fact_of(events[fact.position]) == fact
            elif main.standing == Standing():
                evlog.mirror(main, mirror)
                self._check_erased("mirror", paths.SNAPSHOTS)
                assert Mirror(main, mirror).check().ok
                assert mirror.head == main.head
                with suppress(evlog.StoreIsMirror):  # it is compacted with its source
                    mirror.compact(force=True)
            if scene.is_moved and not scene.is_promoted:
                self._check_events_of_moved(main, mirror)
        self._check_files("mirror")

    def _check_events_of_moved(self, main: EventStore, mirror: EventStore) -> None:
        assert main.standing != Standing()
        places = engine_of(mirror).find_ids([event.id_bytes for event in main.read_all()])
        for event in main.read_all():
            assert places.get(event.id_bytes) == event.position, ("not moved", event)

    def _check_files(self, name: str) -> None:
        """Check that no file is left over, and that none has what was erased."""
        path = self.scene.path(name)
        manifest = read_manifest(path)
        for file in os.listdir(paths.segments_path(path)):
            meaning = paths.maybe_parse_segment_name(file)
            assert file == paths.FILTER or (meaning and manifest.names(meaning)), (name, file)
        assert not [file for *_, files in os.walk(path) for file in files if file.endswith(paths.TEMPORARY)]
        if name == "main":
            self._check_erased(name)

    def _check_erased(self, name: str, directory: str = "") -> None:
        """Check that no file has what readers see as redacted."""
        with self.scene.open(name) as store:
            redacted = {event.id.int >> 64 for event in store.read_all() if event.redacted}
        for place, _, files in os.walk(f"{self.scene.path(name)}/{directory}"):
            for file in files:
                found = re.findall(rb"%s-(\d+)" % SECRET, Path(place, file).read_bytes())
                assert not redacted & set(map(int, found)), ("not erased", name, file)


def _is_compacted(path: str) -> bool:
    with evlog.open(path) as store:
        return store.stream_version("$compactions") > 2


# --- running


def pairs() -> Iterator[tuple[str, str]]:
    """Yield the pairs of operations of which one can notice the other."""
    for first, second in itertools.product(OPERATIONS.values(), repeat=2):
        if {*first.writes.split()} & second.stores or {*second.writes.split()} & first.stores:
            yield first.name, second.name


class Outcome(NamedTuple):
    """How one schedule ended."""

    stopped: bool  # whether the first operation came to the call
    first: str  # "ok", or the name of an error
    second: str
    failure: str


def try_schedule(template: Template, first: str, second: str, call: int, mode: str) -> Outcome:
    """Stop the first operation before a call, run the second one, and check."""
    one, two = OPERATIONS[first], OPERATIONS[second]
    with tempfile.TemporaryDirectory(dir=os.path.dirname(template.root), prefix="evlog-pair-") as place:
        root = f"{place}/root"
        copy_tree(template.root, root)
        scene = Scene(root, template, mode)
        follower_store = scene.open("main")
        follower = follower_store.subscribe()
        seen = [event.position for event in itertools.islice(follower, 5)]
        for number, each in enumerate((one, two)):
            scene.warm_up(number, sorted(each.stores))
        for prepare in {one.prepare, two.prepare}:
            prepare(scene)
        only_changes = not two.writes
        a = Actor(lambda: one.run(scene, 0), call, only_changes=only_changes)
        b = Actor(lambda: two.run(scene, 1))
        failure = ""
        ends: list[Any] = []
        try:
            stopped = a.start_and_stop()
            patience = SHARED_PATIENCE_SECONDS if mode == "shared" else PATIENCE_SECONDS
            if stopped:
                b.run_or_wait(patience)
            ends.append(a.finish())
            if not stopped:
                b.start()
            ends.append(b.finish())
            scene.close()
            for end in ends:
                if isinstance(end, BaseException) and not isinstance(end, REFUSALS):
                    raise end
            Check(scene, template, one.stores | two.stores).run(follower, seen)
            follower_store.close()
        except Exception:  # noqa: BLE001 - any error is a finding
            failure = traceback.format_exc()
            scene.close()
    one_end, two_end, *_ = [*map(_name_of, ends), "", ""]
    return Outcome(stopped, one_end, two_end, failure)


def _name_of(end: object) -> str:
    return type(end).__name__ if isinstance(end, BaseException) else "ok"


@contextmanager
def prepared() -> Iterator[Template]:
    """Yield the template, while stores are small and no wait is long."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with (
        installed(),
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(dir=memory, prefix="evlog-pairs-") as place,
    ):
        compress_all(patch, 512)
        patch.setattr(acquire_lock, "__defaults__", (0.005,))
        patch.setattr(check_files, "_LOCK_SECONDS", 0.005)
        patch.setattr(check_files, "_INDEXING_SECONDS", 0.005)
        patch.setattr(check_verify, "_PAUSE_SECONDS", 0.005)
        patch.setattr(snapshot_file, "_LOCK_SECONDS", 0.005)
        yield make_template(f"{place}/template")


def schedules(
    template: Template, first: str, stride: int, seconds: Sequence[str] = ()
) -> Iterator[tuple[str, int, str]]:
    """Yield every stride-th second operation, call and mode for a first operation."""
    partners = [second for one, second in pairs() if one == first and second in (seconds or OPERATIONS)]
    counts = [count_calls(template, first, only_changes=only_changes) for only_changes in (False, True)]
    every = (
        (second, call, mode)
        for call in range(1, max(counts) + 1)
        for second in partners
        for mode in MODES
        if call <= counts[not OPERATIONS[second].writes]
    )
    return itertools.islice(every, sum(first.encode()) % stride, None, stride)


def count_calls(template: Template, name: str, *, only_changes: bool) -> int:
    """Return how many calls an operation makes."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(template.root)) as place:
        copy_tree(template.root, f"{place}/root")
        scene = Scene(f"{place}/root", template, "cold")
        OPERATIONS[name].prepare(scene)
        actor = Actor(lambda: OPERATIONS[name].run(scene, 0), only_changes=only_changes)
        actor.start()
        assert not isinstance(actor.finish(), BaseException), actor.result
        return actor.calls


def check_descriptors(template: Template) -> None:
    """Check that no file of a scene is open."""
    gc.collect()
    assert open_files(os.path.dirname(template.root)) == []


def main(arguments: Sequence[str]) -> int:
    """Try all, or the operations that are named: the first ones, and the second ones, with commas between."""
    firsts, seconds = ([part for part in text.split(",") if part] for text in (*arguments, "", "")[:2])
    failures, ends, known = 0, Counter[tuple[str, ...]](), set[str]()
    with prepared() as template:
        for first in firsts or OPERATIONS:
            for second, call, mode in schedules(template, first, step_of(1), seconds):
                outcome = try_schedule(template, first, second, call, mode)
                ends[first, outcome.first, second, outcome.second] += 1
                if outcome.failure:
                    failures += 1
                    print(f"FAILED {first} at call {call}, {second}, {mode}", flush=True)
                    if (key := outcome.failure[-80:]) not in known:
                        known.add(key)
                        print(outcome.failure, flush=True)
            check_descriptors(template)
            print(f"{first}: {sum(ends.values())} schedules so far", flush=True)
    for names, number in sorted(ends.items()):
        print(number, *names)
    print(f"{failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
