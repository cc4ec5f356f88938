"""The one module that writes. Each method says what it promises when it returns, and what it does not.

`Disk` is a class so that a test can stand in its place, forget what was not synced, and fail on demand.
Every failure leaves here as an evlog error with the path: no room, no permission, or a failing disk.
Reading files needs no door: `ReadFile` and `map_file` are here only to keep system calls in one place.

What no method can promise: that the device itself keeps what it said it had written.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
from collections.abc import Iterable
from typing import Final

from evlog.errors import EvlogError, StoreAccessDenied, StoreFull, StoreIOError, StoreNotFound

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_ACCESS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR})


def error_for(error: OSError, path: str) -> EvlogError:
    """The evlog error that an operating system's error at the path means."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _NO_ROOM:
        return StoreFull(path, reason)
    if error.errno in _NO_ACCESS:
        return StoreAccessDenied(path, reason)
    if error.errno in _GONE:
        return StoreNotFound(path)
    return StoreIOError(path, reason)


class WriteFile:
    """A file that is open for writing; closed when nothing refers to it any more, or by `Disk.close`.

    So that a thread may still sync a file that another has left behind.
    """

    __slots__ = ("fd", "path")

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class Disk:
    """Writing to the real file system. Nothing here buffers, retries or hides an error."""

    def make_dir(self, path: str) -> None:
        """Make a directory and those above it; durable only after `sync_dir` of the one above."""
        try:
            os.makedirs(path, exist_ok=True)
        except OSError as error:
            raise error_for(error, path) from error

    def open(self, path: str, *, create: bool = False, truncate: bool = False) -> WriteFile:
        """Open a file for writing; a new name is durable only after `sync_dir` of its directory."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0) | (os.O_TRUNC if truncate else 0)
        try:
            return WriteFile(os.open(path, flags, 0o666), path)
        except OSError as error:
            raise error_for(error, path) from error

    def close(self, file: WriteFile) -> None:
        """Close the file now, which frees a lock on it; this makes nothing durable."""
        fd, file.fd = file.fd, -1
        if fd >= 0:
            os.close(fd)

    def write_at(self, file: WriteFile, data: bytes, offset: int) -> None:
        """Write all of the data at the offset. Durable only after a sync; a crash may keep any part of it.

        Raises:
            StoreFull, StoreIOError: some prefix of it may stand in the file.
        """
        try:
            done = os.pwrite(file.fd, data, offset)
            while done < len(data):  # a short write: the next one says why
                more = os.pwrite(file.fd, memoryview(data)[done:], offset + done)
                if more == 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                done += more
        except OSError as error:
            raise error_for(error, file.path) from error

    def cut(self, file: WriteFile, length: int) -> None:
        """Cut the file to the length in bytes; durable only after a sync."""
        try:
            os.ftruncate(file.fd, length)
        except OSError as error:
            raise error_for(error, file.path) from error

    def sync(self, file: WriteFile) -> None:
        """Return when the file's data and length are on the device (fdatasync; F_FULLFSYNC on macOS).

        Raises:
            StoreIOError: nothing is known of what reached the device, and asking again proves nothing:
                the kernel may have dropped what it could not write.
        """
        try:
            _sync_data(file.fd)
        except OSError as error:  # whatever the reason, no room among them: what was written may be gone
            raise StoreIOError(file.path, os.strerror(error.errno or 0)) from error

    def sync_seen(self, file: ReadFile) -> None:
        """Return when what readers see of a file that others write is on the device.

        Raises:
            StoreIOError: as `sync`; also for a failure that the writer met since the file was opened.
        """
        try:
            _sync_data(file.fd)
        except OSError as error:
            raise StoreIOError(file.path, os.strerror(error.errno or 0)) from error

    def sync_dir(self, path: str) -> None:
        """Return when the names in the directory (new, replaced, removed) are on the device."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise error_for(error, path) from error
        try:
            os.fsync(fd)
        except OSError as error:
            raise StoreIOError(path, os.strerror(error.errno or 0)) from error
        finally:
            os.close(fd)

    def replace(self, source: str, target: str) -> None:
        """Rename over the target in one step: every reader sees the old file or the new one, whole.

        Which of them a power loss leaves is open until `sync_dir`; the source must be synced before.
        """
        try:
            os.replace(source, target)
        except OSError as error:
            raise error_for(error, target) from error

    def remove(self, path: str) -> None:
        """Remove a name, if it is there; durable only after `sync_dir`."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise error_for(error, path) from error

    def create_file(self, path: str, content: bytes) -> None:
        """Make a file that holds exactly the content, synced; its name is not durable yet."""
        file = self.open(path, create=True, truncate=True)
        try:
            self.write_at(file, content, 0)
            self.sync(file)
        finally:
            self.close(file)

    def drop_cache(self, file: WriteFile) -> None:
        """Ask that later reads of the file come from the device, not from memory; a hint, no promise."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)


if sys.platform == "darwin":  # pragma: no cover - fsync there leaves the data in the drive's cache
    import fcntl

    def _sync_data(fd: int) -> None:
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)

else:
    _sync_data = os.fdatasync


DISK: Final = Disk()


def read_back(file: WriteFile, length: int, offset: int) -> bytes:
    """Up to so many bytes of a file that is open for writing; fewer only at its end."""
    try:
        return os.pread(file.fd, length, offset)
    except OSError as error:
        raise error_for(error, file.path) from error


def read_back_into(file: WriteFile, buffer: bytearray, offset: int) -> int:
    """Fill the buffer from a file that is open for writing; how many bytes there were for it."""
    try:
        return os.preadv(file.fd, [buffer], offset)
    except OSError as error:
        raise error_for(error, file.path) from error


def end_of(file: WriteFile) -> int:
    """The length in bytes of a file that is open for writing, now."""
    try:
        return os.lseek(file.fd, 0, os.SEEK_END)
    except OSError as error:
        raise error_for(error, file.path) from error


class ReadFile:
    """A file open for reading at offsets; closed when nothing refers to it any more.

    Raises:
        FileNotFoundError: it is not there, for the caller to judge.
    """

    __slots__ = ("fd", "path")

    def __init__(self, path: str) -> None:
        self.fd = -1
        self.path = path
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise error_for(error, path) from error

    def size(self) -> int:
        """The length in bytes, now."""
        return os.fstat(self.fd).st_size

    def read(self, length: int, offset: int) -> bytes:
        """Up to so many bytes at the offset; fewer only at the end of the file."""
        try:
            data = os.pread(self.fd, length, offset)
            while 0 < len(data) < length:
                more = os.pread(self.fd, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise error_for(error, self.path) from error
        return data

    def read_array(self, length: int, offset: int) -> bytearray:
        """The same as bytes that may grow."""
        data = bytearray(length)
        done = 0
        try:
            with memoryview(data) as view:
                while done < length and (more := os.preadv(self.fd, [view[done:]], offset + done)):
                    done += more
        except OSError as error:
            raise error_for(error, self.path) from error
        del data[done:]
        return data

    def read_many(self, places: Iterable[tuple[int, int, int]]) -> list[bytes]:
        """What stands at each (offset, length, …); one is short only at the end of the file."""
        pread, fd = os.pread, self.fd
        try:
            return [pread(fd, length, offset) for offset, length, _ in places]
        except OSError as error:
            raise error_for(error, self.path) from error

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


# From Python 3.13 on a map need not keep its file's descriptor, of which a process has but a thousand.
MAPS_KEEP_DESCRIPTORS: Final = sys.version_info < (3, 13)
_MAP_OPTIONS: Final[dict[str, bool]] = {} if MAPS_KEEP_DESCRIPTORS else {"trackfd": False}


def map_file(path: str) -> memoryview:
    """Map a file that never changes, to be read like bytes. An empty file maps to nothing.

    Raises:
        FileNotFoundError: it is not there, for the caller to judge.
    """
    file = ReadFile(path)
    if file.size() == 0:
        return memoryview(b"")
    try:
        return memoryview(mmap.mmap(file.fd, 0, prot=mmap.PROT_READ, **_MAP_OPTIONS))
    except OSError as error:
        raise error_for(error, path) from error
