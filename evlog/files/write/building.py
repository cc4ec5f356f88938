"""Building the files of sealed segments, most of it in a helper process while the writer appends.

1. Building takes a third of a second for 262,144 events. Without a helper the append that begins the next
   segment waits for it.
2. Until the helper has ended, the writer's process answers from the columns of the segment that it has in
   memory. Another writer that needs the files sooner builds them, too.
3. Nothing depends on the helper: the writer builds what is missing when the helper has ended.
4. A segment that another writer has sealed is left to that writer for some time.
5. After a compaction of many events the filter is extended in a helper, too: for 1,100,000 events the next
   append uses the processor for 8 ms instead of 600 ms. Of many writers one starts the helper, which inherits
   the lock on the filter from that writer.
"""

from __future__ import annotations

import time
from bisect import bisect_left

from evlog.errors import EvlogError
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import DISK, WriteFile
from evlog.files.format import paths
from evlog.files.log.log import Log
from evlog.files.log.parts import SegmentMoved
from evlog.files.write.derived import build_indexes
from evlog.files.write.filter_file import complete_filter_locked, extend_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from evlog.files.disk.files import Disk
    from evlog.files.disk.processes import CallBeside
    from evlog.files.log.column_index import ColumnIndex
    from evlog.files.log.parts import ActivePart, SealedPart

_FEW: Final = 8  # segments that may have been sealed since
# A helper builds the files of a segment with at least this many events. With fewer, starting the helper takes
# longer than building them.
_MANY_EVENTS: Final = 1 << 16
_FEW_APPENDS: Final = 8  # to a segment, of a writer that may end sooner than a helper starts
_PATIENCE_SECONDS: Final = 10.0  # with a helper, which may be suspended, or with another writer


class IndexBuilder:
    """Builds what one writer has to build, or leaves it to a helper or to another writer.

    Needs no lock, except where a name says so. Its attributes are replaced whole.
    """

    def __init__(self, log: Log, disk: Disk) -> None:
        self._log = log
        self._disk = disk
        # Only checked, never acquired.
        self._compaction = FileLock(paths.compaction_path(log.store), 0.0, disk, readable=False)
        self._appends = 0  # since this writer has sealed a segment; not guarded: a guess is enough
        self._unindexed: list[SealedPart] = []  # threads take from it by `pop`
        self._to_build: SealedPart | None = None  # a segment whose files a helper is to build
        # The segment whose files a helper builds; None: the helper extends the filter.
        self._building: tuple[SealedPart | None, CallBeside] | None = None
        # A segment that another writer sealed, and how long that writer is given to build its files.
        self._left: tuple[SealedPart, float] | None = None

    def add(self, part: SealedPart, columns: ColumnIndex | None = None) -> None:
        """Note a segment that this writer has just sealed, and the columns in memory that answer for it."""
        is_many, self._appends = self._appends > _FEW_APPENDS, 0
        if (
            columns is not None
            and part.count >= _MANY_EVENTS
            and is_many
            and self._building is None
            and self._disk is DISK
        ):
            part.take_over(columns)
            self._to_build = part
        self._unindexed.append(part)

    def leave_to_others_locked(self, known: ActivePart) -> None:
        """Answer look-ups in the segment that another writer has sealed from memory, until it has files.

        Else each of many writers would build these files, and its append would wait for it.
        """
        log, segment = self._log, known.segment
        at = bisect_left(log.sealed, known.first_position, key=lambda part: part.first_position)
        if at == len(log.sealed) or (part := log.sealed[at]).info.tag != segment.tag:
            return  # a compaction has replaced it
        try:
            with log.mutex:
                segment.refresh(0)  # others may have appended to it before it was sealed
        except EvlogError:
            return  # a look-up meets the same error, if it needs the segment
        if (segment.count, segment.index_crc) == (part.count, part.info.offsets_crc):
            if self._left is not None:
                self._left[0].close()  # its memory is freed
            part.take_over(known.index)
            self._left = part, time.monotonic() + _PATIENCE_SECONDS

    def build(self) -> None:
        """Build the indexes of sealed segments that lack them, and extend the filter, after an append.

        Segments that this writer did not seal are left alone while another process is expected to do it.
        """
        self._appends += 1
        building = self._building
        if building is not None:
            part, call = building
            if not (call.is_done() or self._unindexed):
                return
            call.end(0.0)  # one that is slower than a segment is filled may be suspended
            self._building = None
            if part is not None:
                part.close()  # from now on it uses the files
                self._unindexed.append(part)  # nothing is left to do, unless the helper failed
            else:
                self._log.filter.note_extended()
        filter = self._log.filter
        if not (self._unindexed or self._log.faulty or filter.is_due or self._left):
            return
        extend = filter.is_due or bool(self._unindexed)
        for parts in (self._unindexed, self._log.faulty):
            if parts is self._log.faulty and self._are_left_to_others():
                return
            for _ in range(len(parts)):  # each once: a file that cannot be used is reported again at once
                try:
                    part = parts.pop(0)
                except IndexError:  # another thread took it
                    break
                if part is self._to_build and self._builds_beside(part):
                    return
                if not build_indexes(part, self._disk):
                    self._index_moved(part)
        if extend:
            # A writer of few appends may end sooner than a helper starts.
            is_long = filter.uncovered_events() >= _MANY_EVENTS and self._appends > _FEW_APPENDS
            extend_filter(
                self._log, self._disk, self._extends_beside if is_long and self._disk is DISK else None
            )

    def end(self) -> None:
        """Wait for the helper, if there is one: after that nothing of this process writes to the store."""
        building = self._building
        if building is not None:
            building[1].end(_PATIENCE_SECONDS)

    def _builds_beside(self, part: SealedPart) -> bool:
        """Return whether a helper process builds the segment's derived files."""
        from evlog.files.disk.processes import CallBeside  # imported late: few processes fill a large segment

        self._to_build = None
        call = CallBeside.maybe_start(build_beside, self._log.store, part.info.tag)
        if call is None:
            part.close()
            return False
        self._building = part, call
        return True

    def _extends_beside(self, descriptor: int) -> bool:
        """Return whether a helper process extends the filter, whose descriptor it inherits."""
        from evlog.files.disk.processes import CallBeside

        call = CallBeside.maybe_start(extend_beside, self._log.store, descriptor, keep=(descriptor,))
        self._building = (None, call) if call is not None else None
        return call is not None

    def _are_left_to_others(self) -> bool:
        """Return whether to leave segments alone that this writer did not seal.

        The writer that has just sealed one builds its files. A compaction may be about to replace segments.
        """
        left = self._left
        if left is not None:
            part, until = left
            if time.monotonic() < until and not part.index.is_built():
                return True
            self._left = None
            if part not in self._log.faulty:
                self._log.faulty.append(part)  # nothing is left to do, unless that writer died
            for each in self._log.faulty:
                each.close()  # from now on it uses the files that are there
        return self._compaction.is_held()

    def _index_moved(self, part: SealedPart) -> None:
        """Build the indexes of a segment that was compressed meanwhile: its other files are the same."""
        self._log.look()
        for present in self._log.sealed:
            if present.info.tag == part.info.tag:
                build_indexes(present, self._disk)


def build_beside(store: str, tag: int) -> None:
    """Build the derived files of the segment with the tag, which was sealed just now."""
    try:
        log = Log(store)
        for part in log.sealed[-_FEW:]:
            if part.info.tag == tag and build_indexes(part, DISK):
                extend_filter(log, DISK)
    except EvlogError:
        pass  # the store may have been removed


def extend_beside(store: str, descriptor: int) -> None:
    """Add all sealed segments to the filter, which is open, and locked until this process ends."""
    try:
        log = Log(store)
        complete_filter_locked(log, WriteFile(descriptor, log.filter.path), DISK)
    except (EvlogError, SegmentMoved):
        pass  # a compaction has begun, or the store was removed
