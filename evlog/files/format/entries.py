"""The global offset index `.offsets`: a file header, then one entry of 48 bytes an event, in position order.

    offset  size  field
         0     8  stream hash
         8     4  bits of the tags' hashes; 0: no tags
        12     4  id hash
        16     4  offset of the record in the log
        20     4  length of the record
        24     4  CRC of the body of its frame, up to the record
        28     4  CRC of the body of its frame, up to the end of the record
        32     4  offset of the frame that holds it
        36     4  version
        40     4  type hash
        44     4  zero

`hashes.py` defines the hashes. In a segment that was never compacted the entry of position p is number
p - first position.

One call checks a record by its own entry, and records that follow each other in one frame by the entries of
the first and the last one: `crc32(raw, before) == after`. The second CRC of a frame's last record is the CRC
of the frame's body.
"""

from __future__ import annotations

from array import array
from itertools import accumulate
from struct import Struct
from struct import error as struct_error
from zlib import crc32

import msgpack

from evlog.files.format.frames import FRAME_HEADER_BYTES, NOT_RECORDS, FrameHeader, array_head, decode_body
from evlog.files.format.hashes import hash_ids, hash_stream, hash_type, maybe_tag_bits
from evlog.files.format.headers import FormatFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

ENTRY_BYTES: Final = 48
ENTRY: Final = Struct("<Q4xIIIIIIII4x")  # all but the tags
_ROW: Final = Struct("<QIIIIIIIII4x")
ENTRY_PLACE: Final = Struct("<16xIIII16x")  # offset and length of the record, CRC before and after it
ENTRY_RUN: Final = Struct("<16xIIIII12x")  # the same, and the offset of the frame
ENTRY_FRAME: Final = Struct("<32xI12x")
ENTRY_VERSION: Final = Struct("<36xI8x")
ENTRY_EVENT: Final = Struct("<Q4xI20xI8x")  # what stays when the record moves: stream and id hash, version
ENTRY_STREAM: Final = Struct("<Q40x")
_BODY_CRC: Final = Struct("<28xI16x")
TYPE_HASH_AT: Final = 40
_COLUMNS: Final[dict[str, tuple[str, int, int]]] = {  # code, place, and cells of this size in an entry
    "stream_hash": ("Q", 0, 6),
    "tags": ("I", 2, 12),
    "id_hash": ("I", 3, 12),
    "offset": ("I", 4, 12),
    "length": ("I", 5, 12),
    "crc_before": ("I", 6, 12),
    "crc_after": ("I", 7, 12),
    "frame": ("I", 8, 12),
    "version": ("I", 9, 12),
    "type_hash": ("I", 10, 12),
}


def encode_entries(
    records: Sequence[bytes],
    frame_offset: int,
    stream_hashes: Sequence[int],
    id_hashes: Sequence[int],
    versions: Sequence[int],
    type_hashes: Sequence[int],
    tags: Sequence[int] | None = None,
) -> bytes:
    """Return the entries of one frame's records.

    Args:
        tags: the bits of each record's tags; None: none has any.
    """
    count = len(records)
    head = array_head(count)
    crc, body_at = crc32(head), frame_offset + FRAME_HEADER_BYTES + len(head)
    if count == 1:  # the common case: the arrays below take 15 µs to set up
        raw, bits = records[0], 0 if tags is None else tags[0]
        return _ROW.pack(
            stream_hashes[0], bits, id_hashes[0], body_at, len(raw), crc, crc32(raw, crc), frame_offset,
            versions[0], type_hashes[0],
        )  # fmt: skip
    lengths = list(map(len, records))  # of a list an array is made in less time than of an iterator
    crcs = array("I", running_crcs(records, crc))
    return pack_entries(
        array("Q", stream_hashes),
        array("I", id_hashes),
        array("I", list(accumulate(lengths, initial=body_at))[:-1]),
        array("I", lengths),
        crcs[:-1],
        crcs[1:],
        array("I", (frame_offset,)) * count,
        array("I", versions),
        array("I", type_hashes),
        None if tags is None else array("I", tags),
    )


def pack_entries(
    stream_hashes: array[int],
    id_hashes: array[int],
    offsets: array[int],
    lengths: array[int],
    crcs_before: array[int],
    crcs_after: array[int],
    frames: array[int],
    versions: array[int],
    type_hashes: array[int],
    tags: array[int] | None = None,
) -> bytes:
    """Return entries made of their columns: the first of u64, the others of u32."""
    rows = bytearray(ENTRY_BYTES * len(lengths))
    columns = (id_hashes, offsets, lengths, crcs_before, crcs_after, frames, versions, type_hashes)
    with memoryview(rows) as flat, flat.cast("Q") as wide, flat.cast("I") as narrow:
        wide[0::6] = memoryview(stream_hashes)
        for at, cells in enumerate(columns, 3):
            narrow[at::12] = memoryview(cells)
        if tags is not None:
            narrow[2::12] = memoryview(tags)
    return bytes(rows)


def running_crcs(records: Sequence[bytes], crc: int) -> list[int]:
    """Return the CRC before the first record, which is given, and that after each of them."""
    return [crc, *[crc := crc32(raw, crc) for raw in records]]


def body_crc(entries: bytes) -> int:
    """Return the CRC of a frame's body, from the entries of the frame."""
    crc: int = _BODY_CRC.unpack_from(entries, len(entries) - ENTRY_BYTES)[0]
    return crc


def derive_entries(header: FrameHeader, frame_offset: int, body: bytes | memoryview) -> bytes:
    """Return the entries of a frame in the log, made from its body.

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
    ids = [record[4] for record in decoded]
    if set(map(len, ids)) != {16}:
        raise FormatFault("a frame holds an id that is not 16 bytes")
    hashes = {stream: hash_stream(stream) for stream in {record[2] for record in decoded}}
    return encode_entries(
        raws,
        frame_offset,
        [hashes[record[2]] for record in decoded],
        hash_ids(ids),
        [record[1] for record in decoded],
        [hash_type(record[3]) for record in decoded],
        maybe_tag_bits([record[8] for record in decoded]),
    )


def count_tagged(entries: bytes | bytearray | memoryview) -> int:
    """Return how many entries are of events with tags."""
    bits = column(entries, "tags")
    return len(bits) - bits.count(0)


def column(entries: bytes | bytearray | memoryview, name: str) -> list[int]:
    """Return one column of entries as ints, in one pass of C."""
    code, at, step = _COLUMNS[name]
    with memoryview(entries) as view, view.cast("B") as flat, flat.cast(code) as cells:  # type: ignore[call-overload]
        values: list[int] = cells[at::step].tolist()
    return values


def column_array(entries: bytes | bytearray | memoryview, name: str) -> array[int]:
    """Return one column of entries as an array, without an object for each number."""
    return array(_COLUMNS[name][0], column_bytes(entries, name))


def column_view(entries: bytes | memoryview, name: str) -> memoryview[int]:
    """Return one column of entries as it is, without a copy."""
    code, at, step = _COLUMNS[name]
    return memoryview(entries).cast("B").cast(code)[at::step]  # type: ignore[call-overload, no-any-return]


def column_bytes(entries: bytes | bytearray | memoryview, name: str) -> bytes:
    """Return the bytes of one column of entries."""
    code, at, step = _COLUMNS[name]
    with memoryview(entries) as view, view.cast("B") as flat, flat.cast(code) as cells:  # type: ignore[call-overload]
        raw: bytes = cells[at::step].tobytes()
    return raw


def with_columns(entries: bytes, **columns: array[int]) -> bytes:
    """Return entries with other values in these columns, given a cell for each entry."""
    changed = bytearray(entries)
    with memoryview(changed) as flat:
        for name, cells in columns.items():
            code, at, step = _COLUMNS[name]
            with flat.cast(code) as view:  # type: ignore[call-overload]
                view[at::step] = memoryview(cells)
    return bytes(changed)


def cell_of(name: str) -> tuple[int, int]:
    """Return where the cell of a column is in an entry: its offset and its length in bytes."""
    code, at, _ = _COLUMNS[name]
    size = 8 if code == "Q" else 4
    return at * size, size
