"""Single durable appends with an expected version: by one process, and by many at once, each to its stream.

The plain file gets a line with `write` and `fdatasync`, which is the floor. Of many processes each runs for
the same short time, started together; the peers take turns. Before that each appends for half that time: what
a process does once (imports, connections) is no part of a rate or of the worst wait.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from tests.benchmarks.dataset import Item
from tests.benchmarks.measure import BEST, Figure, Report, Target, mean_us, take_turns
from tests.benchmarks.peers import PEERS, Peer
from tests.benchmarks.run import Run
from tests.benchmarks.together import run_together

_SLICE: Final = 50
_DATA: Final = b'{"amount":10,"note":"' + b"x" * 77 + b'"}'

Appender = Callable[[], object]


def _appender(peer: Peer, number: int) -> Appender:
    """Return what appends to the stream of process `number`, each time under the version that it has."""
    versions = iter(range(1 << 62))
    stream = f"account-{number}"
    return lambda: peer.append_one(Item(stream, "Deposited", os.urandom(16), _DATA), next(versions))


def run(run: Run) -> Report:
    """Measure one process, slices in turns; then many, a short time of each peer in turns."""
    report = Report("durable", f"durable appends of one event, by 1 and by {run.sizes.processes} processes")
    report.settings = run.settings()
    with run.opened(run.fresh("durable", run.peers)) as peers:
        appenders = {name: _appender(peer, 0) for name, peer in peers.items()}
        for append in appenders.values():
            mean_us(append, _SLICE)  # the first calls open files
        columns = {name: partial(mean_us, append, _SLICE) for name, append in appenders.items()}
        single = take_turns(max(1, run.sizes.single // _SLICE), columns)
    target = Target(1.2, at_least=False, over="json-lines")
    report.figures.append(Figure("1 process, each append", "µs", single, target))
    names = run.having("processes")
    directories = run.fresh("many", names)
    with run.served(directories):
        worst: dict[str, list[float]] = {name: [] for name in names}

        def many(name: str, round_: list[int]) -> float:
            round_[0] += 1
            rate, wait_ms = _many(
                name,
                directories[name],
                round_[0] * run.sizes.processes,
                run.sizes.processes,
                run.sizes.concurrent_seconds,
            )
            worst[name].append(wait_ms)
            return rate

        rates = take_turns(run.sizes.concurrent_rounds, {name: partial(many, name, [0]) for name in names})
    label = f"{run.sizes.processes} processes, together"
    targets = Target(1.0, at_least=True, over=BEST), Target(0.6, at_least=True, over="json-lines")
    report.figures.append(Figure(label, "appends/s", rates, *targets))
    report.figures.append(Figure(f"{run.sizes.processes} processes, worst wait of any", "ms", worst))
    return report


def _many(name: str, directory: Path, first: int, processes: int, seconds: float) -> tuple[float, float]:
    """Appends per second of all processes together, and the longest that any of them waited, in ms."""
    PEERS[name](directory).close()  # make the files, which is not measured
    arguments = [(name, directory, first + number, seconds) for number in range(processes)]
    outcomes = run_together(_work, arguments)
    return sum(count for count, _ in outcomes) / seconds, max(wait for _, wait in outcomes) * 1e3


def _work(
    name: str,
    directory: Path,
    number: int,
    seconds: float,
    wait: Callable[[], object],
) -> tuple[int, float]:
    peer = PEERS[name](directory)
    append = _appender(peer, number)
    warm = time.perf_counter() + seconds / 2
    while time.perf_counter() < warm:
        append()
    wait()
    count, worst, now = 0, 0.0, time.perf_counter()
    end = now + seconds
    while now < end:
        before = now
        append()
        now = time.perf_counter()
        count += 1
        worst = max(worst, now - before)
    peer.close()
    return count, worst
