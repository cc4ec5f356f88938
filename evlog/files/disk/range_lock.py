"""Locks on single bytes of a file, which end with the open file that holds them: Linux's OFD locks.

The plain record locks of POSIX are not used: they belong to the whole process, and end when it closes the
file anywhere. Where there are no OFD locks (`AVAILABLE` is false) nothing in this module may be used. The
locked bytes need not exist.
"""

from __future__ import annotations

import sys
from struct import Struct

try:
    import fcntl
except ImportError:  # pragma: no cover - no POSIX
    fcntl = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# The layout below is that of 64-bit Linux, the only system on which this was tested.
AVAILABLE: Final = sys.platform == "linux" and sys.maxsize > 1 << 32 and hasattr(fcntl, "F_OFD_SETLK")

# struct flock: type, whence (from the file's beginning), start, length, pid (0, as OFD locks want it)
_FLOCK: Final = Struct("hhqqi4x")
_UNLOCKED: Final = b"" if fcntl is None else fcntl.F_UNLCK.to_bytes(2, sys.byteorder)


class NoByteLocks(Exception):
    """The kernel or the file system refuses; gVisor, for example, does not know these locks."""


class ByteLock:
    """A lock on the byte at an offset, or on some from there on, held by the open file of this descriptor."""

    __slots__ = ("_at", "_count", "_fd")

    def __init__(self, fd: int, at: int, count: int = 1) -> None:
        self._fd = fd
        self._at = at
        self._count = count

    def try_acquire(self) -> bool:
        """Take the lock if it is free now; return whether that succeeded."""
        try:
            self._do(fcntl.F_OFD_SETLK, fcntl.F_WRLCK)
        except (BlockingIOError, PermissionError):  # POSIX allows both, EAGAIN and EACCES
            return False
        return True

    def wait(self) -> None:
        """Wait until no other file holds the lock. All waiters return at once, and none of them holds it."""
        try:
            self._do(fcntl.F_OFD_SETLKW, fcntl.F_RDLCK)
        finally:  # an interrupt may come when it is just had
            self._do(fcntl.F_OFD_SETLK, fcntl.F_UNLCK)

    def release(self) -> None:
        """Give the lock back."""
        self._do(fcntl.F_OFD_SETLK, fcntl.F_UNLCK)

    def is_taken(self) -> bool:
        """Return whether another open file holds it."""
        return not self._do(fcntl.F_OFD_GETLK, fcntl.F_WRLCK).startswith(_UNLOCKED)

    def _do(self, command: int, kind: int) -> bytes:
        try:
            return fcntl.fcntl(self._fd, command, _FLOCK.pack(kind, 0, self._at, self._count, 0))
        except OSError as error:
            # A subclass of OSError: the lock is taken, or a signal handler has raised (TimeoutError).
            if type(error) is OSError and error.errno is not None:
                raise NoByteLocks(str(error)) from error
            raise
