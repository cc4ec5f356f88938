"""Several writers of one store, in threads, that are made to wait for its lock at the same time.

Each has a store object, and so an open file, of its own: to each other they are what processes are.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from evlog.commit_queue import ANSWERS_AT, REQUESTS_AT, SLOT_BYTES, SLOTS
from evlog.disk import DISK, Disk
from evlog.format import FILE_HEADER_BYTES, FRAME_HEADER_BYTES, FRAME_MAGIC, unpack
from evlog.lock import FileLock
from evlog.paths import lock_path, queue_path
from evlog.store import EventStore
from tests.helpers import small_store

Job = Callable[[EventStore], Any]
Outcome = Any


def wait_until(is_so: Callable[[], bool]) -> None:
    """Return as soon as something is so; it will be within milliseconds, or never."""
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.0005)


def waiting_requests(path: str) -> int:
    """How many requests in the queue have no answer."""
    with open(queue_path(path), "rb") as file:
        area = file.read()
    count = 0
    for slot in range(min(SLOTS, (len(area) - REQUESTS_AT) // SLOT_BYTES)):
        nonce = area[REQUESTS_AT + slot * SLOT_BYTES :][:8]
        count += nonce != bytes(8) and nonce != area[ANSWERS_AT + slot * 32 :][:8]
    return count


class Crowd:
    """Writers that all have a slot in the queue.

    Args:
        disks: the disk of each writer.
    """

    def __init__(self, path: str, disks: Sequence[Disk], **settings: Any) -> None:
        self.path = path
        self.lock = FileLock(lock_path(path), 20.0)
        settings = {"segment_events": 1 << 10, "lock_timeout": None} | settings
        self.stores = [small_store(path, disk=disk, **settings) for disk in disks]
        for store in self.stores:
            with self.lock:
                store._open_writer()._queue.claim_slot_locked()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for store in self.stores:
            store.close()

    def together(self, *jobs: Job, meanwhile: Callable[[], object] = lambda: None) -> list[Outcome]:
        """Have each writer do its job, when all of them wait; the first leads. What came of each.

        Args:
            meanwhile: done while all of them wait.
        """
        outcomes: list[Any] = [None] * len(jobs)

        def run(number: int) -> None:
            try:
                outcomes[number] = jobs[number](self.stores[number])
            except BaseException as error:  # noqa: BLE001 - for the test to judge
                outcomes[number] = error

        first = self.stores[0]._open_writer()._queue
        threads = [threading.Thread(target=run, args=(number,)) for number in range(len(jobs))]
        with contextlib.ExitStack() as stack:
            self.lock.acquire()
            stack.callback(self.lock.release)
            for number, thread in enumerate(threads):
                thread.start()
                wait_until(lambda due=number + 1: waiting_requests(self.path) == due)  # type: ignore[misc]
                if number == 0:
                    wait_until(lambda: first._gate is not None)
            meanwhile()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        return outcomes


def crowd(path: str, writers: int, **settings: Any) -> Crowd:
    """So many writers on the real disk."""
    return Crowd(path, [DISK] * writers, **settings)


def shared_frames(path: str) -> int:
    """How many frames hold events of several streams, beside those that are in one named "shared"."""
    shared = 0
    for log in sorted(Path(path, "segments").glob("*.log")):
        raw, at = log.read_bytes(), FILE_HEADER_BYTES
        while raw[at : at + 4] == FRAME_MAGIC:
            length = int.from_bytes(raw[at + 4 : at + 8], "little")
            at += FRAME_HEADER_BYTES
            shared += len({record[2] for record in unpack(raw[at : at + length])} - {"shared"}) > 1
            at += length
    return shared
