"""What a run found: as tables for a person, or as one JSON object for a program. Ratios come first."""

from __future__ import annotations

import json
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.benchmarks.measure import Figure, Report


def to_json(reports: list[Report], machine: dict[str, str], size: str) -> str:
    """The whole run as one JSON object on one line."""
    return json.dumps(
        {"size": size, "machine": machine, "workloads": [_report_object(report) for report in reports]}
    )


def print_machine(machine: dict[str, str], size: str, file: IO[str] | None = None) -> None:
    """Where and how fast: one line for each."""
    console = Console(file=file, highlight=False)
    console.print(f"size: {size}; medians of repeated runs, the columns measured in turns")
    for name, value in machine.items():
        console.print(f"{name}: {value}", style="dim")


def print_report(report: Report, file: IO[str] | None = None) -> None:
    """One workload as a table, with the settings of what was measured under it."""
    columns = list(dict.fromkeys(name for figure in report.figures for name in figure.samples))
    table = Table(title=f"{report.workload}: {report.title}", title_justify="left", title_style="bold")
    for name in ("", "ratio", "asked", *columns, "unit"):
        table.add_column(name, justify="right" if name in {"ratio", "asked", *columns} else "left")
    for figure in report.figures:
        cells = [_column_cell(figure, name) for name in columns]
        asked = "" if figure.target is None else str(figure.target)
        table.add_row(figure.label, _ratio_cell(figure), asked, *cells, figure.unit)
    # In a pipe nothing knows how wide the reader's window is: a table is then as wide as it has to be.
    console = Console(file=file, highlight=False, width=None if file is None else 200)
    console.print(table)
    for name, settings in report.settings.items():
        console.print(
            f"{name}: " + "; ".join(f"{key} {value}" for key, value in settings.items()), style="dim"
        )
    for note in report.notes:
        console.print(note)
    console.print(f"took {report.seconds:.0f} s\n", style="dim")


def _ratio_cell(figure: Figure) -> Text:
    ratios = " ".join(
        f"{value:.2f}×" if len(figure.samples) == 2 else f"{value:.2f}× {name}"
        for name, value in figure.ratios().items()
    )
    style = {True: "green", False: "bold red", None: ""}[figure.is_met()]
    return Text(ratios or {True: "met", False: "missed", None: ""}[figure.is_met()], style=style)


def _column_cell(figure: Figure, name: str) -> str:
    if name not in figure.samples:
        return ""
    samples = figure.samples[name]
    text = _format(figure.median(name))
    return text if len(samples) == 1 else f"{text} ({_format(min(samples))}…{_format(max(samples))})"


def _format(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


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
        "ratios": figure.ratios(),
        "asked": None if figure.target is None else str(figure.target),
        "met": figure.is_met(),
        "medians": {name: figure.median(name) for name in figure.samples},
        "samples": figure.samples,
    }
