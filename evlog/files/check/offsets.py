"""Comparing a segment's .offsets with the entries that its log gives. A difference is noted once."""

from __future__ import annotations

from bisect import bisect_left
from zlib import crc32

from evlog.files.check import findings as kinds
from evlog.files.check.task import SegmentTask, open_checked
from evlog.files.disk.files import ReadFile
from evlog.files.format.entries import ENTRY_BYTES, ENTRY_FRAME, column
from evlog.files.format.headers import FILE_HEADER_BYTES, KIND_OFFSETS, FormatFault
from evlog.model.reports import Finding


class Unclear(Exception):
    """Something is wrong in a part of a log; a check of the whole log names it."""


class OffsetsCheck:
    """The .offsets of one segment.

    Args:
        findings: what is wrong is added to it; None for a check of a part, which raises Unclear instead.
    """

    def __init__(self, task: SegmentTask, findings: list[Finding] | None) -> None:
        self.sound = True  # as far as it was compared
        self._info = task.info
        self._name = f"{task.name}.offsets"
        self._findings = findings
        self._file = self._open(task)

    def _open(self, task: SegmentTask) -> ReadFile | None:
        try:
            return open_checked(f"{task.path}.offsets", task.header._replace(kind=KIND_OFFSETS))
        except FileNotFoundError:
            self._find(kinds.MISSING, None, None, "it is missing")
        except FormatFault as fault:
            self._find(kinds.HEADER, 0, None, str(fault))
        return None

    def compare(self, rows: bytes, number: int) -> None:
        """Compare the entries from a number on with those that the log gives."""
        if self._file is None or not self.sound:
            return
        found = self._file.read(len(rows), FILE_HEADER_BYTES + number * ENTRY_BYTES)
        if found == rows:
            return
        same = _common_prefix(found, rows) // ENTRY_BYTES
        number += same
        offset = FILE_HEADER_BYTES + number * ENTRY_BYTES
        position = None if self._info.generation else self._info.first_position + number
        if len(found) < len(rows) and same == len(found) // ENTRY_BYTES:
            detail = f"it ends before the entry of event {number + 1} of the segment"
            self._find(kinds.LENGTH, offset, position, detail)
        else:
            detail = "an entry is not what the log says"
            self._find(kinds.INDEX, offset, position, detail, believed=self._is_believed(self._file))

    def lengths(self, number: int, count: int) -> list[int]:
        """Return the lengths that entries from a number on say of their records; fewer at the file's end."""
        if self._file is None:
            return []
        rows = self._file.read(count * ENTRY_BYTES, FILE_HEADER_BYTES + number * ENTRY_BYTES)
        return column(rows[: len(rows) // ENTRY_BYTES * ENTRY_BYTES], "length")

    def between(self, start: int, end: int, number: int) -> bytes:
        """Return the entries from a number on of the frames between two offsets of the log."""
        if self._file is None:
            return b""
        rows = bytearray()
        at = FILE_HEADER_BYTES + number * ENTRY_BYTES
        while row := self._file.read(ENTRY_BYTES, at + len(rows)):
            if len(row) < ENTRY_BYTES or not start <= ENTRY_FRAME.unpack(row)[0] < end:
                break
            rows += row
        return bytes(rows)

    def check_length(self) -> None:
        """Check the length of the file of a sealed segment."""
        if self._file is None or not self.sound:
            return
        size = self._file.size()
        wanted = FILE_HEADER_BYTES + self._info.events * ENTRY_BYTES
        if size != wanted:
            self._find(kinds.LENGTH, min(size, wanted), None, f"it has {size} bytes, not {wanted}")

    def _is_believed(self, file: ReadFile) -> bool:
        """Return whether the entries have the sealed CRC, so that readers do not notice the damage."""
        if not self._info.sealed or self._findings is None:
            return False
        found = file.read(self._info.events * ENTRY_BYTES, FILE_HEADER_BYTES)
        return crc32(found) == self._info.offsets_crc

    def _find(
        self, kind: str, offset: int | None, position: int | None, detail: str, *, believed: bool = False
    ) -> None:
        if self._findings is None:
            raise Unclear
        self.sound = False
        if believed:
            detail += ", though its CRC holds: readers fail or miss events; a repair rebuilds it"
            self._findings.append(kinds.damage(kind, self._name, offset, position, detail))
        else:
            detail += f"; {kinds.DERIVED}"
            self._findings.append(kinds.note(kind, self._name, offset, position, detail))


def _common_prefix(one: bytes, other: bytes) -> int:
    """Return how many bytes two strings share from their beginnings."""
    numbers = range(min(len(one), len(other)))
    return bisect_left(numbers, 1, key=lambda at: int(one[: at + 1] != other[: at + 1]))
