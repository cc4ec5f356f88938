"""One segment: records by number, frames in order, entries repaired silently, damage named by its place."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from zlib import crc32

import pytest

import evlog
from evlog.errors import CorruptionError, NotAStore, UnsupportedFormat
from evlog.files.format.entries import ENTRY_BYTES, column
from evlog.files.format.frames import FRAME_HEADER_BYTES
from evlog.files.format.headers import FILE_HEADER_BYTES, encode_file_header
from evlog.files.log.log import Log
from evlog.files.log.sealed_segment import SealedSegment
from evlog.files.log.segment import Segment
from evlog.model.events import Record
from tests.support.helpers import fill, flip_bit, frames_of, new, segment_files, small_store

SIZES = (1, 3, 2, 1, 5, 4)  # events in each frame of the sealed segment: sixteen
COUNT = sum(SIZES)


@pytest.fixture
def store_path(memory_path: Path) -> Path:
    with small_store(memory_path / "store", segment_events=COUNT) as store:
        number = 0
        for repeat in range(2):
            for size in SIZES[: len(SIZES) - repeat]:
                store.append(f"s-{size}", [new(number + at) for at in range(size)])
                number += size
    return memory_path / "store"


@pytest.fixture(params=["sealed", "active"])
def segment(request: pytest.FixtureRequest, store_path: Path) -> Segment:
    log = Log(str(store_path))
    return log.sealed[0].segment if request.param == "sealed" else log.active.segment


def sealed(path: Path) -> SealedSegment:
    log = Log(str(path))
    return SealedSegment(str(path), log.manifest.store_id_bytes, log.manifest.segments[0])


def positions(batches: Iterable[Sequence[Record]]) -> list[int]:
    return [record[0] for records in batches for record in records]


def test_record_is_found_by_its_number(segment: Segment) -> None:
    for number in range(segment.count):
        record = segment.record(number)
        assert record[0] == segment.first_position + number
        assert int(record[7]) == record[0] - 1
        assert column(segment.entries, "version")[number] == record[1]


@pytest.mark.parametrize("large", [False, True])
def test_scan_is_every_slice_in_both_directions(
    segment: Segment, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    if large:
        monkeypatch.setattr("evlog.files.log.segment._WHOLE_BODY_BYTES", 100)
    every = list(range(segment.first_position, segment.first_position + segment.count))
    for low in range(segment.count + 1):
        for high in range(segment.count + 1):
            assert positions(segment.scan(low, high)) == every[low:high]
            assert positions(segment.scan(low, high, joins_small=True)) == every[low:high]
            assert positions(segment.scan_back(low, high)) == every[low:high][::-1]


@pytest.mark.parametrize("bytes_at_once", [1, 100, 1 << 20])
def test_records_come_in_the_order_asked_for(
    segment: Segment, monkeypatch: pytest.MonkeyPatch, bytes_at_once: int
) -> None:
    monkeypatch.setattr("evlog.files.log.segment.BYTES_AT_ONCE", bytes_at_once)
    for asked in (
        [],
        [3],
        [0, 1, 2],
        [5, 0, 5],
        range(segment.count - 1, -1, -1),
        range(0, segment.count, 2),
    ):
        found = [
            record[0] - segment.first_position for records in segment.records(asked) for record in records
        ]
        assert found == list(asked)


def test_number_of_a_position_is_its_place_in_the_segment(segment: Segment) -> None:
    first = segment.first_position
    assert [segment.number_of(first + at) for at in range(-3, segment.count + 3)] == [
        min(max(at, 0), segment.count) for at in range(-3, segment.count + 3)
    ]


# --- entries


def test_entries_are_made_anew_from_the_log(store_path: Path) -> None:
    whole = bytes(sealed(store_path).entries)
    offsets = segment_files(evlog.open(store_path), "offsets")[0]
    content = offsets.read_bytes()
    changes: list[bytes | None] = [
        None,
        b"",
        content[:30],
        content[:-1],
        content + bytes(40),
        bytes(len(content)),
        content[:64] + bytes(len(content) - 64),
        content[:20] + b"\xff" + content[21:],
        content[:70] + b"\xff" + content[71:],
        b"\x89evlog\r\n" + os.urandom(len(content) - 8),
    ]
    for change in changes:
        offsets.unlink()
        if change is not None:
            offsets.write_bytes(change)
        segment = sealed(store_path)
        assert bytes(segment.checked_entries()) == whole
        assert segment.entries_damaged
        offsets.write_bytes(content)
    assert not sealed(store_path).entries_damaged


def test_damaged_entry_never_leads_to_a_wrong_record(store_path: Path) -> None:
    offsets = segment_files(evlog.open(store_path), "offsets")[0]
    content = offsets.read_bytes()
    for bit in range(64 * 8, (64 + 3 * ENTRY_BYTES) * 8):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        offsets.write_bytes(flipped)
        segment = sealed(store_path)
        assert [segment.record(number)[0] for number in range(5)] == [1, 2, 3, 4, 5]
        assert positions(segment.scan(0, 6)) == [1, 2, 3, 4, 5, 6]
        assert positions(segment.scan_back(1, 4)) == [4, 3, 2]


# --- damage of the log


def test_damaged_record_is_named_and_the_rest_stays_readable(store_path: Path) -> None:
    log = segment_files(evlog.open(store_path), "log")[0]
    whole = sealed(store_path)
    place = 9 * ENTRY_BYTES + 16  # of frame 5
    offset, length = struct.unpack_from("<II", whole.entries, place)
    content = bytearray(log.read_bytes())
    content[offset + length - 2] ^= 4  # a digit of its data: still a record, but another
    log.write_bytes(content)
    segment = sealed(store_path)
    with pytest.raises(CorruptionError) as caught:
        segment.record(9)
    assert (caught.value.path, caught.value.offset, caught.value.position) == (str(log), offset, 10)
    assert [segment.record(number)[0] for number in (0, 8, 10, 15)] == [1, 9, 11, 16]
    for joins_small, batches in ((False, 4), (True, 1)):
        scan = segment.scan(0, COUNT, joins_small=joins_small)
        assert positions(next(scan) for _ in range(batches)) == [1, 2, 3, 4, 5, 6, 7]
        with pytest.raises(CorruptionError) as caught:
            next(scan)
        assert caught.value.path == str(log)
    assert positions(segment.scan(12, COUNT)) == [13, 14, 15, 16]
    with pytest.raises(CorruptionError):
        list(segment.scan_back(0, COUNT))


def test_small_frames_together_say_of_each_flipped_bit_what_they_say_one_by_one(store_path: Path) -> None:
    log = segment_files(evlog.open(store_path), "log")[0]
    content = bytearray(log.read_bytes())

    def outcome(*, joins_small: bool) -> tuple[list[int], str]:
        found: list[int] = []
        try:
            for records in sealed(store_path).scan(0, COUNT, joins_small=joins_small):
                found += positions([records])
        except CorruptionError as error:
            return found, str(error)
        return found, ""

    for at in range(FILE_HEADER_BYTES, len(content), 3):
        content[at] ^= 1 << at % 8
        log.write_bytes(content)
        content[at] ^= 1 << at % 8
        assert outcome(joins_small=True) == outcome(joins_small=False), at


def test_damaged_frame_header_is_named_and_its_records_stay_readable(store_path: Path) -> None:
    log = segment_files(evlog.open(store_path), "log")[0]
    frame: int = struct.unpack_from("<I", sealed(store_path).entries, 9 * ENTRY_BYTES + 32)[0]
    flip_bit(log, frame + FRAME_HEADER_BYTES - 1)
    segment = sealed(store_path)
    with pytest.raises(CorruptionError) as caught:
        list(segment.scan(8, 9))
    assert (caught.value.path, caught.value.offset) == (str(log), frame)
    assert [segment.record(number)[0] for number in range(COUNT)] == list(range(1, COUNT + 1))


CHANGES: list[tuple[str, Callable[[bytes], bytes], type[Exception]]] = [
    ("shorter", lambda whole: whole[:-1], CorruptionError),
    ("longer", lambda whole: whole + b"\0", CorruptionError),
    ("empty", lambda whole: b"", CorruptionError),
    ("header cut", lambda whole: whole[:63], CorruptionError),
    ("header flipped", lambda whole: whole[:30] + bytes([whole[30] ^ 1]) + whole[31:], CorruptionError),
    ("zeros", lambda whole: bytes(len(whole)), CorruptionError),
    ("text", lambda whole: b"hello\n" * 100, CorruptionError),
    ("another tag", lambda whole: renamed(whole, at=40), CorruptionError),
    ("another position", lambda whole: renamed(whole, at=32), CorruptionError),
    ("another generation", lambda whole: renamed(whole, at=12), CorruptionError),
    ("another kind", lambda whole: renamed(whole, at=10), CorruptionError),
    ("another store", lambda whole: renamed(whole, at=16), NotAStore),
    ("newer", lambda whole: renamed(whole, at=8), UnsupportedFormat),
]


def renamed(whole: bytes, at: int) -> bytes:
    """Return the log with another header whose CRC is right."""
    header = bytearray(whole[:60])
    header[at] ^= 2
    return bytes(header) + struct.pack("<I", crc32(header)) + whole[64:]


@pytest.mark.parametrize(("change", "error"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES])
@pytest.mark.parametrize("which", [0, 1])
def test_log_that_is_not_what_it_was_is_named(
    store_path: Path, change: Callable[[bytes], bytes], error: type[Exception], which: int
) -> None:
    log = segment_files(evlog.open(store_path), "log")[which]
    before = frames_of(log)
    log.write_bytes(change(before))
    if which and len(log.read_bytes()) > len(before):
        with evlog.open(store_path) as store:  # the end of the active log may be torn
            assert store.head == 2 * COUNT - SIZES[-1]
        return
    with pytest.raises(error) as caught, evlog.open(store_path) as store:
        list(store.read_all())
    assert vars(caught.value)["path"] == str(log)


@pytest.mark.exact_hashes  # else any damaged event may be a policy
def test_damage_in_one_segment_leaves_the_others_readable(memory_path: Path) -> None:
    with small_store(memory_path / "store") as store:
        fill(store, 30)
        log = segment_files(store, "log")[1]
    log.unlink()
    with evlog.open(memory_path / "store") as store:
        assert [event.position for event in store.read_all(to=8)] == list(range(1, 9))
        assert [event.position for event in store.read_all(after=16)] == list(range(17, 31))
        assert [event.position for event in store.read_all(reverse=True, limit=14)] == list(range(30, 16, -1))
        with pytest.raises(CorruptionError) as caught:
            list(store.read_all())
        assert caught.value.path == str(log)
        assert store.stream_version("s-0") == 10


def test_header_of_the_test_is_the_real_one(store_path: Path) -> None:
    segment = sealed(store_path)
    assert Path(segment.log_path).read_bytes()[:64] == encode_file_header(segment.header)
