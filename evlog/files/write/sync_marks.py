"""Making appends durable, and the marks in `durable` that say how far the log is.

1. A writer syncs after it has released the writers' lock, so that the syncs of several processes meet in the
   kernel and share one commit. Then it writes the durable mark, then it acknowledges.
2. The threads of a process share one descriptor, and Linux reports a failed writeback once for each open
   file. So one thread syncs at a time. Others wait, and check for its failure before anything else; a sync
   that began after their frames were written serves them, too.
3. After a failed write or sync this writer refuses every append: memory and disk may differ. It leaves the
   suspect mark, so that other open writers refuse, too, and the next one reads the tail from the device.
   Every writer looks for the mark between its sync and its acknowledgement.
4. The lock on `durable` keeps the durable mark from going back. No writer waits long for this lock, so a
   process that is suspended while it holds the lock delays no other. A missing mark understates, which is
   safe.
"""

from __future__ import annotations

import threading

from evlog.errors import EvlogError, LockTimeout, StoreFull, StoreIOError
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import read_back
from evlog.files.format import paths
from evlog.files.format.marks import (
    DURABLE_MAGIC,
    MARK_AT,
    MARK_PLACE,
    MARKS_BYTES,
    NO_MARK,
    SUSPECT_AT,
    SUSPECT_MAGIC,
    WRITTEN_MAGIC,
    Mark,
    decode_marks,
    encode_mark,
)
from evlog.process.forks import register_fork_reset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, TypeVar

    from evlog.files.disk.files import Disk, WriteFile

    _T = TypeVar("_T")

_DURABLE_AT: Final = MARK_AT[DURABLE_MAGIC]
# The lock on `durable` is held for microseconds, unless its holder is suspended.
_PATIENCE_SECONDS: Final = 0.02


class SyncPoint:
    """The end that a log had at one moment; immutable, so a thread can sync it after releasing the lock."""

    __slots__ = ("file", "offset", "tag")

    def __init__(self, file: WriteFile, tag: int, offset: int) -> None:
        self.file = file
        self.tag = tag
        self.offset = offset


class SyncMarks:
    """How far the log is synced, for all threads of one writer."""

    def __init__(self, store: str, disk: Disk) -> None:
        self._disk = disk
        self.lock = MarksLock(paths.durable_path(store), disk)
        # Guards every sync of the log's files by this process, and `_covered`. A thread that takes the
        # writers' lock, too, takes that one first. An RLock, because a signal's handler may append during the
        # sync of its thread.
        self.syncing = threading.RLock()
        self._covered = (0, 0)  # (tag, offset): how far the last sync went
        self.failed: StoreIOError | None = None  # not guarded: set by any thread, never cleared
        # (tag, offset): how far which segment is synced, and no other writer's sync was found to have failed.
        # Not guarded, but one value that is replaced whole, so that no tag is read with the offset of another
        # segment while a thread begins a segment. An older value understates.
        self.synced = (0, 0)
        self.end: SyncPoint | None = None  # replaced whole, under the writers' lock: where the log ends now
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Begin again in a forked child, with descriptors of its own: each is told of a failed sync once."""
        self.syncing = threading.RLock()
        self.forget()

    def forget(self) -> None:
        """Forget how far the log is synced: it may be another one, or have been cut."""
        self._covered = self.synced = (0, 0)
        self.end = None

    def close(self) -> None:
        """Close the file of the marks; a thread that still appends opens it again."""
        self.lock.close()

    # --- marks

    def read(self) -> bytes:
        """Return the content of `durable`."""
        return _read_marks(self.lock.open())

    def write_locked(self, mark: bytes, magic: bytes) -> None:
        """Write an encoded mark into the file that readers have, or will open; the writers' lock is held."""
        self._disk.write_at(self.lock.open_named(), mark, MARK_AT[magic])

    def check_sound(self, marks: bytes, file: WriteFile, tag: int) -> None:
        """Raise StoreIOError, now and at every later append, if another writer's sync has failed."""
        if marks[SUSPECT_AT:] != NO_MARK and decode_marks(marks, tag).suspect is not None:
            self.failed = StoreIOError(file.path, "a sync by another writer failed")
            raise self.failed.unraised()

    def fail(self, error: StoreIOError, tag: int, offset: int) -> None:
        """Refuse from now on, and have the next writer look at the device, not at what memory shows."""
        self.failed = error.unraised()
        mark = encode_mark(SUSPECT_MAGIC, Mark(tag, offset))
        try:
            # With the lock: else a recovery could remove the mark unseen.
            self.lock.run(lambda file, _is_locked: self._disk.write_at(file, mark, SUSPECT_AT))
        except EvlogError:
            pass  # the other writers still get the device's error at their own sync

    # --- syncing

    def make_durable(self, point: SyncPoint, *, written: bool) -> None:
        """Return when the log is on the device up to the point. Needs no lock.

        Args:
            written: whether this writer has written there; if not, it may be synced already.

        Raises:
            StoreIOError: a sync failed, this one or another writer's: nothing more may be acknowledged.
        """
        if not written and self._is_known_durable(point):
            return
        with self.syncing:
            if self.failed is not None:
                raise self.failed.unraised()
            tag, offset = self._covered
            if tag != point.tag or offset < point.offset:
                end = self.end  # read before the sync: later frames need not be on the device
                if end is not None and end.tag == point.tag and end.offset > point.offset:
                    point = end
                self._sync(point.file, point)
                self._covered = point.tag, point.offset
        self.lock.run(lambda file, is_locked: self._mark_durable(file, point, is_locked=is_locked))
        self.synced = point.tag, point.offset

    def sync_file(self, file: WriteFile, point: SyncPoint) -> None:
        """Sync another file of the segment whose end is at the point.

        Raises:
            StoreIOError: what it has lost would be sealed as whole, so nothing more may be written.
        """
        with self.syncing:
            self._sync(file, point)

    def _sync(self, file: WriteFile, point: SyncPoint) -> None:
        """Sync a file; `syncing` is held, so that no other thread syncs before it sees the failure."""
        try:
            self._disk.sync(file)
        except StoreIOError as error:
            self.fail(error, point.tag, point.offset)
            raise

    def _is_known_durable(self, point: SyncPoint) -> bool:
        marks = self.read()
        self.check_sound(marks, point.file, point.tag)
        return decode_marks(marks, point.tag).durable_offset >= point.offset

    def _mark_durable(self, marks_file: WriteFile, point: SyncPoint, *, is_locked: bool) -> None:
        marks = _read_marks(marks_file)
        self.check_sound(marks, point.file, point.tag)
        if is_locked and _is_due(marks, point):
            try:
                mark = encode_mark(DURABLE_MAGIC, Mark(point.tag, point.offset))
                self._disk.write_at(marks_file, mark, _DURABLE_AT)
            except StoreFull:
                pass  # an old mark is safe
            except StoreIOError as error:
                self.failed = error.unraised()
                raise


class MarksLock:
    """The lock on `durable`. Callers continue without it if it is not free in time."""

    def __init__(self, path: str, disk: Disk) -> None:
        # A mark in a removed file is a missing mark, which is safe; its next writer makes another.
        self._lock = FileLock(path, _PATIENCE_SECONDS, disk, exact=False, of_thread=True)
        self.open = self._lock.open
        self.open_named = self._lock.open_named
        self.close = self._lock.close

    def run(self, call: Callable[[WriteFile, bool], _T]) -> _T:
        """Return the result of a call that gets the file, and whether the lock was taken for it.

        It was not where this thread has it already: in a call inside another one, also of a signal's handler.
        """
        if self._lock.is_mine():
            return call(self._lock.open(), False)
        return self._lock.run(self._take_and_call, call)

    def _take_and_call(self, call: Callable[[WriteFile, bool], _T]) -> _T:
        try:
            file = self._lock.acquire()
        except LockTimeout:
            self._lock.timeout_seconds = 0.0  # its holder is suspended: wait again once it was free
            return call(self._lock.open(), False)
        try:
            self._lock.timeout_seconds = _PATIENCE_SECONDS
            return call(file, True)
        finally:
            self._lock.release()


def _read_marks(file: WriteFile) -> bytes:
    return read_back(file, MARKS_BYTES, 0).ljust(MARKS_BYTES, b"\0")  # it may just have been made, or cut


def _is_due(marks: bytes, point: SyncPoint) -> bool:
    """Return whether the durable mark is behind the point, in the segment that is active still.

    A sealed segment is synced and needs no mark. The marks' CRCs are not checked, which would take
    microseconds: a flipped bit can only make the mark late.
    """
    _, durable_tag, durable_offset = MARK_PLACE.unpack_from(marks, _DURABLE_AT)
    if durable_tag == point.tag and durable_offset >= point.offset:
        return False
    written_magic, written_tag, _ = MARK_PLACE.unpack_from(marks)
    return bool(written_tag == point.tag or written_magic != WRITTEN_MAGIC)
