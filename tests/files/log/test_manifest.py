"""manifest.json: exact bytes, what is refused and how, and the stamp that tells one from the next."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

import evlog
from evlog.errors import CorruptionError, NotAStore, StoreNotFound, UnsupportedFormat
from evlog.files.disk.files import DISK
from evlog.files.format import manifest as codec
from evlog.files.format.manifest import Manifest, SegmentInfo, encode_manifest
from evlog.files.log.manifest_file import (
    open_manifest,
    parse_manifest,
    read_manifest,
    read_stamp,
    replace_manifest,
)
from tests.support.helpers import engine_of, small_store

ID = "018bcfe5-6800-7000-9011-121314151617"
SEALED = SegmentInfo(1, 0, 3, 4, 4, 701, 744767768, 10, 20)
MANIFEST = Manifest(ID, 1048576, 4, (SEALED, SegmentInfo(5, 0, 5)))
HEAD = (
    b'{"format":1,"store_id":"018bcfe5-6800-7000-9011-121314151617","segment_bytes":1048576,"segment_events":4,'
    b'"fields":["first_position","generation","tag","last_position","events","log_bytes","offsets_crc",'
    b'"first_time_us","last_time_us","removed_events","removed_bytes","removed_crc","lost_events",'
    b'"compressed_bytes","tagged_events"],"segments":[\n'
)
ROWS = b"[1,0,3,4,4,701,744767768,10,20,0,0,0,0,0,0],\n[5,0,5,0,0,0,0,0,0,0,0,0,0,0,0]\n]"
BYTES = HEAD + ROWS


def sign(body: bytes) -> bytes:
    """Any bytes with the CRC that a manifest has."""
    return body + b',"crc32":"%08x"}\n' % crc32(body)


def test_manifest_is_these_bytes() -> None:
    assert encode_manifest(MANIFEST) == sign(BYTES)
    assert parse_manifest(sign(BYTES), "m") == MANIFEST
    assert json.loads(sign(BYTES))["crc32"] == f"{crc32(BYTES):08x}"


@pytest.mark.parametrize(
    ("standing", "fields"),
    [
        ((ID, ""), b'"mirror_of":"018bcfe5-6800-7000-9011-121314151617",'),
        (("", 'postgresql://h/"x"\u00e9'), b'"moved_to":"postgresql://h/\\"x\\"\xc3\xa9",'),
    ],
)
def test_a_manifest_keeps_what_the_store_is_to_others(standing: tuple[str, str], fields: bytes) -> None:
    manifest = MANIFEST._replace(standing=standing)
    raw = encode_manifest(manifest)
    assert raw == sign(BYTES.replace(b'"fields"', fields + b'"fields"'))
    assert parse_manifest(raw, "m") == manifest


@pytest.mark.parametrize(
    "fields",
    [
        b'"mirror_of":"x",',
        b'"mirror_of":1,',
        b'"mirror_of":"",',
        b'"mirror_of":null,',
        b'"moved_to":["x"],',
        b'"moved_to":"' + b"x" * 9000 + b'",',
    ],
)
def test_a_standing_that_makes_no_sense_is_damage(fields: bytes) -> None:
    with pytest.raises(CorruptionError):
        parse_manifest(sign(BYTES.replace(b'"fields"', fields + b'"fields"')), "m")


positive = st.integers(1, 2**32 - 1)


@given(
    st.lists(st.tuples(positive, st.integers(1, 1000), st.integers(1, 1000)), max_size=5), positive, positive
)
def test_manifest_that_was_encoded_decodes_to_itself(
    shapes: list[tuple[int, int, int]], segment_bytes: int, tag: int
) -> None:
    segments: list[SegmentInfo] = []
    first = 1
    for log_bytes, events, gap in shapes:
        last = first + events + gap - 1
        segments.append(SegmentInfo(first, gap, tag, last, events, log_bytes, tag, gap, gap + events))
        first = last + 1
    manifest = Manifest(ID, segment_bytes, 1 + tag, (*segments, SegmentInfo(first, 0, tag)))
    assert parse_manifest(encode_manifest(manifest), "m") == manifest


# --- what is refused


@pytest.mark.parametrize(
    "raw",
    [
        b"x",
        b"{}",
        b"[]",
        b'{"name":"npm"}',
        b"\x89PNG",
        b'{"name":"x","version":"1"}\n',
        b"format",
        sign(b"[1"),
        sign(b'{"a":1'),
    ],
)
def test_file_of_something_else_is_not_a_store(raw: bytes) -> None:
    with pytest.raises(NotAStore) as caught:
        parse_manifest(raw, "dir/manifest.json")
    assert caught.value.path == "dir"


@pytest.mark.parametrize(
    "raw", [b"", b"\0", b"\0" * 360, *[sign(BYTES)[:at] for at in (12, 40, 200, -20, -1)]]
)
def test_empty_zeroed_or_torn_manifest_is_corrupt(raw: bytes) -> None:
    with pytest.raises(CorruptionError) as caught:
        parse_manifest(raw, "dir/manifest.json")
    assert caught.value.path == "dir/manifest.json"


def test_newer_manifest_is_unsupported_and_a_damaged_newer_one_is_corrupt() -> None:
    newer = BYTES.replace(b'"format":1,', b'"format":2,"shape":[],')
    with pytest.raises(UnsupportedFormat) as caught:
        parse_manifest(sign(newer), "m")
    assert (caught.value.found, caught.value.supported) == (2, 1)
    damaged = sign(newer).replace(b'"shape"', b'"shopa"')
    with pytest.raises(CorruptionError):
        parse_manifest(damaged, "m")


def document(**change: Any) -> bytes:
    """Return a manifest with other values in its first line."""
    content = json.loads(HEAD + b"]}") | change
    head = json.dumps(content, separators=(",", ":")).encode()
    return sign(head.replace(b'"segments":[]}', b'"segments":[') + b"\n" + ROWS)


def rows(*lines: bytes) -> bytes:
    return sign(HEAD + b",\n".join(lines) + b"\n]")


def row(info: SegmentInfo = SEALED, **change: Any) -> bytes:
    return json.dumps(list((info._asdict() | change).values()), separators=(",", ":")).encode()


ACTIVE = row(SegmentInfo(5, 0, 5))


def active(**change: Any) -> bytes:
    return rows(row(SegmentInfo(1, 0, 5), **change))


def sealed(**change: Any) -> bytes:
    return rows(row(**change), ACTIVE)


NONSENSE = {
    "format zero": document(format=0),
    "format negative": document(format=-1),
    "format text": document(format="1"),
    "format true": document(format=True),
    "format null": document(format=None),
    "format fraction": document(format=0.5),
    "id number": document(store_id=5),
    "id null": document(store_id=None),
    "id short": document(store_id="018bcfe5"),
    "id not hex": document(store_id="x" * 32),
    "bytes zero": document(segment_bytes=0),
    "bytes text": document(segment_bytes="1"),
    "bytes fraction": document(segment_bytes=1.5),
    "events negative": document(segment_events=-1),
    "events list": document(segment_events=[1]),
    "no segments": rows(),
    "segments in the first line": sign(HEAD.strip() + ROWS.replace(b"\n", b"")),
    "no active segment": rows(row()),
    "two active": rows(row(SegmentInfo(1, 0, 5)), ACTIVE),
    "segment text": rows(b'["x"]'),
    "segment number": rows(b"5"),
    "segment object": rows(b"{}"),
    "too few fields": rows(row()[:-3] + b"]", ACTIVE),
    "too many fields": rows(row()[:-1] + b",0]", ACTIVE),
    "other fields": document(fields=["first_position"]),
    "blank in a row": rows(row().replace(b",", b", ", 1), ACTIVE),
    "sign in a row": rows(row().replace(b"[1,", b"[+1,"), ACTIVE),
    "no comma": sign(HEAD + row() + b"\n" + ACTIVE + b"\n]"),
    "no bracket at the end": sign(HEAD + row() + b",\n" + ACTIVE),
    "tag too large": sealed(tag=1 << 32),
    "generation too large": sealed(generation=1 << 32),
    "position too large": active(first_position=1 << 64),
    "log too large": sealed(log_bytes=1 << 32),
    "compressed and active": active(compressed_bytes=5),
    "sealed and empty": sealed(events=0),
    "position zero": active(first_position=0),
    "position fraction": active(first_position=1.0),
    "position text": active(first_position="1"),
    "position null": active(first_position=None),
    "generation negative": active(generation=-1),
    "tag fraction": active(tag=5.0),
    "events beyond positions": sealed(events=5),
    "positions overlap": sealed(last_position=5),
    "last before first": sealed(last_position=0),
    "crc negative": sealed(offsets_crc=-1),
    "not json": sign(b'{"format":1'[:-1]),
    "deep": sign(b'{"format":' + b"[" * 100_000),
    "long number": sign(b'{"format":' + b"1" * 10_000),
    "not utf-8": sign(b'{"format":"\xff"'),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_under_a_right_crc_is_corrupt(name: str) -> None:
    with pytest.raises(CorruptionError):
        parse_manifest(NONSENSE[name], "m")


anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(SegmentInfo._fields), inner),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "format": st.sampled_from([1, 1, 2, "1", None, -1]) | anything,
            "store_id": st.just(ID) | anything,
            "segment_bytes": st.just(1) | anything,
            "segment_events": st.just(1) | anything,
            "fields": anything,
        },
    ),
    st.lists(st.lists(st.integers(-5, 1 << 70) | anything, min_size=13, max_size=15), max_size=3),
)
def test_any_document_under_a_right_crc_decodes_or_is_a_documented_error(
    content: dict[str, Any], lines: list[list[Any]]
) -> None:
    raw = (
        document(**content)[: -len(ROWS) - 22]
        + rows(*(json.dumps(line).encode() for line in lines))[len(HEAD) :]
    )
    try:
        manifest = parse_manifest(sign(raw.rpartition(b',"crc32"')[0]), "m")
    except (CorruptionError, UnsupportedFormat, NotAStore):
        return
    assert all(type(value) is int for segment in manifest.segments for value in segment)


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_a_documented_error(raw: bytes, signed: bool) -> None:
    with pytest.raises((CorruptionError, NotAStore)):
        parse_manifest(sign(raw) if signed else raw, "m")


@pytest.mark.parametrize("number", [b"-1", b"007", b"1e3", b"99999999999999999999", b" 7", b""])
def test_segment_that_cannot_be_is_found_when_it_is_asked_for(number: bytes) -> None:
    raw = rows(row().rpartition(b",")[0] + b"," + number + b"]", ACTIVE)
    with pytest.raises(CorruptionError):
        parse_manifest(raw, "m")
    manifest = parse_manifest(raw, "m", lazily=True)
    assert manifest.segments[-1] == SegmentInfo(5, 0, 5)
    with pytest.raises(CorruptionError) as caught:
        manifest.segments[0]
    assert caught.value.path == "m"


@pytest.mark.parametrize("nonsense", ["two active", "positions overlap"])
def test_segment_that_the_next_one_does_not_follow_is_found_when_it_is_asked_for(nonsense: str) -> None:
    manifest = parse_manifest(NONSENSE[nonsense], "m", lazily=True)
    assert manifest.segments[-1] == SegmentInfo(5, 0, 5)
    for ask in (lambda: manifest.segments[0], lambda: manifest.segments[:1], lambda: list(manifest.segments)):
        with pytest.raises(CorruptionError):
            ask()


def test_manifest_without_an_active_segment_is_found_at_once() -> None:
    with pytest.raises(CorruptionError):
        parse_manifest(NONSENSE["no active segment"], "m", lazily=True)


# --- files


def test_missing_manifest_is_not_a_store(tmp_path: Path) -> None:
    for store in (tmp_path, tmp_path / "missing"):
        for read in (read_manifest, read_stamp):
            with pytest.raises(StoreNotFound) as caught:
                read(str(store))
            assert caught.value.path == str(store)


def test_replaced_manifest_has_another_stamp_and_leaves_no_other_file(tmp_path: Path) -> None:
    stamps = set()
    for tag in range(1, 20):
        manifest = Manifest(ID, 10, 10, (SegmentInfo(1, 0, tag),))
        replace_manifest(str(tmp_path), manifest, DISK)
        found, _, stamp, _ = open_manifest(str(tmp_path))
        assert found._replace(segments=tuple(found.segments)) == manifest
        assert stamp == read_stamp(str(tmp_path))
        stamps.add(stamp)
    assert len(stamps) == 19
    assert os.listdir(tmp_path) == ["manifest.json"]


def test_no_other_manifest_has_the_stamp_of_one_that_is_open(tmp_path: Path) -> None:
    """File systems give a freed inode to the next file, and their clocks tick at some milliseconds."""
    store = str(tmp_path)
    replace_manifest(store, MANIFEST, DISK)
    _, _, first, kept = open_manifest(store)
    for tag in range(100, 300):
        replace_manifest(store, Manifest(ID, 10, 10, (SegmentInfo(1, 0, tag),)), DISK)
        os.utime(tmp_path / "manifest.json", ns=(first.modified_ns, first.modified_ns))
        assert read_stamp(store) != first
    assert kept.size() == first.size


def test_one_new_segment_among_thousands_is_all_that_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    infos = [SegmentInfo(1 + at, 0, 7, 1 + at, 1, 100, 5) for at in range(3000)]
    before = Manifest(ID, 10, 10, (*infos, SegmentInfo(9000, 0, 5)))
    raw = encode_manifest(before)
    made: list[SegmentInfo] = []
    real = codec._encode_row

    def counting(info: SegmentInfo) -> bytes:
        made.append(info)
        return real(info)

    monkeypatch.setattr(codec, "_encode_row", counting)
    after = before._replace(
        segments=(*infos, SegmentInfo(9000, 0, 5, 9000, 1, 100, 5), SegmentInfo(9001, 0, 6))
    )
    assert encode_manifest(before) == raw
    assert made == []
    assert parse_manifest(encode_manifest(after), "m") == after
    assert len(made) == 2


def test_settings_of_the_store_are_those_it_was_made_with(memory_path: Path) -> None:
    small_store(memory_path / "store", segment_events=5).close()
    with evlog.open(memory_path / "store", create=True, segment_events=100) as store:
        assert engine_of(store)._opened().manifest.segment_events == 5
