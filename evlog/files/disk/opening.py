"""Open the files of a store that may come from a stranger, and say what an operating system's error means.

1. No link in a store is followed: not in the place of a file, and not in the place of a directory.
2. Only regular files are opened. A FIFO or a device is refused at once.
3. A failure that is not the device's has its own error: a limit, a missing permission, a file system without
   locks.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from evlog.errors import (
    NotAStore,
    StoreAccessDenied,
    StoreFull,
    StoreIOError,
    StoreNotFound,
    SystemCallFailed,
    UnsafeFile,
)
from evlog.files.format import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from evlog.errors import EvlogError

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_ACCESS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_MISSING: Final = frozenset({errno.ENOENT, errno.ENOTDIR})
# What the system refuses without any fault of the device.
_ADVICE: Final = {
    errno.EMFILE: "close some files, or raise the limit with `ulimit -n`",
    errno.ENFILE: "close some files, or raise the system's limit",
    errno.ENOMEM: "free some memory, or raise the limit",
    errno.ENOLCK: "use a file system that supports locks, or start its lock service",
    errno.EOPNOTSUPP: "use a file system that supports this",
    errno.EBADF: "keep other code from closing evlog's descriptors; or use a file system that supports locks",
    errno.EINVAL: "use a file system that supports this",
    errno.ENAMETOOLONG: "use a shorter path",
}
# What `open` says of links, sockets and directories.
_NO_FILE: Final = {
    errno.ELOOP: "it is a symbolic link, or behind one",
    errno.EMLINK: "it is a symbolic link",
    errno.ENXIO: "it is a FIFO, a socket or a device",
    errno.ENODEV: "it is a device",
    errno.EISDIR: "it is a directory",
}
_KINDS: Final = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a directory",
}
# The directories that evlog makes inside a store. The store itself may be behind a link: its user named it.
OWN_DIRECTORIES: Final = tuple(f"/{name}" for name in (paths.SEGMENTS, paths.SUBSCRIPTIONS, paths.SNAPSHOTS))
_OWN_FILES: Final = (paths.MANIFEST, paths.LOCK, paths.DURABLE, paths.COMPACTION, paths.QUEUE)
_SAFE: Final = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


# Directories that are known not to be links, with the time until which that is assumed: a check costs 5 µs,
# and one look-up can open many files.
_checked: dict[str, float] = {}
_CHECKED_SECONDS: Final = 0.05
_MAX_CHECKED: Final = 100


def error_for(error: OSError, path: str) -> EvlogError:
    """Return the evlog error that an operating system's error at the path means."""
    number = error.errno or 0
    reason = os.strerror(number) if number else str(error)
    if number in NO_ROOM:
        return StoreFull(path, reason)
    if number in _NO_ACCESS:
        return StoreAccessDenied(path, reason, creating=_is_missing(path))
    if number == errno.ENOTDIR and os.path.isfile(_store_of(path)):
        return NotAStore(_store_of(path), "it is a file")
    if number in _MISSING:
        return StoreNotFound(_store_of(path), was_open=number == errno.ENOENT)
    if number == errno.ELOOP and _is_circular(_store_of(path)):
        return NotAStore(_store_of(path), "the symbolic links in its path never end")
    if number in _NO_FILE:
        return UnsafeFile(path, _NO_FILE[number])
    if number in _ADVICE:
        return SystemCallFailed(path, reason, _ADVICE[number])
    return StoreIOError(path, reason)


def _is_missing(path: str) -> bool:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except OSError:
        pass  # it may be there: only an open says more
    return False


def _is_circular(path: str) -> bool:
    """Return whether following the links of a path never ends; then none of them is in a store."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _store_of(path: str) -> str:
    """Return the store that a file or directory of this path would be in, or the path."""
    above, name = os.path.split(path)
    if above.endswith(OWN_DIRECTORIES):
        return os.path.dirname(above)
    name = name.removesuffix(paths.TEMPORARY)
    return above if f"/{name}" in OWN_DIRECTORIES or name in _OWN_FILES else path


def open_file(path: str, flags: int, mode: int = 0) -> tuple[int, os.stat_result]:
    """Open a regular file that no link leads to; return the descriptor and what fstat says of it.

    Raises:
        FileNotFoundError, FileExistsError: for the caller to judge.
        UnsafeFile: it is something else, or in a directory of the store that is a link.
    """
    check_directory(path)
    fd = -1
    try:
        fd = os.open(path, flags | _SAFE, mode)
        status = os.fstat(fd)
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        raise error_for(error, path) from error
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise UnsafeFile(path, f"it is {_KINDS.get(stat.S_IFMT(status.st_mode), 'not a regular file')}")
    return fd, status


def check_directory(path: str) -> None:
    """Raise UnsafeFile if the path is in a directory of the store that is a link, or not a directory."""
    directory = path.rpartition("/")[0]
    now = time.monotonic()
    if _checked.get(directory, 0.0) > now or not directory.endswith(OWN_DIRECTORIES):
        return
    try:
        kind = stat.S_IFMT(os.lstat(directory).st_mode)
    except OSError:
        return  # what follows says what is wrong
    if kind == stat.S_IFDIR:
        if len(_checked) > _MAX_CHECKED:
            _checked.clear()
        _checked[directory] = now + _CHECKED_SECONDS
        return
    above = os.path.dirname(directory)
    is_store = os.path.lexists(f"{directory}/manifest.json") and not os.path.lexists(f"{above}/manifest.json")
    if kind == stat.S_IFLNK and is_store:
        return  # the store itself is behind a link of this name
    raise UnsafeFile(directory, f"it is {_KINDS.get(kind, 'a regular file')}")
