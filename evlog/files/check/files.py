"""The manifest against the directory, and the small files beside it: what can be seen without reading a log.

`look` takes in what there is at one moment, with the writers' lock held shared if it is to be had: then
no append, roll or removal is half done. What is being made without that lock (an index, a compaction's
files) is looked at again at the end. Nothing here writes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from evlog.errors import (
    CorruptionError,
    EvlogError,
    NotAStore,
    StoreNotFound,
    UnsafeFile,
    UnsupportedFormat,
)
from evlog.files.check import findings as kinds
from evlog.files.check.containers import open_container
from evlog.files.check.indexes import SUFFIXES, IndexWrong, check_header
from evlog.files.check.task import SegmentTask
from evlog.files.disk.file_lock import SharedLock
from evlog.files.disk.files import DISK, ReadFile, error_for
from evlog.files.follow.checkpoint_file import SubscriptionFiles, list_names
from evlog.files.format import paths
from evlog.files.format.entries import ENTRY_BYTES
from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    KIND_OFFSETS,
    FormatFault,
    NewerFormat,
    decode_file_header,
)
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
from evlog.files.log.manifest import Manifest, SegmentInfo, read_manifest
from evlog.files.log.segment import Segment, written_end
from evlog.files.write.derived import is_running
from evlog.model.reports import Finding

_LOCK_SECONDS: Final = 2.0
# Whoever seals a segment builds its indexes right after; until then a missing one is no finding.
_INDEXING_SECONDS: Final = 1.0
NOTHING_KNOWN: Final = decode_marks(b"", 0)
_MARKS: Final = {
    WRITTEN_MAGIC: "how far the log is written",
    ACKNOWLEDGED_MAGIC: "how far it is acknowledged",
    DURABLE_MAGIC: "how far it is synced",
    SUSPECT_MAGIC: "a failed sync",
}


class Look(NamedTuple):
    """A store at one moment: the horizon of a check."""

    store: str
    manifest: Manifest
    replaced_at: float
    """when the manifest was written, by the file system's clock, in seconds since 1970"""
    active_bytes: int
    offsets_bytes: int
    """of the active segment"""
    marks: Marks
    settled: bool
    """whether no writer was at work meanwhile: then what is unfinished was left so by a crash"""
    findings: list[Finding]

    def tasks(self, pin_position: int = 0) -> list[SegmentTask]:
        """The segments to be checked, oldest first."""
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


def look(store: str) -> Look:
    """Take in what there is now.

    Raises:
        CorruptionError: the manifest is damaged, or missing where there are segments.
        StoreNotFound, NotAStore, UnsupportedFormat: there is no store that this evlog can check.
    """
    with SharedLock(paths.lock_path(store), _LOCK_SECONDS) as settled:
        manifest = _read_manifest(store)
        replaced_at = os.stat(paths.manifest_path(store)).st_mtime
        active = manifest.segments[-1]
        active_bytes = _written_size(_segment_path(store, active, "log"))
        offsets_bytes = _size(_segment_path(store, active, "offsets"))
        findings: list[Finding] = []
        marks = _check_marks(store, manifest, active_bytes, findings)
    return Look(store, manifest, replaced_at, active_bytes, offsets_bytes, marks, settled, findings)


def _written_size(path: str) -> int:
    """The size of an active log without the room behind its last frame."""
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
        return read_manifest(store)[0]
    except StoreNotFound:
        if any(True for _ in _segment_files(store)):
            path = paths.manifest_path(store)
            raise CorruptionError(path, None, "it is missing, though there are segments") from None
        raise
    except NotAStore:
        if any(True for _ in _segment_files(store)):
            path = paths.manifest_path(store)
            raise CorruptionError(path, None, "it is something else, though there are segments") from None
        raise


def _segment_path(store: str, info: SegmentInfo, suffix: str) -> str:
    return paths.segment_path(store, info.first_position, info.generation, suffix)


def _segment_files(store: str) -> Iterator[str]:
    try:
        names = os.listdir(paths.segments_path(store))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise error_for(error, paths.segments_path(store)) from error
    yield from names


# --- marks


def _check_marks(store: str, manifest: Manifest, active_bytes: int, findings: list[Finding]) -> Marks:
    """Check `durable`; what it says of the active log."""
    used = active_bytes > FILE_HEADER_BYTES or len(manifest.segments) > 1
    if used and not os.path.lexists(paths.lock_path(store)):
        detail = "it is missing; the next writer makes it"
        findings.append(kinds.note(kinds.MISSING, paths.LOCK, None, None, detail))
    try:
        raw = ReadFile(paths.durable_path(store)).read(MARKS_BYTES + 1, 0)
    except FileNotFoundError:
        if used:
            detail = "it is missing: a torn tail cannot be told from damage; the next writer makes it"
            findings.append(kinds.note(kinds.MISSING, paths.DURABLE, None, None, detail))
        return NOTHING_KNOWN
    if len(raw) > MARKS_BYTES:
        detail = f"it is longer than {MARKS_BYTES} bytes"
        findings.append(kinds.note(kinds.LENGTH, paths.DURABLE, MARKS_BYTES, None, detail))
    elif len(raw) % MARK_BYTES:
        detail = f"it has {len(raw)} bytes: a mark is cut off; nothing is lost"
        findings.append(kinds.note(kinds.LENGTH, paths.DURABLE, len(raw), None, detail))
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
            fault = f"the mark of {_MARKS[magic]} is of another segment: swapped?"
        elif magic == SUSPECT_MAGIC and mark.tag == manifest.segments[-1].tag:
            fault = "a write or sync failed here; the next writer reads the tail back from the device"
        if fault:
            findings.append(kinds.note(kinds.MARK, paths.DURABLE, at, None, fault))
    return decode_marks(raw, manifest.segments[-1].tag)


# --- files


def check_names(look: Look) -> list[Finding]:
    """Files in `segments/` that nothing names; left by a crash, or not evlog's.

    The directory is read before the manifest is read again, so what became part of the store meanwhile is
    not taken for a leftover.
    """
    store = look.store
    with SharedLock(paths.lock_path(store), _LOCK_SECONDS) as settled:
        names = sorted(_segment_files(store))
        root = sorted(_names_in(store))
        manifest = _read_manifest(store)
    findings = []
    for name in names:
        meaning = paths.maybe_parse_segment_name(name)
        if meaning is not None:
            if manifest.names(meaning) or is_compacting(store):
                continue
            detail = "no manifest names it: a crash left it while it was being made, or after it was replaced"
        elif name.endswith(paths.TEMPORARY):
            if not settled or is_running(name):
                continue
            detail = "a crash left it while it was being made"
        else:
            detail = "it is not evlog's"
        if settled:
            findings.append(kinds.note(kinds.EXTRA, f"{paths.SEGMENTS}/{name}", None, None, detail))
    if settled and paths.MANIFEST + paths.TEMPORARY in root:
        detail = "a crash left it while it was being made"
        findings.append(kinds.note(kinds.EXTRA, paths.MANIFEST + paths.TEMPORARY, None, None, detail))
    return findings


def _names_in(store: str) -> list[str]:
    try:
        return os.listdir(store)
    except OSError as error:
        raise error_for(error, store) from error


def is_compacting(store: str) -> bool:
    """Whether a compaction runs now: it makes files that no manifest names yet."""
    with SharedLock(paths.compaction_path(store), 0.0) as idle:
        return not idle


def file_bytes(look: Look) -> int:
    """The bytes of all files that the manifest names."""
    total = 0
    for info in look.manifest.segments:
        for suffix in paths.SUFFIXES:
            try:
                total += _size(_segment_path(look.store, info, suffix))
            except OSError:
                continue
    return total


def is_being_indexed(look: Look, info: SegmentInfo) -> bool:
    """Whether the segment was sealed just before the look: wait until its indexes are there, or should be."""
    while (left := look.replaced_at + _INDEXING_SECONDS - time.time()) > 0:
        if all(os.path.exists(_segment_path(look.store, info, suffix)) for suffix in SUFFIXES.values()):
            return True
        time.sleep(min(left, 0.02))
    return False


def check_sizes(look: Look) -> list[Finding]:
    """Lengths and headers of all files that the manifest names: what --quick sees of sealed segments."""
    findings: list[Finding] = []
    for task in look.tasks():
        info = task.info
        header = Segment(look.store, task.store_id, info).header
        log_bytes = info.log_bytes if info.sealed else None
        offsets_bytes = FILE_HEADER_BYTES + info.events * ENTRY_BYTES if info.sealed else None
        if info.compressed_bytes:
            findings += _check_container(task)
        else:
            findings += _check_size(task, ".log", header, log_bytes)
        findings += _check_size(task, ".offsets", header._replace(kind=KIND_OFFSETS), offsets_bytes)
        for kind, suffix in SUFFIXES.items() if info.sealed else ():
            name = f"{task.name}.{suffix}"
            try:
                check_header(f"{task.path}.{suffix}", header._replace(kind=kind, source_crc=info.offsets_crc))
            except FileNotFoundError:
                detail = "it is missing; it is derived, nothing is lost"
                findings.append(kinds.note(kinds.MISSING, name, None, None, detail))
            except IndexWrong as wrong:
                detail = f"{wrong}; it is derived, nothing is lost"
                findings.append(kinds.note(wrong.finding_kind, name, wrong.offset, None, detail))
    return findings


def _check_container(task: SegmentTask) -> list[Finding]:
    try:
        return open_container(task.store, task.store_id, task.info).findings
    except FileNotFoundError:
        return [kinds.damage(kinds.MISSING, task.log_name, None, None, "it is missing")]


def _check_size(task: SegmentTask, suffix: str, expected: object, wanted: int | None) -> list[Finding]:
    name = task.name + suffix
    is_log = suffix == ".log"
    make = kinds.damage if is_log else kinds.note
    more = "" if is_log else "; it is derived, nothing is lost"
    try:
        file = ReadFile(task.path + suffix)
        found = decode_file_header(file.read(FILE_HEADER_BYTES, 0))
    except FileNotFoundError:
        return [make(kinds.MISSING, name, None, None, f"it is missing{more}")]
    except NewerFormat as newer:
        return [make(kinds.HEADER, name, 0, None, f"its header is of format {newer.found}{more}")]
    except (FormatFault, EvlogError) as fault:
        return [make(kinds.HEADER, name, 0, None, f"{fault}{more}")]
    if found != expected:
        return [make(kinds.HEADER, name, 0, None, f"its header names another store or segment{more}")]
    size = file.size()
    if wanted is not None and size != wanted:
        detail = f"it has {size} bytes, not {wanted}{more}"
        return [make(kinds.LENGTH, name, min(size, wanted), None, detail)]
    return []


# --- checkpoints


class CheckpointLook(NamedTuple):
    """A subscription's checkpoint as it was found."""

    file: str
    position: int
    event_id: bytes | None
    fault: str


def look_at_checkpoints(store: str) -> list[CheckpointLook]:
    """Return each subscription's checkpoint. To be read before the log is: its end only grows."""
    try:
        store_id = read_manifest(store)[0].store_id
        names = list_names(store)
    except UnsafeFile as error:
        return [CheckpointLook(os.path.relpath(error.path, store), 0, None, error.detail)]
    except EvlogError:
        return []  # reported when the manifest is looked at
    looks = []
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
        looks.append(CheckpointLook(os.path.relpath(place, store), position, event_id, fault))
    return looks


def check_checkpoints(
    looks: list[CheckpointLook], head: int, is_at: Callable[[bytes, int], bool] | None = None
) -> list[Finding]:
    """Find those that are damaged, beyond the log's end, or of another history.

    Args:
        is_at: says whether the event with an id is, or was, at a position.
    """
    findings = []
    for file, position, event_id, fault in looks:
        if not fault and position > head:
            fault = f"the checkpoint is beyond the log, which ends at position {head}; was the log restored?"
        elif not fault and event_id is not None and is_at is not None and not is_at(event_id, position):
            fault = f"the event that it passed is not at position {position}; was the log restored?"
        if fault:
            findings.append(kinds.damage(kinds.CHECKPOINT, file, None, position or None, fault))
    return findings
