"""The entries of .offsets: one row of fixed size an event, and the hashes in it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate
from operator import xor
from struct import Struct
from struct import error as struct_error
from typing import Final
from zlib import crc32

import msgpack

from evlog.files.format.frames import FRAME_HEADER_BYTES, NOT_RECORDS, FrameHeader, array_head, decode_body
from evlog.files.format.headers import FormatFault

try:
    from _blake2 import blake2b  # hashlib's own, without hashlib's 3 ms of OpenSSL in a shell command's life
except ImportError:  # pragma: no cover - another interpreter than CPython
    from hashlib import blake2b


ENTRY_BYTES: Final = 40
_U64_PAIR: Final = Struct("<QQ")
ENTRY: Final = Struct("<QQIIIIII")
ENTRY_PLACE: Final = Struct("<16xIII12x")  # offset, length, CRC of the record
ENTRY_VERSION: Final = Struct("<32xI4x")


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
