"""Checking a segment's log, and its .offsets against it: every frame and every record; nothing is assumed.

1. The log is read in windows of 1 MiB. The frames of a window are checked together, column by column, and
   their records are hashed; where a column does not hold, halves of the window are checked by themselves,
   until one frame is left and what is wrong with it can be named.
2. After damage the check continues at the next whole frame header. Bytes at the end of an active log that do
   not decode, and were never acknowledged, are a torn tail, not damage.
3. A check may begin at any frame, so that all cores share a log. What it assumes about the part before it is
   compared with the result of that part (`segments.maybe_join`).

Files are read with `pread`, not mapped: a file that is cut or a device that fails must not kill the process.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import accumulate, repeat
from operator import add, lt
from typing import Final
from zlib import crc32

from evlog.files.check import findings as kinds
from evlog.files.check.containers import CheckedLog
from evlog.files.check.digest import RecordDigests
from evlog.files.check.offsets import OffsetsCheck, Unclear
from evlog.files.check.records import RECORDS, Decoded, Runs
from evlog.files.check.tags import TagRows
from evlog.files.check.task import BEGINNING, LogSummary, SegmentTask, Start, sealed_fault
from evlog.files.format.entries import ENTRY_BYTES
from evlog.files.format.frame_columns import (
    Frames,
    body_crcs_hold,
    decode_headers,
    entries_crcs_hold,
    frame_offsets,
)
from evlog.files.format.frames import (
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    FrameHeader,
    array_head,
    decode_frame_header,
)
from evlog.files.format.headers import FILE_HEADER_BYTES, FormatFault, decode_file_header
from evlog.files.format.marks import LOWEST_ID
from evlog.files.log.segment import written_end
from evlog.model.named import NamedTuple
from evlog.model.reports import Finding

_WINDOW_BYTES: Final = 1 << 20  # a tenth faster than 256 KiB: a frame at the end is seldom read twice
_MAX_FINDINGS: Final = 1000  # of one log: enough to see the extent, and bounded where every frame is damaged

_STOP: Final = -1  # in the place of an offset: nothing of what follows was acknowledged


class Damage(NamedTuple):
    """A part of a log that holds no whole frame, and how many events are known to have been there."""

    offset: int
    end: int
    first_number: int
    events: int
    entries_known: bool
    """whether .offsets, by the running CRC in a later frame, still says which events these were"""


class LogCheck:
    """One pass over a log, or over a part of it.

    Args:
        task: the segment.
        start: the frame to begin with.
        end: where a part ends; None for the end of the log. A part has no findings: the first raises Unclear.

    Raises:
        FileNotFoundError: the log is missing.
    """

    def __init__(self, task: SegmentTask, start: Start = BEGINNING, end: int | None = None) -> None:
        self.task = task
        self.info = info = task.info
        self.header = task.header
        self.findings: list[Finding] = []
        self.damages: list[Damage] = []
        self.entries = bytearray()
        self.tags = TagRows(array("Q"), array("I"))
        self.entries_known = True
        self.count = start.number
        self.whole_events = 0
        self.start = start
        self.end = start.offset
        self.tail_bytes = 0
        self.durable = 0
        self.first_position = self.first_time_us = self.last_time_us = 0
        self.last_position = info.first_position - 1 if end is None else -1  # -1: not known
        self.missing = Runs()
        self.highest_id = LOWEST_ID
        self._more_findings = 0
        self._is_part = end is not None
        self._log = task.open_log()
        self._size = min(task.size if end is None else end, self._log.size())
        if not info.sealed and end is None:
            self._size = written_end(self._log, min(FILE_HEADER_BYTES, self._size), self._size)
        self._wanted_end = info.log_bytes if info.sealed else task.synced
        self._offsets = OffsetsCheck(task, None if self._is_part else self.findings)
        self._digests = RecordDigests(task.pin_position)
        self._crc: int | None = start.entries_crc  # of all entries so far; None: not known after damage
        self._durable_later: int | None = None

    def run(self) -> LogCheck:
        """Check all of it; what was found is in the attributes then."""
        if self.start.number == 0:
            self._check_header()
        at, wanted = self.start.offset, _WINDOW_BYTES
        while 0 <= at < self._size:
            asked = min(max(wanted, FRAME_HEADER_BYTES), self._size - at)
            window = self._log.read(asked, at)
            if len(window) < asked:  # it was cut meanwhile
                self._size = at + len(window)
                continue
            offsets = frame_offsets(window, at)
            if len(offsets) > 1:
                at, wanted = self._check(window, at, offsets), _WINDOW_BYTES
                continue
            fault = ""
            try:
                header = decode_frame_header(window, 0, at, self.info.tag)
                end = at + FRAME_HEADER_BYTES + header.length
                fault = "a frame is cut off" if end > self._size else ""
            except FormatFault as error:
                fault = str(error)
            if fault:
                at, wanted = self._pass_damage(at, fault), _WINDOW_BYTES
            elif end - at > _WINDOW_BYTES and self._maybe_accept_large(at, end, header):
                at, wanted = end, FRAME_HEADER_BYTES  # the next one may be as large
            else:
                wanted = max(end - at, _WINDOW_BYTES)
        if not self._is_part:
            self._finish()
        return self

    def summary(self) -> LogSummary:
        """Return what was found as plain values."""
        return LogSummary(
            findings=self.findings,
            start=self.start.offset,
            end=self.end,
            whole_events=self.whole_events,
            entry_count=self.count - self.start.number,
            first_position=self.first_position,
            last_position=self.last_position,
            first_time_us=self.first_time_us,
            last_time_us=self.last_time_us,
            crc_before=self.start.entries_crc,
            entries_crc=self._crc or 0,
            durable=self.durable,
            tail_bytes=self.tail_bytes,
            damaged=bool(self.damages),
            entries_known=self.entries_known,
            offsets_sound=self._offsets.sound,
            missing=self.missing.packed(),
            tags=self.tags.packed(),
            digest=self._digests.finish(sound=not (isinstance(self._log, CheckedLog) and self._log.findings)),
            highest_id=self.highest_id,
        )

    # --- frames

    def _check_header(self) -> None:
        try:
            if decode_file_header(self._log.read(FILE_HEADER_BYTES, 0)) != self.header:
                raise FormatFault("its header names another store or segment; was the file swapped?")
        except FormatFault as fault:
            self._find(kinds.HEADER, 0, None, str(fault))
        if self._is_part and self.info.sealed and self._log.size() != self.info.log_bytes:
            raise Unclear

    def _check(self, window: bytes, base: int, offsets: list[int]) -> int:
        """Check the frames at these offsets, the last of which is their end; return where to continue."""
        try:
            frames = decode_headers(window, base, offsets, self.info.tag)
            decoded = RECORDS.decode(offsets[:-1], frames.counts, frames.bodies)
            if not body_crcs_hold(frames, decoded.entries):
                raise FormatFault("a frame's body fails its CRC")
            self._accept(frames, decoded, strict=True)
        except FormatFault:
            if len(offsets) == 2:
                return self._check_one(window, base, offsets[0])
            middle = len(offsets) // 2
            reached = self._check(window, base, offsets[: middle + 1])
            return reached if reached != offsets[middle] else self._check(window, base, offsets[middle:])
        return offsets[-1]

    def _maybe_accept_large(self, at: int, end: int, header: FrameHeader) -> bool:
        """Check a frame piece by piece and count it in; return False if it has to be checked whole.

        Memory for megabytes, touched for the first time, takes as long as the check of a third of them.
        """
        lengths = self._offsets.lengths(self.count, header.events)
        found = len(lengths), len(array_head(header.events)) + sum(lengths)
        if found != (header.events, header.length):
            return False
        frames = _single(header, at, end, b"")
        try:
            decoded = RECORDS.decode_large(at, lengths, self._log.read)
            if not body_crcs_hold(frames, decoded.entries):
                return False
            self._accept(frames, decoded, strict=True)
        except FormatFault:
            return False
        return True

    def _check_one(self, window: bytes, base: int, offset: int) -> int:
        """Check one frame and name what is wrong with it; return where to continue."""
        try:
            header = decode_frame_header(window, offset - base, offset, self.info.tag)
        except FormatFault as fault:
            return self._pass_damage(offset, str(fault))
        self.durable = max(self.durable, header.durable)
        end = offset + FRAME_HEADER_BYTES + header.length
        body = memoryview(window)[offset - base + FRAME_HEADER_BYTES : end - base]
        if crc32(body) != header.body_crc:
            if self._is_tail(offset):
                return _STOP
            detail = f"a frame's body fails its CRC; {_events(header.events)} in it cannot be read"
            self._find(kinds.FRAME, offset, header.first_position, detail)
            self._account_for_damage(offset, end, header)
            return end
        frames = _single(header, offset, end, body)
        try:
            self._accept(frames, RECORDS.decode([offset], frames.counts, frames.bodies), strict=False)
        except FormatFault as fault:
            self._find(kinds.RECORD, offset, header.first_position, str(fault))
            self._account_for_damage(offset, end, header)
        return end

    def _accept(self, frames: Frames, decoded: Decoded, *, strict: bool) -> None:
        """Check frames against what came before them, and count them in.

        Args:
            strict: raise also for what loses no event, instead of noting it.

        Raises:
            FormatFault: their positions are wrong; nothing of them is counted in.
        """
        positions, times, rows, digests, metadatas, tags, highest_id = decoded
        before = positions[0] - 1 if self.last_position < 0 else self.last_position
        if positions != list(range(before + 1, before + 1 + len(positions))):
            gaps = self.info.generation or (self.damages and not self.damages[-1].events)
            if positions[0] <= before or not gaps or not all(map(lt, positions, positions[1:])):
                raise FormatFault(f"positions do not continue after {before}")
        begins = accumulate(frames.counts[:-1], initial=0)
        if [positions[at] for at in begins] != list(frames.first_positions):
            raise FormatFault("a frame's first event is not the one that its header names")
        faults = []
        if times[0] < self.last_time_us or times != sorted(times):
            faults.append((kinds.ORDER, "times fall within it or before it"))
        if self._crc is not None and not entries_crcs_hold(frames, rows, self._crc):
            if self.damages and not self.damages[-1].entries_known:
                self.entries_known = False
            else:
                faults.append(
                    (kinds.FRAME, "its header has another running CRC than the entries of .offsets")
                )
        if faults and strict:
            raise FormatFault(faults[0][1])
        for kind, detail in faults:
            self._find(kind, frames.offsets[0], positions[0], detail)
        self.missing.add(before, positions)
        self.first_position = self.first_position or positions[0]
        self.first_time_us = self.first_time_us or times[0]
        self.last_position = positions[-1]
        self.last_time_us = max(times[-1], self.last_time_us)
        self.durable = max(self.durable, *frames.durable)
        self._crc = frames.index_crcs[-1]
        self._offsets.compare(rows, self.count)
        self._digests.add(digests, positions, metadatas)
        self.tags.hashes.extend(tags.hashes)
        self.tags.numbers.extend(array("I", list(map(add, tags.numbers, repeat(self.count)))))
        self.entries += rows
        self.count += len(positions)
        self.whole_events += len(positions)
        self.highest_id = max(self.highest_id, highest_id)
        self.end = frames.offsets[-1]

    # --- damage

    def _pass_damage(self, at: int, fault: str) -> int:
        """Report what is wrong where a frame must begin; return where the next one begins, or _STOP."""
        if self._is_tail(at):
            return _STOP
        found = next(self._sound_headers(at + 1), None)
        end, header = found if found is not None else (self._size, None)
        position = self.last_position + 1
        bytes_there = end - at
        if header is None:  # what it has lost behind its last byte is lost, too
            end = max(end, self._wanted_end)
        lost = _events(self._account_for_damage(at, end, None, header))
        self._find(kinds.FRAME, at, position, f"{fault}; {lost} in {bytes_there} bytes cannot be read")
        return end if found is not None else _STOP

    def _is_tail(self, at: int) -> bool:
        """Return whether bytes that do not decode were never acknowledged: recovery cuts by the same rule.

        No header says more than its own offset of how far the log was synced, so the headers after the
        first damage are read once for all.
        """
        if self.info.sealed:
            return False
        if self._durable_later is None:
            later = (header.durable for _, header in self._sound_headers(at + 1))
            self._durable_later = max(later, default=0)
        if max(self.task.synced, self.durable, self._durable_later) > at:
            return False
        self.tail_bytes = self._size - at
        return True

    def _sound_headers(self, at: int) -> Iterator[tuple[int, FrameHeader]]:
        """Yield the offsets and headers of the frames from an offset on that are whole by their headers."""
        while at < self._size:
            window = self._log.read(min(_WINDOW_BYTES + FRAME_HEADER_BYTES, self._size - at), at)
            place = window.find(FRAME_MAGIC)
            while 0 <= place < _WINDOW_BYTES:
                try:
                    header = decode_frame_header(window, place, at + place, self.info.tag)
                except FormatFault:
                    pass  # bytes of an event that look like a frame's magic
                else:
                    if at + place + FRAME_HEADER_BYTES + header.length <= self._size:
                        yield at + place, header
                place = window.find(FRAME_MAGIC, place + 1)
            at += _WINDOW_BYTES

    def _account_for_damage(
        self, start: int, end: int, damaged: FrameHeader | None, following: FrameHeader | None = None
    ) -> int:
        """Count the events between two offsets; take their entries from .offsets, if that has them."""
        rows = self._offsets.between(start, end, self.count)
        last = self.last_position
        if damaged is not None:
            events = damaged.events
        elif following is not None and not self.info.generation:
            events = max(0, following.first_position - last - 1)
        elif following is None and self.info.sealed:
            events = max(0, self.info.events - self.count)
        else:
            events = len(rows) // ENTRY_BYTES
        known = bool(events) and len(rows) == events * ENTRY_BYTES
        if known:
            self._digests.add_damaged(self._log, rows)
            self.entries += rows
            self._crc = None if self._crc is None else crc32(rows, self._crc)
        else:
            self._crc = None
            self.entries_known = False
        self.damages.append(Damage(start, end, self.count, events, known))
        self.count += events
        if not self.info.generation:
            self.last_position = last + events
        self.end = end
        return events

    # --- the end

    def _finish(self) -> None:
        lost = ""
        if self.end < self._wanted_end:  # it was cut behind a whole frame, or is empty
            at, position = self.end, self.last_position + 1
            lost = f"; {_events(self._account_for_damage(at, self._wanted_end, None))} cannot be read"
            if not self.info.sealed:
                detail = f"the log ends, though it was synced up to offset {self._wanted_end}{lost}"
                self._find(kinds.FRAME, at, position, detail)
        if self.info.sealed:
            size = self._log.size()
            if size != self.info.log_bytes:
                detail = f"it has {size} bytes, {self.info.log_bytes} were sealed{lost}"
                self._find(kinds.LENGTH, min(size, self.info.log_bytes), None, detail)
            if not self.damages and not self.findings:
                detail = sealed_fault(self.info, self.summary())
                if detail:
                    self._find(kinds.MANIFEST, None, None, detail)
            self._offsets.check_length()
        if isinstance(self._log, CheckedLog):  # every block was read by now
            self.findings += self._log.findings
        if self._more_findings:
            detail = f"and {self._more_findings} more faults after these"
            self.findings.append(kinds.damage(kinds.FRAME, self.task.log_name, None, None, detail))

    def _find(self, kind: str, offset: int | None, position: int | None, detail: str) -> None:
        if self._is_part:
            raise Unclear
        if offset is not None and self.info.compressed_bytes:
            detail += " (offset in the log as `zstd -d` gives it)"
        if len(self.findings) < _MAX_FINDINGS:
            self.findings.append(kinds.damage(kind, self.task.log_name, offset, position, detail))
        else:
            self._more_findings += 1


def _events(number: int) -> str:
    if not number:
        return "an unknown number of events"
    return f"{number} events" if number > 1 else "1 event"


def _single(header: FrameHeader, offset: int, end: int, body: bytes | memoryview) -> Frames:
    columns = [header.events], [header.durable], [header.first_position], [header.index_crc]
    return Frames([offset, end], *columns, [header.body_crc], [body])
