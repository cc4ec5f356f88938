"""Removed events: each is found by its id, no other id is found, and damage is reported."""

from __future__ import annotations

import random
import struct
import uuid
from collections.abc import Iterable
from pathlib import Path
from zlib import crc32

import pytest

from evlog.errors import CorruptionError, EvlogError
from evlog.files.format.hashes import hash_ids, hash_stream, hash_type
from evlog.files.format.headers import FILE_HEADER_BYTES, KIND_REMOVED, FileHeader, encode_file_header
from evlog.files.format.removed_events import (
    EVENT,
    STREAM,
    content_crcs,
    encode_removed,
    event_column,
    group_bits,
    group_events,
    join_groups,
    pack_events,
    tags_of_removed,
)
from evlog.files.format.sorted_index import page_crcs
from evlog.files.log.removed import RemovedEvent, RemovedEvents
from evlog.model.events import make_ids
from evlog.model.tags import add_tags

HEADER = FileHeader(KIND_REMOVED, 1, bytes(range(16)), 1000, 7)
Row = tuple[bytes, int, int, int, int]  # id, position, stream hash, version, content CRC


def sample(count: int, seed: int = 1) -> list[Row]:
    dice = random.Random(seed)
    return [
        (
            dice.randbytes(16),
            1000 + at,
            dice.randrange(1 << 64),
            dice.randrange(1, 1 << 32),
            crc32(b"%d" % at),
        )
        for at in range(count)
    ]


def written(path: Path, rows: Iterable[Row], streams: Iterable[tuple[str, int, int]] = ()) -> RemovedEvents:
    raw = encode_removed(HEADER, b"".join(EVENT.pack(*row) for row in rows), streams)
    path.write_bytes(raw)
    return RemovedEvents(str(path), HEADER, len(raw))


def found(events: RemovedEvents, id: bytes) -> tuple[int, int, int] | None:
    event = events.find(id)
    return None if event is None else (event.position, event.version, event.content_crc)


@pytest.mark.parametrize("count", [0, 1, 2, 102, 103, 300, 5000])
def test_every_event_is_found_by_its_id_and_no_other_is(tmp_path: Path, count: int) -> None:
    rows = sample(count)
    events = written(tmp_path / "x.removed", rows)
    assert events.events == count
    for id, position, _, version, crc in rows:
        assert found(events, id) == (position, version, crc)
        assert found(events, id[:-1] + bytes([id[-1] ^ 1])) is None
    for id in [bytes(16), b"\xff" * 16, *make_ids(300)]:
        assert found(events, id) is None
    assert sorted(events.ids()) == sorted(id for id, *_ in rows)
    assert events.is_grouped()


@pytest.mark.parametrize(
    "ids",
    [
        [number.to_bytes(8, "little") * 2 for number in range(2000)],
        [uuid.uuid1(node=1, clock_seq=number % 3).bytes for number in range(2000)],
        [number.to_bytes(12, "big") + b"evlg" for number in range(2000)],
    ],
    ids=["alike halves", "UUIDv1", "padded ObjectId"],
)
def test_ids_that_differ_in_one_byte_are_told_apart(tmp_path: Path, ids: list[bytes]) -> None:
    kept, others = ids[::2], ids[1::2]
    events = written(tmp_path / "x.removed", [(id, at, 1, 1, 1) for at, id in enumerate(kept)])
    assert [found(events, id) for id in kept] == [(at, 1, 1) for at in range(len(kept))]
    assert not any(found(events, id) for id in others)


def test_rows_are_the_same_by_columns_and_one_by_one() -> None:
    rows = sample(300)
    packed = pack_events(*zip(*rows, strict=True))
    assert packed == b"".join(EVENT.pack(*row) for row in rows)
    for at, name in enumerate(["position", "stream_hash", "version", "content_crc"], 1):
        assert event_column(packed, name) == [row[at] for row in rows]


@pytest.mark.parametrize(
    ("events", "bits"),
    [
        (0, 0),
        (1, 0),
        (512, 0),
        (513, 1),
        (1024, 1),
        (1025, 2),
        (1 << 20, 11),
        ((1 << 20) + 1, 12),
        (1 << 40, 12),
    ],
)
def test_groups_grow_with_the_events(events: int, bits: int) -> None:
    assert group_bits(events) == bits


@pytest.mark.exact_hashes
@pytest.mark.parametrize("bits", [0, 1, 5])
def test_pieces_that_are_grouped_one_by_one_give_the_same_file(bits: int) -> None:
    rows = sample(700)
    pieces = [rows[:300], [], rows[300:301], rows[301:]]
    packed = [b"".join(EVENT.pack(*row) for row in piece) for piece in pieces]
    grouped = [
        group_events(raw, hash_ids([row[0] for row in piece]), bits)
        for raw, piece in zip(packed, pieces, strict=True)
    ]
    whole = group_events(b"".join(packed), hash_ids([row[0] for row in rows]), bits)
    assert join_groups(grouped) == whole
    groups = [crc32(row[0]) >> 32 - bits for row in rows]
    assert whole.counts.tolist() == [groups.count(group) for group in range(1 << bits)]
    ordered = sorted(rows, key=lambda row: (crc32(row[0]) >> 32 - bits, row[1]))
    assert whole.rows == b"".join(EVENT.pack(*row) for row in ordered)


@pytest.mark.exact_hashes
def test_an_event_in_another_group_or_an_id_twice_or_a_wrong_start_is_noticed(tmp_path: Path) -> None:
    rows = sample(1500)
    raw = encode_removed(HEADER, b"".join(EVENT.pack(*row) for row in rows), [])
    starts_at = 64 + 40 * len(rows)
    first, second = rows[0], next(row for row in rows if crc32(row[0]) >> 30 != crc32(rows[0][0]) >> 30)
    swapped = raw.replace(first[0], bytes(16)).replace(second[0], first[0]).replace(bytes(16), second[0])
    moved = bytearray(raw)
    moved[starts_at + 4] ^= 1
    path = tmp_path / "x.removed"
    for changed in (swapped, raw.replace(first[0], second[0]), bytes(moved)):
        content = changed[64 : starts_at + 4 * 5]
        path.write_bytes(changed[:64] + content + page_crcs(content))
        assert not RemovedEvents(str(path), HEADER, len(raw)).is_grouped()


def test_a_group_that_ends_after_the_last_event_is_damage(tmp_path: Path) -> None:
    rows = sample(10)
    raw = encode_removed(HEADER, b"".join(EVENT.pack(*row) for row in rows), [])
    content = raw[64:464] + struct.pack("<II", 0, 11)
    (tmp_path / "x.removed").write_bytes(raw[:64] + content + page_crcs(content))
    with pytest.raises(CorruptionError):
        RemovedEvents(str(tmp_path / "x.removed"), HEADER, len(raw)).find(rows[0][0])


def test_an_id_that_other_columns_hold_by_chance_is_not_found_there(tmp_path: Path) -> None:
    row = (bytes(range(16)), 0x0F0E0D0C0B0A0908, 0x1716151413121110, 1, 1)
    events = written(tmp_path / "x.removed", [row, (bytes(range(8, 24)), 2, 3, 4, 5)])
    assert found(events, bytes(range(8, 24))) == (2, 4, 5)
    assert found(events, bytes(range(9, 25))) is None


@pytest.mark.exact_hashes
def test_a_dozen_lines_read_the_file(tmp_path: Path) -> None:
    rows, streams = sample(2000), [("é" * 100, 7, 10**15), ("s-1", 2, 3)]
    written(tmp_path / "x.removed", rows, streams)
    raw = (tmp_path / "x.removed").read_bytes()
    count, empty, names_bytes = struct.unpack_from("<III", raw, 44)
    events_end = 64 + 40 * count
    groups = 4  # of 2,000 events
    streams_at = events_end + 4 * (groups + 1)
    names_at = streams_at + 24 * empty
    events = list(struct.iter_unpack("<16sQQII", raw[64:events_end]))
    assert sorted(events) == sorted(rows)
    starts = struct.unpack(f"<{groups + 1}I", raw[events_end:streams_at])
    for group in range(groups):
        assert {crc32(id) >> 30 for id, *_ in events[starts[group] : starts[group + 1]]} == {group}
    names, start = {}, 0
    for stream_hash, time, version, end in struct.iter_unpack("<QQII", raw[streams_at:names_at]):
        name = raw[names_at + start : names_at + end].decode()
        names[name] = (stream_hash, version, time)
        start = end
    assert names == {name: (hash_stream(name), version, time) for name, version, time in streams}
    content = raw[64 : names_at + names_bytes]
    crcs = [crc32(content[at : at + 4096]) for at in range(0, len(content), 4096)]
    assert raw[names_at + names_bytes :] == struct.pack(f"<{len(crcs)}I", *crcs)


def test_streams_that_lost_all_events_keep_name_version_and_time(tmp_path: Path) -> None:
    streams = [(f"s-{number}", number + 1, 10**15 + number) for number in range(500)]
    streams.append(("é" * 100, (1 << 32) - 1, 0))
    events = written(tmp_path / "x.removed", sample(10), streams)
    assert sorted(events.streams()) == sorted(streams)
    for name, version, _ in streams:
        assert events.version_of(name, hash_stream(name)) == version
    assert events.version_of("other", hash_stream("other")) == 0
    assert events.stream_hashes() == sorted(hash_stream(name) for name, _, _ in streams)
    ordered = sorted(streams, key=lambda stream: (hash_stream(stream[0]), stream[0].encode()))
    assert events.stream_versions() == [version for _, version, _ in ordered]


def test_a_stream_is_told_by_its_name_where_hashes_collide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.files.format.removed_events.hash_stream", lambda _: 5)
    events = written(tmp_path / "x.removed", sample(10), [(name, len(name), 0) for name in ("a", "bb")])
    assert [events.version_of(name, 5) for name in ("a", "bb", "ccc")] == [1, 2, 0]


CONTENT = ("s", "T", 0, b"{}")


@pytest.mark.exact_hashes
@pytest.mark.parametrize(
    "other", [("s-2", "T", 0, b"{}"), ("s", "T2", 0, b"{}"), ("s", "T", 1, b"{}"), ("s", "T", 0, b"{ }")]
)
def test_content_is_told_by_all_its_parts(
    other: tuple[str, str, int, bytes],
) -> None:
    stream, type, code, data = CONTENT
    (crc,) = content_crcs([hash_type(type)], [code], [data])
    event = RemovedEvent(1, hash_stream(stream), 1, crc)
    assert event.has_content(*CONTENT)
    assert not event.has_content(*other)
    assert RemovedEvent(1, hash_stream(stream), 1, 0).has_content(*other), "only the id is kept"


def test_content_crcs_are_the_same_in_bulk_and_one_by_one() -> None:
    rows = [(hash_type("T"), 0, b"{}"), (hash_type("U"), 2, b"x"), (hash_type("T"), 1, b"")]
    assert list(content_crcs(*zip(*rows, strict=True))) == [
        crc32(data, type_hash ^ code) for type_hash, code, data in rows
    ]


@pytest.mark.parametrize("count", [200, 5000])
def test_no_flipped_bit_changes_an_answer(tmp_path: Path, count: int) -> None:
    rows, streams = sample(count), [(f"s-{number}", number + 1, number) for number in range(5)]
    path = tmp_path / "x.removed"
    right = written(path, rows, streams)
    raw = path.read_bytes()
    looks = [row[0] for row in rows[:: max(1, count // 40)]] + [bytes(16), b"\xff" * 16, *make_ids(20)]
    answers = [found(right, id) for id in looks]
    dice = random.Random(7)
    reported = 0
    for _ in range(60):
        at = dice.randrange(len(raw))
        path.write_bytes(raw[:at] + bytes((raw[at] ^ 1 << dice.randrange(8),)) + raw[at + 1 :])
        try:
            events = RemovedEvents(str(path), HEADER, len(raw))
        except EvlogError:
            reported += 1
            continue
        with pytest.raises(CorruptionError):
            (events.rows(), events.streams())
        for look, answer in zip(looks, answers, strict=True):
            try:
                assert found(events, look) == answer
            except CorruptionError:
                reported += 1
    assert reported


@pytest.mark.parametrize("change", ["cut", "longer", "swapped", "empty", "counts"])
def test_a_file_that_is_not_this_segments_is_refused(tmp_path: Path, change: str) -> None:
    events = b"".join(EVENT.pack(*row) for row in sample(50))
    raw = encode_removed(HEADER, events, [])
    other = encode_removed(HEADER._replace(first_position=1), events, [])
    counts = encode_file_header(HEADER._replace(keys=1 << 31)) + raw[FILE_HEADER_BYTES:]
    spoilt = {"cut": raw[:-1], "longer": raw + b"\0", "swapped": other, "empty": b"", "counts": counts}
    (tmp_path / "x.removed").write_bytes(spoilt[change])
    with pytest.raises(CorruptionError):
        RemovedEvents(str(tmp_path / "x.removed"), HEADER, len(raw))


@pytest.mark.parametrize(
    "row",
    [(hash_stream("b") + 1, 0, 1, 1), (hash_stream("a"), 0, 1, 99), (hash_stream("a"), 0, 1, 0)],
    ids=["another hash", "name beyond the end", "no name"],
)
def test_a_stream_row_that_does_not_fit_its_name_is_damage(
    tmp_path: Path, row: tuple[int, int, int, int]
) -> None:
    content = bytes(8) + STREAM.pack(*row) + b"b"  # after where the only group begins and ends
    header = HEADER._replace(postings=1, source_crc=1)
    raw = encode_file_header(header) + content + page_crcs(content)
    (tmp_path / "x.removed").write_bytes(raw)
    with pytest.raises(CorruptionError):
        RemovedEvents(str(tmp_path / "x.removed"), HEADER, len(raw)).streams()


def test_removed_events_are_found_by_types_and_tags(tmp_path: Path) -> None:
    dice = random.Random(4)
    events = [
        (
            position,
            f"T{dice.randrange(3)}",
            tuple({f"t:{dice.randrange(6)}" for _ in range(dice.randrange(4))}),
        )
        for position in range(1, 400)
    ]
    records = [
        (position, 1, "s", type, bytes(16), 0, 0, b"{}", add_tags(tags, None))
        for position, type, tags in dice.sample(events, len(events))
    ]
    raw = encode_removed(HEADER, b"", [("s", 1, 1)], tags_of_removed(records))
    (tmp_path / "x.removed").write_bytes(raw)
    removed = RemovedEvents(str(tmp_path / "x.removed"), HEADER, len(raw))
    assert removed.streams() == [("s", 1, 1)]
    assert removed.tags() == sorted(removed.tags())
    for _ in range(300):
        types = [f"T{number}" for number in dice.sample(range(4), dice.randrange(3))]
        tags = [f"t:{number}" for number in dice.sample(range(7), dice.randrange(1, 3))]
        after = dice.randrange(400)
        matching = [
            position
            for position, type, own in events
            if position > after and (not types or type in types) and set(tags) <= set(own)
        ]
        assert removed.find_first(types, tags, after) == (matching[0] if matching else None)
    for at in range(len(raw) - 40, len(raw) - 4):
        damaged = bytearray(raw)
        damaged[at] ^= 1
        (tmp_path / "y.removed").write_bytes(damaged)
        with pytest.raises(CorruptionError):
            RemovedEvents(str(tmp_path / "y.removed"), HEADER, len(raw)).check_all()
