"""What is in a store: its streams, and its sizes. Reads indexes where they suffice, the log where not.

A stream's versions have no gap: a compaction removes the oldest of them. So the first and last entry of each
stream hash tell everything about a stream, and what lies between them adds up to the number of events. Where
it does not (two names with one hash), the log is counted.

What a stream has is what a read of it gives: policies are applied to what was found, at the end.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain
from uuid import UUID

from evlog.files.format import paths
from evlog.files.format.entries import ENTRY_BYTES, column
from evlog.files.format.headers import FORMAT_VERSION
from evlog.files.log.log import Log, Part, SealedPart
from evlog.files.log.visibility import VisibleCounts, count_policies
from evlog.model.events import SYSTEM_PREFIX, Record, category_of
from evlog.model.reports import StoreInfo, StreamInfo

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def list_streams(
    log: Log,
    category: str | None,
    prefix: str | None,
    *,
    include_deleted: bool = False,
    include_system: bool = False,
) -> Iterator[StreamInfo]:
    """The streams in the order of their names, all or those of a category or with a prefix."""
    streams = log.settled(lambda: _all_streams(log))
    chosen = [
        stream
        for stream in sorted(streams)
        if (prefix is None or stream.name.startswith(prefix))
        and (category is None or category_of(stream.name) == category)
        and (include_system or not stream.name.startswith(SYSTEM_PREFIX))
    ]
    if not log.policies().any:
        yield from chosen
        return
    visible = VisibleCounts(log, [stream.name for stream in streams])
    for stream in chosen:
        name, events, first_version, last_version, last_time_us, _ = stream
        kept = log.settled(partial(visible.count, name, events, first_version, last_version, last_time_us))
        if kept is None:
            yield stream
        elif include_deleted or not kept.retention.deleted:
            yield StreamInfo(
                name, kept.events, kept.first_version, last_version, last_time_us, kept.retention
            )


def describe(log: Log) -> StoreInfo:
    """The store in numbers."""
    return log.settled(lambda: _describe(log))


def _describe(log: Log) -> StoreInfo:
    with log.mutex:
        parts = [(part, part.count) for part in log.parts()]
    first, last = _edge(log, first=True), _edge(log, first=False)
    system_events, system_streams = _count_system(log, parts)
    packed = [part.info for part, _ in parts if part.info.compressed_bytes]
    policies, deleted = count_policies(log) if system_events else (0, 0)
    return StoreInfo(
        path=log.store,
        id=UUID(log.manifest.store_id),
        format=FORMAT_VERSION,
        events=sum(count for _, count in parts) - system_events,
        streams=_count_streams(log, parts) - system_streams - deleted,
        bytes=_bytes_on_disk(log.store),
        segments=len(parts),
        first_position=first[0] if first else 0,
        last_position=last[0] if last else 0,
        first_time=_EPOCH + timedelta(microseconds=first[5]) if first else None,
        last_time=_EPOCH + timedelta(microseconds=last[5]) if last else None,
        policies=policies,
        deleted_streams=deleted,
        clock_ahead_seconds=max(0.0, last[5] / 1e6 - time.time()) if last else 0.0,
        compressed_segments=len(packed),
        saved_bytes=sum(info.log_bytes - info.compressed_bytes for info in packed),
    )


def _count_system(log: Log, parts: list[tuple[Part, int]]) -> tuple[int, int]:
    """How many events the store's own are, and of how many streams."""
    own, events, names = log.policies().system_numbers, 0, set()
    for place, (part, count) in enumerate(parts):
        for records in part.segment.records([number for number in own(place) if number < count]):
            streams = [record[2] for record in records if record[2][0] == SYSTEM_PREFIX]
            events += len(streams)
            names.update(streams)
    return events, len(names)


def _count_streams(log: Log, parts: list[tuple[Part, int]]) -> int:
    """How many streams there are: as many as first versions, as long as nothing was ever compacted away."""
    if any(part.info.generation for part, _ in parts):
        return len(_all_streams(log))
    total = 0
    for part, count in parts:
        entries = part.segment.checked_entries() if isinstance(part, SealedPart) else part.segment.entries
        total += column(entries[: count * ENTRY_BYTES], "version").count(1)
    return total


def _all_streams(log: Log) -> list[StreamInfo]:
    """All streams, also those of which a compaction has left nothing but their last version."""
    streams = _from_heads(log)
    if streams is None:
        streams = _from_log(log)
    emptied: dict[str, StreamInfo] = {}
    for part in log.sealed:  # oldest first: what was left last counts
        removed = part.removed
        for name, version, time_us in removed.streams() if removed is not None else ():
            emptied[name] = StreamInfo(name, 0, version + 1, version, time_us)
    if emptied:
        for stream in streams:
            emptied.pop(stream.name, None)
        streams += emptied.values()
    return streams


def _from_heads(log: Log) -> list[StreamInfo] | None:
    """All streams by their first and last events, or None if these do not account for every event."""
    last: dict[int, int] = {}  # by stream hash: the place of the segment << 32 | the number of the entry
    first: dict[int, int] = {}  # the same of its first event, if that need not be version 1
    with log.mutex:
        parts = log.parts()
        events = sum(part.count for part in parts)
        compacted = any(part.info.generation for part in parts)
        for place, part in enumerate(parts):
            hashes, numbers = part.index.heads()
            last.update(zip(hashes, map((place << 32).__or__, numbers), strict=True))
            if compacted:
                for stream_hash, number in _first_entries(part).items():
                    first.setdefault(stream_hash, place << 32 | number)
    firsts = _records_at(parts, first)
    streams = []
    for stream_hash, (_, version, name, _, _, time_us, *_) in _records_at(parts, last).items():
        first_version = 1
        if compacted:
            record = firsts[stream_hash]
            if record[2] != name:
                return None
            first_version = record[1]
        streams.append(StreamInfo(name, version - first_version + 1, first_version, version, time_us))
    return streams if sum(stream.events for stream in streams) == events else None


def _first_entries(part: Part) -> dict[int, int]:
    """The number of each stream's first entry in a segment, by the stream's hash."""
    entries = part.segment.checked_entries() if isinstance(part, SealedPart) else part.segment.entries
    hashes = column(entries[: part.count * ENTRY_BYTES], "stream_hash")
    return dict(
        zip(reversed(hashes), reversed(range(len(hashes))), strict=True)
    )  # a stream's first comes last


def _records_at(parts: list[Part], places: dict[int, int]) -> dict[int, Record]:
    """The records at places (segment << 32 | entry), by the same keys."""
    keys_of: list[list[tuple[int, int]]] = [[] for _ in parts]
    for key, place in places.items():
        keys_of[place >> 32].append((place & 0xFFFFFFFF, key))
    found: dict[int, Record] = {}
    for part, keys in zip(parts, keys_of, strict=True):
        keys.sort()
        records = chain.from_iterable(part.segment.records([number for number, _ in keys]))
        found.update(zip((key for _, key in keys), records, strict=True))
    return found


def _from_log(log: Log) -> list[StreamInfo]:
    """All streams, counted event by event."""
    found: dict[str, list[int]] = {}
    for part in log.parts():
        for records in part.segment.scan(0, part.count):
            for record in records:
                counts = found.get(record[2])
                if counts is None:
                    found[record[2]] = [1, record[1], record[1], record[5]]
                else:
                    counts[0] += 1
                    counts[2:] = record[1], record[5]
    return [
        StreamInfo(name, events, first, last, time_us)
        for name, (events, first, last, time_us) in found.items()
    ]


def _edge(log: Log, *, first: bool) -> Record | None:
    parts = log.parts() if first else reversed(log.parts())
    for part in parts:
        if part.count:
            return part.segment.record(0 if first else part.count - 1)
    return None


def _bytes_on_disk(store: str) -> int:
    total = 0
    for directory in (store, paths.segments_path(store)):
        with os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # an index's temporary file, gone by now
                    total += entry.stat().st_size if entry.is_file() else 0
    return total
