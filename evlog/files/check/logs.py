"""Checking one segment's log, and its .offsets against it: every frame, every record, nothing believed.

The log is read once, in windows that stay in the processor's cache: CRC of header and body, SHA-256, all
records decoded in one call, their columns compared as wholes, and the entries of .offsets derived from them
and compared byte for byte, CRC of each record included. Behind damage the check goes on at the next whole
frame. The file is read with `pread`, so nothing that happens to it meanwhile can kill the process. Nothing
here writes, or looks beyond its own segment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import accumulate
from operator import lt
from typing import Any, Final, NamedTuple
from zlib import crc32

from evlog.errors import EvlogError
from evlog.files.check import findings as kinds
from evlog.files.check.containers import CheckedLog, open_log
from evlog.files.check.rows import NOT_RECORDS, RowEncoder, Runs, decode_raws
from evlog.files.disk.files import ReadFile
from evlog.files.format.entries import ENTRY, ENTRY_BYTES
from evlog.files.format.frames import (
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    FrameHeader,
    array_head,
    decode_frame_header,
    unpack,
)
from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    KIND_OFFSETS,
    FormatFault,
    NewerFormat,
    decode_file_header,
)
from evlog.files.log.manifest import SegmentInfo
from evlog.files.log.segment import Segment, written_end
from evlog.model.reports import Finding

_WINDOW_BYTES: Final = 1 << 19
_CODES: Final = frozenset({0, 1, 2})
_DATA_TYPES: Final = frozenset({bytes})
_METADATA_TYPES: Final = frozenset({bytes, type(None)})


class Frame(NamedTuple):
    """A frame with a sound header; its body is yet to be checked."""

    offset: int
    header: FrameHeader
    body: memoryview

    @property
    def end(self) -> int:
        return self.offset + FRAME_HEADER_BYTES + self.header.length


class Damage(NamedTuple):
    """A part of a log that holds no whole frame, and how many events are known to have stood there."""

    offset: int
    end: int
    first_number: int
    events: int
    entries_known: bool
    """whether .offsets, by the running CRC in a later frame, still says which events these were"""


class LogCheck:
    """One pass over a log.

    Args:
        info: the segment, as the manifest has it.
        size: bytes to look at: what was sealed, or the length of an active log when the check began.
        synced: how far an active log is known to be synced; behind that a torn frame is no damage.
        pin_position: a position for which the digest is wanted too, 0 if none.

    Raises:
        FileNotFoundError: the log is not there.
    """

    def __init__(
        self,
        store: str,
        store_id: bytes,
        info: SegmentInfo,
        size: int,
        synced: int = 0,
        pin_position: int = 0,
    ) -> None:
        segment = Segment(store, store_id, info)
        self.info = info
        self.header = segment.header
        self.findings: list[Finding] = []
        self.damages: list[Damage] = []
        self.entries = bytearray()
        self.entries_known = True
        self.offsets_sound = True
        self.count = 0
        self.whole_events = 0
        self.end = FILE_HEADER_BYTES
        self.tail_bytes = 0
        self.first_time_us = 0
        self.last_time_us = 0
        self.last_position = info.first_position - 1
        self._log = open_log(store, store_id, info)
        self._size = min(size, self._log.size())
        if not info.sealed:  # what is behind it is room for the frames to come
            self._size = written_end(self._log, min(FILE_HEADER_BYTES, self._size), self._size)
        self._synced = synced
        self.vouched = 0  # how far frames' headers say that it was synced when they were written
        self._pin_position = pin_position
        self._file = segment.log_path[len(store) + 1 :]
        self._offsets_name = segment.offsets_path[len(store) + 1 :]
        self._offsets = self._open_offsets(segment.offsets_path)
        self._crc: int | None = 0  # of all entries so far; None: not known behind damage
        self._hash = sha256()
        self._hashed = 0
        self._pinned: bytes | None = None
        self._rows = RowEncoder()
        self.missing = Runs()

    def run(self) -> LogCheck:
        """Check it all; what was found is in the attributes then."""
        self._check_header()
        at, wanted = FILE_HEADER_BYTES, _WINDOW_BYTES
        while at < self._size:
            window = self._log.read(min(wanted, self._size - at), at)
            self._window, self._window_at = window, at
            frames, wanted, fault = self._take_frames(window, at)
            if frames:
                at = self._check_frames(frames)
                if at < 0:
                    break
            if fault is not None:
                at = self._pass_damage(at, fault)
                if at < 0:
                    break
        self._finish()
        return self

    @property
    def entries_crc(self) -> int | None:
        """The running CRC of all entries; None where damage hides it."""
        return self._crc

    def digest(self) -> bytes:
        """The SHA-256 of the log up to `end`."""
        return self._hash.digest()

    @property
    def pinned_digest(self) -> bytes | None:
        """The SHA-256 up to the end of the pinned position's record; None if that is not in here."""
        return self._pinned

    # --- frames

    def _check_header(self) -> None:
        try:
            found = decode_file_header(self._log.read(FILE_HEADER_BYTES, 0))
            fault = "" if found == self.header else "its header names another store or segment: swapped?"
        except FormatFault as error:
            fault = str(error)
        except NewerFormat as newer:
            fault = f"its header is of format {newer.found}"
        if fault:
            self._find(kinds.HEADER, 0, None, fault)

    def _take_frames(self, window: bytes, at: int) -> tuple[list[Frame], int, str | None]:
        """The frames that lie whole in the window, the bytes to read next, and what is wrong behind them."""
        frames: list[Frame] = []
        view = memoryview(window)
        tag, size = self.info.tag, self._size
        place, length = 0, len(window)
        while place < length:
            if length - place < FRAME_HEADER_BYTES and at + length < size:
                break
            try:
                header = decode_frame_header(window, place, at + place, tag)
            except FormatFault as fault:
                return frames, _WINDOW_BYTES, str(fault)
            body_at = place + FRAME_HEADER_BYTES
            end = body_at + header.length
            if end > length:
                if at + end > size:
                    return frames, _WINDOW_BYTES, "a frame is cut off"
                return frames, max(_WINDOW_BYTES, FRAME_HEADER_BYTES + header.length), None
            frames.append(Frame(at + place, header, view[body_at:end]))
            place = end
        return frames, _WINDOW_BYTES, None

    def _check_frames(self, frames: list[Frame]) -> int:
        """Check the bodies; the offset behind the last, or -1 where what follows was never acknowledged."""
        sound: list[Frame] = []
        for frame in frames:
            self.vouched = max(self.vouched, frame.header.durable)
            if crc32(frame.body) == frame.header.body_crc:
                sound.append(frame)
                continue
            self._check_sound(sound)
            sound = []
            if self._is_tail(frame.offset):
                return -1
            self._find(kinds.FRAME, frame.offset, frame.header.first_position, "a frame's body fails its CRC")
            self._account_for_damage(frame.offset, frame.end, frame.header)
        self._check_sound(sound)
        return frames[-1].end

    def _check_sound(self, frames: list[Frame]) -> None:
        """Check the records of frames whose bytes are as they were written."""
        if not frames:
            return
        try:
            rows = self._derive(frames)
        except FormatFault as fault:
            if len(frames) > 1:
                for frame in frames:
                    self._check_sound([frame])
                return
            (frame,) = frames
            self._find(kinds.RECORD, frame.offset, frame.header.first_position, str(fault))
            self._account_for_damage(frame.offset, frame.end, frame.header)
            return
        self._check_running_crc(frames, rows)
        self._compare_offsets(rows)
        self.entries += rows
        self.count += len(rows) // ENTRY_BYTES
        self.whole_events += len(rows) // ENTRY_BYTES
        self._digest_frames(frames[-1].end, rows)

    # --- records

    def _derive(self, frames: list[Frame]) -> bytes:
        """The entries of some frames, once their records are known to be right."""
        heads = [array_head(frame.header.events) for frame in frames]
        for frame, head in zip(frames, heads, strict=True):
            if frame.body[: len(head)] != head:
                raise FormatFault("a frame does not hold as many records as its header says")
        counts = [frame.header.events for frame in frames]
        if len(frames) == 1:
            content: bytes | memoryview = frames[0].body
        else:
            bodies = [frame.body[len(head) :] for frame, head in zip(frames, heads, strict=True)]
            content = array_head(sum(counts)) + b"".join(bodies)
        try:
            raws = decode_raws(content)
            columns = list(zip(*unpack(content, use_list=False), strict=True))
            if len(columns) != 9 or len(raws) != sum(counts):
                raise FormatFault("a record does not have nine fields")
            self._check_order(frames, counts, columns[0], columns[5])
            return self._make_rows(frames, heads, counts, raws, columns)
        except FormatFault:
            raise
        except NOT_RECORDS as error:
            raise FormatFault(f"a record is not what it must be: {error}") from None

    def _make_rows(
        self,
        frames: list[Frame],
        heads: list[bytes],
        counts: list[int],
        raws: Sequence[Any],
        columns: list[tuple[Any, ...]],
    ) -> bytes:
        _, versions, streams, types, ids, _, codes, datas, metadatas = columns
        if set(map(len, ids)) != {16}:
            raise FormatFault("an id is not 16 bytes")
        if not _CODES.issuperset(codes):
            raise FormatFault("a record has an unknown content type")
        if set(map(type, datas)) != _DATA_TYPES or not _METADATA_TYPES.issuperset(map(type, metadatas)):
            raise FormatFault("data or metadata of a record are not bytes")
        if 0 in versions:
            raise FormatFault("a record has the version 0")
        offsets = [frame.offset for frame in frames]
        return self._rows.encode(offsets, heads, counts, raws, streams, types, ids, versions)

    def _check_order(
        self, frames: list[Frame], counts: list[int], positions: tuple[Any, ...], times: tuple[Any, ...]
    ) -> None:
        """Positions without a gap (rising, where a compaction made gaps), times that do not fall."""
        first, count = self.last_position + 1, len(positions)
        if positions != tuple(range(first, first + count)):
            gaps = self.info.generation or (self.damages and not self.damages[-1].events)
            if positions[0] < first or not gaps or not all(map(lt, positions, positions[1:])):
                raise FormatFault(f"positions do not go on from {self.last_position}")
        begins = accumulate(counts[:-1], initial=0)
        if [positions[at] for at in begins] != [frame.header.first_position for frame in frames]:
            raise FormatFault("a frame's first event is not the one that its header names")
        if times[0] < self.last_time_us or list(times) != sorted(times):
            self._find(kinds.ORDER, frames[0].offset, positions[0], "times fall within it or before it")
        self.missing.add(self.last_position, positions)
        if not self.first_time_us:
            self.first_time_us = times[0]
        self.last_position = positions[-1]
        self.last_time_us = max(times[-1], self.last_time_us)

    def _check_running_crc(self, frames: list[Frame], rows: bytes) -> None:
        """Each frame vouches for the entries of all before it and its own."""
        view = memoryview(rows)
        at = 0
        for frame in frames:
            end = at + frame.header.events * ENTRY_BYTES
            wanted = frame.header.index_crc
            if self._crc is not None and crc32(view[at:end], self._crc) != wanted:
                if self.damages and not self.damages[-1].entries_known:
                    self.entries_known = False
                else:
                    detail = "its header has another running CRC than the entries of .offsets"
                    self._find(kinds.FRAME, frame.offset, frame.header.first_position, detail)
            self._crc = wanted
            at = end

    # --- .offsets

    def _open_offsets(self, path: str) -> ReadFile | None:
        try:
            file = ReadFile(path)
            found = decode_file_header(file.read(FILE_HEADER_BYTES, 0))
        except FileNotFoundError:
            self._find(
                kinds.MISSING, None, None, "it is missing; it is derived, nothing is lost", offsets=True
            )
        except NewerFormat as newer:
            self._find(kinds.HEADER, 0, None, f"its header is of format {newer.found}", offsets=True)
        except (FormatFault, EvlogError) as fault:
            self._find(kinds.HEADER, 0, None, str(fault), offsets=True)
        else:
            if found == self.header._replace(kind=KIND_OFFSETS):
                return file
            self._find(kinds.HEADER, 0, None, "its header names another store or segment", offsets=True)
        self.offsets_sound = False
        return None

    def _compare_offsets(self, rows: bytes) -> None:
        if self._offsets is None or not self.offsets_sound:
            return
        found = self._offsets.read(len(rows), FILE_HEADER_BYTES + self.count * ENTRY_BYTES)
        if found == rows:
            return
        same = _common_prefix(found, rows) // ENTRY_BYTES
        number = self.count + same
        self.offsets_sound = False
        offset = FILE_HEADER_BYTES + number * ENTRY_BYTES
        position = None if self.info.generation else self.info.first_position + number
        if len(found) < len(rows) and same == len(found) // ENTRY_BYTES:
            detail = f"it ends before the entry of event {number + 1} of the segment"
            self._find(kinds.LENGTH, offset, position, detail, offsets=True)
        else:
            self._find(kinds.INDEX, offset, position, "an entry is not what the log says", offsets=True)

    # --- damage

    def _pass_damage(self, at: int, fault: str) -> int:
        """Say what is wrong at an offset where a frame must begin; where the next whole one does, or -1."""
        if self._is_tail(at):
            return -1
        found = next(self._sound_headers(at + 1), None)
        position = self.last_position + 1
        self._find(kinds.FRAME, at, position, fault)
        end, header = found if found is not None else (self._size, None)
        self._account_for_damage(at, end, None, header)
        return end if found is not None else -1

    def _is_tail(self, at: int) -> bool:
        """Whether what is not whole here was never acknowledged: the rule by which recovery cuts."""
        if self.info.sealed:
            return False
        later = [header.durable for _, header in self._sound_headers(at + 1)]
        if max([self._synced, self.vouched, *later]) > at:
            return False
        self.tail_bytes = self._size - at
        return True

    def _sound_headers(self, at: int) -> Iterator[tuple[int, FrameHeader]]:
        """The offsets and headers of the frames, whole by their headers, from an offset on."""
        while at < self._size:
            window = self._log.read(min(_WINDOW_BYTES + FRAME_HEADER_BYTES, self._size - at), at)
            place = window.find(FRAME_MAGIC)
            while place >= 0:
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
    ) -> None:
        """Count the events between two offsets; take their entries from .offsets, if that has them."""
        rows = self._entries_between(start, end)
        if damaged is not None:
            events = damaged.events
        elif following is not None and not self.info.generation:
            events = max(0, following.first_position - self.last_position - 1)
        elif following is None and self.info.sealed:
            events = max(0, self.info.events - self.count)
        else:
            events = len(rows) // ENTRY_BYTES
        known = bool(events) and len(rows) == events * ENTRY_BYTES
        if known:
            self.entries += rows
            self._crc = None if self._crc is None else crc32(rows, self._crc)
        else:
            self._crc = None
            self.entries_known = False
        self.damages.append(Damage(start, end, self.count, events, known))
        self.count += events
        if not self.info.generation:
            self.last_position += events
        self._digest_to(end)

    def _entries_between(self, start: int, end: int) -> bytes:
        """What .offsets holds of the frames between two offsets of the log."""
        if self._offsets is None:
            return b""
        rows = bytearray()
        at = FILE_HEADER_BYTES + self.count * ENTRY_BYTES
        while row := self._offsets.read(ENTRY_BYTES, at + len(rows)):
            if len(row) < ENTRY_BYTES or not start <= ENTRY.unpack(row)[5] < end:
                break
            rows += row
        return bytes(rows)

    # --- the digest

    def _digest_frames(self, end: int, rows: bytes) -> None:
        """Take frames into the digest that were checked; stop over the end of the pinned record."""
        pin = self._pin_position
        if pin and self._pinned is None and self.last_position >= pin:
            number = self._number_of(pin, rows)
            if number is not None:
                offset, length = ENTRY.unpack_from(rows, number * ENTRY_BYTES)[2:4]
                self._digest_to(offset + length)
                self._pinned = self._hash.copy().digest()
        self._digest_to(end)

    def _number_of(self, position: int, rows: bytes) -> int | None:
        """Which of the last entries is that of the position; None if it is not there."""
        for number in range(len(rows) // ENTRY_BYTES):
            offset, length = ENTRY.unpack_from(rows, number * ENTRY_BYTES)[2:4]
            if unpack(self._bytes(offset, offset + length), use_list=False)[0] == position:
                return number
        return None

    def _digest_to(self, end: int) -> None:
        """Hash on to the offset; mostly these bytes are in the window still."""
        while self._hashed < end:
            step = min(end, self._hashed + (1 << 22))
            self._hash.update(self._bytes(self._hashed, step))
            self._hashed = step
        self.end = max(self.end, end)

    def _bytes(self, start: int, end: int) -> bytes | memoryview:
        at = start - self._window_at
        if at >= 0 and end - self._window_at <= len(self._window):
            return memoryview(self._window)[at : end - self._window_at]
        return self._log.read(end - start, start)

    _window: bytes = b""
    _window_at: int = 0

    # --- the end

    def _finish(self) -> None:
        self._digest_to(self.end)
        if self.info.sealed:
            self._finish_sealed()
        if isinstance(self._log, CheckedLog):  # by now every block was looked at
            self.findings += self._log.findings
        if self._offsets is not None and self.info.sealed and self.offsets_sound:
            size = self._offsets.size()
            wanted = FILE_HEADER_BYTES + self.info.events * ENTRY_BYTES
            if size != wanted:
                self.offsets_sound = False
                detail = f"it has {size} bytes, not {wanted}"
                self._find(kinds.LENGTH, min(size, wanted), None, detail, offsets=True)

    def _finish_sealed(self) -> None:
        info = self.info
        size = self._log.size()
        if size != info.log_bytes:
            detail = f"it has {size} bytes, {info.log_bytes} were sealed"
            self._find(kinds.LENGTH, min(size, info.log_bytes), None, detail)
        if self.damages or self.findings:
            return
        found: tuple[object, ...] = (self.count, self._crc)
        named: tuple[object, ...] = (info.events, info.offsets_crc)
        if info.generation:  # what a compaction left lies within what was there
            bounds = info.last_position, info.first_time_us, info.last_time_us
            found += (
                min(self.last_position, bounds[0]),
                max(self.first_time_us, bounds[1] if self.count else 0),
            )
            found += (min(self.last_time_us, bounds[2]),)
            named += (self.last_position, self.first_time_us, self.last_time_us)
        else:
            found += (self.last_position, self.first_time_us, self.last_time_us)
            named += (info.last_position, info.first_time_us, info.last_time_us)
        if found != named:
            what = ("events", "CRC of the entries", "last position", "first time", "last time")
            pairs = zip(what, found, named, strict=True)
            wrong = [f"{name} {has}, not {says}" for name, has, says in pairs if has != says]
            detail = f"the log is not what the manifest says of it: {', '.join(wrong)}"
            self._find(kinds.MANIFEST, None, None, detail)

    def _find(
        self, kind: str, offset: int | None, position: int | None, detail: str, *, offsets: bool = False
    ) -> None:
        file = self._offsets_name if offsets else self._file
        if not offsets and offset is not None and self.info.compressed_bytes:
            detail += " (offset in the log as `zstd -d` gives it)"
        make = kinds.note if offsets else kinds.damage
        self.findings.append(make(kind, file, offset, position, detail))


def _common_prefix(one: bytes, other: bytes) -> int:
    """How many bytes two strings share from their beginnings."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
