"""A tuned SQLite table: what a Python program would use for events if there were no evlog."""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from pathlib import Path
from typing import ClassVar

from tests.benchmarks.dataset import Batch

_SCHEMA = """
create table if not exists events (
    position integer primary key,
    version integer not null,
    stream text not null,
    type text not null,
    id blob not null,
    time integer not null,
    content_type integer not null,
    data blob not null,
    metadata blob,
    unique (stream, version),
    unique (id)
)
"""
_INSERT = """
insert into events (version, stream, type, id, time, content_type, data, metadata)
values (?, ?, ?, ?, ?, ?, ?, ?)
"""
_COLUMNS = "position, version, stream, type, id, time, content_type, data, metadata"


class SqliteTable:
    """One table with the same columns and the same unique keys as evlog keeps."""

    name: ClassVar[str] = "sqlite"
    pragmas: ClassVar[dict[str, str]] = {
        "page_size": "4096",
        "journal_mode": "WAL",
        "synchronous": "FULL",
        "cache_size": "-1000000",
        "mmap_size": "17179869184",
        "wal_autocheckpoint": "65536",
    }

    def __init__(self, directory: Path) -> None:
        self._db = sqlite3.connect(directory / "events.db", isolation_level=None)
        for name, value in self.pragmas.items():
            self._db.execute(f"pragma {name} = {value}").fetchall()
        self._db.execute(_SCHEMA)
        # The cheapest way in which a user can know the next version; the unique key guards it.
        self._versions: dict[str, int] = {}

    @classmethod
    def settings(cls) -> dict[str, str]:
        keys = "unique (stream, version), unique (id); versions from a dict in the client"
        return {"sqlite": sqlite3.sqlite_version, **cls.pragmas, "keys": keys}

    def append(self, batch: Batch) -> None:
        versions, now_us = self._versions, time.time_ns() // 1000
        rows = []
        for stream, type, id, data in batch:
            versions[stream] = version = versions.get(stream, 0) + 1
            rows.append((version, stream, type, id, now_us, 0, data, None))
        execute = self._db.execute
        execute("begin immediate")
        self._db.executemany(_INSERT, rows)
        execute("commit")

    def settle(self) -> None:
        self._db.execute("pragma wal_checkpoint(truncate)").fetchall()

    def scan(self) -> int:
        return _count(self._db.execute(f"select {_COLUMNS} from events order by position"))

    def read_stream(self, stream: str) -> int:
        query = f"select {_COLUMNS} from events where stream = ? order by version"
        return _count(self._db.execute(query, (stream,)))

    def close(self) -> None:
        self._db.close()


def _count(rows: sqlite3.Cursor) -> int:
    last = deque(enumerate(rows, 1), maxlen=1)
    return last[0][0] if last else 0
