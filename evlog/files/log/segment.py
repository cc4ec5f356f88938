"""Reading one segment: records by entry number, frames in order. Never returns bytes that fail their CRC.

1. `Segment` is what sealed and active segments share: entries (a buffer of rows), and a way to get the log's
   bytes. Each says how: `SealedSegment` (sealed_segment.py), `CompressedSegment`, `ActiveSegment`.
2. Damage of the log itself is a CorruptionError that names file and offset; everything else stays readable.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from zlib import crc32

from evlog.errors import CorruptionError, NotAStore, UnsupportedFormat
from evlog.files.format import paths
from evlog.files.format.entries import (
    ENTRY_BYTES,
    ENTRY_FRAME,
    ENTRY_PLACE,
    ENTRY_RUN,
    ENTRY_VERSION,
    column,
)
from evlog.files.format.frames import (
    FRAME_HEADER_BYTES,
    FrameHeader,
    category_head,
    check_body,
    decode_body,
    decode_frame_header,
    decode_run,
    unpack,
    unpack_records,
)
from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    FORMAT_VERSION,
    KIND_LOG,
    FileHeader,
    FormatFault,
    NewerFormat,
    decode_file_header,
)
from evlog.files.format.manifest import SegmentInfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Final, Protocol

    from evlog.model.events import Record

    class Readable(Protocol):
        """A file, or the log in a compressed file: it returns bytes at offsets."""

        def read(self, length: int, offset: int) -> bytes: ...

    class InMemory(Protocol):
        """A log of which slices are bytes: mapped, or blocks in memory."""

        def __getitem__(self, place: slice, /) -> bytes: ...


Place = tuple[int, int, int, int]
"""Of a record: its offset and length, and the CRC before and after it."""

# A frame with a larger body is read record by record, so that reading takes the same memory for any frame.
_WHOLE_BODY_BYTES: Final = 4 << 20
RECORDS_AT_ONCE: Final = 256
# A search asks once of each frame with this many events; the records of smaller frames are put together.
_MANY_EVENTS: Final = 16
BYTES_AT_ONCE: Final = 1 << 20
LEAST_RUN: Final = 4  # more neighbours than these are read as one
_WINDOW_BYTES: Final = 1 << 16
_FIRST_RECORDS: Final = 32  # so that one page, or one event, does not cost more


def _is_taken_apart(header: FrameHeader, may_hold: Callable[[bytes], bool] | None) -> bool:
    """Return whether a frame is read record by record: a large one, or a small one that is searched."""
    return header.length > _WHOLE_BODY_BYTES or (may_hold is not None and header.events < _MANY_EVENTS)


def read_header(
    raw: bytes, path: str, decode: Callable[[bytes], FileHeader] = decode_file_header
) -> FileHeader:
    """Decode the header of a file.

    Raises:
        CorruptionError, UnsupportedFormat: it is damaged, or newer.
    """
    try:
        return decode(raw)
    except NewerFormat as newer:
        raise UnsupportedFormat(path, newer.found, FORMAT_VERSION) from None
    except FormatFault as fault:
        raise CorruptionError(path, 0, str(fault)) from None


def check_header(found: FileHeader, path: str, expected: FileHeader) -> None:
    """Raise CorruptionError or NotAStore if a log has the header of another one."""
    if found.store_id != expected.store_id:
        raise NotAStore(path, "the file belongs to another store")
    if found != expected:
        raise CorruptionError(path, 0, "its header names another segment; was the file swapped?")


def written_end(log: Readable, low: int, high: int) -> int:
    """Return where the last byte between two offsets ends that is not zero; `low` if there is none.

    No frame ends with a zero: so after whole frames this is where the last one ends.
    """
    while high > low:
        at = max(low, high - _WINDOW_BYTES)
        window = log.read(high - at, at)
        if window != bytes(len(window)):
            return at + len(window.rstrip(b"\0"))
        high = at
    return low


class Segment:
    """One segment of consecutive positions (with gaps once compacted)."""

    def __init__(self, store: str, store_id: bytes, info: SegmentInfo) -> None:
        self.info = info
        self.first_position = info.first_position
        self.tag = info.tag
        self.log_path = info.path(store, info.log_suffix)
        self.offsets_path = info.path(store, paths.OFFSETS)
        self.header = info.header(KIND_LOG, store_id)
        self.entries: bytes | bytearray | memoryview = b""
        self.count = 0
        self.end = FILE_HEADER_BYTES

    def log_bytes(self, offset: int, length: int) -> bytes:
        """Return bytes of the log, fewer at its end."""
        log = self.maybe_in_memory()
        if log is not None:
            return log[offset : offset + length]
        return self._read_pieces([(offset, length, 0, 0)])[0]

    def log_pieces(self, places: Sequence[Place]) -> list[bytes]:
        """Return the bytes at many places in one call: calls cost as much as the bytes."""
        log = self.maybe_in_memory()
        if log is None:
            return self._read_pieces(places)
        return [log[offset : offset + length] for offset, length, _, _ in places]

    def maybe_in_memory(self) -> InMemory | None:
        """Return the whole log; None if it has to be read."""
        return None

    def _read_pieces(self, places: Sequence[Place]) -> list[bytes]:
        """Return what `log_pieces` does, of a log that has to be read."""
        raise NotImplementedError

    def repair_entries(self) -> bool:
        """Derive the entries again if they are damaged; return whether they have changed."""
        return False

    # --- by entry number

    def record(self, number: int) -> Record:
        """Return the record of entry `number`, checked.

        Raises:
            CorruptionError: it is damaged.
        """
        offset, length, before, after = ENTRY_PLACE.unpack_from(self.entries, number * ENTRY_BYTES)
        raw = self.log_bytes(offset, length)
        if crc32(raw, before) != after or not length:
            raw = self._raw_again(number)
        record: Record = unpack(raw, use_list=False)
        return record

    def version_in_entry(self, number: int) -> int:
        """Return the version in entry `number`: a guess until its record confirms it."""
        version: int = ENTRY_VERSION.unpack_from(self.entries, number * ENTRY_BYTES)[0]
        return version

    def are_in_category(self, offsets: Sequence[int], category: str) -> bool:
        """Return whether all records at these offsets are of streams `CATEGORY-…` of one category.

        This takes two fifths of the time of decoding the records. Their CRCs are not checked: the caller
        compares the hashes in the entries, and a compaction checks every record before it removes the event.

        Args:
            offsets: of records, rising: neighbours are read together.
        """
        begins, size = category_head(category)
        window, window_at = self.window(offsets[0], size)
        for at in range(0, len(offsets), RECORDS_AT_ONCE):
            pieces = []
            for offset in offsets[at : at + RECORDS_AT_ONCE]:
                if not window_at <= offset <= window_at + len(window) - size:
                    window, window_at = self.window(offset, size)
                pieces.append(window[offset - window_at : offset - window_at + size])
            if not begins.fullmatch(b"".join(pieces)):
                return False
        return True

    def versions_in_entries(self, numbers: range) -> list[int]:
        """Return the versions in entries that follow each other: guesses, too."""
        return column(self.entries[numbers.start * ENTRY_BYTES : numbers.stop * ENTRY_BYTES], "version")

    def raw_records(self, numbers: range) -> bytes:
        """Return the bytes of the log from the first to the last of these records, not checked."""
        (offset, _, _, _), (last, length, _, _) = self.places((numbers[0], numbers[-1]))
        return self.log_bytes(offset, last + length - offset)

    def pieces(self, numbers: Sequence[int]) -> tuple[list[bytes], int]:
        """Return the bytes of the records of the first of these entries, checked, and how many these are.

        Args:
            numbers: rising or falling, each once: of others, a run may be seen where there is none.

        Raises:
            CorruptionError: the first one is damaged.
        """
        count, first = len(numbers), numbers[0]
        log = self.maybe_in_memory()
        if count == 1:  # one record: twice as fast as the code below
            if log is not None:
                at, length, before, after = ENTRY_PLACE.unpack_from(self.entries, first * ENTRY_BYTES)
                if 0 < length <= BYTES_AT_ONCE and crc32(raw := log[at : at + length], before) == after:
                    return [raw], 1
        elif (last := numbers[-1]) - first == count - 1 >= LEAST_RUN:
            run, events = self._run(first, last)
            if run:
                return [run], events
        if log is not None:
            entries, place, most = self.entries, ENTRY_PLACE.unpack_from, BYTES_AT_ONCE // count
            raws = [
                raw
                for number in numbers
                for at, length, before, after in (place(entries, number * ENTRY_BYTES),)
                if 0 < length <= most and crc32(raw := log[at : at + length], before) == after
            ]
            if len(raws) == count:
                return raws, count
        raws = self._raws(numbers)
        return raws, len(raws)

    def _run(self, first: int, last: int) -> tuple[bytes, int]:
        """Return records that follow each other in one frame, checked by one CRC, and how many they are.

        Nothing if there are too few, or one is damaged: then they are read one by one.
        """
        entries = self.entries
        offset, _, before, _, frame = ENTRY_RUN.unpack_from(entries, first * ENTRY_BYTES)
        last_at, length, _, after, last_frame = ENTRY_RUN.unpack_from(entries, last * ENTRY_BYTES)
        if frame != last_frame:  # up to the end of the first one's frame
            last = bisect_right(range(last), frame, first, key=self._frame_offset) - 1
            if last - first < LEAST_RUN:
                return b"", 0
            last_at, length, _, after = ENTRY_PLACE.unpack_from(entries, last * ENTRY_BYTES)
        size = last_at + length - offset
        if not 0 < size <= BYTES_AT_ONCE:
            return b"", 0
        run = self.log_bytes(offset, size)
        return (run, last - first + 1) if crc32(run, before) == after else (b"", 0)

    def _frame_offset(self, number: int) -> int:
        offset: int = ENTRY_FRAME.unpack_from(self.entries, number * ENTRY_BYTES)[0]
        return offset

    def _raws(self, numbers: Sequence[int]) -> list[bytes]:
        """Return the bytes of the records of the entries, checked; of some, if one is long or damaged.

        Raises:
            CorruptionError: the first one is damaged.
        """
        places = self.places(numbers)
        size = sum([length for _, length, _, _ in places])
        if size > BYTES_AT_ONCE:
            places = places[: max(1, len(places) * BYTES_AT_ONCE // size)]
        pieces = zip(self.log_pieces(places), places, strict=True)
        raws = [raw for raw, (_, length, before, after) in pieces if crc32(raw, before) == after and length]
        if len(raws) == len(places):
            return raws
        if len(places) > 1:
            return self._raws(numbers[: len(places) // 2])
        return [self._raw_again(numbers[0])]

    def records(
        self,
        numbers: Sequence[int],
        first: int = _FIRST_RECORDS,
        may_hold: Callable[[bytes], bool] | None = None,
    ) -> Iterator[tuple[Record, ...]]:
        """Iterate over the records of the entries, checked, in the order given, in batches.

        Args:
            numbers: as `pieces`.
            first: the size of the first batch; the next ones are larger.
            may_hold: says whether to decode some records, from their bytes; those that it denies are left
                out, once they are checked.

        Raises:
            CorruptionError: one is damaged; those before it were yielded.
        """
        at, step = 0, first
        while at < len(numbers):
            pieces, count = self.pieces(numbers[at : at + step])
            if may_hold is None or may_hold(b"".join(pieces)):
                yield unpack_records(pieces, count)
            at += count
            step = RECORDS_AT_ONCE

    def places(self, numbers: Sequence[int]) -> list[Place]:
        """Return where the records of some entries are."""
        entries = self.entries
        place = ENTRY_PLACE.unpack_from
        return [place(entries, number * ENTRY_BYTES) for number in numbers]

    def _raw_again(self, number: int) -> bytes:
        """Derive the entries again and return the record's bytes, or raise the error for a damaged one."""
        if self.repair_entries():
            offset, length, before, after = ENTRY_PLACE.unpack_from(self.entries, number * ENTRY_BYTES)
            raw = self.log_bytes(offset, length)
            if crc32(raw, before) == after:
                return raw
        offset = ENTRY_PLACE.unpack_from(self.entries, number * ENTRY_BYTES)[0]
        raise CorruptionError(self.log_path, offset, "a record fails its CRC", self._position_of(number))

    # --- by position

    def number_of(self, position: int) -> int:
        """Return the number of the first entry at or after the position; `count` if there is none."""
        number = position - self.first_position
        if number <= 0:
            return 0
        if self._has_gaps():
            return bisect_left(range(self.count), position, key=lambda at: self.record(at)[0])
        return min(number, self.count)

    def _position_of(self, number: int) -> int | None:
        """Return the position of an entry whose record cannot be read, where entries alone tell it."""
        return None if self._has_gaps() else self.first_position + number

    def _has_gaps(self) -> bool:
        info = self.info
        return info.sealed and info.last_position - info.first_position + 1 != info.events

    def number_at_time(self, time_us: int, count: int) -> int:
        """Return the number of the first of `count` entries whose event is not before the time."""
        return bisect_left(range(count), time_us, key=lambda at: self.record(at)[5])

    # --- in order

    def scan(
        self,
        low: int,
        high: int,
        may_hold: Callable[[bytes], bool] | None = None,
        *,
        joins_small: bool = False,
    ) -> Iterator[Sequence[Record]]:
        """Iterate over the records of entries low..high-1, a frame (or a part of a large one) at a time.

        Args:
            may_hold: as `records`. Of frames with many events it is asked once.
            joins_small: yield several small frames at a time: in less than half the time of one by one.

        Raises:
            CorruptionError: a frame is damaged; those before it were yielded.
        """
        while low < high:
            header, offset, first = self._frame_of(low)
            if _is_taken_apart(header, may_hold):
                after = first + header.events
                if may_hold is not None and header.events < _MANY_EVENTS:
                    after = low + RECORDS_AT_ONCE  # over small frames, whatever comes after them
                yield from self.records(range(low, min(after, high)), RECORDS_AT_ONCE, may_hold)
                low = after
                continue
            joins = joins_small and may_hold is None
            for after, records in self._whole_frames(low, high, header, offset, first, may_hold, joins):
                low = after
                yield records

    def scan_back(self, low: int, high: int) -> Iterator[tuple[Record, ...]]:
        """Iterate over the same records, from the last to the first."""
        while low < high:
            header, offset, first = self._frame_of(high - 1)
            start = max(low, first)
            if header.length > _WHOLE_BODY_BYTES:
                yield from self.records(range(high - 1, start - 1, -1))
            else:
                yield self._decode(header, offset, None)[start - first : high - first][::-1]
            high = start

    def _whole_frames(
        self,
        low: int,
        high: int,
        header: FrameHeader,
        offset: int,
        first: int,
        may_hold: Callable[[bytes], bool] | None,
        joins_small: bool,
    ) -> Iterator[tuple[int, Sequence[Record]]]:
        """Iterate over frames that follow each other in the log, without using the entries.

        Yields:
            The number of the entry after those of a frame, or of a few small ones, and their records.
        """
        run = _FIRST_RECORDS
        window, window_at = self.window(offset, FRAME_HEADER_BYTES + header.length)
        while True:
            records: Sequence[Record] = ()
            if joins_small and low == first:
                most = min(run, high - low)
                records, size = decode_run(window, offset - window_at, offset, self.tag, most)
                run = min(4 * run, RECORDS_AT_ONCE)
            if records:
                after = first + len(records)
            else:
                size = FRAME_HEADER_BYTES + header.length
                after = first + header.events
                body_at = offset + FRAME_HEADER_BYTES - window_at
                body = window[body_at : body_at + header.length]
                if may_hold is None or may_hold(bytes(body)):
                    records = self._decode(header, offset, body)
                    if low > first or after > high:
                        records = records[low - first : high - first]
                else:
                    self.check_frame(header, offset, body)
            yield after, records
            low = first = after
            offset += size
            if low >= high:
                return
            if offset + FRAME_HEADER_BYTES > window_at + len(window):
                window, window_at = self.window(offset, FRAME_HEADER_BYTES)
            header = self._header(window, offset - window_at, offset)
            if _is_taken_apart(header, may_hold):
                return
            if offset + FRAME_HEADER_BYTES + header.length > window_at + len(window):
                window, window_at = self.window(offset, FRAME_HEADER_BYTES + header.length)

    def window(self, offset: int, length: int) -> tuple[bytes | memoryview, int]:
        """Return at least `length` bytes of the log from the offset on, and where they begin."""
        raise NotImplementedError

    def frame(self, offset: int) -> tuple[FrameHeader, bytes | memoryview]:
        """Return the frame at an offset: its header, and its body, not yet checked."""
        window, window_at = self.window(offset, FRAME_HEADER_BYTES)
        header = self._header(window, offset - window_at, offset)
        body_at = offset + FRAME_HEADER_BYTES
        window, window_at = self.window(body_at, header.length)
        return header, window[body_at - window_at : body_at - window_at + header.length]

    def crc_in_frame(self, number: int) -> int:
        """Return what the frame of an entry says is the CRC of all entries up to its own."""
        return self._frame_of(number)[0].index_crc

    def _frame_of(self, number: int) -> tuple[FrameHeader, int, int]:
        """Return header and offset of the frame that holds an entry, and the number of its first entry."""
        offset, fault = 0, ""
        for attempt in range(2):
            offset = self._frame_offset(number)
            try:
                header = decode_frame_header(self.log_bytes(offset, FRAME_HEADER_BYTES), 0, offset, self.tag)
                first = self.number_of(header.first_position)
                if first <= number < first + header.events <= self.count:
                    return header, offset, first
                fault = "an entry names a frame that does not hold it"
            except FormatFault as error:
                fault = str(error)
            if attempt or not self.repair_entries():
                break
        raise CorruptionError(self.log_path, offset, fault, self._position_of(number))

    def _header(self, window: bytes | memoryview, at: int, offset: int) -> FrameHeader:
        try:
            return decode_frame_header(window, at, offset, self.tag)
        except FormatFault as fault:
            raise CorruptionError(self.log_path, offset, str(fault)) from None

    def check_frame(self, header: FrameHeader, offset: int, body: bytes | memoryview) -> None:
        """Raise CorruptionError if the body of the frame at an offset is damaged."""
        try:
            check_body(header, body)
        except FormatFault as fault:
            raise CorruptionError(self.log_path, offset, str(fault), header.first_position) from None

    def _decode(
        self, header: FrameHeader, offset: int, body: bytes | memoryview | None
    ) -> tuple[Record, ...]:
        if body is None:
            body = self.log_bytes(offset + FRAME_HEADER_BYTES, header.length)
        try:
            return decode_body(header, body)
        except FormatFault as fault:
            raise CorruptionError(self.log_path, offset, str(fault), header.first_position) from None
