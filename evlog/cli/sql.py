"""`evlog sql`: a query over the store."""

from __future__ import annotations

import os
import signal
import threading

from evlog.cli._support import console, options
from evlog.cli._support.parameters import RAW, STORE, argument, choice
from evlog.errors import EventTooLarge, InvalidArgument
from evlog.process.threads import without_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from evlog.adapters.sql import Database, Result
    from evlog.cli._support.parameters import Given

HELP: Final = """Run a query of DuckDB's SQL over the store, which it cannot change.

There is a view `events`, a view `streams`, and a view for each event type, named as the type. `data` is
JSON: data->>'amount' is a text, (data->>'amount')::double a number. Conditions on position, time, stream,
category and type read only what they select, and so does `order by position desc limit N`. Events are as
they are stored: upcasters do not change them. `evlog help sql` has the columns and more examples.

It needs duckdb and pyarrow (pip install 'evlog-store[sql]'; exit code 10 without them). A query opens no
file and no connection.

\b
  evlog sql "select type, count(*) from events group by type"
  evlog sql "select sum((data->>'amount')::int) as paid from OrderPaid"
  evlog sql @report.sql -o csv > report.csv
"""

PARAMETERS: Final = (
    argument("QUERY", "SQL, @FILE, or - for stdin.", RAW, required=True),
    choice("--output -o", "json|table|csv", "The form; table on a terminal, else json."),
    STORE,
)


def command(given: Given) -> None:
    """Print the result."""
    from evlog.cli._support.event import read_data

    try:
        text = (read_data(given.query, "text") or b"").decode()
    except EventTooLarge as error:
        raise InvalidArgument("the query is too long", f"give at most {error.limit_bytes} bytes") from None
    except UnicodeDecodeError:
        raise InvalidArgument("the query is not UTF-8", "give a text") from None
    form = options.form_of(given)
    with options.open_store(given) as store:
        from evlog.adapters.sql import Database
        from evlog.cli._support.pager import Paged

        with Database(store) as database, _Interrupts(database), Paged():
            for chunk in _drawn(database.query(text), form):
                console.write(chunk)


class _Interrupts:
    """A block in which Ctrl-C ends the query at once: DuckDB itself does not check for signals."""

    def __init__(self, database: Database) -> None:
        self._interrupt = database.connection.interrupt
        self._came = False  # written by the thread, read after it has ended

    def __enter__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._former = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._wait, daemon=True)
        without_signals(self._thread.start)

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._former)
        os.close(self._write)
        self._thread.join()
        os.close(self._read)
        if self._came:  # whatever error DuckDB has raised
            raise KeyboardInterrupt

    def _wait(self) -> None:
        while signum := os.read(self._read, 1):
            if signum[0] == signal.SIGINT:
                self._came = True
                self._interrupt()


def _drawn(result: Result, form: str) -> Iterator[bytes]:
    from evlog.cli._support.results import Rows

    if not result.names:
        console.note("done; the statement has no result")
        return
    rows = Rows(result)
    if form == "json":
        yield from map(rows.json_lines, result.batches)
    elif form == "csv":
        from evlog.cli._support.output import csv_row

        yield csv_row(rows.names)
        yield from map(rows.csv_lines, result.batches)
    else:
        from evlog.cli._support.table import draw_table

        found = False
        cells = (row for batch in result.batches for row in rows.cells(batch))
        for chunk in draw_table(rows.names, cells, numbers=rows.numbers):
            found = True
            yield chunk
        if not found:
            console.note("the result has no rows")
