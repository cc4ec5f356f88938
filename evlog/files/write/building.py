"""Building the derived files of a sealed segment in a helper process, while its writer appends.

1. They take a third of a second for 262,144 events. The append that began the next segment would wait for
   them, and so would its caller.
2. Meanwhile this process answers from the columns that it has in memory of the segment. Others build the
   files, too, if they need them before they are there.
3. Nothing depends on the helper: what it has not built when it ends, the writer builds.
"""

from __future__ import annotations

from evlog.errors import EvlogError
from evlog.files.disk.files import DISK
from evlog.files.log.log import Log
from evlog.files.write.derived import build_indexes
from evlog.files.write.filter_file import extend_filter

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
