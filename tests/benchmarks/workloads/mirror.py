"""A mirror to PostgreSQL beside COPY into the obvious table, and mirrors from there and between directories.

COPY is one transaction of psycopg's binary COPY, fed by a scan of the same store: what a user would write to
get the events there once. The mirror commits every few thousand events, in a way that can be killed.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import evlog
from evlog import EventStore, NewEvent
from tests.benchmarks.dataset import Dataset
from tests.benchmarks.measure import Figure, Report, Target, seconds_of, take_turns
from tests.benchmarks.run import Run
from tests.benchmarks.workloads.postgresql import COPY, SETTINGS, TABLE
from tests.support.postgresql import binaries, serving


def run(run: Run) -> Report:
    """Copy a store of a hundred events a stream in every direction."""
    report = Report("mirror", f"mirrors of {run.sizes.small:,} events")
    programs = binaries()
    if programs is None:
        report.notes.append("skipped: PostgreSQL's server is not installed (Debian: postgresql-15)")
        return report
    folder = run.fresh_directory("mirror")
    folder.chmod(0o755)  # the server runs as another user
    numbers = itertools.count()
    with (
        serving(folder, programs, **SETTINGS) as server,
        evlog.open(folder / "source", create=True) as source,
    ):
        _fill(source, run.sizes.small)
        urls = (server.url(schema=f"m{number}") for number in numbers)
        there = {
            "mirror": partial(_mirror, source, urls),
            "copy": partial(_copy, source, server.url()),
        }
        samples = take_turns(run.sizes.rounds, there)
        target = Target(0.5, at_least=True, over="copy")
        report.figures.append(Figure("from a directory to PostgreSQL", "events/s", samples, target))
        with evlog.open(next(urls), create=True) as server_store:
            evlog.mirror(source, server_store)
            paths = (str(folder / f"copy-{number}") for number in numbers)
            for label, origin in (
                ("from PostgreSQL to a directory", server_store),
                ("directory to directory", source),
            ):
                rates = take_turns(run.sizes.rounds, {"mirror": partial(_mirror, origin, paths)})
                report.figures.append(Figure(label, "events/s", rates))
    report.settings = {"server": {"version": programs.parts[-2], **SETTINGS}}
    return report


def _fill(store: EventStore, events: int) -> None:
    for batch in Dataset(events, max(1, events // 100)).batches():
        store.append_many([(stream, [NewEvent(type, data, id=id)]) for stream, type, id, data in batch])


def _mirror(source: EventStore, places: Any) -> float:
    with evlog.open(next(places), create=True) as destination:
        seconds = seconds_of(lambda: evlog.mirror(source, destination))
        return destination.head / seconds


def _copy(source: EventStore, url: str) -> float:
    import psycopg

    with psycopg.connect(url, autocommit=True) as db:
        db.execute("drop table if exists plain")
        db.execute(TABLE)

        def copy() -> None:
            with db.transaction(), db.cursor() as cursor, cursor.copy(COPY) as rows:
                rows.set_types(["text", "int8", "text", "uuid", "json"])
                for event in source.read_all():
                    rows.write_row((event.stream, event.version, event.type, event.id, event.data.decode()))

        return source.head / seconds_of(copy)
