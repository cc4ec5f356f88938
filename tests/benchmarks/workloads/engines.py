"""The same work by the same code on every engine: what leaving the directory for a server costs.

Each engine runs alone, with its server on this machine and every write synced. Events have no ids of their
own. An engine whose server is not installed is left out, with a note.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import evlog
from evlog import EventStore, NewEvent
from tests.benchmarks.measure import Figure, Report, count, seconds_of
from tests.benchmarks.run import Run
from tests.benchmarks.together import run_together
from tests.support import kafka, ministack, nats, postgresql

NewUrl = Callable[[], str]
Samples = dict[str, float]

_WRITERS: Final = 8
_STREAM_EVENTS: Final = 50
_LONG_SECONDS: Final = 60.0
_DATA: Final = {"amount": 10, "note": "x" * 77}


@contextmanager
def _directory(folder: Path) -> Iterator[NewUrl]:
    numbers = itertools.count()
    yield lambda: str(folder / f"store{next(numbers)}")


@contextmanager
def _postgresql(folder: Path) -> Iterator[NewUrl | None]:
    programs = postgresql.binaries()
    if programs is None:
        yield None
        return
    numbers = itertools.count()
    with postgresql.serving(folder, programs, fsync="on") as server:
        yield lambda: server.url(schema=f"bench{next(numbers)}")


def _nats(servers: int) -> Callable[[Path], Any]:
    @contextmanager
    def serve(folder: Path) -> Iterator[NewUrl | None]:
        if nats.program() is None:
            yield None
            return
        numbers = itertools.count()
        with nats.serving(folder, servers) as cluster:
            yield lambda: cluster.url(f"bench{next(numbers)}")

    return serve


@contextmanager
def _kafka(folder: Path) -> Iterator[NewUrl | None]:
    jars = kafka.maybe_jars()
    if jars is None:
        yield None
        return
    numbers = itertools.count()
    with (
        kafka.indexes_in(folder / "cache"),
        kafka.serving(jars, folder, **{"log.flush.interval.messages": "1"}) as server,
    ):
        yield lambda: server.url(f"bench{next(numbers)}")


@contextmanager
def _dynamodb(folder: Path) -> Iterator[NewUrl | None]:
    del folder  # the stand-in keeps its data in memory
    if not ministack.IS_INSTALLED:
        yield None
        return
    numbers = itertools.count()
    os.environ.update(ministack.CREDENTIALS)
    with ministack.serving() as server:
        yield lambda: server.url(f"bench{next(numbers)}")


# Each gives a function that names a new store, or None where its server is not installed.
ENGINES: Final[dict[str, Callable[[Path], Any]]] = {
    "directory": _directory,
    "postgresql, 1 server": _postgresql,
    "nats, 1 server": _nats(1),
    "nats, 3 servers": _nats(3),
    "kafka, 1 broker": _kafka,
    "dynamodb, a stand-in": _dynamodb,
}
UNITS: Final = {
    "1 process, single appends": "appends/s",
    f"{_WRITERS} processes, single appends": "appends/s",
    "batches of 100": "events/s",
    "batches of 1,000": "events/s",
    "scan of all": "events/s",
    f"read of a stream of {_STREAM_EVENTS}": "µs",
    "append returned → event delivered": "ms",
}


def run(run: Run) -> Report:
    """Do all of it on one engine after the other."""
    report = Report("engines", f"evlog on each engine, batches of {run.sizes.small:,} events in all")
    found: dict[str, dict[str, list[float]]] = {label: {} for label in UNITS}
    for name, serve in ENGINES.items():
        folder = run.fresh_directory("engine")
        folder.chmod(0o755)  # a server may run as another user
        with serve(folder) as new_url:
            if new_url is None:
                report.notes.append(f"{name}: its server is not installed")
                continue
            with evlog.open(new_url(), create=True) as store:
                report.settings[name] = {"durability": store.capabilities.durability}
                samples = _alone(run, store)
            url = new_url()
            evlog.open(url, create=True).close()
            samples[f"{_WRITERS} processes, single appends"] = _together(url, run.sizes.concurrent_seconds)
        for label, value in samples.items():
            found[label][name] = [value]
    report.figures = [Figure(label, unit, found[label]) for label, unit in UNITS.items()]
    return report


def _alone(run: Run, store: EventStore) -> Samples:
    """Measure one process."""
    samples = {"1 process, single appends": _single(store, max(20, run.sizes.single))}
    for size in (100, 1000):
        samples[f"batches of {size:,}"] = _batches(store, run.sizes.small // 2, size)
    events: list[int] = []
    seconds = seconds_of(lambda: events.append(count(store.read_all())))
    samples["scan of all"] = events[0] / seconds
    names = [f"order-{number}" for number in range(run.sizes.stream_reads)]
    for name in names:
        _append(store, name, _STREAM_EVENTS)
    seconds = seconds_of(lambda: [count(store.read(name)) for name in names])
    samples[f"read of a stream of {_STREAM_EVENTS}"] = seconds / len(names) * 1e6
    samples["append returned → event delivered"] = _latency_ms(store, run.sizes.live)
    return samples


def _single(store: EventStore, appends: int) -> float:
    store.append("single", [NewEvent("T", _DATA)])

    def work() -> None:
        for version in range(1, appends + 1):
            store.append("single", [NewEvent("T", _DATA)], version)

    return appends / seconds_of(work)


def _batches(store: EventStore, events: int, size: int) -> float:
    times = max(1, events // size)

    def work() -> None:
        for number in range(times):
            _append(store, f"batch-{number}", size)

    return times * size / seconds_of(work)


def _append(store: EventStore, stream: str, events: int) -> None:
    """Append events together, or in as few appends as the engine takes."""
    most = store.capabilities.max_append_events or events
    batch = [NewEvent("T", _DATA)] * events
    for at in range(0, events, most):
        store.append(stream, batch[at : at + most])


def _latency_ms(store: EventStore, appends: int) -> float:
    """Return the median time from an append's return to its event's delivery; 0 if that came first."""
    came: list[float] = []
    arrived = threading.Condition()

    def follow() -> None:
        with store.subscribe(after=store.head) as run:
            ready.set()
            for _ in range(appends + 1):
                assert run.next_event(_LONG_SECONDS) is not None
                with arrived:
                    came.append(time.perf_counter())
                    arrived.notify_all()

    ready = threading.Event()
    thread = threading.Thread(target=follow)
    thread.start()
    assert ready.wait(_LONG_SECONDS)
    returned: list[float] = []
    for number in range(appends + 1):
        store.append("live", [NewEvent("T", number)])
        returned.append(time.perf_counter())
        with arrived:
            assert arrived.wait_for(lambda number=number: len(came) > number, _LONG_SECONDS)  # type: ignore[misc]
    thread.join()
    times = sorted(max(0.0, at - back) for at, back in zip(came[1:], returned[1:], strict=True))
    return times[len(times) // 2] * 1000


def _together(url: str, seconds: float) -> float:
    """Appends per second of all processes together, each to a stream of its own."""
    environment = dict(os.environ)  # the workers' server may be older than what is in it
    arguments = [(url, number, seconds, environment) for number in range(_WRITERS)]
    appends = sum(run_together(_work, arguments))
    return appends / seconds


def _work(
    url: str, number: int, seconds: float, environment: dict[str, str], wait: Callable[[], object]
) -> int:
    os.environ.update(environment)
    with evlog.open(url) as store:
        store.append(f"own-{number}", [NewEvent("T", _DATA)])
        wait()
        end, done = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            store.append(f"own-{number}", [NewEvent("T", _DATA)], done + 1)
            done += 1
        return done
