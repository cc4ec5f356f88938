"""The file `filter`: which sealed segments may hold a stream, a type, an id or a tag.

One file for all segments, so that a look-up opens it and the few segments that it names. A file header of
kind 8, then one block a segment, appended when the segment was sealed, in any order:

    offset  size  block
         0     4  magic  "evFB"
         4     4  length of the block in bytes
         8     8  first position
        16     4  generation
        20     4  tag
        24    16  slots of the tables of streams, types, ids and tags, u32 each
        40     4  CRC of bytes 0..39, then of the page CRCs
        44        page CRCs: u32 for every 4,096 bytes of the tables
                  tables of streams, types, ids and tags: one byte a slot

A key has 32 bits: the lower half of a stream's hash, the upper half of a tag's, or a type's or id's hash. Its
slot is that number times the number of slots, divided by 2^32. The byte there is 0 if the segment has no key
of this slot, 255 if it has several, else 1 + key mod 254. Of absent keys, one of 37 is taken for one that may
be there in a large table (4 slots a key), and one of 450 in a small one (16 slots a key), whose bytes matter
less.

First position, generation and tag identify what a segment holds. A block of another identity is stale and
ignored; a segment without a block, or with a damaged one, is looked into. The file is derived: damage costs
time only. Blocks are appended or the file is replaced, never changed or cut, because readers map it.
"""

from __future__ import annotations

from itertools import compress
from operator import itemgetter
from struct import Struct
from zlib import crc32

from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    KIND_FILTER,
    KIND_STREAMS,
    KIND_TAGS,
    KIND_TYPES,
    FileHeader,
    FormatFault,
    NewerFormat,
    decode_file_header,
    encode_file_header,
)
from evlog.files.format.sorted_index import PAGE_BYTES, page_crcs
from evlog.model.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Final

    Identity = tuple[int, int, int]
    """A segment's first position, generation and tag."""

_BLOCK: Final = Struct("<4sIQIIIIIII")
_MAGIC: Final = b"evFB"
_CRC_AT: Final = 40
_SMALL_TABLE_KEYS: Final = 4096
MARKS: Final = 254
SEVERAL: Final = 255


class Block(NamedTuple):
    """Where a block and its parts are in the file; of the tables each one's offset and number of slots."""

    start: int
    end: int
    crcs_at: int
    tables_at: int
    streams: tuple[int, int]
    types: tuple[int, int]
    ids: tuple[int, int]
    tags: tuple[int, int]

    def table(self, kind: int) -> tuple[int, int]:
        """Return the offset and the number of slots of the table of streams, types, ids or tags."""
        if kind == KIND_STREAMS:
            return self.streams
        return self.types if kind == KIND_TYPES else self.tags if kind == KIND_TAGS else self.ids


def encode_filter_header(store_id: bytes) -> bytes:
    """Return the header of the file."""
    return encode_file_header(FileHeader(KIND_FILTER, 0, store_id, 0, 0))


def encode_block(identity: Identity, *keys: Sequence[int]) -> bytes:
    """Return the block of a segment.

    Args:
        identity: first position, generation and tag.
        keys: of its streams, types, ids and tags, 32 bits each; repetitions do no harm.
    """
    tables = list(map(fill_table, keys))
    content = b"".join(tables)
    crcs = page_crcs(content)
    length = _BLOCK.size + len(crcs) + len(content)
    head = _BLOCK.pack(_MAGIC, length, *identity, *map(len, tables), 0)[:_CRC_AT]
    return b"".join((head, crc32(crcs, crc32(head)).to_bytes(4, "little"), crcs, content))


def decode_blocks(raw: bytes | memoryview, store_id: bytes) -> tuple[dict[Identity, Block], int]:
    """Find the blocks of a filter; a later one of the same segment replaces the one before.

    Returns:
        The blocks by the identity of their segment, and where the last whole one ends. Their tables are not
        checked.

    Raises:
        FormatFault: it is not the filter of this store.
    """
    try:
        header = decode_file_header(bytes(raw[:FILE_HEADER_BYTES]))
    except NewerFormat as newer:
        raise FormatFault(str(newer)) from None
    if header != FileHeader(KIND_FILTER, 0, store_id, 0, 0):
        raise FormatFault("it is not the filter of this store")
    blocks: dict[Identity, Block] = {}
    at = FILE_HEADER_BYTES
    while at + _BLOCK.size <= len(raw):
        magic, length, position, generation, tag, streams, types, ids, tags, crc = _BLOCK.unpack_from(raw, at)
        crcs_at = at + _BLOCK.size
        content_bytes = streams + types + ids + tags
        tables_at = crcs_at + 4 * -(-content_bytes // PAGE_BYTES)
        if magic != _MAGIC or length != tables_at + content_bytes - at or at + length > len(raw):
            break
        if crc32(raw[crcs_at:tables_at], crc32(raw[at : at + _CRC_AT])) != crc:
            break
        blocks[position, generation, tag] = Block(
            at,
            at + length,
            crcs_at,
            tables_at,
            (tables_at, streams),
            (tables_at + streams, types),
            (tables_at + streams + types, ids),
            (tables_at + streams + types + ids, tags),
        )
        at += length
    return blocks, at


def filter_key(kind: int, hash: int) -> int:
    """Return the key of a stream's, type's, id's or tag's hash."""
    return hash & 0xFFFFFFFF if kind == KIND_STREAMS else hash >> 32 if kind == KIND_TAGS else hash


def fill_table(keys: Iterable[int]) -> bytearray:
    """Return the table of these keys."""
    keys = list(keys)
    slots = len(keys) * (16 if len(keys) <= _SMALL_TABLE_KEYS else 4)
    table = bytearray(slots)
    for key in keys:
        slot = key * slots >> 32
        table[slot] = SEVERAL if table[slot] else key % MARKS + 1
    return table


class LookUp:
    """Looks the same keys up in one table after another.

    Tables of one size have a key in the same slot: so the slots are computed once for each size, and their
    bytes are fetched in C. A key costs 0.1 µs in each table, instead of 0.3 µs.
    """

    __slots__ = ("_fetchers", "keys")

    def __init__(self, keys: Sequence[int]) -> None:
        self.keys = keys
        self._fetchers: dict[int, Callable[[Any], Sequence[int]]] = {}  # by the number of slots

    def find(self, table: bytes | bytearray | memoryview) -> list[int]:
        """Return the indexes of the keys that may be in the table."""
        slots, keys = len(table), self.keys
        if not (slots and keys):
            return []
        fetch = self._fetchers.get(slots)
        if fetch is None:
            first, *others = (key * slots >> 32 for key in keys)
            # With one item only, it would return no tuple.
            fetch = self._fetchers[slots] = itemgetter(first, *others or (first,))
        marks = fetch(table)
        return [
            at
            for at in compress(range(len(keys)), marks)
            if marks[at] == SEVERAL or marks[at] == keys[at] % MARKS + 1
        ]
