"""The active log, open for writing, and the zeros after its last frame.

A frame that lengthens the file is written with zeros after it. The frames after it are written over those:
their sync takes two thirds of the time of one that also has to store another length of the file.
"""

from __future__ import annotations

import os
import time

from evlog.errors import StoreFull
from evlog.files.disk.files import end_of, read_back
from evlog.files.format.frames import FRAME_HEADER_BYTES, preallocation_after

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from evlog.files.disk.files import Disk

_NAMED_SECONDS: Final = 0.001


class LogFile:
    """The active log of a store, for one writer at a time: the writers' lock guards it."""

    def __init__(self, path: str, disk: Disk) -> None:
        self.file = disk.open(path)
        self._disk = disk
        self._bytes = 0  # the length of the file, as of the last `is_in_place`
        self._named_until = 0.0  # until when the path needs no other look
        status = os.fstat(self.file.fd)
        self.identity = status.st_dev, status.st_ino

    def is_in_place(self) -> bool:
        """Return whether the path still names this file.

        A removed or replaced file has no name, which is seen each time. One that was moved has another name,
        which costs three times as much to see: every millisecond, which is less than most syncs take.
        """
        status = os.fstat(self.file.fd)
        now = time.monotonic()
        if now >= self._named_until or not status.st_nlink:
            try:
                status = os.stat(self.file.path)
            except OSError:
                return False
            self._named_until = now + _NAMED_SECONDS
        self._bytes = status.st_size
        return self.identity == (status.st_dev, status.st_ino)

    def ends_at(self, end: int) -> bool:
        """Return whether there are at most zeros after a frame's end, as of the last `is_in_place`.

        A writer that was killed before it left its mark may have left a frame there.
        """
        if self._bytes <= end:
            return self._bytes == end
        return not read_back(self.file, FRAME_HEADER_BYTES, end).strip(b"\0")

    def put(self, frame: bytes, offset: int, limit: int) -> None:
        """Write a frame; it is in the file as a whole, or not at all.

        Args:
            limit: zeros are written up to this length at most.

        Raises:
            StoreFull: there was no space, and the file ends at the offset.
            StoreIOError: part of the frame may be there.
        """
        end = offset + len(frame)
        if end > self._bytes and (zeros := preallocation_after(end, len(frame), limit)):
            try:
                self._disk.write_at(self.file, frame + bytes(zeros), offset)
                self._bytes = end + zeros
                return
            except StoreFull:
                pass  # there may be space for the frame without the zeros
        try:
            self._disk.write_at(self.file, frame, offset)
        except StoreFull:
            self._disk.cut(self.file, offset)  # so that no part of the frame is left
            self._bytes = offset
            raise
        self._bytes = max(self._bytes, end)

    def trim(self, end: int) -> None:
        """Cut the zeros off: a sealed log ends with its last frame."""
        if end_of(self.file) > end:
            self._disk.cut(self.file, end)
