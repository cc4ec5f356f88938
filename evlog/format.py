r"""The bytes of a store: THE specification, and pure encode/decode. No I/O, no clock, no paths.

All integers are little-endian; CRC is CRC-32 (zlib's). Every byte of every file is under a CRC, and every
CRC's input holds a magic or a length that is not zero, so a run of zeros never checks out. Lengths are
compared with the bytes at hand before anything is allocated.

Every binary file begins with the same 64 bytes, in this and in all later formats; in a .log.zst they stand
behind 8 others:

    offset  size  file header
         0     8  magic  89 65 76 6c 6f 67 0d 0a  ("\x89evlog\r\n")
         8     2  format version (1)
        10     2  kind: 1 log, 2 offsets, 3 streams, 4 types, 5 ids, 6 gone,
                  7 compressed log
        12     4  generation of the segment (0; a compaction counts it up)
        16    16  store id, a UUID
        32     8  first position of the segment
        40     4  tag: random, chosen with the segment; its log and indexes carry the same
        44     4  keys       (kinds 3 to 5: number of keys; 6: of events; 7: of blocks; else 0)
        48     4  postings   (kinds 3 to 5: number of postings; 6: of streams; 7: bytes in a block; else 0)
        52     4  source CRC (kinds 3 to 5: the CRC of the .offsets entries they derive from; 6: of the
                  directory; 7: of all behind the blocks; else 0)
        56     4  zero
        60     4  CRC of bytes 0..59

A *.log* is a file header, then frames without a gap. What one append writes is one frame,
or a part of one that several writers share:

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

Behind the last frame of the active log may stand zeros up to the end of the file: room that a writer made
for the frames to come, because a device takes a sync sooner of a file that has its length already. A sealed
log has none.

The frame's offset is in its CRC and the segment's tag in its header, so that a copy of a frame (inside
an event's data, say) is never taken for a frame. The body is one msgpack array of `count` records:

    [position, version, stream, type, id, time, content type, data, metadata]
     uint      uint     str     str   bin uint  0..2          bin   bin or nil

`time` is in µs since 1970 UTC; content type is 0 json, 1 text, 2 binary; metadata is JSON text.

*.offsets* is a file header, then one entry of 40 bytes an event, in position order:

         0     8  stream hash: BLAKE2b-64 of the stream's name
         8     8  id fold: the two 64-bit halves of the id, XORed
        16     4  offset of the record in the log
        20     4  length of the record
        24     4  CRC of the record
        28     4  offset of the frame that holds it
        32     4  version
        36     4  type hash: CRC of the type's name

Hashes only find candidates: what decides is always the name or the id in the record. In a segment that was
never compacted the entry of position p is number p - first position.

*.streams*, *.types* and *.ids* are made once, of a sealed segment's entries: a file header, then

    keys      sorted: u64 stream hashes | u64 type hashes | u32 upper halves of the id folds
    starts    u32 x (keys + 1), not in .ids: where each key's postings begin and where the last one's end
    postings  u32: entry numbers, rising within a key (in .ids: one a key)
    CRCs      u32 of every 4,096 bytes of what stands between the file header and here

*.gone* stands beside a segment from which a compaction removed events, and is no index: it is what is left of
them. A file header, a directory, buckets of what is looked for, stretches of where it stood, the streams.
U is the upper half of an event's id fold:

    buckets   1 if there are fewer than 4,096 events, else 256: the bucket is the highest byte of U
    stretches of 16,384 events in position order, the last one of what is left
    directory starts   u32 x (buckets + 1): number of the first event of each bucket, and of all
              CRCs     u32 x buckets: of each bucket
              offsets  u32 x (stretches + 1): where each stretch begins in the file, and where the streams do
              CRCs     u32 x (stretches + 1): of each stretch, and of the streams
              firsts   u64 x stretches: position of the first event of each
    bucket    in position order, 8 bytes an event: lower three bytes of U | lower three bytes of the CRC of
              the id | u16 content check
    stretch   highest byte of U of each event, by which a bucket's n-th event is found here | deflated (raw):
              the lowest bytes of all steps, the second bytes, … as far as one is not zero; a step is what is
              added to the position before, 0 for the first | deflated in the same way: the versions
    streams   those that are left without any event: u64 x n stream hashes, sorted | u64 x n time of the last
              event | u32 x n its version | u32 x n where the name ends | the names in UTF-8

The content check is the lower half of CRC(data), begun with (lower half of the stream hash) ^ (type hash) ^
(content type).

*.log.zst* stands in the place of a sealed segment's .log and holds the same bytes, so that all offsets into
the log, its digest and its indexes stay. It is in zstandard's seekable format: frames of zstandard all
through, and `zstd -d` gives the log back:

    header      skippable frame: 50 2a 4d 18 | u32 64 | a file header
    blocks      a frame each, with its content's size and zstandard's checksum: of as many bytes of the log as
                the header says (1 to 65,536), the last of what is left
    CRCs        skippable frame: 51 2a 4d 18 | u32 length | u32 x blocks: CRC of each block as it stands here
    seek table  skippable frame: 5e 2a 4d 18 | u32 length | for each frame before: u32 its bytes here, u32
                bytes of the log in it (0 of a skippable one) | u32 number of them | 00 | b1 ea 92 8f

*durable* holds four marks of 40 bytes, each zeros where nothing is known:

         0  written       how far the active log is written, for the next writer
        40  acknowledged  how far writers with sync="none" have acknowledged it
        80  durable       how far it is synced
       120  suspect       a write or sync failed here: read the tail back from the device

         0     4  magic  "evWR", "evAK", "evDU" or "evSU"
         4     4  tag of the segment
         8     4  offset, the end of a frame
        12     4  events up to there             (written; else 0)
        16     4  CRC of their .offsets entries  (written; else 0)
        20     8  time of the last of them, µs   (written; else 0)
        28     8  zero
        36     4  CRC of bytes 0..35

*queue* holds nothing that outlives the processes that have it open; evlog/commit_queue.py describes it.

*manifest.json* is one line, `{"format":1,…,"crc32":"8 hex digits"}`, the CRC that of all bytes before
`,"crc32"`. evlog/manifest.py names its fields.

*subscriptions/NAME.json*, a checkpoint, is one line of the same form: format, store_id, name, the filter
(stream, category, types: null for all), position (scanned up to and with it), time_us. *NAME.parked* holds
such lines: position, stream, version, type, id, error, attempts, time_us of an event that was put aside (a
later line of the same position replaces an earlier one), or position and `"done":true` of one that was
replayed. What follows its last whole line was never promised. In NAME bytes other than a-z 0-9 - _ . (and a
leading .) are %xx; one longer than 200 by that is %% and base 32, lower case, unpadded.

Worked example: position 1, version 1 of stream "a", type "T", id 000102…0f, time 1, json, data `{}`, no
metadata, as the first frame of a log with the tag 7 (offset 64, durable 64):

    e5455646 21000000 01000000 40000000 0100000000000000 767b630d 1de4a924 07000000 b7293896
    91 99 01 01 a161 a154 c410 000102030405060708090a0b0c0d0e0f 01 00 c4027b7d c0

Limits that follow: a log under 4 GiB, a frame's body at most 1 GiB, 4,294,967,295 events in a stream.
Accepted downsides: 40 + 1 bytes of frame for a single event; a frame's body is read whole to check it.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate, repeat
from operator import xor
from struct import Struct
from struct import error as struct_error
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgpack

from evlog.events import EncodedEvent, Record

try:
    from _blake2 import blake2b  # hashlib's own, without hashlib's 3 ms of OpenSSL in a shell command's life
except ImportError:  # pragma: no cover - another interpreter than CPython
    from hashlib import blake2b

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("evlog maps little-endian files as they are; this machine is big-endian")

FORMAT_VERSION: Final = 1
FILE_HEADER_BYTES: Final = 64
FRAME_HEADER_BYTES: Final = 40
ENTRY_BYTES: Final = 40
MARK_BYTES: Final = 40
MARKS_BYTES: Final = 4 * MARK_BYTES
PAGE_BYTES: Final = 4096
ROOM_BYTES: Final = 1 << 16  # a log is lengthened with zeros to a multiple of this
MAX_BODY_BYTES: Final = 1 << 30
MAX_LOG_BYTES: Final = (1 << 32) - 1
MAX_VERSION: Final = (1 << 32) - 1

KIND_LOG, KIND_OFFSETS, KIND_STREAMS, KIND_TYPES, KIND_IDS, KIND_GONE, KIND_COMPRESSED = range(1, 8)

FILE_MAGIC: Final = b"\x89evlog\r\n"
FRAME_MAGIC: Final = b"\xe5EVF"
WRITTEN_MAGIC: Final = b"evWR"
ACKNOWLEDGED_MAGIC: Final = b"evAK"
DURABLE_MAGIC: Final = b"evDU"
SUSPECT_MAGIC: Final = b"evSU"
MARK_AT: Final = {WRITTEN_MAGIC: 0, ACKNOWLEDGED_MAGIC: 40, DURABLE_MAGIC: 80, SUSPECT_MAGIC: 120}
NO_MARK: Final = bytes(MARK_BYTES)

_FILE_HEADER: Final = Struct("<8sHHI16sQIIIIII")
_FRAME_HEADER: Final = Struct("<4sIIIQIIII")
_FRAME_FIELDS: Final = Struct("<4sIIIQIII")  # all but the CRC
FRAME_INDEX_CRC: Final = Struct("<24xI12x")  # a frame header's running CRC, for who knows the frame
_MARK: Final = Struct("<4sIIIIQ8xI")
_MARK_FIELDS: Final = Struct("<4sIIIIQ8x")
MARK_PLACE: Final = Struct("<4sII")  # magic, tag and offset of a mark, for who need not check it
_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")
_U64_PAIR: Final = Struct("<QQ")
ENTRY: Final = Struct("<QQIIIIII")
ENTRY_PLACE: Final = Struct("<16xIII12x")  # offset, length, CRC of the record
ENTRY_VERSION: Final = Struct("<32xI4x")

# msgpack allocates by lengths that it reads; bounded by its input, as here, it cannot be made to overreach.
_pack_record = msgpack.Packer(buf_size=1 << 16).pack
unpack: Final = msgpack.unpackb


# What decoding bytes can raise that pass their CRC and are no records all the same.
NOT_RECORDS: Final = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    RecursionError,
    msgpack.exceptions.UnpackException,
)


class FormatFault(ValueError):
    """Bytes that are not what this format says; the reader of the file turns it into an error with a path."""


class NewerFormat(ValueError):
    """A whole and sound header of a later format."""

    def __init__(self, found: int) -> None:
        super().__init__(f"format {found}")
        self.found = found


class FileHeader(NamedTuple):
    """The first 64 bytes of a binary file."""

    kind: int
    generation: int
    store_id: bytes
    first_position: int
    tag: int
    keys: int = 0
    postings: int = 0
    source_crc: int = 0


class FrameHeader(NamedTuple):
    """The 40 bytes before a frame's body."""

    length: int
    events: int
    durable: int
    first_position: int
    index_crc: int
    body_crc: int
    tag: int


class Mark(NamedTuple):
    """How far a log is written or synced; from `events` on only of a mark that says how far it is written."""

    tag: int
    offset: int
    events: int = 0
    index_crc: int = 0
    time_us: int = 0


class Marks(NamedTuple):
    """What `durable` says of one segment; None where nothing is known."""

    written: Mark | None
    acknowledged: Mark | None
    durable: Mark | None
    suspect: Mark | None

    @property
    def durable_offset(self) -> int:
        """How far the log is known to be synced, in bytes; 0 if that is not known."""
        return self.durable.offset if self.durable else 0

    @property
    def acknowledged_offset(self) -> int:
        """How far the log is known to be acknowledged, in bytes; 0 if that is not known."""
        return max(self.durable_offset, self.acknowledged.offset if self.acknowledged else 0)


# --- file headers


def encode_file_header(header: FileHeader) -> bytes:
    """The 64 bytes that begin a binary file."""
    kind, generation, store_id, first_position, tag, keys, postings, source_crc = header
    raw = _FILE_HEADER.pack(
        FILE_MAGIC, FORMAT_VERSION, kind, generation, store_id, first_position, tag, keys, postings,
        source_crc, 0, 0,
    )  # fmt: skip
    return raw[:-4] + _U32.pack(crc32(raw[:-4]))


def decode_file_header(raw: bytes) -> FileHeader:
    """Decode the first 64 bytes of a binary file.

    Raises:
        FormatFault: they are not a file header, or one that is damaged.
        NewerFormat: they are a sound header of a later format.
    """
    if len(raw) < FILE_HEADER_BYTES:
        raise FormatFault(f"its header is cut off after {len(raw)} bytes")
    fields = _FILE_HEADER.unpack_from(raw)
    if fields[0] != FILE_MAGIC:
        raise FormatFault("it does not begin with evlog's magic")
    if fields[11] != crc32(raw[: FILE_HEADER_BYTES - 4]):
        raise FormatFault("its header fails its CRC")
    if fields[1] > FORMAT_VERSION:
        raise NewerFormat(fields[1])
    return FileHeader(fields[2], *fields[3:10])


# --- records and frames


def encode_records(
    events: Sequence[EncodedEvent],
    ids: Sequence[bytes],
    streams: Sequence[str],
    versions: Sequence[int],
    first_position: int,
    time_us: int,
) -> list[bytes]:
    """Encode one record an event; positions run on from the first, the time is that of all."""
    if len(events) == 1:
        type, _, code, data, metadata = events[0]
        row = (first_position, versions[0], streams[0], type, ids[0], time_us, code, data, metadata)
        return [_pack_record(row)]
    types, _, codes, datas, metadatas = zip(*events, strict=True)
    positions = range(first_position, first_position + len(events))
    rows = zip(positions, versions, streams, types, ids, repeat(time_us), codes, datas, metadatas)
    return list(map(_pack_record, rows))


def encode_body(records: Sequence[bytes]) -> bytes:
    """The body of a frame: the records as one msgpack array."""
    return array_head(len(records)) + b"".join(records)


def array_head(count: int) -> bytes:
    """The head of a msgpack array, in its shortest form."""
    if count < 16:
        return bytes((0x90 | count,))
    if count < 1 << 16:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")


def encode_frame_header(header: FrameHeader, offset: int) -> bytes:
    """The 40 bytes before a body, for a frame at the file offset."""
    length, events, durable, first_position, index_crc, body_crc, tag = header
    raw = _FRAME_FIELDS.pack(FRAME_MAGIC, length, events, durable, first_position, index_crc, body_crc, tag)
    return raw + _U32.pack(crc32(raw, crc32(_U64.pack(offset))))


def room_behind(end: int, frame_bytes: int, segment_bytes: int) -> int:
    """How many zeros are written behind a frame that lengthens the log up to `end`.

    None behind a large frame: whoever writes those gains little, and would write all bytes twice.
    """
    if frame_bytes > ROOM_BYTES // 2:
        return 0
    return max(0, min(-(-end // ROOM_BYTES) * ROOM_BYTES, segment_bytes) - end)


def decode_frame_header(raw: bytes | memoryview, at: int, offset: int, tag: int) -> FrameHeader:
    """Decode the frame header at index `at` of `raw`, which stands at `offset` in its file.

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
        FormatFault: the body is cut off, fails its CRC, or is not an array of so many records.
    """
    check_body(header, body)
    try:
        records: tuple[Record, ...] = unpack(body, use_list=False)
        if len(records) == header.events and records[0][0] == header.first_position and len(records[-1]) == 9:
            return records
    except NOT_RECORDS as error:
        raise FormatFault(f"a frame's body is not msgpack records: {error}") from None
    raise FormatFault("a frame's body is not what its header says")


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


# --- entries of .offsets


def hash_stream(stream: str) -> int:
    """The 64-bit hash under which a stream is looked up."""
    return int.from_bytes(blake2b(stream.encode(), digest_size=8).digest(), "little")


def hash_type(type: str) -> int:
    """The 32-bit hash under which an event type is looked up."""
    return crc32(type.encode())


def fold_ids(ids: Sequence[bytes]) -> list[int]:
    """The id folds: the halves of each id XORed, so that a counter in either half still spreads."""
    if len(ids) == 1:
        low, high = _U64_PAIR.unpack(ids[0])
        return [low ^ high]
    halves = array("Q", b"".join(ids))
    return list(map(xor, halves[0::2], halves[1::2]))


def fold_column(ids: bytes) -> array[int]:
    """The folds of ids that stand one behind the other, as one operation on all of them."""
    halves = array("Q", ids)
    return xor_columns(halves[0::2], halves[1::2])


def xor_columns(one: array[int], other: array[int]) -> array[int]:
    """Each number XORed with that at its place in the other column, as one operation on all of them."""
    a, b = one.tobytes(), other.tobytes()
    both = int.from_bytes(a, "little") ^ int.from_bytes(b, "little")
    return array(one.typecode, both.to_bytes(len(a), "little"))


def subtract_columns(one: array[int], other: array[int]) -> array[int]:
    """Each number less that at its place in the other column, which is no greater: nothing is borrowed."""
    a, b = one.tobytes(), other.tobytes()
    rest = int.from_bytes(a, "little") - int.from_bytes(b, "little")
    return array(one.typecode, rest.to_bytes(len(a), "little"))


def encode_entries(
    records: Sequence[bytes],
    frame_offset: int,
    body_at: int,
    stream_hashes: Sequence[int],
    id_folds: Sequence[int],
    versions: Sequence[int],
    type_hashes: Sequence[int],
) -> bytes:
    """The .offsets entries of one frame's records, of which the first stands at offset `body_at`."""
    count = len(records)
    if count == 1:  # the arrays below cost 15 µs before the first event
        row = (stream_hashes[0], id_folds[0], body_at, len(records[0]), crc32(records[0]), frame_offset)
        return ENTRY.pack(*row, versions[0], type_hashes[0])
    lengths = array("I", map(len, records))
    return pack_entries(
        array("Q", stream_hashes),
        array("Q", id_folds),
        array("I", accumulate(lengths[:-1], initial=body_at)),
        lengths,
        array("I", map(crc32, records)),
        array("I", (frame_offset,)) * count,
        array("I", versions),
        array("I", type_hashes),
    )


def pack_entries(
    stream_hashes: array[int],
    id_folds: array[int],
    offsets: array[int],
    lengths: array[int],
    crcs: array[int],
    frames: array[int],
    versions: array[int],
    type_hashes: array[int],
) -> bytes:
    """Entries of .offsets from their columns: u64 the first two, u32 the others."""
    rows = bytearray(ENTRY_BYTES * len(lengths))
    with memoryview(rows) as flat, flat.cast("Q") as wide, flat.cast("I") as narrow:
        wide[0::5] = memoryview(stream_hashes)
        wide[1::5] = memoryview(id_folds)
        for at, cells in enumerate((offsets, lengths, crcs, frames, versions, type_hashes), 4):
            narrow[at::10] = memoryview(cells)
    return bytes(rows)


def derive_entries(header: FrameHeader, frame_offset: int, body: bytes | memoryview) -> bytes:
    """The .offsets entries of a frame that stands in the log already, made anew from its body.

    Raises:
        FormatFault: the body is not what its header says.
    """
    try:
        return _derive_entries(header, frame_offset, body)
    except FormatFault:
        raise
    except (*NOT_RECORDS, struct_error) as error:
        raise FormatFault(f"a frame's records are not what they must be: {error}") from None


def _derive_entries(header: FrameHeader, frame_offset: int, body: bytes | memoryview) -> bytes:
    decoded = decode_body(header, body)
    head_bytes = len(array_head(header.events))
    raws = []
    unpacker = msgpack.Unpacker(use_list=False, max_buffer_size=max(header.length, 1))
    unpacker.feed(body)
    unpacker.read_array_header()
    at = head_bytes
    for _ in range(header.events):
        unpacker.skip()
        end = unpacker.tell()
        raws.append(bytes(body[at:end]))
        at = end
    hashes = {stream: hash_stream(stream) for stream in {record[2] for record in decoded}}
    return encode_entries(
        raws,
        frame_offset,
        frame_offset + FRAME_HEADER_BYTES + head_bytes,
        [hashes[record[2]] for record in decoded],
        fold_ids([record[4] for record in decoded]),
        [record[1] for record in decoded],
        [hash_type(record[3]) for record in decoded],
    )


# --- sorted indexes


class SortedShape(NamedTuple):
    """Where the parts of a .streams, .types or .ids file begin, in bytes from the start of the file."""

    keys_at: int
    starts_at: int
    postings_at: int
    crcs_at: int
    file_bytes: int


def sorted_shape(kind: int, keys: int, postings: int) -> SortedShape:
    """The layout of a sorted index with so many keys and postings."""
    starts_at = FILE_HEADER_BYTES + keys * (4 if kind == KIND_IDS else 8)
    postings_at = starts_at + (0 if kind == KIND_IDS else 4 * (keys + 1))
    crcs_at = postings_at + 4 * postings
    pages = -(-(crcs_at - FILE_HEADER_BYTES) // PAGE_BYTES)
    return SortedShape(FILE_HEADER_BYTES, starts_at, postings_at, crcs_at, crcs_at + 4 * pages)


def page_crcs(content: bytes | memoryview) -> bytes:
    """The CRC of every 4,096 bytes, as the u32s that end a sorted index."""
    return array(
        "I", (crc32(content[at : at + PAGE_BYTES]) for at in range(0, len(content), PAGE_BYTES))
    ).tobytes()


def encode_sorted(
    header: FileHeader, keys: array[int], starts: array[int] | None, postings: array[int]
) -> bytes:
    """A whole sorted index file; `header` says what it belongs to, its counts are filled in here."""
    header = header._replace(keys=len(keys), postings=len(postings))
    content = keys.tobytes() + (starts.tobytes() if starts is not None else b"") + postings.tobytes()
    return encode_file_header(header) + content + page_crcs(content)


def sort_ids(entries: bytes | memoryview) -> tuple[array[int], array[int]]:
    """The keys and postings of .ids for a segment's entries."""
    upper = column(entries, "id_fold_upper")
    pairs = array("I", bytes(8 * len(upper)))
    pairs[0::2] = array("I", range(len(upper)))
    pairs[1::2] = array("I", upper)
    # As one 64-bit number each, key above entry number, they sort without a look at anything else.
    ordered = array("Q", sorted(memoryview(pairs).cast("B").cast("Q").tolist()))
    with memoryview(ordered) as wide, wide.cast("B").cast("I") as narrow:
        return array("I", narrow[1::2].tolist()), array("I", narrow[0::2].tolist())


def group_entries(column: Iterable[int]) -> tuple[array[int], array[int], array[int]]:
    """The keys, starts and postings of .streams or .types for one column of a segment's entries."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for number, key in enumerate(column):
        groups[key].append(number)
    keys = sorted(groups)
    lists = [groups[key] for key in keys]
    postings = array("I")
    for numbers in lists:
        postings.fromlist(numbers)
    return array("Q", keys), array("I", accumulate(map(len, lists), initial=0)), postings


def column(entries: bytes | bytearray | memoryview, name: str) -> list[int]:
    """One column of a segment's entries, as ints, in one pass of C."""
    code, at, step = _COLUMNS[name]
    with memoryview(entries) as view, view.cast("B") as flat, flat.cast(code) as cells:  # type: ignore[call-overload]
        values: list[int] = cells[at::step].tolist()
    return values


def column_array(entries: bytes | bytearray | memoryview, name: str) -> array[int]:
    """The same as an array, without an object for each number."""
    code, at, step = _COLUMNS[name]
    with memoryview(entries) as view, view.cast("B") as flat, flat.cast(code) as cells:  # type: ignore[call-overload]
        return array(code, cells[at::step].tobytes())


_COLUMNS: Final[dict[str, tuple[str, int, int]]] = {
    "stream_hash": ("Q", 0, 5),
    "stream_hash_lower": ("I", 0, 10),
    "id_fold": ("Q", 1, 5),
    "id_fold_upper": ("I", 3, 10),
    "offset": ("I", 4, 10),
    "length": ("I", 5, 10),
    "crc": ("I", 6, 10),
    "frame": ("I", 7, 10),
    "version": ("I", 8, 10),
    "type_hash": ("I", 9, 10),
}


# --- lines

_LINE_CRC: Final = b',"crc32":"'


def encode_line(document: dict[str, Any]) -> bytes:
    """A JSON object as one line that ends with its CRC."""
    body = json.dumps(document, separators=(",", ":")).encode()[:-1]
    return body + _LINE_CRC + b'%08x"}\n' % crc32(body)


def decode_line(raw: bytes) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
        FormatFault: it is cut off, damaged, or never was such a line.
    """
    body, key, crc = raw.rpartition(_LINE_CRC)
    if not key or crc != b'%08x"}\n' % crc32(body):
        raise FormatFault("a line is cut off or fails its CRC")
    try:
        document: dict[str, Any] = json.loads(body + b"}")
    except (ValueError, RecursionError) as error:
        raise FormatFault(f"a line is not JSON: {error}") from None
    return document


# --- marks


def encode_mark(magic: bytes, mark: Mark) -> bytes:
    """The 40 bytes of a mark in the file `durable`."""
    raw = _MARK_FIELDS.pack(magic, *mark)
    return raw + _U32.pack(crc32(raw))


def maybe_decode_mark(magic: bytes, raw: bytes) -> Mark | None:
    """The mark, or None where there is none or it is damaged: then nothing is known, which is always safe."""
    if len(raw) != MARK_BYTES:
        return None
    found, tag, offset, events, index_crc, time_us, crc = _MARK.unpack(raw)
    if found != magic or crc != crc32(raw[:-4]):
        return None
    return Mark(tag, offset, events, index_crc, time_us)


def decode_marks(raw: bytes, tag: int) -> Marks:
    """What the content of `durable` says of the segment with the tag."""
    marks = [maybe_decode_mark(magic, raw[at : at + MARK_BYTES]) for magic, at in MARK_AT.items()]
    return Marks._make(mark if mark is not None and mark.tag == tag else None for mark in marks)
