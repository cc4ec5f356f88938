"""Many processes write and read one store at once; the recorded history has to fit one order of events."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import evlog
from tests.concurrency.history import (
    Record,
    check_acknowledged,
    check_counters,
    check_log,
    check_order,
    check_readers,
    check_refusals,
)
from tests.support.helpers import small_store
from tests.support.programs import let_go, next_line, start_python


def run(path: Path, jobs: list[tuple[str, int]], segment_events: int) -> list[list[Record]]:
    """Run one process for each (job, share), all at once; return what each of them recorded."""
    small_store(path / "store", segment_events=segment_events).close()
    processes: list[subprocess.Popen[str]] = []
    outputs = [path / f"{number}.jsonl" for number in range(len(jobs))]
    try:
        for number, (job, share) in enumerate(jobs):
            arguments = [job, str(path / "store"), str(outputs[number]), str(number), str(share)]
            processes.append(
                start_python("-m", "tests.concurrency.worker", *arguments, stderr=subprocess.PIPE)
            )
        for process in processes:
            assert next_line(process) == "ready\n"
        for process in processes:
            let_go(process)
        ended = [process.communicate(timeout=600) for process in processes]
        # Under load some say on stderr that they wait for the lock.
        assert {process.returncode for process in processes} == {0}, [errors for _, errors in ended]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
    return [[json.loads(line) for line in output.read_text("utf-8").splitlines()] for output in outputs]


def check(path: Path, recorded: list[list[Record]], readers: int) -> list[evlog.Event]:
    history: list[Any] = [record for records in recorded for record in records]
    with evlog.open(path / "store") as store:
        events = list(store.read_all())
        check_log(events)
        check_acknowledged(events, history)
        check_counters(events)
        check_order(history)
        check_refusals(history)
        check_readers(events, recorded[len(recorded) - readers :], history)
        counted: dict[str, int] = {}
        for event in events:
            counted[event.stream] = counted.get(event.stream, 0) + 1
        assert {info.stream: info.events for info in store.streams()} == counted
        assert [event for name in sorted(counted) for event in store.read(name)] == sorted(
            events, key=lambda event: (event.stream, event.version)
        )
    return events


def test_sixteen_processes_make_one_history(tmp_path: Path) -> None:
    share = 30
    writers = [("count", share)] * 12 + [("batch", share)] * 4
    total = 12 * share + 4 * share * 3
    recorded = run(
        tmp_path, [*writers, ("follow", total), ("follow", total), ("look", total)], segment_events=100
    )
    events = check(tmp_path, recorded, readers=3)
    assert len(events) == total
    # Every process finished its share, so none starved; and they did compete.
    assert [
        sum(record["kind"] in ("append", "batch") for record in records) for records in recorded[:16]
    ] == [share] * 16
    assert any(record["kind"] == "refused" for records in recorded for record in records)


def test_threads_of_several_processes_make_one_history(memory_path: Path) -> None:
    share = 15
    total = 4 * 4 * share
    jobs = [("count-in-threads", share)] * 4 + [("follow", total), ("look", total)]
    recorded = run(memory_path, jobs, segment_events=20)
    events = check(memory_path, recorded, readers=2)
    assert len(events) == total
