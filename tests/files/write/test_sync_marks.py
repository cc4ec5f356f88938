"""What is acknowledged, and when: marks of what is synced, and nothing on top of a failed sync.

Two writers use the test disk; what one does during the other's sync is put into its hook.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator

import pytest

from evlog.errors import StoreIOError
from evlog.files.format.entries import ENTRY_BYTES
from evlog.files.format.headers import FILE_HEADER_BYTES
from evlog.files.format.paths import segment_path
from evlog.files.log.log import Log
from evlog.store import EventStore
from tests.crash.check import open_store
from tests.crash.disk import RecordingDisk, World
from tests.crash.recordings import scratch
from tests.support.helpers import new, open_files, writer_of


class Pair:
    """Two writers on one store, each with a disk of its own."""

    def __init__(self, root: str) -> None:
        self.path = f"{root}/store"
        self.world = World(root)
        self.disk, self.other_disk = RecordingDisk(self.world), RecordingDisk(self.world)
        self.store = open_store(self.path, create=True, disk=self.disk, segment_events=4)
        self.other = open_store(self.path, disk=self.other_disk)
        for store in (self.store, self.other):
            store.append("s", [new()])

    def during_sync_of_store(self, do: Callable[[], object]) -> None:
        def once() -> None:
            self.disk.during_sync = None
            do()

        self.disk.during_sync = once

    def fail_next_sync_of_other(self) -> None:
        self.other_disk.fail_sync = self.other_disk.syncs + 1

    def fail(self) -> None:
        self.fail_next_sync_of_other()
        with pytest.raises(StoreIOError):
            self.other.append("s", [new()])

    def log(self) -> Log:
        return Log(self.path)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with scratch() as root:
        yield Pair(root)


def log_bytes(store: EventStore) -> int:
    with open(segment_path(store.path, 1, 0, "log"), "rb") as file:
        return len(file.read())


def acknowledged(log: Log) -> int:
    return log.acknowledged_position(log.stamp_and_marks()[1])


def test_an_append_is_durable_and_marked_so_when_it_returns(pair: Pair) -> None:
    log = pair.log()
    assert log.durable_offset() == log.active.segment.end
    assert acknowledged(log) == log.head == 2


def test_a_sync_covers_no_more_than_it_was_begun_for(pair: Pair) -> None:
    lazy = open_store(pair.path, sync="none")
    pair.during_sync_of_store(lambda: lazy.append("s", [new()]))
    pair.store.append("s", [new()])
    log = pair.log()
    assert log.head == 4
    assert log.durable_offset() < log.active.segment.end
    assert acknowledged(log) == 4  # without a sync, as its writer wanted it


def test_what_takes_the_place_of_lost_frames_is_not_acknowledged_by_their_mark(pair: Pair) -> None:
    """A power loss takes frames that were not synced, and leaves the mark that acknowledges them."""
    with open_store(pair.path, sync="none") as lazy:
        length = pair.log().active.segment.end
        lazy.append("s", [new()])
    os.truncate(segment_path(pair.path, 1, 0, "log"), length)
    os.truncate(segment_path(pair.path, 1, 0, "offsets"), FILE_HEADER_BYTES + 2 * ENTRY_BYTES)
    disk, seen = RecordingDisk(pair.world), []
    disk.during_sync = lambda: seen.append(acknowledged(pair.log()))
    with open_store(pair.path, disk=disk) as heir:
        heir.append("s", [new()])
    assert set(seen) == {2}
    assert acknowledged(pair.log()) == 3


def test_a_late_mark_does_not_take_back_a_later_one(pair: Pair) -> None:
    pair.during_sync_of_store(lambda: pair.other.append("s", [new()]))
    pair.store.append("s", [new()])
    log = pair.log()
    assert log.head == 4
    assert log.durable_offset() == log.active.segment.end


def test_a_mark_of_a_sealed_segment_does_not_replace_that_of_the_active_one(pair: Pair) -> None:
    pair.during_sync_of_store(lambda: [pair.other.append("s", [new()]) for _ in range(3)])
    pair.store.append("s", [new()])
    log = pair.log()
    assert len(log.sealed) == 1
    assert log.durable_offset() == log.active.segment.end
    assert acknowledged(log) == log.head == 6


def test_a_failed_sync_of_another_meanwhile_is_not_an_acknowledgement(pair: Pair) -> None:
    pair.world.tells_all = False
    pair.during_sync_of_store(pair.fail)
    with pytest.raises(StoreIOError):
        pair.store.append("s", [new()])
    assert pair.log().marks().suspect is not None


@pytest.mark.parametrize("tells_all", [True, False])
def test_nothing_is_written_on_top_of_a_failed_sync(pair: Pair, tells_all: bool) -> None:
    pair.world.tells_all = tells_all
    pair.fail()
    length = log_bytes(pair.store)
    for _ in range(2):
        with pytest.raises(StoreIOError):
            pair.store.append("s", [new()])
    assert log_bytes(pair.store) == length


def test_a_duplicate_of_what_is_not_synced_yet_is_synced_before_it_is_acknowledged(pair: Pair) -> None:
    event = new(id="0193a0b0-0000-7000-8000-000000000001")
    with open_store(pair.path, sync="none") as lazy:
        lazy.append("s", [event])
    assert pair.log().durable_offset() < pair.log().active.segment.end
    syncs = pair.disk.syncs
    assert pair.store.append("s", [event]).duplicate
    assert pair.disk.syncs == syncs + 1
    assert pair.log().durable_offset() == pair.log().active.segment.end
    assert pair.store.append("s", [event]).duplicate
    assert pair.disk.syncs == syncs + 1  # and not again


def test_a_forked_child_syncs_by_a_descriptor_of_its_own(pair: Pair) -> None:
    """The kernel tells a failed sync once for each open file: a shared one would let one of two go untold."""
    pair.store.append("s", [new()])
    log_file = writer_of(pair.store)._tail._log_file
    assert log_file is not None
    file = log_file.file
    child = os.fork()
    if child == 0:
        code = 1
        try:
            pair.store.append("s", [new()])
            own = writer_of(pair.store)._tail._log_file
            code = 2 if own is None else 0
            if own is not None:
                os.lseek(own.file.fd, 7, os.SEEK_SET)  # an open file that is shared shares its place, too
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert os.lseek(file.fd, 0, os.SEEK_CUR) != 7
    assert pair.store.append("s", [new()]).first_position == 5


def test_a_writer_that_refuses_keeps_nothing_of_its_callers_and_closes_its_files(pair: Pair) -> None:
    depths = []
    gc.disable()  # a collection would close the files
    try:
        pair.fail()
        for store in (pair.other, pair.store, pair.store, pair.store):
            with pytest.raises(StoreIOError) as raised:
                store.append("s", [new()])
            depths.append(len(raised.traceback))
            del raised
        assert depths[2] == depths[3]
        pair.store.close()
        pair.other.close()
        assert not open_files(pair.path)
    finally:
        gc.enable()
