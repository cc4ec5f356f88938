"""For how long a compaction keeps writers out, and how long a writer beside it waits.

`python -m tests.benchmarks.holding STORE compact` compacts and times every hold of the writers' lock;
`… append` appends single events, each durable, until its stdin ends. Both print a line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import evlog
from evlog import NewEvent
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import WriteFile
from evlog.files.format import paths


class Held(NamedTuple):
    """Milliseconds: of one compaction the holds of the lock, and of the appends beside it the waits."""

    longest_hold: float
    all_holds: float
    longest_append: float
    appends: int


def compact_beside_a_writer(store: Path) -> Held:
    """Compact while another process appends."""
    command = [sys.executable, "-m", "tests.benchmarks.holding", str(store)]
    writer = subprocess.Popen([*command, "append"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    try:
        writer.stdout.readline()
        holds = json.loads(subprocess.run([*command, "compact"], check=True, capture_output=True).stdout)
        appends = json.loads(writer.communicate()[0])
    finally:
        writer.kill()
        writer.wait()
    return Held(max(holds), sum(holds), max(appends), len(appends))


def _compact(store: str) -> list[float]:
    """Compact, and note each hold of the writers' lock."""
    holds: list[float] = []
    path = paths.lock_path(store)

    class TimedLock(FileLock):
        began = 0.0

        def acquire(self) -> WriteFile:
            file = super().acquire()
            self.began = time.perf_counter()
            return file

        def maybe_acquire(self, *, wait_for_threads: bool = False) -> WriteFile | None:
            file = super().maybe_acquire(wait_for_threads=wait_for_threads)
            if file is not None:
                self.began = time.perf_counter()
            return file

        def release(self) -> None:
            super().release()
            if self.path == path:
                holds.append(1000 * (time.perf_counter() - self.began))

        __enter__ = acquire

    # Every lock that is made from now on is one of these.
    with (
        patch("evlog.files.compaction.compact.FileLock", TimedLock),
        patch("evlog.files.write.writer.FileLock", TimedLock),
        evlog.open(store) as opened,
    ):
        opened.compact()
    return holds


def _append(store: str) -> list[float]:
    """Append until stdin ends; how long each took."""
    ended = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    waits = []
    with evlog.open(store) as opened:
        opened.append("beside-1", [NewEvent("Beside")])
        print(flush=True)
        while not ended.is_set():
            start = time.perf_counter()
            opened.append("beside-1", [NewEvent("Beside")])
            waits.append(1000 * (time.perf_counter() - start))
    return waits


if __name__ == "__main__":
    print(json.dumps((_compact if sys.argv[2] == "compact" else _append)(sys.argv[1])))
