"""Acknowledging: an append is durable once the active log is synced up to its end, by whomever.

The sync happens after the writers' lock was given back, under a lock of its own (the file `durable`), and
serves every append that was written before it began: with many writers most find that another's sync has
covered theirs. The mark that is left says how far the log is synced; recovery tells a torn tail from
damage by it, so it is written after the sync and never runs ahead of it.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from evlog import paths
from evlog.disk import Disk, WriteFile
from evlog.errors import EvlogError, LockTimeout, StoreFull, StoreIOError
from evlog.format import (
    DURABLE_MAGIC,
    MARK_BYTES,
    WRITTEN_MAGIC,
    Mark,
    maybe_decode_mark,
)
from evlog.lock import FileLock
from evlog.recovery import write_mark

# Between two syncs the lock may be seen taken although it is free, because others are just looking at it.
_TRIES: Final = 5


class Durability:
    """The marks in `durable`, and the lock of whoever syncs."""

    def __init__(self, store: str, lock_timeout_seconds: float | None, disk: Disk) -> None:
        self._disk = disk
        self.lock = FileLock(paths.durable_path(store), lock_timeout_seconds, disk)

    def mark_written_locked(self, tag: int, end: int) -> None:
        """Say how far the log is written; the writers' lock is held."""
        write_mark(self.lock.open(), WRITTEN_MAGIC, Mark(tag, end), self._disk)

    def make_durable(self, log_file: WriteFile, tag: int, end: int) -> None:
        """Return when the log is synced up to `end`, a frame's end.

        Raises:
            StoreIOError: a sync failed, this one or another writer's: nothing more may be acknowledged.
        """
        try:
            marks_file = self._lock_or_covered(log_file, tag, end)
        except LockTimeout:
            # Whoever syncs is stuck (stopped, perhaps). The append is written, so it has to be decided: sync
            # without the mark. All that is lost is that recovery cannot tell its damage from a torn tail.
            self._disk.sync(log_file)
            return
        if marks_file is None:
            return
        try:
            self._sync_locked(marks_file, log_file, tag, end)
        finally:
            self.lock.release()

    def _lock_or_covered(self, log_file: WriteFile, tag: int, end: int) -> WriteFile | None:
        """Take the marks' lock, unless another's sync covers the append meanwhile.

        Those whose append is covered must not queue for the lock one by one: whoever comes back first with
        a new append would take it before them, and sync for itself alone while they wait.
        """
        for _ in range(_TRIES):
            marks_file = self.lock.maybe_acquire()
            if marks_file is not None:
                return marks_file
            self.lock.wait_until_free()
            if self.check_sound(self.lock.open(), log_file, tag) >= end:
                return None
        return self.lock.acquire()

    def check_sound(self, marks_file: WriteFile, log_file: WriteFile, tag: int) -> int:
        """How far the log is synced, by the mark.

        Raises:
            StoreIOError: another writer's sync failed, and nobody has looked at the device since.
        """
        return _sound_offset(os.pread(marks_file.fd, MARK_BYTES, MARK_BYTES), log_file, tag)

    def _sync_locked(self, marks_file: WriteFile, log_file: WriteFile, tag: int, end: int) -> None:
        raw = os.pread(marks_file.fd, 2 * MARK_BYTES, 0)
        synced = _sound_offset(raw[MARK_BYTES:], log_file, tag)
        if synced >= end:
            return
        written = maybe_decode_mark(WRITTEN_MAGIC, raw[:MARK_BYTES])
        if written is not None and written.tag == tag:
            end = max(end, written.offset)
        try:
            self._disk.sync(log_file)
        except EvlogError:
            self._mark_suspect(marks_file, tag, synced)
            raise
        if written is None or written.tag == tag:  # else the segment was sealed meanwhile, and synced then
            with contextlib.suppress(StoreFull):  # a mark that is late only says less
                write_mark(marks_file, DURABLE_MAGIC, Mark(tag, end), self._disk)

    def mark_suspect_locked(self, tag: int, synced: int) -> None:
        """After a failed write: have the next writer look at the device, not at what memory shows."""
        with self.lock as marks_file:
            self._mark_suspect(marks_file, tag, synced)

    def _mark_suspect(self, marks_file: WriteFile, tag: int, synced: int) -> None:
        with contextlib.suppress(EvlogError):  # the others still meet the device's error at their own sync
            write_mark(marks_file, DURABLE_MAGIC, Mark(tag, synced, True), self._disk)


def _sound_offset(raw: bytes, log_file: WriteFile, tag: int) -> int:
    durable = maybe_decode_mark(DURABLE_MAGIC, raw)
    if durable is None or durable.tag != tag:
        return 0
    if durable.suspect:
        raise StoreIOError(log_file.path, "a sync by another writer failed")
    return durable.offset
