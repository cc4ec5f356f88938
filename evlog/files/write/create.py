"""Making a store: directories, the first segment, and last the manifest. With the manifest it is a store.

Interrupted anywhere, it leaves a directory that is not a store yet and that the next attempt completes. A
directory with anything else in it is left alone.
"""

from __future__ import annotations

import os

from evlog.errors import CorruptionError, InvalidArgument, NotAStore, StoreAccessDenied
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import Disk
from evlog.files.disk.opening import error_for
from evlog.files.format import paths
from evlog.files.format.frames import FRAME_HEADER_BYTES, MAX_BODY_BYTES, MAX_LOG_BYTES
from evlog.files.format.headers import FILE_HEADER_BYTES
from evlog.files.format.manifest import Manifest, SegmentInfo
from evlog.files.format.paths import SegmentFile
from evlog.files.log.manifest_file import replace_manifest
from evlog.files.write.roll import create_segment, new_tag, sync_names
from evlog.model.events import id_text, make_ids

DEFAULT_SEGMENT_BYTES = 64 * 1024 * 1024
DEFAULT_SEGMENT_EVENTS = 262_144
# A log ends below 4 GiB even if the largest frame begins just below this.
MAX_SEGMENT_BYTES = MAX_LOG_BYTES - MAX_BODY_BYTES - FILE_HEADER_BYTES - FRAME_HEADER_BYTES
MAX_SEGMENT_EVENTS = 1 << 26
_FIRST_FILES = (SegmentFile(1, 0, paths.LOG), SegmentFile(1, 0, paths.OFFSETS))


def create_store(
    path: str, segment_bytes: int, segment_events: int, lock_timeout_seconds: float | None, disk: Disk
) -> bool:
    """Make a store at the path, durable when this returns; False if one is there already.

    Raises:
        InvalidArgument: a setting is out of bounds.
        NotAStore: the path is a file, a directory with other files in it, or in another store.
        StoreAccessDenied, StoreFull, SystemCallFailed, UnsafeFile: the file system refuses.
    """
    _check_setting("segment_bytes", segment_bytes, MAX_SEGMENT_BYTES)
    _check_setting("segment_events", segment_events, MAX_SEGMENT_EVENTS)
    if os.path.lexists(paths.manifest_path(path)):
        return False
    try:
        _check_place(path)
    except (NotAStore, CorruptionError):
        if os.path.lexists(paths.manifest_path(path)):  # it was being made by another process
            return False
        raise
    make_directories(path, disk)
    lock = FileLock(paths.lock_path(path), lock_timeout_seconds, disk, readable=False)
    try:
        with lock:
            if os.path.lexists(paths.manifest_path(path)):  # another process was first
                return False
            first = SegmentInfo(1, 0, new_tag())
            manifest = Manifest(id_text(make_ids(1)[0]), segment_bytes, segment_events, (first,))
            create_segment(path, manifest.store_id_bytes, first, disk)
            sync_names(path, disk)  # a power loss must not leave a manifest without its files
            replace_manifest(path, manifest, disk)
    finally:
        lock.close()
    return True


def _check_setting(name: str, value: int, highest: int) -> None:
    if type(value) is not int or not 1 <= value <= highest:
        raise InvalidArgument(f"{name} is {value!r}; give a whole number from 1 to {highest}")


def _check_place(path: str) -> None:
    check_outside(path)
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        what = "it" if os.path.isfile(path) else "a part of its path"
        raise NotAStore(path, f"{what} is a file") from None
    except PermissionError:
        return  # making the store reports it
    except OSError as error:
        raise error_for(error, path) from error
    _check_leftovers(path)
    foreign = sorted(set(names) - paths.INIT_LEFTOVERS)
    if foreign:
        raise NotAStore(path, f"the directory holds {foreign[0]!r} and no manifest.json")


def check_outside(path: str, store: str | None = None) -> None:
    """Raise NotAStore if the path is in a store; `store` is one that may have no manifest any more."""
    above = maybe_store_around(path, store)
    if above is not None:
        raise NotAStore(path, f"it is in the store {above}")


def maybe_store_around(path: str, store: str | None = None) -> str | None:
    """Return the directory of the store that the path is in; `store` as for `check_outside`."""
    damaged = None if store is None else os.path.realpath(store)
    above = os.path.realpath(path)
    while above != (above := os.path.dirname(above)):
        has_names = os.path.lexists(paths.manifest_path(above)) and os.path.lexists(
            paths.segments_path(above)
        )
        if has_names or above == damaged:
            return above
    return None


def _check_leftovers(path: str) -> None:
    """Raise CorruptionError for more than one segment without events: then this was a store."""
    directory = paths.segments_path(path)
    try:
        entries = os.scandir(directory)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    with entries:
        for entry in entries:
            is_first = paths.maybe_parse_segment_name(entry.name) in _FIRST_FILES
            if not is_first or entry.stat().st_size > FILE_HEADER_BYTES:
                raise CorruptionError(
                    paths.manifest_path(path),
                    None,
                    f"it is missing, though there is {directory}/{entry.name}",
                )


def make_directories(path: str, disk: Disk, *, like: str | None = None) -> None:
    """Make a store's directories and their names durable, also those that a dead process left unsynced.

    Args:
        like: as `Disk.make_dir`.
    """
    path = os.path.abspath(path)
    disk.make_dir(path, like=like)
    device = os.stat(path).st_dev
    above = path
    while above != os.path.dirname(above) and os.stat(above := os.path.dirname(above)).st_dev == device:
        try:
            disk.sync_dir(above)
        except StoreAccessDenied:
            pass  # a directory above need not be ours to read
    disk.make_dir(paths.segments_path(path))
