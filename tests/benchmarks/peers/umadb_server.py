"""UmaDB: an event store behind gRPC, written in Rust; its Python package brings client and server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

from tests.benchmarks.dataset import Batch, Item
from tests.benchmarks.peers.base import Peer
from tests.benchmarks.programs import how_to_get_packages, program, version_of
from tests.support.server import Server, accepts, free_port, read_address, running, write_address


class UmadbServer(Peer):
    """A stream is a tag; an expected version is a condition on what bears the tag."""

    name: ClassVar[str] = "umadb"
    weaker: ClassVar[str] = "versions are conditions on a tag; ids count only in an append with a condition"

    def __init__(self, directory: Path) -> None:
        import umadb

        self._umadb: Any = umadb
        self._client: Any = umadb.Client(f"http://127.0.0.1:{read_address(directory)}")
        self._end = 0  # the position of the last batch's last event
        self._last: dict[str, int] = {}  # the position of a stream's last event, for the next condition

    @classmethod
    def how_to_get(cls) -> str | None:
        return how_to_get_packages("umadb")

    @classmethod
    def settings(cls) -> dict[str, str]:
        return {
            "umadb": version_of("umadb"),
            "server": "as it is by default: each commit synced, fileio, no page cache of its own",
            "condition": "none for batches, one on the stream's tag for single appends",
        }

    @classmethod
    @contextmanager
    def serve(cls, directory: Path) -> Iterator[Server | None]:
        port = free_port()
        command = [program("umadb"), "--listen", f"127.0.0.1:{port}", "--db-path", directory / "uma.db"]
        with running(command, directory, partial(accepts, port)) as server:
            write_address(directory, port)
            yield server

    def append(self, batch: Batch) -> None:
        self._end = self._client.append([self._event(item) for item in batch])

    def append_one(self, item: Item, expected: int) -> None:
        after = self._last.get(item.stream) if expected else None
        condition = self._umadb.AppendCondition(self._tagged(item.stream), after=after)
        self._last[item.stream] = self._client.append([self._event(item)], condition)

    def append_tagged(self, events: list[tuple[Item, list[str]]]) -> None:
        self._client.append([self._event(item, tags) for item, tags in events])

    def append_if(self, item: Item, tags: list[str], unless: list[str], after: int | None) -> int:
        """Append an event, if no event behind a position has all of some tags; return its position."""
        query = self._umadb.Query(items=[self._umadb.QueryItem(tags=unless)])
        condition = self._umadb.AppendCondition(query, after=after)
        position: int = self._client.append([self._event(item, tags)], condition)
        return position

    def resend(self, batch: Batch) -> int:
        # The server takes a retry for one when its condition fails on the very events of the append; the one
        # whose answer was lost was sent under the head of that time.
        streams = dict.fromkeys(item.stream for item in batch)
        items = [self._umadb.QueryItem(tags=[stream]) for stream in streams]
        after = self._end - len(batch) or None
        condition = self._umadb.AppendCondition(self._umadb.Query(items=items), after=after)
        before = self._client.head()
        self._client.append([self._event(item) for item in batch], condition)
        return len(batch) if self._client.head() == before else 0

    def scan(self) -> int:
        return self._count(self._client.read())

    def read_stream(self, stream: str) -> int:
        return self._count(self._client.read(self._tagged(stream)))

    def read_page(self, stream: str, first: int, events: int) -> int:
        # In a store of one stream, which is what this is called for, its versions are the positions.
        return self._count(self._client.read(self._tagged(stream), start=first, limit=events))

    def follow(self) -> Iterator[bytes]:
        for sequenced in self._client.subscribe(after=self._client.head()):
            yield sequenced.event.data

    def close(self) -> None:
        self._client.close()

    def _tagged(self, stream: str) -> Any:
        return self._umadb.Query(items=[self._umadb.QueryItem(tags=[stream])])

    def _event(self, item: Item, tags: list[str] | None = None) -> Any:
        stream, type, id, data = item
        return self._umadb.Event(type, data, tags=tags or [stream], uuid=UUID(bytes=id))

    def _count(self, response: Any) -> int:
        found = 0
        while batch := response.next_batch():
            found += len(batch)
        return found
