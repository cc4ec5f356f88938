"""Timing and its results: samples, medians, ratios, targets. Knows no peer, no workload and no terminal.

The machine may be shared, and its speed may change by the second: what is compared is measured in turns,
sample i of one column right beside sample i of the other, and a ratio is the median of the ratios of such
pairs. Every ratio says how many times as good the first column is: above 1 it is ahead, whether the unit
is a rate (`…/s`, more is better) or a cost (anything else, less is better).
"""

from __future__ import annotations

import gc
import itertools
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

BEST: Final = "best"
"""As `Target.over`: the best of the other columns, but for the floors."""
FLOORS: Final = frozenset({"json-lines", "write+fdatasync", "sqlite-normal"})
"""Columns that do less than what is compared: they look nothing up, or are not durable on return."""


@dataclass(frozen=True)
class Target:
    """What is asked of a figure: of its first column, or of the ratio of that to another column.

    Args:
        value: the bound; of a ratio of costs, first column over the other, as in "at most 1.2 times".
        at_least: whether the bound is a lower one.
        over: the other column, or BEST.
    """

    value: float
    at_least: bool
    over: str | None = None

    @property
    def _bound(self) -> float:
        """The bound as `Figure.ratio` counts: at most 1.2 times the cost is at least 0.83 times as good."""
        return self.value if self.at_least or self.over is None else 1 / self.value

    def is_met(self, measured: float) -> bool:
        if self.over is not None:
            return measured >= self._bound
        return measured >= self.value if self.at_least else measured <= self.value

    def __str__(self) -> str:
        if self.over is not None:
            return f"≥ {self._bound:.3g}× {self.over}"
        return f"{'≥' if self.at_least else '≤'} {self.value:,.4g}"


@dataclass(frozen=True)
class Figure:
    """One measured thing: samples by column (a peer, a size, a program); the first column is ours."""

    label: str
    unit: str
    samples: dict[str, list[float]]
    target: Target | None = None
    also: Target | None = None

    @property
    def first(self) -> str:
        return next(iter(self.samples))

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return self.unit.endswith("/s")

    @property
    def targets(self) -> list[Target]:
        return [target for target in (self.target, self.also) if target is not None]

    def median(self, column: str) -> float:
        return median(self.samples[column])

    def ratio(self, over: str) -> float:
        """Return how many times as good as another column the first is: the median over pairs of samples."""
        pairs = zip(self.samples[self.first], self.samples[over], strict=False)
        if self.is_rate:
            return median(_quotient(ours, theirs) for ours, theirs in pairs)
        return median(_quotient(theirs, ours) for ours, theirs in pairs)

    def ratios(self) -> dict[str, float]:
        return {name: self.ratio(name) for name in self.samples if name != self.first}

    def is_met(self, target: Target | None = None) -> bool | None:
        """Return whether a target (default: all) is met; None without one, or with nothing to compare."""
        if target is None:
            verdicts = [self.is_met(each) for each in self.targets]
            known = [verdict for verdict in verdicts if verdict is not None]
            return all(known) if known else None
        if target.over is None:
            return target.is_met(self.median(self.first))
        ratios = self.ratios()
        if target.over == BEST:
            rivals = [ratio for name, ratio in ratios.items() if name not in FLOORS]
            return target.is_met(min(rivals)) if rivals else None
        ratio = ratios.get(target.over)
        return None if ratio is None else target.is_met(ratio)


def _quotient(over: float, under: float) -> float:
    return over / under if under else float("inf") if over else 1.0


@dataclass
class Report:
    """What one workload found."""

    workload: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    settings: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


def seconds_of(work: Callable[[], object]) -> float:
    """Return the wall time of one call, in which the garbage collector looks at no older object."""
    gc.collect(1)  # a full collection would cost more than most of what is measured
    gc.freeze()  # what other peers imported or hold would be looked at in the time of this one
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def mean_us(call: Callable[[], object], times: int) -> float:
    """Return the wall time of one call in microseconds, as the mean of some calls."""
    os.sync()  # or they would wait for what others wrote

    def repeat() -> None:
        for _ in range(times):
            call()

    return seconds_of(repeat) / times * 1e6


def take_turns(
    rounds: int, columns: Mapping[str, Callable[[], float]], patience_seconds: float = float("inf")
) -> dict[str, list[float]]:
    """Return samples of each column, one of each per round; every other round goes backwards.

    A column that has taken longer than `patience_seconds` is left out of the rounds that follow.
    """
    samples: dict[str, list[float]] = {name: [] for name in columns}
    spent = dict.fromkeys(columns, 0.0)
    for number in range(rounds):
        for name in list(columns)[:: 1 if number % 2 == 0 else -1]:
            if spent[name] <= patience_seconds:
                start = time.perf_counter()
                samples[name].append(columns[name]())
                spent[name] += time.perf_counter() - start
    return samples


def count(items: Iterable[object]) -> int:
    """Make each of them, at the least cost to the measurement, and return how many there are."""
    counter = itertools.count()
    deque(zip(items, counter, strict=False), maxlen=0)
    return next(counter)


def disk_bytes(directory: Path) -> int:
    """Return what the files of a directory occupy on disk, as `du` counts it."""
    return sum(512 * path.stat().st_blocks for path in directory.rglob("*") if path.is_file())


def file_count(directory: Path) -> int:
    return sum(1 for path in directory.rglob("*") if path.is_file())


def describe_machine(directory: Path) -> dict[str, str]:
    """Return the machine and its speed now, to compare with figures of another time."""
    import msgpack

    packer = msgpack.Packer()
    record = (1, 1, "order-123", "OrderPlaced", bytes(16), 1, 0, bytes(100), None)
    packs = [seconds_of(lambda: [packer.pack(record) for _ in range(20_000)]) for _ in range(5)]
    path = directory / "sync"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)

    def write_and_sync() -> None:
        os.write(descriptor, bytes(200))
        os.fdatasync(descriptor)

    try:
        syncs = [seconds_of(write_and_sync) for _ in range(30)]
    finally:
        os.close(descriptor)
        path.unlink()
    system = os.uname()
    return {
        "system": f"{system.sysname} {system.release} {system.machine}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "one msgpack record packed": f"{min(packs) / 20_000 * 1e6:.2f} µs",
        "one write of 200 bytes and its fdatasync": f"{median(syncs) * 1e3:.2f} ms",
    }
