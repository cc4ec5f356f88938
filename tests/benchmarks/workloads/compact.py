"""`evlog compact` as a command: how fast it reads, and how much is left of a store most of which is hidden.

Ten events in a stream of which one stays, or a hundred of which ten stay: 90 % are hidden by the policy of a
category. Input is every byte of the segments' files. What is left of each event that went (its id, its
place) weighs the same whatever the event weighed, so small events are the hard case: 100 bytes of data, as
everywhere in these benchmarks, beside 1,000. For how long others wait is seen by a writer that goes on.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import evlog
from tests.benchmarks.dataset import Dataset
from tests.benchmarks.holding import Held, compact_beside_a_writer
from tests.benchmarks.measure import Figure, Report, Target
from tests.benchmarks.processes import Programs
from tests.benchmarks.run import Run

_ROUNDS = 3


def run(run: Run) -> Report:
    """Fill stores, hide nine events in ten, and compact copies of them."""
    report = Report("compact", "the command; 90 % of the events hidden, 100 bytes of data each unless said")
    report.settings = {"evlog": {"segments": "64 MiB or 262,144 events, as by default"}}
    events = run.sizes.bulk
    for per_stream in (10, 100):
        path = _fill(run, events, per_stream, 0)
        speed, left = _compact(run, path, _ROUNDS)
        label = f"{events:,} events, {per_stream} a stream"
        report.figures += [
            Figure(label, "MB/s", {"evlog": speed}, Target(200, at_least=True)),
            Figure(f"{label}: left", "% of bytes", {"evlog": left}, Target(15, at_least=False)),
        ]
        if per_stream == 10:
            report.figures += _hold(run, path)
    path = _fill(run, max(1000, events // 4 // 1000 * 1000), 10, 900)
    speed, left = _compact(run, path, 1)
    report.figures += [
        Figure("1,000 bytes of data", "MB/s", {"evlog": speed}, Target(150, at_least=True)),
        Figure("1,000 bytes of data: left", "% of bytes", {"evlog": left}, Target(15, at_least=False)),
    ]
    return report


def _fill(run: Run, events: int, per_stream: int, padding: int) -> Path:
    """Make a store of streams of which a tenth is to stay."""
    path = run.fresh_directory("compact") / "store"
    streams = max(1, events // per_stream)
    with evlog.open(path, create=True) as store:
        for batch in Dataset(events, streams).batches():
            encoded = [(item.type, item.id, 0, item.data + b" " * padding, None) for item in batch]
            store.append_encoded([item.stream for item in batch], encoded)
        store.set_retention(category="order", max_count=max(1, per_stream // 10))
    return path


def _copy(path: Path, copy: Path) -> Path:
    """Make a copy that is on the device, as a store is by then: else the first syncs would wait for it."""
    shutil.copytree(path, copy)
    os.sync()
    return copy


def _compact(run: Run, path: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Compact copies; return MB/s of input, and the percentage of bytes that is left, of each."""
    programs = Programs(run.fresh_directory("compact-programs"))
    programs.evlog("--store", str(path), "compact", "--dry-run")  # compiles the modules
    speeds, left = [], []
    for _ in range(rounds):
        copy = _copy(path, run.fresh_directory("compact-copy") / "store")
        before = _segment_bytes(copy)
        seconds = programs.evlog("--store", str(copy), "compact")
        speeds.append(before / 1e6 / seconds)
        left.append(100 * _segment_bytes(copy) / before)
        shutil.rmtree(copy.parent)
    return speeds, left


def _hold(run: Run, path: Path) -> list[Figure]:
    """For how long the writers' lock is held, and what one writer beside it notices of all."""
    held: list[Held] = []
    for _ in range(_ROUNDS):
        copy = _copy(path, run.fresh_directory("compact-held") / "store")
        held.append(compact_beside_a_writer(copy))
        shutil.rmtree(copy.parent)
    return [
        Figure(
            "writers' lock: longest hold",
            "ms",
            {"evlog": [each.longest_hold for each in held]},
            Target(10, at_least=False),
        ),
        Figure("writers' lock: all holds together", "ms", {"evlog": [each.all_holds for each in held]}),
        Figure("a writer beside it: longest append", "ms", {"evlog": [each.longest_append for each in held]}),
    ]


def _segment_bytes(store: Path) -> int:
    return sum(path.stat().st_size for path in (store / "segments").iterdir())
