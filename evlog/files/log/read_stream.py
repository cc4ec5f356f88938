"""Reading one stream: by version and time, forwards and backwards. Takes no lock, creates no file.

1. A read sees the log as it was when the read began, and what the stream's policy leaves visible.
2. The index names the stream's entries. Bounds are found by bisection among them, and records confirm them.
3. Hashes collide: a record of another stream is left out, and where there are some, nothing is bisected.
4. If a compaction replaces a segment during a read, the read continues after what it has yielded.
"""

from __future__ import annotations

from bisect import bisect_left
from operator import countOf, itemgetter
from zlib import crc32

from evlog.errors import CorruptionError, EvlogError
from evlog.files.format.entries import ENTRY_BYTES, ENTRY_PLACE
from evlog.files.format.frames import unpack_records
from evlog.files.format.hashes import hash_stream
from evlog.files.log.crafted import SENSELESS, senseless
from evlog.files.log.parts import SealedPart, SegmentMoved
from evlog.files.log.segment import BYTES_AT_ONCE, RECORDS_AT_ONCE
from evlog.model.events import BatchedEvents, Event, now_ns
from evlog.model.retention import first_visible_version, visible_since_us

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from typing import Final

    from evlog.files.log.log import Log
    from evlog.files.log.parts import Part
    from evlog.files.log.stream_entries import StreamEntries
    from evlog.model.events import Record
    from evlog.model.retention import Rule

_FIRST_EVENTS: Final = 64  # in the first batch of a general read: a caller may stop after one event
_FEW_EVENTS: Final = 32  # so few events of a segment are read at once, whichever of them are wanted
_stream_of: Final = itemgetter(2)


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
        if self.since_us is self.until_us is None:
            one, other = records[0][1], records[-1][1]
            last = self.last_version
            if self.first_version <= min(one, other) and (last is None or max(one, other) <= last):
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
    few = _FIRST_EVENTS if limit is None else min(limit, _FIRST_EVENTS)
    return BatchedEvents.of(_batches(log, stream, bounds, wanted, reverse, few), limit)


def maybe_read_few(
    log: Log, stream: str, first: int, last: int | None, *, reverse: bool, limit: int | None
) -> Iterator[Event] | None:
    """Return at most 256 events, selected by version alone, as `read_stream` does, or None.

    A page takes half the time of `read_stream`: this has no generators, and keeps the places of the stream's
    entries for the next page. Unusual cases are left to `read_stream`: a policy, a guess that a record does
    not confirm, hashes that collide, damage, a segment that a compaction replaces meanwhile.
    """
    most = limit
    if last is not None:
        between = last - max(first, 1) + 1
        most = between if limit is None else min(limit, between)
    if most is not None and not 0 < most <= RECORDS_AT_ONCE:
        return None
    if reverse and (first > 1 or last is not None):
        return None
    try:
        log.refresh()
        entries = log.stream_entries(stream)
        if entries.has_rule or log.damage is not None:
            return None
        number, low = entries.find_version(first) if first > 1 else (0, 0)
        begins = first <= 1 and (most is None or not reverse)
        records = _maybe_read_direct(entries, most) if begins and entries.may_be_direct else None
        if records is None:
            if most is None:
                most = entries.count_from(number, low, RECORDS_AT_ONCE + 1)
                if most > RECORDS_AT_ONCE:
                    return None
            if reverse:
                number, low = entries.find_last(most)
            records = _read_from(entries, number, low, most, [])
        if records:
            is_bounded = first > 1 or last is not None
            if is_bounded and records[0][1] != max(first, 1):
                return None
            if last is not None and records[-1][1] > last:  # versions are missing in between
                return None
            if countOf(map(_stream_of, records), stream) < len(records):
                return None
        elif first > 1 and not _ends_before(entries, number, stream, first):
            return None
    except (EvlogError, OSError, SegmentMoved, _TooLong, *SENSELESS):
        return None
    if entries.redacted is not None:
        records = entries.redacted.records(records)
    return map(Event, records[::-1] if reverse else records)


def _maybe_read_direct(entries: StreamEntries, most: int | None) -> Sequence[Record] | None:
    """Return the first `most` records, or all if these are at most 256; None where `_read_from` has to do it.

    A stream in ten segments is read in three quarters of the time of `_read_from`, by fewer calls.
    """
    wanted = RECORDS_AT_ONCE + 1 if most is None else most
    found = entries.maybe_find_direct(wanted)
    if not found:
        entries.may_be_direct = False
        return None
    if len(found) > RECORDS_AT_ONCE:
        return None
    place, longest, pieces = ENTRY_PLACE.unpack_from, BYTES_AT_ONCE // len(found), []
    for rows, log, number in found:
        at, length, before, after = place(rows, number * ENTRY_BYTES)
        if not 0 < length <= longest or crc32(raw := log[at : at + length], before) != after:
            return None
        pieces.append(raw)
    if len(pieces) == wanted:
        return unpack_records(pieces, wanted)
    records = _read_from(entries, entries.last, 0, wanted, pieces)
    return records if len(records) <= RECORDS_AT_ONCE else None


def _read_from(
    entries: StreamEntries, number: int, low: int, most: int, pieces: list[bytes]
) -> Sequence[Record]:
    """Return at most `most` records: those in `pieces`, and those from the entry `low` of a segment on.

    Raises:
        _TooLong: they have more bytes than are read at once.
    """
    count, read_bytes = len(pieces), 0
    last = entries.last
    while True:
        part, numbers, size = entries.within(number)
        high = min(size, low + most - count)
        while low < high:
            if read_bytes > BYTES_AT_ONCE:
                raise _TooLong
            found, taken = part.segment.pieces(numbers[low:high])
            read_bytes += len(found[0]) if len(found) == 1 else sum(map(len, found))
            pieces += found
            count += taken
            low += taken
        if count == most or number == last:
            return unpack_records(pieces, count) if count else ()
        number, low = number + 1, 0


def _ends_before(entries: StreamEntries, number: int, stream: str, version: int) -> bool:
    """Return whether the last event of the segment is of the stream and before the version."""
    part, numbers, size = entries.within(number)
    if not size:
        return False
    record = part.segment.record(numbers[size - 1])
    return record[2] == stream and record[1] < version


def _batches(
    log: Log, stream: str, asked: Bounds, wanted: Sequence[Callable[[Record], bool]], reverse: bool, few: int
) -> Iterator[Sequence[Record]]:
    """Iterate over the records of the events in batches, the first one from a few events."""
    try:
        damage = log.damage
        if damage is not None and reverse:
            raise damage.unraised()
        stream_hash = hash_stream(stream)
        bounds, policies = asked, log.policies()
        if policies.any and (rule := policies.rule_for(stream)) is not None:
            bounds = log.retry_on_compaction(lambda: _within_rule(log, stream, stream_hash, rule, asked))
        redacted = policies.redacted
        for records in _records(log, stream, bounds, reverse, few):
            # Hashes may collide.
            own: Sequence[Record] = [record for record in records if record[2] == stream]
            if redacted is not None:
                own = redacted.records(own)
            if own and not bounds.hide_nothing:
                own = bounds.of(own)
            for matches in wanted:
                own = list(filter(matches, own))
            yield own
        if damage is not None:
            raise damage.unraised()
    except EvlogError:
        raise
    except (OSError, *SENSELESS) as error:
        raise senseless(error, log.store) from error


def _records(log: Log, stream: str, bounds: Bounds, reverse: bool, few: int) -> Iterator[tuple[Record, ...]]:
    """Iterate over records of the stream, and of others with its hash, in batches, the first one of a few.

    If a compaction replaces a segment, the read continues after what it has yielded.
    """
    reached: int | None = None  # everything up to (in reverse: down to) this position was yielded
    while True:
        try:
            for pieces, count in _pieces(log, stream, bounds, reverse, reached, few):
                records = unpack_records(pieces, count)
                reached, few = records[-1][0], RECORDS_AT_ONCE
                yield records
            return
        except SegmentMoved:
            log.look()


def _pieces(
    log: Log, stream: str, bounds: Bounds, reverse: bool, reached: int | None, step: int
) -> Iterator[tuple[list[bytes], int]]:
    """Iterate over the bytes of the same records, in batches, each with their number.

    One batch for a stream in ten segments is decoded in half the time of ten batches. Records before a
    damaged one are yielded before the error is raised.
    """
    pieces: list[bytes] = []
    count = size = 0
    try:
        for part, numbers, low, high in _segments(log, stream, bounds, reverse):
            if reached is not None:
                low, high = _beyond(part, numbers, low, high, reached, reverse)
            while low < high:
                most = step - count
                if reverse:
                    found, taken = part.segment.pieces(numbers[max(low, high - most) : high][::-1])
                    high -= taken
                else:
                    found, taken = part.segment.pieces(numbers[low : min(low + most, high)])
                    low += taken
                pieces += found
                count += taken
                size += sum(map(len, found))
                if count == step or (len(pieces) > len(found) and size > BYTES_AT_ONCE):
                    yield pieces, count
                    pieces, count, size, step = [], 0, 0, RECORDS_AT_ONCE
    except CorruptionError:
        if pieces:
            yield pieces, count
        raise
    if pieces:
        yield pieces, count


def _within_rule(log: Log, stream: str, stream_hash: int, rule: Rule, bounds: Bounds) -> Bounds:
    """Return the part of the bounds that the rule leaves visible now."""
    first, last = bounds.first_version, bounds.last_version
    since_us, until_us = bounds.since_us, bounds.until_us
    last_version = 0
    if rule.max_count is not None or rule.tombstone:
        last_version = log.find_version(stream, stream_hash)
        # Later events are left out: the last N are counted from here.
        last = last_version if last is None else min(last, last_version)
    visible_us = visible_since_us(rule, now_ns() // 1000)
    if visible_us is not None:
        since_us = max(visible_us, since_us or 0)
    return Bounds(max(first, first_visible_version(rule, last_version)), last, since_us, until_us)


def _segments(
    log: Log, stream: str, bounds: Bounds, reverse: bool
) -> Iterator[tuple[Part, Sequence[int], int, int]]:
    """Iterate over the segments that may hold events within the bounds, in order.

    Yields:
        A segment, its entries of streams with the hash, and from which to below which of these to read.
    """
    entries = log.stream_entries(stream)
    if reverse:
        for number in range(entries.last, -1, -1):
            part, numbers, size = entries.within(number)
            low, high = _narrowed(part, numbers, size, stream, bounds)
            yield part, numbers, low, high
            if low > 0:
                return  # some are before the bounds: so are those of earlier segments
        return
    begin, known = 0, {}
    if bounds.first_version > 1 or bounds.since_us is not None:
        # Back in growing steps: of a thousand segments, a page needs a few; mostly the newest one.
        begin, step = entries.last, 1
        while True:
            known[begin] = _narrowed(*entries.within(begin), stream, bounds)
            if known[begin][0] > 0 or not begin:
                break
            begin, step = max(begin - step, 0), 2 * step
    for number in range(begin, entries.last + 1):
        part, numbers, size = entries.within(number)
        low, high = known.get(number) or _narrowed(part, numbers, size, stream, bounds)
        yield part, numbers, low, high
        if high < size:
            return  # some are after the bounds: so are those of later segments


def _beyond(
    part: Part, numbers: Sequence[int], low: int, high: int, reached: int, reverse: bool
) -> tuple[int, int]:
    """Return where those begin and end that were not yielded before a compaction replaced the segments."""
    if not part.first_position <= reached <= part.last_position:
        is_passed = part.first_position > reached if reverse else part.last_position < reached
        return (low, low) if is_passed else (low, high)
    number = part.segment.number_of(reached if reverse else reached + 1)
    at = bisect_left(numbers, number, low, high)
    return (low, at) if reverse else (at, high)


def _narrowed(part: Part, numbers: Sequence[int], size: int, stream: str, bounds: Bounds) -> tuple[int, int]:
    """Return where those within the bounds begin and end among the first `size` entries, by bisection.

    Where some are left out, a record has confirmed it. All are within if hashes collide.
    """
    if not size or bounds.hide_nothing:
        return 0, size
    since_us, until_us = bounds.since_us, bounds.until_us
    by_version = since_us is until_us is None
    if isinstance(part, SealedPart):
        if since_us is not None and part.info.last_time_us < since_us:
            return size, size
        if until_us is not None and part.info.first_time_us >= until_us:
            return 0, 0
    if size <= _FEW_EVENTS and not by_version:
        return 0, size

    def own_record(place: int) -> Record:
        record = part.segment.record(numbers[place])
        if record[2] != stream:
            raise _MixedStreams
        return record

    try:
        if by_version:
            # The version in an entry is a guess. Versions rise, so one record on each side confirms it.
            first, last = bounds.first_version, bounds.last_version
            low, high = 0, size
            if first > 1:
                low = _guessed_place(part, numbers, size, first)
            if last is not None:
                high = max(low, _guessed_place(part, numbers, size, last + 1))
            is_first = low == 0 or (low < size and own_record(low)[1] == first)  # which is read anyway
            if (is_first or own_record(low - 1)[1] < first) and (
                last is None or high == size or own_record(high)[1] > last
            ):
                return low, high
        places = range(size)
        low = bisect_left(places, True, key=lambda place: bounds.begun_by(own_record(place)))
        return low, bisect_left(places, True, low, key=lambda place: bounds.passed_by(own_record(place)))
    except _MixedStreams:
        return 0, size


def _guessed_place(part: Part, numbers: Sequence[int], size: int, version: int) -> int:
    """Return the first of the places below `size` whose entry has this version or a later one."""
    version_in = part.segment.version_in_entry
    at = version - version_in(numbers[0])
    if at >= size and version_in(numbers[size - 1]) < version:
        return size
    if 0 <= at < size and version_in(numbers[at]) == version:
        return at  # versions have no gaps, but where hashes collide
    return bisect_left(numbers, version, 0, size, key=version_in)


class _TooLong(Exception):
    """The records have more bytes than are read at once."""


class _MixedStreams(Exception):
    """Two streams share a hash in this segment, so the versions do not rise."""
