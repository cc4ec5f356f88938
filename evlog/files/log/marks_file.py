"""Writing a mark into `durable` without keeping the file open; format/marks.py says what the marks mean."""

from __future__ import annotations

from evlog.errors import StoreNotFound
from evlog.files.format import paths
from evlog.files.format.marks import MARK_AT, NO_MARK, encode_mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from evlog.files.disk.files import Disk
    from evlog.files.format.marks import Mark


def leave_mark(store: str, magic: bytes, mark: Mark | None, disk: Disk) -> None:
    """Write a mark, or remove it, if the store has the file; never synced."""
    try:
        file = disk.open(paths.durable_path(store))
    except StoreNotFound:
        return  # nothing was appended yet
    try:
        disk.write_at(file, NO_MARK if mark is None else encode_mark(magic, mark), MARK_AT[magic])
    finally:
        disk.close(file)
