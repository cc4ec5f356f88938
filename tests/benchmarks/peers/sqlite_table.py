"""A tuned SQLite table: what a Python program would use for events if there were no evlog."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from tests.benchmarks.dataset import Batch, Item
from tests.benchmarks.measure import count
from tests.benchmarks.peers.base import Peer

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
_BUSY_SECONDS = 60.0
_MAX_NAMES = 30_000  # in one query


class SqliteTable(Peer):
    """One table with the same columns and the same unique keys as evlog keeps."""

    name: ClassVar[str] = "sqlite"
    lacks: ClassVar[frozenset[str]] = frozenset({"follow"})  # nothing tells another process of a commit
    needs_nothing: ClassVar[bool] = True
    pragmas: ClassVar[dict[str, str]] = {
        "page_size": "4096",
        "journal_mode": "WAL",
        "synchronous": "FULL",
        "cache_size": "-1000000",
        "mmap_size": "17179869184",
        "wal_autocheckpoint": "65536",
    }

    def __init__(self, directory: Path) -> None:
        self._db = sqlite3.connect(directory / "events.db", isolation_level=None, timeout=_BUSY_SECONDS)
        for name, value in self.pragmas.items():
            self._db.execute(f"pragma {name} = {value}").fetchall()
        self._db.execute(_SCHEMA)
        # The cheapest way in which a user can know the next version; the unique key guards it.
        self._versions: dict[str, int] = {}

    @classmethod
    def settings(cls) -> dict[str, str]:
        keys = "unique (stream, version), unique (id); versions from a dict in the client"
        return {"sqlite": sqlite3.sqlite_version, **cls.pragmas, "keys": keys}

    def recall(self, streams: Iterable[str]) -> None:
        unknown = [stream for stream in streams if stream not in self._versions]
        for at in range(0, len(unknown), _MAX_NAMES):
            names = unknown[at : at + _MAX_NAMES]
            marks = ",".join("?" * len(names))
            query = f"select stream, max(version) from events where stream in ({marks}) group by stream"
            self._versions.update(self._db.execute(query, names))

    def append(self, batch: Batch) -> None:
        versions, now_us = self._versions, time.time_ns() // 1000
        rows = []
        for stream, type, id, data in batch:
            versions[stream] = version = versions.get(stream, 0) + 1
            rows.append((version, stream, type, id, now_us, 0, data, None))
        self._insert(_INSERT, rows)

    def append_one(self, item: Item, expected: int) -> None:
        now_us = time.time_ns() // 1000
        row = (expected + 1, item.stream, item.type, item.id, now_us, 0, item.data, None)
        self._db.execute(_INSERT, row)  # a transaction of its own

    def resend(self, batch: Batch) -> int:
        now_us = time.time_ns() // 1000
        rows = [(0, stream, type, id, now_us, 0, data, None) for stream, type, id, data in batch]
        return len(rows) - self._insert(_INSERT + "on conflict (id) do nothing", rows)

    def _insert(self, statement: str, rows: list[tuple[Any, ...]]) -> int:
        self._db.execute("begin immediate")
        inserted = self._db.executemany(statement, rows).rowcount
        self._db.execute("commit")
        return inserted

    def settle(self) -> None:
        self._db.execute("pragma wal_checkpoint(truncate)").fetchall()

    def scan(self) -> int:
        return count(self._db.execute(f"select {_COLUMNS} from events order by position"))

    def read_stream(self, stream: str) -> int:
        query = f"select {_COLUMNS} from events where stream = ? order by version"
        return count(self._db.execute(query, (stream,)))

    def read_page(self, stream: str, first: int, events: int) -> int:
        query = f"select {_COLUMNS} from events where stream = ? and version >= ? order by version limit ?"
        return count(self._db.execute(query, (stream, first, events)))

    def close(self) -> None:
        self._db.close()


class SqliteNormal(SqliteTable):
    """The same without a sync at each commit, as much of the advice for WAL has it."""

    name: ClassVar[str] = "sqlite-normal"
    weaker: ClassVar[str] = "a power loss takes back acknowledged events since the last checkpoint"
    pragmas: ClassVar[dict[str, str]] = SqliteTable.pragmas | {"synchronous": "NORMAL"}
