"""A first look-up in a store that was just opened, by the number of its sealed segments.

The same events in one sealed segment and in a hundred, with a few more in the active one. A sample opens the
store and asks once, as a shell command does, without Python's start. Page cache warm.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final
from uuid import UUID

import evlog
from evlog import EventStore
from tests.benchmarks.dataset import Dataset
from tests.benchmarks.measure import Figure, Report, Target, count, seconds_of, take_turns
from tests.benchmarks.run import Run

_MANY: Final = 100
_OPENED: Final = 10  # times for one sample


def run(run: Run) -> Report:
    """Fill both stores, then take turns; the store of many segments comes first."""
    events = run.sizes.small
    dataset = Dataset(events, max(1, events // 10), layout="even")
    stores = {
        f"{_MANY} segments": _fill(run, dataset, events // _MANY),
        "1 segment": _fill(run, dataset, events),
    }
    rng = random.Random(9)
    names = [f"order-{rng.randrange(dataset.streams)}" for _ in range(run.sizes.stream_reads)]
    ids = [UUID(bytes=item.id) for batch in dataset.batches() for item in batch]
    report = Report("cold", f"open a store of {events:,} events and ask once, by its sealed segments")
    report.settings = {"evlog": {"page cache": "warm", "sync": "always"}}
    asks: dict[str, Callable[[EventStore], object]] = {
        "version of a stream": lambda store: store.stream_version(rng.choice(names)),
        "version of a stream that is not there": lambda store: store.stream_version(f"no-{rng.random()}"),
        "an event by its id": lambda store: store.get(rng.choice(ids)),
        "the last event of a stream": lambda store: count(
            store.read(rng.choice(names), reverse=True, limit=1)
        ),
    }
    for label, ask in asks.items():
        columns = {name: partial(_sample_us, path, ask) for name, path in stores.items()}
        take_turns(1, columns)
        target = Target(2.0, at_least=False, over="1 segment")
        samples = take_turns(3 * run.sizes.rounds, columns)
        report.figures.append(Figure(f"open, {label}", "µs", samples, target))
    return report


def _fill(run: Run, dataset: Dataset, segment_events: int) -> Path:
    path = run.fresh_directory("cold") / "store"
    with evlog.open(path, create=True, sync="none", segment_events=segment_events) as store:
        for batch in dataset.batches():
            for first in range(0, len(batch), segment_events):
                part = batch[first : first + segment_events]
                encoded = [(item.type, item.id, 0, item.data, None) for item in part]
                store.append_encoded([item.stream for item in part], encoded)
        store.append("other-1", [evlog.NewEvent("Later")])
    return path


def _sample_us(path: Path, ask: Callable[[EventStore], object]) -> float:
    def work() -> None:
        for _ in range(_OPENED):
            with evlog.open(path) as store:
                ask(store)

    return 1e6 * seconds_of(work) / _OPENED
