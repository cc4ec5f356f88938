"""Streams of twenty events, call by call: what a program reads for each request that it answers.

Whole streams, and pages of ten from their ends. A call is one read, its events made; nothing is shared
between two calls but the open store.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Final

from tests.benchmarks.dataset import BATCH_EVENTS, Dataset
from tests.benchmarks.measure import Figure, Report, Target, seconds_of, take_turns
from tests.benchmarks.peers import Peer
from tests.benchmarks.run import Run
from tests.benchmarks.workloads.bulk import append_in_turns

_EVENTS: Final = 20
_PAGE: Final = 10


def run(run: Run) -> Report:
    """Fill every peer, then let them read the same streams in turns."""
    events = max(run.sizes.bulk // 2 // BATCH_EVENTS, 1) * BATCH_EVENTS
    dataset = Dataset(events, events // _EVENTS, layout="even")
    report = Report("short_streams", f"streams of {_EVENTS} events, one call each, of {events:,} events")
    report.settings = run.settings()
    names = run.having("read_stream", "read_page")
    calls: dict[str, Callable[[Peer, str], int]] = {
        "a whole stream": lambda peer, stream: peer.read_stream(stream),
        f"its last {_PAGE}, by version": lambda peer, stream: peer.read_page(
            stream, _EVENTS - _PAGE + 1, _PAGE
        ),
    }
    with run.opened(run.fresh("short", names)) as peers:
        append_in_turns(peers, dataset)
        for peer in peers.values():
            peer.settle()
        rng = random.Random(11)
        streams = [dataset.local_stream(rng) for _ in range(run.sizes.stream_reads)]
        for label, call in calls.items():
            columns = {name: partial(_call_us, peer, call, streams) for name, peer in peers.items()}
            take_turns(1, columns)
            samples = take_turns(run.sizes.rounds, columns, run.sizes.patience_seconds)
            target = Target(1 / 1.2, at_least=False, over="sqlite")
            report.figures.append(Figure(label, "µs", samples, target))
    return report


def _call_us(peer: Peer, call: Callable[[Peer, str], int], streams: list[str]) -> float:
    found: list[int] = []
    seconds = seconds_of(lambda: found.extend(call(peer, stream) for stream in streams))
    if len(set(found)) != 1 or found[0] not in {_EVENTS, _PAGE}:
        raise RuntimeError(f"{peer.name} found {set(found)} events")
    return 1e6 * seconds / len(streams)
