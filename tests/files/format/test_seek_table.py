"""The frame around the blocks: what is encoded is decoded, and nothing else is."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from zlib import crc32

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from evlog.files.format.headers import KIND_LOG, FileHeader, FormatFault, NewerFormat, encode_file_header
from evlog.files.format.seek_table import (
    HEAD_BYTES,
    MAX_BLOCK_BYTES,
    BlockTable,
    decode_head,
    decode_tail,
    encode_head,
    encode_tail,
    frame_end,
    log_header,
    make_table,
    tail_bytes,
)
from tests.crash.damage import flip, newer_header

HEADER = FileHeader(KIND_LOG, 3, bytes(range(16)), 17, 5)
SIZES, CRCS = [100, 90, 40], [1, 2, 0xFFFFFFFF]
TABLE = make_table(1000, 2500, SIZES, CRCS)
TAIL = encode_tail(TABLE)
FILE_BYTES = HEAD_BYTES + sum(SIZES) + len(TAIL)


def test_a_table_is_what_it_was_made_of() -> None:
    assert list(TABLE.offsets) == [72, 172, 262, 302]
    assert [TABLE.content_bytes(number) for number in range(TABLE.blocks)] == [1000, 1000, 500]
    assert len(TAIL) == tail_bytes(3)
    assert decode_tail(TAIL, FILE_BYTES) == TABLE


def test_a_head_is_what_it_was_made_of() -> None:
    head = encode_head(HEADER, 1000, 3, TAIL)
    assert len(head) == HEAD_BYTES
    found = decode_head(head)
    assert (found.keys, found.postings, found.source_crc) == (3, 1000, crc32(TAIL))
    assert log_header(found) == HEADER


@pytest.mark.parametrize("at", range(HEAD_BYTES))
def test_no_flipped_bit_of_a_head_passes(at: int) -> None:
    head = encode_head(HEADER, 1000, 3, TAIL)
    for bit in range(8):
        with pytest.raises(FormatFault):
            decode_head(flip(head, at, bit))


def test_a_head_of_a_later_format_is_told_from_damage() -> None:
    head = encode_head(HEADER, 1000, 3, TAIL)
    with pytest.raises(NewerFormat):
        decode_head(head[:8] + newer_header(head[8:]))


@pytest.mark.parametrize(("blocks", "block_bytes"), [(0, 1000), (1, 0), (1, MAX_BLOCK_BYTES + 1)])
def test_a_head_that_promises_nonsense_is_refused(blocks: int, block_bytes: int) -> None:
    with pytest.raises(FormatFault):
        decode_head(encode_head(HEADER, block_bytes, blocks, b""))
    with pytest.raises(FormatFault):
        decode_head(encode_head(HEADER, 1000, 3, TAIL)[:8] + encode_file_header(HEADER))


@pytest.mark.parametrize("length", range(len(TAIL)))
def test_a_tail_that_is_cut_is_refused(length: int) -> None:
    for cut in (TAIL[:length], TAIL[-length:] if length else b""):
        with pytest.raises(FormatFault):
            decode_tail(cut, FILE_BYTES - len(TAIL) + len(cut))


@given(st.integers(0, 8 * len(TAIL) - 1))
def test_a_flipped_bit_of_a_tail_is_refused_or_says_something_else_of_a_block(place: int) -> None:
    """A CRC, or the size of the last block, is checked when it is read; here nothing may be out of bounds."""
    try:
        found = decode_tail(flip(TAIL, place // 8, place % 8), FILE_BYTES)
    except FormatFault:
        return
    assert found.offsets == TABLE.offsets
    assert (found.crcs, found.log_bytes) != (TABLE.crcs, TABLE.log_bytes)


@pytest.mark.parametrize(
    ("table", "file_bytes"),
    [
        (TABLE, FILE_BYTES + 1),
        (make_table(1000, 2000, SIZES, CRCS), FILE_BYTES),  # the last block would be empty
        (make_table(1000, 3500, SIZES, CRCS), FILE_BYTES),
        (make_table(MAX_BLOCK_BYTES + 1, MAX_BLOCK_BYTES + 1, [230], [1]), HEAD_BYTES + 230 + tail_bytes(1)),
    ],
)
def test_a_tail_that_makes_no_sense_is_refused(table: BlockTable, file_bytes: int) -> None:
    raw = bytearray(encode_tail(table))
    if table.log_bytes == 3500:
        raw[raw.index((1000).to_bytes(4, "little"))] += 1
    with pytest.raises(FormatFault):
        decode_tail(bytes(raw), file_bytes)


@given(st.binary(max_size=400), st.integers(0, 1 << 40))
def test_any_bytes_as_a_tail_are_refused(raw: bytes, file_bytes: int) -> None:
    with pytest.raises(FormatFault):
        decode_tail(raw, file_bytes)


# --- frames of zstandard


def packed(content: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(content)


CONTENTS = [b"", b"a", b"a" * 60_000, bytes(range(256)) * 30, b"x" * 200_000 + bytes(range(256))]


@pytest.mark.parametrize("content", CONTENTS, ids=len)
@pytest.mark.parametrize(
    "options", [{}, {"level": 19}, {"write_checksum": True}, {"write_content_size": False}], ids=str
)
def test_the_end_of_a_frame_is_found_by_its_structure(content: bytes, options: dict[str, Any]) -> None:
    frame = packed(content, **options)
    ends = [0]
    raw = b"before" + frame * 2 + b"behind"
    at = 6
    for _ in range(2):
        ends.append(frame_end(raw, at) - 6)
        at = ends[-1] + 6
    assert {end - start for start, end in pairwise(ends)} == {len(frame)}


@pytest.mark.parametrize("content", CONTENTS, ids=len)
def test_a_frame_that_is_cut_has_no_end(content: bytes) -> None:
    frame = packed(content, write_checksum=True)
    for length in range(min(len(frame), 3000)):
        with pytest.raises(FormatFault):
            frame_end(frame[:length], 0)


@given(st.binary(max_size=300))
def test_any_bytes_have_an_end_within_them_or_none(raw: bytes) -> None:
    for start in (raw, b"\x28\xb5\x2f\xfd" + raw):
        try:
            assert 0 < frame_end(start, 0) <= len(start)
        except FormatFault:
            pass
