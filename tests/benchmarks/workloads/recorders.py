"""The eventsourcing library's recorders: evlog's beside its own for SQLite, by its own throughput tests.

`test_performance` inserts one event of a new aggregate, with and without what was processed;
`test_concurrent_throughput` inserts 50 events at a time by four threads. Reading is what a repository and a
notification log do. Both sync the device once for each insertion: by one fdatasync, as `strace` shows.
SQLite is in WAL mode with synchronous FULL, as the library opens it.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import evlog
from tests.benchmarks.measure import Figure, Report, Target, mean_us, seconds_of, take_turns
from tests.benchmarks.programs import how_to_get_packages, version_of
from tests.benchmarks.run import Run

_SLICE: Final = 50
_JOB_EVENTS: Final = 50
_JOBS: Final = 10
_THREADS: Final = 4
_LONG: Final = 1000  # events of the aggregate that is read
_PAGE: Final = 10  # what the library's notification log has in one section
_STATE: Final = b'{"timestamp":{"_type_":"datetime_iso","_data_":"2026-01-05T14:36:25+00:00"},"amount":10}'
_AT_LEAST: Final = Target(1.0, at_least=True, over="sqlite")
_AT_MOST: Final = Target(1.0, at_least=False, over="sqlite")


def run(run: Run) -> Report:
    """Insert and read by both recorders, in turns."""
    report = Report("recorders", "the eventsourcing library's recorders, on evlog and on SQLite")
    missing = how_to_get_packages("eventsourcing")
    if missing is not None:
        report.notes.append(f"skipped: {missing}")
        return report
    from eventsourcing.sqlite import SQLiteDatastore, SQLiteProcessRecorder

    from evlog.adapters.eventsourcing import EvlogProcessRecorder

    folder = run.fresh_directory("recorders")
    datastore = SQLiteDatastore(str(folder / "events.db"))
    with evlog.open(folder / "store", create=True) as store:
        sqlite = SQLiteProcessRecorder(datastore)
        sqlite.create_table()
        recorders: dict[str, Any] = {"evlog": EvlogProcessRecorder(store), "sqlite": sqlite}
        report.settings = _settings(folder / "events.db")
        slices = max(1, run.sizes.single // _SLICE)
        for label, inserting in (("insert of 1 event", _inserting), ("the same with tracking", _tracking)):
            columns = {name: inserting(recorder) for name, recorder in recorders.items()}
            report.figures.append(Figure(label, "µs", take_turns(slices, columns), _AT_MOST))
        for label, threads in (("inserts of 50 events", 1), (f"the same by {_THREADS} threads", _THREADS)):
            jobs = {name: partial(_jobs, recorder, threads) for name, recorder in recorders.items()}
            report.figures.append(Figure(label, "events/s", take_turns(slices, jobs), _AT_LEAST))
        readings: tuple[tuple[str, Callable[..., float]], ...] = (
            (f"read an aggregate of {_LONG:,} events", _reading(recorders)),
            ("read all notifications, 1,000 at a time", partial(_paging, 1000)),
            (f"the same, {_PAGE} at a time", partial(_paging, _PAGE)),
        )
        for label, reading in readings:
            rates = {name: partial(reading, recorder) for name, recorder in recorders.items()}
            report.figures.append(Figure(label, "events/s", take_turns(run.sizes.rounds, rates), _AT_LEAST))
    datastore.close()
    return report


def _settings(database: Path) -> dict[str, dict[str, str]]:
    connection = sqlite3.connect(database)
    (mode,), (synchronous,) = (
        connection.execute(f"pragma {name}").fetchone() for name in ("journal_mode", "synchronous")
    )
    connection.close()
    return {
        "evlog": {"evlog": evlog.__version__, "sync": "always: one fdatasync of the log at each insertion"},
        "sqlite": {
            "eventsourcing": version_of("eventsourcing"),
            "SQLite": f"{sqlite3.sqlite_version}, journal {mode}, synchronous {synchronous}: one of the WAL",
        },
    }


def _stored(count: int, first: int = 1) -> list[Any]:
    from eventsourcing.persistence import StoredEvent

    originator_id = uuid4()
    return [StoredEvent(originator_id, first + number, "topic1", _STATE) for number in range(count)]


def _inserting(recorder: Any) -> Callable[[], float]:
    return partial(mean_us, lambda: recorder.insert_events(_stored(1)), _SLICE)


def _tracking(recorder: Any) -> Callable[[], float]:
    from eventsourcing.persistence import Tracking

    numbers = itertools.count(1)

    def insert() -> None:
        recorder.insert_events(_stored(1), tracking=Tracking("upstream", next(numbers)))

    return partial(mean_us, insert, _SLICE)


def _jobs(recorder: Any, threads: int) -> float:
    """Return the events per second of some jobs, the first of which are not timed."""
    with ThreadPoolExecutor(max_workers=threads) as executor:

        def work(jobs: int) -> None:
            job = partial(_stored, _JOB_EVENTS, 0)
            begun = [executor.submit(lambda: recorder.insert_events(job())) for _ in range(jobs)]
            for done in begun:
                done.result()

        work(threads)
        return _JOBS * _JOB_EVENTS / seconds_of(partial(work, _JOBS))


def _reading(recorders: dict[str, Any]) -> Callable[[Any], float]:
    stored = _stored(_LONG)
    for recorder in recorders.values():
        recorder.insert_events(stored)

    def read(recorder: Any) -> float:
        def repeat() -> None:
            for _ in range(5):
                assert len(recorder.select_events(stored[0].originator_id)) == _LONG

        return 5 * _LONG / seconds_of(repeat)

    return read


def _paging(limit: int, recorder: Any) -> float:
    found = [0]

    def read() -> None:
        start = 1
        while page := recorder.select_notifications(start, limit):
            found[0] += len(page)
            start = page[-1].id + 1

    seconds = seconds_of(read)
    return found[0] / seconds
