"""How the cost of each operation grows with the store: with its events, and with its streams.

Stores of every size are open side by side, each with ten events to a stream (a fifth of the streams spread
over the whole log), then stores of one size with few and with many streams; samples take turns. Before the
first sample each has been warmed by two runs of every operation that follows; what opening and warming cost,
and the longest batch meanwhile, are figures of their own. Batches go to streams that exist, with uuid4 ids:
the dearest for an index. Nothing is synced, because a sync does not grow. The stores are appended to on the
way, the smallest by some times its size.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from functools import partial
from statistics import linear_regression, median

import evlog
from evlog import NewEvent
from tests.benchmarks.dataset import BATCH_EVENTS, Batch
from tests.benchmarks.measure import Figure, Report, Target, count, seconds_of, take_turns
from tests.benchmarks.run import AgedStore, Run

_FLAT = 2.0  # over a thousand times the events that is a slope of 0.1


def run(run: Run) -> Report:
    """Compare stores of all sizes, operation by operation; the largest comes first."""
    sizes, streams = run.sizes.growth[::-1], run.sizes.growth_streams[::-1]
    report = Report("growth", f"µs per event or call in stores of {sizes[-1]:,} to {sizes[0]:,} events")
    stores = {size: run.aged_store(size) for size in sizes}
    report.figures.append(_build_figure(stores[sizes[0]]))
    report.figures += _measure(run, stores, "events")
    size = sizes[min(1, len(sizes) - 1)]
    crowds = {number: run.aged_store(size, number) for number in streams if number <= size}
    report.figures += _measure(run, crowds, f"streams, {size:,} events")
    report.settings = {"evlog": {"warmed": "see workloads/growth.py", "sync": "none"}}
    return report


def _measure(run: Run, stores: dict[int, AgedStore], of: str) -> list[Figure]:
    """Return one figure an operation, with a column for each of the stores."""
    probes = {size: _Probe(aged) for size, aged in stores.items()}
    names = {size: f"{size:,} {of.partition(',')[0]}" for size in stores}
    opening = {names[size]: [seconds_of(probe.open) * 1e3] for size, probe in probes.items()}
    warming = {names[size]: [1e3 * probe.warm(run.sizes.warm_ups)] for size, probe in probes.items()}
    longest = {names[size]: [probe.longest_ms] for size, probe in probes.items()}
    figures = [
        Figure(f"open (by {of})", "ms", opening),
        Figure(f"warm up (by {of})", "ms", warming),
        Figure(f"longest batch while warming up (by {of})", "ms", longest),
    ]
    for label in next(iter(probes.values())).labels():
        columns = {names[size]: partial(probe.sample, label) for size, probe in probes.items()}
        samples = take_turns(run.sizes.growth_rounds, columns)
        slope = _slope([median(each) for each in samples.values()], list(probes))
        figures.append(
            Figure(
                f"{label} (by {of}; slope {slope:+.2f})", "µs", samples, _flat(label, list(names.values()))
            )
        )
    for probe in probes.values():
        probe.store.close()
    return figures


def _slope(costs: list[float], sizes: list[int]) -> float:
    """Return the exponent s of cost ∝ size^s: 0 is flat, 1 is a cost that grows as the store does."""
    if len(sizes) < 2:
        return 0.0
    return linear_regression([math.log(size) for size in sizes], [math.log(cost) for cost in costs]).slope


def _flat(label: str, names: list[str]) -> Target | None:
    """Return a target: the largest costs at most twice the smallest; none for what visits every segment."""
    if len(names) < 2 or "spread over the log" in label:
        return None
    return Target(_FLAT, at_least=False, over=names[-1])


def _build_figure(aged: AgedStore) -> Figure:
    """Compare the last tenth of the build with the first: appends with rolls and sealing in them."""
    tenth = max(1, len(aged.batch_seconds) // 10)
    last, first = sum(aged.batch_seconds[-tenth:]), sum(aged.batch_seconds[:tenth])
    each = 1e6 / tenth / BATCH_EVENTS
    samples = {"last tenth": [last * each], "first tenth": [first * each]}
    return Figure("building, per event, rolls and seals included", "µs", samples)


class _Probe:
    """One open store and the operations on it; every sample is µs per event (batches) or per call."""

    def __init__(self, aged: AgedStore) -> None:
        self._path = aged.path
        self._dataset = aged.dataset
        self._rng = random.Random(7)
        self.longest_ms = 0.0
        self._next = self._dataset.batch_count  # batches beyond the store's end: with new ids
        self._operations: dict[str, Callable[[], float]] = {
            "batch of 1,000, ids made by the store": self._batch_without_ids,
            "batch of 1,000, explicit ids": self._batch_with_ids,
            "the same batch sent again (duplicate)": self._batch_again,
            "an old batch sent again (duplicate)": self._old_batch_again,
            "single append": lambda: self._singles(with_ids=False),
            "single append, explicit id": lambda: self._singles(with_ids=True),
            "stream_version": lambda: self._calls(self._names(200), self._version),
            "read a stream whose events are close": lambda: self._calls(self._names(200), self._read),
        }
        if self._dataset.layout == "aged":
            self._operations["read a stream spread over the log"] = lambda: self._calls(
                self._spread_names(200), self._read
            )

    def open(self) -> None:
        self.store = evlog.open(self._path, sync="none")

    def labels(self) -> list[str]:
        return list(self._operations)

    def sample(self, label: str) -> float:
        return self._operations[label]()

    def warm(self, rounds: int) -> float:
        def work() -> None:
            for _ in range(rounds):
                for operation in self._operations.values():
                    operation()

        return seconds_of(work)

    def _twice(self, make: Callable[[], Batch], *, with_ids: bool) -> float:
        return (self._append(make(), with_ids=with_ids) + self._append(make(), with_ids=with_ids)) / 2

    def _fresh(self) -> Batch:
        self._next += 1
        return self._dataset.draw_existing(self._next)

    def _append(self, batch: Batch, *, with_ids: bool) -> float:
        def work() -> None:
            self.store.append_many(
                [
                    (item.stream, [NewEvent(item.type, item.data, id=item.id if with_ids else None)])
                    for item in batch
                ]
            )

        seconds = seconds_of(work)
        self.longest_ms = max(self.longest_ms, 1e3 * seconds)
        return 1e6 * seconds / len(batch)

    def _batch_without_ids(self) -> float:
        return self._twice(self._fresh, with_ids=False)

    def _batch_with_ids(self) -> float:
        return self._twice(self._fresh, with_ids=True)

    def _batch_again(self) -> float:
        return self._twice(lambda: self._dataset.draw_existing(self._next), with_ids=True)

    def _old_batch_again(self) -> float:
        return self._append(
            self._dataset.batch(self._rng.randrange(self._dataset.batch_count)), with_ids=True
        )

    def _singles(self, *, with_ids: bool) -> float:
        batch = self._fresh()[:100]
        append = self.store.append

        def work() -> None:
            for item in batch:
                append(item.stream, [NewEvent(item.type, item.data, id=item.id if with_ids else None)])

        return 1e6 * seconds_of(work) / len(batch)

    def _names(self, number: int) -> list[str]:
        return [self._dataset.local_stream(self._rng) for _ in range(number)]

    def _spread_names(self, number: int) -> list[str]:
        return [self._dataset.spread_stream(self._rng) for _ in range(number)]

    def _version(self, name: str) -> int:
        version: int = self.store.stream_version(name)
        return version

    def _read(self, name: str) -> int:
        return count(self.store.read(name, limit=10))  # all of it, but where there are few streams

    def _calls(self, names: Iterable[str], call: Callable[[str], int]) -> float:
        results: list[int] = []
        seconds = seconds_of(lambda: results.extend(map(call, names)))
        if not all(results):
            raise RuntimeError("a stream that must exist was not found")
        return 1e6 * seconds / len(results)
