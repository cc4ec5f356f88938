"""evlog itself, through its public interface only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import evlog
from evlog import IfNone, NewEvent, NewEvents, Query
from tests.benchmarks.dataset import Batch, Item
from tests.benchmarks.measure import count
from tests.benchmarks.peers.base import Peer


class EvlogStore(Peer):
    """A store with the defaults of `evlog.open`; one batch is one `append_many` over all its streams."""

    name: ClassVar[str] = "evlog"
    needs_nothing: ClassVar[bool] = True
    sync: ClassVar[Literal["always", "none"]] = "always"

    def __init__(self, directory: Path) -> None:
        self._store = evlog.open(directory / "store", create=True, sync=self.sync)

    @classmethod
    def settings(cls) -> dict[str, str]:
        return {
            "evlog": evlog.__version__,
            "sync": f"{cls.sync} (always: fdatasync of the log at each append)",
            "segments": "64 MiB or 262,144 events",
            "keys": "(stream, version) and id, kept by the store; payloads checked as JSON",
        }

    def append(self, batch: Batch) -> None:
        self._store.append_many(_columns(batch))

    def append_one(self, item: Item, expected: int) -> None:
        self._store.append(item.stream, [NewEvent(item.type, item.data, id=item.id)], expected)

    def append_tagged(self, events: list[tuple[Item, list[str]]]) -> None:
        self._store.append_many(
            [(stream, [NewEvent(type, data, id=id, tags=tags)]) for (stream, type, id, data), tags in events],
        )

    def append_if(self, item: Item, tags: list[str], unless: list[str], after: int | None) -> int:
        """Append an event, if no event behind a position has all of some tags; return its position."""
        event = NewEvent(item.type, item.data, id=item.id, tags=tags)
        condition = IfNone(Query(tags=unless), after or 0)
        return self._store.append(item.stream, [event], conditions=condition).last_position

    def read_tagged(self, tags: list[str]) -> int:
        return count(self._store.read_all(tags=tags))

    def head(self) -> int:
        return self._store.head

    def resend(self, batch: Batch) -> int:
        results = self._store.append_many(_columns(batch))
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


def _columns(batch: Batch) -> NewEvents:
    streams, types, ids, data = zip(*batch, strict=True)
    return NewEvents(streams, types, data, ids=ids)
