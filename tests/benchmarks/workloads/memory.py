"""Memory: what a process holds at most that appends and then scans, and what its server held at most.

Each peer has a process to itself (see filling.py). Mapped files count while their pages are in memory. A
server's memory is looked at after every few batches.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from tests.benchmarks.dataset import Dataset
from tests.benchmarks.filling import fill_and_scan
from tests.benchmarks.measure import Figure, Report
from tests.benchmarks.peers import PEERS
from tests.benchmarks.run import Run
from tests.support.server import Server


def run(run: Run) -> Report:
    """Fill a store of each peer and scan it, in a process of its own."""
    report = Report("memory", f"at most, to append {run.sizes.memory:,} events and scan them (Python in it)")
    report.settings = run.settings()
    dataset = Dataset(run.sizes.memory, run.sizes.bulk_streams)
    client: dict[str, list[float]] = {}
    together: dict[str, list[float]] = {}
    for name, directory in run.fresh("memory", run.peers).items():
        with PEERS[name].serve(directory) as server:
            own, servers = _peak_mb(name, directory, dataset, server)
        client[name], together[name] = [own], [own + servers]
    report.figures.append(Figure("memory of the process", "MB", client))
    report.figures.append(Figure("memory, its server's too", "MB", together))
    return report


def _peak_mb(name: str, directory: Path, dataset: Dataset, server: Server | None) -> tuple[float, float]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=fill_and_scan, args=(name, directory, dataset, theirs))
    worker.start()
    highest = 0
    while (message := ours.recv()) < 0:
        highest = max(highest, server.memory_bytes() if server else 0)
        ours.send(0)
    worker.join()
    return message / 1e6, highest / 1e6
