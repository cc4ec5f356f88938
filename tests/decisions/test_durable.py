"""What is found instead of written is durable before it is acknowledged: its writer may have died."""

from __future__ import annotations

from pathlib import Path

import pytest

from evlog.files.disk.files import Disk, WriteFile
from tests.support.helpers import new, small_store


class CountingDisk(Disk):
    """Counts the syncs of logs."""

    def __init__(self) -> None:
        self.syncs = 0

    def sync(self, file: WriteFile) -> None:
        self.syncs += file.path.endswith(".log")
        super().sync(file)


def test_a_decision_that_was_made_before_is_synced(tmp_path: Path) -> None:
    disk = CountingDisk()
    with small_store(tmp_path, sync="none") as careless, small_store(tmp_path, disk=disk) as careful:
        careless.transact("a", lambda _: [new(1)], key="k")
        assert disk.syncs == 0
        assert careful.transact("a", lambda _: [], key="k")[0].duplicate
        assert disk.syncs == 1


def test_a_schema_that_is_set_already_is_synced(tmp_path: Path) -> None:
    pytest.importorskip("jsonschema_rs")
    disk = CountingDisk()
    with small_store(tmp_path, sync="none") as careless, small_store(tmp_path, disk=disk) as careful:
        careless.set_schema("T", {"minimum": 1})
        assert disk.syncs == 0
        assert careful.set_schema("T", {"minimum": 1}).version == 1
        assert disk.syncs == 1
