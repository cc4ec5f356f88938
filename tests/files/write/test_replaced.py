"""A store that is replaced under an open handle: nothing is acknowledged that is not in the one in place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from evlog.errors import EvlogError, StoreNotFound, StoreReplaced
from evlog.store import EventStore
from tests.support.helpers import facts, fill, new, small_store


def put_in_place(path: Path, other: Path) -> None:
    os.rename(path, path.with_name("old"))
    os.rename(other, path)


def a_copy(path: Path) -> None:
    shutil.copytree(path, path.with_name("copy"))
    put_in_place(path, path.with_name("copy"))


def a_copy_after_removing(path: Path) -> None:
    """Replace the store by a copy; its files may get the inodes of removed ones, but not the open log's."""
    shutil.copytree(path, path.with_name("copy"))
    shutil.rmtree(path)
    shutil.copytree(path.with_name("copy"), path)


def another_store(path: Path) -> None:
    with small_store(path.with_name("other")) as other:
        fill(other, 30)
    put_in_place(path, path.with_name("other"))


def a_copied_log(path: Path) -> None:
    (log,) = path.glob("segments/*1.0.log")
    shutil.copy2(log, log.with_suffix(".copy"))
    os.rename(log.with_suffix(".copy"), log)


REPLACEMENTS = [a_copy, a_copy_after_removing, another_store, a_copied_log]


@pytest.mark.parametrize("replace", REPLACEMENTS)
@pytest.mark.parametrize("has_appended", [True, False])
def test_nothing_is_acknowledged_after_the_store_was_replaced(
    memory_path: Path, replace: Callable[[Path], None], has_appended: bool
) -> None:
    path = memory_path / "store"
    with small_store(path, segment_events=100) as writer:
        fill(writer, 5)
        store: EventStore = writer if has_appended else small_store(path)
        assert len(list(store.read_all())) == 5
        replace(path)
        before = facts(small_store(path).read_all())
        written = 0
        for _ in range(2):
            try:
                store.append("s", [new()])
                written += 1
            except (StoreReplaced, StoreNotFound):
                pass
        found = facts(small_store(path).read_all())
        assert found[: len(before)] == before
        assert len(found) == len(before) + written  # what was acknowledged is in the store that is in place
        assert not (has_appended and written), "it appended to a store that it had not opened"
        store.close()
    with small_store(path) as again:
        assert again.append("s", [new()]).first_position == len(found) + 1


def test_an_older_copy_is_noticed_after_a_roll(memory_path: Path) -> None:
    path = memory_path / "store"
    with small_store(path, segment_events=4) as store:
        fill(store, 3)
        shutil.copytree(path, memory_path / "older")
        fill_more = [store.append("s", [new()]) for _ in range(6)]
        assert fill_more[-1].first_position == 9
        put_in_place(path, memory_path / "older")
        with pytest.raises(EvlogError):
            store.append("s", [new()])
    with small_store(path) as again:
        assert again.head == 3


def test_a_store_that_was_moved_away_takes_no_append(memory_path: Path) -> None:
    path = memory_path / "store"
    with small_store(path) as store:
        fill(store, 3)
        os.rename(path, memory_path / "elsewhere")
        uses: list[Callable[[], object]] = [
            lambda: store.append("s", [new()]),
            store.compact,
            store.info,
            store.verify,
            lambda: store.subscribe().next_event(0),
        ]
        for use in uses:
            with pytest.raises(StoreNotFound, match="moved or removed while it was open") as caught:
                use()
            assert caught.value.was_open
        os.rename(memory_path / "elsewhere", path)
        assert store.append("s", [new()]).first_position == 4
