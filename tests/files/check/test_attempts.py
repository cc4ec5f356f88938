"""A store that is compacted again and again while it is checked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from evlog.errors import CompactionRunning, StoreBusy
from evlog.files.check import verify
from evlog.files.disk.file_lock import FileLock, SharedLock
from evlog.files.format.paths import compaction_path
from tests.support.helpers import fill, small_store


def test_after_a_few_attempts_no_compaction_begins_and_at_last_the_store_is_busy(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(memory_path / "store")
    with small_store(path) as store:
        fill(store, 20)
    lock = FileLock(compaction_path(path), 0.0)
    free = []

    def compacted(*_args: object, **_options: object) -> Any:
        free.append(lock.maybe_acquire() is not None)
        if free[-1]:
            lock.release()
        raise FileNotFoundError

    monkeypatch.setattr(verify, "_verify", compacted)
    with pytest.raises(StoreBusy):
        verify.verify_store(path)
    assert free == [True] * 4 + [False] * 6


def test_a_compaction_that_a_verify_keeps_out_names_both(memory_path: Path) -> None:
    path = str(memory_path / "store")
    with small_store(path) as store:
        fill(store, 20)
        store.compact()
        with SharedLock(compaction_path(path), 0.0), pytest.raises(CompactionRunning) as caught:
            store.compact()
    holder = f"process {os.getpid()} (python" if os.path.exists("/proc/locks") else "another process"
    assert f"being compacted or verified by {holder}" in str(caught.value)
