"""The end of the active log, as one open writer has it: take in what others wrote, put a frame, roll.

Everything here needs the writers' lock, except where a docstring says otherwise.

1. Before an append the writer catches up. If the manifest is the one it knows, the path still names the log
   that it has open, and the written mark agrees with both, it takes in the entries of the others' frames by
   that mark: the common case, a few system calls.
2. Otherwise it looks at everything again and hands the end of the log to recovery, which alone decides what
   happens to a torn tail.
3. A writer that was interrupted, or whose write failed, does not trust its memory: it reads the log again
   first.
4. A store that was replaced by another one, or by a copy of itself, is noticed by the log's inode before
   anything is written. A replacement later than that counts as one after the append.
"""

from __future__ import annotations

from zlib import crc32

from evlog.errors import AppendTooLarge, ClockError, EvlogError, StoreFull, StoreIOError, StoreReplaced
from evlog.files.format.entries import ENTRY_BYTES, body_crc, column, encode_entries
from evlog.files.format.frames import (
    FRAME_HEADER_BYTES,
    MAX_BODY_BYTES,
    FrameHeader,
    body_size,
    encode_frame,
    encode_records,
    pack_records,
)
from evlog.files.format.headers import FILE_HEADER_BYTES
from evlog.files.format.marks import (
    ACKNOWLEDGED_MAGIC,
    MARK_BYTES,
    NO_MARK,
    SUSPECT_AT,
    WRITTEN_MAGIC,
    Mark,
    encode_mark,
)
from evlog.files.log.active import ActiveSegment
from evlog.files.write.building import IndexBuilder
from evlog.files.write.derived import remove_leftovers_locked
from evlog.files.write.log_file import LogFile
from evlog.files.write.recovery import recover_locked
from evlog.files.write.roll import add_sealed_locked, roll_locked, sync_names
from evlog.files.write.sync_marks import SyncPoint
from evlog.model.events import MAX_TIME_US, now_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from evlog.files.disk.files import Disk, WriteFile
    from evlog.files.format.manifest import SegmentInfo
    from evlog.files.log.log import Log
    from evlog.files.log.parts import ActivePart
    from evlog.files.write.plan import Plan, Planner
    from evlog.files.write.sync_marks import SyncMarks
    from evlog.model.reports import TornTail

# The device begins to write such a frame while the entries are written and memory takes them in. From the
# write of 1,000 events to the end of their sync an idle device takes 0.63 instead of 0.86 ms.
_LARGE_FRAME_BYTES: Final = 1 << 16


class LogTail:
    """Where a writer appends.

    Args:
        planner: forgets the versions of streams that others appended to.
        sync: whether appends are synced before they are acknowledged.
    """

    def __init__(self, log: Log, planner: Planner, marks: SyncMarks, disk: Disk, *, sync: bool) -> None:
        self._log = log
        self._planner = planner
        self._marks = marks
        self._disk = disk
        self._sync = sync
        self.builder = IndexBuilder(log, disk)
        # All below is guarded by the writers' lock.
        self._tag = 0  # of the segment whose files are open; 0: none is
        self._part: ActivePart | None = None  # that segment
        self._log_file: LogFile | None = None
        self._offsets_file: WriteFile | None = None
        self._prepared: tuple[int, LogFile] | None = None  # not guarded, replaced whole
        self._has_rolled = False
        self._replaced = False  # never cleared: what was read from the store before may not be in this one
        self._unsure = False  # memory may differ from the disk: look again before appending
        self._last_time_us = 0
        self._seen_count = -1  # events of the active segment that are accounted for; -1: none of this segment
        self._written = b""  # the written mark that is accounted for
        self.torn_tails: list[TornTail] = []

    def reset_files(self) -> None:
        """Close the files; the next append opens and looks at everything again."""
        self._log_file = self._offsets_file = self._prepared = None
        self._tag = 0
        self._unsure = True

    # --- putting a frame

    def put_locked(self, plan: Plan) -> int:
        """Write one frame and its entries; return the position of its first event.

        Raises:
            AppendTooLarge, ClockError, StoreFull: nothing was written.
            StoreIOError: part of it may have been written.
        """
        active = self._log.active
        first_position = active.first_position + active.segment.count
        if plan.records is None:
            now_us = self._now_us()
            records = encode_records(
                plan.events, plan.ids, plan.streams, plan.versions, first_position, now_us
            )
        else:
            now_us, records = plan.records[-1][5], pack_records(plan.records)
        body_bytes = body_size(records)
        if body_bytes > MAX_BODY_BYTES:
            raise AppendTooLarge(body_bytes, MAX_BODY_BYTES)
        self._maybe_roll_locked(FRAME_HEADER_BYTES + body_bytes, len(records))
        highest_id = max((self._planner.highest_id, *plan.ids))
        segment = self._log.active.segment
        offset = segment.end
        rows = encode_entries(
            records, offset, plan.stream_hashes, plan.id_hashes, plan.versions, plan.type_hashes, plan.tags
        )
        synced_tag, synced = self._marks.synced
        header = FrameHeader(
            body_bytes,
            len(records),
            max(segment.durable, synced) if synced_tag == segment.tag else segment.durable,
            first_position,
            crc32(rows, segment.index_crc),
            body_crc(rows),
            segment.tag,
        )
        frame = encode_frame(header, offset, records)
        count, end = segment.count + len(records), offset + len(frame)
        mark = self._log.mark_of(end, count, header.index_crc, now_us, highest_id)
        self._unsure = True  # until memory agrees with the disk: an interrupt may come between any two lines
        self._mark_written_locked(mark)
        with self._log.mutex:  # a reading thread must not take the frame in from the disk meanwhile
            on_disk = self._write_locked(segment, frame, rows)
            segment.extend(rows, header, on_disk=on_disk)
            self._log.note_written(self._written)
        self._seen_count = segment.count
        self._last_time_us = now_us
        self._planner.remember_locked(plan)
        self._planner.highest_id = highest_id
        self._set_end_locked()
        if not self._sync:
            self._mark_acknowledged_locked(mark)
        self._unsure = False
        return first_position

    def _now_us(self) -> int:
        """Return the time of the next event: the clock's, but never less than that of the last event."""
        now_us = now_ns() // 1000
        if now_us > MAX_TIME_US or (now_us < 0 and not self._last_time_us):
            raise ClockError(now_us)
        return max(now_us, self._last_time_us)

    def _write_locked(self, segment: ActiveSegment, frame: bytes, rows: bytes) -> bool:
        """Write the frame, then the entries; return whether the entries are written."""
        assert self._log_file is not None
        assert self._offsets_file is not None
        try:
            self._log_file.put(frame, segment.end, self._log.manifest.segment_bytes)
            if self._sync and len(frame) >= _LARGE_FRAME_BYTES:
                self._disk.begin_write_back(self._log_file.file, segment.end, len(frame))
            try:
                entries_at = FILE_HEADER_BYTES + segment.count * ENTRY_BYTES
                self._disk.write_at(self._offsets_file, rows, entries_at)
            except StoreFull:
                return False  # they are derived, and readers may have seen the frame: it stays
        except StoreIOError as error:
            self._marks.fail(error, segment.tag, segment.end)
            raise
        return True

    def _mark_written_locked(self, mark: Mark) -> None:
        """Tell readers and the next writer how far the log will be written.

        Before the frame: so no reader that trusts the mark can miss a frame, also one whose writer is killed.
        """
        self._written = encode_mark(WRITTEN_MAGIC, mark)
        self._write_mark_locked(self._written, WRITTEN_MAGIC, mark)

    def _mark_acknowledged_locked(self, mark: Mark) -> None:
        """Tell followers how far the log is acknowledged, because no sync will."""
        acknowledged = encode_mark(ACKNOWLEDGED_MAGIC, Mark(mark.tag, mark.offset))
        try:
            self._write_mark_locked(acknowledged, ACKNOWLEDGED_MAGIC, mark)
        except StoreFull:
            pass  # followers make the log durable themselves, after a while

    def _write_mark_locked(self, raw: bytes, magic: bytes, mark: Mark) -> None:
        try:
            self._marks.write_locked(raw, magic)
        except StoreIOError as error:
            self._marks.fail(error, mark.tag, mark.offset)
            raise

    def _set_end_locked(self) -> None:
        assert self._log_file is not None
        self._marks.end = SyncPoint(self._log_file.file, self._tag, self._log.active.segment.end)

    def end_locked(self) -> SyncPoint:
        """Return where the log ends now."""
        end = self._marks.end
        assert end is not None
        return end

    # --- rolling

    def add_sealed_locked(self, info: SegmentInfo) -> None:
        """Name a segment, whose files are synced, in the place of the empty active one."""
        self._unsure = True
        add_sealed_locked(self._log, info, self._disk)
        self.builder.add(self._log.sealed[-1])

    def seal_locked(self) -> None:
        """Begin the next segment, unless the active one is empty."""
        if self._log.active.count:
            self._roll_locked()

    def sync_offsets(self, point: SyncPoint) -> None:
        """Sync the active segment's entries, so that sealing has less to sync. Needs no lock."""
        file = self._offsets_file
        if file is not None and self._tag == point.tag:
            self._marks.sync_file(file, point)

    def _maybe_roll_locked(self, frame_bytes: int, count: int) -> None:
        """Begin the next segment if the frame does not fit into this one. A segment holds any one frame."""
        active = self._log.active.segment
        settings = self._log.manifest
        too_long = active.end + frame_bytes > settings.segment_bytes
        if active.count and (too_long or active.count + count > settings.segment_events):
            self._roll_locked()

    def _roll_locked(self) -> None:
        active = self._log.active.segment
        self._unsure = True
        # No other sync may fail unseen meanwhile: what it has lost would be sealed as whole.
        columns = self._log.active.index
        with self._marks.syncing:
            self._marks.lock.run(lambda _marks_file, _is_locked: self._replace_active_locked(active))
        self.builder.add(self._log.sealed[-1], columns)
        self._open_files_locked()
        self._seen_count = 0  # of the new segment: the versions that are remembered are still right
        self._planner.begin_segment_locked()
        self._planner.highest_id = self._log.highest_id()
        self._set_end_locked()
        self._unsure = False

    def _replace_active_locked(self, active: ActiveSegment) -> None:
        """Seal the active segment and begin the next, while no other thread syncs or writes the marks."""
        assert self._log_file is not None
        assert self._offsets_file is not None
        if self._marks.failed is not None:
            raise self._marks.failed.unraised()
        try:
            self._log_file.trim(active.end)
            self._disk.sync(self._log_file.file)  # the marks speak of the active log only
            self._disk.sync(self._offsets_file)  # else it may have to be rebuilt from the log
            self._marks.check_sound(self._marks.read(), self._log_file.file, self._tag)
            if not self._has_rolled:  # once: listing the directory takes long with thousands of segments
                remove_leftovers_locked(self._log.store, self._disk)
                self._has_rolled = True
            roll_locked(self._log, self._disk)
        except StoreIOError as error:
            self._marks.fail(error, active.tag, active.end)
            raise

    # --- catching up

    def prepare(self) -> None:
        """Open the log, before the first append, and sync its names and what is not known to be synced.

        Needs no lock: else each of many new writers would sync under the lock. Frames that are written after
        the opening need no such look, because the kernel reports their failed sync to this descriptor, too.
        """
        if self._tag or self._prepared is not None or self._marks.failed is not None:
            return
        log = self._log
        tag = log.active.segment.tag
        try:
            file = LogFile(log.active.segment.log_path, self._disk)
            log.refresh()
            active, marks = log.active.segment, log.marks()
            if marks.suspect is not None:
                return  # recovery looks at the device
            known = max(marks.durable_offset, active.durable)
            if active.end > known and not active.is_on_device(self._disk, active.end, known):
                return  # recovery decides, under the lock
            if active.tag == tag:
                self._sync_names()
                self._prepared = tag, file
        except (EvlogError, FileNotFoundError):
            pass  # the same happens under the lock, or it has passed

    def _sync_names(self) -> None:
        """Make the names of the active segment durable: the writer that made it may have died before it did.

        Nothing may be acknowledged in it until they are. Needs no lock.
        """
        try:
            sync_names(self._log.store, self._disk)
        except StoreIOError as error:
            self._marks.failed = error.unraised()
            raise

    def catch_up_locked(self) -> None:
        """Take in what other writers did, and have recovery repair what a dead one left.

        Raises:
            StoreReplaced: another store, or a copy of this one, is in its place.
            StoreIOError: a write or sync of this writer has failed, or one by another since it was opened.
            CorruptionError: acknowledged events are damaged at the very end.
        """
        if self._marks.failed is not None:
            raise self._marks.failed.unraised()
        if self._replaced:
            raise StoreReplaced(self._log.store)
        if self._unsure or not self._follow_locked():
            self._look_again_locked()
            self._unsure = False

    def _follow_locked(self) -> bool:
        """Take in what others appended, by the written mark; return False if that is not all there is."""
        active = self._log.active.segment
        file = self._log_file
        if file is None or active.tag != self._tag or not (self._log.is_current() and file.is_in_place()):
            return False
        marks = self._marks.read()
        if marks[SUSPECT_AT:] != NO_MARK:
            return False
        written = marks[:MARK_BYTES]
        if written != self._written:
            mark = self._log.maybe_follow(written)
            if mark is None:
                return False
            self._account_locked()
            self._last_time_us = mark.time_us
            self._planner.highest_id = mark.highest_id
            self._set_end_locked()
            self._written = written  # last: what was interrupted is done again
        return active.count == self._seen_count == active.entries_on_disk and file.ends_at(active.end)

    def _look_again_locked(self) -> None:
        """Compare everything with the disk, have recovery repair it, and leave a mark for the next writer."""
        log = self._log
        if self._unsure:
            log.reset()
        self._unsure = True  # a look that fails, or is interrupted, is done again
        log.refresh(suspicious=True)
        self._marks.forget()
        self._seen_count = -1
        active = log.active.segment
        new = active.tag != self._tag
        known = self._part if self._tag else None
        if new and known is not None and active.first_position <= known.first_position:
            self._replaced = True  # by an older copy: a roll begins a later segment
            raise StoreReplaced(log.store)
        if new:
            if known is not None:
                self.builder.leave_to_others_locked(known)
            elif log.sealed:
                log.faulty.append(log.sealed[-1])  # its writer may have died before building the indexes
            if self._prepared is None or self._prepared[0] != active.tag:
                self._sync_names()
            self._open_files_locked()
        assert self._log_file is not None
        if not (self._log_file.is_in_place() and active.is_file(*self._log_file.identity)):
            self._replaced = True
            raise StoreReplaced(log.store)
        if not new:
            self._marks.check_sound(self._marks.read(), self._log_file.file, self._tag)
        is_prepared = self._prepared is not None and self._prepared[1] is self._log_file
        self._recover_locked(unsynced=new and self._sync and not is_prepared)

    def _open_files_locked(self) -> None:
        active = self._log.active.segment
        prepared = self._prepared
        if prepared is not None and prepared[0] != active.tag:
            prepared = self._prepared = None  # so that a compaction can free the space of that segment
        self._log_file = prepared[1] if prepared is not None else LogFile(active.log_path, self._disk)
        self._offsets_file = self._disk.open(active.offsets_path, create=True)
        self._tag, self._part = active.tag, self._log.active

    def _recover_locked(self, *, unsynced: bool) -> None:
        """Have recovery make the end of the log whole, and note it as it is then."""
        assert self._log_file is not None
        offsets_file = self._offsets_file
        assert offsets_file is not None
        log, file = self._log, self._log_file.file
        try:
            torn = self._marks.lock.run(
                lambda marks_file, _is_locked: recover_locked(
                    log, file, offsets_file, marks_file, self._disk, unsynced=unsynced
                )
            )
        except StoreIOError as error:
            self._marks.fail(error, self._tag, log.active.segment.end)
            raise
        if torn is not None:
            self.torn_tails.append(torn)
        self._account_locked()
        self._last_time_us = log.last_time_us()
        self._log_file.is_in_place()
        self._set_end_locked()
        self._planner.highest_id = log.highest_id()
        mark = log.written_mark(self._planner.highest_id)
        self._mark_written_locked(mark)
        with log.mutex:
            log.note_written(self._written)
        if not self._sync:
            self._mark_acknowledged_locked(mark)

    def _account_locked(self) -> None:
        """Forget the versions of the streams that others appended to."""
        active = self._log.active.segment
        if 0 <= self._seen_count <= active.count:
            fresh = bytes(active.entries[self._seen_count * ENTRY_BYTES :])
            self._planner.forget_locked(column(fresh, "stream_hash"))
        else:
            self._planner.forget_locked(None)
            if not active.count:
                self._planner.begin_segment_locked()
        self._seen_count = active.count
