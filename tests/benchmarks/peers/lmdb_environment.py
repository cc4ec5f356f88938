"""LMDB: three databases in one environment, as a careful user would lay out an event store in it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import count as counter
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

import msgpack

from tests.benchmarks.dataset import Batch, Item
from tests.benchmarks.measure import count
from tests.benchmarks.peers.base import Peer
from tests.benchmarks.programs import how_to_get_packages, version_of

_MAP_BYTES = 1 << 36  # an upper limit, which takes no room
_pack, _unpack = msgpack.Packer().pack, msgpack.unpackb


class LmdbEnvironment(Peer):
    """events: position → record; streams: (stream, version) → position; ids: id → position."""

    name: ClassVar[str] = "lmdb"
    weaker: ClassVar[str] = "no checksums: a flipped bit is returned as data"
    lacks: ClassVar[frozenset[str]] = frozenset({"follow"})
    is_synced: ClassVar[bool] = True

    def __init__(self, directory: Path) -> None:
        import lmdb

        (directory / "lmdb").mkdir(exist_ok=True)
        self._env: Any = lmdb.open(
            str(directory / "lmdb"), map_size=_MAP_BYTES, max_dbs=3, sync=self.is_synced
        )
        self._events = self._env.open_db(b"events")
        self._streams = self._env.open_db(b"streams")
        self._ids = self._env.open_db(b"ids")
        self._versions: dict[str, int] = {}

    @classmethod
    def how_to_get(cls) -> str | None:
        return how_to_get_packages("lmdb")

    @classmethod
    def settings(cls) -> dict[str, str]:
        return {
            "lmdb": version_of("lmdb"),
            "sync": f"{cls.is_synced} (True: each commit)",
            "record": "msgpack; keys in two databases; versions from a dict in the client",
        }

    def recall(self, streams: Iterable[str]) -> None:
        with self._env.begin() as txn, txn.cursor(self._streams) as cursor:
            for stream in streams:
                if stream not in self._versions:
                    first, last = _stream_key(stream, 0), _stream_key(stream, 0xFFFFFFFF)
                    if (cursor.prev() if cursor.set_range(last) else cursor.last()) and cursor.key() > first:
                        self._versions[stream] = int.from_bytes(cursor.key()[-4:], "big")

    def append(self, batch: Batch) -> None:
        versions, now_us = self._versions, time.time_ns() // 1000
        with self._env.begin(write=True) as txn:
            records, by_stream, by_id = [], [], []
            for position, (stream, type, id, data) in zip(counter(self._next(txn)), batch, strict=False):
                versions[stream] = version = versions.get(stream, 0) + 1
                key = position.to_bytes(8, "big")
                records.append((key, _pack((position, version, stream, type, id, now_us, 0, data, None))))
                by_stream.append((_stream_key(stream, version), key))
                by_id.append((id, key))
            with txn.cursor(self._events) as events:
                events.putmulti(records, append=True)
            for database, rows in ((self._streams, by_stream), (self._ids, by_id)):
                rows.sort()  # neighbours in the tree one after the other
                with txn.cursor(database) as cursor:
                    _, added = cursor.putmulti(rows, overwrite=False)
                if added != len(rows):
                    raise RuntimeError("an id or a version is there already")

    def append_one(self, item: Item, expected: int) -> None:
        stream, type, id, data = item
        with self._env.begin(write=True) as txn:
            if expected and txn.get(_stream_key(stream, expected), db=self._streams) is None:
                raise RuntimeError("the stream has another version")
            position = self._next(txn)
            key, version = position.to_bytes(8, "big"), expected + 1
            record = (position, version, stream, type, id, time.time_ns() // 1000, 0, data, None)
            txn.put(key, _pack(record), db=self._events, append=True)
            if not (
                txn.put(_stream_key(stream, version), key, db=self._streams, overwrite=False)
                and txn.put(id, key, db=self._ids, overwrite=False)
            ):
                raise RuntimeError("the id or the version is there already")

    def resend(self, batch: Batch) -> int:
        known = 0
        with self._env.begin() as txn:
            for stream, type, id, data in batch:
                record = _unpack(txn.get(txn.get(id, db=self._ids), db=self._events))
                known += (record[2], record[3], record[7]) == (stream, type, data)
        return known

    def scan(self) -> int:
        with self._env.begin() as txn, txn.cursor(self._events) as events:
            return count(map(_unpack, events.iternext(keys=False)))

    def read_stream(self, stream: str) -> int:
        return self._read(stream, 1, None)

    def read_page(self, stream: str, first: int, events: int) -> int:
        return self._read(stream, first, events)

    def _read(self, stream: str, first: int, limit: int | None) -> int:
        end = _stream_key(stream, 0xFFFFFFFF if limit is None else first + limit - 1)
        with self._env.begin() as txn, txn.cursor(self._streams) as streams:
            if not streams.set_range(_stream_key(stream, first)):
                return 0
            keys = [position for _, position in takewhile(lambda row: row[0] <= end, streams)]
            with txn.cursor(self._events) as events:
                return count([_unpack(record) for _, record in events.getmulti(keys)])

    def close(self) -> None:
        self._env.close()

    def _next(self, txn: Any) -> int:
        with txn.cursor(self._events) as events:
            return int.from_bytes(events.key(), "big") + 1 if events.last() else 1


def _stream_key(stream: str, version: int) -> bytes:
    return stream.encode() + b"\0" + version.to_bytes(4, "big")
