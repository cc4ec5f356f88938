"""What only a real system does: a full file system, one mounted read-only, other users' files."""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import subprocess
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import pytest

import evlog
from evlog import NewEvent, files
from evlog.errors import EvlogError, StoreAccessDenied, StoreFull
from evlog.store import EventStore
from tests.crash import recordings
from tests.crash.check import check_reads, check_recovery, materialise, open_store
from tests.crash.damage import STORE, read_files, sound_store
from tests.crash.disk import World
from tests.crash.history import History, all_known, event
from tests.crash.states import State
from tests.crash.worker import Child

NOBODY = 65534


@pytest.fixture
def tmpfs() -> Iterator[str]:
    """Mount a file system of 192 KiB for the test."""
    with recordings.scratch() as root:
        command = ["mount", "-t", "tmpfs", "-o", "size=192k", "evlog-test", root]
        mounted = subprocess.run(command, check=False, capture_output=True, text=True)
        if mounted.returncode:
            pytest.skip(f"mounting a tmpfs is not permitted here: {mounted.stderr.strip()}")
        try:
            yield root
        finally:
            subprocess.run(["umount", root], check=True)


def remount(root: str, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", root], check=True)


def fill(store: EventStore, history: History) -> None:
    for number in range(1000):
        history.send(store, [("a", [event(number, {"x": "x" * 1500})])])


def test_a_full_file_system_is_store_full_until_there_is_room(tmpfs: str) -> None:
    history = History(World(tmpfs))
    path = f"{tmpfs}/above/store"
    os.mkdir(f"{tmpfs}/above")
    with open_store(path, create=True) as store, open_store(path) as reader:
        with pytest.raises(StoreFull):
            fill(store, history)
        check_reads(store, all_known(history.batches))
        check_reads(reader, all_known(history.batches))
        with pytest.raises(StoreFull):
            store.append("a", [event(2000, {"x": "x" * 9000})])
        remount(tmpfs, "size=4m")
        history.acked(len(history.batches) - 1, store.append_many(history.batches[-1].appends))
        history.send(store, [("a", [event(2000, {"x": "x" * 9000})])])
        check_reads(reader, all_known(history.batches))
    check_recovery(path, all_known(history.batches))


def test_a_store_is_made_once_there_is_room(tmpfs: str) -> None:
    with open(f"{tmpfs}/ballast", "wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(4096))
    with pytest.raises(StoreFull):
        open_store(f"{tmpfs}/store", create=True)
    os.remove(f"{tmpfs}/ballast")
    with open_store(f"{tmpfs}/store", create=True) as store:
        assert store.append("a", [event(0)]).first_position == 1


def test_a_read_only_file_system_can_be_read_and_not_written(tmpfs: str) -> None:
    state, known = sound_store()
    materialise(state, tmpfs)
    remount(tmpfs, "ro")
    with open_store(f"{tmpfs}/{STORE}") as store:
        check_reads(store, known)
        with pytest.raises(StoreAccessDenied):
            store.append("a", [event(100)])
        check_reads(store, known)
    with pytest.raises(StoreAccessDenied):
        open_store(f"{tmpfs}/other", create=True)
    remount(tmpfs, "rw")
    check_recovery(f"{tmpfs}/{STORE}", known)


def test_a_read_only_store_without_indexes_and_with_a_torn_tail_is_read_right(tmpfs: str) -> None:
    state, known = sound_store()
    files = {path: content for path, content in state.files.items() if path.endswith((".log", ".json"))}
    last = max(path for path in files if path.endswith(".log"))
    files[last] += b"\xe5EVF torn"
    materialise(State(files, state.directories), tmpfs)
    remount(tmpfs, "ro")
    with open_store(f"{tmpfs}/{STORE}") as store:
        check_reads(store, known)
    assert read_files(tmpfs) == files


# --- another user


def as_nobody(pipe: Connection, task: Callable[[str], object], path: str) -> None:
    for module in pkgutil.walk_packages(files.__path__, "evlog.files."):
        importlib.import_module(module.name)  # now: that user may not be able to read this folder
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    try:
        pipe.send(task(path))
    except EvlogError as error:
        pipe.send(type(error))


def tell(task: Callable[[str], object], path: str) -> object:
    """Return what a call gives to the user `nobody`."""
    child = Child(as_nobody, task, path)
    try:
        return child.pipe.recv()
    finally:
        child.close()


def count_events(path: str) -> object:
    with evlog.open(path) as store:
        return len(list(store.read_all())), store.stream_version("a"), len(list(store.read("b-1")))


def append_one(path: str) -> object:
    with evlog.open(path) as store:
        return store.append("a", [NewEvent("T")]).first_position


def create_one(path: str) -> object:
    evlog.open(path, create=True).close()
    return True


@pytest.fixture
def others_store() -> Iterator[str]:
    """Return a store of root's that all users may read and enter."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    with recordings.scratch() as root:
        os.chmod(root, 0o755)
        materialise(sound_store()[0], root)
        yield f"{root}/{STORE}"


def test_another_users_store_can_be_read_and_not_written(others_store: str) -> None:
    before = read_files(others_store)
    assert tell(count_events, others_store) == (15, 5, 7)
    assert tell(append_one, others_store) is StoreAccessDenied
    assert tell(create_one, f"{others_store}-new") is StoreAccessDenied
    assert read_files(others_store) == before


@pytest.mark.parametrize(
    "hidden", ["", "manifest.json", "segments", f"segments/{1:020d}.0.log", f"segments/{12:020d}.0.log"]
)
def test_what_may_not_be_read_is_access_denied_and_not_damage(others_store: str, hidden: str) -> None:
    os.chmod(f"{others_store}/{hidden}".rstrip("/"), 0)
    assert tell(count_events, others_store) is StoreAccessDenied
    assert tell(append_one, others_store) is StoreAccessDenied


@pytest.mark.parametrize("suffix", ["offsets", "streams", "types", "ids"])
def test_an_index_that_may_not_be_read_is_done_without(others_store: str, suffix: str) -> None:
    for name in os.listdir(f"{others_store}/segments"):
        if name.endswith(suffix):
            os.chmod(f"{others_store}/segments/{name}", 0)
    assert tell(count_events, others_store) == (15, 5, 7)


def test_users_who_may_write_the_files_share_a_store(others_store: str) -> None:
    for directory, _, names in os.walk(others_store):
        os.chmod(directory, 0o777)
        for name in names:
            os.chmod(f"{directory}/{name}", 0o666)
    assert tell(append_one, others_store) == 16
    with evlog.open(others_store) as store:
        assert store.append("a", [NewEvent("T")]).first_position == 17
    assert tell(count_events, others_store) == (17, 7, 7)
