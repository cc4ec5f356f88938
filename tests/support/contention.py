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
from unittest import mock

from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import Disk
from evlog.files.format.frames import FRAME_HEADER_BYTES, FRAME_MAGIC, unpack
from evlog.files.format.headers import FILE_HEADER_BYTES
from evlog.files.format.paths import lock_path, queue_path
from evlog.files.write.group_commit import ANSWERS_AT, REQUESTS_AT, SLOT_BYTES, SLOTS
from evlog.store import EventStore
from tests.support.helpers import engine_of, small_store

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
    """Writers that all have a place in the queue.

    Args:
        disks: the disk of each writer.
        many: how many requests a leader answers; with fewer it leaves all to those who asked.
    """

    def __init__(self, path: str, disks: Sequence[Disk], *, many: int = 1, **settings: Any) -> None:
        self.path = path
        self.lock = FileLock(lock_path(path), 20.0)
        settings = {"segment_events": 1 << 10, "lock_timeout": None} | settings
        self.stores = [small_store(path, disk=disk, **settings) for disk in disks]
        self._many = mock.patch("evlog.files.write.writer._MANY", many)
        for store in self.stores:
            writer = engine_of(store)._open_writer()
            queue = writer._new_queue()
            with self.lock:
                queue.claim_slot_locked()
            writer._free_queues.append(queue)

    def __enter__(self) -> Self:
        self._many.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._many.stop()
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

        first = engine_of(self.stores[0])._open_writer()._free_queues[-1]
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
