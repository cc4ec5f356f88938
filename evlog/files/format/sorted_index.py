"""The sorted indexes `.streams`, `.types`, `.ids` and `.tags`: made once, of a sealed segment.

A file header, then

    keys      sorted: u64 hashes of streams, of types or of tags | u32 hashes of ids
    starts    u32 x (keys + 1), not in .ids: where each key's postings begin; the last: where all end
    postings  u32: entry numbers, rising within a key (in .ids: one a key)
    CRCs      u32 for every 4,096 bytes between the file header and here

The header's source CRC is that of the `.offsets` entries, so an index of other entries is recognized as
stale. `.tags` has a posting for each tag of each event, and is there only if any event has one; the hashes
are in no entry, so it is made of the records of the events that have tags by their entries.
"""

from __future__ import annotations

from array import array
from itertools import accumulate, count
from zlib import crc32

from evlog.files.format.entries import column, column_array
from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    KIND_IDS,
    KIND_STREAMS,
    KIND_TAGS,
    KIND_TYPES,
    FileHeader,
    encode_file_header,
)
from evlog.model.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

PAGE_BYTES: Final = 4096
SORTED_SUFFIXES: Final = {KIND_STREAMS: "streams", KIND_TYPES: "types", KIND_IDS: "ids"}
WITH_TAGS: Final = SORTED_SUFFIXES | {KIND_TAGS: "tags"}
_NUMBER_BITS: Final = 30  # a log of 4 GiB has fewer events; with a hash above them the float is finite
_NUMBER_MASK: Final = ((1 << _NUMBER_BITS) - 1).to_bytes(8, "little")
COLUMN: Final = {KIND_STREAMS: "stream_hash", KIND_TYPES: "type_hash", KIND_IDS: "id_hash"}  # of .offsets


def suffixes_of(tagged_events: int) -> dict[int, str]:
    """Return the suffixes of a sealed segment's sorted indexes by kind."""
    return WITH_TAGS if tagged_events else SORTED_SUFFIXES


class SortedShape(NamedTuple):
    """Where the parts of a sorted index begin, in bytes from the start of the file."""

    keys_at: int
    starts_at: int
    postings_at: int
    crcs_at: int
    file_bytes: int


def sorted_shape(kind: int, keys: int, postings: int) -> SortedShape:
    """Return the layout of a sorted index with these numbers of keys and postings."""
    starts_at = FILE_HEADER_BYTES + keys * (4 if kind == KIND_IDS else 8)
    postings_at = starts_at + (0 if kind == KIND_IDS else 4 * (keys + 1))
    crcs_at = postings_at + 4 * postings
    pages = -(-(crcs_at - FILE_HEADER_BYTES) // PAGE_BYTES)
    return SortedShape(FILE_HEADER_BYTES, starts_at, postings_at, crcs_at, crcs_at + 4 * pages)


def page_crcs(content: bytes | memoryview) -> bytes:
    """Return the CRC of every 4,096 bytes, as u32s."""
    return array(
        "I", (crc32(content[at : at + PAGE_BYTES]) for at in range(0, len(content), PAGE_BYTES))
    ).tobytes()


def build_sorted(header: FileHeader, entries: bytes | bytearray | memoryview) -> bytes:
    """Return the whole file, of the header's kind, for a sealed segment's entries."""
    if header.kind == KIND_IDS:
        keys, postings = sort_ids(entries)
        return encode_sorted(header, keys, None, postings)
    keys, starts, postings = group_entries(column(entries, COLUMN[header.kind]))
    return encode_sorted(header, keys, starts, postings)


def build_tags(header: FileHeader, rows: Iterable[tuple[int, int]]) -> bytes:
    """Return the file `.tags`, made of hashes of tags, each with the number of its event's entry, rising."""
    pairs = list(rows)
    grouped = group_entries((key for key, _ in pairs), (number for _, number in pairs))
    return encode_sorted(header._replace(kind=KIND_TAGS), *grouped)


def encode_sorted(
    header: FileHeader, keys: array[int], starts: array[int] | None, postings: array[int]
) -> bytes:
    """Return a whole file; `header` says what it belongs to, its counts are filled in here."""
    header = header._replace(keys=len(keys), postings=len(postings))
    content = keys.tobytes() + (starts.tobytes() if starts is not None else b"") + postings.tobytes()
    return encode_file_header(header) + content + page_crcs(content)


def sort_ids(entries: bytes | bytearray | memoryview) -> tuple[array[int], array[int]]:
    """Return the keys and postings of .ids for a segment's entries.

    Each hash and its entry's number are the bits of one positive float, and floats are in the order of their
    bits. So one sort without a key does, and all else is a pass in C: 0.3 µs an event, where sorting the
    numbers by a key takes 0.7.
    """
    hashes = column_array(entries, "id_hash")
    count, size = len(hashes), 8 * len(hashes)
    rows = _widened(hashes) << _NUMBER_BITS | _widened(array("I", range(count)))
    floats = memoryview(rows.to_bytes(size, "little")).cast("d").tolist()
    floats.sort()
    rows = int.from_bytes(array("d", floats).tobytes(), "little")
    numbers = rows & int.from_bytes(_NUMBER_MASK * count, "little")
    return _narrowed(rows >> _NUMBER_BITS, size), _narrowed(numbers, size)


def _widened(values: array[int]) -> int:
    """Return the bits of u64s with these values, one after the other."""
    rows = bytearray(8 * len(values))
    with memoryview(rows) as view, view.cast("I") as narrow:
        narrow[0::2] = memoryview(values)
    return int.from_bytes(rows, "little")


def _narrowed(rows: int, size: int) -> array[int]:
    """Return the lower half of each u64."""
    with memoryview(rows.to_bytes(size, "little")) as view, view.cast("I") as narrow:
        return array("I", narrow[0::2].tobytes())


def group_entries(
    keys: Iterable[int], numbers: Iterable[int] | None = None
) -> tuple[array[int], array[int], array[int]]:
    """Return the keys, starts and postings of a file for the key of each entry.

    In C: twice as fast as a loop.

    Args:
        numbers: of the entries, rising; None: the keys are of all entries, a column of them.
    """
    from collections import defaultdict, deque
    from functools import partial

    groups: defaultdict[int, array[int]] = defaultdict(partial(array, "I"))
    deque(map(array.append, map(groups.__getitem__, keys), count() if numbers is None else numbers), maxlen=0)
    order = sorted(groups)
    lists = [groups[key] for key in order]
    starts = array("I", accumulate(map(len, lists), initial=0))
    return array("Q", order), starts, array("I", b"".join(lists))
