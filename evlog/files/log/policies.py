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
from evlog.files.format.entries import ENTRY, ENTRY_BYTES
from evlog.files.format.hashes import hash_stream, hash_type
from evlog.files.format.headers import KIND_STREAMS, KIND_TYPES
from evlog.model.events import Record, category_of
from evlog.model.retention import (
    METADATA_TYPE,
    SYSTEM_TYPES,
    Rule,
    Rules,
    decode_policy,
    metadata_stream,
    rule_in_force,
)

_TYPE_AT: Final = 36  # within an entry
_TYPE: Final = Struct("<I")
_FEW_ENTRIES: Final = 16
_MANY: Final = 4096  # policies: reading so many takes about 5 ms
_READ_FOR_A_LOOK: Final = 16  # as many as are read in the time of looking one up


class _Index(Protocol):
    def find(self, kind: int, key: int) -> Sequence[int]: ...
    def find_newest_first(self, kind: int, key: int) -> Iterator[int]: ...


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
        numbers = [n for n in part.index.find(KIND_TYPES, hash_type(METADATA_TYPE)) if n < count]
        for records in part.segment.records(numbers) if numbers else ():
            for record in records:
                if record[0] <= position:
                    rules.add(record)
    return rules


class PolicyTable:
    """The policies of one log as it grows, and in which of its segments the store has events of its own.

    `take_in` and `grow` need the log's mutex. What they make is put in place whole, for threads that ask
    meanwhile.
    """

    def __init__(self) -> None:
        self.any = False  # whether there may be any policy at all
        self._type_hashes = sorted(map(hash_type, SYSTEM_TYPES))
        self._parts: list[PolicyPart] = []  # the sealed segments that are taken in, oldest first
        self._sealed: Sequence[PolicyPart] | None = None  # the list that `_parts` was last compared with
        self._older = _Layer()  # of the sealed segments, all of them
        self._looked_into: dict[int, tuple[PolicyPart, array[int]]] = {}  # by the segment's identity
        self._active: PolicyPart | None = None
        self._seen_bytes = 0  # of the active segment's entries
        self._newer = _Layer()  # of the active segment

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

    def grow(self) -> None:
        """Read the policies that were only looked up so far, if enough of them were."""
        for layer in (self._older, self._newer):
            layer.maybe_read_all()

    def rule_for(self, stream: str) -> Rule | None:
        """The rule in force for a stream, None if there is none.

        Raises:
            CorruptionError: the policy is damaged.
        """
        if not self.any:
            return rule_in_force(stream, None, None)
        newer, older = self._newer, self._older
        category = category_of(stream)
        return rule_in_force(
            stream,
            newer.of_stream(stream) or older.of_stream(stream),
            newer.of_category(category) or older.of_category(category),
        )

    def rules(self) -> Rules:
        """All of them, as they are now.

        Raises:
            CorruptionError: one is damaged.
        """
        rules = self._older.all_rules()
        rules.update(self._newer.all_rules())
        return rules

    def system_numbers(self, place: int) -> Sequence[int]:
        """The entries of a segment, by its place in the log, that may be the store's own events."""
        older = self._older.parts
        if place < len(older):
            return older[place][1]
        return self._newer.parts[0][1] if self._newer.parts else ()

    def _take_in_sealed(self, sealed: Sequence[PolicyPart]) -> None:
        known, layer = len(self._parts), self._older
        if list(sealed[:known]) != self._parts:  # compacted, or read anew
            known, layer = 0, _Layer()
        fresh = [(part, self._look_into(part)) for part in sealed[known:]]
        self._older = layer.with_parts(fresh)
        self._parts, self._sealed = list(sealed), sealed
        self._looked_into = {id(part): (part, numbers) for part, numbers in self._older.parts}

    def _look_into(self, part: PolicyPart) -> array[int]:
        """The entries of a sealed segment that may be the store's own, looked up once.

        Under a compaction that replaces segments faster than all can be looked into, what was found in those
        that stay must not be lost with those that went.
        """
        known = self._looked_into.get(id(part))
        if known is not None:
            return known[1]
        found = set[int]()
        for type_hash in self._type_hashes:
            found.update(part.index.find(KIND_TYPES, type_hash))
        numbers = array("I", sorted(found))
        self._looked_into[id(part)] = part, numbers
        return numbers

    def _take_in_active(self, active: PolicyPart) -> None:
        end = len(active.segment.entries)
        start, layer = self._seen_bytes, self._newer
        if active is not self._active or end < start:
            start, layer = 0, _Layer()
        found = _find_types(active.segment.entries, start, end, self._type_hashes)
        if layer.parts:
            layer.extend_last(found)
        else:
            layer = layer.with_parts([(active, array("I", found))])
        self._newer = layer
        self.any = layer.count > 0 or self._older.count > 0
        self._active, self._seen_bytes = active, end  # last: from here on it is current


class _Layer:
    """The policies of some segments: all read, or where there are many, looked up each time, until that pays.

    A shell command asks for one stream's; it must not read those of a hundred thousand others. What cannot be
    read because it is damaged concerns its stream or category alone.
    """

    def __init__(self) -> None:
        self.parts: list[tuple[PolicyPart, array[int]]] = []  # oldest first, each with its entries
        self.count = 0  # of all these entries
        self._rules: Rules | None = Rules()  # None: they are looked up
        self._damaged: dict[int, CorruptionError] = {}  # by the hash of the metadata stream
        self._looks = 0

    def with_parts(self, fresh: list[tuple[PolicyPart, array[int]]]) -> _Layer:
        """This layer with later segments on top of it."""
        layer = _Layer()
        layer.parts = [*self.parts, *fresh]
        layer.count = self.count + sum(len(numbers) for _, numbers in fresh)
        many = self._rules is None or layer.count - self.count > _MANY
        layer._rules = None if many else self._rules
        layer._damaged = self._damaged
        if not many:
            for part, numbers in fresh:
                layer._read(part, numbers)
        return layer

    def extend_last(self, numbers: Sequence[int]) -> None:
        """Take in more entries of the last segment."""
        if numbers:
            part, known = self.parts[-1]
            if self._rules is not None:
                self._read(part, numbers)
            known.extend(numbers)
            self.count += len(numbers)

    def of_stream(self, stream: str) -> Rule | None:
        """What was last said of a stream, None if nothing was."""
        rules = self._rules
        if rules is None or self._damaged:
            return self._look_up(metadata_stream(stream=stream))
        return rules.streams.get(stream)

    def of_category(self, category: str) -> Rule | None:
        """What was last said of a category, None if nothing was."""
        rules = self._rules
        if rules is None or self._damaged:
            return self._look_up(metadata_stream(category=category))
        return rules.categories.get(category)

    def all_rules(self) -> Rules:
        """All of them.

        Raises:
            CorruptionError: one is damaged.
        """
        for error in self._damaged.values():
            raise error
        rules = Rules()
        if self._rules is not None:
            rules.update(self._rules)
            return rules
        for part, numbers in self.parts:
            for records in part.segment.records(numbers) if numbers else ():
                for record in records:
                    rules.add(record)
        return rules

    def maybe_read_all(self) -> None:
        """Read all of them once looking up has cost as much."""
        if self._rules is None and self._looks * _READ_FOR_A_LOOK >= self.count:
            layer = _Layer()
            for part, numbers in self.parts:
                layer._read(part, numbers)
            self._damaged, self._rules = layer._damaged, layer._rules

    def _look_up(self, name: str) -> Rule | None:
        self._looks += 1
        name_hash = hash_stream(name)
        for part, numbers in reversed(self.parts):
            for number in part.index.find_newest_first(KIND_STREAMS, name_hash) if numbers else ():
                record = part.segment.record(number)
                if record[2] == name and record[3] == METADATA_TYPE:
                    return decode_policy(record[7])
        return None

    def _read(self, part: PolicyPart, numbers: Sequence[int]) -> None:
        """Take in the policies among these entries."""
        if not numbers:
            return  # the segment's log need not even be opened
        assert self._rules is not None
        at = 0
        try:
            for records in part.segment.records(numbers):
                for record in records:
                    self._rules.add(record)
                    at += 1
        except CorruptionError:
            for number in numbers[at:]:
                try:
                    self._rules.add(part.segment.record(number))
                except CorruptionError as error:
                    stream_hash: int = ENTRY.unpack_from(part.segment.entries, number * ENTRY_BYTES)[0]
                    self._damaged[stream_hash] = error


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
