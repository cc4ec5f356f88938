"""Beginning a segment, and sealing the one before. Replacing the manifest commits both at once.

A crash before that leaves files that no manifest names, which the next roll overwrites; a crash after it
leaves a sealed segment without its sorted indexes, which the next writer builds.
"""

from __future__ import annotations

import os

from evlog.files.disk.files import Disk, WriteFile, end_of
from evlog.files.format import paths
from evlog.files.format.headers import KIND_LOG, KIND_OFFSETS, FileHeader, encode_file_header
from evlog.files.log.log import Log
from evlog.files.log.manifest import SegmentInfo, replace_manifest
from evlog.files.write.recovery import remove_leftovers_locked


def new_tag() -> int:
    """A random tag for a new segment, never 0."""
    return int.from_bytes(os.urandom(4), "little") | 1


def create_segment(store: str, store_id: bytes, info: SegmentInfo, disk: Disk) -> None:
    """Make the files of an empty segment, durable, under names that no manifest mentions yet."""
    header = FileHeader(KIND_LOG, info.generation, store_id, info.first_position, info.tag)
    for suffix, kind in (("log", KIND_LOG), ("offsets", KIND_OFFSETS)):
        path = paths.segment_path(store, info.first_position, info.generation, suffix)
        disk.create_file(path, encode_file_header(header._replace(kind=kind)))
    disk.sync_dir(paths.segments_path(store))  # before the manifest may name them


def roll_locked(log: Log, log_file: WriteFile, offsets_file: WriteFile, disk: Disk) -> None:
    """Seal the active segment and begin the next; the writers' lock is held."""
    active = log.active.segment
    manifest = log.manifest
    if end_of(log_file) > active.end:
        disk.cut(log_file, active.end)  # no zeros behind the last frame: a sealed log has one length
    disk.sync(log_file)  # sealed means synced: the marks in `durable` speak of the active log only
    disk.sync(offsets_file)  # else a power loss would have it derived anew from the whole log
    sealed = active.info._replace(
        last_position=log.head,
        events=active.count,
        log_bytes=active.end,
        offsets_crc=active.index_crc,
        first_time_us=active.record(0)[5],
        last_time_us=active.record(active.count - 1)[5],
    )
    fresh = SegmentInfo(log.head + 1, 0, new_tag())
    remove_leftovers_locked(log.store, disk)
    create_segment(log.store, manifest.store_id_bytes, fresh, disk)
    segments = (*manifest.segments[:-1], sealed, fresh)
    replace_manifest(log.store, manifest._replace(segments=segments), disk)
    log.refresh()
