"""Checking the manifest against the directory, and the small files: all that needs no reading of a log.

`take_snapshot` reads what there is at one moment. It holds the writers' lock shared, if it gets it in time:
then no append, roll or removal is half done. What is made without that lock (an index, a compaction's files)
is checked again at the end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

from evlog.errors import CorruptionError, EvlogError, StoreNotFound, UnsafeFile, UnsupportedFormat
from evlog.files.check import findings as kinds
from evlog.files.check.task import SegmentTask
from evlog.files.disk.file_lock import SharedLock
from evlog.files.disk.files import DISK, ReadFile, list_directory, map_file
from evlog.files.disk.opening import error_for
from evlog.files.follow.checkpoint_file import SubscriptionFiles, list_names
from evlog.files.follow.snapshot_file import SnapshotFile, scan_names
from evlog.files.format import paths
from evlog.files.format.filter import decode_blocks
from evlog.files.format.headers import FILE_HEADER_BYTES, FormatFault
from evlog.files.format.manifest import Manifest, SegmentInfo
from evlog.files.format.marks import (
    ACKNOWLEDGED_MAGIC,
    DURABLE_MAGIC,
    MARK_AT,
    MARK_BYTES,
    MARKS_BYTES,
    SUSPECT_MAGIC,
    WRITTEN_MAGIC,
    Marks,
    decode_marks,
    maybe_decode_mark,
)
from evlog.files.format.sorted_index import suffixes_of
from evlog.files.log.later import holds_events, is_later, maybe_later_log, outdated_detail
from evlog.files.log.manifest_file import read_manifest
from evlog.files.log.segment import written_end
from evlog.files.write.derived import is_leftover
from evlog.model.events import now_ns
from evlog.model.named import NamedTuple
from evlog.model.reports import Finding

_LOCK_SECONDS: Final = 2.0
# A writer that seals a segment builds its indexes right after; until then a missing one is not a finding.
_INDEXING_SECONDS: Final = 1.0
_FILTER_LOOKS: Final = 5
_FILTER_PAUSE_SECONDS: Final = 0.02
NOTHING_KNOWN: Final = decode_marks(b"", 0)
_MARKS: Final = {
    WRITTEN_MAGIC: "how far the log is written",
    ACKNOWLEDGED_MAGIC: "how far it is acknowledged",
    DURABLE_MAGIC: "how far it is synced",
    SUSPECT_MAGIC: "a failed sync",
}


class StoreSnapshot(NamedTuple):
    """A store at one moment: the horizon of a check."""

    store: str
    manifest: Manifest
    indexed_by: float
    """until when, by `time.monotonic`, the writer of the manifest may still be making indexes"""
    active_bytes: int
    offsets_bytes: int
    """of the active segment"""
    marks: Marks
    idle: bool
    """whether no writer was active: then a crash left the unfinished parts"""
    findings: list[Finding]

    def tasks(self, pin_position: int = 0) -> list[SegmentTask]:
        """Return the segments to check, oldest first."""
        store_id = self.manifest.store_id_bytes
        return [
            SegmentTask(
                self.store,
                store_id,
                info,
                info.log_bytes if info.sealed else self.active_bytes,
                0 if info.sealed else self.marks.durable_offset,
                pin_position if info.first_position <= pin_position else 0,
            )
            for info in self.manifest.segments
        ]


def take_snapshot(store: str) -> StoreSnapshot:
    """Read what there is now.

    Raises:
        CorruptionError: the manifest is damaged, or missing where there are segments.
        StoreNotFound, NotAStore, UnsupportedFormat: there is no store that this evlog can check.
    """
    with SharedLock(paths.lock_path(store), _LOCK_SECONDS) as idle:
        manifest = _read_manifest(store)
        # Below 0 where the clock was set back, or another machine's was ahead.
        age_seconds = now_ns() / 1e9 - os.stat(paths.manifest_path(store)).st_mtime
        active = manifest.segments[-1]
        active_bytes = _written_size(active.path(store, paths.LOG))
        offsets_bytes = _size(active.path(store, paths.OFFSETS))
        findings = _check_filter(store, manifest) if idle else []
        marks = _check_marks(store, manifest, active_bytes, findings)
        if not idle:  # a writer may have appended: the log must reach the marks that were read before
            active_bytes = _written_size(active.path(store, paths.LOG))
    indexed_by = time.monotonic() + _INDEXING_SECONDS - max(0.0, age_seconds)
    return StoreSnapshot(store, manifest, indexed_by, active_bytes, offsets_bytes, marks, idle, findings)


def _written_size(path: str) -> int:
    """Return the size of an active log up to its last byte that is not zero: without preallocation."""
    try:
        file = ReadFile(path)
    except FileNotFoundError:
        return 0
    size = file.size()
    return written_end(file, min(FILE_HEADER_BYTES, size), size)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _read_manifest(store: str) -> Manifest:
    try:
        return read_manifest(store)
    except StoreNotFound:
        if not _segment_files(store):
            raise
        path = paths.manifest_path(store)
        raise CorruptionError(path, None, "it is missing, though there are segments") from None


def _segment_files(store: str) -> list[str]:
    try:
        return sorted(os.listdir(paths.segments_path(store)))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise error_for(error, paths.segments_path(store)) from error


def _check_filter(store: str, manifest: Manifest) -> list[Finding]:
    """Check `filter`, more than once if something is wrong: a writer may be adding a block to it."""
    for _ in range(_FILTER_LOOKS):
        findings = _look_at_filter(store, manifest)
        if not findings:
            break
        time.sleep(_FILTER_PAUSE_SECONDS)
    return findings


def _look_at_filter(store: str, manifest: Manifest) -> list[Finding]:
    """Check that `filter` is a chain of whole blocks; a segment without one is not a finding."""
    name = f"{paths.SEGMENTS}/{paths.FILTER}"
    try:
        raw = map_file(paths.filter_path(store))
        end = decode_blocks(raw, manifest.store_id_bytes)[1]
    except FileNotFoundError:
        return []
    except FormatFault as fault:
        return [kinds.note(kinds.HEADER, name, 0, None, f"{fault}; {kinds.DERIVED}")]
    if end < len(raw):
        return [kinds.note(kinds.INDEX, name, end, None, f"a block of it is damaged; {kinds.DERIVED}")]
    return []


# --- marks


def _check_marks(store: str, manifest: Manifest, active_bytes: int, findings: list[Finding]) -> Marks:
    """Check `durable`; return what it says of the active log."""
    used = active_bytes > FILE_HEADER_BYTES or len(manifest.segments) > 1
    if used and not os.path.lexists(paths.lock_path(store)):
        detail = "it is missing; the next writer creates it"
        findings.append(kinds.note(kinds.MISSING, paths.LOCK, None, None, detail))
    try:
        raw = ReadFile(paths.durable_path(store)).read(MARKS_BYTES + 1, 0)
    except FileNotFoundError:
        if used:
            detail = (
                "it is missing, so damage at the log's end looks like a torn tail; the next writer creates it"
            )
            findings.append(kinds.note(kinds.MISSING, paths.DURABLE, None, None, detail))
        return NOTHING_KNOWN
    if len(raw) > MARKS_BYTES:
        detail = f"it is longer than {MARKS_BYTES} bytes"
        findings.append(kinds.note(kinds.LENGTH, paths.DURABLE, MARKS_BYTES, None, detail))
    elif len(raw) % MARK_BYTES:
        detail = f"it has {len(raw)} bytes: a mark is cut off; nothing is lost"
        findings.append(kinds.note(kinds.LENGTH, paths.DURABLE, len(raw), None, detail))
    written, last = maybe_decode_mark(WRITTEN_MAGIC, raw[:MARK_BYTES]), manifest.segments[-1]
    if written is not None and written.tag != last.tag:
        later = maybe_later_log(store, manifest)
        if later is not None and _read_manifest(store) == manifest:  # no writer has begun it meanwhile
            findings.append(kinds.damage(kinds.MANIFEST, paths.MANIFEST, None, None, outdated_detail(later)))
    tags = {info.tag for info in manifest.segments}
    compacted = any(info.generation for info in manifest.segments)
    for magic, at in MARK_AT.items():
        piece = raw[at : at + MARK_BYTES]
        mark = maybe_decode_mark(magic, piece)
        fault = ""
        if mark is None:
            if piece.strip(b"\0") or (used and magic == WRITTEN_MAGIC):
                fault = f"the mark of {_MARKS[magic]} is damaged or missing; nothing is lost"
        elif mark.tag not in tags and not compacted:
            fault = f"the mark of {_MARKS[magic]} belongs to another segment; was the file swapped?"
        elif magic == SUSPECT_MAGIC and mark.tag == manifest.segments[-1].tag:
            fault = "a write or sync failed; the next writer reads the end of the log back from the device"
        if fault:
            findings.append(kinds.note(kinds.MARK, paths.DURABLE, at, None, fault))
    return decode_marks(raw, manifest.segments[-1].tag)


# --- files


def check_names(snapshot: StoreSnapshot) -> list[Finding]:
    """Find files in `segments/` that the manifest does not name: a crash left them, or they are not evlog's.

    The directory is read before the manifest is read again, so that a file that became part of the store
    meanwhile is not taken for a leftover.
    """
    store = snapshot.store
    # A writer that held the lock through the whole first wait may be suspended: one wait is enough.
    with SharedLock(paths.lock_path(store), _LOCK_SECONDS if snapshot.idle else 0.0) as idle:
        names = _segment_files(store)
        root = list_directory(store)
        manifest = _read_manifest(store)
    findings = []
    for name in names:
        if name == paths.FILTER:
            continue
        meaning = paths.maybe_parse_segment_name(name)
        if meaning is not None:
            if manifest.names(meaning) or is_compacting(store):
                continue
            detail = "the manifest does not name it: a crash left it half written, or replaced"
            if is_later(manifest, name) and holds_events(f"{paths.segments_path(store)}/{name}"):
                detail = (
                    "it has events after those of the manifest, which an interrupted backup or an older "
                    "manifest.json does not name; writers refuse to append"
                )
        elif name.endswith(paths.TEMPORARY):
            if not idle or not is_leftover(f"{paths.segments_path(store)}/{name}"):
                continue
            detail = "a crash left it half written"
        else:
            detail = "it is not a file of evlog"
        if idle:
            findings.append(kinds.note(kinds.EXTRA, f"{paths.SEGMENTS}/{name}", None, None, detail))
    if idle and paths.MANIFEST + paths.TEMPORARY in root:
        detail = "a crash left it half written"
        findings.append(kinds.note(kinds.EXTRA, paths.MANIFEST + paths.TEMPORARY, None, None, detail))
    return findings


def is_compacting(store: str) -> bool:
    """Return whether a compaction runs now: it makes files that no manifest names yet."""
    with SharedLock(paths.compaction_path(store), 0.0) as free:
        return not free


def file_bytes(snapshot: StoreSnapshot) -> int:
    """Return the bytes of all files that the manifest names."""
    total = 0
    for info in snapshot.manifest.segments:
        for suffix in paths.SUFFIXES:
            try:
                total += _size(info.path(snapshot.store, suffix))
            except OSError:
                continue
    return total


def is_being_indexed(snapshot: StoreSnapshot, info: SegmentInfo) -> bool:
    """Wait for the indexes of a segment that was sealed just now; return whether they exist."""
    while (left := snapshot.indexed_by - time.monotonic()) > 0:
        if all(
            os.path.exists(info.path(snapshot.store, suffix))
            for suffix in suffixes_of(info.tagged_events).values()
        ):
            return True
        time.sleep(min(left, 0.02))
    return False


# --- checkpoints


class FoundCheckpoint(NamedTuple):
    """A subscription's checkpoint as it was found."""

    file: str
    position: int
    event_id: bytes | None
    fault: str


def find_checkpoints(store: str) -> list[FoundCheckpoint]:
    """Return each subscription's checkpoint. Call this before reading the log, whose end only grows."""
    try:
        store_id = read_manifest(store).store_id
        names = list_names(store)
    except UnsafeFile as error:
        return [FoundCheckpoint(os.path.relpath(error.path, store), 0, None, error.detail)]
    except EvlogError:
        return []  # reported when the manifest is looked at
    found = []
    for name in names:
        files = SubscriptionFiles(store, store_id, name, DISK)
        position, event_id, fault, place = 0, None, "", files.path
        try:
            files.is_running()  # which opens the lock file
            checkpoint = files.load()
            if checkpoint is None:
                continue  # deleted meanwhile
            position, event_id = checkpoint.position, checkpoint.event_id
            files.parked()
        except CorruptionError as error:
            fault, place = error.detail, error.path
        except UnsupportedFormat as error:
            fault = str(error)
        found.append(FoundCheckpoint(os.path.relpath(place, store), position, event_id, fault))
    return found


def check_checkpoints(
    checkpoints: list[FoundCheckpoint], head: int, is_at: Callable[[bytes, int], bool] | None = None
) -> list[Finding]:
    """Find those that are damaged, beyond the log's end, or of another history.

    Args:
        is_at: says whether the event with an id is, or was, at a position.
    """
    findings = []
    for file, position, event_id, fault in checkpoints:
        if not fault and position > head:
            fault = f"the checkpoint is beyond the log, which ends at position {head}; was the log restored?"
        elif not fault and event_id is not None and is_at is not None and not is_at(event_id, position):
            fault = f"the event that it passed is not at position {position}; was the log restored?"
        if fault:
            findings.append(kinds.damage(kinds.CHECKPOINT, file, None, position or None, fault))
    return findings


# --- snapshots, which are derived: a bad one is a note, and the next fold rebuilds it


def check_snapshots(store: str, *, contents: bool = True) -> list[Finding]:
    """Find snapshots that are damaged, in a file of another name, or of another store.

    Args:
        contents: read them whole, not only their first lines.
    """
    found = []
    try:
        store_id = read_manifest(store).store_id
        for file, name in scan_names(store):
            where = f"{paths.SNAPSHOTS}/{file}"
            if name is None:
                found.append(_snapshot_finding(where, "its first line is damaged"))
                continue
            snapshot = SnapshotFile(store, store_id, *name, DISK)
            try:
                if not snapshot.path.endswith(f"/{file}"):
                    found.append(_snapshot_finding(where, "its file has another snapshot's name"))
                elif contents:
                    snapshot.load()
            except CorruptionError as error:
                found.append(_snapshot_finding(where, error.detail))
    except EvlogError as error:
        found.append(_snapshot_finding(paths.SNAPSHOTS, error.problem))
    return found


def _snapshot_finding(file: str, detail: str) -> Finding:
    return kinds.note(kinds.SNAPSHOT, file, None, None, f"{detail}; {kinds.DERIVED}")
