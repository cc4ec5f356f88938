"""What a busy writer keeps of the sealed segments saves work and never decides."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from evlog import EventStore, NewEvent
from evlog import known as known_module
from evlog.format import fold_ids, hash_stream
from evlog.known import SealedHeads, SealedIds
from evlog.log import Log
from tests.helpers import fill, new, number_id, small_store


@pytest.fixture
def store(memory_path: Path) -> Iterator[EventStore]:
    """Ninety-six events, all in twelve sealed segments but the last eight."""
    with small_store(memory_path / "store", sync="none") as store:
        fill(store, 96, streams=11)
        yield store


def sealed_version(number: int) -> int:
    return len(range(number, 88, 11))


@pytest.mark.parametrize("merged", [False, True])
def test_heads_are_the_last_versions_in_sealed_segments(store: EventStore, merged: bool) -> None:
    log = Log(store.path)
    heads = SealedHeads(log)
    if merged:
        heads._probes = 1000
        heads.prepare()
        assert heads._last is not None
    for number in range(11):
        assert heads.version(f"s-{number}", hash_stream(f"s-{number}")) == sealed_version(number)
    assert heads.version("missing", hash_stream("missing")) == 0
    assert heads.version("s-1000", hash_stream("s-1")) == 0  # the hash is another's


def test_heads_are_merged_once_probing_costs_more(store: EventStore) -> None:
    log = Log(store.path)
    heads = SealedHeads(log)
    heads.prepare()
    assert heads._last is None
    for number in range(20):
        heads.version(f"missing-{number}", hash_stream(f"missing-{number}"))
    heads.prepare()
    assert heads._last is not None


@pytest.mark.parametrize("merged", [False, True])
def test_every_sealed_id_has_to_be_looked_up(store: EventStore, merged: bool) -> None:
    log = Log(store.path)
    ids = SealedIds(log)
    if merged:
        ids._probes = 1000
        ids.prepare()
        assert ids._bits
    folds = fold_ids([number_id(number).bytes for number in range(88)])
    assert ids.maybe_known(folds) == list(range(88))


def test_most_new_ids_need_no_look_up_once_merged(store: EventStore) -> None:
    ids = SealedIds(Log(store.path))
    ids._probes = 1000
    ids.prepare()
    dice = random.Random(3)
    folds = fold_ids([dice.randbytes(16) for _ in range(2000)])
    assert len(ids.maybe_known(folds)) < 200


def test_segments_sealed_later_are_merged_too(store: EventStore) -> None:
    log = Log(store.path)
    heads, ids = SealedHeads(log), SealedIds(log)
    heads._probes = ids._probes = 1000
    heads.prepare()
    ids.prepare()
    for number in range(96, 200):
        store.append("later", [new(number, id=number_id(number))])
    log.refresh()
    sealed = 192 - 96
    assert heads.version("later", hash_stream("later")) == sealed
    folds = fold_ids([number_id(number).bytes for number in range(192)])
    assert ids.maybe_known(folds) == list(range(192))


def test_bitmap_grows_with_the_ids(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_module, "_MIN_BITS_LOG2", 8)
    log = Log(store.path)
    ids = SealedIds(log)
    ids._probes = 1000
    ids.prepare()
    before = len(ids._bits)
    for number in range(96, 900):
        store.append("later", [new(number, id=number_id(number))])
    log.refresh()
    folds = fold_ids([number_id(number).bytes for number in range(888)])
    assert ids.maybe_known(folds) == list(range(888))
    assert len(ids._bits) > before


def test_reset_log_is_merged_anew(store: EventStore) -> None:
    log = Log(store.path)
    heads, ids = SealedHeads(log), SealedIds(log)
    heads._probes = ids._probes = 1000
    heads.prepare()
    ids.prepare()
    log.reset()
    log.refresh()
    assert heads.version("s-3", hash_stream("s-3")) == sealed_version(3)
    assert ids.maybe_known(fold_ids([number_id(5).bytes])) == [0]


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
