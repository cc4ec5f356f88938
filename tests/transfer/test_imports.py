"""Imports: events get the times that they had elsewhere, and a killed import is run again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import evlog
from evlog import NewEvents
from evlog.model.events import MAX_EVENT_BYTES
from evlog.model.history import HistoryPiece
from evlog.store import EventStore
from evlog.transfer import Import, mirror, promote
from tests.crash import recordings
from tests.crash.check import open_store
from tests.crash.disk import Killed, RecordingDisk, World
from tests.support.helpers import new, number_id, small_store
from tests.support.programs import run_python

BEGIN = datetime(2024, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def store(memory_path: Path) -> Iterator[EventStore]:
    with small_store(memory_path / "store", segment_events=5) as store:
        yield store


def days(first: int, last: int, **options: Any) -> tuple[NewEvents, list[datetime]]:
    numbers = range(first, last + 1)
    ids = [number_id(number) for number in numbers]
    data = [b"%d" % number for number in numbers]
    events = NewEvents([f"s-{number % 2}" for number in numbers], "T", data, ids=ids, **options)
    return events, [BEGIN + timedelta(days=number) for number in numbers]


def test_reads_and_retention_go_by_the_times_that_events_had(store: EventStore) -> None:
    with Import(store) as load:
        assert load.append(*days(0, 9)).appended == 10
    since, until = BEGIN + timedelta(days=3), BEGIN + timedelta(days=5)
    assert [event.data for event in store.read_all(since=since, until=until)] == [b"3", b"4"]
    store.append("s-0", [new(10)])
    store.set_retention("s-0", max_age=timedelta(days=30))
    assert [event.data for event in store.read("s-0")] == [b"10"]
    assert store.compact().events_removed == 5
    assert store.verify().ok


def test_a_time_before_that_of_the_event_before_is_delayed(store: EventStore) -> None:
    events, times = days(0, 3)
    with Import(store) as load:
        load.append(events, [times[1], times[0], times[2], times[2]])
        assert load.delayed == 1
    assert [event.time for event in store.read_all()] == [times[1], times[1], times[2], times[2]]


@pytest.mark.parametrize("moment", [datetime.max.replace(tzinfo=UTC), datetime(1969, 12, 31, tzinfo=UTC)])
def test_a_time_that_a_store_cannot_have_is_refused(store: EventStore, moment: datetime) -> None:
    with Import(store) as load, pytest.raises(evlog.InvalidArgument, match="before 1970 or after now"):
        load.append(days(0, 0)[0], [moment])
    with Import(store) as load, pytest.raises(evlog.InvalidArgument, match="no time zone"):
        load.append(days(0, 0)[0], [datetime(2024, 1, 1)])  # noqa: DTZ001 - it has no zone
    assert store.head == 0


def test_what_is_known_is_skipped_and_other_content_refused(store: EventStore) -> None:
    with Import(store) as load:
        load.append(*days(0, 5))
    store.delete_stream("s-0")
    store.compact()
    store.redact(2, reason="test")
    with Import(store) as load:
        result = load.append(*days(0, 7))
        assert result.duplicates == [True] * 6 + [False] * 2
        assert result.positions[:6] == [1, 2, 3, 4, 5, 6]
        assert result.versions == [1, 1, 2, 2, 3, 3, 4, 4]
        with pytest.raises(evlog.IdConflict) as caught:
            load.append(NewEvents(["s-1"], "T", [b"77"], ids=[number_id(5)]), [BEGIN])
        assert caught.value.position == 6
    assert store.verify().ok


def test_an_id_that_comes_twice_in_one_append_is_appended_once(store: EventStore) -> None:
    events = NewEvents(["a", "a"], "T", [b"1", b"1"], ids=[number_id(1)] * 2)
    with Import(store) as load:
        assert load.append(events, [BEGIN, BEGIN]).duplicates == [False, True]
    assert store.head == 1


def test_tombstones_and_system_streams_are_refused(store: EventStore) -> None:
    with Import(store) as load:
        load.append(*days(3, 3))
    store.delete_stream("s-1", tombstone=True)
    with Import(store) as load:
        assert load.append(*days(3, 3)).duplicates == [True]
        with pytest.raises(evlog.StreamTombstoned):
            load.append(*days(1, 1))
        with pytest.raises(evlog.InvalidStreamName):
            load.append(NewEvents(["$redactions"], "T", [b"1"]), [BEGIN])
    assert store.info().last_position == 2  # the second event is the tombstone


def test_an_event_that_is_too_large_is_refused(store: EventStore) -> None:
    data, metadata = b"1" * (MAX_EVENT_BYTES - 2), b"{}"
    with Import(store) as load:
        with pytest.raises(evlog.EventTooLarge):
            load.append_encoded(["a"], [("T", None, 0, data, metadata[:1] + b" }")], [0])
        assert load.append_encoded(["a"], [("T", None, 0, data, metadata)], [0]).appended == 1


def test_data_has_to_fit_its_schema(store: EventStore) -> None:
    store.set_schema("T", {"type": "integer", "maximum": 1})
    with Import(store) as load, pytest.raises(evlog.SchemaViolation) as caught:
        load.append(*days(0, 2))
    assert caught.value.index == 2


def test_only_one_import_runs_and_only_where_it_may(store: EventStore, memory_path: Path) -> None:
    with Import(store), pytest.raises(evlog.MirrorBusy):
        Import(store).__enter__()
    with pytest.raises(evlog.InvalidArgument, match="not entered"):
        Import(store).append(*days(0, 0))
    store.append("s", [new()])
    with small_store(memory_path / "copy") as copy:
        mirror(store, copy)
        with pytest.raises(evlog.StoreIsMirror, match="is a mirror of"):
            Import(copy).__enter__()
        assert copy.standing.mirror_of == str(store.id)


def test_an_append_whose_answer_was_lost_is_tried_again_and_others_follow(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Import(store) as load:
        load.append(*days(0, 2))
        append = store.engine.append_history

        def lost(piece: HistoryPiece) -> None:
            append(piece)
            raise evlog.AppendUnknown("address", "reason")

        with monkeypatch.context() as patch:
            patch.setattr(store.engine, "append_history", lost)
            with pytest.raises(evlog.AppendUnknown):
                load.append(*days(3, 4))
        assert load.append(*days(3, 4)).duplicates == [True, True]
        events, times = days(5, 6)
        assert load.append(events, [times[0], BEGIN]).positions == [6, 7]
    assert [event.time for event in store.read_all(4)] == [BEGIN + timedelta(days=n) for n in (4, 5, 5)]


KILLED = """
import os, signal, sys
import evlog
from tests.transfer.test_imports import days
from evlog.transfer import Import
with evlog.open(sys.argv[1]) as store, Import(store) as load:
    load.append(*days(0, 5))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["again", "promote"])
def test_a_killed_import_refuses_appends_until_it_is_run_again(store: EventStore, how: str) -> None:
    run_python("-c", KILLED, store.path, code=-signal.SIGKILL)
    with evlog.open(store.path) as after:
        with pytest.raises(evlog.StoreIsMirror, match="run the same import again") as caught:
            after.append("s-0", [new(id=UUID(int=99))])
        assert caught.value.is_import
        with pytest.raises(evlog.MirrorConflict, match="imported to it"), small_store(f"{store.path}2") as it:
            mirror(it, after)
        if how == "promote":
            promote(after)
        else:
            with Import(after) as load:
                assert load.append(*days(0, 8)).appended == 3
        assert after.append("s-0", [new()]).first_position in {7, 10}
        assert after.verify().ok


def test_what_a_killed_writer_left_is_durable_before_it_counts_as_known() -> None:
    with recordings.scratch() as root:
        world = World(root)
        disk = RecordingDisk(world)
        store = open_store(f"{root}/store", create=True, disk=RecordingDisk(world))
        store.append("a", [new()])  # so that its log is open
        killed = open_store(store.path, disk=disk)
        killed.append("a", [new()])
        disk.kill_at = disk.steps + 4  # after mark, frame and entries: the sync
        with pytest.raises(Killed):
            killed.append("s-0", [new(0, id=number_id(0))])
        events = NewEvents(["s-0"], "T", [b"0"], ids=[number_id(0)])
        with store, Import(store) as load:
            assert load.append(events, [BEGIN]).duplicates == [True]
            assert not is_log_dirty(world)


def is_log_dirty(world: World) -> bool:
    log = world.now.lookup("store/segments/00000000000000000001.0.log")
    assert log is not None
    return world.now.inodes[log].is_dirty
