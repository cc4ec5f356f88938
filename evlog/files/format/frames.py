r"""The log: a file header, then frames without a gap. A frame is what one append writes, or several together.

    offset  size  frame header                          a frame:   +--------+------+
         0     4  magic  e5 45 56 46 ("\xe5EVF")                   | header | body |
         4     4  length of the body in bytes                      +--------+------+
         8     4  count of events
        12     4  durable: this log was known to be synced up to here when the frame was written
        16     8  position of the first event
        24     4  index CRC: of all entries of .offsets, up to and with this frame's
        28     4  CRC of the body
        32     4  tag of the segment
        36     4  CRC of the frame's own file offset (8 bytes), then bytes 0..35

The offset is part of the CRC and the tag is in the header, so a copy of a frame inside an event's data is
never read as a frame. The body is one msgpack array of `count` records:

    [position, version, stream, type, id, time, content type, data, metadata]
     uint      uint     str     str   bin uint  0..2          bin   bin or nil

`time` is in µs since 1970 UTC; content type is 0 json, 1 text, 2 binary; metadata is JSON text. No frame ends
with a zero byte.

After the last frame of the active log there may be zeros up to the end of the file: preallocation. A sync is
faster where the file keeps its length. A sealed log has none.

Worked example: position 1, version 1 of stream "a", type "T", id 000102…0f, time 1, json, data `{}`, no
metadata, as the first frame of a log with the tag 7 (offset 64, durable 64):

    e5455646 21000000 01000000 40000000 0100000000000000 23b12eb9 1de4a924 07000000 de6d2a0f
    91 99 01 01 a161 a154 c410 000102030405060708090a0b0c0d0e0f 01 00 c4027b7d c0

Limits that follow: a log under 4 GiB, a frame's body at most 1 GiB, 4,294,967,295 events in a stream.
Accepted downsides: 41 bytes of frame for a single event; a frame's body is read whole to check it.
"""

from __future__ import annotations

import sys
from itertools import repeat
from struct import Struct
from zlib import crc32

import msgpack

from evlog.files.format.headers import FormatFault
from evlog.model.events import EncodedEvents, columns_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from re import Pattern
    from typing import Final

    from evlog.model.events import EncodedEvent, Record

_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")
FRAME_HEADER_BYTES: Final = 40
PREALLOCATION_BYTES: Final = 1 << 16  # a log is lengthened with zeros to a multiple of this
MAX_BODY_BYTES: Final = 1 << 30
MAX_LOG_BYTES: Final = (1 << 32) - 1
FRAME_MAGIC: Final = b"\xe5EVF"
_FRAME_HEADER: Final = Struct("<4sIIIQIIII")
_FRAME_FIELDS: Final = Struct("<4sIIIQIII")  # all but the CRC
FRAME_INDEX_CRC: Final = Struct("<24xI12x")  # the index CRC alone, in a header that was checked before
# One packer for all threads: in C, packing a tuple of plain values is one step that no thread interrupts. The
# packer in Python keeps its state between steps, so with it each record gets its own.
_in_c = msgpack.Packer.__module__ != "msgpack.fallback"
_pack_record = msgpack.Packer(buf_size=1 << 16).pack if _in_c else msgpack.packb
unpack: Final = msgpack.unpackb  # allocates no more than its input has bytes, whatever lengths are in it
# What decoding can raise for bytes that pass their CRC and are not records. A RecursionError is not among it:
# msgpack raises none, and that of a caller with a deep stack must not be reported as damage.
NOT_RECORDS: Final = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    msgpack.exceptions.UnpackException,
)

_HEAD_AT_MOST: Final = 1 + 9  # bytes of a record before its version: the array's head, the position
_SMALL_EVENTS: Final = 16
_SMALL_BYTES: Final = 1 << 14


class FrameHeader:
    """The 40 bytes before a frame's body."""

    __slots__ = ("body_crc", "durable", "events", "first_position", "index_crc", "length", "tag")

    def __init__(
        self,
        length: int,
        events: int,
        durable: int,
        first_position: int,
        index_crc: int,
        body_crc: int,
        tag: int,
    ) -> None:
        self.length = length
        self.events = events
        self.durable = durable
        self.first_position = first_position
        self.index_crc = index_crc
        self.body_crc = body_crc
        self.tag = tag

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FrameHeader) and encode_frame_header(self, 0) == encode_frame_header(
            other, 0
        )

    __hash__ = None  # type: ignore[assignment]

    def replace(self, **changes: int) -> FrameHeader:
        """Return the header with other values in the named fields."""
        return FrameHeader(**{name: changes.get(name, getattr(self, name)) for name in self.__slots__})


def encode_records(
    events: Sequence[EncodedEvent],
    ids: Sequence[bytes],
    streams: Sequence[str],
    versions: Sequence[int],
    first_position: int,
    time_us: int,
) -> list[bytes]:
    """Return one encoded record an event; positions count up from the first, the time is that of all.

    The records of a bulk load are encoded by msgspec, which has checked its data already: the same bytes in
    0.1 instead of 0.2 µs an event. It encodes the value of an Enum's member, so all texts must be plain ones.
    """
    if len(events) == 1:  # four times as fast as the code below
        type_, _, code, data, metadata = events[0]
        record = first_position, versions[0], streams[0], type_, ids[0], time_us, code, data, metadata
        return [_pack_record(record)]
    types, _, codes, datas, metadatas = columns_of(events)
    positions = range(first_position, first_position + len(events))
    records = zip(positions, versions, streams, types, ids, repeat(time_us), codes, datas, metadatas)
    if (
        events.__class__ is EncodedEvents
        and "msgspec" in sys.modules
        and [*map(type, streams), *map(type, types)].count(str) == 2 * len(events)
    ):
        from msgspec.msgpack import Encoder

        return list(map(Encoder().encode, records))
    return pack_records(records)


def pack_records(records: Iterable[Record]) -> list[bytes]:
    """Encode each record."""
    return list(map(_pack_record, records))


def category_head(category: str) -> tuple[Pattern[bytes], int]:
    """Return a pattern for the first bytes of records of a category's streams, and how many bytes it needs.

    It matches any number of such pieces, one after another, all of a category, and only streams with `-` in
    their names: one call for many takes half of the time of one for each.
    """
    import re

    uint = b"(?:[\x00-\x7f]|\xcc.|\xcd.{2}|\xce.{4}|\xcf.{8})"
    name = (category + "-").encode()
    head = b"\x99" + uint + uint + b"(?:[\xa0-\xbf]|\xd9.)" + re.escape(name)
    size = _HEAD_AT_MOST + 5 + 2 + len(name)
    return re.compile(b"(?:(?=" + head + b").{%d})*+" % size, re.DOTALL), size


def encode_body(records: Sequence[bytes]) -> bytes:
    """Return the body of a frame: the records as one msgpack array."""
    return array_head(len(records)) + b"".join(records)


def body_size(records: Sequence[bytes]) -> int:
    """Return the length of the body that `encode_body` makes."""
    return len(array_head(len(records))) + sum(map(len, records))


def encode_frame(header: FrameHeader, offset: int, records: Sequence[bytes]) -> bytes:
    """Return a whole frame; its body, which may be megabytes, is copied once."""
    return b"".join((encode_frame_header(header, offset), array_head(len(records)), *records))


def array_head(count: int) -> bytes:
    """Return the head of a msgpack array, in its shortest form."""
    if count < 16:
        return bytes((0x90 | count,))
    if count < 1 << 16:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")


def encode_frame_header(header: FrameHeader, offset: int) -> bytes:
    """Return the 40 bytes before a body, for a frame at the file offset."""
    h = header
    raw = _FRAME_FIELDS.pack(
        FRAME_MAGIC, h.length, h.events, h.durable, h.first_position, h.index_crc, h.body_crc, h.tag
    )
    return raw + _U32.pack(crc32(raw, crc32(_U64.pack(offset))))


def preallocation_after(end: int, frame_bytes: int, segment_bytes: int) -> int:
    """Return how many zeros to write after a frame that lengthens the log up to `end`.

    None after a large frame: its writer would gain little, and all bytes would be written twice.
    """
    if frame_bytes > PREALLOCATION_BYTES // 2:
        return 0
    return max(0, min(-(-end // PREALLOCATION_BYTES) * PREALLOCATION_BYTES, segment_bytes) - end)


def decode_frame_header(raw: bytes | memoryview, at: int, offset: int, tag: int) -> FrameHeader:
    """Decode the frame header at index `at` of `raw`, which is at `offset` in its file.

    Raises:
        FormatFault: there is none, or it is cut off, damaged, or of another place or segment.
    """
    if len(raw) - at < FRAME_HEADER_BYTES:
        raise FormatFault("a frame header is cut off")
    magic, length, count, durable, position, index_crc, body_crc, own_tag, header_crc = (
        _FRAME_HEADER.unpack_from(raw, at)
    )
    if magic != FRAME_MAGIC:
        raise FormatFault("no frame begins here")
    if header_crc != crc32(raw[at : at + FRAME_HEADER_BYTES - 4], crc32(_U64.pack(offset))):
        raise FormatFault("a frame header fails its CRC")
    if own_tag != tag or not count or length > MAX_BODY_BYTES or length < count or durable > offset:
        raise FormatFault("a frame header does not belong here")
    return FrameHeader(length, count, durable, position, index_crc, body_crc, own_tag)


def check_body(header: FrameHeader, body: bytes | memoryview) -> None:
    """Raise FormatFault if the body is cut off or fails its CRC."""
    if len(body) < header.length:
        raise FormatFault("a frame is cut off")
    if crc32(body) != header.body_crc:
        raise FormatFault("a frame's body fails its CRC")


def decode_body(header: FrameHeader, body: bytes | memoryview) -> tuple[Record, ...]:
    """Check a frame's body and decode its records.

    Raises:
        FormatFault: the body is cut off, fails its CRC, or is not an array of that many records.
    """
    check_body(header, body)
    try:
        records: tuple[Record, ...] = unpack(body, use_list=False)
        if len(records) == header.events and records[0][0] == header.first_position and len(records[-1]) == 9:
            return records
    except NOT_RECORDS as error:
        raise FormatFault(f"a frame's body is not msgpack records: {error}") from None
    raise FormatFault("a frame's body is not what its header says")


def decode_run(
    raw: bytes | memoryview, at: int, offset: int, tag: int, most_events: int
) -> tuple[list[Record], int]:
    """Decode small frames that follow each other, in less than half the time that it takes one by one.

    Args:
        at, offset, tag: as `decode_frame_header`.
        most_events: the largest number of events in all the frames together.

    Returns:
        Their records, and the bytes that they take; none where something is wrong: `decode_frame_header` and
        `decode_body` say what.
    """
    bodies: list[bytes | memoryview] = []
    heads: list[tuple[int, int]] = []
    begin, last = offset, len(raw) - FRAME_HEADER_BYTES
    while at <= last:
        magic, length, count, durable, position, _, body_crc, own_tag, header_crc = _FRAME_HEADER.unpack_from(
            raw, at
        )
        body_at = at + FRAME_HEADER_BYTES
        most_events -= count
        if not 0 < count <= length <= _SMALL_BYTES or count > _SMALL_EVENTS or most_events < 0:
            break
        body = raw[body_at : body_at + length]
        if (
            header_crc != crc32(raw[at : body_at - 4], crc32(_U64.pack(offset)))
            or body_crc != crc32(body)
            or len(body) < length
            or magic != FRAME_MAGIC
            or own_tag != tag
            or durable > offset
        ):
            break
        bodies.append(body)
        heads.append((count, position))
        at = body_at + length
        offset += FRAME_HEADER_BYTES + length
    try:
        frames = unpack(array_head(len(bodies)) + b"".join(bodies), use_list=False)
        records: list[Record] = []
        for (count, position), its in zip(heads, frames, strict=True):
            if len(its) != count or its[0][0] != position or len(its[-1]) != 9:
                return [], 0
            records += its
    except NOT_RECORDS:
        return [], 0
    return records, offset - begin


def unpack_records(pieces: Sequence[bytes], count: int) -> tuple[Record, ...]:
    """Decode `count` records whose CRCs have been checked: as one array, twice as fast as one by one."""
    records: tuple[Record, ...] = unpack(array_head(count) + b"".join(pieces), use_list=False)
    return records


def decode_record(raw: bytes | memoryview) -> Record:
    """Decode one record whose CRC has been checked.

    Raises:
        FormatFault: it is not a record.
    """
    try:
        record: Record = unpack(raw, use_list=False)
        if len(record) == 9:
            return record
    except NOT_RECORDS as error:
        raise FormatFault(f"a record is not msgpack: {error}") from None
    raise FormatFault("a record does not have nine fields")
