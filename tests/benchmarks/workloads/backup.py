"""What eight writers notice of a backup: their longest append while one runs, and between two.

The store has sealed segments, and the copy has no links: the most that a backup has to do.
"""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Final

import evlog
from evlog import NewEvent
from tests.benchmarks.dataset import Dataset
from tests.benchmarks.measure import Figure, Report, Target
from tests.benchmarks.run import Run

_WRITERS: Final = 8
_PAUSE_SECONDS: Final = 0.5
_SEGMENT_BYTES: Final = 1 << 22


def run(run: Run) -> Report:
    """Back up a store again and again while eight processes append single events to it."""
    report = Report("backup", f"{_WRITERS} writers and a backup of {run.sizes.small:,} events")
    folder = run.fresh_directory("backup")
    path = str(folder / "store")
    with evlog.open(path, create=True, segment_bytes=_SEGMENT_BYTES) as store:
        for batch in Dataset(run.sizes.small, max(1, run.sizes.small // 100)).batches():
            store.append_many([(stream, [NewEvent(type, data, id=id)]) for stream, type, id, data in batch])
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(_WRITERS)]
    writers = [
        context.Process(target=_write, args=(path, number, theirs), daemon=True)
        for number, (_, theirs) in enumerate(pipes)
    ]
    for writer in writers:
        writer.start()
    for ours, _ in pipes:
        ours.recv()
    spans: dict[str, list[tuple[float, float]]] = {"backup": [], "between": []}
    seconds: dict[str, list[float]] = {"backup": []}
    for number in range(run.sizes.rounds):
        began = time.perf_counter()
        time.sleep(_PAUSE_SECONDS)
        middle = time.perf_counter()
        done = evlog.backup_store(path, folder / f"copy-{number}", links=False)
        ended = time.perf_counter()
        assert done.ok
        spans["between"].append((began, middle))
        spans["backup"].append((middle, ended))
        seconds["backup"].append(ended - middle)
    for ours, _ in pipes:
        ours.send(None)
    appends = [append for ours, _ in pipes for append in ours.recv()]
    for writer in writers:
        writer.join()
    longest = {
        name: [
            1e3 * max((took for at, took in appends if low <= at < high), default=0.0) for low, high in found
        ]
        for name, found in spans.items()
    }
    report.figures.append(Figure("longest append of a span", "ms", longest, Target(20.0, at_least=False)))
    report.figures.append(Figure("a backup, checked", "s", seconds))
    report.settings = {"evlog": {"writers": str(_WRITERS), "links": "no", "sync": "always"}}
    return report


def _write(path: str, number: int, pipe: Connection) -> None:
    """Append until told to stop; send when each append ended, and how long it took."""
    found: list[tuple[float, float]] = []
    with evlog.open(path) as store:
        store.append(f"w-{number}", [NewEvent("T", 0)])
        pipe.send(None)
        while not pipe.poll():
            before = time.perf_counter()
            store.append(f"w-{number}", [NewEvent("T", 1)])
            after = time.perf_counter()
            found.append((after, after - before))
    pipe.send(found)
