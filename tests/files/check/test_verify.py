"""What verify reports of stores with right checksums and wrong content, and while others write."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import evlog
from evlog import EventStore, Finding, InvalidArgument
from evlog.files.check import files, logs
from evlog.files.check.records import RecordDecoder
from evlog.files.disk.files import DISK
from evlog.files.format.checkpoints import encode_checkpoint
from evlog.files.format.hashes import hash_ids
from evlog.files.log.manifest_file import read_manifest, replace_manifest
from evlog.files.write.plan import Plan, Planner
from evlog.model.checkpoints import Checkpoint
from evlog.model.filters import EventFilter
from tests.golden.history import STORE as GOLDEN
from tests.support.forge import TIME, forge, read_frames, replace_info
from tests.support.helpers import engine_of, fill, flip_bit, new, number_id, segment_files


def kinds_of(store: EventStore, **arguments: Any) -> list[str]:
    return [finding.kind for finding in store.verify(**arguments).findings]


@pytest.fixture
def filled(store: EventStore) -> EventStore:
    fill(store, 20)
    return store


def test_a_sound_store_is_ok(filled: EventStore) -> None:
    report = filled.verify()
    assert report.ok
    assert (report.events, report.segments, report.position) == (20, 3, 20)
    assert report.digest is not None
    assert report.digest.startswith("20:")
    assert filled.verify(against=report.digest).ok


@pytest.mark.parametrize("quick", [False, True])
def test_a_missing_index_is_waited_for_only_shortly_whatever_the_clock_says(
    filled: EventStore, monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    """A file's time is ahead of the clock where that was set back, or another machine's was ahead."""
    later = os.stat(f"{filled.path}/manifest.json").st_mtime + 100_000
    os.utime(f"{filled.path}/manifest.json", (later, later))
    for path in Path(filled.path, "segments").glob("*.ids"):
        path.unlink()
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        assert len(slept) < 200
        now[0] += seconds

    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    assert kinds_of(filled, quick=quick) == ["missing", "missing"]
    assert 0.9 < sum(slept) <= 1.1


def test_an_empty_store_is_ok(store: EventStore) -> None:
    report = store.verify()
    assert report.ok
    assert (report.events, report.position) == (0, 0)


@pytest.mark.exact_hashes
def test_the_committed_store_is_ok_and_has_the_digest_it_always_had() -> None:
    report = evlog.verify_store(GOLDEN)
    assert report.ok
    assert report.digest == "7:5532552d0467a1efdb152f1f61bd18251bcae74ba9598754a87dc7269cfb8e0b"


def test_batches_of_many_streams_and_types_are_ok(store: EventStore) -> None:
    for number in range(6):
        store.append_many([(f"s-{at % 3}", [new(at, f"T{at % 2}")]) for at in range(number + 1)])
    store.append("large", [evlog.NewEvent("L", "x" * 3_000_000)])
    assert store.verify().ok


# --- versions, ids, order: what only a defect in a writer could do


def test_a_version_given_twice_is_found(filled: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Planner, "next_versions_locked", lambda *_: [7])
    filled.append("s-0", [new(99)])
    (finding,) = filled.verify().findings
    assert finding.kind == "version"
    assert finding.position == 21
    assert "'s-0' goes from version 7 to 7" in finding.detail


@pytest.mark.parametrize("events", [1, 12])
def test_a_version_left_out_is_found_within_and_across_segments(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, events: int
) -> None:
    fill(store, events, streams=2)
    last = store.stream_version("s-0")
    with monkeypatch.context() as patch:
        patch.setattr(Planner, "next_versions_locked", lambda *_: [last + 2])
        store.append("s-0", [new(99)])
    fill_more(store, 8)
    found = store.verify().findings
    assert [finding.kind for finding in found] == ["version"]
    assert f"from version {last} to {last + 2}" in found[0].detail


def fill_more(store: EventStore, count: int) -> None:
    for number in range(count):
        store.append("more", [new(number)])


def test_two_streams_with_one_hash_are_not_a_finding(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("evlog.") and hasattr(module, "hash_stream"):
            monkeypatch.setattr(module, "hash_stream", lambda _: 1)
    monkeypatch.setattr(logs, "RECORDS", RecordDecoder())  # it remembers hashes
    fill(store, 20)
    assert store.verify().ok


def know_nothing(_: Any, append: Any) -> Plan:
    ids = [event[1] for event in append.events]
    return Plan(append, {}, ids, hash_ids(ids))


@pytest.mark.parametrize("events", [3, 20])
def test_an_id_that_was_written_twice_is_found(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, events: int
) -> None:
    fill(store, events)
    monkeypatch.setattr(Planner, "_find_known_locked", know_nothing)
    store.append("other", [new(1, id=number_id(0))])
    (finding,) = store.verify().findings
    assert finding.kind == "id"
    assert finding.position == events + 1
    assert "position 1 already" in finding.detail


def test_an_id_of_a_removed_event_that_was_written_again_is_found(
    filled: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.delete_stream("s-0")
    filled.compact()
    with monkeypatch.context() as patch:
        patch.setattr(Planner, "_find_known_locked", know_nothing)
        filled.append("other", [new(1, id=number_id(0))])
    fill_more(filled, 8)
    for _ in range(2):  # the second time, both events are removed
        (finding,) = filled.verify().findings
        assert (finding.kind, finding.severity) == ("id", "damage")
        assert finding.detail == f"id {number_id(0)} belongs to position 1 already"
        filled.delete_stream("other")
        filled.compact()


def test_ids_with_the_same_fold_are_not_a_finding(store: EventStore) -> None:
    for number in range(20):
        store.append("s", [new(number, id=bytes([number] * 16))])
    assert store.verify().ok


def test_times_that_fall_are_found(filled: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.append("s-0", [new(1)])
    writer = engine_of(filled)._writer
    assert writer is not None
    writer._tail._last_time_us = 0
    monkeypatch.setattr("time.time_ns", lambda: 1_000_000)
    filled.append("s-0", [new(2)])
    assert "order" in kinds_of(filled)


@pytest.mark.parametrize("place", [0, 1])
def test_times_that_fall_from_one_segment_to_the_next_are_found(filled: EventStore, place: int) -> None:
    frames = read_frames(filled, place)
    frames[-1][-1][TIME] += 3_600_000_000
    info = forge(filled, place, frames)
    (finding,) = filled.verify().findings
    assert (finding.kind, finding.position) == ("order", info.last_position + 1)


def test_a_manifest_that_says_what_the_log_does_not_is_found(filled: EventStore) -> None:
    manifest = read_manifest(filled.path)
    first = manifest.segments[0]
    changes: list[dict[str, int]] = [
        {"events": 7},
        {"offsets_crc": 5},
        {"first_time_us": first.first_time_us - 1},
        {"last_time_us": first.last_time_us - 1},
    ]
    for change in changes:
        segments = (first._replace(**change), *manifest.segments[1:])
        replace_manifest(filled.path, manifest._replace(segments=segments), DISK)
        assert "manifest" in kinds_of(filled), change


@pytest.mark.parametrize("quick", [False, True])
def test_removed_events_without_a_file_of_them_are_found(filled: EventStore, quick: bool) -> None:
    replace_info(filled, 0, read_manifest(filled.path).segments[0]._replace(removed_events=3))
    assert kinds_of(filled, quick=quick) == ["manifest"]


@pytest.mark.parametrize("fact", ["events", "log_bytes", "last_time_us", "removed_events", "tagged_events"])
def test_facts_of_the_active_segment_are_found(filled: EventStore, fact: str) -> None:
    infos = read_manifest(filled.path).segments
    active = infos[-1]._replace(events=8 * (fact == "tagged_events"))
    replace_info(filled, len(infos) - 1, active._replace(**{fact: 3}))
    found = filled.verify().findings
    assert {(finding.kind, finding.file) for finding in found} == {("manifest", "manifest.json")}


def test_a_segment_left_out_of_the_manifest_is_found(filled: EventStore) -> None:
    manifest = read_manifest(filled.path)
    segments = (manifest.segments[0], manifest.segments[2])
    replace_manifest(filled.path, manifest._replace(segments=segments), DISK)
    found = evlog.verify_store(filled.path).findings
    assert {"order", "extra"} <= {finding.kind for finding in found}


# --- checkpoints


def checkpoint(store: EventStore, position: int, id: bytes | None) -> Path:
    """Write the checkpoint of subscription a, as a run would."""
    path = Path(store.path, "subscriptions", "a.json")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode_checkpoint(str(store.id), "a", Checkpoint(position, id, EventFilter(), 1)))
    return path


def id_at(number: int) -> bytes:
    return number_id(number - 1).bytes


@pytest.mark.parametrize(
    ("position", "id", "found", "quick"),
    [
        (20, id_at(20), [], []),
        (3, id_at(3), [], []),
        (0, None, [], []),
        (21, id_at(20), ["checkpoint"], ["checkpoint"]),
        (19, id_at(20), ["checkpoint"], []),
        (20, bytes(16), ["checkpoint"], []),
    ],
)
def test_checkpoints_are_inside_the_log_at_the_event_that_they_passed(
    filled: EventStore, position: int, id: bytes | None, found: list[str], quick: list[str]
) -> None:
    checkpoint(filled, position, id)
    assert kinds_of(filled) == found
    assert kinds_of(filled, quick=True) == quick


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"x\n" * 9, b'{"format":9,"crc32":"00000000"}\n'])
def test_a_damaged_checkpoint_is_found(filled: EventStore, content: bytes) -> None:
    checkpoint(filled, 20, id_at(20)).write_bytes(content)
    assert kinds_of(filled) == ["checkpoint"]


def test_a_damaged_list_of_parked_events_is_found(filled: EventStore) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("no")

    filled.consume("a", fail, retries=0, on_failure="park", follow=False)
    assert kinds_of(filled) == []
    path = Path(filled.path, "subscriptions", "a.parked")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1][:9] + b"\n", *lines[2:]]))
    (finding,) = filled.verify().findings
    assert (finding.kind, finding.severity, finding.file) == (
        "checkpoint",
        "damage",
        "subscriptions/a.parked",
    )


def test_a_checkpoint_at_a_removed_event_is_right(filled: EventStore) -> None:
    filled.set_retention("s-0", max_count=1)
    filled.compact()
    checkpoint(filled, 4, id_at(4))
    assert 4 not in [event.position for event in filled.read_all()]
    assert kinds_of(filled) == []
    checkpoint(filled, 4, id_at(1))
    assert kinds_of(filled) == ["checkpoint"]


# --- digests


def test_a_pinned_digest_holds_whatever_is_appended_later(store: EventStore) -> None:
    pins = [store.verify().digest]
    for number in range(20):
        store.append("s", [new(number), new(number)])
        pins.append(store.verify().digest)
    for pin in pins:
        assert store.verify(against=pin).ok, pin


def test_rewritten_history_is_found(filled: EventStore) -> None:
    pin = filled.verify().digest
    assert pin is not None
    position, digest = pin.split(":")
    wrong = f"{position}:{'0' * 64}"
    (finding,) = filled.verify(against=wrong).findings
    assert finding.kind == "digest"
    assert digest in finding.detail
    assert kinds_of(filled, against=f"99:{digest}") == ["digest"]
    assert kinds_of(filled, against=f"0:{digest}") == ["digest"]


def test_a_digest_that_is_none_is_refused(store: EventStore) -> None:
    for text in ("", "1", "1:abc", f"-1:{'0' * 64}", f"x:{'0' * 64}"):
        with pytest.raises(InvalidArgument):
            store.verify(against=text)
    with pytest.raises(InvalidArgument):
        store.verify(against=f"1:{'0' * 64}", quick=True)


# --- while others write


def test_an_append_that_comes_meanwhile_is_beyond_the_horizon(
    filled: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evlog.files.check import verify

    check_across = verify._check_across

    def append_meanwhile(*arguments: Any) -> list[Finding]:
        fill_more(filled, 30)
        return check_across(*arguments)

    monkeypatch.setattr(verify, "_check_across", append_meanwhile)
    report = filled.verify()
    assert report.ok
    assert (report.events, report.position) == (20, 20)


def test_a_frame_being_written_is_not_a_finding_while_its_writer_holds_the_lock(filled: EventStore) -> None:
    from evlog.files.check import files as checkfiles
    from evlog.files.disk.file_lock import FileLock

    log = segment_files(filled, "log")[-1]
    whole = log.read_bytes()
    log.write_bytes(whole + whole[64:100])
    assert kinds_of(filled) == ["tail"]
    lock = FileLock(f"{filled.path}/lock", None)
    with lock, pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkfiles, "_LOCK_SECONDS", 0.01)
        assert kinds_of(filled) == []
        assert kinds_of(filled, quick=True) == []
    lock.close()


def test_a_store_that_may_only_be_read_is_verified(filled: EventStore) -> None:
    filled.close()
    for path in Path(filled.path).rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted(os.listdir(filled.path))
    assert evlog.verify_store(filled.path).ok
    assert sorted(os.listdir(filled.path)) == before
    for path in Path(filled.path).rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


# --- helpers


@pytest.fixture
def with_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evlog.files.check.verify._BYTES_FOR_HELPERS", 0)
    monkeypatch.setattr("evlog.files.check.verify.core_count", lambda: 2)


@pytest.mark.usefixtures("with_helpers")
def test_helper_processes_find_the_same(filled: EventStore) -> None:
    pin = filled.verify().digest
    log = segment_files(filled, "log")[0]
    flip_bit(log, -1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evlog.files.check.verify._BYTES_FOR_HELPERS", 1 << 40)
        alone = filled.verify()
    calls: list[tuple[int, int]] = []
    together = filled.verify(progress=lambda done, total: calls.append((done, total)))
    assert alone == together
    assert not together.ok
    assert calls[-1][0] == calls[-1][1] > 0
    assert filled.verify(against=pin) != together


def test_files_that_a_running_compaction_makes_are_not_leftovers(filled: EventStore) -> None:
    from evlog.files.disk.file_lock import FileLock

    Path(filled.path, "segments", "00000000000000000001.1.log").write_bytes(b"x")
    lock = FileLock(f"{filled.path}/compaction", 0.0)
    with lock:
        assert kinds_of(filled) == []
    lock.close()
    assert kinds_of(filled) == ["extra"]


# --- after a compaction


@pytest.fixture
def compacted(filled: EventStore) -> tuple[EventStore, str]:
    """A store from which s-0 lost most of its events, and the digest that it had before."""
    pin = filled.verify().digest
    assert pin is not None
    filled.set_retention("s-0", max_count=1)
    filled.compact()
    return filled, pin


def test_a_compacted_store_is_ok_and_says_so_of_an_older_digest(compacted: tuple[EventStore, str]) -> None:
    store, pin = compacted
    report = store.verify()
    assert report.findings == ()
    assert store.verify(against=report.digest).ok
    (finding,) = store.verify(against=pin).findings
    assert finding.kind == "compacted"
    assert "was compacted, first on 2" in finding.detail
    assert '"$maxCount":1' in finding.detail


def test_damage_of_what_is_left_of_compacted_events_is_found(compacted: tuple[EventStore, str]) -> None:
    store, _ = compacted
    path = next(Path(store.path, "segments").glob("*.removed"))
    content = path.read_bytes()
    for damaged in (content[:-1], content[:70] + bytes([content[70] ^ 4]) + content[71:], b""):
        path.write_bytes(damaged)
        assert [finding.file for finding in store.verify().findings] == [f"segments/{path.name}"]
    path.unlink()
    assert kinds_of(store) == ["missing"]


def test_a_compacted_store_is_salvaged_with_its_gaps_and_ids(
    compacted: tuple[EventStore, str], memory_path: Path
) -> None:
    store, _ = compacted
    before = [event.position for event in store.read_all()]
    log = segment_files(store, "log")[0]
    flip_bit(log, -1)
    lost = evlog.salvage_store(store.path, memory_path / "out").losses
    assert [loss.events for loss in lost] == [1]
    with evlog.open(memory_path / "out") as salvaged:
        assert salvaged.verify().findings == ()
        after = [event.position for event in salvaged.read_all()]
        assert len(after) == len(before) - 1
        assert set(after) < set(before)
        assert salvaged.append("s-0", [new(0, "T0", id=number_id(0))]).duplicate  # removed, and still known


@pytest.mark.parametrize("removes_last", [False, True])
def test_without_its_manifest_a_compacted_store_is_salvaged_with_its_gaps_and_ids(
    filled: EventStore, memory_path: Path, removes_last: bool
) -> None:
    if removes_last:  # and nothing else tells of the last positions of a segment
        for name in ("s-0", "s-1", "s-2"):
            filled.delete_stream(name)
    else:
        filled.set_retention("s-0", max_count=1)
    filled.compact()
    digest, before = filled.verify().digest, list(filled.read_all())
    Path(filled.path, "manifest.json").unlink()
    assert evlog.salvage_store(filled.path, memory_path / "out").losses == ()
    with evlog.open(memory_path / "out") as salvaged:
        assert (salvaged.verify().digest, salvaged.verify().findings) == (digest, ())
        assert list(salvaged.read_all()) == before
        assert salvaged.append("s-0", [new(0, "T0", id=number_id(0))]).duplicate  # removed, and still known


@pytest.mark.parametrize("damage", [flip_bit, Path.unlink])
def test_a_salvage_and_a_repair_say_that_ids_of_removed_events_are_lost(
    compacted: tuple[EventStore, str], memory_path: Path, damage: Callable[..., object]
) -> None:
    store, _ = compacted
    path = next(Path(store.path, "segments").glob("*.removed"))
    damage(path, *([70] if damage is flip_bit else []))
    for losses in (
        evlog.salvage_store(store.path, memory_path / "out").losses,
        evlog.repair_store(store.path).losses,
    ):
        assert [(loss.file, loss.events) for loss in losses] == [(f"segments/{path.name}", 0)]


def test_an_append_between_the_looks_of_verify_at_the_log_and_its_marks_is_no_damage(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 3)
    check_marks = files._check_marks

    def append_first(*args: Any) -> Any:
        store.append("s-0", [new(3)])
        return check_marks(*args)

    monkeypatch.setattr(files, "_check_marks", append_first)
    monkeypatch.setattr(files, "SharedLock", lambda *_: nullcontext(False))  # a writer has the lock each time
    report = store.verify()
    assert (report.events, report.findings) == (4, ())
