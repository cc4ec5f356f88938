"""`compact(compress=True)`: which logs are compressed, what stays as it was, and how it goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import evlog
from evlog import EventStore, NewEvent
from evlog.errors import CorruptionError, StoreFull
from evlog.files.check import verify
from evlog.files.check.digest import HeadDigest
from evlog.files.check.segments import Pieces
from evlog.files.check.task import SegmentTask
from evlog.files.compaction import compress as compact_compress
from evlog.files.disk import zstd
from evlog.files.log.manifest_file import read_manifest
from tests.crash.damage import read_files
from tests.support.helpers import compress_all, engine_of, facts, flip_bit, new, segment_files, small_store

TEXT = "the same words again and again, "


def fill_wide(store: EventStore, count: int) -> None:
    """Append events whose logs compress well as they are."""
    for number in range(count):
        store.append(f"s-{number % 3}", [NewEvent("T", TEXT * 10 + str(number))])


def packed(store: EventStore) -> list[int]:
    """Return the bytes of each sealed segment's compressed file, 0 where it is plain."""
    infos = read_manifest(store.path).segments[:-1]
    sizes = []
    for info in infos:
        paths = [
            Path(store.path, "segments", f"{info.first_position:020d}.{info.generation}.{suffix}")
            for suffix in ("log", "log.zst")
        ]
        assert [path.exists() for path in paths] == [not info.compressed_bytes, info.compressed_bytes > 0]
        if info.compressed_bytes:
            assert paths[1].stat().st_size == info.compressed_bytes
        sizes.append(info.compressed_bytes)
    return sizes


def test_sealed_segments_are_compressed_and_nothing_else_changes(store: EventStore) -> None:
    fill_wide(store, 30)
    before, head = facts(store.read_all(include_system=True)), store.verify()
    files, size = read_files(store.path), store.info().bytes
    done = store.compact(compress=True)
    assert (done.segments_compressed, done.events_removed, done.resumed) == (3, 0, False)
    assert sum(packed(store)) == done.compressed_bytes < done.uncompressed_bytes // 2
    info = store.info()
    assert (info.compressed_segments, info.saved_bytes) == (
        3,
        done.uncompressed_bytes - done.compressed_bytes,
    )
    assert size - info.bytes == pytest.approx(info.saved_bytes, abs=200)
    assert facts(store.read_all(include_system=True)) == before, "an event came or went"
    after = read_files(store.path)
    gone = {f"segments/{path.name[:-4]}" for path in segment_files(store, "log.zst")}
    assert files.keys() - after.keys() == gone
    assert all(after[name] == files[name] for name in files.keys() - gone if "segments/" in name)
    report = store.verify(against=head.digest)
    assert report.ok
    assert report.digest == head.digest


def test_compressing_again_finds_nothing_to_do(store: EventStore) -> None:
    fill_wide(store, 30)
    store.compact(compress=True)
    files = read_files(store.path)
    again = store.compact(compress=True)
    assert (again.segments_compressed, again.compressed_bytes) == (0, 0)
    assert read_files(store.path) == files
    fill_wide(store, 8)
    assert store.compact(compress=True).segments_compressed == 1


def test_any_zstandard_turns_a_compressed_log_back(store: EventStore) -> None:
    import zstandard

    fill_wide(store, 20)
    logs = {path.name: path.read_bytes() for path in segment_files(store, "log")[:-1]}
    store.compact(compress=True)
    for path in segment_files(store, "log.zst"):
        with path.open("rb") as file:
            reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
            assert reader.read() == logs[path.name.removesuffix(".zst")]


def test_what_would_not_shrink_stays_plain(store: EventStore) -> None:
    for _ in range(20):
        store.append("noise", [NewEvent("T", os.urandom(3000), content_type="binary")])
    logs = [path.read_bytes() for path in segment_files(store, "log")]
    for dry_run in (True, False, False):
        assert store.compact(compress=True, dry_run=dry_run).segments_compressed == 0
    assert [path.read_bytes() for path in segment_files(store, "log")] == logs
    assert packed(store) == [0, 0]


def test_what_shrinks_only_by_its_sample_stays_plain(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact_compress, "maybe_estimate", lambda _: 1)
    for _ in range(20):
        store.append("noise", [NewEvent("T", os.urandom(3000), content_type="binary")])
    assert store.compact(compress=True).segments_compressed == 0
    assert packed(store) == [0, 0]


def test_a_dry_run_writes_nothing_and_tells_about_how_much(memory_path: Path) -> None:
    with small_store(memory_path / "store", segment_events=4000, segment_bytes=4 << 20) as store:
        for number in range(8):
            store.append("s", [NewEvent("T", f"{TEXT * (n % 20)}{n * n}") for n in range(number, 1000)])
        fill_wide(store, 3)
        files = read_files(store.path)
        told = store.compact(compress=True, dry_run=True)
        assert read_files(store.path) == files
        done = store.compact(compress=True)
    assert told.segments_compressed == done.segments_compressed == 1
    assert told.uncompressed_bytes == done.uncompressed_bytes
    assert told.compressed_bytes == pytest.approx(done.compressed_bytes, rel=0.1)


def test_what_a_compaction_writes_anew_stays_compressed(store: EventStore) -> None:
    fill_wide(store, 60)
    store.compact(compress=True)
    store.set_retention("s-1", max_count=2)
    kept = [fact for fact in facts(store.read_all()) if fact[1] != "s-1" or fact[2] > 18]
    done = store.compact()
    assert done.events_removed == 18
    assert done.segments_compressed > 0
    infos = read_manifest(store.path).segments[:-1]
    assert [bool(info.compressed_bytes) for info in infos] == [True] * 7 + [False] * (len(infos) - 7)
    assert any(info.generation for info in infos)
    assert packed(store)
    assert facts(store.read_all()) == kept
    assert store.verify().ok


def test_one_call_removes_and_compresses(store: EventStore) -> None:
    fill_wide(store, 60)
    store.set_retention("s-1", max_count=2)
    done = store.compact(compress=True)
    assert done.events_removed == 18
    assert all(packed(store))
    assert done.segments_compressed == len(packed(store))
    assert store.verify().ok


def test_one_that_is_interrupted_goes_on_where_it_was(store: EventStore) -> None:
    fill_wide(store, 40)
    before = facts(store.read_all())

    def interrupt(done: int, total: int) -> None:
        assert done <= total
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.compact(compress=True, progress=interrupt)
    half = packed(store)
    assert 0 < sum(map(bool, half)) < len(half)
    assert facts(store.read_all()) == before
    assert len(segment_files(store, "log.zst")) == sum(map(bool, half)), "the half-written file stayed"
    store.compact(compress=True)
    assert packed(store)[: sum(map(bool, half))] == half[: sum(map(bool, half))]
    assert all(packed(store))


def test_progress_comes_to_its_end(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    compress_all(monkeypatch, 100)
    monkeypatch.setattr(compact_compress, "_BLOCKS_AT_ONCE", 4)
    fill_wide(store, 30)
    store.append("n", [NewEvent("T", os.urandom(3000), content_type="binary")] * 1)
    told: list[tuple[int, int]] = []
    done = store.compact(compress=True, progress=lambda at, total: told.append((at, total)))
    assert {total for _, total in told} == {done.uncompressed_bytes}
    assert [at for at, _ in told] == sorted(at for at, _ in told)
    assert told[-1] == (done.uncompressed_bytes,) * 2
    assert len(told) > 10


def test_a_read_under_way_and_another_process_notice_nothing(store: EventStore) -> None:
    fill_wide(store, 40)
    with evlog.open(store.path) as begun, evlog.open(store.path) as opened:
        reads = {
            "forwards": (begun.read_all(), facts(store.read_all())),
            "backwards": (begun.read_all(reverse=True), facts(store.read_all(reverse=True))),
            "a stream": (begun.read("s-1"), facts(store.read("s-1"))),
        }
        first = {name: facts([next(read)]) for name, (read, _) in reads.items()}
        log = engine_of(opened)._opened()
        store.compact(compress=True)
        for name, (read, wanted) in reads.items():
            assert first[name] + facts(read) == wanted, name
        assert not log.is_current(), "it did look before"
        assert facts(opened.read_all()) == facts(store.read_all())
        assert opened.append("s-0", [new()], expected=14).last_position == 41


def test_a_reader_with_an_old_manifest_finds_the_files_replaced(store: EventStore) -> None:
    fill_wide(store, 40)
    wanted = facts(store.read_all())
    with evlog.open(store.path) as other:
        read = other.read_all()
        found = facts([next(read)])
        engine_of(other)._opened().close()  # nothing of it is open any more, but the view is the old one
        store.compact(compress=True)
        assert found + facts(read) == wanted


def test_a_check_that_finds_segments_compressed_meanwhile_goes_on(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not begin again for that: compressing a large store takes longer than checking it."""
    fill_wide(store, 60)
    digest = store.verify().digest
    compressed = begun = 0

    def compress_first(tasks: list[SegmentTask], digest: HeadDigest) -> Pieces:
        nonlocal compressed, begun
        if not begun:
            compressed = store.compact(compress=True).segments_compressed
        begun += 1
        return Pieces(tasks, digest)

    monkeypatch.setattr(verify, "Pieces", compress_first)
    report = store.verify()
    assert (compressed, begun) == (7, 1)
    assert (report.findings, report.digest, report.events) == ((), digest, 60)


@pytest.mark.exact_hashes  # else a look-up meets the damage before anything is compressed
def test_a_damaged_log_is_not_compressed(store: EventStore) -> None:
    fill_wide(store, 30)
    path = segment_files(store, "log")[1]
    flip_bit(path, -3)
    damaged = path.read_bytes()
    with pytest.raises(CorruptionError) as raised:
        store.compact(compress=True)
    assert raised.value.path == str(path)
    assert path.read_bytes() == damaged
    assert [bool(size) for size in packed(store)] == [True, False, False]


def test_a_block_that_would_not_come_back_is_never_put_in_place(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_wide(store, 20)
    logs = [path.read_bytes() for path in segment_files(store, "log")]
    zstd.require_zstandard("")
    for wrong in (b"never packed", zstd.pack(b"something else" * 1000)):
        monkeypatch.setattr(compact_compress, "pack", lambda _, wrong=wrong: wrong)
        with pytest.raises(CorruptionError):
            store.compact(compress=True)
    assert [path.read_bytes() for path in segment_files(store, "log")] == logs
    assert packed(store) == [0, 0]


def test_a_full_disk_leaves_the_plain_log(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_wide(store, 20)

    def no_room(*_: object) -> None:
        raise StoreFull(store.path, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("evlog.files.compaction.commit.replace_manifest_locked", no_room)
        with pytest.raises(StoreFull):
            store.compact(compress=True)
    with monkeypatch.context() as patch:
        patch.setattr(engine_of(store)._disk, "write_at", no_room)
        with pytest.raises(StoreFull):
            store.compact(compress=True)
    assert packed(store) == [0, 0]
    assert store.verify().ok
    assert all(store.compact(compress=True) and packed(store))


@pytest.mark.parametrize("suffix", ["log", "log.zst"])
def test_the_other_form_of_a_log_is_a_leftover(store: EventStore, suffix: str) -> None:
    """A crash left it: before the manifest named the new one, or before the old one was removed."""
    fill_wide(store, 20)
    first = segment_files(store, "log")[0]
    if suffix == "log":
        raw = first.read_bytes()
        store.compact(compress=True)
    else:
        raw = b"half a file"
    leftover = first.with_suffix("." + suffix)
    leftover.write_bytes(raw)
    wanted = facts(store.read_all())
    (finding,) = store.verify().findings
    assert (finding.kind, finding.file) == ("extra", f"segments/{leftover.name}")
    assert evlog.repair_store(store.path).report.ok
    assert not leftover.exists()
    leftover.write_bytes(raw)
    store.compact()
    assert not leftover.exists()
    assert facts(store.read_all()) == wanted


def test_helpers_read_compressed_segments(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evlog.files.compaction.compact._BYTES_WORTH_HELPERS", 0)
    monkeypatch.setattr("evlog.files.compaction.compact.core_count", lambda: 2)
    monkeypatch.setattr("evlog.files.compaction.rewrite._ENTRIES_AT_ONCE", 2)
    fill_wide(store, 30)
    store.compact(compress=True)
    wanted = facts(store.read_all())[-2:]
    for info in store.streams():
        store.set_retention(info.stream, max_count=1)
    kept = [event for info in store.streams() for event in store.read(info.stream)]
    assert store.compact().events_removed == 30 - len(kept)
    assert facts(store.read_all()) == facts(sorted(kept, key=lambda event: event.position))
    assert facts(store.read_all())[-2:] == wanted
    assert store.verify().ok
