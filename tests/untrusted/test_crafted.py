"""Records that no evlog wrote, in a segment whose checksums are all right: errors, and verify finds them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import evlog
from evlog import CorruptionError, Event, EvlogError, NewEvent
from evlog.adapters.eventsourcing.selection import version_of
from evlog.model.events import id_of_key
from tests.support.forge import (
    CODE,
    DATA,
    ID,
    METADATA,
    POSITION,
    STREAM,
    TIME,
    TYPE,
    VERSION,
    forge,
    read_frames,
)
from tests.untrusted.uses import READING, faults_of

NUMBERS: dict[int, tuple[Any, ...]] = {
    POSITION: ("1", None, -1, 99, 2**63),
    VERSION: ("1", 0, -1, 2**33, 1.5),
    TIME: ("x", 2**62, -1, 1.5, None),
    CODE: (9, -1, "y", None),
}
TEXTS: dict[int, tuple[Any, ...]] = {
    STREAM: (5, b"a-1", "", "a\nb", "x" * 300, []),
    TYPE: (5, b"T", "", "T\x1b[2J", None),
    ID: (5, "x" * 16, b"short", None),
    DATA: (5, "text", None, b'{"a":1}\n{"position":99}', b'{"a"', b"[" * 100_000),
    METADATA: (5, "text", b"{", b"[]", b"[" * 100_000, b'{"a":\n1}'),
}
FIELDS = [(field, value) for field, values in (NUMBERS | TEXTS).items() for value in values]


@pytest.fixture
def store(tmp_path: Path) -> evlog.EventStore:
    store = evlog.open(tmp_path / "store", create=True, segment_events=4)
    for number in range(4):
        store.append(f"a-{number % 2}", [NewEvent("T", {"i": at}, metadata={"m": at}) for at in range(2)])
    return store


def label(case: tuple[int, Any]) -> str:
    return f"field {case[0]} {case[1]!r:.12}"


@pytest.mark.parametrize("case", FIELDS, ids=label)
def test_a_field_that_makes_no_sense_is_an_error_and_found(
    store: evlog.EventStore, case: tuple[int, Any]
) -> None:
    field, value = case
    frames = read_frames(store, 0)
    frames[0][1][field] = value  # neither the first nor the last: those the manifest speaks of
    forge(store, 0, frames)
    assert not evlog.verify_store(store.path).ok
    assert faults_of(store.path, [*READING, "append", "compact", "repair"]) == []


@pytest.mark.parametrize("case", FIELDS, ids=label)
def test_no_property_of_an_event_that_makes_no_sense_fails_otherwise(case: tuple[int, Any]) -> None:
    fields: list[Any] = [1, 1, "a-1", "T", bytes(16), 5, 0, b"1", b'{"m":1}']
    fields[case[0]] = case[1]
    event = Event(fields)
    uses: list[Callable[[], object]] = [
        partial(getattr, event, name) for name in vars(Event) if isinstance(vars(Event)[name], property)
    ]
    uses += [event.json, partial(event.caused, "T"), partial(version_of, event)]
    for use in uses:
        with suppress(EvlogError):
            use()


@pytest.mark.parametrize("metadata", [b"{", b"[]"])
def test_a_decision_whose_metadata_make_no_sense_is_damage(store: evlog.EventStore, metadata: bytes) -> None:
    frames = read_frames(store, 0)
    frames[0][1][ID], frames[0][1][METADATA] = id_of_key("k/1"), metadata
    forge(store, 0, frames)
    with pytest.raises(CorruptionError):
        store.transact("a-1", lambda _: [NewEvent("T")], key="k")


@pytest.mark.parametrize("fields", [6, 8, 10])
def test_a_record_of_other_fields_is_an_error_and_found(store: evlog.EventStore, fields: int) -> None:
    frames = read_frames(store, 0)
    frames[0][1] = [*frames[0][1], 1][:fields]
    forge(store, 0, frames)
    assert not evlog.verify_store(store.path).ok
    assert faults_of(store.path, [*READING, "append", "compact", "repair"]) == []


@pytest.mark.parametrize("data", [b"{}", b"[1]", b"{", b"9" * 10_000, b'{"position":"x","time":null}'])
@pytest.mark.parametrize("type", ["$CompactionStarted", "$CompactionFinished", "$PolicySet"])
def test_events_of_the_store_itself_that_make_no_sense_are_errors(
    store: evlog.EventStore, type: str, data: bytes
) -> None:
    frames = read_frames(store, 0)
    frames[0][1][STREAM] = "$compactions" if type.startswith("$Comp") else "$$a-1"
    frames[0][1][TYPE], frames[0][1][DATA], frames[0][1][VERSION] = type, data, 1
    forge(store, 0, frames)
    assert faults_of(store.path, [*READING, "append", "compact", "repair"]) == []
