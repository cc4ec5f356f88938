"""The `eventsourcing` library's recorder for SQLite, used as its own `Application` uses it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

from tests.benchmarks.dataset import Batch, Item
from tests.benchmarks.peers.base import Peer
from tests.benchmarks.programs import how_to_get_packages, version_of

_PAGE = 1000
_BUSY_SECONDS = 60


class EventsourcingRecorder(Peer):
    """One table of the recorder; the stored state is the event's JSON with its id and time in it."""

    name: ClassVar[str] = "eventsourcing"
    weaker: ClassVar[str] = "ids are not unique, so a retry is a version conflict; no checksums"
    lacks: ClassVar[frozenset[str]] = frozenset({"resend", "follow"})

    def __init__(self, directory: Path) -> None:
        from eventsourcing.persistence import StoredEvent
        from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

        self._new: Any = StoredEvent
        self._datastore = SQLiteDatastore(
            str(directory / "events.db"), lock_timeout=_BUSY_SECONDS, originator_id_type="text"
        )
        self._recorder: Any = SQLiteApplicationRecorder(self._datastore)
        self._recorder.create_table()
        self._versions: dict[str, int] = {}

    @classmethod
    def how_to_get(cls) -> str | None:
        return how_to_get_packages("eventsourcing")

    @classmethod
    def settings(cls) -> dict[str, str]:
        return {
            "eventsourcing": version_of("eventsourcing"),
            "SQLite": "as the library opens it: WAL, synchronous FULL, other pragmas as they are by default",
            "keys": "(originator_id, originator_version); versions from a dict in the client",
        }

    def append(self, batch: Batch) -> None:
        versions, now_us, events = self._versions, time.time_ns() // 1000, []
        for item in batch:
            versions[item.stream] = version = versions.get(item.stream, 0) + 1
            events.append(self._stored(item, version, now_us))
        self._recorder.insert_events(events)

    def append_one(self, item: Item, expected: int) -> None:
        self._recorder.insert_events([self._stored(item, expected + 1, time.time_ns() // 1000)])

    def scan(self) -> int:
        start, found = 1, 0
        while page := self._recorder.select_notifications(start, _PAGE):
            start, found = page[-1].id + 1, found + len(page)
        return found

    def read_stream(self, stream: str) -> int:
        return len(self._recorder.select_events(stream))

    def read_page(self, stream: str, first: int, events: int) -> int:
        return len(self._recorder.select_events(stream, gt=first - 1, limit=events))

    def close(self) -> None:
        self._datastore.close()

    def _stored(self, item: Item, version: int, now_us: int) -> Any:
        stream, type, id, data = item
        state = b'{"id":"%s","time":%d,"data":%s}' % (id.hex().encode(), now_us, data)
        return self._new(originator_id=stream, originator_version=version, topic=type, state=state)
