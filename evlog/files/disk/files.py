"""Files: writing them, which no other module does, and reading them at offsets.

Each method that writes says what it promises when it returns, and what it does not.

1. Every failure becomes an evlog error with the path: no space, no permission, a limit, a failing disk.
2. A store may come from a stranger (see opening.py). A file with other names (hard links) may belong to
   another user: it is read, but never written. Replacing and removing act on names, not on targets of links.
3. A new file takes owner, group and mode from its directory, so that every user that may write
   to the directory can use the store, whatever user and umask made the file.
4. `Disk` is a class so that a test can take its place, forget what was not synced, and fail on demand.

What no method can promise: that the device itself keeps what it said it had written; and that a mapped file
stays readable: a device error under a map ends the process with SIGBUS, it never gives wrong bytes.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys

from evlog.errors import CorruptionError, EvlogError, StoreAccessDenied, StoreIOError, UnsafeFile
from evlog.files.disk.opening import NO_ROOM, OWN_DIRECTORIES, check_directory, error_for, open_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Final

_NO_DIRECTORY_SYNC: Final = frozenset({errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP, errno.ENOTSUP})
STEP_BYTES: Final = 8 << 20  # of a large file: written, and then on its way to the device
# Linux keeps a file in memory in pieces of one or many pages, each aligned to its size, and drops no piece
# that begins before what is to be dropped. The largest is what a table of entries of 8 bytes that fills a
# page maps: 2 MiB with pages of 4 KiB.
_LARGEST_PIECE_BYTES: Final = mmap.PAGESIZE**2 // 8
_UNCHECKED_READ_BYTES: Final = 1 << 20  # a longer read looks at the file's size first
_HOLE_BYTES: Final = 1 << 27  # a file that is so much longer than its blocks has a hole at its end
_MAX_EXTENTS: Final = 10_000  # of data, in a file with holes
# From Python 3.13 on a map need not keep its file's descriptor, of which a process has few.
MAPS_KEEP_DESCRIPTORS: Final = sys.version_info < (3, 13)
_MAP_OPTIONS: Final[dict[str, bool]] = {} if MAPS_KEEP_DESCRIPTORS else {"trackfd": False}

# --- writing


class WriteFile:
    """A file that is open for writing; closed when nothing refers to it any more, or by `Disk.close`.

    So a thread can still sync a file that another thread has left.
    """

    __slots__ = ("fd", "path")

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0 and os is not None:  # None when the program is ending
            os.close(self.fd)


class WriteBack:
    """Writes a growing file to the device in steps, so that little is left for the sync at its end.

    Otherwise that sync writes the whole file at once, and a process that syncs an append meanwhile waits for
    it: 160 to 270 ms beside an export of 500 MB, at most 25 ms with this. The file's writer does not wait for
    the device until the end. A copy has nothing else to do, and syncs each step.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._begun = os.fstat(fd).st_size  # what is there already is not asked for again

    def step(self, end: int) -> None:
        """Begin to write the file up to an offset, if that is a step. A hint: this promises nothing."""
        if end - self._begun >= STEP_BYTES:
            _begin_write_back(self._fd, self._begun, end - self._begun)
            self._begun = end


class Disk:
    """Writes to the real file system. Nothing here buffers, retries or hides an error."""

    def make_dir(self, path: str, *, like: str | None = None) -> None:
        """Make a directory and those above it; durable only after `sync_dir` of the one above.

        One of the store's own directories takes owner, group and mode from the store.

        Args:
            like: a directory that is copied; the new one gives group and others no permission that this one
                does not give. Its owner can write, since a copy of a read-only directory is written now.
        """
        if not path.endswith(OWN_DIRECTORIES):
            _make_dirs(path, 0o777 if like is None else os.stat(like).st_mode & 0o777 | 0o700)
            return
        try:
            above = os.stat(os.path.dirname(path))
            os.mkdir(path)
            take_over(path, os.lstat(path), above, above.st_mode & 0o7777)
        except FileExistsError:
            check_directory(f"{path}/")
        except OSError as error:
            raise error_for(error, path) from error

    def open(
        self, path: str, *, create: bool = False, truncate: bool = False, readable: bool = True
    ) -> WriteFile:
        """Open a file for writing; a new name is durable only after `sync_dir` of its directory.

        Args:
            readable: whether users that may only read the directory may read the new file.

        Raises:
            UnsafeFile: it is a link or no regular file, or it has other names outside of evlog's control.
        """
        if create:
            try:
                fd, status = open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                pass
            except FileNotFoundError as error:
                raise error_for(error, path) from error
            else:
                file = WriteFile(fd, path)
                directory = os.stat(os.path.dirname(path) or ".")
                mode = directory.st_mode & 0o666
                if not readable:  # the read bits only where the write bits are
                    mode = mode & 0o222 | (mode & 0o222) << 1
                take_over(fd, status, directory, mode | 0o600)
                return file
        try:
            fd, status = open_file(path, os.O_RDWR)
            file = WriteFile(fd, path)
            if status.st_nlink > 1:
                raise UnsafeFile(path, f"it has {status.st_nlink} names (hard links)")
            if truncate:
                os.ftruncate(fd, 0)
        except OSError as error:
            raise error_for(error, path) from error
        return file

    def close(self, file: WriteFile) -> None:
        """Close the file now, which frees a lock on it; this makes nothing durable."""
        fd, file.fd = file.fd, -1
        if fd >= 0:
            os.close(fd)

    def write_at(self, file: WriteFile, data: bytes, offset: int) -> None:
        """Write all of the data at the offset. Durable only after a sync; a crash may keep any part of it.

        Raises:
            StoreFull, StoreIOError: some prefix of it may be in the file.
        """
        try:
            done = os.pwrite(file.fd, data, offset)
            while done < len(data):  # a short write: the next one says why
                more = os.pwrite(file.fd, memoryview(data)[done:], offset + done)
                if more == 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                done += more
        except OSError as error:
            raise _write_error(error, file.path) from error

    def begin_write_back(self, file: WriteFile, offset: int, length: int) -> None:
        """Begin to write a part of the file to the device, for a sync that follows; a hint, no promise."""
        _begin_write_back(file.fd, offset, length)

    def cut(self, file: WriteFile, length: int) -> None:
        """Cut the file to the length in bytes; durable only after a sync."""
        try:
            os.ftruncate(file.fd, length)
        except OSError as error:
            raise _write_error(error, file.path) from error

    def sync(self, file: WriteFile) -> None:
        """Return when the file's data and length are on the device (fdatasync; F_FULLFSYNC on macOS).

        Raises:
            StoreIOError: it is unknown what reached the device, and asking again proves nothing: the kernel
                may have dropped what it could not write.
        """
        _sync(file)

    def sync_seen(self, file: ReadFile) -> None:
        """Return when what readers see of a file that others write is on the device.

        Raises:
            StoreIOError: as `sync`; also for a failure that the writer met since the file was opened.
        """
        _sync(file)

    def sync_dir(self, path: str) -> None:
        """Return when the names in the directory (new, replaced, removed) are on the device.

        Some file systems (CIFS, some of FUSE) cannot sync a directory. There the names are as durable as the
        file system makes them, as for PostgreSQL and SQLite.
        """
        check_directory(f"{path}/")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECTORY", 0))
        except OSError as error:
            raise error_for(error, path) from error
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in _NO_DIRECTORY_SYNC:
                raise StoreIOError(path, os.strerror(error.errno or 0)) from error
        finally:
            os.close(fd)

    def replace(self, source: str, target: str) -> None:
        """Rename over the target in one step: every reader sees the old file or the new one, whole.

        Until `sync_dir` a power loss may leave either of them; the source must be synced before.
        """
        check_directory(target)
        try:
            os.replace(source, target)
        except OSError as error:
            raise error_for(error, target) from error

    def remove(self, path: str) -> None:
        """Remove a name, if it is there; durable only after `sync_dir`."""
        check_directory(path)
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise error_for(error, path) from error

    def remove_all(self, directory: str, names: Sequence[str]) -> None:
        """Remove files of a directory, durably: they may hold what was redacted, and must not come back."""
        for name in names:
            self.remove(f"{directory}/{name}")
        if names:
            self.sync_dir(directory)

    def remove_tree(self, path: str) -> None:
        """Remove a directory with all that is in it, as far as the system lets it."""
        import shutil

        shutil.rmtree(path, ignore_errors=True)

    def create_file(self, path: str, content: bytes) -> None:
        """Make a file that holds exactly the content, synced; its name is not durable yet.

        Raises:
            StoreFull, StoreIOError: the file is removed, because the disk may be full.
        """
        file = self.open(path, create=True, truncate=True)
        try:
            self.write_at(file, content, 0)
            self.sync(file)
        except EvlogError:
            self._remove_failed(path)
            raise
        finally:
            self.close(file)

    def link(self, file: ReadFile, path: str) -> bool:
        """Give an open file another name; False where the file system does not, or has another file there."""
        try:
            os.link(file.path, path, follow_symlinks=False)
        except (OSError, NotImplementedError):
            return False
        if os.path.samestat(os.lstat(path), os.fstat(file.fd)):
            return True
        self.remove(path)
        return False

    def copy_file(self, source: ReadFile, path: str, length: int) -> None:
        """Make a file that holds the first bytes of another one, synced; its name is not durable yet.

        Where the file system can, both share the blocks on the device until one of them is changed.

        Raises:
            StoreFull, StoreIOError: the file is removed, because the disk may be full.
        """
        file = self.open(path, create=True, truncate=True)
        try:
            done = 0
            while done < length:
                count = _copy_range(source, file, min(STEP_BYTES, length - done), done)
                if not count:
                    piece = source.read(min(STEP_BYTES, length - done), done)
                    if not piece:
                        raise StoreIOError(source.path, f"it ends after {done} bytes instead of {length}")
                    self.write_at(file, piece, done)
                    count = len(piece)
                done += count
                if done < length:  # so that a process that syncs an append waits for one step, not for all
                    self.sync(file)
            self.sync(file)
        except EvlogError:
            self._remove_failed(path)
            raise
        finally:
            self.close(file)

    def _remove_failed(self, path: str) -> None:
        try:
            self.remove(path)
        except EvlogError:
            pass  # the first error says what is wrong

    def drop_cache(self, file: WriteFile | ReadFile, offset: int = 0) -> None:
        """Ask that later reads from the offset on come from the device, not from memory; a hint, no promise.

        Data that is not synced stays in memory, and so may what is near it.
        """
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fd, offset - offset % _LARGEST_PIECE_BYTES, 0, os.POSIX_FADV_DONTNEED)


DISK: Final = Disk()


def _make_dirs(path: str, mode: int) -> None:
    try:
        os.makedirs(path, mode, exist_ok=True)
    except (FileExistsError, FileNotFoundError) as error:
        # A file, or a link to nothing, is in the way; or a file system such as /proc makes no directories.
        raise StoreAccessDenied(path, "no directory can be made there", creating=True) from error
    except OSError as error:
        raise error_for(error, path) from error


def _copy_range(source: ReadFile, target: WriteFile, length: int, offset: int) -> int:
    """Copy within the kernel; return how many bytes were copied, 0 where it cannot."""
    if not hasattr(os, "copy_file_range"):
        return 0
    try:
        return os.copy_file_range(source.fd, target.fd, length, offset, offset)
    except OSError:
        return 0  # between file systems, say; an error of the device comes again


def _write_error(error: OSError, path: str) -> EvlogError:
    """Return the error of a failed write: after whatever is not a full disk, its outcome is unknown."""
    if error.errno in NO_ROOM:
        return error_for(error, path)
    return StoreIOError(path, os.strerror(error.errno or 0))


def _begin_write_back(fd: int, offset: int, length: int) -> None:
    # Linux begins to write what it is told to forget; pages that are not written yet stay in memory.
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)


def _sync(file: WriteFile | ReadFile) -> None:
    try:
        _sync_data(file.fd)
    except OSError as error:  # also for a full disk: what was written may be lost
        raise StoreIOError(file.path, os.strerror(error.errno or 0)) from error


if sys.platform == "darwin":  # pragma: no cover - fsync there leaves the data in the drive's cache
    import fcntl

    def _sync_data(fd: int) -> None:
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)

else:
    _sync_data = os.fdatasync


def take_over(target: int | str, made: os.stat_result, model: os.stat_result, mode: int) -> None:
    """Give a new file or directory a mode, and the owner and group of its model: its directory, say.

    What this user may not give stays as it is; the group gets no permission where it is another group.
    """
    if made.st_gid != model.st_gid:
        try:
            os.chown(target, -1, model.st_gid)
        except OSError:
            mode &= ~0o070
    if made.st_uid != model.st_uid and os.geteuid() == 0:
        try:
            os.chown(target, model.st_uid, -1)
        except OSError:
            pass  # a container's root, without that capability or in a user namespace
    if made.st_mode & 0o7777 != mode:
        try:
            os.chmod(target, mode)
        except OSError:
            pass  # the file system keeps no modes


def read_back(file: WriteFile, length: int, offset: int) -> bytes:
    """Read up to `length` bytes of a file that is open for writing; fewer only at its end."""
    try:
        return os.pread(file.fd, length, offset)
    except OSError as error:
        raise error_for(error, file.path) from error


def read_back_into(file: WriteFile, buffer: bytearray, offset: int) -> int:
    """Fill the buffer from a file that is open for writing; return how many bytes there were."""
    try:
        return os.preadv(file.fd, [buffer], offset)
    except OSError as error:
        raise error_for(error, file.path) from error


def end_of(file: WriteFile) -> int:
    """Return the length in bytes of a file that is open for writing, now."""
    try:
        return os.lseek(file.fd, 0, os.SEEK_END)
    except OSError as error:
        raise error_for(error, file.path) from error


# --- reading


class ReadFile:
    """A file open for reading at offsets; closed when nothing refers to it any more.

    Raises:
        FileNotFoundError: it is not there, for the caller to judge.
        UnsafeFile: it is a link or no regular file.
    """

    __slots__ = ("fd", "path")

    def __init__(self, path: str) -> None:
        self.fd = -1
        self.path = path
        self.fd, _ = open_file(path, os.O_RDONLY)

    def size(self) -> int:
        """Return the length in bytes, now. A huge hole at the end of a sparse file does not count."""
        status = os.fstat(self.fd)
        size = status.st_size
        return size if size <= status.st_blocks * 512 + _HOLE_BYTES else _data_end(self.fd, size)

    def read(self, length: int, offset: int) -> bytes:
        """Read up to `length` bytes at the offset; fewer only at the end of the file."""
        try:
            at_once = length if length <= _UNCHECKED_READ_BYTES else self._available(length, offset)
            data = os.pread(self.fd, at_once, offset)
            while 0 < len(data) < length:
                more = os.pread(self.fd, self._available(length - len(data), offset), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise error_for(error, self.path) from error
        return data

    def is_in_place(self) -> bool:
        """Return whether its path still names the file: not if it was removed, moved or replaced."""
        try:
            return os.path.samestat(os.fstat(self.fd), os.lstat(self.path))
        except OSError:
            return False

    def read_whole(self, limit_bytes: int) -> bytes:
        """Read the whole file.

        Raises:
            CorruptionError: it is larger than a sound file can be; nothing was read.
        """
        size = os.fstat(self.fd).st_size
        if size > limit_bytes:
            raise CorruptionError(self.path, None, f"it has {size} bytes, at most {limit_bytes} are possible")
        return self.read(size, 0)

    def read_array(self, length: int, offset: int) -> bytearray:
        """Read the same as bytes that may grow."""
        data = bytearray(self._available(length, offset))
        done = 0
        try:
            with memoryview(data) as view:
                while done < len(data) and (more := os.preadv(self.fd, [view[done:]], offset + done)):
                    done += more
        except OSError as error:
            raise error_for(error, self.path) from error
        del data[done:]
        return data

    def read_many(self, places: Iterable[tuple[int, int, int, int]]) -> list[bytes]:
        """Read what is at each (offset, length, …); a result is short only at the end of the file."""
        pread, fd = os.pread, self.fd
        try:
            return [pread(fd, length, offset) for offset, length, _, _ in places]
        except OSError as error:
            raise error_for(error, self.path) from error

    def _available(self, length: int, offset: int) -> int:
        """Return how much of a long read the file can give: its memory is allocated beforehand."""
        return length if length <= _UNCHECKED_READ_BYTES else max(0, min(length, self.size() - offset))

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0 and os is not None:  # None when the program is ending
            os.close(self.fd)


def _data_end(fd: int, size: int) -> int:
    """Return where the hole at the end of a sparse file begins, as far as the file system tells."""
    end = 0
    try:
        for _ in range(_MAX_EXTENTS):
            end = os.lseek(fd, os.lseek(fd, end, os.SEEK_DATA), os.SEEK_HOLE)
    except (OSError, AttributeError) as error:
        return end if getattr(error, "errno", None) == errno.ENXIO else size  # ENXIO: no data after `end`
    return size


def maybe_memory(length: int) -> mmap.mmap | None:
    """Return zeros, of which slices are bytes; only pages that are written to take memory.

    None where a limit on the address space (`ulimit -v`) or on what is promised leaves no room for them.
    """
    try:
        zeros = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        return None
    if hasattr(mmap, "MADV_HUGEPAGE"):  # a read of records in no order takes 5 to 15 % less
        try:
            zeros.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass  # a kernel without them
    return zeros


def map_file(path: str) -> memoryview:
    """Map a file that never changes, to be read like bytes. An empty file maps to nothing.

    Raises:
        FileNotFoundError: it is not there, for the caller to judge.
        UnsafeFile: it is a link or no regular file.
    """
    file = ReadFile(path)
    size = os.fstat(file.fd).st_size
    if size == 0:
        return memoryview(b"")
    try:
        return memoryview(mmap.mmap(file.fd, size, prot=mmap.PROT_READ, **_MAP_OPTIONS))
    except OSError as error:
        raise error_for(error, path) from error


# --- directories


def list_directory(path: str, *, may_be_missing: bool = False) -> list[str]:
    """Return the names in a directory of a store, sorted; none of a missing one that may be missing.

    Raises:
        UnsafeFile: it is a link, or not a directory.
        StoreNotFound, StoreAccessDenied, SystemCallFailed, StoreIOError: it cannot be read.
    """
    check_directory(f"{path}/")
    try:
        return sorted(os.listdir(path))
    except OSError as error:
        if may_be_missing and isinstance(error, FileNotFoundError):
            return []
        raise error_for(error, path) from error


def bytes_in(directory: str) -> int:
    """Return the bytes of all files in a directory."""
    total = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                total += entry.stat().st_size if entry.is_file() else 0
            except FileNotFoundError:
                pass  # a temporary file, removed or renamed meanwhile
    return total
