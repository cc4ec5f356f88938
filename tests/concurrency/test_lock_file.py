"""A lock file that is removed under writers: they exclude each other all the same, or refuse."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import evlog
from evlog import LockLost, NewEvent
from tests.support.helpers import engine_of


def test_writer_that_is_suspended_while_its_lock_file_is_removed_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "store")
    with evlog.open(path, create=True) as store, evlog.open(path) as other:
        store.append("a", [NewEvent("T")])
        writer = engine_of(store)._open_writer()
        plan = writer._planner.plan_locked

        def plan_and_lose_the_lock(append: object) -> object:
            planned = plan(append)  # type: ignore[arg-type]
            os.unlink(f"{path}/lock")
            assert other.append("b", [NewEvent("T")]).last_position == 2
            return planned

        with monkeypatch.context() as patch:
            patch.setattr(writer._planner, "plan_locked", plan_and_lose_the_lock)
            with pytest.raises(LockLost):
                store.append("a", [NewEvent("T")])
        assert store.append("a", [NewEvent("T")]).last_position == 3
        assert [(event.stream, event.version) for event in other.read_all()] == [("a", 1), ("b", 1), ("a", 2)]
        assert store.verify().ok
