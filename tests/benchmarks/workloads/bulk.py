"""Bulk append: batches of 1,000, durable each, an id each; then what the files occupy.

Slices of 20 batches take turns between the peers. A sample is a whole build, so that checkpoints and
rolls are in it; the checkpoint at the end is shown apart. The stores stay for the workloads that read.
"""

from __future__ import annotations

from functools import partial
from itertools import islice

from tests.benchmarks.dataset import BATCH_EVENTS, Batch, IdKind
from tests.benchmarks.measure import BEST, Figure, Report, Target, disk_bytes, seconds_of
from tests.benchmarks.peers import Peer
from tests.benchmarks.run import Run

_SLICE = 20


def run(run: Run) -> Report:
    """Append `sizes.bulk` events to each peer, with random ids and with ids in order of time."""
    title = (
        f"append, batches of {BATCH_EVENTS:,}, {run.sizes.bulk:,} events, {run.sizes.bulk_streams:,} streams"
    )
    report = Report("bulk", title, settings=run.settings())
    kinds: dict[IdKind, int] = {"uuid4": run.sizes.bulk_rounds, "uuid7": 1}
    for ids, rounds in kinds.items():
        append: dict[str, list[float]] = {name: [] for name in run.peers}
        settled: dict[str, list[float]] = {name: [] for name in run.peers}
        size: dict[str, list[float]] = {name: [] for name in run.peers}
        for _ in range(rounds):
            for name, (seconds, settle_seconds, bytes_) in _build(run, ids).items():
                append[name].append(run.sizes.bulk / seconds)
                settled[name].append(run.sizes.bulk / (seconds + settle_seconds))
                size[name].append(bytes_ / run.sizes.bulk)
        target = Target(3.0, at_least=True, over=BEST) if ids == "uuid4" else None
        report.figures.append(Figure(f"append, {ids} ids", "events/s", append, target))
        if ids == "uuid4":
            report.figures.append(Figure("append, and the last checkpoint", "events/s", settled))
            report.figures.append(Figure("on disk", "bytes/event", size))
    return report


def _append_all(peer: Peer, batches: list[Batch]) -> None:
    for batch in batches:
        peer.append(batch)


def _build(run: Run, ids: IdKind) -> dict[str, tuple[float, float, int]]:
    directories = run.fresh(f"bulk-{ids}", run.peers)
    seconds = dict.fromkeys(directories, 0.0)
    settling = dict.fromkeys(directories, 0.0)
    with run.opened(directories) as peers:
        batches = run.bulk_dataset(ids).batches()
        turn = 0
        while batch_slice := list(islice(batches, _SLICE)):
            turn += 1
            for name in list(peers)[:: 1 if turn % 2 else -1]:
                seconds[name] += seconds_of(partial(_append_all, peers[name], batch_slice))
        for name, peer in peers.items():
            settling[name] = seconds_of(peer.settle)
    if ids == "uuid4":
        for name, directory in directories.items():
            run.keep_filled(name, directory)
    return {
        name: (seconds[name], settling[name], disk_bytes(directory))
        for name, directory in directories.items()
    }
