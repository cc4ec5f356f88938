"""Segments whose own check has ended, for the checks across segments: entries, sorted keys, records.

A `Known` says which files of a segment are right. `Segments` reads those, of a few segments at a time; what
no right file has, it takes from the segment's log.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain, compress, pairwise, repeat
from operator import lshift, or_
from typing import Final, TypeVar
from zlib import crc32

from evlog.errors import EvlogError
from evlog.files.check.containers import CheckedLog
from evlog.files.check.indexes import pick
from evlog.files.check.logs import LogCheck
from evlog.files.check.segments import Keys
from evlog.files.check.task import SegmentTask
from evlog.files.disk.files import ReadFile, map_file
from evlog.files.format.entries import ENTRY_BYTES, ENTRY_PLACE, column, column_array
from evlog.files.format.frames import decode_record
from evlog.files.format.hashes import hash_ids, hash_stream
from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    KIND_IDS,
    KIND_STREAMS,
    FormatFault,
    decode_file_header,
)
from evlog.files.format.removed_events import event_column
from evlog.files.format.sorted_index import WITH_TAGS, sorted_shape
from evlog.files.log.removed import RemovedEvents
from evlog.model.events import Record
from evlog.model.named import NamedTuple

KEYS_AT_ONCE: Final = 1 << 19  # about 100 MB in a process
REMOVED_PER_KEY: Final = 4  # take the memory of one key; ranges are long, because each reads all of them
POSITION_BITS: Final = 64
STREAM_HASHES: Final = 1 << 64
ID_HASHES: Final = 1 << 32  # the sorted indexes keep the upper half
_MAX_CACHED: Final = 4
_MAX_OPEN: Final = 16

_T = TypeVar("_T")


class Heads(NamedTuple):
    """Some streams of a segment, by rising hash, with the first and the last version of each in there."""

    stream_hashes: list[int]
    first_versions: Sequence[int]
    last_versions: Sequence[int]


class Known(NamedTuple):
    """A segment that was checked by itself, and which of its files are right."""

    task: SegmentTask
    entry_count: int
    entries_known: bool
    offsets_sound: bool
    sound_indexes: Sequence[int]
    gaps: bool
    """whether any versions may be missing in it: it was salvaged, or is damaged"""
    keys: Keys | None
    """what the sorted indexes would say, if they do not both exist and hold"""


class Segments:
    """The entries, sorted keys and records of checked segments, opened when they are asked for."""

    def __init__(self, segments: Sequence[Known]) -> None:
        self._segments = segments
        self._entries: dict[int, bytes] = {}
        self._logs: dict[int, ReadFile | CheckedLog] = {}

    def __iter__(self) -> Iterator[tuple[int, Known]]:
        return iter(enumerate(self._segments))

    def task(self, place: int) -> SegmentTask:
        """Return the segment at a place."""
        return self._segments[place].task

    def entries(self, place: int) -> bytes | memoryview | None:
        """Return the entries of a segment; None where nothing knows them."""
        segment = self._segments[place]
        if not segment.entries_known:
            return None
        task, size = segment.task, segment.entry_count * ENTRY_BYTES
        if segment.offsets_sound and task.info.sealed:
            return map_file(f"{task.path}.offsets")[FILE_HEADER_BYTES : FILE_HEADER_BYTES + size]
        if place not in self._entries:
            if len(self._entries) >= _MAX_CACHED:
                self._entries.clear()
            if segment.offsets_sound:
                self._entries[place] = task.read_entries(segment.entry_count)
            else:
                self._entries[place] = bytes(LogCheck(task).run().entries)
        return self._entries[place]

    def heads(self, place: int, low: int, high: int) -> Heads | None:
        """Return the streams whose hash is from `low` to below `high`; None where nothing is known."""
        segment = self._segments[place]
        if segment.keys is not None:
            hashes = memoryview(segment.keys.stream_hashes).cast("Q")
            its = slice(bisect_left(hashes, low), bisect_left(hashes, high))
            firsts = memoryview(segment.keys.first_versions).cast("I")[its]
            return Heads(hashes[its].tolist(), firsts, memoryview(segment.keys.last_versions).cast("I")[its])
        entries = self.entries(place)
        if entries is None:
            return None
        keys, starts, numbers = map_sorted(segment.task, KIND_STREAMS)
        first, end = bisect_left(keys, low), bisect_left(keys, high)
        if first == end:
            return Heads([], [], [])
        edges = starts[first : end + 1].tolist()
        versions = column_array(entries, "version")
        firsts_at, lasts_at = pick(numbers, edges[:-1]), pick(numbers, [edge - 1 for edge in edges[1:]])
        return Heads(keys[first:end].tolist(), pick(versions, firsts_at), pick(versions, lasts_at))

    def numbers_of_stream(self, place: int, stream_hash: int) -> Sequence[int | None]:
        """Return the entries of the streams with this hash; None among them means unknown ones."""
        segment = self._segments[place]
        entries = self.entries(place)
        if entries is None:
            return (None,)
        if KIND_STREAMS in segment.sound_indexes:
            keys, starts, numbers = map_sorted(segment.task, KIND_STREAMS)
            at = bisect_left(keys, stream_hash)
            found = at < len(keys) and keys[at] == stream_hash
            return numbers[starts[at] : starts[at + 1]].tolist() if found else ()
        hashes = column(entries, "stream_hash")
        return list(compress(range(len(hashes)), map(stream_hash.__eq__, hashes)))

    def removed(self, low: int, high: int) -> Iterator[tuple[list[int], list[int]]]:
        """Yield the removed events whose stream hash is in the range, a file at a time.

        Yields:
            Stream hashes; and version << POSITION_BITS | position of each: a number
            takes a third of the memory of a tuple.
        """

        def read(file: RemovedEvents) -> tuple[list[int], list[int]]:
            rows = file.rows()
            hashes = event_column(rows, "stream_hash")
            versions, positions = event_column(rows, "version"), event_column(rows, "position")
            if (low, high) != (0, STREAM_HASHES):
                own = [low <= stream_hash < high for stream_hash in hashes]
                hashes, versions, positions = (
                    list(compress(column, own)) for column in (hashes, versions, positions)
                )
            return hashes, list(map(or_, map(lshift, versions, repeat(POSITION_BITS)), positions))

        return self._read_removed(read)

    def removed_samples(self, count: int) -> Iterator[int]:
        """Yield about as many stream hashes of the removed events in each file."""

        def read(file: RemovedEvents) -> list[int]:
            hashes = event_column(file.rows(), "stream_hash")
            return hashes[:: max(1, len(hashes) // count)]

        return chain.from_iterable(self._read_removed(read))

    def empty_streams(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """Yield hash and last version of the streams in the range that lost their last event."""

        def read(file: RemovedEvents) -> list[tuple[int, int]]:
            hashes = file.stream_hashes()
            its = slice(bisect_left(hashes, low), bisect_left(hashes, high))
            return list(zip(hashes[its], file.stream_versions()[its], strict=True))

        return chain.from_iterable(self._read_removed(read))

    def empty_names(self, stream_hash: int) -> Iterator[tuple[str, int]]:
        """Yield name and last version of the streams with this hash that lost their last event."""

        def read(file: RemovedEvents) -> list[tuple[str, int]]:
            streams = file.streams() if stream_hash in file.stream_hashes() else []
            return [(name, version) for name, version, _ in streams if hash_stream(name) == stream_hash]

        return chain.from_iterable(self._read_removed(read))

    def _read_removed(self, read: Callable[[RemovedEvents], _T]) -> Iterator[_T]:
        """Yield what is read of each file of removed events; nothing of a damaged one, found elsewhere."""
        for segment in self._segments:
            try:
                removed = segment.task.open_removed()
                result = None if removed is None else read(removed)
            except (FileNotFoundError, EvlogError):
                continue
            if result is not None:
                yield result

    def id_hashes(self, place: int, low: int, high: int) -> list[int]:
        """Return the upper halves of the id hashes from `low` to below `high`, rising."""
        segment = self._segments[place]
        if segment.keys is not None:
            keys = memoryview(segment.keys.id_hashes).cast("I")
        elif KIND_IDS in segment.sound_indexes:
            keys = map_sorted(segment.task, KIND_IDS)[0]
        else:
            return []
        return keys[bisect_left(keys, low) : bisect_left(keys, high)].tolist()

    def removed_id_hashes(self, low: int, high: int) -> Iterator[list[int]]:
        """Yield the hashes of ids from `low` to below `high` in each file of removed events."""
        return self._read_removed(lambda file: file.id_hashes(low, high))

    def removed_ids(self, uppers: Collection[int]) -> Iterator[tuple[str, bytes, int]]:
        """Yield file, id and position of the removed events with one of these id hashes."""

        def read(file: RemovedEvents) -> list[tuple[str, bytes, int]]:
            ids = file.ids()
            own = list(map(uppers.__contains__, hash_ids(ids)))
            positions = compress(event_column(file.rows(), "position"), own)
            return list(zip(repeat(file.path), compress(ids, own), positions))

        return chain.from_iterable(self._read_removed(read))

    def numbers_of_ids(self, place: int, uppers: Sequence[int]) -> Iterator[int]:
        """Yield the entries with these upper halves of an id's hash."""
        segment = self._segments[place]
        if KIND_IDS not in segment.sound_indexes:
            wanted = set(uppers)
            cells = column(self.entries(place) or b"", "id_hash")
            yield from compress(range(len(cells)), map(wanted.__contains__, cells))
            return
        keys, _, numbers = map_sorted(segment.task, KIND_IDS)
        count = len(keys)
        for upper in uppers:
            at = bisect_left(keys, upper)
            while at < count and keys[at] == upper:
                yield numbers[at]
                at += 1

    def is_at(self, id: bytes, position: int) -> bool:
        """Return whether the event with this id is at a position, or was until it was removed or damaged."""
        place = bisect_right(self._segments, position, key=lambda own: own.task.info.first_position) - 1
        entries = self.entries(place) if place >= 0 else None
        if entries is None or self._segments[place].gaps:
            return True

        def position_of(number: int) -> int:
            read = self.maybe_record(place, number)
            return read[0][0] if read is not None else 0

        count = len(entries) // ENTRY_BYTES
        number = bisect_left(range(count), position, key=position_of)
        read = self.maybe_record(place, number) if number < count else None
        if read is not None and read[0][0] == position:
            return read[0][4] == id
        return any(self._read_removed(lambda file: (event := file.find(id)) and event.position == position))

    def maybe_record(self, place: int, number: int) -> tuple[Record, int] | None:
        """Return a record with its offset; None if it is damaged."""
        entries = self.entries(place)
        if entries is None:
            return None
        offset, length, before, after = ENTRY_PLACE.unpack_from(entries, number * ENTRY_BYTES)
        try:
            if place not in self._logs:
                if len(self._logs) >= _MAX_OPEN:
                    self._logs.clear()
                self._logs[place] = self._segments[place].task.open_log()
            raw = self._logs[place].read(length, offset)
            return (decode_record(raw), offset) if crc32(raw, before) == after else None
        except (FileNotFoundError, FormatFault):
            return None


def map_sorted(task: SegmentTask, kind: int) -> tuple[memoryview, memoryview, memoryview]:
    """Map a sorted index that is known to be right; its keys, starts and postings."""
    raw = map_file(f"{task.path}.{WITH_TAGS[kind]}")
    header = decode_file_header(bytes(raw[:FILE_HEADER_BYTES]))
    shape = sorted_shape(kind, header.keys, header.postings)
    return (
        raw[shape.keys_at : shape.starts_at].cast("I" if kind == KIND_IDS else "Q"),
        raw[shape.starts_at : shape.postings_at].cast("I"),
        raw[shape.postings_at : shape.crcs_at].cast("I"),
    )


def stream_ranges(known: Sequence[Known], events: int, least: int) -> list[tuple[int, int]]:
    """Cut all stream hashes into ranges with about equally many keys: those of a category are neighbours."""
    parts = max(-(-events // KEYS_AT_ONCE), least)
    samples: list[int] = []
    for segment in known:
        if segment.keys is not None:
            keys = memoryview(segment.keys.stream_hashes).cast("Q")
        elif KIND_STREAMS in segment.sound_indexes:
            keys = map_sorted(segment.task, KIND_STREAMS)[0]
        else:
            continue
        samples += keys[:: max(1, len(keys) // (2 * parts))].tolist()
    samples += Segments(known).removed_samples(2 * parts)
    samples.sort()
    inner = {samples[len(samples) * part // parts] for part in range(1, parts)} if samples else ()
    return list(pairwise(sorted({0, *inner, STREAM_HASHES})))


def ranges(events: int, end: int, least: int) -> list[tuple[int, int]]:
    """Cut 0..end into at least `least` ranges, each with about KEYS_AT_ONCE of evenly spread keys."""
    parts = max(-(-events // KEYS_AT_ONCE), least)
    bounds = [end * part // parts for part in range(parts + 1)]
    return list(pairwise(bounds))
