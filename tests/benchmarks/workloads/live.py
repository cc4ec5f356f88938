"""`evlog tail -f` as a command: latency to its stdout, its cost while idle, and what followers cost a writer.

Beside `tail -f` on a plain file whose appends are synced, too. The library's catching up is measured beside a
full scan of the same store. Latency counts from the append's return: what came before that counts as nothing.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Self

import evlog
from evlog import NewEvent
from tests.benchmarks.measure import Figure, Report, Target, count, seconds_of, take_turns
from tests.benchmarks.processes import Programs
from tests.benchmarks.programs import find_program
from tests.benchmarks.run import Run

_EVERY_SECONDS: Final = 0.01
_START_SECONDS: Final = 30.0
_BUSY_SECONDS: Final = 2.0
Append = Callable[[int], object]


def run(run: Run) -> Report:
    """Follow a store and a file by command, then a filled store by the library, then a store by many."""
    directory = run.fresh_directory("live")
    programs = Programs(directory)
    report = Report(
        "live", f"evlog tail -f, {1 / _EVERY_SECONDS:.0f} appends a second, {run.sizes.live} of them"
    )
    latency: dict[str, list[float]] = {}
    idle: dict[str, list[float]] = {}
    with evlog.open(directory / "followed", create=True) as store:

        def append(number: int) -> None:
            store.append("s", [NewEvent("T", number)])

        append(-1)
        with Tail(programs.start_evlog("tail", "-f", "--store", store.path, stdout=subprocess.PIPE)) as tail:
            latency["evlog"] = tail.latencies(append, run.sizes.live)
            idle["evlog"] = [tail.idle_percent(run.sizes.idle_seconds)]
    if program := find_program("tail"):
        _follow_file(program, directory / "lines.jsonl", run, latency, idle)
    worst = {name: [sorted(each)[int(len(each) * 0.99)]] for name, each in latency.items()}
    report.figures += [
        Figure("append returned → event on stdout", "ms", latency, Target(2.0, at_least=False)),
        Figure("the same, 99th percentile", "ms", worst, Target(15.0, at_least=False)),
        Figure("CPU of an idle follower", "%", idle, Target(0.3, at_least=False)),
        _catch_up(run),
        _many_followers(programs, directory / "busy", run),
    ]
    report.settings = {
        "evlog": {"sync": "always", "command": "evlog tail -f, a pipe as stdout"},
        "tail -f": {"file": "one write and fdatasync a line"},
    }
    return report


class Tail:
    """A running follower, whose lines are timed as they come."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._times: list[float] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for _ in lines:
                now = time.perf_counter()
                with self._more:
                    self._times.append(now)
                    self._more.notify_all()

    def wait_for(self, lines: int) -> None:
        """Return when this many lines have come."""
        with self._more:
            if not self._more.wait_for(lambda: len(self._times) >= lines, _START_SECONDS):
                raise RuntimeError(f"{self._process.args!r} printed {len(self._times)} lines, not {lines}")

    def latencies(self, append: Append, events: int) -> list[float]:
        """Return milliseconds from each append's return to its line; one line is there when it starts."""
        self.wait_for(1)
        append(0)
        self.wait_for(2)
        returned = []
        for number in range(events):
            time.sleep(_EVERY_SECONDS)
            append(number)
            returned.append(time.perf_counter())
        self.wait_for(2 + events)
        return [1e3 * max(0.0, at - back) for at, back in zip(self._times[2:], returned, strict=True)]

    def idle_percent(self, seconds: float) -> float:
        """Return the share of one CPU that it uses while nothing comes."""
        before = self._cpu_seconds()
        time.sleep(seconds)
        return 100 * (self._cpu_seconds() - before) / seconds

    def _cpu_seconds(self) -> float:
        try:
            return int(Path(f"/proc/{self._process.pid}/schedstat").read_text().split()[0]) / 1e9
        except FileNotFoundError:  # not Linux
            return float("nan")


def _follow_file(
    program: Path, path: Path, run: Run, latency: dict[str, list[float]], idle: dict[str, list[float]]
) -> None:
    with path.open("ab", buffering=0) as file:

        def append(number: int) -> None:
            file.write(b'{"stream":"s","type":"T","data":%d}\n' % number)
            os.fdatasync(file.fileno())

        append(-1)
        process = subprocess.Popen([program, "-f", path], stdout=subprocess.PIPE)
        with Tail(process) as tail:
            latency["tail -f"] = tail.latencies(append, run.sizes.live)
            idle["tail -f"] = [tail.idle_percent(run.sizes.idle_seconds)]


def _catch_up(run: Run) -> Figure:
    """Measure how fast a subscription reads a log that is there, beside a scan of it."""
    path = run.filled_directories(["evlog"])["evlog"] / "store"
    events = run.sizes.bulk

    def follow() -> float:
        with evlog.open(path) as store, store.subscribe(follow=False) as subscription:
            return events / seconds_of(lambda: count(subscription))

    def scan() -> float:
        with evlog.open(path) as store:
            return events / seconds_of(lambda: count(store.read_all()))

    samples = take_turns(run.sizes.rounds, {"catching up": follow, "full scan": scan})
    return Figure(
        "subscribe(follow=False)", "events/s", samples, Target(0.5, at_least=True, over="full scan")
    )


def _many_followers(programs: Programs, path: Path, run: Run) -> Figure:
    """Single appends a second of one writer, with many following it and with none, in turns."""
    seconds = min(_BUSY_SECONDS, run.sizes.idle_seconds)
    few, many = "none", f"{run.sizes.followers} followers"
    samples: dict[str, list[float]] = {many: [], few: []}
    with evlog.open(path, create=True) as store:

        def write() -> float:
            number, start = 0, time.perf_counter()
            while time.perf_counter() - start < seconds:
                store.append("s", [NewEvent("T", number)])
                number += 1
            return number / (time.perf_counter() - start)

        write()
        for _ in range(run.sizes.concurrent_rounds):
            samples[few].append(write())
            with _running(programs, path, run.sizes.followers):
                samples[many].append(write())
    return Figure(
        "single appends beside followers", "events/s", samples, Target(0.85, at_least=True, over=few)
    )


@contextmanager
def _running(programs: Programs, store: Path, followers: int) -> Iterator[None]:
    """Followers that print into files: a process that reads their pipes would take the writer's time."""
    outputs = [store.parent / f"followed-{number}" for number in range(followers)]
    with ExitStack() as stack:
        for output in outputs:
            file = stack.enter_context(output.open("wb"))
            arguments = ("tail", "-f", "-n", "1", "--store", str(store))
            process = programs.start_evlog(*arguments, stdout=file.fileno())
            stack.callback(process.wait)
            stack.callback(process.terminate)
        deadline = time.monotonic() + _START_SECONDS
        while not all(output.stat().st_size for output in outputs):
            if time.monotonic() > deadline:
                raise RuntimeError("not every follower has printed its first line")
            time.sleep(0.05)
        yield
