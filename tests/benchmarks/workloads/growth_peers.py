"""How the costs of SQLite and LMDB grow with the store, beside those of evlog.

Each peer fills stores of every size with the events of `growth`, ten to a stream. Then batches of 1,000 with
uuid4 ids go to streams that exist, and ten events of streams that are spread over the log are read, in turns.
A client knows no version before it has looked it up. Nothing is synced, because a sync does not grow. The
largest stores take minutes to fill, so this runs only if it is named.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from tests.benchmarks.dataset import BATCH_EVENTS, Dataset
from tests.benchmarks.measure import Figure, Report, seconds_of, take_turns
from tests.benchmarks.peers import Peer
from tests.benchmarks.peers.evlog_store import EvlogStore
from tests.benchmarks.peers.lmdb_environment import LmdbEnvironment
from tests.benchmarks.peers.sqlite_table import SqliteTable
from tests.benchmarks.run import Run

_READS: Final = 200
_EVENTS: Final = 10  # of a stream
_BATCH: Final = "a batch of 1,000 to existing streams, per event"
_READ: Final = "ten events of a stream spread over the log"


class _Evlog(EvlogStore):
    sync = "none"


class _Sqlite(SqliteTable):
    pragmas = SqliteTable.pragmas | {"synchronous": "OFF"}


class _Lmdb(LmdbEnvironment):
    is_synced = False


_CLIENTS: Final[tuple[type[Peer], ...]] = (_Evlog, _Sqlite, _Lmdb)


def run(run: Run) -> Report:
    """Fill and measure the stores of one size after another."""
    sizes = run.sizes.growth_peers
    report = Report("growth_peers", f"stores of {sizes[0]:,} to {sizes[-1]:,} events, peer by peer")
    kinds = [kind for kind in _CLIENTS if kind.name in run.peers]
    for size in sizes:
        dataset = Dataset(size, size // _EVENTS, layout="aged")
        clients = {
            kind.name: Client(kind, run.fresh_directory(f"{kind.name}-{size}"), dataset) for kind in kinds
        }
        for client in clients.values():
            client.fill()
        report.figures += measure(clients, run.sizes.growth_rounds, run.sizes.warm_ups)
    report.settings = {kind.name: kind.settings() for kind in kinds}
    report.notes = growth_notes(report.figures)
    return report


def measure(clients: dict[str, Client], rounds: int, warm_ups: int) -> list[Figure]:
    """Return a figure an operation, of stores of one size, and close them."""
    operations: dict[str, Callable[[Client], float]] = {_BATCH: Client.batch_us, _READ: Client.read_us}
    size = next(iter(clients.values())).dataset.events
    figures = []
    for label, operation in operations.items():
        columns = {name: partial(operation, client) for name, client in clients.items()}
        take_turns(warm_ups, columns)
        figures.append(Figure(f"{label}, {size:,} events", "µs", take_turns(rounds, columns)))
    for client in clients.values():
        client.peer.close()
    return figures


def growth_notes(figures: list[Figure]) -> list[str]:
    """Return for each operation and peer how many times as much it costs in the largest store."""
    notes = []
    for label in (_BATCH, _READ):
        own = [figure for figure in figures if figure.label.startswith(label)]
        for name in own[0].samples:
            times = own[-1].median(name) / own[0].median(name)
            notes.append(f"{label}: the largest store costs {name} {times:.1f} times the smallest")
    return notes


class Client:
    """A peer's store, and what is measured on it."""

    def __init__(self, kind: type[Peer], directory: Path, dataset: Dataset) -> None:
        self.peer = kind(directory)
        self.dataset = dataset
        self._kind, self._directory = kind, directory
        self._rng = random.Random(7)
        self._next = dataset.batch_count

    def fill(self) -> None:
        """Append the events of the dataset, and open the store again: then no version is known."""
        for batch in self.dataset.batches():
            self.peer.append(batch)
        self.peer.settle()
        self.peer.close()
        self.peer = self._kind(self._directory)

    def batch_us(self) -> float:
        """Return what one event of a batch costs."""
        self._next += 1
        batch = self.dataset.draw_existing(self._next)

        def work() -> None:
            self.peer.recall({item.stream for item in batch})
            self.peer.append(batch)

        return 1e6 * seconds_of(work) / BATCH_EVENTS

    def read_us(self) -> float:
        """Return what it costs to read ten events of a spread stream."""
        names = [self.dataset.spread_stream(self._rng) for _ in range(_READS)]
        found: list[int] = []
        seconds = seconds_of(lambda: found.extend([self.peer.read_page(name, 1, _EVENTS) for name in names]))
        if set(found) != {_EVENTS}:
            raise RuntimeError("a stream has not the events that it must have")
        return 1e6 * seconds / _READS
