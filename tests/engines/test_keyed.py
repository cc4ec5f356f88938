"""Subscriptions and snapshots as records: leases, and what is saved when two runs hold a name."""

from __future__ import annotations

import os
import threading
import time
from typing import Any
from uuid import UUID

import pytest

from evlog.engines.keyed import (
    KeyedCheckpoint,
    KeyedSnapshot,
    Record,
    check_checkpoints,
    checkpoint_names,
    checkpoints,
    snapshot_names,
)
from evlog.errors import CorruptionError, StoreUnreachable, SubscriptionBusy, Unsupported
from evlog.model.checkpoints import Checkpoint
from evlog.model.events import Event
from evlog.model.filters import EventFilter
from tests.support.memory_engine import MemoryRecords

FIRST = Checkpoint(7, UUID(int=7).bytes, EventFilter(category="a", types=["T"]))
LONG_SECONDS = 60.0
SHORT_SECONDS = 2.0  # a run renews its lease in time also on a busy machine


def event(position: int) -> Event:
    return Event((position, 1, "s", "T", UUID(int=position).bytes, 5, 0, b"{}", None))


def held(records: MemoryRecords, name: str = "n", lease_seconds: float = LONG_SECONDS) -> KeyedCheckpoint:
    checkpoint = KeyedCheckpoint(records, name, lease_seconds)
    checkpoint.acquire()
    return checkpoint


def test_a_run_excludes_others_until_it_ends() -> None:
    records = MemoryRecords()
    one, other = held(records, lease_seconds=SHORT_SECONDS), KeyedCheckpoint(records, "n", SHORT_SECONDS)
    assert other.is_running()
    with pytest.raises(SubscriptionBusy):
        other.acquire()
    one.release()
    assert not other.is_running()
    other.acquire()
    other.release()
    assert list(records.list(())) == []


def test_a_run_that_renews_its_lease_keeps_the_name() -> None:
    records = MemoryRecords()
    one = held(records, lease_seconds=0.5)
    first = records.get(("subscription", "n"))
    deadline = time.monotonic() + LONG_SECONDS
    while records.get(("subscription", "n")) == first:
        assert time.monotonic() < deadline
    one.release()


class LosesAnswers(MemoryRecords):
    """Makes a number of writes and reports that the server cannot be reached."""

    losing = 0

    def put(self, key: tuple[str, ...], value: bytes, revision: int | None) -> int | None:
        new = super().put(key, value, revision)
        if self.losing:
            self.losing -= 1
            raise StoreUnreachable(self.address, "no answer")
        return new


class Suspended(MemoryRecords):
    """Answers no write once it is suspended."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Event()
        self.answers.set()

    def put(self, key: tuple[str, ...], value: bytes, revision: int | None) -> int | None:
        assert self.answers.wait(LONG_SECONDS)
        return super().put(key, value, revision)


def test_the_end_of_a_run_does_not_wait_for_a_server_that_is_suspended() -> None:
    records = Suspended()
    one = held(records)
    one.create(FIRST)
    records.answers.clear()
    one.release()
    assert one.is_running()
    assert one._renewal is not None
    records.answers.set()
    one._renewal.join(LONG_SECONDS)
    assert not one.is_running()


def test_a_run_whose_own_write_was_not_answered_keeps_the_name() -> None:
    records = LosesAnswers()
    one = held(records)
    one.create(FIRST)
    for position in (8, 9):
        records.losing = 2
        for _ in range(2):
            with pytest.raises(StoreUnreachable):
                one.save(FIRST._replace(position=position))
        one.save(FIRST._replace(position=position))
    one.release()
    assert (one.load() or FIRST).position == 9
    assert not one.is_running()


def test_a_run_that_was_killed_frees_the_name_and_can_save_nothing_any_more() -> None:
    records = MemoryRecords()
    dead = KeyedCheckpoint(records, "n", -1.0)  # its lease has ended when it begins
    dead.renew = lambda: False  # type: ignore[method-assign]
    dead.acquire()
    dead.create(FIRST)
    one = held(records, lease_seconds=0.2)
    assert one.load() is not None
    with pytest.raises(SubscriptionBusy):
        dead.save(FIRST._replace(position=8))
    one.save(FIRST._replace(position=9))
    dead.release()
    one.release()
    assert (one.load() or FIRST).position == 9


@pytest.mark.parametrize("lives", [True, False])
@pytest.mark.parametrize("ahead_ns", [10**18, -(10**18)])
def test_a_lease_ends_with_its_run_whatever_the_clocks_say(
    monkeypatch: pytest.MonkeyPatch, ahead_ns: int, lives: bool
) -> None:
    records = MemoryRecords()
    now_ns = time.time_ns
    one, other = held(records, lease_seconds=SHORT_SECONDS), KeyedCheckpoint(records, "n", SHORT_SECONDS)
    if not lives:
        one.renew = lambda: False  # type: ignore[method-assign]
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + ahead_ns)
    if lives:
        with pytest.raises(SubscriptionBusy):
            other.acquire()
        one.create(FIRST)
    else:
        other.acquire()
        with pytest.raises(SubscriptionBusy):
            one.create(FIRST)
        other.release()
    one.release()


def test_a_name_that_is_released_while_another_run_watches_is_taken() -> None:
    records = MemoryRecords()
    one, other = held(records), KeyedCheckpoint(records, "n", LONG_SECONDS)
    one.create(FIRST)
    get = records.get
    reads = iter([None])

    def released(key: tuple[str, ...]) -> Any:
        record = get(key)
        if key[0] == "subscription" and next(reads, 0) is None:
            one.release()  # after the first look of the other run
        return record

    records.get = released  # type: ignore[method-assign]
    other.acquire()
    assert (other.load() or FIRST).position == FIRST.position
    other.release()


def test_a_run_that_its_program_has_dropped_does_not_keep_its_name() -> None:
    records = MemoryRecords()
    held(records, lease_seconds=0.4)
    other = KeyedCheckpoint(records, "n", 0.4)
    deadline = time.monotonic() + LONG_SECONDS
    while other.is_running():
        assert time.monotonic() < deadline
    other.acquire()
    other.release()


def test_a_run_saves_after_a_renewal_that_was_stored_though_no_answer_came() -> None:
    records = MemoryRecords()
    one = held(records)
    one.create(FIRST)
    put = records.put

    def lose(*arguments: Any) -> int | None:
        assert put(*arguments) is not None
        raise StoreUnreachable("memory", "no answer in time")

    records.put = lose  # type: ignore[method-assign, assignment]
    with pytest.raises(StoreUnreachable):
        one.save(FIRST._replace(position=8))
    records.put = put  # type: ignore[method-assign]
    one.save(FIRST._replace(position=9))
    assert (one.load() or FIRST).position == 9
    one.release()


def test_a_forked_child_saves_nothing() -> None:
    records = MemoryRecords()
    one = held(records)
    one.create(FIRST)
    pid = os.fork()
    if not pid:
        try:
            one.save(FIRST)
        except SubscriptionBusy:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    one.save(FIRST._replace(position=8))
    one.release()


def test_a_checkpoint_comes_back_and_only_checkpoints_are_listed() -> None:
    records = MemoryRecords()
    one, empty = held(records), held(records, "empty")
    one.create(FIRST)
    found = one.load()
    assert found is not None
    assert found[:3] == FIRST[:3]
    assert found.time_us > 0
    assert empty.load() is None
    assert checkpoint_names(records) == ["n"]
    one.delete()
    assert one.load() is None
    one.release()
    empty.release()


class CountsLookUps(MemoryRecords):
    """Counts the records that are looked up by themselves."""

    looked_up = 0

    def get(self, key: tuple[str, ...]) -> Record | None:
        self.looked_up += 1
        return super().get(key)


def test_all_checkpoints_are_read_with_their_names() -> None:
    records = CountsLookUps()
    for name in ("b", "a"):
        one = held(records, name)
        one.create(FIRST)
        one.release()
    records.looked_up = 0
    found = [(name, checkpoint and checkpoint[:3]) for name, checkpoint in checkpoints(records)]
    assert found == [("a", FIRST[:3]), ("b", FIRST[:3])]
    assert records.looked_up == 0


def test_parked_events_keep_their_order_and_go_with_the_subscription() -> None:
    records = MemoryRecords()
    one, other = held(records), held(records, "n2")
    one.create(FIRST)
    for position in (9, 3, 12):
        one.park(event(position), "first", 1)
    one.park(event(9), "again", 2)
    other.park(event(4), "other", 1)
    assert [(each.position, each.error, each.attempts) for each in one.parked()] == [
        (9, "again", 2),
        (3, "first", 1),
        (12, "first", 1),
    ]
    one.unpark(3)
    one.unpark(3)
    assert [each.position for each in one.parked()] == [9, 12]
    one.delete()
    assert one.parked() == []
    assert len(other.parked()) == 1
    one.release()
    other.release()


def test_a_record_that_cannot_be_read_is_damage() -> None:
    records = MemoryRecords()
    for value in (b"x", b"[]", b'{"position":1}', b'{"position":1,"filter":3,"id":null,"time_us":1}'):
        records = MemoryRecords()
        records.put(("subscription", "n"), value, None)
        with pytest.raises(CorruptionError):
            KeyedCheckpoint(records, "n").load()
        assert checkpoint_names(records) == ["n"]


@pytest.mark.parametrize("value", [b"x", b"\xff", b"[]", b"[" * 100_000, b'{"holder":"h","until_us":"x"}'])
def test_a_damaged_record_stays_one_until_it_is_reset_or_deleted(value: bytes) -> None:
    records = MemoryRecords()
    records.put(("subscription", "n"), value, None)
    assert not KeyedCheckpoint(records, "n").is_running()
    for _ in range(2):
        run = held(records)
        with pytest.raises(CorruptionError):
            run.load()
        run.release()
    assert checkpoint_names(records) == ["n"]
    reset = held(records)
    reset.save(FIRST)
    assert reset.load() == FIRST._replace(time_us=reset._document["time_us"])
    reset.delete()
    reset.release()
    assert list(records.list(())) == []


def test_checkpoints_that_are_damaged_or_beyond_the_end_are_findings() -> None:
    records = MemoryRecords()
    assert check_checkpoints(records, lambda: 0) == []
    one = held(records)
    one.create(FIRST)
    one.release()
    records.put(("subscription", "damaged"), b"x", None)
    for head, names in ((7, ["'damaged'"]), (6, ["'damaged'", "n is at position 7, beyond"])):
        found = check_checkpoints(records, lambda head=head: head)  # type: ignore[misc]
        assert [name in each.detail for name, each in zip(names, found, strict=True)] == [True] * len(names)


@pytest.mark.parametrize("value", [b"x", b"[]", b"{}", b'{"position":"x"}'])
def test_a_parked_event_that_cannot_be_read_is_damage(value: bytes) -> None:
    records = MemoryRecords()
    records.put(("parked", "n", "7"), value, None)
    one = held(records)
    with pytest.raises(CorruptionError, match="parked at 7"):
        one.parked()
    one.delete()
    assert one.parked() == []
    one.release()


def test_there_are_no_transactions() -> None:
    with pytest.raises(Unsupported):
        KeyedCheckpoint(MemoryRecords(), "n").begin(0)


def test_a_snapshot_is_replaced_if_it_is_as_it_was_read() -> None:
    records = MemoryRecords()
    one, of_stream = KeyedSnapshot(records, "n", None), KeyedSnapshot(records, "n", "s")
    assert one.load() is None
    assert one.save(b"1", None)
    assert not one.save(b"2", None)
    assert not one.save(b"2", b"0")
    assert one.save(b"2", b"1")
    assert of_stream.save(b"3", None)
    assert snapshot_names(records) == [("n", None), ("n", "s")]
    assert one.delete()
    assert not one.delete()
    assert (one.load(), of_stream.load()) == (None, b"3")
