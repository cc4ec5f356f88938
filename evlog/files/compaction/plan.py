"""What a compaction removes, and which segments it writes again: decided before anything is written.

1. Planning again at the same cut-off gives the same plan, also after a part of the work was done.
2. Segments that lose events are written again (hidden.py: which events these are), and so are those that
   still hold the content of redacted events. Small neighbours are merged.

Nothing here writes.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import chain, compress

from evlog.files.compaction.hidden import entries_to, find_hidden
from evlog.files.format.entries import ENTRY_BYTES, column
from evlog.files.format.removed_events import EVENT_BYTES
from evlog.files.log.parts import SealedPart
from evlog.files.log.policies import rules_at
from evlog.model.named import NamedTuple
from evlog.model.redaction import is_redacted
from evlog.model.reports import Removal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, Final

    from evlog.files.compaction.hidden import CutOff
    from evlog.files.disk.processes import Workers
    from evlog.files.format.removed_events import EmptyStream
    from evlog.files.log.log import Log
    from evlog.files.log.parts import Part
    from evlog.model.redaction import Redacted
    from evlog.model.retention import Rules

# A segment below this share of the settings is small: it is merged with small neighbours.
_SMALL_SHARE: Final = 4


class SegmentPlan(NamedTuple):
    """One segment, and which of its entries are removed."""

    part: Part
    hidden: bytes  # one byte an entry: 1 if it is removed; empty if all stay
    redacted: tuple[int, ...]  # the entries whose content is erased
    emptied: list[EmptyStream]  # the streams that lose their last event, which is in this segment
    kept_events: int
    kept_bytes: int
    work_bytes: int  # what there is to read: records and their entries
    removed_events: int  # now and by earlier compactions
    last_hidden: int  # the position of the last event that is removed, 0 if none is

    @property
    def changes(self) -> bool:
        """Whether any event is removed or erased."""
        return bool(self.hidden or self.redacted)

    @property
    def events(self) -> int:
        """How many entries there were, those that are removed included."""
        return len(self.hidden) or self.kept_events

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
    groups: list[list[SegmentPlan]]  # the segments of each step; the last may have to be sealed first

    @property
    def last_hidden(self) -> int:
        """The position of the last event that is removed, 0 if none is."""
        return max((segment.last_hidden for segment in self.segments), default=0)

    @property
    def events_erased(self) -> int:
        """How many redacted events lose their content."""
        return sum(len(segment.redacted) for segment in self.segments)

    @property
    def seals(self) -> bool:
        """Whether events are removed or erased that are not in a sealed segment yet."""
        return any(segment.changes and not isinstance(segment.part, SealedPart) for segment in self.segments)


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
    hidden = find_hidden(log, parts, rules, cut_off, workers, resumed=resumed)
    redacted = log.policies().redacted
    segments = [
        plan_segment(part, flags, emptied, find_unerased(part, redacted, cut_off.position))
        for part, flags, emptied in zip(parts, hidden.flags, hidden.emptied, strict=True)
    ]
    removals = _count_removals(segments, rules) if by_stream else []
    return Plan(cut_off, rules.as_data(), segments, removals, _groups_of(log, segments))


def after_sealing(log: Log, plan: Plan) -> Plan:
    """Return the same plan, now that the segment that was active is sealed, perhaps with further events."""
    *before, last = plan.segments
    *groups, group = plan.groups
    part = next(part for part in log.sealed if part.first_position == last.part.first_position)
    lengths = column(part.entries()[last.events * ENTRY_BYTES :], "length")
    sealed = last._replace(
        part=part,
        hidden=last.hidden and last.hidden + bytes(len(lengths)),
        kept_events=last.kept_events + len(lengths),
        kept_bytes=last.kept_bytes + sum(lengths),
        work_bytes=last.work_bytes + sum(lengths) + ENTRY_BYTES * len(lengths),
    )
    return plan._replace(segments=[*before, sealed], groups=[*groups, [*group[:-1], sealed]])


def find_unerased(part: Part, redacted: Redacted | None, position: int) -> tuple[int, ...]:
    """Return the entries up to a position whose events are redacted, and still have their content."""
    if redacted is None or not part.count:
        return ()
    segment, found = part.segment, []
    for place in redacted.within(part.first_position, min(position, part.last_position)):
        number = segment.number_of(place)
        if number < part.count:
            record = segment.record(number)
            if record[0] == place and not is_redacted(record):
                found.append(number)
    return tuple(found)


def plan_segment(
    part: Part, hidden: bytes, emptied: list[EmptyStream], redacted: tuple[int, ...]
) -> SegmentPlan:
    """Return the plan of one segment, of which the flags may cover only the first entries."""
    already = part.info.removed_events
    lengths = column(entries_to(part, part.last_position), "length")
    total, size = len(lengths), sum(lengths)
    work = size + ENTRY_BYTES * total
    if 1 not in hidden:
        return SegmentPlan(part, b"", redacted, [], total, size, work, already, 0)
    removed = list(compress(lengths, hidden))
    last_hidden = part.segment.record(hidden.rindex(1))[0]
    flags = hidden + bytes(total - len(hidden))
    return SegmentPlan(
        part, flags, redacted, emptied, total - len(removed), size - sum(removed), work,
        already + len(removed), last_hidden,
    )  # fmt: skip


def _groups_of(log: Log, segments: Sequence[SegmentPlan]) -> list[list[SegmentPlan]]:
    settings = log.manifest
    return make_groups(segments, settings.segment_bytes, settings.segment_events)


def make_groups(
    segments: Sequence[SegmentPlan], segment_bytes: int, segment_events: int
) -> list[list[SegmentPlan]]:
    """Return what to write again: segments that lose something, and small neighbours, which become one.

    An active segment is among them if it loses something, because then it is sealed.
    """
    groups: list[list[SegmentPlan]] = []
    for segment in segments:
        if isinstance(segment.part, SealedPart) or segment.changes:
            if groups and _may_join([*groups[-1], segment], segment_bytes, segment_events):
                groups[-1].append(segment)
            else:
                groups.append([segment])
    return [group for group in groups if len(group) > 1 or group[0].changes]


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
    removals = [Removal(rules.describe(name), name, count, sizes[name]) for name, count in events.items()]
    return sorted(removals, key=lambda removal: (-removal.events, removal.stream))
