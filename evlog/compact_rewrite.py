"""Writing one sealed segment in the place of one or several: without what goes, all else byte for byte.

Records are copied as they are, into frames of many; nothing that stays is decoded. What goes leaves its id
and place in the .gone file. The files are synced, but no manifest names them yet: a crash leaves files that
mean nothing, and the same work done again writes the same bytes. Nothing here takes a lock.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain, compress
from operator import itemgetter
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from evlog import paths
from evlog.compact_plan import Bounds, Piece
from evlog.disk import Disk, WriteFile
from evlog.errors import CorruptionError
from evlog.events import Record
from evlog.format import (
    ENTRY_BYTES,
    FILE_HEADER_BYTES,
    FRAME_HEADER_BYTES,
    KIND_GONE,
    KIND_LOG,
    KIND_OFFSETS,
    FileHeader,
    FrameHeader,
    array_head,
    column,
    encode_body,
    encode_file_header,
    encode_frame_header,
    unpack,
)
from evlog.gone import GoneColumns, GoneStream, content_crcs, encode_gone
from evlog.index import SORTED_SUFFIXES, build_sorted
from evlog.log import SealedPart
from evlog.manifest import Manifest, SegmentInfo
from evlog.segment import Segment

_ENTRIES_AT_ONCE: Final = 8192
_MANY_EVENTS: Final = 16
_FRAME_BYTES: Final = 128 << 10  # read whole for one event when scanning; less would cost a scan its speed
_WRITE_BYTES: Final = 1 << 20
_STAYS: Final = bytes((1, *bytes(255)))  # turns the flags of what goes into those of what stays
_TAG: Final = Struct("<16sQI")

Progress = Callable[[int], None]
"""Called now and then with the bytes that were read since the last call."""


class Target(NamedTuple):
    """Where a group of segments is written to."""

    store: str
    store_id: bytes
    info: SegmentInfo

    @classmethod
    def of(cls, store: str, manifest: Manifest, group: Sequence[SegmentInfo]) -> Target:
        """The segment that takes the place of the group: its names and tag follow from the group."""
        generation = 1 + max(info.generation for info in group)
        position = group[0].first_position
        tag = crc32(_TAG.pack(manifest.store_id_bytes, position, generation)) | 1
        info = SegmentInfo(
            position,
            generation,
            tag,
            last_position=group[-1].last_position,
            first_time_us=group[0].first_time_us,
            last_time_us=group[-1].last_time_us,
            lost_events=sum(info.lost_events for info in group),
        )
        return cls(store, manifest.store_id_bytes, info)

    def header(self, kind: int) -> FileHeader:
        info = self.info
        return FileHeader(kind, info.generation, self.store_id, info.first_position, info.tag)

    def path(self, suffix: str) -> str:
        return paths.segment_path(self.store, self.info.first_position, self.info.generation, suffix)


def rewrite(
    target: Target, pieces: Sequence[Piece], bounds: Bounds, disk: Disk, progress: Progress
) -> SegmentInfo:
    """Write what stays of some neighbouring segments as one; its files are synced, their names are not.

    Returns:
        What the manifest has to say of it.

    Raises:
        CorruptionError: an event is damaged, whether it stays or goes.
        StoreFull, StoreIOError: the files may be there in part; `remove_files` removes them.
    """
    log = _LogFile(target, disk)
    gone = _Gone(bounds)
    for piece in pieces:
        assert isinstance(piece.part, SealedPart)
        gone.begin_segment(piece.part)
        _copy(piece.part, piece.hidden, log, gone, progress)
    entries = log.finish()
    disk.create_file(target.path("offsets"), encode_file_header(target.header(KIND_OFFSETS)) + entries)
    info = target.info._replace(events=log.events, log_bytes=log.end, offsets_crc=log.index_crc)
    if gone.events or gone.streams:
        raw = encode_gone(target.header(KIND_GONE), gone.columns(), gone.streams.values())
        disk.create_file(target.path("gone"), raw)
        info = info._replace(gone_events=gone.events, gone_bytes=len(raw), gone_crc=crc32(raw))
    for kind, suffix in SORTED_SUFFIXES.items():
        header = target.header(kind)._replace(source_crc=info.offsets_crc)
        _write_unsynced(target.path(suffix), build_sorted(header, entries), disk)
    return info


def remove_files(target: Target, disk: Disk) -> None:
    """Remove what `rewrite` has written."""
    for suffix in paths.SUFFIXES:
        disk.remove(target.path(suffix))


def _write_unsynced(path: str, content: bytes, disk: Disk) -> None:
    """Write an index: every byte is under a CRC, and what a power loss takes is built again."""
    file = disk.open(path, create=True, truncate=True)
    try:
        disk.write_at(file, content, 0)
    finally:
        disk.close(file)


def _copy(part: SealedPart, hidden: bytes, log: _LogFile, gone: _Gone, progress: Progress) -> None:
    """Copy what stays of one segment, and note what goes."""
    segment = part.segment
    entries = bytes(segment.checked_entries())
    for low in range(0, part.count, _ENTRIES_AT_ONCE):
        high = min(low + _ENTRIES_AT_ONCE, part.count)
        rows = entries[low * ENTRY_BYTES : high * ENTRY_BYTES]
        size = len(rows) + sum(column(rows, "length"))
        flags = hidden[low:high]
        if 1 in flags:
            going = list(compress(_records(segment, rows, low, high), flags))
            flags = gone.take(rows, going, flags)
            starts = compress(range(0, len(rows), ENTRY_BYTES), flags.translate(_STAYS))
            rows = b"".join([rows[at : at + ENTRY_BYTES] for at in starts])
        log.add(_raws(segment, rows), rows)
        progress(size)


def _records(segment: Segment, rows: bytes, low: int, high: int) -> Iterator[Record]:
    """The records of entries low..high-1, checked."""
    frames = len(set(column(rows, "frame")))
    small_frames = frames * _MANY_EVENTS > high - low  # read one by one they cost less than frame by frame
    batches = segment.records(range(low, high)) if small_frames else segment.scan(low, high)
    return chain.from_iterable(batches)


def _raws(segment: Segment, rows: bytes) -> list[bytes]:
    """The bytes of the records that the entries speak of, checked."""
    lengths = column(rows, "length")
    raws = segment.log_pieces(list(zip(column(rows, "offset"), lengths, lengths, strict=True)))
    if list(map(crc32, raws)) != column(rows, "crc"):
        crcs = zip(raws, column(rows, "crc"), column(rows, "offset"), strict=True)
        offset = next(offset for raw, crc, offset in crcs if crc32(raw) != crc)
        raise CorruptionError(segment.log_path, offset, "a record fails its CRC")
    return raws


class _LogFile:
    """The new log, growing by frames of many records; its entries are kept until the end."""

    def __init__(self, target: Target, disk: Disk) -> None:
        self._disk = disk
        self._tag = target.info.tag
        self._file: WriteFile = disk.open(target.path("log"), create=True, truncate=True)
        self._unwritten = [encode_file_header(target.header(KIND_LOG))]
        self._written = 0
        self._raws: list[bytes] = []  # of the next frame
        self._rows = b""
        self._entries: list[bytes] = []
        self.end = FILE_HEADER_BYTES
        self.events = 0
        self.index_crc = 0

    def add(self, raws: list[bytes], rows: bytes) -> None:
        """Add records with their entries as these were."""
        raws = self._raws + raws
        rows = self._rows + rows
        at = 0
        ends = list(accumulate(map(len, raws)))
        while at < len(raws):
            start = ends[at - 1] if at else 0
            if ends[-1] - start < _FRAME_BYTES:
                break
            after = bisect_left(ends, start + _FRAME_BYTES) + 1
            self._add_frame(raws[at:after], rows[at * ENTRY_BYTES : after * ENTRY_BYTES])
            at = after
        self._raws, self._rows = raws[at:], rows[at * ENTRY_BYTES :]

    def finish(self) -> bytes:
        """Write the rest, sync and close; all entries."""
        if self._raws:
            self._add_frame(self._raws, self._rows)
        self._flush()
        self._disk.sync(self._file)
        self._disk.close(self._file)
        return b"".join(self._entries)

    def _add_frame(self, raws: list[bytes], rows: bytes) -> None:
        body = encode_body(raws)
        body_at = self.end + FRAME_HEADER_BYTES + len(array_head(len(raws)))
        moved = _move_entries(rows, self.end, body_at)
        self.index_crc = crc32(moved, self.index_crc)
        header = FrameHeader(
            len(body),
            len(raws),
            FILE_HEADER_BYTES,  # how far it was synced says nothing of a log that is named when it is whole
            unpack(raws[0])[0],
            self.index_crc,
            crc32(body),
            self._tag,
        )
        self._unwritten += (encode_frame_header(header, self.end), body)
        self._entries.append(moved)
        self.events += len(raws)
        self.end += FRAME_HEADER_BYTES + len(body)
        if self.end - self._written >= _WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._disk.write_at(self._file, b"".join(self._unwritten), self._written)
        self._unwritten, self._written = [], self.end


def _move_entries(rows: bytes, frame_offset: int, body_at: int) -> bytes:
    """The entries of records that stand one after the other in a new frame."""
    moved = bytearray(rows)
    count = len(rows) // ENTRY_BYTES
    lengths = column(rows, "length")
    with memoryview(moved) as flat, flat.cast("I") as cells:
        cells[4::10] = memoryview(array("I", accumulate(lengths[:-1], initial=body_at)))
        cells[7::10] = memoryview(array("I", (frame_offset,)) * count)
    return bytes(moved)


class _Gone:
    """What is left of what goes."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._fresh = GoneColumns.empty()
        self._former = GoneColumns.empty()  # what went in earlier compactions
        self.streams: dict[str, GoneStream] = {}

    @property
    def events(self) -> int:
        """How many events are gone."""
        return len(self._fresh.positions) + len(self._former.positions)

    def begin_segment(self, part: SealedPart) -> None:
        """Take over what is left of what went before."""
        former = part.gone
        if former is not None:
            self._former.extend(former.columns())
            self._note_streams(former.streams())

    def take(self, rows: bytes, going: Sequence[Record], flags: bytes) -> bytes:
        """Note what goes; the flags without those of events that only share a hash with their stream."""
        hashes = list(compress(column(rows, "stream_hash"), flags))
        names = list(map(self._bounds.names.__getitem__, hashes))
        if names != list(map(itemgetter(2), going)):
            own = [name == record[2] for name, record in zip(names, going, strict=True)]
            each = iter(own)
            flags = bytes(flag and next(each) for flag in flags)
            return self.take(rows, list(compress(going, own)), flags)
        versions = list(compress(column(rows, "version"), flags))
        self._fresh.extend(
            GoneColumns(
                list(map(itemgetter(0), going)),
                versions,
                list(compress(column(rows, "id_fold_upper"), flags)),
                list(map(crc32, map(itemgetter(4), going))),
                content_crcs(
                    compress(column(rows, "stream_hash_lower"), flags),
                    compress(column(rows, "type_hash"), flags),
                    list(map(itemgetter(6), going)),
                    map(itemgetter(7), going),
                ),
            )
        )
        if self._bounds.last:
            last = zip(map(self._bounds.last.get, hashes), versions, strict=True)
            self._note_streams(stream for stream, version in last if stream and stream.version == version)
        return flags

    def columns(self) -> GoneColumns:
        """All events that are gone, in position order."""
        if not self._former.positions:
            return self._fresh
        columns = GoneColumns.empty()
        columns.extend(self._former)
        columns.extend(self._fresh)
        return columns.in_order()

    def _note_streams(self, streams: Iterable[GoneStream]) -> None:
        for stream in streams:
            known = self.streams.get(stream.name)
            if known is None or known.version < stream.version:
                self.streams[stream.name] = stream
