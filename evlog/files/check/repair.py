"""Repairs that lose nothing: derived files are rebuilt, a torn tail is cut, leftovers are removed.

1. Every step is one that the next writer could do as well, and may be interrupted anywhere.
2. All changes are made under the writers' lock. Names are synced before the first removal, so that a power
   loss does not bring back a manifest that names a removed file.
3. Damage is left exactly as it is; `find_losses` says which events it costs, as far as that can be known.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final
from zlib import crc32

from evlog.engine import Progress
from evlog.errors import CorruptionError, EvlogError
from evlog.files.check import findings as kinds
from evlog.files.check.containers import open_container
from evlog.files.check.files import take_snapshot
from evlog.files.check.logs import LogCheck
from evlog.files.check.losses import lost_in_segment
from evlog.files.check.task import SegmentTask
from evlog.files.check.verify import verify_store
from evlog.files.disk.file_lock import FileLock, SharedLock
from evlog.files.disk.files import DISK, Disk, list_directory
from evlog.files.format import paths
from evlog.files.format.headers import FILE_HEADER_BYTES, KIND_LOG, KIND_OFFSETS, encode_file_header
from evlog.files.format.manifest import Manifest, SegmentInfo
from evlog.files.format.marks import (
    ACKNOWLEDGED_MAGIC,
    DURABLE_MAGIC,
    MARKS_BYTES,
    UNBOUNDED,
    WRITTEN_MAGIC,
    Mark,
)
from evlog.files.log.crafted import refuses_crafted_content
from evlog.files.log.log import Log
from evlog.files.log.manifest_file import read_manifest, write_mark
from evlog.files.log.parts import OpenParts, SealedPart, SegmentMoved
from evlog.files.write.derived import remove_leftover, replace_derived, temporary_of
from evlog.files.write.recovery import recover_locked
from evlog.files.write.roll import sync_names
from evlog.model.named import NamedTuple
from evlog.model.reports import Finding, Loss, VerifyReport

_DERIVED: Final = (".offsets", ".streams", ".types", ".ids", ".tags")


class RepairReport(NamedTuple):
    """What a repair did: the store as it is now, what it repaired, and which events are lost."""

    report: VerifyReport
    repaired: tuple[Finding, ...]
    losses: tuple[Loss, ...]


@refuses_crafted_content
def repair_store(
    store: str,
    *,
    lock_timeout_seconds: float | None = None,
    progress: Progress | None = None,
    disk: Disk = DISK,
) -> RepairReport:
    """Verify, repair what loses nothing, and verify again.

    Durable when this returns, but for what can be derived again.

    Raises:
        LockTimeout: writers held the lock for longer than that.
        StoreAccessDenied, StoreFull, StoreIOError: the file system refuses.
        As `verify_store`.
    """
    before = verify_store(store, progress=progress)
    if not before.findings or any(
        finding.kind == kinds.MANIFEST and finding.file == paths.MANIFEST for finding in before.findings
    ):
        return RepairReport(before, (), ())
    _repair(store, before.findings, lock_timeout_seconds, disk)
    after = verify_store(store, progress=progress)
    repaired = tuple(finding for finding in before.findings if finding not in after.findings)
    losses = () if after.ok else tuple(find_losses(store))
    return RepairReport(after, repaired, losses)


def find_losses(store: str) -> list[Loss]:
    """Return the events that are damaged for good, segment by segment."""
    losses: list[Loss] = []
    tasks = take_snapshot(store).tasks()
    for task in tasks:
        losses += lost_in_segment(task, tasks)
    return losses


def _repair(store: str, found: Sequence[Finding], lock_timeout_seconds: float | None, disk: Disk) -> None:
    lock = FileLock(paths.lock_path(store), lock_timeout_seconds, disk, readable=False)
    try:
        with lock:
            manifest = read_manifest(store)
            active_name = manifest.segments[-1].name
            # Before the first removal: a power loss must not bring back a manifest that names those files.
            sync_names(store, disk)
            if any(finding.kind == kinds.EXTRA for finding in found):
                _remove_leftovers_locked(store, manifest, disk)
            files = {finding.file for finding in found}
            if f"{paths.SEGMENTS}/{paths.FILTER}" in files:
                disk.remove(paths.filter_path(store))  # the next writer builds it
            if files & {f"{active_name}.log", f"{active_name}.offsets", paths.DURABLE}:
                _repair_end_locked(store, lock_timeout_seconds, disk)
            for info in manifest.segments:
                if info.compressed_bytes and f"{info.name}.{info.log_suffix}" in files:
                    _repair_compressed_locked(store, manifest, info, disk)
        broken = {finding.file.rsplit(".", 1)[0] for finding in found if finding.file.endswith(_DERIVED)}
        for info in manifest.segments[:-1]:
            if info.name in broken:
                _rebuild_derived(store, manifest, info, lock, disk)
    finally:
        lock.close()


def _repair_end_locked(store: str, lock_timeout_seconds: float | None, disk: Disk) -> None:
    """Do for the active segment what its next writer would: cut the torn tail, write entries and marks."""
    try:
        with Log(store) as log:
            active = log.active.segment
            sync_names(store, disk)
            log_file = disk.open(active.log_path)
            offsets_file = disk.open(active.offsets_path, create=True)
            marks_lock = FileLock(paths.durable_path(store), lock_timeout_seconds, disk)
            with marks_lock as marks_file:
                recover_locked(log, log_file, offsets_file, marks_file, disk, unsynced=True)
                if os.fstat(marks_file.fd).st_size > MARKS_BYTES:
                    disk.cut(marks_file, MARKS_BYTES)
                active = log.active.segment
                disk.sync(log_file)  # then the mark may say so
                write_mark(marks_file, DURABLE_MAGIC, Mark(active.tag, active.end), disk)
                write_mark(marks_file, ACKNOWLEDGED_MAGIC, None, disk)  # names no later offset
                mark = log.written_mark(UNBOUNDED)  # what it said of ids may be what is repaired
                write_mark(marks_file, WRITTEN_MAGIC, mark, disk)
            marks_lock.close()
    except CorruptionError:
        return  # real damage: nothing was changed, and it is reported


def _repair_compressed_locked(store: str, manifest: Manifest, info: SegmentInfo, disk: Disk) -> None:
    """Write header and table of a compressed log again, if all of its blocks are whole.

    Under the lock, so that no compaction replaces it meanwhile. It is durable before it is in place.
    """
    try:
        container = open_container(store, manifest.store_id_bytes, info)
    except FileNotFoundError:
        return
    content = container.maybe_repaired(info.header(KIND_LOG, manifest.store_id_bytes))
    if content is None or len(content) != info.compressed_bytes:
        return
    temporary = temporary_of(container.path)
    try:
        disk.create_file(temporary, content)
        disk.replace(temporary, container.path)
    except EvlogError:
        disk.remove(temporary)
        raise
    disk.sync_dir(paths.segments_path(store))


def _remove_leftovers_locked(store: str, manifest: Manifest, disk: Disk) -> None:
    """Remove what interrupted processes left, unless it may hold an event that nothing else has."""
    directory = paths.segments_path(store)
    active = manifest.segments[-1]
    with SharedLock(paths.compaction_path(store), 0.0) as idle:
        for name in list_directory(directory):
            meaning = paths.maybe_parse_segment_name(name)
            if meaning is None:
                if name.endswith(paths.TEMPORARY):
                    remove_leftover(f"{directory}/{name}", disk)
                continue
            if manifest.names(meaning) or not idle:
                continue
            logs = [
                paths.segment_path(store, meaning.first_position, meaning.generation, suffix)
                for suffix in (paths.LOG, paths.COMPRESSED_LOG)
            ]
            empty = all(not os.path.exists(log) or os.stat(log).st_size <= FILE_HEADER_BYTES for log in logs)
            replaced = manifest.segments[0].first_position <= meaning.first_position < active.first_position
            if empty or replaced:
                disk.remove(f"{directory}/{name}")
    disk.remove(paths.manifest_path(store) + paths.TEMPORARY)


def _rebuild_derived(store: str, manifest: Manifest, info: SegmentInfo, lock: FileLock, disk: Disk) -> None:
    """Rebuild .offsets and the sorted indexes of a sealed segment, if its log or its .offsets is whole.

    Only the writing needs the lock: a compaction cannot replace the segment then, and leave the files behind.
    """
    task = SegmentTask(store, manifest.store_id_bytes, info, info.log_bytes)
    entries = _sound_entries(task)
    if entries is None:
        return
    part = SealedPart(store, manifest.store_id_bytes, info, OpenParts())
    files = {f"{task.path}.offsets": encode_file_header(task.header._replace(kind=KIND_OFFSETS)) + entries}
    try:
        files |= part.index.files(entries)
    except SegmentMoved:  # a compaction has replaced it
        return
    finally:
        part.close()
    with lock:
        if info in read_manifest(store).segments:
            for path, content in files.items():
                replace_derived(path, content, disk)


def _sound_entries(task: SegmentTask) -> bytes | None:
    """Return the entries that were sealed, from the log, or from .offsets; None if neither gives them."""
    for read in (_logged_entries, _indexed_entries):
        try:
            entries = read(task)
        except (FileNotFoundError, EvlogError):
            continue
        if crc32(entries) == task.info.offsets_crc:
            return entries
    return None


def _logged_entries(task: SegmentTask) -> bytes:
    return bytes(LogCheck(task).run().entries)


def _indexed_entries(task: SegmentTask) -> bytes:
    return task.read_entries(task.info.events)
