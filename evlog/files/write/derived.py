"""Derived files of a sealed segment: built when missing or damaged, replaced in one step, never synced.

Every byte of them is under a CRC, and a file that a power loss damages is built again.
"""

from __future__ import annotations

import os
import stat

from evlog.errors import EvlogError, UnsafeFile
from evlog.files.disk.file_lock import SharedLock, try_lock, unlock
from evlog.files.disk.files import list_directory
from evlog.files.format import paths
from evlog.files.format.headers import KIND_OFFSETS, encode_file_header
from evlog.files.log.parts import SegmentMoved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from evlog.files.disk.files import Disk, WriteFile
    from evlog.files.log.parts import SealedPart


def build_indexes(part: SealedPart, disk: Disk) -> bool:
    """Build what a sealed segment lacks of its derived files. Needs no lock: its log never changes.

    A full disk or a missing permission must not fail an append that is already durable.

    Returns:
        False if a compaction has just replaced or compressed the segment.
    """
    try:
        log_path = part.segment.log_path
        if not (os.path.exists(log_path) or os.path.exists(f"{log_path}.zst")):  # compressed meanwhile
            return False  # a compaction removed it, though it may still be open here
        missing = part.index.missing()
        if not (missing or part.segment.entries_damaged):
            return True  # the common case for a new writer, which must not read the whole segment
        entries = part.segment.checked_entries()
        if part.segment.entries_damaged:
            header = encode_file_header(part.segment.header._replace(kind=KIND_OFFSETS))
            replace_derived(part.segment.offsets_path, header + bytes(entries), disk)
        for kind in missing:
            replace_derived(part.index.path(kind), part.index.build(kind, entries), disk)
            part.index.forget(kind)
    except SegmentMoved:
        return False
    except EvlogError:
        pass
    return True


def replace_derived(path: str, content: bytes, disk: Disk) -> None:
    """Replace a derived file, or make it, in one step; not synced, as it can be built again."""
    file = _open_temporary(path, disk)
    try:
        disk.write_at(file, content, 0)
        disk.replace(file.path, path)
    except EvlogError:
        disk.remove(file.path)
        raise
    finally:
        unlock(file.fd)  # closing it would not do so for a child that was forked meanwhile
        disk.close(file)


def _open_temporary(path: str, disk: Disk) -> WriteFile:
    """Open a new file for the next content of one; it is locked while its writer lives.

    A process id would not say so: each container may have the same ones.
    """
    while True:
        file = disk.open(temporary_of(path), create=True)
        if try_lock(file) and os.fstat(file.fd).st_nlink:
            return file
        disk.close(file)  # before the lock it looked like a leftover, and is removed


def temporary_of(path: str) -> str:
    """Return a name for the next content of a file that no lock guards: a new one at each call.

    Two threads, or processes of two containers, may build the same file. If they shared a name, one of them
    would cut what others have mapped already.
    """
    return f"{path}.{os.urandom(4).hex()}{paths.TEMPORARY}"


def remove_leftovers_locked(store: str, disk: Disk) -> None:
    """Remove temporary files of processes that died while building an index; the writers' lock is held."""
    directory = paths.segments_path(store)
    for name in list_directory(directory):
        if name.endswith(paths.TEMPORARY):
            remove_leftover(f"{directory}/{name}", disk)


def remove_leftover(temporary: str, disk: Disk) -> None:
    """Remove a temporary file, unless a process is writing it."""
    try:
        with SharedLock(temporary, 0.0) as idle:
            if idle:
                disk.remove(temporary)
    except UnsafeFile:  # evlog makes no such file
        disk.remove(temporary)


def is_leftover(temporary: str) -> bool:
    """Return whether no process is writing a temporary file, as far as this user can tell.

    An empty one may be new, and its writer about to lock it.
    """
    try:
        if not _has_content(temporary):
            return False
        with SharedLock(temporary, 0.0) as idle:
            return idle and _has_content(temporary)  # if not, its writer has just put it in its place
    except UnsafeFile:
        return True


def _has_content(path: str) -> bool:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    return status.st_size > 0 or not stat.S_ISREG(status.st_mode)
