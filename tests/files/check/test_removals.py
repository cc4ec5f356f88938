"""After a compaction: missing events are those of .removed, and no other position is missing."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

import evlog
from evlog import EventStore, Finding
from evlog.files.check import known, logs
from evlog.files.check.files import take_snapshot
from evlog.files.disk.files import DISK
from evlog.files.format.filter import encode_block, encode_filter_header, identity_of
from evlog.files.format.hashes import hash_ids, hash_stream
from evlog.files.format.headers import FILE_HEADER_BYTES, decode_file_header
from evlog.files.format.paths import filter_path
from evlog.files.format.removed_events import (
    EVENT,
    EVENT_BYTES,
    GroupedEvents,
    RemovedTag,
    encode_grouped,
    encode_removed,
    event_ids,
    group_bits,
    group_events,
)
from evlog.files.log.manifest_file import read_manifest, replace_manifest
from evlog.files.log.parts import SealedPart
from evlog.files.log.removed import RemovedEvents
from tests.support.forge import POSITION, STREAM, VERSION, forge, read_frames, replace_info
from tests.support.helpers import engine_of, fill, flip_bit, new, segment_files, small_store

Row = list[Any]  # id, position, stream hash, version, content CRC
Change = Callable[[list[Row], list[tuple[str, int, int]]], Any]


@pytest.fixture
def compacted(store: EventStore) -> EventStore:
    """Segments from which s-0 lost all but two events, and s-1 all; s-2 is whole."""
    fill(store, 40)
    store.set_retention("s-0", max_count=2)
    store.delete_stream("s-1")
    store.compact()
    fill_later(store)
    assert store.verify().findings == ()
    return store


def fill_later(store: EventStore) -> None:
    for number in range(5):
        store.append("s-2", [new(number)])


def compacted_place(store: EventStore) -> int:
    manifest = read_manifest(store.path)
    return next(at for at, info in enumerate(manifest.segments) if info.removed_bytes and info.events > 3)


def change_removed(
    store: EventStore,
    change: Change,
    place: int | None = None,
    change_tags: Callable[[list[RemovedTag]], object] = lambda _: None,
) -> None:
    """Write a .removed file with other content and the right checksums."""
    place = compacted_place(store) if place is None else place
    info = read_manifest(store.path).segments[place]
    path = f"{store.path}/segments/{info.first_position:020d}.{info.generation}.removed"
    header = decode_file_header(Path(path).read_bytes()[:FILE_HEADER_BYTES])
    empty = header._replace(keys=0, postings=0, source_crc=0, tags=0)
    file = RemovedEvents(path, empty, info.removed_bytes)
    tags = file.tags()
    change_tags(tags)
    rows, streams = sorted(map(list, EVENT.iter_unpack(file.rows())), key=itemgetter(1)), file.streams()
    del file
    change(rows, streams)
    raw = encode_removed(header, b"".join(EVENT.pack(*row) for row in rows), streams, tags)
    Path(path).write_bytes(raw)
    facts = {"removed_events": len(rows), "removed_bytes": len(raw), "removed_crc": crc32(raw)}
    replace_info(store, place, info._replace(**facts))
    Path(filter_path(store.path)).unlink(missing_ok=True)  # it has no key of a row that was added


def remove(at: int) -> Change:
    return lambda rows, _: rows.pop(at)


def add(position: int, version: int, stream: str = "s-1") -> Change:
    """Return the change that adds one more removed event; its id does not matter."""
    return lambda rows, _: rows.append([bytes(16), position, hash_stream(stream), version, 1])


def kinds_of(findings: tuple[Finding, ...]) -> list[str]:
    return sorted({finding.kind for finding in findings})


@pytest.mark.parametrize("at", [0, 1, -1])
def test_an_event_that_is_missing_and_did_not_go_is_found(compacted: EventStore, at: int) -> None:
    change_removed(compacted, remove(at))
    (finding,) = compacted.verify().findings
    assert finding.kind == "gone"
    assert finding.detail == "1 positions are neither in the log nor among the removed events"
    assert finding.position not in {event.position for event in compacted.read_all()}


def test_an_event_that_went_and_is_in_the_log_is_found(compacted: EventStore) -> None:
    frames = read_frames(compacted, compacted_place(compacted))
    position, version = frames[0][0][POSITION], frames[0][0][VERSION]
    change_removed(compacted, add(position, version))
    (finding,) = compacted.verify().findings
    assert (finding.kind, finding.position) == ("gone", position)
    assert finding.detail == "it names 1 removed events that the log still holds, or names them twice"


def test_an_event_that_went_twice_is_found(compacted: EventStore) -> None:
    change_removed(compacted, lambda rows, _: add(rows[1][1], 1)(rows, _))
    (finding,) = compacted.verify().findings
    assert (finding.kind, finding.file.rsplit(".")[-1]) == ("gone", "removed")


def test_an_id_that_went_twice_is_found(compacted: EventStore) -> None:
    def change(rows: list[Row], _: object) -> None:
        rows[1][0] = rows[0][0]

    change_removed(compacted, change)
    assert "id" in kinds_of(compacted.verify().findings)


@pytest.fixture
def crowded(store: EventStore) -> EventStore:
    """A segment that lost 3,000 events, in eight groups."""
    with evlog.open(store.path, segment_events=10_000) as large:
        large.append_many([(f"s-{number % 50}", [new(number)]) for number in range(3000)])
        large.append("kept", [new(1)])
        large.set_retention(category="s", max_count=1)
        large.compact(force=True)
    return store


def test_removed_events_in_another_group_are_found(crowded: EventStore) -> None:
    place = next(at for at, info in enumerate(read_manifest(crowded.path).segments) if info.removed_bytes)
    info = read_manifest(crowded.path).segments[place]
    path = Path(info.path(crowded.path, "removed"))
    header = decode_file_header(path.read_bytes()[:FILE_HEADER_BYTES])
    file = RemovedEvents(str(path), header._replace(keys=0, postings=0, source_crc=0), info.removed_bytes)
    rows, streams = bytes(file.rows()), file.streams()
    del file
    counts = group_events(rows, hash_ids(event_ids(rows)), group_bits(info.removed_events)).counts
    turned = rows[-EVENT_BYTES:] + rows[EVENT_BYTES:-EVENT_BYTES] + rows[:EVENT_BYTES]
    fewer, more = array("I", counts), array("I", counts)
    fewer[0], fewer[1] = counts[0] - 1, counts[1] + 1
    more[0], more[1] = counts[0] + 1, counts[1] - 1
    for wrong in (GroupedEvents(turned, counts), GroupedEvents(rows, fewer), GroupedEvents(rows, more)):
        raw = encode_grouped(header, wrong, streams)
        path.write_bytes(raw)
        replace_info(crowded, place, info._replace(removed_crc=crc32(raw)))
        (finding,) = crowded.verify().findings
        assert (finding.kind, finding.detail) == (
            "gone",
            "its rows are not in order: a reader misses some of them",
        )


def test_removed_events_are_not_all_read_for_each_range(
    crowded: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    read = RemovedEvents._bytes

    def count(self: RemovedEvents, start: int, end: int) -> memoryview:
        asked.append(end - start)
        return read(self, start, end)

    monkeypatch.setattr(RemovedEvents, "_bytes", count)
    monkeypatch.setattr(known, "KEYS_AT_ONCE", 64)  # so that there are 47 ranges of ids
    assert crowded.verify().ok
    size = sum(info.removed_bytes for info in read_manifest(crowded.path).segments)
    assert sum(asked) < 30 * size


def test_tags_of_an_event_that_did_not_go_are_found(compacted: EventStore) -> None:
    def change(tags: list[RemovedTag]) -> None:
        tags.append((7, 8, compacted.head, 9))

    change_removed(compacted, lambda *_: None)
    assert compacted.verify().findings == ()
    change_removed(compacted, lambda *_: None, change_tags=change)
    (finding,) = compacted.verify().findings
    assert (finding.kind, finding.position) == ("gone", compacted.head)


def test_streams_that_are_all_removed_are_cut_into_ranges(crowded: EventStore) -> None:
    segments = [
        known.Known(task, 0, False, False, (), True, None) for task in take_snapshot(crowded.path).tasks()
    ]
    cut = known.stream_ranges(segments, 0, 8)
    counts = [sum(len(keys) for keys, _ in known.Segments(segments).removed(*bounds)) for bounds in cut]
    assert sum(counts) == 2950 > max(counts)


def test_an_event_that_the_log_lost_is_found(compacted: EventStore) -> None:
    place = compacted_place(compacted)
    frames = read_frames(compacted, place)
    lost = frames[-1].pop()
    forge(compacted, place, frames)
    found = compacted.verify().findings
    assert ("gone", lost[POSITION]) in {(finding.kind, finding.position) for finding in found}


def test_a_version_that_went_otherwise_is_found(compacted: EventStore) -> None:
    def change(rows: list[Row], _: object) -> None:
        rows[1][3] += 1

    change_removed(compacted, change)
    assert kinds_of(compacted.verify().findings) in (["gone"], ["version"])


def test_a_last_version_of_a_stream_that_went_otherwise_is_found(compacted: EventStore) -> None:
    def change(_: object, streams: list[tuple[str, int, int]]) -> None:
        ((name, version, time_us),) = streams
        assert name == "s-1"
        streams[0] = (name, version + 1, time_us)

    info = read_manifest(compacted.path).segments
    place = max(at for at, segment in enumerate(info) if segment.removed_bytes)
    change_removed(compacted, change, place)
    assert kinds_of(compacted.verify().findings) == ["gone"]


@pytest.mark.parametrize("version", [2, 7])
def test_a_stream_that_begins_late_is_found_in_a_compacted_store(
    compacted: EventStore, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("evlog.files.write.plan.Planner.next_versions_locked", lambda *_: [version])
        compacted.append("new", [new(1)])
    (finding,) = compacted.verify().findings
    assert (finding.kind, finding.position) == ("version", compacted.head)
    assert finding.detail.startswith(f"stream 'new' begins with version {version}; ")


@pytest.mark.parametrize("stream", ["s-0", "s-2"])
@pytest.mark.parametrize("appends", [1, 9])
def test_a_version_left_out_is_found_in_a_compacted_store(
    compacted: EventStore, monkeypatch: pytest.MonkeyPatch, stream: str, appends: int
) -> None:
    last = compacted.stream_version(stream)
    with monkeypatch.context() as patch:
        patch.setattr("evlog.files.write.plan.Planner.next_versions_locked", lambda *_: [last + 2])
        compacted.append(stream, [new(1)])
    for number in range(appends):
        compacted.append("more", [new(number)])
    (finding,) = compacted.verify().findings
    assert finding.kind == "version"
    assert finding.detail == f"stream '{stream}' goes from version {last} to {last + 2}"


@pytest.mark.parametrize(("offset", "found"), [(0, False), (1, True), (-1, True), (99, True)])
def test_a_version_left_out_is_not_a_finding_where_it_went(
    store: EventStore, offset: int, found: bool
) -> None:
    """As while a compaction was interrupted before it came to the beginning of the stream."""
    fill(store, 40, streams=2)
    store.set_retention("s-0", max_count=2)
    store.compact()
    place = compacted_place(store)
    frames = read_frames(store, place)
    own = [record for frame in frames for record in frame if record[STREAM] == "s-1"]
    assert len(own) >= 3
    left_out = own[1]
    frames = [[record for record in frame if record is not left_out] for frame in frames]
    forge(store, place, [frame for frame in frames if frame])
    change_removed(store, add(left_out[POSITION], left_out[VERSION] + offset), place)
    findings = store.verify().findings
    assert bool(findings) == found
    assert {"version", "gone"}.issuperset(kinds_of(findings))


def test_a_version_left_out_is_found_though_another_stream_lost_as_many(
    compacted: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"new-{'0' * 100}7{'0' * 100}"  # a finding names the whole stream
    for version in (1, 3):
        with monkeypatch.context() as patch:
            patch.setattr("evlog.files.write.plan.Planner.next_versions_locked", lambda *_, v=version: [v])
            compacted.append(name, [new(1)])
    (finding,) = compacted.verify().findings
    assert finding.detail == f"stream '{name}' goes from version 1 to 3"


@pytest.mark.parametrize("window_bytes", [1, 1 << 18])
def test_positions_in_another_order_are_found_in_a_compacted_segment(
    compacted: EventStore, monkeypatch: pytest.MonkeyPatch, window_bytes: int
) -> None:
    monkeypatch.setattr(logs, "_WINDOW_BYTES", window_bytes)
    place = compacted_place(compacted)
    records = [record for frame in read_frames(compacted, place) for record in frame]
    one, other = records[1], records[2]
    one[POSITION], other[POSITION] = other[POSITION], one[POSITION]
    forge(compacted, place, [[record] for record in records])
    assert "record" in kinds_of(compacted.verify().findings)


def test_a_segment_left_out_of_the_manifest_is_found_in_a_compacted_store(compacted: EventStore) -> None:
    manifest = read_manifest(compacted.path)
    for place in range(len(manifest.segments) - 1):
        segments = manifest.segments[:place] + manifest.segments[place + 1 :]
        replace_manifest(compacted.path, manifest._replace(segments=segments), DISK)
        assert "order" in kinds_of(evlog.verify_store(compacted.path).findings)


def test_a_stream_that_went_and_began_anew_is_ok(compacted: EventStore) -> None:
    compacted.append("s-1", [new(1)])
    assert compacted.stream_version("s-1") > 1
    assert compacted.verify().findings == ()
    fill(compacted, 20)
    compacted.compact(force=True)
    assert compacted.verify().findings == ()


# --- the filter


@pytest.mark.parametrize("column", [0, 2, 3], ids=["streams", "ids", "tags"])
def test_a_filter_that_hides_removed_events_is_found(store: EventStore, column: int) -> None:
    for number in range(20):
        store.append(f"s-{number % 2}", [new(number, tags=[f"number:{number}"])])
    store.delete_stream("s-0")
    store.set_retention("s-1", max_count=2)
    store.compact()
    fill(store, 20)
    assert store.verify().findings == ()
    content = encode_filter_header(read_manifest(store.path).store_id_bytes)
    for part in engine_of(store)._refreshed().sealed:
        keys = list(part.filter_keys())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SealedPart, "removed", None)
            keys[column] = part.filter_keys()[column]
        content += encode_block(identity_of(part.info), *keys)
    Path(filter_path(store.path)).write_bytes(content)
    assert kinds_of(store.verify().findings) == ["index"]
    assert evlog.repair_store(store.path).report.findings == ()


# --- salvage


@pytest.fixture
def salvaged(compacted: EventStore, memory_path: Path) -> EventStore:
    """What a salvage left of the compacted store without one log, and without one frame of another."""
    logs = segment_files(compacted, "log")
    flip_bit(logs[0], -1)
    logs[1].unlink()
    assert evlog.salvage_store(compacted.path, memory_path / "out").losses
    return small_store(memory_path / "out")


def test_what_a_salvage_left_out_is_not_a_finding_also_when_it_is_compacted(salvaged: EventStore) -> None:
    assert salvaged.verify().findings == ()
    fill(salvaged, 20)
    assert salvaged.verify().findings == ()
    salvaged.set_retention("s-2", max_count=1)
    salvaged.compact()
    assert salvaged.verify().findings == ()


def test_more_or_less_missing_than_a_salvage_left_out_is_found(salvaged: EventStore) -> None:
    manifest = read_manifest(salvaged.path)
    lost = [(at, info) for at, info in enumerate(manifest.segments) if info.lost_events]
    assert lost
    for at, info in lost:
        for change in (-1, 1):
            replace_info(salvaged, at, info._replace(lost_events=info.lost_events + change))
            assert kinds_of(salvaged.verify().findings) in (["gone"], ["order"])
        replace_info(salvaged, at, info)
    assert salvaged.verify().findings == ()
