"""Reading the whole log: by position, type and time, forwards and backwards. Takes no lock, creates no file.

1. A read sees the log as it was when the read began, up to the last whole frame.
2. Records are decoded a frame at a time, or one by one where an index leads to them: memory does not grow
   with the log.
3. If a compaction replaces a segment during a read, the read continues after what it has yielded.
4. The whole log shows hidden events, too, but the store's own only to a reader that asks for them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import chain

from evlog.files.format.entries import ENTRY_BYTES, column
from evlog.files.format.hashes import hash_category, hash_each, hash_stream, hash_tag, hash_type, tag_bits
from evlog.files.format.headers import KIND_STREAMS, KIND_TAGS, KIND_TYPES
from evlog.files.log.crafted import without_crafted_content
from evlog.files.log.parts import ActivePart, SealedPart, SegmentMoved
from evlog.model.events import SYSTEM_PREFIX, BatchedEvents, Event, category_of
from evlog.model.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Final

    from evlog.files.log.log import Log
    from evlog.files.log.parts import Part
    from evlog.model.events import Record
    from evlog.model.filters import EventFilter
    from evlog.model.matching import ContentMatcher
    from evlog.model.queries import IfNone, Item
    from evlog.model.redaction import Redacted

    Keys = tuple[int, list[int]]
    """The kind of an index, and the hashes to look up in it."""

_CATEGORY: Final = -1  # instead of a kind of index: look up a range of the streams' hashes
# If an index names up to one in this many events of a segment, these are read one by one. With more, reading
# all is faster.
_FETCH_SHARE: Final = 4
# Up to this many entries of the active segment, reading all is faster than searching its columns.
_SEARCH_MORE_THAN: Final = 2048
_FEW: Final = 8  # the same, where only bits of the entries are searched
# Up to this many events, reading one by one is faster than frame by frame, where most frames have one event.
_RECORDS_AT_MOST: Final = 256
_RECENT_EVENTS: Final = 128  # of these the bits of the tags are looked at one by one


class Selection(NamedTuple):
    """Which events of the log a read is about. Positions are inclusive, `until_us` is exclusive.

    `include_system`: also the store's own events, those of streams that begin with `$`.
    `newest_singly`: a few of the newest events are read each by its own CRC, without their frames' headers.
    That suffices for a follower: no power loss came since they were written, milliseconds ago.
    `few`: how many events of each segment are read singly before whole frames are: a page of twenty takes a
    tenth of the time that a frame of a thousand events takes.
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
    tags: tuple[str, ...] = ()
    content: ContentMatcher | None = None
    few: int = 0

    def matcher(self, *, has_system: bool = True) -> Callable[[Record], bool] | None:
        """Return what a record must satisfy beyond its place in the log; None if nothing.

        Args:
            has_system: whether some of the records may be the store's own.
        """
        matches = self._with_content(self._with_tags(self._stream_category_and_types()))
        if self.include_system or not has_system or self.stream is not None:
            return matches
        if matches is None:
            return lambda record: record[2][0] != SYSTEM_PREFIX
        return lambda record: matches(record) and record[2][0] != SYSTEM_PREFIX

    def _with_content(self, matches: Callable[[Record], bool] | None) -> Callable[[Record], bool] | None:
        content = self.content
        if content is None or matches is None:
            return matches or content
        return lambda record: matches(record) and content(record)

    def _with_tags(self, matches: Callable[[Record], bool] | None) -> Callable[[Record], bool] | None:
        if not self.tags:
            return matches
        from evlog.model.tags import tag_matcher

        has_tags = tag_matcher(self.tags)
        return has_tags if matches is None else lambda record: matches(record) and has_tags(record)

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


def selection_of(
    filter: EventFilter,
    first: int,
    last: int | None,
    *,
    limit: int | None = None,
    newest_singly: bool = False,
) -> Selection:
    """Return the selection of a filter's events between two positions, inclusive.

    Args:
        limit: how many of them are wanted.
    """
    return Selection(
        first,
        last,
        filter.category,
        None if filter.types is None else frozenset(filter.types),
        filter.since_us,
        filter.until_us,
        filter.include_system,
        filter.stream,
        newest_singly,
        filter.tags,
        filter.make_matcher(),
        limit if limit is not None and limit <= _RECORDS_AT_MOST else 0,
    )


def read_log(log: Log, selection: Selection, *, reverse: bool, limit: int | None) -> Iterator[Event]:
    """Iterate over the selected events in global order."""
    batches = without_crafted_content(_batches(log, selection, reverse), log.store)
    return BatchedEvents.of(batches, limit)


def may_match_after(active: ActivePart, conditions: Sequence[IfNone]) -> list[bool]:
    """Return for each condition whether `find_first` may find an event; False if bits of entries exclude it.

    One pass over the last entries, for all conditions of a frame: a third of the time of a look-up for each.
    """
    first, count = active.first_position, active.count
    lows = [condition.after + 1 - first for condition in conditions]
    low = max(0, min(lows), count - _RECENT_EVENTS)
    words = column(active.entries()[low * ENTRY_BYTES :], "tags")
    may_match = []
    for condition, begin in zip(conditions, lows, strict=True):
        may = begin < low
        if not may and begin < count:
            fresh = words[begin - low :]
            for _, tags in condition.query.items:
                bits = tag_bits(hash_each(tags))
                may = may or any(word & bits == bits for word in fresh)
        may_match.append(may)
    return may_match


def find_first(log: Log, items: Sequence[Item], after: int) -> int | None:
    """Return the position of the first event after another that one of a query's items selects, or None."""
    first: int | None = None
    if after >= log.head:
        return first
    active = log.active
    for types, tags in items:
        last = log.head if first is None else first - 1
        is_recent = tags and after + 1 >= active.first_position
        if is_recent and not (numbers := _tagged_in_active(active, tags, after, last)):
            continue  # the common case
        wanted = frozenset(types) if types else None
        selection = Selection(after + 1, last, types=wanted, tags=tags, newest_singly=True)
        if is_recent:
            batches: Iterator[Sequence[Record]] = active.segment.records(numbers)
            if (redacted := log.policies().redacted) is not None:
                batches = map(redacted.records, batches)  # their tags are erased
            found: Iterable[Record] = filter(selection.matcher(), chain.from_iterable(batches))
        else:
            found = read_log(log, selection, reverse=False, limit=1)
        for record in found:
            first = record[0]
            break
        if tags:
            first = min(filter(None, (first, _first_removed(log, types, tags, after))), default=None)
    return first


def _tagged_in_active(active: ActivePart, tags: Sequence[str], after: int, last: int) -> Sequence[int]:
    """Return the entries after one position, up to another, that may have all of the tags."""
    low, high = after + 1 - active.first_position, last + 1 - active.first_position
    return active.find_tags(hash_each(tags), low, high) if low < high else ()


def _first_removed(log: Log, types: Sequence[str], tags: Sequence[str], after: int) -> int | None:
    """Return the position of the first such event that a compaction has removed, or None."""
    sealed = log.sealed
    if not sealed or sealed[-1].last_position <= after or not any(part.info.removed_bytes for part in sealed):
        return None
    found = [
        removed.find_first(types, tags, after)
        for place in log.filter.places(sealed, KIND_TAGS, hash_tag(tags[0]))
        if sealed[place].last_position > after and (removed := sealed[place].removed) is not None
    ]
    return min(filter(None, found), default=None)


def _batches(log: Log, selection: Selection, reverse: bool) -> Iterator[Sequence[Record]]:
    """Iterate over the selected records in batches; where segments are replaced meanwhile, continue."""
    low, high = selection.first_position, log.head
    if selection.last_position is not None and selection.last_position <= high:
        high = selection.last_position
        damage = None
    else:
        damage = log.damage
    if damage is not None and reverse:
        raise damage.unraised()
    keys = _index_keys(selection)
    while low <= high:
        bounded = selection._replace(first_position=low, last_position=high)
        try:
            parts, redacted = _view(log, keys, low, high)
            for part, count, has_system in reversed(parts) if reverse else parts:
                matches = bounded.matcher(has_system=has_system)
                yield from _PartRead(part, count, bounded, keys, matches, redacted, reverse).batches()
                if reverse:
                    high = min(high, part.first_position - 1)
                else:
                    low = max(low, part.last_position + 1)
            break
        except SegmentMoved:
            log.look()
    if damage is not None:
        raise damage.unraised()


def _view(
    log: Log, keys: Keys | None, low: int, high: int
) -> tuple[list[tuple[Part, int, bool]], Redacted | None]:
    """Return the segments to read, and what is redacted.

    Each segment comes with its number of events, and whether some of them may be the store's own.
    """
    with log.mutex:
        policies = log.policies()
        own, redacted = policies.system_numbers, policies.redacted
        sealed, active = log.view()
        # A follower reads a few events at a time, of a store that may have thousands of segments.
        first = bisect_left(sealed, low, key=lambda part: part.last_position)
        last = bisect_right(sealed, high, key=lambda part: part.first_position)
        parts: list[Part] = [*sealed[first:last]]
        if parts and keys is not None and keys[0] != _CATEGORY:
            kind, hashes = keys
            found = [log.filter.places(sealed, kind, hash) for hash in hashes]
            possible = set(found[0]).intersection(*found) if kind == KIND_TAGS else set(chain(*found))
            parts = [sealed[place] for place in range(first, last) if place in possible]
        if active.first_position <= high and active.last_position >= low:
            parts.append(active)
        return [(part, count, bool(own(part))) for part in parts if (count := part.count)], redacted


class _PartRead(NamedTuple):
    """The selected records of one segment, by an index of it or one after another."""

    part: Part
    entry_count: int  # when the read began
    selection: Selection
    keys: Keys | None  # what to look up in which index; None: none helps
    matches: Callable[[Record], bool] | None  # what a record must satisfy; None: nothing
    redacted: Redacted | None
    reverse: bool

    def batches(self) -> Iterator[Sequence[Record]]:
        """Iterate over the records, in batches."""
        bounds, keys = self._entry_bounds(), self.keys
        if bounds is None:
            return iter(())
        low, high = bounds
        is_searched = keys is not None and keys[0] == _CATEGORY and isinstance(self.part, ActivePart)
        if not is_searched or high - low <= 2 * _SEARCH_MORE_THAN:
            return self._matching(low, high, keys)
        # A reader that stops after a few events of a usual category finds them here, without a search.
        middle = high - _SEARCH_MORE_THAN if self.reverse else low + _SEARCH_MORE_THAN
        near, far = ((middle, high), (low, middle)) if self.reverse else ((low, middle), (middle, high))
        spans = ((near, None), (far, keys))
        return chain.from_iterable(self._matching(*span, keys) for span, keys in spans)

    def _entry_bounds(self) -> tuple[int, int] | None:
        """Return the range of entries between the selection's positions and times; None if it is empty."""
        part, selection, count = self.part, self.selection, self.entry_count
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

    def _matching(self, low: int, high: int, keys: Keys | None) -> Iterator[Sequence[Record]]:
        """Iterate over the selected records of the entries from low to high, in batches."""
        part, redacted, matches = self.part, self.redacted, self.matches
        erases = bool(redacted and redacted.within(part.first_position, part.last_position))
        numbers = _maybe_numbers(part, keys, low, high)
        if numbers is not None and len(numbers) * _FETCH_SHARE <= high - low:
            batches: Iterator[Sequence[Record]] = part.segment.records(
                numbers[::-1] if self.reverse else numbers
            )
        else:
            batches = self._all_between(low, high, erases)
        if redacted and erases:
            batches = map(redacted.records, batches)  # before they are matched: erased tags match nothing
        if matches is None:
            return batches
        return ([record for record in records if matches(record)] for records in batches)

    def _all_between(self, low: int, high: int, erases: bool) -> Iterator[Sequence[Record]]:
        """Iterate over all records of the entries, but those whose bytes tell that they do not match."""
        segment, selection = self.part.segment, self.selection
        if selection.content is not None and not erases:
            may_hold = selection.content.may_be_in
            if self.reverse:
                return segment.records(range(high - 1, low - 1, -1), may_hold=may_hold)
            return segment.scan(low, high, may_hold)
        if self.reverse:
            first = max(low, high - selection.few)
            return chain(segment.records(range(high - 1, first - 1, -1)), segment.scan_back(low, first))
        if selection.newest_singly and isinstance(self.part, ActivePart) and high - low <= _RECORDS_AT_MOST:
            return segment.records(range(low, high), _RECORDS_AT_MOST)
        first = min(low + selection.few, high)
        return chain(segment.records(range(low, first)), segment.scan(first, high, joins_small=True))


def _maybe_numbers(part: Part, keys: Keys | None, low: int, high: int) -> Sequence[int] | None:
    """Return the entries from low to high that an index names for the keys, rising; None: read all."""
    if keys is None:
        return None
    kind, hashes = keys
    if isinstance(part, ActivePart) and high - low <= (_FEW if kind == KIND_TAGS else _SEARCH_MORE_THAN):
        return None
    if kind == KIND_TAGS:
        return part.find_tags(hashes, low, high)
    if kind == _CATEGORY:
        return part.index.maybe_find_category(hashes[0], low, high)
    numbers: list[int] = []
    for hash in hashes:
        found = part.index.find(kind, hash)
        numbers += found[bisect_left(found, low) : bisect_left(found, high)]
    return numbers if len(hashes) == 1 else sorted(set(numbers))


def _index_keys(selection: Selection) -> Keys | None:
    """Return the index that helps with the selection, and the hashes to look up; None if none helps."""
    if selection.stream is not None:
        return KIND_STREAMS, [hash_stream(selection.stream)]
    if selection.tags:
        return KIND_TAGS, list(map(hash_tag, selection.tags))
    if selection.types is not None:
        return KIND_TYPES, list(map(hash_type, selection.types))
    if selection.category is not None:
        return _CATEGORY, [hash_category(selection.category)]
    return None
