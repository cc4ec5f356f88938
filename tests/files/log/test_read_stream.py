"""Reading one stream: guesses that a record has to confirm, and damage among the segments of a stream."""

from __future__ import annotations

from pathlib import Path

import pytest

from evlog import Event
from evlog.errors import CorruptionError
from tests.support.helpers import new, numbers, segment_files, small_store


def test_a_guess_that_another_stream_has_led_astray_hides_nothing(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("log.read_stream", "log.log", "write.plan"):
        monkeypatch.setattr(f"evlog.files.{module}.hash_stream", lambda _: 1 << 40, raising=False)
    with small_store(memory_path / "store", segment_events=10) as store:
        for stream, count in (("c", 5), ("a", 4), ("x", 1)):
            store.append(stream, [new(number) for number in range(1, count + 1)])
        # The next segment: by its first entry, version 6 of "a" would be where that of "c" is.
        for stream, version in (("b", 1), ("a", 5), ("a", 6), ("b", 2), ("b", 3), ("c", 6), ("a", 7)):
            store.append(stream, [new(version)], expected=version - 1)
        assert len(segment_files(store, "log")) == 2
        for first in range(1, 9):
            assert numbers(store.read("a", first)) == list(range(first, 8))
            assert numbers(store.read("a", first, limit=1)) == [first][: 8 - first]
            assert numbers(store.read("a", first, reverse=True)) == list(range(first, 8))[::-1]


@pytest.mark.exact_hashes  # else any damaged event may be a policy
def test_events_before_damage_in_a_later_segment_are_read_first(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_events=4) as store:
        for number in range(11):
            store.append("s", [new(number)])
    logs = segment_files(store, "log")
    content = bytearray(logs[1].read_bytes())
    content[-1] ^= 1  # the last one of the second segment
    logs[1].write_bytes(content)
    with small_store(memory_path / "store") as store:
        found: list[Event] = []
        with pytest.raises(CorruptionError):
            found.extend(store.read("s"))  # it keeps what came before
        assert numbers(found) == list(range(7))


@pytest.mark.exact_hashes  # else any damaged event may be a policy
@pytest.mark.parametrize("reverse", [False, True])
def test_a_log_that_is_missing_hides_nothing_before_it(memory_path: Path, *, reverse: bool) -> None:
    with small_store(memory_path / "store", segment_events=4) as store:
        for number in range(11):
            store.append("s", [new(number)])
    segment_files(store, "log")[1].unlink()
    with small_store(memory_path / "store") as store:
        found: list[Event] = []
        with pytest.raises(CorruptionError):
            found.extend(store.read("s", reverse=reverse))
        assert numbers(found) == ([10, 9, 8] if reverse else [0, 1, 2, 3])
