"""Appending: deduplicate, check the expected version, write one frame, acknowledge after the sync.

Everything up to the write happens under the writers' lock; the sync happens after it was given back, under a
lock of its own, and one sync serves every append that was written before it began (the file `durable` says
how far). So writers do not wait for each other's disks, only for each other's microseconds.

After a failed write or sync this writer refuses to go on: memory and disk may differ, and only a new
look at the disk, by a writer opened after it, can tell.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import Final, NamedTuple
from zlib import crc32

from evlog import format as fmt
from evlog import paths
from evlog.disk import Disk, WriteFile
from evlog.errors import (
    AppendTooLarge,
    EvlogError,
    IdConflict,
    InvalidArgument,
    InvalidEvent,
    StoreFull,
    StoreIOError,
    WrongExpectedVersion,
)
from evlog.events import EncodedEvent, Record, check_stream_name, make_ids
from evlog.format import FRAME_HEADER_BYTES, FrameHeader, Mark
from evlog.known import SealedHeads, SealedIds
from evlog.lock import FileLock
from evlog.log import Log, SealedPart
from evlog.manifest import SegmentInfo, replace_manifest
from evlog.recovery import (
    TornTail,
    build_indexes,
    recover_locked,
    remove_leftovers_locked,
    repair_offsets_locked,
    reset_durable_mark,
    write_mark,
)

ANY: Final = "any"
STREAM_EXISTS: Final = "exists"
NO_STREAM: Final = 0
ExpectedVersion = int | str

_MAX_CACHED_NAMES: Final = 1 << 20  # streams whose version a writer remembers; more, and it begins anew


class BatchResult(NamedTuple):
    """What became of each event of one append, in order. A duplicate has the place of the first time."""

    streams: Sequence[str]
    versions: list[int]
    positions: list[int]
    ids: list[bytes]
    duplicates: list[bool]

    @property
    def appended(self) -> int:
        """How many events were written."""
        return len(self.duplicates) - self.duplicate_count

    @property
    def duplicate_count(self) -> int:
        """How many were there already."""
        return sum(self.duplicates)

    @property
    def first_position(self) -> int | None:
        """The position of the first event that was written; None if none was."""
        return next((p for p, known in zip(self.positions, self.duplicates, strict=True) if not known), None)

    @property
    def last_position(self) -> int | None:
        """The position of the last event that was written; None if none was."""
        pairs = zip(reversed(self.positions), reversed(self.duplicates), strict=True)
        return next((position for position, known in pairs if not known), None)


class Expectation(NamedTuple):
    """The version that a stream must have before the event at index `at` of the append."""

    at: int
    stream: str
    version: ExpectedVersion


class Writer:
    """The one way into a store's log, for all threads of a process.

    Args:
        log: the segments, shared with the readers of this process.
        sync: whether an append returns only when it is on the device.
        lock_timeout_seconds: how long to wait for other writers; None waits for ever.
    """

    def __init__(self, log: Log, *, sync: bool, lock_timeout_seconds: float | None, disk: Disk) -> None:
        self._log = log
        self._sync = sync
        self._disk = disk
        self._lock = FileLock(paths.lock_path(log.store), lock_timeout_seconds, disk)
        self._marks_lock = FileLock(paths.durable_path(log.store), lock_timeout_seconds, disk)
        self._tag = -1
        self._log_file: WriteFile | None = None
        self._offsets_file: WriteFile | None = None
        self._failed: EvlogError | None = None
        self._unsure = False  # memory may differ from the disk: forget it and look again before appending
        self._recover = True  # the end of the log has not been looked at as a writer must
        self._hashes: dict[str, int] = {}
        self._type_hashes: dict[str, int] = {}
        self._versions = _Versions()
        self._sealed_heads = SealedHeads(log)
        self._sealed_ids = SealedIds(log)
        self._last_time_us = 0
        self._seen_count = 0
        self._unindexed: list[SealedPart] = []
        self.torn_tails: list[TornTail] = []

    # --- one append

    def append(
        self,
        streams: Sequence[str],
        events: Sequence[EncodedEvent],
        expectations: Sequence[Expectation] = (),
        *,
        skip_known: bool = False,
    ) -> BatchResult:
        """Append events as one frame: all of them, or none.

        Durable when this returns (with `sync`), also when everything in it was a duplicate.

        Raises:
            WrongExpectedVersion, IdConflict, InvalidArgument: refused, nothing was written.
            LockTimeout, StoreFull: not written.
            StoreIOError: not acknowledged; open the store again.
        """
        if not events:
            raise InvalidArgument("there is nothing to append; give at least one event")
        hashes = self._stream_hashes(streams)
        self._sealed_ids.prepare()
        self._sealed_heads.prepare()
        with self._lock:
            self._catch_up_locked()
            known, ids, folds = self._known_locked(streams, events, skip_known)
            if known:
                result = self._append_unknown_locked(
                    streams, events, expectations, ids, folds, known, skip_known
                )
            else:
                versions = self._next_versions_locked(streams, hashes, expectations)
                first = self._write_locked(streams, hashes, versions, ids, folds, events)
                count = len(events)
                result = BatchResult(
                    streams, versions, list(range(first, first + count)), ids, [False] * count
                )
            end, file, tag = self._log.active.segment.end, self._log_file, self._tag
        assert file is not None
        if self._sync:
            self._make_durable(file, tag, end)
        self._build_indexes()
        return result

    def _append_unknown_locked(
        self,
        streams: Sequence[str],
        events: Sequence[EncodedEvent],
        expectations: Sequence[Expectation],
        ids: list[bytes],
        folds: list[int],
        known: dict[int, Record | int],
        skip_known: bool,
    ) -> BatchResult:
        """The rest of an append of which some ids (or all) are known with the same content."""
        count = len(events)
        new = [at for at in range(count) if at not in known]
        if new and not skip_known:
            record = next(record for record in known.values() if not isinstance(record, int))
            reason = "is known, but not all ids of its append are"
            raise IdConflict(_id_text(record[4]), record[2], record[0], reason)
        versions = [0] * count
        positions = [0] * count
        if new:
            new_streams = [streams[at] for at in new]
            new_hashes = [self._hashes[stream] for stream in new_streams]
            new_versions = self._next_versions_locked(new_streams, new_hashes, expectations)
            first = self._write_locked(
                new_streams,
                new_hashes,
                new_versions,
                [ids[at] for at in new],
                [folds[at] for at in new],
                [events[at] for at in new],
            )
            for number, at in enumerate(new):
                versions[at], positions[at] = new_versions[number], first + number
        for at, twin in known.items():
            if isinstance(twin, int):  # the same event earlier in this append
                versions[at], positions[at] = versions[twin], positions[twin]
            else:
                versions[at], positions[at] = twin[1], twin[0]
        return BatchResult(streams, versions, positions, ids, [at in known for at in range(count)])

    # --- deduplication

    def _known_locked(
        self, streams: Sequence[str], events: Sequence[EncodedEvent], skip_known: bool
    ) -> tuple[dict[int, Record | int], list[bytes], list[int]]:
        """The events whose id is known (index → record, or index of its twin); all ids; their folds."""
        given = [event[1] for event in events]
        explicit = [id for id in given if id is not None]
        if not explicit:
            ids = make_ids(len(events))
            return {}, ids, fmt.fold_ids(ids)
        if len(explicit) < len(given):
            fresh = iter(make_ids(len(given) - len(explicit)))
            ids = [id if id is not None else next(fresh) for id in given]
        else:
            ids = explicit
        folds = fmt.fold_ids(ids)
        known: dict[int, Record | int] = {}
        for at in self._suspects_locked(folds):
            record = None if given[at] is None else self._log.maybe_find_id(ids[at], folds[at])
            if record is not None:
                _check_same(record, streams[at], events[at])
                known[at] = record
        if len(set(ids)) < len(ids):
            self._find_twins(streams, events, ids, known, skip_known)
        return known, ids, folds

    def _suspects_locked(self, folds: list[int]) -> list[int]:
        """The places in `folds` whose id a look-up has to decide on."""
        index = self._log.active.index
        suspects = self._sealed_ids.maybe_known(folds)
        if len(folds) > 1:
            suspects = sorted({*suspects, *index.known(fmt.KIND_IDS, folds)})
        elif not suspects and index.find(fmt.KIND_IDS, folds[0]):
            suspects = [0]
        return suspects

    def _find_twins(
        self,
        streams: Sequence[str],
        events: Sequence[EncodedEvent],
        ids: list[bytes],
        known: dict[int, Record | int],
        skip_known: bool,
    ) -> None:
        """Ids that stand twice in one append: a line import skips the second, any other append is refused."""
        first: dict[bytes, int] = {}
        for at, id in enumerate(ids):
            twin = first.setdefault(id, at)
            if twin == at or at in known:
                continue
            if not skip_known:
                raise InvalidEvent("id", f"{_id_text(id)} stands twice in one append")
            if (streams[twin], *_content(events[twin])) != (streams[at], *_content(events[at])):
                reason = "stands twice in one append with different content"
                raise IdConflict(_id_text(id), streams[at], 0, reason)
            known[at] = twin

    # --- versions

    def _stream_hashes(self, streams: Sequence[str]) -> list[int]:
        cache = self._hashes
        try:
            return [cache[stream] for stream in streams]
        except (KeyError, TypeError):
            pass
        if len(cache) > _MAX_CACHED_NAMES:
            cache = self._hashes = {}
        for stream in streams:
            if stream.__class__ is not str or stream not in cache:
                cache[check_stream_name(stream)] = fmt.hash_stream(stream)
        return [cache[stream] for stream in streams]

    def _next_versions_locked(
        self, streams: Sequence[str], hashes: Sequence[int], expectations: Sequence[Expectation]
    ) -> list[int]:
        """The version that each event gets, once every expectation holds."""
        heads: dict[str, int] = {}
        versions = []
        if expectations:
            self._check_expectations_locked(streams, expectations)
        current = self._versions.get
        for stream, stream_hash in zip(streams, hashes, strict=True):
            version = heads.get(stream)
            if version is None:
                version = current(stream)
                if version is None:
                    version = self._look_up_version_locked(stream, stream_hash)
            heads[stream] = version = version + 1
            versions.append(version)
        if max(versions) > fmt.MAX_VERSION:
            raise InvalidArgument(f"a stream holds at most {fmt.MAX_VERSION} events; begin another stream")
        return versions

    def _check_expectations_locked(self, streams: Sequence[str], expectations: Sequence[Expectation]) -> None:
        for at, stream, expected in expectations:
            if expected == ANY:
                continue
            actual = self._version_locked(stream, self._stream_hashes((stream,))[0])
            actual += sum(1 for other in streams[:at] if other == stream)
            if actual == expected or (expected == STREAM_EXISTS and actual > 0):
                continue
            raise WrongExpectedVersion(stream, expected, actual)

    def _version_locked(self, stream: str, stream_hash: int) -> int:
        version = self._versions.get(stream)
        return self._look_up_version_locked(stream, stream_hash) if version is None else version

    def _look_up_version_locked(self, stream: str, stream_hash: int) -> int:
        active = self._log.active
        for number in active.index.find_newest_first(fmt.KIND_STREAMS, stream_hash):
            record = active.segment.record(number)
            if record[2] == stream:
                version = record[1]
                break
        else:
            version = self._sealed_heads.version(stream, stream_hash)
        self._versions.put(stream, stream_hash, version)
        return version

    # --- the write

    def _write_locked(
        self,
        streams: Sequence[str],
        hashes: Sequence[int],
        versions: Sequence[int],
        ids: list[bytes],
        folds: list[int],
        events: Sequence[EncodedEvent],
    ) -> int:
        """Write one frame and its entries; the position of its first event."""
        first_position = self._log.head + 1
        now_us = max(time.time_ns() // 1000, self._last_time_us)
        records = fmt.encode_records(events, ids, streams, versions, first_position, now_us)
        body = fmt.encode_body(records)
        if len(body) > fmt.MAX_BODY_BYTES:
            raise AppendTooLarge(len(body), fmt.MAX_BODY_BYTES)
        frame_bytes = FRAME_HEADER_BYTES + len(body)
        self._make_room_locked(frame_bytes, len(events))
        active = self._log.active.segment
        offset = active.end
        body_at = offset + frame_bytes - sum(map(len, records))
        rows = fmt.encode_entries(records, offset, body_at, hashes, folds, versions, self._hash_types(events))
        durable = self._log.durable_offset() or fmt.FILE_HEADER_BYTES
        index_crc = crc32(rows, active.index_crc)
        header = FrameHeader(
            len(body), len(events), min(durable, offset), first_position, index_crc, crc32(body), active.tag
        )
        frame = fmt.encode_frame_header(header, offset) + body
        self._put_locked(frame, rows, offset)
        active.extend(rows, offset + frame_bytes, index_crc, header.durable)
        self._last_time_us = now_us
        self._seen_count = active.count
        self._versions.update(dict(zip(streams, versions, strict=True)))
        self._unsure = False
        return first_position

    def _put_locked(self, frame: bytes, rows: bytes, offset: int) -> None:
        """One write to the log, then the entries, then the mark of how far the log is written."""
        active = self._log.active.segment
        assert self._log_file is not None
        assert self._offsets_file is not None
        self._unsure = True  # until all of it is done: an interrupt may come between any two lines
        try:
            self._disk.write_at(self._log_file, frame, offset)
            self._disk.write_at(
                self._offsets_file, rows, fmt.FILE_HEADER_BYTES + active.count * fmt.ENTRY_BYTES
            )
            mark = Mark(active.tag, offset + len(frame))
            write_mark(self._marks_lock.open(), fmt.WRITTEN_MAGIC, mark, self._disk)
        except StoreFull:
            # Nobody has seen this frame as more than a torn tail or an append not yet acknowledged.
            self._disk.cut(self._log_file, offset)
            raise
        except StoreIOError as error:
            self._fail(error)
            raise

    def _hash_types(self, events: Sequence[EncodedEvent]) -> list[int]:
        cache = self._type_hashes
        try:
            return [cache[event[0]] for event in events]
        except KeyError:
            if len(cache) > _MAX_CACHED_NAMES:
                cache = self._type_hashes = {}
            for event in events:
                cache[event[0]] = fmt.hash_type(event[0])
            return [cache[event[0]] for event in events]

    # --- durability

    def _make_durable(self, file: WriteFile, tag: int, end: int) -> None:
        """Return when the log is synced up to `end`: by this writer, or by another since."""
        with self._marks_lock as marks_file:
            raw = os.pread(marks_file.fd, 2 * fmt.MARK_BYTES, 0)
            written = fmt.maybe_decode_mark(fmt.WRITTEN_MAGIC, raw[: fmt.MARK_BYTES])
            durable = fmt.maybe_decode_mark(fmt.DURABLE_MAGIC, raw[fmt.MARK_BYTES :])
            if durable is not None and durable.tag == tag:
                if durable.suspect:
                    self._failed = StoreIOError(file.path, "a sync by another writer failed")
                    raise self._failed
                if durable.offset >= end:
                    return
            if written is not None and written.tag == tag:
                end = max(end, written.offset)
            try:
                self._disk.sync(file)
            except EvlogError as error:
                self._failed = error
                known = durable.offset if durable is not None and durable.tag == tag else 0
                self._mark_suspect(marks_file, tag, known)
                raise
            if (
                written is None or written.tag == tag
            ):  # else the segment was sealed meanwhile, and synced then
                reset_durable_mark(marks_file, tag, end, self._disk)

    def _fail(self, error: EvlogError) -> None:
        """A write failed: refuse from now on, and have the next writer look at the device."""
        self._failed = error
        with self._marks_lock as marks_file:
            self._mark_suspect(marks_file, self._tag, self._log.durable_offset())

    def _mark_suspect(self, marks_file: WriteFile, tag: int, synced: int) -> None:
        """Tell the other writers; if that fails too, they still see the device's error at their own sync."""
        with contextlib.suppress(EvlogError):
            write_mark(marks_file, fmt.DURABLE_MAGIC, Mark(tag, synced, True), self._disk)

    # --- being up to date

    def _catch_up_locked(self) -> None:
        """Take in what other writers did, and repair what a dead one left."""
        if self._failed is not None:
            raise self._failed
        log = self._log
        if self._unsure:
            log.reset()
            self._recover = True
        log.refresh()
        active = log.active.segment
        if active.tag != self._tag:
            if self._tag == -1 and log.sealed:
                self._unindexed.append(log.sealed[-1])  # who sealed it may have died before indexing it
            self._open_files_locked()
        if self._recover or active.torn_bytes or active.entries_on_disk < active.count:
            self._recover_locked()
            active = log.active.segment
        if active.count != self._seen_count:
            self._forget_changed_locked(active.count)
        self._unsure = False

    def _recover_locked(self) -> None:
        assert self._log_file is not None
        assert self._offsets_file is not None
        with self._marks_lock as marks_file:
            torn = recover_locked(self._log, self._log_file, marks_file, self._disk)
        if torn is not None:
            self.torn_tails.append(torn)
        repair_offsets_locked(self._log, self._offsets_file, self._disk)
        self._seen_count = -1
        self._recover = False

    def _forget_changed_locked(self, count: int) -> None:
        """Others appended: forget the versions of their streams, and take over their time."""
        active = self._log.active.segment
        if 0 <= self._seen_count < count:
            fresh = bytes(active.entries[self._seen_count * fmt.ENTRY_BYTES :])
            self._versions.forget(fmt.column(fresh, "stream_hash"))
        else:
            self._versions.clear()
        if count:
            self._last_time_us = active.record(count - 1)[5]
        elif self._log.sealed:
            self._last_time_us = self._log.sealed[-1].info.last_time_us
        self._seen_count = count

    def _open_files_locked(self) -> None:
        active = self._log.active.segment
        self._log_file = self._disk.open(active.log_path)
        self._offsets_file = self._disk.open(active.offsets_path, create=True)
        self._tag = active.tag
        self._seen_count = -1
        self._recover = True

    # --- rolling

    def _make_room_locked(self, frame_bytes: int, count: int) -> None:
        active = self._log.active.segment
        manifest = self._log.manifest
        too_long = active.end + frame_bytes > manifest.segment_bytes
        if active.count and (too_long or active.count + count > manifest.segment_events):
            self._roll_locked()

    def _roll_locked(self) -> None:
        """Seal the active segment and begin the next. Replacing the manifest commits both at once."""
        active = self._log.active.segment
        manifest = self._log.manifest
        assert self._log_file is not None
        assert self._offsets_file is not None
        self._unsure = True
        try:
            self._disk.sync(self._log_file)  # sealed means synced: the mark in `durable` ends here
            self._disk.sync(self._offsets_file)
            sealed = active.info._replace(
                last_position=self._log.head,
                events=active.count,
                log_bytes=active.end,
                offsets_crc=active.index_crc,
                first_time_us=active.record(0)[5],
                last_time_us=active.record(active.count - 1)[5],
            )
            fresh = SegmentInfo(self._log.head + 1, 0, new_tag())
            remove_leftovers_locked(self._log.store, self._disk)
            create_segment(self._log.store, manifest.store_id_bytes, fresh, self._disk)
            segments = (*manifest.segments[:-1], sealed, fresh)
            replace_manifest(self._log.store, manifest._replace(segments=segments), self._disk)
        except StoreIOError as error:
            self._fail(error)
            raise
        self._log.refresh()
        self._unindexed.append(self._log.sealed[-1])
        self._open_files_locked()
        self._recover_locked()

    def _build_indexes(self) -> None:
        """Index what was sealed, after the lock was given back and the append is durable."""
        while self._unindexed:
            try:
                part = self._unindexed.pop()
            except IndexError:  # another thread took it
                return
            build_indexes(part, self._disk)

    def close(self) -> None:
        """Close the files. Nothing is lost: what was acknowledged is on the device."""
        self._log_file = self._offsets_file = None
        self._tag = -1
        self._lock.close()
        self._marks_lock.close()


class _Versions:
    """The current version of streams by name, and which to forget when only hashes are known.

    Where two names share a hash only the first is remembered; the second is looked up each time.
    """

    def __init__(self) -> None:
        self._by_name: dict[str, int] = {}
        self._name_of: dict[int, str] = {}
        self._second: set[str] = set()
        self.get = self._by_name.get

    def put(self, stream: str, stream_hash: int, version: int) -> None:
        if self._name_of.setdefault(stream_hash, stream) == stream:
            self._by_name[stream] = version
        else:
            self._second.add(stream)

    def update(self, versions: dict[str, int]) -> None:
        """New versions of streams that were looked up, and so put, before."""
        self._by_name.update(versions)
        for stream in self._second & versions.keys():
            del self._by_name[stream]
        if len(self._by_name) > _MAX_CACHED_NAMES:
            self.clear()

    def forget(self, hashes: Sequence[int]) -> None:
        for stream_hash in hashes:
            name = self._name_of.pop(stream_hash, None)
            if name is not None:
                self._by_name.pop(name, None)

    def clear(self) -> None:
        self._by_name.clear()
        self._name_of.clear()


def new_tag() -> int:
    """A random tag for a new segment, never 0."""
    return int.from_bytes(os.urandom(4), "little") | 1


def create_segment(store: str, store_id: bytes, info: SegmentInfo, disk: Disk) -> None:
    """Make the files of an empty segment, durable, under names that no manifest mentions yet."""
    header = fmt.FileHeader(fmt.KIND_LOG, info.generation, store_id, info.first_position, info.tag)
    for suffix, kind in (("log", fmt.KIND_LOG), ("offsets", fmt.KIND_OFFSETS)):
        path = paths.segment_path(store, info.first_position, info.generation, suffix)
        disk.create_file(path, fmt.encode_file_header(header._replace(kind=kind)))
    disk.sync_dir(paths.segments_path(store))  # before the manifest may name them


def _content(event: EncodedEvent) -> tuple[str, int, bytes]:
    return event[0], event[2], event[3]


def _check_same(record: Record, stream: str, event: EncodedEvent) -> None:
    """A known id is a retry if stream, type and data are the same; else it is a conflict."""
    if (record[2], record[3], record[6], record[7]) != (stream, event[0], event[2], event[3]):
        raise IdConflict(_id_text(record[4]), record[2], record[0], "is known with different content")


def _id_text(id: bytes) -> str:
    text = id.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
