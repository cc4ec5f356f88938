"""PostgreSQL: one table with the same columns and unique keys, and durable commits."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Final
from uuid import UUID

from tests.benchmarks.dataset import Batch, Item
from tests.benchmarks.measure import count
from tests.benchmarks.peers.base import Peer
from tests.benchmarks.programs import how_to_get_packages, how_to_get_program, program, version_of
from tests.support.server import (
    Server,
    accepts,
    free_port,
    give_to,
    group_of,
    read_address,
    running,
    write_address,
)

_SCHEMA = """
create table events (
    position bigint generated always as identity primary key,
    version integer not null,
    stream text not null,
    type text not null,
    id uuid not null,
    time timestamptz not null default clock_timestamp(),
    content_type smallint not null default 0,
    data bytea not null,
    metadata bytea,
    unique (stream, version),
    unique (id)
);
create function tell() returns trigger language plpgsql as
    $$ begin perform pg_notify('events', ''); return null; end $$;
"""
_TRIGGER = "create trigger tell after insert on events for each statement execute function tell()"
_COLUMNS: Final = "position, version, stream, type, id, time, content_type, data, metadata"
_INSERT: Final = "insert into events (version, stream, type, id, data) values (%b, %b, %b, %b, %b)"
_SETTINGS: Final = {
    "fsync": "on",
    "synchronous_commit": "on",
    "wal_sync_method": "fdatasync",
    "shared_buffers": "2GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
}
_PAGE = 10_000


@cache
def _user() -> str | None:
    """Return the user that runs the server, which refuses to be root's; None: this one."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class PostgresTable(Peer):
    """A batch is one COPY, a single event one prepared INSERT."""

    name: ClassVar[str] = "postgresql"
    weaker: ClassVar[str] = "positions have gaps, and become visible out of order between writers"

    def __init__(self, directory: Path) -> None:
        self._port = read_address(directory)
        self._db = _connect(self._port)
        self._versions: dict[str, int] = {}

    @classmethod
    def how_to_get(cls) -> str | None:
        return how_to_get_program("postgres", "postgresql-15") or how_to_get_packages("psycopg")

    @classmethod
    def settings(cls) -> dict[str, str]:
        server = subprocess.run(
            [program("postgres"), "--version"], capture_output=True, check=True, text=True
        )
        return {
            "server": server.stdout.strip(),
            "psycopg": version_of("psycopg"),
            **_SETTINGS,
            "keys": "unique (stream, version), unique (id); versions from a dict in the client",
        }

    @classmethod
    @contextmanager
    def serve(cls, directory: Path) -> Iterator[Server | None]:
        data, port, user = directory / "data", free_port(), _user()
        give_to(user, directory)
        is_new = not data.exists()
        if is_new:
            initdb = [str(program("initdb")), "-D", str(data), "-A", "trust", "-U", "bench"]
            subprocess.run(
                [*initdb, "-E", "UTF8", "--locale=C", "--no-sync"],
                check=True,
                capture_output=True,
                cwd=directory,
                user=user,
                group=group_of(user),
            )
        settings = _SETTINGS | {"port": str(port), "unix_socket_directories": ""}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [program("postgres"), "-D", data, *options]
        with running(
            command, directory, partial(_is_ready, port), stop_signal=signal.SIGINT, user=user
        ) as server:
            write_address(directory, port)
            if is_new:
                peer = cls(directory)
                peer._db.execute(_SCHEMA)
                peer.close()
            yield server

    def append(self, batch: Batch) -> None:
        versions = self._versions
        with self._db.cursor() as cursor:
            copy = "copy events (version, stream, type, id, data) from stdin (format binary)"
            with cursor.copy(copy) as rows:
                rows.set_types(["int4", "text", "text", "uuid", "bytea"])
                for stream, type, id, data in batch:
                    versions[stream] = version = versions.get(stream, 0) + 1
                    rows.write_row((version, stream, type, UUID(bytes=id), data))

    def append_one(self, item: Item, expected: int) -> None:
        stream, type, id, data = item
        row = (expected + 1, stream, type, UUID(bytes=id), data)
        self._db.execute(_INSERT, row, prepare=True)

    def resend(self, batch: Batch) -> int:
        streams, types, ids, datas = zip(*batch, strict=True)
        statement = (
            "insert into events (version, stream, type, id, data) select 0, *"
            " from unnest(%b::text[], %b::text[], %b::uuid[], %b::bytea[]) on conflict (id) do nothing"
        )
        columns = (list(streams), list(types), [UUID(bytes=id) for id in ids], list(datas))
        return len(batch) - int(self._db.execute(statement, columns).rowcount)

    def settle(self) -> None:
        self._db.execute("checkpoint")

    def scan(self) -> int:
        with self._db.transaction(), self._db.cursor("scan", binary=True) as cursor:
            cursor.itersize = _PAGE
            return count(cursor.execute(f"select {_COLUMNS} from events order by position"))

    def read_stream(self, stream: str) -> int:
        query = f"select {_COLUMNS} from events where stream = %b order by version"
        return len(self._db.execute(query, (stream,), prepare=True, binary=True).fetchall())

    def read_page(self, stream: str, first: int, events: int) -> int:
        query = f"select {_COLUMNS} from events where stream = %b and version >= %b order by version limit %b"
        return len(self._db.execute(query, (stream, first, events), prepare=True, binary=True).fetchall())

    def follow(self) -> Iterator[bytes]:
        last = self._db.execute("select coalesce(max(position), 0) from events").fetchone()[0]
        self._db.execute(_TRIGGER)
        query = "select position, data from events where position > %b order by position"
        with _connect(self._port) as listener:  # one that listens can do nothing else meanwhile
            listener.execute("listen events")
            for _notice in listener.notifies():
                rows = self._db.execute(query, (last,), prepare=True, binary=True).fetchall()
                last = rows[-1][0] if rows else last
                for _, data in rows:
                    yield data

    def close(self) -> None:
        self._db.close()


def _connect(port: int) -> Any:
    import psycopg

    return psycopg.connect(host="127.0.0.1", port=port, user="bench", dbname="postgres", autocommit=True)


def _is_ready(port: int) -> bool:
    if not accepts(port):
        return False
    _connect(port).close()
    return True
