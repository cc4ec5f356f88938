"""Changing a store's standing, in the manifest: a mirror, a store that has moved, or neither.

Before an append every writer compares the manifest with the one it knows, with the lock held. So an append is
before the change and acknowledged, or after it and refused.
"""

from __future__ import annotations

from evlog.files.write.roll import replace_manifest_locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from evlog.files.disk.files import Disk
    from evlog.files.format.manifest import Standing
    from evlog.files.log.log import Log
    from evlog.files.write.plan import Planner
    from evlog.files.write.tail import LogTail
    from evlog.files.write.writer import Writer


def change_standing(
    log: Log, writer: Writer, disk: Disk, before: Standing, after: Standing, head: int | None
) -> bool:
    """Replace the standing, durably, if it is `before` and the log ends at `head`; else return False."""

    def change(_tail: LogTail, _planner: Planner) -> bool:
        manifest = log.manifest
        if manifest.standing != before or head not in (None, log.head):
            return False
        if before != after:
            replace_manifest_locked(log, manifest._replace(standing=after), disk)
        return True

    return writer.exclusively(change)
