"""Filling and scanning a store of one peer in a process of its own, with nothing else in it than the peers.

The workloads are not imported here: what they load (pyarrow, DuckDB, a browser's client) is 100 MB, more than
what is measured.
"""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from tests.benchmarks.dataset import Dataset
from tests.benchmarks.peers import PEERS

_LOOK_AFTER_BATCHES: Final = 50


def fill_and_scan(name: str, directory: Path, dataset: Dataset, pipe: Connection) -> None:
    """Send -1 now and then, waiting for an answer; at the end the bytes that this process held at most."""
    peer = PEERS[name](directory)
    for number, batch in enumerate(dataset.batches()):
        peer.append(batch)
        if number % _LOOK_AFTER_BATCHES == 0:
            _let_look(pipe)
    peer.settle()
    _let_look(pipe)
    peer.scan()
    _let_look(pipe)
    peer.close()
    pipe.send(_peak_bytes())


def _peak_bytes() -> int:
    """Return the most that this process held; `getrusage` would begin with its parent's."""
    rows = Path("/proc/self/status").read_text().splitlines()
    return sum(1024 * int(row.split()[1]) for row in rows if row.startswith("VmHWM:"))


def _let_look(pipe: Connection) -> None:
    pipe.send(-1)
    pipe.recv()
