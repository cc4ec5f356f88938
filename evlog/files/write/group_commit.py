"""The queue of waiting writers: whoever gets the writers' lock next appends for all of them, with one sync.

This is group commit as LevelDB's and RocksDB's writers do it between threads, here between processes. Without
it each of many writers pays for a turn of its own: a wake-up, cold caches, a write, a mark, a sync.

*queue* is a file for the moment: nothing in it outlives the processes that wrote it, and it may be removed
while none of them runs.

    offset          size
         0             8  magic "evQUEUE1"
         8             8  turn: number of the gate of the last leader
        64      256 x 32  answers: u64 nonce, u64 first position, u32 first version, u32 requests answered
                          together, u32 zero, u32 CRC of those 28 bytes
    12,288   256 x 2,048  requests: u64 nonce (0: none), u32 length, u32 CRC of these two and of that
                          many bytes behind it: a msgpack array [stream, expected version or nil, last
                          known position and version of the stream, events]

A slot (an answer and a request) belongs to one place of an open writer, which holds a lock on a byte that
stands for it: what a dead one left is nobody's. A request waits as long as its nonce, used once, is not in
its slot's answer. Who finds the writers' lock taken

    1. writes its request, reads the turn, and tries to lock the next gate;
    2. if it gets that gate, it leads next: it waits for the writers' lock, notes its gate as the turn, reads
       the requests, appends for all, syncs, writes the answers, opens its gate and the writers' lock;
    3. if not, it waits until that gate opens, and finds its answer;
    4. or none: then it waits for the writers' lock as if there were no queue, and leads once it has that.

So there is one who leads, one who leads next, and all others wait for the latter. A gate opens once: were it
locked again by one who leads later, who is slow to wake would wait for that one, too. Nothing that must hold
depends on gates: only who has the writers' lock takes requests and answers them, and answers are written
after the sync. A leader that dies lets go of gate and lock, and those whom it has not answered append for
themselves. Their events carry ids by then, so what the dead one had written is found, not written twice.

Rejected: handing the lock from one waiter to the next (each wake-up then delays all who are behind it: half
the throughput), named pipes to wake those who were served (a backup does not expect them in a directory, and
a leader that dies wakes nobody), a mapped file (whoever cuts it would kill all who have it mapped).

This module carries requests and answers; it knows nothing of segments.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

import msgpack

from evlog.errors import EvlogError, StoreIOError
from evlog.files.disk import range_lock as byte_locks
from evlog.files.disk.files import Disk, WriteFile, end_of, read_back, read_back_into
from evlog.files.disk.range_lock import ByteLock, NoByteLocks
from evlog.files.format import paths
from evlog.files.format.frames import unpack
from evlog.model.appends import ExpectedVersion
from evlog.model.events import EncodedEvent

SLOTS: Final = 256
ANSWERS_AT: Final = 64
REQUESTS_AT: Final = 12288
SLOT_BYTES: Final = 2048

_MAGIC: Final = b"evQUEUE1"
_TURN_AT: Final = 8
_TURN: Final = Struct("<Q")
_ANSWER: Final = Struct("<QQII4xI")
_ANSWER_FIELDS: Final = Struct("<QQII4x")
_REQUEST: Final = Struct("<QII")
_REQUEST_FIELDS: Final = Struct("<QI")
_MAX_PAYLOAD: Final = SLOT_BYTES - _REQUEST.size
_ID_BYTES: Final = 16
_ANSWER_WORDS: Final = range(ANSWERS_AT // 8, REQUESTS_AT // 8, _ANSWER.size // 8)
_REQUEST_WORDS: Final = range(REQUESTS_AT // 8, (REQUESTS_AT + SLOTS * SLOT_BYTES) // 8, SLOT_BYTES // 8)
_U32: Final = Struct("<I")
_U64: Final = 1 << 64

# Bytes that stand for gates and slots: beyond the file, so that no lock is ever taken for data.
GATES_AT: Final = 1 << 40
_GATES: Final = 1 << 32
_SLOT_LOCKS_AT: Final = 1 << 41


# What a queue is done without for: its file fails, is cut by somebody, or can have no locks on bytes.
_FAILURES: Final = (EvlogError, NoByteLocks)


class Answer(NamedTuple):
    """Where the events of a request stand, one behind the other: they are durable."""

    first_position: int
    first_version: int
    together: int
    """how many requests were answered at the same time"""


class Request(NamedTuple):
    """An append that another writer waits for."""

    slot: int
    nonce: int
    stream: str
    expected: ExpectedVersion | None
    last_position: int
    last_version: int
    events: list[EncodedEvent]


class _Place:
    """An open queue with a slot in it."""

    def __init__(self, file: WriteFile, slot: int) -> None:
        self.file = file
        self.slot = slot
        self.nonce = int.from_bytes(os.urandom(8), "little")
        self.answer_at = ANSWERS_AT + slot * _ANSWER.size
        self.request_at = REQUESTS_AT + slot * SLOT_BYTES
        self.pack = msgpack.Packer(buf_size=SLOT_BYTES).pack  # threads cannot share msgpack's in pure Python
        self._owners: dict[int, ByteLock] = {}
        self.area = bytearray(REQUESTS_AT + SLOTS * SLOT_BYTES)  # takes no memory before it is written to

    def is_alive(self, slot: int) -> bool:
        """Whether another has the slot."""
        owner = self._owners.get(slot)
        if owner is None:
            owner = self._owners[slot] = ByteLock(self.file.fd, _SLOT_LOCKS_AT + slot)
        return owner.is_taken()


class CommitQueue:
    """A place in the queue, for one thread at a time.

    It is a help, no more: where it cannot be had or fails, every writer waits for the lock.
    """

    def __init__(self, store: str, disk: Disk) -> None:
        self._path = paths.queue_path(store)
        self._disk = disk
        self._place: _Place | None = None
        self._waits = 0
        self._turn = 0  # number of the gate that is locked by this writer
        self._gate: ByteLock | None = None
        self._asking = False  # a request stands there that nobody may have answered
        self.leads = False
        """Whether this writer, once it has the lock, takes its turn for all who wait."""

    # --- waiting

    def ask(
        self,
        stream: str,
        expected: ExpectedVersion | None,
        last: tuple[int, int],
        events: Sequence[EncodedEvent],
    ) -> Answer | None:
        """Wait for another writer to append the events of one append, every one of them with an id.

        Args:
            last: position and version of the last event of the stream that this writer knows of, or zeros:
                whoever has the lock finds the stream's version sooner by it.

        Returns:
            Where they stand; or None: then the caller waits for the writers' lock, and has to call
            `find_answer_locked` and `take_turn_locked` once it has that, or else `withdraw`.
        """
        place = self._place
        if place is None:
            self._waits += 1
            return None
        try:
            payload = place.pack((stream, expected, *last, events))
        except (OverflowError, TypeError, ValueError):
            return None  # an append without help says what is wrong with it
        if len(payload) > _MAX_PAYLOAD:
            return None
        place.nonce = nonce = (place.nonce + 1) % _U64 or 1
        try:
            self._asking = self.leads = True
            request = _REQUEST.pack(nonce, len(payload), _crc_of(nonce, payload)) + payload
            self._disk.write_at(place.file, request, place.request_at)
            turn = (_TURN.unpack(_read(place.file, _TURN.size, _TURN_AT))[0] + 1) % _GATES
            gate = ByteLock(place.file.fd, GATES_AT + turn)
            self._gate, self._turn = gate, turn  # before it is locked: an interrupt must not leave it so
            if gate.try_acquire():
                return None
            self._gate = None
            gate.wait()
            answer = self._look(place)
            self.leads = answer is None
            return answer
        except _FAILURES:
            self.leave()
            return None
        except BaseException:
            self.withdraw()
            raise

    def withdraw(self) -> None:
        """Take the request back, unless a leader has it already, and give up the turn."""
        place = self._place
        self.leads = False
        if place is not None and self._asking:
            try:
                self._disk.write_at(place.file, bytes(_REQUEST.size), place.request_at)
                self._asking = False
            except EvlogError:
                self.leave()  # which leaves it to nobody
        self._open_gate()

    def _look(self, place: _Place) -> Answer | None:
        """The answer, if it is one to this writer's request and not that it must append for itself."""
        raw = _read(place.file, _ANSWER.size, place.answer_at)
        nonce, position, version, together, crc = _ANSWER.unpack(raw)
        if nonce != place.nonce or crc != crc32(raw[: _ANSWER_FIELDS.size]):
            return None
        self._asking = False
        return Answer(position, version, together) if position else None

    def _open_gate(self) -> None:
        try:
            if self._gate is not None:
                self._gate.release()
                self._gate = None
        except NoByteLocks:
            self.leave()

    # --- leading

    def find_answer_locked(self) -> Answer | None:
        """The answer that came while this writer waited for the lock, if one did."""
        place = self._place
        if place is None:
            return None
        try:
            return self._look(place)
        except _FAILURES:
            self.leave()
            return None

    def take_turn_locked(self) -> list[Request]:
        """The requests of those who wait.

        The caller answers them, by `answer_locked`, or gives its turn up by `withdraw`.
        """
        place = self._place
        if place is None:
            return []
        try:
            if self._gate is not None:  # before the requests are read: who comes later goes to the next gate
                self._disk.write_at(place.file, _TURN.pack(self._turn), _TURN_AT)
            length = read_back_into(place.file, place.area, 0)
            return self._waiting(place, length)
        except _FAILURES:
            self.leave()
            return []

    def answer_locked(self, answers: Iterable[tuple[Request, Answer | None]]) -> None:
        """Tell those who wait where their events stand, durable; None tells one to append for itself.

        Their gate opens, and the caller's own request is done with.
        """
        place = self._place
        if place is not None:
            told = [(place.slot, place.nonce, None), *((r.slot, r.nonce, answer) for r, answer in answers)]
            for slot, nonce, answer in told:
                fields = _ANSWER_FIELDS.pack(nonce, *(answer or (0, 0, 0)))
                at = ANSWERS_AT + slot * _ANSWER.size
                place.area[at : at + _ANSWER.size] = fields + _U32.pack(crc32(fields))
            end = ANSWERS_AT + (max(told)[0] + 1) * _ANSWER.size
            try:
                self._disk.write_at(place.file, bytes(place.area[ANSWERS_AT:end]), ANSWERS_AT)
                self._asking = False
            except EvlogError:
                self.leave()
        self.leads = False
        self._open_gate()  # before the writers' lock is given back: so more come in time for the next turn

    def _waiting(self, place: _Place, length: int) -> list[Request]:
        requests = []
        with memoryview(place.area) as raw, raw.cast("Q") as words:
            slots = range(min((length - REQUESTS_AT) // SLOT_BYTES, SLOTS))
            for slot in slots:
                nonce = words[_REQUEST_WORDS[slot]]
                if nonce and nonce != words[_ANSWER_WORDS[slot]] and slot != place.slot:
                    request = self._decode(place, slot)
                    if request is not None:
                        requests.append(request)
        return requests

    def _decode(self, place: _Place, slot: int) -> Request | None:
        """A request, if it is whole and whoever wrote it is alive."""
        at = REQUESTS_AT + slot * SLOT_BYTES
        nonce, length, crc = _REQUEST.unpack_from(place.area, at)
        at += _REQUEST.size
        payload = bytes(place.area[at : at + min(length, _MAX_PAYLOAD)])
        if len(payload) != length or _crc_of(nonce, payload) != crc or not place.is_alive(slot):
            return None
        stream, expected, last_position, last_version, events = unpack(payload, use_list=False)
        return Request(slot, nonce, stream, expected, last_position, last_version, events)

    # --- having a slot

    def wants_slot(self) -> bool:
        """Whether this writer has waited, so that it is worth its while to have a slot."""
        return self._waits > 0 and self._place is None and byte_locks.AVAILABLE

    def claim_slot_locked(self) -> None:
        """Take a free slot; whoever gets none goes on without."""
        self._waits = -(1 << 62)
        with contextlib.suppress(*_FAILURES):
            file = self._disk.open(self._path, create=True)
            if not end_of(file):
                self._disk.write_at(file, _MAGIC + bytes(REQUESTS_AT - len(_MAGIC)), 0)
            if read_back(file, len(_MAGIC), 0) != _MAGIC:
                return
            for slot in range(SLOTS):
                if ByteLock(
                    file.fd, _SLOT_LOCKS_AT + slot
                ).try_acquire():  # which the open file has from now on
                    # Before the writers' lock is given back: a dead writer's request must not seem alive.
                    self._disk.write_at(file, bytes(SLOT_BYTES), REQUESTS_AT + slot * SLOT_BYTES)
                    self._place = _Place(file, slot)
                    return

    def leave(self) -> None:
        """Leave the queue; the slot and the gate become free."""
        place, self._place = self._place, None
        self._gate = None
        self._asking = self.leads = False
        if place is not None:
            self._disk.close(place.file)


def may_fit(events: Sequence[EncodedEvent]) -> bool:
    """Whether a request with the events may be short enough, so that none is packed for nothing."""
    if len(events) * _ID_BYTES > _MAX_PAYLOAD:
        return False
    return sum(_ID_BYTES + len(data) + len(metadata or b"") for *_, data, metadata in events) <= _MAX_PAYLOAD


def _crc_of(nonce: int, payload: bytes) -> int:
    """The CRC of a request, its nonce in it: one half written must not pass for the one before."""
    return crc32(payload, crc32(_REQUEST_FIELDS.pack(nonce, len(payload))))


def _read(file: WriteFile, length: int, offset: int) -> bytes:
    """What stands in the queue; not less, as where somebody cut it."""
    raw = read_back(file, length, offset)
    if len(raw) < length:
        raise StoreIOError(file.path, "it ends too early")
    return raw
