"""A compaction, recorded call by call, and what must be true of the store whenever it is interrupted.

Between any two disk calls: what policies leave visible is there byte for byte; what they hide is there or
removed, of each stream its oldest events first; every last version and every id is known; the next append
works; and the next compaction makes the same segments as one that was not interrupted.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple

from evlog import Compaction, NewEvent
from evlog.files.format.manifest import SegmentInfo
from evlog.files.log.manifest_file import read_manifest
from evlog.model.events import Event
from evlog.store import EventStore
from tests.crash import history
from tests.crash.check import materialise, open_store
from tests.crash.disk import RecordingDisk, World
from tests.crash.history import Content, History, Knowledge, content_of
from tests.crash.model import FileSystem
from tests.crash.recordings import Recording, record, scratch
from tests.crash.states import State, kept_state
from tests.support.helpers import engine_of

SEGMENT_EVENTS = 6


class Facts(NamedTuple):
    """What was in the store before the compaction, and what the compaction makes of it."""

    compress: bool
    events: dict[int, tuple[int, Content]]  # by position: version and content
    hidden: frozenset[int]  # the positions that it removes
    versions: dict[str, int]
    segments: tuple[SegmentInfo, ...]  # of the store after a compaction without any interruption


def fill(store: EventStore, *, compress: bool) -> None:
    """Append streams that keep some events, all or none, in nine segments; some segments lose all events.

    Args:
        compress: compress the first segments already, and fill two more that lose nothing.
    """
    number = 0

    def append(stream: str, count: int) -> None:
        nonlocal number
        for _ in range(count):
            store.append(stream, [history.event(number, {"n": number, "x": "x" * (number * 97 % 400)})])
            number += 1

    append("deleted", 13)
    append("kept", 3)
    append("cat-1", 7)
    append("cat-2", 5)
    if compress:
        store.compact(compress=True)
    append("capped", 12)
    append("cat-1", 1)
    append("kept", 2)
    append("deleted", 4)
    append("capped", 5)
    if compress:  # two segments that lose nothing
        append("kept", 12)
    store.set_retention("capped", max_count=3)
    store.set_retention("capped", max_count=2)
    store.set_retention(category="cat", max_count=1)
    store.delete_stream("deleted")


@functools.cache
def compacting(*, compress: bool = False) -> tuple[Recording, Facts]:
    """Record how one process compacts a store, while another one appends now and then.

    Args:
        compress: the compaction also compresses; some segments were compressed before.
    """
    with scratch() as root:
        world = World(root)
        path = f"{root}/above/store"
        with open_store(path, create=True, disk=RecordingDisk(world), segment_events=SEGMENT_EVENTS) as store:
            fill(store, compress=compress)
            facts = facts_of(store, compress=compress)
        state = kept_state(world.now)
    with scratch() as root:
        path = materialise(state, root)
        world = World(root, FileSystem.of(state.files, state.directories))
        log = History(world)
        with open_store(path, disk=RecordingDisk(world)) as store, open_store(path) as other:
            engine_of(other)._disk = RecordingDisk(world)
            done = compact_beside(store, other, log, compress=compress)
            assert (done.segments_compressed > 5) == compress
        recording = record(world, log, "compacting", Knowledge([], created=True))
        return recording, facts._replace(segments=tuple(read_manifest(path).segments))


def facts_of(store: EventStore, *, compress: bool) -> Facts:
    """Return the facts of a store before its compaction; its segments after that are still missing."""
    before = list(store.read_all(include_system=True))
    visible = {found.position for name in {found.stream for found in before} for found in store.read(name)}
    events = {found.position: (found.version, content_of(found)) for found in before}
    versions = {found.stream: found.version for found in before}
    return Facts(compress, events, frozenset(events.keys() - visible), versions, ())


def compact_beside(store: EventStore, other: EventStore, log: History, *, compress: bool) -> Compaction:
    """Compact one store, while another store object appends to it."""

    def append(done: int, total: int) -> None:
        number = 800 + len(log.batches)
        log.send(other, [("kept", [history.event(number)]), ("new", [history.event(number + 100)])])

    return store.compact(compress=compress, progress=append)


def check_interrupted(state: State, facts: Facts, known: Knowledge, root: str, *, thorough: bool) -> None:
    """Look at the store as it was left, append to it, and compact it again."""
    check_left(materialise(state, root), facts, known, thorough=thorough)


def check_left(path: str, facts: Facts, known: Knowledge, *, thorough: bool) -> None:
    """Do what `check_interrupted` does with the store at a path."""
    with open_store(path) as reader, open_store(path) as store:
        was_started = reader.stream_version("$compactions") > 0
        check_events(reader, facts, known)
        result = store.append("deleted", [NewEvent("Again")])
        assert result.first_version == facts.versions["deleted"] + 1
        check_ids(store, facts, 1 if thorough else 7)
        if not thorough:
            return
        store.compact(compress=facts.compress)
        for each in (reader, store):
            check_events(each, facts, known, compacted=True)
        check_ids(store, facts, 1)
        assert reader.stream_version("deleted") == facts.versions["deleted"] + 1
        again = store.compact(compress=facts.compress)
        assert (again.events_removed, again.segments_compressed) == (0, 0)
    if was_started:
        assert rewritten(read_manifest(path).segments) == rewritten(facts.segments)


def rewritten(segments: Iterable[SegmentInfo]) -> list[SegmentInfo]:
    """Return what a manifest says of compacted segments, without what a random tag changes."""
    return [
        info._replace(tag=0, removed_crc=0, compressed_bytes=info.compressed_bytes > 0)
        for info in segments
        if info.generation
    ]


def check_events(store: EventStore, facts: Facts, known: Knowledge, *, compacted: bool = False) -> None:
    """Check that all visible events are there, and that only the oldest hidden ones of a stream are not."""
    events = list(store.read_all(include_system=True))
    found = {event.position: (event.version, content_of(event)) for event in events}
    assert sorted(found) == [event.position for event in events]
    for position, fact in facts.events.items():
        if position not in facts.hidden:
            assert found.get(position) == fact, f"position {position} is visible, and is missing or changed"
        elif position in found:
            assert not compacted, f"position {position} is hidden and was not removed"
            assert found[position] == fact
    for place in known.acked_places():
        assert found.get(place.position) == (place.version, place.content), (
            "an acknowledged append is missing"
        )
    assert list(store.read_all(include_system=True, reverse=True)) == events[::-1]
    streams: dict[str, list[Event]] = {}
    for event in events:
        streams.setdefault(event.stream, []).append(event)
    infos = {info.stream: info for info in store.streams(include_deleted=True, include_system=True)}
    for stream, its in streams.items():
        first = its[0].version
        assert [event.version for event in its] == list(range(first, first + len(its))), f"a gap in {stream}"
        visible = [event for event in its if event.position not in facts.hidden]
        assert list(store.read(stream)) == visible
        assert list(store.read(stream, reverse=True)) == visible[::-1]
        assert store.stream_version(stream) == its[-1].version == infos[stream].last_version
        assert infos[stream].events == len(visible)
    for stream, version in facts.versions.items():
        assert infos[stream].last_version >= version
        assert store.stream_version(stream) == infos[stream].last_version
    assert store.info().events == sum(not event.stream.startswith("$") for event in events)


def check_ids(store: EventStore, facts: Facts, stride: int) -> None:
    """Check that the id of every event is known, also of every removed one."""
    for position, (version, content) in facts.events.items():
        stream, type, id, content_type, data, _ = content
        if stream.startswith("$") or position % stride:
            continue
        new = NewEvent(type, data, id=id, content_type=content_type)  # type: ignore[arg-type]
        result = store.append(stream, [new])
        assert result.duplicate
        assert (result.first_position, result.first_version) == (position, version)
