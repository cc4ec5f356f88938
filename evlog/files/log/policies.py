"""Policies and redactions in the store's own events: read by the type index, extended as the log grows.

1. The type index and the filter tell which entries can be the store's own events: policies, and notes of
   compactions. Only their records are read.
2. A damaged policy affects only its own stream or category: its rule cannot be read, all others can.
3. A table belongs to one state of the log. If nothing was appended since, using it costs three comparisons.
"""

from __future__ import annotations

from struct import Struct

from evlog.errors import CorruptionError
from evlog.files.format.entries import ENTRY_BYTES, TYPE_HASH_AT
from evlog.files.format.hashes import hash_stream, hash_type
from evlog.files.format.headers import KIND_STREAMS, KIND_TYPES
from evlog.model.events import category_of
from evlog.model.retention import (
    METADATA_TYPE,
    REDACTED_TYPE,
    REDACTIONS_STREAM,
    SYSTEM_TYPES,
    Rules,
    decode_policy,
    metadata_stream,
    rule_in_force,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Final

    from evlog.files.log.parts import ActivePart, Part, SealedParts
    from evlog.files.log.segment_filter import SegmentFilter
    from evlog.model.events import Record
    from evlog.model.redaction import Redacted
    from evlog.model.retention import Rule

_TYPE: Final = Struct("<I")
_FEW_ENTRIES: Final = 16


def rules_at(parts: Iterable[tuple[Part, int]], position: int) -> Rules:
    """Return the policies in force after the event at the position.

    Args:
        parts: the segments, oldest first, each with its number of events.

    Raises:
        CorruptionError: a policy is damaged.
    """
    rules = Rules()
    for part, count in parts:
        numbers = [n for n in part.index.find(KIND_TYPES, hash_type(METADATA_TYPE)) if n < count]
        for records in part.segment.records(numbers) if numbers else ():
            for record in records:
                if record[0] <= position:
                    rules.add(record)
    return rules


class PolicyTable:
    """The policies of one log, and in which of its segments the store has events of its own.

    `update` needs the log's mutex; everything else may be called by any thread at any time.
    """

    def __init__(self) -> None:
        # Changed only under the log's mutex. A reader does one operation on a dict that only grows or is
        # replaced whole.
        self.any = False  # whether there may be any policy
        self._types = frozenset(map(hash_type, SYSTEM_TYPES))
        self._rules = Rules()
        self._damaged: CorruptionError | None = None  # the last one found
        self._redacted: Redacted | None = None  # replaced whole
        self._damaged_redaction: CorruptionError | None = None
        self._sealed: SealedParts | None = None
        self._active: ActivePart | None = None
        self._active_numbers: list[int] = []  # entries that may be the store's own events
        self._seen_bytes = 0  # of the active segment's entries; negative: begin again

    def is_current(self, sealed: SealedParts, active: ActivePart) -> bool:
        """Return whether the table holds everything that these segments hold."""
        return (
            sealed is self._sealed
            and active is self._active
            and len(active.segment.entries) == self._seen_bytes
        )

    def update(self, sealed: SealedParts, active: ActivePart, filter: SegmentFilter) -> None:
        """Read the policies that are new; all of them, if a compaction or recovery changed the log."""
        entries = active.segment.entries
        end = len(entries)
        seen_bytes = self._seen_bytes
        grown = sealed is self._sealed and active is self._active and 0 <= seen_bytes <= end
        if grown and not _find_types(entries, seen_bytes, end, self._types):
            self._seen_bytes = end  # so it is after nearly every append
            return
        self._seen_bytes = -1  # what an interrupt leaves half done is read again
        before = self._sealed
        rules, known = self._rules, len(before) if before is not None else 0
        redactions = len(rules.redactions)
        unchanged = seen_bytes >= 0 and before is not None and sealed.begins_with(before)
        known_entries = 0  # of the first segment that was sealed since, which was active
        if active is not self._active or end < seen_bytes:
            unchanged = unchanged and self._was_sealed(sealed, known, seen_bytes)
            known_entries = seen_bytes // ENTRY_BYTES
            self._active, self._active_numbers, seen_bytes = None, [], 0
        if not unchanged:
            rules, known, known_entries, self._damaged, self._redacted = Rules(), 0, 0, None, None
            self._damaged_redaction = None
            self._active, self._active_numbers, seen_bytes = None, [], 0
        if sealed is not before or not unchanged:
            for place in self._find_entries(sealed, filter):
                if place >= known:
                    numbers = sealed[place].system_numbers or ()
                    if place == known and known_entries:
                        numbers = [number for number in numbers if number >= known_entries]
                    self._read(sealed[place], numbers, rules)
        found = _find_types(entries, seen_bytes, end, self._types)
        self._read(active, found, rules)
        self._active_numbers += found
        self._rules = rules
        if len(rules.redactions) != redactions or self._redacted is None:
            self._redacted = _redacted_by(rules.redactions)
        self.any = bool(rules.streams or rules.categories or self._damaged)
        self._sealed, self._active, self._seen_bytes = sealed, active, end  # last: now the table is current

    def rule_for(self, stream: str) -> Rule | None:
        """Return the rule in force for a stream, None if there is none.

        Raises:
            CorruptionError: the policy is damaged.
        """
        if not self.any:
            return rule_in_force(stream, None, None)
        category = category_of(stream)
        if self._damaged is not None:
            own = self._look_up(metadata_stream(stream=stream))
            return rule_in_force(stream, own, self._look_up(metadata_stream(category=category)))
        return rule_in_force(stream, self._rules.streams.get(stream), self._rules.categories.get(category))

    @property
    def redacted(self) -> Redacted | None:
        """The redacted events; None if there are none.

        Raises:
            CorruptionError: a redaction is damaged, so it is not known what must not be shown.
        """
        if self._damaged_redaction is not None:
            raise self._damaged_redaction.unraised()
        return self._redacted

    @property
    def redactions(self) -> Sequence[Record]:
        """The events that say what was redacted, in order."""
        return self._rules.redactions

    @property
    def schemas(self) -> int | None:
        """The version of the stream of schemas; None if one of the store's own events is damaged."""
        return self._rules.schemas if self._damaged is None else None

    def rules(self) -> Rules:
        """Return all policies, as they are now.

        Raises:
            CorruptionError: one is damaged.
        """
        if self._damaged is not None:
            raise self._damaged.unraised()
        rules = Rules()
        rules.update(self._rules)
        return rules

    def system_numbers(self, part: Part) -> Sequence[int]:
        """Return the entries of a segment that may be the store's own events."""
        return self._active_numbers if part is self._active else getattr(part, "system_numbers", None) or ()

    def _was_sealed(self, sealed: SealedParts, known: int, seen_bytes: int) -> bool:
        """Return whether the next sealed segment is the active one that is known: then its policies stay.

        Else all policies are read again after a roll: 30 ms of the next append in segments of 262,144 events,
        and 3 ms for 1,000 policies, instead of 0.4 ms.
        """
        active = self._active
        if active is None or len(sealed) <= known:
            return False
        part = sealed[known]
        if part.info.tag != active.info.tag or part.count * ENTRY_BYTES < seen_bytes:
            return False
        if part.count * ENTRY_BYTES == seen_bytes:
            part.system_numbers = self._active_numbers
            return True
        try:
            fresh = bytearray(part.entries()[seen_bytes:])
        except CorruptionError:
            return True  # the index is asked
        # Others added these before they sealed it. Its index may be missing yet, and to search takes longer.
        first, found = seen_bytes // ENTRY_BYTES, _find_types(fresh, 0, len(fresh), self._types)
        part.system_numbers = [*self._active_numbers, *map(first.__add__, found)]
        return True

    def _find_entries(self, sealed: SealedParts, filter: SegmentFilter) -> list[int]:
        """Look up the store's own events in segments that are new; return the segments that may have any."""
        places = filter.places(sealed, KIND_TYPES, *self._types)[::-1]
        for place in places:
            part = sealed[place]
            if part.system_numbers is None:
                found = set[int]()
                for key in self._types:
                    found.update(part.index.find(KIND_TYPES, key))
                part.system_numbers = sorted(found)
        return places

    def _read(self, part: Part, numbers: Sequence[int], rules: Rules) -> None:
        """Add the policies among these entries."""
        if not numbers:
            return  # without opening the segment's log
        try:
            for records in part.segment.records(numbers):
                for record in records:
                    rules.add(record)
        except CorruptionError:
            # By the index: the log may be missing.
            redactions = set(part.index.find(KIND_STREAMS, hash_stream(REDACTIONS_STREAM)))
            redactions.intersection_update(part.index.find(KIND_TYPES, hash_type(REDACTED_TYPE)))
            for number in numbers:
                try:
                    rules.add(part.segment.record(number))
                except CorruptionError as error:
                    self._damaged = error.unraised()
                    if number in redactions:
                        self._damaged_redaction = error.unraised()

    def _look_up(self, name: str) -> Rule | None:
        """Return the newest policy of this name, read from the log. CorruptionError: it is damaged."""
        name_hash = hash_stream(name)
        parts: list[Part] = [*self._sealed] if self._sealed is not None else []
        if self._active is not None:
            parts.append(self._active)
        for part in reversed(parts):
            if not self.system_numbers(part):
                continue
            for number in part.index.find_newest_first(KIND_STREAMS, name_hash):
                record = part.segment.record(number)
                if record[2] == name and record[3] == METADATA_TYPE:
                    return decode_policy(record[7])
        return None


def _redacted_by(redactions: Sequence[Record]) -> Redacted | None:
    if not redactions:
        return None
    from evlog.model.redaction import Redacted, maybe_decode_redaction  # few stores have any

    return Redacted(filter(None, map(maybe_decode_redaction, redactions)))


def _find_types(entries: bytearray, start: int, end: int, type_hashes: frozenset[int]) -> list[int]:
    """Return the numbers of the entries between two offsets that have one of the type hashes, rising."""
    if end - start <= _FEW_ENTRIES * ENTRY_BYTES:
        type_of = _TYPE.unpack_from
        return [
            at // ENTRY_BYTES
            for at in range(start + TYPE_HASH_AT, end, ENTRY_BYTES)
            if type_of(entries, at)[0] in type_hashes
        ]
    # By the one byte of the hash that few entries share with these types: a tenth of the time of a search for
    # all four, 4 ms in each command on a store whose active segment is nearly full.
    needles = [_TYPE.pack(type_hash) for type_hash in type_hashes]
    candidates: list[tuple[int, bytearray, bytes]] = []
    for byte in range(_TYPE.size):
        column = entries[start + TYPE_HASH_AT + byte : end : ENTRY_BYTES]
        wanted = bytes({needle[byte] for needle in needles})
        candidates.append((len(column) - len(column.translate(None, wanted)), column, wanted))
        if candidates[-1][0] * _FEW_ENTRIES < len(column):
            break
    _, column, wanted = min(candidates)
    first = start // ENTRY_BYTES
    return [
        number
        for number in sorted(first + at for value in wanted for at in _places(column, value))
        if _TYPE.unpack_from(entries, number * ENTRY_BYTES + TYPE_HASH_AT)[0] in type_hashes
    ]


def _places(column: bytearray, value: int) -> Iterator[int]:
    """Yield where a byte is."""
    at = column.find(value)
    while at >= 0:
        yield at
        at = column.find(value, at + 1)
