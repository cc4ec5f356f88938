"""Single durable appends: by one process, and by many at once (sixteen in full), each to its own stream.

Beside them a plain file that gets the same bytes with `write` and `fdatasync`, which is the floor, and one
SQLite file. Of many processes each runs for the same few seconds, started together; the kinds take turns.
"""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Final

import evlog
from tests.benchmarks.measure import Figure, Report, Target, seconds_of, take_turns
from tests.benchmarks.run import Run

_SLICE: Final = 50
_DATA: Final = b'{"amount":10,"note":"' + b"x" * 77 + b'"}'
_FRAME_BYTES: Final = 200  # what one such event takes in evlog's log
_BUSY_SECONDS: Final = 60.0

Appender = Callable[[], object]


def _evlog_appender(directory: Path, number: int) -> Appender:
    store = evlog.open(directory / "store", create=True)
    stream = f"account-{number}"
    return lambda: store.append(stream, [evlog.NewEvent("Deposited", _DATA)])


def _file_appender(directory: Path, number: int) -> Appender:
    del number
    file = os.open(directory / "plain", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    frame = bytes(_FRAME_BYTES)

    def append() -> None:
        os.write(file, frame)
        os.fdatasync(file)

    return append


def _sqlite_appender(directory: Path, number: int) -> Appender:
    database = sqlite3.connect(directory / "events.db", timeout=_BUSY_SECONDS, isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 65536"):
        database.execute(f"pragma {pragma}").fetchall()
    database.execute(
        "create table if not exists events (position integer primary key, stream text not null,"
        " version integer not null, type text not null, id blob not null unique, time integer not null,"
        " data blob not null, unique (stream, version))"
    )
    stream = f"account-{number}"
    version = 0

    def append() -> None:
        nonlocal version
        version += 1
        row = (stream, version, "Deposited", os.urandom(16), time.time_ns() // 1000, _DATA)
        database.execute("begin immediate")
        database.execute(
            "insert into events (stream, version, type, id, time, data) values (?, ?, ?, ?, ?, ?)", row
        )
        database.execute("commit")

    return append


_APPENDERS: Final[dict[str, Callable[[Path, int], Appender]]] = {
    "evlog": _evlog_appender,
    "write+fdatasync": _file_appender,
    "sqlite": _sqlite_appender,
}


def run(run: Run) -> Report:
    """One process, slices in turns; then many, a few seconds of each kind in turns."""
    report = Report("durable", f"durable appends of one event, by 1 and by {run.sizes.processes} processes")
    report.settings = {
        "evlog": {"sync": "always"},
        "write+fdatasync": {"file": f"one, opened for appending, {_FRAME_BYTES} bytes each time"},
        "sqlite": {"journal_mode": "WAL", "synchronous": "FULL", "wal_autocheckpoint": "65536"},
    }
    appenders = {
        name: make(run.fresh_directory(f"durable-{name.partition('+')[0]}"), 0)
        for name, make in _APPENDERS.items()
    }
    for append in appenders.values():
        _repeat(append)
    single = take_turns(
        run.sizes.rounds * 5,
        {name: lambda append=append: _slice_us(append) for name, append in appenders.items()},  # type: ignore[misc]
    )
    target = Target(1.25, at_least=False, over="write+fdatasync")
    report.figures.append(Figure("1 process, each append", "µs", single, target))
    worst: dict[str, list[float]] = {name: [] for name in _APPENDERS}

    def many(name: str) -> float:
        rate, wait_ms = _many(
            name, run.fresh_directory("many"), run.sizes.processes, run.sizes.concurrent_seconds
        )
        worst[name].append(wait_ms)
        return rate

    rates = take_turns(
        run.sizes.concurrent_rounds,
        {name: lambda name=name: many(name) for name in _APPENDERS},  # type: ignore[misc]
    )
    label = f"{run.sizes.processes} processes, together"
    report.figures.append(Figure(label, "appends/s", rates, Target(3.0, at_least=True, over="sqlite")))
    report.figures.append(
        Figure(label, "appends/s", rates, Target(0.6, at_least=True, over="write+fdatasync"))
    )
    report.figures.append(Figure(f"{run.sizes.processes} processes, worst wait of any", "ms", worst))
    return report


def _repeat(append: Appender) -> None:
    for _ in range(_SLICE):
        append()


def _slice_us(append: Appender) -> float:
    return seconds_of(lambda: _repeat(append)) / _SLICE * 1e6


def _many(name: str, directory: Path, processes: int, seconds: float) -> tuple[float, float]:
    """Appends per second of all processes together, and the longest that any of them waited, in ms."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes + 1)
    _APPENDERS[name](directory, processes)()  # make the files, so that nobody measures that
    with context.Pool(1):
        pass  # the resource tracker runs before the clock does
    results = context.SimpleQueue()
    workers = [
        context.Process(target=_work, args=(name, directory, number, seconds, barrier, results))
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    barrier.wait()
    outcomes = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return sum(count for count, _ in outcomes) / seconds, max(wait for _, wait in outcomes) * 1e3


def _work(
    name: str,
    directory: Path,
    number: int,
    seconds: float,
    barrier: Barrier,
    results: multiprocessing.queues.SimpleQueue[tuple[int, float]],
) -> None:
    append = _APPENDERS[name](directory, number)
    append()
    barrier.wait()
    count, worst, now = 0, 0.0, time.perf_counter()
    end = now + seconds
    while now < end:
        before = now
        append()
        now = time.perf_counter()
        count += 1
        worst = max(worst, now - before)
    results.put((count, worst))
