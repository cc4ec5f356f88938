"""What is in a store: its streams, and its sizes. Reads indexes where they suffice, the log where not.

A stream's versions have no gap: a compaction removes the oldest of them. So the first and last entry of each
stream hash tell everything about a stream, and what lies between them adds up to the number of events. Where
it does not (two names with one hash), the log is counted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from evlog import paths
from evlog.events import Record, category_of
from evlog.format import ENTRY_BYTES, FORMAT_VERSION, column
from evlog.log import Log, Part, SealedPart

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class StreamInfo(NamedTuple):
    """One stream: how many events it has, its first and last version, and when the last was written."""

    name: str
    events: int
    first_version: int
    last_version: int
    last_time_us: int

    @property
    def last_time(self) -> datetime:
        """When its last event was written, UTC."""
        return _EPOCH + timedelta(microseconds=self.last_time_us)


class StoreInfo(NamedTuple):
    """A store in numbers; positions are 0 and times None while it is empty."""

    path: str
    id: UUID
    format: int
    events: int
    streams: int
    bytes: int
    segments: int
    first_position: int
    last_position: int
    first_time: datetime | None
    last_time: datetime | None


def list_streams(log: Log, category: str | None, prefix: str | None) -> Iterator[StreamInfo]:
    """The streams in the order of their names, all or those of a category or with a prefix."""
    streams = log.settled(lambda: _all_streams(log))
    for stream in sorted(streams):
        if prefix is not None and not stream.name.startswith(prefix):
            continue
        if category is None or category_of(stream.name) == category:
            yield stream


def describe(log: Log) -> StoreInfo:
    """The store in numbers."""
    return log.settled(lambda: _describe(log))


def _describe(log: Log) -> StoreInfo:
    with log.mutex:
        parts = [(part, part.count) for part in log.parts()]
    first, last = _edge(log, first=True), _edge(log, first=False)
    return StoreInfo(
        path=log.store,
        id=UUID(log.manifest.store_id),
        format=FORMAT_VERSION,
        events=sum(count for _, count in parts),
        streams=_count_streams(log, parts),
        bytes=_bytes_on_disk(log.store),
        segments=len(parts),
        first_position=first[0] if first else 0,
        last_position=last[0] if last else 0,
        first_time=_EPOCH + timedelta(microseconds=first[5]) if first else None,
        last_time=_EPOCH + timedelta(microseconds=last[5]) if last else None,
    )


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
    streams = _from_heads(log)
    return _from_log(log) if streams is None else streams


def _from_heads(log: Log) -> list[StreamInfo] | None:
    """All streams by their first and last events, or None if these do not account for every event."""
    last: dict[int, int] = {}  # by stream hash: the place of the segment << 32 | the number of the entry
    first: dict[int, int] = {}  # by stream hash: the version of its first event
    with log.mutex:
        parts = log.parts()
        events = sum(part.count for part in parts)
        compacted = any(part.info.generation for part in parts)
        for place, part in enumerate(parts):
            hashes, numbers = part.index.heads()
            last.update(zip(hashes, map((place << 32).__or__, numbers), strict=True))
            if compacted:
                for stream_hash, version in _first_versions(part).items():
                    first.setdefault(stream_hash, version)
    heads_of: list[list[tuple[int, int]]] = [[] for _ in parts]
    for stream_hash, head in last.items():
        heads_of[head >> 32].append((head & 0xFFFFFFFF, first.get(stream_hash, 1)))
    streams = []
    for part, heads in zip(parts, heads_of, strict=True):
        heads.sort()
        firsts = iter(heads)
        for records in part.segment.records([number for number, _ in heads]):
            for record, (_, version) in zip(records, firsts, strict=False):
                count = record[1] - version + 1
                streams.append(StreamInfo(record[2], count, version, record[1], record[5]))
    return streams if sum(stream.events for stream in streams) == events else None


def _first_versions(part: Part) -> dict[int, int]:
    """The version of each stream's first event in a segment, by the stream's hash."""
    entries = part.segment.checked_entries() if isinstance(part, SealedPart) else bytes(part.segment.entries)
    hashes, versions = column(entries, "stream_hash"), column(entries, "version")
    return dict(zip(reversed(hashes), reversed(versions), strict=True))  # the first of each comes last


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
    return [StreamInfo(name, *counts) for name, counts in found.items()]


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
