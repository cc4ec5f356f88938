"""Full scan: every event in global order, as the peer's own objects (evlog: Event; SQLite: rows)."""

from __future__ import annotations

from functools import partial

from tests.benchmarks.measure import Figure, Report, Target, seconds_of, take_turns
from tests.benchmarks.peers import Peer
from tests.benchmarks.run import Run


def run(run: Run) -> Report:
    """Scan the whole log of each peer, in turns."""
    report = Report("scan", f"read all of {run.sizes.bulk:,} events in order, page cache warm")
    report.settings = {name: peer.settings() for name, peer in run.peers.items()}
    with run.filled() as peers:
        _check(peers, run.sizes.bulk)

        def sample(peer: Peer) -> float:
            return run.sizes.bulk / seconds_of(peer.scan)

        samples = take_turns(run.sizes.rounds, {name: partial(sample, peer) for name, peer in peers.items()})
    target = Target(1.5, at_least=True, over="sqlite")
    report.figures.append(Figure("full scan", "events/s", samples, target))
    return report


def _check(peers: dict[str, Peer], events: int) -> None:
    for name, peer in peers.items():
        found = peer.scan()
        if found != events:
            raise RuntimeError(f"{name} has {found:,} events, not {events:,}")
