"""Reading and replacing `manifest.json`, the commit point of roll and compaction; marks beside it."""

from __future__ import annotations

import os

from evlog.errors import CorruptionError, NotAStore, StoreNotFound, UnsupportedFormat
from evlog.files.disk.files import Disk, ReadFile
from evlog.files.disk.opening import error_for
from evlog.files.format import paths
from evlog.files.format.headers import FORMAT_VERSION, FormatFault, NewerFormat
from evlog.files.format.lines import crc_of_line
from evlog.files.format.manifest import Manifest, decode_manifest, encode_manifest
from evlog.files.format.marks import MARK_AT, NO_MARK, WRITTEN_MAGIC, encode_mark
from evlog.model.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from evlog.files.disk.files import WriteFile
    from evlog.files.format.marks import Mark

_MAX_BYTES: Final = 1 << 26  # some 300,000 segments


class Stamp(NamedTuple):
    """Identifies one manifest file for the price of a stat.

    No other file can get the inode while the file is open. So a process that keeps the manifest open after
    reading it recognizes every replacement, however quick.
    """

    device: int
    inode: int
    modified_ns: int
    size: int


class OpenManifest(NamedTuple):
    """A manifest that was read, with the file, which is still open."""

    manifest: Manifest
    crc: int  # its own: what a written mark names it by
    stamp: Stamp
    file: ReadFile  # as long as it is open, no other file can get its inode


def read_manifest(store: str) -> Manifest:
    """Read the manifest of a store.

    Raises:
        StoreNotFound: there is no manifest.
        NotAStore: the file was never evlog's.
        CorruptionError: it is damaged.
        UnsupportedFormat: it is of a later format.
    """
    file = _open(store)
    return parse_manifest(file.read_whole(_MAX_BYTES), file.path)


def open_manifest(store: str) -> OpenManifest:
    """Read the manifest, and keep its file open.

    Raises:
        as `read_manifest`; CorruptionError also when a segment of it is asked for.
    """
    file = _open(store)
    raw = file.read_whole(_MAX_BYTES)
    manifest = parse_manifest(raw, file.path, lazily=True)
    return OpenManifest(manifest, crc_of_line(raw), _stamp_of(os.fstat(file.fd)), file)


def _open(store: str) -> ReadFile:
    try:
        return ReadFile(paths.manifest_path(store))
    except FileNotFoundError:
        raise StoreNotFound(store) from None


def parse_manifest(raw: bytes, path: str, *, lazily: bool = False) -> Manifest:
    """Decode the bytes of a manifest.

    Args:
        lazily: decode its segments when they are asked for.

    Raises:
        NotAStore: the file was never evlog's.
        CorruptionError: it is damaged.
        UnsupportedFormat: it is of a later format.
    """
    try:
        return decode_manifest(raw, path if lazily else None)
    except NewerFormat as newer:
        raise UnsupportedFormat(path, newer.found, FORMAT_VERSION) from None
    except FormatFault as fault:
        if raw.startswith(b'{"format":') or not raw.strip(b"\0"):
            raise CorruptionError(path, None, f"the manifest is not whole: {fault}") from None
        store = os.path.dirname(path)
        if _has_segments(store):
            raise CorruptionError(path, None, "it is not a manifest, though there are segments") from None
        raise NotAStore(store, "its manifest.json is not evlog's") from None


def _has_segments(store: str) -> bool:
    try:
        names = os.listdir(paths.segments_path(store))
    except OSError:
        return False  # of a manifest that is not evlog's that is enough to know
    return any(map(paths.maybe_parse_segment_name, names))


def read_stamp(store: str) -> Stamp:
    """Return the stamp of the manifest that the store has now.

    Raises:
        StoreNotFound: the store is not there any more.
    """
    try:
        return _stamp_of(os.stat(paths.manifest_path(store)))
    except OSError as error:
        raise error_for(error, store) from None


def has_stamp(path: str, stamp: Stamp | None) -> bool:
    """Return whether the manifest at the path is the one with the stamp; False if it cannot be seen."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return stamp == (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


def _stamp_of(status: os.stat_result) -> Stamp:
    return Stamp(status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


def manifest_crc(manifest: Manifest) -> int:
    """Return the CRC that the file of a manifest has: what a written mark names it by."""
    return crc_of_line(encode_manifest(manifest))


def replace_manifest(store: str, manifest: Manifest, disk: Disk, *, is_marked: bool = False) -> None:
    """Make this the store's manifest, in one step; durable when this returns.

    Args:
        is_marked: the written mark names this manifest already. Else the mark is removed first: until a
            writer leaves another, every reader looks at the manifest.
    """
    path = paths.manifest_path(store)
    temporary = path + paths.TEMPORARY
    disk.create_file(temporary, encode_manifest(manifest))  # synced: the name must never show a torn file
    if not is_marked:
        leave_mark(store, WRITTEN_MAGIC, None, disk)
    disk.replace(temporary, path)
    disk.sync_dir(store)  # the commit: from here on its files are trusted, and old files may be removed


def leave_mark(store: str, magic: bytes, mark: Mark | None, disk: Disk) -> None:
    """Do what `write_mark` does, if the store has the file."""
    try:
        file = disk.open(paths.durable_path(store))
    except StoreNotFound:
        return  # nothing was appended yet
    try:
        write_mark(file, magic, mark, disk)
    finally:
        disk.close(file)


def write_mark(file: WriteFile, magic: bytes, mark: Mark | None, disk: Disk) -> None:
    """Write a mark into `durable`, or remove it. Never synced: a lost or late mark only understates."""
    disk.write_at(file, NO_MARK if mark is None else encode_mark(magic, mark), MARK_AT[magic])
