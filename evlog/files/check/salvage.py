"""Salvage: copy every whole event into a new store, leave out the others, and list them.

1. The new store has the same store id, and every event has the position, version, id and time it had.
2. A segment without damage is copied as it is, so head digests up to the first damage stay right. Of a
   damaged one the whole records are written again, with gaps, as a compaction would leave it.
3. Without a manifest, or with one that is older than a log, the logs' headers tell which segments there were.
4. The source is only read. The new store exists once its manifest does, which is written last.
5. A run that fails removes what it has copied, so that it can be repeated. One that is killed leaves it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final
from zlib import crc32

from evlog.engine import Progress
from evlog.errors import CorruptionError, EvlogError, ExtraNotInstalled, NotAStore, StoreBusy
from evlog.files.check.containers import Container, written_header
from evlog.files.check.files import take_snapshot
from evlog.files.check.logs import LogCheck
from evlog.files.check.losses import SegmentRecords, lost_ids, lost_in_segment
from evlog.files.check.removals import check_removed
from evlog.files.check.task import SegmentTask
from evlog.files.disk.files import DISK, Disk, ReadFile, WriteFile, list_directory
from evlog.files.format import paths
from evlog.files.format.checkpoints import MAX_PARKED_BYTES
from evlog.files.format.entries import ENTRY_BYTES, count_tagged, derive_entries
from evlog.files.format.frames import (
    FRAME_HEADER_BYTES,
    FrameHeader,
    decode_record,
    encode_body,
    encode_frame_header,
)
from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    KIND_LOG,
    KIND_OFFSETS,
    KIND_REMOVED,
    FileHeader,
    FormatFault,
    decode_file_header,
    encode_file_header,
)
from evlog.files.format.manifest import Manifest, SegmentInfo
from evlog.files.format.marks import UNBOUNDED, WRITTEN_MAGIC, Mark, encode_mark
from evlog.files.format.paths import SegmentFile
from evlog.files.format.removed_events import event_column
from evlog.files.log.crafted import refuses_crafted_content
from evlog.files.log.later import maybe_later_log
from evlog.files.log.manifest_file import manifest_crc, replace_manifest
from evlog.files.log.parts import OpenParts, SealedPart
from evlog.files.log.removed import RemovedEvents
from evlog.files.write.create import (
    DEFAULT_SEGMENT_BYTES,
    DEFAULT_SEGMENT_EVENTS,
    check_outside,
    make_directories,
)
from evlog.files.write.roll import create_segment, new_tag, sync_names
from evlog.model.events import id_text
from evlog.model.named import NamedTuple
from evlog.model.reports import Loss

_COPY_BYTES: Final = 4 << 20
_MAX_FRAME_EVENTS: Final = 10_000


class SalvageReport(NamedTuple):
    """How much was copied, and what was not."""

    events: int
    segments: int
    losses: tuple[Loss, ...]


class _Copied(NamedTuple):
    """A segment in the new store; `info` is None where nothing of it was whole."""

    info: SegmentInfo | None
    last_position: int
    last_time_us: int
    losses: list[Loss]


@refuses_crafted_content
def salvage_store(
    store: str, out: str, *, progress: Progress | None = None, disk: Disk = DISK
) -> SalvageReport:
    """Copy all whole events into a new store; it is durable when this returns.

    Raises:
        NotAStore: there is something at `out`, it is in a store, or there is nothing to salvage.
        StoreBusy: a compaction has removed a segment before it was copied.
        StoreAccessDenied, StoreFull, StoreIOError: the file system refuses.
    """
    if os.path.lexists(out) and (not os.path.isdir(out) or os.listdir(out)):
        raise NotAStore(out, "something is there already, and a salvage writes a new store")
    check_outside(out, store)
    named = _named_logs(store)
    manifest, tasks = _find_segments(store)
    make_directories(out, disk, like=store)
    try:
        return _copy_store(store, named, manifest, tasks, out, progress, disk)
    except (Exception, KeyboardInterrupt):
        if not os.path.lexists(paths.manifest_path(out)):
            disk.remove_tree(out)
        raise


def _copy_store(
    store: str,
    named: set[SegmentFile],
    manifest: Manifest,
    tasks: Sequence[SegmentTask],
    out: str,
    progress: Progress | None,
    disk: Disk,
) -> SalvageReport:
    """Copy what is whole of the segments; `named` has the logs that the manifest named before."""
    total, done = sum(task.size for task in tasks), 0
    kept: list[SegmentInfo] = []
    losses: list[Loss] = []
    head = head_time_us = 0
    renumber = False  # nothing of a segment was whole: the next one has to account for the gap
    for task in tasks:
        try:
            copied = _copy_segment(task, tasks, out, disk, renumber=renumber)
        except FileNotFoundError:
            if named - _named_logs(store):
                raise StoreBusy(store) from None
            raise
        losses += copied.losses
        head, head_time_us = copied.last_position or head, max(head_time_us, copied.last_time_us)
        renumber = copied.info is None and bool(copied.losses)
        if copied.info is not None:
            kept.append(copied.info)
        done += task.size
        if progress is not None:
            progress(done, total)
    if losses and named - _named_logs(store):
        raise StoreBusy(store)  # what was removed by a compaction is not lost
    fresh = SegmentInfo(head + 1, int(renumber), new_tag())
    create_segment(out, manifest.store_id_bytes, fresh, disk)
    salvaged = manifest._replace(segments=_with_losses([*kept, fresh]), highest_id=UNBOUNDED)
    mark = Mark(fresh.tag, FILE_HEADER_BYTES, time_us=head_time_us, manifest_crc=manifest_crc(salvaged))
    disk.create_file(paths.durable_path(out), encode_mark(WRITTEN_MAGIC, mark))
    disk.create_file(paths.lock_path(out), b"")
    _copy_subscriptions(store, out, disk)
    sync_names(out, disk)
    replace_manifest(out, salvaged, disk, is_marked=True)
    return SalvageReport(sum(info.events for info in kept), len(kept) + 1, tuple(losses))


def _with_losses(infos: Sequence[SegmentInfo]) -> tuple[SegmentInfo, ...]:
    """Return the segments, each with how many positions up to its end have no event, present or removed."""
    counted = []
    reached = 0
    for info in infos:
        end = info.last_position or info.first_position - 1
        counted.append(info._replace(lost_events=end - reached - info.events - info.removed_events))
        reached = end
    return tuple(counted)


# --- the source


def _find_segments(store: str) -> tuple[Manifest, list[SegmentTask]]:
    """Return the segments to copy, by the manifest; by the logs' headers where that is damaged or old."""
    try:
        seen = take_snapshot(store)
    except CorruptionError:
        return _without_manifest(store)
    if maybe_later_log(store, seen.manifest) is not None:
        return _without_manifest(store)
    return seen.manifest, seen.tasks()


def _named_logs(store: str) -> set[SegmentFile]:
    """Return the logs that the manifest names now; none if it is damaged."""
    try:
        return {info.log_file for info in take_snapshot(store).manifest.segments}
    except CorruptionError:
        return set()


def _without_manifest(store: str) -> tuple[Manifest, list[SegmentTask]]:
    """Return the store as its logs tell it.

    Where two of them cover the same positions, a compaction was running or had just ended: the older
    generation lacks nothing.
    """
    headers = list(_log_headers(store))
    if not headers:
        raise NotAStore(store, "there is no log with a whole header")
    (store_id, _), *_ = Counter(header.store_id for header, _ in headers).most_common(1)
    tasks: list[SegmentTask] = []
    reached = 0
    for header, packed in sorted(headers, key=lambda found: (found[0].first_position, found[0].generation)):
        if header.store_id != store_id or header.first_position <= reached:
            continue
        info = SegmentInfo(header.first_position, header.generation, header.tag, compressed_bytes=packed)
        size = SegmentTask(store, store_id, info, 0).open_log().size()
        task = SegmentTask(store, store_id, info, size)
        task = _with_removed(task)
        reached = max(reached, _last_position(task, LogCheck(task).run()))
        tasks.append(task)
    infos = tuple(task.info for task in tasks)
    settings = DEFAULT_SEGMENT_BYTES, DEFAULT_SEGMENT_EVENTS
    return Manifest(id_text(store_id), *settings, infos), tasks


def _with_removed(task: SegmentTask) -> SegmentTask:
    """Return the segment with its file of removed events, if that is whole."""
    path, header = f"{task.path}.removed", task.info.header(KIND_REMOVED, task.store_id)
    try:
        file = ReadFile(path)
        removed = RemovedEvents(path, header, file.size())
        removed.check_all()
    except (FileNotFoundError, EvlogError):
        return task
    crc = 0
    for at in range(0, file.size(), _COPY_BYTES):
        crc = crc32(file.read(_COPY_BYTES, at), crc)
    counts = {"removed_events": removed.events, "removed_bytes": file.size(), "removed_crc": crc}
    return task._replace(info=task.info._replace(**counts))


def _last_position(task: SegmentTask, check: LogCheck) -> int:
    """Return the last position of a segment, also if its event was removed."""
    last = max(task.info.last_position, check.last_position)
    removed = None if task.info.sealed else task.open_removed()
    return last if removed is None else max(last, *event_column(removed.rows(), "position"))


def _log_headers(store: str) -> Iterator[tuple[FileHeader, int]]:
    """Yield the header of each log, with the length of a compressed file, else 0; plain ones first."""
    for suffix in (paths.LOG, paths.COMPRESSED_LOG):
        for name in list_directory(paths.segments_path(store)):
            meaning = paths.maybe_parse_segment_name(name)
            if meaning is None or meaning.suffix != suffix:
                continue
            path = f"{paths.segments_path(store)}/{name}"
            size = os.stat(path).st_size if suffix == paths.COMPRESSED_LOG else 0
            header = _maybe_header(path, name, size)
            if header is not None and (header.first_position, header.generation) == meaning[:2]:
                yield header, size


def _maybe_header(path: str, name: str, compressed_bytes: int) -> FileHeader | None:
    """Return the header of a log; None if it is damaged."""
    try:
        if compressed_bytes:
            return written_header(Container(path, name, None, None, compressed_bytes))
        header = decode_file_header(ReadFile(path).read(FILE_HEADER_BYTES, 0))
    except ExtraNotInstalled:
        raise  # no segment may be left out because a library is missing
    except (FileNotFoundError, FormatFault, EvlogError):
        return None
    return header if header.kind == KIND_LOG else None


# --- copying


def _copy_segment(
    task: SegmentTask, tasks: Sequence[SegmentTask], out: str, disk: Disk, *, renumber: bool
) -> _Copied:
    """Copy what is whole of a segment, and build its derived files."""
    info = task.info
    try:
        segment = SegmentRecords(task)
    except FileNotFoundError:
        losses = lost_in_segment(task, tasks)
        last = max((loss.last_position for loss in losses), default=0)
        return _Copied(None, last, info.last_time_us, losses)
    check = segment.check
    if check.damages:
        copied = _rewrite_segment(segment, out, disk)
        losses = lost_in_segment(task, tasks)
        last = _last_position(task, check)
        return _Copied(copied, last, check.last_time_us, losses)
    if not check.count and not info.removed_bytes:
        return _Copied(None, info.first_position - 1, 0, [])
    sealed = info._replace(
        compressed_bytes=0,  # the copy is plain
        generation=info.generation + int(renumber),
        last_position=_last_position(task, check),
        events=check.count,
        log_bytes=check.end,
        offsets_crc=crc32(check.entries),
        first_time_us=info.first_time_us or check.first_time_us,
        last_time_us=info.last_time_us or check.last_time_us,
        tagged_events=count_tagged(check.entries),
    )
    path = sealed.path(out, paths.LOG)
    source = task.open_log()
    file = disk.open(path, create=True, truncate=True)
    header = check.header._replace(generation=sealed.generation)
    disk.write_at(file, encode_file_header(header), 0)
    for at in range(FILE_HEADER_BYTES, check.end, _COPY_BYTES):
        disk.write_at(file, source.read(min(_COPY_BYTES, check.end - at), at), at)
    _finish(file, out, header, sealed, bytes(check.entries), disk)
    sealed = _copy_removed(task, header, sealed, out, disk)
    return _Copied(sealed, sealed.last_position, sealed.last_time_us, lost_ids(task))


def _rewrite_segment(segment: SegmentRecords, out: str, disk: Disk) -> SegmentInfo | None:
    """Write the whole records of a damaged segment as a segment with gaps; None if there are none."""
    old, check = segment.task.info, segment.check
    info = old._replace(generation=old.generation + 1, tag=new_tag(), compressed_bytes=0)
    header = check.header._replace(generation=info.generation, tag=info.tag)
    file = disk.open(info.path(out, paths.LOG), create=True, truncate=True)
    disk.write_at(file, encode_file_header(header), 0)
    end = FILE_HEADER_BYTES
    entries = bytearray()
    times: list[int] = []
    for records in _frames(segment):
        body = encode_body(records)
        first = decode_record(records[0])
        times += [first[5], decode_record(records[-1])[5]]
        frame = FrameHeader(len(body), len(records), end, first[0], 0, crc32(body), info.tag)
        rows = derive_entries(frame, end, body)
        frame = frame.replace(index_crc=crc32(rows, crc32(entries)))
        disk.write_at(file, encode_frame_header(frame, end) + body, end)
        entries += rows
        end += FRAME_HEADER_BYTES + len(body)
    if not entries and not old.removed_bytes:
        disk.close(file)
        disk.remove(info.path(out, paths.LOG))
        return None
    sealed = info._replace(
        last_position=_last_position(segment.task, check),
        events=len(entries) // ENTRY_BYTES,
        log_bytes=end,
        offsets_crc=crc32(entries),
        first_time_us=old.first_time_us or times[0],
        last_time_us=old.last_time_us or times[-1],
        tagged_events=count_tagged(entries),
    )
    _finish(file, out, header, sealed, bytes(entries), disk)
    return _copy_removed(segment.task, header, sealed, out, disk)


def _copy_removed(
    task: SegmentTask, header: FileHeader, info: SegmentInfo, out: str, disk: Disk
) -> SegmentInfo:
    """Copy the file of removed events, if it is whole, under the copied segment's header."""
    if not info.removed_bytes:
        return info
    if check_removed(task) is not None:
        return info._replace(removed_events=0, removed_bytes=0, removed_crc=0)
    raw = ReadFile(f"{task.path}.removed").read(info.removed_bytes, 0)
    own = decode_file_header(raw[:FILE_HEADER_BYTES])._replace(generation=header.generation, tag=header.tag)
    content = encode_file_header(own) + raw[FILE_HEADER_BYTES:]
    disk.create_file(info.path(out, paths.REMOVED), content)
    return info._replace(removed_crc=crc32(content))


def _frames(segment: SegmentRecords) -> Iterator[list[bytes]]:
    """Yield the whole records, together those of one frame."""
    for _, group in groupby(segment.whole_records(), key=lambda whole: whole[1]):
        records: list[bytes] = []
        last = -1
        for number, _, raw in group:
            if records and (number != last + 1 or len(records) == _MAX_FRAME_EVENTS):
                yield records
                records = []
            records.append(raw)
            last = number
        yield records


def _finish(
    file: WriteFile, out: str, header: FileHeader, info: SegmentInfo, entries: bytes, disk: Disk
) -> None:
    """Make a copied log durable, and write its derived files."""
    disk.sync(file)
    disk.close(file)
    offsets = encode_file_header(header._replace(kind=KIND_OFFSETS)) + entries
    disk.create_file(info.path(out, paths.OFFSETS), offsets)
    part = SealedPart(out, header.store_id, info, OpenParts())
    for path, content in part.index.files(entries).items():
        disk.create_file(path, content)
    part.close()


def _copy_subscriptions(store: str, out: str, disk: Disk) -> None:
    """Copy checkpoints and parked events as they are: all positions stay the same."""
    source = paths.subscriptions_path(store)
    try:
        names = list_directory(source)
    except EvlogError:
        return  # there is none, or a link to a directory outside
    disk.make_dir(paths.subscriptions_path(out))
    for name in names:
        if name.endswith((".json", ".parked")):
            try:
                content = ReadFile(f"{source}/{name}").read_whole(MAX_PARKED_BYTES)
            except (FileNotFoundError, EvlogError):
                continue  # deleted meanwhile; a link, or too large to be one
            disk.create_file(f"{paths.subscriptions_path(out)}/{name}", content)
    disk.sync_dir(paths.subscriptions_path(out))
