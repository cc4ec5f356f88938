"""Bulk append: batches of 1,000, durable at each, an id each; then what the files occupy.

Slices of 20 batches take turns between the peers. A sample is a whole build, so that checkpoints and
rolls are in it; the checkpoint at the end is shown apart. The stores stay for the workloads that read.
"""

from __future__ import annotations

from functools import partial
from itertools import islice

from tests.benchmarks.dataset import BATCH_EVENTS, Batch, IdKind
from tests.benchmarks.measure import Figure, Report, Target, disk_bytes, seconds_of
from tests.benchmarks.peers import Peer
from tests.benchmarks.run import Run

_SLICE = 20


def run(run: Run) -> Report:
    """Append `sizes.bulk` events to each peer, with random ids and with ids in order of time."""
    title = (
        f"append, batches of {BATCH_EVENTS:,}, {run.sizes.bulk:,} events, {run.sizes.bulk_streams:,} streams"
    )
    report = Report("bulk", title, settings={name: peer.settings() for name, peer in run.peers.items()})
    for ids, rounds in (("uuid4", run.sizes.bulk_rounds), ("uuid7", 1)):
        append: dict[str, list[float]] = {name: [] for name in run.peers}
        settled: dict[str, list[float]] = {name: [] for name in run.peers}
        size: dict[str, list[float]] = {name: [] for name in run.peers}
        for _ in range(rounds):
            for name, (seconds, settle_seconds, bytes_) in _build(run, ids).items():  # type: ignore[arg-type]
                append[name].append(run.sizes.bulk / seconds)
                settled[name].append(run.sizes.bulk / (seconds + settle_seconds))
                size[name].append(bytes_ / run.sizes.bulk)
        target = Target(3.0, at_least=True, over="sqlite") if ids == "uuid4" else None
        report.figures.append(Figure(f"append, {ids} ids", "events/s", append, target))
        report.figures.append(Figure(f"append, {ids} ids, and the last checkpoint", "events/s", settled))
        target = Target(1.0, at_least=False, over="sqlite")
        report.figures.append(Figure(f"on disk, {ids} ids", "bytes/event", size, target))
    return report


def _append_all(peer: Peer, batches: list[Batch]) -> None:
    for batch in batches:
        peer.append(batch)


def _build(run: Run, ids: IdKind) -> dict[str, tuple[float, float, int]]:
    directories = {name: run.fresh_directory(f"bulk-{ids}-{name}") for name in run.peers}
    peers = {name: run.peers[name](directory) for name, directory in directories.items()}
    seconds = dict.fromkeys(peers, 0.0)
    batches = run.bulk_dataset(ids).batches()
    turn = 0
    while batch_slice := list(islice(batches, _SLICE)):
        turn += 1
        for name in sorted(peers, reverse=turn % 2 == 0):
            seconds[name] += seconds_of(partial(_append_all, peers[name], batch_slice))
    results = {}
    for name, peer in peers.items():
        settle_seconds = seconds_of(peer.settle)
        peer.close()
        results[name] = (seconds[name], settle_seconds, disk_bytes(directories[name]))
        if ids == "uuid4":
            run.keep_filled(name, directories[name])
    return results
