"""Reading: by stream, by position, by type and time, forwards and backwards. Takes no lock, creates no file.

A read sees the log as it was when the read began, up to the last whole frame. Records are decoded a frame at
a time, or one by one where an index leads to them, so memory does not grow with the log. Should a
compaction remove a segment under a read, the read goes on behind what it has yielded.

A stream shows what its policy leaves visible; the whole log shows all that is there, but for the store's own
events, which have to be asked for.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import chain, islice
from typing import Final, NamedTuple

from evlog.errors import InvalidArgument
from evlog.files.format.hashes import hash_stream, hash_type
from evlog.files.format.headers import KIND_STREAMS, KIND_TYPES
from evlog.files.log.crafted import without_crafted_content
from evlog.files.log.log import ActivePart, Log, Part, SealedPart, SegmentMoved
from evlog.model.events import SYSTEM_PREFIX, Event, Record, category_of
from evlog.model.retention import Rule, first_visible_version, visible_since_us

# Up to this share of a segment its events of a type are fetched one by one; beyond, reading all is faster.
_FETCH_SHARE: Final = 4
# So few events of a stream are fetched at once, whichever of them are wanted.
_FEW_EVENTS: Final = 32
# So few entries of the active segment are read faster than all of its columns are searched.
_SEARCH_MORE_THAN: Final = 2048
# So few are read faster one by one than frame by frame, where most frames are single events.
_RECORDS_AT_MOST: Final = 256
_as_events: Final[Callable[[Iterable[Record]], Iterator[Event]]] = partial(map, Event)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Selection(NamedTuple):
    """Which events of the log a read is about. Positions are inclusive, `until_us` is exclusive.

    `include_system`: also the store's own events, those of streams that begin with `$`.
    `newest_singly`: a few of the newest events are read each by its own CRC, without their frames' headers:
    what a follower reads every few milliseconds was written by processes that live.
    """

    first_position: int = 1
    last_position: int | None = None
    category: str | None = None
    types: frozenset[str] | None = None
    since_us: int | None = None
    until_us: int | None = None
    include_system: bool = False
    stream: str | None = None
    newest_singly: bool = False

    def matcher(self, *, has_system: bool = True) -> Callable[[Record], bool] | None:
        """What a record must satisfy beyond its place in the log; None if nothing.

        Args:
            has_system: whether there may be events of the store's own among the records.
        """
        matches = self._stream_category_and_types()
        if self.include_system or not has_system or self.stream is not None:
            return matches
        if matches is None:
            return lambda record: record[2][0] != SYSTEM_PREFIX
        return lambda record: matches(record) and record[2][0] != SYSTEM_PREFIX

    def _stream_category_and_types(self) -> Callable[[Record], bool] | None:
        stream, category, types = self.stream, self.category, self.types
        if stream is not None:
            return lambda record: record[2] == stream and (types is None or record[3] in types)
        if category is None and types is None:
            return None
        if category is None:
            return lambda record: record[3] in types  # type: ignore[operator]
        prefix = category + "-"
        if types is None:
            return lambda record: record[2].startswith(prefix) or record[2] == category
        return lambda record: record[3] in types and category_of(record[2]) == category


class Bounds(NamedTuple):
    """Which events of a stream a read is about. Versions are inclusive, `until_us` is exclusive."""

    first_version: int = 1
    last_version: int | None = None
    since_us: int | None = None
    until_us: int | None = None

    def begun_by(self, record: Record) -> bool:
        """Whether the record is not before the first; true for all that follow one for which it is."""
        return record[1] >= self.first_version and (self.since_us is None or record[5] >= self.since_us)

    def passed_by(self, record: Record) -> bool:
        """Whether the record is behind the last."""
        version, until_us = self.last_version, self.until_us
        return (version is not None and record[1] > version) or (
            until_us is not None and record[5] >= until_us
        )


_UNBOUNDED: Final = Bounds()


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
    return _limited(_flatten(without_crafted_content(_batches(log, selection, reverse), log.store)), limit)


def read_stream(
    log: Log,
    stream: str,
    bounds: Bounds,
    types: Collection[str] | None,
    *,
    reverse: bool,
    limit: int | None,
) -> Iterator[Event]:
    """The visible events of one stream within the bounds, of these types, in version order."""
    few = _FEW_EVENTS if limit is None else max(1, min(limit, _FEW_EVENTS))
    batches: Iterator[Sequence[Record]] = _stream_batches(log, stream, bounds, reverse, few)
    if types is not None:
        batches = ([record for record in records if record[3] in types] for records in batches)
    return _limited(_flatten(without_crafted_content(batches, log.store)), limit)


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
            parts = _view(log, low, high)
            for part, count, has_system in reversed(parts) if reverse else parts:
                if part.last_position < low or part.first_position > high or not count:
                    continue
                matches = bounded.matcher(has_system=has_system)
                yield from _part_batches(part, count, bounded, matches, reverse)
                if reverse:
                    high = min(high, part.first_position - 1)
                else:
                    low = max(low, part.last_position + 1)
            break
        except SegmentMoved:
            log.refresh()
    if damage is not None:
        raise damage


def _view(log: Log, low: int, high: int) -> list[tuple[Part, int, bool]]:
    """The segments with these positions, with the number of events, and whether some are the store's own."""
    with log.mutex:
        own = log.policies().system_numbers
        sealed, active = log.view()
        # A follower reads a few events at a time, of a store that may have thousands of segments.
        first = bisect_left(sealed, low, key=lambda part: part.last_position)
        last = bisect_right(sealed, high, key=lambda part: part.first_position)
        parts: list[Part] = [*sealed[first:last], active]
        places = [*range(first, last), len(sealed)]
        return [(part, part.count, bool(own(place))) for part, place in zip(parts, places, strict=True)]


def _part_batches(
    part: Part,
    count: int,
    selection: Selection,
    matches: Callable[[Record], bool] | None,
    reverse: bool,
) -> Iterator[Iterable[Record]]:
    """The selected records of one segment."""
    bounds = _entry_bounds(part, count, selection)
    if bounds is None:
        return
    low, high = bounds
    segment = part.segment
    numbers = _maybe_numbers(part, selection, low, high)
    if numbers is not None and len(numbers) * _FETCH_SHARE <= high - low:
        for records in segment.records(numbers[::-1] if reverse else numbers):
            yield records if matches is None else list(filter(matches, records))
        return
    if reverse:
        batches: Iterator[Sequence[Record]] = segment.scan_back(low, high)
    elif selection.newest_singly and isinstance(part, ActivePart) and high - low <= _RECORDS_AT_MOST:
        batches = segment.records(range(low, high))
    else:
        batches = segment.scan(low, high)
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


def _maybe_numbers(part: Part, selection: Selection, low: int, high: int) -> Sequence[int] | None:
    """The entries from low to high that an index names for the selection, rising; None: look at all."""
    if selection.stream is not None:
        kind, keys = KIND_STREAMS, [hash_stream(selection.stream)]
    elif selection.types is not None:
        kind, keys = KIND_TYPES, list(map(hash_type, selection.types))
    else:
        return None
    if isinstance(part, ActivePart) and high - low <= _SEARCH_MORE_THAN:
        return None
    numbers: list[int] = []
    for key in keys:
        found = part.index.find(kind, key)
        numbers += found[bisect_left(found, low) : bisect_left(found, high)]
    return numbers if len(keys) == 1 else sorted(set(numbers))


def _flatten(batches: Iterable[Iterable[Record]]) -> Iterator[Event]:
    return chain.from_iterable(map(_as_events, batches))  # no step of Python between two events of a batch


def _limited(events: Iterator[Event], limit: int | None) -> Iterator[Event]:
    return events if limit is None else islice(events, limit)


# --- one stream


def _stream_batches(
    log: Log, stream: str, bounds: Bounds, reverse: bool, few: int
) -> Iterator[Sequence[Record]]:
    """A stream's records by version, a few, then more at a time; if an index allows, only in the bounds."""
    stream_hash = hash_stream(stream)
    reached: int | None = None  # the position up to (or, in reverse, down to) which everything was yielded
    damage = log.damage
    if damage is not None and reverse:
        raise damage
    rule_known = False
    while True:
        try:
            if not rule_known:
                policies = log.policies()
                if policies.any and (rule := policies.rule_for(stream)) is not None:
                    bounds = _within_rule(log, stream, stream_hash, rule, bounds)
                rule_known = True
            parts = [(part, part.count) for part in log.stream_parts(stream_hash)]
            for part, count in parts if reverse else reversed(parts):
                if not count or (reached is not None and _is_passed(part, reached, reverse)):
                    continue
                numbers = part.index.find(KIND_STREAMS, stream_hash)
                is_growing = isinstance(part, ActivePart)
                # A range, because a slice of many numbers would be a copy.
                places = range(bisect_left(numbers, count) if is_growing else len(numbers))
                if reached is not None:
                    places = _beyond(part, numbers, places, reached, reverse)
                if bounds != _UNBOUNDED:
                    places = _narrowed(part, numbers, places, stream, bounds)
                if not places:
                    continue
                among = places[::-1] if reverse else places if len(places) < len(numbers) else None
                for records in part.segment.records(numbers, among, few):
                    own = [record for record in records if record[2] == stream]  # hashes may collide
                    if own:
                        yield own if bounds == _UNBOUNDED else _within(own, bounds)
                        reached = own[-1][0]
            break
        except SegmentMoved:
            log.refresh()
    if damage is not None:
        raise damage


def _within_rule(log: Log, stream: str, stream_hash: int, rule: Rule, bounds: Bounds) -> Bounds:
    """The bounds, as far as the rule leaves something of the stream visible now."""
    first, last, since_us, until_us = bounds
    last_version = 0
    if rule.max_count is not None or rule.tombstone:
        last_version = log.find_version(stream, stream_hash)
        # What comes later stays out: how many of the last ones are visible is counted from here.
        last = last_version if last is None else min(last, last_version)
    visible_us = visible_since_us(rule, time.time_ns() // 1000)
    if visible_us is not None:
        since_us = max(visible_us, since_us or 0)
    return Bounds(max(first, first_visible_version(rule, last_version)), last, since_us, until_us)


def _is_passed(part: Part, reached: int, reverse: bool) -> bool:
    return part.first_position >= reached if reverse else part.last_position <= reached


def _beyond(part: Part, numbers: Sequence[int], places: range, reached: int, reverse: bool) -> range:
    """The places without what was yielded, out of a segment that a compaction has merged with this one."""
    if not part.first_position <= reached <= part.last_position:
        return places
    if reverse:
        return places[: bisect_left(numbers, part.segment.number_of(reached))]
    return places[bisect_left(numbers, part.segment.number_of(reached + 1)) :]


def _within(records: list[Record], bounds: Bounds) -> list[Record]:
    return [record for record in records if bounds.begun_by(record) and not bounds.passed_by(record)]


def _narrowed(part: Part, numbers: Sequence[int], places: range, stream: str, bounds: Bounds) -> range:
    """The places without most of those outside the bounds, found by bisection; all, if hashes collide."""
    if isinstance(part, SealedPart):
        since_us, until_us = bounds.since_us, bounds.until_us
        if since_us is not None and part.info.last_time_us < since_us:
            return range(0)
        if until_us is not None and part.info.first_time_us >= until_us:
            return range(0)
    if len(places) <= _FEW_EVENTS:
        return places

    def begun(place: int) -> bool:
        return bounds.begun_by(own_record(place))

    def passed(place: int) -> bool:
        return bounds.passed_by(own_record(place))

    def own_record(place: int) -> Record:
        record = part.segment.record(numbers[place])
        if record[2] != stream:
            raise _MixedStreams
        return record

    try:
        if bounds.since_us is None and bounds.until_us is None:
            low, high = _guessed(part, numbers, places, bounds)
            is_end = bounds.last_version is None  # then nothing is passed
            if _turns_at(low, places, begun) and (is_end or _turns_at(high, places, passed)):
                return range(low, high)
        low = bisect_left(places, True, key=begun)
        return range(low, bisect_left(places, True, low, key=passed))
    except _MixedStreams:
        return places


def _guessed(part: Part, numbers: Sequence[int], places: range, bounds: Bounds) -> tuple[int, int]:
    """Where the bounds are by the versions in entries, for records to confirm: four instead of forty."""
    version_in = part.segment.version_in_entry
    first, last = bounds.first_version, bounds.last_version

    def version(place: int) -> int:
        return version_in(numbers[place])

    low, high = 0, len(places)
    if first > 1:
        low = high if version(high - 1) < first else bisect_left(places, first, key=version)
    if last is not None and low < high and version(high - 1) > last:
        high = bisect_right(places, last, low, key=version)
    return low, high


def _turns_at(at: int, places: range, holds: Callable[[int], bool]) -> bool:
    """Whether what holds from some place on begins to hold at `at`."""
    return (at == 0 or not holds(at - 1)) and (at == len(places) or holds(at))


class _MixedStreams(Exception):
    """Two streams share a hash in this segment: their versions do not rise together."""
