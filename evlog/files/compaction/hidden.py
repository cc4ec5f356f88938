"""Which events the rules hide at the cut-off of a compaction: of a stream always the oldest ones.

1. Everything follows from the cut-off: the log up to one position, its policies up to there, and one moment.
2. Streams are found by the hashes of their names. Every position up to the cut-off belongs to one version of
   one stream, so the last versions of all streams add up to the cut-off's position. If they do not, names
   share a hash, as the first two among a million of one category do by chance: the records of those names are
   read, and the names decide. If a salvage lost events, every record is read.
3. A resumed compaction removes only what the rules at its cut-off and the present rules both hide.

Nothing here writes.
"""

from __future__ import annotations

from array import array
from collections import defaultdict, deque
from itertools import chain, compress, repeat
from operator import itemgetter, lt, or_

from evlog.files.format.entries import ENTRY_BYTES, column, column_array
from evlog.files.format.hashes import NAME_BITS, hash_category, hash_stream
from evlog.files.format.headers import KIND_STREAMS
from evlog.files.log.catalog import Look, emptied_versions, maybe_tell_apart
from evlog.files.log.parts import SealedPart, SegmentRef, open_sealed
from evlog.files.log.segment import RECORDS_AT_ONCE
from evlog.model.events import MAX_VERSION, SYSTEM_PREFIX, category_of, now_ns
from evlog.model.named import NamedTuple
from evlog.model.retention import first_visible_version, metadata_stream, rule_in_force, visible_since_us

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from typing import Final

    from evlog.files.disk.processes import Workers
    from evlog.files.format.removed_events import EmptyStream
    from evlog.files.log.column_index import Entries
    from evlog.files.log.log import Log
    from evlog.files.log.parts import Part
    from evlog.files.log.segment import Segment
    from evlog.model.events import Record
    from evlog.model.retention import Rule, Rules

_FEW_STREAMS: Final = 8  # to search a full segment for each costs a tenth of looking at all streams
_ENTRIES_AT_ONCE: Final = 1024  # columns of few stay in the processor's cache


class CutOff(NamedTuple):
    """What a compaction looks at: the log up to a position, and the moment that ages are measured from."""

    position: int
    time_us: int


class Hidden(NamedTuple):
    """What the rules hide, segment by segment."""

    flags: list[bytes]  # one byte for each of a segment's first entries, 1 if it is removed
    emptied: list[list[EmptyStream]]  # the streams that lose their last event there


def find_hidden(
    log: Log, parts: Sequence[Part], rules: Rules, cut_off: CutOff, workers: Workers, *, resumed: bool
) -> Hidden:
    """Return what the rules hide in these segments. Arguments and errors are those of `make_plan`."""
    if not (rules.streams or rules.categories):
        return Hidden([b"" for _ in parts], [[] for _ in parts])
    limits = _Limits(log, rules, cut_off, resumed=resumed)
    found, is_sure = _hide_by_hash(log, parts, limits, cut_off.position, workers)
    if is_sure:
        return found
    counts = [len(entries_to(part, cut_off.position)) // ENTRY_BYTES for part in parts]
    told = maybe_tell_apart(list(map(Look, parts, counts)), cut_off.position)
    if told is not None:
        return _hide_by_name(parts, counts, limits, told[1], found)
    return _hide_by_name(parts, counts, limits, None, Hidden([b""] * len(parts), [[] for _ in parts]))


class _Limit(NamedTuple):
    """From where on a rule lets the events of a stream stay."""

    rule: Rule
    first_version: int  # the first that may stay, whatever the last one is
    most_events: int  # that may stay, counted from the last one
    since_us: int


class _LimitsOfCategories(dict[str, "_Limit | None"]):
    """The limits by category of streams that have no rule of their own, made when they are asked for."""

    def __init__(self, rules: Rules, now_us: int) -> None:
        self._rules = rules
        self._now_us = now_us

    def __missing__(self, category: str) -> _Limit | None:
        # The store's own streams have only the rule of their prefix, which is their category's, too.
        rule = rule_in_force(category, None, self._rules.categories.get(category))
        limit = self[category] = _limit_of(rule, self._now_us)
        return limit


def _limit_of(rule: Rule | None, now_us: int) -> _Limit | None:
    if rule is None:
        return None
    most = 0 if rule.tombstone else MAX_VERSION if rule.max_count is None else rule.max_count
    first, since_us = max(rule.truncate_before, rule.deleted + 1), visible_since_us(rule, now_us) or 0
    return _Limit(rule, first, most, since_us)


class _Limits:
    """What the rules hide of each stream at the cut-off; of a resumed compaction, and hide now, too."""

    def __init__(self, log: Log, rules: Rules, cut_off: CutOff, *, resumed: bool) -> None:
        self._log = log
        self._rules = rules
        self._present = log.policies() if resumed else None
        self._own = {name: _limit_of(rules.rule_for(name), cut_off.time_us) for name in rules.streams}
        self._common = _LimitsOfCategories(rules, cut_off.time_us)
        self._own_hashes = set(map(hash_stream, self._own))
        names = () if resumed else (name for name in rules.categories if not name.startswith(SYSTEM_PREFIX))
        self._counted = {hash_category(name): name for name in names}

    def hashes(self) -> set[int] | None:
        """Return the hashes of the streams that may lose events; None: any stream may."""
        if self._rules.categories:
            return None
        names = {*self._rules.streams, *(metadata_stream(stream=name) for name in self._rules.streams)}
        return set(map(hash_stream, names))

    def maybe_count(self, category_hash: int, hashes: Collection[int]) -> tuple[str, int] | None:
        """Return a category and how many events of each of its streams stay, where no more decides.

        Args:
            category_hash: that of all streams.
            hashes: of the streams; names decide whether they are all in the category.
        """
        category = self._counted.get(category_hash)
        if category is None or not self._own_hashes.isdisjoint(hashes):
            return None
        limit = self._common[category]
        if limit is None or limit.first_version > 1 or limit.since_us > 0 or not limit.most_events:
            return None
        return category, limit.most_events

    def of(self, name: str, version: int) -> tuple[int, int] | None:
        """Return the first version and the time from which events stay; None if all stay.

        Args:
            version: the stream's last one at the cut-off.
        """
        limit = self._own[name] if name in self._own else self._common[category_of(name)]
        if limit is None:
            return None
        first, since_us = max(limit.first_version, version - limit.most_events + 1), limit.since_us
        if self._present is not None:
            now = self._present.rule_for(name)
            if now != limit.rule:
                version = self._log.find_version(name, hash_stream(name))
                first = min(first, first_visible_version(now, version))
            since_us = min(since_us, visible_since_us(now, now_ns() // 1000) or 0)
        return (first, since_us) if first > 1 or since_us > 0 else None


# --- by hash: all segments column by column, on several processes


class HashLimits(NamedTuple):
    """What is removed of each stream, by the hash of its name."""

    first_versions: dict[int, int]  # the versions below it are removed
    since_us: dict[int, set[int]]  # by a time: the streams of which everything before it is removed


class LastEvents(NamedTuple):
    """The last events of some streams in a segment: columns."""

    numbers: list[int]
    stream_hashes: list[int]
    versions: list[int]


def _hide_by_hash(
    log: Log, parts: Sequence[Part], limits: _Limits, position: int, workers: Workers
) -> tuple[Hidden, bool]:
    """Return what the limits hide, and whether it is so of all streams: else names share a hash."""
    found = HashLimits({}, {})
    lasts = [LastEvents([], [], []) for _ in parts]
    emptied: list[list[EmptyStream]] = [[] for _ in parts]
    newest = entries_to(parts[-1], position)  # perhaps a copy of megabytes

    def entries_of(part: Part) -> Entries:
        return newest if part is parts[-1] else entries_to(part, position)

    total, seen, wanted = 0, set[int](), limits.hashes()
    for at in reversed(range(len(parts))):
        part = parts[at]
        if not part.count:
            continue
        entries = entries_of(part)
        numbers = sorted(_last_entries(part, position, entries, seen))
        hashes = list(map(column_array(entries, "stream_hash").__getitem__, numbers))
        versions = list(map(column_array(entries, "version").__getitem__, numbers))
        seen.update(hashes)
        total += sum(versions)
        if wanted is not None:
            chosen = list(map(wanted.__contains__, hashes))
            numbers, hashes, versions = (list(compress(own, chosen)) for own in (numbers, hashes, versions))
        offsets = column_array(entries, "offset")
        heads = LastEvents(numbers, hashes, versions)
        emptied[at] += _limit_streams(part.segment, offsets, heads, limits, found, lasts[at])
    emptied_before = emptied_versions(parts)
    total += sum(emptied_before[key] for key in emptied_before.keys() - seen)
    is_sure = total == position
    alone = sum(len(own.numbers) for own in lasts)
    if alone and not found.first_versions and len(seen) - alone <= _FEW_STREAMS:
        others = seen.difference(*[own.stream_hashes for own in lasts])
        counts = [len(entries_of(part)) // ENTRY_BYTES for part in parts]
        stay = [own.numbers for own in lasts]
        return Hidden(list(map(_hide_all_but, parts, counts, stay, repeat(others))), emptied), is_sure
    for own in lasts:
        found.first_versions.update(zip(own.stream_hashes, own.versions, strict=True))
    return Hidden(_find_all_hidden(log, parts, entries_of, found, position, workers), emptied), is_sure


def _last_entries(part: Part, position: int, entries: Entries, seen: set[int]) -> Iterable[int]:
    """Return the number of the last entry of each stream of a segment that was not seen yet."""
    if part.last_position <= position and isinstance(part, SealedPart):
        if seen.issuperset(part.index.keys(KIND_STREAMS)):
            return ()
        hashes, numbers = part.index.heads()
        return compress(numbers, [stream_hash not in seen for stream_hash in hashes])
    last: dict[int, int] = {}
    for low in reversed(range(0, len(entries) // ENTRY_BYTES, _ENTRIES_AT_ONCE)):
        own = column(entries[low * ENTRY_BYTES : (low + _ENTRIES_AT_ONCE) * ENTRY_BYTES], "stream_hash")
        # The newest first: to set each key once takes half of the time of setting it again and again.
        deque(map(last.setdefault, reversed(own), reversed(range(low, low + len(own)))), maxlen=0)
    return last.values() if not seen else [number for key, number in last.items() if key not in seen]


def _limit_streams(
    segment: Segment,
    offsets: Sequence[int],
    heads: LastEvents,
    limits: _Limits,
    found: HashLimits,
    lasts: LastEvents,
) -> Iterator[EmptyStream]:
    """Note what is removed of some streams, given the last entry of each; yield those that are emptied.

    Args:
        offsets: of all records of the segment.
        heads: the last events of these streams, by rising number.
        lasts: where those are added that alone stay of their streams.
    """
    numbers, hashes, versions = heads
    places: defaultdict[int, list[int]] = defaultdict(list)
    for at, stream_hash in enumerate(hashes):
        places[stream_hash & ~NAME_BITS].append(at)
    others: list[int] = []
    for category_hash, own in places.items():
        own_hashes = [hashes[at] for at in own]
        counted = limits.maybe_count(category_hash, own_hashes)
        if counted is not None and segment.are_in_category([offsets[numbers[at]] for at in own], counted[0]):
            # In a fifth of the time that the records take, and no stream is emptied.
            firsts = [versions[at] - counted[1] + 1 for at in own]
            if counted[1] == 1:
                lasts.numbers.extend([numbers[at] for at in own])
                lasts.stream_hashes.extend(own_hashes)
                lasts.versions.extend(firsts)
            else:
                found.first_versions.update(zip(own_hashes, firsts, strict=True))
        else:
            others += own
    others.sort()
    records = segment.records([numbers[at] for at in others], first=RECORDS_AT_ONCE)
    for (_, version, name, _, _, time_us, _, _, _), at in zip(
        chain.from_iterable(records), others, strict=True
    ):
        limit = limits.of(name, version)
        if limit is None:
            continue
        first, since_us = limit
        found.first_versions[hashes[at]] = first
        if since_us:
            found.since_us.setdefault(since_us, set()).add(hashes[at])
        if version < first or time_us < since_us:
            yield name, version, time_us


def entries_to(part: Part, position: int) -> Entries:
    """Return a segment's entries up to the position; of those that may grow a copy."""
    count, entries = part.count, part.entries()
    if part.last_position > position:
        count = min(count, part.segment.number_of(position + 1))
    return entries[: count * ENTRY_BYTES]


def _hide_all_but(part: Part, count: int, lasts: Iterable[int], streams: Iterable[int]) -> bytes:
    """Return flags that hide the first entries of a segment, but given ones and those of a few streams."""
    stay = [lasts, *[part.index.find(KIND_STREAMS, stream_hash) for stream_hash in streams]]
    flags = bytearray(b"\1") * part.count  # of an active segment perhaps more than were searched
    for number in chain.from_iterable(stay):
        flags[number] = 0
    return bytes(flags[:count])


def _find_all_hidden(
    log: Log,
    parts: Sequence[Part],
    entries_of: Callable[[Part], Entries],
    limits: HashLimits,
    position: int,
    workers: Workers,
) -> list[bytes]:
    """Return the flags of each segment's entries up to the position."""
    if not limits.first_versions:
        return [b"" for _ in parts]
    # A helper can open a sealed segment, and need not know the position for a whole one.
    whole = [part for part in parts if isinstance(part, SealedPart) and part.last_position <= position]
    if workers.count == 1 or len(parts) == 1:
        whole = []
    for part in whole:
        part.segment.checked_entries()  # damage is met here, where it can be reported
    others = set(parts).difference(whole)
    found: dict[int, bytes] = {}

    def find_others() -> None:
        for part in others:
            found[part.first_position] = _find_hidden(part.segment, entries_of(part), limits)

    # A call for each process, not for each segment: the limits are sent with every one.
    refs = [SegmentRef(log.store, log.manifest.store_id_bytes, part.info) for part in whole]
    stripes = [refs[at :: workers.count] for at in range(min(workers.count, len(refs)))]
    firsts = limits.first_versions
    # Arrays are sent and received in a fraction of the time of a dict.
    packed = (array("Q", firsts), array("q", firsts.values()), limits.since_us) if stripes else ()
    calls = [(stripe, *packed) for stripe in stripes]
    for at, flags in workers.run(find_hidden_of, calls, first=find_others):
        infos = (ref.info for ref in stripes[at])
        found.update((info.first_position, hidden) for info, hidden in zip(infos, flags, strict=True))
    return [found[part.first_position] for part in parts]


def find_hidden_of(
    refs: Sequence[SegmentRef],
    hashes: array[int],
    first_versions: array[int],
    since_us: dict[int, set[int]],
) -> list[bytes]:
    """Return what `_find_hidden` finds in whole sealed segments that this process opens itself."""
    limits = HashLimits(dict(zip(hashes, first_versions, strict=True)), since_us)
    segments = (open_sealed(*ref) for ref in refs)
    return [_find_hidden(segment, segment.checked_entries(), limits) for segment in segments]


def _find_hidden(segment: Segment, entries: Entries, limits: HashLimits) -> bytes:
    """Return the flags of a segment's first entries, column by column: a loop over events is much slower."""
    first_versions, since_us = limits
    count = len(entries) // ENTRY_BYTES
    # Times never decrease, so of each time only the number of older entries matters.
    old = [(segment.number_at_time(time_us, count), members) for time_us, members in since_us.items()]
    found = []
    for low in range(0, count, _ENTRIES_AT_ONCE):
        rows = entries[low * ENTRY_BYTES : (low + _ENTRIES_AT_ONCE) * ENTRY_BYTES]
        hashes = column(rows, "stream_hash")
        firsts: Iterable[int]
        try:  # in two thirds of the time; of a single key there would be no tuple, so one comes twice
            firsts = itemgetter(*hashes, hashes[0])(first_versions)
        except KeyError:  # all events of a stream stay
            firsts = map(first_versions.get, hashes, repeat(0))
        flags = bytes(map(lt, column(rows, "version"), firsts))
        for before, members in old:
            if before > low:
                aged = map(members.__contains__, hashes[: before - low])
                flags = bytes(map(or_, flags, chain(aged, repeat(0))))
        found.append(flags)
    return b"".join(found)


# --- by name: the records of streams whose names share a hash, or all


def _hide_by_name(
    parts: Sequence[Part],
    counts: Sequence[int],
    limits: _Limits,
    hashes: set[int] | None,
    others: Hidden,
) -> Hidden:
    """Return what the limits hide, by reading records twice.

    Args:
        counts: how many of each segment's first entries are looked at.
        hashes: of the streams; None: all streams.
        others: what is hidden of all others.
    """
    numbers: list[Sequence[int]] = [range(count) for count in counts]
    if hashes is not None:
        numbers = [_entries_of(part, count, hashes) for part, count in zip(parts, counts, strict=True)]
    heads: dict[str, tuple[int, int, int]] = {}
    for at, part in enumerate(parts):
        for _, version, name, _, _, time_us, _, _, _ in _records(part, numbers[at]):
            heads[name] = version, time_us, at
    bounds: dict[str, tuple[int, int]] = {}
    flags, emptied = others  # a stream may be named twice as emptied
    for name, (version, time_us, at) in heads.items():
        limit = limits.of(name, version)
        if limit is not None:
            bounds[name] = limit
            if version < limit[0] or time_us < limit[1]:
                emptied[at].append((name, version, time_us))
    for at, part in enumerate(parts):
        cells = bytearray(flags[at].ljust(counts[at], b"\0"))
        for number, (_, version, name, _, _, time_us, _, _, _) in zip(
            numbers[at], _records(part, numbers[at]), strict=True
        ):
            first, since_us = bounds.get(name, (0, 0))
            cells[number] = version < first or time_us < since_us
        flags[at] = bytes(cells)
    return Hidden(flags, emptied)


def _entries_of(part: Part, count: int, hashes: set[int]) -> list[int]:
    """Return the numbers of those of a segment's first entries whose streams have these hashes, rising."""
    own = column(part.entries()[: count * ENTRY_BYTES], "stream_hash")
    return list(compress(range(count), map(hashes.__contains__, own)))


def _records(part: Part, numbers: Sequence[int]) -> Iterator[Record]:
    return chain.from_iterable(part.segment.records(numbers, first=RECORDS_AT_ONCE))
