"""The ratios of a run as a chart, on a scale of powers.

Of figures it is a picture, a group of marks for each, one for each peer: matplotlib is imported only here,
and only when one is asked for. Of goals it is a text, a line for each, which fits a terminal and the guide.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.benchmarks.measure import Report
from tests.benchmarks.peers import PEERS
from tests.benchmarks.programs import how_to_get_packages
from tests.benchmarks.table import Outcome

FORMATS = (".png", ".svg")
TEXT_FORMAT = ".txt"
_DECADE: Final = 12  # columns between 0.1 and 1, and between 1 and 10


def how_to_get_plots() -> str | None:
    """Return what to install to be able to plot; None if nothing is missing."""
    return how_to_get_packages("matplotlib")


def save_plot(reports: list[Report], path: Path) -> None:
    """Write the chart; its format is that of the name."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    rows = [
        (f"{figure.label}, {figure.unit}", ratios)
        for report in reports
        for figure in report.figures
        if (ratios := {name: value for name, value in figure.ratios().items() if name in PEERS})
    ]
    figure, axes = plt.subplots(figsize=(10, 1.5 + 0.42 * max(1, len(rows))), layout="constrained")
    _draw(axes, rows)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper center", ncols=5)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw(axes: Any, rows: list[tuple[str, dict[str, float]]]) -> None:
    markers = "osD^vP*Xhd"
    for number, name in enumerate(list(PEERS)[1:]):
        points = [(ratios[name], row) for row, (_, ratios) in enumerate(rows) if name in ratios]
        if points:
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, ys, markers[number % len(markers)], label=name, alpha=0.8)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.invert_yaxis()
    axes.grid(visible=True, alpha=0.3)
    axes.set_xlabel("times as good as the peer; right of the line evlog is ahead")


def goals_chart(outcomes: Sequence[Outcome]) -> str:
    """Return a line of text for each goal that is a ratio: what was reached (●), asked (○), or both (◉)."""
    shown = [outcome for outcome in outcomes if outcome.row.over is not None and outcome.values]
    width = max((len(outcome.row.title) for outcome in shown), default=0)
    scale = f"{'0.1':<{_DECADE}}{'1':<{_DECADE}}10"
    lines = [f"{'':{width + 6}} {scale}"]
    for outcome in shown:
        reached, asked = median(outcome.values), outcome.row.must
        cells = list(" " * (2 * _DECADE + 1))
        cells[_DECADE] = "│"
        cells[_column(asked)] = "○"
        cells[_column(reached)] = "◉" if _column(asked) == _column(reached) else "●"
        lines.append(f"{outcome.row.title:{width}} {reached:5.2f} {''.join(cells)}".rstrip())
    return "\n".join(lines) + "\n"


def _column(ratio: float) -> int:
    """Return where a ratio is on the scale; one beyond an end is drawn at the end."""
    return round(min(max(log10(ratio) + 1, 0), 2) * _DECADE)
