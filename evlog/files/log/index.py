"""Look-ups in one sealed segment: entry numbers from hashes.

A sealed segment has sorted files, mapped and bisected in C. Where one is missing, stale or damaged, the
columns of its entries give the same answers. Answers are candidates: hashes collide, and the record decides.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from zlib import crc32

from evlog.errors import CorruptionError, EvlogError, SystemCallFailed
from evlog.files.disk.files import map_file
from evlog.files.format.hashes import NAME_BITS
from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    KIND_IDS,
    KIND_STREAMS,
    KIND_TAGS,
    FormatFault,
    decode_file_header,
)
from evlog.files.format.sorted_index import (
    PAGE_BYTES,
    WITH_TAGS,
    build_sorted,
    build_tags,
    sorted_shape,
    suffixes_of,
)
from evlog.files.log.column_index import CATEGORY_SHARE, ColumnIndex
from evlog.model.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from typing import Final

    from evlog.files.format.headers import FileHeader
    from evlog.files.log.column_index import Entries

_FINDS_BEFORE_CHECKING_ALL: Final = 128  # then all pages are checked: a millisecond, what 128 checks cost
_FEW: Final = 64  # numbers of one key; where there are more, all in the file are compared at once
_NONE: Final[tuple[int, ...]] = ()


class Groups(NamedTuple):
    """Some keys with the numbers of their entries, as in a sorted file."""

    keys: Sequence[int]  # sorted
    starts: Sequence[int]  # where the numbers of each key begin, and where the last ones end
    numbers: Sequence[int]  # from the first start on; of a key they rise


class IndexFault(Exception):
    """A sorted file that cannot be used. It is derived data: rebuilt silently."""


class SortedIndex:
    """One mapped sorted file. Every page is checked before its content is used.

    Args:
        path: of the file.
        expected: the header that it must have, but for its counts.
        count: the number of the segment's entries.

    Raises:
        IndexFault: it is missing, not whole, or does not belong to these entries.
        SystemCallFailed: the system has no descriptor or memory left for it.
    """

    def __init__(self, path: str, expected: FileHeader, count: int) -> None:
        try:
            self._file = map_file(path)
            header = decode_file_header(bytes(self._file[:FILE_HEADER_BYTES]))
        except SystemCallFailed:
            raise  # the file may be sound
        except (FileNotFoundError, FormatFault, EvlogError) as error:
            raise IndexFault(f"{path}: {error}") from None
        if header._replace(keys=0, postings=0) != expected or (
            header.postings != count and header.kind != KIND_TAGS
        ):
            raise IndexFault(f"{path} belongs to something else")
        shape = sorted_shape(header.kind, header.keys, header.postings)
        if len(self._file) != shape.file_bytes:
            raise IndexFault(f"{path} has {len(self._file)} bytes, not {shape.file_bytes}")
        self.path = path
        self.kind = header.kind
        self._count = count
        self._shape = shape
        self._key_bytes = 4 if header.kind == KIND_IDS else 8
        self.keys = self._file[shape.keys_at : shape.starts_at].cast("I" if header.kind == KIND_IDS else "Q")
        self.starts = self._file[shape.starts_at : shape.postings_at].cast("I")
        self.postings = self._file[shape.postings_at : shape.crcs_at].cast("I")
        self._crcs = self._file[shape.crcs_at :].cast("I")
        # Threads share these without a lock: a page that two of them check at once is only checked twice.
        self._checked = bytearray(len(self._crcs))
        self.is_checked = False  # every page
        self._all_compared = False  # whether every number is that of an entry
        self._finds = 0

    def find(self, key: int) -> Sequence[int]:
        """Return the postings of a key, rising; empty if there are none.

        Raises:
            IndexFault: a page that the answer rests on is damaged.
        """
        keys = self.keys
        at = bisect_left(keys, key)
        if not self.is_checked:
            self._finds += 1
            if self._finds > _FINDS_BEFORE_CHECKING_ALL:
                self.check_all()
            else:
                self._check_find(key, at)
        if at == len(keys) or keys[at] != key:
            return _NONE
        if self.kind == KIND_IDS:
            return self._compared(at, self._end_of_equal(key, at))
        return self._compared(self.starts[at], self.starts[at + 1])

    def last_numbers(self, keys: Iterable[int]) -> list[int]:
        """Return the last posting of each key, -1 if there is none: in two thirds of the time of `find`.

        Raises:
            IndexFault: as `find`.
        """
        if not self.is_checked:
            return [numbers[-1] if (numbers := self.find(key)) else -1 for key in keys]
        own, starts, postings, found = self.keys, self.starts, self.postings, []
        count = len(own)
        for key in keys:
            at = bisect_left(own, key)
            found.append(postings[starts[at + 1] - 1] if at < count and own[at] == key else -1)
        if max(found, default=0) >= self._count:
            raise IndexFault(f"{self.path} names an entry that is not there")
        return found

    def find_between(self, low: int, high: int, most: int) -> Groups | None:
        """Return the keys from low to high, inclusive, with their postings; None if these are over `most`.

        Raises:
            IndexFault: a page that the answer rests on is damaged.
        """
        first, end = bisect_left(self.keys, low), bisect_right(self.keys, high)
        if not self.is_checked:
            at = max(first - 1, 0)
            self._check(self._shape.keys_at + at * self._key_bytes, (end + 1 - at) * self._key_bytes)
            self._check(self._shape.starts_at + first * 4, (end - first + 1) * 4)
        start, stop = self.starts[first], self.starts[end]
        if stop - start > most:
            return None
        if stop > start:
            self._check(self._shape.postings_at + start * 4, (stop - start) * 4)
        return Groups(self.keys[first:end], self.starts[first : end + 1], self._compared(start, stop))

    def _compared(self, start: int, end: int) -> Sequence[int]:
        """Return some of the numbers. IndexFault: a crafted file names entries that do not exist."""
        if end - start == 1 and self.postings[start] < self._count:
            return (self.postings[start],)  # the common case: twice as fast as the code below
        numbers = self.postings[start:end]
        if not self._all_compared:
            if end - start > _FEW:
                self._compare_all()
            elif max(numbers, default=0) >= self._count:
                raise IndexFault(f"{self.path} names an entry that is not there")
        return numbers

    def _compare_all(self) -> None:
        if not self._all_compared and max(self.postings, default=0) >= self._count:
            raise IndexFault(f"{self.path} names an entry that is not there")
        self._all_compared = True

    def _end_of_equal(self, key: int, at: int) -> int:
        while at < len(self.keys) and self.keys[at] == key:
            at += 1
        return at

    def _check_find(self, key: int, at: int) -> None:
        """Check the pages that an answer rests on.

        A damaged key can mislead the bisection only if it becomes a neighbour of the place found. So both
        neighbours must be on checked pages before an absence is reported.
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
        """Check every page.

        Raises:
            IndexFault: one is damaged.
        """
        if not self.is_checked:
            self._check(FILE_HEADER_BYTES, self._shape.crcs_at - FILE_HEADER_BYTES)
            self.is_checked = True

    def check_as_whole(self) -> None:
        """Check every page and number, before the file is used as a whole. Raises as `check_all`."""
        self.check_all()
        self._compare_all()

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


class SealedIndex:
    """The look-ups of a sealed segment: its sorted files as long as they can be used, else its columns.

    Args:
        prefix: the path of the segment's files up to their suffix.
        expected: the header that the files must have, but for kind and counts.
        count: the number of the segment's entries.
        entries: returns the segment's entries, checked against the manifest.
        on_fault: called when a file is found missing or damaged, so that a writer rebuilds it.
        tagged_events: how many events have tags.
        tags: reads the hashes of all tags, with the numbers of their entries.
    """

    def __init__(
        self,
        prefix: str,
        expected: FileHeader,
        count: int,
        entries: Callable[[], Entries],
        on_fault: Callable[[], None],
        tagged_events: int = 0,
        tags: Callable[[], Iterable[tuple[int, int]]] = tuple,
    ) -> None:
        self._prefix = prefix
        self._expected = expected
        self._count = count
        self._on_fault = on_fault
        self._entries = entries
        self._suffixes = suffixes_of(tagged_events)
        self._tags = tags
        self._columns = ColumnIndex(entries)
        self._files: dict[int, SortedIndex | None] = {}  # threads share it: each step is one operation

    def find(self, kind: int, key: int) -> Sequence[int]:
        """Return the numbers of the entries that may have the key (a stream, type or id hash), rising."""
        index = self._files.get(kind) or self._file(kind)
        if index is not None:
            try:
                return index.find(key)
            except IndexFault:
                self._drop(kind)
        return self._columns.find(kind, key)

    def find_tags(self, hashes: Sequence[int]) -> Sequence[int]:
        """Return the numbers of the entries that may have tags with all these hashes, rising."""
        if KIND_TAGS not in self._suffixes:
            return _NONE
        from evlog.files.log.tags import find_in_entries, in_all

        index = self._file(KIND_TAGS)
        if index is not None:
            try:
                return in_all([index.find(hash) for hash in hashes])
            except IndexFault:
                self._drop(KIND_TAGS)
        return find_in_entries(self._entries(), hashes, 0, self._count)

    def maybe_find_category(self, category_hash: int, low: int, high: int) -> Sequence[int] | None:
        """Return the entries from low to high with streams of a category, rising; None if they are many."""
        index = self._file(KIND_STREAMS)
        if index is not None:
            try:
                found = index.find_between(
                    category_hash, category_hash | NAME_BITS, self._count // CATEGORY_SHARE
                )
            except IndexFault:
                self._drop(KIND_STREAMS)
            else:
                if found is None:
                    return None
                ordered = sorted(found.numbers)
                return ordered[bisect_left(ordered, low) : bisect_left(ordered, high)]
        return self._columns.maybe_find_category(category_hash, low, high)

    def maybe_find_streams(self, low: int, high: int) -> Groups | None:
        """Return the entries by the hashes of their streams from low to high; None if only columns tell."""
        index = self._file(KIND_STREAMS)
        if index is not None:
            try:
                return index.find_between(low, high, self._count)
            except IndexFault:
                self._drop(KIND_STREAMS)
        return None

    def find_newest_first(self, kind: int, key: int) -> Iterator[int]:
        """Iterate over the same numbers, falling."""
        if self._file(kind) is None:
            return self._columns.find_newest_first(kind, key)
        return reversed(self.find(kind, key))

    def candidates(self, keys: Collection[int]) -> list[tuple[int, Sequence[int]]]:
        """Return each id hash that some entries may have, with their numbers, rising."""
        if self._file(KIND_IDS) is None:
            return self._columns.candidates(keys)
        return [(key, numbers) for key in dict.fromkeys(keys) if (numbers := self.find(KIND_IDS, key))]

    def last_numbers(self, kind: int, keys: Sequence[int]) -> list[int]:
        """Return the number of the last entry that may have each stream or type hash; -1 if none has it."""
        index = self._file(kind)
        if index is not None:
            try:
                return index.last_numbers(keys)
            except IndexFault:
                self._drop(kind)
        return self._columns.last_numbers(kind, keys)

    def maybe_checked(self, kind: int) -> SortedIndex | None:
        """Return the sorted file, if it is open and every page has been checked already."""
        index = self._files.get(kind)
        return index if index is not None and index.is_checked else None

    def maybe_sorted(self, kind: int) -> SortedIndex | None:
        """Return the sorted file with every page checked, or None if it has to be rebuilt."""
        index = self._file(kind)
        if index is not None:
            try:
                index.check_as_whole()
            except IndexFault:
                index = None
                self._drop(kind)
        return index

    def heads(self) -> tuple[list[int], list[int]]:
        """Return every stream hash, and the number of its last entry."""
        index = self.maybe_sorted(KIND_STREAMS)
        if index is None:
            return self._columns.heads()
        postings = index.postings
        return index.keys.tolist(), [postings[end - 1] for end in index.starts[1:].tolist()]

    def keys(self, kind: int) -> Sequence[int]:
        """Return every hash of streams, types, ids or tags, in any order; one may be there several times."""
        if kind not in self._suffixes:
            return _NONE
        index = self.maybe_sorted(kind)
        if index is not None:
            return index.keys
        return [hash for hash, _ in self._tags()] if kind == KIND_TAGS else self._columns.keys(kind)

    def take_over(self, columns: ColumnIndex) -> None:
        """Use these columns: the files are being built, and need not be looked for."""
        self._columns = columns
        self._files = dict.fromkeys(self._suffixes)

    def is_built(self) -> bool:
        """Return whether the file is there that is built last."""
        return os.path.exists(self.path(list(self._suffixes)[-1]))

    def missing(self) -> list[int]:
        """Return the kinds whose files have to be built, as far as is known without reading them."""
        return [kind for kind in self._suffixes if self._file(kind) is None]

    def files(self, entries: Entries) -> dict[str, bytes]:
        """Return the content of the files by path; not of .tags, if an event with tags is damaged."""
        files = {}
        for kind in self._suffixes:
            try:
                files[self.path(kind)] = self.build(kind, entries)
            except CorruptionError:
                if kind != KIND_TAGS:
                    raise
        return files

    def build(self, kind: int, entries: Entries) -> bytes:
        """Return the content of the file of this kind."""
        if kind == KIND_TAGS:
            return build_tags(self._expected, self._tags())
        return build_sorted(self._expected._replace(kind=kind), entries)

    def path(self, kind: int) -> str:
        """Return the path of the file of this kind."""
        return f"{self._prefix}.{WITH_TAGS[kind]}"

    def forget(self, kind: int) -> None:
        """Open the file of this kind again at the next look-up: it was rebuilt."""
        self._files.pop(kind, None)

    def _file(self, kind: int) -> SortedIndex | None:
        try:
            return self._files[kind]
        except KeyError:
            pass
        try:
            index = SortedIndex(self.path(kind), self._expected._replace(kind=kind), self._count)
        except IndexFault:
            self._drop(kind)
            return None
        except SystemCallFailed:
            return None  # not a fault: rebuilt, it could not be opened either; the next look-up tries again
        self._files[kind] = index
        return index

    def _drop(self, kind: int) -> None:
        self._files[kind] = None
        self._on_fault()
