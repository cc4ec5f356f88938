"""Reading: by stream, by position, by type and time, forwards and backwards. Takes no lock, creates no file.

A read sees the log as it was when the read began, up to the last whole frame. Records are decoded a frame at
a time, or one by one where an index leads to them, so memory does not grow with the log. Should a
compaction remove a segment under a read, the read goes on behind what it has yielded.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from evlog.errors import InvalidArgument
from evlog.events import Event, Record, category_of
from evlog.format import KIND_STREAMS, KIND_TYPES, hash_stream, hash_type
from evlog.log import ActivePart, Log, Part, SealedPart, SegmentMoved

# Up to this share of a segment its events of a type are fetched one by one; beyond, reading all is faster.
_FETCH_SHARE: Final = 4
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Selection(NamedTuple):
    """Which events of the log a read is about. Positions are inclusive, `until_us` is exclusive."""

    first_position: int = 1
    last_position: int | None = None
    category: str | None = None
    types: frozenset[str] | None = None
    since_us: int | None = None
    until_us: int | None = None

    def matcher(self) -> Callable[[Record], bool] | None:
        """What a record must satisfy beyond its place in the log; None if nothing."""
        category, types = self.category, self.types
        if category is None and types is None:
            return None
        if category is None:
            return lambda record: record[3] in types  # type: ignore[operator]
        prefix = category + "-"
        if types is None:
            return lambda record: record[2].startswith(prefix) or record[2] == category
        return lambda record: record[3] in types and category_of(record[2]) == category


def microseconds(moment: datetime | None) -> int | None:
    """A moment as µs since 1970.

    Raises:
        InvalidArgument: it has no time zone.
    """
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise InvalidArgument(f"{moment.isoformat()} has no time zone; give an aware datetime")
    difference = moment - _EPOCH  # in UTC: within one zone Python subtracts clock faces
    return (difference.days * 86_400 + difference.seconds) * 1_000_000 + difference.microseconds


def read_log(log: Log, selection: Selection, *, reverse: bool, limit: int | None) -> Iterator[Event]:
    """The selected events in global order."""
    return _limited(_flatten(_batches(log, selection, reverse)), limit)


def read_stream(
    log: Log,
    stream: str,
    first_version: int,
    last_version: int | None,
    selection: Selection,
    *,
    reverse: bool,
    limit: int | None,
) -> Iterator[Event]:
    """The selected events of one stream in version order."""
    versions = (first_version, last_version)
    batches: Iterator[Sequence[Record]] = _stream_batches(log, stream, versions, reverse)
    if versions != (1, None):
        batches = _in_versions(batches, versions)
    if selection.types is not None:
        types = selection.types
        batches = ([record for record in records if record[3] in types] for records in batches)
    if selection.since_us is not None or selection.until_us is not None:
        batches = _in_times(batches, selection.since_us or 0, selection.until_us)
    return _limited(_flatten(batches), limit)


# --- the whole log


def _batches(log: Log, selection: Selection, reverse: bool) -> Iterator[Iterable[Record]]:
    """The selected records, some at a time. Goes on where it was when segments move under it."""
    low, high = selection.first_position, log.head
    if selection.last_position is not None and selection.last_position <= high:
        high = selection.last_position
        damage = None
    else:
        damage = log.damage
    if damage is not None and reverse:
        raise damage
    while low <= high:
        bounded = selection._replace(first_position=low, last_position=high)
        try:
            parts = _view(log)
            for part, count in reversed(parts) if reverse else parts:
                if part.last_position < low or part.first_position > high or not count:
                    continue
                yield from _part_batches(part, count, bounded, reverse)
                if reverse:
                    high = min(high, part.first_position - 1)
                else:
                    low = max(low, part.last_position + 1)
            break
        except SegmentMoved:
            log.refresh()
    if damage is not None:
        raise damage


def _view(log: Log) -> list[tuple[Part, int]]:
    with log.mutex:
        return [(part, part.count) for part in log.parts()]


def _part_batches(part: Part, count: int, selection: Selection, reverse: bool) -> Iterator[Iterable[Record]]:
    """The selected records of one segment."""
    bounds = _entry_bounds(part, count, selection)
    if bounds is None:
        return
    low, high = bounds
    segment = part.segment
    matches = selection.matcher()
    if selection.types is not None:
        numbers = _numbers_of_types(part, selection.types, low, high)
        if len(numbers) * _FETCH_SHARE <= high - low:
            for records in segment.records(numbers[::-1] if reverse else numbers):
                yield records if matches is None else list(filter(matches, records))
            return
    batches = segment.scan_back(low, high) if reverse else segment.scan(low, high)
    if matches is None:
        yield from batches
        return
    for records in batches:
        yield [record for record in records if matches(record)]


def _entry_bounds(part: Part, count: int, selection: Selection) -> tuple[int, int] | None:
    """The entries of a segment between the selection's positions and times; None if there are none."""
    since, until = selection.since_us, selection.until_us
    if isinstance(part, SealedPart):
        info = part.info
        if since is not None and info.last_time_us < since:
            return None
        if until is not None and info.first_time_us >= until:
            return None
    segment = part.segment
    low = segment.number_of(selection.first_position)
    high = count
    if selection.last_position is not None:
        high = min(high, segment.number_of(selection.last_position + 1))
    if since is not None:
        low = max(low, segment.number_at_time(since, count))
    if until is not None:
        high = min(high, segment.number_at_time(until, count))
    return (low, high) if low < high else None


def _numbers_of_types(part: Part, types: Collection[str], low: int, high: int) -> list[int]:
    numbers: list[int] = []
    for type in types:
        numbers += part.index.find(KIND_TYPES, hash_type(type))
    return sorted(number for number in set(numbers) if low <= number < high)


def _flatten(batches: Iterable[Iterable[Record]]) -> Iterator[Event]:
    for records in batches:
        yield from map(Event, records)


def _limited(events: Iterator[Event], limit: int | None) -> Iterator[Event]:
    if limit is None:
        return events
    from itertools import islice

    return islice(events, limit)


# --- one stream

Versions = tuple[int, int | None]


def _stream_batches(log: Log, stream: str, versions: Versions, reverse: bool) -> Iterator[Sequence[Record]]:
    """A stream's records by version, some at a time; where an index allows, only those in the bounds."""
    stream_hash = hash_stream(stream)
    reached: int | None = None  # the position up to (or, in reverse, down to) which everything was yielded
    damage = log.damage
    if damage is not None and reverse:
        raise damage
    while True:
        try:
            parts = [(part, part.count) for part in log.stream_parts(stream_hash)]
            for part, count in parts if reverse else reversed(parts):
                if not count or (reached is not None and _is_passed(part, reached, reverse)):
                    continue
                numbers = part.index.find(KIND_STREAMS, stream_hash)
                if isinstance(part, ActivePart):
                    numbers = numbers[: bisect_left(numbers, count)]
                if reached is not None:
                    numbers = _beyond(part, numbers, reached, reverse)
                if not numbers:
                    continue
                numbers = _narrowed(part, numbers, stream, versions)
                for records in part.segment.records(numbers[::-1] if reverse else numbers):
                    own = [record for record in records if record[2] == stream]  # hashes may collide
                    if own:
                        yield own
                        reached = own[-1][0]
            break
        except SegmentMoved:
            log.refresh()
    if damage is not None:
        raise damage


def _is_passed(part: Part, reached: int, reverse: bool) -> bool:
    return part.first_position >= reached if reverse else part.last_position <= reached


def _beyond(part: Part, numbers: Sequence[int], reached: int, reverse: bool) -> Sequence[int]:
    """Without the entries that were yielded, out of a segment that a compaction has merged with this one."""
    if not part.first_position <= reached <= part.last_position:
        return numbers
    if reverse:
        return numbers[: bisect_left(numbers, part.segment.number_of(reached))]
    return numbers[bisect_left(numbers, part.segment.number_of(reached + 1)) :]


def _narrowed(part: Part, numbers: Sequence[int], stream: str, versions: Versions) -> Sequence[int]:
    """Without the entries below and above the versions, found by bisection; all, if hashes collide."""
    first, last = versions
    if first <= 1 and last is None:
        return numbers

    def version_at(number: int) -> int:
        record = part.segment.record(number)
        if record[2] != stream:
            raise _MixedStreams
        return record[1]

    try:
        low = bisect_left(numbers, first, key=version_at)
        high = len(numbers) if last is None else bisect_right(numbers, last, key=version_at)
    except _MixedStreams:
        return numbers
    return numbers[low:high]


class _MixedStreams(Exception):
    """Two streams share a hash in this segment: their versions do not rise together."""


def _in_versions(batches: Iterator[Sequence[Record]], versions: Versions) -> Iterator[Sequence[Record]]:
    """Those with a version in the bounds; needed where hashes collide, and the index could not tell."""
    first, last = versions
    for records in batches:
        yield [record for record in records if first <= record[1] and (last is None or record[1] <= last)]


def _in_times(
    batches: Iterator[Sequence[Record]], since: int, until: int | None
) -> Iterator[Sequence[Record]]:
    for records in batches:
        yield [record for record in records if since <= record[5] and (until is None or record[5] < until)]
