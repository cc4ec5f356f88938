"""Writing one sealed segment in the place of one or several, without the removed events.

Records that stay are copied byte for byte into frames of many, without being decoded; of those whose content
is erased, what stays is written. Each removed event leaves a row in the .removed file. The files are synced,
but no manifest names them yet: a crash leaves files that mean nothing. One segment is open at a time. Nothing
here takes a lock.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate, compress, islice, pairwise
from operator import itemgetter
from zlib import crc32

from evlog.errors import CorruptionError, EvlogError
from evlog.files.disk.files import WriteBack
from evlog.files.format import paths
from evlog.files.format.entries import (
    ENTRY_BYTES,
    ENTRY_PLACE,
    body_crc,
    column,
    column_array,
    count_tagged,
    running_crcs,
    with_columns,
)
from evlog.files.format.frames import (
    FRAME_HEADER_BYTES,
    FrameHeader,
    array_head,
    decode_record,
    encode_frame_header,
    pack_records,
    unpack,
)
from evlog.files.format.hashes import hash_ids
from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    KIND_LOG,
    KIND_OFFSETS,
    KIND_REMOVED,
    KIND_STREAMS,
    KIND_TAGS,
    FileHeader,
    encode_file_header,
)
from evlog.files.format.manifest import SegmentInfo
from evlog.files.format.removed_events import (
    EVENT_BYTES,
    content_crcs,
    encode_grouped,
    group_bits,
    group_events,
    join_groups,
    pack_events,
    tags_of_removed,
)
from evlog.files.format.sorted_index import SORTED_SUFFIXES, build_sorted
from evlog.files.log.parts import OpenParts, SealedPart, SegmentRef, open_sealed
from evlog.files.log.segment import RECORDS_AT_ONCE
from evlog.files.write.roll import new_tag
from evlog.model.events import REDACTED_BEGIN
from evlog.model.named import NamedTuple
from evlog.model.redaction import record_digest, redacted_record
from evlog.process.threads import CallsBehind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from typing import Final

    from evlog.files.compaction.plan import SegmentPlan
    from evlog.files.disk.files import Disk, WriteFile
    from evlog.files.disk.processes import Workers
    from evlog.files.format.manifest import Manifest
    from evlog.files.format.removed_events import EmptyStream, GroupedEvents, RemovedTag
    from evlog.files.log.log import Log
    from evlog.files.log.sealed_segment import SealedSegment
    from evlog.model.events import Record

    Progress = Callable[[int], None]
    """Called now and then with the bytes that were read since the last call."""

    ReadResults = Generator["ReadResult | EvlogError", None, None]

_ENTRIES_AT_ONCE: Final = 8192
_BYTES_AT_ONCE: Final = 2 << 20
_FRAME_BYTES: Final = 128 << 10  # read whole for one event when scanning; less would cost a scan its speed
_WRITE_BYTES: Final = 1 << 20
# Fields of records; to take each of many records costs half of turning all nine into columns.
_POSITION, _ID, *_CONTENT = map(itemgetter, (0, 4, 6, 7, 8))


class OutputSegment(NamedTuple):
    """The segment that is written in the place of a group."""

    store: str
    store_id: bytes
    info: SegmentInfo

    @classmethod
    def of(cls, store: str, manifest: Manifest, group: Sequence[SegmentInfo]) -> OutputSegment:
        """Return the segment in the place of the group: its names follow from the group."""
        info = SegmentInfo(
            group[0].first_position,
            1 + max(info.generation for info in group),
            new_tag(),
            last_position=group[-1].last_position,
            first_time_us=group[0].first_time_us,
            last_time_us=group[-1].last_time_us,
            lost_events=sum(info.lost_events for info in group),
        )
        return cls(store, manifest.store_id_bytes, info)

    def header(self, kind: int) -> FileHeader:
        return self.info.header(kind, self.store_id)

    def path(self, suffix: str) -> str:
        return self.info.path(self.store, suffix)

    @contextmanager
    def removed_on_failure(self, disk: Disk) -> Iterator[None]:
        """Remove the files if they cannot be completed: the disk may be full, and they take space."""
        try:
            yield
        except (EvlogError, KeyboardInterrupt):
            for suffix in paths.SUFFIXES:
                disk.remove(self.path(suffix))
            raise


def rewrite(
    output: OutputSegment,
    group: Sequence[SegmentPlan],
    results: ReadResults,
    disk: Disk,
    workers: Workers,
    progress: Progress,
) -> SegmentInfo:
    """Write what stays of some neighbouring segments as one; its files are synced, their names are not.

    Args:
        results: what `read_groups` yields of this group, and then of later ones.
        workers: the processes that read; only this one writes.

    Returns:
        What the manifest has to say of the segment.

    Raises:
        CorruptionError: an event is damaged, whether it stays or is removed.
        StoreFull, StoreIOError: the files may be there in part; `removed_on_failure` removes them.
    """
    log = LogFile(output, disk)
    removed, tags, emptied = _write_log(log, group, results, progress)
    entries = log.finish()
    info = output.info._replace(
        events=log.events, log_bytes=log.end, offsets_crc=log.index_crc, tagged_events=count_tagged(entries)
    )

    def write_others() -> None:
        nonlocal info
        offsets = encode_file_header(output.header(KIND_OFFSETS)) + entries
        syncs.call(_sync, _write(output.path(paths.OFFSETS), offsets, disk), disk)
        events = join_groups(removed) if removed else group_events(b"", (), 0)
        if events.rows or emptied:
            raw = encode_grouped(output.header(KIND_REMOVED), events, emptied.values(), tags)
            syncs.call(_sync, _write(output.path(paths.REMOVED), raw, disk), disk)
            count = len(events.rows) // EVENT_BYTES
            info = info._replace(removed_events=count, removed_bytes=len(raw), removed_crc=crc32(raw))

    with CallsBehind() as syncs:
        syncs.call(_sync, log.file, disk)
        header = output.header(KIND_STREAMS)._replace(source_crc=info.offsets_crc)
        calls = [(header._replace(kind=kind), entries) for kind in SORTED_SUFFIXES]
        # Helpers that read what comes next leave all to this process; after the last group they share it.
        indexes = dict(workers.run(build_sorted, calls, first=write_others))
        # The indexes are not synced: every byte is under a CRC, and what a power loss takes is built again.
        for at, suffix in enumerate(SORTED_SUFFIXES.values()):
            disk.close(_write(output.path(suffix), indexes[at], disk))
        if info.tagged_events:
            part = SealedPart(output.store, output.store_id, info, OpenParts())
            disk.close(_write(output.path("tags"), part.index.build(KIND_TAGS, entries), disk))
            part.close()
    return info


def _write_log(
    log: LogFile, group: Sequence[SegmentPlan], results: ReadResults, progress: Progress
) -> tuple[list[GroupedEvents], list[RemovedTag], dict[str, EmptyStream]]:
    """Add what stays to the log; return what is kept of the events that are removed, or were before."""
    removed: list[GroupedEvents] = []
    tags: list[RemovedTag] = []
    emptied: dict[str, EmptyStream] = {}
    bits = _group_bits_of(group)
    for segment in group:  # oldest first: the last version of a stream counts
        assert isinstance(segment.part, SealedPart)
        former = segment.part.removed
        if former is not None:
            if former.events != segment.part.info.removed_events:  # the groups are chosen by this number
                raise CorruptionError(
                    former.path, None, "it does not hold as many events as the manifest says"
                )
            removed.append(group_events(bytes(former.rows()), hash_ids(former.ids()), bits))
            tags += former.tags()
            emptied.update((stream[0], stream) for stream in former.streams())
        emptied.update((stream[0], stream) for stream in segment.emptied)
    for result in islice(results, sum(len(_ranges_of(segment)) for segment in group)):
        if isinstance(result, EvlogError):
            raise result
        removed.append(result.removed)
        tags += result.tags
        log.add(result.raws, result.rows)
        progress(result.read_bytes)
    return removed, tags, emptied


def _write(path: str, content: bytes, disk: Disk) -> WriteFile:
    """Write a whole file."""
    file = disk.open(path, create=True, truncate=True)
    disk.write_at(file, content, 0)
    return file


def _sync(file: WriteFile, disk: Disk) -> None:
    """Sync a file that is complete, and close it."""
    try:
        disk.sync(file)
    finally:
        disk.close(file)


# --- reading, in this process and in helpers


class ReadResult(NamedTuple):
    """What some neighbouring entries come to."""

    raws: bytes  # the records that stay, one after another
    rows: bytes  # their entries, as they were
    removed: GroupedEvents  # the rows of the removed events
    tags: list[RemovedTag]  # of these
    read_bytes: int  # records and entries


def read_groups(log: Log, groups: Sequence[Sequence[SegmentPlan]], workers: Workers) -> ReadResults:
    """Yield what all entries of the groups come to, in order: while one group is written, others are read.

    An error comes in the place of what could not be read, so that the groups before can still be written.
    """
    calls = []
    for group in groups:
        bits = _group_bits_of(group)
        for segment in group:
            ref = SegmentRef(log.store, log.manifest.store_id_bytes, segment.part.info)
            for low, high in _ranges_of(segment):
                erased = tuple(number for number in segment.redacted if low <= number < high)
                calls.append((ref, low, high, bits, segment.hidden[low:high], erased))
    try:
        if workers.count == 1:
            yield from (_try_to_read(*call) for call in calls)
        else:
            yield from workers.run_in_order(_try_to_read, calls, ahead=4)
    finally:
        _open.cache_clear()


def _group_bits_of(group: Sequence[SegmentPlan]) -> int:
    return group_bits(sum(segment.removed_events for segment in group))


def _ranges_of(segment: SegmentPlan) -> list[tuple[int, int]]:
    """Return the entries that are read at once: few enough for several results to wait in memory."""
    count = segment.part.count
    step = max(1, min(_ENTRIES_AT_ONCE, count * _BYTES_AT_ONCE // max(1, segment.work_bytes)))
    return [(low, min(low + step, count)) for low in range(0, count, step)]


@lru_cache(maxsize=1)
def _open(ref: SegmentRef) -> SealedSegment:
    """Return the opened segment, kept open until another one is asked for."""
    try:
        return open_sealed(*ref)
    except FileNotFoundError as error:
        raise CorruptionError(str(error.filename), None, "the file is missing") from None


def _try_to_read(
    ref: SegmentRef, low: int, high: int, bits: int, flags: bytes, erased: tuple[int, ...]
) -> ReadResult | EvlogError:
    try:
        return read_range(ref, low, high, bits, flags, erased)
    except EvlogError as error:
        return error


def read_range(
    ref: SegmentRef, low: int, high: int, bits: int, flags: bytes, erased: tuple[int, ...]
) -> ReadResult:
    """Read some neighbouring entries and their records.

    Args:
        bits: how many tell the group of an id in the file of the removed events.
        flags: which are removed; empty if none is.
        erased: the numbers of those whose content is erased.

    Raises:
        CorruptionError: an event is damaged, whether it stays or is removed.
    """
    segment = _open(ref)
    rows = bytes(segment.checked_entries()[low * ENTRY_BYTES : high * ENTRY_BYTES])
    read_bytes = len(rows) + sum(column(rows, "length"))
    if 1 not in flags:
        raws, rows = _read_raws(segment, rows, [number - low for number in erased])
        return ReadResult(raws, rows, group_events(b"", (), bits), [], read_bytes)
    removed, kept = _pick(rows, flags, _REMOVED), _pick(rows, flags, _KEPT)
    types = column_array(removed, "type_hash")
    tagged = any(column(removed, "tags"))
    tags: list[RemovedTag] = []
    ids: list[bytes] = []
    positions: list[int] = []
    crcs: list[int] = []
    # Column by column: a step of Python for each event would cost more than all else.
    numbers = list(compress(range(low, high), flags))
    for read in segment.records(numbers, first=RECORDS_AT_ONCE):
        at = len(positions)
        records = _erased_among(read, set(erased), numbers[at:]) if erased else read
        codes, datas, metadatas = (list(map(field, records)) for field in _CONTENT)
        crcs += content_crcs(types[at : at + len(datas)], codes, datas)
        positions += map(_POSITION, records)
        ids += map(_ID, records)
        if tagged:
            tags += tags_of_removed(records)
        if metadatas.count(None) < len(metadatas):
            for place, metadata in enumerate(metadatas, at):
                if metadata is not None and metadata.startswith(REDACTED_BEGIN):
                    crcs[place] = 0  # of a redacted event the id alone tells a retry
    hashes, versions = column_array(removed, "stream_hash"), column_array(removed, "version")
    places = [flags.count(0, 0, number - low) for number in erased if not flags[number - low]]
    events = pack_events(ids, positions, hashes, versions, crcs)
    raws, kept = _read_raws(segment, kept, places)
    grouped = group_events(events, column(removed, "id_hash"), bits)
    return ReadResult(raws, kept, grouped, tags, read_bytes)


def _erased_among(records: Sequence[Record], erased: set[int], numbers: Sequence[int]) -> Sequence[Record]:
    """Return records without what is erased of them."""
    return [
        redacted_record(record, record_digest(record)) if number in erased else record
        for record, number in zip(records, numbers, strict=False)
    ]


_REMOVED: Final = re.compile(b"\x01+")
_KEPT: Final = re.compile(b"\x00+")


def _pick(rows: bytes, flags: bytes, run: re.Pattern[bytes]) -> bytes:
    spans = [match.span() for match in run.finditer(flags)]
    return b"".join([rows[low * ENTRY_BYTES : high * ENTRY_BYTES] for low, high in spans])


def _read_raws(segment: SealedSegment, rows: bytes, erased: Sequence[int]) -> tuple[bytes, bytes]:
    """Return the bytes of the records of these entries, checked, and the entries.

    Args:
        erased: the numbers of the entries of which only what stays of a redacted event is returned.
    """
    befores, afters = column(rows, "crc_before"), column(rows, "crc_after")
    raws = segment.log_pieces(list(ENTRY_PLACE.iter_unpack(rows)))
    if list(map(crc32, raws, befores)) != afters:
        at = next(at for at, raw in enumerate(raws) if crc32(raw, befores[at]) != afters[at])
        raise CorruptionError(segment.log_path, column(rows, "offset")[at], "a record fails its CRC")
    return (b"".join(raws), rows) if not erased else _erase(raws, rows, erased)


def _erase(raws: list[bytes], rows: bytes, erased: Sequence[int]) -> tuple[bytes, bytes]:
    """Return the records and the entries with what stays of redacted events."""
    tags, lengths = column_array(rows, "tags"), column_array(rows, "length")
    for number in erased:
        record = decode_record(raws[number])
        (raw,) = pack_records([redacted_record(record, record_digest(record))])
        raws[number] = raw
        tags[number], lengths[number] = 0, len(raw)
    return b"".join(raws), with_columns(rows, tags=tags, length=lengths)


# --- writing


class LogFile:
    """The new log, growing by frames of many records; its entries are kept until the end."""

    def __init__(self, output: OutputSegment, disk: Disk) -> None:
        self._disk = disk
        self._tag = output.info.tag
        self.file: WriteFile = disk.open(output.path(paths.LOG), create=True, truncate=True)
        self._write_back = WriteBack(self.file.fd)
        self._unwritten = [encode_file_header(output.header(KIND_LOG))]
        self._written = 0
        self._raws = b""  # of the next frame
        self._rows = b""
        self._entries: list[bytes] = []
        self.end = FILE_HEADER_BYTES
        self.events = 0
        self.index_crc = 0

    def add(self, raws: bytes, rows: bytes) -> None:
        """Add records, one after another, with their entries as these were."""
        raws = self._raws + raws
        rows = self._rows + rows
        at = start = 0
        ends = list(accumulate(column(rows, "length")))
        while len(raws) - start >= _FRAME_BYTES:
            after = bisect_left(ends, start + _FRAME_BYTES) + 1
            end = ends[after - 1]
            self._add_frame(raws[start:end], rows[at * ENTRY_BYTES : after * ENTRY_BYTES])
            at, start = after, end
        self._raws, self._rows = raws[start:], rows[at * ENTRY_BYTES :]

    def finish(self) -> bytes:
        """Write the rest, which is not synced; return all entries."""
        if self._raws:
            self._add_frame(self._raws, self._rows)
        self._flush()
        return b"".join(self._entries)

    def _add_frame(self, raws: bytes, rows: bytes) -> None:
        count = len(rows) // ENTRY_BYTES
        head = array_head(count)
        body = head + raws
        moved = _move_entries(rows, raws, head, self.end)
        self.index_crc = crc32(moved, self.index_crc)
        header = FrameHeader(
            len(body),
            count,
            FILE_HEADER_BYTES,  # "synced up to" has no meaning for a log that is named only when it is whole
            unpack(raws[: ENTRY_PLACE.unpack_from(rows)[1]])[0],
            self.index_crc,
            body_crc(moved),
            self._tag,
        )
        self._unwritten += (encode_frame_header(header, self.end), body)
        self._entries.append(moved)
        self.events += count
        self.end += FRAME_HEADER_BYTES + len(body)
        if self.end - self._written >= _WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._disk.write_at(self.file, b"".join(self._unwritten), self._written)
        self._unwritten, self._written = [], self.end
        self._write_back.step(self.end)


def _move_entries(rows: bytes, raws: bytes, head: bytes, frame_offset: int) -> bytes:
    """Return the entries of records that are one after another in a new frame, after its head."""
    ends = list(accumulate(column(rows, "length"), initial=0))
    crcs = array("I", running_crcs([raws[low:high] for low, high in pairwise(ends)], crc32(head)))
    body_at = frame_offset + FRAME_HEADER_BYTES + len(head)
    return with_columns(
        rows,
        offset=array("I", map(body_at.__add__, ends[:-1])),
        crc_before=crcs[:-1],
        crc_after=crcs[1:],
        frame=array("I", (frame_offset,)) * (len(ends) - 1),
    )
