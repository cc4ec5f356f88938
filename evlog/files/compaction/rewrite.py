"""Writing one sealed segment in the place of one or several: without what goes, all else byte for byte.

Records are copied as they are, into frames of many; nothing that stays is decoded. What goes leaves its id
and place in the .removed file. The files are synced, but no manifest names them yet: a crash leaves files
that mean nothing, and the same work done again writes the same bytes. Nothing here takes a lock.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain
from struct import Struct
from typing import Any, Final, NamedTuple
from zlib import crc32

from evlog.files.compaction.plan import Bounds, Piece
from evlog.files.compaction.read import (
    Share,
    Source,
    Span,
    forget_source,
    pick_going,
    read_going,
    read_share,
    read_share_of,
)
from evlog.files.disk.files import Disk, WriteFile
from evlog.files.disk.processes import Workers
from evlog.files.format import paths
from evlog.files.format.entries import ENTRY_BYTES, ENTRY_PLACE, column
from evlog.files.format.frames import FRAME_HEADER_BYTES, FrameHeader, array_head, encode_frame_header, unpack
from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    KIND_LOG,
    KIND_OFFSETS,
    KIND_REMOVED,
    KIND_STREAMS,
    FileHeader,
    encode_file_header,
)
from evlog.files.format.removed_events import EVENT_BYTES, encode_removed, event_column
from evlog.files.log.index import SORTED_SUFFIXES, build_sorted
from evlog.files.log.log import SealedPart
from evlog.files.log.manifest import Manifest, SegmentInfo

_ENTRIES_AT_ONCE: Final = 8192
_FRAME_BYTES: Final = 128 << 10  # read whole for one event when scanning; less would cost a scan its speed
_WRITE_BYTES: Final = 1 << 20
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
    target: Target, pieces: Sequence[Piece], bounds: Bounds, disk: Disk, workers: Workers, progress: Progress
) -> SegmentInfo:
    """Write what stays of some neighbouring segments as one; its files are synced, their names are not.

    Args:
        workers: who does what writes nothing.

    Returns:
        What the manifest has to say of it.

    Raises:
        CorruptionError: an event is damaged, whether it stays or goes.
        StoreFull, StoreIOError: the files may be there in part; `remove_files` removes them.
    """
    log = _LogFile(target, disk)
    gone = _Gone(bounds)
    for span, share in _read_shares(target, pieces, workers):
        if share.names and not bounds.streams.issuperset(share.names.split("\n")):
            span = span._replace(flags=gone.flags_of_own(span))
            share = read_share(span)
        gone.add(share)
        log.add(share.raws, share.rows)
        progress(share.read_bytes)
    for piece in pieces:
        gone.take_over(_sealed(piece))
    entries = log.finish()
    disk.create_file(target.path("offsets"), encode_file_header(target.header(KIND_OFFSETS)) + entries)
    info = target.info._replace(events=log.events, log_bytes=log.end, offsets_crc=log.index_crc)
    return _write_rest(target, info, entries, gone, disk, workers)


def _write_rest(
    target: Target, info: SegmentInfo, entries: bytes, gone: _Gone, disk: Disk, workers: Workers
) -> SegmentInfo:
    """Write what is left of what went, and the sorted indexes."""
    header = target.header(KIND_STREAMS)._replace(source_crc=info.offsets_crc)
    streams = list(gone.streams.values())
    calls: list[tuple[Any, ...]] = [(_build_all, header, entries)]
    if gone.events or streams:
        calls.append((encode_removed, target.header(KIND_REMOVED), b"".join(gone.rows), streams))
    indexes, *rest = workers.run_in_order(_call, calls)
    for raw in rest:
        disk.create_file(target.path("removed"), raw)
        info = info._replace(removed_events=gone.events, removed_bytes=len(raw), removed_crc=crc32(raw))
    for suffix, raw in zip(SORTED_SUFFIXES.values(), indexes, strict=True):
        _write_unsynced(target.path(suffix), raw, disk)
    return info


def _build_all(header: FileHeader, entries: bytes) -> list[bytes]:
    return [build_sorted(header._replace(kind=kind), entries) for kind in SORTED_SUFFIXES]


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


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


def _sealed(piece: Piece) -> SealedPart:
    assert isinstance(piece.part, SealedPart)
    return piece.part


def _read_shares(target: Target, pieces: Sequence[Piece], workers: Workers) -> Iterator[tuple[Span, Share]]:
    """All entries of all pieces, in order."""
    spans: list[Span] = []
    tasks: list[tuple[Source, int, int, bytes]] = []
    for piece in pieces:
        part = _sealed(piece)
        part.segment.checked_entries()
        source = Source(target.store, target.store_id, part.info)
        for low in range(0, part.count, _ENTRIES_AT_ONCE):
            high = min(low + _ENTRIES_AT_ONCE, part.count)
            span = Span(part.segment, low, high, piece.hidden[low:high])
            spans.append(span)
            tasks.append((source, *span[1:]))
    if workers.count == 1:
        yield from ((span, read_share(span)) for span in spans)
        return
    try:
        yield from zip(spans, workers.run_in_order(read_share_of, tasks, ahead=2), strict=True)
    finally:
        forget_source()


class _LogFile:
    """The new log, growing by frames of many records; its entries are kept until the end."""

    def __init__(self, target: Target, disk: Disk) -> None:
        self._disk = disk
        self._tag = target.info.tag
        self._file: WriteFile = disk.open(target.path("log"), create=True, truncate=True)
        self._unwritten = [encode_file_header(target.header(KIND_LOG))]
        self._written = 0
        self._raws = b""  # of the next frame
        self._rows = b""
        self._entries: list[bytes] = []
        self.end = FILE_HEADER_BYTES
        self.events = 0
        self.index_crc = 0

    def add(self, raws: bytes, rows: bytes) -> None:
        """Add records, one behind the other, with their entries as these were."""
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
        """Write the rest, sync and close; all entries."""
        if self._raws:
            self._add_frame(self._raws, self._rows)
        self._flush()
        self._disk.sync(self._file)
        self._disk.close(self._file)
        return b"".join(self._entries)

    def _add_frame(self, raws: bytes, rows: bytes) -> None:
        count = len(rows) // ENTRY_BYTES
        head = array_head(count)
        body = head + raws
        moved = _move_entries(rows, self.end, self.end + FRAME_HEADER_BYTES + len(head))
        self.index_crc = crc32(moved, self.index_crc)
        header = FrameHeader(
            len(body),
            count,
            FILE_HEADER_BYTES,  # how far it was synced says nothing of a log that is named when it is whole
            unpack(raws[: ENTRY_PLACE.unpack_from(rows)[1]])[0],
            self.index_crc,
            crc32(body),
            self._tag,
        )
        self._unwritten += (encode_frame_header(header, self.end), body)
        self._entries.append(moved)
        self.events += count
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
        self.rows: list[bytes] = []
        self.streams: dict[str, tuple[str, int, int]] = {}

    @property
    def events(self) -> int:
        """How many events are gone."""
        return sum(map(len, self.rows)) // EVENT_BYTES

    def take_over(self, part: SealedPart) -> None:
        """Add what is left of what went before."""
        former = part.removed
        if former is not None:
            self.rows.append(bytes(former.rows()))
            self._note_streams(former.streams())

    def flags_of_own(self, span: Span) -> bytes:
        """The flags without those of events that only share a hash with the stream that goes."""
        flags = span.flags
        records = chain.from_iterable(read_going(span))
        names = map(self._bounds.names.__getitem__, column(pick_going(span), "stream_hash"))
        own = iter([name == record[2] for name, record in zip(names, records, strict=True)])
        return bytes(flag and next(own) for flag in flags)

    def add(self, share: Share) -> None:
        """Note what goes."""
        self.rows.append(share.removed)
        if self._bounds.last and share.names:
            hashes, versions = (event_column(share.removed, name) for name in ("stream_hash", "version"))
            last = zip(map(self._bounds.last.get, hashes), versions, strict=True)
            self._note_streams(stream for stream, version in last if stream and stream[1] == version)

    def _note_streams(self, streams: Iterable[tuple[str, int, int]]) -> None:
        for stream in streams:
            known = self.streams.get(stream[0])
            if known is None or known[1] < stream[1]:
                self.streams[stream[0]] = stream
