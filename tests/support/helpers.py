"""Small things that many tests need: stores with small segments, events in one word, facts to compare."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from evlog import Event, EventStore, NewEvent
from evlog.files.compaction import compress as compact_compress
from evlog.files.disk.files import DISK, Disk
from evlog.files.engine import DirectoryEngine
from evlog.files.write.writer import Writer

Fact = tuple[int, str, int, str, bytes]
"""position, stream, version, type, data: what a test usually wants to know of an event"""

TOO_DEEP = b"[" * 1_000_000 + b"]" * 1_000_000
"""JSON that no Python decodes: 3.11 takes 990 levels, 3.15 some 170,000 of a value that is only skipped"""


def small_store(
    path: Path | str,
    *,
    segment_events: int = 8,
    segment_bytes: int = 1 << 20,
    sync: str = "always",
    lock_timeout: float | None = 20.0,
    disk: Disk = DISK,
) -> EventStore:
    """Open a store, created if it is missing, whose segments fill quickly."""
    return EventStore(
        DirectoryEngine(
            os.fspath(path),
            create=True,
            segment_bytes=segment_bytes,
            segment_events=segment_events,
            sync=sync == "always",
            lock_timeout_seconds=lock_timeout,
            disk=disk,
        )
    )


def engine_of(store: EventStore) -> DirectoryEngine:
    """Return the engine of a store in a directory, for a test that looks inside."""
    assert isinstance(store.engine, DirectoryEngine)
    return store.engine


def expire_look(store: EventStore) -> None:
    """Have the next read look whether the store is still in its place, as it does after 10 ms."""
    log = engine_of(store)._log
    assert log is not None
    log._look_due = 0.0


def writer_of(store: EventStore) -> Writer:
    """Return the writer of a store in a directory."""
    return engine_of(store)._open_writer()


def new(number: int = 0, type: str = "T", **arguments: Any) -> NewEvent:
    """Return an event whose data is a number."""
    return NewEvent(type, number, **arguments)


def fill(store: EventStore, count: int, streams: int = 3) -> None:
    """Append single events in turn to streams s-0, s-1 …, of types T0, T1 …, with the number as data."""
    for number in range(count):
        store.append(f"s-{number % streams}", [new(number, f"T{number % 2}", id=number_id(number))])


# Two names with one hash, as there are by chance among a million of one category.
TWINS = ("c-575019", "c-1280808")


def number_id(number: int) -> UUID:
    """Return the id that belongs to a number."""
    return UUID(int=number + 1)


def facts(events: Iterable[Event]) -> list[Fact]:
    return [(e.position, e.stream, e.version, e.type, e.data) for e in events]


def numbers(events: Iterable[Event]) -> list[int]:
    """Return the numbers that `new` was given."""
    return [int(event.data) for event in events]


def segment_files(store: EventStore, suffix: str) -> list[Path]:
    """Return the files with a suffix in position order; the last log and .offsets are the active ones."""
    return sorted(Path(store.path, "segments").glob(f"*.{suffix}"))


def flip_bit(path: Path, place: int | bytes, after: int = 0) -> None:
    """Flip the lowest bit of a byte: at an offset, or after the last place of some bytes in a file."""
    content = bytearray(path.read_bytes())
    content[(content.rindex(place) if isinstance(place, bytes) else place) + after] ^= 1
    path.write_bytes(content)


def open_files(*begins: str | Path) -> list[str]:
    """Return the files that this process has open, one for each descriptor, by how their names begin.

    Threads of earlier tests may open and close others at any time.
    """
    names = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one of this list
            names.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sorted(name for name in names if name.startswith(tuple(map(str, begins))))


def frames_of(log: Path) -> bytes:
    """Return a log without the preallocated zeros after its last frame; no frame ends with a zero."""
    return log.read_bytes().rstrip(b"\0")


def content(store: EventStore) -> tuple[list[bytes], list[Fact]]:
    """Return all that a refused append must leave as it was."""
    return [path.read_bytes() for path in segment_files(store, "log")], facts(store.read_all())


class Clock:
    """A `time.time_ns` that moves only when told."""

    def __init__(self) -> None:
        self.us = 1_700_000_000_000_000

    def __call__(self) -> int:
        return self.us * 1000


class FixedRandom:
    """An `os.urandom` that repeats: 4 bytes are a tag and count up, else they are a pattern, for ids."""

    def __init__(self) -> None:
        self.tags = 0

    def __call__(self, size: int) -> bytes:
        if size == 4:
            self.tags += 2
            return self.tags.to_bytes(4, "little")
        return bytes((16 + at) % 256 for at in range(size))


def compress_all(patch: pytest.MonkeyPatch, block_bytes: int) -> None:
    """Have logs compressed in blocks of this many bytes, also where that makes them larger."""
    patch.setattr(compact_compress, "BLOCK_BYTES", block_bytes)
    patch.setattr(compact_compress, "_WORTH", 1000.0)
