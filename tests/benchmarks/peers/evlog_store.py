"""evlog itself, through its public interface only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import evlog
from evlog import NewEvent
from tests.benchmarks.dataset import Batch, Item
from tests.benchmarks.measure import count
from tests.benchmarks.peers.base import Peer


class EvlogStore(Peer):
    """A store with the defaults of `evlog.open`; one batch is one `append_many` over all its streams."""

    name: ClassVar[str] = "evlog"
    needs_nothing: ClassVar[bool] = True

    def __init__(self, directory: Path) -> None:
        self._store = evlog.open(directory / "store", create=True)

    @classmethod
    def settings(cls) -> dict[str, str]:
        return {
            "evlog": evlog.__version__,
            "sync": "always (fdatasync of the log at each append)",
            "segments": "64 MiB or 262,144 events",
            "keys": "(stream, version) and id, kept by the store; payloads checked as JSON",
        }

    def append(self, batch: Batch) -> None:
        self._store.append_many(
            [(stream, [NewEvent(type, data, id=id)]) for stream, type, id, data in batch],
        )

    def append_one(self, item: Item, expected: int) -> None:
        self._store.append(item.stream, [NewEvent(item.type, item.data, id=item.id)], expected)

    def resend(self, batch: Batch) -> int:
        results = self._store.append_many(
            [(stream, [NewEvent(type, data, id=id)]) for stream, type, id, data in batch],
        )
        return len(results) if results[-1].duplicate else 0  # all of an append is known, or nothing

    def scan(self) -> int:
        return count(self._store.read_all())

    def read_stream(self, stream: str) -> int:
        return count(self._store.read(stream))

    def read_page(self, stream: str, first: int, events: int) -> int:
        return count(self._store.read(stream, first, limit=events))

    def follow(self) -> Iterator[bytes]:
        with self._store.subscribe(after=self._store.head) as subscription:
            for event in subscription:
                yield event.data

    def close(self) -> None:
        self._store.close()
