"""Reading compressed logs: the same bytes, only those that are asked for, and nothing that fails a check."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from zlib import crc32

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

import evlog
from evlog import EventStore, NewEvent
from evlog.errors import CorruptionError, NotAStore, UnsupportedFormat
from evlog.files.disk import zstd
from evlog.files.disk.zstd import BlockFault, pack, require_zstandard
from evlog.files.format.headers import KIND_LOG, FileHeader
from evlog.files.format.manifest import SegmentInfo
from evlog.files.format.seek_table import (
    HEAD_BYTES,
    decode_tail,
    encode_head,
    encode_tail,
    make_table,
    tail_bytes,
)
from evlog.files.log import compressed
from evlog.files.log.compressed import BlockLog
from evlog.testing.base import in_threads
from tests.crash.damage import newer_header
from tests.support.helpers import compress_all, facts, fill, new, number_id, segment_files, small_store


def block_log(content: bytes, block_bytes: int) -> BlockLog:
    """Return the content as a compressed log in memory."""
    require_zstandard("")
    blocks = [pack(content[at : at + block_bytes]) for at in range(0, len(content), block_bytes)]
    table = make_table(block_bytes, len(content), list(map(len, blocks)), list(map(crc32, blocks)))
    raw = bytes(HEAD_BYTES) + b"".join(blocks) + encode_tail(table)
    return BlockLog("memory", raw, decode_tail(raw[-tail_bytes(len(blocks)) :], len(raw)))


@given(
    st.binary(min_size=1, max_size=300),
    st.integers(1, 70),
    st.lists(st.tuples(st.integers(0, 310), st.integers(0, 310)), max_size=20),
)
def test_a_read_gives_what_stands_there(
    content: bytes, block_bytes: int, places: list[tuple[int, int]]
) -> None:
    log = block_log(content, block_bytes)
    assert log.size() == len(content)
    wanted = [content[offset : offset + length] for offset, length in places]
    assert [log[offset : offset + length] for offset, length in places] == wanted
    assert [log.read(length, offset) for offset, length in places] == wanted
    for offset, length in places:
        window, at = log.window(offset, length)
        assert window[offset - at : offset - at + length] == content[offset : offset + length]


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_log_may_end_at_a_blocks_border_or_beside_it(blocks: int, more: int) -> None:
    content = bytes(range(200)) * 2
    size = blocks * 100 + more
    log = block_log(content[:size], 100)
    assert log.read(1000, 0) == content[:size]
    assert log.read(1, size - 1) == content[size - 1 : size]
    assert log.read(1, size) == log.read(0, size) == b""


def note_unpacked(log: BlockLog, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which the number of each block is added that is unpacked from now on."""
    unpacked: list[int] = []
    unpack = log._unpack

    def note(number: int) -> bytes:
        unpacked.append(number)
        return unpack(number)

    monkeypatch.setattr(log, "_unpack", note)
    return unpacked


def test_only_the_blocks_that_a_read_touches_are_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    log = block_log(bytes(1000), 10)
    unpacked = note_unpacked(log, monkeypatch)
    assert [log[505:508], log[503:508], log[18:22]] == [bytes(3), bytes(5), bytes(4)]
    assert unpacked == [50, 1, 2]
    log.read(3, 505)
    assert unpacked == [50, 1, 2]


def test_so_many_blocks_stay_in_memory_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "_CACHE_BYTES", 500)
    logs = [block_log(bytes(4000), 10) for _ in range(2)]
    for log in (*logs, logs[0]):
        for at in range(0, 4000, 10):
            log.read(5, at)
            assert sum(len(log._blocks) for log in logs) <= 50
        assert 399 in log._blocks
        assert sum(len(log._blocks) for log in logs) == 50


def test_scan_leaves_what_was_looked_up_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    log = block_log(bytes(4000), 10)
    log.read(5, 1230)
    unpacked = note_unpacked(log, monkeypatch)
    for at in range(0, 4000, 25):
        log.window(at, 30)
    assert sorted(unpacked) == [number for number in range(400) if number != 123]
    assert list(log._blocks) == [123]


def test_threads_may_read_one_log() -> None:
    content = bytes(range(256)) * 400
    log = block_log(content, 100)
    wrong: list[int] = []

    def read(seed: int) -> None:
        places = range(seed, len(content) - 300, 997)
        wrong.extend(at for at in places if log.read(250, at) != content[at : at + 250])

    in_threads(partial(read, seed) for seed in range(8))
    assert not wrong


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(zstandard.compress(bytes(1 << 28)), id="far too large"),
        pytest.param(zstandard.compress(bytes(99)), id="too small"),
        pytest.param(zstandard.compress(bytes(100)) + b"x", id="bytes behind it"),
        pytest.param(zstandard.compress(bytes(100)) * 2, id="two blocks"),
        pytest.param(zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100)), id="no size"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x28\xb5\x2f\xfd\x20\x64" + bytes(30), id="junk"),
    ],
)
def test_a_block_that_is_not_what_it_must_be_is_damage_though_its_crc_holds(block: bytes) -> None:
    table = make_table(100, 100, [len(block)], [crc32(block)])
    log = BlockLog("memory", bytes(HEAD_BYTES) + block, table)
    with pytest.raises(CorruptionError) as raised:
        log.read(10, 0)
    assert (raised.value.path, raised.value.offset) == ("memory", HEAD_BYTES)


def test_a_block_that_fails_its_crc_is_not_unpacked() -> None:
    block = zstandard.compress(bytes(100))
    log = BlockLog(
        "memory", bytes(HEAD_BYTES) + block, make_table(100, 100, [len(block)], [crc32(block) ^ 1])
    )
    with pytest.raises(CorruptionError, match="CRC"):
        log.read(10, 0)


def test_nothing_is_allocated_for_a_block_that_says_a_wrong_size(monkeypatch: pytest.MonkeyPatch) -> None:
    require_zstandard("")
    monkeypatch.setattr(zstd._local, "unpacker", None)  # any use of it would fail
    for size in (0, 99, 101, 1 << 40):
        header = zstandard.compress(bytes(100))[:4] + bytes([0xE0]) + size.to_bytes(8, "little")
        with pytest.raises(BlockFault):
            zstd.unpack(header + b"\1\0\0", 100)


# --- a store


@pytest.fixture(params=[64, 1 << 14])
def pair(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> tuple[EventStore, EventStore]:
    """Single events, batches larger than a block, one large event: in a plain and a compressed store."""
    compress_all(monkeypatch, request.param)
    stores = []
    for name in ("plain", "compressed"):
        with small_store(memory_path / name, segment_events=50) as store:
            fill(store, 70)
            for first in (1000, 2000):
                batch = [new(first + n, f"T{n % 3}", id=number_id(first + n)) for n in range(40)]
                store.append_many([("s-1", batch), ("b-2", [new(first + 50, id=number_id(first + 50))])])
            store.append("large", [NewEvent("L", "y" * 40_000, id=number_id(5000))])
            fill_more = [new(n, id=number_id(n)) for n in range(6000, 6060)]
            store.append("s-2", fill_more)
            if name == "compressed":
                store.compact(compress=True)
            stores.append(evlog.open(store.path))
    return stores[0], stores[1]


def test_a_compressed_store_reads_as_the_plain_one(pair: tuple[EventStore, EventStore]) -> None:
    plain, packed = pair
    assert packed.info().compressed_segments == packed.info().segments - 1 > 2
    assert not segment_files(packed, "log")[:-1]
    assert facts(packed.read_all()) == facts(plain.read_all())
    assert facts(packed.read_all(reverse=True)) == facts(plain.read_all(reverse=True))
    for stream in ("s-0", "s-1", "s-2", "b-2", "large", "none"):
        assert facts(packed.read(stream)) == facts(plain.read(stream))
        assert facts(packed.read(stream, reverse=True)) == facts(plain.read(stream, reverse=True))
        assert packed.stream_version(stream) == plain.stream_version(stream)
    for after in range(0, 215, 7):
        assert facts(packed.read_all(after, after + 9)) == facts(plain.read_all(after, after + 9))
    assert facts(packed.read_all(types={"T2"})) == facts(plain.read_all(types={"T2"}))
    assert [s._replace(last_time_us=0) for s in packed.streams()] == [
        s._replace(last_time_us=0) for s in plain.streams()
    ]


def test_ids_in_a_compressed_segment_are_known(pair: tuple[EventStore, EventStore]) -> None:
    _, packed = pair
    result = packed.append("s-1", [new(4, "T0", id=number_id(4))])
    assert (result.duplicate, result.first_position) == (True, 5)
    with pytest.raises(evlog.IdConflict):
        packed.append("s-1", [new(99, "T0", id=number_id(4))])


def test_indexes_that_are_lost_are_made_of_the_compressed_log(pair: tuple[EventStore, EventStore]) -> None:
    plain, packed = pair
    for suffix in ("offsets", "streams", "types", "ids"):
        for path in segment_files(packed, suffix)[:3]:
            path.unlink()
    with evlog.open(packed.path) as other:
        assert facts(other.read("s-1")) == facts(plain.read("s-1"))
        assert facts(other.read_all()) == facts(plain.read_all())
        assert other.append("s-1", [new()]).first_position == plain.head + 1
    assert evlog.repair_store(packed.path).report.ok


def test_a_file_that_is_not_that_log_is_told_apart(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compress_all(monkeypatch, 256)
    with small_store(memory_path / "store") as store, small_store(memory_path / "other") as other:
        for each in (store, other):
            fill(each, 30)
            each.compact(compress=True)
    first, second = segment_files(store, "log.zst")[:2]
    raw = first.read_bytes()
    damages: list[tuple[bytes, type[Exception]]] = [
        (segment_files(other, "log.zst")[0].read_bytes(), NotAStore),
        (second.read_bytes(), CorruptionError),
        (raw[:-1], CorruptionError),
        (raw + b"\0", CorruptionError),
        (b"", CorruptionError),
        (bytes(len(raw)), CorruptionError),
        (raw[:8] + newer_header(raw[8:]), UnsupportedFormat),
    ]
    for content, error in damages:
        padded = content.ljust(len(raw), b"\0") if error is not CorruptionError else content
        first.write_bytes(padded[: len(raw)] if error is NotAStore else padded)
        with evlog.open(store.path) as reader, pytest.raises(error):
            list(reader.read_all())


def test_tables_that_contradict_the_header_are_damage(tmp_path: Path) -> None:
    """Each is sound by itself, so that only a program can have written it."""
    header = FileHeader(KIND_LOG, 0, bytes(16), 1, 7)
    tail = encode_tail(make_table(100, 100, [20], [1]))
    raw = encode_head(header, 50, 1, tail) + bytes(20) + tail
    path = tmp_path / "log.zst"
    path.write_bytes(raw)
    info = SegmentInfo(1, 0, 7, 1, 1, 100, compressed_bytes=len(raw))
    with pytest.raises(CorruptionError, match="table"):
        compressed.open_blocks(str(path), header, info)
