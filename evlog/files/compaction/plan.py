"""What a compaction would remove, and which segments it would write anew: decided before anything is written.

Everything follows from the log up to one position, its policies up to there, and one moment: whoever plans
again for the same point, also after a part of the work was done, comes to the same result. Of a stream it is
always the oldest events that go, so what stays has no gap in its versions. Reads only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import compress, islice
from operator import attrgetter
from typing import Any, Final, NamedTuple

from evlog.files.compaction.flags import Limits, entries_to, find_all_hidden
from evlog.files.disk.processes import Workers
from evlog.files.format.entries import ENTRY_BYTES, column, column_array
from evlog.files.format.hashes import hash_stream
from evlog.files.format.removed_events import EVENT_BYTES
from evlog.files.log.index import Entries
from evlog.files.log.log import Log, Part, SealedPart
from evlog.files.log.policies import rules_at
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


class Point(NamedTuple):
    """What a compaction looks at: the log up to a position, and the moment that ages are measured from."""

    position: int
    time_us: int


class Bounds:
    """What goes of which stream, by the hash of its name."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.first_versions: dict[int, int] = {}  # the versions below it go
        self.since_us: dict[int, set[int]] = {}  # by a time: the streams of which everything before it goes
        self.last: dict[int, tuple[str, int, int]] = {}  # what is left of those that lose all events

    @cached_property
    def streams(self) -> frozenset[str]:
        """The names of all that lose something."""
        return frozenset(self.names.values())


class Piece(NamedTuple):
    """One segment, and which of its entries go."""

    part: Part
    hidden: bytes  # one byte an entry: 1 if it goes; empty if all stay
    kept_events: int
    kept_bytes: int
    work_bytes: int  # what there is to read: records and their entries
    removed_events: int
    last_hidden: int  # the position of the last event that goes, 0 if none does

    @property
    def size(self) -> int:
        """Bytes that will be left of it, about; the same whether or not it was compacted already."""
        return self.kept_bytes + ENTRY_BYTES * self.kept_events + EVENT_BYTES * self.removed_events


class Plan(NamedTuple):
    """A whole compaction."""

    point: Point
    rules: list[dict[str, Any]]
    bounds: Bounds
    pieces: list[Piece]
    removals: list[Removal]  # if these were asked for
    groups: list[list[Piece]]  # the segments of each step, as far as they are sealed already

    @property
    def last_hidden(self) -> int:
        """The position of the last event that goes, 0 if none does."""
        return max((piece.last_hidden for piece in self.pieces), default=0)

    @property
    def seals(self) -> bool:
        """Whether events go that are not in a sealed segment yet."""
        return any(piece.hidden and not isinstance(piece.part, SealedPart) for piece in self.pieces)


def make_plan(log: Log, point: Point, workers: Workers, *, by_stream: bool = False) -> Plan:
    """Decide what a compaction at this point removes.

    Args:
        workers: who looks through sealed segments beside this process; the compaction's lock keeps these.
        by_stream: also say how much goes of each stream.

    Raises:
        SegmentMoved: begin anew.
        CorruptionError: an index cannot be trusted and the log is damaged.
    """
    with log.mutex:
        parts = [part for part in log.parts() if part.count and part.first_position <= point.position]
        # A segment that holds nothing but what is left of others is merged with its neighbours, too.
        hollow = [part for part in log.sealed if not part.count and part.first_position <= point.position]
    rules = rules_at([(part, part.count) for part in parts], point.position)
    bounds = _find_bounds(parts, rules, point)
    found = _Removals(bounds) if by_stream else None
    ordered = sorted([*parts, *hollow], key=attrgetter("first_position"))
    limits = Limits(bounds.first_versions, bounds.since_us)
    flags = find_all_hidden(log, ordered, limits, point.position, workers)
    pieces = [_make_piece(part, hidden, point, found) for part, hidden in zip(ordered, flags, strict=True)]
    removals = found.all(rules) if found else []
    return Plan(point, rules.as_data(), bounds, pieces, removals, _groups_of(log, pieces))


def after_sealing(log: Log, plan: Plan) -> Plan:
    """The same plan, now that the segment that was active is sealed, perhaps with further events."""
    sealed = {part.first_position: part for part in log.sealed}
    pieces = [
        piece
        if isinstance(piece.part, SealedPart)
        else _sealed_piece(piece, sealed[piece.part.first_position])
        for piece in plan.pieces
    ]
    return plan._replace(pieces=pieces, groups=_groups_of(log, pieces))


def _sealed_piece(piece: Piece, part: SealedPart) -> Piece:
    """The same entries go of the segment that is sealed now: those up to the point are what they were."""
    lengths = column(entries_to(part, part.last_position), "length")
    size = sum(lengths)
    hidden = piece.hidden
    if hidden:
        hidden += bytes(part.count - len(hidden))
    went_events = hidden.count(1)
    went_bytes = sum(compress(lengths, hidden))
    return piece._replace(
        part=part,
        hidden=hidden,
        kept_events=part.count - went_events,
        kept_bytes=size - went_bytes,
        work_bytes=size + ENTRY_BYTES * part.count,
    )


def _groups_of(log: Log, pieces: Sequence[Piece]) -> list[list[Piece]]:
    settings = log.manifest
    return make_groups(pieces, settings.segment_bytes, settings.segment_events)


def make_groups(pieces: Sequence[Piece], segment_bytes: int, segment_events: int) -> list[list[Piece]]:
    """The segments to write anew: those that lose something, and small neighbours, which become one."""
    groups: list[list[Piece]] = []
    for piece in pieces:
        if isinstance(piece.part, SealedPart):
            if groups and _may_join([*groups[-1], piece], segment_bytes, segment_events):
                groups[-1].append(piece)
            else:
                groups.append([piece])
    return [group for group in groups if len(group) > 1 or group[0].hidden]


def _may_join(group: Sequence[Piece], segment_bytes: int, segment_events: int) -> bool:
    return (
        all(piece.size * _SMALL_SHARE < segment_bytes for piece in group)
        and all(piece.kept_events * _SMALL_SHARE < segment_events for piece in group)
        and sum(piece.size for piece in group) <= segment_bytes
        and sum(piece.kept_events for piece in group) <= segment_events
    )


# --- what goes


def _find_bounds(parts: Sequence[Part], rules: Rules, point: Point) -> Bounds:
    """The bounds of all streams of which something may go."""
    bounds = Bounds()
    if not rules.streams and not rules.categories:
        return bounds
    wanted = None if rules.categories else _names_with_rules(rules)
    limits = _LimitsInForce(rules, point)
    for part, hashes, numbers in _find_heads(parts, point.position, wanted):
        each = iter(hashes)
        for records in part.segment.records(numbers, first=_RECORDS_AT_ONCE):
            _add_bounds(bounds, islice(each, len(records)), records, limits)
    return bounds


class _FirstVersions(dict[int, int]):
    """The first version that a rule leaves of a stream, by its last one; there are few of these."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule

    def __missing__(self, last_version: int) -> int:
        first = self[last_version] = first_visible_version(self._rule, last_version)
        return first


class _RuleLimits(NamedTuple):
    """What a rule comes to at the point of the compaction."""

    first_versions: _FirstVersions
    since_us: int  # what was written before it goes


class _LimitsInForce(dict[str, _RuleLimits | None]):
    """What is in force for the streams of a category that have no rule of their own, found out once for all.

    The store's own streams know no other rule than their name's beginning, which is their category's, too.
    """

    def __init__(self, rules: Rules, point: Point) -> None:
        self._rules = rules
        self._point = point
        self.own = {name: self._limits_by(rules.rule_for(name)) for name in rules.streams}

    def __missing__(self, category: str) -> _RuleLimits | None:
        rule = rule_in_force(category, None, self._rules.categories.get(category))
        limits = self[category] = self._limits_by(rule)
        return limits

    def _limits_by(self, rule: Rule | None) -> _RuleLimits | None:
        if rule is None:
            return None
        since_us = visible_since_us(rule, self._point.time_us) or 0
        return _RuleLimits(_FirstVersions(rule), max(0, since_us))


def _add_bounds(
    bounds: Bounds, hashes: Iterable[int], heads: Iterable[Record], limits_in_force: _LimitsInForce
) -> None:
    """What goes of the streams whose last events these are."""
    names, first_versions, last, own = bounds.names, bounds.first_versions, bounds.last, limits_in_force.own
    for stream_hash, (_, version, name, _, _, time_us, _, _, _) in zip(hashes, heads, strict=True):
        limits = own[name] if name in own else limits_in_force[category_of(name)]
        if limits is None:
            continue
        firsts, since_us = limits
        first_version = firsts[version]
        if first_version > 1:
            first_versions[stream_hash] = first_version
        elif not since_us:
            continue
        if since_us:
            bounds.since_us.setdefault(since_us, set()).add(stream_hash)
        names[stream_hash] = name
        if version < first_version or time_us < since_us:
            last[stream_hash] = (name, version, time_us)


def _find_heads(
    parts: Sequence[Part], position: int, wanted: set[int] | None
) -> Iterator[tuple[Part, list[int], list[int]]]:
    """The last events of all streams up to the position: by segments, the streams' hashes and the entries.

    Args:
        wanted: the hashes of the streams that matter; None: all do.
    """
    seen: set[int] = set()
    for part in reversed(parts):
        entries = entries_to(part, position)
        last = _last_entries(part, position, entries, seen)
        fresh = last.keys() - seen if seen else last.keys()
        if wanted is not None:
            fresh = fresh & wanted
        seen.update(last)
        numbers = sorted(last.values() if len(fresh) == len(last) else map(last.__getitem__, fresh))
        yield part, _hashes_at(entries, numbers), numbers


def _last_entries(part: Part, position: int, entries: Entries, seen: set[int]) -> dict[int, int]:
    """The last of these entries of each stream; none if all streams of the segment were seen."""
    if part.last_position <= position and isinstance(part, SealedPart):
        return (
            {} if seen.issuperset(part.index.stream_keys()) else dict(zip(*part.index.heads(), strict=True))
        )
    hashes = column(entries, "stream_hash")
    return dict(zip(hashes, range(len(hashes)), strict=True))


def _hashes_at(entries: Entries, numbers: Iterable[int]) -> list[int]:
    hashes = column_array(entries, "stream_hash")
    return list(map(hashes.__getitem__, numbers))


def _names_with_rules(rules: Rules) -> set[int]:
    """The hashes of the streams that have a policy of their own, and of the streams that hold these."""
    names = {*rules.streams, *(metadata_stream(stream=name) for name in rules.streams)}
    return set(map(hash_stream, names))


def _make_piece(part: Part, hidden: bytes, point: Point, found: _Removals | None) -> Piece:
    already = part.info.removed_events
    total = part.count
    lengths = column(entries_to(part, part.last_position), "length")
    size = sum(lengths)
    work = size + ENTRY_BYTES * total
    if not hidden:
        return Piece(part, b"", total, size, work, already, 0)
    went = list(compress(lengths, hidden))
    if found is not None:
        found.add(compress(column(entries_to(part, point.position), "stream_hash"), hidden), went)
    last_hidden = part.segment.record(hidden.rindex(1))[0]
    gone = already + len(went)
    return Piece(part, hidden, total - len(went), size - sum(went), work, gone, last_hidden)


class _Removals:
    """Counts what goes, by stream."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._events: Counter[int] = Counter()
        self._bytes: Counter[int] = Counter()

    def add(self, hashes: Iterable[int], lengths: Sequence[int]) -> None:
        hashes = list(hashes)
        self._events.update(hashes)
        sizes = self._bytes
        for stream_hash, length in zip(hashes, lengths, strict=True):
            sizes[stream_hash] += length

    def all(self, rules: Rules) -> list[Removal]:
        """What goes of each stream, most events first."""
        removals = []
        for stream_hash, events in self._events.items():
            name = self._bounds.names[stream_hash]
            removals.append(Removal(_describe(name, rules), name, events, self._bytes[stream_hash]))
        return sorted(removals, key=lambda removal: (-removal.events, removal.stream))


def _describe(name: str, rules: Rules) -> dict[str, Any]:
    """The rule by which events of a stream go: its own, or that of its category."""
    rule = rules.rule_for(name)
    assert rule is not None
    if name in rules.streams or name.startswith(SYSTEM_PREFIX):
        return {"stream": name} | as_words(rule)
    return {"category": category_of(name)} | as_words(rule)
