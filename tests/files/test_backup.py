"""Backup: a copy of one moment while others write, also after runs that were killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

import evlog
from evlog.errors import CorruptionError, LockTimeout, NotAStore, StoreDiverged, UnsafeFile
from evlog.files import backup
from evlog.files.backup import backup_store
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import Disk, ReadFile, WriteFile
from evlog.files.format.paths import compaction_path
from evlog.store import EventStore
from tests.support.helpers import flip_bit, new, segment_files, small_store


@pytest.fixture
def store(memory_path: Path) -> Iterator[EventStore]:
    """Three sealed segments and an active one, a policy, and a subscription that has parked an event."""
    with small_store(memory_path / "store", segment_events=5) as store:
        for number in range(17):
            store.append(f"s-{number % 3}", [new(number)])
        store.set_retention("s-0", max_count=2)
        with store.subscribe("sub", follow=False) as subscription:
            for event in subscription:
                if event.position == 3:
                    subscription.park(event, "wrong", 1)
                if event.position == 7:
                    break
        yield store


@pytest.fixture
def out(memory_path: Path) -> str:
    return str(memory_path / "out")


def content(path: str) -> list[tuple[object, ...]]:
    with evlog.open(path) as store:
        events = [
            (e.position, e.stream, e.version, e.id, e.data, e.time)
            for e in store.read_all(include_system=True)
        ]
        parked = [
            (name.name, name.position, [parked.position for parked in store.parked(name.name)])
            for name in store.subscriptions()
        ]
    return [*events, *parked]


def test_a_copy_has_everything_and_is_a_store(store: EventStore, out: str) -> None:
    done = evlog.backup_store(store.path, out)
    assert done.ok
    assert (done.position, done.events) == (store.head, 18)
    assert content(out) == content(store.path)
    assert evlog.verify_store(out).digest == store.verify().digest
    with evlog.open(out) as copy:
        assert copy.append("s-1", [new()]).first_position == done.position + 1
        assert copy.verify().ok


def test_a_copy_has_no_permission_that_the_store_does_not_have(store: EventStore, out: str) -> None:
    os.chmod(store.path, 0o700)
    backup_store(store.path, out)
    assert stat.S_IMODE(os.stat(out).st_mode) == 0o700
    evlog.salvage_store(store.path, f"{out}-2")
    assert stat.S_IMODE(os.stat(f"{out}-2").st_mode) == 0o700


def test_the_owner_of_a_copy_of_a_read_only_store_can_write_it(store: EventStore, out: str) -> None:
    os.chmod(store.path, 0o555)
    backup_store(store.path, out)
    evlog.salvage_store(store.path, f"{out}-2")
    modes = [
        stat.S_IMODE(os.stat(f"{copy}{inner}").st_mode)
        for copy in (out, f"{out}-2")
        for inner in ("", "/segments")
    ]
    assert [oct(mode) for mode in modes] == ["0o755"] * 4


def test_the_next_run_copies_what_is_new(store: EventStore, out: str) -> None:
    first = backup_store(store.path, out)
    inodes = {name: os.stat(f"{out}/segments/{name}").st_ino for name in os.listdir(f"{out}/segments")}
    for number in range(4):
        store.append("more", [new(number)])
    second = backup_store(store.path, out)
    assert second.ok
    assert content(out) == content(store.path)
    sealed = [name for name in inodes if name.startswith("00000000000000000001.")]
    assert len(sealed) >= 5
    assert all(os.stat(f"{out}/segments/{name}").st_ino == inodes[name] for name in sealed)
    assert 0 < second.linked_bytes < first.linked_bytes


@pytest.mark.parametrize("links", [True, False])
def test_what_is_done_to_the_copy_leaves_the_store_alone(store: EventStore, out: str, links: bool) -> None:
    done = backup_store(store.path, out, links=links)
    assert bool(done.linked_bytes) == links
    before = content(store.path)
    with evlog.open(out) as copy:
        for number in range(12):
            copy.append("s-0", [new(number)])
        copy.compact(force=True)
        copy.compact(compress=True, force=True)
        assert copy.verify().ok
    assert content(store.path) == before
    assert store.verify().findings == ()
    store.append("s-0", [new()])


def test_it_follows_a_compaction(store: EventStore, out: str) -> None:
    backup_store(store.path, out)
    store.compact(force=True)
    assert backup_store(store.path, out).ok
    assert content(out) == content(store.path)
    assert evlog.verify_store(out).findings == ()
    names = {name for name in os.listdir(f"{store.path}/segments") if name != "filter"}
    assert names >= {name for name in os.listdir(f"{out}/segments") if name != "filter"}


class Interfering(Disk):
    """Does something once, before the n-th change of the copy."""

    def __init__(self, step: int, act: object) -> None:
        self.left = step
        self.act = act

    def _step(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.act()  # type: ignore[operator]

    def make_dir(self, path: str, *, like: str | None = None) -> None:
        self._step()
        super().make_dir(path, like=like)

    def write_at(self, file: WriteFile, data: bytes, offset: int) -> None:
        self._step()
        super().write_at(file, data, offset)

    def copy_file(self, source: ReadFile, path: str, length: int) -> None:
        self._step()
        super().copy_file(source, path, length)

    def link(self, file: ReadFile, path: str) -> bool:
        self._step()
        return super().link(file, path)

    def replace(self, source: str, target: str) -> None:
        self._step()
        super().replace(source, target)

    def remove(self, path: str) -> None:
        self._step()
        super().remove(path)


class Killed(BaseException):
    """The process dies here."""


def kill() -> None:
    raise Killed


def test_a_subscription_that_runs_in_the_copy_goes_on_beside_a_backup(
    memory_path: Path, store: EventStore
) -> None:
    """It saves its checkpoint before each step of the backup; the next backup gives it the source's."""
    for step in count(1):
        out = str(memory_path / f"out-{step}")
        backup_store(store.path, out)
        with evlog.open(out) as copy, copy.subscribe("sub", follow=False) as run:
            events = iter(run)

            def save() -> None:
                next(events)  # noqa: B023
                run.save()

            save()
            disk = Interfering(step, save)
            assert backup_store(store.path, out, disk=disk).ok
            save()
        with evlog.open(out) as copy:
            assert copy.subscription("sub").position > store.subscription("sub").position
            assert evlog.verify_store(out).ok
        assert backup_store(store.path, out).ok
        assert content(out) == content(store.path)
        assert not [name for name in os.listdir(f"{out}/subscriptions") if name.endswith(".tmp")]
        if disk.left > 0:
            assert step > 5
            return


@pytest.mark.parametrize("again", [False, True], ids=["the first run", "a later run, after a compaction"])
def test_killed_at_any_step_it_leaves_the_copy_before_or_none_and_the_next_run_is_right(
    memory_path: Path, store: EventStore, again: bool
) -> None:
    first = str(memory_path / "first")
    backup_store(store.path, first)
    if again:
        store.append("s-1", [new(number) for number in range(3)])
        store.compact(force=True)
        with store.subscribe("sub", follow=False) as subscription:
            for event in subscription:
                if event.position == 11:
                    break
    wanted = content(store.path)
    for step in count(1):
        out = str(memory_path / f"out-{step}")
        if again:
            backup_store(first, out, links=False)
        disk = Interfering(step, kill)
        try:
            backup_store(store.path, out, disk=disk)
        except Killed:
            pass
        if evlog.exists(out):
            with evlog.open(out) as copy:
                for listed in copy.subscriptions():
                    assert listed.position <= copy.head
                assert len(list(copy.read_all())) <= copy.head
            assert evlog.verify_store(out).ok
        else:
            assert not again
        assert backup_store(store.path, out).ok
        assert content(out) == wanted
        assert not [name for name in os.listdir(f"{out}/segments") if name.endswith(".tmp")]
        if disk.left > 0:
            assert step > 20
            return


@pytest.mark.usefixtures("no_writer_at_work")
def test_a_compaction_meanwhile_sends_it_back(memory_path: Path, store: EventStore) -> None:
    for step in count(1):
        source = str(memory_path / f"store-{step}")
        backup_store(store.path, source, links=False)
        before = content(source)
        with evlog.open(source) as other:
            disk = Interfering(step, lambda: other.compact(force=True))
            out = str(memory_path / f"out-{step}")
            assert backup_store(source, out, disk=disk).ok
            assert evlog.verify_store(out).digest is not None
            assert content(out) in (before, content(source))
        if disk.left > 0:
            return


@pytest.mark.usefixtures("no_writer_at_work")
def test_writers_and_a_compaction_go_on_and_the_copy_is_a_prefix(memory_path: Path, out: str) -> None:
    path = str(memory_path / "store")
    small_store(path, segment_events=20).close()
    stop = threading.Event()

    def write(name: str) -> None:
        with evlog.open(path) as store:
            number = 0
            while not stop.is_set():
                number += 1
                store.append(f"w-{name}", [new(number), new(number)])

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    try:
        for _ in range(8):
            assert backup_store(path, out).ok
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    everything, copied = content(path), content(out)
    assert copied == everything[: len(copied)]
    assert len(copied) % 2 == 0


def test_what_a_writer_without_sync_acknowledged_is_in_the_copy(memory_path: Path, out: str) -> None:
    with small_store(memory_path / "store", sync="none") as store:
        store.append("s", [new(), new()])
        assert backup_store(store.path, out).events == 2


def test_a_copy_that_was_appended_to_is_not_touched(store: EventStore, out: str) -> None:
    backup_store(store.path, out)
    with evlog.open(out) as copy:
        copy.append("mine", [new()])
    before = content(out)
    with pytest.raises(StoreDiverged) as caught:
        backup_store(store.path, out)
    assert caught.value.position == 19
    store.append("other", [new()])  # at the same position
    with pytest.raises(StoreDiverged):
        backup_store(store.path, out)
    assert content(out) == before


def test_what_is_appended_to_the_copy_meanwhile_is_refused_or_stays(
    memory_path: Path, store: EventStore
) -> None:
    first = str(memory_path / "first")
    backup_store(store.path, first)
    store.append("s-1", [new(number) for number in range(9)])
    outcomes: list[str] = []
    while True:
        out = str(memory_path / f"out-{len(outcomes)}")
        backup_store(first, out, links=False)
        outcomes.append("not tried")

        def append(out: str = out) -> None:
            try:
                with evlog.open(out, lock_timeout=0) as copy:
                    copy.append("mine", [new()])
            except LockTimeout:
                outcomes[-1] = "refused"
            else:
                outcomes[-1] = "appended"

        disk = Interfering(len(outcomes), append)
        with contextlib.suppress(StoreDiverged):
            backup_store(store.path, out, disk=disk)
        with evlog.open(out) as copy:
            assert copy.stream_version("mine") == (outcomes[-1] == "appended"), outcomes
        if disk.left > 0:
            assert {"appended", "refused"} <= set(outcomes)
            return


def test_a_place_with_anything_else_is_refused(store: EventStore, memory_path: Path, out: str) -> None:
    for wrong in (store.path, f"{store.path}/segments/x"):
        with pytest.raises(NotAStore, match="the store itself"):
            backup_store(store.path, wrong)
    Path(out).mkdir()
    Path(out, "thesis.txt").write_text("important")
    with pytest.raises(NotAStore, match="thesis"):
        backup_store(store.path, out)
    other = str(memory_path / "other")
    small_store(other).close()
    with pytest.raises(NotAStore, match="another store"):
        backup_store(store.path, other)
    with pytest.raises(NotAStore, match="in the store"):
        backup_store(store.path, f"{other}/copy")
    os.unlink(f"{other}/manifest.json")
    with pytest.raises(NotAStore, match="of another store"):
        backup_store(store.path, other)
    assert os.listdir(out) == ["thesis.txt"]


def test_one_run_at_a_time(store: EventStore, out: str) -> None:
    backup_store(store.path, out)
    with FileLock(compaction_path(out), 0.0), pytest.raises(LockTimeout):
        backup_store(store.path, out)


def test_damage_is_found_in_the_copy(store: EventStore, out: str) -> None:
    log = Path(store.path, "segments/00000000000000000001.0.log")
    flip_bit(log, -5)
    done = backup_store(store.path, out)
    assert not done.ok
    assert done.findings[0].file == "segments/00000000000000000001.0.log"


def test_a_missing_log_is_damage_not_a_change_of_the_store(store: EventStore, out: str) -> None:
    log = segment_files(store, "log")[0]
    log.unlink()
    with pytest.raises(CorruptionError, match="the file is missing") as caught:
        evlog.backup_store(store.path, out)
    assert caught.value.path == str(log)


def test_a_link_in_the_store_is_not_followed(store: EventStore, out: str, memory_path: Path) -> None:
    secret = memory_path / "secret"
    secret.write_text("secret")
    log = Path(store.path, "segments/00000000000000000001.0.log")
    log.unlink()
    log.symlink_to(secret)
    with pytest.raises(UnsafeFile):
        backup_store(store.path, out)


def test_segments_of_two_compactions_are_told_apart_by_their_tags(
    memory_path: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store was restored and compacted in another way: name, length and ends of a file are the same."""
    monkeypatch.setattr(backup, "_END_BYTES", 64)
    path, before = memory_path / "store", memory_path / "before"
    with small_store(path, segment_events=8) as store:
        for number in range(8):
            store.append(f"s-{number}", [new(number)])
        store.delete_stream("s-3")
    shutil.copytree(path, before)
    assert evlog.backup_store(path, out).ok
    with evlog.open(path) as store:
        store.compact()  # removes the event of s-3
    for file in (path / "segments").glob(f"{1:020}.1.*"):
        shutil.copy(file, Path(out, "segments"))  # what a killed run of a backup leaves
    shutil.rmtree(path)
    shutil.copytree(before, path)
    with evlog.open(path) as store:
        store.set_retention("s-3", clear=True)
        store.delete_stream("s-4")
        store.compact()
    assert evlog.backup_store(path, out).ok
    assert content(out) == content(str(path))
