"""Whole streams drawn at random, read one after the other in a process that stays."""

from __future__ import annotations

import random
from functools import partial

from tests.benchmarks.measure import BEST, Figure, Report, Target, seconds_of, take_turns
from tests.benchmarks.peers import Peer
from tests.benchmarks.run import Run


def run(run: Run) -> Report:
    """Read `sizes.stream_reads` random streams per sample; every peer is given the same ones."""
    each = run.sizes.bulk // run.sizes.bulk_streams
    report = Report("streams", f"read random whole streams of about {each} events, page cache warm")
    report.settings = run.settings()
    with run.filled(run.having("read_stream")) as peers:
        rounds = {name: iter(range(1_000_000)) for name in peers}
        counted: dict[tuple[int, int], set[str]] = {}

        def sample(name: str, peer: Peer) -> float:
            number = next(rounds[name])
            rng = random.Random(number)
            names = [f"order-{rng.randrange(run.sizes.bulk_streams)}" for _ in range(run.sizes.stream_reads)]
            found: list[int] = []
            seconds = seconds_of(lambda: found.extend(map(peer.read_stream, names)))
            counted.setdefault((number, sum(found)), set()).add(name)
            return sum(found) / seconds

        columns = {name: partial(sample, name, peer) for name, peer in peers.items()}
        take_turns(1, columns)
        samples = take_turns(run.sizes.rounds, columns, run.sizes.patience_seconds)
    if len({number for number, _ in counted}) != len(counted):
        raise RuntimeError(f"the peers found different numbers of events: {counted}")
    target = Target(1.3, at_least=True, over=BEST)
    report.figures.append(Figure("random streams", "events/s", samples, target))
    return report
