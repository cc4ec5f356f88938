"""SQL and exports, each beside what its library needs for the same rows, and a scan of the store.

The library reads them from a file that it wrote, or writes them from memory.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

import evlog
from evlog.adapters.sql import Database
from evlog.model.encoding import encode_events
from evlog.model.json_lines import encode_lines
from evlog.transfer.export import export
from evlog.transfer.formats import rows_of
from evlog.transfer.parquet import COLUMNS
from tests.benchmarks.dataset import Dataset
from tests.benchmarks.measure import Figure, Report, Target, seconds_of, take_turns
from tests.benchmarks.run import Run

_QUERY = "select data->>'currency' as currency, count(*) as events from {} group by 1"
_GROUP_EVENTS = 100_000


def run(run: Run) -> Report:
    """Query and export a store of `sizes.large` events, in turns with the libraries."""
    events = run.sizes.large
    directory = run.fresh_directory("queries")
    report = Report("queries", f"SQL and exports of {events:,} events of 100 bytes, within a process")
    report.settings = {
        "evlog": {"query": _QUERY.format("events"), "columns": "of Parquet: all"},
        "duckdb": {"version": duckdb.__version__},
        "pyarrow": {"version": pa.__version__, "compression": "zstd, as the export"},
    }
    with evlog.open(directory / "store", create=True, sync="none") as store:
        for batch in Dataset(events, run.sizes.bulk_streams).batches():
            encoded = encode_events([evlog.NewEvent(item.type, item.data, id=item.id) for item in batch])
            store.append_encoded([item.stream for item in batch], encoded)
        gc.collect()
        gc.disable()  # as in a command
        try:
            report.figures = _measured(run, store, directory)
        finally:
            gc.enable()
    return report


def _measured(run: Run, store: evlog.EventStore, directory: Path) -> list[Figure]:
    file = str(directory / "events.parquet")
    export(file, store.read_all)
    values = [_row(row) for row in rows_of(list(store.read_all()))]
    turns = partial(take_turns, run.sizes.rounds, patience_seconds=run.sizes.patience_seconds)

    def timed(*works: Callable[[], object]) -> Callable[[], float]:
        return lambda: sum(map(seconds_of, works))

    def out(suffix: str) -> Callable[[], object]:
        return lambda: export(directory / f"out{suffix}", store.read_all)

    scan = partial(_scan, store)

    def parquet() -> None:
        duckdb.connect().execute(_QUERY.format(f"'{file}'")).fetchall()

    query = turns({"evlog": timed(lambda: _query(store)), "parquet + scan": timed(parquet, scan)})
    own = partial(_write, values, directory / "own.parquet")
    exported = turns({"evlog": timed(out(".parquet")), "pyarrow + scan": timed(own, scan)})
    printed = partial(_print, store, directory / "own.jsonl")
    lines = turns({"evlog": timed(out(".jsonl")), "read": timed(printed)})
    return [
        Figure(
            "SQL: group by a field of the data",
            "s",
            query,
            Target(1.5, at_least=False, over="parquet + scan"),
        ),
        Figure("export to Parquet", "s", exported, Target(1.3, at_least=False, over="pyarrow + scan")),
        Figure("export to JSON lines", "s", lines, Target(1.1, at_least=False, over="read")),
    ]


def _scan(store: evlog.EventStore) -> None:
    deque(map(itemgetter(7), store.read_all()), maxlen=0)


def _query(store: evlog.EventStore) -> None:
    with Database(store) as database:
        deque(database.query(_QUERY.format("events")).batches, maxlen=0)


def _row(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a row of COLUMNS of Parquet, as a program has it in memory."""
    position, stream, version, id, type, _, content_type, data, *rest = row
    return position, stream, version, id, type, position, content_type, data, None, *rest


def _write(rows: list[tuple[Any, ...]], path: Path) -> None:
    fields = [field for field, _ in COLUMNS.values()]
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, fields, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
    pq.write_table(table, path, compression="zstd", row_group_size=_GROUP_EVENTS)


def _print(store: evlog.EventStore, path: Path) -> None:
    with path.open("wb") as file:
        file.writelines(encode_lines(store.read_all()))
