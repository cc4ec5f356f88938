"""The model of a disk: for every file and directory, what is durable and what a power loss may take.

`FileSystem` replays recorded operations. A write, a cut or a new name is pending until a sync of that file or
directory; pending changes may survive in any subset. After a failed sync no later sync writes them: memory
shows them, and the device may not have them. Pure: it touches no real file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

DIRECTORY: Final = -1  # the inode number of every directory: its path identifies it


class Write(NamedTuple):
    offset: int
    data: bytes


class Cut(NamedTuple):
    """Cut the file to the length, or lengthen it with zeros."""

    length: int


Change = Write | Cut


class Link(NamedTuple):
    name: str
    inode: int


class Unlink(NamedTuple):
    name: str


class Rename(NamedTuple):
    source: str
    target: str
    inode: int


NameChange = Link | Unlink | Rename


class Op(NamedTuple):
    """One recorded operation; `inode` and `path` as far as the kind needs them."""

    kind: str  # mkdir create write cut sync_begin sync_end sync_failed drop_cache sync_dir rename remove note
    path: str = ""
    inode: int = DIRECTORY
    change: Change | None = None
    token: int = 0  # which sync; or, for a note, the batch it is about
    target: str = ""


def apply_changes(content: bytes, changes: Sequence[Change]) -> bytes:
    """Return the content after the changes."""
    buffer = bytearray(content)
    for change in changes:
        if isinstance(change, Cut):
            del buffer[change.length :]
            buffer.extend(bytes(change.length - len(buffer)))
        else:
            end = change.offset + len(change.data)
            buffer.extend(bytes(max(0, end - len(buffer))))
            buffer[change.offset : end] = change.data
    return bytes(buffer)


@dataclass
class Inode:
    """A file's content on the device, and the changes that are not known to be there, oldest first."""

    durable: bytes = b""
    pending: list[tuple[int, Change]] = field(default_factory=list)  # with their sequence numbers
    lost: set[int] = field(default_factory=set)  # those that a failed sync has marked as clean in memory

    def changes(self) -> list[Change]:
        return [change for _, change in self.pending]

    def content(self) -> bytes:
        return apply_changes(self.durable, self.changes())

    @property
    def is_dirty(self) -> bool:
        """Whether a later sync still writes something."""
        return any(number not in self.lost for number, _ in self.pending)

    def sync(self, last: int) -> None:
        """Note that all up to the sequence number is on the device, except what an earlier sync has lost."""
        done = [change for number, change in self.pending if number <= last and number not in self.lost]
        self.durable = apply_changes(self.durable, done)
        self.pending = [item for item in self.pending if item[0] > last]
        self.lost = {number for number in self.lost if number > last}

    def drop_cache(self, number: int) -> None:
        """Remove what was lost from memory, too; the length stays."""
        length = len(self.content())
        kept = [item for item in self.pending if item[0] not in self.lost]
        self.pending = [*kept, (number, Cut(length))] if self.lost else self.pending
        self.lost = set()


@dataclass
class Directory:
    """The names in a directory: those on the device, and changes that are not known to be there."""

    durable: dict[str, int] = field(default_factory=dict)
    pending: list[NameChange] = field(default_factory=list)

    def names(self) -> dict[str, int]:
        return apply_names(self.durable, self.pending)


def apply_names(names: dict[str, int], changes: list[NameChange]) -> dict[str, int]:
    """Return the names after the changes; each is atomic, and may be applied without those before it."""
    names = dict(names)
    for change in changes:
        if isinstance(change, Link):
            names[change.name] = change.inode
        elif isinstance(change, Unlink):
            names.pop(change.name, None)
        else:
            if names.get(change.source) == change.inode:
                del names[change.source]
            names[change.target] = change.inode
    return names


def split(path: str) -> tuple[str, str]:
    """Return the directory and the name; the directory of a top name is ""."""
    directory, _, name = path.rpartition("/")
    return directory, name


class FileSystem:
    """Files and directories below one root; the root's own name is durable."""

    def __init__(self) -> None:
        self.inodes: dict[int, Inode] = {}
        self.directories: dict[str, Directory] = {"": Directory()}
        self._sequence = 0
        self._syncs: dict[int, int] = {}

    @classmethod
    def of(cls, files: dict[str, bytes], directories: list[str]) -> FileSystem:
        """Return a file system on which all of this is durable."""
        system = cls()
        for path in sorted(directories):
            parent, name = split(path)
            system.directories[parent].durable[name] = DIRECTORY
            system.directories[path] = Directory()
        for number, (path, content) in enumerate(sorted(files.items())):
            parent, name = split(path)
            system.inodes[number] = Inode(content)
            system.directories[parent].durable[name] = number
        return system

    def copy(self) -> FileSystem:
        other = FileSystem()
        other.inodes = {
            number: Inode(inode.durable, list(inode.pending), set(inode.lost))
            for number, inode in self.inodes.items()
        }
        other.directories = {
            path: Directory(dict(directory.durable), list(directory.pending))
            for path, directory in self.directories.items()
        }
        other._sequence = self._sequence
        return other

    def lookup(self, path: str) -> int | None:
        """Return the inode that the path names now."""
        directory, name = split(path)
        return self.directories[directory].names().get(name) if directory in self.directories else None

    def apply(self, op: Op) -> None:
        """Replay one operation."""
        getattr(self, f"_{op.kind}")(op)

    def _mkdir(self, op: Op) -> None:
        directory, name = split(op.path)
        self.directories[directory].pending.append(Link(name, DIRECTORY))
        self.directories[op.path] = Directory()

    def _create(self, op: Op) -> None:
        directory, name = split(op.path)
        self.inodes[op.inode] = Inode()
        self.directories[directory].pending.append(Link(name, op.inode))

    def _write(self, op: Op) -> None:
        assert op.change is not None
        self.inodes[op.inode].pending.append((self._next(), op.change))

    _cut = _write

    def _sync_begin(self, op: Op) -> None:
        self._syncs[op.token] = self._sequence

    def _sync_end(self, op: Op) -> None:
        self.inodes[op.inode].sync(self._syncs.pop(op.token))

    def _sync_failed(self, op: Op) -> None:
        inode = self.inodes[op.inode]
        last = self._syncs.pop(op.token)
        inode.lost |= {number for number, _ in inode.pending if number <= last}

    def _drop_cache(self, op: Op) -> None:
        self.inodes[op.inode].drop_cache(self._next())

    def _sync_dir(self, op: Op) -> None:
        directory = self.directories[op.path]
        directory.durable, directory.pending = directory.names(), []

    def _rename(self, op: Op) -> None:
        directory, source = split(op.path)
        target_directory, target = split(op.target)
        assert directory == target_directory, "evlog renames within one directory only"
        names = self.directories[directory]
        names.pending.append(Rename(source, target, names.names()[source]))

    def _remove(self, op: Op) -> None:
        directory, name = split(op.path)
        self.directories[directory].pending.append(Unlink(name))

    def _note(self, op: Op) -> None:
        pass

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence
