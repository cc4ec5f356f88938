"""Compaction as a user sees it: what is removed and what stays, what is refused, what others notice."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import evlog
from evlog import EventStore, NewEvent
from evlog.errors import (
    CompactionRunning,
    CorruptionError,
    IdConflict,
    StoreFull,
    StoreIOError,
    StreamTombstoned,
    SubscriptionBehind,
    WrongExpectedVersion,
)
from evlog.files.compaction import hidden, rewrite
from evlog.files.compaction.plan import Plan, make_plan
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import Disk
from evlog.files.disk.processes import Call, Workers
from evlog.files.format.manifest import SegmentInfo
from evlog.files.format.paths import compaction_path
from evlog.files.log.log import Log
from evlog.files.log.manifest_file import read_manifest
from evlog.files.log.parts import open_sealed
from evlog.files.log.sealed_segment import SealedSegment
from evlog.files.write.writer import Writer
from evlog.model.appends import AppendRequest
from tests.support.forge import replace_info
from tests.support.helpers import (
    TWINS,
    Clock,
    engine_of,
    facts,
    fill,
    flip_bit,
    new,
    number_id,
    numbers,
    open_files,
    segment_files,
    small_store,
)
from tests.support.programs import run_python


def visible(store: EventStore) -> list[evlog.Event]:
    """Return what reading every stream gives, in the order of positions."""
    names = [
        info.stream for info in store.streams(include_system=True) if not info.stream.startswith("$comp")
    ]
    return sorted((event for name in names for event in store.read(name)), key=lambda event: event.position)


def all_events(store: EventStore) -> list[evlog.Event]:
    return [e for e in store.read_all(include_system=True) if not e.stream.startswith("$comp")]


def retry_all(store: EventStore, count: int) -> None:
    """Append what `fill` did once more, and an event of a stream that never was."""
    for number in range(count):
        store.append(f"s-{number % 3}", [new(number, f"T{number % 2}", id=number_id(number))])
    store.append("never seen", [new()])


POLICIES: dict[str, Callable[[EventStore], object]] = {
    "count": lambda store: store.set_retention("s-0", max_count=3),
    "count of a category": lambda store: store.set_retention(category="s", max_count=2),
    "before": lambda store: store.set_retention("s-1", before=9),
    "deleted": lambda store: store.delete_stream("s-2"),
    "tombstone": lambda store: store.delete_stream("s-2", tombstone=True),
    "nothing": lambda store: None,
    "all of it": lambda store: [store.delete_stream(f"s-{number}") for number in range(3)],
    "policies over policies": lambda store: [
        store.set_retention("s-0", max_count=n) for n in (9, 8, 7, 6, 5)
    ],
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("again", [1, 3])
def test_what_is_hidden_goes_and_all_else_stays(store: EventStore, policy: str, again: int) -> None:
    fill(store, 60)
    POLICIES[policy](store)
    before = visible(store)
    with evlog.open(store.path) as other:
        other.read_all()
        removed = sum(store.compact().events_removed for _ in range(again))
        assert (
            removed == 60 + sum(e.stream.startswith("$") for e in all_events(store)) - len(before) or removed
        )
        log = engine_of(store)._opened()
        assert sum(part.info.removed_events for part in log.sealed) == removed
        assert [part.info.removed_events for part in log.sealed if part.removed] == [
            part.removed.events for part in log.sealed if part.removed
        ]
        for each in (store, other):
            assert all_events(each) == visible(each) == before
            assert list(each.read_all(reverse=True)) == [e for e in before[::-1] if e.stream[0] != "$"]
            assert each.info().events == sum(e.stream[0] != "$" for e in before)
            for number in range(60):
                if policy == "tombstone" and number % 3 == 2:
                    continue
                event = new(number, f"T{number % 2}", id=number_id(number))
                result = each.append(f"s-{number % 3}", [event])
                assert result.duplicate
                assert (result.first_position, result.first_version) == (number + 1, number // 3 + 1)


def test_a_policy_of_a_stream_named_like_its_category_is_its_own(store: EventStore) -> None:
    for number in range(6):
        store.append("s", [new(number)])
        store.append("s-1", [new(number)])
    store.set_retention("s", max_count=1)
    store.set_retention(category="s", max_count=4)
    store.compact()
    left = [(event.stream, event.version) for event in all_events(store) if event.stream[0] == "s"]
    assert left == [("s-1", 3), ("s-1", 4), ("s-1", 5), ("s", 6), ("s-1", 6)]


def test_old_events_go_by_age(store: EventStore, clock: Clock) -> None:
    for number in range(40):
        clock.us += 1_000_000
        store.append(f"s-{number % 2}", [new(number)])
    store.set_retention("s-0", max_age=11)
    clock.us += 500_000
    store.compact()
    assert [event.version for event in store.read("s-0")] == [16, 17, 18, 19, 20]
    assert [event.version for event in store.read("s-1")] == list(range(1, 21))
    assert len(list(store.read_all())) == 25
    clock.us += 3_600_000_000
    assert store.compact().events_removed == 5
    assert list(store.read("s-0")) == []
    assert store.append("s-0", [new()]).first_version == 21


RULES_BESIDE_A_COUNT: dict[str, Callable[[EventStore], object]] = {
    "none": lambda store: None,
    "its own count": lambda store: store.set_retention("s-300", max_count=1),
    "a deleted stream": lambda store: store.delete_stream("s-300"),
    "a tombstone": lambda store: store.delete_stream("s-300", tombstone=True),
    "an age": lambda store: store.set_retention(category="s", max_count=2, max_age=1),
    "another category": lambda store: store.append("t-1", [new(), new(), new()]),
    "many streams of another category": lambda store: [
        store.append(f"t-{number % 20}", [new(), new()]) for number in range(40)
    ],
}


@pytest.mark.parametrize("rule", RULES_BESIDE_A_COUNT)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("segment_events", [500, 10_000])
def test_a_count_for_many_streams_leaves_other_rules_in_force(
    memory_path: Path, clock: Clock, rule: str, count: int, segment_events: int
) -> None:
    names = [f"s-{number}" for number in range(600)]
    with small_store(memory_path / "large", segment_events=segment_events) as store:
        store.append("t-1", [new(), new()])
        for _ in range(3):
            clock.us += 2_000_000
            store.append_many(evlog.NewEvents(names, "T", [b"{}"] * len(names)))
        store.set_retention(category="s", max_count=count)
        RULES_BESIDE_A_COUNT[rule](store)
        before = visible(store)
        store.compact()
        assert all_events(store) == before
        assert len(before) >= 600


def test_a_stream_that_lost_all_events_goes_on_counting(store: EventStore) -> None:
    fill(store, 30)
    last = store.delete_stream("s-1")
    store.compact()
    with evlog.open(store.path) as other:
        assert other.append("s-1", [new()], expected=evlog.NO_STREAM).first_version == last + 1
    store.append("s-1", [new()], expected=last + 1)
    with pytest.raises(WrongExpectedVersion) as raised:
        store.append("s-1", [new()], expected=last)
    assert raised.value.actual == last + 2
    store.compact()
    assert [event.version for event in store.read("s-1")] == [last + 1, last + 2]


def test_a_deleted_stream_is_listed_after_its_events_went(store: EventStore) -> None:
    fill(store, 30)
    store.delete_stream("s-1")
    listed, info = list(store.streams(include_deleted=True)), store.info()
    store.compact()
    assert list(store.streams(include_deleted=True)) == listed
    assert [info.stream for info in store.streams()] == ["s-0", "s-2"]
    after = store.info()
    assert (after.streams, after.deleted_streams) == (info.streams, info.deleted_streams) == (2, 1)


def test_a_tombstone_outlives_the_events(store: EventStore) -> None:
    fill(store, 30)
    store.delete_stream("s-1", tombstone=True)
    store.compact()
    with pytest.raises(StreamTombstoned):
        store.append("s-1", [new()])


@pytest.mark.exact_hashes  # of a removed event only hashes of stream and type are kept
def test_an_id_that_was_removed_is_refused_with_other_content(store: EventStore) -> None:
    fill(store, 30)
    store.delete_stream("s-0")
    store.compact()
    for stream, event in (
        ("s-0", new(99, "T0", id=number_id(0))),
        ("s-0", new(0, "T1", id=number_id(0))),
        ("s-1", new(0, "T0", id=number_id(0))),
        ("s-0", NewEvent("T0", "0", id=number_id(0), content_type="text")),
    ):
        with pytest.raises(IdConflict) as raised:
            store.append(stream, [event])
        assert raised.value.position == 1


def test_a_batch_of_which_a_part_went_is_a_duplicate_as_a_whole(store: EventStore) -> None:
    batch = [("a", [new(1, id=number_id(901))]), ("b", [new(2, id=number_id(902))])]
    first = store.append_many(batch)
    fill(store, 20)
    store.delete_stream("a")
    store.compact()
    assert list(store.append_many(batch)) == [(*result[:5], True, result[6]) for result in first]


def test_the_log_says_what_was_removed_and_why(store: EventStore) -> None:
    fill(store, 30)
    store.set_retention("s-0", max_count=1)
    head = store.head
    done = store.compact()
    started, finished = store.read("$compactions")
    assert started.type == "$CompactionStarted"
    assert started.json()["position"] == done.position == head
    assert started.json()["rules"] == [{"stream": "s-0", "$maxCount": 1}]
    assert finished.type == "$CompactionFinished"
    assert finished.json()["started"] == started.position
    assert finished.json()["events_removed"] == done.events_removed == 9
    assert (finished.json()["bytes_before"], finished.json()["bytes_after"]) == (
        done.bytes_before,
        done.bytes_after,
    )


def test_where_nothing_is_hidden_nothing_is_written(store: EventStore, unchanged: Callable[[], None]) -> None:
    fill(store, 30)
    unchanged()
    assert store.compact().events_removed == 0


def test_indexes_that_a_dead_process_left_half_written_are_removed(store: EventStore) -> None:
    store.append("s", [new()])
    dead, live = (segment_files(store, "log")[0].with_suffix(f".streams.{name}.tmp") for name in "ab")
    for path in (dead, live):
        path.write_bytes(b"half")
    with FileLock(str(live), 0.0):
        store.compact()
    assert (dead.exists(), live.exists()) == (False, True)


def test_a_segment_that_loses_nothing_is_left_alone(store: EventStore) -> None:
    fill(store, 8)
    store.append_many([("kept", [new(number) for number in range(8)])])
    store.set_retention(category="s", max_count=1)
    kept = segment_files(store, "log")[1]
    before = kept.stat()
    store.compact()
    assert kept.stat() == before


def test_a_dry_run_says_what_would_go_and_changes_nothing(
    store: EventStore, unchanged: Callable[[], None]
) -> None:
    fill(store, 30)
    store.set_retention(category="s", max_count=4)
    store.set_retention("s-0", max_count=1)
    unchanged()
    plan = store.compact(dry_run=True)
    assert [(removal.rule, removal.stream, removal.events) for removal in plan.removals] == [
        ({"stream": "s-0", "$maxCount": 1}, "s-0", 9),
        ({"category": "s", "$maxCount": 4}, "s-1", 6),
        ({"category": "s", "$maxCount": 4}, "s-2", 6),
    ]
    assert plan.events_removed == 21


def test_a_dry_run_promises_what_is_done(store: EventStore) -> None:
    fill(store, 50)
    store.set_retention(category="s", max_count=4)
    assert store.compact(dry_run=True).events_removed == store.compact().events_removed == 38


def test_small_neighbours_become_one(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_events=16) as store:
        fill(store, 160, streams=1)
        store.set_retention("s-0", max_count=10)
        before = visible(store)
        done = store.compact()
        assert done.segments_after < done.segments_before // 2
        assert visible(store) == before
        with evlog.open(store.path) as other:
            assert visible(other) == before


def interrupted(store: EventStore, steps: int) -> None:
    """Compact, and interrupt it when it reports this step."""
    left = steps

    def interrupt(done: int, total: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.compact(progress=interrupt)


def test_a_compaction_that_was_interrupted_is_resumed(store: EventStore) -> None:
    fill(store, 80)
    store.set_retention(category="s", max_count=1)
    before = visible(store)
    interrupted(store, 4)
    assert visible(store) == before
    store.append("s-0", [new(999)])  # after the cut-off: it hides one more event, which stays for now
    done = store.compact()
    assert (done.resumed, done.events_removed) == (True, 77)
    assert [event.version for event in all_events(store) if event.stream == "s-0"] == [27, 28]
    assert len(list(store.read("$compactions"))) == 2
    assert not store.compact().resumed


CHANGES: dict[str, tuple[Callable[[EventStore], object], int, int]] = {  # first version after one, two more
    "cleared": (lambda store: store.set_retention(category="s", clear=True), 1, 1),
    "keeps more": (lambda store: store.set_retention(category="s", max_count=9), 19, 19),
    "keeps less": (lambda store: store.set_retention(category="s", max_count=1), 23, 27),
    "by age": (lambda store: store.set_retention(category="s", clear=True, max_age=9), 1, 1),
    "deleted": (lambda store: [store.delete_stream(f"s-{at}") for at in range(3)], 23, 28),
    "own word": (lambda store: [store.set_retention(f"s-{at}", max_count=9) for at in range(3)], 19, 19),
    "recreated": (
        lambda store: [(store.delete_stream(f"s-{at}"), store.append(f"s-{at}", [new()])) for at in range(3)],
        23,
        28,
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("steps", [1, 4])
def test_a_resumed_compaction_removes_only_what_old_and_present_rules_hide(
    store: EventStore, change: str, steps: int
) -> None:
    fill(store, 81)
    store.set_retention(category="s", max_count=5)
    interrupted(store, steps)
    done_before = 81 - sum(event.stream[0] == "s" for event in all_events(store))
    act, first, then = CHANGES[change]
    act(store)
    before = visible(store)
    assert store.compact().resumed
    assert visible(store) == before
    if not done_before:
        assert min(e.version for e in all_events(store) if e.stream == "s-0") == first
    assert not store.compact().resumed
    assert visible(store) == before
    if not done_before:
        left = [e.version for e in all_events(store) if e.stream == "s-0"]
        assert left == list(range(then, 28 + (change == "recreated")))
    assert store.verify().findings == ()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("at_step", [1, 4])
def test_a_compaction_removes_nothing_that_becomes_visible_meanwhile(
    store: EventStore, change: str, at_step: int
) -> None:
    fill(store, 81)
    store.set_retention(category="s", max_count=5)
    before = list[evlog.Event]()
    steps, reports = 0, list[tuple[int, int]]()
    with evlog.open(store.path) as other:

        def act(done: int, total: int) -> None:
            nonlocal steps
            steps += 1
            reports.append((done, total))
            if steps == at_step:
                CHANGES[change][0](other)
                before.extend(visible(other))

        done = store.compact(progress=act)
    assert visible(store) == before != []
    assert not done.resumed
    assert all(done <= total for done, total in reports)
    assert done.events_removed == 81 - sum(event.position <= 81 for event in store.read_all())
    if at_step == 1:
        assert min(e.version for e in all_events(store) if e.stream == "s-0") == CHANGES[change][1]
    assert store.stream_version("$compactions") == 2
    assert store.verify().findings == ()


@pytest.mark.parametrize(
    "data", [b"{}", b"[1]", b"{", b"[" * 9999, b'{"position":99,"time":1,"removed_before":0,"bytes":0}']
)
def test_a_start_that_makes_no_sense_is_damage(store: EventStore, data: bytes) -> None:
    fill(store, 30)
    event = ("$CompactionStarted", None, 0, data, None)
    engine_of(store)._open_writer().append(AppendRequest.own("$compactions", event))
    for dry_run in (True, False):
        with pytest.raises(CorruptionError) as raised:
            store.compact(dry_run=dry_run)
        assert raised.value.position == 31


def test_what_comes_after_the_cut_off_does_not_count(store: EventStore) -> None:
    fill(store, 30)
    store.set_retention("s-0", max_count=2)
    appended: list[int] = []

    def append(done: int, total: int) -> None:
        appended.append(store.append("s-0", [new(500 + len(appended))]).first_version)

    store.compact(progress=append)
    assert appended
    found = [event.version for event in store.read_all() if event.stream == "s-0"]
    assert found == [9, 10, *appended]


def scan(store: EventStore, name: str, position: int) -> None:
    """Let a named subscription come to a position."""
    with store.subscribe(name, follow=False):
        pass
    store.reset_subscription(name, position)


def test_a_subscription_that_is_behind_is_not_passed_without_force(store: EventStore) -> None:
    fill(store, 30)
    store.set_retention("s-0", max_count=2)
    scan(store, "mail", 21)
    with pytest.raises(SubscriptionBehind) as raised:
        store.compact()
    assert (raised.value.subscription, raised.value.checkpoint, raised.value.position) == ("mail", 21, 22)
    assert len(list(store.read("$compactions"))) == 0
    assert store.compact(force=True).events_removed == 8


def test_a_subscription_that_has_passed_the_hidden_events_blocks_nothing(store: EventStore) -> None:
    fill(store, 30)
    store.set_retention("s-0", max_count=2)
    scan(store, "mail", 22)
    assert store.compact().events_removed == 8


def test_policies_that_were_replaced_hinder_no_subscription(store: EventStore) -> None:
    with store.subscribe("mail", follow=False):
        pass
    for count in (3, 2, 1):
        store.set_retention("s-0", max_count=count)
    assert store.compact().events_removed == 2


def test_64_descriptors_are_enough_for_any_number_of_segments(memory_path: Path) -> None:
    path = memory_path / "store"
    with small_store(path, segment_events=2) as store:
        for number in range(150):
            store.append(f"s-{number % 7}", [new(number), new(number)])
        store.set_retention(category="s", max_count=1)
        store.compact()  # leaves removed events in every segment
        for number in range(150):
            store.append(f"s-{number % 7}", [new(number), new(number)])
    program = (
        "import resource, sys, evlog; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); "
        "import evlog.files.compaction.commit as commit; commit._LARGE_BYTES = 1; "
        "print(evlog.open(sys.argv[1]).compact().events_removed)"
    )
    done = run_python("-c", program, str(path))
    assert (done.stdout, done.stderr) == ("300\n", "")


class Removals(Disk):
    """Notes of each log that loses its name whether this process has it open."""

    def __init__(self) -> None:
        self.were_open: list[bool] = []

    def remove(self, path: str) -> None:
        if path.endswith(".log") and os.path.exists(path):
            self.were_open.append(open_files(path) != [])
        super().remove(path)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_space_of_large_files_is_freed_after_the_lock(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.files.compaction.commit._LARGE_BYTES", 1)
    disk = Removals()
    with small_store(memory_path / "store", disk=disk) as store:
        fill(store, 100)
        store.set_retention(category="s", max_count=1)

        def check(_done: int = 0, _total: int = 0) -> None:
            assert [name for name in open_files(store.path) if name.endswith("(deleted)")] == []

        store.compact(progress=check)
        assert len(disk.were_open) > 10
        assert all(disk.were_open)
        check()


def write_files(store: EventStore) -> dict[str, bytes]:
    """Compact; the files that this made."""
    store.compact()
    directory = Path(store.path, "segments")
    return {path.name: path.read_bytes() for path in directory.iterdir() if ".1." in path.name}


def test_helper_processes_write_the_same_bytes(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_store(memory_path / "alone", segment_events=100) as store:
        fill(store, 500)
        store.set_retention(category="s", max_count=2)
    shutil.copytree(memory_path / "alone", memory_path / "together")
    monkeypatch.setattr("evlog.files.compaction.rewrite._ENTRIES_AT_ONCE", 9)
    monkeypatch.setattr("evlog.files.compaction.rewrite.new_tag", lambda: 9)
    with evlog.open(memory_path / "alone") as store:
        alone = write_files(store)
    monkeypatch.setattr("evlog.files.compaction.compact._BYTES_WORTH_HELPERS", 0)
    monkeypatch.setattr("evlog.files.compaction.compact.core_count", lambda: 2)
    helped: list[int] = []
    run = Workers.run

    def noted(self: Workers, *arguments: Any, **named: Any) -> Any:
        helped.append(self.count)
        return run(self, *arguments, **named)

    monkeypatch.setattr(Workers, "run", noted)
    with evlog.open(memory_path / "together") as store:
        assert write_files(store) == alone
    assert len(alone) == 6
    assert set(helped) == {2}


def test_damage_that_a_helper_finds_is_told(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evlog.files.compaction.compact._BYTES_WORTH_HELPERS", 0)
    monkeypatch.setattr("evlog.files.compaction.compact.core_count", lambda: 2)
    monkeypatch.setattr("evlog.files.compaction.rewrite._ENTRIES_AT_ONCE", 2)
    fill(store, 30)
    store.set_retention(category="s", max_count=2)
    log = segment_files(store, "log")[1]
    flip_bit(log, -3)
    with pytest.raises(CorruptionError) as caught:
        store.compact()
    assert caught.value.path == str(log)


def test_a_writer_beside_a_compaction_does_not_index_what_it_sealed(store: EventStore) -> None:
    fill(store, 10)
    store.append("looked for", [new()])  # in the second segment only
    store.append_many([("later", [new(number)]) for number in range(20)])
    with evlog.open(store.path) as other:
        running = FileLock(compaction_path(store.path), 0.0)
        with running:
            missing = segment_files(store, "streams")[1]
            missing.unlink()
            other.append("looked for", [new()])
            assert not missing.exists()
        running.close()
        other.append("looked for", [new()])
        assert missing.exists()


@pytest.mark.parametrize("seals", [True, False], ids=["sealed", "sealed after the second plan"])
def test_a_log_that_changed_between_plan_and_seal_is_planned_again(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, seals: bool
) -> None:
    fill(store, 30)
    store.set_retention(category="s", max_count=1)
    crcs = iter([1, 2])  # as after a cut of the last events by another process
    monkeypatch.setattr("evlog.files.compaction.compact.entries_crc", lambda log, position: next(crcs, 3))
    seal, calls = Writer.seal, iter([seals])
    monkeypatch.setattr(Writer, "seal", lambda writer: seal(writer) if next(calls, True) else None)
    plans: list[bool] = []

    def planned(*arguments: Any, **options: Any) -> Plan:
        plan = make_plan(*arguments, **options)
        plans.append(plan.seals)
        return plan

    monkeypatch.setattr("evlog.files.compaction.compact.make_plan", planned)
    assert store.compact().events_removed == 27
    assert plans == [True, not seals]
    assert numbers(store.read_all()) == list(range(27, 30))
    assert store.verify().ok


def test_one_compaction_at_a_time(store: EventStore) -> None:
    fill(store, 30)
    other = FileLock(compaction_path(store.path), 0.0)
    with other, pytest.raises(CompactionRunning):
        store.compact()
    other.close()
    store.compact()


def test_a_user_who_may_only_read_cannot_hold_the_lock_of_a_compaction(store: EventStore) -> None:
    fill(store, 30)
    store.compact()
    mode = os.stat(compaction_path(store.path)).st_mode
    assert mode & 0o444 == (mode & 0o222) << 1, "only users that may write can open it"


def test_a_read_under_way_notices_nothing_but_gaps(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_events=20) as store:
        fill(store, 400)
        store.set_retention(category="s", max_count=5)
        before = {event.position: event for event in all_events(store)}
        kept = {event.position for event in visible(store)}
        with evlog.open(store.path) as other:
            reads = {
                "forwards": other.read_all(include_system=True),
                "backwards": other.read_all(reverse=True, include_system=True),
                "by type": other.read_all(types={"T0"}),
                "a stream": other.read("s-1"),
            }
            begun = {name: [next(read) for _ in range(3)] for name, read in reads.items()}
            store.compact()
            wanted = {
                "forwards": kept,
                "backwards": {place for place in kept if before[place].stream[0] != "$"},
                "by type": {place for place in kept if before[place].type == "T0"},
                "a stream": {place for place in kept if before[place].stream == "s-1"},
            }
            for name, read in reads.items():
                events = begun[name] + list(read)
                positions = [event.position for event in events]
                assert positions == sorted(set(positions), reverse=name == "backwards"), name
                assert all(before[event.position] == event for event in events), name
                assert wanted[name] <= set(positions), name


def test_a_stream_read_goes_on_in_a_merged_segment(memory_path: Path) -> None:
    """What was yielded before the segments became one is not yielded again."""
    with small_store(memory_path / "store", segment_events=64) as store:
        for number in range(40):
            store.append_many([("kept", [new(number)]), ("gone", [new(n) for n in range(20)])])
        store.delete_stream("gone")
        with evlog.open(store.path) as other:
            log = engine_of(other)._opened()
            read = other.read("kept")
            backwards = other.read("kept", reverse=True)
            first, last = [next(read)], [next(backwards)]
            log.close()
            done = store.compact()
            assert done.segments_after < done.segments_before
            log.close()
            assert [e.version for e in first + list(read)] == list(range(1, 41))
            assert [e.version for e in last + list(backwards)] == list(range(40, 0, -1))


def test_files_that_went_are_closed_by_who_had_them_open(store: EventStore) -> None:
    fill(store, 60)
    store.set_retention(category="s", max_count=2)
    list(store.read_all())
    old = list(engine_of(store)._opened().sealed)
    store.compact()
    assert not any(part._segment for part in old if part not in engine_of(store)._opened().sealed)


def test_a_damaged_event_is_neither_copied_nor_removed(store: EventStore) -> None:
    fill(store, 30)
    store.set_retention("s-0", max_count=1)
    path = segment_files(store, "log")[1]
    flip_bit(path, -3)
    damaged = path.read_bytes()
    with pytest.raises(CorruptionError):
        store.compact()
    assert path.read_bytes() == damaged
    with pytest.raises(CorruptionError):
        store.compact()


@pytest.mark.exact_hashes  # else every record is read before the first one is written
@pytest.mark.parametrize("processes", [1, 2])
def test_segments_before_a_damaged_event_are_compacted(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """Though later segments are read while earlier ones are written."""
    monkeypatch.setattr("evlog.files.compaction.compact._BYTES_WORTH_HELPERS", 0)
    monkeypatch.setattr("evlog.files.compaction.compact.core_count", lambda: processes)
    with small_store(memory_path / "store", segment_events=100) as store:
        fill(store, 500)
        store.set_retention("s-0", max_count=1)
        path = segment_files(store, "log")[1]
        flip_bit(path, -3)
        with pytest.raises(CorruptionError) as caught:
            store.compact()
        assert caught.value.path == str(path)
        assert [file.name[20:] for file in segment_files(store, "removed")] == [".1.removed"]
        assert segment_files(store, "log")[1] == path


@pytest.mark.exact_hashes
def test_segments_before_one_that_cannot_be_read_are_compacted(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason, and also if a helper reads the later segment first."""

    def open_but_one(store: str, store_id: bytes, info: SegmentInfo) -> SealedSegment:
        if info.path(store, "log") == str(path):
            raise StoreIOError(str(path), "Input/output error")
        return open_sealed(store, store_id, info)

    def run_backwards(
        _: Workers, calls: Sequence[Call], *, ahead: int, first: Callable[[], None] | None
    ) -> Iterator[tuple[int, Any]]:
        assert ahead
        if first is not None:
            first()
        for at, (function, arguments) in reversed(list(enumerate(calls))):
            yield at, function(*arguments)

    monkeypatch.setattr("evlog.files.compaction.compact._BYTES_WORTH_HELPERS", 0)
    monkeypatch.setattr("evlog.files.compaction.compact.core_count", lambda: 2)
    monkeypatch.setattr(Workers, "run_all", run_backwards)
    monkeypatch.setattr(rewrite, "open_sealed", open_but_one)
    fill(store, 30)
    store.set_retention("s-0", max_count=1)
    path = segment_files(store, "log")[1]
    with pytest.raises(StoreIOError) as caught:
        store.compact()
    assert caught.value.path == str(path)
    assert [file.name[20:] for file in segment_files(store, "removed")] == [".1.removed"]


def test_removed_events_that_the_manifest_counts_otherwise_are_damage(store: EventStore) -> None:
    fill(store, 30)
    store.set_retention("s-0", max_count=3)
    store.compact()
    place = next(at for at, info in enumerate(read_manifest(store.path).segments) if info.removed_events)
    info = read_manifest(store.path).segments[place]
    replace_info(store, place, info._replace(removed_events=info.removed_events + 1))
    store.set_retention("s-0", max_count=1)
    store.delete_stream("s-1")
    with pytest.raises(CorruptionError, match="as many events as the manifest says"):
        store.compact()


@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_damage_of_what_is_left_is_told_where_it_matters(store: EventStore, damage: str) -> None:
    fill(store, 30)
    store.delete_stream("s-0")
    store.compact()
    path = segment_files(store, "removed")[0]
    if damage == "missing":
        path.unlink()
    else:
        flip_bit(path, -1)
    with evlog.open(store.path) as other:
        assert len(list(other.read_all())) == 20
        with pytest.raises(CorruptionError):
            retry_all(other, 30)


def test_leftovers_of_a_dead_compaction_go(store: EventStore) -> None:
    fill(store, 30)
    leftover = Path(store.path, "segments", f"{1:020d}.7.log")
    leftover.write_bytes(b"half a segment")
    store.compact()
    assert not leftover.exists()


@pytest.mark.exact_hashes
def test_no_record_is_read_to_tell_streams_apart_where_hashes_do(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after streams were emptied, appended to again, and emptied again."""
    monkeypatch.delattr("evlog.files.compaction.hidden._hide_by_name")
    fill(store, 60)
    store.set_retention(category="s", max_count=3)
    store.compact()
    for count in (2, 1):
        store.delete_stream("s-0")
        store.compact()
        store.set_retention("s-1", max_count=count)
        assert store.compact().events_removed == 1 + (count == 1)
        store.append("s-0", [new(), new()])
        store.compact()
    store.delete_stream("s-0")
    interrupted(store, 1)
    store.append("s-0", [new()])
    assert store.compact().resumed
    assert [event.version for event in store.read("s-0")] == [25]


@pytest.mark.parametrize("helpers", [0, 1])
def test_streams_that_share_a_hash_lose_exactly_what_is_hidden(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, helpers: int
) -> None:
    if helpers:
        monkeypatch.setattr("evlog.files.compaction.compact._BYTES_WORTH_HELPERS", 0)
        monkeypatch.setattr("evlog.files.compaction.compact.core_count", lambda: 2)
    for name, module in list(sys.modules.items()):
        if name.startswith("evlog.") and hasattr(module, "hash_stream"):
            monkeypatch.setattr(module, "hash_stream", len)
    with small_store(memory_path / "store") as store:
        for number in range(20):
            for stream in ("aa", "bb", "cc", "dd"):
                store.append(stream, [new(number)])
        left = {"aa": (1, 20), "bb": (19, 20), "cc": (16, 20), "dd": (21, 20)}
        store.set_retention("bb", max_count=2)
        store.compact()
        store.set_retention("cc", before=16)
        store.delete_stream("dd")
        assert sum(removal.events for removal in store.compact(dry_run=True).removals) == 35
        store.compact()
        for stream, (first, last) in left.items():
            versions = [event.version for event in store.read_all() if event.stream == stream]
            assert versions == list(range(first, last + 1)), stream
            assert store.stream_version(stream) == last
        assert store.append("dd", [new()]).first_version == 21


@pytest.mark.exact_hashes
@pytest.mark.parametrize("again", [False, True])
def test_only_the_records_of_names_that_share_a_hash_are_read_to_tell_them_apart(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    read: list[int] = []
    records = hidden._records

    def counting(part: Any, numbers: Sequence[int]) -> Any:
        read.append(len(numbers))
        return records(part, numbers)

    monkeypatch.setattr(hidden, "_records", counting)
    fill(store, 100, streams=10)
    for twin in (0, 0, 1, 0, 1, 1):
        store.append(TWINS[twin], [new()])
    left = {TWINS[0]: [3], TWINS[1]: [1, 2, 3]}
    store.set_retention(TWINS[0], max_count=1)
    if again:  # one of them is emptied, and comes again
        store.delete_stream(TWINS[1])
        store.compact()
        read.clear()
        store.append(TWINS[1], [new(), new(), new()])
        store.set_retention(TWINS[1], max_count=2)
        left[TWINS[1]] = [5, 6]
    store.set_retention(category="s", max_count=4)
    store.compact()
    for stream, versions in left.items():
        assert [event.version for event in store.read_all() if event.stream == stream] == versions
        assert store.stream_version(stream) == max(versions)
    assert [event.version for event in store.read_all(category="s")] == [7] * 10 + [8] * 10 + [9] * 10 + [
        10
    ] * 10
    assert sum(read) == 2 * (4 if again else 6)
    assert store.verify().ok


def test_a_category_that_shares_its_hash_with_another_loses_alone_what_is_hidden(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("evlog.") and hasattr(module, "hash_category"):
            monkeypatch.setattr(module, "hash_category", lambda _: 7 << 40)
    monkeypatch.setattr("evlog.files.format.hashes._known_categories", {})
    names = [f"{category}-{number}" for category in ("s", "t", "ss") for number in range(300)]
    names += ["s", "t", f"s-{'x' * 200}", f"t-{'x' * 200}", "s-é", "t-s-1"]
    with small_store(memory_path / "store", segment_events=10_000) as store:
        for _ in range(4):
            store.append_many(evlog.NewEvents(names, "T", [b"{}"] * len(names)))
        store.set_retention(category="s", max_count=3)
        before = visible(store)
        removed = store.compact().events_removed
        assert removed == sum(name.partition("-")[0] == "s" for name in names)
        assert all_events(store) == before


def test_a_stream_that_was_emptied_before_does_not_hide_a_shared_hash(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The versions of "bb" go on where those of the removed "aa" end, as if both were one stream."""
    for name, module in list(sys.modules.items()):
        if name.startswith("evlog.") and hasattr(module, "hash_stream"):
            monkeypatch.setattr(module, "hash_stream", len)
    with small_store(memory_path / "store") as store:
        for number in range(5):
            store.append("bb", [new(number)])
        store.set_retention("bb", before=6)
        store.compact()
        for stream, count in (("aa", 5), ("bb", 9), ("cc", 1)):
            for number in range(count):
                store.append(stream, [new(number)])
        store.set_retention("bb", before=10)
        store.set_retention("aa", max_count=2)
        store.compact()
        left = [(event.stream, event.version) for event in store.read_all()]
        assert left == [("aa", 4), ("aa", 5), *(("bb", n) for n in range(10, 15)), ("cc", 1)]


def test_a_compacted_segment_reads_as_it_did(store: EventStore) -> None:
    """By position, type, time and version, from the middle: frames and entries agree with their gaps."""
    fill(store, 100, streams=5)
    store.set_retention("s-0", max_count=3)
    store.set_retention("s-3", max_count=7)
    store.compact()
    kept = list(store.read_all())
    for after in range(0, 101, 3):
        assert facts(store.read_all(after, after + 10)) == facts(
            e for e in kept if after < e.position <= after + 10
        )
        assert facts(store.read_all(after, reverse=True)) == facts(
            e for e in kept[::-1] if e.position > after
        )
    assert facts(store.read_all(types={"T1"})) == facts(e for e in kept if e.type == "T1")
    for event in kept[::7]:
        assert facts(store.read_all(since=event.time)) == facts(e for e in kept if e.time >= event.time)
        assert facts(store.read(event.stream, event.version, event.version)) == facts([event])


def test_an_index_that_is_lost_is_made_anew_for_a_compacted_segment(store: EventStore) -> None:
    fill(store, 60)
    store.set_retention("s-0", max_count=3)
    store.compact()
    before, streams = facts(store.read_all()), list(store.streams())
    for suffix in ("offsets", "streams", "types", "ids"):
        for path in segment_files(store, suffix)[:-1]:
            path.unlink()
    with evlog.open(store.path) as other:
        assert facts(other.read_all()) == before
        assert list(other.streams()) == streams
        assert other.append("s-1", [new()]).first_version == 21
    log = Log(store.path)
    assert all(part.info.generation in (0, 1) for part in log.sealed)


class FullDirectories(Disk):
    """Has no space for the names of a directory at its n-th sync."""

    left = 0

    def sync_dir(self, path: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise StoreFull(path, "No space left on device")
        super().sync_dir(path)


def test_segments_that_the_manifest_names_stay_when_its_name_cannot_be_synced(memory_path: Path) -> None:
    kept = {number for number in range(40) if number % 3 != 1} | {34, 37}
    for step in range(1, 100):
        disk = FullDirectories()
        path = memory_path / f"store-{step}"
        with small_store(path, disk=disk) as store:
            fill(store, 40)
            store.set_retention("s-1", max_count=2)
            disk.left = step
            with contextlib.suppress(StoreFull):
                store.compact()
        with evlog.open(path) as store:
            assert kept <= set(numbers(store.read_all())), step
            store.compact()
            assert kept == set(numbers(store.read_all()))
            assert store.verify().ok
        if disk.left > 0:
            assert step > 5
            return
    raise AssertionError("the compaction never ended")
