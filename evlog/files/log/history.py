"""Reading a log for another store: every event with its append, and the removed events by position.

A frame of a compacted segment holds events of many appends. They count as appended together.
"""

from __future__ import annotations

from struct import Struct

from evlog.files.format.entries import ENTRY_BYTES, column
from evlog.files.format.hashes import hash_stream
from evlog.files.format.removed_events import EVENT
from evlog.files.log.catalog import all_streams
from evlog.files.log.crafted import without_crafted_content
from evlog.files.log.parts import SegmentMoved
from evlog.model.events import Event
from evlog.model.history import RemovedRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Final

    from evlog.files.log.log import Log
    from evlog.files.log.parts import Part
    from evlog.model.events import Record
    from evlog.model.reports import StreamInfo


def read_frames(log: Log, after: int, to: int) -> Iterator[tuple[int, Event]]:
    """Iterate over all events between two positions, each with the position of the first of its append."""
    return without_crafted_content(_read_frames(log, after, to), log.store)


def _read_frames(log: Log, after: int, to: int) -> Iterator[tuple[int, Event]]:
    low, high = after + 1, min(to, log.head)
    while low <= high:
        try:
            for frames, records in _frames_between(log, low, high):
                yield from zip(frames, map(Event, records), strict=True)
                low = records[-1][0] + 1
            break
        except SegmentMoved:  # by a compaction: continue after what was yielded
            log.look()
    if to > log.head:
        log.raise_damage()


def _frames_between(log: Log, low: int, high: int) -> Iterator[tuple[list[int], Sequence[Record]]]:
    redacted = log.policies().redacted
    for part in log.parts():
        if part.count and part.last_position >= low and part.first_position <= high:
            for frames, records in _part_frames(part, low, high):
                yield frames, records if redacted is None else redacted.records(records)


def _part_frames(part: Part, low: int, high: int) -> Iterator[tuple[list[int], Sequence[Record]]]:
    """Iterate over the records of one segment in batches, each with the first positions of their frames."""
    segment = part.segment
    number, end = segment.number_of(low), segment.number_of(high + 1)
    offset = first = -1  # of the frame before
    for records in segment.scan(number, end):
        rows = part.entries()[number * ENTRY_BYTES : (number + len(records)) * ENTRY_BYTES]
        frames = []
        for own, record in zip(column(rows, "frame"), records, strict=True):
            if own != offset:
                offset, first = own, record[0]
            frames.append(first)
        yield frames, records
        number += len(records)


def read_removed(log: Log, after: int, to: int) -> Iterator[RemovedRecord]:
    """Iterate over the events between two positions that compactions have removed, by position."""
    return without_crafted_content(_read_removed(log, after, to), log.store)


def _read_removed(log: Log, after: int, to: int) -> Iterator[RemovedRecord]:
    low = after + 1
    while low <= to:
        try:
            for record in _removed_between(log, low, to):
                yield record
                low = record.position + 1
            break
        except SegmentMoved:
            log.look()


def _removed_between(log: Log, low: int, to: int) -> Iterator[RemovedRecord]:
    if not any(part.info.removed_events and part.last_position >= low for part in log.sealed):
        return
    owners = _Owners(log)
    for part in log.sealed:
        is_passed = part.last_position < low and owners.are_plain
        if is_passed or part.first_position > to or (removed := part.removed) is None:
            continue
        rows = EVENT.iter_unpack(removed.rows())
        tags: dict[int, list[tuple[int, int, int]]] = {}
        for tag, again, place, type in removed.tags():
            tags.setdefault(place, []).append((tag, again, type))
        for id, position, stream_hash, version, crc in sorted(rows, key=lambda row: row[1]):
            info = owners.owner(stream_hash, version)
            if low <= position <= to:
                digest = crc.to_bytes(4, "little") if crc else b""
                time_us = info.last_time_us if version == info.last_version else 0
                kept = encode_tags(tags[position]) if position in tags else b""
                yield RemovedRecord(position, version, info.stream, id, digest, time_us, kept)


_TAGS_MAGIC: Final = b"D"
_TAG: Final = Struct("<QQQ")


def encode_tags(tags: Sequence[tuple[int, int, int]]) -> bytes:
    """Return what is kept of the tags of a removed event, for another store in a directory."""
    return _TAGS_MAGIC + b"".join(_TAG.pack(*tag) for tag in tags)


def decode_tags(raw: bytes) -> list[tuple[int, int, int]]:
    """Return both hashes of each tag, and that of the type; nothing if another engine has made it."""
    is_ours = raw[:1] == _TAGS_MAGIC and len(raw) % _TAG.size == 1
    return list(_TAG.iter_unpack(raw[1:])) if is_ours else []


class _Owners:
    """Finds the stream of a removed event, whose row has only the hash of the stream's name.

    Compactions remove the first versions of a stream. If streams share a hash, rows are assigned by position,
    each to a stream that lacks just this version. If several do, the one that lacks most gets it, so that
    every row has an owner.
    """

    def __init__(self, log: Log) -> None:
        self._streams: dict[int, list[StreamInfo]] = {}
        self._next: dict[str, int] = {}
        for info in log.retry_on_compaction(lambda: all_streams(log)):
            self._streams.setdefault(hash_stream(info.stream), []).append(info)
        self.are_plain = all(len(streams) == 1 for streams in self._streams.values())
        if not self.are_plain:
            for streams in self._streams.values():
                streams.sort(key=lambda info: -info.first_version)

    def owner(self, stream_hash: int, version: int) -> StreamInfo:
        """Return the stream of the next removed event; they are asked for by position, from the first on."""
        streams = self._streams[stream_hash]
        if len(streams) == 1:
            return streams[0]
        for info in streams:
            if self._next.get(info.stream, 1) == version < info.first_version:
                self._next[info.stream] = version + 1
                return info
        return streams[0]
