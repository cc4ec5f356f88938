"""Making a store whole again: what the next writer does, under the lock, before it appends.

Two rules. What was acknowledged is never cut: a damaged frame that was known to be synced (by the mark in
`durable`, or by a later frame's header) is a CorruptionError, and nothing is touched. What was never
acknowledged may go: the torn or unsynced end of the log is cut at the first frame that is not whole.
What is derived (.offsets, the sorted indexes) is made anew, silently. Each step may be interrupted
anywhere and done again.
"""

from __future__ import annotations

import contextlib
import os

from evlog.errors import EvlogError, StoreAccessDenied
from evlog.files.disk.files import Disk, WriteFile, error_for, read_back
from evlog.files.format import paths
from evlog.files.format.entries import ENTRY_BYTES
from evlog.files.format.headers import FILE_HEADER_BYTES, KIND_OFFSETS, encode_file_header
from evlog.files.format.marks import (
    DURABLE_MAGIC,
    MARK_AT,
    MARK_BYTES,
    NO_MARK,
    SUSPECT_MAGIC,
    Mark,
    encode_mark,
)
from evlog.files.log.log import Log, SealedPart, SegmentMoved
from evlog.files.log.manifest import replace_manifest
from evlog.model.reports import TornTail


def write_mark(file: WriteFile, magic: bytes, mark: Mark | None, disk: Disk) -> None:
    """Write a mark into `durable`, or wipe it. Never synced: one that is lost or late only says less."""
    disk.write_at(file, NO_MARK if mark is None else encode_mark(magic, mark), MARK_AT[magic])


def recover_locked(log: Log, log_file: WriteFile, marks_file: WriteFile, disk: Disk) -> TornTail | None:
    """Make the end of the active log whole; the writers' lock and that of the marks are held.

    Returns:
        What was cut, if anything was.

    Raises:
        CorruptionError: acknowledged events are damaged or missing; nothing was changed.
    """
    marks = log.marks()
    if marks.suspect is not None:
        # A sync failed: memory may show what the device does not have. Look at the device, and have
        # every process that has the log in memory compare it: they see the manifest replaced.
        disk.drop_cache(log_file)
        replace_manifest(log.store, log.manifest, disk)
    if log.active.segment.torn_bytes or marks.suspect is not None:
        log.reset()  # what is about to be judged must not be a memory of what was cut by another
        log.refresh()
    active = log.active.segment
    synced = max(marks.durable_offset, active.durable)
    if active.torn_bytes:
        synced = max(synced, active.later_frames_durable(active.end))
    if synced > active.end:
        raise active.damage(synced)
    torn = None
    if active.torn_bytes:
        torn = TornTail(active.log_path, active.end, active.torn_bytes)
        disk.cut(log_file, active.end)
        # Synced before anything is written behind it: else a power loss could bring the old tail back.
        disk.sync(log_file)
        log.refresh()
    if marks.suspect is not None:
        write_mark(marks_file, DURABLE_MAGIC, Mark(active.tag, synced), disk)
    if read_back(marks_file, MARK_BYTES, MARK_AT[SUSPECT_MAGIC]) != NO_MARK:  # of this log or an older one
        write_mark(marks_file, SUSPECT_MAGIC, None, disk)
    return torn


def sync_names(store: str, disk: Disk) -> None:
    """Make the names of the store, of its files and of its segments durable."""
    disk.sync_dir(paths.segments_path(store))
    disk.sync_dir(store)
    with contextlib.suppress(StoreAccessDenied):  # a directory above need not be ours to read
        disk.sync_dir(os.path.dirname(os.path.abspath(store)))


def repair_offsets_locked(log: Log, offsets_file: WriteFile, disk: Disk) -> None:
    """Make the active .offsets hold exactly the entries in memory; the writers' lock is held."""
    active = log.active.segment
    header = encode_file_header(active.header._replace(kind=KIND_OFFSETS))
    size = os.fstat(offsets_file.fd).st_size
    if size < FILE_HEADER_BYTES or active.entries_on_disk < active.count:
        start = active.entries_on_disk * ENTRY_BYTES
        disk.write_at(offsets_file, header, 0)
        disk.write_at(offsets_file, bytes(active.entries[start:]), FILE_HEADER_BYTES + start)
    if size > FILE_HEADER_BYTES + active.count * ENTRY_BYTES:
        disk.cut(offsets_file, FILE_HEADER_BYTES + active.count * ENTRY_BYTES)
    active.entries_on_disk = active.count


def build_indexes(part: SealedPart, disk: Disk) -> None:
    """Build what a sealed segment lacks of its derived files. No lock is needed: its log never changes.

    Not synced: every byte is under a CRC, and what a power loss takes is built again. No room, or no
    permission, is no reason to fail an append that is durable already.
    """
    with contextlib.suppress(EvlogError, SegmentMoved):
        if not os.path.exists(part.segment.log_path):
            return  # a compaction took it; it may be open here still
        missing = part.index.missing()
        if not (missing or part.segment.entries_damaged):
            return  # as each new writer finds the last sealed segment: it must not read all of that
        entries = part.segment.checked_entries()
        if part.segment.entries_damaged:
            header = encode_file_header(part.segment.header._replace(kind=KIND_OFFSETS))
            replace_derived(part.segment.offsets_path, header + bytes(entries), disk)
        for kind in missing:
            replace_derived(part.index.path(kind), part.index.build(kind, entries), disk)
            part.index.forget(kind)


def remove_leftovers_locked(store: str, disk: Disk) -> None:
    """Remove what processes that died while building an index left in `segments/`."""
    directory = paths.segments_path(store)
    try:
        names = os.listdir(directory)
    except OSError as error:
        raise error_for(error, directory) from error
    for name in names:
        if name.endswith(paths.TEMPORARY) and not is_running(name):
            disk.remove(f"{directory}/{name}")


def is_running(temporary: str) -> bool:
    """Whether the process that a temporary file's name tells of is still there."""
    try:
        os.kill(int(temporary.split(".")[-2]), 0)
    except (ProcessLookupError, ValueError, OverflowError, IndexError):
        return False
    except PermissionError:
        pass  # it runs, as another user
    return True


def replace_derived(path: str, content: bytes, disk: Disk) -> None:
    """Put a derived file in the place of what is there, in one step; not synced, as it can be made again."""
    temporary = f"{path}.{os.getpid()}{paths.TEMPORARY}"
    try:
        file = disk.open(temporary, create=True, truncate=True)
        try:
            disk.write_at(file, content, 0)
        finally:
            disk.close(file)
        disk.replace(temporary, path)
    except EvlogError:
        disk.remove(temporary)
        raise
