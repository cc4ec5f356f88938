"""Checking one segment wholly: its log, its .offsets, its sorted indexes, the versions within it.

What it finds out travels between processes, so a `SegmentCheck` holds plain values only, and what the checks
across segments need to know of this one: which of its derived files can be believed.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple
from zlib import crc32

from evlog.errors import EvlogError
from evlog.files.check import findings as kinds
from evlog.files.check.containers import CheckedLog, open_log
from evlog.files.check.indexes import SUFFIXES, check_index, odd_streams
from evlog.files.check.logs import LogCheck
from evlog.files.disk.files import ReadFile
from evlog.files.format import paths
from evlog.files.format.entries import ENTRY, ENTRY_BYTES, column
from evlog.files.format.headers import FILE_HEADER_BYTES, KIND_REMOVED, KIND_STREAMS
from evlog.files.log.manifest import SegmentInfo
from evlog.files.log.removed import RemovedEvents
from evlog.files.log.segment import Segment
from evlog.model.reports import Finding

_UNREADABLE: Final = b""


class SegmentTask(NamedTuple):
    """What to check of which store: the same for every process that takes part."""

    store: str
    store_id: bytes
    info: SegmentInfo
    size: int
    synced: int = 0
    pin_position: int = 0

    @property
    def path(self) -> str:
        """The path of the segment's files up to their suffix."""
        return paths.segment_path(self.store, self.info.first_position, self.info.generation, "")[:-1]

    @property
    def name(self) -> str:
        """The same, from the store on."""
        return self.path[len(self.store) + 1 :]

    @property
    def log_name(self) -> str:
        """The file that holds the log, from the store on."""
        return f"{self.name}.{self.info.log_suffix}"

    def open_log(self) -> ReadFile | CheckedLog:
        """The log, to be read past all damage. Raises as `open_log` does."""
        return open_log(self.store, self.store_id, self.info)


def open_removed(task: SegmentTask) -> RemovedEvents | None:
    """What is left of the events that a compaction removed from the segment; None if there are none.

    Raises:
        FileNotFoundError, CorruptionError: it is not there, or damaged.
    """
    if not task.info.removed_bytes:
        return None
    header = Segment(task.store, task.store_id, task.info).header._replace(kind=KIND_REMOVED)
    return RemovedEvents(f"{task.path}.removed", header, task.info.removed_bytes)


class SegmentCheck(NamedTuple):
    """What was found in one segment."""

    findings: list[Finding]
    events: int
    """whole events"""
    entry_count: int
    """entries, those of damaged events included where they are known"""
    end: int
    last_position: int
    first_time_us: int
    last_time_us: int
    entries_crc: int
    digest: bytes
    pinned_digest: bytes
    tail_bytes: int
    vouched: int
    """how far the log's own headers say that it is synced"""
    damaged: bool
    entries_known: bool
    offsets_sound: bool
    sound_indexes: list[int]
    odd_streams: list[int]
    """hashes of streams whose versions want a second look"""
    missing: tuple[bytes, bytes]
    """runs of positions that it lacks before its last event, as `Runs` packs them"""


def check_segment(task: SegmentTask) -> SegmentCheck:
    """Check a segment by itself.

    Raises:
        FileNotFoundError: its log is not there; whoever asked knows what that means.
    """
    log = LogCheck(task.store, task.store_id, task.info, task.size, task.synced, task.pin_position).run()
    findings = list(log.findings)
    sound: list[int] = []
    odd: list[int] = []
    entries = bytes(log.entries)
    if log.entries_known:
        if task.info.sealed:
            odd = check_sorted(task, entries, findings, sound)
        else:
            odd = sorted(_odd_without_index(entries))
    return SegmentCheck(
        findings=findings,
        events=log.whole_events,
        entry_count=log.count,
        end=log.end,
        last_position=log.last_position,
        first_time_us=log.first_time_us,
        last_time_us=log.last_time_us,
        entries_crc=log.entries_crc or 0,
        digest=log.digest(),
        pinned_digest=log.pinned_digest or b"",
        tail_bytes=log.tail_bytes,
        vouched=log.vouched,
        damaged=bool(log.damages),
        entries_known=log.entries_known,
        offsets_sound=log.offsets_sound,
        sound_indexes=sound,
        odd_streams=odd,
        missing=log.missing.packed(),
    )


def maybe_check_segment(task: SegmentTask) -> SegmentCheck | None:
    """Check a segment; None if its log is not there."""
    try:
        return check_segment(task)
    except FileNotFoundError:
        return None


def check_sorted(task: SegmentTask, entries: bytes, findings: list[Finding], sound: list[int]) -> list[int]:
    """Check the sorted indexes; the hashes of the streams with odd versions."""
    info = task.info
    header = Segment(task.store, task.store_id, info).header._replace(source_crc=info.offsets_crc)
    hashes: list[int] = []
    for kind, suffix in SUFFIXES.items():
        path = f"{task.path}.{suffix}"
        expected = header._replace(kind=kind)
        finding, postings = check_index(path, f"{task.name}.{suffix}", expected, entries)
        if finding is None:
            sound.append(kind)
        else:
            findings.append(finding)
        if kind == KIND_STREAMS:
            numbers = odd_streams(postings, column(entries, "version"), gaps=bool(info.lost_events))
            hashes = [ENTRY.unpack_from(entries, number * ENTRY_BYTES)[0] for number in numbers]
    return hashes


def _odd_without_index(entries: bytes) -> set[int]:
    """The hashes of the streams whose versions do not go on by one, event by event: an active segment."""
    last: dict[int, int] = {}
    odd: set[int] = set()
    for stream_hash, version in zip(column(entries, "stream_hash"), column(entries, "version"), strict=True):
        before = last.get(stream_hash)
        if before is not None and version != before + 1:
            odd.add(stream_hash)
        last[stream_hash] = version
    return odd


def missing_segment(task: SegmentTask) -> SegmentCheck:
    """What is known of a segment whose log is gone."""
    info = task.info
    finding = kinds.damage(
        kinds.MISSING, task.log_name, None, info.first_position, f"the log is missing: {_lost(info)}"
    )
    known = _offsets_as_sealed(task)
    return SegmentCheck(
        [finding], 0, info.events, FILE_HEADER_BYTES, info.last_position or info.first_position - 1, 0, 0,
        info.offsets_crc, _UNREADABLE, _UNREADABLE, 0, 0, True, known, known, [], [], (b"", b""),
    )  # fmt: skip


def _lost(info: SegmentInfo) -> str:
    if not info.sealed:
        return f"all events from position {info.first_position} on"
    return f"{info.events} events, positions {info.first_position} to {info.last_position}"


def _offsets_as_sealed(task: SegmentTask) -> bool:
    """Whether .offsets is the one that was sealed, to go by without the log."""
    if not task.info.sealed:
        return False
    try:
        file = ReadFile(f"{task.path}.offsets")
        entries = file.read(task.info.events * ENTRY_BYTES, FILE_HEADER_BYTES)
    except (FileNotFoundError, EvlogError, OSError):
        return False
    return crc32(entries) == task.info.offsets_crc and os.fstat(file.fd).st_size == len(entries) + 64
