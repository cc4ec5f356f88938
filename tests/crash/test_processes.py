"""Real processes: killed in the middle of anything, on a full disk, without their directory, forked."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

import evlog
from evlog import NewEvent
from evlog.errors import EvlogError, LockTimeout, StoreFull, StoreNotFound
from evlog.store import EventStore
from tests.crash import recordings
from tests.crash.check import check_no_torn_tail, check_reads, check_recovery, open_store
from tests.crash.disk import World
from tests.crash.history import History, all_known, event
from tests.crash.storm import Storm
from tests.crash.worker import Child
from tests.support.helpers import engine_of, expire_look

STORM_SECONDS = 5.0


@pytest.fixture
def path() -> Iterator[str]:
    with recordings.scratch() as root:
        os.mkdir(f"{root}/above")
        yield f"{root}/above/store"


def test_killing_writers_over_and_over_loses_and_doubles_nothing(path: str) -> None:
    storm = Storm(path, random.Random(3))
    storm.rage(STORM_SECONDS, kills=20)
    storm.finish()
    storm.check()


def fill(store: EventStore, history: History) -> None:
    for number in range(1, 100):
        history.send(store, [("a", [event(number, {"x": "x" * 200})])])


def test_a_file_size_limit_is_store_full_until_it_is_lifted(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python does not notice that a .pyc was cut
    history = History(World(os.path.dirname(path)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_store(path, create=True, segment_events=1000) as store:
        history.send(store, [("a", [event(0)])])
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
            with pytest.raises(StoreFull):
                fill(store, history)
            check_no_torn_tail(path)
            with pytest.raises(StoreFull):
                store.append("a", [event(500, {"x": "x" * 2000})])
            check_no_torn_tail(path)
            check_reads(store, all_known(history.batches))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        for batch in history.batches:
            if batch.results is None:
                batch.results = store.append_many(batch.appends)
    assert len(history.batches) > 5
    check_recovery(path, all_known(history.batches))


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_a_store_that_goes_away_is_not_found_and_not_made_again(path: str, how: str) -> None:
    with open_store(path, create=True) as store, open_store(path) as reader:
        for number in range(6):
            store.append("a", [event(number)])
        assert reader.head == 6
        if how == "removed":
            shutil.rmtree(path)
        else:
            os.rename(path, f"{path}-elsewhere")
        with pytest.raises(StoreNotFound):
            store.append("a", [event(7)])
        expire_look(reader)
        with pytest.raises(StoreNotFound):
            list(reader.read_all())
        with pytest.raises(StoreNotFound):
            reader.stream_version("a")
        assert not os.path.exists(path)
    if how == "moved":
        with open_store(f"{path}-elsewhere") as store:
            assert store.append("a", [event(7)]).first_position == 7


@pytest.mark.parametrize("lost", ["segments", "lock", "durable", "manifest.json"])
def test_a_part_of_the_store_that_goes_away_under_a_writer_is_told_or_does_no_harm(
    path: str, lost: str
) -> None:
    history = History(World(os.path.dirname(path)))
    with open_store(path, create=True) as store:
        for number in range(3):
            history.send(store, [("a", [event(number)])])
        if lost == "segments":
            os.rename(f"{path}/segments", f"{path}/moved")
        else:
            os.rename(f"{path}/{lost}", f"{path}/moved")
        unsure = []
        for number in range(3, 9):
            batch = history.sent([("a", [event(number)])])
            try:
                history.batches[batch].results = store.append_many(history.batches[batch].appends)
            except EvlogError:
                unsure.append(batch)
        if lost in {"segments", "manifest.json"}:
            shutil.rmtree(f"{path}/{lost}", ignore_errors=True)
            os.rename(f"{path}/moved", f"{path}/{lost}")
            assert unsure
    check_recovery(path, all_known(history.batches))


# --- fork


def fork_and_append(pipe: Connection, path: str) -> None:
    """Append, fork, append in both; the child first."""
    store = evlog.open(path)
    store.append("parent", [NewEvent("Before")])
    child = os.fork()
    if child == 0:
        assert store.append("child", [NewEvent("InChild")]).first_position == 2
        assert [event.type for event in store.read_all()] == ["Before", "InChild"]
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert store.append("parent", [NewEvent("After")]).first_position == 3
    assert store.append("child", [NewEvent("After")]).first_version == 2
    pipe.send([event.type for event in store.read_all()])


def hold_the_lock_and_fork(pipe: Connection, path: str) -> None:
    """Fork while the writers' lock is held; the child lives until it is killed."""
    store = evlog.open(path)
    store.append("a", [NewEvent("T")])
    lock = engine_of(store)._open_writer()._lock
    lock.acquire()
    child = os.fork()
    if child == 0:
        pipe.send(("child", os.getpid()))
        signal.pause()
    pipe.recv()
    lock.release()
    pipe.send(("released", 0))
    signal.pause()


def test_a_forked_child_may_go_on_with_the_store(path: str) -> None:
    open_store(path, create=True).close()
    child = Child(fork_and_append, path)
    assert child.pipe.recv() == ["Before", "InChild", "After", "After"]
    child.close()


def test_the_lock_of_a_killed_parent_is_free_though_its_forked_child_lives(path: str) -> None:
    open_store(path, create=True).close()
    parent = Child(hold_the_lock_and_fork, path)
    _, grandchild = parent.pipe.recv()
    try:
        with evlog.open(path, lock_timeout=0.0) as store:
            with pytest.raises(LockTimeout):
                store.append("b", [NewEvent("T")])
            parent.kill()
            assert store.append("b", [NewEvent("T")]).first_position == 2
        os.kill(grandchild, 0)
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_a_forked_child_does_not_free_its_parents_lock(path: str) -> None:
    open_store(path, create=True).close()
    parent = Child(hold_the_lock_and_fork, path)
    _, grandchild = parent.pipe.recv()
    os.kill(grandchild, signal.SIGKILL)
    with evlog.open(path, lock_timeout=0.0) as store:
        with pytest.raises(LockTimeout):
            store.append("b", [NewEvent("T")])
        parent.pipe.send("release")
        assert parent.pipe.recv() == ("released", 0)
        assert store.append("b", [NewEvent("T")]).first_position == 2
    parent.kill()
