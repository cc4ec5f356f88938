"""Look-ups by tags: which entries of a segment may have all of some tags.

1. An entry has a few bits for its event's tags. Searched in C, they name candidates; the record decides. This
   needs no other file, and serves the active segment, and a sealed one whose .tags cannot be used.
2. A process that looks up tags repeatedly reads those of the active segment once, into a dict.
3. A sealed segment has .tags; entries in the postings of all tags are the candidates.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from itertools import chain, compress

from evlog.errors import CorruptionError
from evlog.files.format.entries import ENTRY_BYTES, column, column_bytes
from evlog.files.format.hashes import hash_tags, tag_bits
from evlog.files.log.column_index import as_numbers, group_numbers
from evlog.process.forks import register_fork_reset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Final

    from evlog.files.log.column_index import Entries, Groups
    from evlog.files.log.segment import Segment

_NONE: Final[tuple[int, ...]] = ()
# A dict pays when as many entries were searched as this many times the whole segment: to read the tags of an
# event costs about that much.
_SEARCHES_BEFORE_DICT: Final = 64
_FEW_TIMES: Final = 16
_FEW_ENTRIES: Final = 256
_SHORT: Final = 128  # reading this many records is quicker than a look into another list
_has_bits: dict[int, bytes] = {}  # for some bits of a byte: a table of 1 for each byte that has them all


def find_in_entries(entries: Entries, hashes: Sequence[int], low: int, high: int) -> list[int]:
    """Return the entries from low to below high that may have tags with all these hashes, rising."""
    bits = tag_bits(hashes)
    count = high - low
    # A slice of a bytearray is a copy: a writer may extend the original meanwhile.
    rows = entries if isinstance(entries, bytearray) else memoryview(entries)
    words = column_bytes(rows[low * ENTRY_BYTES : high * ENTRY_BYTES], "tags")
    found = -1
    for at in range(4):  # each byte of the words by itself: all are looked at in a few steps of C
        wanted = bits >> 8 * at & 255
        if wanted:
            table = _has_bits.get(wanted)
            if table is None:
                table = _has_bits[wanted] = bytes(byte & wanted == wanted for byte in range(256))
            found &= int.from_bytes(words[at::4].translate(table), "little")
    flags = (found & ((1 << 8 * count) - 1)).to_bytes(count, "little")
    numbers = []
    at = flags.find(1)
    while at >= 0:
        numbers.append(low + at)
        at = flags.find(1, at + 1)
    return numbers


def in_all(lists: Sequence[Sequence[int]]) -> Sequence[int]:
    """Return the numbers that are in all lists, which rise; or all of a short one, as the record decides."""
    shortest, *others = sorted(lists, key=len)
    for other in others if len(shortest) > _SHORT else ():
        if len(shortest) * _FEW_TIMES < len(other):
            shortest = [number for number in shortest if _holds(other, number)]
        else:
            shortest = sorted(set(shortest).intersection(other))
    return shortest


def _holds(numbers: Sequence[int], number: int) -> bool:
    at = bisect_left(numbers, number)
    return at < len(numbers) and numbers[at] == number


def read_tags(segment: Segment, entries: Entries, low: int, high: int) -> Iterator[tuple[int, int]]:
    """Iterate over the hashes of the tags of the events from low to below high, with the entry's number.

    Raises:
        CorruptionError: an event with tags is damaged.
    """
    bits = column(entries[low * ENTRY_BYTES : high * ENTRY_BYTES], "tags")
    numbers = list(compress(range(low, high), bits))
    if numbers:
        records = chain.from_iterable(segment.records(numbers))
        for number, record in zip(numbers, records, strict=True):
            for hash in set(hash_tags(record[8])):
                yield hash, number


class ActiveTags:
    """Look-ups by tags in a segment that grows and never shrinks. Its dict may lack the last few entries."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._searched = 0  # entries; a guess is enough: threads count without a lock
        # How many entries have their tags in the dict, and the dict, by hash. Replaced whole, with the mutex;
        # read without it. Empty while the dict grows: what an interrupt leaves half done is built again.
        self._grown: tuple[int, Groups] = (0, {})
        self._mutex = threading.Lock()
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Renew the mutex in a forked child, and drop what another thread may have been growing."""
        self._mutex = threading.Lock()
        self._grown = 0, {}

    def find(self, hashes: Sequence[int], low: int, high: int) -> Sequence[int]:
        """Return the entries from low to below high that may have tags with all these hashes, rising."""
        known, groups = self.prepare(low, high)
        if not known:
            self._searched += high - low
        if known <= low:
            return find_in_entries(self._segment.entries, hashes, low, high)
        found = in_all([as_numbers(groups.get(hash, _NONE)) for hash in hashes])
        found = found[bisect_left(found, low) : bisect_left(found, min(known, high))]
        if known < high:  # to search a few new entries costs less than to add them
            found = [*found, *find_in_entries(self._segment.entries, hashes, known, high)]
        return found

    def prepare(self, low: int, high: int) -> tuple[int, Groups]:
        """Build the dict, or extend it, where a look-up from low to below high needs it: 2 µs for each event.

        Returns:
            How many entries are in the dict, and the dict.
        """
        grown = self._grown
        pays = grown[0] or self._searched >= _SEARCHES_BEFORE_DICT * high
        if pays and max(grown[0], low) + _FEW_ENTRIES < high:
            try:
                with self._mutex:
                    grown = self._grow(high)
            except CorruptionError:  # of an event that need not be one of those
                pass
        return grown

    def _grow(self, high: int) -> tuple[int, Groups]:
        known, groups = grown = self._grown
        if known < high:
            rows = list(read_tags(self._segment, self._segment.entries, known, high))
            self._grown = 0, {}
            group_numbers(groups, [hash for hash, _ in rows], [number for _, number in rows])
            grown = self._grown = high, groups
        return grown
