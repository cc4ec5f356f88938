"""What a busy process keeps of the sealed segments saves work and never decides."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from evlog import NewEvent
from evlog.files.log import segment_filter as known_module
from evlog.files.log.segment_filter import IdTable, StreamTable
from tests.support.helpers import number_id, small_store

HASHES = 1 << 64


@dataclass(eq=False)
class Keys:
    """A sealed segment, as far as the tables look at one."""

    streams: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    @property
    def count(self) -> int:
        return max(len(self.streams), len(self.ids))

    @property
    def id_count(self) -> int:
        return self.count

    def stream_keys(self) -> Sequence[int]:
        return self.streams

    def id_keys(self) -> Sequence[int]:
        return [fold >> 32 for fold in self.ids]


def segments(count: int, keys: int, seed: int = 1) -> list[Keys]:
    dice = random.Random(seed)
    hashes = [dice.randrange(HASHES) for _ in range(keys * 3)]
    return [
        Keys(dice.sample(hashes, keys), [dice.randrange(HASHES) for _ in range(keys)]) for _ in range(count)
    ]


def fill(table: StreamTable | IdTable, sealed: Sequence[Keys]) -> None:
    for _ in sealed:
        table.take_in(sealed)
    assert not table.is_due(sealed)


def missed_streams(table: StreamTable, sealed: Sequence[Keys]) -> list[int]:
    return [
        key
        for place, part in enumerate(sealed)
        for key in part.streams
        if place not in table.places(sealed, key)
    ]


def missed_ids(table: IdTable, sealed: Sequence[Keys]) -> list[int]:
    missed = []
    for place, part in enumerate(sealed):
        places = table.places(sealed, part.ids)
        missed += [fold for at, fold in enumerate(part.ids) if place not in places.get(at, ())]
    return missed


@pytest.mark.parametrize("taken", [0, 1, 7, 70, 300])
@pytest.mark.parametrize("count", [1, 7, 70, 300])
def test_no_key_is_ever_missed(count: int, taken: int) -> None:
    sealed = segments(count, 20)
    streams, ids = StreamTable(), IdTable()
    for _ in range(min(taken, count)):
        streams.take_in(sealed)
        ids.take_in(sealed)
    assert missed_streams(streams, sealed) == []
    assert missed_ids(ids, sealed) == []


def test_places_come_newest_first_and_once() -> None:
    sealed = segments(100, 50)
    streams, ids = StreamTable(), IdTable()
    for _ in range(80):
        streams.take_in(sealed)
        ids.take_in(sealed)
    for part in sealed:
        for key in part.streams[:5]:
            places = streams.places(sealed, key)
            assert places == sorted(set(places), reverse=True)
        for found in ids.places(sealed, part.ids[:5]).values():
            assert list(found) == sorted(set(found), reverse=True)


def test_most_unknown_keys_need_no_look() -> None:
    sealed = segments(20, 500)
    streams, ids = StreamTable(), IdTable()
    fill(streams, sealed)
    fill(ids, sealed)
    unknown = [random.Random(7).randrange(HASHES) for _ in range(2000)]
    assert sum(bool(streams.places(sealed, key)) for key in unknown) < 800
    assert len(ids.places(sealed, unknown)) < 600


def test_stream_is_looked_for_only_where_it_is() -> None:
    sealed = [Keys([place * (HASHES // 1000)], []) for place in range(200)]
    streams = StreamTable()
    fill(streams, sealed)
    assert [streams.places(sealed, part.streams[0]) for part in sealed] == [[place] for place in range(200)]


def test_table_is_due_once_looking_everywhere_has_cost_as_much() -> None:
    sealed = segments(10, 640)
    streams, ids = StreamTable(), IdTable()
    assert not streams.is_due(sealed)
    assert not ids.is_due(sealed)
    for _ in range(5):
        streams.places(sealed, 1)
    assert not streams.is_due(sealed)
    for _ in range(6):
        streams.places(sealed, 1)
    ids.places(sealed, [1] * 11)
    assert streams.is_due(sealed)
    assert ids.is_due(sealed)


def test_segments_that_change_below_are_taken_in_anew() -> None:
    sealed = segments(6, 20)
    streams, ids = StreamTable(), IdTable()
    fill(streams, sealed)
    fill(ids, sealed)
    merged = [*segments(2, 60, seed=2), *sealed[3:]]
    assert missed_streams(streams, merged) == []
    assert missed_ids(ids, merged) == []
    for _ in merged:
        streams.take_in(merged)
        ids.take_in(merged)
        assert missed_streams(streams, merged) == []
        assert missed_ids(ids, merged) == []


def test_tables_grow_with_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_module, "_MIN_SLOTS_LOG2", 2)
    every = segments(64, 40)
    streams, ids = StreamTable(), IdTable()
    for count in range(1, 65):
        sealed = every[:count]
        while streams.is_due(sealed) or not streams._parts:
            streams.take_in(sealed)
        while ids.is_due(sealed) or not ids._parts:
            ids.take_in(sealed)
        assert missed_streams(streams, sealed) == []
        assert missed_ids(ids, sealed) == []
    assert len(streams._words[0]) >= 1024
    assert len(ids._slots) >= 8192


def test_bulk_writer_finds_every_stream_and_every_id(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_events=100, sync="none") as store:
        dice = random.Random(5)
        versions: dict[str, int] = {}
        for batch in range(60):
            appends = []
            for at in range(20):
                stream = f"s-{dice.randrange(600)}"
                event = NewEvent("T", batch, id=number_id(batch * 20 + at))
                appends.append((stream, [event], versions.get(stream, 0)))
                versions[stream] = versions.get(stream, 0) + 1
            first = store.append_many(appends)
            assert [result.duplicate for result in first] == [False] * 20
            again = store.append_many(appends)
            assert [result.duplicate for result in again] == [True] * 20
        assert {info.name: info.events for info in store.streams()} == versions
