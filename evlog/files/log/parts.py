"""The segments of a log with their look-ups: sealed ones, few of them open at a time, and the active one.

1. `SealedParts` is the list of one manifest. It makes a `SealedPart` when that is first asked for, and takes
   over those of the list before.
2. A `SealedPart` opens its files when they are used. `OpenParts` closes others for it, so that 64 descriptors
   are enough for any number of segments.
3. An `ActivePart` answers from the entries in memory, which grow.
4. Where a file is missing because the manifest was replaced, SegmentMoved tells the caller to look again.
"""

from __future__ import annotations

import os
import threading
from _weakrefset import WeakSet  # threading has imported it; weakref itself would cost a millisecond
from bisect import bisect_left

from evlog.errors import CorruptionError
from evlog.files.disk.files import MAPS_KEEP_DESCRIPTORS
from evlog.files.format import paths
from evlog.files.format.filter import IDENTITY_FIELDS, filter_keys
from evlog.files.format.headers import KIND_LOG, KIND_REMOVED, KIND_STREAMS
from evlog.files.format.manifest import SegmentRows
from evlog.files.format.sorted_index import WITH_TAGS
from evlog.files.log.column_index import ColumnIndex
from evlog.files.log.index import SealedIndex
from evlog.files.log.manifest_file import read_manifest
from evlog.files.log.sealed_segment import SealedSegment
from evlog.model.named import NamedTuple
from evlog.process.forks import register_fork_reset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any, Final, overload

    from evlog.files.format.filter import Identity
    from evlog.files.format.manifest import Manifest, SegmentInfo
    from evlog.files.log.active import ActiveSegment
    from evlog.files.log.column_index import Entries
    from evlog.files.log.manifest_file import OpenManifest
    from evlog.files.log.removed import RemovedEvents
    from evlog.files.log.segment import InMemory, Segment
    from evlog.files.log.tags import ActiveTags

_FILES_A_PART: Final = 7
_SPARE_DESCRIPTORS: Final = 32
_FEW_PARTS: Final = 40  # up to this many, each log uses all but the spare descriptors; more share half of all
_MAX_OPEN_PARTS: Final = 4096
# Few entries share a hash, unless the ids were chosen so: then whole ids are kept in memory.
_CROWD: Final = 64


def max_open_parts(logs: int = 1) -> int:
    """Return how many sealed segments each of the process's logs may have open.

    Of 64 descriptors, as of many, half are left to others.
    """
    if not MAPS_KEEP_DESCRIPTORS:
        return _MAX_OPEN_PARTS
    try:
        descriptors = os.sysconf("SC_OPEN_MAX")
    except (AttributeError, OSError, ValueError):  # pragma: no cover - no POSIX
        return _FEW_PARTS
    if descriptors < 0:
        return _MAX_OPEN_PARTS
    few = min(_FEW_PARTS, (descriptors - _SPARE_DESCRIPTORS) // _FILES_A_PART)
    return min(max(2, few, descriptors // 2 // _FILES_A_PART // logs), _MAX_OPEN_PARTS)


class SegmentMoved(Exception):
    """A segment's files are missing because the manifest has been replaced: refresh and look again."""


class Crowds:
    """The whole ids of entries that share their hash with many others, so as not to read them again."""

    def __init__(self) -> None:
        # By hash: how many entries are in the dict, and the number of each id's entry. Threads share it
        # without a lock: two that extend the same dict write the same.
        self._known: dict[int, tuple[int, dict[bytes, int]]] = {}

    def numbers(
        self, segment: Segment, candidates: Iterable[tuple[int, Sequence[int]]], wanted: set[bytes]
    ) -> list[int]:
        """Return the numbers of the entries that may have one of the wanted ids, rising, each once.

        Args:
            candidates: hashes of ids, each with the numbers of its entries.
        """
        found: list[int] = []
        for key, numbers in candidates:
            count = len(numbers)
            if count <= _CROWD:
                found += numbers
                continue
            known, ids = self._known.get(key, (0, {}))
            if known < count:
                fresh = numbers[known:count]
                at = 0
                for records in segment.records(fresh):
                    for record in records:
                        ids[record[4]] = fresh[at]
                        at += 1
                self._known[key] = count, ids
            found += [ids[id] for id in ids.keys() & wanted]
        return sorted(set(found))


class Direct(NamedTuple):
    """What a read of few events takes of a sealed segment: mapped, and each page of the index checked."""

    keys: memoryview  # of the index of streams, as the next two
    starts: memoryview
    postings: memoryview
    entries: bytes | bytearray | memoryview
    log: InMemory


class SealedPart:
    """A sealed segment with its look-ups, opened when used and perhaps closed when others are opened.

    Args:
        store: the store's directory.
        store_id: as in the manifest.
        opened: keeps account of the segments that are open.
    """

    __slots__ = (
        "_crowds", "_index", "_opened", "_removed", "_segment", "_store", "_store_id",
        "count", "direct", "first_position", "info", "last_position", "system_numbers",
    )  # fmt: skip

    def __init__(self, store: str, store_id: bytes, info: SegmentInfo, opened: OpenParts) -> None:
        self.info = info
        self.first_position = info[0]
        self.last_position = info[3]
        self.count = info[4]
        # The entries that may be the store's own events, once they were looked up.
        self.system_numbers: Sequence[int] | None = None
        self._store = store
        self._store_id = store_id
        self._opened = opened
        # Opened on demand, by any thread: two that open the same file use one each, until the next look-up.
        self._index: SealedIndex | None = None  # None: the segment is closed
        self._segment: SealedSegment | None = None
        self._removed: RemovedEvents | None = None
        self._crowds: Crowds | None = None
        self.direct: Direct | None = None  # as `maybe_direct` made it last

    @property
    def index(self) -> SealedIndex:
        """The look-ups in this segment."""
        return self._index or self._open()

    @property
    def segment(self) -> SealedSegment:
        """The opened segment.

        Raises:
            SegmentMoved: the manifest does not name it any more.
            CorruptionError: its log is missing, or not as it was sealed.
        """
        segment = self._segment
        if segment is None:
            if self._index is None:
                self._open()
            try:
                segment = self._segment = open_sealed(self._store, self._store_id, self.info)
            except FileNotFoundError as error:
                raise missing(self._store, self.info, error) from None
        return segment

    @property
    def removed(self) -> RemovedEvents | None:
        """The events that a compaction removed from the segment, if it removed any.

        Raises:
            SegmentMoved: the manifest does not name the segment any more.
            CorruptionError: the file is missing or damaged.
        """
        info = self.info
        if not info.removed_bytes:
            return None
        removed = self._removed
        if removed is None:
            from evlog.files.log.removed import RemovedEvents  # only a compacted store needs it

            if self._index is None:
                self._open()
            path = info.path(self._store, paths.REMOVED)
            header = info.header(KIND_REMOVED, self._store_id)
            try:
                removed = self._removed = RemovedEvents(path, header, info.removed_bytes)
            except FileNotFoundError as error:
                raise missing(self._store, info, error) from None
        return removed

    def maybe_direct(self) -> Direct | None:
        """Return the files of a segment whose index of streams is checked, else None.

        Raises:
            SegmentMoved, CorruptionError: as `segment`.
        """
        index = self.index.maybe_checked(KIND_STREAMS)
        if index is None:
            return None
        segment = self.segment
        log = segment.maybe_in_memory()
        direct = self.direct = Direct(index.keys, index.starts, index.postings, segment.entries, log)
        if self._index is None:  # another thread has closed the segment meanwhile
            self.direct = None
        return direct

    def crowds(self) -> Crowds:
        """Return the whole ids that are kept of this segment."""
        crowds = self._crowds
        if crowds is None:
            crowds = self._crowds = Crowds()
        return crowds

    def close(self) -> None:
        """Drop the files; a thread that reads from them keeps them until it is done."""
        self._index = self._segment = self._removed = self._crowds = self.direct = None

    def take_over(self, columns: ColumnIndex) -> None:
        """Answer look-ups from the columns of the segment, as it was when it was active, until `close`."""
        self._open().take_over(columns)

    def filter_keys(self) -> list[Sequence[int]]:
        """Return the filter's keys of the segment: of its streams, types, ids and tags, also removed ones."""
        index, removed = self.index, self.removed
        more = {} if removed is None else removed.hashes()
        return [filter_keys(kind, [*index.keys(kind), *more.get(kind, ())]) for kind in WITH_TAGS]

    def _open(self) -> SealedIndex:
        info = self.info
        header = info.header(KIND_LOG, self._store_id)._replace(source_crc=info.offsets_crc)
        prefix = f"{self._store}/{info.name}"
        index = SealedIndex(
            prefix, header, info.events, self.entries, self._report_fault, info.tagged_events, self._tags
        )
        self._index = index
        self._opened.add(self)
        return index

    def entries(self) -> Entries:
        """Return the entries, checked to be those that were sealed."""
        return self.segment.checked_entries()

    def find_tags(self, hashes: Sequence[int], low: int, high: int) -> Sequence[int]:
        """Return the entries from low to below high that may have tags with all these hashes, rising."""
        found = self.index.find_tags(hashes)
        return found[bisect_left(found, low) : bisect_left(found, high)]

    def _tags(self) -> Iterator[tuple[int, int]]:
        from evlog.files.log.tags import read_tags

        return read_tags(self.segment, self.entries(), 0, self.count)

    def _report_fault(self) -> None:
        if self not in self._opened.faulty:
            self._opened.faulty.append(self)


class SealedParts:
    """The sealed segments of one manifest, oldest first, each made when it is asked for.

    Args:
        made: the segments that were made, by their line in the manifest. Those of the manifests that follow
            share it, as long as what was known stays right.
    """

    def __init__(
        self, store: str, manifest: Manifest, opened: OpenParts, made: dict[bytes, SealedPart] | None = None
    ) -> None:
        segments = manifest.segments
        assert isinstance(segments, SegmentRows)
        self.rows = segments.rows[:-1]
        self.made: dict[bytes, SealedPart] = {} if made is None else made
        self._segments = segments
        self._store = store
        self._store_id = manifest.store_id_bytes
        self._opened = opened
        self._all: list[SealedPart] | None = None

    def identities(self) -> list[Identity]:
        """Return what the filter names each by."""
        return [row[: -len(row.split(b",", IDENTITY_FIELDS)[-1]) - 1] for row in self.rows]

    def begins_with(self, other: SealedParts) -> bool:
        """Return whether the others are the first of these, and what is known of them is still right."""
        return self.made is other.made and self.rows[: len(other.rows)] == other.rows

    def __len__(self) -> int:
        return len(self.rows)

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, at: int) -> SealedPart: ...
        @overload
        def __getitem__(self, at: slice) -> list[SealedPart]: ...

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[place] for place in range(len(self.rows))[at]]
        return self.made.get(self.rows[at]) or self._make(range(len(self.rows))[at])

    def __iter__(self) -> Iterator[SealedPart]:
        parts = self._all
        if parts is None:
            parts = self._all = self[:]
        return iter(parts)

    def at(self, places: Iterable[int]) -> Iterator[SealedPart]:
        """Iterate over the segments at these places: each in a third of the time that `self[place]` takes."""
        made, rows = self.made, self.rows
        for place in places:
            yield made.get(rows[place]) or self._make(place)

    def _make(self, place: int) -> SealedPart:
        part = SealedPart(self._store, self._store_id, self._segments[place], self._opened)
        # Of two threads that make one, both use the first.
        return self.made.setdefault(self.rows[place], part)


class OpenParts:
    """The sealed segments that have files open: at most `max_open_parts`.

    To open one more, a random one is closed. Rejected: closing the one that was opened first. Batches look
    into all segments in one order, so it would be the next one that is needed, each time.
    """

    def __init__(self) -> None:
        # Those without a sound index, which a writer rebuilds. Not guarded: each step is one operation.
        self.faulty: list[SealedPart] = []
        self._parts: dict[int, SealedPart] = {}  # guarded by _mutex: by identity
        self._mutex = threading.Lock()
        register_fork_reset(self)
        _every.add(self)

    def reset_after_fork(self) -> None:
        self._mutex = threading.Lock()

    def add(self, part: SealedPart) -> None:
        """Note that the segment is being opened; others may be closed for it."""
        others = []
        with self._mutex:
            self._parts.pop(id(part), None)
            most = max_open_parts(len(_every))
            while len(self._parts) >= most:
                number = int.from_bytes(os.urandom(4), "little") % len(self._parts)
                others.append(self._parts.pop(list(self._parts)[number]))
            self._parts[id(part)] = part
        for other in others:
            other.close()

    def forget(self, part: SealedPart) -> None:
        """Close a segment that is not in the store any more, so that the space of its files becomes free."""
        with self._mutex:
            self._parts.pop(id(part), None)
            if part in self.faulty:
                self.faulty.remove(part)
        part.close()

    def close(self) -> None:
        with self._mutex:
            parts = list(self._parts.values())
            self._parts.clear()
        for part in parts:
            part.close()


_every: Final[WeakSet[OpenParts]] = WeakSet()  # in this process; those that are not used any more leave it


class ActivePart:
    """The active segment with look-ups in its columns."""

    def __init__(self, segment: ActiveSegment) -> None:
        self.info = segment.info
        self.segment = segment
        self.first_position = segment.first_position
        self.index = ColumnIndex(lambda: segment.entries)
        self._tags: ActiveTags | None = None  # two threads that make one use one each, until the next look-up
        self._crowds = Crowds()

    @property
    def count(self) -> int:
        return self.segment.count

    @property
    def last_position(self) -> int:
        return self.first_position + self.segment.count - 1

    def entries(self) -> Entries:
        """Return the entries, which grow."""
        return self.segment.entries

    def find_tags(self, hashes: Sequence[int], low: int, high: int) -> Sequence[int]:
        """Return the entries from low to below high that may have tags with all these hashes, rising."""
        tags = self._tags
        if tags is None:
            from evlog.files.log.tags import ActiveTags  # most stores have no tags

            tags = self._tags = ActiveTags(self.segment)
        return tags.find(hashes, low, high)

    def prepare_tags(self, after: int) -> None:
        """Do now what would make the next look-up by tags, after the position, take long."""
        if self._tags is not None:
            self._tags.prepare(max(0, after + 1 - self.first_position), self.segment.count)

    def crowds(self) -> Crowds:
        """Return the whole ids that are kept of this segment."""
        return self._crowds


Part = SealedPart | ActivePart


class LogState(NamedTuple):
    """The segments of one manifest."""

    opened: OpenManifest
    sealed: SealedParts  # the segments that never change, oldest first
    active: ActivePart  # the one that is being written


class SegmentRef(NamedTuple):
    """A sealed segment, for another process, which opens it by `open_sealed`."""

    store: str
    store_id: bytes
    info: SegmentInfo


def open_sealed(store: str, store_id: bytes, info: SegmentInfo) -> SealedSegment:
    """Open a sealed segment, compressed or not. Raises as both classes do."""
    if not info.compressed_bytes:
        return SealedSegment(store, store_id, info)
    from evlog.files.log.compressed import CompressedSegment  # a millisecond that most stores do not need

    return CompressedSegment(store, store_id, info)


def missing(store: str, info: SegmentInfo, error: FileNotFoundError) -> SegmentMoved | CorruptionError:
    """Return the error for a missing file of a segment: SegmentMoved if it was replaced, else damage."""
    manifest = read_manifest(store)
    if manifest.names(info.log_file):
        return CorruptionError(str(error.filename), None, "the file is missing")
    return SegmentMoved(str(error.filename))
