"""Look-ups in the columns of a segment's entries, for the active segment and where a sorted file is unusable.

1. The first look-ups search the bytes: 2 ms each for 262,144 entries, less for a key of a recent entry.
2. A writer asks for ids that are new, and for the last event of a stream. So next there is a set of the ids'
   hashes, and a dict of the last entry of each key: 10 and 20 ms, once for each kind of key.
3. Where more is found, a dict of all entries of each key is built: 80 ms, once. All of them grow with the
   entries.
"""

from __future__ import annotations

import threading
from array import array
from itertools import repeat

from evlog.files.format.entries import ENTRY_BYTES, cell_of, column
from evlog.files.format.hashes import NAME_BITS
from evlog.files.format.headers import KIND_IDS, KIND_STREAMS
from evlog.files.format.sorted_index import COLUMN
from evlog.process.forks import register_fork_reset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from typing import Final

    Groups = dict[int, int | array[int]]

Entries = bytes | bytearray | memoryview

# As many times all entries are searched before the second step, and before the third.
_SEARCHES_BEFORE_LASTS: Final = 8
_SEARCHES_BEFORE_DICTS: Final = 24
_CELLS: Final = {kind: cell_of(name) for kind, name in COLUMN.items()}
_CATEGORY_SHIFT: Final = NAME_BITS.bit_length()
CATEGORY_SHARE: Final = 4  # a category of more than one in this many events is not looked up: all are read
_NONE: Final[tuple[int, ...]] = ()
_NOTHING: Final[tuple[int, Groups]] = (0, {})


class ColumnIndex:
    """Look-ups in entries that may grow between calls, and never shrink.

    Args:
        entries: returns the entries there are now, checked.
    """

    def __init__(self, entries: Callable[[], Entries]) -> None:
        self._entries = entries
        self._searched = 0  # bytes; a guess is enough: threads count without a lock
        # By kind: how many bytes of entries are in the dict, and the dict. Guarded by _mutex, read without.
        # A dict is not here while it grows: what an interrupt leaves half done is built again.
        self._dicts: dict[int, tuple[int, Groups]] = {}
        self._lasts: dict[int, dict[int, int]] = {}  # guarded by _mutex while they grow; read without it
        self._in_lasts: dict[int, int] = {}  # guarded by _mutex: bytes of entries that are in `_lasts`
        self._ids: set[int] = set()  # guarded by _mutex while it grows; read without it
        self._in_ids = 0  # guarded by _mutex: bytes of entries that are in `_ids`
        self._mutex = threading.Lock()
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Renew the mutex in a forked child, and drop what another thread may have been growing."""
        self._mutex = threading.Lock()
        self._dicts = {}
        self._lasts, self._in_lasts = {}, {}
        self._ids, self._in_ids = set(), 0

    def find(self, kind: int, key: int) -> Sequence[int]:
        """Return the numbers of the entries with this key, rising."""
        if not (kind in self._dicts or self._has_searched(_SEARCHES_BEFORE_LASTS)):
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
        if not (kind in self._dicts or self._has_searched(_SEARCHES_BEFORE_DICTS)):
            if not self._has_searched(_SEARCHES_BEFORE_LASTS):
                return self._search(kind, key)
            last = self._last(kind).get(key)
            return iter(()) if last is None else self._search(kind, key, end=(last + 1) * ENTRY_BYTES)
        return reversed(as_numbers(self._dict(kind).get(key, _NONE)))

    def candidates(self, keys: Collection[int]) -> list[tuple[int, Sequence[int]]]:
        """Return each id hash that some entries have, with their numbers, rising."""
        if not (self._ids or self._has_searched(_SEARCHES_BEFORE_LASTS - len(keys))):
            return [(key, numbers) for key in keys if (numbers := self.find(KIND_IDS, key))]
        known = self._known_ids()
        if known.isdisjoint(keys):
            return []
        found = [key for key in dict.fromkeys(keys) if key in known]
        # Eight new ids in a full segment have the hash of another one. To search costs less than the dict.
        if self._has_searched(_SEARCHES_BEFORE_DICTS - len(found)):
            groups = self._dict(KIND_IDS)
            return [(key, as_numbers(groups[key])) for key in found]
        return [(key, list(self._search(KIND_IDS, key))[::-1]) for key in found]

    def maybe_last_id(self, key: int) -> int | None:
        """Return the number of the last entry with this id hash; None if there is none."""
        if key not in self._known_ids():
            return None
        if self._has_searched(_SEARCHES_BEFORE_DICTS):
            return as_numbers(self._dict(KIND_IDS)[key])[-1]
        return next(self._search(KIND_IDS, key))

    def last_numbers(self, kind: int, keys: Iterable[int]) -> list[int]:
        """Return the number of the last entry with each key; -1 if none has it."""
        return list(map(self._last(kind).get, keys, repeat(-1)))

    def heads(self) -> tuple[list[int], list[int]]:
        """Return every stream hash, and the number of its last entry."""
        lasts = self._last(KIND_STREAMS)
        return list(lasts), list(lasts.values())

    def keys(self, kind: int) -> list[int]:
        """Return every key."""
        return list(self._last(kind))

    def prepare(self) -> None:
        """Build now what a writer of many appends soon asks for, or extend it: the second step, 30 ms."""
        self._known_ids()
        self._last(KIND_STREAMS)

    def prepare_if_due(self) -> None:
        """Do so if the next look-up of a new id would, in a writer that has the lock then."""
        if not self._ids and self._has_searched(_SEARCHES_BEFORE_LASTS - 1):
            self.prepare()

    def _last(self, kind: int) -> dict[int, int]:
        """Return the number of each key's last entry."""
        if self._in_lasts.get(kind) != len(self._entries()):
            with self._mutex:
                start, end = self._in_lasts.get(kind, 0), len(self._entries())
                numbers = range(start // ENTRY_BYTES, end // ENTRY_BYTES)
                lasts = self._lasts.setdefault(kind, {})
                lasts.update(zip(self._column(kind, start, end), numbers, strict=True))
                self._in_lasts[kind] = end
        return self._lasts[kind]

    def _known_ids(self) -> set[int]:
        """Return the hashes of all ids."""
        if self._in_ids != len(self._entries()):
            with self._mutex:
                end = len(self._entries())
                self._ids.update(self._column(KIND_IDS, self._in_ids, end))
                self._in_ids = end
        return self._ids

    def _column(self, kind: int, start: int, end: int) -> list[int]:
        # A slice of a bytearray is a copy: a writer may extend the original meanwhile.
        return column(self._entries()[start:end], COLUMN[kind])

    def _has_searched(self, times: int) -> bool:
        return self._searched > times * len(self._entries())

    def _dict(self, kind: int) -> Groups:
        """Return a dict from each key to its entry's number, or to several: most keys have one."""
        known_bytes, groups = self._dicts.get(kind, _NOTHING)
        if known_bytes == len(self._entries()):
            return groups
        with self._mutex:
            return self._grow_dict(kind)

    def _grow_dict(self, kind: int) -> Groups:
        known_bytes, groups = self._dicts.pop(kind, (0, {}))
        end = len(self._entries())
        if known_bytes < end:
            fresh = self._column(kind, known_bytes, end)
            numbers = range(known_bytes // ENTRY_BYTES, end // ENTRY_BYTES)
            group_numbers(groups, fresh, numbers)
        self._dicts[kind] = end, groups
        return groups

    def _search(self, kind: int, key: int, start: int = 0, end: int | None = None) -> Iterator[int]:
        entries = self._entries()
        if isinstance(entries, memoryview):
            entries = bytes(entries)  # a memoryview cannot be searched
        key_at, key_bytes = _CELLS[kind]
        needle = key.to_bytes(key_bytes, "little")
        at = before = len(entries) if end is None else end
        while (at := entries.rfind(needle, start, at)) >= 0:
            self._searched += before - at
            number, within = divmod(at, ENTRY_BYTES)
            if within == key_at:
                yield number
            at = before = at + len(needle) - 1  # the next find may overlap this one, but not be it
        self._searched += before - start


def group_numbers(groups: Groups, keys: Sequence[int], numbers: Iterable[int]) -> None:
    """Add numbers, which rise, to the groups of their keys.

    A list would refer to a number object for each entry, which a look-up then reads from cold memory.
    """
    for number, key in zip(numbers, keys, strict=True):
        group = groups.get(key)
        if group is None:
            groups[key] = number
        elif isinstance(group, array):
            group.append(number)
        else:
            groups[key] = array("I", (group, number))


def as_numbers(group: int | Sequence[int]) -> Sequence[int]:
    """Return the numbers of a group."""
    return (group,) if isinstance(group, int) else group
