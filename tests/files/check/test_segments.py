"""A segment is checked in pieces or in one piece; both find the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evlog import EventStore, NewEvent, VerifyReport
from evlog.files.check import indexes, logs, records, segments
from evlog.files.check.digest import HeadDigest
from evlog.files.check.files import take_snapshot
from evlog.files.check.segments import Pieces, SegmentCheck, check_segment
from evlog.files.check.task import LogSummary, SegmentTask
from evlog.files.compaction import rewrite as compact_rewrite
from evlog.files.disk.files import ReadFile
from evlog.files.format.frames import array_head
from evlog.files.format.headers import (
    KIND_IDS,
    KIND_STREAMS,
    KIND_TYPES,
    decode_file_header,
    encode_file_header,
)
from tests.crash import recordings
from tests.support.forge import CODE, DATA, ID, METADATA, POSITION, STREAM, TIME, TYPE, VERSION, Frames, forge
from tests.support.forge import read_frames as frames_in
from tests.support.helpers import fill, flip_bit, new, number_id, segment_files, small_store


def in_pieces(store: EventStore) -> list[SegmentCheck | None]:
    """Check each segment in pieces; None for one that has to be checked in one piece."""
    tasks = take_snapshot(store.path).tasks()
    pieces = Pieces(tasks, HeadDigest(len(tasks)))
    for at, (function, arguments) in enumerate(pieces.calls):
        pieces.take(at, function(*arguments))
    return [pieces.maybe_check(at) for at in range(len(tasks))]


def in_one_piece(store: EventStore) -> VerifyReport:
    """Return a report for which every segment was checked in one piece."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "plan_parts", lambda _: [])
        return store.verify()


_RECORDS = (records, "_BATCH_BYTES", 1)
_FRAMES = (logs, "_WINDOW_BYTES", 1)
_PARTS = (segments, "_PART_EVENTS", 2)
SHAPES: dict[str, tuple[tuple[Any, str, int], ...]] = {
    "at once": (),
    "record by record": (_RECORDS,),
    "frame by frame": (_FRAMES,),
    "frame by frame, record by record": (_FRAMES, _RECORDS),
    "in parts": (_PARTS,),
    "in parts, frame by frame": (_PARTS, _FRAMES),
}
"""How much is checked at a time."""


@contextmanager
def checking(shape: str) -> Iterator[None]:
    """Check in this shape inside the block; an error in it names the shape."""
    with pytest.MonkeyPatch.context() as patch:
        for place in SHAPES[shape]:
            patch.setattr(*place)
        try:
            yield
        except BaseException as error:
            error.add_note(shape)
            raise


def check_all_shapes(store: EventStore) -> VerifyReport:
    """Return the report, which must be the same in every shape and in one piece."""
    report = in_one_piece(store)
    for shape in SHAPES:
        with checking(shape):
            assert store.verify() == report
    return report


@pytest.fixture
def batches(store: EventStore) -> EventStore:
    """Two sealed segments of frames of one and of several events, and an active one."""
    store.append_many([(f"b-{at % 2}", [new(at, id=number_id(100 + at))]) for at in range(3)])
    fill(store, 17)
    return store


# --- sound stores

APPENDS = st.lists(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 300)), min_size=1, max_size=20), max_size=20
)


@given(
    appends=APPENDS,
    segment_events=st.integers(1, 40),
    window_bytes=st.sampled_from([1, 300, 1 << 18]),
    part_events=st.sampled_from([1, 2, 7, 1 << 16]),
    kept=st.integers(0, 3),
    frame_bytes=st.sampled_from([1, 500, 128 << 10]),
)
def test_pieces_give_the_same_as_one_piece_in_a_sound_store(
    appends: list[list[tuple[int, int]]],
    segment_events: int,
    window_bytes: int,
    part_events: int,
    kept: int,
    frame_bytes: int,
) -> None:
    with (
        recordings.scratch() as root,
        small_store(f"{root}/store", segment_events=segment_events, sync="none") as store,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(logs, "_WINDOW_BYTES", window_bytes)
        patch.setattr(segments, "_PART_EVENTS", part_events)
        patch.setattr(compact_rewrite, "_FRAME_BYTES", frame_bytes)
        for batch in appends:
            store.append_many(
                (f"s-{stream}", [NewEvent("T", "x" * size, content_type="text")]) for stream, size in batch
            )
        if kept and appends:
            store.set_retention("s-1", max_count=kept)
            store.set_retention("s-2", max_count=1)
            store.compact(force=True)
        tasks = take_snapshot(store.path).tasks()
        for task, check in zip(tasks, in_pieces(store), strict=True):
            close = check_segment(task)
            assert close.findings == []
            close = close.without_digests()
            assert check == close or (check is None and not close.log.entry_count)
        report = store.verify()
        assert report.ok
        assert in_one_piece(store) == report


def test_a_frame_larger_than_a_window_is_not_read_whole(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append("large", [NewEvent("T", "x" * 1000) for _ in range(400)])
    store.append("small", [new(100)])
    lengths: list[int] = []
    read = ReadFile.read

    def record_length(file: ReadFile, length: int, offset: int) -> bytes:
        lengths.append(length if file.path.endswith(".log") else 0)
        return read(file, length, offset)

    monkeypatch.setattr(logs, "_WINDOW_BYTES", 50_000)
    monkeypatch.setattr(records, "_BATCH_BYTES", 50_000)
    monkeypatch.setattr(ReadFile, "read", record_length)
    assert store.verify().ok
    assert 50_000 <= max(lengths) < 100_000


def test_a_pin_at_each_position_holds_after_a_redaction_whatever_the_parts(store: EventStore) -> None:
    pins: list[str | None] = []

    def check() -> None:
        for shape in SHAPES:
            with checking(shape):
                assert all(store.verify(against=pin).ok for pin in pins)
                assert in_one_piece(store) == store.verify()

    for at in range(17):
        store.append(f"s-{at % 3}", [new(at)])
        pins.append(store.verify().digest)
    store.redact(4, 9, reason="a test")
    check()
    store.compact()
    check()
    wrong = f"9:{(pins[7] or '').partition(':')[2]}"
    for shape in SHAPES:
        with checking(shape):
            assert {finding.kind for finding in store.verify(against=wrong).findings} == {"digest"}


def test_a_damaged_frame_whose_records_are_whole_keeps_the_digest(batches: EventStore) -> None:
    before = batches.verify()
    path = segment_files(batches, "log")[0]
    flip_bit(path, 64 + 28)  # of the first frame's header
    after = batches.verify()
    assert not after.ok
    assert after.digest == before.digest
    flip_bit(path, 64 + 40 + 30)  # in its first record
    assert batches.verify().digest != before.digest


# --- damage


def test_no_flipped_bit_passes_in_pieces(batches: EventStore) -> None:
    dice = random.Random(3)
    files = [
        files[0]
        for suffix in ("log", "offsets", "streams", "types", "ids")
        if (files := segment_files(batches, suffix))
    ]
    active = [segment_files(batches, suffix)[-1] for suffix in ("log", "offsets")]
    for place, path in [(0, path) for path in files] + [(-1, path) for path in active]:
        whole = path.read_bytes()
        used = len(whole.rstrip(b"\0")) if place else len(whole)
        for at in dice.sample(range(used), min(used, 150)):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << dice.randrange(8)
            path.write_bytes(damaged)
            check = in_pieces(batches)[place]
            assert check is None or check.findings, f"{path.name} byte {at}"
        path.write_bytes(whole)
    assert None not in in_pieces(batches)


def assert_no_piece_passes(store: EventStore) -> None:
    for shape in SHAPES:
        with checking(shape):
            check = in_pieces(store)[0]
            assert check is None or check.findings


@pytest.mark.parametrize("suffix", ["log", "offsets", "streams", "types", "ids"])
def test_no_cut_lengthened_or_missing_file_passes_in_pieces(batches: EventStore, suffix: str) -> None:
    path = segment_files(batches, suffix)[0]
    whole = path.read_bytes()
    for other in (whole[:-1], whole[:-40], whole[:64], whole[:30], b"", whole + b"\0", whole + whole[64:]):
        path.write_bytes(other)
        assert_no_piece_passes(batches)
    path.unlink()
    assert_no_piece_passes(batches)


# --- what only a defect could do: every checksum is right

Change = Callable[[Frames], Any]


def swap(frames: Frames, field: int, one: tuple[int, int], other: tuple[int, int]) -> None:
    left, right = frames[one[0]][one[1]], frames[other[0]][other[1]]
    left[field], right[field] = right[field], left[field]


def put(frame: int, number: int, field: int, value: Any) -> Change:
    def change(frames: Frames) -> None:
        frames[frame][number][field] = value(frames[frame][number][field]) if callable(value) else value

    return change


def own_event(stream: str, type: str, data: bytes) -> Change:
    """Make one of the store's own events of the first record of a frame."""

    def change(frames: Frames) -> None:
        for field, value in ((STREAM, stream), (TYPE, type), (DATA, data)):
            frames[1][0][field] = value

    return change


def later(us: int) -> Callable[[int], int]:
    return lambda value: value + us


# The first frame of the segment has three records, the others one each.
CONTENTS: dict[str, tuple[Change, str]] = {
    "a time that falls within a frame": (put(0, 1, TIME, later(-9)), "order"),
    "a time that falls at a frame's end": (put(0, 2, TIME, later(-9)), "order"),
    "a time that rises and falls again": (put(0, 1, TIME, later(9_000_000)), "order"),
    "a time that rises and falls again to that of all": (
        lambda frames: [
            put(at, number, TIME, frames[0][0][TIME] + (at == 2))(frames)
            for at, frame in enumerate(frames)
            for number in range(len(frame))
        ],
        "order",
    ),
    "a time that falls between frames": (put(2, 0, TIME, later(-9_000_000)), "order"),
    "a time that falls at the segment's end": (put(-1, 0, TIME, later(-9_000_000)), "order"),
    "an id twice within a frame": (lambda frames: put(0, 1, ID, frames[0][0][ID])(frames), "id"),
    "an id twice between frames": (lambda frames: put(-1, 0, ID, frames[0][0][ID])(frames), "id"),
    "an id that another segment has": (put(1, 0, ID, number_id(12).bytes), "id"),
    "an id that the active segment has": (put(1, 0, ID, number_id(16).bytes), "id"),
    "a version left out": (put(-1, 0, VERSION, later(1)), "version"),
    "a version given twice": (put(-1, 0, VERSION, later(-1)), "version"),
    "a stream that begins late": (put(0, 1, VERSION, 2), "version"),
    "versions in another order": (lambda frames: swap(frames, VERSION, (0, 0), (0, 2)), "version"),
    "another stream": (put(2, 0, STREAM, "s-0"), "version"),
    "a frame left out": (lambda frames: frames.pop(2), "record"),
    "the first frame left out": (lambda frames: frames.pop(0), "record"),
    "a position given twice": (put(-1, 0, POSITION, later(-1)), "record"),
    "a position left out within a frame": (put(0, 2, POSITION, later(1)), "record"),
    "positions in another order": (lambda frames: swap(frames, POSITION, (1, 0), (2, 0)), "record"),
    "a first position that is not the segment's": (
        lambda frames: [put(0, 0, POSITION, later(1))(frames)],
        "record",
    ),
    "data that is text": (put(1, 0, DATA, "1"), "record"),
    "metadata that is text": (put(1, 0, METADATA, "{}"), "record"),
    "an id that is short": (put(1, 0, ID, bytes(15)), "record"),
    "an id that is long in place of one that is short": (
        lambda frames: (put(0, 0, ID, bytes(15))(frames), put(0, 1, ID, bytes(17))(frames)),
        "record",
    ),
    "a content type that is none": (put(1, 0, CODE, 3), "record"),
    "a version 0": (put(1, 0, VERSION, 0), "record"),
    "a version 0 of a stream's only event": (put(0, 1, VERSION, 0), "record"),
    "a stream that is bytes": (put(1, 0, STREAM, b"s"), "record"),
    "a type that is bytes": (put(1, 0, TYPE, b"T"), "record"),
    "a time that is text": (put(1, 0, TIME, "x"), "record"),
    "a time after the year 9999": (put(-1, 0, TIME, 1 << 62), "record"),
    "a time before 1970": (put(1, 0, TIME, -1), "record"),
    "a version that is text": (put(1, 0, VERSION, "1"), "record"),
    "a version too large": (put(-1, 0, VERSION, 1 << 40), "record"),
    "a content type that is text": (put(1, 0, CODE, "json"), "record"),
    "JSON that is none": (put(1, 0, DATA, b'{"a"'), "record"),
    "JSON that only its neighbours complete": (
        lambda frames: (
            put(0, 0, DATA, b"1,2")(frames),
            put(0, 1, DATA, b"[1")(frames),
            put(0, 2, DATA, b"2]")(frames),
        ),
        "record",
    ),
    "JSON with a line break": (put(1, 0, DATA, b'{"a":1}\n{"position":99}'), "record"),
    "JSON with a line break between tokens": (put(1, 0, DATA, b'{"a":\n1}'), "record"),
    "JSON that is not UTF-8": (put(1, 0, DATA, b'"\xff"'), "record"),
    "long JSON that is none": (put(1, 0, DATA, b"[%s" % (b"1," * 9000)), "record"),
    "text that is not UTF-8": (
        lambda frames: (put(1, 0, DATA, b"\xff")(frames), put(1, 0, CODE, 1)(frames)),
        "record",
    ),
    "metadata that is a number": (put(1, 0, METADATA, 5), "record"),
    "metadata that is no JSON": (put(1, 0, METADATA, b"{"), "record"),
    "metadata that is a list": (put(1, 0, METADATA, b"[]"), "record"),
    "metadata that is nested too deeply": (put(1, 0, METADATA, b'{"a":' + b"[" * 100_000), "record"),
    "a stream without a name": (put(1, 0, STREAM, ""), "record"),
    "a stream with a control character": (put(1, 0, STREAM, "s\x1b[2J"), "record"),
    "a stream with a long name": (put(1, 0, STREAM, "s" * 256), "record"),
    "a type without a name": (put(1, 0, TYPE, ""), "record"),
    "a type with a line break": (put(1, 0, TYPE, "a\nb"), "record"),
    "a policy that is a list": (own_event("$$s", "$metadata", b"[]"), "record"),
    "a policy that keeps a text of events": (own_event("$$s", "$metadata", b'{"$maxCount":"3"}'), "record"),
    "a compaction that began nowhere": (own_event("$compactions", "$CompactionStarted", b"{}"), "record"),
    "a field too many": (lambda frames: frames[1][0].append(None), "record"),
    "a field too few in all": (
        lambda frames: [record.pop() for frame in frames for record in frame],
        "record",
    ),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_content_that_is_wrong_is_found(batches: EventStore, name: str) -> None:
    change, kind = CONTENTS[name]
    frames = frames_in(batches, 0)
    assert [len(frame) for frame in frames] == [3, 1, 1, 1, 1, 1]
    change(frames)
    forge(batches, 0, frames)
    assert kind in {finding.kind for finding in check_all_shapes(batches).findings}


def test_a_finding_names_the_field_and_the_record_in_its_frame(batches: EventStore) -> None:
    frames = frames_in(batches, 0)
    put(0, 1, VERSION, 0)(frames)
    forge(batches, 0, frames)
    details = [finding.detail for finding in check_all_shapes(batches).findings if finding.kind == "record"]
    assert "as its version (record 2 of its frame)" in details[0]


ODD_CONTENTS = [
    b" 1 ",
    b'{"a":1} ',
    b'"\\ud83d\\ude00"',
    b"-0",
    b"1e999",
    b"9" * 5000,
    '"é\u2028\U0001f600"'.encode(),
    b"[" * 700 + b"]" * 700,
    b'"%s"' % (b"x" * 5000),
]


def test_all_that_an_append_takes_is_sound(store: EventStore) -> None:
    for content in ODD_CONTENTS:
        store.append("s", [NewEvent("T", content), NewEvent("T", content, metadata=b' {"a":%s}' % content)])
    store.append("s", [NewEvent("T", content) for content in ODD_CONTENTS])
    store.append(
        "t", [NewEvent("T", "é", content_type="text"), NewEvent("T", b"\xff", content_type="binary")]
    )
    store.append("s" * 255, [NewEvent("é" * 127)])
    store.set_retention("s" * 255, max_count=3)
    store.delete_stream("t")
    assert store.verify().findings == ()
    assert in_one_piece(store).findings == ()


def test_a_segment_that_is_forged_as_it_was_is_sound(batches: EventStore) -> None:
    forge(batches, 0, frames_in(batches, 0))
    assert batches.verify().findings == ()
    assert None not in in_pieces(batches)


HEADERS: dict[str, tuple[dict[str, int], str]] = {
    "durable behind the frame": ({"durable": 1 << 20}, "frame"),
    "another tag": ({"tag": 3}, "frame"),
    "another first position": ({"first_position": 20}, "record"),
    "another CRC of the body": ({"body_crc": 7}, "frame"),
    "another running CRC": ({"index_crc": 7}, "frame"),
    "another count": ({"events": 2}, "record"),
    "another length": ({"length": 30}, "frame"),
}


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("frame", [0, 2, 5])
def test_a_frame_header_that_is_wrong_is_found(batches: EventStore, name: str, frame: int) -> None:
    numbers: Iterator[int] = iter(range(100))
    fields, kind = HEADERS[name]
    forge(
        batches,
        0,
        frames_in(batches, 0),
        change_header=lambda header: header.replace(**fields) if next(numbers) == frame else header,
    )
    assert kind in {finding.kind for finding in check_all_shapes(batches).findings}


def test_a_frame_with_another_magic_is_found(batches: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = frames_in(batches, 0)
    with monkeypatch.context() as patch:
        patch.setattr("evlog.files.format.frames.FRAME_MAGIC", b"\xe5EVG")
        forge(batches, 0, frames)
    for shape in SHAPES:
        with checking(shape):
            assert in_pieces(batches)[0] is None
    assert "frame" in {finding.kind for finding in check_all_shapes(batches).findings}


@pytest.mark.parametrize("frame", [0, 2, 5])
@pytest.mark.parametrize(
    "head_of",
    [lambda count: b"\xdc" + count.to_bytes(2, "big"), lambda count: array_head(count + 1)],
    ids=["longer", "of more records"],
)
def test_a_frame_whose_array_has_another_head_is_found(
    batches: EventStore, frame: int, head_of: Callable[[int], bytes]
) -> None:
    numbers: Iterator[int] = iter(range(100))

    def encode(raws: list[bytes]) -> bytes:
        head = head_of if next(numbers) == frame else array_head
        return head(len(raws)) + b"".join(raws)

    forge(batches, 0, frames_in(batches, 0), encode=encode)
    assert "record" in {finding.kind for finding in check_all_shapes(batches).findings}


@pytest.mark.parametrize("suffix", ["log", "offsets", "streams", "types", "ids"])
def test_a_sound_header_of_another_file_is_found(batches: EventStore, suffix: str) -> None:
    path = segment_files(batches, suffix)[0]
    whole = path.read_bytes()
    header = decode_file_header(whole[:64])
    for other in (
        header._replace(kind=header.kind % 5 + 1),
        header._replace(generation=1),
        header._replace(store_id=bytes(16)),
        header._replace(first_position=2),
        header._replace(tag=3),
    ):
        path.write_bytes(encode_file_header(other) + whole[64:])
        check = in_pieces(batches)[0]
        assert check is None or check.findings
        assert batches.verify().findings


ENTRY_FIELDS = {
    "stream hash": 0,
    "stream hash, upper half": 4,
    "tags": 8,
    "id hash": 12,
    "offset": 16,
    "length": 20,
    "CRC before": 24,
    "CRC after": 28,
    "frame": 32,
    "version": 36,
    "type hash": 40,
    "zero": 44,
}


@pytest.mark.parametrize("field", ENTRY_FIELDS)
@pytest.mark.parametrize("frame", [0, 2, 5])
def test_an_entry_that_is_wrong_is_found(batches: EventStore, field: str, frame: int) -> None:
    numbers: Iterator[int] = iter(range(100))

    def change(rows: bytearray) -> None:
        if next(numbers) == frame:
            rows[ENTRY_FIELDS[field]] ^= 1

    forge(batches, 0, frames_in(batches, 0), change_entries=change)
    findings = check_all_shapes(batches).findings
    assert {finding.file.rsplit(".")[-1] for finding in findings} >= {"offsets", "log"}


def flip_first(raw: memoryview) -> None:
    raw[0] ^= 1


def swap_last(raw: memoryview) -> None:
    with raw.cast("I") as numbers:
        numbers[-1], numbers[-2] = numbers[-2], numbers[-1]


def repeat_last(raw: memoryview) -> None:
    with raw.cast("I") as numbers:
        numbers[-1] = numbers[-2]


def overreach(raw: memoryview) -> None:
    with raw.cast("I") as numbers:
        numbers[-1] = 99


@pytest.mark.parametrize("kind", [KIND_STREAMS, KIND_TYPES, KIND_IDS])
@pytest.mark.parametrize("change", [flip_first, swap_last, repeat_last, overreach])
def test_an_index_that_is_wrong_is_found(
    batches: EventStore,
    kind: int,
    change: Callable[[memoryview], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forge(batches, 0, frames_in(batches, 0), change_index={kind: change})
    report = batches.verify()
    assert {finding.kind for finding in report.findings} == {"index"}
    assert report == in_one_piece(batches)
    monkeypatch.setattr(indexes, "_NUMBERS_AT_ONCE", 1)
    assert report == batches.verify()


def test_an_index_is_checked_in_pieces_of_any_size(
    batches: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for numbers in range(1, 8):
        monkeypatch.setattr(indexes, "_NUMBERS_AT_ONCE", numbers)
        assert batches.verify().ok


def test_what_a_manifest_says_otherwise_needs_a_check_in_one_piece(batches: EventStore) -> None:
    task = take_snapshot(batches.path).tasks()[0]
    parts = checked_parts(task)
    assert segments.maybe_join(task, parts) == check_segment(task).log
    for change in (
        {"events": 7},
        {"offsets_crc": 5},
        {"first_time_us": 1},
        {"last_time_us": 1},
        {"last_position": 9},
        {"first_position": 2},
    ):
        assert segments.maybe_join(task._replace(info=task.info._replace(**change)), parts) is None, change
    assert segments.maybe_join(task._replace(size=task.size + 1), parts) is None


def test_parts_that_do_not_meet_are_not_joined(batches: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_PART_EVENTS", 2)
    task = take_snapshot(batches.path).tasks()[0]
    parts = checked_parts(task)
    assert len(parts) == 3
    assert segments.maybe_join(task, parts) is not None
    assert segments.maybe_join(task, [*parts[:-1], None]) is None
    last = parts[-1]
    assert last is not None
    changes: list[dict[str, Any]] = [
        {"start": 64},
        {"crc_before": 1},
        {"first_position": last.first_position + 1},
        {"first_position": 1},
        {"first_time_us": 0},
    ]
    for change in changes:
        assert segments.maybe_join(task, [*parts[:-1], last._replace(**change)]) is None, change


def checked_parts(task: SegmentTask) -> list[LogSummary | None]:
    return [segments.maybe_check_part(part) for part in segments.plan_parts(task)]


def test_a_swapped_log_does_not_pass_in_pieces(batches: EventStore) -> None:
    one, other, _ = segment_files(batches, "log")
    content: dict[Path, bytes] = {one: other.read_bytes(), other: one.read_bytes()}
    for path, raw in content.items():
        path.write_bytes(raw)
    assert in_pieces(batches)[:2] == [None, None]
