"""The byte specification: its own worked example, exact bytes both ways, and what may never parse."""

from __future__ import annotations

import re
import struct
import tracemalloc
from array import array
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Self
from zlib import crc32

import msgpack
import msgspec  # noqa: F401 - used by `encode_records` where it is imported already
import pytest
from hypothesis import given
from hypothesis import strategies as st

import evlog
from evlog.errors import CorruptionError, UnsupportedFormat
from evlog.files.format import frames
from evlog.files.format.entries import (
    body_crc,
    column,
    column_array,
    count_tagged,
    derive_entries,
    encode_entries,
    pack_entries,
    with_columns,
)
from evlog.files.format.frames import (
    FrameHeader,
    array_head,
    body_size,
    category_head,
    check_body,
    decode_body,
    decode_frame_header,
    decode_record,
    encode_body,
    encode_frame,
    encode_frame_header,
    encode_records,
    pack_records,
    preallocation_after,
)
from evlog.files.format.hashes import (
    hash_ids,
    hash_stream,
    hash_tag,
    hash_tags,
    hash_type,
    maybe_tag_bits,
    tag_bits,
)
from evlog.files.format.headers import (
    KIND_IDS,
    KIND_LOG,
    KIND_STREAMS,
    FileHeader,
    FormatFault,
    NewerFormat,
    decode_file_header,
    encode_file_header,
)
from evlog.files.format.manifest import decode_manifest
from evlog.files.format.marks import DURABLE_MAGIC, WRITTEN_MAGIC, Mark, encode_mark, maybe_decode_mark
from evlog.files.format.sorted_index import encode_sorted, page_crcs, sort_ids, sorted_shape
from evlog.model.events import EncodedEvents
from tests.support.helpers import engine_of, fill, numbers, segment_files, small_store

STORE_ID = bytes(range(16))

FILE_HEADERS = [
    (
        FileHeader(KIND_LOG, 0, STORE_ID, 1, 7),
        (
            "8965766c 6f670d0a 01000100 00000000 00010203 04050607 08090a0b 0c0d0e0f 01000000 00000000"
            "07000000 00000000 00000000 00000000 00000000 eace60f9"
        ),
    ),
    (
        FileHeader(KIND_IDS, 2, STORE_ID, 2**40 + 1, 0xDEADBEEF, 3, 4, 0x01020304),
        (
            "8965766c 6f670d0a 01000500 02000000 00010203 04050607 08090a0b 0c0d0e0f 01000000 00010000"
            "efbeadde 03000000 04000000 04030201 00000000 26385ed8"
        ),
    ),
]
NEWER_FILE_HEADER = bytes.fromhex(
    "8965766c 6f670d0a 02000100 00000000 00010203 04050607 08090a0b 0c0d0e0f 01000000 00000000"
    "07000000 00000000 00000000 00000000 00000000 fdca3543"
)
FRAME_HEADERS = [  # header, its offset, bytes
    (
        FrameHeader(33, 1, 64, 1, 0x0D637B76, 0x24A9E41D, 7),
        64,
        "e5455646 21000000 01000000 40000000 01000000 00000000 767b630d 1de4a924 07000000 b7293896",
    ),
    (
        FrameHeader(2**30, 2**30, 2**32 - 1, 2**64 - 1, 2**32 - 1, 0, 1),
        2**33,
        "e5455646 00000040 00000040 ffffffff ffffffff ffffffff ffffffff 00000000 01000000 1e306304",
    ),
]
MARKS = [
    (
        WRITTEN_MAGIC,
        Mark(7, 64),
        (
            "65765752 07000000 40000000 00000000 00000000 00000000 00000000 00000000 "
            "ffffffff ffffffff ffffffff ffffffff abbea2fa"
        ),
    ),
    (
        WRITTEN_MAGIC,
        Mark(0xDEADBEEF, 2**32 - 1, 262_144, 2**32 - 1, 1_700_000_000_000_000, 0x01020304, bytes(range(16))),
        (
            "65765752 efbeadde ffffffff 00000400 ffffffff 00401e18 240a0600 04030201 "
            "00010203 04050607 08090a0b 0c0d0e0f 70ed7d01"
        ),
    ),
    (
        DURABLE_MAGIC,
        Mark(7, 64),
        (
            "65764455 07000000 40000000 00000000 00000000 00000000 00000000 00000000 "
            "ffffffff ffffffff ffffffff ffffffff 4c67a537"
        ),
    ),
]


# --- exact bytes


@pytest.mark.exact_hashes
def test_worked_example_of_the_specification_is_what_encode_gives() -> None:
    assert frames.__doc__ is not None
    example = re.search(r"Worked example:.*?\n\n((?: {4}[0-9a-f ]+\n)+)", frames.__doc__, re.DOTALL)
    assert example is not None
    written = bytes.fromhex(example[1])
    event = ("T", bytes(range(16)), 0, b"{}", None)
    records = encode_records([event], [bytes(range(16))], ["a"], [1], 1, 1)
    body = encode_body(records)
    hashes, folds = [hash_stream("a")], hash_ids([bytes(range(16))])
    rows = encode_entries(records, 64, hashes, folds, [1], [hash_type("T")])
    header = FrameHeader(len(body), 1, 64, 1, crc32(rows), crc32(body), 7)
    assert encode_frame_header(header, 64) + body == written
    assert decode_frame_header(written, 0, 64, 7) == header
    assert decode_body(header, written[40:]) == ((1, 1, "a", "T", bytes(range(16)), 1, 0, b"{}", None),)
    assert derive_entries(header, 64, written[40:]) == rows


@pytest.mark.parametrize(("header", "hexed"), FILE_HEADERS)
def test_file_header_is_these_bytes(header: FileHeader, hexed: str) -> None:
    assert encode_file_header(header).hex() == hexed.replace(" ", "")
    assert decode_file_header(bytes.fromhex(hexed)) == header


@pytest.mark.parametrize(("header", "offset", "hexed"), FRAME_HEADERS)
def test_frame_header_is_these_bytes(header: FrameHeader, offset: int, hexed: str) -> None:
    assert encode_frame_header(header, offset).hex() == hexed.replace(" ", "")
    assert decode_frame_header(bytes.fromhex(hexed), 0, offset, header.tag) == header
    assert decode_frame_header(b"before" + bytes.fromhex(hexed), 6, offset, header.tag) == header


@pytest.mark.parametrize(("magic", "mark", "hexed"), MARKS)
def test_mark_is_these_bytes(magic: bytes, mark: Mark, hexed: str) -> None:
    assert encode_mark(magic, mark).hex() == hexed.replace(" ", "")
    assert maybe_decode_mark(magic, bytes.fromhex(hexed)) == mark


@pytest.mark.exact_hashes
@pytest.mark.parametrize(
    ("text", "hexed"),
    [("a", "f4e169f8eec93f52"), ("order-42", "b24bfec91b02dcf0"), ("caf\u00e9", "394e4c194e07f4df")],
)
def test_stream_hash_is_blake2b_of_category_and_name_little_endian(text: str, hexed: str) -> None:
    assert hash_stream(text).to_bytes(8, "little").hex() == hexed


@pytest.mark.exact_hashes
def test_type_hash_is_crc32() -> None:
    assert [hash_type(type) for type in ("T", "OrderPaid")] == [0xBE047A60, 0xD17DD03F]


@pytest.mark.exact_hashes
def test_id_hash_is_crc32() -> None:
    assert hash_ids([]).tolist() == []
    ids = [bytes(range(16)), bytes(16), bytes(15) + b"\1"]
    assert hash_ids(ids).tolist() == list(map(crc32, ids))


@pytest.mark.exact_hashes
def test_tags_have_four_bits_each_of_their_hash() -> None:
    assert hash_tag("course:c1") == 13849078617631173195
    assert tag_bits([]) == 0
    assert tag_bits([0, 1 | 2 << 5 | 3 << 10 | 31 << 15 | 1 << 20]) == 1 | 0b1110 | 1 << 31
    metadatas = [None, b'{"$tags":["course:c1"],"a":1}', b"{}", b'{"$tags":["course:c1","x"]}']
    hashes = [hash_tag("course:c1"), hash_tag("x")]
    assert hash_tags(metadatas[3]) == hashes
    assert maybe_tag_bits(metadatas) == [0, tag_bits(hashes[:1]), 0, tag_bits(hashes)]
    assert maybe_tag_bits([None, b'{"a":1}']) is None
    with pytest.raises(ValueError, match="tags"):
        maybe_tag_bits([b'{"$tags":[1]}'])


@pytest.mark.exact_hashes
@pytest.mark.parametrize("varying", [4, 5, 6, 7, 8, 12, 15])
def test_ids_that_differ_in_a_few_bytes_have_different_hashes(varying: int) -> None:
    """Counters, UUIDv1 and padded ObjectIds: also where the same bytes vary in both halves."""
    ids = []
    for number in range(5000):
        id = bytearray(16)
        id[varying - 1 : varying + 1] = number.to_bytes(2, "big")
        id[(varying + 7) % 15 : (varying + 7) % 15 + 2] = number.to_bytes(2, "big")
        ids.append(bytes(id[:16]))
    assert len(set(hash_ids(ids))) == len(set(ids))


@given(st.integers(0, 1 << 17))
def test_array_head_is_that_of_msgpack(count: int) -> None:
    assert array_head(count) == msgpack.Packer().pack_array_header(count)


def test_entry_has_its_fields_where_the_specification_says() -> None:
    records = [b"abc", b"defgh"]
    rows = encode_entries(records, 64, [1, 2**64 - 1], [3, 2**31], [7, 2**32 - 1], [9, 0], [6, 0])
    crcs = [crc32(b"\x92"), crc32(b"\x92abc"), crc32(b"\x92abcdefgh")]
    assert [struct.unpack("<QIIIIIIIIII", rows[at : at + 48]) for at in (0, 48)] == [
        (1, 6, 3, 105, 3, crcs[0], crcs[1], 64, 7, 9, 0),
        (2**64 - 1, 0, 2**31, 108, 5, crcs[1], crcs[2], 64, 2**32 - 1, 0, 0),
    ]
    assert body_crc(rows) == crcs[2] == crc32(encode_body(records))
    one = encode_entries(records[:1], 64, [1], [3], [7], [9], [6])
    assert one == rows[:24] + struct.pack("<II", crc32(b"\x91"), crc32(b"\x91abc")) + rows[32:48]
    assert body_crc(one) == crc32(encode_body(records[:1]))
    assert count_tagged(rows) == 1
    assert column(rows, "tags") == [6, 0]
    assert column(rows, "stream_hash") == [1, 2**64 - 1]
    assert column(rows, "id_hash") == [3, 2**31]
    assert column(rows, "offset") == [105, 108]
    assert column(rows, "length") == [3, 5]
    assert column(rows, "frame") == [64, 64]
    assert column(rows, "version") == [7, 2**32 - 1]
    assert column(rows, "type_hash") == [9, 0]


def test_sorted_index_is_laid_out_as_the_specification_says() -> None:
    header = FileHeader(KIND_STREAMS, 0, STORE_ID, 1, 7, 0, 0, 5)
    content = encode_sorted(header, array("Q", [10, 20]), array("I", [0, 2, 3]), array("I", [0, 2, 1]))
    middle = struct.pack("<QQ IIIIII".replace(" ", ""), 10, 20, 0, 2, 3, 0, 2, 1)
    assert content[:64] == encode_file_header(header._replace(keys=2, postings=3))
    assert content[64:] == middle + struct.pack("<I", crc32(middle))
    shape = sorted_shape(KIND_STREAMS, 2, 3)
    assert shape == (64, 80, 92, 104, len(content))


@pytest.mark.parametrize(
    "hashes",
    [
        [],
        [7],
        [0, 0xFFFFFFFF, 1, 0xFFFFFFFE, 0, 0xFFFFFFFF],
        [0x7FF00000, 0xFFF80001, 0x80000000, 0x7FFFFFFF, 0x3FF, 0xFFC00000, 0x00000003, 0x00100000],
        [5] * 300 + [4] * 300,
        [crc32(b"%d" % number) for number in range(5000)],
    ],
)
def test_id_hashes_are_sorted_with_rising_numbers(hashes: list[int]) -> None:
    zeros = array("I", bytes(4 * len(hashes)))
    streams = array("Q", bytes(8 * len(hashes)))
    entries = pack_entries(streams, array("I", hashes), *[zeros] * 7)
    order = sorted(range(len(hashes)), key=lambda number: (hashes[number], number))
    keys, postings = sort_ids(entries)
    assert (list(keys), list(postings)) == ([hashes[number] for number in order], order)


def test_sorted_index_has_a_crc_for_every_page() -> None:
    shape = sorted_shape(KIND_IDS, 1000, 1000)
    assert shape == (64, 64 + 4000, 64 + 4000, 64 + 8000, 64 + 8000 + 8)
    crcs = struct.unpack("<III", page_crcs(bytes(4096) + bytes(4096) + b"x"))
    assert crcs == (crc32(bytes(4096)), crc32(bytes(4096)), crc32(b"x"))


# --- round trips

names = st.text(min_size=1, max_size=20)
events = st.tuples(
    names, st.none(), st.integers(0, 2), st.binary(max_size=200), st.none() | st.just(b'{"a":1}')
)


@given(
    st.lists(st.tuples(names, events), min_size=1, max_size=40), st.integers(1, 2**40), st.integers(0, 2**62)
)
def test_frame_decodes_to_the_events_that_were_encoded(
    batch: list[tuple[str, tuple[str, None, int, bytes, bytes | None]]], first: int, time_us: int
) -> None:
    streams = [stream for stream, _ in batch]
    encoded = [event for _, event in batch]
    ids = [number.to_bytes(16, "big") for number in range(len(batch))]
    versions = list(range(1, len(batch) + 1))
    records = encode_records(encoded, ids, streams, versions, first, time_us)
    body = encode_body(records)
    assert body == msgpack.packb([msgpack.unpackb(record) for record in records])
    header = FrameHeader(body_size(records), len(batch), 0, first, 0, crc32(body), 7)
    assert encode_frame(header, 500, records) == encode_frame_header(header, 500) + body
    decoded = decode_body(header, body)
    assert [decode_record(record) for record in records] == list(decoded)
    for number, record in enumerate(decoded):
        type, _, code, data, metadata = encoded[number]
        expected = (
            first + number,
            number + 1,
            streams[number],
            type,
            ids[number],
            time_us,
            code,
            data,
            metadata,
        )
        assert record == expected
    rows = encode_entries(
        records,
        500,
        [hash_stream(stream) for stream in streams],
        hash_ids(ids),
        versions,
        [hash_type(event[0]) for event in encoded],
    )
    assert derive_entries(header, 500, body) == rows


class Text(str):
    """A text that msgspec refuses."""

    __slots__ = ()


class Upper(str, Enum):  # noqa: UP042 - one whose text is not its value, which msgspec would encode
    A = "a"

    def __new__(cls, value: str) -> Self:
        made = str.__new__(cls, value.upper())
        made._value_ = value
        return made


@pytest.mark.parametrize("odd", ["x", Text("y"), Upper.A], ids=["plain", "subclass", "enum"])
def test_records_of_a_bulk_load_have_the_bytes_of_any_others(odd: str) -> None:
    sizes = [0, 1, 31, 32, 200, 255, 256, 65_535, 65_536]
    types = ["T", *("t" * size for size in sizes[1:6]), "é" * 100, "T", odd]
    datas: list[bytes] = [b"1" * size for size in sizes]
    ids = [number.to_bytes(16, "big") for number in range(9)]
    streams = ["s", "s" * 31, "s" * 32, "s", odd, "s" * 255, "é", "s", "s"]
    versions = [1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 3]
    columns = EncodedEvents(types, ids, [0] * 9, datas, [None] * 9)
    for first, time_us in ((1, 0), (250, 1), (2**32 - 4, 2**62), (2**63, 2**40)):
        rest = ids, streams, versions, first, time_us
        assert encode_records(columns, *rest) == encode_records(list(columns), *rest)


# --- what may never parse


def test_zeros_never_parse() -> None:
    for length in (*range(200), 4096, 1 << 20):
        zeros = bytes(length)
        with pytest.raises(FormatFault):
            decode_file_header(zeros)
        with pytest.raises(FormatFault):
            decode_frame_header(zeros, 0, 0, 0)
        with pytest.raises(FormatFault):
            decode_manifest(zeros)
        for magic in (WRITTEN_MAGIC, DURABLE_MAGIC):
            assert maybe_decode_mark(magic, zeros) is None


@pytest.mark.parametrize("kept", range(0, 40, 4))
def test_torn_frame_header_never_parses(kept: int) -> None:
    whole = bytes.fromhex(FRAME_HEADERS[0][2])
    for torn in (whole[:kept] + bytes(40 - kept), bytes(40 - kept) + whole[40 - kept :]):
        if torn != whole:
            with pytest.raises(FormatFault):
                decode_frame_header(torn, 0, 64, 7)


def test_frame_is_one_only_at_its_own_offset_and_in_its_own_segment() -> None:
    header, offset, hexed = FRAME_HEADERS[0]
    raw = bytes.fromhex(hexed)
    for elsewhere in (0, 63, 65, 2**32 + 64):
        with pytest.raises(FormatFault):
            decode_frame_header(raw, 0, elsewhere, header.tag)
    with pytest.raises(FormatFault):
        decode_frame_header(raw, 0, offset, header.tag + 1)


@pytest.mark.parametrize(
    "change",
    [
        {"events": 0},
        {"events": 34},  # more events than bytes
        {"length": (1 << 30) + 1},
        {"durable": 65},  # synced beyond its own beginning
        {"length": 0, "events": 0},
    ],
)
def test_frame_header_that_makes_no_sense_is_refused_in_spite_of_its_crc(change: dict[str, int]) -> None:
    header = FRAME_HEADERS[0][0].replace(**change)
    with pytest.raises(FormatFault):
        decode_frame_header(encode_frame_header(header, 64), 0, 64, 7)


def test_newer_file_header_is_newer_and_a_damaged_newer_one_is_damaged() -> None:
    with pytest.raises(NewerFormat) as caught:
        decode_file_header(NEWER_FILE_HEADER)
    assert caught.value.found == 2
    for bit in range(64 * 8):
        flipped = bytearray(NEWER_FILE_HEADER)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatFault):
            decode_file_header(bytes(flipped))


def test_newer_log_is_unsupported_and_a_damaged_newer_log_is_corrupt(memory_path: Path) -> None:
    with small_store(memory_path / "store") as store:
        store.append("s", [evlog.NewEvent("T")])
        log = segment_files(store, "log")[0]
    header = bytearray(log.read_bytes()[:60])
    header[8] = 2
    newer = bytes(header) + struct.pack("<I", crc32(header))
    log.write_bytes(newer + log.read_bytes()[64:])
    with pytest.raises(UnsupportedFormat) as caught:
        evlog.open(memory_path / "store")
    assert (caught.value.path, caught.value.found, caught.value.supported) == (str(log), 2, 1)
    log.write_bytes(newer[:20] + bytes((newer[20] ^ 1,)) + newer[21:] + log.read_bytes()[64:])
    with pytest.raises(CorruptionError):
        evlog.open(memory_path / "store")


def test_body_with_a_flipped_bit_is_refused() -> None:
    body = msgpack.packb([[1, 1, "s", "T", bytes(16), 1, 0, b"{}", None]])
    header = FrameHeader(len(body), 1, 0, 1, 0, crc32(body), 7)
    check_body(header, body)
    for bit in range(8 * len(body)):
        flipped = bytearray(body)
        flipped[bit // 8] ^= 1 << bit % 8
        for check in (check_body, decode_body):
            with pytest.raises(FormatFault):
                check(header, bytes(flipped))
    with pytest.raises(FormatFault):
        check_body(header, body[:-1])


# --- bodies whose CRC is right, and which are something else

WRONG_BODIES = [
    None, 5, "x", b"x", {"a": 1}, {"a": [1] * 9}, [5], ["abcdefghi"], [[]], [[1] * 8], [[1] * 10], [None],
    [{}], [[1, 1, "s", "T", b"short", 1, 0, b"", None]], [[1, 1, 5, "T", bytes(16), 1, 0, b"", None]],
    [[1, 1, "s", None, bytes(16), 1, 0, b"", None]], [["1", 1, "s", "T", bytes(16), 1, 0, b"", None]],
    [[1, -1, "s", "T", bytes(16), 1, 0, b"", None]], [[2, 1, "s", "T", bytes(16), 1, 0, b"", None]],
    msgpack.ExtType(5, b"x"), [msgpack.Timestamp(1)],
]  # fmt: skip


@pytest.mark.parametrize("content", WRONG_BODIES, ids=repr)
def test_body_of_something_else_is_a_fault_in_spite_of_its_crc(content: object) -> None:
    body = msgpack.packb(content)
    header = FrameHeader(len(body), 1, 0, 1, 0, crc32(body), 7)
    with pytest.raises(FormatFault):
        derive_entries(header, 64, body)


@given(st.binary(min_size=1, max_size=60), st.integers(1, 20))
def test_arbitrary_body_with_a_right_crc_decodes_or_is_a_fault(body: bytes, count: int) -> None:
    header = FrameHeader(len(body), count, 0, 1, 0, crc32(body), 7)
    decoders: list[Callable[[], object]] = [
        lambda: decode_body(header, body),
        lambda: derive_entries(header, 64, body),
        lambda: decode_record(body),
    ]
    for decode in decoders:
        try:
            decode()
        except FormatFault:
            pass


def test_deep_nesting_is_a_fault() -> None:
    body = b"\x91" * 100_000
    header = FrameHeader(len(body), 1, 0, 1, 0, crc32(body), 7)
    with pytest.raises(FormatFault):
        decode_body(header, body)
    with pytest.raises(FormatFault):
        decode_record(body)


# --- preallocation


@pytest.mark.parametrize(
    ("end", "frame_bytes", "segment_bytes", "room"),
    [
        (264, 200, 1 << 26, 65536 - 264),
        (65536, 200, 1 << 26, 0),
        (65537, 200, 1 << 26, 65535),
        (40_000, 32_768, 1 << 26, 25_536),
        (40_000, 32_769, 1 << 26, 0),
        (264, 200, 1000, 736),
        (1000, 200, 1000, 0),
        (5000, 4936, 1, 0),
    ],
)
def test_room_ends_at_a_multiple_of_64_kib_or_with_the_segment(
    end: int, frame_bytes: int, segment_bytes: int, room: int
) -> None:
    assert preallocation_after(end, frame_bytes, segment_bytes) == room


# --- lengths are bounded


def test_header_that_claims_a_gigabyte_allocates_nothing(memory_path: Path) -> None:
    with small_store(memory_path / "store") as store:
        fill(store, 3)
        log = segment_files(store, "log")[0]
        tag = engine_of(store)._opened().active.segment.tag
    end = log.stat().st_size
    header = FrameHeader(1 << 30, 1 << 20, 64, 4, 0, 0, tag)
    with log.open("ab") as file:
        file.write(encode_frame_header(header, end) + b"x" * 100)
    tracemalloc.start()
    try:
        with evlog.open(memory_path / "store") as store:
            assert numbers(store.read_all()) == [0, 1, 2]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
    with pytest.raises(FormatFault):
        check_body(header, b"x" * 100)


@pytest.mark.parametrize("position", [1, 127, 128, 255, 256, 65_536, 1 << 32, (1 << 64) - 1])
@pytest.mark.parametrize("version", [1, 127, 128, 256, 65_536, (1 << 32) - 1])
def test_the_head_of_a_record_tells_its_category(position: int, version: int) -> None:
    begins, most_bytes = category_head("ör.er")
    inside = ["ör.er-1", "ör.er-" + "x" * 200, "ör.er-"]
    (right,) = pack_records([(1, 2, "ör.er-1", "T", bytes(16), 1, 0, b"{}", None)])
    right = right[:most_bytes]
    for stream in [*inside, "ör.er", "örxer-1", "a-ör.er-1", "ör.er1-1", "x" * 200]:
        (raw,) = pack_records([(position, version, stream, "T", bytes(16), 1, 0, b"{}", None)])
        piece = raw[:most_bytes]
        assert (begins.fullmatch(piece) is not None) == (stream in inside)
        assert (begins.fullmatch(right + piece + right) is not None) == (stream in inside)


def test_other_values_in_some_columns_leave_the_others_as_they_were() -> None:
    entries = bytes(range(96))
    lengths, hashes = array("I", (7, 1 << 31)), array("Q", (1, 1 << 63))
    changed = with_columns(entries, length=lengths, stream_hash=hashes)
    assert column(changed, "length") == lengths.tolist()
    assert column(changed, "stream_hash") == hashes.tolist()
    assert (
        with_columns(
            changed, length=column_array(entries, "length"), stream_hash=column_array(entries, "stream_hash")
        )
        == entries
    )
