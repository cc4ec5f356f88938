"""One run of the benchmarks: its sizes, its directory, its peers, and the stores that workloads share.

A store that several workloads read is built once, by the first that asks for it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tests.benchmarks.dataset import BATCH_EVENTS, Dataset, IdKind
from tests.benchmarks.measure import Report
from tests.benchmarks.peers import PEERS, Peer


@dataclass(frozen=True)
class Sizes:
    """How much of everything; counts of events unless said otherwise."""

    bulk: int = 1_000_000
    bulk_streams: int = 10_000
    bulk_rounds: int = 3
    rounds: int = 7
    stream_reads: int = 2_000
    lines: int = 500_000
    lines_rounds: int = 3
    commands: int = 25
    small: int = 100_000
    large: int = 5_000_000
    distinct_streams: int = 1_000_000
    warm_ups: int = 2
    processes: int = 16
    concurrent_seconds: float = 3.0
    concurrent_rounds: int = 3


FULL: Final = Sizes()
QUICK: Final = Sizes(
    bulk=100_000,
    bulk_streams=1_000,
    bulk_rounds=1,
    rounds=3,
    stream_reads=500,
    lines=100_000,
    lines_rounds=1,
    commands=5,
    large=500_000,
    distinct_streams=100_000,
    concurrent_seconds=1.0,
    concurrent_rounds=1,
)
# For the test of the harness itself: its figures mean nothing.
TINY: Final = Sizes(
    bulk=2_000,
    bulk_streams=20,
    bulk_rounds=1,
    rounds=1,
    stream_reads=5,
    lines=2_000,
    lines_rounds=1,
    commands=1,
    small=1_000,
    large=2_000,
    distinct_streams=2_000,
    warm_ups=1,
    processes=2,
    concurrent_seconds=0.1,
    concurrent_rounds=1,
)


@dataclass(frozen=True)
class AgedStore:
    """An evlog store of many old streams, and what each of its batches cost when it was built."""

    path: Path
    dataset: Dataset
    batch_seconds: list[float]


class Run:
    """What a workload is given."""

    def __init__(self, sizes: Sizes, directory: Path, peers: Iterable[str] = PEERS) -> None:
        self.sizes = sizes
        self.directory = directory
        self.peers: dict[str, type[Peer]] = {name: PEERS[name] for name in peers}
        self._aged: dict[int, AgedStore] = {}
        self._filled: dict[str, Path] = {}
        self._numbers: dict[str, int] = {}

    def fresh_directory(self, name: str) -> Path:
        """A new empty directory of this run."""
        number = self._numbers[name] = self._numbers.get(name, 0) + 1
        path = self.directory / f"{name}-{number}"
        path.mkdir(parents=True)
        return path

    def bulk_dataset(self, ids: IdKind = "uuid4") -> Dataset:
        return Dataset(self.sizes.bulk, self.sizes.bulk_streams, ids)

    def keep_filled(self, peer: str, directory: Path) -> None:
        """Offer a store filled with `bulk_dataset()`, for workloads that only read."""
        self._filled[peer] = directory

    def filled_directory(self, peer: str) -> Path:
        """Where the peer was filled with `bulk_dataset()`."""
        return self._filled[peer]

    @contextmanager
    def filled(self) -> Iterator[dict[str, Peer]]:
        """Each peer, open, filled with `bulk_dataset()` and settled."""
        for name in self.peers:
            if name not in self._filled:
                directory = self.fresh_directory(f"filled-{name}")
                peer = self.peers[name](directory)
                for batch in self.bulk_dataset().batches():
                    peer.append(batch)
                peer.settle()
                peer.close()
                self._filled[name] = directory
        opened = {name: self.peers[name](self._filled[name]) for name in self.peers}
        try:
            yield opened
        finally:
            for peer in opened.values():
                peer.close()

    def aged_store(self, events: int) -> AgedStore:
        """An evlog store of so many events, ten to a stream, uuid4 ids; a workload may append to it."""
        if events not in self._aged:
            directory = self.fresh_directory(f"aged-{events}")
            dataset = Dataset(events, events // 10, layout="aged")
            peer = PEERS["evlog"](directory)
            seconds = []
            for batch in dataset.batches():
                start = time.perf_counter()
                peer.append(batch)
                seconds.append(time.perf_counter() - start)
            peer.close()
            self._aged[events] = AgedStore(directory / "store", dataset, seconds)
        return self._aged[events]

    def small_store(self) -> AgedStore:
        return self.aged_store(self.sizes.small)

    def large_store(self) -> AgedStore:
        return self.aged_store(self.sizes.large)


Workload = Callable[[Run], Report]


def run_workload(workload: Workload, run: Run) -> Report:
    """Run one workload, say so on a terminal, and note what it took."""
    if sys.stderr.isatty():
        print(f"… {workload.__module__.rpartition('.')[2]}", file=sys.stderr)
    start = time.perf_counter()
    report = workload(run)
    return replace(report, seconds=time.perf_counter() - start)


__all__ = ["BATCH_EVENTS", "FULL", "QUICK", "TINY", "AgedStore", "Run", "Sizes", "Workload", "run_workload"]
