"""Schemas in a directory: what they cost, damage, segments, and writers that append for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import evlog
from evlog import CorruptionError, EventStore, NewEvent, SchemaViolation
from evlog.engine import Engine
from evlog.files.disk.files import Disk
from evlog.model.appends import AppendRequest, AppendResult
from evlog.schemas import registry
from tests.support.contention import Crowd, shared_frames
from tests.support.helpers import flip_bit, new, small_store

pytest.importorskip("jsonschema_rs")

POSITIVE = {"minimum": 1}


def refused(store: EventStore) -> bool:
    try:
        store.append("a", [new(0, "P")])
    except SchemaViolation:
        return True
    return False


def test_a_message_about_large_data_says_what_is_wrong(store: EventStore) -> None:
    store.set_schema("P", {"type": "integer"})
    with pytest.raises(SchemaViolation, match=r'of \'P\': "x+…x+" is not of type "integer"; correct'):
        store.append("a", [NewEvent("P", "x" * 1000)])


def test_a_store_without_schemas_looks_for_none(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", None)
    for number in range(3):
        store.append("a", [new(number, "P")])
    with evlog.open(store.path) as another:
        another.append("a", [new(3, "P")])


def test_schemas_are_read_when_they_change_and_not_before(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    load = registry.load

    def counted(engine: Engine) -> registry.Schemas:
        loads.append(1)
        return load(engine)

    monkeypatch.setattr(registry, "load", counted)
    with evlog.open(store.path) as other:
        store.set_schema("P", POSITIVE)
        loads.clear()
        for number in range(1, 5):
            other.append("a", [new(number, "P")])
        assert len(loads) == 1
        store.set_schema("Q", POSITIVE)
        loads.clear()
        for number in range(1, 5):
            other.append("a", [new(number, "P")])
        assert len(loads) == 1


def test_schemas_are_found_behind_many_segments_and_after_a_compaction(tmp_path: Path) -> None:
    with small_store(tmp_path / "store") as store:
        store.set_schema("P", POSITIVE)
        for number in range(60):
            store.append(f"s-{number % 7}", [new(number)])
        with evlog.open(store.path) as other:
            assert refused(other)
        store.set_retention(category="s", max_count=1)
        store.compact()
        with evlog.open(store.path) as other:
            assert refused(other)
            assert other.schema("P").version == 1
            assert other.verify().ok


def test_a_leader_does_not_append_what_was_checked_against_other_schemas(tmp_path: Path) -> None:
    """Also if the schema is set while requests wait in the queue."""
    with Crowd(str(tmp_path), [Disk() for _ in range(4)]) as crowd:

        def append(number: int) -> Any:
            return lambda store: store.append(f"s-{number}", [new(number, "P")])

        for store in crowd.stores:
            store.append("first", [new(1, "P")])
        crowd.stores[3].set_schema("P", POSITIVE)
        outcomes = crowd.together(append(1), append(0), append(2))
        assert [type(outcome) for outcome in outcomes] == [AppendResult, SchemaViolation, AppendResult]
        before = shared_frames(crowd.path)
        outcomes = crowd.together(append(3), append(4), append(5))  # all know it now
        assert [type(outcome) for outcome in outcomes] == [AppendResult] * 3
        assert shared_frames(crowd.path) == before + 1


def flip(path: Path, needle: bytes) -> None:
    """Change one bit of the last place where the bytes are."""
    (log,) = path.glob("segments/*.log")
    flip_bit(log, needle)


@pytest.mark.parametrize("type", ["P", "Other"])
@pytest.mark.parametrize("earlier", [0, 1])
def test_damage_of_a_schema_refuses_what_it_cannot_check(tmp_path: Path, type: str, earlier: int) -> None:
    """Which type the schema is of, nothing tells: no event is appended unchecked."""
    with evlog.open(tmp_path / "store", create=True) as store:
        for number in range(earlier):
            store.set_schema("P", {"minimum": number})
        store.set_schema("P", {"minimum": 7})
        store.append("a", [new(9)])
    flip(tmp_path / "store", b'"minimum":7')
    with evlog.open(tmp_path / "store") as store:
        with pytest.raises(CorruptionError, match="nothing is appended that cannot be checked") as caught:
            store.append("a", [new(6, type)])
        assert "--salvage OUT" in str(caught.value)
        with pytest.raises(CorruptionError):
            store.schema("P")
        assert not store.verify().ok
    evlog.salvage_store(tmp_path / "store", tmp_path / "out")
    with evlog.open(tmp_path / "out") as store:
        store.append("a", [new(9, type)])  # what the damage left over is appended to again


@pytest.mark.exact_hashes
def test_damage_of_a_policy_leaves_schemas_alone(tmp_path: Path) -> None:
    with evlog.open(tmp_path / "store", create=True) as store:
        store.set_schema("P", POSITIVE)
        store.set_retention("x", max_count=4711)
        store.append("b", [new(0)])
    flip(tmp_path / "store", b"4711")
    with evlog.open(tmp_path / "store") as store:
        assert refused(store)
        store.append("b", [new(1, "P"), new(0)])
        assert refused(store)


def test_what_is_not_a_schema_in_a_crafted_store_is_an_error(store: EventStore) -> None:
    for number, data in enumerate((b"5", b"{}", b'{"type":5}', b'{"schema":{},"type":"P"}'), 1):
        event = ("$schema", number.to_bytes(16), 0, data, None)
        store.engine.append(AppendRequest.own("$schemas", event))
        with pytest.raises(CorruptionError):
            store.append("a", [new(1, "P")])
        with pytest.raises(CorruptionError):
            store.schemas()
