"""`python -m tests.benchmarks table`: the goals of the benchmark, each beside what this machine reaches.

A row names a workload's figures, what they are compared with, and what the ratio must reach. The workloads
that the rows need run a few times, in a new directory each time; a row's value is the median of the
repetitions, and its spread is the lowest and the highest of them. Of several figures in one row the worst
counts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, Final

from rich.table import Table
from rich.text import Text

from tests.benchmarks.measure import BEST, FLOORS, Figure, Report
from tests.benchmarks.report import console_for
from tests.benchmarks.run import Run, run_workload
from tests.benchmarks.workloads import WORKLOADS

LAST: Final = "last column"
"""As `Row.over`: the figure's last column, which is the small or the undisturbed one."""


@dataclass(frozen=True)
class Row:
    """One goal.

    Args:
        title: what is done, in the words of the table.
        workload: its name.
        figures: what the labels of its figures, with their units, have in them.
        must: the least ratio; without `over`, the bound of the first column itself.
        over: a column, BEST of the peers, or LAST; None compares with nothing.
        but: a peer that has a row of its own.
        most: whether `must` is an upper bound; only without `over`.
    """

    title: str
    workload: str
    figures: str
    must: float
    over: str | None = BEST
    but: str = ""
    most: bool = False

    def measured(self, reports: Iterable[Report]) -> tuple[float, str] | None:
        """Return the value of one run and what it was compared with; None if there is no such figure."""
        found = [
            value
            for report in reports
            if report.workload == self.workload
            for figure in report.figures
            if self.is_about(figure) and (value := self._value(figure)) is not None
        ]
        return min(found) if found else None

    def is_about(self, figure: Figure) -> bool:
        return self.figures in f"{figure.label}, {figure.unit}"

    def _value(self, figure: Figure) -> tuple[float, str] | None:
        if self.over is None:
            return figure.median(figure.first), ""
        ratios = {name: ratio for name, ratio in figure.ratios().items() if name != self.but}
        if self.over == BEST:
            ratios = {name: ratio for name, ratio in ratios.items() if name not in FLOORS}
        elif ratios:
            name = list(ratios)[-1] if self.over == LAST else self.over
            ratios = {name: ratios[name]} if name in ratios else {}
        return min(((ratio, name) for name, ratio in ratios.items()), default=None)

    def is_reached(self, value: float) -> bool:
        return value <= self.must if self.most else value >= self.must


_SPREAD: Final = "read a stream spread over the log (by events"
ROWS: Final = (
    Row("bulk, uuid4 ids", "bulk", "append, uuid4 ids", 3, but="rocksdb"),
    Row("bulk, uuid4 ids, beside RocksDB", "bulk", "append, uuid4 ids", 2, "rocksdb"),
    Row("bulk, uuid7 ids", "bulk", "append, uuid7 ids", 2),
    Row("full scan", "scan", "full scan", 1.5),
    Row("random whole streams", "streams", "random streams", 1.3),
    Row("streams of 20, call by call", "short_streams", "a whole stream", 1.2, "sqlite"),
    Row("a million-event stream: first page", "one_stream", "its first page", 1),
    Row("a million-event stream: last page", "one_stream", "its last page", 1),
    Row("a million-event stream: middle page", "one_stream", "pages from its middle", 1),
    Row("a batch sent again", "resend", "a batch sent again", 1),
    Row("many processes, durable single appends", "durable", "processes, together", 1.1),
    Row("the same, of a plain synced file", "durable", "processes, together", 0.8, "json-lines"),
    Row("many processes, worst wait", "durable", "processes, worst wait", 1),
    Row("latency: append called → seen", "latency", "append called", 1.2),
    Row("command: append, beside a bare Typer program", "command", "append, ", 1.5, "typer"),
    Row("command: read the last 10, beside the same", "command", "read the last 10, ", 1.5, "typer"),
    Row("followers beside one writer", "live", "single appends beside followers", 0.85, LAST),
    Row("a batch of 1,000: largest store of smallest", "growth", "explicit ids (by events", 0.5, LAST),
    Row("cold look-up: 100 sealed segments of 1", "cold", "open, ", 0.5, LAST),
    Row("read a stream spread: largest store of smallest", "growth", _SPREAD, 0.5, LAST),
    Row("conditional appends, one writer", "conditions", "1 writer, conditional appends", 1),
    Row("conditional appends, many writers", "conditions", "writers, conditional appends", 1),
    Row("verify, small events", "verify", "verify, small events", 0.15, "crc+sha256"),
    Row("verify, large events", "verify", "verify, large events", 0.6, "crc+sha256"),
    Row("compact, small events, MB/s", "compact", " a stream, MB/s", 200, None),
    Row("compact, the lock's longest hold, ms", "compact", "longest hold", 10, None, most=True),
    Row("compressed: streams at random, of plain", "compress", "streams at random", 0.4, LAST),
    Row("csv output, of JSON output", "forms", "-o csv", 0.5, LAST),
    Row("memory, of SQLite's", "memory", "memory of the process", 1.3, "sqlite"),
)


@dataclass
class Outcome:
    """A row with its value in each repetition, and what it was compared with last."""

    row: Row
    values: list[float]
    beside: str

    @property
    def is_reached(self) -> bool | None:
        return self.row.is_reached(median(self.values)) if self.values else None


def run_table(
    make_run: Callable[[Path], Run], directory: Path, repetitions: int, say: Callable[[str], None]
) -> list[Outcome]:
    """Run the workloads of the rows, each `repetitions` times, and return what each row reached.

    Args:
        say: is told each value as soon as it is measured, and which workload failed: its rows have one
            value less.
    """
    outcomes = [Outcome(row, [], row.over or "") for row in ROWS]
    names = dict.fromkeys(name for name in WORKLOADS if any(row.workload == name for row in ROWS))
    for number in range(1, repetitions + 1):
        folder = directory / f"repetition-{number}"
        folder.mkdir(mode=0o711)
        run = make_run(folder)
        for name in names:
            try:
                report = run_workload(name, run)
            except Exception as error:  # noqa: BLE001 - what was measured until then is not thrown away
                say(f"{number}/{repetitions} {name}: failed: {error!r}")
                continue
            for outcome in outcomes:
                found = outcome.row.measured([report])
                if found is not None:
                    value, outcome.beside = found
                    outcome.values.append(value)
                    say(f"{number}/{repetitions} {outcome.row.title}: {value:.3g} {outcome.beside}")
        shutil.rmtree(folder)
    return outcomes


def print_outcomes(outcomes: Sequence[Outcome], file: IO[str] | None = None) -> None:
    """Print the table: red is what falls short."""
    table = Table("", pad_edge=False)
    for name in ("must reach", "today", "spread"):
        table.add_column(name, justify="right")
    table.add_column("beside")
    for outcome in outcomes:
        row, values = outcome.row, outcome.values
        must = f"{'≤' if row.most else '≥'} {row.must:g}"
        style = {True: "green", False: "bold red", None: ""}[outcome.is_reached]
        today = Text(f"{median(values):.3g}" if values else "not measured", style=style)
        spread = f"{min(values):.3g}…{max(values):.3g}" if len(values) > 1 else ""
        table.add_row(row.title, must, today, spread, outcome.beside)
    console = console_for(file)
    console.print(table)
    reached = sum(outcome.is_reached or False for outcome in outcomes)
    console.print(f"{reached} of {len(outcomes)} reached; ratios: above 1 evlog is ahead", style="dim")


def outcomes_json(outcomes: Sequence[Outcome], machine: dict[str, str], size: str) -> str:
    """Return the table as one JSON object on one line."""
    rows = [
        {
            "row": outcome.row.title,
            "must": outcome.row.must,
            "at_least": not outcome.row.most,
            "values": outcome.values,
            "beside": outcome.beside,
            "reached": outcome.is_reached,
        }
        for outcome in outcomes
    ]
    return json.dumps({"size": size, "machine": machine, "table": rows})
