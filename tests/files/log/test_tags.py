"""Look-ups by tags answer as a plain loop does: in entries, in dicts, in .tags, and without it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import evlog
from evlog import EventStore, IfNone, Query
from evlog.files.format.entries import ENTRY_BYTES
from evlog.files.format.hashes import hash_tag, tag_bits
from evlog.files.log import column_index, read
from evlog.files.log import tags as module
from evlog.files.log.log import Log
from evlog.files.log.tags import ActiveTags, find_in_entries, in_all
from tests.support.helpers import flip_bit, new, numbers, segment_files, small_store, writer_of
from tests.support.interrupts import Interrupted

rising = st.lists(st.integers(0, 60), max_size=40).map(lambda found: sorted(set(found)))


@given(st.lists(rising, min_size=1, max_size=3))
def test_what_is_in_all_lists_is_in_each(lists: list[list[int]]) -> None:
    assert set(in_all(lists)) >= set(lists[0]).intersection(*lists)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SHORT", 0)
        assert list(in_all(lists)) == sorted(set(lists[0]).intersection(*lists))


@given(
    st.lists(st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 0x80000000, 0x01010101]), max_size=80),
    st.integers(0, 2**64 - 1),
    st.integers(0, 80),
    st.integers(0, 80),
    st.sampled_from([bytes, bytearray, memoryview]),
)
def test_bits_are_found_as_a_plain_loop_finds_them(
    cells: list[int], hash: int, low: int, high: int, kind: type
) -> None:
    entries = kind(
        b"".join(bytes(8) + bits.to_bytes(4, "little") + bytes(ENTRY_BYTES - 12) for bits in cells)
    )
    low, high = min(low, high, len(cells)), min(max(low, high), len(cells))
    mask = tag_bits([hash])
    expected = [number for number in range(low, high) if cells[number] & mask == mask]
    assert find_in_entries(entries, [hash], low, high) == expected


def fill_tagged(store: EventStore, count: int) -> list[set[str]]:
    """Append events of which some have tags; return the tags of each."""
    made = []
    for number in range(count):
        tags = {f"{modulus}:{number % modulus}" for modulus in (2, 3, 5, 7)} if number % 3 else set[str]()
        made.append(tags)
        store.append("s", [new(number, tags=sorted(tags))])
    return made


WANTED = [("2:1",), ("3:1", "7:6"), ("3:1", "3:2"), ("none",), ("2:0", "3:2", "5:3")]


def expected_of(made: list[set[str]], wanted: Iterable[str]) -> list[int]:
    return [number for number, tags in enumerate(made) if set(wanted) <= tags]


def answers(store: EventStore, made: list[set[str]]) -> None:
    """Compare reads by tags, forwards, backwards and bounded, with a plain loop."""
    for wanted in WANTED:
        expected = expected_of(made, wanted)
        assert numbers(store.read_all(tags=wanted)) == expected
        assert numbers(store.read_all(tags=wanted, reverse=True, limit=3)) == expected[::-1][:3]
        half = len(made) // 2
        assert numbers(store.read_all(half, tags=wanted)) == expected[bisect_left(expected, half) :]


@pytest.mark.parametrize("searches", [0, 1 << 40])
@pytest.mark.parametrize("few", [0, 7])
def test_the_active_segment_is_searched_or_kept_in_a_dict(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, searches: int, few: int
) -> None:
    monkeypatch.setattr(module, "_SEARCHES_BEFORE_DICT", searches)
    monkeypatch.setattr(module, "_FEW_ENTRIES", few)
    with small_store(memory_path / "store", segment_events=1000) as store:
        made = fill_tagged(store, 60)
        answers(store, made)
        with evlog.open(store.path) as other:
            made += fill_tagged(other, 60)
        for wanted in WANTED:
            places = [place for place, tags in enumerate(made, 1) if set(wanted) <= tags]
            assert [event.position for event in store.read_all(tags=wanted)] == places


@pytest.mark.exact_hashes
def test_a_dict_is_made_once_many_entries_were_searched(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FEW_ENTRIES", 0)
    with small_store(f"{store.path}-2", segment_events=1000) as large:
        fill_tagged(large, 30)
        segment = Log(large.path).active.segment
        tags = ActiveTags(segment)
        for _ in range(module._SEARCHES_BEFORE_DICT):
            assert list(tags.find([hash_tag("7:6")], 0, 30))
            assert not tags._grown[0]
        assert list(tags.find([hash_tag("7:6")], 3, 30)) == [13, 20]
        assert tags._grown[0] == 30


@pytest.mark.exact_hashes
def test_a_writer_makes_and_extends_the_dict_before_it_takes_the_lock(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the lock it would delay all others."""
    monkeypatch.setattr(read, "_RECENT_EVENTS", 0)
    monkeypatch.setattr(module, "_FEW_ENTRIES", 0)
    monkeypatch.setattr(module, "_SEARCHES_BEFORE_DICT", 2)
    with small_store(memory_path / "store", segment_events=1000) as store:
        lock, grow = writer_of(store)._lock, ActiveTags._grow
        grown: list[tuple[int, bool]] = []

        def watched_grow(tags: ActiveTags, high: int) -> Any:
            grown.append((high, lock._held is not None))
            return grow(tags, high)

        monkeypatch.setattr(ActiveTags, "_grow", watched_grow)
        for number in range(10):
            tags = [f"number:{number}"]
            store.append("s", [new(number, tags=tags)], conditions=IfNone(Query(tags=tags)))
        assert grown == [(high, False) for high in range(5, 10)]


@pytest.mark.exact_hashes
@pytest.mark.parametrize("recent", [0, 5, 128])
def test_a_condition_is_looked_up_where_the_bits_of_recent_events_do_not_exclude_it(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, recent: int
) -> None:
    monkeypatch.setattr(read, "_RECENT_EVENTS", recent)
    with small_store(memory_path / "store", segment_events=20) as store:
        made = fill_tagged(store, 50)  # the last ten are in the active segment
        log = Log(store.path)
        cases = [(wanted, after) for wanted in WANTED for after in range(51)]
        conditions = [IfNone(Query(tags=wanted), after) for wanted, after in cases]
        may_match = read.may_match_after(log.active, conditions)
        for (wanted, after), condition, may in zip(cases, conditions, may_match, strict=True):
            matched = any(number >= after for number in expected_of(made, wanted))
            assert (read.find_first(log, condition.query.items, after) is not None) == matched
            assert may or not matched
            if after >= max(40, 50 - recent):
                hashes = list(map(hash_tag, wanted))
                assert may == bool(find_in_entries(log.active.entries(), hashes, after - 40, 10))
        assert read.may_match_after(log.active, [IfNone("type=T", 49), IfNone("type=T", 50)])[0]


@pytest.mark.exact_hashes
def test_an_interrupt_while_the_dict_grows_repeats_no_event(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FEW_ENTRIES", 0)
    monkeypatch.setattr(module, "_SEARCHES_BEFORE_DICT", 0)
    with small_store(memory_path / "store", segment_events=1000) as store:
        fill_tagged(store, 40)
        hashes = [hash_tag("7:6")]
        segment = Log(store.path).active.segment
        expected = find_in_entries(segment.entries, hashes, 0, 40)
        assert len(expected) > 2
        for step in range(1, 1000):
            tags = ActiveTags(segment)
            assert list(tags.find(hashes, 0, 15)) == find_in_entries(segment.entries, hashes, 0, 15)
            with Interrupted(step, module, column_index) as interrupted:
                tags.find(hashes, 0, 30)
            assert list(tags.find(hashes, 0, 40)) == expected
            if not interrupted.happened:
                assert step > 10
                return
    raise AssertionError("the look-up never got through")


def test_sealed_segments_are_looked_up_in_their_files(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_events=20) as store:
        made = fill_tagged(store, 130)
        answers(store, made)
        store.append_many([("t", [new(number) for number in range(20)])])  # a segment without tags
        store.append("t", [new(0)])
        infos = Log(store.path).manifest.segments
        assert [info.tagged_events for info in infos] == [13, 13, 14, 13, 13, 14, 6, 0, 0]
        assert len(segment_files(store, "tags")) == 7
        assert store.verify().findings == ()


@pytest.mark.exact_hashes
def test_few_segments_are_opened_for_a_rare_tag(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_events=4, sync="none") as store:
        for number in range(400):
            store.append("s", [new(number, tags=["rare"] if number in (17, 203) else [f"t:{number}"])])
    with evlog.open(memory_path / "store") as store:
        assert numbers(store.read_all(tags=["rare"], reverse=True)) == [203, 17]
        log = store.engine._log  # type: ignore[attr-defined]
        opened = [part.first_position for part in log.sealed if part._segment is not None]
        assert len(opened) <= 6
        assert {17, 201} <= set(opened)


DAMAGE = {
    "missing": None,
    "cut": lambda raw: raw[:-3],
    "flipped": lambda raw: raw[:70] + bytes([raw[70] ^ 4]) + raw[71:],
    "zeros": lambda raw: raw[:64] + bytes(len(raw) - 64),
    "empty": lambda raw: b"",
}


@pytest.mark.usefixtures("no_writer_at_work")
@pytest.mark.parametrize("damage", DAMAGE)
def test_without_a_sound_file_the_answer_is_the_same_and_a_writer_rebuilds_it(
    memory_path: Path, damage: str
) -> None:
    with small_store(memory_path / "store", segment_events=20) as store:
        made = fill_tagged(store, 50)
        path = segment_files(store, "tags")[0]
    whole = path.read_bytes()
    change = DAMAGE[damage]
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(whole))
    with evlog.open(memory_path / "store") as store:
        answers(store, made)
        report = store.verify()
        assert report.ok
        assert [finding.file for finding in report.findings] == [f"segments/{path.name}"]
        store.append("s", [new(50)])
        assert path.read_bytes() == whole
        assert store.verify().findings == ()


@pytest.mark.exact_hashes
def test_a_file_that_hides_an_event_though_its_crcs_hold_is_damage_and_is_rebuilt(memory_path: Path) -> None:
    from evlog.files.format.headers import decode_file_header
    from evlog.files.format.sorted_index import build_tags

    with small_store(memory_path / "store", segment_events=20) as store:
        made = fill_tagged(store, 50)
        path = segment_files(store, "tags")[0]
    whole = path.read_bytes()
    header = decode_file_header(whole[:64])
    rows = [(hash_tag(tag), number) for number, tags in enumerate(made[:20]) for tag in tags]
    assert build_tags(header, rows) == whole
    path.write_bytes(build_tags(header, rows[:-1]))
    with evlog.open(memory_path / "store") as store:
        report = store.verify()
        assert not report.ok
        assert "index" in {finding.kind for finding in report.findings if finding.severity == "damage"}
    evlog.repair_store(memory_path / "store")
    assert path.read_bytes() == whole
    with evlog.open(memory_path / "store") as store:
        answers(store, made)
        assert store.verify().ok


def test_a_manifest_that_denies_tags_is_damage(memory_path: Path) -> None:
    from tests.support.forge import replace_info

    with small_store(memory_path / "store", segment_events=20) as store:
        fill_tagged(store, 50)
        info = Log(store.path).manifest.segments[0]
        replace_info(store, 0, info._replace(tagged_events=0))
        report = store.verify()
        assert ("manifest", "damage") in {(finding.kind, finding.severity) for finding in report.findings}


@pytest.mark.parametrize("compress", [False, True])
def test_a_compaction_keeps_tags_of_what_stays(memory_path: Path, compress: bool) -> None:
    if compress:
        pytest.importorskip("zstandard")
    with small_store(memory_path / "store", segment_events=20) as store:
        made = fill_tagged(store, 110)
        store.append_many([("t", [new(number, tags=["keep"])]) for number in range(110, 150)])
        store.set_retention("s", before=61)
        store.compact(compress=compress)
        left = [set[str]() if number < 60 else tags for number, tags in enumerate(made)]
        for wanted in WANTED:
            assert numbers(store.read_all(tags=wanted)) == expected_of(left, wanted)
        assert numbers(store.read_all(tags=["keep"])) == list(range(110, 150))
        assert store.verify().ok
        assert store.verify().findings == ()
    with evlog.open(memory_path / "store") as store:
        assert numbers(store.read_all(tags=["2:1"], reverse=True)) == expected_of(left, ["2:1"])[::-1]


def test_a_salvaged_store_finds_by_tags(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_events=20) as store:
        made = fill_tagged(store, 50)
        log = segment_files(store, "log")[0]
    raw = bytearray(log.read_bytes())
    at = raw.index(b'"5:4"')
    raw[at + 1] ^= 1
    log.write_bytes(raw)
    evlog.salvage_store(memory_path / "store", memory_path / "out")
    with evlog.open(memory_path / "out") as out:
        lost = set(range(50)) - set(numbers(out.read_all()))
        assert len(lost) == 1
        left = [set[str]() if number in lost else tags for number, tags in enumerate(made)]
        for wanted in WANTED:
            assert numbers(out.read_all(tags=wanted)) == expected_of(left, wanted)
        assert out.verify().ok


@pytest.mark.exact_hashes
def test_a_damaged_event_does_not_hide_others(memory_path: Path) -> None:
    """Neither where the tags of the active segment are read into a dict."""
    with small_store(memory_path / "store", segment_events=1000) as store:
        made = fill_tagged(store, 30)
        (log,) = segment_files(store, "log")
    flip_bit(log, b'"7:6"', 1)
    with evlog.open(memory_path / "store") as store:
        for _ in range(2):
            assert numbers(store.read_all(tags=["7:1", "2:1"])) == expected_of(made, ["7:1", "2:1"])
