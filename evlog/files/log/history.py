"""Reading a log for another store: every event with its append, and the removed events by position.

A segment that was compacted has frames of many appends: these count as appended together.
"""

from __future__ import annotations

from evlog.files.format.entries import ENTRY_BYTES, column
from evlog.files.format.hashes import hash_stream
from evlog.files.format.removed_events import EVENT
from evlog.files.log.catalog import list_streams
from evlog.files.log.crafted import without_crafted_content
from evlog.files.log.parts import SegmentMoved
from evlog.model.events import Event
from evlog.model.history import RemovedRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

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
            for part in log.parts():
                if part.count and part.last_position >= low and part.first_position <= high:
                    for frames, records in _part_frames(part, low, high):
                        yield from zip(frames, map(Event, records), strict=True)
                        low = records[-1][0] + 1
            break
        except SegmentMoved:  # by a compaction: continue behind what was yielded
            log.refresh()
    if to > log.head:
        log.raise_damage()


def _part_frames(part: Part, low: int, high: int) -> Iterator[tuple[list[int], tuple[Record, ...]]]:
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
    streams: dict[int, StreamInfo] = {}
    low = after + 1
    while low <= to:
        try:
            for part in log.sealed:
                if part.last_position < low or part.first_position > to or part.removed is None:
                    continue
                if not streams:
                    found = list_streams(log, None, None, include_deleted=True, include_system=True)
                    streams = {hash_stream(stream.name): stream for stream in found}
                rows = EVENT.iter_unpack(part.removed.rows())
                for id, position, stream_hash, version, crc in sorted(rows, key=lambda row: row[1]):
                    if low <= position <= to:
                        stream = streams[stream_hash]
                        is_last = version == stream.last_version
                        digest = crc.to_bytes(4, "little") if crc else b""
                        time_us = stream.last_time_us if is_last else 0
                        yield RemovedRecord(position, version, stream.name, id, digest, time_us)
                low = part.last_position + 1
            break
        except SegmentMoved:
            log.refresh()
