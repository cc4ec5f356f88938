"""The end of the active log, as one open writer holds it: bring it up to date, put frames there, sync it.

Everything but the sync happens under the writers' lock. Who finds the manifest as it was, a mark of the last
append in `durable`, and the log as long as that says, knows all that others did: that is the short way, of a
few system calls. Anything else is looked at closely, and what a dead writer left is made whole before
anything is appended. After a failed write or sync nothing more is put here: memory and disk may differ, and
only a new look at the disk, by a writer opened after it, can tell.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Final, NamedTuple
from zlib import crc32

from evlog.errors import AppendTooLarge, StoreFull, StoreIOError
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import Disk, WriteFile, end_of, read_back
from evlog.files.format import paths
from evlog.files.format.entries import ENTRY_BYTES, column, encode_entries
from evlog.files.format.frames import (
    FRAME_HEADER_BYTES,
    MAX_BODY_BYTES,
    FrameHeader,
    encode_body,
    encode_frame_header,
    encode_records,
    room_behind,
)
from evlog.files.format.hashes import hash_type
from evlog.files.format.headers import FILE_HEADER_BYTES
from evlog.files.format.marks import (
    ACKNOWLEDGED_MAGIC,
    MARK_AT,
    MARK_BYTES,
    NO_MARK,
    SUSPECT_MAGIC,
    WRITTEN_MAGIC,
    Mark,
    encode_mark,
    maybe_decode_mark,
)
from evlog.files.log.active import ActiveSegment
from evlog.files.log.log import Log, SealedPart
from evlog.files.write.recovery import build_indexes, recover_locked, repair_offsets_locked, sync_names
from evlog.files.write.roll import roll_locked
from evlog.files.write.stream_versions import StreamVersions
from evlog.files.write.sync_marks import Durability, check_sound
from evlog.model.appends import Batch
from evlog.model.events import EncodedEvent
from evlog.model.reports import TornTail

_MAX_CACHED_TYPES: Final = 1 << 16
_SUSPECT_AT: Final = MARK_AT[SUSPECT_MAGIC]


class Place(NamedTuple):
    """An end that the log had, for who syncs it without the lock, when the log may have gone on."""

    file: WriteFile
    tag: int
    offset: int


class LogEnd:
    """Where a writer appends.

    Args:
        versions: is told of the streams that others append to, and of what is written here.
        sync: whether what is put here is to be synced, by `acknowledge`.
    """

    def __init__(
        self, log: Log, versions: StreamVersions, durability: Durability, disk: Disk, *, sync: bool
    ) -> None:
        self._log = log
        self._versions = versions
        self._durability = durability
        self._disk = disk
        self._sync = sync
        self._compaction = FileLock(paths.compaction_path(log.store), 0.0, disk)  # never taken here
        self._type_hashes: dict[str, int] = {}
        self._tag = 0  # of the segment whose files are open
        self._log_file: WriteFile | None = None
        self._log_bytes = 0  # its length, with the zeros behind the last frame
        self._offsets_file: WriteFile | None = None
        self._unsure = False  # memory may differ from the disk: forget it and look again before appending
        self._recovered = False  # the end of the active log was looked at as a writer must
        self._last_time_us = 0
        self._seen_count = -1  # events of the active segment that are accounted for; -1: none of this
        self._written = b""  # the mark of the last append, by whomever, that is accounted for
        self._synced = 0  # how far this writer itself has synced the active log
        self._unindexed: list[SealedPart] = []
        self.failed: StoreIOError | None = None
        self.torn_tails: list[TornTail] = []

    def reset_after_fork(self) -> None:
        """Begin anew in a forked child: a descriptor of its own is told of failed syncs on its own."""
        self.close()
        self._unsure = True

    def close(self) -> None:
        """Close the files."""
        self._log_file = self._offsets_file = None
        self._tag = 0

    # --- putting frames there

    def append_locked(self, batch: Batch, versions: Sequence[int]) -> int:
        """Write one frame and its entries; the position of its first event.

        Raises:
            AppendTooLarge, StoreFull: nothing was written.
            StoreIOError: nobody knows what was.
        """
        active = self._log.active
        first_position = active.first_position + active.segment.count
        now_us = max(time.time_ns() // 1000, self._last_time_us)
        records = encode_records(batch.events, batch.ids, batch.streams, versions, first_position, now_us)
        body = encode_body(records)
        if len(body) > MAX_BODY_BYTES:
            raise AppendTooLarge(len(body), MAX_BODY_BYTES)
        self._make_room_locked(FRAME_HEADER_BYTES + len(body), len(records))
        segment = self._log.active.segment  # another one, perhaps, since room was made
        offset = segment.end
        rows = encode_entries(
            records,
            offset,
            offset + FRAME_HEADER_BYTES + len(body) - sum(map(len, records)),
            batch.stream_hashes,
            batch.id_folds,
            versions,
            self._hash_types(batch.events),
        )
        durable = max(segment.durable, self._synced)
        index_crc = crc32(rows, segment.index_crc)
        header = FrameHeader(
            len(body), len(records), durable, first_position, index_crc, crc32(body), segment.tag
        )
        self._unsure = True  # until memory agrees again: an interrupt may come between any two lines
        frame = encode_frame_header(header, offset) + body
        with self._log.mutex:  # a reading thread must not take the frame in from the disk meanwhile
            on_disk = self._put_locked(segment, frame, rows)
            segment.extend(rows, header, on_disk=on_disk)
        self._seen_count = segment.count
        self._last_time_us = now_us
        if on_disk:
            self._leave_mark_locked(segment)
        self._versions.remember(batch.streams, versions)
        self._unsure = False
        return first_position

    def _put_locked(self, segment: ActiveSegment, frame: bytes, rows: bytes) -> bool:
        """One write to the log, then the entries; whether the entries are written."""
        assert self._log_file is not None
        assert self._offsets_file is not None
        try:
            self._put_frame_locked(self._log_file, frame, segment.end)
            try:
                entries_at = FILE_HEADER_BYTES + segment.count * ENTRY_BYTES
                self._disk.write_at(self._offsets_file, rows, entries_at)
            except StoreFull:
                return False  # they are derived, and others may have seen the frame: it stays
        except StoreIOError as error:
            self._fail_locked(error)
            raise
        return True

    def _put_frame_locked(self, log_file: WriteFile, frame: bytes, offset: int) -> None:
        """Write the frame; one that lengthens the log makes room for others, too.

        The sync of a frame that is written over zeros takes two thirds of the time: the file system need not
        write down that the file has become longer.
        """
        end = offset + len(frame)
        room = room_behind(end, len(frame), self._log.manifest.segment_bytes)
        if room and end > self._log_bytes:
            with contextlib.suppress(StoreFull):
                self._disk.write_at(log_file, frame + bytes(room), offset)
                return
        try:
            self._disk.write_at(log_file, frame, offset)
        except StoreFull:
            self._disk.cut(log_file, offset)  # a part of a frame: nobody took it for one
            raise

    def _leave_mark_locked(self, segment: ActiveSegment) -> None:
        """Say how far the log is written, to the next writer; and to followers, where no sync will."""
        mark = Mark(segment.tag, segment.end, segment.count, segment.index_crc, self._last_time_us)
        written = encode_mark(WRITTEN_MAGIC, mark)
        acknowledged = b"" if self._sync else encode_mark(ACKNOWLEDGED_MAGIC, mark)
        try:
            self._durability.write_marks_locked(written + acknowledged)
            self._written = written
        except StoreFull:
            self._written = b""  # without it the next writer takes a closer look
        except StoreIOError as error:
            self._fail_locked(error)
            raise

    def _hash_types(self, events: Sequence[EncodedEvent]) -> list[int]:
        cache = self._type_hashes
        try:
            return [cache[event[0]] for event in events]
        except KeyError:
            if len(cache) > _MAX_CACHED_TYPES:
                cache = self._type_hashes = {}
            for type in {event[0] for event in events}:
                cache[type] = hash_type(type)
            return [cache[event[0]] for event in events]

    def seal_locked(self) -> None:
        """Begin the next segment, unless the active one is empty."""
        if self._log.active.count:
            self._roll_locked()  # indexed by the next append, unless the segment is gone by then

    def _make_room_locked(self, frame_bytes: int, count: int) -> None:
        """Begin the next segment if the frame does not fit into this one. A segment holds any one frame."""
        active = self._log.active.segment
        settings = self._log.manifest
        too_long = active.end + frame_bytes > settings.segment_bytes
        if not active.count or not (too_long or active.count + count > settings.segment_events):
            return
        self._roll_locked()

    def _roll_locked(self) -> None:
        assert self._log_file is not None
        assert self._offsets_file is not None
        self._unsure = True
        try:
            # No sync may fail unseen meanwhile: what it lost would be sealed as whole.
            with self._durability.lock:
                check_sound(self._durability.read_marks(), self._log_file, self._tag)
                roll_locked(self._log, self._log_file, self._offsets_file, self._disk)
        except StoreIOError as error:
            self._fail_locked(error)
            raise
        self._unindexed.append(self._log.sealed[-1])
        self._open_files_locked()
        self._recover_locked()

    def _fail_locked(self, error: StoreIOError) -> None:
        """Refuse from now on, and have the next writer look at the device."""
        self.failed = error
        self._durability.mark_suspect(self._tag, self._log.active.segment.end)

    # --- after the writing

    def place_locked(self) -> Place:
        """Where the log ends now."""
        assert self._log_file is not None
        return Place(self._log_file, self._tag, self._log.active.segment.end)

    def acknowledge(self, place: Place, *, written: bool) -> None:
        """Return when the log is on the device up to the place. Needs no lock.

        Args:
            written: whether this writer has put something there; else it may be known to be synced.

        Raises:
            StoreIOError: it may not be there, and nothing more is put here.
        """
        file, tag, end = place
        try:
            if written or not self._durability.covers(file, tag, end):
                self._durability.make_durable(file, tag, end)
        except StoreIOError as error:
            self.failed = error
            raise
        if tag == self._tag:
            self._synced = max(self._synced, end)

    def sync_offsets(self) -> None:
        """Sync the entries, as sealing must. Needs no lock.

        Raises:
            StoreIOError: what may be lost would be sealed as whole, so nothing more is put here.
        """
        file, tag, end = self._offsets_file, self._tag, self._log.active.segment.end
        assert file is not None
        try:
            self._disk.sync(file)
        except StoreIOError as error:
            self.failed = error
            self._durability.mark_suspect(tag, end)
            raise

    def build_indexes(self) -> None:
        """Index what was sealed, after the lock was given back and the append is durable.

        What was found without an index is left alone while a compaction runs: it has sealed that itself,
        perhaps, and writes it anew, and an append would have taken a third of a second for nothing.
        """
        if not (self._unindexed or self._log.faulty):
            return
        for parts in (self._unindexed, self._log.faulty):
            if parts is self._log.faulty and self._compaction.is_held():
                return
            while parts:
                try:
                    part = parts.pop()
                except IndexError:  # another thread took it
                    break
                build_indexes(part, self._disk)

    # --- being up to date

    def catch_up_locked(self) -> None:
        """Take in what other writers did, and repair what a dead one left.

        Raises:
            StoreIOError: a write or sync of this writer has failed, or one by another since it was opened.
            CorruptionError: what was acknowledged is damaged at the very end.
        """
        if self.failed is not None:
            raise self.failed
        if self._unsure or not self._follow_locked():
            self._look_closely_locked()
            self._unsure = False

    def _follow_locked(self) -> bool:
        """Take in what others appended, by the mark of the last one; False if that is not all there is."""
        active = self._log.active.segment
        if active.tag != self._tag or self._log_file is None or not self._log.is_current():
            return False
        marks = self._durability.read_marks()
        if marks[_SUSPECT_AT:] != NO_MARK:
            return False
        written = marks[:MARK_BYTES]
        if written != self._written:
            mark = maybe_decode_mark(WRITTEN_MAGIC, written)
            if mark is None or mark.tag != self._tag:
                return False
            with self._log.mutex:
                if not active.follow(mark):
                    return False
            self._account_locked()
            self._last_time_us = mark.time_us
            self._written = written
        if not active.count == self._seen_count == active.entries_on_disk:
            return False
        # What a writer left that was killed before its mark stands behind the last frame: else are zeros.
        end = active.end
        self._log_bytes = end_of(self._log_file)
        behind = read_back(self._log_file, FRAME_HEADER_BYTES, end) if self._log_bytes > end else b""
        return self._log_bytes >= end and not behind.strip(b"\0")

    def _look_closely_locked(self) -> None:
        """Compare everything with the disk, recover where that is due, leave a mark for the next writer."""
        log = self._log
        if self._unsure:
            log.reset()
            self._recovered = False
        log.refresh(suspicious=True)
        active = log.active.segment
        marks = self._durability.read_marks()
        if active.tag != self._tag:
            if not self._tag and log.sealed:
                log.faulty.append(log.sealed[-1])  # who sealed it may have died before indexing it
            # Whoever made this segment may have died before its names were durable: nothing may be
            # acknowledged in it until they are.
            try:
                sync_names(log.store, self._disk)
            except StoreIOError as error:
                self.failed = error
                raise
            self._open_files_locked()
        elif self._recovered:
            self._check_sound(marks)
        sound = marks[_SUSPECT_AT:] == NO_MARK
        if not (self._recovered and sound) or active.torn_bytes or active.entries_on_disk < active.count:
            self._recover_locked()
        active = log.active.segment
        if active.count != self._seen_count:
            self._account_locked()
            self._last_time_us = self._time_of_last()
        assert self._log_file is not None
        self._log_bytes = end_of(self._log_file)
        self._leave_mark_locked(active)

    def _check_sound(self, marks: bytes) -> None:
        """Refuse for good where another's sync failed while this writer was open."""
        assert self._log_file is not None
        try:
            check_sound(marks, self._log_file, self._tag)
        except StoreIOError as error:
            self.failed = error
            raise

    def _open_files_locked(self) -> None:
        active = self._log.active.segment
        self._log_file = self._disk.open(active.log_path)
        self._log_bytes = end_of(self._log_file)
        self._offsets_file = self._disk.open(active.offsets_path, create=True)
        self._tag = active.tag
        self._synced = 0
        self._recovered = False

    def _recover_locked(self) -> None:
        assert self._log_file is not None
        assert self._offsets_file is not None
        try:
            with self._durability.lock as marks_file:
                torn = recover_locked(self._log, self._log_file, marks_file, self._disk)
        except StoreIOError as error:
            self._fail_locked(error)
            raise
        if torn is not None:
            self.torn_tails.append(torn)
        repair_offsets_locked(self._log, self._offsets_file, self._disk)
        self._seen_count = -1
        self._recovered = True

    def _account_locked(self) -> None:
        """Others appended: forget the versions of their streams."""
        active = self._log.active.segment
        if 0 <= self._seen_count <= active.count:
            fresh = bytes(active.entries[self._seen_count * ENTRY_BYTES :])
            self._versions.forget(column(fresh, "stream_hash"))
        else:
            self._versions.forget_all()
        self._seen_count = active.count

    def _time_of_last(self) -> int:
        """The time of the last event; no other may have an earlier one."""
        active = self._log.active.segment
        if active.count:
            return active.record(active.count - 1)[5]
        return self._log.sealed[-1].info.last_time_us if self._log.sealed else 0
