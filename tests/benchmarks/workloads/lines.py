"""JSON lines in and out, as whole processes: `evlog append --lines < file` and `evlog read > file`."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.dataset import Dataset, json_line
from tests.benchmarks.measure import Figure, Report, Target
from tests.benchmarks.processes import Programs
from tests.benchmarks.run import Run


def run(run: Run) -> Report:
    """Append a file of lines to a new store, read it out, and append what came out to another store."""
    events = run.sizes.lines
    directory = run.fresh_directory("lines")
    programs = Programs(directory)
    source, read_out = directory / "in.jsonl", directory / "out.jsonl"
    with source.open("wb") as file:
        for batch in Dataset(events, run.sizes.bulk_streams).batches():
            file.writelines(map(json_line, batch))
    rates: dict[str, list[float]] = {"append": [], "read": [], "again": []}
    for number in range(run.sizes.lines_rounds):
        store, copy = directory / f"store-{number}", directory / f"copy-{number}"
        rates["append"].append(events / _append(programs, store, source))
        with read_out.open("wb") as out:
            rates["read"].append(events / programs.evlog("read", "--store", str(store), stdout=out))
        rates["again"].append(events / _append(programs, copy, read_out))
    _check(read_out, events)
    report = Report("lines", f"JSON lines in and out, {events:,} events, whole processes")
    report.settings = {
        "evlog": {"lines": "stream, type and data of 100 bytes; read's own output has an id too"}
    }
    report.figures = [
        Figure(
            "append --lines < file", "events/s", {"evlog": rates["append"]}, Target(150_000, at_least=True)
        ),
        Figure("read > file", "events/s", {"evlog": rates["read"]}, Target(300_000, at_least=True)),
        Figure("append --lines < what read wrote, with ids", "events/s", {"evlog": rates["again"]}),
    ]
    return report


def _append(programs: Programs, store: Path, source: Path) -> float:
    with source.open("rb") as file:
        return programs.evlog("append", "--lines", "--store", str(store), stdin=file)


def _check(read_out: Path, events: int) -> None:
    with read_out.open("rb") as file:
        found = sum(1 for _ in file)
    if found != events:
        raise RuntimeError(f"{read_out} has {found:,} lines, not {events:,}")
