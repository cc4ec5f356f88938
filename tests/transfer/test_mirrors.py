"""Mirrors between directories, and to an engine with limits: what is refused, and what a failure leaves."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import evlog
from evlog import EventStore, NewEvent, salvage_store, transfer
from evlog.engine import Capabilities
from evlog.files.compaction import compact
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import Disk, WriteFile
from evlog.files.format import paths
from evlog.model.appends import AppendRequest, BatchResult
from evlog.model.history import Standing
from evlog.testing.mirroring import everything
from evlog.transfer import plan_mirror, targets
from evlog.transfer.pieces import ReadAhead, read_pieces
from tests.crash import recordings
from tests.crash.check import open_store
from tests.crash.disk import Killed, RecordingDisk, World
from tests.support import memory_engine
from tests.support.helpers import flip_bit, new, small_store

NUMBERS = itertools.count()


@pytest.fixture
def source(memory_path: Path) -> Iterator[EventStore]:
    with small_store(memory_path / "source") as opened:
        yield opened


@pytest.fixture
def destination(memory_path: Path) -> Iterator[EventStore]:
    with small_store(memory_path / "destination") as opened:
        yield opened


def limited(monkeypatch: pytest.MonkeyPatch, **limits: Any) -> EventStore:
    """Return an empty store in memory whose engine has limits."""
    values = vars(memory_engine.CAPABILITIES) | limits
    values["max_mirrored_events"] = values["max_append_events"]
    monkeypatch.setattr(memory_engine.MemoryEngine, "capabilities", Capabilities(**values))
    return EventStore(memory_engine.open_engine(f"memory://limited-{next(NUMBERS)}", create=True))


@pytest.mark.parametrize("merge", [False, True], ids=["identical", "merged"])
def test_a_redaction_that_is_copied_deletes_snapshots_that_may_hold_what_it_erased(
    source: EventStore, destination: EventStore, merge: bool
) -> None:
    source.append("s", [NewEvent("T", {"mail": "secret"})])
    evlog.mirror(source, destination, merge=merge)
    destination.state("s", snapshot="before")
    source.redact(1, reason="asked")
    evlog.mirror(source, destination, merge=merge)
    assert destination.snapshots() == []
    destination.state("s", snapshot="after")
    source.append("s", [NewEvent("T", {"n": 1})])
    evlog.mirror(source, destination, merge=merge)
    assert [info.name for info in destination.snapshots()] == ["after"]


def test_a_mirror_that_was_killed_before_it_deleted_snapshots_does_so_in_its_next_run(
    source: EventStore, destination: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.append("s", [NewEvent("T", {"mail": "secret"})])
    evlog.mirror(source, destination)
    destination.state("s", snapshot="before")
    source.redact(1, reason="asked")
    with monkeypatch.context() as patch:
        patch.setattr(targets.Target, "delete_snapshots", lambda _: None)
        evlog.mirror(source, destination)
    assert destination.snapshots() != []
    evlog.mirror(source, destination)
    assert destination.snapshots() == []


# --- limits


def test_an_append_with_too_many_events_is_named_before_anything_is_written(
    source: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count in (1, 3, 2):
        source.append("a", [new(n) for n in range(count)])
    with limited(monkeypatch, max_append_events=2) as destination:
        with pytest.raises(evlog.MirrorLimit, match="3 events at position 2") as caught:
            evlog.mirror(source, destination)
        assert (caught.value.position, destination.head) == (2, 0)
        with pytest.raises(evlog.MirrorLimit):
            plan_mirror(source, destination)
    with limited(monkeypatch, max_append_events=3) as destination:
        evlog.mirror(source, destination)
        assert everything(destination) == everything(source)
        source.append("a", [new(n) for n in range(4)])
        with pytest.raises(evlog.MirrorLimit), evlog.Mirror(source, destination) as mirror:
            mirror.follow()
        assert destination.head == 6


@pytest.mark.parametrize("hidden_limit", [None, 4])
def test_a_merge_is_cut_at_ends_of_appends_where_it_can_be(
    source: EventStore, monkeypatch: pytest.MonkeyPatch, hidden_limit: int | None
) -> None:
    """A piece with gaps is large, and some limits are known only to the destination."""
    for number in range(20):
        source.append(f"s-{number}", [new(2 * number), new(2 * number + 1)])
    source.append("removed", [new(40)])
    source.append("a", [new(number) for number in range(41, 50)])  # over the limit
    source.delete_stream("removed")
    source.compact(force=True)
    frames = {event.position: frame for frame, event in source.engine.read_frames(0, source.head)}
    with limited(monkeypatch, max_append_events=6) as destination:
        engine, cuts = destination.engine, []
        append = engine.append

        def count(request: AppendRequest) -> BatchResult:
            events = len(request.events)
            if hidden_limit is not None and events > hidden_limit:
                raise evlog.TooManyEvents(events, f"{hidden_limit} events")
            assert events <= 6
            cuts.append(json.loads(request.events[-1][3])["last"])
            return append(request)

        monkeypatch.setattr(engine, "append", count)
        assert plan_mirror(source, destination, merge=True).events == 49
        done = evlog.mirror(source, destination, merge=True)
        assert (done.position, done.events, done.duplicates) == (source.head, 49, 0)
        assert sorted(int(event.data) for event in destination.read_all()) == [*range(40), *range(41, 50)]
        whole = [frames[at] != frames.get(at + 1) for at in cuts]
        assert sum(whole) > len(whole) / 2
        assert evlog.mirror(source, destination, merge=True).events == 0


def test_an_event_that_does_not_fit_beside_where_a_merge_is_ends_it(
    source: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.append("a", [new(0)])
    with (
        limited(monkeypatch, max_append_events=1) as destination,
        pytest.raises(evlog.MirrorLimit, match=r"an event with its tags at position 1 .* 0 events"),
    ):
        evlog.mirror(source, destination, merge=True)


def test_an_event_that_is_too_large_is_named(source: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    source.append("a", [new(0)])
    source.append("a", [NewEvent("T", "x" * 100, content_type="text")])
    with limited(monkeypatch, max_event_bytes=99) as destination:
        with pytest.raises(evlog.MirrorLimit, match="100 bytes at position 2"):
            evlog.mirror(source, destination)
        assert destination.head == 0


# --- gaps


def test_what_is_removed_between_two_looks_is_not_lost(source: EventStore, destination: EventStore) -> None:
    for number in range(40):
        source.append(f"s-{number % 4}", [new(number)])
    id = source.engine.store_id
    destination.engine.change_standing(Standing(), Standing(mirror_of=id))
    head = source.head
    pieces = read_pieces(source.engine, 0, head, 8)
    destination.engine.append_history(next(pieces))
    source.delete_stream("s-1")
    source.set_retention("s-2", max_count=1)
    source.compact(force=True)
    for piece in pieces:
        assert piece.lost == 0
        destination.engine.append_history(piece)
    assert destination.head == head
    assert destination.verify().ok
    found = evlog.Mirror(source, destination).check()
    assert (found.ok, found.difference) == (True, None)
    assert found.removed_since > 0
    evlog.mirror(source, destination)
    assert everything(destination) == everything(source)


def test_positions_that_the_source_has_lost_stay_lost(memory_path: Path, destination: EventStore) -> None:
    with small_store(memory_path / "damaged") as damaged:
        for number in range(30):
            damaged.append(f"s-{number % 3}", [new(number)])
    log = sorted((memory_path / "damaged" / "segments").glob("*.log"))[1]
    flip_bit(log, 200)
    with pytest.raises(evlog.CorruptionError), evlog.open(memory_path / "damaged") as damaged:
        evlog.mirror(damaged, destination)
    salvage_store(memory_path / "damaged", memory_path / "salvaged")
    with (
        evlog.open(memory_path / "salvaged") as salvaged,
        small_store(memory_path / "copy") as copy,
    ):
        done = evlog.mirror(salvaged, copy)
        assert (done.lost, done.position) == (1, 30)
        assert everything(copy) == everything(salvaged)
        assert evlog.Mirror(salvaged, copy).check().ok
        assert copy.verify().ok


def test_a_stretch_of_removed_events_larger_than_a_piece_is_copied(
    source: EventStore, destination: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.transfer.pieces._GAP_PIECE_EVENTS", 7)
    source.append("a", [new(n, id=UUID(int=n + 1)) for n in range(50)])
    source.append("b", [new(0)])
    source.delete_stream("a")
    source.compact()
    assert evlog.mirror(source, destination).removed == 50
    assert everything(destination) == everything(source)
    assert destination.verify().ok
    assert len(destination.engine.find_ids([UUID(int=n + 1).bytes for n in range(50)])) == 50


def test_a_run_that_was_killed_before_it_erased_is_made_up_for(
    source: EventStore, destination: EventStore, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.append("a", [NewEvent("T", "secret", content_type="text"), new(1)])
    source.append("b", [new(2), new(3)])
    evlog.mirror(source, destination)
    source.redact(1, reason="r")
    source.set_retention("b", max_count=1)
    source.compact()

    def remove(engine: Any, id: str, removed: Any) -> None:
        if not removed:
            raise evlog.StoreFull("x", "y")
        original(engine, id, removed)

    original = type(destination.engine).remove_history
    with monkeypatch.context() as patch:
        patch.setattr(type(destination.engine), "remove_history", remove)
        with pytest.raises(evlog.StoreFull):
            evlog.mirror(source, destination)
    assert destination.head == source.head
    evlog.mirror(source, destination)
    assert everything(destination) == everything(source)
    files = [path for path in (memory_path / "destination").rglob("*") if path.is_file()]
    assert not any(b"secret" in path.read_bytes() for path in files)


class FullDisk(Disk):
    """A disk that is full at one of its writes."""

    def __init__(self, number: int) -> None:
        self.left = number

    def write_at(self, file: WriteFile, data: bytes, offset: int) -> None:
        self.left -= 1
        if not self.left:
            raise evlog.StoreFull(file.path, "no room")
        super().write_at(file, data, offset)


def test_a_full_disk_leaves_a_mirror_that_is_continued(source: EventStore, memory_path: Path) -> None:
    for number in range(12):
        source.append("ab"[number % 2], [new(number)])
    source.delete_stream("a")
    source.compact()
    source.append("b", [new(12)])
    for number in range(1, 100):
        path = memory_path / f"copy-{number}"
        small_store(path).close()
        disk = FullDisk(number)
        with small_store(path, disk=disk) as copy:
            try:
                evlog.mirror(source, copy)
            except evlog.StoreFull:
                pass  # else it was a write that an append can do without
        with small_store(path) as copy:
            assert copy.verify().ok
            evlog.mirror(source, copy)
            assert everything(copy) == everything(source)
        if disk.left > 0:
            break
    assert number > 8


class BesideDisk(Disk):
    """Has a call made after each write."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call

    def write_at(self, file: WriteFile, data: bytes, offset: int) -> None:
        super().write_at(file, data, offset)
        self.call()


@pytest.mark.parametrize("kept", ["nothing", "some"])
def test_a_compaction_meanwhile_removes_nothing_of_a_mirror(
    source: EventStore, memory_path: Path, kept: str
) -> None:
    path = memory_path / "copy"
    source.append("a", [new(number) for number in range(20)])
    if kept == "some":
        source.set_retention("a", max_count=3)
    else:
        source.delete_stream("a")
    source.compact()

    def tidy() -> None:
        with contextlib.suppress(evlog.EvlogError), evlog.open(path, lock_timeout=0) as other:
            other.compact()

    small_store(path).close()
    with small_store(path, disk=BesideDisk(tidy)) as copy:
        evlog.mirror(source, copy)
    with small_store(path) as copy:
        assert copy.verify().ok
        assert everything(copy) == everything(source)


def test_a_run_that_failed_to_remove_removes_when_it_copies_again(
    source: EventStore, destination: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.append("a", [new(number) for number in range(9)])
    evlog.mirror(source, destination)
    source.set_retention("a", max_count=1)

    def fail(*_: object) -> None:
        raise evlog.StoreFull("x", "y")

    with monkeypatch.context() as patch:
        patch.setattr(compact, "append_finished", fail)  # the source's compaction has no end
        with pytest.raises(evlog.StoreFull):
            source.compact()
    with evlog.Mirror(source, destination) as mirror:
        with monkeypatch.context() as patch:
            patch.setattr(type(destination.engine), "remove_history", fail)
            with pytest.raises(evlog.StoreFull):
                mirror.copy()
        mirror.copy()
    assert everything(destination) == everything(source)


def test_a_mirror_waits_while_it_is_compacted_or_verified(
    source: EventStore, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_store(memory_path / "copy", lock_timeout=None) as copy:
        source.append("a", [new(number) for number in range(9)])
        evlog.mirror(source, copy)
        source.set_retention("a", max_count=1)
        source.compact()
        compacting = FileLock(paths.compaction_path(copy.path), 0.0)
        compacting.acquire()
        block = FileLock._block

        def end(lock: FileLock, file: WriteFile) -> None:
            compacting.release()
            block(lock, file)

        monkeypatch.setattr(FileLock, "_block", end)
        assert evlog.mirror(source, copy).removed == 8
        assert everything(copy) == everything(source)


def test_a_mirror_that_always_has_events_to_copy_copies_subscriptions(
    source: EventStore, destination: EventStore
) -> None:
    source.append("a", [new(0)])
    source.subscribe("n", follow=False).close()
    found: list[int] = []

    def append_another(_done: int, _total: int) -> None:
        found.append(len(destination.subscriptions()))
        source.append("a", [new(1)])
        if len(found) == 3:
            mirror.stop()

    with evlog.Mirror(source, destination) as mirror:
        mirror.follow(append_another)
    assert found == [0, 1, 1]


# --- the wrong source


@pytest.mark.parametrize("merge", [False, True])
def test_a_source_that_was_restored_from_an_older_copy_is_refused(
    source: EventStore, destination: EventStore, memory_path: Path, merge: bool
) -> None:
    source.append("a", [new(0)])
    shutil.copytree(memory_path / "source", memory_path / "older")
    source.append("a", [new(1)])
    evlog.mirror(source, destination, merge=merge)
    with small_store(memory_path / "older") as older:
        for _ in range(2):
            with pytest.raises(evlog.MirrorConflict, match="position 2"):
                evlog.mirror(older, destination, merge=merge)
            older.append("b", [new(7)])
        assert len(list(destination.read_all())) == 2


def test_a_mirror_of_another_store_is_refused(
    source: EventStore, destination: EventStore, memory_path: Path
) -> None:
    source.append("a", [new(0)])
    evlog.mirror(source, destination)
    with small_store(memory_path / "third") as third:
        third.append("a", [new(0)])
        with pytest.raises(evlog.MirrorConflict, match="is a mirror of store"):
            evlog.mirror(third, destination)
        with pytest.raises(evlog.StoreIsMirror):
            evlog.mirror(third, destination, merge=True)


# --- cutover


def test_a_cutover_that_fails_gives_the_source_back(
    source: EventStore, destination: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.append("a", [new(0)])

    def fail(*_: object) -> int:
        source.engine.standing.moved_to or pytest.fail("not yet")
        raise evlog.StoreUnreachable("x", "y")

    with evlog.Mirror(source, destination) as mirror:
        mirror.copy()
        with monkeypatch.context() as patch:
            patch.setattr(type(destination.engine), "change_standing", self_or(fail, source))
            with pytest.raises(evlog.StoreUnreachable):
                mirror.cut_over()
        assert source.standing.moved_to  # it cannot be known whether the destination was opened
        mirror.cut_over()
    assert (source.standing.moved_to, destination.standing) == (destination.path, Standing())


def self_or(fail: Any, source: EventStore) -> Any:
    """Return a `change_standing` that fails for every other store."""
    change = type(source.engine).change_standing

    def changed(engine: Any, *arguments: Any, **named: Any) -> Any:
        return change(engine, *arguments, **named) if engine is source.engine else fail()

    return changed


def test_a_cutover_that_cannot_copy_the_rest_is_taken_back(
    source: EventStore, destination: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.append("a", [new(0)])
    source.consume("n", lambda _: None, follow=False)
    with evlog.Mirror(source, destination) as mirror:

        def fail(*_: object) -> int:
            if source.standing.moved_to:
                raise evlog.StoreFull("x", "y")
            return 0

        with monkeypatch.context() as patch:
            patch.setattr("evlog.transfer.mirrors.copy_subscriptions", fail)
            with pytest.raises(evlog.StoreFull):
                mirror.cut_over()
    assert source.append("a", [new(1)]).first_version == 2
    source.subscribe("n").close()
    assert evlog.mirror(source, destination, cutover=True).events == 1


def test_a_killed_cutover_is_continued(source: EventStore, destination: EventStore) -> None:
    source.append("a", [new(0)])
    evlog.mirror(source, destination)
    source.append("a", [new(1)])
    source.engine.change_standing(Standing(), Standing(moved_to=destination.path))
    assert evlog.mirror(source, destination, cutover=True).events == 1
    assert destination.append("a", [new(2)]).first_version == 3


def test_a_mirror_is_not_cut_over_while_it_is_one_itself(
    source: EventStore, destination: EventStore, memory_path: Path
) -> None:
    source.append("a", [new(0)])
    evlog.mirror(source, destination)
    with small_store(memory_path / "third") as third:
        with pytest.raises(evlog.StoreIsMirror):
            evlog.mirror(destination, third, cutover=True)
        evlog.mirror(destination, third)
        assert everything(third) == everything(source)


# --- reading ahead


def test_an_error_while_reading_ahead_is_raised_behind_what_was_read(source: EventStore) -> None:
    source.append("a", [new(0), new(1)])

    def pieces() -> Iterator[Any]:
        yield from read_pieces(source.engine, 0, 2)
        raise evlog.StoreUnreachable("x", "y")

    with ReadAhead(pieces()) as ahead:
        found = iter(ahead)
        assert next(found).end == 2
        with pytest.raises(evlog.StoreUnreachable):
            next(found)


def test_leaving_early_ends_the_thread(source: EventStore) -> None:
    for number in range(50):
        source.append("a", [new(number)])
    before = set(threading.enumerate())  # some may be ending, of earlier tests
    with ReadAhead(read_pieces(source.engine, 0, 50, 1)) as ahead:
        assert next(iter(ahead)).end == 1
    assert set(threading.enumerate()) <= before


# --- subscriptions


def test_a_subscription_that_is_ahead_of_the_copy_is_copied_later(
    source: EventStore, destination: EventStore
) -> None:
    from evlog.transfer.subscriptions import copy_subscriptions

    for number in range(4):
        source.append("a", [new(number)])
    evlog.mirror(source, destination)
    source.append("a", [new(4)])
    source.consume("n", lambda _: None, follow=False)
    copy_subscriptions(source.engine, destination.engine, 4)
    assert destination.subscriptions() == []
    evlog.mirror(source, destination)
    assert destination.subscription("n").position == 5
    source.reset_subscription("n", 2)
    evlog.mirror(source, destination)
    assert destination.subscription("n").position == 2


def test_an_older_copy_in_the_sources_place_is_not_mirrored_onto_what_was_copied(
    source: EventStore, destination: EventStore, memory_path: Path
) -> None:
    source.append("a", [new(0)])
    shutil.copytree(source.path, memory_path / "older")
    source.append("a", [new(1)])
    with evlog.open(source.path) as reader, evlog.Mirror(reader, destination) as mirror:
        mirror.copy()
        copied = everything(destination)
        os.rename(source.path, memory_path / "newer")
        os.rename(memory_path / "older", source.path)
        with small_store(source.path) as other:
            other.append("b", [new(2)])
            other.append("b", [new(3)])
        for copy in (mirror.copy, mirror.follow):
            with pytest.raises(evlog.StoreReplaced):
                copy()
        assert everything(destination) == copied


class Dying(RecordingDisk):
    """The disk of a process that is killed when it would sync a log."""

    is_due = False

    def sync(self, file: WriteFile) -> None:
        if self.is_due and file.path.endswith(".log"):
            raise Killed
        super().sync(file)


@pytest.mark.parametrize("merge", [False, True], ids=["identical", "merged"])
def test_what_a_killed_run_has_copied_is_durable_after_the_next(source: EventStore, merge: bool) -> None:
    with recordings.scratch() as root:
        world = World(root)
        disk = Dying(world)
        source.append("s", [new()])
        killed = open_store(f"{root}/store", create=True, disk=disk)
        transfer.mirror(source, killed, merge=merge)
        source.append("s", [new()])
        disk.is_due = True
        with pytest.raises(Killed):
            transfer.mirror(source, killed, merge=merge)
        with open_store(killed.path, disk=RecordingDisk(world)) as destination:
            assert transfer.mirror(source, destination, merge=merge).events == 0
        log = world.now.lookup("store/segments/00000000000000000001.0.log")
        assert log is not None
        assert not world.now.inodes[log].is_dirty
