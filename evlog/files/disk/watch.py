"""Wait until something may have changed in a directory: woken by the operating system, or by polling.

1. On Linux inotify ends the wait. A tick once a second covers what is never notified.
2. Where notifications are not reliable (another platform, a network or overlay file system, no watch left for
   this user), each wait ends by itself after a few milliseconds; later waits are longer.
3. The end of a wait means "look again", never what changed: a notification may be late, early, lost or about
   something else.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Final

from evlog.process.forks import register_fork_reset

# File systems that notify of each change. On others (nfs, cifs, 9p, fuse, overlay, unknown ones) another
# machine or a lower layer may change a file without the kernel's knowledge.
NOTIFYING_FILE_SYSTEMS: Final = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "ramfs", "f2fs", "bcachefs", "jfs", "nilfs2"}
)
TICK_SECONDS: Final = 1.0
FIRST_POLL_SECONDS: Final = 0.002
LAST_POLL_SECONDS: Final = 0.05
_POLL_GROWTH: Final = 1.25

_IN_MODIFY, _IN_MOVED_TO, _IN_CREATE, _IN_DELETE_SELF, _IN_MOVE_SELF = 0x2, 0x80, 0x100, 0x400, 0x800
_IN_UNMOUNT, _IN_IGNORED = 0x2000, 0x8000
_INTERESTING: Final = _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE_SELF | _IN_MOVE_SELF
_READ_BYTES: Final = 1 << 14
_NOTICE: Final = Struct("@4xI4xI")  # the mask, and the length of the name that follows: inotify(7)
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


class Watch:
    """A directory that is watched from the first `wait` or `begin` on.

    Args:
        directory: an existing one; changes of its own files are noticed, not those of its subdirectories.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._inotify: int | None = None  # the descriptor
        self._poll: select.poll | None = None
        self._pause_seconds = FIRST_POLL_SECONDS
        self.polling = True  # whether notification cannot be relied on; known once `begin` has run
        self._begun = False
        self._wake_mutex = threading.RLock()  # guards `_wake_fd`; a signal handler may interrupt its holder
        self._wake_fd: int | None = None
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Begin again in a forked child: notifications that it took would be missed by the parent."""
        self._wake_mutex = threading.RLock()
        self.close()
        self._begun = False

    def begin(self) -> None:
        """Watch from now on: a caller that looks after this and then waits misses nothing."""
        if self._begun:
            return
        self._begun = True
        self._inotify = _maybe_watch(self.directory)
        if self._inotify is not None:
            with contextlib.suppress(OSError):  # no descriptor left: `wake` is noticed at the next tick
                self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._poll = select.poll()
            if self._wake_fd is not None:
                self._poll.register(self._wake_fd, select.POLLIN)
            self._poll.register(self._inotify, select.POLLIN)
            self.polling = maybe_file_system(self.directory) not in NOTIFYING_FILE_SYSTEMS

    def wait(self, timeout_seconds: float) -> None:
        """Return when something may have changed, after the timeout or a tick at the latest.

        A signal handler that raises ends the wait.
        """
        self.begin()
        if self.polling:
            timeout_seconds = min(timeout_seconds, self._pause_seconds)
            self._pause_seconds = min(self._pause_seconds * _POLL_GROWTH, LAST_POLL_SECONDS)
        if self._poll is None:
            time.sleep(max(0.0, timeout_seconds))
        else:
            for fd, _ in self._poll.poll(1000 * max(0.0, min(timeout_seconds, TICK_SECONDS))):
                if fd == self._wake_fd:
                    os.eventfd_read(fd)
                else:
                    self._take_notice(fd)

    def rest(self, seconds: float) -> None:
        """Return after the time, whatever changes meanwhile; sooner only after `wake`."""
        if self._wake_fd is None:
            time.sleep(seconds)
            return
        woken = select.poll()
        woken.register(self._wake_fd, select.POLLIN)
        woken.poll(1000 * seconds)  # it is read by the next wait

    def wake(self) -> None:
        """End the present or the next wait or rest; from any thread or signal handler.

        Where it polls without notifications, the wait ends by itself a moment later.
        """
        with self._wake_mutex:
            if self._wake_fd is not None:
                os.eventfd_write(self._wake_fd, 1)

    def has_news(self) -> None:
        """Report that something was found: where this polls, the next waits are short again."""
        self._pause_seconds = FIRST_POLL_SECONDS

    def close(self) -> None:
        """Close the descriptors; a later wait polls."""
        inotify, self._inotify, self._poll = self._inotify, None, None
        with self._wake_mutex:
            wake_fd, self._wake_fd = self._wake_fd, None
        for fd in (inotify, wake_fd):
            if fd is not None:
                os.close(fd)

    def __del__(self) -> None:
        if hasattr(self, "_wake_fd") and os is not None:  # None when the program is ending
            self.close()

    def _take_notice(self, inotify: int) -> None:
        """Read the notifications, so that they end no later wait; poll if there will be no more."""
        notices, at = os.read(inotify, _READ_BYTES), 0
        while at < len(notices):
            mask, name_bytes = _NOTICE.unpack_from(notices, at)
            at += _NOTICE.size + name_bytes
            if mask & (_IN_UNMOUNT | _IN_IGNORED):
                self.polling = True


def _maybe_watch(directory: str) -> int | None:
    """Return an inotify descriptor that watches the directory, or None where that is impossible."""
    try:
        # Of the libraries tried only this one costs under 20 ms, starts no thread and wakes within 0.1 ms.
        from inotify_simple import INotify

        # An INotify is a file: where the cyclic collector frees it before its owner closes it, Python warns.
        with INotify(nonblocking=True) as inotify:
            inotify.add_watch(directory, _INTERESTING)
            return os.dup(inotify.fileno())
    except (ImportError, AttributeError):  # not Linux
        return None
    except OSError:  # no instance, watch or descriptor left; or no directory, which the next look finds
        return None


def maybe_file_system(path: str, mounts: Callable[[], Iterator[tuple[str, str]]] | None = None) -> str | None:
    """Return the type of the file system that holds the path, None if it is unknown.

    Args:
        path: an existing one.
        mounts: yields mount points with their types, later ones over earlier ones; left out, the system's.
    """
    path = os.path.realpath(path)
    longest, found = -1, None
    for point, kind in (mounts or _mounts)():
        if len(point) >= longest and (path + "/").startswith(point.rstrip("/") + "/"):
            longest, found = len(point), kind
    return found


def _mounts() -> Iterator[tuple[str, str]]:
    """Yield the mount points and types in /proc/self/mountinfo, where it exists."""
    if sys.platform != "linux":
        return
    with (
        contextlib.suppress(OSError),
        open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines,
    ):
        for line in lines:
            before, _, after = line.partition(" - ")
            if after:
                yield _unescape(before.split(" ")[4]), after.split(" ")[0]


def _unescape(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)
