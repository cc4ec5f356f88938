"""Ids above every id of the store are new without a look-up; no known id is taken for new."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from evlog import EventStore, NewEvent
from evlog.errors import IdConflict
from evlog.files.check.repair import repair_store
from evlog.files.format import paths
from evlog.files.format.manifest import encode_manifest
from evlog.files.format.marks import MARK_BYTES, UNBOUNDED, WRITTEN_MAGIC, encode_mark
from evlog.files.log.log import Log
from evlog.files.log.manifest_file import read_manifest
from tests.support.helpers import flip_bit, new, small_store

FIRST = 1 << 127  # above the ids of the store's own events


def id_of(number: int) -> UUID:
    return UUID(int=FIRST + number * (1 << 64))


def append(store: EventStore, *numbers: int) -> tuple[int, bool]:
    """Append events with these ids as one batch; return the first position, and whether it was known."""
    result = store.append("s", [new(number, id=id_of(number)) for number in numbers])
    return result.first_position, result.duplicate


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return how many ids were looked up since the last call."""
    counts: list[int] = []
    find_ids = Log.find_ids

    def watched(log: Log, ids: list[bytes], *arguments: object) -> object:
        counts.append(len(ids))
        return find_ids(log, ids, *arguments)  # type: ignore[arg-type]

    def count() -> int:
        total = sum(counts)
        counts.clear()
        return total

    monkeypatch.setattr(Log, "find_ids", watched)
    return count


def test_ids_that_rise_are_not_looked_up(store: EventStore, looked_up: Callable[[], int]) -> None:
    assert append(store, 5) == (1, False)
    assert append(store, 9, 7, 8) == (2, False)
    with small_store(store.path) as other:
        assert append(other, 12) == (5, False)
    assert looked_up() == 0
    assert append(store, 12) == (5, True)  # above what this writer has appended
    assert looked_up() == 1
    assert append(store, 20, 21, 22, 23, 24) == (6, False)  # begins a segment
    assert append(store, 30) == (11, False)
    assert looked_up() == 0
    assert append(store, 29) == (12, False)
    assert append(store, 31, 28) == (13, False)
    assert looked_up() == 3
    assert [append(store, 24), append(store, 30), append(store, 12)] == [(10, True), (11, True), (5, True)]
    with pytest.raises(IdConflict):
        append(store, 40, 9)
    assert append(store, 40) == (15, False)
    assert store.verify().ok


def test_an_id_twice_in_one_append_is_found_though_it_is_above_all(store: EventStore) -> None:
    append(store, 1)
    with pytest.raises(ValueError, match="twice"):
        append(store, 3, 2, 3)


def test_ids_that_the_store_makes_count(store: EventStore, looked_up: Callable[[], int]) -> None:
    made = store.append("s", [new(1), new(2)]).ids
    assert looked_up() == 0
    for id in made:
        assert store.append("s", [new(1 + made.index(id), id=id)]).duplicate
    assert looked_up() == 2


def test_a_removed_id_is_known_though_none_above_it_is_left(
    store: EventStore, looked_up: Callable[[], int]
) -> None:
    for number in range(8):
        append(store, number)
    store.set_retention("s", max_count=1)
    store.append("t", [NewEvent("T", 0, id=id_of(8))])
    store.compact()
    assert [event.position for event in store.read_all()] == [8, 10]
    store.delete_stream("s")
    store.compact()
    with small_store(store.path) as other:
        assert append(other, 7) == (8, True)
        assert append(other, 3) == (4, True)
        looked_up()
        assert other.append("t", [NewEvent("T", 0, id=id_of(9))]).first_position > 10
        assert looked_up() == 0  # a compaction passes on what is known
    assert store.verify().ok


@pytest.mark.parametrize("lost", ["removed", "flipped", "zeros"])
def test_what_a_lost_mark_said_is_read_when_a_segment_is_full(
    lost: str, memory_path: Path, looked_up: Callable[[], int]
) -> None:
    marks = memory_path / "store" / "durable"
    with small_store(memory_path / "store") as store:
        for number in range(10):
            append(store, number)
    raw = marks.read_bytes()
    if lost == "removed":
        marks.unlink()
    else:
        marks.write_bytes(bytes(len(raw)) if lost == "zeros" else raw)
        if lost == "flipped":
            flip_bit(marks, 40)
    looked_up()
    with small_store(memory_path / "store") as store:
        for number in range(10, 16):
            append(store, number)
        assert looked_up() == 6
        append(store, 16)  # begins a segment
        looked_up()
        append(store, 17)
        assert looked_up() == 0
        assert append(store, 15) == (16, True)
        assert store.verify().ok


def test_a_mark_of_before_a_power_loss_hides_no_id(memory_path: Path) -> None:
    """The marks are never synced: an older one may come back, with frames that are not acknowledged."""
    marks = memory_path / "store" / "durable"
    kept = []
    with small_store(memory_path / "store", segment_events=100) as store:
        for number in range(6):
            append(store, number)
            kept.append(marks.read_bytes())
    for raw in kept:
        marks.write_bytes(raw)
        with small_store(memory_path / "store", segment_events=100) as store:
            assert [append(store, number) for number in (5, 0, 3)] == [(6, True), (1, True), (4, True)]


def test_verify_finds_what_would_hide_a_known_id(store: EventStore) -> None:
    for number in range(12):
        append(store, number)
    log = Log(store.path)
    assert (log.highest_id(), log.manifest.highest_id) == (id_of(11).bytes, id_of(7).bytes)
    marks = Path(store.path, "durable")
    right = marks.read_bytes()
    assert store.verify().findings == ()
    store.close()
    marks.write_bytes(encode_mark(WRITTEN_MAGIC, log.written_mark(id_of(10).bytes)) + right[MARK_BYTES:])
    with small_store(store.path) as other:
        (finding,) = other.verify().findings
        assert (finding.kind, finding.file) == ("mark", "durable")
        assert repair_store(store.path).report.findings == ()
        assert append(other, 11) == (12, True)
    marks.write_bytes(right)
    wrong = read_manifest(store.path)._replace(highest_id=id_of(6).bytes)
    Path(paths.manifest_path(store.path)).write_bytes(encode_manifest(wrong))
    marks.write_bytes(bytes(MARK_BYTES) + right[MARK_BYTES:])  # it names the manifest
    with small_store(store.path) as other:
        assert ("manifest", "manifest.json") in [(each.kind, each.file) for each in other.verify().findings]


def test_verify_counts_the_ids_of_removed_events(store: EventStore) -> None:
    for number in range(8):
        append(store, number)
    store.delete_stream("s")
    store.compact()
    assert store.verify().findings == ()
    wrong = read_manifest(store.path)._replace(highest_id=id_of(6).bytes)
    Path(paths.manifest_path(store.path)).write_bytes(encode_manifest(wrong))
    with small_store(store.path) as other:
        assert ("manifest", "manifest.json") in [(each.kind, each.file) for each in other.verify().findings]


def test_a_store_that_does_not_say_its_highest_id_looks_up(
    store: EventStore, looked_up: Callable[[], int]
) -> None:
    for number in range(12):
        append(store, number)
    store.close()
    older = read_manifest(store.path)._replace(highest_id=UNBOUNDED)
    assert b"highest_id" not in encode_manifest(older)
    Path(paths.manifest_path(store.path)).write_bytes(encode_manifest(older))
    Path(store.path, "durable").unlink()
    with small_store(store.path) as other:
        assert [append(other, number) for number in (3, 11)] == [(4, True), (12, True)]
        looked_up()
        for number in range(12, 24):
            append(other, number)
        assert looked_up() == 12
        assert other.verify().ok


class Model:
    """Two handles of a store, and where each id that they appended is."""

    def __init__(self, path: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.path = path
        self.durable = path / "durable"
        self.handles = [small_store(path), small_store(path)]
        self.known: dict[int, int] = {}  # positions by number
        self.older = b""  # marks of some earlier moment

    def numbers(self) -> list[int]:
        """Return the numbers of a batch: above or below all, or known."""
        rng, high, low = self.rng, max(self.known, default=1000), min(self.known, default=1000)
        count = rng.choice((1, 1, 2, 5, 20))
        kind = rng.choice(("rise", "rise", "rise", "fall", "shuffled", "known", "half", "jump"))
        if kind == "fall":
            return [low - at - 1 for at in range(count)]
        step = 50 if kind == "jump" else 1
        numbers = [high + 1 + at * step for at in range(count)]
        if kind == "known" and self.known:
            numbers = [rng.choice(list(self.known))]
        elif kind == "half" and self.known:
            numbers.append(rng.choice(list(self.known)))
        if kind in ("shuffled", "half"):
            rng.shuffle(numbers)
        return numbers

    def append(self) -> None:
        store, numbers = self.rng.choice(self.handles), self.numbers()
        fresh = [number for number in numbers if number not in self.known]
        if len(fresh) == len(numbers):
            position, is_known = append(store, *numbers)
            assert not is_known
            self.known.update(zip(numbers, range(position, position + len(numbers)), strict=True))
        elif fresh:
            with pytest.raises(IdConflict):
                append(store, *numbers)
        else:
            assert append(store, *numbers) == (self.known[numbers[0]], True)

    def disturb(self) -> None:
        """Compact, or open the store again, perhaps with the marks lost, damaged, or of an earlier moment."""
        what = self.rng.choice(("compact", "keep", "reopen", "older", "lose", "flip"))
        if what == "compact":
            self.handles[0].set_retention("s", max_count=self.rng.randrange(1, 20))
            self.handles[0].compact()
        elif what == "keep":
            self.older = self.durable.read_bytes()
        else:
            for handle in self.handles:
                handle.close()
            if what == "older" and self.older:
                self.durable.write_bytes(self.older)
            elif what == "lose":
                self.durable.unlink()
            elif what == "flip":
                flip_bit(self.durable, self.rng.randrange(MARK_BYTES))
            self.handles = [small_store(self.path), small_store(self.path)]


@pytest.mark.parametrize("seed", range(12))
def test_no_known_id_is_taken_for_new(seed: int, memory_path: Path, looked_up: Callable[[], int]) -> None:
    model = Model(memory_path / "store", seed)
    not_looked_up = 0
    for _ in range(150):
        before = len(model.known)
        looked_up()
        model.append()
        not_looked_up += len(model.known) > before and not looked_up()
        if not model.rng.randrange(8):
            model.disturb()
    for number, position in model.known.items():
        assert append(model.handles[0], number) == (position, True)
    assert not_looked_up > 20
    assert [each for each in model.handles[0].verify().findings if each.severity == "damage"] == []
    for handle in model.handles:
        handle.close()
