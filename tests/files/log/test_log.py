"""The whole log: look-ups across segments, and taking in what others did."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet
from zlib import crc32

import pytest

import evlog
from evlog import EventStore
from evlog.errors import CorruptionError, StoreBusy, StoreNotFound, StoreReplaced
from evlog.files.format.hashes import hash_ids, hash_stream
from evlog.files.format.manifest import encode_manifest
from evlog.files.format.marks import MARK_BYTES, WRITTEN_MAGIC, encode_mark, maybe_decode_mark
from evlog.files.log import log as log_module
from evlog.files.log import parts as parts_module
from evlog.files.log.active import ActiveSegment
from evlog.files.log.log import Log
from evlog.files.log.manifest_file import open_manifest, read_manifest
from evlog.files.log.parts import Part, SegmentMoved, max_open_parts
from evlog.files.log.removed import RemovedEvent
from evlog.files.log.segment import Segment
from tests.support.helpers import engine_of, facts, fill, new, number_id, numbers, segment_files, small_store
from tests.support.programs import run_python


def test_versions_and_ids_are_found_in_every_segment(store: EventStore) -> None:
    fill(store, 50, streams=7)
    log = Log(store.path)
    assert len(log.sealed) == 6
    for stream in range(7):
        name = f"s-{stream}"
        assert log.find_version(name, hash_stream(name)) == len(range(stream, 50, 7))
    assert log.find_version("missing", hash_stream("missing")) == 0
    for number in range(50):
        id = number_id(number).bytes
        record = log.find_ids([id], hash_ids([id])).get(0)
        assert record is not None
        assert not isinstance(record, RemovedEvent)
        assert (record[0], record[4]) == (number + 1, id)
    missing = number_id(1000).bytes
    assert log.find_ids([missing], hash_ids([missing])) == {}


@pytest.mark.exact_hashes
def test_look_up_is_decided_by_the_name_and_the_id_and_not_by_the_hash(store: EventStore) -> None:
    fill(store, 20)
    log = Log(store.path)
    assert log.find_version("another", hash_stream("s-0")) == 0
    fold = hash_ids([number_id(3).bytes])[0]
    assert log.find_ids([number_id(4).bytes], [fold]) == {}


@pytest.mark.exact_hashes
def test_each_bit_that_versions_of_many_streams_rest_on_is_checked(store: EventStore) -> None:
    fill(store, 24, streams=24)
    names = [f"s-{stream}" for stream in range(24)]
    hashes, right = list(map(hash_stream, names)), [1] * 24
    (log_path, *_), (offsets_path, *_) = (segment_files(store, suffix) for suffix in ("log", "offsets"))
    for path, first, size, is_found in ((log_path, 64 + 40 + 1 + 2, 5, True), (offsets_path, 64, 48, False)):
        content = path.read_bytes()
        for bit in range(8 * first, 8 * (first + size)):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            log = Log(store.path)
            if is_found:
                with pytest.raises(CorruptionError):
                    log.find_versions(names, hashes)
            else:
                assert log.find_versions(names, hashes) == right
        path.write_bytes(content)
    assert Log(store.path).find_versions(names, hashes) == right


def test_versions_of_many_streams_are_those_of_each(store: EventStore) -> None:
    fill(store, 150, streams=40)
    store.set_retention(category="s", max_count=1)
    store.delete_stream("s-38")
    store.compact()
    for number in range(10):
        store.append(f"s-{number}", [new(number)])
    log = Log(store.path)
    names = [f"s-{number}" for number in range(50)]
    hashes = list(map(hash_stream, names))
    found = log.find_versions(names, hashes)
    assert found == list(map(log.find_version, names, hashes))
    assert (found[0], found[38], found[39], found[49]) == (5, 3, 3, 0)


@pytest.mark.exact_hashes
def test_versions_of_names_with_one_hash_are_told_apart(store: EventStore) -> None:
    fill(store, 100, streams=40)
    log = Log(store.path)
    names = [f"s-{number}" for number in range(40)]
    found = log.find_versions(names, [hash_stream("s-7")] * 40)
    assert found == [3 if name == "s-7" else 0 for name in names]


@pytest.mark.parametrize("order", [range(30), range(29, -1, -1), [*range(15), *range(16, 30), 15]])
def test_ids_are_found_whatever_their_order(store: EventStore, order: Sequence[int]) -> None:
    with small_store(store.path + "-large", segment_events=1000) as other:
        fill(other, 50)
        log = Log(other.path)
        ids = [number_id(10 + number).bytes for number in order]
        found = log.find_ids(ids, hash_ids(ids))
        assert [found[at][4] for at in range(30)] == ids  # type: ignore[index]
        hashes = hash_ids(ids)
        ids[20] = number_id(1000).bytes
        assert log.find_ids(ids, hash_ids(ids)).keys() == set(range(30)) - {20}
        assert log.find_ids(ids, hashes).keys() == set(range(30)) - {20}


def test_an_id_that_is_asked_for_twice_is_looked_for_no_further(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 40)
    log = Log(store.path)
    os.remove(log.filter.path)  # any segment may have the id
    looked: list[object] = []
    find_in = log_module._find_in

    def noting(part: Part, *rest: Any) -> None:
        looked.append(part)
        find_in(part, *rest)

    monkeypatch.setattr(log_module, "_find_in", noting)
    ids = [number_id(39).bytes] * 2
    assert log.find_ids(ids, hash_ids(ids)).keys() == {0, 1}
    assert looked == [log.active]


def test_refresh_takes_in_rolls_of_others_and_keeps_what_is_open(store: EventStore) -> None:
    fill(store, 10)
    log = Log(store.path)
    kept = log.sealed[0]
    for number in range(10, 40):
        store.append("s-0", [new(number)])
        log.refresh()
        assert log.head == number + 1
        assert sum(part.count for part in log.parts()) == number + 1
    assert log.sealed[0] is kept
    assert [part.first_position for part in log.parts()] == [1, 9, 17, 25, 33]


def test_refresh_of_an_unchanged_log_reads_nothing(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 20)
    log = Log(store.path)
    monkeypatch.setattr(log_module, "open_manifest", None)
    monkeypatch.setattr(log_module, "ReadFile", None)
    log.refresh()
    assert log.head == 20


def test_a_read_misses_nothing_while_another_thread_loads_the_log_again(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 20)
    log, known = engine_of(store)._opened(), facts(store.read_all())
    reads = [store.read_all() for _ in range(2)]
    seen = []
    refresh = ActiveSegment.refresh

    def refresh_meanwhile(segment: ActiveSegment, durable_offset: int, *, suspicious: bool) -> bool:
        seen.append(facts(reads.pop()))
        is_known = refresh(segment, durable_offset, suspicious=suspicious)
        seen.append(facts(reads.pop()))
        return is_known

    monkeypatch.setattr(ActiveSegment, "refresh", refresh_meanwhile)
    log.reset()
    log.refresh()
    assert seen == [known, known]


def test_missing_file_of_a_named_segment_is_damage(store: EventStore) -> None:
    fill(store, 20)
    for which in (0, -1):
        path = segment_files(store, "log")[which]
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(CorruptionError) as caught, evlog.open(store.path) as other:
            list(other.read_all())
        assert caught.value.path == str(path)
        path.write_bytes(content)


def test_removed_store_is_not_found(store: EventStore) -> None:
    fill(store, 3)
    Path(store.path, "manifest.json").unlink()
    for use in (lambda: store.head, lambda: store.append("s", [new()])):
        with pytest.raises(StoreNotFound):
            use()


def test_marks_of_another_segment_say_nothing(store: EventStore) -> None:
    fill(store, 3)
    log = Log(store.path)
    marks = log.marks()
    written, durable = marks.written, marks.durable
    assert marks.acknowledged is marks.suspect is None
    assert written is not None
    assert durable is not None
    assert written.offset == durable.offset == log.active.segment.end == log.durable_offset()
    assert log.acknowledged_position(log.stamp_and_marks()[1]) == log.head
    raw = Path(store.path, "durable").read_bytes()
    fill(store, 10)
    Path(store.path, "durable").write_bytes(raw)
    moved = Log(store.path)
    assert moved.marks().written is moved.marks().durable is None
    assert moved.durable_offset() == 0
    assert moved.acknowledged_position(raw) == moved.head - 1  # the last frame's header knows of those before
    Path(store.path, "durable").unlink()
    assert Log(store.path).marks().written is Log(store.path).marks().durable is None


def test_manifest_that_moved_on_is_read_again(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, 20)
    log = Log(store.path)
    manifest = read_manifest(store.path)
    # As a compaction does: the first segment has files of another generation, and the old ones are gone.
    for suffix in ("log", "offsets", "streams", "types", "ids"):
        for path in segment_files(store, suffix)[:1]:
            content = bytearray(path.read_bytes())
            content[12] = 1
            content[60:64] = crc32(content[:60]).to_bytes(4, "little")
            path.with_name(path.name.replace(".0.", ".1.")).write_bytes(content)
            path.unlink()
    first = manifest.segments[0]._replace(generation=1)
    moved = manifest._replace(segments=(first, *manifest.segments[1:]))
    target = Path(store.path, "manifest.json")
    target.with_suffix(".new").write_bytes(encode_manifest(moved))
    target.with_suffix(".new").rename(target)
    with pytest.raises(SegmentMoved):
        _ = log.sealed[0].segment
    assert numbers(store.read_all()) == list(range(20))
    assert numbers(store.read("s-1", reverse=True)) == list(range(1, 20, 3))[::-1]


def test_segments_that_were_long_unused_are_closed_and_opened_again(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "_MAX_OPEN_PARTS", 2)
    fill(store, 80)
    log = Log(store.path)
    assert len(log.sealed) == 9
    held = log.sealed[0].segment
    for _ in range(2):
        for number in range(80):
            id = number_id(number).bytes
            assert log.find_ids([id], hash_ids([id])).get(0) is not None
    assert sum(part._segment is not None for part in log.sealed) <= 2
    assert held.record(0)[0] == 1  # a reader that still holds it may continue
    assert numbers(store.read_all()) == list(range(80))
    reads = [store.read_all(), store.read("s-0")]
    heads = [next(read) for read in reads]
    assert numbers(store.read_all(reverse=True)) == list(range(80))[::-1]
    assert numbers([*heads[:1], *reads[0]]) == list(range(80))
    assert numbers([*heads[1:], *reads[1]]) == list(range(0, 80, 3))


def test_going_through_more_segments_than_may_be_open_opens_few_of_them_again(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "_MAX_OPEN_PARTS", 8)
    fill(store, 80)
    log = Log(store.path)
    assert len(log.sealed) == 9
    opened = 0
    for _ in range(30):
        for part in log.sealed:
            opened += part._index is None
            assert part.index is part._index
        assert sum(part._index is not None for part in log.sealed) == 8
    assert opened < 9 * 30 / 2


# --- another store, a restored copy, contention


def test_another_store_at_the_path_is_an_error(memory_path: Path) -> None:
    path = memory_path / "store"
    with small_store(path) as store:
        fill(store, 10)
        path.rename(memory_path / "moved")
        with small_store(path) as other:
            fill(other, 20)
        for use in (lambda: list(store.read_all()), lambda: store.append("s-0", [new(1)])):
            with pytest.raises(StoreReplaced) as caught:
                use()
            assert caught.value.path == str(path)
    assert len(list(evlog.open(path).read_all())) == 20


def test_reader_follows_a_copy_that_was_put_in_place(memory_path: Path) -> None:
    """An older copy has the same id, manifest and tags: only the files are others."""
    path = memory_path / "store"
    with small_store(path) as store:
        fill(store, 5)
        shutil.copytree(path, memory_path / "copy")
        store.append("s-0", [new(), new()])
        log = Log(str(path))
        assert log.head == 7
        path.rename(memory_path / "old")
        (memory_path / "copy").rename(path)
        log._look_due = 0.0  # the time is over
        log.refresh()
        assert log.head == 5


def test_opening_begins_again_where_a_compaction_replaces_the_active_log(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 3)
    read = [open_manifest(store.path)]
    fill(store, 20)
    store.delete_stream("s-0")
    store.compact()
    monkeypatch.setattr(log_module, "open_manifest", lambda path: (read or [open_manifest(path)]).pop())
    assert Log(store.path).head == store.head
    assert not read


def test_contention_is_not_corruption(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, 20)
    log = Log(store.path)

    def moves() -> None:
        raise SegmentMoved

    with pytest.raises(StoreBusy):
        log.retry_on_compaction(moves)
    monkeypatch.setattr(type(log.active.segment), "refresh", lambda *_, **__: False)
    with pytest.raises(StoreBusy):
        log.refresh(suspicious=True)


def test_few_descriptors_leave_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "MAPS_KEEP_DESCRIPTORS", True)
    for descriptors, parts in ((1 << 20, 4096), (1024, 73), (400, 40), (256, 32), (20, 2), (64, 4)):
        monkeypatch.setattr(os, "sysconf", lambda _, n=descriptors: n)
        assert max_open_parts() == parts
        assert max_open_parts(10_000) == min(parts, 40)
    monkeypatch.setattr(parts_module, "MAPS_KEEP_DESCRIPTORS", False)
    assert max_open_parts() == 4096, "open segments have no descriptors"


def test_the_logs_of_a_process_share_what_may_be_open(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 80)
    monkeypatch.setattr(parts_module, "_every", WeakSet())
    monkeypatch.setattr(parts_module, "max_open_parts", lambda logs: 8 // logs)

    def open_all(log: Log) -> int:
        assert all(part.index is not None for part in log.sealed)
        return sum(part._index is not None for part in log.sealed)

    log = Log(store.path)
    assert open_all(log) == 8
    other = Log(store.path)
    assert [open_all(other), open_all(log)] == [4, 4]


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import evlog
with evlog.open(sys.argv[1]) as store:
    assert sum(1 for _ in store.read_all()) == 1200
    assert sum(1 for _ in store.read("s-1")) == 400
    assert store.append("s-1", [evlog.NewEvent("T")]).first_position == 1201
    assert len(list(store.streams())) == 3
"""


def test_hundreds_of_segments_need_few_descriptors(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_events=4, sync="none") as store:
        for first in range(0, 1200, 4):
            store.append_many([(f"s-{n % 3}", [new(n)]) for n in range(first, first + 4)])
    run_python("-c", LIMITED, store.path)


# --- ids


def uuid1_like(number: int) -> bytes:
    return number.to_bytes(4, "big") + bytes.fromhex("11e98000a1b2112233445566")


def sequential(number: int) -> bytes:
    return bytes.fromhex("0011223344556677") + number.to_bytes(8, "little")


def alike_halves(number: int) -> bytes:
    return number.to_bytes(8, "little") * 2


def object_id(number: int) -> bytes:
    return bytes.fromhex("65a1b2c3d4e5f6a7b8") + number.to_bytes(3, "big") + bytes(4)


def colliding(number: int) -> bytes:
    """Return an id that is crafted to have the hash of all others: CRC-32 is blind to its polynomial."""
    polynomial = 0x104C11DB7
    product = 0
    for bit in range(48):
        if number >> bit & 1:
            product ^= polynomial << bit
    message = (product << 32).to_bytes(16, "big")
    return bytes(int(f"{byte:08b}"[::-1], 2) for byte in message)


@pytest.mark.exact_hashes
def test_colliding_ids_do_collide() -> None:
    assert len(set(hash_ids([colliding(number) for number in range(1, 500)]))) == 1


@pytest.mark.exact_hashes  # with cut ones, too few entries share a hash to be kept in memory
@pytest.mark.parametrize("make", [uuid1_like, sequential, alike_halves, object_id, colliding])
def test_records_read_to_find_ids_do_not_multiply(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[int], bytes]
) -> None:
    """Whatever the ids are, a look-up reads each candidate once, and chosen ones once in a process."""
    with small_store(memory_path / "store", segment_events=2000, sync="none") as store:
        for first in range(1, 3001, 100):
            store.append("s", [new(n, id=make(n)) for n in range(first, first + 100)])
        read = 0
        real = Segment.records

        def counting(segment: Segment, numbers: Sequence[int], *arguments: Any) -> Iterator[Sequence[Any]]:
            nonlocal read
            for records in real(segment, numbers, *arguments):
                read += len(records)
                yield records

        monkeypatch.setattr(Segment, "records", counting)
        for number in range(3001, 3051):
            store.append("s", [new(number, id=make(number))])
        assert read <= 3050 + 50
        read = 0
        again = store.append("s", [new(n, id=make(n)) for n in range(1, 200)])
        assert again.duplicate
        assert read <= 3050 + 200


def test_what_the_mark_says_was_written_is_taken_in(store: EventStore) -> None:
    fill(store, 3)
    log = Log(store.path)
    store.append_many([("s", [new(3), new(4)]), ("t", [new(5)])])
    marks = log.stamp_and_marks()[1]
    assert log.maybe_follow(marks[:MARK_BYTES])
    assert log.head == log.acknowledged_position(marks) == 6
    assert log.maybe_follow(marks[:MARK_BYTES])  # nothing more


def test_a_mark_that_is_not_what_is_there_is_not_followed(store: EventStore) -> None:
    fill(store, 3)
    log = Log(store.path)
    before = log.stamp_and_marks()[1][:MARK_BYTES]
    store.append("s", [new(3)])
    marks = log.stamp_and_marks()[1][:MARK_BYTES]
    flipped = bytes([marks[0] ^ 1]) + marks[1:]
    for other in (b"", flipped, marks[:-1] + bytes([marks[-1] ^ 1])):
        assert not log.maybe_follow(other)
    of_other_manifest = maybe_decode_mark(WRITTEN_MAGIC, marks)
    assert of_other_manifest is not None
    of_other_manifest.manifest_crc ^= 1
    assert not log.maybe_follow(encode_mark(WRITTEN_MAGIC, of_other_manifest))
    offsets = segment_files(store, "offsets")[-1]
    raw = offsets.read_bytes()
    offsets.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert not log.maybe_follow(marks)
    offsets.write_bytes(raw[:-1])
    assert not log.maybe_follow(marks)
    assert log.head == 3
    offsets.write_bytes(raw)
    log.reset()
    assert not log.maybe_follow(marks)  # everything is to be read again
    log.refresh()
    assert log.head == 4
    assert not log.maybe_follow(before)  # the log is ahead of it
    fill(store, 20)
    assert not log.maybe_follow(log.stamp_and_marks()[1][:MARK_BYTES])  # another segment's
