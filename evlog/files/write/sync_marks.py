"""Acknowledging: an append is durable once the active log is synced up to its end.

A writer that appends for itself alone syncs after it gave the writers' lock back: syncs that meet in the
kernel share one commit there, for the price of one system call each. One that appends for others, too, syncs
for all of them before it gives the lock back. The mark that is left says how far the log is synced. Recovery
tells a torn tail from damage by it and followers deliver up to it, so it is written after the sync and only
ever grows; one that is late just says less.

Linux tells a failed sync to everyone who has the file open (since 4.13). Where it is told to one alone, the
others meet the mark of suspicion that this one leaves: each looks for it between its sync and its answer.
"""

from __future__ import annotations

import contextlib

from evlog.errors import EvlogError, LockTimeout, StoreFull, StoreIOError
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import Disk, WriteFile, read_back
from evlog.files.format import paths
from evlog.files.format.marks import (
    DURABLE_MAGIC,
    MARK_AT,
    MARK_PLACE,
    MARKS_BYTES,
    NO_MARK,
    SUSPECT_MAGIC,
    WRITTEN_MAGIC,
    Mark,
    decode_marks,
)
from evlog.files.write.recovery import write_mark

_DURABLE_AT = MARK_AT[DURABLE_MAGIC]
_SUSPECT_AT = MARK_AT[SUSPECT_MAGIC]


class Durability:
    """The marks in `durable`, and the lock of whoever changes how far it says that the log is synced."""

    def __init__(self, store: str, lock_timeout_seconds: float | None, disk: Disk) -> None:
        self._disk = disk
        self.lock = FileLock(paths.durable_path(store), lock_timeout_seconds, disk)

    def read_marks(self) -> bytes:
        """The content of `durable`."""
        return read_back(self.lock.open(), MARKS_BYTES, 0)

    def write_marks_locked(self, marks: bytes) -> None:
        """Write the marks that begin the file; the writers' lock is held."""
        self._disk.write_at(self.lock.open(), marks, 0)

    def covers(self, log_file: WriteFile, tag: int, end: int) -> bool:
        """Whether the log is known to be synced up to `end`.

        Raises:
            StoreIOError: a sync by another writer failed, and nobody has looked at the device since.
        """
        marks = self.read_marks()
        check_sound(marks, log_file, tag)
        return decode_marks(marks, tag).durable_offset >= end

    def make_durable(self, log_file: WriteFile, tag: int, end: int) -> None:
        """Return when the log is synced up to `end`, a frame's end.

        Raises:
            StoreIOError: a sync failed, this one or another writer's: nothing more may be acknowledged.
        """
        try:
            self._disk.sync(log_file)
        except EvlogError:
            self.mark_suspect(tag, end)
            raise
        marks_file = self.lock.maybe_acquire()
        if marks_file is None:  # others are at it: with luck they say it for this one, too
            marks = self.read_marks()
            check_sound(marks, log_file, tag)
            if not _is_due(marks, tag, end):
                return
            try:
                marks_file = self.lock.acquire()
            except LockTimeout:
                return  # whoever has the lock is stopped, perhaps: the mark comes with another append
        try:
            marks = read_back(marks_file, MARKS_BYTES, 0)
            check_sound(marks, log_file, tag)
            if _is_due(marks, tag, end):
                write_mark(marks_file, DURABLE_MAGIC, Mark(tag, end), self._disk)
        except StoreFull:
            pass  # a mark that cannot be written is a late one
        finally:
            self.lock.release()

    def mark_suspect(self, tag: int, offset: int) -> None:
        """After a failed write or sync: have the next writer look at the device, not at what memory shows."""
        with contextlib.suppress(EvlogError):  # the others still meet the device's error at their own sync
            try:
                with self.lock as marks_file:  # else a recovery under way could wipe it unseen
                    write_mark(marks_file, SUSPECT_MAGIC, Mark(tag, offset), self._disk)
            except LockTimeout:
                write_mark(self.lock.open(), SUSPECT_MAGIC, Mark(tag, offset), self._disk)


def check_sound(marks: bytes, log_file: WriteFile, tag: int) -> None:
    """Raise StoreIOError if another writer's sync failed, and nobody has looked at the device since."""
    if marks[_SUSPECT_AT:] != NO_MARK and decode_marks(marks, tag).suspect is not None:
        raise StoreIOError(log_file.path, "a sync by another writer failed")


def _is_due(marks: bytes, tag: int, end: int) -> bool:
    """Whether the log is known to be synced less far, and is the active one still: a sealed one is synced.

    Without a look at the marks' CRCs, which would cost each append some microseconds: what a flipped bit
    can do here is a mark that comes late.
    """
    _, durable_tag, durable_offset = MARK_PLACE.unpack_from(marks, _DURABLE_AT)
    if durable_tag == tag and durable_offset >= end:
        return False
    written_magic, written_tag, _ = MARK_PLACE.unpack_from(marks)
    return bool(written_tag == tag or written_magic != WRITTEN_MAGIC)
