"""What a busy process keeps in memory about the sealed segments, so as not to look into each of them.

A look-up that goes through all segments costs some microseconds for each. A process that goes on looking
pays that for every stream or id; so once its look-ups have cost about what it costs to read the keys, they
are read, one segment at a time, into a table that says in which segments a key may be. The tables only save
work: segments that are not in them yet, or may hold the key by their word, are looked into as ever.

The tables belong to one log and are used by one thread at a time, under its mutex.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final, Protocol

# Taking in one key costs about a 64th of looking one up in one segment (0.1 to 0.4 µs, 6 to 10 µs).
_KEYS_PER_LOOK: Final = 64
_MIN_SLOTS_LOG2: Final = 12
_MAX_SLOTS_LOG2: Final = 27
_WORD_BITS: Final = 64
_SEVERAL: Final = 255


class SealedKeys(Protocol):
    """What is needed of a sealed segment: how many events it has, and its keys in any order.

    `id_count` counts those too that were compacted away: their ids stay known.
    """

    @property
    def count(self) -> int: ...
    @property
    def id_count(self) -> int: ...
    def stream_keys(self) -> Sequence[int]: ...
    def id_keys(self) -> Sequence[int]: ...


class _Table:
    """What both tables share: when to begin, which segments are in, and whether they are there still."""

    def __init__(self) -> None:
        self._looks = 0
        self._parts: list[SealedKeys] = []  # taken in, oldest first
        self._sealed: Sequence[SealedKeys] = ()  # the list of segments that `_parts` was last compared with

    def is_due(self, sealed: Sequence[SealedKeys]) -> bool:
        """Whether taking in another segment is worth it by now."""
        if not sealed or (len(self._parts) == len(sealed) and self._covers(sealed)):
            return False
        return bool(self._parts) or self._looks * _KEYS_PER_LOOK > len(sealed) * sealed[0].count

    def _covers(self, sealed: Sequence[SealedKeys]) -> int:
        """How many of the oldest segments the table speaks of; 0 if some of them are gone."""
        parts = self._parts
        if sealed is not self._sealed:
            if parts != sealed[: len(parts)]:
                return 0
            self._sealed = sealed
        return len(parts)


class StreamTable(_Table):
    """In which sealed segments a stream may have events: a bit a segment, in slots by the stream's hash."""

    def __init__(self) -> None:
        super().__init__()
        self._words: list[array[int]] = []  # for each 64 segments one table of masks
        self._shift = 0

    def places(self, sealed: Sequence[SealedKeys], stream_hash: int) -> list[int]:
        """The places in `sealed` of the segments that the stream may be in, newest first."""
        words, shift = self._words, self._shift
        known = self._covers(sealed)
        if not known:
            self._looks += len(sealed)
            return list(range(len(sealed) - 1, -1, -1))
        places = list(range(len(sealed) - 1, known - 1, -1))
        slot = stream_hash >> shift
        for number in range(len(words) - 1, -1, -1):
            mask = words[number][slot]
            while mask:
                bit = mask.bit_length() - 1
                mask ^= 1 << bit
                place = number * _WORD_BITS + bit
                if place < known:
                    places.append(place)
        return places

    def take_in(self, sealed: Sequence[SealedKeys]) -> None:
        """Take in the next segment."""
        known = self._covers(sealed)
        part = sealed[known] if known < len(sealed) else sealed[0]
        slots_log2 = _slots_log2(len(part.stream_keys()) * max(len(sealed), 8) // 2)
        if not known or 64 - slots_log2 < self._shift:
            self._parts, self._sealed = [], ()
            self._words, self._shift = [], 64 - min(slots_log2 + 1, _MAX_SLOTS_LOG2)
            known, part = 0, sealed[0]
        if known % _WORD_BITS == 0:
            self._words.append(array("Q", bytes(8 << (64 - self._shift))))
        masks, bit, shift = self._words[-1], 1 << known % _WORD_BITS, self._shift
        for key in part.stream_keys():
            masks[key >> shift] |= bit
        self._parts.append(part)


class IdTable(_Table):
    """Which sealed segment an id may be in: a number in a byte, in slots by the upper half of the id's fold.

    A slot that several segments fill says so, and then all of them are looked into.
    """

    def __init__(self) -> None:
        super().__init__()
        self._slots = bytearray()
        self._shift = 0

    def places(self, sealed: Sequence[SealedKeys], folds: Sequence[int]) -> dict[int, Sequence[int]]:
        """Of `folds`, by index, those that may be known, with the places of the segments to look into."""
        if not sealed:
            return {}
        slots, shift = self._slots, self._shift + 32
        known = self._covers(sealed)
        if not known:
            self._looks += len(sealed) * len(folds)
            return dict.fromkeys(range(len(folds)), range(len(sealed) - 1, -1, -1))
        numbers = [slots[fold >> shift] for fold in folds]
        newer = range(len(sealed) - 1, known - 1, -1)
        if newer:
            return {at: [*newer, *_numbered(number, known)] for at, number in enumerate(numbers)}
        return {at: _numbered(number, known) for at, number in enumerate(numbers) if number}

    def take_in(self, sealed: Sequence[SealedKeys]) -> None:
        """Take in the next segment."""
        known = self._covers(sealed)
        slots_log2 = min(32, _slots_log2(sum(part.id_count for part in sealed) * 4))
        if not known or 32 - slots_log2 < self._shift:
            self._parts, self._sealed, known = [], (), 0
            self._shift = 32 - min(slots_log2 + 1, _MAX_SLOTS_LOG2)
            self._slots = bytearray(1 << (32 - self._shift))
        slots, shift = self._slots, self._shift
        number = known % (_SEVERAL - 1) + 1
        for key in sealed[known].id_keys():
            slot = key >> shift
            slots[slot] = number if slots[slot] in (0, number) else _SEVERAL
        self._parts.append(sealed[known])


def _numbered(number: int, known: int) -> Sequence[int]:
    """The places of the segments that a slot's number stands for, newest first."""
    if number == _SEVERAL:
        return range(known - 1, -1, -1)
    return range(number - 1, known, _SEVERAL - 1)[::-1] if number else ()


def _slots_log2(wanted: int) -> int:
    return min(_MAX_SLOTS_LOG2, max(_MIN_SLOTS_LOG2, wanted.bit_length()))
