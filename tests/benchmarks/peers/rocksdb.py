"""RocksDB, through `rocksdict`: one key space with three keys an event, written in synced batches."""

from __future__ import annotations

import time
from itertools import count as counter
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, ClassVar

import msgpack

from tests.benchmarks.dataset import Batch, Item
from tests.benchmarks.measure import count
from tests.benchmarks.peers.base import Peer
from tests.benchmarks.programs import how_to_get_packages, version_of

_EVENT, _STREAM, _ID = b"e", b"s", b"i"  # the first byte of a key says what it leads to
_pack, _unpack = msgpack.Packer().pack, msgpack.unpackb


class RocksDb(Peer):
    """e + position → record; s + stream, version → position; i + id → position; looked up before a write."""

    name: ClassVar[str] = "rocksdb"
    weaker: ClassVar[str] = "one process only; its conditions hold because one client has the versions"
    lacks: ClassVar[frozenset[str]] = frozenset({"follow", "processes"})

    def __init__(self, directory: Path) -> None:
        import rocksdict

        self._new_batch: Any = rocksdict.WriteBatch
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        self._db: Any = rocksdict.Rdict(str(directory / "rocks"), options)
        self._synced: Any = rocksdict.WriteOptions()
        self._synced.sync = True
        self._versions: dict[str, int] = {}
        self._last = self._last_position()

    @classmethod
    def how_to_get(cls) -> str | None:
        return how_to_get_packages("rocksdict")

    @classmethod
    def settings(cls) -> dict[str, str]:
        return {
            "rocksdict": version_of("rocksdict"),
            "sync": "True (each batch); other options as they are by default",
            "record": "msgpack; ids looked up by one multi-get; versions from a dict in the client",
        }

    def append(self, batch: Batch) -> None:
        if self._known([item.id for item in batch]).count(None) < len(batch):
            raise RuntimeError("an id is there already")
        versions, now_us = self._versions, time.time_ns() // 1000
        written = self._new_batch(raw_mode=True)
        put = written.put
        for position, (stream, type, id, data) in zip(counter(self._last + 1), batch, strict=False):
            versions[stream] = version = versions.get(stream, 0) + 1
            key = position.to_bytes(8, "big")
            put(_EVENT + key, _pack((position, version, stream, type, id, now_us, 0, data, None)))
            put(_stream_key(stream, version), key)
            put(_ID + id, key)
        self._db.write(written, self._synced)
        self._last += len(batch)

    def append_one(self, item: Item, expected: int) -> None:
        stream, type, id, data = item
        if (expected and _stream_key(stream, expected) not in self._db) or _ID + id in self._db:
            raise RuntimeError("the stream has another version, or the id is there already")
        position, version = self._last + 1, expected + 1
        key = position.to_bytes(8, "big")
        written = self._new_batch(raw_mode=True)
        record = (position, version, stream, type, id, time.time_ns() // 1000, 0, data, None)
        written.put(_EVENT + key, _pack(record))
        written.put(_stream_key(stream, version), key)
        written.put(_ID + id, key)
        self._db.write(written, self._synced)
        self._last = position

    def resend(self, batch: Batch) -> int:
        keys = [_EVENT + key for key in self._known([item.id for item in batch]) if key]
        records = self._db.get(keys)
        return sum(
            (record[2], record[3], record[7]) == (stream, type, data)
            for record, (stream, type, _, data) in zip(map(_unpack, records), batch, strict=True)
        )

    def settle(self) -> None:
        self._db.flush()

    def scan(self) -> int:
        return count(map(_unpack, self._records()))

    def read_stream(self, stream: str) -> int:
        return self._read(stream, 1, None)

    def read_page(self, stream: str, first: int, events: int) -> int:
        return self._read(stream, first, events)

    def close(self) -> None:
        self._db.close()

    def _known(self, ids: list[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = self._db.get([_ID + id for id in ids])
        return found

    def _records(self) -> Any:
        return (
            value for _, value in takewhile(lambda row: row[0][:1] == _EVENT, self._db.items(from_key=_EVENT))
        )

    def _read(self, stream: str, first: int, limit: int | None) -> int:
        end = _stream_key(stream, 0xFFFFFFFF)
        rows = self._db.items(from_key=_stream_key(stream, first))
        found = takewhile(lambda row: row[0] <= end, islice(rows, limit))
        keys = [_EVENT + position for _, position in found]
        return count([_unpack(record) for record in self._db.get(keys)]) if keys else 0

    def _last_position(self) -> int:
        iterator = self._db.iter()
        iterator.seek_for_prev(_EVENT + b"\xff" * 8)
        found = iterator.valid() and iterator.key()[:1] == _EVENT
        return int.from_bytes(iterator.key()[1:], "big") if found else 0


def _stream_key(stream: str, version: int) -> bytes:
    return _STREAM + stream.encode() + b"\0" + version.to_bytes(4, "big")
