"""What must be true of a store after anything: checked through the library, as a user would see it.

Every acknowledged event is present and whole, an unacknowledged append is whole or absent, positions and
versions have no gap, all ways of reading agree, every id is known, and the next append works. A store object
that is opened after that reads the same. The store is first read as the crash left it, then written to.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise

from evlog import NewEvent
from evlog.errors import StoreNotFound
from evlog.files.disk.files import DISK, Disk
from evlog.files.engine import DirectoryEngine
from evlog.files.format.frames import FRAME_HEADER_BYTES, FRAME_MAGIC
from evlog.files.format.headers import FILE_HEADER_BYTES
from evlog.files.format.paths import segment_path
from evlog.files.log.manifest_file import read_manifest
from evlog.model.events import Event
from evlog.store import EventStore
from tests.crash.history import Content, Knowledge, content_of
from tests.crash.states import State

SEGMENT_EVENTS = 4
SEGMENT_BYTES = 1 << 13  # a log is lengthened to this at most, so that a state is small


def open_store(
    path: str,
    *,
    create: bool = False,
    disk: Disk = DISK,
    segment_events: int = SEGMENT_EVENTS,
    segment_bytes: int = SEGMENT_BYTES,
    sync: str = "always",
) -> EventStore:
    """Return a store with segments so small that a few appends roll."""
    return EventStore(
        DirectoryEngine(
            path,
            create=create,
            segment_bytes=segment_bytes,
            segment_events=segment_events,
            sync=sync == "always",
            lock_timeout_seconds=10.0,
            disk=disk,
        )
    )


def materialise(state: State, root: str) -> str:
    """Put the state into an empty directory; return the path of the store in it."""
    for directory in state.directories:
        os.mkdir(f"{root}/{directory}")
    for path, content in state.files.items():
        fd = os.open(f"{root}/{path}", os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(fd, content)
        os.close(fd)
    return f"{root}/above/store"


def check_recovery(path: str, known: Knowledge, *, thorough: bool = True) -> None:
    """Read the store as it is, retry everything in it, append, and read again by another store object.

    Args:
        thorough: retry all, not a third of what was acknowledged; read in every other way as well; write by
            another store object than the first reader, then by a third one, then by the second again.
    """
    try:
        reader = open_store(path)
    except StoreNotFound:
        assert not known.created, "the creation was acknowledged, and the store is missing"
        assert not known.acked, "events were acknowledged, and the store is missing"
        reader = open_store(path, create=True)
    with reader, open_store(path) if thorough else nullcontext(reader) as writer:
        found = check_reads(reader, known, thorough=thorough)
        events = _check_retries(writer, known, found, thorough=thorough)
        result = writer.append("after", [NewEvent("Next", {"after": "the crash"})])
        assert result.first_position == result.last_position == len(events) + 1
        assert result.first_version == 1
        with open_store(path) as fresh:
            after = list(fresh.read_all())
            assert after[:-1] == events, "a reader that is opened later reads something else"
            assert (after[-1].stream, after[-1].position) == ("after", len(events) + 1)
            if not thorough:
                return
            for store in (reader, writer):
                assert list(store.read_all()) == after, "a reader that was open before reads something else"
            assert fresh.info().events == len(after)
            second = fresh.append("after", [NewEvent("Next")])
        assert (second.first_position, second.first_version) == (len(after) + 1, 2)
        third = writer.append("after", [NewEvent("Next")])
        assert (third.first_position, third.first_version) == (len(after) + 2, 3)


def check_no_torn_tail(path: str) -> None:
    """Check that only preallocated zeros follow the last whole frame of the active log."""
    manifest = read_manifest(path)
    active = manifest.segments[-1]
    with open(segment_path(path, active.first_position, active.generation, "log"), "rb") as file:
        log = file.read()
    assert not log[frame_offsets(log)[-1] :].strip(b"\0"), "half an append was left"


def frame_offsets(log: bytes) -> list[int]:
    """Return where the frames of a log begin, and where the last one ends by its header."""
    offsets = [FILE_HEADER_BYTES]
    while log[offsets[-1] :].startswith(FRAME_MAGIC):
        length = int.from_bytes(log[offsets[-1] + 4 : offsets[-1] + 8], "little")
        offsets.append(offsets[-1] + FRAME_HEADER_BYTES + length)
    return offsets


def check_reads(store: EventStore, known: Knowledge, *, thorough: bool = True) -> list[Event]:
    """Read in every way, check that all agree, and return the events."""
    events = list(store.read_all())
    assert [event.position for event in events] == list(range(1, len(events) + 1)), "positions have a gap"
    assert store.head == len(events)
    _check_acknowledged(events, known)
    _check_batches(events, known)
    streams: dict[str, list[Event]] = {}
    for event in events:
        streams.setdefault(event.stream, []).append(event)
    for stream, its in streams.items():
        assert [event.version for event in its] == list(range(1, len(its) + 1)), f"versions of {stream}"
        assert list(store.read(stream)) == its, f"{stream} differs from the log"
        assert store.stream_version(stream) == len(its)
    assert all(before.time_us <= after.time_us for before, after in pairwise(events))
    if not thorough:
        return events
    assert [info.stream for info in store.streams()] == sorted(streams)
    some = {"Type1"}
    assert list(store.read_all(types=some)) == [event for event in events if event.type in some]
    assert list(store.read_all(reverse=True)) == events[::-1]
    for tag in next((event.tags for event in events if event.tags), ()):
        assert list(store.read_all(tags=[tag])) == [event for event in events if tag in event.tags]
    return events


def _check_acknowledged(events: Sequence[Event], known: Knowledge) -> None:
    for place in known.acked_places():
        assert place.position <= len(events), f"position {place.position} was acknowledged, and is missing"
        event = events[place.position - 1]
        assert (event.version, content_of(event)) == (place.version, place.content)


def _check_batches(events: Sequence[Event], known: Knowledge) -> None:
    """Check that the log is a sequence of whole batches that were sent, each at most once."""
    sent: dict[bytes, list[Content]] = {}
    for number in known.sent:
        contents = known.batches[number].contents
        sent[contents[0][2]] = contents
    at = 0
    while at < len(events):
        batch = sent.pop(events[at].id_bytes, None)
        assert batch is not None, f"position {at + 1} was never sent, or begins in the middle of a batch"
        assert list(map(content_of, events[at : at + len(batch)])) == batch
        at += len(batch)


def _check_retries(
    writer: EventStore, known: Knowledge, found: list[Event], *, thorough: bool
) -> list[Event]:
    """Send batches again; return the events of the store after that."""
    positions = {event.id_bytes: event.position for event in found}
    head = len(found)
    for number in known.sent:
        if not thorough and number in known.acked and (number + head) % 3:
            continue
        batch = known.batches[number]
        contents = batch.contents
        expected = positions.get(contents[0][2])
        results = writer.append_many(batch.appends)
        assert [result.duplicate for result in results] == [expected is not None] * len(results)
        assert results[0].first_position == (head + 1 if expected is None else expected)
        if expected is None:
            head += len(contents)
        if number in known.acked:
            assert results == [(*result[:5], True, result[6]) for result in batch.results or []]
    events = list(writer.read_all())
    assert len(events) == head
    assert events[: len(found)] == found
    return events
