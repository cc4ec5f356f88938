"""One stream of a million events: append, then its first page, its last, and pages from its middle."""

from __future__ import annotations

import random
from functools import partial

from tests.benchmarks.dataset import Dataset
from tests.benchmarks.measure import Figure, Report, seconds_of, take_turns
from tests.benchmarks.peers import Peer
from tests.benchmarks.run import Run
from tests.benchmarks.workloads.bulk import append_in_turns

_STREAM = "order-0"  # the one name that the dataset draws from
_PAGE = 20


def run(run: Run) -> Report:
    """Append in batches of 1,000; then read pages; both in turns."""
    events = run.sizes.one_stream
    report = Report("one_stream", f"one stream of {events:,} events; pages of {_PAGE}")
    report.settings = run.settings()
    names = run.having("read_page")
    with run.opened(run.fresh("one-stream", names)) as peers:
        seconds = append_in_turns(peers, Dataset(events, 1))
        report.figures.append(
            Figure(
                "append to one stream", "events/s", {name: [events / each] for name, each in seconds.items()}
            )
        )
        for peer in peers.values():
            peer.settle()
        rng = random.Random(6)
        middle = [rng.randrange(1, events - _PAGE) for _ in range(run.sizes.pages)]
        for label, firsts in {
            "its first page": [1] * run.sizes.pages,
            "its last page": [events - _PAGE + 1] * run.sizes.pages,
            "pages from its middle": middle,
        }.items():
            columns = {name: partial(_pages_us, peer, firsts) for name, peer in peers.items()}
            take_turns(1, columns)
            report.figures.append(
                Figure(label, "µs", take_turns(run.sizes.rounds, columns, run.sizes.patience_seconds))
            )
    return report


def _pages_us(peer: Peer, firsts: list[int]) -> float:
    found: list[int] = []
    seconds = seconds_of(lambda: found.extend(peer.read_page(_STREAM, first, _PAGE) for first in firsts))
    if found != [_PAGE] * len(firsts):
        raise RuntimeError(f"{peer.name} found pages of {set(found)} events, not {_PAGE}")
    return 1e6 * seconds / len(firsts)
