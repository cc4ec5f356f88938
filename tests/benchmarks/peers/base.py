"""What a peer is: a store of events that a workload can fill and read.

A new peer is one module with one such class, and one line in `peers/__init__.py`. An object of the class is
one client of the store in one directory; where that takes a server, `serve` runs it, and clients in any
process find it by the directory. What a user of the peer would have to do per event (make objects or rows,
know the next version) belongs inside the methods, because it is timed there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import ClassVar

from tests.benchmarks.dataset import Batch, Item
from tests.support.server import Server


class Peer:
    """One client of a store. Made with the directory that the store has to itself."""

    name: ClassVar[str]
    weaker: ClassVar[str] = ""
    """Which of evlog's guarantees it lacks as it is used here, in words for the reader of the table."""
    lacks: ClassVar[frozenset[str]] = frozenset()
    """Which of the methods below it has no counterpart of; "processes": it is for one process at a time."""
    needs_nothing: ClassVar[bool] = False
    """Whether it can be used wherever evlog can."""

    def __init__(self, directory: Path) -> None:
        raise NotImplementedError

    @classmethod
    def how_to_get(cls) -> str | None:
        """Return what to do to have it; None when it is there."""
        return None

    @classmethod
    def settings(cls) -> dict[str, str]:
        """Return what a reader needs to judge the figures: versions, settings, keys, durability."""
        raise NotImplementedError

    @classmethod
    def serve(cls, directory: Path) -> AbstractContextManager[Server | None]:
        """Make what clients in the directory need, and run its server, if it has one, inside the block."""
        del directory
        return nullcontext()

    def recall(self, streams: Iterable[str]) -> None:
        """Look up the last versions of streams, where the client has to know them before it appends."""

    def append(self, batch: Batch) -> None:
        """Append a batch as one transaction; durable on return."""
        raise NotImplementedError

    def append_one(self, item: Item, expected: int) -> None:
        """Append one event to a stream that has the expected version, or fail; durable on return."""
        raise NotImplementedError

    def resend(self, batch: Batch) -> int:
        """Append a batch again whose ids are all known: nothing is stored. How many were found known."""
        raise NotImplementedError

    def settle(self) -> None:
        """Put the files into their state of rest (checkpoint); timed apart from the appends."""

    def scan(self) -> int:
        """Read every event in order, as this peer's objects, and count them."""
        raise NotImplementedError

    def read_stream(self, stream: str) -> int:
        """Read one whole stream, as this peer's objects, and count its events."""
        raise NotImplementedError

    def read_page(self, stream: str, first: int, events: int) -> int:
        """Read this many events of a stream from version `first` on, and count them."""
        raise NotImplementedError

    def follow(self) -> Iterator[bytes]:
        """Yield the data of every event from now on, as it comes, by the peer's own means."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the client; the files stay."""
        raise NotImplementedError
