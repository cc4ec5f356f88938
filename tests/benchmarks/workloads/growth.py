"""What an operation costs in a large store beside the same in a small one, in a process that stays.

Both stores have ten events to each stream and are open side by side; samples take turns. Before the
first sample each has been warmed by two runs of every operation that follows; what opening and warming
cost, and the longest batch meanwhile, are figures of their own. The batches go to streams that exist, with
uuid4 ids: the dearest for an index. The small store is appended to as well, by a third of its size at most.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial

import evlog
from evlog import NewEvent
from tests.benchmarks.dataset import BATCH_EVENTS, Batch
from tests.benchmarks.measure import Figure, Report, Target, count, seconds_of, take_turns
from tests.benchmarks.run import AgedStore, Run


def run(run: Run) -> Report:
    """Compare the large store with the small one, operation by operation."""
    large, small = f"{run.sizes.large:,}", f"{run.sizes.small:,}"
    stores = {large: run.large_store(), small: run.small_store()}
    report = Report("growth", f"µs per event or call at {large} events and at {small}")
    target = Target(1.5, at_least=False, over=small)
    report.figures.append(_build_figure(run.large_store()))
    for sync in ("always", "none"):
        probes = {name: _Probe(aged, sync) for name, aged in stores.items()}
        opening = {name: [seconds_of(probe.open) * 1e3] for name, probe in probes.items()}
        warming = {name: [1e3 * probe.warm(run.sizes.warm_ups)] for name, probe in probes.items()}
        if sync == "always":
            report.figures.append(Figure("open", "ms", opening))
            report.figures.append(Figure("warm up (see workloads/growth.py)", "ms", warming))
            longest = {name: [probe.longest_ms] for name, probe in probes.items()}
            report.figures.append(Figure("longest batch while warming up", "ms", longest))
        first = next(iter(probes.values()))
        for label, is_target in first.operations(sync):
            columns = {name: partial(probe.sample, label) for name, probe in probes.items()}
            samples = take_turns(min(run.sizes.rounds, 5), columns)
            shown = label if sync == "always" else f"{label}, no sync"
            report.figures.append(Figure(shown, "µs", samples, target if is_target else None))
        for probe in probes.values():
            probe.store.close()
    report.settings = {
        "evlog": {"warmed": "see above", "streams": "10 events each, local or spread over all segments"}
    }
    return report


def _build_figure(aged: AgedStore) -> Figure:
    """The last tenth of the build beside the first: appends with rolls and sealing in them."""
    tenth = max(1, len(aged.batch_seconds) // 10)
    last, first = sum(aged.batch_seconds[-tenth:]), sum(aged.batch_seconds[:tenth])
    each = 1e6 / tenth / BATCH_EVENTS
    samples = {"last tenth": [last * each], "first tenth": [first * each]}
    return Figure("building, per event, rolls and seals included", "µs", samples)


class _Probe:
    """One open store and the operations on it; every sample is µs per event (batches) or per call."""

    def __init__(self, aged: AgedStore, sync: str) -> None:
        self._path = aged.path
        self._sync = sync
        self._dataset = aged.dataset
        self._rng = random.Random(7)
        self.longest_ms = 0.0
        # Batches beyond the store's end and beyond those of the other pass: ids that nobody has seen.
        self._next = self._dataset.batch_count + (1_000_000 if sync == "none" else 0)
        self._operations: dict[str, Callable[[], float]] = {
            "batch of 1,000, ids made by the store": self._batch_without_ids,
            "batch of 1,000, explicit ids": self._batch_with_ids,
            "the same batch sent again (duplicate)": self._batch_again,
            "an old batch sent again (duplicate)": self._old_batch_again,
            "single append": lambda: self._singles(with_ids=False),
            "single append, explicit id": lambda: self._singles(with_ids=True),
            "stream_version": lambda: self._calls(self._names(200), self._version),
            "read a stream whose events are close": lambda: self._calls(self._names(200), self._read),
            "read a stream spread over the log": lambda: self._calls(self._spread_names(200), self._read),
        }

    def open(self) -> None:
        self.store = evlog.open(self._path, sync=self._sync)

    def operations(self, sync: str) -> list[tuple[str, bool]]:
        """Labels, and whether issue 2 sets a bound for them."""
        if sync == "none":
            return [(label, True) for label in self._operations if label.startswith("single")]
        return [(label, not label.endswith("over the log")) for label in self._operations]

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
        return count(self.store.read(name))

    def _calls(self, names: Iterable[str], call: Callable[[str], int]) -> float:
        results: list[int] = []
        seconds = seconds_of(lambda: results.extend(map(call, names)))
        if not all(results):
            raise RuntimeError("a stream that must exist was not found")
        return 1e6 * seconds / len(results)
