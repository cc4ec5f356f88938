"""One run of the benchmarks: its sizes, its directory, its peers, and the stores that workloads share.

A store that several workloads read is built once, by the first that asks for it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Final

from tests.benchmarks.dataset import BATCH_EVENTS, Dataset, IdKind
from tests.benchmarks.measure import Report
from tests.benchmarks.peers import PEERS, Peer
from tests.support.server import Server


@dataclass(frozen=True)
class Sizes:
    """How much of everything; counts of events unless said otherwise."""

    bulk: int = 500_000
    bulk_streams: int = 10_000
    bulk_rounds: int = 1
    rounds: int = 5
    patience_seconds: float = 4.0
    stream_reads: int = 400
    single: int = 500
    one_stream: int = 1_000_000
    pages: int = 100
    memory: int = 100_000
    resent: int = 10
    lines: int = 300_000
    lines_rounds: int = 1
    commands: int = 9
    small: int = 100_000
    large: int = 1_000_000
    growth: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    growth_streams: tuple[int, ...] = (100, 10_000, 1_000_000)
    growth_peers: tuple[int, ...] = (10_000, 1_000_000, 10_000_000)
    growth_rounds: int = 5
    distinct_streams: int = 1_000_000
    warm_ups: int = 2
    processes: int = 16
    concurrent_seconds: float = 1.0
    concurrent_rounds: int = 3
    live: int = 200
    followers: int = 20
    idle_seconds: float = 10.0


FULL: Final = Sizes()
QUICK: Final = Sizes(
    bulk=20_000,
    bulk_streams=1_000,
    bulk_rounds=1,
    rounds=3,
    stream_reads=100,
    single=100,
    one_stream=20_000,
    pages=20,
    memory=20_000,
    resent=3,
    lines=50_000,
    commands=3,
    small=20_000,
    large=100_000,
    growth=(10_000, 100_000),
    growth_streams=(100, 10_000),
    growth_peers=(10_000, 100_000),
    growth_rounds=3,
    distinct_streams=50_000,
    processes=8,
    concurrent_seconds=0.4,
    concurrent_rounds=1,
    live=50,
    idle_seconds=2.0,
)
# For the test of the harness itself: its figures mean nothing.
TINY: Final = Sizes(
    bulk=2_000,
    bulk_streams=20,
    bulk_rounds=1,
    rounds=1,
    stream_reads=5,
    single=5,
    one_stream=2_000,
    pages=2,
    memory=1_000,
    resent=1,
    lines=2_000,
    commands=1,
    small=1_000,
    large=2_000,
    growth=(1_000, 2_000),
    growth_streams=(100, 1_000),
    growth_peers=(1_000, 2_000),
    growth_rounds=1,
    distinct_streams=2_000,
    warm_ups=1,
    processes=2,
    concurrent_seconds=0.1,
    concurrent_rounds=1,
    live=3,
    followers=2,
    idle_seconds=0.1,
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
        self._aged: dict[tuple[int, int], AgedStore] = {}
        self._filled: dict[str, Path] = {}
        self._numbers: dict[str, int] = {}

    def fresh_directory(self, name: str) -> Path:
        """Return a new empty directory of this run."""
        number = self._numbers[name] = self._numbers.get(name, 0) + 1
        path = self.directory / f"{name}-{number}"
        path.mkdir(parents=True)
        return path

    # --- peers

    def having(self, *methods: str) -> dict[str, type[Peer]]:
        """Return the peers that have a counterpart of the methods."""
        return {name: peer for name, peer in self.peers.items() if not peer.lacks & set(methods)}

    def settings(self) -> dict[str, dict[str, str]]:
        return {name: peer.settings() for name, peer in self.peers.items()}

    @contextmanager
    def served(self, directories: dict[str, Path]) -> Iterator[dict[str, Server | None]]:
        """Run the servers, where there are any, of peers in their directories."""
        with ExitStack() as stack:
            yield {
                name: stack.enter_context(PEERS[name].serve(directory))
                for name, directory in directories.items()
            }

    @contextmanager
    def opened(self, directories: dict[str, Path]) -> Iterator[dict[str, Peer]]:
        """Open peers in their directories."""
        with self.served(directories), ExitStack() as stack:
            peers = {}
            for name, directory in directories.items():
                peers[name] = PEERS[name](directory)
                stack.callback(peers[name].close)
            yield peers

    def fresh(self, label: str, peers: Iterable[str]) -> dict[str, Path]:
        """Return a new directory for each of the peers."""
        return {name: self.fresh_directory(f"{label}-{name}") for name in peers}

    # --- stores that several workloads read

    def bulk_dataset(self, ids: IdKind = "uuid4") -> Dataset:
        return Dataset(self.sizes.bulk, self.sizes.bulk_streams, ids)

    def keep_filled(self, peer: str, directory: Path) -> None:
        """Offer a store filled with `bulk_dataset()`, for workloads that only read."""
        self._filled[peer] = directory

    def filled_directories(self, names: Iterable[str]) -> dict[str, Path]:
        """Return a store of each peer, filled with `bulk_dataset()` and settled."""
        missing = [name for name in names if name not in self._filled]
        directories = self.fresh("filled", missing)
        with self.opened(directories) as peers:
            for name, peer in peers.items():
                for batch in self.bulk_dataset().batches():
                    peer.append(batch)
                peer.settle()
                self._filled[name] = directories[name]
        return {name: self._filled[name] for name in names}

    @contextmanager
    def filled(self, names: Iterable[str] | None = None) -> Iterator[dict[str, Peer]]:
        """Open the peers (default: all), filled with `bulk_dataset()` and settled."""
        with self.opened(self.filled_directories(list(self.peers if names is None else names))) as peers:
            yield peers

    def aged_store(self, events: int, streams: int | None = None) -> AgedStore:
        """Return an evlog store of this many events, by default ten a stream; a workload may append to it."""
        key = (events, events // 10 if streams is None else streams)
        if key not in self._aged:
            directory = self.fresh_directory(f"aged-{events}")
            dataset = Dataset(*key, layout="aged" if streams is None else "even")
            peer = PEERS["evlog"](directory)
            seconds = []
            for batch in dataset.batches():
                start = time.perf_counter()
                peer.append(batch)
                seconds.append(time.perf_counter() - start)
            peer.close()
            self._aged[key] = AgedStore(directory / "store", dataset, seconds)
        return self._aged[key]

    def small_store(self) -> AgedStore:
        return self.aged_store(self.sizes.small)


def run_workload(name: str, run: Run) -> Report:
    """Run one workload, say so on a terminal, and note what it took."""
    workload: Callable[[Run], Report] = import_module(f"tests.benchmarks.workloads.{name}").run
    is_watched = sys.stderr.isatty()
    if is_watched:
        print(f"… {name}", end="", file=sys.stderr, flush=True)
    start = time.perf_counter()
    report = workload(run)
    seconds = time.perf_counter() - start
    if is_watched:
        print(f"\r  {name}, {seconds:.0f} s", file=sys.stderr)
    return replace(report, seconds=seconds)


__all__ = ["BATCH_EVENTS", "FULL", "QUICK", "TINY", "AgedStore", "Run", "Sizes", "run_workload"]
