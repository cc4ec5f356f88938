"""Damage of a compressed log: all of it is found, whole events are kept, and lost ones are named exactly."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import evlog
from evlog import EventStore
from evlog.files.check.containers import CheckedLog, Container
from evlog.files.format.entries import ENTRY
from evlog.files.format.headers import FILE_HEADER_BYTES
from evlog.files.format.seek_table import HEAD_BYTES, BlockTable, decode_head, decode_tail, tail_bytes
from evlog.files.log.manifest_file import read_manifest
from tests.crash import recordings
from tests.crash.damage import flip, read_files
from tests.support.helpers import Fact, compress_all, facts, fill, new, number_id, segment_files, small_store

pytestmark = pytest.mark.usefixtures("no_writer_at_work")

BLOCK = 128


@pytest.fixture
def packed(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> EventStore:
    """Two compressed segments, 1 to 8 of single events and 9 to 16 of one batch; an active one up to 20."""
    compress_all(monkeypatch, BLOCK)
    with small_store(memory_path / "store") as store:
        fill(store, 8)
        batch = [(f"s-{n % 3}", [new(n, f"T{n % 2}", id=number_id(n))]) for n in range(8, 16)]
        store.append_many(batch)
        for number in range(16, 20):
            store.append(f"s-{number % 3}", [new(number, f"T{number % 2}", id=number_id(number))])
        assert store.compact(compress=True).segments_compressed == 2
    os.utime(f"{store.path}/manifest.json", (0, 0))  # so that verify does not wait for indexes
    return store


ALL: list[Fact] = [(n + 1, f"s-{n % 3}", n // 3 + 1, f"T{n % 2}", b"%d" % n) for n in range(20)]


def table_of(raw: bytes) -> BlockTable:
    return decode_tail(raw[-tail_bytes(decode_head(raw).keys) :], len(raw))


def findings(store: EventStore, *, quick: bool = False) -> list[tuple[str, str]]:
    found = evlog.verify_store(store.path, quick=quick).findings
    return [(finding.kind, finding.file.partition(".")[2]) for finding in found]


def readable(store: EventStore) -> list[Fact]:
    """Return what a reader gets before an error of damage."""
    found: list[Fact] = []
    try:
        with evlog.open(store.path) as reader:
            for event in reader.read_all():
                found += facts([event])
    except evlog.CorruptionError:
        pass
    return found


@pytest.mark.parametrize("place", [0, 1])
def test_every_flipped_bit_is_found_by_verify_and_never_read(packed: EventStore, place: int) -> None:
    path = segment_files(packed, "log.zst")[place]
    raw = path.read_bytes()
    table = table_of(raw)
    blocks = range(table.offsets[0], table.offsets[-1])
    assert table.blocks > 3
    for at in range(len(raw)):
        path.write_bytes(flip(raw, at, at % 8))
        found = findings(packed)
        kind = "header" if at < HEAD_BYTES else "block"
        assert (kind, "0.log.zst") in found, at
        assert [kind for kind, _ in findings(packed, quick=True)][:1] == ([] if at in blocks else [kind]), at
        read = readable(packed)
        assert read == ALL[: len(read)], at
        assert len(read) < len(ALL), at
    path.write_bytes(raw)
    assert findings(packed) == []


def test_every_flip_in_header_and_table_is_repaired_byte_for_byte(packed: EventStore) -> None:
    path = segment_files(packed, "log.zst")[0]
    raw = path.read_bytes()
    table = table_of(raw)
    for at in (*range(0, HEAD_BYTES, 3), *range(table.offsets[-1], len(raw), 3)):
        path.write_bytes(flip(raw, at, at % 8))
        report = evlog.repair_store(packed.path)
        assert report.report.ok, at
        assert report.repaired
        assert not report.losses
        assert path.read_bytes() == raw, at


@pytest.mark.parametrize("damage", ["longer", "no table", "no header"])
def test_a_file_whose_blocks_are_whole_is_repaired(packed: EventStore, damage: str) -> None:
    path = segment_files(packed, "log.zst")[1]
    raw = path.read_bytes()
    table = table_of(raw)
    path.write_bytes(
        {
            "longer": raw + b"more",
            "no table": raw[: table.offsets[-1]],
            "no header": bytes(HEAD_BYTES) + raw[HEAD_BYTES:],
        }[damage]
    )
    assert findings(packed)
    assert findings(packed, quick=True)
    assert evlog.repair_store(packed.path).report.ok
    assert path.read_bytes() == raw
    assert [name for name in read_files(packed.path) if name.endswith(".tmp")] == []


def test_a_damaged_block_is_not_repaired_away(packed: EventStore) -> None:
    path = segment_files(packed, "log.zst")[1]
    damaged = flip(flip(path.read_bytes(), 90), 3)
    path.write_bytes(damaged)
    report = evlog.repair_store(packed.path)
    assert not report.report.ok
    assert path.read_bytes() == damaged


def lost_by(packed: EventStore, place: int, low: int, high: int) -> set[int]:
    """Return the positions whose records have bytes in a range of the log, by the entries."""
    info = read_manifest(packed.path).segments[place]
    raw = segment_files(packed, "offsets")[place].read_bytes()[FILE_HEADER_BYTES:]
    return {
        info.first_position + number
        for number, row in enumerate(ENTRY.iter_unpack(raw))
        if row[2] < high and low < row[2] + row[3]
    }


def salvage_facts(packed: EventStore) -> tuple[list[Fact], set[int]]:
    """Return what is in a salvaged store, and the positions that the report names as lost."""
    with recordings.scratch() as root:
        report = evlog.salvage_store(packed.path, f"{root}/out")
        losses: set[int] = set()
        for loss in report.losses:
            assert loss.last_position - loss.first_position + 1 == loss.events
            losses.update(range(loss.first_position, loss.last_position + 1))
        assert evlog.verify_store(f"{root}/out").ok
        with evlog.open(f"{root}/out") as store:
            assert store.info().compressed_segments == 0
            return facts(store.read_all()), losses


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("table", ["sound", "damaged header"])
def test_salvage_keeps_all_but_the_records_in_a_damaged_block(
    packed: EventStore, place: int, table: str
) -> None:
    path = segment_files(packed, "log.zst")[place]
    raw = path.read_bytes()
    shape = table_of(raw)
    for number in range(shape.blocks):
        damaged = flip(raw, shape.offsets[number] + 9)
        path.write_bytes(damaged if table == "sound" else flip(damaged, 20))
        lost = lost_by(packed, place, number * BLOCK, (number + 1) * BLOCK)
        found, losses = salvage_facts(packed)
        assert losses == lost, number
        assert found == [fact for fact in ALL if fact[0] not in lost], number


@pytest.mark.parametrize("place", [0, 1])
def test_every_truncation_is_found_and_salvaged_up_to_there(packed: EventStore, place: int) -> None:
    path = segment_files(packed, "log.zst")[place]
    raw = path.read_bytes()
    shape = table_of(raw)
    for length in range(0, len(raw), 5):
        path.write_bytes(raw[:length])
        assert ("length", "0.log.zst") in findings(packed), length
        assert ("length", "0.log.zst") in findings(packed, quick=True), length
        read = readable(packed)
        assert read == ALL[: 8 * place], length
        whole = sum(end <= length for end in shape.offsets[1:])
        lost = (
            lost_by(packed, place, whole * BLOCK, shape.log_bytes)
            if length
            else lost_by(packed, place, 0, 9**9)
        )
        found, losses = salvage_facts(packed)
        assert losses == lost, length
        assert found == [fact for fact in ALL if fact[0] not in lost], length


def test_a_missing_file_is_lost_and_named(packed: EventStore) -> None:
    segment_files(packed, "log.zst")[0].unlink()
    assert ("missing", "0.log.zst") in findings(packed)
    assert ("missing", "0.log.zst") in findings(packed, quick=True)
    found, losses = salvage_facts(packed)
    assert losses == set(range(1, 9))
    assert found == ALL[8:]


def test_files_that_were_swapped_are_found(packed: EventStore) -> None:
    first, second = segment_files(packed, "log.zst")
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    found = evlog.verify_store(packed.path).findings
    files = {f"segments/{first.name}", f"segments/{second.name}"}
    assert {finding.file for finding in found if finding.kind == "header"} == files
    assert readable(packed) == []


@pytest.mark.parametrize("damage", ["none", "header", "no table"])
def test_a_store_without_a_manifest_is_salvaged_whole(packed: EventStore, damage: str) -> None:
    os.unlink(f"{packed.path}/manifest.json")
    path = segment_files(packed, "log.zst")[0]
    raw = path.read_bytes()
    if damage == "header":
        path.write_bytes(flip(raw, 30))
    if damage == "no table":
        path.write_bytes(raw[: table_of(raw).offsets[-1]])
    assert salvage_facts(packed) == (ALL, set())


def test_a_log_that_is_damaged_inside_sound_blocks_is_found(
    packed: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A faulty program may compress a damaged log: the CRCs of frames and records still find the damage."""
    from evlog.files.compaction import compress as compact_compress

    store = evlog.open(packed.path)
    store.append_many([("s-0", [new(n) for n in range(12)])])
    path = segment_files(store, "log")[0]
    raw = path.read_bytes()
    path.write_bytes(flip(raw, len(raw) - 3))
    monkeypatch.setattr(compact_compress, "_check_frames", lambda _: None)
    store.compact(compress=True)
    store.close()
    finding = evlog.verify_store(packed.path).findings[0]
    assert (finding.kind, finding.file) == ("frame", f"segments/{path.name}.zst")
    assert "`zstd -d`" in finding.detail
    with evlog.open(packed.path) as reader, pytest.raises(evlog.CorruptionError):
        list(reader.read_all())


# --- any bytes


@pytest.fixture(scope="module")
def root() -> Iterator[str]:
    with recordings.scratch() as directory:
        yield directory


def look(root: str, raw: bytes, log_bytes: int = 500) -> CheckedLog:
    path = f"{root}/log.zst"
    Path(path).write_bytes(raw)
    return CheckedLog(Container(path, "log.zst", None, log_bytes, len(raw)))


@given(st.binary(max_size=400), st.integers(0, 3))
def test_any_bytes_are_looked_at_without_harm(root: str, raw: bytes, begun: int) -> None:
    """No content of a file makes a check crash, and nothing that fails a check is returned."""
    import zstandard

    block = zstandard.ZstdCompressor(write_checksum=True).compress(b"a" * 250)
    log = look(root, (bytes(HEAD_BYTES) + block * begun)[: HEAD_BYTES + len(block) * begun] + raw)
    content = log.read(1000, 0)
    assert set(content) <= {0, ord("a")}
    assert len(content) == log.size()
    assert log.findings


def test_blocks_are_found_by_their_structure_only_as_far_as_they_are_whole(root: str) -> None:
    import zstandard

    compressor = zstandard.ZstdCompressor(write_checksum=True)
    blocks = [compressor.compress(bytes([number]) * 200) for number in (1, 2, 3)]
    ends = list(accumulate(map(len, blocks), initial=HEAD_BYTES))
    raw = bytes(HEAD_BYTES) + b"".join(blocks)
    for whole in range(4):
        log = look(root, raw[: ends[whole]], 600)
        wanted = b"".join(bytes([number]) * 200 for number in (1, 2, 3)[:whole])
        assert log.read(600, 0) == wanted.ljust(600, b"\0")
