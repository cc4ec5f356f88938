"""`compact --compress`: how much smaller logs get and how fast, and what reading them compressed costs.

The same store, plain ("plain") and compressed ("compressed"), side by side, page cache warm. Two ways of
being laid out matter: a scan unpacks each block once, a stream whose events are spread over the log a block
for each of them. The payload of these benchmarks is half random hex digits, which shrink to half at best.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import evlog
from evlog import EventStore
from tests.benchmarks.dataset import Dataset
from tests.benchmarks.measure import Figure, Report, take_turns
from tests.benchmarks.run import Run

_SEGMENTS = 6


def run(run: Run) -> Report:
    """Fill a store, compress a copy, and read both."""
    dataset = run.bulk_dataset()
    plain = _fill(run, dataset)
    packed = plain.with_name("compressed")
    shutil.copytree(plain, packed)
    report = Report(
        "compress", f"{dataset.events:,} events of 100 bytes, {dataset.streams:,} streams, spread at random"
    )
    report.settings = {"evlog": {"segments": f"{_SEGMENTS}, of which the last is plain"}}
    with evlog.open(plain) as one, evlog.open(packed) as other:
        start = time.perf_counter()
        done = other.compact(compress=True)
        seconds = time.perf_counter() - start
        share = 100 * done.compressed_bytes / max(1, done.uncompressed_bytes)
        report.figures += [
            Figure("compressing", "MB/s", {"evlog": [done.uncompressed_bytes / 1e6 / seconds]}),
            Figure("log left", "% of bytes", {"evlog": [share]}),
        ]
        stores = {"compressed": other, "plain": one}
        rng = random.Random(5)
        names = [f"order-{rng.randrange(dataset.streams)}" for _ in range(run.sizes.stream_reads)]
        report.figures += [
            _compare(run, "scan", stores, _scan),
            _compare(run, "scan backwards", stores, partial(_scan, reverse=True)),
            _compare(run, "streams at random", stores, partial(_read, names)),
        ]
    return report


def _fill(run: Run, dataset: Dataset) -> Path:
    path = run.fresh_directory("compress") / "plain"
    with evlog.open(path, create=True, segment_events=max(1000, dataset.events // _SEGMENTS)) as store:
        for batch in dataset.batches():
            encoded = [(item.type, item.id, 0, item.data, None) for item in batch]
            store.append_encoded([item.stream for item in batch], encoded)
    return path


def _compare(
    run: Run, label: str, stores: dict[str, EventStore], read: Callable[[EventStore], int]
) -> Figure:
    columns = {name: partial(_rate, read, store) for name, store in stores.items()}
    return Figure(label, "events/s", take_turns(run.sizes.rounds, columns))


def _rate(read: Callable[[EventStore], int], store: EventStore) -> float:
    start = time.perf_counter()
    events = read(store)
    return events / (time.perf_counter() - start)


def _scan(store: EventStore, *, reverse: bool = False) -> int:
    deque(store.read_all(reverse=reverse), 0)
    return store.head


def _read(names: list[str], store: EventStore) -> int:
    return sum(sum(1 for _ in store.read(name)) for name in names)
