"""Verify reports nothing false while others append and roll; what a killed writer leaves is repaired."""

from __future__ import annotations

import subprocess
from pathlib import Path

from evlog import NewEvent, repair_store, verify_store
from evlog import open as open_store
from tests.support.helpers import small_store
from tests.support.programs import next_line, start_python

WRITER = """
import sys
import evlog

with evlog.open(sys.argv[1], sync=sys.argv[2]) as store:
    print("begun", flush=True)
    for number in range(400):
        events = [evlog.NewEvent("T", number) for _ in range(number % 4 + 1)]
        store.append_many([(f"s-{number % 5}", events), ("all", [evlog.NewEvent("U")])])
"""


def start(path: str, sync: str) -> subprocess.Popen[str]:
    process = start_python("-c", WRITER, path, sync)
    assert next_line(process) == "begun\n"
    return process


def test_verify_says_nothing_false_while_others_write(memory_path: Path) -> None:
    path = str(memory_path / "store")
    small_store(path, segment_events=64).close()
    writers = [start(path, "always"), start(path, "none")]
    runs = 0
    while any(writer.poll() is None for writer in writers) or runs < 3:
        report = verify_store(path, quick=runs % 3 == 2)
        assert report.findings == ()
        runs += 1
    for writer in writers:
        writer.communicate()
    report = verify_store(path)
    assert report.ok
    assert report.events == 2 * 400 * 3.5


COMPACTOR = """
import sys
import evlog
from evlog.files.compaction import compress as compact_compress

compact_compress._WORTH = 1000.0
with evlog.open(sys.argv[1]) as store:
    print("begun", flush=True)
    compressed, ended = 0, False
    while not ended:
        ended = store.has_stream("end")  # then there is one compaction more
        try:
            compressed += store.compact(compress=True).segments_compressed
        except evlog.CompactionRunning:
            ended = False  # the check keeps compactions out after a few attempts
print(compressed)
"""


def test_verify_says_nothing_false_while_segments_are_compressed(memory_path: Path) -> None:
    path = str(memory_path / "store")
    small_store(path, segment_events=64).close()
    compactor = start_python("-c", COMPACTOR, path)
    assert next_line(compactor) == "begun\n"
    writer = start(path, "none")
    runs = 0
    try:
        while writer.poll() is None or runs < 9:
            report = verify_store(path, quick=runs % 3 == 2)
            assert report.findings == ()
            runs += 1
        with open_store(path) as store:
            store.append("end", [NewEvent("End")])
        compressed = int(compactor.communicate()[0])
    finally:
        for process in (writer, compactor):
            process.kill()
            with process:
                pass
    report = verify_store(path)
    assert report.ok
    assert report.events == 400 * 3.5 + 1
    assert compressed >= report.segments - 2


def test_a_killed_writer_leaves_what_repair_mends(memory_path: Path) -> None:
    path = str(memory_path / "store")
    small_store(path, segment_events=64).close()
    for _ in range(3):
        writer = start(path, "always")
        verify_store(path)
        writer.kill()
        writer.communicate()
        report = repair_store(path).report
        assert report.ok
        with open_store(path) as store:
            assert store.head == report.events
