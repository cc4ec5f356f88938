"""What a caller's own function raises, and a lack of memory, are not damage of the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

import evlog
from evlog import EventStore, NewEvent
from evlog.files.disk.files import ReadFile

_CALLS: dict[str, Callable[[EventStore, Path, Any], object]] = {
    "compact": lambda store, _, progress: store.compact(progress=progress),
    "verify": lambda store, _, progress: store.verify(progress=progress),
    "verify_store": lambda store, _, progress: evlog.verify_store(store.path, progress=progress),
    "repair": lambda store, _, progress: evlog.repair_store(store.path, progress=progress),
    "backup": lambda store, out, progress: evlog.backup_store(store.path, out, progress=progress),
    "salvage": lambda store, out, progress: evlog.salvage_store(store.path, out, progress=progress),
}


@pytest.mark.parametrize("name", _CALLS)
@pytest.mark.parametrize("error", [ValueError("mine"), OSError(5, "mine"), AssertionError("mine")])
def test_what_progress_raises_comes_out_as_it_is(tmp_path: Path, name: str, error: Exception) -> None:
    def fail(_done: int, _total: int) -> NoReturn:
        raise error

    with evlog.open(tmp_path / "store", create=True, segment_events=100) as store:
        store.append_many([("a", [NewEvent("T", number) for number in range(300)])])
        store.set_retention("a", max_count=1)
        with pytest.raises(type(error)) as raised:
            _CALLS[name](store, tmp_path / "failed", fail)
        assert raised.value is error
        _CALLS[name](store, tmp_path / "again", lambda _done, _total: None)
        assert store.verify().ok


def test_a_lack_of_memory_is_not_damage(tmp_path: Path) -> None:
    def fail(*_arguments: object) -> NoReturn:
        raise MemoryError

    path = tmp_path / "store"
    with evlog.open(path, create=True, segment_events=100) as store:
        store.append_many([("a", [NewEvent("T", number) for number in range(250)])])
    uses: list[Callable[[EventStore], object]] = [
        lambda store: store.head,
        lambda store: list(store.read("a")),
        lambda store: list(store.read_all(reverse=True)),
        lambda store: store.append("a", [NewEvent("T")]),
    ]
    for use in uses:
        with evlog.open(path) as store:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(ReadFile, "read", fail)
                patched.setattr(ReadFile, "read_array", fail)
                with pytest.raises(MemoryError):
                    use(store)
            use(store)
    assert evlog.verify_store(path).ok
