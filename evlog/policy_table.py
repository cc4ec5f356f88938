"""The policies of a log: found by their type, kept in memory, grown with the log.

Which segments hold events of the store's own at all (policies, and what a compaction notes) is known without
reading one: there are three types of them. So a store without any pays a look-up in each sealed segment, once
in a process, and a search in the new entries of the active one. A policy that is damaged concerns the
streams that it speaks of: reading those is an error, the others stay readable.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import Final, Protocol

from evlog.errors import CorruptionError
from evlog.events import Record, category_of
from evlog.format import ENTRY, ENTRY_BYTES, KIND_TYPES, hash_stream, hash_type
from evlog.policies import METADATA_TYPE, SYSTEM_TYPES, Rule, Rules, metadata_stream, rule_in_force

_TYPE_AT: Final = 36  # within an entry
_TYPE: Final = Struct("<I")
_FEW_ENTRIES: Final = 16


class _Index(Protocol):
    def find(self, kind: int, key: int) -> Sequence[int]: ...


class _Records(Protocol):
    @property
    def entries(self) -> bytes | bytearray | memoryview: ...
    def record(self, number: int) -> Record: ...
    def records(self, numbers: Sequence[int]) -> Iterator[Sequence[Record]]: ...


class PolicyPart(Protocol):
    """What is needed of a segment: look-ups by type, and the records that they lead to."""

    @property
    def index(self) -> _Index: ...
    @property
    def segment(self) -> _Records: ...


def rules_at(parts: Iterable[tuple[PolicyPart, int]], position: int) -> Rules:
    """The policies in force after the event at the position.

    Args:
        parts: the segments, oldest first, each with its number of events.

    Raises:
        CorruptionError: a policy is damaged.
    """
    rules = Rules()
    for part, count in parts:
        numbers = part.index.find(KIND_TYPES, hash_type(METADATA_TYPE))
        for records in part.segment.records([number for number in numbers if number < count]):
            for record in records:
                if record[0] <= position:
                    rules.add(record)
    return rules


class PolicyTable:
    """The policies of one log as it grows, and in which of its segments the store has events of its own.

    `take_in` needs the log's mutex. What it makes is put in place whole, for threads that ask meanwhile.
    """

    def __init__(self) -> None:
        self.any = False  # whether there may be any policy at all
        self._type_hashes = sorted(map(hash_type, SYSTEM_TYPES))
        self._parts: list[PolicyPart] = []  # the sealed segments that are taken in, oldest first
        self._sealed: Sequence[PolicyPart] | None = None  # the list that `_parts` was last compared with
        self._numbers: list[Sequence[int]] = []  # of each of them: the entries that may be the store's own
        self._any_sealed = False
        self._rules = _FoundRules()
        self._active: PolicyPart | None = None
        self._seen_bytes = 0  # of the active segment's entries
        self._active_numbers: list[int] = []
        self._active_rules = _FoundRules()

    def is_current(self, sealed: Sequence[PolicyPart], active: PolicyPart) -> bool:
        """Whether everything is taken in."""
        return (
            sealed is self._sealed
            and active is self._active
            and len(active.segment.entries) == self._seen_bytes
        )

    def take_in(self, sealed: Sequence[PolicyPart], active: PolicyPart) -> None:
        """Take in what is new: a look-up in each new segment, and a search in the new entries."""
        if sealed is not self._sealed:
            self._take_in_sealed(sealed)
        self._take_in_active(active)

    def rule_for(self, stream: str) -> Rule | None:
        """The rule in force for a stream, None if there is none.

        Raises:
            CorruptionError: the policy is damaged.
        """
        if not self.any:
            return rule_in_force(stream, None, None)
        newer, older = self._active_rules, self._rules
        category = category_of(stream)
        if newer.damaged or older.damaged:
            _raise_damage(newer, older, metadata_stream(stream=stream), stream in newer.streams)
            _raise_damage(newer, older, metadata_stream(category=category), category in newer.categories)
        return rule_in_force(
            stream,
            newer.streams.get(stream) or older.streams.get(stream),
            newer.categories.get(category) or older.categories.get(category),
        )

    def rules(self) -> Rules:
        """All of them, as they are now.

        Raises:
            CorruptionError: one is damaged.
        """
        rules = Rules()
        for found in (self._rules, self._active_rules):
            for error in found.damaged.values():
                raise error
            rules.update(found)
        return rules

    def system_numbers(self, place: int) -> Sequence[int]:
        """The entries of a segment, by its place in the log, that may be the store's own events."""
        return self._numbers[place] if place < len(self._numbers) else self._active_numbers

    def _take_in_sealed(self, sealed: Sequence[PolicyPart]) -> None:
        known = len(self._parts)
        rules, numbers = self._rules, self._numbers
        if list(sealed[:known]) != self._parts:  # compacted, or read anew
            known, rules, numbers = 0, _FoundRules(), []
        for part in sealed[known:]:
            index, found = part.index, set[int]()
            for type_hash in self._type_hashes:
                found.update(index.find(KIND_TYPES, type_hash))
            numbers.append(array("I", sorted(found)))
            if found:  # else its log need not even be opened
                rules.read(part, numbers[-1])
        self._rules, self._numbers = rules, numbers
        self._any_sealed = any(map(len, numbers))
        self._parts, self._sealed = list(sealed), sealed

    def _take_in_active(self, active: PolicyPart) -> None:
        entries = active.segment.entries
        end = len(entries)
        start, rules, numbers = self._seen_bytes, self._active_rules, self._active_numbers
        if active is not self._active or end < start:
            start, rules, numbers = 0, _FoundRules(), []
        found = _find_types(entries, start, end, self._type_hashes)
        if found:
            rules.read(active, found)
            numbers.extend(found)
        self._active_rules, self._active_numbers = rules, numbers
        self.any = self._any_sealed or bool(numbers)
        self._active, self._seen_bytes = active, end  # last: from here on it is current


class _FoundRules(Rules):
    """Rules as they are read from the log, where they may be damaged: that concerns their streams alone."""

    __slots__ = ("damaged",)

    def __init__(self) -> None:
        super().__init__()
        self.damaged: dict[int, CorruptionError] = {}  # by the hash of the metadata stream

    def read(self, part: PolicyPart, numbers: Sequence[int]) -> None:
        """Take in the policies among these entries."""
        at = 0
        try:
            for records in part.segment.records(numbers):
                for record in records:
                    self._take(record)
                    at += 1
        except CorruptionError:
            for number in numbers[at:]:
                try:
                    self._take(part.segment.record(number))
                except CorruptionError as error:
                    stream_hash: int = ENTRY.unpack_from(part.segment.entries, number * ENTRY_BYTES)[0]
                    self.damaged[stream_hash] = error

    def _take(self, record: Record) -> None:
        self.add(record)
        if self.damaged:  # an earlier one does not matter any more
            self.damaged.pop(hash_stream(record[2]), None)


def _raise_damage(newer: _FoundRules, older: _FoundRules, name: str, replaced: bool) -> None:
    """Raise the error for a policy that cannot be read, unless a later one has replaced it."""
    name_hash = hash_stream(name)
    error = newer.damaged.get(name_hash) or (None if replaced else older.damaged.get(name_hash))
    if error is not None:
        raise error


def _find_types(
    entries: bytes | bytearray | memoryview, start: int, end: int, type_hashes: Sequence[int]
) -> list[int]:
    """The numbers of the entries between two offsets that have one of the type hashes, rising."""
    if end - start <= _FEW_ENTRIES * ENTRY_BYTES:
        type_of = _TYPE.unpack_from
        return [
            at // ENTRY_BYTES
            for at in range(start + _TYPE_AT, end, ENTRY_BYTES)
            if type_of(entries, at)[0] in type_hashes
        ]
    with memoryview(entries) as view, view[start:end] as fresh, fresh.cast("I") as cells:
        hashes = cells[_TYPE_AT // 4 :: ENTRY_BYTES // 4].tobytes()  # searched much faster than all of it
    numbers = []
    for type_hash in type_hashes:
        at, needle = -1, _TYPE.pack(type_hash)
        while (at := hashes.find(needle, at + 1)) >= 0:
            if at % 4 == 0:
                numbers.append((start // ENTRY_BYTES) + at // 4)
    return sorted(set(numbers))
