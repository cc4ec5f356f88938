"""A store in PostgreSQL beside the same work by plain psycopg on the obvious table, on one server.

The table is what a good user of psycopg makes: a BIGSERIAL position, unique (stream, version), a unique id,
JSON data. Its batches are `executemany` in one transaction, which psycopg pipelines, and COPY in another
column; its single events are one prepared INSERT in autocommit mode, its scan is a server-side cursor. The
client counts the versions. Both get the same events with ids, and both are durable on return.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final
from uuid import UUID

import evlog
from evlog import NewEvent
from tests.benchmarks.dataset import Batch, Dataset, Item
from tests.benchmarks.measure import Figure, Report, Target, count, mean_us, seconds_of, take_turns
from tests.benchmarks.run import Run
from tests.benchmarks.together import run_together
from tests.support.postgresql import binaries, serving

_WRITERS: Final = 8
_SLICE: Final = 100
_STREAM_READS: Final = 100
_PAGE: Final = 10_000
_FLUSH_US: Final = 2000
_DATA: Final = b'{"amount":10,"note":"' + b"x" * 77 + b'"}'
SETTINGS: Final = {
    "fsync": "on",
    "synchronous_commit": "on",
    "wal_sync_method": "fdatasync",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
}
_SLOW_FLUSH: Final = {"commit_delay": str(_FLUSH_US), "commit_siblings": "0"}
TABLE: Final = """
create table if not exists plain (
    position bigserial primary key,
    stream text not null,
    version bigint not null,
    type text not null,
    id uuid not null unique,
    data json not null,
    metadata json,
    time timestamptz not null default clock_timestamp(),
    unique (stream, version)
)
"""
_INSERT: Final = "insert into plain (stream, version, type, id, data) values (%s, %s, %s, %s, %s)"
COPY: Final = "copy plain (stream, version, type, id, data) from stdin (format binary)"
_SELECT: Final = "select position, stream, version, type, id, data::text, metadata::text, time from plain"


def run(run: Run) -> Report:
    """Run all of it on a server with fast flushes, then the writers on one whose flushes take 2 ms."""
    report = Report("postgresql", f"evlog in PostgreSQL beside plain psycopg, {run.sizes.small:,} events")
    programs = binaries()
    if programs is None:
        report.notes.append("skipped: PostgreSQL's server is not installed (Debian: postgresql-15)")
        return report
    least = Target(0.8, at_least=True, over="psycopg")
    ahead = Target(1.0, at_least=True, over="psycopg")
    folder = run.fresh_directory("postgresql")
    folder.chmod(0o755)  # the server runs as another user
    with serving(folder, programs, **SETTINGS) as server:
        url = server.url(schema="bench")
        with _opened(url) as clients:
            report.figures.append(_batches(run, clients, least))
            report.figures.append(_scans(run, clients, least))
            report.figures.append(_streams(run, clients, least))
            report.figures.append(_single(run, clients, least))
        report.figures.append(_together(run, url, least, f"{_WRITERS} processes, single appends"))
        server.stop()
        server.start(**SETTINGS, **_SLOW_FLUSH)
        label = f"{_WRITERS} processes, a flush takes {_FLUSH_US // 1000} ms"
        report.figures.append(_together(run, url, ahead, label))
    report.settings = {"server": {"version": programs.parts[-2], **SETTINGS}}
    return report


class _Evlog:
    """A store with the defaults of `evlog.open`."""

    def __init__(self, url: str) -> None:
        self._store = evlog.open(url, create=True)
        self.close = self._store.close

    def append(self, batch: Batch) -> None:
        self._store.append_many([(stream, [NewEvent(type, data, id=id)]) for stream, type, id, data in batch])

    def append_one(self, item: Item, expected: int) -> None:
        self._store.append(item.stream, [NewEvent(item.type, item.data, id=item.id)], expected)

    def scan(self) -> int:
        return count(self._store.read_all())

    def read_stream(self, stream: str) -> int:
        return count(self._store.read(stream))


class _Psycopg:
    """The obvious table."""

    def __init__(self, url: str) -> None:
        import psycopg

        self._db: psycopg.Connection[Any] = psycopg.connect(url.partition("?")[0], autocommit=True)
        self._db.execute(TABLE)
        self._versions: dict[str, int] = {}
        self.close = self._db.close

    def append(self, batch: Batch) -> None:
        rows = list(self._rows(batch))
        with self._db.transaction(), self._db.cursor() as cursor:
            cursor.executemany(_INSERT, rows)

    def copy(self, batch: Batch) -> None:
        with self._db.transaction(), self._db.cursor() as cursor, cursor.copy(COPY) as copy:
            copy.set_types(["text", "int8", "text", "uuid", "json"])
            for row in self._rows(batch):
                copy.write_row(row)

    def _rows(self, batch: Batch) -> Iterator[tuple[Any, ...]]:
        versions = self._versions
        for stream, type, id, data in batch:
            versions[stream] = version = versions.get(stream, 0) + 1
            yield stream, version, type, UUID(bytes=id), data.decode()

    def append_one(self, item: Item, expected: int) -> None:
        row = (item.stream, expected + 1, item.type, UUID(bytes=item.id), item.data.decode())
        self._db.execute(_INSERT, row, prepare=True)

    def scan(self) -> int:
        with self._db.transaction(), self._db.cursor("scan", binary=True) as cursor:
            cursor.itersize = _PAGE
            return count(cursor.execute(f"{_SELECT} order by position"))

    def read_stream(self, stream: str) -> int:
        query = f"{_SELECT} where stream = %s order by version"
        return len(self._db.execute(query, (stream,), prepare=True, binary=True).fetchall())


_Client = _Evlog | _Psycopg
_CLIENTS: Final[dict[str, Callable[[str], _Client]]] = {"evlog": _Evlog, "psycopg": _Psycopg}


@contextmanager
def _opened(url: str) -> Iterator[dict[str, _Client]]:
    clients = {name: client(url) for name, client in _CLIENTS.items()}
    try:
        yield clients
    finally:
        for client in clients.values():
            client.close()


def _batches(run: Run, clients: dict[str, Any], target: Target) -> Figure:
    dataset = Dataset(run.sizes.small, max(1, run.sizes.small // 50))
    ways = {name: client.append for name, client in clients.items()} | {"copy": clients["psycopg"].copy}
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for number, batch in enumerate(dataset.batches()):
        for name, append in list(ways.items())[:: 1 if number % 2 else -1]:
            # COPY gets other ids: it writes to the same table.
            own = batch if name != "copy" else dataset.batch(dataset.batch_count + number)
            samples[name].append(len(own) / seconds_of(partial(append, own)))
    return Figure("batches of 1,000", "events/s", samples, target)


def _scans(run: Run, clients: dict[str, _Client], target: Target) -> Figure:
    def sample(client: _Client) -> float:
        found: list[int] = []
        seconds = seconds_of(lambda: found.append(client.scan()))
        return found[0] / seconds

    columns = {name: partial(sample, client) for name, client in clients.items()}
    for column in columns.values():
        column()
    return Figure("scan of all", "events/s", take_turns(run.sizes.rounds, columns), target)


def _streams(run: Run, clients: dict[str, _Client], target: Target) -> Figure:
    streams = Dataset(run.sizes.small, max(1, run.sizes.small // 50)).streams
    names = [f"order-{number * 7919 % streams}" for number in range(_STREAM_READS)]

    def sample(client: _Client) -> float:
        return seconds_of(lambda: [client.read_stream(name) for name in names]) / len(names) * 1e6

    columns = {name: partial(sample, client) for name, client in clients.items()}
    for column in columns.values():
        column()
    samples = take_turns(2 * run.sizes.rounds, columns)
    return Figure("read of a stream of 50, of 100 with COPY's", "µs", samples, target)


def _single(run: Run, clients: dict[str, _Client], target: Target) -> Figure:
    columns = {}
    for name, client in clients.items():
        append = _appender(client, 0)
        mean_us(append, 20)  # the first calls prepare statements
        columns[name] = partial(mean_us, append, _SLICE)
    samples = take_turns(max(1, 2 * run.sizes.single // _SLICE), columns)
    return Figure("1 process, each append", "µs", samples, target)


def _appender(client: _Client, number: int) -> Callable[[], object]:
    versions = iter(range(1 << 62))
    stream = f"account-{number}-{os.urandom(4).hex()}"
    return lambda: client.append_one(Item(stream, "Deposited", os.urandom(16), _DATA), next(versions))


def _together(run: Run, url: str, target: Target, label: str) -> Figure:
    seconds = run.sizes.concurrent_seconds
    columns = {name: partial(_many, name, url, seconds) for name in _CLIENTS}
    return Figure(label, "appends/s", take_turns(run.sizes.concurrent_rounds, columns), target)


def _many(name: str, url: str, seconds: float) -> float:
    """Appends per second of all processes together."""
    appends = sum(run_together(_work, [(name, url, number, seconds) for number in range(_WRITERS)]))
    return appends / seconds


def _work(name: str, url: str, number: int, seconds: float, wait: Callable[[], object]) -> int:
    client = _CLIENTS[name](url)
    append = _appender(client, number)
    for _ in range(10):
        append()
    wait()
    end = time.perf_counter() + seconds
    done = 0
    while time.perf_counter() < end:
        append()
        done += 1
    client.close()
    return done
