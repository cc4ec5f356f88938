"""Recovery: what the next writer does with the end of the active log before it appends, under its lock.

This is the one place that decides what happens to a torn tail.

1. What was acknowledged is never cut. A damaged frame that is known to have been synced, by the durable mark
   or by a later frame's header, is a CorruptionError, and nothing is changed.
2. What was never acknowledged may be removed: the log is cut at the first frame that is not whole.
3. After a failed sync, memory may hold bytes that the device does not have. The suspect mark says that this
   happened. If the writer was killed between its failed sync and that mark, only frames beyond the durable
   mark are a sign of it. In both cases the tail is read from the device before it is judged. The log is
   synced first: a page stays in memory while one of its blocks is to be written, with what was lost of its
   other blocks, and the next sync would write that one block alone.
4. A log that the manifest does not name, and that has later events, was acknowledged, too: CorruptionError.
5. Each step may be interrupted anywhere and done again.
"""

from __future__ import annotations

import os

from evlog.files.disk.files import read_back
from evlog.files.format import paths
from evlog.files.format.entries import ENTRY_BYTES
from evlog.files.format.headers import FILE_HEADER_BYTES, KIND_OFFSETS, encode_file_header
from evlog.files.format.marks import (
    ACKNOWLEDGED_MAGIC,
    DURABLE_MAGIC,
    MARK_BYTES,
    NO_MARK,
    SUSPECT_AT,
    SUSPECT_MAGIC,
    Mark,
)
from evlog.files.log.manifest_file import replace_manifest, write_mark
from evlog.files.write.roll import check_newest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from evlog.files.disk.files import Disk, WriteFile
    from evlog.files.log.log import Log
    from evlog.model.reports import TornTail


def recover_locked(
    log: Log,
    log_file: WriteFile,
    offsets_file: WriteFile,
    marks_file: WriteFile,
    disk: Disk,
    *,
    unsynced: bool,
) -> TornTail | None:
    """Make the end of the active log whole; the writers' lock and that of the marks are held.

    Args:
        unsynced: whether frames beyond the durable mark may be those of a failed sync that left no mark: this
            writer has opened the log after them, so the kernel does not report that failure to it.

    Returns:
        What was cut, if anything was.

    Raises:
        CorruptionError: acknowledged events are damaged or missing; nothing was changed.
    """
    if log.active.count:  # else that is the active log itself
        check_newest(log.store, paths.segment_path(log.store, log.head + 1, 0, paths.LOG))
    later = log.find_later_segment()
    if later is not None:
        raise later
    marks = log.marks()
    active = log.active.segment
    known_synced = max(marks.durable_offset, active.durable)
    unsynced = unsynced and known_synced < active.end
    if marks.suspect is not None:
        disk.sync(log_file)
        disk.drop_cache(log_file)
        # So every process that has the log in memory compares it again: it notices that the manifest was
        # replaced.
        replace_manifest(log.store, log.manifest, disk)
    elif unsynced:
        disk.sync(log_file)
        disk.drop_cache(log_file, known_synced)
    if active.torn_bytes or marks.suspect is not None or unsynced:
        log.reset()  # memory may hold what another process has cut: read the file again
        log.look()
    active = log.active.segment
    synced = max(marks.durable_offset, active.durable)
    if active.torn_bytes:
        synced = max(synced, active.later_frames_durable(active.end))
    if synced > active.end:
        raise active.damage(synced)
    torn: TornTail | None = None
    if active.torn_bytes:
        from evlog.model.reports import TornTail

        torn = TornTail(active.log_path, active.end, active.torn_bytes)
        disk.cut(log_file, active.end)
        # Synced before anything is written after it: else a power loss could bring the old tail back.
        disk.sync(log_file)
        log.look()
    if marks.acknowledged is not None and marks.acknowledged.offset > active.end:
        # It is that of frames that are lost, of a writer with sync="none". A follower would take what is
        # written in their place for acknowledged.
        write_mark(marks_file, ACKNOWLEDGED_MAGIC, None, disk)
    if marks.suspect is not None:
        write_mark(marks_file, DURABLE_MAGIC, Mark(active.tag, synced), disk)
    # Also if it is that of an older segment.
    if read_back(marks_file, MARK_BYTES, SUSPECT_AT) != NO_MARK:
        write_mark(marks_file, SUSPECT_MAGIC, None, disk)
    repair_offsets_locked(log, offsets_file, disk)
    return torn


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
