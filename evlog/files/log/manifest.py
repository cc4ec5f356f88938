"""`manifest.json`: what a store consists of. Replacing it is the commit point of roll and compaction.

It names the store, its settings and its segments in position order; the last segment is the active one,
and for every other it holds what must be true of its files. What the manifest does not name does not exist.
The bytes are specified in evlog/files/format; the CRC rule at the line's end holds for all formats to come.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from typing import Any, Final, NamedTuple
from zlib import crc32

from evlog.errors import CorruptionError, NotAStore, StoreNotFound, UnsupportedFormat
from evlog.files.disk.files import Disk, ReadFile, error_for
from evlog.files.format import paths
from evlog.files.format.headers import FORMAT_VERSION
from evlog.files.format.paths import SegmentFile

_CRC_KEY: Final = b',"crc32":"'


_MAX_BYTES: Final = 1 << 26  # some 300,000 segments; a stranger's file may claim any length


class SegmentInfo(NamedTuple):
    """One segment as the manifest knows it; from `last_position` on, facts of a sealed one (0 if active).

    `log_bytes` is the length of the log itself, compressed or not. Of a compacted segment, positions and
    times bound what was there before; its .removed file has what is not. Of a salvaged one `lost_events`
    counts the positions, in it and right before it, of which nothing is left.
    """

    first_position: int
    generation: int
    tag: int
    last_position: int = 0
    events: int = 0
    log_bytes: int = 0
    offsets_crc: int = 0
    first_time_us: int = 0
    last_time_us: int = 0
    removed_events: int = 0
    removed_bytes: int = 0
    removed_crc: int = 0
    lost_events: int = 0
    compressed_bytes: int = 0  # of the file that holds the log compressed, 0 if it stands as it is

    @property
    def sealed(self) -> bool:
        return self.last_position > 0

    @property
    def log_suffix(self) -> str:
        """The suffix of the file that holds the log."""
        return paths.COMPRESSED_LOG if self.compressed_bytes else paths.LOG

    @property
    def log_file(self) -> SegmentFile:
        """What the name of the file that holds the log says: of two with one name, the bytes are the same."""
        return SegmentFile(self.first_position, self.generation, self.log_suffix)


_ACTIVE_FIELDS: Final = SegmentInfo._fields[:3]
_SEALED_FIELDS: Final = SegmentInfo._fields[:9]
_REMOVED_FIELDS: Final = SegmentInfo._fields[9:12]  # only of one that was compacted


class Manifest(NamedTuple):
    """The content of manifest.json."""

    store_id: str
    segment_bytes: int
    segment_events: int
    segments: tuple[SegmentInfo, ...]

    @property
    def store_id_bytes(self) -> bytes:
        return bytes.fromhex(self.store_id.replace("-", ""))

    def names(self, file: SegmentFile) -> bool:
        """Whether the file is a part of the store."""
        at = bisect_left(self.segments, file.first_position, key=lambda info: info.first_position)
        if at == len(self.segments) or self.segments[at].log_file[:2] != file[:2]:
            return False
        own = self.segments[at].log_suffix
        return file.suffix == own or file.suffix not in (paths.LOG, paths.COMPRESSED_LOG)


class Stamp(NamedTuple):
    """What tells one manifest file from the one that replaced it, for the price of a stat."""

    inode: int
    modified_ns: int
    size: int


def encode_manifest(manifest: Manifest) -> bytes:
    """The one line of manifest.json."""
    document: dict[str, Any] = {"format": FORMAT_VERSION} | manifest._asdict()
    document["segments"] = [_encode_segment(segment) for segment in manifest.segments]
    body = json.dumps(document, separators=(",", ":")).encode()[:-1]
    return body + _CRC_KEY + b'%08x"}\n' % crc32(body)


def decode_manifest(raw: bytes, path: str) -> Manifest:
    """Decode and validate manifest.json.

    Raises:
        NotAStore: the file was never evlog's.
        CorruptionError: it was, and is damaged.
        UnsupportedFormat: it is of a later format.
    """
    body, key, crc = raw.rpartition(_CRC_KEY)
    if not key:
        if raw.startswith(b'{"format":') or not raw.strip(b"\0"):
            raise CorruptionError(path, None, "the manifest is cut off or empty")
        raise NotAStore(os.path.dirname(path), "its manifest.json is not evlog's")
    if crc != b'%08x"}\n' % crc32(body):
        raise CorruptionError(path, None, "the manifest fails its CRC")
    try:
        document: dict[str, Any] = json.loads(body + b"}")
        if type(document["format"]) is not int or document["format"] < 1:
            raise ValueError("format is not a number")
        if document["format"] > FORMAT_VERSION:
            raise UnsupportedFormat(path, document["format"], FORMAT_VERSION)
        manifest = Manifest(
            document["store_id"],
            document["segment_bytes"],
            document["segment_events"],
            tuple(SegmentInfo(**segment) for segment in document["segments"]),
        )
        _validate(manifest)
    except (LookupError, AttributeError, TypeError, ValueError, RecursionError) as error:
        raise CorruptionError(path, None, f"the manifest makes no sense: {error!r}") from None
    return manifest


def read_manifest(store: str) -> tuple[Manifest, Stamp]:
    """Read the manifest of a store, and the stamp of the file that it was read from.

    Raises:
        StoreNotFound: there is no manifest; and all that `decode_manifest` raises.
    """
    path = paths.manifest_path(store)
    try:
        file = ReadFile(path)
    except FileNotFoundError:
        raise StoreNotFound(store) from None
    status = os.fstat(file.fd)
    manifest = decode_manifest(file.read_whole(_MAX_BYTES), path)
    return manifest, Stamp(status.st_ino, status.st_mtime_ns, status.st_size)


def read_stamp(store: str) -> Stamp:
    """The stamp of the manifest that the store has now.

    Raises:
        StoreNotFound: the store is gone.
    """
    try:
        status = os.stat(paths.manifest_path(store))
    except OSError as error:
        raise error_for(error, store) from None
    return Stamp(status.st_ino, status.st_mtime_ns, status.st_size)


def has_stamp(path: str, stamp: Stamp | None) -> bool:
    """Whether the manifest is the one with the stamp; not if there is none, or none to be seen."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return stamp == (status.st_ino, status.st_mtime_ns, status.st_size)


def replace_manifest(store: str, manifest: Manifest, disk: Disk) -> None:
    """Make this the store's manifest, in one step; durable when this returns."""
    path = paths.manifest_path(store)
    temporary = path + paths.TEMPORARY
    disk.create_file(temporary, encode_manifest(manifest))  # synced: the name must never show a torn file
    disk.replace(temporary, path)
    disk.sync_dir(store)  # the commit: what it names is trusted, and old files may go, only from here on


def _encode_segment(segment: SegmentInfo) -> dict[str, int]:
    fields = segment._asdict()
    names: tuple[str, ...] = _SEALED_FIELDS if segment.sealed else _ACTIVE_FIELDS
    if segment.removed_bytes:
        names += _REMOVED_FIELDS
    if segment.lost_events:
        names += ("lost_events",)
    if segment.compressed_bytes:
        names += ("compressed_bytes",)
    return {name: fields[name] for name in names}


def _validate(manifest: Manifest) -> None:
    if len(manifest.store_id_bytes) != 16:
        raise ValueError("store_id is not a UUID")
    numbers = [manifest.segment_bytes, manifest.segment_events]
    if any(type(number) is not int or number < 1 for number in numbers) or not manifest.segments:
        raise ValueError("segment_bytes, segment_events and segments must not be empty")
    last_position = 0
    for number, segment in enumerate(manifest.segments, 1):
        if any(type(value) is not int or value < 0 for value in segment):
            raise ValueError(f"segment {number} has a field that is not a whole number")
        active = number == len(manifest.segments)
        if segment.first_position <= last_position or segment.sealed == active:
            raise ValueError(f"segment {number} does not follow the one before it")
        if segment.sealed and segment.last_position - segment.first_position + 1 < segment.events:
            raise ValueError(f"segment {number} has more events than positions")
        if segment.sealed and not segment.events and not segment.removed_bytes:
            raise ValueError(f"segment {number} is sealed and says of no event where it went")
        if active and segment.compressed_bytes:
            raise ValueError(f"segment {number} is active and compressed")
        last_position = segment.last_position
