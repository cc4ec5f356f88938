"""Ctrl-C between any two disk calls of an append: the store goes on, with all of the append or nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import evlog
from evlog.files.disk.files import Disk
from tests.support.helpers import new, number_id, numbers, small_store

CALLS = ("open", "write_at", "cut", "sync", "sync_dir", "replace", "remove", "create_file")


class InterruptedDisk(Disk):
    """Raises KeyboardInterrupt at the n-th call, before or after it is done."""

    def __init__(self) -> None:
        self.left = -1
        self.after = False

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            if self.left == 0 and not self.after:
                self.left = -1
                raise KeyboardInterrupt
            result = call(*arguments, **named)
            if self.left == 0:
                self.left = -1
                raise KeyboardInterrupt
            if self.left > 0:
                self.left -= 1
            return result

        return counted

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return self._counted(found) if name in CALLS else found


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("segment_events", [3, 100])
def test_interrupted_append_is_whole_or_absent_and_the_store_goes_on(
    memory_path: Path, segment_events: int, after: bool
) -> None:
    for calls in range(60):
        path = memory_path / f"store-{calls}"
        disk = InterruptedDisk()
        with small_store(path, segment_events=segment_events, disk=disk) as store:
            store.append("s", [new(0, id=number_id(0)), new(1, id=number_id(1))])
            batch = [new(number, id=number_id(number)) for number in (2, 3)]
            disk.left, disk.after = calls, after
            try:
                store.append("s", batch, expected=2)
                done = True
            except KeyboardInterrupt:
                done = False
            disk.left = -1
            assert numbers(store.read_all()) in ([0, 1], [0, 1, 2, 3])
            assert store.append("s", batch, expected=2)[1:5] == (3, 4, 3, 4)
            assert store.append("s", [new(4)], expected=4).first_position == 5
            for subject in (store, evlog.open(path)):
                assert numbers(subject.read_all()) == [0, 1, 2, 3, 4]
                assert subject.stream_version("s") == 5
        if done:
            return
    raise AssertionError("the append never got through")
