"""The ratios of a run as a chart: a group of marks for each figure, one for each peer, on a scale of powers.

matplotlib is imported only here, and only when a chart is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.benchmarks.measure import Report
from tests.benchmarks.peers import PEERS
from tests.benchmarks.programs import how_to_get_packages

FORMATS = (".png", ".svg")


def how_to_get_plots() -> str | None:
    """What to do to be able to plot; None when nothing."""
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
