"""The sorted indexes .streams, .types and .ids."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable
from itertools import accumulate
from typing import Final, NamedTuple
from zlib import crc32

from evlog.files.format.entries import column
from evlog.files.format.headers import FILE_HEADER_BYTES, KIND_IDS, FileHeader, encode_file_header

PAGE_BYTES: Final = 4096


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
    upper = column(entries, "id_hash_upper")
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
