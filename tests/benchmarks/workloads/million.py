"""A million streams of one event each: how many files, and what it costs to look around in them."""

from __future__ import annotations

import random

import evlog
from tests.benchmarks.dataset import Batch, Dataset
from tests.benchmarks.measure import Figure, Report, Target, count, disk_bytes, file_count, seconds_of
from tests.benchmarks.peers import PEERS, Peer
from tests.benchmarks.run import Run

_STRIDE = 7919  # a prime: new streams do not come in the order of their names


def run(run: Run) -> Report:
    """Fill a store with streams, open it again, then count, list and read."""
    streams = run.sizes.distinct_streams
    directory = run.fresh_directory("million")
    dataset = Dataset(streams, streams)
    peer = PEERS["evlog"](directory)
    seconds = sum(
        _timed_append(peer, _spread(batch, number, streams)) for number, batch in enumerate(dataset.batches())
    )
    peer.close()
    report = Report("million", f"{streams:,} streams", settings={"evlog": PEERS["evlog"].settings()})
    rng = random.Random(8)
    names = [f"user-{rng.randrange(streams)}" for _ in range(run.sizes.stream_reads)]
    with evlog.open(directory / "store") as store:
        info = store.info()
        if (info.events, info.streams) != (streams, streams) or file_count(directory) > 100:
            raise RuntimeError(f"expected {streams:,} streams in dozens of files: {info}")
        found: list[int] = []
        one = 1e6 / len(names)
        each = [
            ("append, a new stream each", "events/s", streams / seconds, None),
            ("files", "files", float(file_count(directory)), Target(99, at_least=False)),
            ("on disk", "bytes/event", disk_bytes(directory) / streams, None),
            ("info()", "ms", 1e3 * seconds_of(store.info), None),
            ("streams(), all of them", "s", seconds_of(lambda: found.append(count(store.streams()))), None),
            (
                "stream_version()",
                "µs",
                one * seconds_of(lambda: [store.stream_version(name) for name in names]),
                None,
            ),
            (
                "read one stream",
                "µs",
                one * seconds_of(lambda: [count(store.read(name)) for name in names]),
                None,
            ),
        ]
    if found != [streams]:
        raise RuntimeError(f"streams() gave {found}, not {streams:,}")
    report.figures = [Figure(label, unit, {"evlog": [value]}, target) for label, unit, value, target in each]
    return report


def _timed_append(peer: Peer, batch: Batch) -> float:
    return seconds_of(lambda: peer.append(batch))


def _spread(batch: Batch, number: int, streams: int) -> Batch:
    first = number * len(batch)
    return [item._replace(stream=f"user-{(first + at) * _STRIDE % streams}") for at, item in enumerate(batch)]
