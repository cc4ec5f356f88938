"""The bytes of format 1, held by committed files: they are read, written again, and flipped bit by bit."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import msgpack
import pytest

import evlog
from evlog.errors import CorruptionError, NotAStore
from evlog.files.format.entries import derive_entries
from evlog.files.format.frames import FRAME_HEADER_BYTES, check_body, decode_body, decode_frame_header
from evlog.files.format.headers import (
    KIND_IDS,
    KIND_STREAMS,
    KIND_TAGS,
    KIND_TYPES,
    FormatFault,
    decode_file_header,
)
from evlog.files.format.manifest import decode_manifest
from evlog.files.format.marks import DURABLE_MAGIC, MARK_BYTES, WRITTEN_MAGIC, Mark, maybe_decode_mark
from evlog.files.log.index import IndexFault, SortedIndex
from tests.golden.history import EVENTS, FILES, FIRST_US, STORE, TAGS, write
from tests.support.helpers import Clock, FixedRandom

if os.environ.get("EVLOG_TEST_HASH_BITS"):
    pytest.skip("the committed bytes hold whole hashes", allow_module_level=True)

SEALED, ACTIVE = "segments/00000000000000000001.0", "segments/00000000000000000005.0"
MANIFEST = decode_manifest((STORE / "manifest.json").read_bytes())
SEGMENT_TAGS = {SEALED: 3, ACTIVE: 5}


def raw(name: str) -> bytes:
    return (STORE / name).read_bytes()


def test_golden_store_has_every_kind_of_file() -> None:
    suffixes = {name.rpartition(".")[2] for name in FILES}
    assert suffixes == {
        "durable",
        "lock",
        "json",
        "log",
        "offsets",
        "streams",
        "types",
        "ids",
        "tags",
        "segments/filter",
    }


def test_golden_store_reads_back_as_what_was_written() -> None:
    with evlog.open(STORE) as store:
        found = [
            (
                event.position,
                event.version,
                event.stream,
                event.type,
                str(event.id),
                event.time_us - FIRST_US,
                event.content_type,
                event.data,
                event.metadata_bytes,
            )
            for event in store.read_all()
        ]
        assert found == EVENTS
        assert {event.position: event.tags for event in store.read_all() if event.tags} == TAGS
        assert [event.position for event in store.read_all(tags=["order:1"])] == [1, 2]
        assert [event.position for event in store.read("order-1")] == [1, 2, 7]
        assert [event.position for event in store.read_all(types=["OrderPlaced"])] == [1, 5, 6]
        assert store.id == UUID("018bcfe5-6800-7000-9011-121314151617")
        info = store.info()
        assert (info.events, info.streams, info.segments, info.format) == (7, 4, 2, 1)
        assert info.bytes == sum(len(raw(name)) for name in FILES)


def test_golden_store_can_be_appended_to(tmp_path: Path) -> None:
    shutil.copytree(STORE, tmp_path / "copy")
    with evlog.open(tmp_path / "copy") as store:
        placed = evlog.NewEvent("OrderPlaced", {"total": 30}, id=UUID(EVENTS[0][4]))
        again = store.append("order-1", [placed], expected=evlog.NO_STREAM)
        assert (again.duplicate, again.first_position) == (True, 1)
        result = store.append("order-1", [evlog.NewEvent("OrderClosed")], expected=3)
        assert (result.first_position, result.first_version) == (8, 4)


def test_same_events_make_the_same_bytes(tmp_path: Path, clock: Clock, fixed_random: FixedRandom) -> None:
    write(tmp_path / "again", clock, fixed_random).close()
    made = {
        str(path.relative_to(tmp_path / "again")): path.read_bytes()
        for path in (tmp_path / "again").rglob("*")
        if path.is_file()
    }
    assert sorted(made) == FILES
    for name in FILES:
        expected = padded(raw(name)) if name == ACTIVE + ".log" else raw(name)
        assert made[name] == expected, name


def padded(log: bytes) -> bytes:
    """Return a log with preallocated zeros after its last frame, as a small append leaves it."""
    return log.ljust(65536, b"\0")


def test_log_with_room_reads_and_goes_on_as_one_without(tmp_path: Path) -> None:
    shutil.copytree(STORE, tmp_path / "copy")
    log = tmp_path / "copy" / (ACTIVE + ".log")
    log.write_bytes(padded(log.read_bytes()))
    with evlog.open(tmp_path / "copy") as store, evlog.open(STORE) as golden:
        assert list(store.read_all()) == list(golden.read_all())
        assert store.append("order-1", [evlog.NewEvent("OrderClosed")], expected=3).first_position == 8
        assert store.torn_tails == []
    assert log.read_bytes().startswith(raw(ACTIVE + ".log") + b"\xe5EVF")
    assert len(log.read_bytes()) == 65536


# --- a reader of its own, made from the specification alone


def read_log(content: bytes) -> Iterator[tuple[Any, ...]]:
    """Yield every record of a log, in the dozen lines that the specification promises."""
    header = struct.unpack("<8sHHI16sQIIIIII", content[:64])
    assert header[0] == b"\x89evlog\r\n"
    assert header[-1] == zlib.crc32(content[:60])
    at = 64
    while content[at : at + 4] == b"\xe5EVF":
        frame = struct.unpack_from("<4sIIIQIIII", content, at)
        assert frame[8] == zlib.crc32(struct.pack("<Q", at) + content[at : at + 36])
        body = content[at + 40 : at + 40 + frame[1]]
        assert frame[6] == zlib.crc32(body)
        yield from msgpack.unpackb(body)
        at += 40 + frame[1]
    assert not content[at:].strip(b"\0")


@pytest.mark.parametrize("room", [0, 1, 50_000])
def test_a_dozen_lines_read_a_log(room: int) -> None:
    kinds = ("json", "text", "binary")
    found = [
        (p, v, stream, type, str(UUID(bytes=id)), time - FIRST_US, kinds[code], data, metadata or b"{}")
        for name in (SEALED, ACTIVE)
        for p, v, stream, type, id, time, code, data, metadata in read_log(raw(name + ".log") + bytes(room))
    ]
    assert [event[:8] for event in found] == [event[:8] for event in EVENTS]
    for event, expected in zip(found, EVENTS, strict=True):
        tags = {"$tags": list(TAGS[event[0]])} if event[0] in TAGS else {}
        assert json.loads(event[8]) == tags | json.loads(expected[8])
        assert event[8].startswith(b'{"$tags":["') == bool(tags)


def test_offsets_say_where_records_are_by_the_specification() -> None:
    for name in (SEALED, ACTIVE):
        log, offsets = raw(name + ".log"), raw(name + ".offsets")
        records = list(read_log(log))
        entries = list(struct.iter_unpack("<QIIIIIIIIII", offsets[64:]))
        assert len(entries) == len(records)
        for entry, record in zip(entries, records, strict=True):
            _, bits, id_hash, offset, length, before, after, frame, version, type_hash, zero = entry
            cut = log[offset : offset + length]
            assert msgpack.unpackb(cut) == record
            body = frame + 40
            assert (zlib.crc32(log[body:offset]), zlib.crc32(log[body : offset + length])) == (before, after)
            assert zero == 0
            assert log[frame : frame + 4] == b"\xe5EVF"
            assert frame < offset
            assert version == record[1]
            assert type_hash == zlib.crc32(str(record[3]).encode())
            assert id_hash == zlib.crc32(record[4])
            assert bits == bits_of(TAGS.get(record[0], ()))


def bits_of(tags: Sequence[str]) -> int:
    bits = 0
    for tag in tags:
        hash = int.from_bytes(hashlib.blake2b(tag.encode(), digest_size=8).digest(), "little")
        for _ in range(4):
            bits |= 1 << hash % 32
            hash //= 32
    return bits


# --- every flipped bit is found by what decodes it


def decode_log(content: bytes, tag: int) -> bytes:
    """Check a whole log; its entries."""
    header = decode_file_header(content)
    assert header.tag == tag
    at = 64
    entries = b""
    while at < len(content):
        frame = decode_frame_header(content, at, at, tag)
        body = content[at + FRAME_HEADER_BYTES : at + FRAME_HEADER_BYTES + frame.length]
        check_body(frame, body)
        decode_body(frame, body)
        entries += derive_entries(frame, at, body)
        if zlib.crc32(entries) != frame.index_crc:
            raise FormatFault("index CRC")
        at += FRAME_HEADER_BYTES + frame.length
    return entries


def check_log(prefix: str) -> Callable[[bytes, Path], object]:
    return lambda content, path: decode_log(content, SEGMENT_TAGS[prefix])


def check_offsets(prefix: str) -> Callable[[bytes, Path], object]:
    expected = zlib.crc32(decode_log(raw(prefix + ".log"), SEGMENT_TAGS[prefix]))

    def check(content: bytes, path: Path) -> None:
        decode_file_header(content)
        if zlib.crc32(content[64:]) != expected:
            raise FormatFault("entries")

    return check


def check_sorted(kind: int) -> Callable[[bytes, Path], object]:
    expected = decode_file_header(raw(SEALED + ".log"))._replace(
        kind=kind, source_crc=MANIFEST.segments[0].offsets_crc
    )

    def check(content: bytes, path: Path) -> None:
        path.write_bytes(content)
        SortedIndex(str(path), expected, 4).check_all()

    return check


CHECKS: dict[str, Callable[[bytes, Path], object]] = {
    SEALED + ".log": check_log(SEALED),
    ACTIVE + ".log": check_log(ACTIVE),
    SEALED + ".offsets": check_offsets(SEALED),
    ACTIVE + ".offsets": check_offsets(ACTIVE),
    SEALED + ".streams": check_sorted(KIND_STREAMS),
    SEALED + ".types": check_sorted(KIND_TYPES),
    SEALED + ".ids": check_sorted(KIND_IDS),
    SEALED + ".tags": check_sorted(KIND_TAGS),
    "manifest.json": lambda content, _: decode_manifest(content),
}


@pytest.mark.parametrize("name", CHECKS)
def test_every_flipped_bit_is_found(name: str, memory_path: Path) -> None:
    whole = raw(name)
    CHECKS[name](whole, memory_path / "file")
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((FormatFault, IndexFault, CorruptionError, NotAStore)):
            CHECKS[name](bytes(flipped), memory_path / "file")


@pytest.mark.parametrize("name", CHECKS)
def test_every_cut_is_found(name: str, memory_path: Path) -> None:
    whole = raw(name)
    ends = {64, *(offset for offset in range(65, len(whole)) if whole[offset : offset + 4] == b"\xe5EVF")}
    for length in range(len(whole)):
        if name.endswith(".log") and length in ends:
            continue  # a log cut between two frames is a log; that it should be longer others know
        with pytest.raises((FormatFault, IndexFault, CorruptionError, NotAStore)):
            CHECKS[name](whole[:length], memory_path / "file")


WRITTEN = Mark(
    SEGMENT_TAGS[ACTIVE],
    len(raw(ACTIVE + ".log")),
    3,
    0x496775AE,
    FIRST_US + 2_500_000,
    0x3355CEF3,
    bytes.fromhex("018bcfe571c4700098191a1b1c1d1e1f"),
)


@pytest.mark.parametrize(
    ("magic", "at", "mark"),
    [(WRITTEN_MAGIC, 0, WRITTEN), (DURABLE_MAGIC, 104, Mark(WRITTEN.tag, WRITTEN.offset))],
)
def test_every_flipped_bit_of_a_mark_makes_it_unknown(magic: bytes, at: int, mark: Mark) -> None:
    whole = raw("durable")[at : at + MARK_BYTES]
    assert maybe_decode_mark(magic, whole) == mark
    for bit in range(8 * MARK_BYTES):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        assert maybe_decode_mark(magic, bytes(flipped)) is None
