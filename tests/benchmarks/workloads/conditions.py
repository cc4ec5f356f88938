"""Conditional appends, on a recent boundary and for uniqueness, and reads by two tags; every event has two.

evlog's own figures are compared with its plain appends and its reads of streams, of the same store. UmaDB has
the same operations: no event that has these tags is behind a position.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.dataset import BATCH_EVENTS, Item
from tests.benchmarks.measure import BEST, Figure, Report, Target, mean_us, seconds_of, take_turns
from tests.benchmarks.peers import PEERS
from tests.benchmarks.run import Run
from tests.benchmarks.together import run_together

_SLICE: Final = 50
_READ: Final = 100  # events that a read by tags finds, and events of a stream
_RECENT: Final = 20  # events behind a recent boundary
_DATA: Final = b'{"amount":10,"note":"' + b"x" * 77 + b'"}'


def run(run: Run) -> Report:
    """Fill the stores, then take turns; at last many processes, a short time of each peer in turns."""
    names = [name for name, peer in run.peers.items() if hasattr(peer, "append_if")]
    events = run.sizes.large
    report = Report(
        "conditions", f"conditional appends and reads by tags, of {events:,} events with two tags each"
    )
    report.settings = {name: PEERS[name].settings() for name in names}
    directories = run.fresh("conditions", names)
    with run.served(directories):
        peers: dict[str, Any] = {name: PEERS[name](directory) for name, directory in directories.items()}
        for peer in peers.values():
            for first in range(0, events, BATCH_EVENTS):
                peer.append_tagged([_event(n) for n in range(first, min(first + BATCH_EVENTS, events))])
        own = peers["evlog"]
        slices = max(1, run.sizes.single // _SLICE)
        numbers = itertools.count()
        appends: dict[str, Callable[[], object]] = {
            "recent": lambda: own.append_if(_item("a"), ["c:1"], ["c:2"], own.head() - _RECENT),
            "unique": lambda: own.append_if(_item("a"), tags := [f"u:{next(numbers)}"], tags, None),
            "plain": lambda: own.append_tagged([(_item("a"), [])]),
        }
        for append in appends.values():
            mean_us(append, _SLICE)  # the first calls open files
        columns = {name: partial(mean_us, append, _SLICE) for name, append in appends.items()}
        found = take_turns(slices, columns)
        for name, most in (("recent", 1.3), ("unique", 3.0)):
            samples = {name: found[name], "plain": found["plain"]}
            target = Target(most, at_least=False, over="plain")
            report.figures.append(Figure(f"1 writer, {name} condition", "µs", samples, target))
        report.figures.append(_reads(run, own, events))
        single: dict[str, Callable[[], float]] = {}
        for name, peer in peers.items():
            decide = _decider(peer, 0)
            mean_us(decide, _SLICE)
            single[name] = partial(_slice_rate, decide)
        rates = take_turns(slices, single)
        ahead = Target(1.0, at_least=True, over=BEST)
        report.figures.append(Figure("1 writer, conditional appends", "appends/s", rates, ahead))
        for peer in peers.values():
            peer.close()
        firsts = itertools.count(1, run.sizes.processes)
        many = {
            name: partial(lambda name: _many(run, name, directories[name], next(firsts)), name)
            for name in names
        }
        rates = take_turns(run.sizes.concurrent_rounds, many)
        label = f"{run.sizes.processes} writers, conditional appends"
        report.figures.append(Figure(label, "appends/s", rates, ahead))
    return report


def _event(number: int) -> tuple[Item, list[str]]:
    item = Item(f"s-{number // _READ}", "Deposited", os.urandom(16), _DATA)
    return item, [f"a:{number // _READ}", f"b:{number // (100 * _READ)}"]


def _item(stream: str) -> Item:
    return Item(stream, "Deposited", os.urandom(16), _DATA)


def _reads(run: Run, own: Any, events: int) -> Figure:
    """Measure reads of a hundred events by two tags, beside reads of a stream of a hundred."""
    numbers = itertools.cycle(range(0, events // _READ, 7))
    many = max(1, run.sizes.stream_reads // 10)

    def by_tags() -> None:
        for _ in range(many):
            number = next(numbers)
            assert own.read_tagged([f"a:{number}", f"b:{number // 100}"]) == _READ

    def by_stream() -> None:
        for _ in range(many):
            assert own.read_stream(f"s-{next(numbers)}") == _READ

    by_tags()
    columns = {"tags": by_tags, "stream": by_stream}
    found = take_turns(
        3 * run.sizes.rounds,
        {name: partial(lambda read: seconds_of(read) / many * 1e6, read) for name, read in columns.items()},
    )
    return Figure(f"read {_READ} events by two tags", "µs", found, Target(2.0, at_least=False, over="stream"))


def _decider(peer: Any, number: int) -> Callable[[], object]:
    """Return what appends an event of account `number`, on condition that there is none since its last."""
    after: list[int | None] = [None]
    tags = [f"account:{number}-{os.getpid()}"]

    def decide() -> None:
        after[0] = peer.append_if(_item(f"account-{number}"), tags, tags, after[0])

    return decide


def _slice_rate(append: Callable[[], object]) -> float:
    return 1e6 / mean_us(append, _SLICE)


def _many(run: Run, name: str, directory: Path, first: int) -> float:
    """Return the conditional appends per second of all processes together."""
    seconds = run.sizes.concurrent_seconds
    arguments = [(name, directory, first + n, seconds) for n in range(run.sizes.processes)]
    counts = run_together(_work, arguments)
    return sum(counts) / seconds


def _work(
    name: str,
    directory: Path,
    number: int,
    seconds: float,
    wait: Callable[[], object],
) -> int:
    peer = PEERS[name](directory)
    decide = _decider(peer, number)
    # A client of a large store learns its keys, once: a tenth of a second each, one after the other.
    _count(decide, 2 * seconds)
    wait()
    count = _count(decide, seconds)
    peer.close()
    return count


def _count(decide: Callable[[], object], seconds: float) -> int:
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        decide()
        count += 1
    return count
