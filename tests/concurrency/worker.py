"""One process among many: it does its share of a job, and records its results with their times.

    python -m tests.concurrency.worker JOB STORE OUTPUT NUMBER SHARE

A line of the output is a JSON object; `began` and `ended` are by the monotonic clock, one for all processes.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import evlog
from evlog import EventStore, NewEvent, WrongExpectedVersion
from evlog.testing.base import in_threads
from tests.support.helpers import number_id

COUNTERS = 4


class Recorder:
    """Writes one line for each thing that happened, from any thread."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._mutex = threading.Lock()

    def __call__(self, kind: str, began: int, **facts: Any) -> None:
        line = json.dumps({"kind": kind, "began": began, "ended": time.monotonic_ns()} | facts)
        with self._mutex:
            self._output.write(line + "\n")


def count_up(store: EventStore, record: Recorder, number: int, share: int) -> None:
    """Read a counter, add one, append expecting what was read; every third append is sent again."""
    dice = random.Random(number)
    for step in range(share):
        id = number_id(number * 1_000_000 + step)
        while True:
            stream = f"counter-{dice.randrange(COUNTERS)}"
            last = next(store.read(stream, reverse=True, limit=1), None)
            version, value = (last.version, last.json()) if last else (0, 0)
            began = time.monotonic_ns()
            event = NewEvent("Counted", value + 1, id=id)
            try:
                result = store.append(stream, [event], expected=version)
                break
            except WrongExpectedVersion as refused:
                record("refused", began, stream=stream, expected=version, actual=refused.actual)
        record(
            "append",
            began,
            stream=stream,
            id=str(id),
            position=result.first_position,
            version=result.first_version,
            expected=version,
            duplicate=result.duplicate,
        )
        if step % 3 == 0:  # as after a lost acknowledgement
            began = time.monotonic_ns()
            again = store.append(stream, [event], expected=version)
            record("retry", began, id=str(id), position=again.first_position, duplicate=again.duplicate)


def append_batches(store: EventStore, record: Recorder, number: int, share: int) -> None:
    """Append to two streams at once: all or nothing, without an expectation."""
    for step in range(share):
        ids = [number_id(number * 1_000_000 + step * 3 + at) for at in range(3)]
        events = [NewEvent("Batched", step, id=id) for id in ids]
        began = time.monotonic_ns()
        mine, shared = store.append_many([(f"own-{number}", events[:2], step * 2), ("shared", events[2:])])
        assert shared.first_position == mine.last_position + 1
        record("batch", began, ids=[str(id) for id in ids], position=mine.first_position)


def follow(store: EventStore, record: Recorder, number: int, share: int) -> None:
    """Poll for what is new until this many events were seen."""
    after = 0
    while after < share:
        began = time.monotonic_ns()
        events = list(store.read_all(after=after))
        if events:
            record("poll", began, ids=[str(e.id) for e in events], positions=[e.position for e in events])
            after = events[-1].position


def look(store: EventStore, record: Recorder, number: int, share: int) -> None:
    """Read versions, streams and sizes over and over until the log has this many events."""
    head = 0
    while head < share:
        began = time.monotonic_ns()
        stream = f"counter-{number % COUNTERS}"
        before = store.stream_version(stream)
        versions = [event.version for event in store.read(stream)]
        after = store.stream_version(stream)
        assert versions == list(range(1, len(versions) + 1))
        assert before <= len(versions) <= after
        listed = {info.stream: info.events for info in store.streams()}
        assert listed.get(stream, 0) >= after
        assert store.info().events >= sum(listed.values())
        head = store.head
        record("look", began, stream=stream, version=after, head=head)


def threaded(job: Callable[..., None]) -> Callable[..., None]:
    def run(store: EventStore, record: Recorder, number: int, share: int) -> None:
        in_threads(partial(job, store, record, number * 10 + thread, share) for thread in range(4))

    return run


JOBS: dict[str, Callable[..., None]] = {
    "count": count_up,
    "batch": append_batches,
    "follow": follow,
    "look": look,
    "count-in-threads": threaded(count_up),
}


def main(job: str, path: str, output: str, number: str, share: str) -> None:
    # Only a writer without a time limit may append for others, and have others append for it.
    lock_timeout = 600.0 if int(number) % 4 == 3 else None
    with (
        Path(output).open("w", encoding="utf-8") as file,
        evlog.open(path, lock_timeout=lock_timeout) as store,
    ):
        print("ready", flush=True)
        sys.stdin.readline()  # all begin at once
        JOBS[job](store, Recorder(file), int(number), int(share))


if __name__ == "__main__":
    main(*sys.argv[1:])
