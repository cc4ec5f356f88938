"""The file `filter`: which sealed segments may hold a stream, a type, an id or a tag.

One file for all segments, so that a look-up opens it and the few segments that it names. A file header of
kind 8, then blocks, in any order: one for each segment, appended when the segment was sealed; one for each 4
segments in a row, made of their blocks; and one for each 16, made of four of those:

    offset  size  block
         0     4  magic  "evFC"
         4     4  length of the block in bytes
         8     4  number of its segments
        12     4  length of their names in bytes
        16    16  slots of the tables of types, streams, ids and tags, u32 each: a power of two, or 0
        32     4  CRC of bytes 0..31, of the names and of the page CRCs
        36        names: the manifest's numbers from first position to offsets CRC, one segment a line
                  page CRCs: u32 for every 4,096 bytes of the tables
                  tables of types, streams, ids and tags: a u16 for each slot and segment, slot by slot

A key has 32 bits: the lower half of a stream's hash, the upper half of a tag's, or a type's or id's hash.
Its upper bits are its slot. Bits 0..4 choose two bits of the lower byte of the slot's u16, bits 5..9 two of
the upper byte; all four are set if the segment has the key. The number n chooses the bits that are set in the
n-th of the bytes 3, 5, 6, 9, 10, 12, 17, … 192, which have two bits each; they are counted from 0, and after
the 28th the first follows. Of absent keys, one of 230 is taken for one that may be there in a large table (at
least 2 slots a key), and one of 800 in a small one (at least 4). One read and the check of one page answer
for 16 segments.

A segment is looked up in the last block that names it. A block that names another segment is stale and
ignored: the CRC tells apart what two copies of a store have appended to one segment. A segment without a
block, or with a damaged one, is always searched. The file is derived: damage costs time only. Blocks are
appended or the file is replaced, never changed or cut, because readers map it.
"""

from __future__ import annotations

from array import array
from itertools import pairwise
from operator import itemgetter
from struct import Struct
from zlib import crc32

from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    KIND_FILTER,
    KIND_IDS,
    KIND_STREAMS,
    KIND_TAGS,
    KIND_TYPES,
    FileHeader,
    FormatFault,
    decode_file_header,
    encode_file_header,
)
from evlog.files.format.sorted_index import PAGE_BYTES, page_crcs
from evlog.model.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Final

    Identity = bytes
    """A segment's numbers from first position to offsets CRC, as the manifest has them."""

_BLOCK: Final = Struct("<4s8I")
_START: Final = Struct("<4sI")
_MAGIC: Final = b"evFC"
_CRC_AT: Final = 32
JOINED: Final = 4  # blocks, twice: fewer than 4 of 1, 4 of 4 and one for each 16 cost a look-up least
MAX_MEMBERS: Final = JOINED * JOINED
IDENTITY_FIELDS: Final = 7  # of `SegmentInfo`
_KINDS: Final = (KIND_TYPES, KIND_STREAMS, KIND_IDS, KIND_TAGS)
_SMALL_TABLE_KEYS: Final = 4096
_MIN_SLOTS: Final = 256
_MAX_SLOTS: Final = 1 << 28
CELL_BYTES: Final = 2
# By the lowest five bits of a byte: two bits of another.
_TWO_BITS: Final = bytes(([byte for byte in range(256) if byte.bit_count() == 2] * 2)[:32] * 8)
_FIRST: Final = (0,)
_CODES: Final = {CELL_BYTES: "H", CELL_BYTES * JOINED: "Q"}  # of `array`


class Block(NamedTuple):
    """A block: its segments, and where its parts are in the file."""

    start: int
    end: int
    members: list[Identity]
    crcs_at: int
    tables_at: int
    tables: dict[int, tuple[int, int]]  # by kind: offset, and number of slots


def identity_of(info: Sequence[int]) -> Identity:
    """Return the identity of a segment."""
    return b"%d,%d,%d,%d,%d,%d,%d" % tuple(info[:IDENTITY_FIELDS])


def encode_filter_header(store_id: bytes) -> bytes:
    """Return the header of the file."""
    return encode_file_header(FileHeader(KIND_FILTER, 0, store_id, 0, 0))


def encode_block(
    identity: Identity, streams: Sequence[int], types: Sequence[int], ids: Sequence[int], tags: Sequence[int]
) -> bytes:
    """Return the block of a segment with these keys, of 32 bits each; repetitions do no harm."""
    return _encode([identity], list(map(fill_table, (types, streams, ids, tags))))


def join_blocks(blocks: Sequence[tuple[memoryview, Block]]) -> bytes:
    """Return the block of all segments of several blocks, each with what it is a part of."""
    tables, count = [], sum(len(block.members) for _, block in blocks)
    for kind in _KINDS:
        slots = max(block.tables[kind][1] for _, block in blocks)
        table = memoryview(bytearray(CELL_BYTES * slots * count)).cast("H")
        place = 0
        for raw, block in blocks:
            at, fewer = block.tables[kind]
            own = len(block.members)
            cells = raw[at : at + CELL_BYTES * fewer * own].cast("H")
            times = slots // fewer if fewer else 0  # slots of this table for one of the smaller
            for start in range(own):
                for first in range(times):
                    table[first * count + place :: times * count] = cells[start::own]
                place += 1
        tables.append(table.tobytes())
    return _encode([member for _, block in blocks for member in block.members], tables)


def joined_size(blocks: Sequence[Block]) -> int:
    """Return the size of the tables of the block that `join_blocks` makes."""
    count = sum(len(block.members) for block in blocks)
    return CELL_BYTES * count * sum(max(block.tables[kind][1] for block in blocks) for kind in _KINDS)


def single_block(raw: memoryview, block: Block, place: int) -> bytes:
    """Return the block that one segment of a block would have alone."""
    return _encode([block.members[place]], [single_table(raw, block, place, kind) for kind in _KINDS])


def single_table(raw: memoryview, block: Block, place: int, kind: int) -> bytes:
    """Return one of the tables that one segment of a block would have alone."""
    count = len(block.members)
    at, slots = block.tables[kind]
    return raw[at : at + CELL_BYTES * slots * count].cast("H")[place::count].tobytes()


def _encode(members: Sequence[Identity], tables: Sequence[bytes]) -> bytes:
    content = b"".join(tables)
    names, crcs = b"\n".join(members), page_crcs(content)
    length = _BLOCK.size + len(names) + len(crcs) + len(content)
    slots = [len(table) // (CELL_BYTES * len(members)) for table in tables]
    head = _BLOCK.pack(_MAGIC, length, len(members), len(names), *slots, 0)[:_CRC_AT]
    crc = crc32(crcs, crc32(names, crc32(head)))
    return b"".join((head, crc.to_bytes(4, "little"), names, crcs, content))


def check_filter_header(raw: bytes | memoryview, store_id: bytes) -> None:
    """Raise FormatFault if it is not the filter of this store."""
    if decode_file_header(bytes(raw[:FILE_HEADER_BYTES])) != FileHeader(KIND_FILTER, 0, store_id, 0, 0):
        raise FormatFault("it is not the filter of this store")


def find_blocks(raw: bytes | memoryview) -> list[int]:
    """Return where blocks seem to begin, and where the last one ends."""
    at = FILE_HEADER_BYTES
    found = [at]
    while at + _BLOCK.size <= len(raw):
        magic, length = _START.unpack_from(raw, at)
        at += length
        if magic != _MAGIC or length < _BLOCK.size or at > len(raw):
            break
        found.append(at)
    return found


def members_at(raw: bytes | memoryview, at: int) -> list[Identity]:
    """Return the segments of what seems to be a block, unchecked."""
    length = int.from_bytes(raw[at + 12 : at + 16], "little")
    return bytes(raw[at + _BLOCK.size : at + _BLOCK.size + length]).split(b"\n")


def maybe_decode_block(raw: bytes | memoryview, at: int, end: int) -> Block | None:
    """Decode a block. Its tables are not checked, all else is: None if it is damaged."""
    _, _, count, names_bytes, types, streams, ids, tags, crc = _BLOCK.unpack_from(raw, at)
    names_at = at + _BLOCK.size
    crcs_at = names_at + names_bytes
    width = CELL_BYTES * count
    content_bytes = (types + streams + ids + tags) * width
    tables_at = crcs_at + 4 * -(-content_bytes // PAGE_BYTES)
    if tables_at + content_bytes != end:
        return None
    if crc32(raw[names_at:tables_at], crc32(raw[at : at + _CRC_AT])) != crc:
        return None
    members = bytes(raw[names_at:crcs_at]).split(b"\n")
    if types & types - 1 | streams & streams - 1 | ids & ids - 1 | tags & tags - 1:
        return None
    if len(members) != count or count > MAX_MEMBERS:
        return None
    streams_at = tables_at + types * width
    ids_at = streams_at + streams * width
    tables = {
        KIND_TYPES: (tables_at, types),
        KIND_STREAMS: (streams_at, streams),
        KIND_IDS: (ids_at, ids),
        KIND_TAGS: (ids_at + ids * width, tags),
    }
    return Block(at, end, members, crcs_at, tables_at, tables)


def decode_blocks(raw: bytes | memoryview, store_id: bytes) -> tuple[list[Block], int]:
    """Return the blocks of a filter, and where the last whole one ends; their tables are not checked.

    Raises:
        FormatFault: it is not the filter of this store.
    """
    check_filter_header(raw, store_id)
    blocks: list[Block] = []
    ends = find_blocks(raw)
    for at, end in pairwise(ends):
        block = maybe_decode_block(raw, at, end)
        if block is None:
            return blocks, at
        blocks.append(block)
    return blocks, ends[-1]


def filter_keys(kind: int, hashes: Sequence[int]) -> Sequence[int]:
    """Return the keys of streams, types, ids or tags with these hashes."""
    if kind == KIND_STREAMS:
        return [hash & 0xFFFFFFFF for hash in hashes]
    return [hash >> 32 for hash in hashes] if kind == KIND_TAGS else hashes


def shift_of(slots: int) -> int:
    """Return by how many bits a key is shifted to get its slot."""
    return 33 - slots.bit_length()


def lowest_bits(cells: int) -> int:
    """Return the lowest bit of each of some cells, as one number."""
    return int.from_bytes(b"\1\0" * cells, "little")


def find_key(key: int, tables: Sequence[tuple[int, int, memoryview]], bits: int) -> Sequence[int]:
    """Return the numbers of the segments that may have one key, counted through the tables of all blocks.

    All tables at once take half the time of one after another.

    Args:
        tables: each with the shift from a key to its slot, and the size of a slot in bytes.
        bits: `lowest_bits` of the cells that a key has in all tables together.
    """
    mask = _TWO_BITS[key & 31] | _TWO_BITS[key >> 5 & 31] << 8
    if bits == 1:  # of one segment: in a third of the time
        shift, width, table = tables[0]
        at = (key >> shift) * width
        return _FIRST if (table[at] | table[at + 1] << 8) & mask == mask else ()
    cells = [table[(at := (key >> shift) * width) : at + width] for shift, width, table in tables]
    return _zeros(_lacking(b"".join(cells), mask * bits))


def _lacking(cells: bytes | memoryview, wanted: int) -> bytes:
    """Return a byte for each cell: 0 if it has all of its wanted bits."""
    lacking = (int.from_bytes(cells, "little") & wanted) ^ wanted
    return (lacking | lacking >> 8).to_bytes(len(cells), "little")[::CELL_BYTES]


def _zeros(raw: bytes) -> list[int]:
    """Return the indexes of the bytes that are 0."""
    found = []
    at = raw.find(0)
    while at >= 0:
        found.append(at)
        at = raw.find(0, at + 1)
    return found


def fill_table(keys: Iterable[int]) -> bytes:
    """Return the table of these keys."""
    keys = array("I", keys)
    if not keys:
        return b""
    wanted = len(keys) * (4 if len(keys) <= _SMALL_TABLE_KEYS else 2)
    slots = min(max(1 << (wanted - 1).bit_length(), _MIN_SLOTS), _MAX_SLOTS)
    table = array("H", bytes(CELL_BYTES * slots))
    for slot, mask in zip(_slots_of(keys, slots), _masks_of(keys), strict=True):
        table[slot] |= mask
    return table.tobytes()


def _slots_of(keys: array[int], slots: int) -> list[int]:
    """Return the slot of each key, in a third of the time of shifting one by one."""
    shift, size = shift_of(slots), 4 * len(keys)
    lower = int.from_bytes((slots - 1).to_bytes(4, "little") * len(keys), "little")
    shifted = int.from_bytes(keys.tobytes(), "little") >> shift & lower
    return memoryview(shifted.to_bytes(size, "little")).cast("I").tolist()


def _masks_of(keys: array[int]) -> array[int]:
    """Return the bits that each key sets in its slot, in a tenth of the time of looking each up."""
    raw, masks = keys.tobytes(), bytearray(CELL_BYTES * len(keys))
    masks[0::2] = raw[0::4].translate(_TWO_BITS)
    shifted = int.from_bytes(raw, "little") >> 5
    masks[1::2] = shifted.to_bytes(len(raw), "little")[0::4].translate(_TWO_BITS)
    return array("H", bytes(masks))


class LookUp:
    """Looks the same keys up in one block after another, in C: 0.1 to 0.2 µs for a key and block.

    Tables of one shape have a key in the same slot: so the slots are computed once for each shape. The cells
    of all keys are compared as one number: in a third of the time of comparing those of each key. The cells
    of a slot are fetched as one number where there is such a type, else as a slice, whose making costs more.
    """

    __slots__ = ("_fetchers", "_masks", "_wanted", "keys")

    def __init__(self, keys: Sequence[int]) -> None:
        self.keys = array("I", keys)
        self._masks = _masks_of(self.keys)
        self._wanted: dict[int, int] = {}
        self._fetchers: dict[tuple[int, int], Callable[[Any], Sequence[Any]]] = {}

    def find(self, table: bytes | memoryview, count: int = 1) -> list[list[int]]:
        """Return, for each of the `count` segments of a table, the indexes of the keys that it may have."""
        if not (len(table) and self.keys):
            return [[] for _ in range(count)]
        lacking = _lacking(self._cells(table, CELL_BYTES * count), self._wanted_bits(count))
        return [_zeros(lacking[number::count]) for number in range(count)]

    def are_all_in(self, table: bytes | memoryview) -> bool:
        """Return whether one segment may have all of the keys, of which there is at least one."""
        wanted = self._wanted_bits(1)
        return len(table) > 0 and int.from_bytes(self._cells(table, CELL_BYTES), "little") & wanted == wanted

    def _cells(self, table: bytes | memoryview, width: int) -> bytes:
        """Return the cells of the slots of all keys; those of a slot have `width` bytes together."""
        slots, code = len(table) // width, _CODES.get(width)
        shape = slots, 1 if code else width
        fetcher = self._fetchers.get(shape)
        if fetcher is None:
            places: list[Any] = _slots_of(self.keys, slots)
            if not code:
                places = [slice(at, at + width) for at in [place * width for place in places]]
            # With one item only, it would return no tuple.
            fetcher = self._fetchers[shape] = itemgetter(*places, places[0])
        if code:
            numbers = memoryview(table).cast(code)  # type: ignore[call-overload]
            return array(code, fetcher(numbers)[:-1]).tobytes()
        return b"".join(fetcher(table)[:-1])

    def _wanted_bits(self, count: int) -> int:
        """Return the bits of each key, once for each of `count` segments, as one number."""
        bits = self._wanted.get(count)
        if bits is None:
            cells = array("H", bytes(CELL_BYTES * count * len(self.keys)))
            with memoryview(cells) as view, memoryview(self._masks) as masks:
                for number in range(count):
                    view[number::count] = masks
            bits = self._wanted[count] = int.from_bytes(cells.tobytes(), "little")
        return bits
