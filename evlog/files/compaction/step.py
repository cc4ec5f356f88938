"""The end of each step of a compaction: the manifest names what was written instead of what it replaces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from evlog.errors import StoreFull
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import Disk
from evlog.files.format import paths
from evlog.files.format.paths import SegmentFile
from evlog.files.log.log import Log
from evlog.files.log.manifest import Manifest, SegmentInfo, replace_manifest


def replace_segments(
    log: Log, lock: FileLock, disk: Disk, old: Sequence[SegmentInfo], new: SegmentInfo
) -> None:
    """Have the manifest name a segment, whose files are synced, in the place of others; durable on return.

    Raises:
        StoreFull: the manifest is as it was, the new segment's files are gone.
        LockTimeout, StoreIOError: the files are there, and the next compaction removes what nothing names.
    """
    disk.sync_dir(paths.segments_path(log.store))  # before the manifest may name them
    with lock:
        log.refresh()
        manifest = log.manifest
        after = manifest._replace(segments=_replaced(manifest.segments, old, new))
        try:
            replace_manifest(log.store, after, disk)
        except StoreFull:  # before the new manifest was there
            remove_unnamed(log.store, manifest, [new], disk)
            raise
        # Who has these open or mapped keeps them; who only knows their names finds the manifest replaced.
        # Under the lock, so that who holds it to copy the store sees no name vanish.
        remove_unnamed(log.store, after, old, disk)
    log.refresh()


def remove_unnamed(store: str, manifest: Manifest, infos: Iterable[SegmentInfo], disk: Disk) -> None:
    """Remove what the manifest does not name of the files that segments may have."""
    for info in infos:
        for suffix in paths.SUFFIXES:
            file = SegmentFile(info.first_position, info.generation, suffix)
            if not manifest.names(file):
                disk.remove(paths.segment_path(store, *file))


def _replaced(
    segments: Sequence[SegmentInfo], old: Sequence[SegmentInfo], new: SegmentInfo
) -> tuple[SegmentInfo, ...]:
    at = segments.index(old[0])
    assert list(segments[at : at + len(old)]) == list(old)  # only this process compacts
    return (*segments[:at], new, *segments[at + len(old) :])
