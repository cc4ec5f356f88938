"""Redis Streams with an append-only file that is synced at each command.

One Redis stream holds the log; a list for each of our streams holds the positions of its events, so that its
length is the version; a hash holds the ids. One Lua script appends, atomically; another reads a stream.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

from tests.benchmarks.dataset import Batch, Item
from tests.benchmarks.peers.base import Peer
from tests.benchmarks.programs import how_to_get_packages, how_to_get_program, program, version_of
from tests.support.server import Server, accepts, free_port, read_address, running, write_address

_PAGE: Final = 1000
_APPEND: Final = """
local known, now, expected = 0, ARGV[1], ARGV[2]
if expected ~= '' and redis.call('LLEN', 's:' .. ARGV[3]) ~= tonumber(expected) then
    return redis.error_reply('the stream has another version')
end
local position = redis.call('XLEN', 'log')
for at = 3, #ARGV, 4 do
    if redis.call('HSETNX', 'ids', ARGV[at + 2], position + 1) == 1 then
        position = position + 1
        local version = redis.call('RPUSH', 's:' .. ARGV[at], position)
        redis.call('XADD', 'log', position .. '-0', 's', ARGV[at], 'v', version, 't', ARGV[at + 1],
            'i', ARGV[at + 2], 'u', now, 'd', ARGV[at + 3])
    else
        known = known + 1
    end
end
return known
"""
_READ: Final = """
local events = {}
for at, position in ipairs(redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2])) do
    events[at] = redis.call('XRANGE', 'log', position, position)[1]
end
return events
"""


class RedisStreams(Peer):
    """A batch is one call of the script, and so one sync."""

    name: ClassVar[str] = "redis"
    weaker: ClassVar[str] = "everything must fit into memory; no checksums in the append-only file"

    def __init__(self, directory: Path) -> None:
        import redis

        self._db: Any = redis.Redis(host="127.0.0.1", port=read_address(directory))
        self._append = self._db.register_script(_APPEND)
        self._read = self._db.register_script(_READ)

    @classmethod
    def how_to_get(cls) -> str | None:
        return how_to_get_program("redis-server", "redis-server") or how_to_get_packages("redis", "hiredis")

    @classmethod
    def settings(cls) -> dict[str, str]:
        return {
            "redis-py": f"{version_of('redis')} with hiredis {version_of('hiredis')}",
            "appendonly": "yes",
            "appendfsync": "always",
            "layout": "one stream, a list of positions for each stream, a hash of ids; Lua appends and reads",
        }

    @classmethod
    @contextmanager
    def serve(cls, directory: Path) -> Iterator[Server | None]:
        port = free_port()
        settings = {
            "bind": "127.0.0.1",
            "port": str(port),
            "dir": str(directory),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
        }
        options = [word for name, value in settings.items() for word in ("--" + name, value)]
        with running([program("redis-server"), *options], directory, partial(_is_ready, port)) as server:
            write_address(directory, port)
            yield server

    def append(self, batch: Batch) -> None:
        if self._send(batch, ""):
            raise RuntimeError("an id is there already")

    def append_one(self, item: Item, expected: int) -> None:
        self._send([item], expected)

    def resend(self, batch: Batch) -> int:
        return self._send(batch, "")

    def _send(self, batch: Batch, expected: int | str) -> int:
        arguments: list[Any] = [time.time_ns() // 1000, expected]
        for item in batch:
            arguments += item
        return int(self._append(args=arguments))

    def scan(self) -> int:
        found, start = 0, "-"
        while page := self._db.xrange("log", start, "+", _PAGE):
            found, start = found + len(page), "(" + page[-1][0].decode()
        return found

    def read_stream(self, stream: str) -> int:
        return len(self._read(keys=[f"s:{stream}"], args=[0, -1]))

    def read_page(self, stream: str, first: int, events: int) -> int:
        return len(self._read(keys=[f"s:{stream}"], args=[first - 1, first + events - 2]))

    def follow(self) -> Iterator[bytes]:
        last = b"$"
        while True:
            for _, entries in self._db.xread({"log": last}, block=0):
                for last, fields in entries:  # noqa: B007
                    yield fields[b"d"]

    def close(self) -> None:
        self._db.close()


def _is_ready(port: int) -> bool:
    import redis

    if not accepts(port):
        return False
    client: Any = redis.Redis(host="127.0.0.1", port=port)
    return bool(client.ping())  # raises while the file is being read
