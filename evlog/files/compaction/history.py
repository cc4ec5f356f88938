"""Appending a piece of another store's history, as it is there.

1. A piece without gaps is one frame of the active log, like any append.
2. A piece with gaps becomes a sealed segment, like one that a compaction has written: it may lack positions,
   and its .removed file keeps the ids of what is missing. The manifest that names it is the commit point; a
   crash before that leaves files that mean nothing.
3. The log's head says up to where the source was copied: a piece that does not begin there is refused.
4. Events that the source removes later are removed as by a compaction, segment by segment.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING
from zlib import crc32

from evlog.files.compaction.commit import clear_leftovers, remove_unnamed, replace_segments
from evlog.files.compaction.compact import acquire_lock
from evlog.files.compaction.plan import find_unerased, plan_segment
from evlog.files.compaction.rewrite import LogFile, OutputSegment, read_groups, rewrite
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.processes import Workers
from evlog.files.format import paths
from evlog.files.format.entries import column, count_tagged, encode_entries
from evlog.files.format.frames import pack_records
from evlog.files.format.hashes import hash_ids, hash_stream, hash_type, maybe_tag_bits
from evlog.files.format.headers import KIND_OFFSETS, KIND_REMOVED, encode_file_header
from evlog.files.format.manifest import SegmentInfo
from evlog.files.format.removed_events import encode_removed, pack_events
from evlog.files.log.history import decode_tags
from evlog.files.write.plan import Plan
from evlog.files.write.roll import new_tag
from evlog.model.appends import Append
from evlog.model.events import check_readable_name
from evlog.model.history import check_continues, check_mirror

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from evlog.files.compaction.plan import SegmentPlan
    from evlog.files.disk.files import Disk
    from evlog.files.format.removed_events import EmptyStream
    from evlog.files.log.log import Log
    from evlog.files.log.parts import SealedPart
    from evlog.files.write.plan import Planner
    from evlog.files.write.sync_marks import SyncPoint
    from evlog.files.write.tail import LogTail
    from evlog.files.write.writer import Writer
    from evlog.model.history import HistoryPiece, RemovedRecord


def append_history(log: Log, writer: Writer, disk: Disk, piece: HistoryPiece) -> None:
    """Append a piece of the source's history: all of it, or nothing; durable on return (with `sync`).

    Raises:
        MirrorConflict: the store is not a mirror of the source, or does not end where the piece begins.
        StoreFull, LockTimeout: nothing was written.
        StoreIOError: part of it may be there; open the store again.
    """
    if piece.is_whole:
        writer.make_durable(_append_frame(log, writer, piece))
    else:
        _add_segment(log, writer, disk, piece)


def _check_locked(log: Log, piece: HistoryPiece) -> None:
    check_mirror(log.store, log.manifest.standing, piece.source_id)
    check_continues(log.store, log.head, piece.after, piece.source_id)


def _append_frame(log: Log, writer: Writer, piece: HistoryPiece) -> SyncPoint:
    records = piece.events
    _, versions, streams, types, ids, _, codes, datas, metadatas = zip(*records, strict=True)
    events = list(zip(types, ids, codes, datas, metadatas, strict=True))
    for name in set(streams):
        check_readable_name(name)
    plan = Plan(Append(streams, events), {}, ids, hash_ids(ids))
    plan.versions = list(versions)
    plan.type_hashes = _hash_types(types)
    plan.tags = maybe_tag_bits(metadatas)
    plan.records = records

    def put(tail: LogTail, planner: Planner) -> SyncPoint:
        _check_locked(log, piece)
        planner.name_streams_locked(plan)
        tail.put_locked(plan)
        return tail.end_locked()

    return writer.exclusively(put)


def _hash_names(streams: Iterable[str]) -> list[int]:
    hashes: dict[str, int] = {}
    for name in streams:
        if name not in hashes:
            hashes[name] = hash_stream(check_readable_name(name))
    return [hashes[name] for name in streams]


def _hash_types(types: Iterable[str]) -> list[int]:
    hashes = {type: hash_type(type) for type in set(types)}
    return [hashes[type] for type in types]


# --- what the source has removed since


def remove_history(
    log: Log,
    writer: Writer,
    disk: Disk,
    source_id: str,
    removed: Sequence[RemovedRecord],
    *,
    lock_timeout_seconds: float | None,
) -> None:
    """Remove events that the source has removed since they were copied, and erase what is redacted; durable.

    Raises:
        MirrorConflict: the store is not a mirror of the source.
        CompactionRunning: another process compacts or verifies the store for longer than the timeout.
        LockTimeout, StoreFull, StoreIOError: the rest is left to the next call.
    """
    positions = sorted(each.position for each in removed)

    def seal(tail: LogTail, _planner: Planner) -> None:
        check_mirror(log.store, log.manifest.standing, source_id)
        active = log.active
        loses = bool(positions) and positions[-1] >= active.first_position
        if active.count and (loses or find_unerased(active, log.policies().redacted, active.last_position)):
            tail.seal_locked()

    lock = FileLock(paths.lock_path(log.store), lock_timeout_seconds, disk, readable=False)
    # A mirror that follows must not end because it is verified or compressed meanwhile.
    compacting = acquire_lock(log.store, disk, lock_timeout_seconds)
    try:
        clear_leftovers(log, lock, disk)
        writer.exclusively(seal)
        log.look()
        redacted = log.policies().redacted
        for part in log.sealed:
            own = slice(
                bisect_left(positions, part.first_position), bisect_right(positions, part.last_position)
            )
            erased = find_unerased(part, redacted, part.last_position)
            if (plan := _plan_removal(part, positions[own], erased)) is not None:
                replace_segments(log, lock, disk, [part.info], _rewrite(log, disk, plan))
                disk.sync_dir(paths.segments_path(log.store))  # no power loss must bring the old files back
    finally:
        lock.close()
        compacting.release()
        compacting.close()


def _plan_removal(part: SealedPart, positions: Sequence[int], erased: tuple[int, ...]) -> SegmentPlan | None:
    """Return the plan of one segment without the events at these positions; None if nothing changes."""
    segment = part.segment
    numbers = sorted({segment.number_of(position) for position in positions}.difference((part.count,)))
    wanted = set(positions)
    hidden, gone = bytearray(part.count), []
    for number, record in zip(numbers, chain.from_iterable(segment.records(numbers)), strict=True):
        if record[0] in wanted:
            gone.append(record)
            hidden[number] = 1
    if not gone:
        return plan_segment(part, b"", [], erased) if erased else None
    emptied = {record[2]: (record[2], record[1], record[5]) for record in gone}  # the last one counts
    hashes = {hash_stream(name) for name in emptied}
    suspects = [
        number
        for number, key in enumerate(column(part.entries(), "stream_hash"))
        if key in hashes and not hidden[number]
    ]
    for record in chain.from_iterable(segment.records(suspects)):
        emptied.pop(record[2], None)
    return plan_segment(part, bytes(hidden), list(emptied.values()), erased)


def _rewrite(log: Log, disk: Disk, plan: SegmentPlan) -> SegmentInfo:
    output = OutputSegment.of(log.store, log.manifest, [plan.part.info])
    with (
        output.removed_on_failure(disk),
        Workers(1) as workers,
        closing(read_groups(log, [[plan]], workers)) as results,
    ):
        return rewrite(output, [plan], results, disk, workers, lambda _: None)


# --- a piece with gaps


def _add_segment(log: Log, writer: Writer, disk: Disk, piece: HistoryPiece) -> None:
    # All of it under the writers' lock: a compaction or repair would remove files that no manifest names yet.
    # A mirror has no other writers that wait.
    def add(tail: LogTail, _planner: Planner) -> SegmentInfo:
        _check_locked(log, piece)
        tail.seal_locked()  # the new segment comes in the place of an empty one
        info = _write_segment(log, disk, piece, log.sealed[-1].info.last_time_us if log.sealed else 0)
        empty = log.active.info
        tail.add_sealed_locked(info)
        return empty

    empty = writer.exclusively(add)
    remove_unnamed(log.store, log.manifest, [empty], disk)
    writer.make_durable(None)  # the manifest is


def _write_segment(log: Log, disk: Disk, piece: HistoryPiece, last_time_us: int) -> SegmentInfo:
    """Write the files of a segment that holds the piece, synced; no manifest names them yet."""
    events = piece.events
    info = SegmentInfo(
        piece.after + 1,
        1,  # a generation in which positions may be missing
        new_tag(),
        last_position=piece.end,
        first_time_us=events[0][5] if events else last_time_us,
        last_time_us=events[-1][5] if events else last_time_us,
        lost_events=piece.lost,
    )
    output = OutputSegment(log.store, log.manifest.store_id_bytes, info)
    with output.removed_on_failure(disk):
        info = _write_events(output, piece, disk)
        if piece.removed:
            info = _write_removed(output._replace(info=info), piece, last_time_us, disk)
    return info


def _write_events(output: OutputSegment, piece: HistoryPiece, disk: Disk) -> SegmentInfo:
    """Write the log and its entries, synced; no manifest names them yet."""
    file = LogFile(output, disk)
    if piece.events:
        _, versions, streams, types, ids, *_, metadatas = zip(*piece.events, strict=True)
        raws = pack_records(piece.events)
        hashes = _hash_names(streams), hash_ids(ids), versions, _hash_types(types)
        file.add(b"".join(raws), encode_entries(raws, 0, *hashes, maybe_tag_bits(metadatas)))
    entries = file.finish()
    disk.sync(file.file)
    disk.close(file.file)
    disk.create_file(output.path(paths.OFFSETS), encode_file_header(output.header(KIND_OFFSETS)) + entries)
    return output.info._replace(
        events=file.events,
        log_bytes=file.end,
        offsets_crc=file.index_crc,
        tagged_events=count_tagged(entries),
    )


def _write_removed(output: OutputSegment, piece: HistoryPiece, last_time_us: int, disk: Disk) -> SegmentInfo:
    """Write the file of the removed events, synced."""
    removed = piece.removed
    rows = pack_events(
        [event.id for event in removed],
        [event.position for event in removed],
        _hash_names([event.stream for event in removed]),
        [event.version for event in removed],
        [int.from_bytes(event.digest, "little") if len(event.digest) == 4 else 0 for event in removed],
    )
    tags = [
        (tag, again, event.position, type)
        for event in removed
        for tag, again, type in decode_tags(event.tags)
    ]
    raw = encode_removed(output.header(KIND_REMOVED), rows, _emptied(piece, last_time_us), tags)
    disk.create_file(output.path(paths.REMOVED), raw)
    return output.info._replace(removed_events=len(removed), removed_bytes=len(raw), removed_crc=crc32(raw))


def _emptied(piece: HistoryPiece, last_time_us: int) -> Iterable[EmptyStream]:
    """Return the streams of which this segment holds nothing but removed events.

    Some have later events, which are copied later. Until then the segment alone knows their versions.
    """
    kept = {event[2] for event in piece.events}
    return {
        event.stream: (event.stream, event.version, event.time_us or last_time_us)
        for event in piece.removed
        if event.stream not in kept
    }.values()
