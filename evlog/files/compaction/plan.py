"""What a compaction removes, and which segments it writes again: decided before anything is written.

1. Everything follows from the cut-off: the log up to one position, its policies up to there, and one moment.
   A plan that is made again at the same cut-off, also after a part of the work was done, is the same.
2. Of a stream always the oldest events are removed, so what remains has no gap in its versions.
3. A resumed compaction removes only what the rules at its cut-off and the present rules both hide.
4. Streams are found by the hashes of their names. Every position up to the cut-off belongs to one version of
   one stream, so the last versions of all streams add up to the cut-off's position. If they do not (two names
   share a hash, or a salvage lost events), every record is read, and the names decide.

Nothing here writes.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, compress, repeat
from operator import lt, or_
from typing import Any, Final, NamedTuple

from evlog.files.disk.processes import Workers
from evlog.files.format.entries import ENTRY_BYTES, column, column_array
from evlog.files.format.hashes import hash_stream
from evlog.files.format.manifest import SegmentInfo
from evlog.files.format.removed_events import EVENT_BYTES, EmptyStream
from evlog.files.log.column_index import Entries
from evlog.files.log.log import Log
from evlog.files.log.parts import Part, SealedPart, open_sealed
from evlog.files.log.policies import rules_at
from evlog.files.log.segment import Segment
from evlog.model.events import SYSTEM_PREFIX, Record, category_of
from evlog.model.reports import Removal
from evlog.model.retention import (
    Rule,
    Rules,
    as_words,
    first_visible_version,
    metadata_stream,
    rule_in_force,
    visible_since_us,
)

# A segment below this share of the settings is small: it is merged with small neighbours.
_SMALL_SHARE: Final = 4
_RECORDS_AT_ONCE: Final = 256
_ENTRIES_AT_ONCE: Final = 1024  # columns of few stay in the processor's cache


class CutOff(NamedTuple):
    """What a compaction looks at: the log up to a position, and the moment that ages are measured from."""

    position: int
    time_us: int


class SegmentPlan(NamedTuple):
    """One segment, and which of its entries are removed."""

    part: Part
    hidden: bytes  # one byte an entry: 1 if it is removed; empty if all stay
    emptied: list[EmptyStream]  # the streams that lose their last event, which is in this segment
    kept_events: int
    kept_bytes: int
    work_bytes: int  # what there is to read: records and their entries
    removed_events: int  # now and by earlier compactions
    last_hidden: int  # the position of the last event that is removed, 0 if none is

    @property
    def size(self) -> int:
        """About how many bytes will be left; the same whether or not the segment was compacted already."""
        return self.kept_bytes + ENTRY_BYTES * self.kept_events + EVENT_BYTES * self.removed_events


class Plan(NamedTuple):
    """A whole compaction."""

    cut_off: CutOff
    rules: list[dict[str, Any]]
    segments: list[SegmentPlan]
    removals: list[Removal]  # if these were asked for
    groups: list[list[SegmentPlan]]  # the segments of each step, as far as they are sealed already

    @property
    def last_hidden(self) -> int:
        """The position of the last event that is removed, 0 if none is."""
        return max((segment.last_hidden for segment in self.segments), default=0)

    @property
    def seals(self) -> bool:
        """Whether events are removed that are not in a sealed segment yet."""
        return any(segment.hidden and not isinstance(segment.part, SealedPart) for segment in self.segments)


def make_plan(
    log: Log, cut_off: CutOff, workers: Workers, *, resumed: bool = False, by_stream: bool = False
) -> Plan:
    """Decide what a compaction at this cut-off removes.

    Args:
        workers: processes that look through sealed segments; the compaction's lock keeps these in place.
        resumed: the cut-off is that of an interrupted compaction; the rules may have changed since.
        by_stream: also report how much is removed of each stream.

    Raises:
        SegmentMoved: a segment was replaced meanwhile; plan again.
        CorruptionError: an index cannot be trusted and the log is damaged.
    """
    with log.mutex:
        # An empty segment that only keeps removed events is merged with its neighbours, too.
        parts = [part for part in log.parts() if part.first_position <= cut_off.position]
    rules = rules_at([(part, part.count) for part in parts if part.count], cut_off.position)
    hidden = _Hidden([b"" for _ in parts], [[] for _ in parts])
    if rules.streams or rules.categories:
        limits = _Limits(log, rules, cut_off, resumed=resumed)
        found = _maybe_hide_by_hash(log, parts, limits, cut_off.position, workers)
        hidden = found or _hide_by_name(parts, limits, cut_off.position)
    segments = list(map(_plan_segment, parts, hidden.flags, hidden.emptied))
    removals = _count_removals(segments, rules) if by_stream else []
    return Plan(cut_off, rules.as_data(), segments, removals, _groups_of(log, segments))


def after_sealing(log: Log, plan: Plan) -> Plan:
    """Return the same plan, now that the segment that was active is sealed, perhaps with further events."""
    sealed = {part.first_position: part for part in log.sealed}
    segments = [
        segment
        if isinstance(segment.part, SealedPart)
        else _plan_segment(sealed[segment.part.first_position], segment.hidden, segment.emptied)
        for segment in plan.segments
    ]
    return plan._replace(segments=segments, groups=_groups_of(log, segments))


def _plan_segment(part: Part, hidden: bytes, emptied: list[EmptyStream]) -> SegmentPlan:
    """Return the plan of one segment, of which the flags may cover only the first entries."""
    total, already = part.count, part.info.removed_events
    lengths = column(entries_to(part, part.last_position), "length") if total else []
    size = sum(lengths)
    work = size + ENTRY_BYTES * total
    if 1 not in hidden:
        return SegmentPlan(part, b"", [], total, size, work, already, 0)
    removed = list(compress(lengths, hidden))
    last_hidden = part.segment.record(hidden.rindex(1))[0]
    flags = hidden + bytes(total - len(hidden))
    return SegmentPlan(
        part, flags, emptied, total - len(removed), size - sum(removed), work,
        already + len(removed), last_hidden,
    )  # fmt: skip


def _groups_of(log: Log, segments: Sequence[SegmentPlan]) -> list[list[SegmentPlan]]:
    settings = log.manifest
    return make_groups(segments, settings.segment_bytes, settings.segment_events)


def make_groups(
    segments: Sequence[SegmentPlan], segment_bytes: int, segment_events: int
) -> list[list[SegmentPlan]]:
    """Return what to write again: segments that lose something, and small neighbours, which become one."""
    groups: list[list[SegmentPlan]] = []
    for segment in segments:
        if isinstance(segment.part, SealedPart):
            if groups and _may_join([*groups[-1], segment], segment_bytes, segment_events):
                groups[-1].append(segment)
            else:
                groups.append([segment])
    return [group for group in groups if len(group) > 1 or group[0].hidden]


def _may_join(group: Sequence[SegmentPlan], segment_bytes: int, segment_events: int) -> bool:
    return (
        all(segment.size * _SMALL_SHARE < segment_bytes for segment in group)
        and all(segment.kept_events * _SMALL_SHARE < segment_events for segment in group)
        and sum(segment.size for segment in group) <= segment_bytes
        and sum(segment.kept_events for segment in group) <= segment_events
    )


def _count_removals(segments: Iterable[SegmentPlan], rules: Rules) -> list[Removal]:
    """Return what is removed of each stream, most events first."""
    events: defaultdict[str, int] = defaultdict(int)
    sizes: defaultdict[str, int] = defaultdict(int)
    for segment in segments:
        if segment.hidden:
            numbers = list(compress(range(len(segment.hidden)), segment.hidden))
            lengths = compress(column(segment.part.segment.entries, "length"), segment.hidden)
            records = chain.from_iterable(segment.part.segment.records(numbers))
            for record, length in zip(records, lengths, strict=True):
                events[record[2]] += 1
                sizes[record[2]] += length
    removals = [Removal(_describe(name, rules), name, count, sizes[name]) for name, count in events.items()]
    return sorted(removals, key=lambda removal: (-removal.events, removal.stream))


def _describe(name: str, rules: Rules) -> dict[str, Any]:
    """Return the rule that hides events of a stream: its own, or that of its category."""
    rule = rules.rule_for(name)
    assert rule is not None
    if name in rules.streams or name.startswith(SYSTEM_PREFIX):
        return {"stream": name} | as_words(rule)
    return {"category": category_of(name)} | as_words(rule)


# --- what the rules hide of a stream


class _Limits:
    """What the rules hide of each stream at the cut-off; of a resumed compaction, and hide now, too."""

    def __init__(self, log: Log, rules: Rules, cut_off: CutOff, *, resumed: bool) -> None:
        self._log = log
        self._rules = rules
        self._time_us = cut_off.time_us
        self._present = log.policies() if resumed else None
        self._own = {name: rules.rule_for(name) for name in rules.streams}
        self._common: dict[str, Rule | None] = {}  # by category: the rule of streams that have no own

    def hashes(self) -> set[int] | None:
        """Return the hashes of the streams that may lose events; None: any stream may."""
        if self._rules.categories:
            return None
        names = {*self._rules.streams, *(metadata_stream(stream=name) for name in self._rules.streams)}
        return set(map(hash_stream, names))

    def of(self, name: str, version: int) -> tuple[int, int] | None:
        """Return the first version and the time from which events stay; None if all stay.

        Args:
            version: the stream's last one at the cut-off.
        """
        rule = self._own[name] if name in self._own else self._rule_of_category(category_of(name))
        if rule is None:
            return None
        first, since_us = first_visible_version(rule, version), visible_since_us(rule, self._time_us) or 0
        if self._present is not None:
            now = self._present.rule_for(name)
            if now != rule:
                version = self._log.find_version(name, hash_stream(name))
                first = min(first, first_visible_version(now, version))
            since_us = min(since_us, visible_since_us(now, time.time_ns() // 1000) or 0)
        return (first, since_us) if first > 1 or since_us > 0 else None

    def _rule_of_category(self, category: str) -> Rule | None:
        # The store's own streams have only the rule of their prefix, which is their category's, too.
        try:
            return self._common[category]
        except KeyError:
            rule = rule_in_force(category, None, self._rules.categories.get(category))
            self._common[category] = rule
            return rule


class _Hidden(NamedTuple):
    """What the limits hide, segment by segment."""

    flags: list[bytes]  # one byte for each of a segment's first entries, 1 if it is removed
    emptied: list[list[EmptyStream]]


# --- by hash: all segments column by column, on several processes


class HashLimits(NamedTuple):
    """What is removed of each stream, by the hash of its name."""

    first_versions: dict[int, int]  # the versions below it are removed
    since_us: dict[int, set[int]]  # by a time: the streams of which everything before it is removed


def _maybe_hide_by_hash(
    log: Log, parts: Sequence[Part], limits: _Limits, position: int, workers: Workers
) -> _Hidden | None:
    """Return what the limits hide; None if hashes do not tell the streams apart."""
    found = HashLimits({}, {})
    emptied: list[list[EmptyStream]] = [[] for _ in parts]
    versions, seen, wanted = 0, set[int](), limits.hashes()
    for at in reversed(range(len(parts))):
        part = parts[at]
        if not part.count:
            continue
        entries = entries_to(part, position)
        last = _last_entries(part, position, entries, seen)
        fresh = last.keys() - seen if seen else last.keys()
        seen.update(last)
        numbers = last.values() if len(fresh) == len(last) else list(map(last.__getitem__, fresh))
        versions += sum(map(column_array(entries, "version").__getitem__, numbers))
        numbers = sorted(numbers if wanted is None else map(last.__getitem__, fresh & wanted))
        hashes = iter(list(map(column_array(entries, "stream_hash").__getitem__, numbers)))
        for records in part.segment.records(numbers, first=_RECORDS_AT_ONCE):
            for (_, version, name, _, _, time_us, _, _, _), stream_hash in zip(records, hashes, strict=False):
                limit = limits.of(name, version)
                if limit is None:
                    continue
                first, since_us = limit
                found.first_versions[stream_hash] = first
                if since_us:
                    found.since_us.setdefault(since_us, set()).add(stream_hash)
                if version < first or time_us < since_us:
                    emptied[at].append((name, version, time_us))
    if versions + _sum_emptied(parts, seen) != position:
        return None
    return _Hidden(_find_all_hidden(log, parts, found, position, workers), emptied)


def _last_entries(part: Part, position: int, entries: Entries, seen: set[int]) -> dict[int, int]:
    """Return the number of each stream's last entry; nothing if all streams of the segment were seen."""
    if part.last_position <= position and isinstance(part, SealedPart):
        if seen.issuperset(part.index.stream_keys()):
            return {}
        return dict(zip(*part.index.heads(), strict=True))
    hashes = column(entries, "stream_hash")
    return dict(zip(hashes, range(len(hashes)), strict=True))


def _sum_emptied(parts: Iterable[Part], seen: set[int]) -> int:
    """Return the sum of the last versions of the streams that earlier compactions left without events."""
    last: dict[int, int] = {}
    for part in parts:
        removed = part.removed if isinstance(part, SealedPart) else None
        if removed is not None:
            for key, version in zip(removed.stream_hashes(), removed.stream_versions(), strict=True):
                if key not in seen:
                    last[key] = max(version, last.get(key, 0))
    return sum(last.values())


def entries_to(part: Part, position: int) -> Entries:
    """Return a segment's entries up to the position; of those that may grow a copy."""
    count, entries = part.count, part.entries()
    if part.last_position > position:
        count = min(count, part.segment.number_of(position + 1))
    return entries[: count * ENTRY_BYTES]


def _find_all_hidden(
    log: Log, parts: Sequence[Part], limits: HashLimits, position: int, workers: Workers
) -> list[bytes]:
    """Return the flags of each segment's entries up to the position."""
    if not limits.first_versions:
        return [b"" for _ in parts]
    whole: list[Part] = []  # which a helper can open, and need not know the position for
    others: list[Part] = []
    for part in parts:
        if isinstance(part, SealedPart) and part.last_position <= position and workers.count > 1:
            part.segment.checked_entries()  # damage is met here, where it can be reported
            whole.append(part)
        else:
            others.append(part)
    found: dict[int, bytes] = {}

    def find_others() -> None:
        for part in others:
            found[part.first_position] = _find_hidden(part.segment, entries_to(part, position), limits)

    # A call for each process, not for each segment: the limits are sent with every one.
    sources = [(log.store, log.manifest.store_id_bytes, part.info) for part in whole]
    stripes = [sources[at :: workers.count] for at in range(min(workers.count, len(sources)))]
    calls = [(stripe, limits) for stripe in stripes]
    for at, flags in workers.run(find_hidden_of, calls, first=find_others):
        infos = (info for _, _, info in stripes[at])
        found.update((info.first_position, hidden) for info, hidden in zip(infos, flags, strict=True))
    return [found[part.first_position] for part in parts]


def find_hidden_of(sources: Sequence[tuple[str, bytes, SegmentInfo]], limits: HashLimits) -> list[bytes]:
    """Return what `_find_hidden` finds in whole sealed segments that this process opens itself."""
    segments = (open_sealed(*source) for source in sources)
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
        flags = bytes(map(lt, column(rows, "version"), map(first_versions.get, hashes, repeat(0))))
        for before, members in old:
            if before > low:
                aged = map(members.__contains__, hashes[: before - low])
                flags = bytes(map(or_, flags, chain(aged, repeat(0))))
        found.append(flags)
    return b"".join(found)


# --- by name: every record, for the rare store where two names share a hash


def _hide_by_name(parts: Sequence[Part], limits: _Limits, position: int) -> _Hidden:
    """Return what the limits hide, by reading every record twice."""
    heads: dict[str, tuple[int, int, int]] = {}
    for at, part in enumerate(parts):
        for _, version, name, _, _, time_us, _, _, _ in _records_to(part, position):
            heads[name] = version, time_us, at
    bounds: dict[str, tuple[int, int]] = {}
    emptied: list[list[EmptyStream]] = [[] for _ in parts]
    for name, (version, time_us, at) in heads.items():
        limit = limits.of(name, version)
        if limit is not None:
            bounds[name] = limit
            if version < limit[0] or time_us < limit[1]:
                emptied[at].append((name, version, time_us))
    is_hidden = partial(_is_hidden, bounds)
    return _Hidden([bytes(map(is_hidden, _records_to(part, position))) for part in parts], emptied)


def _is_hidden(bounds: dict[str, tuple[int, int]], record: Record) -> bool:
    limit = bounds.get(record[2])
    return limit is not None and (record[1] < limit[0] or record[5] < limit[1])


def _records_to(part: Part, position: int) -> Iterator[Record]:
    count = part.count if part.last_position <= position else part.segment.number_of(position + 1)
    return chain.from_iterable(part.segment.scan(0, count)) if count else iter(())
