"""What a power loss may leave: the legal states of the bytes and names that were not synced.

Each file and directory has its *alternatives*: everything kept, everything lost, any subset of the changes
(also later ones without earlier ones), a write torn at a sector's edge or at another byte from either end,
sectors of the unsynced range zeroed or full of junk, lengthened with zeros. `crash_states` combines them: one
file varied while the others are kept, or lost, and random mixtures of all. What was synced stays.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from itertools import chain, combinations, product
from typing import Final, NamedTuple, TypeVar

from evlog.files.format.manifest import decode_manifest
from tests.crash.model import (
    DIRECTORY,
    Change,
    Cut,
    Directory,
    FileSystem,
    Write,
    apply_changes,
    apply_names,
)

SECTOR_BYTES: Final = 512
_ALL_SUBSETS_OF: Final = 5
_SEGMENT_FILE: Final = re.compile(r"/(\d{20})\.(\d+)\.[^/]*$")
_T = TypeVar("_T")


class State(NamedTuple):
    """Files and directories after the next boot."""

    files: dict[str, bytes]
    directories: list[str]

    def digest(self) -> bytes:
        """Return a digest that is equal for equal states."""
        state = hashlib.blake2b(digest_size=12)
        for path in sorted(self.directories):
            state.update(b"%s/\0" % path.encode())
        for path, content in sorted(self.files.items()):
            state.update(b"%s\0%d\0" % (path.encode(), len(content)))
            state.update(content)
        return state.digest()

    def without_unnamed(self) -> State:
        """Return the state without files of unnamed segments, except those after the manifest's last one."""
        manifest = self.files.get("above/store/manifest.json")
        if manifest is None:
            return self
        segments = decode_manifest(manifest).segments
        named = {(info.first_position, info.generation) for info in segments}
        files = {}
        for path, content in self.files.items():
            segment = _SEGMENT_FILE.search(path)
            if segment is not None:
                first, generation = int(segment[1]), int(segment[2])
                if first <= segments[-1].first_position and (first, generation) not in named:
                    continue
            files[path] = content
        return State(files, self.directories)


def kept_state(system: FileSystem) -> State:
    """Return everything as the page cache shows it: what a killed process leaves."""
    return _state(
        system,
        {number: inode.content() for number, inode in system.inodes.items()},
        {path: directory.names() for path, directory in system.directories.items()},
    )


def crash_states(system: FileSystem, dice: random.Random, most: int | None = None) -> Iterator[State]:
    """Yield legal states after a power loss now: the extremes first, then a sample of the rest.

    Args:
        dice: decides the sample and the mixtures.
        most: the highest number of states; None for all that the search finds.
    """
    contents = {
        number: _contents(inode.durable, tuple(inode.changes())) if inode.pending else [inode.durable]
        for number, inode in system.inodes.items()
    }
    names = {path: _names(directory) for path, directory in system.directories.items()}
    kept = {number: options[0] for number, options in contents.items()}
    lost = {number: options[-1] for number, options in contents.items()}
    names_kept = {path: options[0] for path, options in names.items()}
    names_lost = {path: options[-1] for path, options in names.items()}
    yield _state(system, kept, names_kept)
    varied: list[tuple[dict[int, bytes], dict[str, dict[str, int]]]] = [
        *(({number: option}, {}) for number, options in contents.items() for option in options[1:]),
        *(({}, {path: option}) for path, options in names.items() for option in options[1:]),
    ]
    if not varied:
        return
    yield _state(system, lost, names_lost)
    yield _state(system, lost, names_kept)
    yield _state(system, kept, names_lost)
    choices = list(product(((kept, names_kept), (lost, names_lost)), varied))
    mixtures = len(choices) // 2
    if most is not None and len(choices) + mixtures > most:
        mixtures = min(mixtures, most // 3)
        choices = dice.sample(choices, min(len(choices), most - mixtures))
    for (files, folders), (file, folder) in choices:
        yield _state(system, files | file, folders | folder)
    for _ in range(mixtures):
        yield _state(
            system,
            {number: dice.choice(options) for number, options in contents.items()},
            {path: dice.choice(options) for path, options in names.items()},
        )


def _state(system: FileSystem, contents: dict[int, bytes], names: dict[str, dict[str, int]]) -> State:
    state = State({}, [])
    folders = [""]
    for folder in folders:
        for name, inode in names[folder].items():
            path = f"{folder}/{name}".lstrip("/")
            if inode == DIRECTORY:
                folders.append(path)
                state.directories.append(path)
            else:
                state.files[path] = contents[inode]
    return state


# --- one file


@functools.lru_cache(128)  # between two operations few files change; a compaction leaves 65 unsynced
def _contents(durable: bytes, changes: tuple[Change, ...]) -> list[bytes]:
    """Return what may be in the file: first with everything, last with nothing of what was not synced."""
    full = apply_changes(durable, changes)
    options = dict.fromkeys([full])
    for subset in _subsets(changes):
        options[apply_changes(durable, subset)] = None
    before = durable
    for at, change in enumerate(changes):
        if isinstance(change, Write):
            later = changes[at + 1 :]
            beside = apply_changes(before, later) if _is_apart(change, later) else None
            for part in _torn(change):
                whole = before if beside is None else beside
                options[apply_changes(whole, [part, *later] if beside is None else [part])] = None
                options[apply_changes(before, [part])] = None
                if any(isinstance(earlier, Cut) for earlier in changes[:at]):
                    options[apply_changes(durable, [part])] = None  # over what was cut
        before = apply_changes(before, [change])
    for content in _spoilt(durable, changes, full):
        options[content] = None
    options.pop(durable, None)
    return [*options, durable]


def _subsets(changes: Sequence[_T]) -> Iterator[list[_T]]:
    """Yield which changes are kept: every subset, or of many changes the subsets most likely to matter."""
    count = len(changes)
    if count <= _ALL_SUBSETS_OF:
        for chosen in chain.from_iterable(combinations(changes, size) for size in range(count)):
            yield list(chosen)
        return
    for at in range(count):
        yield [*changes[:at]]
        yield [*changes[at:]]
        yield [*changes[:at], *changes[at + 1 :]]
        yield [changes[at]]


def _is_apart(write: Write, later: Sequence[Change]) -> bool:
    """Return whether the later changes come to the same when they are made before the write."""
    low, high = write.offset, write.offset + len(write.data)
    return all(
        isinstance(change, Write) and (change.offset >= high or change.offset + len(change.data) <= low)
        for change in later
    )


def _torn(write: Write) -> Iterator[Write]:
    """Yield parts of a write from either end, cut at edges of sectors and fields, and in the middle."""
    offset, data = write
    size = len(data)
    first_edge = -offset % SECTOR_BYTES
    edges = {1, 4, 8, 31, 32, 39, 40, 41, 63, 64, size // 3, size // 2, size - 4, size - 1}
    edges |= set(range(first_edge, size, SECTOR_BYTES))
    edges.add(len(data.rstrip(b"\0")))  # the frame without the preallocated zeros after it
    for edge in sorted(edges):
        if 0 < edge < size:
            yield Write(offset, data[:edge])
            yield Write(offset + edge, data[edge:])


def _spoilt(durable: bytes, changes: Sequence[Change], full: bytes) -> Iterator[bytes]:
    """Yield the file with zeros or junk in its unsynced range: in all of it, and in each sector."""
    junk = random.Random(full).randbytes(len(full))
    unsynced = bytearray(len(full))  # 1 where a byte is
    for change in changes:
        if isinstance(change, Write):
            low, high = change.offset, min(change.offset + len(change.data), len(full))
            unsynced[low:high] = b"\1" * (high - low)
    ranges = [match.span() for match in re.finditer(b"\1+", unsynced)]
    sectors: dict[int, list[tuple[int, int]]] = {}
    for low, high in ranges:
        for at in range(low // SECTOR_BYTES, (high - 1) // SECTOR_BYTES + 1):
            part = max(low, at * SECTOR_BYTES), min(high, (at + 1) * SECTOR_BYTES)
            sectors.setdefault(at, []).append(part)
    for group in [ranges, *sectors.values()]:
        for spoil in (bytes(len(full)), junk) if group else ():
            spoilt = bytearray(full)
            for low, high in group:
                spoilt[low:high] = spoil[low:high]
            yield bytes(spoilt)
    if len(full) > len(durable):
        yield durable + bytes(len(full) - len(durable))


# --- one directory


def _names(directory: Directory) -> list[dict[str, int]]:
    """Return which names may be there: first with all, last with none of the changes that were not synced."""
    options = [directory.names()]
    if not directory.pending:
        return options
    for chosen in _subsets(directory.pending):
        names = apply_names(directory.durable, chosen)
        if names not in options and names != directory.durable:
            options.append(names)
    return [*options, directory.durable]


# --- names only


def lost_names(system: FileSystem) -> Iterator[State]:
    """Yield states in which each directory keeps or loses all unsynced names, and all files their bytes."""
    contents = [
        {number: inode.content() for number, inode in system.inodes.items()},
        {number: inode.durable for number, inode in system.inodes.items()},
    ]
    names = [
        [(path, names) for names in {str(n): n for n in (directory.names(), directory.durable)}.values()]
        for path, directory in system.directories.items()
    ]
    for files in contents:
        for folders in product(*names):
            yield _state(system, files, dict(folders))
