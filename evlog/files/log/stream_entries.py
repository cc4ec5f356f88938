"""Where the entries of one stream are, across the segments of the log; kept from one page to the next."""

from __future__ import annotations

from bisect import bisect_left

from evlog.files.format.headers import KIND_STREAMS
from evlog.files.log.segment import LEAST_RUN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from evlog.files.log.parts import LogState, Part
    from evlog.files.log.segment import InMemory
    from evlog.model.redaction import Redacted

    Found = tuple[bytes | bytearray | memoryview, InMemory, int]
    """The entries and the log of a segment, and the number of an entry."""

_MOST_KEPT: Final = 8  # segments of which a stream's entries are kept: their index stays mapped


class StreamEntries:
    """Where the entries of one stream are, and of others with its hash, as of one state of the log.

    The segments that may hold the stream are counted from 0, the oldest; the last is the active one. The
    entries of segments that were searched are only added, so threads share this without a lock.
    """

    __slots__ = (
        "_count", "_found", "_hash", "_places", "_state", "_versions",
        "has_rule", "last", "may_be_direct", "redacted", "stream",
    )  # fmt: skip

    def __init__(
        self,
        stream: str,
        stream_hash: int,
        state: LogState,
        places: list[int],
        redacted: Redacted | None,
        *,
        has_rule: bool,
    ) -> None:
        self.stream = stream
        self.redacted = redacted
        self.has_rule = has_rule
        self._hash = stream_hash
        self._state = state
        self._count = state.active.count
        self._places = places  # of the sealed ones, rising
        self.last = len(places)  # the number of the active segment
        # Whether to try `maybe_find_direct`: where it found nothing, a page without it takes 0.8 µs less.
        self.may_be_direct = bool(places)
        self._found: dict[int, tuple[Part, Sequence[int], int]] = {}
        self._versions: dict[int, int] = {}

    def are_of(self, stream: str, state: LogState) -> bool:
        """Return whether these are the entries of the stream, and nothing has changed since."""
        return stream == self.stream and state is self._state and state.active.segment.count == self._count

    def maybe_find_direct(self, most: int) -> list[Found] | None:
        """Return the entries in the sealed segments, but at most `most`; None if a segment cannot be
        looked up directly, or has neighbours, which are read as one.
        """
        key, found = self._hash, []
        for part in self._state.sealed.at(self._places):
            direct = part.direct or part.maybe_direct()
            if direct is None:
                return None
            keys, starts, postings, rows, log = direct
            at = bisect_left(keys, key)
            if at < len(keys) and keys[at] == key:
                start, end = starts[at], starts[at + 1]
                if end - start == 1:
                    found.append((rows, log, postings[start]))
                else:
                    numbers = postings[start:end]
                    if end - start > LEAST_RUN and numbers[-1] - numbers[0] == end - start - 1:
                        return None
                    found += [(rows, log, number) for number in numbers[: most - len(found)]]
                if len(found) == most:
                    break
        return found

    def within(self, number: int) -> tuple[Part, Sequence[int], int]:
        """Return a segment, its entries, and how many of these there are now."""
        known = self._found.get(number)
        if known is None:
            places, state = self._places, self._state
            if number < len(places):
                part: Part = state.sealed[places[number]]
                entries = part.index.find(KIND_STREAMS, self._hash)
                size = len(entries)
            else:
                part = state.active
                entries = part.index.find(KIND_STREAMS, self._hash)
                size = bisect_left(entries, self._count)
            if len(self._found) >= _MOST_KEPT:
                self._found = {}
            known = self._found[number] = part, entries, size
        return known

    def find_version(self, version: int) -> tuple[int, int]:
        """Return the segment that a version must be in, and which of its entries it must have: a guess.

        The search goes back in growing steps: of a thousand segments, it opens a few, and mostly only the
        newest.
        """
        low, high, step = self.last, self.last + 1, 1
        first = self._first_version(low)
        while low and not 0 < first <= version:
            low, high, step = max(low - step, 0), low, 2 * step
            first = self._first_version(low)
        while high - low > 1:
            middle = (low + high) // 2
            first_there = self._first_version(middle)
            if first_there <= version:
                low, first = middle, first_there
            else:
                high = middle
        return low, max(version - first, 0)

    def _first_version(self, number: int) -> int:
        """Return the version in the first entry of a segment; 0 if there is none."""
        version = self._versions.get(number)
        if version is None:
            part, entries, size = self.within(number)
            version = self._versions[number] = part.segment.version_in_entry(entries[0]) if size else 0
        return version

    def find_last(self, events: int) -> tuple[int, int]:
        """Return the segment of the first of the last `events` entries, and its index among that one's."""
        number = self.last
        total = self.within(number)[2]
        while number and total < events:
            number -= 1
            total += self.within(number)[2]
        return number, max(total - events, 0)

    def count_from(self, number: int, low: int, most: int) -> int:
        """Return how many entries there are from one of them on; those after `most` need not be counted."""
        total = self.within(number)[2] - low
        while total < most and number < self.last:
            number += 1
            total += self.within(number)[2]
        return total
