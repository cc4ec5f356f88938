"""What a peer is: a store of events that a workload can fill and read.

A new peer is one module with one such class, and one line in `peers/__init__.py`. What a user of the peer
would have to do per event (make objects or rows, know the next version) belongs inside `append`, because
it is timed there.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

from tests.benchmarks.dataset import Batch


class Peer(Protocol):
    """One open store. Made with the directory that it may use, which exists and is its own."""

    name: ClassVar[str]

    def __init__(self, directory: Path) -> None: ...

    @classmethod
    def settings(cls) -> dict[str, str]:
        """What a reader has to know to judge the figures: versions, pragmas, keys, durability."""
        ...

    def append(self, batch: Batch) -> None:
        """Append a batch as one transaction; durable on return."""
        ...

    def settle(self) -> None:
        """Put the files into their state of rest (checkpoint); timed apart from the appends."""
        ...

    def scan(self) -> int:
        """Read every event in order, as this peer's objects, and count them."""
        ...

    def read_stream(self, stream: str) -> int:
        """Read one whole stream, as this peer's objects, and count its events."""
        ...

    def close(self) -> None:
        """Close the store; its files stay."""
        ...
