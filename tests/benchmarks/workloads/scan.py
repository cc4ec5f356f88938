"""Full scan: every event in global order, as the peer's own objects (evlog: Event; SQLite: rows; …)."""

from __future__ import annotations

from functools import partial

from tests.benchmarks.measure import BEST, Figure, Report, Target, seconds_of, take_turns
from tests.benchmarks.peers import Peer
from tests.benchmarks.run import Run


def run(run: Run) -> Report:
    """Scan the whole log of each peer, in turns."""
    report = Report("scan", f"read all of {run.sizes.bulk:,} events in order, page cache warm")
    report.settings = run.settings()
    with run.filled() as peers:
        columns = {name: partial(_sample, peer, run.sizes.bulk) for name, peer in peers.items()}
        samples = take_turns(run.sizes.rounds, columns, run.sizes.patience_seconds)
    target = Target(1.5, at_least=True, over=BEST)
    report.figures.append(Figure("full scan", "events/s", samples, target))
    return report


def _sample(peer: Peer, events: int) -> float:
    found: list[int] = []
    seconds = seconds_of(lambda: found.append(peer.scan()))
    if found != [events]:
        raise RuntimeError(f"{peer.name} has {found} events, not {events:,}")
    return events / seconds
