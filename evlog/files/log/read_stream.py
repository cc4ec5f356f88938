"""Reading one stream: by version and time, forwards and backwards. Takes no lock, creates no file.

1. A read sees the log as it was when the read began, and what the stream's policy leaves visible.
2. The index names the stream's entries. Bounds are found by bisection among them, and records confirm them.
3. Hashes collide: a record of another stream is left out, and where there are some, nothing is bisected.
4. If a compaction replaces a segment during a read, the read continues after what it has yielded.
"""

from __future__ import annotations

import time
from bisect import bisect_left

from evlog.files.format.hashes import hash_stream
from evlog.files.format.headers import KIND_STREAMS
from evlog.files.log.crafted import without_crafted_content
from evlog.files.log.parts import ActivePart, SealedPart, SegmentMoved
from evlog.files.log.read import as_events
from evlog.files.log.segment import read_together
from evlog.model.retention import first_visible_version, visible_since_us

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from typing import Final

    from evlog.files.log.log import Log
    from evlog.files.log.parts import Part
    from evlog.files.log.segment import Segment
    from evlog.model.events import Event, Record
    from evlog.model.redaction import Redacted
    from evlog.model.retention import Rule

# So few events of a stream are read at once, whichever of them are wanted.
_FEW_EVENTS: Final = 32


class Bounds:
    """Which events of a stream a read is about. Versions are inclusive, `until_us` is exclusive."""

    __slots__ = ("first_version", "last_version", "since_us", "until_us")

    def __init__(
        self,
        first_version: int = 1,
        last_version: int | None = None,
        since_us: int | None = None,
        until_us: int | None = None,
    ) -> None:
        self.first_version = first_version
        self.last_version = last_version
        self.since_us = since_us
        self.until_us = until_us

    @property
    def hide_nothing(self) -> bool:
        """Whether every event is within."""
        return self.first_version <= 1 and self.last_version is self.since_us is self.until_us is None

    def include(self, records: Sequence[Record]) -> bool:
        """Return whether all of these neighbours are within, by the first one and the last one."""
        if self.hide_nothing:
            return True
        ends = records[0], records[-1]
        return all(map(self.begun_by, ends)) and not any(map(self.passed_by, ends))

    def begun_by(self, record: Record) -> bool:
        """Return whether the record is not before the first; once true, it is true for all that follow."""
        return record[1] >= self.first_version and (self.since_us is None or record[5] >= self.since_us)

    def passed_by(self, record: Record) -> bool:
        """Return whether the record is after the last."""
        version, until_us = self.last_version, self.until_us
        return (version is not None and record[1] > version) or (
            until_us is not None and record[5] >= until_us
        )


def read_stream(
    log: Log,
    stream: str,
    bounds: Bounds,
    types: Collection[str] | None,
    *,
    reverse: bool,
    limit: int | None,
    tags: Collection[str] = (),
    content: Callable[[Record], bool] | None = None,
) -> Iterator[Event]:
    """Iterate over the visible events of one stream within the bounds, of these types, with all these tags
    and this content, in version order.
    """
    few = _FEW_EVENTS if limit is None else max(1, min(limit, _FEW_EVENTS))
    batches: Iterator[Sequence[Record]] = _stream_batches(log, stream, bounds, reverse, few)
    if types is not None:
        batches = ([record for record in records if record[3] in types] for records in batches)
    if tags:
        from evlog.model.tags import tag_matcher

        has_tags = tag_matcher(tags)
        batches = (list(filter(has_tags, records)) for records in batches)
    if content is not None:
        batches = (list(filter(content, records)) for records in batches)
    return as_events(without_crafted_content(batches, log.store), limit)


def _stream_batches(
    log: Log, stream: str, bounds: Bounds, reverse: bool, few: int
) -> Iterator[Sequence[Record]]:
    """Iterate over a stream's records by version, in batches that grow, mostly of those in the bounds."""
    stream_hash = hash_stream(stream)
    reached: int | None = None  # everything up to (in reverse: down to) this position was yielded
    damage = log.damage
    if damage is not None and reverse:
        raise damage
    rule_known = False
    redacted: Redacted | None = None
    while True:
        try:
            if not rule_known:
                policies = log.policies()
                if policies.any and (rule := policies.rule_for(stream)) is not None:
                    bounds = _within_rule(log, stream, stream_hash, rule, bounds)
                redacted = policies.redacted
                rule_known = True
            segments = _segments(log, stream, stream_hash, bounds, reverse)
            for records in _records(segments, reached, reverse, few):
                # Hashes may collide.
                own: Sequence[Record] = [record for record in records if record[2] == stream]
                if redacted is not None:
                    own = redacted.records(own)
                if own:
                    yield own if bounds.include(own) else _within(own, bounds)
                    reached = own[-1][0]
            break
        except SegmentMoved:
            log.refresh()
    if damage is not None:
        raise damage


def _records(
    segments: Iterator[tuple[Part, Sequence[int], range]], reached: int | None, reverse: bool, few: int
) -> Iterator[Sequence[Record]]:
    """Iterate over the records at the places in the segments, in batches; few of many segments are one."""
    waiting: list[tuple[Segment, Sequence[int]]] = []
    count = 0
    for part, numbers, places in segments:
        if reached is not None:
            places = _beyond(part, numbers, places, reached, reverse)
        if not places:
            continue
        if reverse:
            places = places[::-1]
        if count + len(places) <= few:
            waiting.append((part.segment, [numbers[place] for place in places]))
            count += len(places)
            if count == few:
                yield from read_together(waiting)
                waiting, count = [], 0
        else:
            if waiting:
                yield from read_together(waiting)
                waiting, count = [], 0
            yield from part.segment.records(
                numbers, places if len(places) < len(numbers) or reverse else None, few
            )
    if waiting:
        yield from read_together(waiting)


def _within_rule(log: Log, stream: str, stream_hash: int, rule: Rule, bounds: Bounds) -> Bounds:
    """Return the part of the bounds that the rule leaves visible now."""
    first, last = bounds.first_version, bounds.last_version
    since_us, until_us = bounds.since_us, bounds.until_us
    last_version = 0
    if rule.max_count is not None or rule.tombstone:
        last_version = log.find_version(stream, stream_hash)
        # Later events are left out: the last N are counted from here.
        last = last_version if last is None else min(last, last_version)
    visible_us = visible_since_us(rule, time.time_ns() // 1000)
    if visible_us is not None:
        since_us = max(visible_us, since_us or 0)
    return Bounds(max(first, first_visible_version(rule, last_version)), last, since_us, until_us)


def _segments(
    log: Log, stream: str, stream_hash: int, bounds: Bounds, reverse: bool
) -> Iterator[tuple[Part, Sequence[int], range]]:
    """Iterate over the segments that may hold events within the bounds, in order.

    Yields:
        A segment, its entries of streams with the hash, and the places among these to read.
    """
    parts = [(part, part.count) for part in log.stream_parts(stream_hash)]  # the newest one first
    if reverse:
        for part, count in parts:
            numbers, places = _select(part, count, stream, stream_hash, bounds)
            yield part, numbers, places
            if places.start > 0:
                return  # some are before the bounds: so are those of earlier segments
        return
    known = {}
    at, step = 0, 1
    if bounds.first_version > 1 or bounds.since_us is not None:
        # Back in growing steps: of a thousand segments, a page needs a few.
        while True:
            known[at] = _select(*parts[at], stream, stream_hash, bounds)
            if known[at][1].start > 0 or at == len(parts) - 1:
                break
            at, step = min(at + step, len(parts) - 1), 2 * step
    else:
        at = len(parts) - 1
    for place in range(at, -1, -1):
        part, count = parts[place]
        numbers, places = known.get(place) or _select(part, count, stream, stream_hash, bounds)
        yield part, numbers, places
        if places.stop < len(numbers):
            return  # some are after the bounds: so are those of later segments


def _select(
    part: Part, count: int, stream: str, stream_hash: int, bounds: Bounds
) -> tuple[Sequence[int], range]:
    """Return a segment's entries of streams with the hash, and the places of those within the bounds."""
    numbers = part.index.find(KIND_STREAMS, stream_hash)
    # A range, because a slice of many numbers would be a copy.
    places = range(bisect_left(numbers, count) if isinstance(part, ActivePart) else len(numbers))
    if not places or bounds.hide_nothing:
        return numbers, places
    return numbers, _narrowed(part, numbers, places, stream, bounds)


def _beyond(part: Part, numbers: Sequence[int], places: range, reached: int, reverse: bool) -> range:
    """Return the places that were not yielded yet, where a compaction has replaced segments meanwhile."""
    if not part.first_position <= reached <= part.last_position:
        is_passed = part.first_position > reached if reverse else part.last_position < reached
        return range(0) if is_passed else places
    number = part.segment.number_of(reached if reverse else reached + 1)
    at = bisect_left(places, number, key=numbers.__getitem__)
    return places[:at] if reverse else places[at:]


def _within(records: Sequence[Record], bounds: Bounds) -> list[Record]:
    return [record for record in records if bounds.begun_by(record) and not bounds.passed_by(record)]


def _narrowed(part: Part, numbers: Sequence[int], places: range, stream: str, bounds: Bounds) -> range:
    """Return the places without most of those outside the bounds, by bisection; all, if hashes collide.

    Where some are left out, a record has confirmed it.
    """
    by_version = bounds.since_us is None and bounds.until_us is None
    if isinstance(part, SealedPart):
        since_us, until_us = bounds.since_us, bounds.until_us
        if since_us is not None and part.info.last_time_us < since_us:
            return places[len(places) :]
        if until_us is not None and part.info.first_time_us >= until_us:
            return places[:0]
    if len(places) <= _FEW_EVENTS and not by_version:
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
        if by_version:
            # The version in an entry is a guess. Versions rise, so one record on each side confirms it.
            low, high = 0, len(places)
            if bounds.first_version > 1:
                low = _guessed_place(part, numbers, places, bounds.first_version)
            if bounds.last_version is not None:
                high = max(low, _guessed_place(part, numbers, places, bounds.last_version + 1))
            if (low == 0 or not begun(places[low - 1])) and (high == len(places) or passed(places[high])):
                return places[low:high]
        low = bisect_left(places, True, key=begun)
        return places[low : bisect_left(places, True, low, key=passed)]
    except _MixedStreams:
        return places


def _guessed_place(part: Part, numbers: Sequence[int], places: range, version: int) -> int:
    """Return the index of the first place whose entry has this version or a later one."""
    version_in = part.segment.version_in_entry
    at = version - version_in(numbers[places[0]])
    if at >= len(places) and version_in(numbers[places[-1]]) < version:
        return len(places)
    if 0 <= at < len(places) and version_in(numbers[places[at]]) == version:
        return at  # versions have no gaps, but where hashes collide
    return bisect_left(places, version, key=lambda place: version_in(numbers[place]))


class _MixedStreams(Exception):
    """Two streams share a hash in this segment, so the versions do not rise."""
