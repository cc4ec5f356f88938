"""What is left of events that a compaction removed: their ids, and the last version of every stream.

An id must not be written twice, ever, also after its event went; so each is kept as 56 bits (the upper half
of its fold, and three bytes of its CRC), with where it stood and 16 bits that stand for its content: about
ten bytes. The price: a new id meets one of those by chance in one of 2^56 cases and is refused, which is once
in a thousand stores that remove ten million events and then append as many; and of the retries with *other*
content under an id that went, one in 65,536 goes unnoticed. This is no index: it cannot be derived again, the
manifest names its size and CRC, and damage is a CorruptionError. The bytes are specified in evlog/format.py.
"""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import sub, xor
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from evlog.disk import map_file
from evlog.errors import CorruptionError, UnsupportedFormat
from evlog.format import (
    FILE_HEADER_BYTES,
    FORMAT_VERSION,
    FileHeader,
    FormatFault,
    NewerFormat,
    decode_file_header,
    encode_file_header,
    hash_stream,
)

_FEW_EVENTS: Final = 4096  # with fewer there is one bucket: 256 would take more room than they
_BUCKETS_LOG2: Final = 8
_ID_CHECK_BYTES: Final = 3
_ID_CHECK_MASK: Final = (1 << 8 * _ID_CHECK_BYTES) - 1
_CONTENT_CHECK_BYTES: Final = 2
_CONTENT_CHECK_MASK: Final = 0xFFFF
_LOW: Final = 0xFFFFFFFF
_ROW_BYTES: Final = 24  # position 8, version 4, upper half of the fold 4, CRC of the id 4, content CRC 4
_ROW: Final = Struct(f"{_ROW_BYTES}s")


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
    """Events that went, by columns, in position order."""

    positions: list[int]
    versions: list[int]
    uppers: list[int]  # the upper halves of the id folds
    id_crcs: list[int]  # of which a file keeps three bytes
    content_crcs: list[int]  # as `content_crcs` makes them; a file keeps two bytes

    @classmethod
    def empty(cls) -> GoneColumns:
        return cls([], [], [], [], [])

    def extend(self, other: GoneColumns) -> None:
        """Append events that stood behind these."""
        for own, its in zip(self, other, strict=True):
            own += its

    def in_order(self) -> GoneColumns:
        """The same, in position order."""
        positions = self.positions
        order = sorted(range(len(positions)), key=positions.__getitem__)
        return GoneColumns(*(list(map(column.__getitem__, order)) for column in self))


def content_check(stream_hash: int, type_hash: int, content_type: int, data: bytes) -> int:
    """What a retry of an event that went must have in common with it."""
    return crc32(data, (stream_hash & _LOW) ^ type_hash ^ content_type) & _CONTENT_CHECK_MASK


def content_crcs(
    low_stream_hashes: Iterable[int],
    type_hashes: Iterable[int],
    content_types: Sequence[int],
    datas: Iterable[bytes],
) -> list[int]:
    """The same for many events, column by column, from the lower halves of the stream hashes; not cut yet."""
    seeds: Iterable[int] = map(xor, low_stream_hashes, type_hashes)
    if any(content_types):
        seeds = map(xor, seeds, content_types)
    return list(map(crc32, datas, seeds))


# --- encoding


def encode_gone(header: FileHeader, events: GoneColumns, streams: Iterable[GoneStream]) -> bytes:
    """A whole .gone file; the counts and the directory's CRC are filled into the header."""
    count = len(events.positions)
    buckets_log2 = _buckets_log2(count)
    buckets = _in_buckets(_encode_rows(events), events.uppers, buckets_log2)
    starts = accumulate((len(rows) // _ROW_BYTES for rows in buckets), initial=0)
    blocks = [_encode_bucket(rows, header.first_position, buckets_log2) for rows in buckets]
    ordered = sorted((hash_stream(stream.name), stream) for stream in streams)
    blocks.append(_encode_streams(ordered))
    offsets = accumulate(map(len, blocks[:-1]), initial=FILE_HEADER_BYTES + 12 * len(blocks))
    directory = b"".join(array("I", row).tobytes() for row in (starts, offsets, map(crc32, blocks)))
    header = header._replace(keys=count, postings=len(ordered), source_crc=crc32(directory))
    return b"".join([encode_file_header(header), directory, *blocks])


def _buckets_log2(count: int) -> int:
    return 0 if count < _FEW_EVENTS else _BUCKETS_LOG2


def _encode_rows(events: GoneColumns) -> bytes:
    """The events row by row, so that they can be dealt to buckets as one piece each."""
    rows = bytearray(_ROW_BYTES * len(events.positions))
    at = 0
    for code, column in zip("QIIII", events, strict=True):
        raw = array(code, column)
        for byte in range(raw.itemsize):
            rows[at::_ROW_BYTES] = raw.tobytes()[byte :: raw.itemsize]
            at += 1
    return bytes(rows)


def _in_buckets(rows: bytes, uppers: list[int], buckets_log2: int) -> list[bytes]:
    """The rows of each bucket, in the order in which they come."""
    if not buckets_log2:
        return [rows]
    buckets: list[list[bytes]] = [[] for _ in range(1 << buckets_log2)]
    appends = [bucket.append for bucket in buckets]
    tops = array("I", uppers).tobytes()[3::4]
    for append, (row,) in zip(map(appends.__getitem__, tops), _ROW.iter_unpack(rows), strict=True):
        append(row)
    return list(map(b"".join, buckets))


def _encode_bucket(rows: bytes, first_position: int, buckets_log2: int) -> bytes:
    positions = array("Q", _columns(rows, 0, 8)).tolist()
    steps = array("Q", map(sub, positions, [first_position, *positions])).tobytes()
    deflate = zlib.compressobj(strategy=zlib.Z_RLE)  # the fastest, and nothing repeats but zeros
    planes = b"".join([steps[at::8] for at in range(1, 8)] + [rows[at::_ROW_BYTES] for at in range(8, 12)])
    return b"".join(
        [
            _columns(rows, 12, 4 - buckets_log2 // 8),
            _columns(rows, 16, _ID_CHECK_BYTES),
            _columns(rows, 20, _CONTENT_CHECK_BYTES),
            steps[0::8],
            deflate.compress(planes),
            deflate.flush(),
        ]
    )


def _columns(rows: bytes, at: int, width: int) -> bytes:
    """One column of the rows, or its first `width` bytes."""
    column = bytearray(len(rows) // _ROW_BYTES * width)
    for byte in range(width):
        column[byte::width] = rows[at + byte :: _ROW_BYTES]
    return bytes(column)


def _encode_streams(ordered: Sequence[tuple[int, GoneStream]]) -> bytes:
    names = [stream.name.encode() for _, stream in ordered]
    return b"".join(
        [
            array("Q", (stream_hash for stream_hash, _ in ordered)).tobytes(),
            array("Q", (stream.time_us for _, stream in ordered)).tobytes(),
            array("I", (stream.version for _, stream in ordered)).tobytes(),
            array("I", accumulate(map(len, names))).tobytes(),
            *names,
        ]
    )


# --- looking up


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
        self._first_position = header.first_position
        self._streams = header.postings
        self._buckets_log2 = _buckets_log2(header.keys)
        buckets = 1 << self._buckets_log2
        directory = bytes(self._file[FILE_HEADER_BYTES : FILE_HEADER_BYTES + 12 * (buckets + 1)])
        if crc32(directory) != header.source_crc:
            raise self._damage(FILE_HEADER_BYTES, "its directory fails its CRC")
        cells = array("I", directory).tolist()
        self._starts = cells[: buckets + 1]
        self._offsets = [*cells[buckets + 1 : 2 * buckets + 2], file_bytes]
        self._crcs = cells[2 * buckets + 2 :]
        self._checked = bytearray(buckets + 1)

    def find(self, id: bytes, fold: int) -> GoneEvent | None:
        """The event with this id, if it went from here."""
        bucket = fold >> 64 - self._buckets_log2
        count, block = self._bucket(bucket)
        width = 3 if self._buckets_log2 else 4
        rest = (fold >> 32).to_bytes(4, "little")[:width]
        check = (crc32(id) & _ID_CHECK_MASK).to_bytes(_ID_CHECK_BYTES, "little")
        at = -1
        while (at := block.find(rest, at + 1, width * count)) >= 0:
            number, within = divmod(at, width)
            check_at = width * count + _ID_CHECK_BYTES * number
            if not within and block[check_at : check_at + _ID_CHECK_BYTES] == check:
                contents_at = (width + _ID_CHECK_BYTES) * count
                positions, versions = self._places(block[contents_at + 2 * count :], count)
                content_at = contents_at + 2 * number
                content = int.from_bytes(block[content_at : content_at + 2], "little")
                return GoneEvent(positions[number], versions[number], content)
        return None

    def id_keys(self) -> array[int]:
        """The upper half of every id's fold."""
        keys = array("I")
        for bucket in range(1 << self._buckets_log2):
            keys.frombytes(self._uppers(bucket))
        return keys

    def columns(self) -> GoneColumns:
        """All events that went, in position order."""
        columns = GoneColumns.empty()
        width = 3 if self._buckets_log2 else 4
        for bucket in range(1 << self._buckets_log2):
            count, block = self._bucket(bucket)
            contents_at = (width + _ID_CHECK_BYTES) * count
            places_at = contents_at + 2 * count
            positions, versions = self._places(block[places_at:], count)
            columns.extend(
                GoneColumns(
                    positions,
                    versions,
                    array("I", self._uppers(bucket)).tolist(),
                    array("I", _widened(block[width * count : contents_at], _ID_CHECK_BYTES)).tolist(),
                    array("I", _widened(block[contents_at:places_at], _CONTENT_CHECK_BYTES)).tolist(),
                )
            )
        return columns.in_order() if self._buckets_log2 else columns

    def places(self) -> tuple[list[int], list[int]]:
        """The positions and versions of all events that went, in no order."""
        positions: list[int] = []
        versions: list[int] = []
        width = (3 if self._buckets_log2 else 4) + _ID_CHECK_BYTES + _CONTENT_CHECK_BYTES
        for bucket in range(1 << self._buckets_log2):
            count, block = self._bucket(bucket)
            its_positions, its_versions = self._places(block[width * count :], count)
            positions += its_positions
            versions += its_versions
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

    def _bucket(self, bucket: int) -> tuple[int, bytes]:
        """How many events it has, and its bytes."""
        return self._starts[bucket + 1] - self._starts[bucket], bytes(self._block(bucket))

    def _stream_block(self) -> memoryview:
        return self._block(1 << self._buckets_log2)

    def _block(self, number: int) -> memoryview:
        block = self._file[self._offsets[number] : self._offsets[number + 1]]
        if not self._checked[number]:
            if crc32(block) != self._crcs[number]:
                raise self._damage(self._offsets[number], "what is left of compacted events fails its CRC")
            self._checked[number] = 1
        return block

    def _uppers(self, bucket: int) -> bytes:
        count, block = self._bucket(bucket)
        if not self._buckets_log2:
            return block[: 4 * count]
        full = bytearray(_widened(block[: 3 * count], 3))
        full[3::4] = bytes((bucket,)) * count
        return bytes(full)

    def _places(self, raw: bytes, count: int) -> tuple[list[int], list[int]]:
        """The positions and versions of a bucket's events, from where its lowest plane begins."""
        planes = raw[:count] + zlib.decompress(raw[count:])
        steps, versions = bytearray(8 * count), bytearray(4 * count)
        for at in range(8):
            steps[at::8] = planes[at * count : (at + 1) * count]
        for at in range(4):
            versions[at::4] = planes[(8 + at) * count : (9 + at) * count]
        positions = list(accumulate(array("Q", bytes(steps)), initial=self._first_position))[1:]
        return positions, array("I", bytes(versions)).tolist()

    def _damage(self, offset: int, detail: str) -> CorruptionError:
        return CorruptionError(self.path, offset, detail)


def _widened(raw: bytes, width: int) -> bytes:
    """Numbers of fewer bytes as u32s."""
    full = bytearray(len(raw) // width * 4)
    for at in range(width):
        full[at::4] = raw[at::width]
    return bytes(full)
