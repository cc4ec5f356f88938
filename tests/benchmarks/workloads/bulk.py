"""Bulk append: batches of 1,000, durable each, an id each; then what the files occupy.

Slices of batches take turns between the peers, each with nothing of the others' left to be written. A sample
is a whole build, so that checkpoints and rolls are in it; the checkpoint at the end is shown apart. The
stores stay for the workloads that read.
"""

from __future__ import annotations

import os
from functools import partial
from itertools import islice
from pathlib import Path

from tests.benchmarks.dataset import BATCH_EVENTS, Batch, Dataset
from tests.benchmarks.measure import BEST, Figure, Report, Target, disk_bytes, seconds_of
from tests.benchmarks.peers import Peer
from tests.benchmarks.run import Run

_SLICE = 50


def run(run: Run) -> Report:
    """Append `sizes.bulk` events to each peer with random ids, then a fifth with ids in order of time."""
    events, streams = run.sizes.bulk, run.sizes.bulk_streams
    title = f"append, batches of {BATCH_EVENTS:,}, {events:,} events, {streams:,} streams"
    report = Report("bulk", title, settings=run.settings())
    append: dict[str, list[float]] = {name: [] for name in run.peers}
    settled: dict[str, list[float]] = {name: [] for name in run.peers}
    size: dict[str, list[float]] = {name: [] for name in run.peers}
    for _ in range(run.sizes.bulk_rounds):
        directories = run.fresh("bulk", run.peers)
        for name, (seconds, settling) in _build(run, run.bulk_dataset(), directories).items():
            append[name].append(events / seconds)
            settled[name].append(events / (seconds + settling))
            size[name].append(disk_bytes(directories[name]) / events)
            run.keep_filled(name, directories[name])
    ordered = Dataset(max(1, events // 5 // BATCH_EVENTS) * BATCH_EVENTS, streams, "uuid7")
    built = _build(run, ordered, run.fresh("bulk-ordered", run.peers))
    in_order = {name: [ordered.events / seconds] for name, (seconds, _) in built.items()}
    report.figures = [
        Figure("append, uuid4 ids", "events/s", append, Target(3.0, at_least=True, over=BEST)),
        Figure("append, and the last checkpoint", "events/s", settled),
        Figure("on disk", "bytes/event", size),
        Figure(f"append, uuid7 ids, {ordered.events:,} events", "events/s", in_order),
    ]
    return report


def _build(run: Run, dataset: Dataset, directories: dict[str, Path]) -> dict[str, tuple[float, float]]:
    """Fill stores of every peer; the seconds that the appends took, and the last checkpoint."""
    with run.opened(directories) as peers:
        seconds = append_in_turns(peers, dataset)
        return {name: (seconds[name], seconds_of(peer.settle)) for name, peer in peers.items()}


def append_in_turns(peers: dict[str, Peer], dataset: Dataset) -> dict[str, float]:
    """Give all of the dataset to every peer; the seconds that the appends of each took."""
    seconds = dict.fromkeys(peers, 0.0)
    batches = dataset.batches()
    turn = 0
    while batch_slice := list(islice(batches, _SLICE)):
        turn += 1
        for name in list(peers)[:: 1 if turn % 2 else -1]:
            os.sync()  # else a sync may have to wait for what other processes wrote
            seconds[name] += seconds_of(partial(_append_all, peers[name], batch_slice))
    return seconds


def _append_all(peer: Peer, batches: list[Batch]) -> None:
    for batch in batches:
        peer.append(batch)
