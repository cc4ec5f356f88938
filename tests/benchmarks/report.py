"""What a run found: as a table for a person, or as one JSON object for a program. Ratios come first.

A figure that peers share is a row of the table, a peer a column; a cell says how many times as good evlog is,
and then what the peer's own figure was. What evlog is compared with besides (itself at another size, a bare
program) follows under it in rows of their own kind.
"""

from __future__ import annotations

import json
from math import inf, isfinite
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.benchmarks.measure import Figure, Report
from tests.benchmarks.peers import PEERS

_PIPE_WIDTH = 200  # in a pipe nothing knows how wide the reader's window is


def to_json(
    reports: list[Report], machine: dict[str, str], size: str, skipped: dict[str, str] | None = None
) -> str:
    """Return the whole run as one JSON object on one line."""
    weaker = {name: peer.weaker for name, peer in PEERS.items() if peer.weaker}
    return json.dumps(
        {
            "size": size,
            "machine": machine,
            "skipped": skipped or {},
            "weaker": weaker,
            "workloads": [_report_object(report) for report in reports],
        }
    )


def print_machine(
    machine: dict[str, str], size: str, skipped: dict[str, str], file: IO[str] | None = None
) -> None:
    """Print the machine and its speed, and which peers are missing: one line for each."""
    console = console_for(file)
    console.print(f"size: {size}; medians of repeated runs, the columns measured in turns")
    for name, value in machine.items():
        console.print(f"{name}: {value}", style="dim")
    for name, how in skipped.items():
        console.print(f"skipped: {name}; to have it: {how}", style="yellow")


def print_table(reports: list[Report], file: IO[str] | None = None) -> None:
    """Print all of a run: the table, what evlog alone was measured for, and the settings of everything."""
    console = console_for(file)
    shared = [figure for report in reports for figure in report.figures if _is_shared(figure)]
    if shared:
        console.print(_shared_table(reports))
        console.print("× above 1: evlog is ahead. Red: behind.\n", style="dim")
    if any(not _is_shared(figure) for report in reports for figure in report.figures):
        console.print(_own_table(reports))
    _print_settings(console, reports)


def console_for(file: IO[str] | None) -> Console:
    width = None if file is None else _PIPE_WIDTH
    return Console(file=file, highlight=False, markup=False, width=width)  # `.[bench]` is no colour


def _is_shared(figure: Figure) -> bool:
    return sum(name in PEERS for name in figure.samples) > 1


def _shared_table(reports: list[Report]) -> Table:
    figures = [figure for report in reports for figure in report.figures if _is_shared(figure)]
    seen = {name for figure in figures for name in figure.samples}
    columns = [name for name in PEERS if name in seen] + sorted(seen - set(PEERS))
    table = Table(show_lines=True, pad_edge=False)
    for name in ("", "asked", *columns):
        table.add_column(name, justify="left" if name in {"", "asked"} else "right")
    for report in reports:
        rows = [figure for figure in report.figures if _is_shared(figure)]
        if rows:
            table.add_section()
        for number, figure in enumerate(rows):
            label = Text()
            if not number:
                label.append(report.workload, style="bold").append(f": {report.title}\n")
            label.append(f"{figure.label}, ").append(figure.unit, style="dim")
            table.add_row(label, _asked(figure), *(_cell(figure, name) for name in columns))
    return table


def _cell(figure: Figure, name: str) -> Text:
    if name not in figure.samples:
        return Text("")
    value = _format(figure.median(name))
    if name == figure.first:
        return Text(f"\n{value}", style="bold")
    ratio = figure.ratio(name)
    shown = "∞" if ratio == inf else f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}"
    cell = Text(f"{shown}×", style="green" if ratio >= 1 else "red")
    return cell.append(f"\n{value}", style="dim")


def _own_table(reports: list[Report]) -> Table:
    table = Table(pad_edge=False)
    for name in ("evlog alone, and beside floors", "unit", "asked", "ratios", "medians"):
        table.add_column(name)
    for report in reports:
        rows = [figure for figure in report.figures if not _is_shared(figure)]
        if rows:
            table.add_section()
            table.add_row(Text(f"{report.workload}: {report.title}", style="bold"))
        for figure in rows:
            ratios = ", ".join(f"{value:.2f}× {name}" for name, value in figure.ratios().items())
            medians = ", ".join(f"{name} {_spread(figure, name)}" for name in figure.samples)
            table.add_row(figure.label, figure.unit, _asked(figure), ratios, medians)
    return table


def _asked(figure: Figure) -> Text:
    lines = [
        Text(f"{target}", style={True: "green", False: "bold red", None: ""}[figure.is_met(target)])
        for target in figure.targets
    ]
    return Text("\n").join(lines)


def _spread(figure: Figure, name: str) -> str:
    samples = figure.samples[name]
    text = _format(figure.median(name))
    return text if len(samples) == 1 else f"{text} ({_format(min(samples))}…{_format(max(samples))})"


def _print_settings(console: Console, reports: list[Report]) -> None:
    said: set[str] = set()
    for report in reports:
        for name, settings in report.settings.items():
            line = f"{name}: " + "; ".join(f"{key} {value}" for key, value in settings.items())
            if line not in said:
                console.print(line, style="dim")
                said.add(line)
                if name in PEERS and PEERS[name].weaker and name not in said:
                    console.print(f"  weaker than evlog: {PEERS[name].weaker}", style="dim")
                    said.add(name)
    for report in reports:
        for note in report.notes:
            console.print(f"{report.workload}: {note}")
    took = ", ".join(f"{report.workload} {report.seconds:.0f} s" for report in reports)
    console.print(f"took {sum(report.seconds for report in reports):.0f} s: {took}", style="dim")


def _format(value: float) -> str:
    if value >= 100_000:
        return f"{value / 1000:,.0f}k"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _report_object(report: Report) -> dict[str, Any]:
    return {
        "workload": report.workload,
        "title": report.title,
        "seconds": round(report.seconds, 1),
        "figures": [_figure_object(figure) for figure in report.figures],
        "settings": report.settings,
        "notes": report.notes,
    }


def _figure_object(figure: Figure) -> dict[str, Any]:
    return {
        "label": figure.label,
        "unit": figure.unit,
        "ratios": {name: ratio if isfinite(ratio) else None for name, ratio in figure.ratios().items()},
        "asked": [{"target": str(target), "met": figure.is_met(target)} for target in figure.targets],
        "medians": {name: figure.median(name) for name in figure.samples},
        "samples": figure.samples,
    }
