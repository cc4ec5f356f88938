"""The filter: few files for one look-up, and right answers whatever became of it."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import evlog
from evlog import EventStore
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import DISK
from evlog.files.format.filter import (
    CELL_BYTES,
    LookUp,
    decode_blocks,
    encode_block,
    encode_filter_header,
    fill_table,
    find_key,
    identity_of,
    join_blocks,
    lowest_bits,
    shift_of,
    single_block,
)
from evlog.files.format.hashes import hash_stream
from evlog.files.format.headers import KIND_IDS, KIND_STREAMS, FormatFault
from evlog.files.format.manifest import Manifest, SegmentRows
from evlog.files.log import segment_filter as module
from evlog.files.log.log import Log
from evlog.files.log.parts import OpenParts, SealedParts
from evlog.files.log.segment_filter import STALE, SegmentFilter
from evlog.files.write.filter_file import complete_filter_locked, extend_filter
from tests.support.helpers import fill, new, number_id, numbers, small_store

keys = st.lists(st.integers(0, 2**32 - 1), max_size=60)


# --- the codec


@given(keys, keys)
def test_no_key_of_a_table_is_ever_missed(held: list[int], others: list[int]) -> None:
    table = fill_table(held)
    asked = held + others
    assert set(range(len(held))) <= set(LookUp(asked).find(table)[0])


def test_keys_are_all_in_a_table_only_if_each_is() -> None:
    keys = [at << 20 | at for at in range(4096)]  # each has a slot of its own
    for held, are_in in ((keys, True), (keys[1:], False), (keys[:-1], False), ([], False)):
        assert LookUp(keys).are_all_in(fill_table(held)) is are_in


def test_few_absent_keys_are_taken_for_present_ones() -> None:
    dice = random.Random(5)
    for count, most in ((1000, 0.002), (20_000, 0.005)):
        table = fill_table([dice.getrandbits(32) for _ in range(count)])
        assert len(LookUp([dice.getrandbits(32) for _ in range(20_000)]).find(table)[0]) < 20_000 * most


def test_blocks_are_found_up_to_the_first_that_is_not_whole() -> None:
    store_id = bytes(range(16))
    head = encode_filter_header(store_id)
    blocks = [encode_block(b"%d,0,7" % at, [at], [1, 2], [3, 4, 5], [6]) for at in range(1, 5)]
    whole = head + b"".join(blocks)
    found, end = decode_blocks(whole, store_id)
    assert [block.members for block in found] == [[b"%d,0,7" % at] for at in range(1, 5)]
    assert end == len(whole)
    for cut in range(len(head), len(whole)):
        found, end = decode_blocks(whole[:cut], store_id)
        assert len(found) == sum(len(head + b"".join(blocks[: n + 1])) <= cut for n in range(4))
        assert end == len(head + b"".join(blocks[: len(found)]))
    for wrong in (b"", head[:-1], bytes(64), encode_filter_header(bytes(16))):
        with pytest.raises(FormatFault):
            decode_blocks(wrong, store_id)
    many = [(memoryview(whole), block) for block in decode_blocks(whole, store_id)[0]] * 5
    assert len(decode_blocks(head + join_blocks(many[:16]), store_id)[0][0].members) == 16
    assert decode_blocks(head + join_blocks(many), store_id)[0] == []


@given(st.lists(keys, min_size=2, max_size=5), st.integers(0, 4))
def test_a_joined_block_holds_what_each_block_held(held: list[list[int]], at: int) -> None:
    held[at % len(held)] += range(0, 2**32, 2**25)  # 128 more: a larger table
    singles = [encode_block(b"%d,0,7" % n, each, [n], [*each, n], []) for n, each in enumerate(held)]
    raw = memoryview(encode_filter_header(bytes(16)) + b"".join(singles))
    joined = join_blocks([(raw, block) for block in decode_blocks(raw, bytes(16))[0]])
    raw = memoryview(encode_filter_header(bytes(16)) + joined)
    (block,), end = decode_blocks(raw, bytes(16))
    assert (len(block.members), end) == (len(held), len(raw))
    for place, each in enumerate(held):
        start, slots = block.tables[KIND_STREAMS]
        shift = shift_of(slots)
        table = raw[start : start + CELL_BYTES * slots * len(held)]
        found = LookUp(each).find(table, len(held))
        assert found[place] == list(range(len(each)))
        alone = single_block(raw, block, place)
        (own,), _ = decode_blocks(encode_filter_header(bytes(16)) + alone, bytes(16))
        start, slots = own.tables[KIND_IDS]
        own_table = alone[start - 64 : start - 64 + CELL_BYTES * slots]
        assert LookUp([*each, place]).find(own_table) == [list(range(len(each) + 1))]
        both = [(shift, CELL_BYTES * len(held), table), (shift_of(slots), CELL_BYTES, memoryview(own_table))]
        for key in (*each, place, 2**32 - 1):
            in_joined, in_own = LookUp([key]).find(table, len(held)), LookUp([key]).find(own_table)
            assert find_key(key, both, lowest_bits(len(held) + 1)) == [
                number for number, found in enumerate([*in_joined, *in_own]) if found
            ]
            assert bool(find_key(key, both[1:], 1)) == bool(in_own[0])


# --- few files


@pytest.mark.exact_hashes
def test_a_cold_look_up_opens_a_handful_of_files(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_store(memory_path / "store", segment_events=4, sync="none") as store:
        for first in range(0, 800, 4):
            store.append_many(
                [(f"s-{n}", [new(n, f"T{n // 8}", id=number_id(n))]) for n in range(first, first + 4)]
            )
    opened: list[str] = []
    real = os.open

    def counting(path: str, *arguments: int) -> int:
        opened.append(str(path))
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", counting)
    uses: list[Callable[[EventStore], object]] = [
        lambda cold: numbers(cold.read("s-17")) == [17] or pytest.fail("not found"),
        lambda cold: numbers(cold.read_all(types=["T3"])) == list(range(24, 32)) or pytest.fail("not found"),
        lambda cold: cold.stream_version("s-300") == 1 or pytest.fail("not found"),
        lambda cold: cold.append("s-40", [new(40, "T5", id=number_id(40))]).duplicate or pytest.fail("no"),
        lambda cold: cold.append("other", [new(9, id=number_id(90_000))]),
    ]
    for use in uses:
        opened.clear()
        with evlog.open(store.path, sync="none") as cold:
            use(cold)
        assert len(opened) < 60, opened  # of more than 1,000 files


@pytest.mark.exact_hashes
def test_a_look_up_makes_the_objects_of_few_segments(memory_path: Path) -> None:
    log = Log(filled(memory_path / "store", 400, streams=100))
    assert log.find_version("s-7", hash_stream("s-7")) == 4
    assert len(log.sealed.made) < 12 < len(log.sealed)


# --- sixteen segments share a block


def members(path: str) -> list[int]:
    """Return how many segments each block that is used has, the newest first."""
    log = Log(path)
    return [len(used.places) for used in log.filter.load(log.sealed).blocks]


def test_segments_in_a_row_share_a_block(memory_path: Path) -> None:
    path = filled(memory_path / "store", 300)
    assert members(path) == [1, 4, 16, 16]
    check_whole(Log(path))
    check(path, 300)


def test_a_damaged_byte_of_a_shared_block_hides_nothing(memory_path: Path) -> None:
    path = filled(memory_path / "store", 150)
    assert 16 in members(path)
    file = memory_path / "store" / "segments" / "filter"
    whole = file.read_bytes()
    dice = random.Random(4)
    ids = [number_id(number).bytes for number in range(150)]
    for at in [*range(64, 200), *dice.sample(range(len(whole)), 300)]:
        file.write_bytes(whole[:at] + bytes([whole[at] & 0x11 ^ 1]) + whole[at + 1 :])
        assert len(Log(path).find_ids(ids, module_hashes(ids))) == 150, at


def test_candidates_come_newest_first_whatever_block_they_are_in(tmp_path: Path) -> None:
    """A compaction may replace a segment between two others that share a block."""
    (tmp_path / "segments").mkdir()
    singles = [encode_block(b"%d,0,7" % at, [5], [5], [5], []) for at in (1, 2, 3, 4)]
    raw = memoryview(encode_filter_header(bytes(16)) + b"".join(singles))
    blocks = decode_blocks(raw, bytes(16))[0]
    joined = join_blocks([(raw, blocks[0]), (raw, blocks[2])])
    filter = SegmentFilter(str(tmp_path), bytes(16))
    Path(filter.path).write_bytes(encode_filter_header(bytes(16)) + joined + singles[1])  # 4 has none
    sealed = sealed_parts("1,0,7", "2,0,7", "3,0,7", "4,0,7")
    assert [place for place, _ in filter.candidates(sealed, KIND_IDS, [5, 6])] == [3, 2, 1, 0]
    assert filter.places(sealed, KIND_IDS, 5) == [3, 2, 1, 0]


@pytest.mark.exact_hashes
def test_an_answer_is_kept_as_long_as_the_sealed_segments_are_the_same(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_FOUND", 7)
    path = filled(memory_path / "store", 60)
    log, hashes = Log(path), [hash_stream(f"s-{number}") for number in range(9)]
    before = [log.filter.places(log.sealed, KIND_STREAMS, hash) for hash in (*hashes, *hashes[:3])][-3:]
    assert log.filter._view is not None
    assert len(log.filter._view.found) <= 7
    with monkeypatch.context() as patch:
        patch.setattr(module.BlocksOfKind, "find", lambda *_: pytest.fail("looked up"))
        assert [log.filter.places(log.sealed, KIND_STREAMS, hash) for hash in hashes[:3]] == before
    filled(memory_path / "store", 12, first=60)
    log.refresh()
    for hash in hashes[:4]:
        held = {at for at, part in enumerate(log.sealed) if part.index.find(KIND_STREAMS, hash)}
        assert bool(held - set(range(before[0][0] + 1))) == (hash != hashes[3])
        assert held <= set(log.filter.places(log.sealed, KIND_STREAMS, hash))
    check(path, 72)


def test_names_of_a_block_are_under_its_crc(memory_path: Path) -> None:
    path = filled(memory_path / "store", 150)
    file, log = memory_path / "store" / "segments" / "filter", Log(path)
    first, second = (identity_of(part.info) for part in log.sealed[:2])
    swapped = file.read_bytes().replace(first, b"*").replace(second, first).replace(b"*", second)
    file.write_bytes(swapped)
    assert Log(path).find_ids([number_id(1).bytes], module_hashes([number_id(1).bytes]))


@pytest.mark.parametrize("grows", [True, False])
def test_a_compaction_of_one_of_sixteen_segments_leaves_the_others_covered(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, grows: bool
) -> None:
    if not grows:  # sizes that differ too much: no block is shared again
        monkeypatch.setattr("evlog.files.write.filter_file._MAX_GROWTH", 0)
    monkeypatch.setattr("evlog.files.write.filter_file._MAX_UNUSED", 10**6)
    path = filled(memory_path / "store", 300, streams=300)
    with evlog.open(path) as store:
        before = Log(path)
        assert (16 in members(path)) == grows
        store.delete_stream("s-17")
        store.compact()
        assert 0 < len({*before.sealed.rows} - {*Log(path).sealed.rows}) < 16
        for number in range(300, 320):
            store.append(f"t-{number % 4}", [new(number, id=number_id(number))])
    check_whole(Log(path))
    log = Log(path)
    assert not any(STALE in used.places for used in log.filter.load(log.sealed).blocks)
    ids = [number_id(number).bytes for number in range(320)]
    assert len(log.find_ids(ids, module_hashes(ids))) == 320


@pytest.mark.parametrize("many", [0, 3, 20, 40])
def test_what_the_caller_knows_meanwhile_is_left_out_and_nothing_else(memory_path: Path, many: int) -> None:
    log = Log(filled(memory_path / "store", 200, streams=40))
    hashes = [hash_stream(f"s-{number}") for number in range(40)]
    assert list(log.filter.candidates(log.sealed, KIND_STREAMS, hashes, [1] * 40)) == []
    assert log.filter._view is None  # a batch to streams of the active segment does not read the filter
    whole = dict(log.filter.candidates(log.sealed, KIND_STREAMS, hashes))
    known = [1] * many + [0] * (40 - many)
    found = dict(log.filter.candidates(log.sealed, KIND_STREAMS, hashes, known))
    for place, indexes in whole.items():
        own = found.get(place, ())
        assert {at for at in indexes if at >= many} <= set(own) <= set(indexes)
        if many >= 20:
            assert not set(own) & set(range(many))


# --- missing, damaged, stale


def check(path: str, events: int) -> None:
    with evlog.open(path) as cold:
        for stream in range(3):
            assert numbers(cold.read(f"s-{stream}")) == list(range(stream, events, 3))
        for number in range(0, events, 5):
            assert cold.append(f"s-{number % 3}", [new(number, id=number_id(number))]).duplicate


def check_whole(log: Log) -> None:
    """Check that the filter covers each segment, and has no damage."""
    blocks, end = decode_blocks(Path(log.filter.path).read_bytes(), log.manifest.store_id_bytes)
    assert end == os.path.getsize(log.filter.path)
    assert {identity_of(part.info) for part in log.sealed} <= set().union(*(each.members for each in blocks))
    view = log.filter.load(log.sealed)
    assert view.uncovered == []
    for used in view.blocks:
        used.check_all()


def filled(path: Path, events: int = 60, streams: int = 3, first: int = 0) -> str:
    with small_store(path) as store:
        for number in range(first, first + events):
            store.append(f"s-{number % streams}", [new(number, id=number_id(number))])
    return str(path)


def test_any_byte_of_the_filter_may_be_damaged(memory_path: Path) -> None:
    """Also where the damage would only hide entries: zeros in a table."""
    path = filled(memory_path / "store", 24)
    file = memory_path / "store" / "segments" / "filter"
    whole = file.read_bytes()
    ids = [number_id(number).bytes for number in range(24)]
    for at in [*range(0, len(whole), 7), *range(64, 180)]:
        for byte in {0, whole[at] ^ 1} - {whole[at]}:
            file.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
            log = Log(path)
            assert len(log.find_ids(ids, module_hashes(ids))) == 24, at


def module_hashes(ids: list[bytes]) -> list[int]:
    from evlog.files.format.hashes import hash_ids

    return list(hash_ids(ids))


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "zeros", "junk", "another store's", "tail"])
def test_filter_that_cannot_be_used_is_rebuilt_by_the_next_writer(memory_path: Path, damage: str) -> None:
    path = filled(memory_path / "store")
    file = memory_path / "store" / "segments" / "filter"
    whole = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        other = Path(filled(memory_path / "other")) / "segments" / "filter"
        file.write_bytes(
            {
                "empty": b"",
                "cut": whole[: len(whole) // 2],
                "zeros": bytes(len(whole)),
                "junk": random.Random(3).randbytes(500),
                "another store's": other.read_bytes(),
                "tail": whole + b"\1" * 30,
            }[damage]
        )
    check(path, 60)
    with evlog.open(path) as store:
        store.stream_version("s-1")
        for number in range(60, 80):
            store.append(f"s-{number % 3}", [new(number, id=number_id(number))])
    log = Log(path)
    check_whole(log)
    check(path, 80)
    assert evlog.verify_store(path).findings == ()


def test_damaged_table_is_rebuilt_by_the_next_writer(memory_path: Path) -> None:
    path = filled(memory_path / "store")
    file = memory_path / "store" / "segments" / "filter"
    whole = file.read_bytes()
    block = decode_blocks(whole, Log(path).manifest.store_id_bytes)[0][0]
    file.write_bytes(whole[: block.end - 5] + b"\x77" + whole[block.end - 4 :])
    with evlog.open(path) as store:
        for number in range(60):
            assert store.append(f"s-{number % 3}", [new(number, id=number_id(number))]).duplicate
        store.append("s-0", [new(60)])
    check_whole(Log(path))


def test_block_of_an_older_generation_hides_nothing(memory_path: Path) -> None:
    """A compaction merges segments: the blocks of those that were replaced are stale."""
    path = filled(memory_path / "store")
    with evlog.open(path) as store:
        old = Log(path)
        assert old.filter.load(old.sealed).blocks
        store.set_retention("s-1", max_count=3)
        store.compact()
        assert numbers(store.read("s-1")) == [52, 55, 58]
        for number in range(60):
            assert store.append(f"s-{number % 3}", [new(number, id=number_id(number))]).duplicate


def test_many_stale_blocks_are_left_out_of_a_new_file(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.files.write.filter_file._MAX_UNUSED", 0)
    path = filled(memory_path / "store")
    log = Log(path)
    file = Path(log.filter.path)
    stale = b"".join(encode_block(b"%d,9,9,9,9,9,9" % at, [1], [1], [1], []) for at in range(100))
    file.write_bytes(file.read_bytes() + stale)
    extend_filter(log, DISK)
    blocks, _ = decode_blocks(file.read_bytes(), log.manifest.store_id_bytes)
    assert {member for block in blocks for member in block.members} == {
        identity_of(part.info) for part in log.sealed
    }
    check(path, 60)


def log_without_blocks(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Log:
    """Return a log of several sealed segments; its filter has none of them, and gets one in each call."""
    log = Log(filled(directory / "store"))
    Path(log.filter.path).write_bytes(encode_filter_header(log.manifest.store_id_bytes))
    monkeypatch.setattr("evlog.files.write.filter_file._KEYS_AT_ONCE", 0)
    return log


def test_a_filter_that_lacks_many_keys_is_extended_in_several_calls(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = log_without_blocks(memory_path, monkeypatch)
    for covered in range(1, len(log.sealed) + 1):
        extend_filter(log, DISK)
        assert len(log.sealed) - len(log.filter.load(log.sealed).uncovered) == covered
        assert log.filter.is_due == (covered < len(log.sealed))
    check_whole(log)


def test_a_helper_extends_the_filter_by_several_segments(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = log_without_blocks(memory_path, monkeypatch)
    before = len(log.sealed)
    while before:
        with FileLock(log.filter.path, 0.0, DISK) as file:
            complete_filter_locked(log, file, DISK)
        left = len(log.filter.load(log.sealed).uncovered)
        assert left == 0 or left < before - 1
        before = left
    check_whole(log)


def test_blocks_that_are_too_large_to_be_joined_are_not_tried_at_each_append(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.files.write.filter_file._MAX_JOINED_BYTES", 1000)
    path = filled(memory_path / "store")
    log = Log(path)
    Path(log.filter.path).unlink()
    extend_filter(log, DISK)
    assert not log.filter.is_due
    assert {len(used.places) for used in log.filter.load(log.sealed).blocks} == {1}
    check_whole(log)


def test_writers_leave_the_filter_alone_while_a_compaction_runs(memory_path: Path) -> None:
    path = memory_path / "store"
    with small_store(path) as store, small_store(path) as other:
        fill(store, 60)
        store.delete_stream("s-0")
        before = store_filter(path)

        def append(done: int, _total: int) -> None:
            other.append("other", [new(done)])
            assert numbers(other.read_all(types=["T0"]))
            assert store_filter(path) == before

        store.compact(progress=append)
        for _ in range(2):  # after the first, a look-up finds that it is due
            assert other.append("s-1", [new(1, "T1", id=number_id(1))]).duplicate
        log = Log(store.path)
        assert log.filter.load(log.sealed).uncovered == []


def test_two_processes_do_not_append_at_once(memory_path: Path) -> None:
    path = filled(memory_path / "store")
    log, other = Log(path), Log(path)
    file = Path(log.filter.path)
    file.write_bytes(encode_filter_header(log.manifest.store_id_bytes))
    lock = FileLock(str(file), 0.0, DISK)
    with lock:
        extend_filter(log, DISK)
        assert file.stat().st_size == 64
    extend_filter(log, DISK)
    size = file.stat().st_size
    extend_filter(other, DISK)
    assert file.stat().st_size == size > 64


def test_large_tables_are_checked_by_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_CHECKED_AT_ONCE", 0)
    dice = random.Random(8)
    held = [dice.getrandbits(32) for _ in range(30_000)]
    (tmp_path / "segments").mkdir()
    filter = SegmentFilter(str(tmp_path), bytes(16))
    raw = encode_filter_header(bytes(16)) + encode_block(b"1,0,7", [], [], held, [])
    sealed = sealed_parts("1,0,7")
    for damaged in (None, *range(300, len(raw), 20_011)):
        content = bytearray(raw)
        if damaged is not None:
            content[damaged] = 0
        Path(filter.path).write_bytes(content)
        filter.load(sealed)
        for key in held[:300]:
            assert list(filter.candidates(sealed, KIND_IDS, [key])) == [(0, [0])] or filter.is_due
            assert [place for place, _ in filter.candidates(sealed, KIND_IDS, [key])] == [0]


def sealed_parts(*identities: str) -> SealedParts:
    """Return sealed segments of which only the identity is told."""
    rows = [f"{each},{each.partition(',')[0]},1".encode() for each in identities]
    segments = SegmentRows([*rows, b"99999,0,7,0,0"], "manifest.json")
    return SealedParts("nowhere", Manifest(str(UUID(int=0)), 1, 1, segments), OpenParts())


def test_kind_of_ids_is_what_candidates_are(store: EventStore) -> None:
    fill(store, 30)
    log = Log(store.path)
    nothing = sealed_parts()
    assert log.filter.places(nothing, KIND_IDS, 5) == []
    assert list(log.filter.candidates(nothing, KIND_IDS, [5])) == []


def store_filter(path: Path) -> bytes:
    return (path / "segments" / "filter").read_bytes()


def restore_all_but_the_filter(copy: Path, path: Path) -> None:
    later = store_filter(path)
    shutil.rmtree(path)
    shutil.copytree(copy, path)
    (path / "segments" / "filter").write_bytes(later)


def test_a_filter_that_an_older_copy_was_put_beside_hides_nothing(memory_path: Path) -> None:
    """A copy that was made before any segment was sealed has no filter, so the later one stays."""
    path, copy = memory_path / "store", memory_path / "copy"
    with small_store(path, segment_events=8) as store:
        fill(store, 5)
    shutil.copytree(path, copy)
    with small_store(path) as store:
        for _ in range(4):
            store.append("lost", [new(type="Lost")])
    restore_all_but_the_filter(copy, path)
    with small_store(path) as store:
        for number in range(5, 15):
            store.append("kept", [new(number, type="Kept", id=number_id(number))])
    with small_store(path) as store:
        assert numbers(store.read("kept")) == numbers(store.read_all(types=["Kept"])) == list(range(5, 15))
        assert store.append("kept", [new(5, type="Kept", id=number_id(5))]).duplicate
        assert store.verify().ok


def test_a_filter_of_a_later_compaction_than_that_of_an_older_copy_hides_nothing(memory_path: Path) -> None:
    path, copy = memory_path / "store", memory_path / "copy"
    with small_store(path, segment_events=8) as store:
        for number in range(8):
            store.append(f"s-{number % 2}", [new(number, type=f"T{number % 2}")])
        for _ in range(80):  # so much that the filter is extended, and not replaced
            store.append("other", [new()])
    shutil.copytree(path, copy)
    for stream in ("s-0", "s-1"):
        with small_store(path) as store:
            store.delete_stream(stream)
            store.compact()
            numbers(store.read("s-0"))  # the filter is looked at, and extended by the next append
            store.append("more", [new()])
            assert decode_blocks(store_filter(path), Log(store.path).manifest.store_id_bytes)[0]
        if stream == "s-0":
            restore_all_but_the_filter(copy, path)
    with small_store(path) as store:
        assert numbers(store.read("s-0")) == numbers(store.read_all(types=["T0"])) == [0, 2, 4, 6]
        assert store.verify().ok


def test_a_filter_of_another_copy_of_the_store_hides_nothing(memory_path: Path) -> None:
    """Two copies go on from one segment: its tag is the same in both, its events are not."""
    path, copy = memory_path / "store", memory_path / "copy"
    with small_store(path, segment_events=8) as store:
        fill(store, 5)
    shutil.copytree(path, copy)
    for each, first in ((path, 5), (copy, 50)):
        with small_store(each) as store:
            for number in range(first, first + 10):
                store.append(f"n-{number}", [new(number, id=number_id(number), tags=[f"n:{number}"])])
    shutil.copy(copy / "segments/filter", path / "segments/filter")
    with small_store(path) as store:
        for number in range(5, 15):
            assert numbers(store.read(f"n-{number}")) == [number]
            assert numbers(store.read_all(tags=[f"n:{number}"])) == [number]
            assert store.append(f"n-{number}", [new(number, id=number_id(number))]).duplicate
        assert store.verify().ok
