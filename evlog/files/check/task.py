"""What to check, a segment of a store, and what the check of its log gives: values that travel."""

from __future__ import annotations

from typing import Final

from evlog.errors import EvlogError
from evlog.files.check.containers import CheckedLog, open_log
from evlog.files.check.digest import LogDigest
from evlog.files.disk.files import ReadFile
from evlog.files.format.entries import ENTRY_BYTES
from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    KIND_LOG,
    KIND_REMOVED,
    FileHeader,
    FormatFault,
    decode_file_header,
)
from evlog.files.format.manifest import SegmentInfo
from evlog.files.log.removed import RemovedEvents
from evlog.model.named import NamedTuple
from evlog.model.reports import Finding


class SegmentTask(NamedTuple):
    """A segment as the manifest has it, and how much of its log to look at.

    `size` is the bytes that were sealed, or the length of an active log when the check began; `synced` is
    how far an active log is known to be synced; `pin_position` is a position in it for which the digest is
    wanted as well, 0 if none.
    """

    store: str
    store_id: bytes
    info: SegmentInfo
    size: int
    synced: int = 0
    pin_position: int = 0

    @property
    def path(self) -> str:
        """The path of the segment's files up to their suffix."""
        return f"{self.store}/{self.name}"

    @property
    def name(self) -> str:
        """The same, relative to the store."""
        return self.info.name

    @property
    def log_name(self) -> str:
        """The file that holds the log, relative to the store."""
        return f"{self.name}.{self.info.log_suffix}"

    @property
    def header(self) -> FileHeader:
        """The header that its log must have."""
        return self.info.header(KIND_LOG, self.store_id)

    def open_log(self) -> ReadFile | CheckedLog:
        """Open the log, to be read past all damage. Raises as `open_log` does."""
        return open_log(self.store, self.store_id, self.info)

    def read_entries(self, count: int) -> bytes:
        """Return the first entries in .offsets, unchecked; fewer where it ends before.

        Raises:
            FileNotFoundError: it is missing.
        """
        return ReadFile(f"{self.path}.offsets").read(count * ENTRY_BYTES, FILE_HEADER_BYTES)

    def open_removed(self) -> RemovedEvents | None:
        """Open the file of the events that a compaction removed from the segment; None if there is none.

        Raises:
            FileNotFoundError, CorruptionError: it is missing, or damaged.
        """
        if not self.info.removed_bytes:
            return None
        return RemovedEvents(
            f"{self.path}.removed", self.info.header(KIND_REMOVED, self.store_id), self.info.removed_bytes
        )


def open_checked(path: str, expected: FileHeader) -> ReadFile:
    """Open a file that must have a header.

    Raises:
        FileNotFoundError: it is missing.
        FormatFault: it cannot be opened, or has another header.
    """
    try:
        file = ReadFile(path)
        found = decode_file_header(file.read(FILE_HEADER_BYTES, 0))
    except EvlogError as error:
        raise FormatFault(str(error)) from None
    if found != expected:
        raise FormatFault("its header names another store or segment")
    return file


class Start(NamedTuple):
    """Where a check begins: at a frame, after some entries with a running CRC."""

    offset: int
    number: int
    entries_crc: int


BEGINNING: Final = Start(FILE_HEADER_BYTES, 0, 0)


class LogSummary(NamedTuple):
    """What a check found in a log, or in a part of one."""

    findings: list[Finding]
    start: int
    end: int
    whole_events: int
    entry_count: int
    """entries, those of damaged events included where they are known"""
    first_position: int
    last_position: int
    first_time_us: int
    last_time_us: int
    crc_before: int
    entries_crc: int
    durable: int
    """how far the frames' headers say that the log was synced when they were written"""
    tail_bytes: int
    damaged: bool
    entries_known: bool
    offsets_sound: bool
    missing: tuple[bytes, bytes]
    """the runs of positions that it lacks before its last event, as `Runs` packs them"""
    tags: tuple[bytes, bytes]
    """the tags of its whole records, as `TagRows` packs them"""
    digest: LogDigest
    highest_id: bytes
    """of its whole records"""


def sealed_fault(info: SegmentInfo, log: LogSummary) -> str:
    """Return what the manifest says otherwise of a sealed log; "" if nothing.

    What a compaction left lies within the positions and times of what was there before.
    """
    last, first_time, last_time = info.last_position, info.first_time_us, info.last_time_us
    if info.generation:
        last = min(log.last_position, last)
        first_time = max(log.first_time_us, first_time) if log.entry_count else log.first_time_us
        last_time = min(log.last_time_us, last_time)
    facts = (
        ("events", log.entry_count, info.events),
        ("CRC of the entries", log.entries_crc, info.offsets_crc),
        ("last position", log.last_position, last),
        ("first time", log.first_time_us, first_time),
        ("last time", log.last_time_us, last_time),
    )
    wrong = [f"{name} {found}, not {named}" for name, found, named in facts if found != named]
    return f"the log is not what the manifest says of it: {', '.join(wrong)}" if wrong else ""
