"""What is left of events that a compaction removed: their ids, and the last version of every stream.

An id must not be written twice, ever, also after its event went; so each is kept as 56 bits (the upper half
of its fold, and three bytes of its CRC), with where it stood and 16 bits that stand for its content: nine and
a half bytes. The price: a new id meets one of those by chance in one of 2^56 cases and is refused, which is
once in a thousand stores that remove ten million events and then append as many; and of the retries with
*other* content under an id that went, one in 65,536 goes unnoticed. This is no index: it cannot be derived
again, the manifest names its size and CRC, and damage is a CorruptionError. The bytes are specified in
evlog/files/format, and written in evlog/files/log/removed_write.py.
"""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_left, bisect_right
from itertools import accumulate, islice, pairwise
from operator import itemgetter, sub
from typing import Final, NamedTuple
from zlib import crc32

from evlog.errors import CorruptionError, UnsupportedFormat
from evlog.files.disk.files import map_file
from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    FORMAT_VERSION,
    FileHeader,
    FormatFault,
    NewerFormat,
    decode_file_header,
)

STRETCH_EVENTS: Final = 16384
FEW_EVENTS: Final = 4096  # with fewer, a directory of 256 buckets would weigh more than they
ROW_BYTES: Final = 8
_ID_CHECK_MASK: Final = 0xFFFFFF
_CONTENT_CHECK_MASK: Final = 0xFFFF
_LOW: Final = 0xFFFFFFFF
RAW_DEFLATE: Final = -15


class GoneEvent(NamedTuple):
    """An event that went: where it stood, and what its content is checked by."""

    position: int
    version: int
    content_check: int


class GoneStream(NamedTuple):
    """A stream that is left without any event."""

    name: str
    version: int
    time_us: int


class GoneColumns(NamedTuple):
    """Events that went, by columns."""

    positions: array[int]  # u64; the others are u32
    versions: array[int]
    uppers: array[int]  # the upper halves of the id folds
    id_crcs: array[int]  # of which a file keeps three bytes
    content_crcs: array[int]  # as `content_crcs` makes them; a file keeps two bytes

    @classmethod
    def empty(cls) -> GoneColumns:
        return cls(array("Q"), *(array("I") for _ in range(4)))

    def extend(self, other: GoneColumns) -> None:
        """Append events."""
        for own, its in zip(self, other, strict=True):
            own.extend(its)

    def in_order(self) -> GoneColumns:
        """The same, in position order."""
        positions = self.positions
        order = sorted(range(len(positions)), key=positions.__getitem__)
        pick = itemgetter(*order) if len(order) > 1 else tuple
        return GoneColumns(*(array(column.typecode, pick(column)) for column in self))


def content_check(stream_hash: int, type_hash: int, content_type: int, data: bytes) -> int:
    """What a retry of an event that went must have in common with it."""
    return crc32(data, (stream_hash & _LOW) ^ type_hash ^ content_type) & _CONTENT_CHECK_MASK


class GoneShape(NamedTuple):
    """How a file is divided, which follows from its number of events."""

    buckets: int
    stretches: int
    buckets_at: int
    stretches_at: int

    @classmethod
    def of(cls, count: int) -> GoneShape:
        buckets = 1 if count < FEW_EVENTS else 256
        stretches = -(-count // STRETCH_EVENTS)
        directory_bytes = 4 * (2 * buckets + 1) + 8 * (stretches + 1) + 8 * stretches
        at = FILE_HEADER_BYTES + directory_bytes
        return cls(buckets, stretches, at, at + ROW_BYTES * count)


class GoneFile:
    """One mapped .gone file. Each part is checked before what it says is believed.

    Raises:
        FileNotFoundError: it is not there; the manifest may have moved on.
        CorruptionError: it is not whole, or not of this segment as it is now.
    """

    def __init__(self, path: str, expected: FileHeader, file_bytes: int) -> None:
        self.path = path
        self._file = map_file(path)
        try:
            header = decode_file_header(bytes(self._file[:FILE_HEADER_BYTES]))
        except NewerFormat as newer:
            raise UnsupportedFormat(path, newer.found, FORMAT_VERSION) from None
        except FormatFault as fault:
            raise CorruptionError(path, 0, str(fault)) from None
        if header._replace(keys=0, postings=0, source_crc=0) != expected:
            raise CorruptionError(path, 0, "its header names another segment; was the file swapped?")
        if len(self._file) != file_bytes:
            detail = f"the file has {len(self._file)} bytes, {file_bytes} were written"
            raise CorruptionError(path, min(len(self._file), file_bytes), detail)
        self.events = header.keys
        self._streams = header.postings
        shape = self._shape = GoneShape.of(header.keys)
        if file_bytes < shape.stretches_at:
            raise CorruptionError(path, 0, "its header names more events than it can hold")
        directory = bytes(self._file[FILE_HEADER_BYTES : shape.buckets_at])
        if crc32(directory) != header.source_crc:
            raise self._damage(FILE_HEADER_BYTES, "its directory fails its CRC")
        cells = iter(array("I", directory[: len(directory) - 8 * shape.stretches]))
        starts, crcs = list(islice(cells, shape.buckets + 1)), list(islice(cells, shape.buckets))
        self._starts = starts  # of the buckets, in events
        offsets = [shape.buckets_at + ROW_BYTES * start for start in starts[:-1]]
        self._offsets = [*offsets, *islice(cells, shape.stretches + 1), file_bytes]
        self._crcs = [*crcs, *cells]
        self._firsts = array("Q", directory[len(directory) - 8 * shape.stretches :])
        self._checked = bytearray(len(self._crcs))
        self._until: dict[
            int, list[int]
        ] = {}  # by bucket: how many of its events are in stretches up to each
        self._places: tuple[int, _Places] | None = None  # of the stretch that was looked into last

    def find(self, id: bytes, fold: int) -> GoneEvent | None:
        """The event with this id, if it went from here."""
        top = fold >> 56
        bucket = top if self._shape.buckets > 1 else 0
        block = self._bucket(bucket)
        check = crc32(id) & _ID_CHECK_MASK
        needle = ((fold >> 32 & 0xFFFFFF) | check << 24).to_bytes(6, "little")
        at = -1
        while (at := block.find(needle, at + 1)) >= 0:
            number, within = divmod(at, ROW_BYTES)
            if within:
                continue
            found, position, version = self._place(bucket, number)
            if found == top:
                return GoneEvent(position, version, int.from_bytes(block[at + 6 : at + 8], "little"))
        return None

    def id_keys(self) -> array[int]:
        """The upper half of every id's fold."""
        rows, tops = self._rows()
        return _uppers_of(rows, tops)

    def columns(self) -> GoneColumns:
        """All events that went, in position order."""
        columns = GoneColumns.empty()
        rows, tops = self._rows()
        for stretch in range(self._shape.stretches):
            places = self._stretch(stretch)
            columns.positions.extend(places.positions)
            columns.versions.extend(places.versions)
        if self._shape.buckets > 1:
            cells = array("Q", rows)
            each = [iter(cells[low:high]) for low, high in pairwise(self._starts)]
            tops = b"".join(self._tops(stretch) for stretch in range(self._shape.stretches))
            rows = array("Q", map(next, map(each.__getitem__, tops))).tobytes()
        return columns._replace(
            uppers=_uppers_of(rows, tops),
            id_crcs=array("I", _cut_out(rows, 3, 3)),
            content_crcs=array("I", _cut_out(rows, 6, 2)),
        )

    def places(self) -> tuple[list[int], list[int]]:
        """The positions and versions of all events that went, in position order."""
        positions: list[int] = []
        versions: list[int] = []
        for stretch in range(self._shape.stretches):
            places = self._stretch(stretch)
            positions += places.positions
            versions += places.versions
        return positions, versions

    def stream_versions(self) -> list[int]:
        """The last versions of the streams that are left without any event, as `stream_hashes` has them."""
        count = self._streams
        return self._stream_block()[16 * count : 20 * count].cast("I").tolist()

    def stream_hashes(self) -> memoryview:
        """The hashes of the streams that are left without any event, sorted."""
        return self._stream_block()[: 8 * self._streams].cast("Q")

    def version_of(self, stream: str, stream_hash: int) -> int:
        """The last version of a stream that is left without any event; 0 if it is none of these."""
        if not self._streams:
            return 0
        hashes = self.stream_hashes()
        at = bisect_left(hashes, stream_hash)
        while at < len(hashes) and hashes[at] == stream_hash:
            if (found := self._stream(at)).name == stream:
                return found.version
            at += 1
        return 0

    def streams(self) -> list[GoneStream]:
        """The streams that are left without any event."""
        return [self._stream(at) for at in range(self._streams)]

    def _stream(self, number: int) -> GoneStream:
        block, count = self._stream_block(), self._streams
        times = block[8 * count : 16 * count].cast("Q")
        versions = block[16 * count : 20 * count].cast("I")
        ends = block[20 * count : 24 * count].cast("I")
        start = 24 * count + (ends[number - 1] if number else 0)
        name = bytes(block[start : 24 * count + ends[number]])
        return GoneStream(name.decode(), versions[number], times[number])

    def _stream_block(self) -> memoryview:
        return self._block(self._shape.buckets + self._shape.stretches)

    def _bucket(self, bucket: int) -> bytes:
        return bytes(self._block(bucket))

    def _rows(self) -> tuple[bytes, bytes]:
        """All buckets, and the highest byte of U of each row in them."""
        buckets = self._shape.buckets
        rows = b"".join(map(self._bucket, range(buckets)))
        if buckets == 1:
            return rows, b"".join(map(self._tops, range(self._shape.stretches)))
        counts = map(sub, self._starts[1:], self._starts)
        return rows, b"".join(bytes((top,)) * count for top, count in enumerate(counts))

    def _tops(self, stretch: int) -> bytes:
        """The highest byte of U of a stretch's events."""
        count = min(STRETCH_EVENTS, self.events - stretch * STRETCH_EVENTS)
        return bytes(self._block(self._shape.buckets + stretch)[:count])

    def _place(self, bucket: int, number: int) -> tuple[int, int, int]:
        """The highest byte of U, position and version of the event that has this number in its bucket."""
        stretch = 0
        if self._shape.buckets > 1:
            until = self._until.get(bucket)
            if until is None:
                counts = (self._tops(stretch).count(bucket) for stretch in range(self._shape.stretches))
                until = self._until[bucket] = list(accumulate(counts))
            stretch = bisect_right(until, number)
            number -= until[stretch - 1] if stretch else 0
        tops = self._tops(stretch)
        if self._shape.buckets > 1:
            at = -1
            for _ in range(number + 1):
                at = tops.index(bucket, at + 1)
            number = at
        if self._places is None or self._places[0] != stretch:
            self._places = stretch, self._stretch(stretch)
        places = self._places[1]
        return tops[number], places.positions[number], places.versions[number]

    def _stretch(self, stretch: int) -> _Places:
        tops = self._tops(stretch)
        raw = bytes(self._block(self._shape.buckets + stretch)[len(tops) :])
        steps, raw = _inflate(raw, len(tops), 8)
        versions, _ = _inflate(raw, len(tops), 4)
        positions = array("Q", accumulate(array("Q", steps)[1:], initial=self._firsts[stretch]))
        return _Places(positions, array("I", versions))

    def _block(self, number: int) -> memoryview:
        """A bucket; behind those a stretch; behind those the streams."""
        block = self._file[self._offsets[number] : self._offsets[number + 1]]
        if not self._checked[number]:
            if crc32(block) != self._crcs[number]:
                raise self._damage(self._offsets[number], "what is left of compacted events fails its CRC")
            self._checked[number] = 1
        return block

    def _damage(self, offset: int, detail: str) -> CorruptionError:
        return CorruptionError(self.path, offset, detail)


class _Places(NamedTuple):
    """Where the events of a stretch stood."""

    positions: array[int]
    versions: array[int]


def _inflate(raw: bytes, count: int, width: int) -> tuple[bytes, bytes]:
    """So many numbers of this width, as `_deflate` packed them; and the bytes behind them."""
    inflate = zlib.decompressobj(wbits=RAW_DEFLATE)
    planes = inflate.decompress(raw)
    numbers = bytearray(width * count)
    for at in range(len(planes) // count):
        numbers[at::width] = planes[at * count : (at + 1) * count]
    return bytes(numbers), inflate.unused_data


def _uppers_of(rows: bytes, tops: bytes) -> array[int]:
    uppers = bytearray(_cut_out(rows, 0, 3))
    uppers[3::4] = tops
    return array("I", bytes(uppers))


def _cut_out(rows: bytes, at: int, width: int) -> bytes:
    """A column of the rows as u32s."""
    full = bytearray(len(rows) // ROW_BYTES * 4)
    for byte in range(width):
        full[byte::4] = rows[at + byte :: ROW_BYTES]
    return bytes(full)
