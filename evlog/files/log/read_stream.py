"""Reading one stream: by version and time, forwards and backwards. Takes no lock, creates no file.

1. A read sees the log as it was when the read began, and what the stream's policy leaves visible.
2. The index names the stream's entries. Bounds are found by bisection among them, and records confirm them.
3. Hashes collide: a record of another stream is left out, and where there are some, nothing is bisected.
4. If a compaction replaces a segment during a read, the read continues after what it has yielded.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from itertools import chain, islice

from evlog.errors import CorruptionError, EvlogError
from evlog.files.format.frames import unpack_records
from evlog.files.format.hashes import hash_stream
from evlog.files.format.headers import KIND_STREAMS
from evlog.files.log.crafted import SENSELESS, senseless
from evlog.files.log.parts import SealedPart, SegmentMoved
from evlog.files.log.segment import BYTES_AT_ONCE, RECORDS_AT_ONCE
from evlog.model.events import Event
from evlog.model.retention import first_visible_version, visible_since_us

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from typing import Final

    from evlog.files.log.log import Log
    from evlog.files.log.parts import Part
    from evlog.model.events import Record
    from evlog.model.retention import Rule

_FIRST_EVENTS: Final = 64  # read at once before anybody has asked for the second one; later more
_FEW_EVENTS: Final = 32  # so few events of a segment are read at once, whichever of them are wanted


class Bounds:
    """Which events of a stream a read is about. Versions are inclusive, `until_us` is exclusive.

    `hide_nothing`: every event is within.
    """

    __slots__ = ("first_version", "hide_nothing", "last_version", "since_us", "until_us")

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
        self.hide_nothing = first_version <= 1 and last_version is since_us is until_us is None

    def of(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return those of these neighbours that are within: mostly all, as the first and the last one say."""
        one, other = records[0], records[-1]
        is_begun = self.begun_by(one) and self.begun_by(other)
        if is_begun and not (self.passed_by(one) or self.passed_by(other)):
            return records
        return [record for record in records if self.begun_by(record) and not self.passed_by(record)]

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
    wanted: list[Callable[[Record], bool]] = []
    if types is not None:
        wanted.append(lambda record: record[3] in types)
    if tags:
        from evlog.model.tags import tag_matcher

        wanted.append(tag_matcher(tags))
    if content is not None:
        wanted.append(content)
    return chain.from_iterable(_batches(log, stream, bounds, wanted, reverse, limit))


def _batches(
    log: Log,
    stream: str,
    asked: Bounds,
    wanted: Sequence[Callable[[Record], bool]],
    reverse: bool,
    limit: int | None,
) -> Iterator[Iterator[Event]]:
    """Iterate over the events in batches; no Python code runs between two events of a batch."""
    if limit == 0:
        return
    try:
        damage = log.damage
        if damage is not None and reverse:
            raise damage
        stream_hash = hash_stream(stream)
        bounds, policies = asked, log.policies()
        if policies.any and (rule := policies.rule_for(stream)) is not None:
            bounds = log.retry_on_compaction(lambda: _within_rule(log, stream, stream_hash, rule, asked))
        redacted = policies.redacted
        few = _FIRST_EVENTS if limit is None or limit > _FIRST_EVENTS else limit
        guesses = bounds.first_version > 1 and bounds.since_us is None and not reverse
        find = _guessed_records if guesses else _records
        for records in find(log, stream, stream_hash, bounds, reverse, few):
            # Hashes may collide.
            own: Sequence[Record] = [record for record in records if record[2] == stream]
            if redacted is not None:
                own = redacted.records(own)
            if own and not bounds.hide_nothing:
                own = bounds.of(own)
            for matches in wanted:
                own = list(filter(matches, own))
            if limit is not None:
                own = own[:limit]
                limit -= len(own)
            yield map(Event, own)
            if limit == 0:
                return
        if damage is not None:
            raise damage
    except EvlogError:
        raise
    except (OSError, *SENSELESS) as error:
        raise senseless(error, log.store) from error


def _guessed_records(
    log: Log, stream: str, stream_hash: int, bounds: Bounds, reverse: bool, few: int
) -> Iterator[tuple[Record, ...]]:
    """Iterate over the same records as `_records`, without a look at what is before the first version."""
    found = _records(log, stream, stream_hash, bounds, reverse, few, guesses=True)
    for records in found:
        if records[0][2] == stream and records[0][1] == bounds.first_version:  # all before it are less
            yield records
            yield from found
            return
        break
    yield from _records(log, stream, stream_hash, bounds, reverse, few)


def _records(
    log: Log,
    stream: str,
    stream_hash: int,
    bounds: Bounds,
    reverse: bool,
    few: int,
    *,
    guesses: bool = False,
) -> Iterator[tuple[Record, ...]]:
    """Iterate over records of the stream, and of others with its hash, in batches, the first one of a few.

    Of a stream in ten segments, a batch is decoded in half the time of ten.
    """
    raws: list[bytes] = []
    step = few
    reached: int | None = None  # everything up to (in reverse: down to) this position was yielded
    while True:
        try:
            for part, numbers, places in _segments(log, stream, stream_hash, bounds, reverse, guesses):
                if reached is not None:
                    places = _beyond(part, numbers, places, reached, reverse)
                low, high = places.start, places.stop
                while low < high:
                    room = step - len(raws)
                    if reverse:
                        chunk = numbers[max(low, high - room) : high][::-1]
                        high -= len(found := part.segment.raws(chunk))
                    else:
                        chunk = numbers[low : min(low + room, high)]
                        low += len(found := part.segment.raws(chunk))
                    raws += found
                    is_whole = len(raws) == step or len(found) < len(chunk)
                    if is_whole or (len(raws) > len(found) and sum(map(len, raws)) > BYTES_AT_ONCE):
                        records = unpack_records(raws)
                        reached = records[-1][0]
                        yield records
                        raws, step = [], RECORDS_AT_ONCE
            break
        except SegmentMoved:
            raws, guesses = [], False
            log.refresh()
        except CorruptionError:
            if raws:
                yield unpack_records(raws)
            raise
    if raws:
        yield unpack_records(raws)


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
    log: Log, stream: str, stream_hash: int, bounds: Bounds, reverse: bool, guesses: bool
) -> Iterator[tuple[Part, Sequence[int], range]]:
    """Iterate over the segments that may hold events within the bounds, in order.

    Yields:
        A segment, its entries of streams with the hash, and the places among these to read. If it `guesses`,
        the first record has to confirm where these begin.
    """
    newest_first = log.stream_parts(stream_hash)
    if reverse:
        for part in newest_first:
            numbers, places = _select(part, part.count, stream, stream_hash, bounds, guesses)
            yield part, numbers, places
            if places.start > 0:
                return  # some are before the bounds: so are those of earlier segments
        return
    parts = [(part, part.count) for part in islice(newest_first, 1)]
    known = {}
    at = 0
    if bounds.first_version > 1 or bounds.since_us is not None:
        # Back in growing steps: of a thousand segments, a page needs a few; mostly the newest one.
        step = 1
        while True:
            known[at] = _select(*parts[at], stream, stream_hash, bounds, guesses)
            if known[at][1].start > 0:
                break
            if at == 0:
                parts += [(part, part.count) for part in newest_first]
            if at == len(parts) - 1:
                break
            at, step = min(at + step, len(parts) - 1), 2 * step
    else:
        parts += [(part, part.count) for part in newest_first]
        at = len(parts) - 1
    for place in range(at, -1, -1):
        part, count = parts[place]
        numbers, places = known.get(place) or _select(part, count, stream, stream_hash, bounds, guesses)
        yield part, numbers, places
        if places.stop < len(numbers):
            return  # some are after the bounds: so are those of later segments


def _select(
    part: Part, count: int, stream: str, stream_hash: int, bounds: Bounds, guesses: bool
) -> tuple[Sequence[int], range]:
    """Return a segment's entries of streams with the hash, and the places of those within the bounds."""
    numbers = part.index.find(KIND_STREAMS, stream_hash)
    # A range, because a slice of many numbers would be a copy.
    has_newer = numbers and numbers[-1] >= count
    places = range(bisect_left(numbers, count) if has_newer else len(numbers))
    if not places or bounds.hide_nothing:
        return numbers, places
    if guesses and bounds.last_version is bounds.until_us is None:
        low = _guessed_place(part, numbers, places, bounds.first_version)
        if low < len(places):
            return numbers, places[low:]
    return numbers, _narrowed(part, numbers, places, stream, bounds)


def _beyond(part: Part, numbers: Sequence[int], places: range, reached: int, reverse: bool) -> range:
    """Return the places that were not yielded yet, where a compaction has replaced segments meanwhile."""
    if not part.first_position <= reached <= part.last_position:
        is_passed = part.first_position > reached if reverse else part.last_position < reached
        return range(0) if is_passed else places
    number = part.segment.number_of(reached if reverse else reached + 1)
    at = bisect_left(places, number, key=numbers.__getitem__)
    return places[:at] if reverse else places[at:]


def _narrowed(part: Part, numbers: Sequence[int], places: range, stream: str, bounds: Bounds) -> range:
    """Return the places without most of those outside the bounds, by bisection; all, if hashes collide.

    Where some are left out, a record has confirmed it.
    """
    since_us, until_us = bounds.since_us, bounds.until_us
    by_version = since_us is until_us is None
    if isinstance(part, SealedPart):
        if since_us is not None and part.info.last_time_us < since_us:
            return places[len(places) :]
        if until_us is not None and part.info.first_time_us >= until_us:
            return places[:0]
    if len(places) <= _FEW_EVENTS and not by_version:
        return places

    def own_record(place: int) -> Record:
        record = part.segment.record(numbers[place])
        if record[2] != stream:
            raise _MixedStreams
        return record

    try:
        if by_version:
            # The version in an entry is a guess. Versions rise, so one record on each side confirms it.
            first, last = bounds.first_version, bounds.last_version
            low, high = 0, len(places)
            if first > 1:
                low = _guessed_place(part, numbers, places, first)
            if last is not None:
                high = max(low, _guessed_place(part, numbers, places, last + 1))
            if (low == 0 or own_record(low - 1)[1] < first) and (
                last is None or high == len(places) or own_record(high)[1] > last
            ):
                return places[low:high]
        low = bisect_left(places, True, key=lambda place: bounds.begun_by(own_record(place)))
        return places[
            low : bisect_left(places, True, low, key=lambda place: bounds.passed_by(own_record(place)))
        ]
    except _MixedStreams:
        return places


def _guessed_place(part: Part, numbers: Sequence[int], places: range, version: int) -> int:
    """Return the first of the places, which begin with 0, whose entry has this version or a later one."""
    version_in = part.segment.version_in_entry
    at, count = version - version_in(numbers[0]), len(places)
    if at >= count and version_in(numbers[count - 1]) < version:
        return count
    if 0 <= at < count and version_in(numbers[at]) == version:
        return at  # versions have no gaps, but where hashes collide
    return bisect_left(places, version, key=lambda place: version_in(numbers[place]))


class _MixedStreams(Exception):
    """Two streams share a hash in this segment, so the versions do not rise."""
