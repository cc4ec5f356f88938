"""Finding a segment's events by stream, type or id: entry numbers from hashes.

A sealed segment has three sorted files, mapped and bisected in C. An active one, or a sealed one whose
files are missing, stale or damaged, is searched in the columns of its entries: a few times by a search for
bytes, after that through dicts. Both give the same answers. Answers are candidates: hashes collide, and
what decides is the record. Nothing here writes or knows of records, manifests or locks.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Final
from zlib import crc32

from evlog.errors import EvlogError
from evlog.files.disk.files import map_file
from evlog.files.disk.fork import register_fork_reset
from evlog.files.format.entries import ENTRY_BYTES, column
from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    KIND_IDS,
    KIND_STREAMS,
    KIND_TYPES,
    FileHeader,
    FormatFault,
    NewerFormat,
    decode_file_header,
)
from evlog.files.format.sorted_index import PAGE_BYTES, encode_sorted, group_entries, sort_ids, sorted_shape

SORTED_SUFFIXES: Final = {KIND_STREAMS: "streams", KIND_TYPES: "types", KIND_IDS: "ids"}
# So many look-ups search the columns (2 ms for 262,144 entries each); then dicts are made (60 ms, once).
_SEARCHES_BEFORE_DICTS: Final = 8
_FEW_BYTES: Final = 400 * ENTRY_BYTES
_FINDS_BEFORE_CHECKING_ALL: Final = 64  # a few milliseconds, once, for who goes on asking
_KEY_AT: Final = {KIND_STREAMS: 0, KIND_IDS: 8, KIND_TYPES: 36}
_KEY_BYTES: Final = {KIND_STREAMS: 8, KIND_IDS: 8, KIND_TYPES: 4}
_COLUMN: Final = {KIND_STREAMS: "stream_hash", KIND_IDS: "id_hash", KIND_TYPES: "type_hash"}
_NONE: Final[tuple[int, ...]] = ()

Entries = bytes | bytearray | memoryview
Groups = dict[int, int | list[int]]


class IndexFault(Exception):
    """A sorted index file that cannot be used; it is derived, so it is made anew and nobody is told."""


def build_sorted(header: FileHeader, entries: Entries) -> bytes:
    """The whole .streams, .types or .ids file (by the header's kind) for a sealed segment's entries."""
    if header.kind == KIND_IDS:
        keys, postings = sort_ids(bytes(entries))
        return encode_sorted(header, keys, None, postings)
    keys, starts, postings = group_entries(column(entries, _COLUMN[header.kind]))
    return encode_sorted(header, keys, starts, postings)


class SortedIndex:
    """One mapped .streams, .types or .ids file. Every page is checked before what it says is believed."""

    def __init__(self, path: str, expected: FileHeader) -> None:
        """Map the file.

        Args:
            expected: the header that it must have, but for its counts.

        Raises:
            IndexFault: it is missing, not whole, or not of this segment as it is now.
        """
        try:
            self._file = map_file(path)
            header = decode_file_header(bytes(self._file[:FILE_HEADER_BYTES]))
        except (FileNotFoundError, FormatFault, NewerFormat, EvlogError) as error:
            raise IndexFault(f"{path}: {error}") from None
        if header._replace(keys=0, postings=0) != expected:
            raise IndexFault(f"{path} belongs to something else")
        shape = sorted_shape(header.kind, header.keys, header.postings)
        if len(self._file) != shape.file_bytes:
            raise IndexFault(f"{path} is {len(self._file)} bytes, not {shape.file_bytes}")
        self.path = path
        self.kind = header.kind
        self._shape = shape
        self._key_bytes = 4 if header.kind == KIND_IDS else 8
        self.keys = self._file[shape.keys_at : shape.starts_at].cast("I" if header.kind == KIND_IDS else "Q")
        self.starts = self._file[shape.starts_at : shape.postings_at].cast("I")
        self.postings = self._file[shape.postings_at : shape.crcs_at].cast("I")
        self._crcs = self._file[shape.crcs_at :].cast("I")
        self._checked = bytearray(len(self._crcs))
        self._all_checked = False
        self._finds = 0

    def find(self, key: int) -> Sequence[int]:
        """The postings of a key, rising; empty when there is none.

        Raises:
            IndexFault: a page that the answer rests on is damaged.
        """
        keys = self.keys
        at = bisect_left(keys, key)
        if not self._all_checked:
            self._finds += 1
            if self._finds > _FINDS_BEFORE_CHECKING_ALL:
                self.check_all()
            else:
                self._check_find(key, at)
        if at == len(keys) or keys[at] != key:
            return _NONE
        if self.kind == KIND_IDS:
            return self.postings[at : self._end_of_equal(key, at)]
        return self.postings[self.starts[at] : self.starts[at + 1]]

    def _end_of_equal(self, key: int, at: int) -> int:
        while at < len(self.keys) and self.keys[at] == key:
            at += 1
        return at

    def _check_find(self, key: int, at: int) -> None:
        """Check the pages that an answer rests on.

        A damaged key can lead the search astray only by ending it beside itself, so both neighbours of
        the place are on checked pages before an absence is believed.
        """
        keys_at, width = self._shape.keys_at, self._key_bytes
        self._check(keys_at + (at - 1 if at else 0) * width, 2 * width)
        if at == len(self.keys) or self.keys[at] != key:
            return
        if self.kind == KIND_IDS:
            end = self._end_of_equal(key, at)
            self._check(keys_at + at * width, (end - at + 1) * width)
            self._check(self._shape.postings_at + at * 4, (end - at) * 4)
            return
        self._check(self._shape.starts_at + at * 4, 8)
        start, end = self.starts[at], self.starts[at + 1]
        if end > start:
            self._check(self._shape.postings_at + start * 4, (end - start) * 4)

    def check_all(self) -> None:
        """Check every page, before the file is used as a whole.

        Raises:
            IndexFault: one is damaged.
        """
        if not self._all_checked:
            self._check(FILE_HEADER_BYTES, self._shape.crcs_at - FILE_HEADER_BYTES)
            self._all_checked = True

    def _check(self, at: int, length: int) -> None:
        first = (at - FILE_HEADER_BYTES) // PAGE_BYTES
        last = (at + length - 1 - FILE_HEADER_BYTES) // PAGE_BYTES
        for page in range(first, min(last + 1, len(self._checked))):
            if not self._checked[page]:
                start = FILE_HEADER_BYTES + page * PAGE_BYTES
                end = min(start + PAGE_BYTES, self._shape.crcs_at)
                if crc32(self._file[start:end]) != self._crcs[page]:
                    raise IndexFault(f"{self.path} is damaged at offset {start}")
                self._checked[page] = 1


class ColumnIndex:
    """Look-ups in a segment's entries themselves, which may grow (never shrink) between calls.

    Args:
        entries: gives the entries there are now, checked.
    """

    def __init__(self, entries: Callable[[], Entries]) -> None:
        self._entries = entries
        self._searches = 0
        self._dicts: dict[int, Groups] = {}
        self._known: dict[int, int] = {}  # bytes of entries that are in the dict
        self._mutex = threading.Lock()
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Renew the mutex in a forked child, and drop what another thread may have been growing."""
        self._mutex = threading.Lock()
        self._dicts, self._known = {}, {}

    def find(self, kind: int, key: int) -> Sequence[int]:
        """The numbers of the entries with this key, rising."""
        if not self._worth_dicts(kind):
            return list(self._search(kind, key))[::-1]
        return _as_numbers(self._dict(kind).get(key, _NONE))

    def find_newest_first(self, kind: int, key: int) -> Iterator[int]:
        """The same, falling, and found only as far as the caller goes on."""
        if not self._worth_dicts(kind):
            return self._search(kind, key)
        with self._mutex:
            groups, known_bytes = self._dicts.get(kind), self._known.get(kind, 0)
            if groups is not None and 0 < len(self._entries()) - known_bytes <= _FEW_BYTES:
                # To search a few new ones costs less than to take them in.
                fresh = list(self._search(kind, key, known_bytes))
                return chain(fresh, reversed(tuple(_as_numbers(groups.get(key, _NONE)))))
        return reversed(_as_numbers(self._dict(kind).get(key, _NONE)))

    def known(self, kind: int, keys: Sequence[int]) -> list[tuple[int, int]]:
        """The entries that have one of the keys: pairs of the key's index and the entry's number."""
        if len(keys) == 1:
            return [(0, number) for number in self.find(kind, keys[0])]
        groups = self._dict(kind)
        if groups.keys().isdisjoint(keys):
            return []
        return [
            (at, number)
            for at, key in enumerate(keys)
            if (group := groups.get(key)) is not None
            for number in _as_numbers(group)
        ]

    def heads(self) -> tuple[list[int], list[int]]:
        """Every stream hash, and the number of its last entry."""
        groups = self._dict(KIND_STREAMS)
        return list(groups), [_as_numbers(numbers)[-1] for numbers in groups.values()]

    def keys(self, kind: int) -> list[int]:
        """Every key there is."""
        return list(self._dict(kind))

    def _worth_dicts(self, kind: int) -> bool:
        self._searches += 1
        return kind in self._dicts or self._searches > _SEARCHES_BEFORE_DICTS

    def _dict(self, kind: int) -> Groups:
        """Every key with its entry's number, or with a list of them: most ids and many streams have one."""
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
            fresh = column(
                entries[known_bytes:end], _COLUMN[kind]
            )  # of a bytearray a copy: it may go on growing
            numbers = range(known_bytes // ENTRY_BYTES, end // ENTRY_BYTES)
            if kind == KIND_IDS and len(set(fresh)) == len(fresh) and groups.keys().isdisjoint(fresh):
                groups.update(zip(fresh, numbers, strict=True))
            else:
                _group(groups, fresh, numbers)
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


def _group(groups: Groups, keys: list[int], numbers: Iterable[int]) -> None:
    for number, key in zip(numbers, keys, strict=True):
        group = groups.get(key)
        if group is None:
            groups[key] = number
        elif isinstance(group, list):
            group.append(number)
        else:
            groups[key] = [group, number]


def _as_numbers(group: int | Sequence[int]) -> Sequence[int]:
    return (group,) if isinstance(group, int) else group


class SealedIndex:
    """The look-ups of a sealed segment: its sorted files as long as they are sound, else its columns.

    Args:
        prefix: the path of the segment's files up to their suffix.
        expected: the header that the files must have, but for kind and counts.
        entries: gives the segment's entries, checked against the manifest.
        on_fault: called when a file is found missing or damaged, for who may write to build it again.
    """

    def __init__(
        self,
        prefix: str,
        expected: FileHeader,
        entries: Callable[[], Entries],
        on_fault: Callable[[], None],
    ) -> None:
        self._prefix = prefix
        self._expected = expected
        self._entries = entries
        self._on_fault = on_fault
        self._columns = ColumnIndex(entries)
        self._files: dict[int, SortedIndex | None] = {}

    def find(self, kind: int, key: int) -> Sequence[int]:
        """The numbers of the entries that may have the key (a stream hash, type hash or id fold), rising."""
        index = self._file(kind)
        if index is not None:
            try:
                return index.find(key >> 32 if kind == KIND_IDS else key)
            except IndexFault:
                self._drop(kind)
        return self._columns.find(kind, key)

    def find_newest_first(self, kind: int, key: int) -> Iterator[int]:
        """The same, falling."""
        return reversed(self.find(kind, key))

    def maybe_sorted(self, kind: int) -> SortedIndex | None:
        """The sorted file, every page checked, or None when it has to be rebuilt."""
        index = self._file(kind)
        if index is not None:
            try:
                index.check_all()
            except IndexFault:
                index = None
                self._drop(kind)
        return index

    def heads(self) -> tuple[list[int], list[int]]:
        """Every stream hash, and the number of its last entry."""
        index = self.maybe_sorted(KIND_STREAMS)
        if index is None:
            return self._columns.heads()
        last = index.postings.tolist()
        return index.keys.tolist(), [last[end - 1] for end in index.starts.tolist()[1:]]

    def stream_keys(self) -> Sequence[int]:
        """Every stream hash, once, in any order."""
        index = self.maybe_sorted(KIND_STREAMS)
        return index.keys if index is not None else self._columns.keys(KIND_STREAMS)

    def id_keys(self) -> Sequence[int]:
        """The upper half of every id fold, in any order."""
        index = self.maybe_sorted(KIND_IDS)
        if index is not None:
            return index.keys
        return array("I", (fold >> 32 for fold in self._columns.keys(KIND_IDS)))

    def missing(self) -> list[int]:
        """The kinds whose files have to be built or built anew, as far as is known without reading them."""
        return [kind for kind in SORTED_SUFFIXES if self._file(kind) is None]

    def build(self, kind: int, entries: Entries) -> bytes:
        """The bytes of the file of this kind."""
        return build_sorted(self._expected._replace(kind=kind), entries)

    def path(self, kind: int) -> str:
        """Where the file of this kind stands."""
        return f"{self._prefix}.{SORTED_SUFFIXES[kind]}"

    def close(self) -> None:
        """Let go of the files and of what was made in their place; the next look-up opens them again."""
        self._files = {}
        self._columns = ColumnIndex(self._entries)

    def forget(self, kind: int) -> None:
        """Look at the file of this kind anew: it was rebuilt."""
        self._files.pop(kind, None)

    def _file(self, kind: int) -> SortedIndex | None:
        try:
            return self._files[kind]
        except KeyError:
            pass
        try:
            index = SortedIndex(self.path(kind), self._expected._replace(kind=kind))
        except IndexFault:
            self._drop(kind)
            return None
        self._files[kind] = index
        return index

    def _drop(self, kind: int) -> None:
        self._files[kind] = None
        self._on_fault()
