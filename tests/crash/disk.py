"""The test disk: it does every operation for real, records it, and fails, forgets or dies where a test says.

A `World` is one machine: a directory and the record of all operations on it. A `RecordingDisk` is what one
process writes with; a world may have several. `kill_at` ends such a process before its n-th operation, and
the others continue; what it wrote stays, because the page cache outlives processes. `fail_sync` fails the
process's n-th sync and, as Linux does, reports that to every open file. Reads use the real files directly.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable

from evlog.errors import StoreIOError
from evlog.files.disk.files import Disk, ReadFile, WriteFile
from tests.crash.model import DIRECTORY, Cut, FileSystem, Op, Write


class Killed(BaseException):
    """The process was killed: no handler of the code under test may take this for an error."""


class World:
    """A directory, and the operations done to it, in order.

    Args:
        root: an existing directory.
        system: what is in it, and what of that is durable; None: it is empty.
    """

    def __init__(self, root: str, system: FileSystem | None = None) -> None:
        self.root = root
        self.start = FileSystem() if system is None else system.copy()
        self.now = self.start.copy()
        self.ops: list[Op] = []
        self.mutex = threading.RLock()
        self.tells_all = True  # a failed sync is reported to every open file, as by Linux
        self.errors: dict[int, int] = {}  # failed syncs, by inode
        self.seen: dict[int, int] = {}  # how many of them were reported to an open file, by descriptor
        self._numbers = itertools.count(1 + max(self.start.inodes, default=0))
        self._inodes: dict[int, int] = {}  # real inode -> ours
        for path, directory in self.start.directories.items():
            for name, inode in directory.names().items():
                if inode != DIRECTORY:
                    self._inodes[os.stat(self.real(f"{path}/{name}")).st_ino] = inode

    def real(self, path: str) -> str:
        return f"{self.root}/{path.lstrip('/')}"

    def relative(self, path: str) -> str:
        return os.path.relpath(path, self.root)

    def record(self, op: Op) -> None:
        with self.mutex:
            self.ops.append(op)
            self.now.apply(op)

    def note(self, what: str, batch: int) -> None:
        """Record between the operations what a client knows: a batch was "sent", or "acked"."""
        self.record(Op("note", what, token=batch))

    def inode(self, fd: int) -> int:
        return self._inodes[os.fstat(fd).st_ino]

    def new_inode(self, fd: int) -> int:
        number = self._inodes[os.fstat(fd).st_ino] = next(self._numbers)
        return number


class RecordingDisk(Disk):
    """The disk of one process in a world.

    Args:
        kill_at: die before this operation, counted from 1.
        torn: if that operation is a write, this many of its bytes are written first.
        fail_sync: the number of the sync that fails, counted from 1.
    """

    def __init__(
        self, world: World, *, kill_at: int | None = None, torn: int = 0, fail_sync: int | None = None
    ) -> None:
        self.world = world
        self.kill_at = kill_at
        self.torn = torn
        self.fail_sync = fail_sync
        self.steps = 0
        self.syncs = 0
        self.during_sync: Callable[[], None] | None = None

    def make_dir(self, path: str, *, like: str | None = None) -> None:
        missing = []
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for directory in reversed(missing):
            with self.world.mutex:
                self._step()
                os.mkdir(directory)
                self.world.record(Op("mkdir", self.world.relative(directory)))

    def open(
        self, path: str, *, create: bool = False, truncate: bool = False, readable: bool = True
    ) -> WriteFile:
        with self.world.mutex:
            new = create and not os.path.exists(path)
            if new or truncate:
                self._step()
            file = super().open(path, create=create, truncate=truncate, readable=readable)
            if new:
                self.world.record(Op("create", self.world.relative(path), self.world.new_inode(file.fd)))
            elif truncate:
                self.world.record(Op("cut", inode=self.world.inode(file.fd), change=Cut(0)))
            self.world.seen[file.fd] = self.world.errors.get(self.world.inode(file.fd), 0)
            return file

    def write_at(self, file: WriteFile, data: bytes, offset: int) -> None:
        with self.world.mutex:
            inode = self.world.inode(file.fd)
            try:
                self._step()
            except Killed:
                part = bytes(data[: self.torn])
                if part and self.steps == self.kill_at:
                    super().write_at(file, part, offset)
                    self.world.record(Op("write", inode=inode, change=Write(offset, part)))
                raise
            super().write_at(file, data, offset)
            self.world.record(Op("write", inode=inode, change=Write(offset, bytes(data))))

    def cut(self, file: WriteFile, length: int) -> None:
        with self.world.mutex:
            self._step()
            super().cut(file, length)
            self.world.record(Op("cut", inode=self.world.inode(file.fd), change=Cut(length)))

    def sync(self, file: WriteFile) -> None:
        with self.world.mutex:
            self._step()
            self.syncs += 1
            inode = self.world.inode(file.fd)
            token = len(self.world.ops)
            self.world.record(Op("sync_begin", inode=inode, token=token))
        if self.during_sync is not None:
            self.during_sync()
        with self.world.mutex:
            failed = self.syncs == self.fail_sync
            self.world.record(Op("sync_failed" if failed else "sync_end", inode=inode, token=token))
            self.world.errors[inode] = self.world.errors.get(inode, 0) + failed
            told = self.world.seen[file.fd] == self.world.errors[inode]
            self.world.seen[file.fd] = self.world.errors[inode]
            if failed or (self.world.tells_all and not told):
                raise StoreIOError(file.path, "Input/output error")

    def sync_dir(self, path: str) -> None:
        with self.world.mutex:
            self._step()
            relative = self.world.relative(path)
            if not relative.startswith(".."):
                self.world.record(Op("sync_dir", "" if relative == "." else relative))

    def replace(self, source: str, target: str) -> None:
        with self.world.mutex:
            self._step()
            super().replace(source, target)
            relative = self.world.relative
            self.world.record(Op("rename", relative(source), target=relative(target)))

    def remove(self, path: str) -> None:
        with self.world.mutex:
            self._step()
            if os.path.exists(path):
                super().remove(path)
                self.world.record(Op("remove", self.world.relative(path)))

    def sync_seen(self, file: ReadFile) -> None:
        with self.world.mutex:
            inode = self.world.inode(file.fd)
            token = len(self.world.ops)
            self.world.record(Op("sync_begin", inode=inode, token=token))
            self.world.record(Op("sync_end", inode=inode, token=token))

    def drop_cache(self, file: WriteFile | ReadFile, offset: int = 0) -> None:
        with self.world.mutex:
            inode = self.world.inode(file.fd)
            if self.world.now.inodes[inode].is_dirty:
                return  # a page can be as large as the file: then memory keeps it, with what was lost
            self.world.record(Op("drop_cache", inode=inode))
            content = self.world.now.inodes[inode].content()
            with open(file.path, "r+b") as shown:
                shown.truncate(len(content))
                shown.write(content)

    def _step(self) -> None:
        self.steps += 1
        if self.kill_at is not None and self.steps >= self.kill_at:
            raise Killed
