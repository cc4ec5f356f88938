"""The queue by itself: what is asked is answered or left to whoever asked, whatever becomes of the others."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

import pytest

from evlog.errors import StoreAccessDenied, StoreFull, StoreIOError
from evlog.files.disk import range_lock as byte_locks
from evlog.files.disk.files import DISK, Disk, WriteFile
from evlog.files.disk.range_lock import ByteLock
from evlog.files.write.group_commit import (
    ANSWERS_AT,
    REQUESTS_AT,
    SLOT_BYTES,
    SLOTS,
    Answer,
    CommitQueue,
    Request,
    may_fit,
)
from evlog.model.events import EncodedEvent
from tests.support.contention import wait_until, waiting_requests

EVENT: EncodedEvent = ("T", b"i" * 16, 0, b"{}", None)

pytestmark = pytest.mark.skipif(not byte_locks.AVAILABLE, reason="there are no OFD locks here")


class WatchedLock(ByteLock):
    """Counts those who wait."""

    waiting: ClassVar[list[int]] = []

    def wait(self) -> None:
        self.waiting.append(1)
        super().wait()


class Trio:
    """A leader, and two who ask. In a test's thread the leader has the writers' lock, so to speak."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.leader, self.one, self.two = self.queues = [CommitQueue(path, DISK) for _ in range(3)]
        self._threads: list[threading.Thread] = []
        for queue in self.queues:
            queue.claim_slot_locked()
        assert self.leader.ask("own", None, (0, 0), [EVENT]) is None  # nobody else is there: it leads next
        assert self.leader.leads

    def asks(self, queue: CommitQueue, stream: str = "s") -> Future[Answer | None]:
        """Have one ask in a thread, until it waits for the gate."""
        future: Future[Answer | None] = Future()
        due = len(WatchedLock.waiting) + 1

        def run() -> None:
            future.set_result(queue.ask(stream, 3, (7, 3), [EVENT]))

        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()
        wait_until(lambda: len(WatchedLock.waiting) == due)
        return future

    def end(self) -> None:
        self.leader.withdraw()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        for queue in self.queues:
            queue.leave()

    def take_turn(self) -> list[Request]:
        assert self.leader.find_answer_locked() is None
        return self.leader.take_turn_locked()


@pytest.fixture
def trio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trio]:
    monkeypatch.setattr("evlog.files.write.group_commit.ByteLock", WatchedLock)
    trio = Trio(str(tmp_path))
    yield trio
    trio.end()


def damage(path: Path, offset: int) -> None:
    with open(path / "queue", "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def slot_of(queue: CommitQueue) -> int:
    assert queue._place is not None
    return queue._place.slot


def test_a_request_arrives_whole_and_its_answer_too(trio: Trio) -> None:
    one, two = trio.asks(trio.one, "a"), trio.asks(trio.two, "b-ü")
    requests = trio.take_turn()
    assert [(r.stream, r.expected, r.last_position, r.last_version) for r in requests] == [
        ("a", 3, 7, 3),
        ("b-ü", 3, 7, 3),
    ]
    assert [tuple(map(tuple, r.events)) for r in requests] == [(EVENT,), (EVENT,)]
    trio.leader.answer_locked([(requests[0], Answer(8, 4, 2)), (requests[1], Answer(9, 1, 2))])
    assert one.result(10) == Answer(8, 4, 2)
    assert two.result(10) == Answer(9, 1, 2)
    assert not trio.one.leads
    assert waiting_requests(trio.path) == 0


def test_an_answer_is_given_once(trio: Trio) -> None:
    one = trio.asks(trio.one)
    requests = trio.take_turn()
    trio.leader.answer_locked([(requests[0], Answer(8, 4, 2))])
    one.result(10)
    assert trio.leader.take_turn_locked() == []
    assert (
        trio.one.ask("s", None, (0, 0), [EVENT]) is None
    )  # and the next request does not find the old answer
    assert trio.leader.take_turn_locked()[0].nonce == requests[0].nonce + 1


def test_no_gate_is_used_twice(trio: Trio) -> None:
    """Who wakes late from one that has opened would wait for its next holder, and for the one after that."""
    turns = []
    for queue in (trio.leader, trio.one, trio.two, trio.one):
        if not queue.leads:
            assert queue.ask("s", None, (0, 0), [EVENT]) is None
        turns.append(queue._turn)
        queue.take_turn_locked()
        queue.answer_locked([])
    assert turns == [1, 2, 3, 4]


def test_who_is_told_to_append_alone_leads(trio: Trio) -> None:
    one = trio.asks(trio.one)
    (request,) = trio.take_turn()
    trio.leader.answer_locked([(request, None)])
    assert one.result(10) is None
    assert trio.one.leads
    assert trio.one.take_turn_locked() == []


def test_who_gets_no_answer_asks_nobody_else(trio: Trio) -> None:
    """The leader gave up: the first who was waiting takes the lock, and finds the other's request."""
    one, two = trio.asks(trio.one, "a"), trio.asks(trio.two, "b")
    trio.take_turn()
    trio.leader.withdraw()
    assert one.result(10) is None
    assert two.result(10) is None
    assert trio.one.find_answer_locked() is None
    requests = trio.one.take_turn_locked()
    assert [request.stream for request in requests] == ["b"]
    trio.one.answer_locked([(requests[0], Answer(5, 1, 2))])
    assert trio.two.find_answer_locked() == Answer(5, 1, 2)
    assert trio.two.take_turn_locked() == []


def test_a_leader_that_is_gone_holds_up_nobody(trio: Trio) -> None:
    one = trio.asks(trio.one)
    trio.leader.leave()
    assert one.result(10) is None


def test_what_a_dead_writer_asked_is_nobodys(trio: Trio) -> None:
    one, two = trio.asks(trio.one, "dead"), trio.asks(trio.two, "alive")
    trio.leader.withdraw()
    one.result(10)
    two.result(10)
    slot = slot_of(trio.one)
    trio.one.leave()
    assert [request.stream for request in trio.leader.take_turn_locked()] == ["alive"]
    heir = CommitQueue(trio.path, DISK)
    heir.claim_slot_locked()
    assert slot_of(heir) == slot  # and nor is it its heir's
    assert [request.stream for request in trio.leader.take_turn_locked()] == ["alive"]
    heir.leave()


def test_a_request_that_was_taken_back_is_not_found(trio: Trio) -> None:
    one = trio.asks(trio.one)
    trio.leader.withdraw()
    one.result(10)
    trio.one.withdraw()
    assert trio.two.take_turn_locked() == []


def test_an_own_answer_may_come_while_waiting_for_the_lock(trio: Trio) -> None:
    """The next leader had its gate when the one before read its request."""
    (own,) = trio.one.take_turn_locked()
    trio.one.answer_locked([(own, Answer(4, 2, 2))])
    assert trio.leader.find_answer_locked() == Answer(4, 2, 2)
    assert trio.leader.take_turn_locked() == []


@pytest.mark.parametrize("at", [0, 8, 12, 16, 30])
def test_a_damaged_request_is_left_to_whoever_wrote_it(trio: Trio, tmp_path: Path, at: int) -> None:
    one = trio.asks(trio.one)
    damage(tmp_path, REQUESTS_AT + slot_of(trio.one) * SLOT_BYTES + at)
    assert trio.take_turn() == []
    trio.leader.answer_locked([])
    assert one.result(10) is None
    assert trio.one.leads


@pytest.mark.parametrize("at", [0, 8, 16, 20, 24, 28])
def test_a_damaged_answer_is_none(trio: Trio, tmp_path: Path, at: int) -> None:
    one = trio.asks(trio.one)
    (request,) = trio.take_turn()
    write = DISK.write_at

    class Damaging(Disk):
        def write_at(self, file: WriteFile, data: bytes, offset: int) -> None:
            write(file, data, offset)
            damage(tmp_path, ANSWERS_AT + slot_of(trio.one) * 32 + at)

    trio.leader._disk = Damaging()
    trio.leader.answer_locked([(request, Answer(8, 4, 2))])
    assert one.result(10) is None
    assert trio.one.leads


def test_a_request_of_which_only_the_nonce_is_there_is_none(trio: Trio, tmp_path: Path) -> None:
    with open(tmp_path / "queue", "r+b") as file:
        file.seek(REQUESTS_AT + slot_of(trio.one) * SLOT_BYTES)
        file.write(b"\x01" * 8)
    assert trio.take_turn() == []


def test_a_queue_that_is_cut_under_those_who_wait_is_done_without(trio: Trio, tmp_path: Path) -> None:
    one = trio.asks(trio.one)
    os.truncate(tmp_path / "queue", 0)
    trio.leader.leave()
    assert one.result(10) is None
    assert not trio.one.leads


def test_what_cannot_be_packed_is_not_asked(trio: Trio) -> None:
    assert trio.one.ask("s", 1 << 70, (0, 0), [EVENT]) is None
    assert trio.one.ask("\udc80", None, (0, 0), [EVENT]) is None
    assert not trio.one.leads
    assert trio.take_turn() == []


def test_what_does_not_fit_is_not_asked(trio: Trio) -> None:
    large: EncodedEvent = ("T", b"i" * 16, 0, b"x" * SLOT_BYTES, None)
    assert trio.one.ask("s", None, (0, 0), [large]) is None
    assert not trio.one.leads
    assert [request.slot for request in trio.take_turn()] == []


@pytest.mark.parametrize(
    ("events", "may"),
    [
        ([EVENT], True),
        ([EVENT] * 100, True),
        ([EVENT] * 200, False),
        ([("T", None, 0, b"x" * 1900, None)], True),
        ([("T", None, 0, b"x" * 1900, b"y" * 200)], False),
        ([("T", None, 0, b"x" * SLOT_BYTES, None)], False),
    ],
)
def test_what_cannot_fit_is_known_before_it_is_packed(
    trio: Trio, events: list[EncodedEvent], *, may: bool
) -> None:
    assert may_fit(events) == may
    if not may:
        assert trio.one.ask("s", None, (0, 0), events) is None
        assert not trio.one.leads


def test_who_finds_no_free_slot_goes_on_without(tmp_path: Path) -> None:
    queues = [CommitQueue(str(tmp_path), DISK) for _ in range(SLOTS + 1)]
    for queue in queues:
        queue.claim_slot_locked()
    assert sorted(slot_of(queue) for queue in queues[:-1]) == list(range(SLOTS))
    late = queues[-1]
    for _ in range(3):
        assert late.ask("s", None, (0, 0), [EVENT]) is None
        assert not late.leads
        assert not late.wants_slot()
    assert late.take_turn_locked() == []
    for queue in queues:
        queue.leave()


def test_who_never_waited_needs_no_slot(tmp_path: Path) -> None:
    queue = CommitQueue(str(tmp_path), DISK)
    assert not queue.wants_slot()
    queue.ask("s", None, (0, 0), [EVENT])
    assert queue.wants_slot()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_queue_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "queue").write_bytes(b"something else")
    queue = CommitQueue(str(tmp_path), DISK)
    queue.claim_slot_locked()
    assert queue._place is None
    assert (tmp_path / "queue").read_bytes() == b"something else"


class Failing(Disk):
    """Fails from a moment on."""

    def __init__(self, error: Callable[[str], Exception]) -> None:
        self.error = error
        self.fails = False

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
def test_a_queue_that_cannot_be_had_is_done_without(
    tmp_path: Path, error: Callable[[str], Exception]
) -> None:
    disk = Failing(error)
    disk.fails = True
    queue = CommitQueue(str(tmp_path), disk)
    queue.claim_slot_locked()
    assert queue._place is None
    assert queue.ask("s", None, (0, 0), [EVENT]) is None


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("when", ["asks", "leads", "answers", "withdraws"])
def test_a_queue_that_fails_is_left_to_the_others(
    trio: Trio, error: Callable[[str], Exception], when: str
) -> None:
    disk = Failing(error)
    queue = trio.one
    queue._disk = disk
    if when == "asks":
        disk.fails = True
        assert queue.ask("s", None, (0, 0), [EVENT]) is None
    else:
        trio.leader.withdraw()
        assert queue.ask("s", None, (0, 0), [EVENT]) is None
        other = trio.asks(trio.two)
        disk.fails = when == "leads"
        requests = queue.take_turn_locked()
        assert len(requests) == (when != "leads")
        disk.fails = True
        if when == "answers":
            queue.answer_locked([(requests[0], Answer(8, 4, 2))])
        queue.withdraw()
        assert other.result(10) is None  # the gate is open
    assert not queue.leads
    assert queue._place is None
    assert [request.slot for request in trio.leader.take_turn_locked()] == (
        [slot_of(trio.two)] if when != "asks" else []
    )


class Fcntl:
    """Stands for the module, and raises once, before a command is done or after it."""

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
    monkeypatch.setattr(byte_locks, "fcntl", Fcntl(error, fcntl.F_OFD_SETLK))
    queue = CommitQueue(str(tmp_path), DISK)
    queue.claim_slot_locked()
    assert queue._place is None


def test_what_a_signals_handler_raises_is_no_failure_of_the_queue(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_locks, "fcntl", Fcntl(TimeoutError(), fcntl.F_OFD_SETLKW))
    with pytest.raises(TimeoutError):
        trio.one.ask("s", None, (0, 0), [EVENT])
    assert trio.take_turn() == []


@pytest.mark.parametrize("command", [fcntl.F_OFD_SETLK, fcntl.F_OFD_SETLKW])
def test_an_interrupt_that_comes_with_the_gate_leaves_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: int
) -> None:
    """Else all who ask would wait for one who does not lead."""
    queue, other = [CommitQueue(str(tmp_path), DISK) for _ in range(2)]
    for each in (queue, other):
        each.claim_slot_locked()
    with monkeypatch.context() as patch:
        if command == fcntl.F_OFD_SETLKW:
            patch.setattr(ByteLock, "try_acquire", lambda _: False)
        patch.setattr(byte_locks, "fcntl", Fcntl(KeyboardInterrupt(), command, after=True))
        with pytest.raises(KeyboardInterrupt):
            queue.ask("s", None, (0, 0), [EVENT])
    assert other.ask("s", None, (0, 0), [EVENT]) is None
    assert other._gate is not None
    assert other.take_turn_locked() == []
    for each in (queue, other):
        each.leave()


def test_a_queue_that_was_cut_while_its_writer_waited_for_the_lock_is_left(
    trio: Trio, tmp_path: Path
) -> None:
    os.truncate(tmp_path / "queue", ANSWERS_AT)
    assert trio.leader.find_answer_locked() is None
    assert not trio.leader.leads


def test_an_interrupt_takes_the_request_back(trio: Trio) -> None:
    class Interrupt(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    main = threading.get_ident()

    def poke() -> None:
        wait_until(lambda: waiting_requests(trio.path) == 2)
        signal.pthread_kill(main, signal.SIGUSR1)

    threading.Thread(target=poke).start()
    try:
        with pytest.raises(Interrupt):
            trio.one.ask("s", None, (0, 0), [EVENT])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert trio.take_turn() == []


def test_a_child_leaves_its_parents_slot_to_it(trio: Trio) -> None:
    child = os.fork()
    if child == 0:
        trio.one.leave()
        os._exit(0)
    os.waitpid(child, 0)
    one = trio.asks(trio.one)
    (request,) = trio.take_turn()
    trio.leader.answer_locked([(request, Answer(8, 4, 2))])
    assert one.result(10) == Answer(8, 4, 2)
