"""Tags decoded together are what they are one by one, and .tags is compared with them."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evlog import EventStore
from evlog.errors import InvalidEvent
from evlog.files.check import segments, tags
from evlog.files.check.indexes import _read_postings
from evlog.files.check.tags import TagDecoder, TagRows
from evlog.files.format.hashes import hash_tags, maybe_tag_bits
from evlog.files.format.headers import FILE_HEADER_BYTES, FormatFault, decode_file_header
from evlog.files.format.sorted_index import build_tags
from evlog.model.tags import MAX_TAGS, add_tags
from tests.support.helpers import flip_bit, new, segment_files

TAGS = st.lists(st.text('ab"\\]},é:[', min_size=1, max_size=6), max_size=4)
SOUND = b'{"$tags":["a","b"],"c":1}'


def decode(metadatas: list[bytes | None], decoder: TagDecoder | None = None) -> tuple[list[int], TagRows]:
    rows = TagRows(array("Q"), array("I"))
    return (decoder or TagDecoder()).decode(metadatas, rows, 7), rows


@given(st.lists(st.tuples(TAGS, st.sampled_from([None, b"{}", b' {"a":"]\\"]"}'])), max_size=6))
def test_tags_decoded_together_are_those_of_each_event(events: list[tuple[list[str], bytes | None]]) -> None:
    metadatas = [add_tags(own, metadata) for own, metadata in events]
    bits, rows = decode(metadatas)
    assert bits == (maybe_tag_bits(metadatas) or [0] * len(metadatas))
    wanted = [(hash, number) for number, raw in enumerate(metadatas, 7) for hash in set(hash_tags(raw))]
    assert sorted(zip(*rows, strict=True)) == sorted(wanted)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(
    "metadata",
    [
        b'{"$tags":[]}',
        b'{"$tags":["a","a"]}',
        b'{"$tags":[ "a"]}',
        b'{"$tags":["a" ,"b"]}',
        b'{"$tags":["a"] }',
        b'{"$tags":["a"] ,"c":1}',
        b'{"$tags":["\\u0061"]}',
        b'{"$tags":[1]}',
        b'{"$tags":["a",["b"]]}',
        b'{"$tags":[["a"]]}',
        b'{"$tags":[""]}',
        b'{"$tags":["\\n"]}',
        b'{"$tags":["\\ud800"]}',
        b'{"$tags":["%s"]}' % (b"x" * 256),
        b'{"$tags":[%s]}' % b",".join(b'"%d"' % number for number in range(MAX_TAGS + 1)),
    ],
)
def test_tags_that_no_append_writes_are_found(metadata: bytes, many: bool) -> None:
    with pytest.raises((FormatFault, ValueError, InvalidEvent)):
        decode([SOUND, None, metadata, SOUND] if many else [metadata])


def test_two_tags_of_an_event_may_share_a_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags, "hash_tag", lambda _: 5)
    bits, rows = decode([SOUND, None, SOUND])
    assert bits == [1 << 5 | 1, 0, 1 << 5 | 1]
    assert (rows.hashes.tolist(), rows.numbers.tolist()) == ([5, 5], [7, 9])


def test_a_decoder_that_has_seen_many_tags_forgets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags, "_MAX_KNOWN", 3)
    decoder = TagDecoder()
    metadatas = [add_tags([f"{number}", f"{number % 5}"], None) for number in range(10, 30)]
    for metadata in metadatas * 2:
        assert decode([metadata], decoder)[0] == maybe_tag_bits([metadata])
    assert len(decoder._hashes) <= 5


# --- .tags


@pytest.fixture
def tagged(store: EventStore) -> EventStore:
    for number in range(12):
        own = [f"n:{number % 3}", f'é"{number}'] if number % 4 else []
        store.append_many([(f"s-{number % 2}", [new(number, tags=own)])])
    assert store.verify().findings == ()
    return store


def in_one_piece(store: EventStore) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "plan_parts", lambda _: [])
        return [finding.kind for finding in store.verify().findings]


def test_a_tag_is_decoded_once(tagged: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise AssertionError("decoded by itself")

    for name, module in list(sys.modules.items()):
        for function in ("tags_of", "hash_tags"):
            if name.startswith("evlog.files.") and hasattr(module, function):
                monkeypatch.setattr(module, function, refuse)
    assert tagged.verify().findings == ()
    assert in_one_piece(tagged) == []


Rows = list[tuple[int, int]]


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[1:],
        lambda rows: rows[:-1],
        lambda rows: [*rows, (1 << 60, 1)],
        lambda rows: [(rows[0][0] ^ 1, rows[0][1]), *rows[1:]],
        lambda rows: [*rows[:-1], (rows[-1][0], 0)],
    ],
    ids=["the first left out", "the last left out", "one more", "another tag", "another event"],
)
def test_an_index_of_tags_that_is_wrong_is_found(tagged: EventStore, change: Callable[[Rows], Rows]) -> None:
    path = segment_files(tagged, "tags")[0]
    header = decode_file_header(path.read_bytes()[:FILE_HEADER_BYTES])
    rows = rows_of(path)
    path.write_bytes(build_tags(header, rows))
    assert tagged.verify().findings == ()
    path.write_bytes(build_tags(header, change(rows)))
    assert [finding.kind for finding in tagged.verify().findings] == ["index"]
    assert in_one_piece(tagged) == ["index"]


def rows_of(path: Path) -> Rows:
    """Return the rows of a file .tags, by the numbers of events."""
    header = decode_file_header(path.read_bytes()[:FILE_HEADER_BYTES])
    keys, starts, numbers = _read_postings(str(path), header._replace(keys=0, postings=0))
    rows = [(key, number) for at, key in enumerate(keys) for number in numbers[starts[at] : starts[at + 1]]]
    return sorted(rows, key=lambda row: row[1])


def test_a_damaged_index_of_tags_is_found_beside_a_damaged_log(tagged: EventStore) -> None:
    flip_bit(segment_files(tagged, "log")[0], -1)
    assert {finding.kind for finding in tagged.verify().findings} == {"frame"}
    flip_bit(segment_files(tagged, "tags")[0], 70)
    assert {finding.kind for finding in tagged.verify().findings} == {"frame", "index"}
