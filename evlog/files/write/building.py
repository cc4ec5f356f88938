"""Building the derived files of a sealed segment in a helper process, while its writer appends.

1. Building takes a third of a second for 262,144 events. Without a helper the append that begins the next
   segment waits for it.
2. Until the helper has ended, the writer's process answers from the columns of the segment that it has in
   memory. Another writer that needs the files sooner builds them, too.
3. Nothing depends on the helper: the writer builds what is missing when the helper has ended.
4. After a compaction of many events the filter is extended in a helper, too. Of many writers one starts it:
   the helper inherits the lock on the filter from that writer.
"""

from __future__ import annotations

from evlog.errors import EvlogError
from evlog.files.disk.files import DISK, WriteFile
from evlog.files.log.log import Log
from evlog.files.log.parts import SegmentMoved
from evlog.files.write.derived import build_indexes
from evlog.files.write.filter_file import complete_filter_locked, extend_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_FEW: Final = 8  # segments that may have been sealed since


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
