"""Beginning a segment and sealing the one before. Replacing the manifest commits both in one step.

A crash before that leaves files without events that no manifest names: the next roll begins a segment at the
same position and overwrites them, and a compaction or a repair removes them. A crash after it leaves a sealed
segment without sorted indexes: the next writer builds them (`IndexBuilder.build`).
"""

from __future__ import annotations

import os

from evlog.errors import CorruptionError, StoreAccessDenied, StoreFull
from evlog.files.format import paths
from evlog.files.format.entries import count_tagged
from evlog.files.format.headers import KIND_LOG, KIND_OFFSETS, encode_file_header
from evlog.files.format.manifest import SegmentInfo
from evlog.files.format.marks import LOWEST_ID, UNBOUNDED, WRITTEN_MAGIC
from evlog.files.log.manifest_file import leave_mark, replace_manifest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from evlog.files.disk.files import Disk
    from evlog.files.format.manifest import Manifest
    from evlog.files.log.log import Log


def new_tag() -> int:
    """Return a random tag for a new segment, never 0."""
    return int.from_bytes(os.urandom(4), "little") | 1


def create_segment(store: str, store_id: bytes, info: SegmentInfo, disk: Disk) -> None:
    """Make the files of an empty segment, its log durable, under names that no manifest mentions yet.

    Raises:
        CorruptionError: the segment has events already.
    """
    check_newest(store, info.path(store, paths.LOG))
    disk.create_file(info.path(store, paths.LOG), encode_file_header(info.header(KIND_LOG, store_id)))
    offsets = disk.open(info.path(store, paths.OFFSETS), create=True, truncate=True)
    try:  # not synced: its entries will not be either, until it is sealed, and it can be derived from the log
        disk.write_at(offsets, encode_file_header(info.header(KIND_OFFSETS, store_id)), 0)
    finally:
        disk.close(offsets)
    disk.sync_dir(paths.segments_path(store))  # before the manifest may name them


def check_newest(store: str, next_log: str) -> None:
    """Raise CorruptionError if the log that a roll would begin has events already (see log/later.py)."""
    if os.path.exists(next_log):
        from evlog.files.log.later import holds_events, outdated  # few stores need it

        if holds_events(next_log):
            raise outdated(store, next_log)


def roll_locked(log: Log, disk: Disk) -> None:
    """Seal the active segment, whose files are synced, and begin the next; the writers' lock is held."""
    active = log.active.segment
    manifest = log.manifest
    sealed = active.info._replace(
        last_position=log.head,
        events=active.count,
        log_bytes=active.end,
        offsets_crc=active.index_crc,
        first_time_us=active.record(0)[5],
        last_time_us=active.record(active.count - 1)[5],
        tagged_events=count_tagged(active.entries),
    )
    highest_id = _highest_id_locked(log)
    fresh = SegmentInfo(log.head + 1, 0, new_tag())
    create_segment(log.store, manifest.store_id_bytes, fresh, disk)
    segments = (*manifest.segments[:-1], sealed, fresh)
    replace_manifest_locked(
        log, manifest._replace(segments=segments, highest_id=highest_id), disk, highest_id=highest_id
    )


def _highest_id_locked(log: Log) -> bytes:
    """Return the highest id as `Log.highest_id`, also where the mark is lost: 0.1 s for 262,144 events."""
    known = log.highest_id()
    if known != UNBOUNDED:
        return known
    highest = log.manifest.highest_id if log.sealed else LOWEST_ID
    if highest == UNBOUNDED:
        return UNBOUNDED
    segment = log.active.segment
    try:
        for records in segment.scan(0, segment.count):
            highest = max((highest, *[record[4] for record in records]))
    except CorruptionError:
        return UNBOUNDED
    return highest


def add_sealed_locked(log: Log, sealed: SegmentInfo, disk: Disk) -> None:
    """Name a segment, whose files are synced, in the place of the empty active one, and begin the next."""
    manifest = log.manifest
    fresh = SegmentInfo(sealed.last_position + 1, 0, new_tag())
    create_segment(log.store, manifest.store_id_bytes, fresh, disk)  # syncs the names of both
    segments = (*manifest.segments[:-1], sealed, fresh)
    manifest = manifest._replace(segments=segments, highest_id=UNBOUNDED)
    replace_manifest_locked(log, manifest, disk, highest_id=UNBOUNDED)


def replace_manifest_locked(
    log: Log, manifest: Manifest, disk: Disk, *, highest_id: bytes | None = None
) -> None:
    """Replace the manifest, durably, take it in, and leave a mark that names it.

    Args:
        highest_id: as in the mark; None: it stays.
    """
    highest_id = log.highest_id() if highest_id is None else highest_id
    replace_manifest(log.store, manifest, disk)
    log.look()
    try:
        leave_mark(log.store, WRITTEN_MAGIC, log.written_mark(highest_id), disk)
    except StoreFull:
        pass  # without the mark, readers and writers check everything until the next append


def sync_names(store: str, disk: Disk) -> None:
    """Make the names of the store, of its files and of its segments durable."""
    disk.sync_dir(paths.segments_path(store))
    disk.sync_dir(store)
    try:
        disk.sync_dir(os.path.dirname(os.path.abspath(store)))
    except StoreAccessDenied:
        pass  # this user need not be able to read the directory above
