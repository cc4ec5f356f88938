"""Writers that wait for the lock at the same time: one appends for all, and no user sees a difference."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import evlog
from evlog import CorruptionError, IdConflict, LockTimeout, NewEvent, WrongExpectedVersion
from evlog.errors import StoreFull, StoreIOError, StreamTombstoned
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import DISK, Disk, WriteFile
from evlog.files.format.headers import KIND_STREAMS
from evlog.files.write.group_commit import RESPONSES_AT, Request, Slot
from evlog.model.appends import AppendResult
from tests.support.contention import Crowd, Job, Outcome, claim_slot, wait_until, waiting_requests
from tests.support.helpers import facts, flip_bit, new, number_id, writer_of


def append(stream: str, *numbers: int, expected: int | str = "any", ids: bool = True) -> Job:
    events = [new(number, id=number_id(number) if ids else None) for number in numbers]
    return lambda store: store.append(stream, events, expected)


def places(outcomes: list[Outcome]) -> list[tuple[int, int]]:
    """Return the first position and first version of each; none may have failed."""
    found = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        found.append((outcome.first_position, outcome.first_version))
    return found


def frames(path: Path) -> list[int]:
    """Return the number of events in each frame of the first segment."""
    raw = (path / "segments" / f"{1:020d}.0.log").read_bytes()
    counts, at = [], 64
    while raw[at : at + 4] == b"\xe5EVF":
        counts.append(int.from_bytes(raw[at + 8 : at + 12], "little"))
        at += 40 + int.from_bytes(raw[at + 4 : at + 8], "little")
    return counts


class CountingDisk(Disk):
    """Counts the syncs of logs, and fails what a test names."""

    def __init__(self) -> None:
        self.syncs = 0
        self.fail_sync = False
        self.full = ""  # the suffix of the file that is full
        self.dies: Callable[[str, int], bool] | None = None  # at which write, by path and offset

    def sync(self, file: WriteFile) -> None:
        if file.path.endswith(".log"):
            self.syncs += 1
            if self.fail_sync:
                raise StoreIOError(file.path, "Input/output error")
        super().sync(file)

    def write_at(self, file: WriteFile, data: bytes, offset: int) -> None:
        if self.full and file.path.endswith(self.full):
            raise StoreFull(file.path, "No space left on device")
        if self.dies is not None and self.dies(file.path, offset):
            raise Death
        super().write_at(file, data, offset)


class Death(BaseException):
    """To the other writers, the leader is killed here."""


@pytest.fixture
def disks() -> list[CountingDisk]:
    return [CountingDisk() for _ in range(4)]


@pytest.fixture
def four(tmp_path: Path, disks: list[CountingDisk]) -> Iterator[Crowd]:
    with Crowd(str(tmp_path), disks) as made:
        made.stores[0].append("first", [new()])
        for disk in disks:
            disk.syncs = 0
        yield made


def check(path: Path, count: int) -> list[evlog.Event]:
    with evlog.open(path) as store:
        assert store.verify().ok
        events = list(store.read_all())
        assert [event.position for event in events] == list(range(1, count + 1))
        return events


def test_all_who_wait_are_written_as_one_frame_with_one_sync(
    four: Crowd, disks: list[CountingDisk], tmp_path: Path
) -> None:
    outcomes = four.together(append("a", 1), append("b", 2, 3), append("c", 4), append("b", 5))
    assert sorted(places(outcomes)) == [(2, 1), (4, 1), (5, 3), (6, 1)]
    assert frames(tmp_path) == [1, 5]
    assert [disk.syncs for disk in disks] == [1, 0, 0, 0]
    assert not any(outcome.duplicate for outcome in outcomes if isinstance(outcome, AppendResult))
    events = check(tmp_path, 6)
    for outcome, numbers in zip(outcomes, [[1], [2, 3], [4], [5]], strict=True):
        assert isinstance(outcome, AppendResult)
        mine = events[outcome.first_position - 1 : outcome.last_position]
        assert [int(event.data) for event in mine] == numbers
        assert [event.id for event in mine] == list(outcome.ids)
        assert [event.version for event in mine] == list(
            range(outcome.first_version, outcome.last_version + 1)
        )


def test_they_go_on_so_whoever_leads(four: Crowd, tmp_path: Path) -> None:
    for turn in range(5):
        outcomes = four.together(*(append(f"s-{n}", 10 * turn + n, expected=turn) for n in range(4)))
        four.stores.append(four.stores.pop(0))  # so that a stream's next event comes from another writer, too
        assert [version for _, version in places(outcomes)] == [turn + 1] * 4
    for n in range(4):
        assert [e.version for e in check(tmp_path, 21) if e.stream == f"s-{n}"] == [1, 2, 3, 4, 5]


def test_a_writer_that_was_served_asks_before_it_tries_the_lock(
    four: Crowd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It appends for itself where no writer leads."""
    places(four.together(*(append(f"s-{n}", n) for n in range(4))))
    writer = writer_of(four.stores[1])
    tried: list[str] = []
    submit, acquire = Slot.submit, FileLock.maybe_acquire

    def watched_submit(slot: Slot, *request: Any) -> bool:
        tried.append("queue")
        return submit(slot, *request)

    def watched_acquire(lock: FileLock, *, wait_for_threads: bool = False) -> WriteFile | None:
        if lock is writer._lock:
            tried.append("lock")
        return acquire(lock, wait_for_threads=wait_for_threads)

    monkeypatch.setattr(Slot, "submit", watched_submit)
    monkeypatch.setattr(FileLock, "maybe_acquire", watched_acquire)
    for number in (4, 5):
        four.stores[1].append("s-1", [new(number)])
    assert tried == ["queue", "lock", "lock"]
    assert waiting_requests(four.path) == 0
    check(tmp_path, 7)


@pytest.mark.exact_hashes
def test_a_writer_that_is_served_again_prepares_to_lead_before_it_has_the_lock(four: Crowd) -> None:
    """Under the lock it would delay all others, by the time that its look-ups in a full segment take once."""
    places(four.together(*(append(f"s-{n}", n) for n in range(4))))
    assert four.stores[1].head == 5
    index = writer_of(four.stores[1])._log.active.index
    assert not index._ids
    places(four.together(*(append(f"s-{n}", 4 + n) for n in range(4))))
    assert len(index._ids) == 5
    assert len(index._lasts[KIND_STREAMS]) == 5


def test_where_few_wait_each_appends_for_itself(tmp_path: Path, disks: list[CountingDisk]) -> None:
    """Their syncs beside each other take less time than one after the other."""
    with Crowd(str(tmp_path), disks, many=4) as four:
        for store, disk in zip(four.stores, disks, strict=True):
            store.append("first", [new()])  # a writer that opens the log may have to sync what others wrote
            disk.syncs = 0
        outcomes = four.together(*(append(f"s-{n}", n, expected=0) for n in range(4)))
        assert sorted(position for position, _ in places(outcomes)) == [5, 6, 7, 8]
        assert [disk.syncs for disk in disks] == [1, 1, 1, 1]
        assert not any(outcome.duplicate for outcome in outcomes)
        assert waiting_requests(four.path) == 0
    assert frames(tmp_path) == [1] * 8


def test_threads_have_slots_of_their_own(four: Crowd, tmp_path: Path) -> None:
    """A thread that waits for another process to append does not keep the other threads from asking, too."""
    store = four.stores[1]
    writer = writer_of(store)
    claim_slot(store)
    four.stores.insert(2, store)
    outcomes = four.together(append("a", 1), append("b", 2), append("c", 3))
    four.stores.pop(2)
    places(outcomes)
    assert frames(tmp_path) == [1, 3]
    assert len(writer._free_slots) == len(writer._slots) == 2


def test_events_without_an_id_get_one(four: Crowd, tmp_path: Path) -> None:
    outcomes = four.together(*(append(f"s-{n}", n, n + 10, ids=False) for n in range(4)))
    events = {event.position: event for event in check(tmp_path, 9)}
    for outcome in outcomes:
        assert isinstance(outcome, AppendResult)
        assert [events[outcome.first_position + at].id for at in (0, 1)] == list(outcome.ids)


def test_every_expectation_is_judged_where_its_append_stands(four: Crowd, tmp_path: Path) -> None:
    outcomes = four.together(*(append("s", n, expected=0) for n in (1, 2, 3, 4)))
    refused = [outcome for outcome in outcomes if isinstance(outcome, WrongExpectedVersion)]
    assert len(refused) == 3
    assert {(error.expected, error.actual) for error in refused} == {(0, 1)}
    assert sum(isinstance(outcome, AppendResult) for outcome in outcomes) == 1
    check(tmp_path, 2)


@pytest.mark.parametrize("odd", range(4))
def test_one_that_is_refused_harms_no_other(four: Crowd, tmp_path: Path, odd: int) -> None:
    jobs = [append(f"s-{n}", n + 1, expected=7 if n == odd else 0) for n in range(4)]
    outcomes = four.together(*jobs)
    error = outcomes.pop(odd)
    assert isinstance(error, WrongExpectedVersion)
    assert (error.stream, error.expected, error.actual) == (f"s-{odd}", 7, 0)
    assert [version for _, version in places(outcomes)] == [1, 1, 1]
    check(tmp_path, 4)


def test_a_tombstone_refuses_its_stream_alone(four: Crowd, tmp_path: Path) -> None:
    four.stores[3].append("dead", [new()])
    four.stores[3].delete_stream("dead", tombstone=True)
    outcomes = four.together(append("a", 1), append("dead", 2), append("b", 3))
    assert isinstance(outcomes.pop(1), StreamTombstoned)
    assert len(places(outcomes)) == 2


@pytest.mark.exact_hashes  # else the others look into the damaged event, too
def test_damage_that_one_meets_harms_no_other(four: Crowd, tmp_path: Path) -> None:
    four.stores[3].append("old-7", [new()])
    four.stores[3].append_many([(f"s-{number}", [new()]) for number in range(1 << 10)])  # another segment
    (path,) = tmp_path.glob(f"segments/{1:020d}.0.log")
    flip_bit(path, b"old-7\xa1", 1)
    outcomes = four.together(append("a", 1), append("old-7", 2), append("b", 3))
    assert isinstance(outcomes.pop(1), CorruptionError)
    assert [version for _, version in places(outcomes)] == [1, 1]


def test_closing_a_store_leaves_its_waiting_threads_their_files(four: Crowd, tmp_path: Path) -> None:
    """Else what they write next goes to whatever file has the number then, and no lock is theirs."""
    closed = four.stores[1]
    file = writer_of(closed)._slots[0]._file

    def meanwhile() -> None:
        closed.close()
        assert file.fd >= 0

    assert sorted(places(four.together(append("a", 1), append("b", 2), append("c", 3), meanwhile=meanwhile)))
    assert file.fd == -1
    check(tmp_path, 4)


def test_an_event_that_two_append_is_written_once(four: Crowd, tmp_path: Path) -> None:
    outcomes = four.together(append("s", 1), append("s", 1), append("other", 2))
    assert [outcome.duplicate for outcome in outcomes if isinstance(outcome, AppendResult)].count(True) == 1
    first, second, _ = places(outcomes)
    assert first == second
    check(tmp_path, 3)


def test_an_id_with_two_contents_is_a_conflict_for_the_second(four: Crowd, tmp_path: Path) -> None:
    other: Job = lambda store: store.append("s", [NewEvent("Other", 5, id=number_id(1))])  # noqa: E731
    outcomes = four.together(append("s", 1), other, append("t", 2))
    assert sum(isinstance(outcome, IdConflict) for outcome in outcomes) == 1
    check(tmp_path, 3)


def test_what_is_known_already_is_a_duplicate_for_whoever_sent_it(four: Crowd, tmp_path: Path) -> None:
    four.stores[2].append("s", [new(1, id=number_id(1))])
    outcomes = four.together(append("a", 2), append("s", 1), append("b", 3))
    assert [outcome.duplicate for outcome in outcomes if isinstance(outcome, AppendResult)] == [
        False,
        True,
        False,
    ]
    assert places(outcomes)[1] == (2, 1)
    check(tmp_path, 4)


def test_a_failed_sync_of_the_leader_acknowledges_nobody(
    four: Crowd, disks: list[CountingDisk], tmp_path: Path
) -> None:
    for store in four.stores[1:]:
        store.append("first", [new()])
    disks[0].fail_sync = True
    outcomes = four.together(append("a", 1), append("b", 2), append("c", 3))
    assert isinstance(outcomes[0], StoreIOError)
    assert waiting_requests(four.path) == 0
    # The others had the log open while a sync failed: they must not take the page cache's word for the rest.
    assert [type(outcome) for outcome in outcomes[1:]] == [StoreIOError, StoreIOError]
    disks[0].fail_sync = False
    with evlog.open(four.path) as again:
        for number, stream in ((1, "a"), (2, "b"), (3, "c")):
            assert again.append(stream, [new(number, id=number_id(number))]).first_version == 1
    check(tmp_path, 7)


@pytest.mark.parametrize("suffix", [".log", ".offsets", "durable"])
def test_a_full_disk_refuses_all_or_loses_nothing(
    four: Crowd, disks: list[CountingDisk], tmp_path: Path, suffix: str
) -> None:
    for disk in disks:
        disk.full = suffix
    outcomes = four.together(append("a", 1), append("b", 2), append("c", 3))
    for disk in disks:
        disk.full = ""
    failed = [isinstance(outcome, StoreFull) for outcome in outcomes]
    assert failed == [suffix != ".offsets"] * 3
    places(four.together(append("a", 11), append("b", 12), append("c", 13)))
    check(tmp_path, 7 if suffix == ".offsets" else 4)


@pytest.mark.parametrize(
    ("dies", "written"),
    [
        (lambda path, offset: path.endswith("queue") and offset < RESPONSES_AT, False),
        (lambda path, offset: path.endswith(".log"), False),
        (lambda path, offset: path.endswith(".offsets"), True),
        (lambda path, offset: path.endswith("durable"), False),
        (lambda path, offset: path.endswith("queue") and offset == RESPONSES_AT, True),
    ],
    ids=["at its turn", "at the frame", "at the entries", "at the mark", "at the responses"],
)
def test_what_a_leader_that_died_left_is_appended_once(
    four: Crowd, disks: list[CountingDisk], tmp_path: Path, dies: Callable[[str, int], bool], written: bool
) -> None:
    def meanwhile() -> None:
        disks[0].dies = dies

    outcomes = four.together(append("a", 1), append("b", 2), append("c", 3, ids=False), meanwhile=meanwhile)
    assert isinstance(outcomes[0], Death)
    assert [version for _, version in places(outcomes[1:])] == [1, 1]
    assert [outcome.duplicate for outcome in outcomes[1:]] == [written, False]  # an id of its own is no retry
    streams = [event.stream for event in check(tmp_path, 4 if written else 3)]
    assert sorted(streams) == ["a", "b", "c", "first"] if written else ["b", "c", "first"]
    disks[0].dies = None
    four.stores.pop(0)
    places(four.together(append("b", 4), append("c", 5)))


@pytest.mark.parametrize("settings", [{"lock_timeout": 0.01}, {"sync": "none"}])
def test_who_has_a_time_limit_or_does_not_sync_asks_nobody(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one could not take its request back from a leader that has it; the other waits for no sync."""
    asked = []
    monkeypatch.setattr(Slot, "submit", lambda *_: asked.append(1))
    with Crowd(str(tmp_path), [CountingDisk()], **settings) as alone:
        (store,) = alone.stores
        writer_of(store)._contended = 9
        store.append("s", [new()])
        if "lock_timeout" in settings:
            with alone.lock, pytest.raises(LockTimeout):
                store.append("s", [new()])
    assert asked == []
    check(tmp_path, 1)


def test_an_append_to_several_streams_is_not_asked_of_others(
    four: Crowd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(Slot, "submit", lambda *_: asked.append(1))
    writer_of(four.stores[1])._contended = 9
    four.stores[1].append_many([("a", [new()]), ("b", [new()])])
    assert asked == []
    check(tmp_path, 3)


def test_a_writer_that_failed_has_nobody_else_append(
    four: Crowd, disks: list[CountingDisk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disks[0].fail_sync = True
    with pytest.raises(StoreIOError):
        four.stores[0].append("a", [new(1)])
    disks[0].fail_sync = False
    asked = []
    monkeypatch.setattr(Slot, "submit", lambda *_: asked.append(1))
    writer_of(four.stores[0])._contended = 9
    with pytest.raises(StoreIOError):
        four.stores[0].append("a", [new(2)])
    assert asked == []
    assert facts(four.stores[1].read("a")) == [(2, "a", 1, "T", b"1")]


def test_what_is_too_large_for_the_queue_waits_for_the_lock(four: Crowd, tmp_path: Path) -> None:
    large = NewEvent("T", {"text": "x" * 5000})
    writer_of(four.stores[1])._contended = 9
    assert four.stores[1].append("s", [large]).first_position == 2
    writer_of(four.stores[1])._contended = 9
    assert four.stores[1].append("s", [new()]).first_position == 3
    check(tmp_path, 3)


@pytest.mark.parametrize(
    "job",
    [
        lambda store: store.append_many([("a", [new()]), ("b", [new()])]),
        lambda store: store.append("s", [NewEvent("T", {"text": "x" * 5000})]),
    ],
    ids=["several streams", "too large"],
)
def test_a_writer_that_waits_for_the_lock_itself_says_so(four: Crowd, job: Job) -> None:
    waiter = threading.Thread(target=lambda: job(four.stores[1]))
    with four.lock:
        waiter.start()
        wait_until(four._spare.is_lock_wanted_locked)
    waiter.join(20)
    assert not waiter.is_alive()
    assert not four._spare.is_lock_wanted_locked()


def test_a_writer_that_finds_no_leader_looks_less_and_less_often(
    four: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def watched_sleep(seconds: float) -> None:
        if threading.current_thread() is waiter:
            pauses.append(seconds)

    monkeypatch.setattr("evlog.files.write.writer.time.sleep", watched_sleep)
    waiter = threading.Thread(target=lambda: four.stores[1].append("s", [new()]))
    with four.lock:
        waiter.start()
        wait_until(four._spare.is_lock_wanted_locked)  # then it waits for the lock itself
    waiter.join(20)
    assert pauses[:3] == [0.0001, 0.0002, 0.0004]
    assert pauses[-2:] == [0.016, 0.016]
    assert sum(pauses) < 0.25


@pytest.mark.parametrize("wanted", [False, True])
def test_a_leader_ends_its_rounds_sooner_for_a_writer_that_waits_for_the_lock_itself(
    four: Crowd, monkeypatch: pytest.MonkeyPatch, *, wanted: bool
) -> None:
    rounds: list[bool] = []
    take = Slot.take_requests_locked

    def watched_take(slot: Slot, *, is_last: bool = False) -> list[Request]:
        rounds.append(is_last)
        return take(slot, is_last=is_last)

    monkeypatch.setattr(Slot, "take_requests_locked", watched_take)
    monkeypatch.setattr("evlog.files.write.writer._LEAD_SECONDS", 60.0)
    monkeypatch.setattr("evlog.files.write.writer._WANTED_LEAD_SECONDS", 0.0)
    jobs = [append(f"s-{number}", number) for number in range(4)]
    places(four.together(*jobs, meanwhile=four._spare.want_lock if wanted else lambda: None))
    assert rounds[:2] == [False, wanted]


def test_segments_roll_under_a_group(tmp_path: Path) -> None:
    with Crowd(str(tmp_path), [DISK] * 4, segment_events=6) as four:
        for turn in range(6):
            places(four.together(*(append(f"s-{n}", 10 * turn + n) for n in range(4))))
    check(tmp_path, 24)


def test_facts_are_as_if_each_had_appended_alone(four: Crowd, tmp_path: Path) -> None:
    outcomes = four.together(append("a", 1), append("a", 2), append("a", 3))
    order = sorted(range(3), key=lambda number: places(outcomes)[number])
    assert facts(check(tmp_path, 4))[1:] == [
        (2 + at, "a", 1 + at, "T", str(number + 1).encode()) for at, number in enumerate(order)
    ]
