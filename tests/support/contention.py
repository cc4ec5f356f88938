"""Several writers of one store, in threads, that are made to wait for its lock at the same time.

Each has a store object of its own, and so its own open files: the writers meet as processes do.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from unittest import mock

from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import Disk, WriteFile
from evlog.files.disk.range_lock import ByteLock
from evlog.files.format.frames import FRAME_HEADER_BYTES, FRAME_MAGIC, unpack
from evlog.files.format.headers import FILE_HEADER_BYTES
from evlog.files.format.paths import lock_path, queue_path
from evlog.files.write.group_commit import (
    REQUESTS_AT,
    RESPONSES_AT,
    ROUNDS_AT,
    SLOT_BYTES,
    SLOTS,
    maybe_claim_slot,
)
from evlog.store import EventStore
from tests.support.helpers import small_store, writer_of

Job = Callable[[EventStore], Any]
Outcome = Any


def wait_until(is_so: Callable[[], bool]) -> None:
    """Return as soon as a condition is true; a test that is right makes it true within milliseconds."""
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline, "the condition never became true"
        time.sleep(0.0005)


def waiting_requests(path: str) -> int:
    """Return how many requests in the queue have no response."""
    with open(queue_path(path), "rb") as file:
        area = file.read()
    count = 0
    for slot in range(min(SLOTS, (len(area) - REQUESTS_AT) // SLOT_BYTES)):
        nonce = area[REQUESTS_AT + slot * SLOT_BYTES :][:8]
        count += nonce != bytes(8) and nonce != area[RESPONSES_AT + slot * 32 :][:8]
    return count


def claim_slot(store: EventStore) -> None:
    """Give one more slot of the queue to a store's writer."""
    writer = writer_of(store)
    slot = writer._maybe_claim_slot()
    assert slot is not None
    writer._free_slots.append(slot)


def current_round(store: EventStore) -> ByteLock:
    """Return the lock of the round that a writer would wait for now, for a store that has a slot."""
    slot = writer_of(store)._slots[0]
    return ByteLock(slot._file.fd, ROUNDS_AT + slot._current_round())


class Crowd:
    """Writers that all have a slot of the queue.

    Args:
        disks: the disk of each writer.
        many: with how many requests a writer leads; with fewer each appends alone.
    """

    def __init__(self, path: str, disks: Sequence[Disk], *, many: int = 1, **settings: Any) -> None:
        self.path = path
        self.lock = FileLock(lock_path(path), 20.0)
        settings = {"segment_events": 1 << 10, "lock_timeout": None} | settings
        self.stores = [small_store(path, disk=disk, **settings) for disk in disks]
        self._many = mock.patch("evlog.files.write.writer._MANY", many)
        with self.lock:
            spare = maybe_claim_slot(path, disks[0])
            assert spare is not None
            self._spare = spare
            for store in self.stores:
                claim_slot(store)

    def __enter__(self) -> Self:
        self._many.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._many.stop()
        self._spare.close()
        for store in self.stores:
            store.close()

    def together(self, *jobs: Job, meanwhile: Callable[[], object] = lambda: None) -> list[Outcome]:
        """Have each writer do its job when all of them wait; the first one leads. Return their outcomes.

        Args:
            meanwhile: done while all of them wait.
        """
        outcomes: list[Any] = [None] * len(jobs)
        blocks = threading.Event()

        def run(number: int) -> None:
            try:
                outcomes[number] = jobs[number](self.stores[number])
            except BaseException as error:  # noqa: BLE001 - for the test to judge
                outcomes[number] = error

        def acquire(lock: FileLock) -> WriteFile:
            blocks.set()
            return real_acquire(lock)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(len(jobs))]
        real_acquire = FileLock.acquire
        with contextlib.ExitStack() as stack:
            self.lock.acquire()
            stack.callback(self.lock.release)
            with mock.patch.object(FileLock, "acquire", acquire):
                threads[0].start()
                assert blocks.wait(20), "the first writer does not wait for the lock"
            self._spare.lead_locked()  # the others wait for this round
            for number, thread in enumerate(threads[1:], 2):
                thread.start()
                wait_until(lambda due=number: waiting_requests(self.path) == due)  # type: ignore[misc]
            meanwhile()
        threads[0].join(60)
        self._spare.cancel()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        return outcomes


def shared_frames(path: str) -> int:
    """Return how many frames hold events of several streams, not counting the stream "shared"."""
    shared = 0
    for log in sorted(Path(path, "segments").glob("*.log")):
        raw, at = log.read_bytes(), FILE_HEADER_BYTES
        while raw[at : at + 4] == FRAME_MAGIC:
            length = int.from_bytes(raw[at + 4 : at + 8], "little")
            at += FRAME_HEADER_BYTES
            shared += len({record[2] for record in unpack(raw[at : at + length])} - {"shared"}) > 1
            at += length
    return shared
