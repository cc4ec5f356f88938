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
# What was tried: events/s of durable batches of 1,000, uuid4 ids, 10,000 streams, SQLite 3.40, 2 cores.
#   1,000,000 events, page_size/wal_autocheckpoint (two runs, where there are two):
#     4096/65536 30,500 26,200   2048/65536 29,600   4096/20000 28,800   8192/32768 26,800 28,500
#     16384/16384 26,000         8192/8192 22,500 22,500
#   300,000 events, where the index of ids is a fraction of the pages that a batch touches anyway:
#     4096/1000 24,000-26,000    4096/65536 39,000-45,000   16384/16384 52,000   32768/2048 53,000
#     4096/262144 15,300 where 4096/65536 had 20,200 (a slower hour): too long a WAL costs more than it saves
#   locking_mode=EXCLUSIVE and mmap_size=0 were within 3 % of that, and EXCLUSIVE would keep out other
#   processes, which evlog does not. synchronous=OFF gave 60,000-70,000: the rest is the disk.
# Larger pages make the file smaller (214 bytes an event at 16384, 222 at 4096), but slower to fill with ids
# in no order once there are many: what is tuned here is the throughput at the size that is measured.
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
