"""What is left of compacted events: every one is found by its id alone, no other is, and damage is told."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable
from pathlib import Path
from zlib import crc32

import pytest

from evlog.errors import CorruptionError, EvlogError
from evlog.files.format.hashes import hash_ids, hash_stream, hash_type
from evlog.files.format.headers import KIND_GONE, FileHeader
from evlog.files.log.removed import (
    GoneColumns,
    GoneEvent,
    GoneFile,
    GoneStream,
    content_check,
)
from evlog.files.log.removed_write import content_crcs, content_seeds, encode_gone
from evlog.model.events import make_ids

HEADER = FileHeader(KIND_GONE, 1, bytes(range(16)), 1000, 7)


def sample(count: int, seed: int = 1) -> tuple[list[bytes], GoneColumns]:
    """Events with gaps between their positions."""
    dice = random.Random(seed)
    ids = [dice.randbytes(16) for _ in range(count)]
    positions = sorted(dice.sample(range(1000, 1000 + 3 * count), count))
    return ids, columns_of(
        positions,
        [dice.randrange(1, 1 << 32) if at % 7 == 0 else at % 10 + 1 for at in range(count)],
        [fold >> 32 for fold in hash_ids(ids)] if ids else [],
        list(map(crc32, ids)),
        [dice.randrange(1 << 32) for _ in ids],
    )


def columns_of(positions: Iterable[int], *others: Iterable[int]) -> GoneColumns:
    return GoneColumns(array("Q", positions), *(array("I", column) for column in others))


def written(path: Path, columns: GoneColumns, streams: list[GoneStream] | None = None) -> GoneFile:
    raw = encode_gone(HEADER, columns, streams or [])
    path.write_bytes(raw)
    return GoneFile(str(path), HEADER, len(raw))


@pytest.mark.parametrize("count", [0, 1, 2, 300, 4095, 4096, 9000, 16385, 33000])
def test_every_event_is_found_by_its_id_and_no_other_is(tmp_path: Path, count: int) -> None:
    ids, columns = sample(count)
    gone = written(tmp_path / "x.gone", columns)
    assert gone.events == count
    for id, fold, position, version, crc in zip(
        ids, hash_ids(ids), columns.positions, columns.versions, columns.content_crcs, strict=True
    ):
        assert gone.find(id, fold) == GoneEvent(position, version, crc & 0xFFFF)
    for id in make_ids(300):
        assert gone.find(id, hash_ids([id])[0]) is None
    assert sorted(gone.id_keys()) == sorted(columns.uppers)


@pytest.mark.parametrize("count", [0, 300, 9000, 33000])
def test_what_is_left_can_be_taken_over_into_the_next_file(tmp_path: Path, count: int) -> None:
    _, columns = sample(count)
    again = written(tmp_path / "x.gone", columns).columns()
    assert again.positions == columns.positions
    assert (tmp_path / "x.gone").read_bytes() == encode_gone(HEADER, again, [])


@pytest.mark.parametrize("count", [10, 5000])
def test_ids_that_differ_only_in_the_highest_byte_of_the_fold_are_told_apart(
    tmp_path: Path, count: int
) -> None:
    ids, columns = sample(count)
    columns.uppers[7] ^= 1 << 24
    gone = written(tmp_path / "x.gone", columns)
    assert gone.find(ids[7], hash_ids(ids)[7]) is None
    assert gone.find(ids[7], hash_ids(ids)[7] ^ 1 << 56) is not None


def test_an_event_takes_nine_and_a_half_bytes(tmp_path: Path) -> None:
    _, columns = sample(50_000)
    columns = columns._replace(versions=array("I", [at % 10 + 1 for at in range(50_000)]))
    raw = encode_gone(HEADER, columns, [])
    assert len(raw) < 9.85 * 50_000  # a third of these positions stayed; where a tenth does, it is 9.45


def test_streams_that_lost_all_events_keep_name_version_and_time(tmp_path: Path) -> None:
    streams = [GoneStream(f"s-{number}", number + 1, 10**15 + number) for number in range(500)]
    streams.append(GoneStream("é" * 100, (1 << 32) - 1, 0))
    gone = written(tmp_path / "x.gone", sample(10)[1], streams)
    assert sorted(gone.streams()) == sorted(streams)
    for stream in streams:
        assert gone.version_of(stream.name, hash_stream(stream.name)) == stream.version
    assert gone.version_of("other", hash_stream("other")) == 0
    assert sorted(gone.stream_hashes()) == sorted(hash_stream(stream.name) for stream in streams)


def test_a_stream_is_told_by_its_name_where_hashes_collide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlog.files.log.removed_write.hash_stream", lambda _: 5)
    gone = written(
        tmp_path / "x.gone", sample(10)[1], [GoneStream(name, len(name), 0) for name in ("a", "bb")]
    )
    assert [gone.version_of(name, 5) for name in ("a", "bb", "ccc")] == [1, 2, 0]


def test_single_and_bulk_content_checks_agree() -> None:
    rows = [("s", "T", 0, b"{}"), ("s-2", "Other", 1, b"text"), ("s", "T", 2, b"")]
    hashes = [hash_stream(stream) for stream, _, _, _ in rows]
    types = [hash_type(type) for _, type, _, _ in rows]
    codes = [code for _, _, code, _ in rows]
    lower = array("I", [h & 0xFFFFFFFF for h in hashes])
    seeds = content_seeds(lower, array("I", types))
    bulk = content_crcs(seeds, codes, [data for _, _, _, data in rows])
    assert [crc & 0xFFFF for crc in bulk] == [
        content_check(*row)
        for row in zip(hashes, types, codes, [data for _, _, _, data in rows], strict=True)
    ]


def read_all(gone: GoneFile) -> None:
    gone.columns()
    gone.streams()


@pytest.mark.parametrize("count", [200, 5000])
def test_no_flipped_bit_changes_an_answer(tmp_path: Path, count: int) -> None:
    ids, columns = sample(count)
    streams = [GoneStream(f"s-{number}", number + 1, number) for number in range(5)]
    path = tmp_path / "x.gone"
    raw = encode_gone(HEADER, columns, streams)
    dice = random.Random(7)
    looks = [(id, fold) for id, fold in zip(ids, hash_ids(ids), strict=True)][:: max(1, count // 40)]
    path.write_bytes(raw)
    right = GoneFile(str(path), HEADER, len(raw))
    answers = [right.find(*look) for look in looks]
    told = 0
    for _ in range(60):
        at = dice.randrange(len(raw))
        path.write_bytes(raw[:at] + bytes((raw[at] ^ 1 << dice.randrange(8),)) + raw[at + 1 :])
        try:
            gone = GoneFile(str(path), HEADER, len(raw))
        except EvlogError:
            told += 1
            continue
        with pytest.raises(CorruptionError):
            read_all(gone)
        for look, answer in zip(looks, answers, strict=True):
            try:
                assert gone.find(*look) == answer
            except CorruptionError:
                told += 1
    assert told


@pytest.mark.parametrize("change", ["cut", "longer", "swapped", "empty"])
def test_a_file_that_is_not_this_segments_is_refused(tmp_path: Path, change: str) -> None:
    raw = encode_gone(HEADER, sample(50)[1], [])
    other = encode_gone(HEADER._replace(first_position=1), sample(50)[1], [])
    spoilt = {"cut": raw[:-1], "longer": raw + b"\0", "swapped": other, "empty": b""}[change]
    (tmp_path / "x.gone").write_bytes(spoilt)
    with pytest.raises(CorruptionError):
        GoneFile(str(tmp_path / "x.gone"), HEADER, len(raw))
