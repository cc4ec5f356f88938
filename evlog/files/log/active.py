"""The active segment: what of its log is whole, found without a lock and without reading all of it.

1. The log is used up to `end`. Up to there its entries are in memory: taken from .offsets where the running
   CRC in a frame's header proves them, else derived from the frames.
2. Frames that may not have been synced when the power failed are read and checked first.
3. After `end` there is nothing, preallocation, a frame that is being written, or a torn frame. Recovery
   decides which.
4. The file is read with `pread`, never mapped, because a writer may cut it.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from zlib import crc32

from evlog.errors import CorruptionError, EvlogError
from evlog.files.disk.files import Disk, ReadFile, maybe_memory
from evlog.files.format.entries import ENTRY_BYTES, ENTRY_FRAME, ENTRY_PLACE, derive_entries
from evlog.files.format.frames import (
    FRAME_HEADER_BYTES,
    FRAME_INDEX_CRC,
    FRAME_MAGIC,
    FrameHeader,
    check_body,
    decode_frame_header,
)
from evlog.files.format.headers import FILE_HEADER_BYTES, KIND_OFFSETS, FormatFault, decode_file_header
from evlog.files.format.manifest import SegmentInfo
from evlog.files.format.marks import Mark
from evlog.files.log.segment import Place, Segment, check_header, read_header, written_end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from mmap import mmap
    from typing import Final

_WINDOW_BYTES: Final = 1 << 20
_AHEAD_BYTES: Final = 1 << 16  # not more, which a reader of one page would pay for
# After this many records one by one, each in a system call, the log is kept in memory, if it is not longer
# than this: a record costs a sixth then. Each read adds a part of it, so that none waits for all.
_PIECES_BEFORE_HOLDING: Final = 4096
_MAX_HELD_BYTES: Final = 1 << 27
_HELD_AT_ONCE: Final = 1 << 20
# Pieces this close to each other are read together: more bytes, and one system call.
_NEAR_BYTES: Final = 1 << 11
_FRAME_READ_BYTES: Final = 1 << 14  # one read gets a frame of this size with its header


class ActiveSegment(Segment):
    """The last segment of a store, growing at its end.

    Raises:
        FileNotFoundError: its log is not there; the manifest may have moved on.
        CorruptionError: its log does not begin as it must.
    """

    def __init__(self, store: str, store_id: bytes, info: SegmentInfo) -> None:
        super().__init__(store, store_id, info)
        self._store = store
        self._log = ReadFile(self.log_path)
        self._offsets: ReadFile | None = None
        header = read_header(self._log.read(FILE_HEADER_BYTES, 0), self.log_path)
        check_header(header, self.log_path, self.header)
        self.entries: bytearray = bytearray()
        self.index_crc = 0
        self._last_at = FILE_HEADER_BYTES  # the offset of the last known frame
        self.torn_bytes = 0
        self.fault = ""
        self.durable = FILE_HEADER_BYTES  # how far the log's own headers say that it was synced
        self.entries_on_disk = 0  # entries that .offsets is known to hold as they are here
        self._looked = False
        self._pieces_read = 0
        # The log in memory, and up to where; replaced whole. Threads that add to it at once write the same.
        self._held: tuple[mmap, int] | None = None

    def _read_pieces(self, places: Sequence[Place]) -> list[bytes]:
        if len(places) == 1:  # a page of neighbours
            self._pieces_read += 1
            return [self._log.read(places[0][1], places[0][0])]
        near = len(places) * _NEAR_BYTES
        if abs(places[-1][0] - places[0][0]) <= near:
            first = min(places)[0]
            span = max([offset + length for offset, length, _, _ in places]) - first
            if span <= near:  # for example what was appended last
                raw = self._log.read(span, first)
                return [raw[offset - first : offset - first + length] for offset, length, _, _ in places]
        self._pieces_read += len(places)
        return self._log.read_many(places)

    def maybe_in_memory(self) -> mmap | None:
        if self._pieces_read < _PIECES_BEFORE_HOLDING:
            return None
        end = self.end
        held, at = self._held or (None, 0)
        if at < end:
            if end > _MAX_HELD_BYTES:
                return None
            if held is None and (held := maybe_memory(_MAX_HELD_BYTES)) is None:
                self._pieces_read = 0  # after as many more, it tries again
                return None
            # Only up to `end`: other processes may be writing after it.
            piece = self._log.read(min(_HELD_AT_ONCE, end - at), at)
            held[at : at + len(piece)] = piece
            at += len(piece)
            self._held = held, at
        return held if at >= end else None

    def repair_entries(self) -> bool:
        """Forget what is in memory of the log; return whether there was anything."""
        held, self._held = self._held, None
        return held is not None

    def window(self, offset: int, length: int) -> tuple[bytes, int]:
        """Return bytes up to `end`, and beyond only what is asked for: there may be half a frame."""
        length = max(length, min(_AHEAD_BYTES, self.end - offset))
        return self._log.read(length, offset), offset

    def refresh(self, durable_offset: int, *, suspicious: bool = False) -> bool:
        """Take in the frames that were written since; False if the log is not the one that was known.

        A frame that was never acknowledged may be cut and another written in its place; so before
        anything is built on the last known frame, its header is compared.

        Args:
            durable_offset: how far the log is known to be synced; 0 if that is not known.
            suspicious: compare even if the log has not grown.
        """
        if not suspicious and self.is_unchanged():
            return True
        size = self._log.size()
        # Only a power loss takes bytes from within a whole frame. So once the log was checked, entries are
        # used without their frames, except where the tail was found torn.
        check_frames = not self._looked or self.torn_bytes > 0
        self.torn_bytes = 0
        self.fault = ""
        if size < self.end or (self.count and not self._holds_last_frame()):
            return False
        if size > self.end:
            self._load_entries(size, durable_offset, check_frames=check_frames)
            self._scan_tail(size, check_zeros=check_frames)
        self._looked = True
        return True

    def follow(self, mark: Mark) -> bool:
        """Take in what a writer's mark names after `end`; False if that is not there, or not yet.

        Its entries suffice: they are whole if their running CRC is the mark's, and a writer writes a frame
        before its entries. Only a power loss could have separated them since.
        """
        fresh = mark.events - self.count
        if fresh > 0:
            rows = self._read_offsets(fresh * ENTRY_BYTES)
            if len(rows) < fresh * ENTRY_BYTES or crc32(rows, self.index_crc) != mark.index_crc:
                return False
            last_at = _frame_in(rows, fresh - 1)
            # From here on no call: an interrupt comes before all of these, or after them.
            self.entries += rows
            self.count = self.entries_on_disk = mark.events
            self.index_crc = mark.index_crc
            self.end = mark.offset
            self._last_at = last_at
        return (self.count, self.end, self.index_crc) == (mark.events, mark.offset, mark.index_crc)

    def is_file(self, device: int, inode: int) -> bool:
        """Return whether the log that was opened is this file: a copy of the store may be in its place."""
        status = os.fstat(self._log.fd)
        return (status.st_dev, status.st_ino) == (device, inode)

    def is_on_device(self, disk: Disk, end: int, known: int) -> bool:
        """Sync the log, and return whether the device has its frames up to `end`.

        What a failed sync has lost counts as written, and the kernel reports it only to those that had the
        file open. So the frames are read from the device, but those that are `known` to be synced.

        Raises:
            StoreIOError: the device failed, now or since this process opened the log.
        """
        disk.sync_seen(self._log)  # dirty pages cannot be dropped
        disk.drop_cache(self._log, known)
        fresh = ActiveSegment(self._store, self.header.store_id, self.info)
        fresh.refresh(known)
        return fresh.end >= end

    def extend(self, rows: bytes, header: FrameHeader, *, on_disk: bool) -> None:
        """Take in a frame that this process has just written at `end`, with its entries."""
        self._last_at = self.end
        self.entries += rows
        self.count += header.events
        self.end += FRAME_HEADER_BYTES + header.length
        self.index_crc = header.index_crc
        self.durable = header.durable
        if on_disk:
            self.entries_on_disk = self.count

    # --- from .offsets

    def _load_entries(self, size: int, durable_offset: int, *, check_frames: bool) -> None:
        """Take what .offsets holds beyond the known entries, as far as a frame's running CRC proves it."""
        loaded = self._read_offsets()
        count = len(loaded) // ENTRY_BYTES
        header, frame = self._last_frame(loaded, count, size)
        while header is not None and (first := self._number_in(header)) + header.events > count:
            count = first  # the entries of the last frame are not all there: ask the frame before
            header, frame = self._last_frame(loaded, count, size)
        if header is None:
            return
        del loaded[count * ENTRY_BYTES :]
        crc = crc32(loaded, self.index_crc)
        if crc != header.index_crc:
            return
        end = frame + FRAME_HEADER_BYTES + header.length
        self.durable = max(self.durable, header.durable)
        if check_frames:
            sound = self._sound_end(loaded, max(self.end, durable_offset, self.durable), end)
            if sound < end:
                count = bisect_left(range(count), sound, key=lambda number: _frame_in(loaded, number))
                if not count:
                    return
                del loaded[count * ENTRY_BYTES :]
                crc, end, frame = crc32(loaded, self.index_crc), sound, _frame_in(loaded, count - 1)
        if self.entries:
            self.entries += loaded
        else:
            self.entries = loaded  # megabytes, perhaps: a copy would cost as much as the reading
        self.count += count
        self.entries_on_disk = self.count
        self.end = end
        self._last_at = frame
        self.index_crc = crc

    def _read_offsets(self, length: int | None = None) -> bytearray:
        """Return what .offsets holds after the known entries; nothing if it is damaged."""
        file = self._offsets or self._open_offsets()
        if file is None:
            return bytearray()
        at = FILE_HEADER_BYTES + self.count * ENTRY_BYTES
        return file.read_array(max(0, file.size() - at) if length is None else length, at)

    def _open_offsets(self) -> ReadFile | None:
        try:
            file = ReadFile(self.offsets_path)
            header = decode_file_header(file.read(FILE_HEADER_BYTES, 0))
        except (FileNotFoundError, FormatFault, EvlogError):
            return None
        if header == self.header._replace(kind=KIND_OFFSETS):
            self._offsets = file
        return self._offsets

    def _number_in(self, header: FrameHeader) -> int:
        """Return the index of the frame's first entry in the newly loaded ones."""
        return header.first_position - self.first_position - self.count

    def _last_frame(self, loaded: bytearray, count: int, size: int) -> tuple[FrameHeader | None, int]:
        """Return header (if it is there) and offset of the frame that the last of `count` entries names."""
        if not count:
            return None, 0
        frame = _frame_in(loaded, count - 1)
        if not self.end <= frame < size:
            return None, frame
        try:
            header = self._read_header(frame)
        except FormatFault:
            return None, frame
        if not 0 <= self._number_in(header) < count or frame + FRAME_HEADER_BYTES + header.length > size:
            return None, frame
        return header, frame

    def _sound_end(self, loaded: bytearray, synced: int, end: int) -> int:
        """Return where the first damaged frame between two offsets begins; `end` if there is none.

        Checked before the entries are taken in: other threads build look-ups over these, which cannot shrink.
        """
        if synced >= end:
            return end
        # A mark of another log, perhaps copied, names no frame's offset: begin with the frame around it.
        count = len(loaded) // ENTRY_BYTES
        last = bisect_right(range(count), synced, key=lambda number: _frame_in(loaded, number)) - 1
        offset = _frame_in(loaded, max(last, 0))
        while offset < end:
            try:
                header = self._read_frame(offset, end)[0]
            except FormatFault:
                break
            offset += FRAME_HEADER_BYTES + header.length
        return offset

    def _holds_last_frame(self) -> bool:
        """Return whether the last known frame is still there: its running CRC proves all before it."""
        try:
            return self._read_header(self._last_at).index_crc == self.index_crc
        except FormatFault:
            return False

    def _read_header(self, offset: int) -> FrameHeader:
        return decode_frame_header(self._log.read(FRAME_HEADER_BYTES, offset), 0, offset, self.tag)

    def count_before(self, offset: int) -> int:
        """Return how many events are in the log before the offset, a frame's end."""
        return bisect_left(range(self.count), offset, key=self._record_offset)

    def _record_offset(self, number: int) -> int:
        offset: int = ENTRY_PLACE.unpack_from(self.entries, number * ENTRY_BYTES)[0]
        return offset

    # --- from the log

    def is_unchanged(self) -> bool:
        """Return whether the log was looked at, and its last known frame is still the last one."""
        if not self._looked or self.torn_bytes:
            return False
        # From the last byte before `end`, which is there unless the log was cut.
        last, after = self._log.read_many(
            [(self._last_at, FRAME_HEADER_BYTES, 0, 0), (self.end - 1, 1 + FRAME_HEADER_BYTES, 0, 0)]
        )
        return (
            len(after) > 0
            and not after[1:].strip(b"\0")
            and (not self.count or FRAME_INDEX_CRC.unpack_from(last)[0] == self.index_crc)
        )

    def _goes_on(self) -> bool:
        """Return whether there is anything but preallocation right after `end`."""
        return bool(self._log.read(FRAME_HEADER_BYTES, self.end).strip(b"\0"))

    def _scan_tail(self, size: int, *, check_zeros: bool) -> None:
        """Take in whole frames from `end` on; after the last one there must be only zeros.

        Args:
            check_zeros: look at all zeros. Only a power loss leaves anything after zeros.
        """
        while check_zeros or self._goes_on():
            try:
                header, body = self._read_frame(self.end, size)
                if header.first_position != self.first_position + self.count:
                    raise FormatFault("a frame is out of order")
                rows = derive_entries(header, self.end, body)
            except FormatFault as fault:
                self.torn_bytes = written_end(self._log, self.end, size) - self.end
                self.fault = str(fault) if self.torn_bytes else ""
                return
            index_crc, durable = crc32(rows, self.index_crc), max(self.durable, header.durable)
            # From here on no call: an interrupt comes before all of these, or after them.
            self.entries += rows
            self.count += header.events
            self.index_crc, self.durable = index_crc, durable
            self._last_at = self.end
            self.end += FRAME_HEADER_BYTES + header.length

    def _read_frame(self, offset: int, size: int) -> tuple[FrameHeader, bytes]:
        """Return the frame at the offset, its body's CRC checked."""
        raw = self._log.read(min(_FRAME_READ_BYTES, size - offset), offset)
        header = decode_frame_header(raw, 0, offset, self.tag)
        if offset + FRAME_HEADER_BYTES + header.length > size:
            raise FormatFault("a frame is cut off")
        body = raw[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + header.length]
        if len(body) < header.length:
            body = self._log.read(header.length, offset + FRAME_HEADER_BYTES)
        check_body(header, body)
        return header, body

    def later_frames_durable(self, offset: int) -> int:
        """Return the highest synced offset that a whole frame header after the offset names; 0 if none does.

        Used when the frame at the offset is damaged: a later frame that was written when this place was
        known to be synced proves that what was here had been acknowledged.
        """
        highest = 0
        size = self._log.size()
        at = offset + 1
        while at < size:
            window = self._log.read(min(_WINDOW_BYTES, size - at), at)
            found = window.find(FRAME_MAGIC)
            while found >= 0:
                raw = window[found : found + FRAME_HEADER_BYTES]
                if len(raw) < FRAME_HEADER_BYTES:
                    raw = self._log.read(FRAME_HEADER_BYTES, at + found)
                try:
                    highest = max(highest, decode_frame_header(raw, 0, at + found, self.tag).durable)
                except FormatFault:
                    pass  # bytes of an event that look like a frame's magic
                found = window.find(FRAME_MAGIC, found + 1)
            if len(window) <= len(FRAME_MAGIC):
                break
            at += len(window) - len(FRAME_MAGIC) + 1
        return highest

    def damage(self, durable_offset: int) -> CorruptionError:
        """Return the error for a log that was acknowledged beyond its last whole frame."""
        detail = f"{self.fault or 'the log ends'}, though it was synced up to offset {durable_offset}"
        return CorruptionError(self.log_path, self.end, detail, self.first_position + self.count)


def _frame_in(rows: bytearray, number: int) -> int:
    """Return the offset of the frame that one of some entries names."""
    offset: int = ENTRY_FRAME.unpack_from(rows, number * ENTRY_BYTES)[0]
    return offset
