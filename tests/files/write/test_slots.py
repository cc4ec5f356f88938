"""The queue by itself: a request is answered, or left to its writer, whatever happens to the others."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evlog.errors import StoreAccessDenied, StoreFull, StoreIOError
from evlog.files.disk import range_lock
from evlog.files.disk.files import DISK, Disk, WriteFile
from evlog.files.disk.range_lock import ByteLock
from evlog.files.write.group_commit import (
    REQUESTS_AT,
    RESPONSES_AT,
    SLOT_BYTES,
    SLOTS,
    Slot,
    maybe_claim_slot,
)
from evlog.model.events import EncodedEvent

EVENT: EncodedEvent = ("T", b"i" * 16, 0, b"{}", None)

pytestmark = pytest.mark.skipif(not range_lock.AVAILABLE, reason="there are no OFD locks here")


def claim(path: Path, disk: Disk = DISK) -> Slot:
    slot = maybe_claim_slot(str(path), disk)
    assert slot is not None
    return slot


@pytest.fixture
def slots(tmp_path: Path) -> Iterator[list[Slot]]:
    """A leader, whose thread has the writers' lock, so to speak, and two that wait."""
    made = [claim(tmp_path) for _ in range(3)]
    yield made
    for slot in made:
        slot.close()


def damage(path: Path, offset: int) -> None:
    with open(path / "queue", "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def test_a_request_arrives_whole_and_so_does_its_response(slots: list[Slot]) -> None:
    leader, one, two = slots
    assert one.submit("a", 3, [EVENT])
    assert two.submit("b-ü", None, [EVENT, EVENT])
    leader.lead_locked()
    requests = leader.take_requests_locked()
    assert [(r.stream, r.expected, tuple(map(tuple, r.events))) for r in requests] == [
        ("a", 3, (EVENT,)),
        ("b-ü", None, (EVENT, EVENT)),
    ]
    assert one.maybe_response() is None
    leader.respond_locked(requests, [(8, 4), None])
    assert one.maybe_response() == (8, 4)
    assert two.maybe_response() is None
    assert not two.is_pending  # it was told to append for itself
    assert leader.take_requests_locked() == []


def test_a_response_is_to_one_request(slots: list[Slot]) -> None:
    leader, one, _ = slots
    one.submit("a", None, [EVENT])
    leader.lead_locked()
    (request,) = leader.take_requests_locked()
    leader.respond_locked([request], [(8, 4)])
    one.maybe_response()
    one.submit("a", None, [EVENT])
    assert one.maybe_response() is None
    assert [r.nonce for r in leader.take_requests_locked()] == [request.nonce + 1]


def wait_in_thread(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> threading.Thread:
    """Start a thread that waits for a round; return when it has begun to wait."""
    waits = threading.Event()

    class WatchedLock(ByteLock):
        def wait(self) -> None:
            waits.set()
            super().wait()

    thread = threading.Thread(target=slot.wait_for_round, daemon=True)
    with monkeypatch.context() as patch:
        patch.setattr("evlog.files.write.group_commit.ByteLock", WatchedLock)
        thread.start()
        assert waits.wait(20)
    return thread


def test_a_waiter_waits_for_the_round_that_takes_its_request(
    slots: list[Slot], monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, one, two = slots
    assert one.wait_for_round()  # at once: no writer leads
    assert not one.wait_for_round()
    one.submit("a", None, [EVENT])
    leader.lead_locked()
    first = wait_in_thread(one, monkeypatch)
    requests = leader.take_requests_locked()
    two.submit("b", None, [EVENT])  # too late for this round
    second = wait_in_thread(two, monkeypatch)
    leader.respond_locked(requests, [(1, 1)])
    first.join(20)
    assert not first.is_alive()
    assert second.is_alive()
    leader.cancel()
    second.join(20)
    assert not second.is_alive()


@pytest.mark.parametrize(
    "waited", [True, False], ids=["another leader's round has ended", "no writer has led"]
)
def test_a_request_that_a_leader_finds_is_waited_for_until_its_response(
    slots: list[Slot], monkeypatch: pytest.MonkeyPatch, *, waited: bool
) -> None:
    """Also where its writer is slow, and the leader has begun its next round before that writer looks."""
    leader, one, _ = slots
    one.wait_for_round()
    if waited:
        leader.lead_locked()
        one.submit("a", None, [EVENT])
        leader.cancel()
        assert one.wait_for_round()
    else:
        one.submit("a", None, [EVENT])
        assert not one.wait_for_round()
    leader.lead_locked()
    requests = leader.take_requests_locked()
    waiter = wait_in_thread(one, monkeypatch)
    leader.respond_locked(requests, [(1, 1)])
    waiter.join(20)
    assert not waiter.is_alive()
    assert one.maybe_response() == (1, 1)


def test_a_round_that_has_ended_is_not_waited_for_again(
    slots: list[Slot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waiter that wakes has the lock for a moment. The others must not take it for a leader."""
    leader, one, two = slots
    leader.lead_locked()
    waiter = wait_in_thread(one, monkeypatch)
    leader.cancel()
    waiter.join(20)
    number = (1 << 40) + two._current_round()
    shared = struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, number, 1, 0)
    fcntl.fcntl(two._file.fd, fcntl.F_OFD_SETLK, shared)
    assert not one.wait_for_round()


def test_the_last_requests_of_a_leader_begin_no_round(
    slots: list[Slot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that asks too late wakes with the others, and not a second time for nothing."""
    leader, one, two = slots
    one.submit("a", None, [EVENT])
    leader.lead_locked()
    requests = leader.take_requests_locked(is_last=True)
    two.submit("b", None, [EVENT])  # too late
    late = wait_in_thread(two, monkeypatch)
    leader.respond_locked(requests, [(1, 1)])
    late.join(20)
    assert not late.is_alive()
    assert one.maybe_response() == (1, 1)
    assert two.maybe_response() is None
    assert two.is_pending
    assert not two.wait_for_round()


@pytest.mark.parametrize("end", [Slot.cancel, Slot.close])
def test_a_leader_sees_that_others_want_the_lock(slots: list[Slot], end: Callable[[Slot], None]) -> None:
    leader, one, two = slots
    leader.want_lock()  # its own does not count
    assert not leader.is_lock_wanted_locked()
    for slot in (one, two):
        slot.want_lock()
    end(one)
    assert leader.is_lock_wanted_locked()
    end(two)
    assert not leader.is_lock_wanted_locked()


def test_a_leader_that_is_gone_frees_its_rounds(slots: list[Slot], monkeypatch: pytest.MonkeyPatch) -> None:
    leader, one, _ = slots
    leader.lead_locked()
    waiter = wait_in_thread(one, monkeypatch)
    leader.close()
    waiter.join(20)
    assert not waiter.is_alive()
    assert not one.wait_for_round()


def test_no_round_is_used_twice(slots: list[Slot]) -> None:
    """A waiter that wakes late would wait for its next leader."""
    rounds = []
    for leader in (*slots, slots[0]):
        leader.lead_locked()
        rounds.append(leader._current_round())
        leader.take_requests_locked()
        rounds.append(leader._current_round())
        leader.cancel()
    assert rounds == list(range(1, 9))


def test_a_cancelled_request_is_not_found(slots: list[Slot]) -> None:
    leader, one, _ = slots
    one.submit("a", None, [EVENT])
    one.cancel()
    leader.lead_locked()
    assert leader.take_requests_locked() == []


def test_a_dead_writers_request_is_not_appended(slots: list[Slot], tmp_path: Path) -> None:
    leader, one, two = slots
    one.submit("dead", None, [EVENT])
    two.submit("alive", None, [EVENT])
    one.close()
    leader.lead_locked()
    assert [request.stream for request in leader.take_requests_locked()] == ["alive"]
    heir = claim(tmp_path)
    assert heir._number == one._number
    assert [request.stream for request in leader.take_requests_locked()] == ["alive"]
    heir.close()


def test_a_writer_that_died_since_the_last_lead_is_found_dead(slots: list[Slot]) -> None:
    """A leader looks at the locks again each time it leads."""
    leader, one, two = slots
    for slot in (one, two):
        slot.submit("first", None, [EVENT])
    leader.lead_locked()
    leader.respond_locked(leader.take_requests_locked(), [(8, 1), (9, 1)])
    leader.cancel()
    for slot in (one, two):
        slot.maybe_response()
        slot.submit("second", None, [EVENT])
    one.close()
    leader.lead_locked()
    assert [request.slot for request in leader.take_requests_locked()] == [two._number]


@pytest.mark.parametrize("at", [0, 8, 12, 16, 30])
def test_a_damaged_request_is_left_to_its_writer(slots: list[Slot], tmp_path: Path, at: int) -> None:
    leader, one, _ = slots
    one.submit("a", None, [EVENT])
    damage(tmp_path, REQUESTS_AT + one._number * SLOT_BYTES + at)
    leader.lead_locked()
    assert leader.take_requests_locked() == []
    assert one.maybe_response() is None


@pytest.mark.parametrize("at", [0, 8, 16, 20, 24, 28])
def test_a_damaged_response_is_none(slots: list[Slot], tmp_path: Path, at: int) -> None:
    leader, one, _ = slots
    one.submit("a", None, [EVENT])
    leader.lead_locked()
    (request,) = leader.take_requests_locked()
    leader.respond_locked([request], [(8, 4)])
    damage(tmp_path, RESPONSES_AT + one._number * 32 + at)
    assert one.maybe_response() is None


def test_a_request_that_cannot_be_packed_or_does_not_fit_is_not_submitted(slots: list[Slot]) -> None:
    leader, one, _ = slots
    large: EncodedEvent = ("T", b"i" * 16, 0, b"x" * SLOT_BYTES, None)
    assert not one.submit("s", 1 << 70, [EVENT])
    assert not one.submit("\udc80", None, [EVENT])
    assert not one.submit("s", None, [large])
    assert not one.is_pending
    assert not one.failed
    leader.lead_locked()
    assert leader.take_requests_locked() == []


@pytest.mark.parametrize(
    ("events", "may"),
    [
        ([EVENT] * 100, True),
        ([EVENT] * 200, False),
        ([("T", None, 0, b"x" * 1900, None)], True),
        ([("T", None, 0, b"x" * 1900, b"y" * 200)], False),
    ],
)
def test_what_cannot_fit_is_known_before_it_is_packed(events: list[EncodedEvent], *, may: bool) -> None:
    assert Slot.may_fit(events) == may


def test_there_are_as_many_slots_as_the_file_has_room_for(tmp_path: Path) -> None:
    slots = [claim(tmp_path) for _ in range(SLOTS)]
    assert [slot._number for slot in slots] == list(range(SLOTS))
    assert maybe_claim_slot(str(tmp_path), DISK) is None
    for slot in slots:
        slot.close()


def test_a_file_that_is_not_a_queue_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "queue").write_bytes(b"something else")
    assert maybe_claim_slot(str(tmp_path), DISK) is None
    assert (tmp_path / "queue").read_bytes() == b"something else"


class Failing(Disk):
    """Fails from a moment on."""

    fails = True

    def __init__(self, error: Callable[[str], Exception]) -> None:
        self.error = error

    def open(
        self, path: str, *, create: bool = False, truncate: bool = False, readable: bool = True
    ) -> WriteFile:
        if self.fails:
            raise self.error(path)
        return super().open(path, create=create, truncate=truncate, readable=readable)

    def write_at(self, file: WriteFile, data: bytes, offset: int) -> None:
        if self.fails:
            raise self.error(file.path)
        super().write_at(file, data, offset)


ERRORS = [
    lambda path: StoreFull(path, "No space left on device"),
    lambda path: StoreIOError(path, "Input/output error"),
    lambda path: StoreAccessDenied(path, "Permission denied"),
]


@pytest.mark.parametrize("error", ERRORS)
def test_a_queue_that_fails_is_not_used(tmp_path: Path, error: Callable[[str], Exception]) -> None:
    disk = Failing(error)
    assert maybe_claim_slot(str(tmp_path), disk) is None
    disk.fails = False
    slot, other = claim(tmp_path, disk), claim(tmp_path)
    slot.submit("s", None, [EVENT])
    other.submit("t", None, [EVENT])
    disk.fails = True
    for use in (
        lambda: slot.submit("s", None, [EVENT]),
        slot.lead_locked,
        slot.take_requests_locked,
        slot.cancel,
    ):
        slot.failed = False
        assert not use()
        assert slot.failed
    slot.close()
    assert other.wait_for_round()  # at once: the failed leader has ended its rounds
    other.close()


def test_a_truncated_queue_is_not_used(slots: list[Slot], tmp_path: Path) -> None:
    leader, one, _ = slots
    one.submit("a", None, [EVENT])
    os.truncate(tmp_path / "queue", 0)
    assert one.maybe_response() is None
    assert not one.wait_for_round()
    assert one.failed
    leader.lead_locked()
    assert leader.failed


class Fcntl:
    """Replaces the module, and raises once, before a command is done or after it."""

    def __init__(self, error: BaseException, command: int, *, after: bool = False) -> None:
        self._errors = [error]
        self._command = command
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(fcntl, name)

    def fcntl(self, fd: int, command: int, lock: bytes) -> bytes:
        due = command == self._command and bool(self._errors)
        if due and not self._after:
            raise self._errors.pop()
        result = fcntl.fcntl(fd, command, lock)
        if due:
            raise self._errors.pop()
        return result


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_the_locks_cannot_be_had_there_is_no_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    error = OSError(number, os.strerror(number))
    monkeypatch.setattr(range_lock, "fcntl", Fcntl(error, fcntl.F_OFD_SETLK))
    assert maybe_claim_slot(str(tmp_path), DISK) is None


def test_what_a_signal_handler_raises_is_not_a_failure_of_the_queue(
    slots: list[Slot], monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, one, _ = slots
    leader.lead_locked()
    monkeypatch.setattr(range_lock, "fcntl", Fcntl(TimeoutError(), fcntl.F_OFD_SETLKW))
    with pytest.raises(TimeoutError):
        one.wait_for_round()
    assert not one.failed


def test_a_round_that_was_locked_when_an_interrupt_came_is_ended(
    slots: list[Slot], monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, one, _ = slots
    with monkeypatch.context() as patch:
        patch.setattr(range_lock, "fcntl", Fcntl(KeyboardInterrupt(), fcntl.F_OFD_SETLK, after=True))
        with pytest.raises(KeyboardInterrupt):
            leader.lead_locked()
    leader.cancel()
    for number in range(3):
        assert ByteLock(one._file.fd, (1 << 40) + number).try_acquire()


def test_a_child_leaves_its_parents_slot_to_it(slots: list[Slot]) -> None:
    leader, one, _ = slots
    child = os.fork()
    if child == 0:
        one.close()
        os._exit(0)
    os.waitpid(child, 0)
    one.submit("a", None, [EVENT])
    leader.lead_locked()
    assert len(leader.take_requests_locked()) == 1
