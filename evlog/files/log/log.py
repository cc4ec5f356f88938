"""The whole log: the segments that the manifest names, in order, and look-ups across them.

`refresh` takes in what other processes did since: a stat of the manifest and one of the active log when they
did nothing. It takes no lock between processes. Sealed segments are opened when first asked for. What a
view holds stays readable whatever happens to the files' names meanwhile.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Final, TypeVar

from evlog.errors import CorruptionError
from evlog.files.disk.files import MAPS_KEEP_DESCRIPTORS, ReadFile
from evlog.files.disk.fork import register_fork_reset
from evlog.files.format import paths
from evlog.files.format.hashes import hash_ids
from evlog.files.format.headers import KIND_IDS, KIND_REMOVED, KIND_STREAMS
from evlog.files.format.marks import MARK_BYTES, MARKS_BYTES, Marks, decode_marks
from evlog.files.log.active import ActiveSegment
from evlog.files.log.index import ColumnIndex, Entries, SealedIndex
from evlog.files.log.manifest import Manifest, SegmentInfo, Stamp, has_stamp, read_manifest, read_stamp
from evlog.files.log.policies import PolicyTable
from evlog.files.log.segment import SealedSegment, Segment
from evlog.files.log.segment_filter import IdTable, StreamTable
from evlog.model.events import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from evlog.files.log.removed import RemovedEvent, RemovedEvents

_T = TypeVar("_T")

# Six files each, of the 256 or 1,024 descriptors that a process may have; else only memory maps.
_MAX_OPEN_PARTS: Final = 40 if MAPS_KEEP_DESCRIPTORS else 4096
_ATTEMPTS: Final = 10  # a manifest replaced this often while it is being read is not a race any more


class SegmentMoved(Exception):
    """A segment's files are gone because the manifest has moved on: refresh and look again."""


class SealedPart:
    """A sealed segment with its indexes, opened when used and closed when many others were opened since."""

    def __init__(self, store: str, manifest: Manifest, info: SegmentInfo, opened: OpenParts) -> None:
        self.info = info
        self.first_position = info.first_position
        self.last_position = info.last_position
        self.count = info.events
        self.id_count = info.events + info.removed_events
        self._store = store
        self._store_id = manifest.store_id_bytes
        self._opened = opened
        self._in_use = False
        self._segment: SealedSegment | None = None
        self._removed: RemovedEvents | None = None
        header = Segment(store, self._store_id, info).header._replace(source_crc=info.offsets_crc)
        prefix = paths.segment_path(store, info.first_position, info.generation, "")[:-1]
        self._index = SealedIndex(prefix, header, self._checked_entries, self._report_fault)

    @property
    def index(self) -> SealedIndex:
        """The look-ups in this segment."""
        if not self._in_use:
            self._use()
        return self._index

    @property
    def segment(self) -> SealedSegment:
        """The opened segment.

        Raises:
            SegmentMoved: the manifest names it no more.
            CorruptionError: its log is missing, or not as it was sealed.
        """
        if not self._in_use:
            self._use()
        segment = self._segment
        if segment is None:
            try:
                segment = self._segment = open_sealed(self._store, self._store_id, self.info)
            except FileNotFoundError as error:
                raise _missing(self._store, self.info, error) from None
        return segment

    @property
    def removed(self) -> RemovedEvents | None:
        """The events that a compaction removed from the segment, if it removed any.

        Raises:
            SegmentMoved: the manifest names the segment no more.
            CorruptionError: the file is missing or damaged.
        """
        info = self.info
        if not info.removed_bytes:
            return None
        if not self._in_use:
            self._use()
        removed = self._removed
        if removed is None:
            from evlog.files.log.removed import RemovedEvents  # only a compacted store needs it

            path = paths.segment_path(self._store, info.first_position, info.generation, "removed")
            header = Segment(self._store, self._store_id, info).header._replace(kind=KIND_REMOVED)
            try:
                removed = self._removed = RemovedEvents(path, header, info.removed_bytes)
            except FileNotFoundError as error:
                raise _missing(self._store, info, error) from None
        return removed

    def close(self) -> None:
        """Let go of the files; who still reads from them keeps them until it is done."""
        self._in_use = False
        self._segment = None
        self._removed = None
        self._index.close()

    def stream_keys(self) -> Sequence[int]:
        """The hash of every stream that it knows the last version of."""
        keys, removed = self.index.stream_keys(), self.removed
        return keys if removed is None else [*keys, *removed.stream_hashes()]

    def id_keys(self) -> Sequence[int]:
        """The upper half of the fold of every id that it knows."""
        keys, removed = self.index.id_keys(), self.removed
        return keys if removed is None else [*keys, *(key >> 32 for key in hash_ids(removed.ids()))]

    def _use(self) -> None:
        self._in_use = True
        self._opened.add(self)

    def _checked_entries(self) -> Entries:
        return self.segment.checked_entries()

    def _report_fault(self) -> None:
        if self not in self._opened.faulty:
            self._opened.faulty.append(self)


class OpenParts:
    """The sealed segments that have files open: the last so many that were opened."""

    def __init__(self) -> None:
        self.faulty: list[SealedPart] = []  # found without a sound index: whoever may write builds it again
        self._parts: deque[SealedPart] = deque()  # in the order in which they were opened
        self._mutex = threading.Lock()
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Renew the mutex in a forked child."""
        self._mutex = threading.Lock()

    def add(self, part: SealedPart) -> None:
        """Say that the segment is being opened; the one that was opened first may be closed for it."""
        with self._mutex:
            self._parts.append(part)
            oldest = self._parts.popleft() if len(self._parts) > _MAX_OPEN_PARTS else None
        if oldest is not None:
            oldest.close()

    def forget(self, part: SealedPart) -> None:
        """Close a segment that the store has no more, so that its files' room becomes free."""
        with self._mutex:
            if part in self._parts:
                self._parts.remove(part)
            if part in self.faulty:
                self.faulty.remove(part)
        part.close()

    def close(self) -> None:
        """Close them all."""
        with self._mutex:
            parts = list(self._parts)
            self._parts.clear()
        for part in parts:
            part.close()


class ActivePart:
    """The active segment with look-ups in its columns."""

    def __init__(self, segment: ActiveSegment) -> None:
        self.info = segment.info
        self.segment = segment
        self.first_position = segment.first_position
        self.index = ColumnIndex(lambda: segment.entries)

    @property
    def count(self) -> int:
        return self.segment.count

    @property
    def last_position(self) -> int:
        return self.first_position + self.segment.count - 1


Part = SealedPart | ActivePart


class Log:
    """The segments of one store, as they were at the last `refresh`.

    Raises:
        StoreNotFound, NotAStore, UnsupportedFormat, CorruptionError: there is no store to be read.
    """

    def __init__(self, store: str) -> None:
        self.store = store
        self.mutex = threading.RLock()
        self.manifest: Manifest
        self.damage: CorruptionError | None = None  # of what was acknowledged at the end of the active log
        self.sealed: list[SealedPart]  # the segments that never change any more, oldest first
        self.active: ActivePart  # the one that is being written
        self._view: tuple[list[SealedPart], ActivePart]  # both, replaced whole: threads read it unlocked
        self._manifest_path = paths.manifest_path(store)
        self._stamp: Stamp | None = None
        self._stale = True
        self._marks_file: ReadFile | None = None
        self._opened = OpenParts()
        self._streams = StreamTable()
        self._ids = IdTable()
        self._policies = PolicyTable()
        register_fork_reset(self)
        self.refresh()

    def reset_after_fork(self) -> None:
        """Renew the mutex in a forked child: another thread of the parent may have held it."""
        self.mutex = threading.RLock()
        self._stale = True  # what that thread was loading is loaded again

    @property
    def head(self) -> int:
        """The last position; 0 in an empty store."""
        return self.active.last_position

    def view(self) -> tuple[list[SealedPart], ActivePart]:
        """The sealed segments and the active one, of one moment."""
        return self._view

    def parts(self) -> list[Part]:
        """All segments, oldest first."""
        sealed, active = self.view()
        return [*sealed, active]

    def refresh(self, *, suspicious: bool = False) -> None:
        """Take in what was written since, by whomever.

        Args:
            suspicious: compare what is known even where nothing seems to have happened.
        """
        with self.mutex:
            for _ in range(_ATTEMPTS):
                try:
                    changed = read_stamp(self.store) != self._stamp
                    if changed or self._stale:
                        self._load()
                except SegmentMoved:
                    continue
                active = self.active.segment
                loading = not active.count
                # How far it is synced matters only to a segment that is read for the first time.
                if active.refresh(self.durable_offset() if loading else 0, suspicious=changed or suspicious):
                    if loading or active.torn_bytes or self.damage is not None:
                        self.damage = self._find_damage()
                    return
                self.reset()
            raise CorruptionError(self.active.segment.log_path, None, "it keeps changing while it is read")

    def is_current(self) -> bool:
        """Whether the store still has the manifest that was read last."""
        return has_stamp(self._manifest_path, self._stamp)

    @property
    def faulty(self) -> list[SealedPart]:
        """Segments that were found with a missing or damaged index; who builds it takes them out."""
        return self._opened.faulty

    def close(self) -> None:
        """Let go of the sealed segments' files."""
        self._opened.close()

    def reset(self) -> None:
        """Have the next refresh read everything again."""
        self._stale = True
        self._marks_file = None

    def raise_damage(self) -> None:
        """Raise the CorruptionError for acknowledged events at the end of the log, if there is one."""
        if self.damage is not None:
            raise self.damage

    def _find_damage(self) -> CorruptionError | None:
        """What is wrong if the log is known to be synced beyond its last whole frame."""
        durable = self.durable_offset()
        active = self.active.segment
        if durable > active.end:
            active.refresh(durable)  # the mark may be younger than the look at the log
        return active.damage(durable) if durable > active.end else None

    def marks(self) -> Marks:
        """How far the active log is written, acknowledged and synced, by the file `durable`."""
        return decode_marks(self._read_marks(), self.active.segment.tag)

    def pulse(self) -> tuple[Stamp, bytes]:
        """What differs from before whenever something was acknowledged, rolled or compacted meanwhile.

        Raises:
            StoreNotFound: the store is gone.
        """
        return read_stamp(self.store), self._read_marks()[MARK_BYTES:]  # all but how far it is written

    def _read_marks(self) -> bytes:
        if self._marks_file is None:
            try:
                self._marks_file = ReadFile(paths.durable_path(self.store))
            except FileNotFoundError:
                return b""
        return self._marks_file.read(MARKS_BYTES, 0)

    def durable_offset(self) -> int:
        """How far the active log is known to be synced, in bytes; 0 if that is not known."""
        return self.marks().durable_offset

    def acknowledged_position(self) -> int:
        """The last position up to which all is known to be acknowledged, of what the last refresh took in."""
        active = self.active
        offset = max(self.marks().acknowledged_offset, active.segment.durable)
        return active.first_position - 1 + active.segment.count_before(offset)

    def durable_position(self) -> int:
        """The last position up to which no power loss can take anything back."""
        active = self.active
        offset = max(self.marks().durable_offset, active.segment.durable)
        return active.first_position - 1 + active.segment.count_before(offset)

    def stream_parts(self, stream_hash: int) -> Iterator[Part]:
        """The segments that the stream may be in, newest first."""
        with self.mutex:
            sealed, active = self.view()
            places = self._streams.places(sealed, stream_hash)
        yield active
        for place in places:
            yield sealed[place]

    def settled(self, look: Callable[[], _T]) -> _T:
        """The result of a look at the segments, begun anew where a compaction takes them away under it."""
        while True:
            try:
                return look()
            except SegmentMoved:
                self.refresh()

    def find_last(self, stream: str, stream_hash: int) -> Record | None:
        """The stream's last event, None if it has none."""
        for part in self.stream_parts(stream_hash):
            record = _last_of(part, stream, stream_hash)
            if record is not None:
                return record
        return None

    def find_version(self, stream: str, stream_hash: int) -> int:
        """The stream's last version, 0 if it never had one; also when all its events were compacted away."""
        for part in self.stream_parts(stream_hash):
            record = _last_of(part, stream, stream_hash)
            if record is not None:
                return record[1]
            if isinstance(part, SealedPart) and (removed := part.removed) is not None:
                version = removed.version_of(stream, stream_hash)
                if version:
                    return version
        return 0

    def find_ids(self, ids: Sequence[bytes], folds: Sequence[int]) -> dict[int, Record | RemovedEvent]:
        """The events that have one of the ids, also those that were compacted away; by the id's index."""
        with self.mutex:
            sealed, active = self.view()
            suspects = self._ids.places(sealed, folds)
        found: dict[int, Record | RemovedEvent] = {}
        found.update(_records_with(active, active.index.known(KIND_IDS, folds), ids))
        asked: defaultdict[int, list[int]] = defaultdict(list)
        for at, places in suspects.items():
            for place in places:
                asked[place].append(at)
        for place in sorted(asked, reverse=True):
            part = sealed[place]
            unknown = [at for at in asked[place] if at not in found]
            pairs = [(at, number) for at in unknown for number in part.index.find(KIND_IDS, folds[at])]
            found.update(_records_with(part, pairs, ids))
            if (removed := part.removed) is not None:
                for at in unknown:
                    if at not in found and (event := removed.find(ids[at])) is not None:
                        found[at] = event
        return found

    def policies(self) -> PolicyTable:
        """The policies as of the last `refresh`."""
        table = self._policies
        for _ in range(_ATTEMPTS):
            if table.is_current(*self.view()):
                return table
            with self.mutex:
                try:
                    table.take_in(*self.view())
                except SegmentMoved:
                    self.refresh()
        raise CorruptionError(self.active.segment.log_path, None, "it keeps changing while it is read")

    def grow_tables(self) -> None:
        """Take a little more of the sealed keys into memory, if that is due; not for a holder of a lock."""
        if self._policies.any:
            with self.mutex:
                self._policies.grow()
        if not self.sealed:
            return
        with self.mutex:
            sealed = self.sealed
            try:
                for table in (self._streams, self._ids):
                    if table.is_due(sealed):
                        table.take_in(sealed)
            except SegmentMoved:
                pass  # the next refresh finds the segments that are there now

    def _load(self) -> None:
        manifest, stamp = read_manifest(self.store)
        before = [] if self._stamp is None else self.sealed
        known, active = ([], None) if self._stale else self._view
        parts = {part.info: part for part in known}
        infos = manifest.segments
        sealed = [
            parts.get(info) or SealedPart(self.store, manifest, info, self._opened) for info in infos[:-1]
        ]
        if active is None or active.info != infos[-1]:
            active = ActivePart(self._open_active(manifest, infos[-1]))
        self.manifest = manifest
        self._view = self.sealed, self.active = sealed, active
        self._stamp = stamp
        self._stale = False
        kept = set(map(id, sealed))
        for part in before:
            if id(part) not in kept:
                self._opened.forget(part)

    def _open_active(self, manifest: Manifest, info: SegmentInfo) -> ActiveSegment:
        try:
            return ActiveSegment(self.store, manifest.store_id_bytes, info)
        except FileNotFoundError as error:
            raise _missing(self.store, info, error) from None


def open_sealed(store: str, store_id: bytes, info: SegmentInfo) -> SealedSegment:
    """A sealed segment, compressed or not. Raises as both do."""
    if not info.compressed_bytes:
        return SealedSegment(store, store_id, info)
    from evlog.files.log.compressed import CompressedSegment  # a millisecond, for those who need it

    return CompressedSegment(store, store_id, info)


def _last_of(part: Part, stream: str, stream_hash: int) -> Record | None:
    for number in part.index.find_newest_first(KIND_STREAMS, stream_hash):
        record = part.segment.record(number)
        if record[2] == stream:
            return record
    return None


def _records_with(part: Part, pairs: Sequence[tuple[int, int]], ids: Sequence[bytes]) -> dict[int, Record]:
    """Of pairs of an id's index and an entry's number: the records that do have the id, by the index."""
    if not pairs:  # as ever but for a retry
        return {}
    records = chain.from_iterable(part.segment.records([number for _, number in pairs]))
    return {at: record for (at, _), record in zip(pairs, records, strict=True) if record[4] == ids[at]}


def _missing(store: str, info: SegmentInfo, error: FileNotFoundError) -> SegmentMoved | CorruptionError:
    """What it means that a segment's file is not there: read again, or damage."""
    manifest, _ = read_manifest(store)
    if manifest.names(info.log_file):
        return CorruptionError(str(error.filename), None, "the file is missing")
    return SegmentMoved(str(error.filename))
