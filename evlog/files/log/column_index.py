"""Look-ups in the columns of a segment's entries, for the active segment and where a sorted file is unusable.

The first few look-ups search the bytes. After that dicts are built, which grow with the entries. Of ids only
a set is built, until many of them are found: almost every id that is looked up is new.
"""

from __future__ import annotations

import threading
from itertools import chain, repeat

from evlog.files.disk.fork import register_fork_reset
from evlog.files.format.entries import ENTRY_BYTES, column
from evlog.files.format.hashes import NAME_BITS
from evlog.files.format.headers import KIND_IDS, KIND_STREAMS, KIND_TYPES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from collections.abc import Set as AbstractSet
    from typing import Final

    Groups = dict[int, int | list[int]]

Entries = bytes | bytearray | memoryview

# This many look-ups search the bytes (2 ms each for 262,144 entries); then a dict is built (60 ms, once), or
# of ids a set (20 ms).
_SEARCHES_BEFORE_DICTS: Final = 8
_FEW_BYTES: Final = 400 * ENTRY_BYTES
_KEY_AT: Final = {KIND_STREAMS: 0, KIND_IDS: 12, KIND_TYPES: 36}
_KEY_BYTES: Final = {KIND_STREAMS: 8, KIND_IDS: 4, KIND_TYPES: 4}
_COLUMN: Final = {KIND_STREAMS: "stream_hash", KIND_IDS: "id_hash", KIND_TYPES: "type_hash"}
_CATEGORY_SHIFT: Final = NAME_BITS.bit_length()
CATEGORY_SHARE: Final = 4  # a category of more than one in this many events is not looked up: all are read
_NONE: Final[tuple[int, ...]] = ()


class ColumnIndex:
    """Look-ups in entries that may grow between calls, and never shrink.

    Args:
        entries: returns the entries there are now, checked.
    """

    def __init__(self, entries: Callable[[], Entries]) -> None:
        self._entries = entries
        self._searches = 0  # a guess is enough: threads count without a lock
        self._dicts: dict[int, Groups] = {}  # guarded by _mutex while they grow; read without it
        self._known: dict[int, int] = {}  # guarded by _mutex: bytes of entries that are in the dict
        self._ids: set[int] = set()  # guarded by _mutex while it grows; read without it
        self._known_ids = 0  # guarded by _mutex: bytes of entries that are in the set
        self._mutex = threading.Lock()
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Renew the mutex in a forked child, and drop what another thread may have been growing."""
        self._mutex = threading.Lock()
        self._dicts, self._known = {}, {}
        self._ids, self._known_ids = set(), 0

    def find(self, kind: int, key: int) -> Sequence[int]:
        """Return the numbers of the entries with this key, rising."""
        if not self._worth_dicts(kind):
            return list(self._search(kind, key))[::-1]
        return as_numbers(self._dict(kind).get(key, _NONE))

    def maybe_find_category(self, category_hash: int, low: int, high: int) -> Sequence[int] | None:
        """Return the entries from low to high with streams of a category, rising; None if they are many."""
        entries = self._entries()
        if isinstance(entries, memoryview):
            entries = bytes(entries[: high * ENTRY_BYTES])
        needle = (category_hash >> _CATEGORY_SHIFT).to_bytes(3, "little")
        most = (high - low) // CATEGORY_SHARE
        found: list[int] = []
        at, end = low * ENTRY_BYTES, high * ENTRY_BYTES
        while (at := entries.find(needle, at, end)) >= 0:
            number, within = divmod(at, ENTRY_BYTES)
            if within == _CATEGORY_SHIFT // 8:
                if len(found) == most:
                    return None
                found.append(number)
            at += 1
        return found

    def find_newest_first(self, kind: int, key: int) -> Iterator[int]:
        """Iterate over the same numbers, falling; the search goes only as far as the caller does."""
        if not self._worth_dicts(kind):
            return self._search(kind, key)
        with self._mutex:
            groups, known_bytes = self._dicts.get(kind), self._known.get(kind, 0)
            if groups is not None and 0 < len(self._entries()) - known_bytes <= _FEW_BYTES:
                # To search a few new entries costs less than to add them.
                fresh = list(self._search(kind, key, known_bytes))
                return chain(fresh, reversed(tuple(as_numbers(groups.get(key, _NONE)))))
        return reversed(as_numbers(self._dict(kind).get(key, _NONE)))

    def candidates(self, keys: Collection[int]) -> list[tuple[int, Sequence[int]]]:
        """Return each id hash that some entries have, with their numbers, rising."""
        if len(keys) == 1 and not self._known_ids and not self._worth_dicts(KIND_IDS):
            (key,) = keys
            numbers = list(self._search(KIND_IDS, key))[::-1]
            return [(key, numbers)] if numbers else []
        known = self._id_set()
        if known.isdisjoint(keys):
            return []
        found = [key for key in dict.fromkeys(keys) if key in known]
        self._searches += len(found) - 1  # `find` counts one
        return [(key, self.find(KIND_IDS, key)) for key in found]

    def last_numbers(self, kind: int, keys: Iterable[int]) -> list[int]:
        """Return the number of the last entry with each key; -1 if none has it."""
        groups = map(self._dict(kind).get, keys, repeat(-1))
        return [group if isinstance(group, int) else group[-1] for group in groups]

    def heads(self) -> tuple[list[int], list[int]]:
        """Return every stream hash, and the number of its last entry."""
        groups = self._dict(KIND_STREAMS)
        return list(groups), [as_numbers(numbers)[-1] for numbers in groups.values()]

    def keys(self, kind: int) -> list[int]:
        """Return every key."""
        return list(self._dict(kind))

    def _id_set(self) -> AbstractSet[int]:
        """Return the hashes of all ids."""
        if KIND_IDS in self._dicts:
            return self._dict(KIND_IDS).keys()
        if self._known_ids != len(self._entries()):
            with self._mutex:
                entries = self._entries()
                end = len(entries)
                # A slice of a bytearray is a copy: a writer may extend the original meanwhile.
                self._ids.update(column(entries[self._known_ids : end], "id_hash"))
                self._known_ids = end
        return self._ids

    def _worth_dicts(self, kind: int) -> bool:
        self._searches += 1
        return kind in self._dicts or self._searches > _SEARCHES_BEFORE_DICTS

    def _dict(self, kind: int) -> Groups:
        """Return a dict from each key to its entry's number, or to several: most keys have one."""
        if self._known.get(kind) == len(self._entries()):
            return self._dicts[kind]
        with self._mutex:
            return self._grow_dict(kind)

    def _grow_dict(self, kind: int) -> Groups:
        groups = self._dicts.setdefault(kind, {})
        known_bytes = self._known.get(kind, 0)
        entries = self._entries()
        end = len(entries)
        if known_bytes < end:
            # A slice of a bytearray is a copy: a writer may extend the original meanwhile.
            fresh = column(entries[known_bytes:end], _COLUMN[kind])
            numbers = range(known_bytes // ENTRY_BYTES, end // ENTRY_BYTES)
            if kind == KIND_IDS:
                _group_ids(groups, fresh, numbers)
                self._ids, self._known_ids = set(), 0  # the dict has them all
            else:
                group_numbers(groups, fresh, numbers)
            self._known[kind] = end
        return groups

    def _search(self, kind: int, key: int, start: int = 0) -> Iterator[int]:
        entries = self._entries()
        if isinstance(entries, memoryview):
            entries = bytes(entries)  # a memoryview cannot be searched
        needle = key.to_bytes(_KEY_BYTES[kind], "little")
        at = len(entries)
        while (at := entries.rfind(needle, start, at)) >= 0:
            number, within = divmod(at, ENTRY_BYTES)
            if within == _KEY_AT[kind]:
                yield number
            at += len(needle) - 1  # the next find may overlap this one, but not be it


def group_numbers(groups: Groups, keys: Sequence[int], numbers: Iterable[int]) -> None:
    """Add numbers, which rise, to the groups of their keys."""
    for number, key in zip(numbers, keys, strict=True):
        group = groups.get(key)
        if group is None:
            groups[key] = number
        elif isinstance(group, list):
            group.append(number)
        else:
            groups[key] = [group, number]


def _group_ids(groups: Groups, keys: Sequence[int], numbers: range) -> None:
    """Do the same for hashes of ids, few of which are equal: in C, but for those."""
    last = dict(zip(keys, numbers, strict=True))
    shared = groups.keys() & last.keys()
    if len(last) < len(keys) or shared:
        is_last = bytearray(len(keys))
        for number in last.values():
            is_last[number - numbers.start] = 1
        lost = set[int]()
        at = is_last.find(0)
        while at >= 0:
            lost.add(numbers.start + at)
            shared.add(keys[at])
            at = is_last.find(0, at + 1)
        several = sorted(lost.union(map(last.pop, shared)))
        group_numbers(groups, [keys[number - numbers.start] for number in several], several)
    groups.update(last)


def as_numbers(group: int | Sequence[int]) -> Sequence[int]:
    """Return the numbers of a group."""
    return (group,) if isinstance(group, int) else group
