"""Fork: the same history up to a position, in a store that goes its own way."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

import evlog
from evlog.errors import InvalidArgument, MirrorConflict, StoreIsMirror
from evlog.store import EventStore
from evlog.transfer import fork, mirror, promote
from tests.support.helpers import new, number_id, small_store
from tests.support.programs import run_python


@pytest.fixture
def source(memory_path: Path) -> Iterator[EventStore]:
    """Segments, a policy whose events were compacted away, and a subscription."""
    with small_store(memory_path / "source", segment_events=5) as store:
        for number in range(12):
            store.append(f"s-{number % 2}", [new(number, id=number_id(number))])
        store.set_retention("s-0", max_count=2)
        store.compact(force=True)
        store.append("s-1", [new(20), new(21), new(22)])
        store.subscribe("sub", follow=False).close()
        yield store


@pytest.fixture
def out(memory_path: Path) -> Iterator[EventStore]:
    with small_store(memory_path / "out") as store:
        yield store


def everything(store: EventStore, to: int) -> list[evlog.Event]:
    return [event for event in store.read_all(include_system=True) if event.position <= to]


def test_a_fork_has_the_history_and_nothing_else(source: EventStore, out: EventStore) -> None:
    done = fork(source, out)
    assert UUID(done.id) == out.id != source.id
    assert done.position == source.head
    assert everything(out, source.head) == everything(source, source.head)
    assert out.subscriptions() == []
    assert out.verify().ok
    assert out.append("own", [new()]).first_position == source.head + 1
    source.append("other", [new()])
    assert not source.has_stream("own")


def test_the_id_of_a_removed_event_stays_used(source: EventStore, out: EventStore) -> None:
    fork(source, out)
    with pytest.raises(evlog.IdConflict):
        out.append("elsewhere", [new(99, id=number_id(0))])


@pytest.mark.parametrize("at", [0, 1, 7, 11])
def test_a_fork_ends_at_the_position(source: EventStore, out: EventStore, at: int) -> None:
    assert fork(source, out, at=at).position == at
    assert everything(out, out.head) == everything(source, at)
    assert out.append("s-1", [new()]).first_position == at + 1
    assert out.verify().ok


def test_a_part_of_an_append_is_copied(source: EventStore, out: EventStore) -> None:
    at = source.head - 1
    fork(source, out, at=at)
    assert [event.data for event in out.read_all(after=at - 2)] == [b"20", b"21"]


class Killed(Exception):
    pass


def kill(_done: int, _total: int) -> None:
    """End a fork that has copied everything, and is not a store of its own yet."""
    raise Killed


def begin_fork(source: EventStore, out: EventStore, at: int) -> None:
    with pytest.raises(Killed):
        fork(source, out, at=at, progress=kill)


def test_a_fork_that_was_killed_is_run_again(source: EventStore, out: EventStore) -> None:
    begin_fork(source, out, 4)
    with pytest.raises(MirrorConflict, match="it goes beyond position 3; fork into a new directory"):
        fork(source, out, at=3)
    assert fork(source, out, at=9).position == 9
    assert everything(out, 9) == everything(source, 9)
    assert out.standing == evlog.Standing()
    out.append("own", [new()])


def test_an_unfinished_fork_is_neither_a_mirror_nor_a_store(
    source: EventStore, out: EventStore, memory_path: Path
) -> None:
    begin_fork(source, out, 4)
    for change in (lambda: out.append("own", [new()]), lambda: promote(out)):
        with pytest.raises(StoreIsMirror, match="is an unfinished fork; run the same `evlog fork` again"):
            change()
    with pytest.raises(MirrorConflict, match="an unfinished fork of the source; use an empty destination"):
        mirror(source, out)
    with pytest.raises(StoreIsMirror, match="is an unfinished fork"):
        mirror(source, out, merge=True)
    with small_store(memory_path / "other") as other:
        other.append("s", [new()])
        for copy in (fork, mirror):
            with pytest.raises(MirrorConflict, match="an unfinished fork of another store"):
                copy(other, out)
    assert fork(source, out, at=4).events == 0


def test_a_fork_leaves_a_mirror_what_it_is(source: EventStore, out: EventStore) -> None:
    mirror(source, out)
    with pytest.raises(MirrorConflict, match="is a mirror of store"):
        fork(source, out)
    source.append("s-1", [new()])
    assert mirror(source, out).events == 1
    mirror(source, out, cutover=True)
    with pytest.raises(MirrorConflict, match="holds other events; fork into a new directory"):
        fork(source, out)


def test_a_fork_that_others_have_opened_is_left_alone(source: EventStore, out: EventStore) -> None:
    def open_it(_done: int, _total: int) -> None:
        out.engine.change_standing(out.standing, evlog.Standing())
        out.append("own", [new()])

    with pytest.raises(MirrorConflict, match="it was opened meanwhile"):
        fork(source, out, progress=open_it)


def test_a_killed_process_leaves_a_fork_to_continue(tmp_path: Path) -> None:
    code = """
import os, signal, sys, evlog
from evlog.transfer import fork
with evlog.open("source") as source, evlog.open("out", create=True) as out:
    fork(source, out, progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))
"""
    with small_store(tmp_path / "source") as source:
        source.append("s", [new(), new()])
        run_python("-c", code, cwd=tmp_path, code=-signal.SIGKILL)
        with small_store(tmp_path / "out") as out:
            assert out.standing.is_unfinished_fork
            assert fork(source, out).events == 0
            assert out.append("own", [new()]).first_position == 3


def test_a_store_with_events_is_refused(source: EventStore, out: EventStore) -> None:
    out.append("mine", [new()])
    with pytest.raises(MirrorConflict, match="holds other events; fork into a new directory"):
        fork(source, out)
    with pytest.raises(InvalidArgument, match="the same store"):
        fork(source, source)
    with pytest.raises(InvalidArgument, match="beyond the log's end"):
        fork(source, out, at=source.head + 1)
    assert out.head == 1
