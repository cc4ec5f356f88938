"""Group commit between processes: a writer that has the writers' lock appends for those that wait for it.

Without it each of many writers pays for a wake-up, cold caches, a write, a mark and a sync. This is what
LevelDB's and RocksDB's writers do between threads.

1. A writer that finds the lock taken, or had its last append made by another writer, writes a request into
   its slot of the file `queue`, reads the number of the current round, and waits until that round ends.
2. The writer that has the lock leads. It locks a round and makes it the current one. Then, for each round, it
   locks the next one and makes that current, reads the requests, appends them as one frame, syncs, writes the
   responses, and unlocks the round before. It continues while requests wait, for a limited time, and pauses
   shortly before each further round. After its last requests no other round begins.
3. A waiter that wakes without a response tries the lock. If it gets the lock, it leads. Otherwise it waits
   for the first round of the next leader, which finds its request, even if that leader has begun later
   rounds. After a few rounds (or pauses, if no round is locked) it waits for the lock like any writer.
4. A round is a lock on a byte. Only the writer that has the writers' lock holds it, and gives it up first. So
   a waiter that is suspended delays no other, and a leader that dies frees its rounds with the lock. A
   round's number is used once: a waiter that wakes late must not wait for a later leader.
5. A waiter without a response appends for itself, with the same ids: what a leader wrote before it died is
   found, and not written twice.
6. A writer whose append cannot be a request (of several streams, or too large) waits for the writers' lock.
   Meanwhile it holds a lock on a byte, so that a leader ends its rounds sooner. If that writer is suspended,
   leaders change more often; no writer waits for it.
7. The queue is optional. Where it fails, or the system has no such locks, every writer waits for the lock.

`queue` outlives no process that uses it, and may be removed while none runs:

    offset          size
         0             8  magic "evQUEUE2"
         8             8  number of the current round
        64      256 x 32  responses
    12,288   256 x 2,048  requests

A response: u64 nonce, u64 first position, u32 first version, u64 zero, u32 CRC of those 28 bytes. Position 0
means: append for yourself. A request: u64 nonce (0: none), u32 length, u32 CRC of these two and of the
payload after them, a msgpack array [stream, expected version or nil, version of the schemas or nil, events,
conditions], a condition being [[types, tags] of each item of its query, after]. A request waits as long as
its nonce is not that of the response beside it. A slot belongs to one open file, which holds a lock on a byte
for it: a request in a slot without a lock is of a process that died. A leader looks at each lock once.

Rejected: handing the lock from one waiter to the next (half the throughput, because each wake-up delays all
later waiters); a round that a waiter locks (if it is suspended, all wait); named pipes (backup programs do
not expect them in a directory); a mapped file (truncating it kills the processes that have it mapped).
"""

from __future__ import annotations

import os
from struct import Struct
from struct import error as struct_error
from zlib import crc32

import msgpack

from evlog.errors import EvlogError
from evlog.files.disk import range_lock
from evlog.files.disk.files import end_of, read_back, read_back_into
from evlog.files.disk.range_lock import ByteLock, NoByteLocks
from evlog.files.format import paths
from evlog.files.format.frames import NOT_RECORDS, unpack
from evlog.model.queries import IfNone, Query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Final

    from evlog.files.disk.files import Disk, WriteFile
    from evlog.model.appends import ExpectedVersion
    from evlog.model.events import EncodedEvent
    from evlog.model.queries import Item

    Place = tuple[int, int]
    """The first position and the first version of a request's events; they are durable."""

SLOTS: Final = 256
SLOT_BYTES: Final = 2048
RESPONSES_AT: Final = 64
REQUESTS_AT: Final = 12288

_MAGIC: Final = b"evQUEUE2"
_ROUND_AT: Final = 8
_U64: Final = Struct("<Q")
_RESPONSE: Final = Struct("<QQI8xI")
_RESPONSE_FIELDS: Final = Struct("<QQI8x")
_REQUEST: Final = Struct("<QII")
_REQUEST_FIELDS: Final = Struct("<QI")
_MAX_PAYLOAD: Final = SLOT_BYTES - _REQUEST.size
_ID_BYTES: Final = 16
_RESPONSE_NONCES: Final = range(RESPONSES_AT // 8, REQUESTS_AT // 8, _RESPONSE.size // 8)
_REQUEST_NONCES: Final = range(REQUESTS_AT // 8, (REQUESTS_AT + SLOTS * SLOT_BYTES) // 8, SLOT_BYTES // 8)

# Bytes that stand for rounds and slots: beyond the file, so no lock is ever taken for data.
ROUNDS_AT: Final = 1 << 40
_ROUNDS: Final = 1 << 32
_SLOT_LOCKS_AT: Final = 1 << 41
_WANTED_AT: Final = 1 << 42

# Errors after which the queue is not used any more.
_FAILURES: Final = (EvlogError, NoByteLocks, struct_error)


class Request:
    """An append that another writer waits for."""

    __slots__ = ("conditions", "events", "expected", "nonce", "schemas", "slot", "stream")

    def __init__(
        self,
        slot: int,
        nonce: int,
        stream: str,
        expected: ExpectedVersion | None,
        schemas: int | None,
        events: Sequence[EncodedEvent],
        conditions: Sequence[IfNone],
    ) -> None:
        self.schemas = schemas
        self.slot = slot
        self.nonce = nonce
        self.stream = stream
        self.expected = expected
        self.events = events
        self.conditions = conditions


class Slot:
    """One slot of the queue, for one thread at a time."""

    def __init__(self, file: WriteFile, number: int, disk: Disk) -> None:
        self._file = file
        self._disk = disk
        self._number = number
        self._nonce = int.from_bytes(os.urandom(8), "little")
        self._response_at = RESPONSES_AT + number * _RESPONSE.size
        self._request_at = REQUESTS_AT + number * SLOT_BYTES
        self._pack = msgpack.Packer(buf_size=SLOT_BYTES).pack  # threads cannot share msgpack's in pure Python
        self._alive: set[int] = set()  # slots whose owner was seen alive since this writer leads
        self._area = bytearray(REQUESTS_AT + SLOTS * SLOT_BYTES)  # takes no memory before it is written to
        self._rounds: list[ByteLock] = []  # that this writer has locked, oldest first
        self._wanted = ByteLock(file.fd, _WANTED_AT + number)
        self._wants_lock = False
        self._ended_round = -1  # the last one that this writer has waited for
        self._missed_round = False  # the request was too late for it
        self._requested = False  # a request is in the slot that may have no response
        self.failed = False

    @property
    def is_pending(self) -> bool:
        """Whether a request is in the slot that may still be answered."""
        return self._requested

    # --- waiting

    @staticmethod
    def may_fit(events: Sequence[EncodedEvent]) -> bool:
        """Return whether a request with the events may be short enough; without packing it."""
        left = _MAX_PAYLOAD
        for event in events:
            left -= _ID_BYTES + len(event[3]) + len(event[4] or b"")
            if left < 0:
                return False
        return True

    def submit(
        self,
        stream: str,
        expected: ExpectedVersion | None,
        events: Sequence[EncodedEvent],
        conditions: Sequence[tuple[int, IfNone]] = (),
        schemas: int | None = None,
    ) -> bool:
        """Write a request for one append, whose events all have ids; return whether that was possible."""
        try:
            packed: Sequence[tuple[Sequence[Item], int]] = ()
            if conditions:
                packed = [(condition.query.items, condition.after) for _, condition in conditions]
            payload = self._pack((stream, expected, schemas, events, packed))
        except (OverflowError, TypeError, ValueError):
            return False  # the append without the queue says what is wrong with it
        if len(payload) > _MAX_PAYLOAD:
            return False
        self._nonce = nonce = (self._nonce + 1) % (1 << 64) or 1
        try:
            self._requested, self._missed_round = True, False
            fields = _REQUEST_FIELDS.pack(nonce, len(payload))
            crc = crc32(payload, crc32(fields)).to_bytes(4, "little")
            self._disk.write_at(self._file, fields + crc + payload, self._request_at)
        except _FAILURES:
            self.failed = True
        return not self.failed

    def wait_for_round(self) -> bool:
        """Wait until the round of this request ends; return False if it has not begun: no writer leads."""
        try:
            number = self._current_round()
            has_missed, self._missed_round = self._missed_round, True
            if number == self._ended_round:
                return False
            if has_missed:  # the next leader finds the request before it begins its second round
                number = (self._ended_round + 1) % _ROUNDS
            ByteLock(self._file.fd, ROUNDS_AT + number).wait()
            self._ended_round = number
        except _FAILURES:
            self.failed = True
        return not self.failed

    def maybe_response(self) -> Place | None:
        """Return where the request's events are; None if there is no response, or it says to append alone."""
        if not self._requested:
            return None
        try:
            raw = read_back(self._file, _RESPONSE.size, self._response_at)
            nonce, position, version, crc = _RESPONSE.unpack(raw)
        except _FAILURES:
            self.failed = True
            return None
        if nonce != self._nonce or crc != crc32(raw[: _RESPONSE_FIELDS.size]):
            return None
        self._requested = False
        return (position, version) if position else None

    def want_lock(self) -> None:
        """Have a leader end its rounds soon: this writer waits for the writers' lock itself."""
        try:
            self._wants_lock = True
            self._wanted.try_acquire()
        except _FAILURES:
            self.failed = True

    def cancel(self) -> None:
        """Take the request back, unless a leader has read it already, and end all rounds."""
        try:
            if self._wants_lock:
                self._wanted.release()
                self._wants_lock = False
            if self._requested:
                self._disk.write_at(self._file, bytes(_REQUEST.size), self._request_at)
                self._requested = False
            if self._rounds:
                ByteLock(self._file.fd, ROUNDS_AT, _ROUNDS).release()
                self._rounds.clear()
        except _FAILURES:
            self.failed = True

    # --- leading

    def lead_locked(self) -> None:
        """Begin to lead, so that others wait for the first round; the writers' lock is held.

        `cancel` ends it.
        """
        self._alive.clear()
        try:
            self._begin_round()
        except _FAILURES:
            self.failed = True

    def is_lock_wanted_locked(self) -> bool:
        """Return whether a writer waits for the writers' lock that cannot have others append for it."""
        try:
            return ByteLock(self._file.fd, _WANTED_AT, SLOTS).is_taken()
        except _FAILURES:
            self.failed = True
            return False

    def take_requests_locked(self, *, is_last: bool = False) -> list[Request]:
        """Begin the next round and return the requests that came before it. `respond_locked` answers them.

        Args:
            is_last: begin no other round. Else those that wait for it wake when this writer ceases to lead,
                and all of them try the lock.
        """
        try:
            if not is_last:
                self._begin_round()
            return self._waiting(read_back_into(self._file, self._area, 0))
        except _FAILURES:
            self.failed = True
            return []

    def respond_locked(self, requests: Sequence[Request], places: Iterable[Place | None]) -> None:
        """Tell the waiters where their events are, durable, and end the round that they wait for.

        Args:
            requests: as they were taken, all of them.
            places: of each request; None tells its writer to append for itself.
        """
        try:
            for request, place in zip(requests, places, strict=True):
                position, version = place or (0, 0)
                fields = _RESPONSE_FIELDS.pack(request.nonce, position, version)
                at = RESPONSES_AT + request.slot * _RESPONSE.size
                self._area[at : at + _RESPONSE.size] = fields + crc32(fields).to_bytes(4, "little")
            if requests:
                end = RESPONSES_AT + (requests[-1].slot + 1) * _RESPONSE.size
                self._disk.write_at(self._file, bytes(self._area[RESPONSES_AT:end]), RESPONSES_AT)
            self._rounds[0].release()
            del self._rounds[0]
        except _FAILURES:
            self.failed = True

    def _begin_round(self) -> None:
        number = (self._current_round() + 1) % _ROUNDS
        lock = ByteLock(self._file.fd, ROUNDS_AT + number)
        self._rounds.append(lock)  # before it is locked: an interrupt must not leave it locked
        lock.try_acquire()  # fails only if another program changed the file; then no waiter waits for it
        self._disk.write_at(self._file, _U64.pack(number), _ROUND_AT)

    def _current_round(self) -> int:
        number: int = _U64.unpack(read_back(self._file, _U64.size, _ROUND_AT))[0]
        return number % _ROUNDS

    def _waiting(self, length: int) -> list[Request]:
        requests = []
        with memoryview(self._area) as raw, raw.cast("Q") as words:
            for slot in range(min((length - REQUESTS_AT) // SLOT_BYTES, SLOTS)):
                nonce = words[_REQUEST_NONCES[slot]]
                if nonce and nonce != words[_RESPONSE_NONCES[slot]] and slot != self._number:
                    request = self._maybe_decode(slot)
                    if request is not None:
                        requests.append(request)
        return requests

    def _maybe_decode(self, slot: int) -> Request | None:
        """Return a request, if it is whole and its writer is alive."""
        at = REQUESTS_AT + slot * SLOT_BYTES
        nonce, length, crc = _REQUEST.unpack_from(self._area, at)
        if length > _MAX_PAYLOAD:
            return None
        at += _REQUEST.size
        payload = bytes(self._area[at : at + length])
        # Its nonce is in the CRC: half a request must not pass for the one before.
        if crc32(payload, crc32(_REQUEST_FIELDS.pack(nonce, length))) != crc:
            return None
        if slot not in self._alive:
            if not ByteLock(self._file.fd, _SLOT_LOCKS_AT + slot).is_taken():
                return None
            self._alive.add(slot)
        try:
            stream, expected, schemas, events, packed = unpack(payload, use_list=False)
            conditions = [IfNone(Query.of_items(items), after) for items, after in packed]
        except NOT_RECORDS:
            return None
        return Request(slot, nonce, stream, expected, schemas, events, conditions)

    def close(self) -> None:
        """Leave the queue; the slot and the rounds become free."""
        self._disk.close(self._file)


def maybe_claim_slot(store: str, disk: Disk) -> Slot | None:
    """Return a free slot of the store's queue; None if there is none. Needs no lock."""
    if not range_lock.AVAILABLE:
        return None
    try:
        file = disk.open(paths.queue_path(store), create=True)
        if not end_of(file):
            disk.write_at(file, _MAGIC + bytes(REQUESTS_AT - len(_MAGIC)), 0)
        if read_back(file, len(_MAGIC), 0) != _MAGIC:
            return None
        for number in range(SLOTS):
            lock = ByteLock(file.fd, _SLOT_LOCKS_AT + number)
            if not lock.is_taken():
                # Before the slot is locked: a dead writer's request must not seem alive. If another writer
                # took the slot just now, its request is lost, and it appends for itself.
                disk.write_at(file, bytes(SLOT_BYTES), REQUESTS_AT + number * SLOT_BYTES)
                if lock.try_acquire():  # the open file keeps it
                    return Slot(file, number, disk)
    except _FAILURES:
        pass
    return None


def clear_requests(store: str, disk: Disk) -> None:
    """Overwrite all requests, also answered ones: they hold events. Needs the writers' lock.

    A writer that waits for an answer appends for itself.
    """
    path = paths.queue_path(store)
    if not os.path.exists(path):
        return
    file = disk.open(path)
    try:
        if (length := end_of(file) - REQUESTS_AT) > 0:
            disk.write_at(file, bytes(length), REQUESTS_AT)
            disk.sync(file)
    finally:
        disk.close(file)
