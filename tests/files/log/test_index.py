"""Look-ups: sorted files, searched columns and dicts answer as a plain loop does, or say that they cannot."""

from __future__ import annotations

import errno
import random
import struct
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evlog.files.disk.opening import error_for
from evlog.files.format.entries import ENTRY_BYTES
from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    KIND_IDS,
    KIND_OFFSETS,
    KIND_STREAMS,
    KIND_TYPES,
    FileHeader,
    encode_file_header,
)
from evlog.files.format.sorted_index import (
    PAGE_BYTES,
    SORTED_SUFFIXES,
    build_sorted,
    encode_sorted,
    sorted_shape,
)
from evlog.files.log import column_index as column_index_module
from evlog.files.log.column_index import ColumnIndex
from evlog.files.log.index import IndexFault, SealedIndex, SortedIndex
from tests.support.interrupts import Interrupted

Row = tuple[int, int, int]
"""stream hash, id hash, type hash"""

KINDS = (KIND_STREAMS, KIND_TYPES, KIND_IDS)
FIELD = {KIND_STREAMS: 0, KIND_IDS: 1, KIND_TYPES: 2}
HEADER = FileHeader(KIND_OFFSETS, 0, bytes(16), 1, 7, 0, 0, 99)

# How many searches come before a dict of the last entries, and before one of all entries.
STEPS = {"searches": (1 << 30, 1 << 30), "last entries": (-1, 1 << 30), "all entries": (-1, -1)}

# Few values, so that keys repeat; bytes that look like the neighbours' when shifted; the extremes.
wide = st.sampled_from([0, 1, 2, 2**32, 2**32 + 1, 2**63, 2**64 - 1, 0x0101010101010101]) | st.integers(
    0, 2**64 - 1
)
narrow = st.sampled_from([0, 1, 0x01010101, 2**32 - 1]) | st.integers(0, 2**32 - 1)
rows_of_entries = st.lists(st.tuples(wide, narrow, narrow), max_size=60)


def entries_of(rows: list[Row]) -> bytes:
    """Entries whose tags' bits look like the ids' hashes."""
    return b"".join(struct.pack("<QIIIIIIIIII", s, i, i, 1, 2, 3, 4, 5, 6, t, 0) for s, i, t in rows)


def plain(rows: list[Row], kind: int, key: int) -> list[int]:
    return [number for number, row in enumerate(rows) if row[FIELD[kind]] == key]


def keys_to_ask(rows: list[Row], kind: int) -> list[int]:
    keys = {row[FIELD[kind]] for row in rows}
    return [*keys, *(key ^ 1 for key in keys), 0, 2**32 - 1]


@contextmanager
def column_index(step: str, entries: Callable[[], bytes | bytearray | memoryview]) -> Iterator[ColumnIndex]:
    """Yield an index that does all look-ups by one of its steps."""
    with pytest.MonkeyPatch.context() as patch:
        before_lasts, before_dicts = STEPS[step]
        patch.setattr(column_index_module, "_SEARCHES_BEFORE_LASTS", before_lasts)
        patch.setattr(column_index_module, "_SEARCHES_BEFORE_DICTS", before_dicts)
        yield ColumnIndex(entries)


@pytest.mark.parametrize("step", STEPS)
@given(rows=rows_of_entries)
def test_columns_answer_as_a_plain_loop_at_each_step(step: str, rows: list[Row]) -> None:
    entries = entries_of(rows)
    for kind in KINDS:
        with column_index(step, lambda: memoryview(entries)) as index:
            for key in keys_to_ask(rows, kind):
                expected = plain(rows, kind, key)
                assert list(index.find_newest_first(kind, key)) == expected[::-1]
                assert list(index.find(kind, key)) == expected
                assert index.last_numbers(kind, [key]) == [expected[-1] if expected else -1]
                if kind == KIND_IDS:
                    assert index.maybe_last_id(key) == (expected[-1] if expected else None)
            assert sorted(index.keys(kind)) == sorted({row[FIELD[kind]] for row in rows})


def test_only_searches_that_go_far_lead_to_the_next_step() -> None:
    entries = entries_of([(number, number, number) for number in range(1, 1001)])
    index = ColumnIndex(lambda: entries)
    for _ in range(100):
        assert next(index.find_newest_first(KIND_STREAMS, 1000)) == 999
    assert not index._lasts
    for _ in range(100):
        assert list(index.find_newest_first(KIND_STREAMS, 5000)) == []
    assert index._lasts
    assert not index._dicts


def test_few_ids_with_a_known_hash_are_searched_for_and_no_dict_is_built() -> None:
    index = ColumnIndex(lambda: entries_of([(number, number % 900, 0) for number in range(1000)]))
    for _ in range(10):
        assert index.candidates(range(5000, 5100)) == []
        assert index.candidates([*range(5000, 5100), 7]) == [(7, [7, 907])]
    assert not index._dicts
    assert index.candidates(range(50, 2000)) == [(key, index.find(KIND_IDS, key)) for key in range(50, 900)]
    assert index._dicts


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_while_a_dict_grows_repeats_no_entry(kind: int) -> None:
    rows = [(number % 3, number % 3, number % 3) for number in range(40)]
    with column_index("all entries", lambda: entries) as index:
        for step in range(1, 1000):
            entries = bytearray(entries_of(rows[:20]))
            index.reset_after_fork()
            assert list(index.find(kind, 1)) == plain(rows[:20], kind, 1)
            entries += entries_of(rows[20:])
            with Interrupted(step, column_index_module) as interrupted:
                index.find(kind, 1)
            assert list(index.find_newest_first(kind, 1)) == plain(rows, kind, 1)[::-1]
            assert list(index.find(kind, 1)) == plain(rows, kind, 1)
            if not interrupted.happened:
                assert step > 10
                return
    raise AssertionError("the look-up never got through")


@given(rows_of_entries)
def test_sorted_files_answer_as_a_plain_loop(rows: list[Row]) -> None:
    for kind in KINDS:
        index = opened(
            HEADER._replace(kind=kind), build_sorted(HEADER._replace(kind=kind), entries_of(rows)), len(rows)
        )
        for key in keys_to_ask(rows, kind):
            if kind == KIND_IDS:
                assert sorted(index.find(key)) == plain(rows, kind, key)
            else:
                assert list(index.find(key)) == plain(rows, kind, key)


@given(rows_of_entries)
def test_heads_are_the_last_entry_of_each_stream(rows: list[Row]) -> None:
    expected = {row[0]: number for number, row in enumerate(rows)}
    columns = ColumnIndex(lambda: entries_of(rows))
    hashes, last = columns.heads()
    assert dict(zip(hashes, last, strict=True)) == expected


@pytest.mark.parametrize("step", STEPS)
@given(rows=rows_of_entries, asked=st.lists(narrow, max_size=10))
def test_candidates_are_the_entries_of_the_keys_that_are_there(
    step: str, rows: list[Row], asked: list[int]
) -> None:
    there = {row[1] for row in rows}
    keys = dict.fromkeys([*asked, *list(there)[:3]])
    with column_index(step, lambda: entries_of(rows)) as index:
        for _ in range(2):
            found = {key: list(numbers) for key, numbers in index.candidates(keys)}
            assert found == {key: plain(rows, KIND_IDS, key) for key in keys if key in there}


def test_posting_beyond_the_entries_is_a_fault() -> None:
    """A crafted file with right CRCs: the entries that it names must exist."""
    header = HEADER._replace(kind=KIND_STREAMS)
    forged = encode_sorted(header, array("Q", [10, 20]), array("I", [0, 1, 3]), array("I", [0, 1, 3]))
    index = opened(header, forged, 3)
    with pytest.raises(IndexFault):
        index.find(20)
    with pytest.raises(IndexFault):
        opened(header, forged, 4)


@pytest.mark.parametrize("step", STEPS)
@given(first=rows_of_entries, second=rows_of_entries)
def test_columns_may_grow_between_look_ups(step: str, first: list[Row], second: list[Row]) -> None:
    entries = bytearray(entries_of(first))
    with column_index(step, lambda: entries) as index:
        for kind in KINDS:
            index.last_numbers(kind, [0])
            index.find(kind, 0)
            index.maybe_last_id(0)
            index.candidates([0])
        entries += entries_of(second)
        for kind in KINDS:
            for row in first + second:
                expected = plain(first + second, kind, row[FIELD[kind]])
                assert list(index.find_newest_first(kind, row[FIELD[kind]])) == expected[::-1]
                assert list(index.find(kind, row[FIELD[kind]])) == expected
                assert index.last_numbers(kind, [row[FIELD[kind]]]) == expected[-1:]
                if kind == KIND_IDS:
                    assert index.maybe_last_id(row[1]) == expected[-1]


def test_search_is_not_misled_by_keys_across_columns_or_rows() -> None:
    row = (0x0101010101010101, 0x01010101, 0x01010101)
    rows = [row, (1, 1, 1), row]
    index = ColumnIndex(lambda: entries_of(rows))
    assert list(index.find(KIND_STREAMS, 0x0101010101010101)) == [0, 2]
    assert list(index.find(KIND_IDS, 0x01010101)) == [0, 2]
    assert list(index.find(KIND_TYPES, 0x01010101)) == [0, 2]
    assert list(index.find(KIND_STREAMS, 0x0101010101010100)) == []


# --- sorted files

memory: dict[str, bytes] = {}


def opened(expected: FileHeader, content: bytes, count: int = 5000) -> SortedIndex:
    """Return a sorted index whose file is in memory: to map thousands of files would take the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evlog.files.log.index.map_file", lambda _: memoryview(content))
        return SortedIndex("memory", expected, count)


def random_rows(count: int) -> list[Row]:
    dice = random.Random(count)
    return [(dice.randrange(200) << 40, dice.getrandbits(32), dice.randrange(5)) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_page_is_never_believed(kind: int) -> None:
    rows = random_rows(5000)
    header = HEADER._replace(kind=kind)
    whole = build_sorted(header, entries_of(rows))
    expected: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        expected.setdefault(row[FIELD[kind]], []).append(number)
    dice = random.Random(kind)
    faults = 0
    for _ in range(150):
        damaged = bytearray(whole)
        at = dice.randrange(FILE_HEADER_BYTES, len(whole))
        damaged[at] ^= 1 << dice.randrange(8)
        index = opened(header, bytes(damaged))
        for key in [*dice.sample(sorted(expected), min(20, len(expected))), dice.getrandbits(32)]:
            try:
                assert sorted(index.find(key)) == expected.get(key, [])
            except IndexFault:
                faults += 1
        with pytest.raises(IndexFault):
            index.check_all()
    assert faults


def test_zeroed_page_is_never_believed() -> None:
    rows = random_rows(5000)
    header = HEADER._replace(kind=KIND_IDS)
    whole = build_sorted(header, entries_of(rows))
    for start in range(FILE_HEADER_BYTES, len(whole), PAGE_BYTES):
        index = opened(
            header, whole[:start] + bytes(min(PAGE_BYTES, len(whole) - start)) + whole[start + PAGE_BYTES :]
        )
        for number, row in enumerate(rows[::50]):
            try:
                assert number * 50 in index.find(row[1])
            except IndexFault:
                pass
        with pytest.raises(IndexFault):
            index.check_all()


OTHER: list[dict[str, int | bytes]] = [
    {"kind": KIND_TYPES},
    {"generation": 1},
    {"store_id": b"x" * 16},
    {"first_position": 2},
    {"tag": 8},
    {"source_crc": 98},
]


@pytest.mark.parametrize("change", OTHER, ids=str)
def test_index_of_another_segment_is_not_used(change: dict[str, int | bytes], tmp_path: Path) -> None:
    header = HEADER._replace(kind=KIND_STREAMS)
    (tmp_path / "i").write_bytes(build_sorted(header._replace(**change), entries_of([(1, 2, 3)])))  # type: ignore[arg-type]
    with pytest.raises(IndexFault):
        SortedIndex(str(tmp_path / "i"), header, 1)


CHANGES: list[Callable[[bytes], bytes]] = [
    lambda whole: b"",
    lambda whole: whole[:40],
    lambda whole: whole[:-1],
    lambda whole: whole + b"\0",
    lambda whole: bytes(len(whole)),
    lambda whole: encode_file_header(HEADER._replace(kind=KIND_STREAMS, keys=2**32 - 1)) + whole[64:],
    lambda whole: encode_file_header(HEADER._replace(kind=KIND_STREAMS, postings=2**32 - 1)) + whole[64:],
    lambda whole: encode_file_header(HEADER._replace(kind=KIND_STREAMS)) + whole[64:],
    lambda whole: newer(whole[:60]) + whole[64:],
]


def newer(header: bytes) -> bytes:
    """Return the header with a later format and a right CRC."""
    later = header[:8] + b"\x02" + header[9:]
    return later + struct.pack("<I", crc32(later))


@pytest.mark.parametrize("change", CHANGES)
def test_index_that_is_not_whole_is_not_used(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    header = HEADER._replace(kind=KIND_STREAMS)
    (tmp_path / "i").write_bytes(change(build_sorted(header, entries_of(random_rows(10)))))
    with pytest.raises(IndexFault):
        SortedIndex(str(tmp_path / "i"), header, 10)


def test_missing_index_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(IndexFault):
        SortedIndex(str(tmp_path / "missing"), HEADER, 1)


@given(st.binary(max_size=300), st.sampled_from(KINDS), st.booleans())
def test_any_bytes_as_a_sorted_index_are_a_fault_or_answer_nothing_false(
    junk: bytes, kind: int, with_header: bool
) -> None:
    header = HEADER._replace(kind=kind)
    content = junk
    if with_header:
        room = len(junk) // 16
        counted = header._replace(keys=room, postings=room)
        content = encode_file_header(counted) + junk
        content = content.ljust(sorted_shape(kind, room, room).file_bytes, b"\0")
    try:
        index = opened(header, content, len(junk) // 16)
        index.check_all()
    except IndexFault:
        return
    for key in (0, 1, 2**32 - 1):
        assert not index.find(key)


# --- a sealed segment's index: files as long as they are sound


@pytest.fixture
def sealed(tmp_path: Path) -> tuple[SealedIndex, list[Row], Path]:
    rows = random_rows(2000)
    entries = entries_of(rows)
    index = SealedIndex(str(tmp_path / "segment"), HEADER, len(rows), lambda: entries, lambda: None)
    for kind, suffix in SORTED_SUFFIXES.items():
        (tmp_path / f"segment.{suffix}").write_bytes(index.build(kind, entries))
    return index, rows, tmp_path


def check(index: SealedIndex, rows: list[Row]) -> None:
    for kind in KINDS:
        for row in rows[::200]:
            key = row[FIELD[kind]]
            assert set(plain(rows, kind, key)) <= set(index.find(kind, key))
            assert list(index.find_newest_first(kind, key)) == list(index.find(kind, key))[::-1]
    hashes, last = index.heads()
    assert dict(zip(hashes, last, strict=True)) == {row[0]: number for number, row in enumerate(rows)}
    assert sorted(index.keys(KIND_IDS)) == sorted(row[1] for row in rows)


def test_sealed_index_answers_from_its_files(sealed: tuple[SealedIndex, list[Row], Path]) -> None:
    index, rows, _ = sealed
    assert index.missing() == []
    check(index, rows)
    assert all(index.maybe_sorted(kind) is not None for kind in KINDS)


@pytest.mark.parametrize("suffix", SORTED_SUFFIXES.values())
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "zeros"])
def test_sealed_index_answers_without_a_file_that_is_not_sound(
    sealed: tuple[SealedIndex, list[Row], Path], suffix: str, damage: str
) -> None:
    _, rows, directory = sealed
    path = directory / f"segment.{suffix}"
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(whole[:-7])
    elif damage == "flipped":
        path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    else:
        path.write_bytes(whole[:64] + bytes(len(whole) - 64))
    faults: list[None] = []
    index = SealedIndex(
        str(directory / "segment"), HEADER, len(rows), lambda: entries_of(rows), lambda: faults.append(None)
    )
    check(index, rows)
    assert faults  # a writer is told to build it again
    kind = {name: kind for kind, name in SORTED_SUFFIXES.items()}[suffix]
    assert index.missing() == [kind]
    path.write_bytes(index.build(kind, entries_of(rows)))
    assert path.read_bytes() == whole
    index.forget(kind)
    assert index.missing() == []
    check(index, rows)


def test_a_file_that_the_system_does_not_open_now_is_not_rebuilt(
    sealed: tuple[SealedIndex, list[Row], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, rows, directory = sealed
    faults: list[None] = []
    index = SealedIndex(
        str(directory / "segment"), HEADER, len(rows), lambda: entries_of(rows), lambda: faults.append(None)
    )

    def refuse(path: str) -> memoryview:
        raise error_for(OSError(errno.EMFILE, "Too many open files"), path)

    with monkeypatch.context() as no_descriptor_left:
        no_descriptor_left.setattr("evlog.files.log.index.map_file", refuse)
        check(index, rows)
    assert all(index.maybe_sorted(kind) is not None for kind in KINDS)
    assert not faults


def test_entry_is_48_bytes() -> None:
    assert len(entries_of([(1, 2, 3)])) == ENTRY_BYTES == 48
