"""Checking what holds across segments: versions go on, and no id belongs to two events.

Done for a range of hashes (or of id folds) at a time, over all segments in order, so that memory does not
grow with the store and two processes can share the work. What is found by hash is a suspicion: the names
and ids in the records decide, and are read only then.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import compress, pairwise, repeat
from operator import eq, sub
from typing import Final, NamedTuple
from zlib import crc32

from evlog.checking import findings as kinds
from evlog.checking.findings import Finding
from evlog.checking.indexes import SUFFIXES, Postings, make_postings
from evlog.checking.logs import LogCheck
from evlog.checking.segments import SegmentTask
from evlog.disk import ReadFile, map_file
from evlog.events import Record, id_text
from evlog.format import (
    ENTRY,
    ENTRY_BYTES,
    FILE_HEADER_BYTES,
    KIND_IDS,
    KIND_STREAMS,
    FormatFault,
    column,
    decode_file_header,
    decode_record,
    sorted_shape,
)

KEYS_AT_ONCE: Final = 1 << 19  # about 100 MB in a process
HASH_END: Final = 1 << 64
FOLD_END: Final = 1 << 32
_MAX_CACHED: Final = 4


class Known(NamedTuple):
    """A segment that was checked by itself, and what of its files is to be believed."""

    task: SegmentTask
    entry_count: int
    entries_known: bool
    offsets_sound: bool
    sound_indexes: Sequence[int]
    gaps: bool
    """whether versions may be missing in it: it was compacted, or is damaged"""


class Segments:
    """The entries and sorted keys of checked segments, opened as they are asked for."""

    def __init__(self, segments: Sequence[Known]) -> None:
        self._segments = segments
        self._made: dict[tuple[int, int], Postings | list[int]] = {}  # of those without a file
        self._entries: dict[int, bytes] = {}

    def __iter__(self) -> Iterator[tuple[int, Known]]:
        return iter(enumerate(self._segments))

    def task(self, place: int) -> SegmentTask:
        """Which segment stands at the place."""
        return self._segments[place].task

    def entries(self, place: int) -> bytes | memoryview | None:
        """The entries of a segment; None where nothing knows them."""
        segment = self._segments[place]
        if not segment.entries_known:
            return None
        task, size = segment.task, segment.entry_count * ENTRY_BYTES
        if segment.offsets_sound and task.info.sealed:
            return map_file(f"{task.path}.offsets")[FILE_HEADER_BYTES : FILE_HEADER_BYTES + size]
        if place not in self._entries:
            if len(self._entries) >= _MAX_CACHED:
                self._entries.clear()
            self._entries[place] = self._read_entries(segment)
        return self._entries[place]

    def _read_entries(self, segment: Known) -> bytes:
        task = segment.task
        if segment.offsets_sound:
            return ReadFile(f"{task.path}.offsets").read(segment.entry_count * ENTRY_BYTES, FILE_HEADER_BYTES)
        return bytes(LogCheck(task.store, task.store_id, task.info, task.size, task.synced).run().entries)

    def streams(self, place: int, low: int, high: int) -> Postings:
        """The keys from `low` to below `high`, with their starts and all the segment's postings."""
        segment = self._segments[place]
        if KIND_STREAMS in segment.sound_indexes:
            keys, starts, numbers = _map_sorted(segment.task, KIND_STREAMS)
            first, end = bisect_left(keys, low), bisect_left(keys, high)
            return Postings(keys[first:end].tolist(), starts[first : end + 1].tolist(), numbers)  # type: ignore[arg-type]
        made = self._made.get((place, KIND_STREAMS))
        if not isinstance(made, Postings):
            made = make_postings(self.entries(place) or b"", KIND_STREAMS)
            self._keep((place, KIND_STREAMS), made)
        first, end = bisect_left(made.keys, low), bisect_left(made.keys, high)
        return Postings(made.keys[first:end], made.starts[first : end + 1], made.numbers)

    def folds(self, place: int, low: int, high: int) -> list[int]:
        """The upper halves of the id folds from `low` to below `high`, rising."""
        segment = self._segments[place]
        if KIND_IDS in segment.sound_indexes:
            keys = _map_sorted(segment.task, KIND_IDS)[0]
            return keys[bisect_left(keys, low) : bisect_left(keys, high)].tolist()
        made = self._made.get((place, KIND_IDS))
        if not isinstance(made, list):
            made = sorted(column(self.entries(place) or b"", "id_fold_upper"))
            self._keep((place, KIND_IDS), made)
        return made[bisect_left(made, low) : bisect_left(made, high)]

    def numbers_of_folds(self, place: int, uppers: Sequence[int]) -> Iterator[int]:
        """The entries with these upper halves of an id fold."""
        segment = self._segments[place]
        if KIND_IDS not in segment.sound_indexes:
            wanted = set(uppers)
            cells = column(self.entries(place) or b"", "id_fold_upper")
            yield from (number for number, cell in enumerate(cells) if cell in wanted)
            return
        keys, _, numbers = _map_sorted(segment.task, KIND_IDS)
        count = len(keys)
        for upper in uppers:
            at = bisect_left(keys, upper)
            while at < count and keys[at] == upper:
                yield numbers[at]
                at += 1

    def maybe_record(self, place: int, number: int) -> tuple[Record, int] | None:
        """A record with its offset, if it is whole."""
        entries = self.entries(place)
        if entries is None:
            return None
        offset, length, crc = ENTRY.unpack_from(entries, number * ENTRY_BYTES)[2:5]
        task = self._segments[place].task
        try:
            raw = task.open_log().read(length, offset)
            return (decode_record(raw), offset) if crc32(raw) == crc else None
        except (FileNotFoundError, FormatFault):
            return None

    def _keep(self, key: tuple[int, int], made: Postings | list[int]) -> None:
        if len(self._made) >= _MAX_CACHED:
            self._made.clear()
        self._made[key] = made


def _map_sorted(task: SegmentTask, kind: int) -> tuple[memoryview, memoryview, memoryview]:
    raw = map_file(f"{task.path}.{SUFFIXES[kind]}")
    header = decode_file_header(bytes(raw[:FILE_HEADER_BYTES]))
    shape = sorted_shape(kind, header.keys, header.postings)
    return (
        raw[shape.keys_at : shape.starts_at].cast("I" if kind == KIND_IDS else "Q"),
        raw[shape.starts_at : shape.postings_at].cast("I"),
        raw[shape.postings_at : shape.crcs_at].cast("I"),
    )


def ranges(events: int, end: int) -> list[tuple[int, int]]:
    """`end` cut into ranges that hold about KEYS_AT_ONCE of so many evenly spread keys."""
    parts = -(-events // KEYS_AT_ONCE) or 1
    bounds = [end * part // parts for part in range(parts + 1)]
    return list(pairwise(bounds))


# --- versions


def odd_streams_between(segments: Segments, low: int, high: int) -> list[int]:
    """The hashes of the streams, of those in the range, whose versions do not go on across segments."""
    last: dict[int, int] = {}
    odd: set[int] = set()
    gaps = False
    for place, segment in segments:
        gaps = gaps or segment.gaps
        entries = segments.entries(place)
        if entries is None:
            continue
        keys, starts, numbers = segments.streams(place, low, high)
        if not keys:
            continue
        versions = memoryview(entries).cast("B").cast("I")[8::10]
        firsts = [versions[numbers[start]] for start in starts[:-1]]
        ends = [versions[numbers[end - 1]] for end in starts[1:]]
        steps = list(map(sub, firsts, map(last.get, keys, repeat(0))))
        if steps.count(1) != len(steps):
            odd.update(
                key for key, step in zip(keys, steps, strict=True) if step < 1 or (step > 1 and not gaps)
            )
        last.update(zip(keys, ends, strict=True))
    return sorted(odd)


def check_stream(segments: Segments, stream_hash: int) -> list[Finding]:
    """Look at every event of the streams with this hash, by name; what is wrong with their versions."""
    found: list[Finding] = []
    last: dict[str, int] = {}
    gaps = unsure = False
    for place, segment in segments:
        if segment.gaps:
            gaps = True
        entries = segments.entries(place)
        if entries is None:
            unsure = True
            continue
        keys, starts, numbers = segments.streams(place, stream_hash, stream_hash + 1)
        for number in list(numbers[starts[0] : starts[1]]) if keys else ():
            read = segments.maybe_record(place, number)
            if read is None:
                unsure = True  # it is damaged, which is found elsewhere
                continue
            (position, version, stream, *_), offset = read
            before = last.get(stream, 0)
            last[stream] = max(before, version)
            if version <= before or (version != before + 1 and not gaps and not unsure):
                name = stream if len(stream) <= 60 else stream[:59] + "…"
                detail = f"stream {name!r} goes from version {before} to {version}"
                found.append(Finding(kinds.VERSION, segment.task.log_name, offset, position, detail))
    return found


# --- ids


def check_ids_between(segments: Segments, low: int, high: int) -> list[Finding]:
    """The ids that belong to two events, of those whose fold's upper half is in the range."""
    seen: set[int] = set()
    twice: set[int] = set()
    for place, _ in segments:
        folds = segments.folds(place, low, high)
        known = len(seen)
        both = seen.intersection(folds)
        seen.update(folds)
        if len(seen) - known + len(both) < len(folds):  # they rise, so those that are equal are neighbours
            both.update(compress(folds, map(eq, folds, folds[1:])))
        twice |= both
    return _check_folds(segments, sorted(twice)) if twice else []


def _check_folds(segments: Segments, uppers: Sequence[int]) -> list[Finding]:
    """Folds share their upper half, by chance mostly: compare the whole folds, then the ids."""
    places: dict[int, list[tuple[int, int]]] = {}
    for place, _ in segments:
        entries = segments.entries(place)
        if entries is None:
            continue
        for number in segments.numbers_of_folds(place, uppers):
            fold = ENTRY.unpack_from(entries, number * ENTRY_BYTES)[1]
            places.setdefault(fold, []).append((place, number))
    found = []
    first: dict[bytes, int] = {}
    for same in places.values():
        for place, number in same if len(same) > 1 else ():
            read = segments.maybe_record(place, number)
            if read is None:
                continue
            record, offset = read
            position, id = record[0], record[4]
            if id in first:
                name = segments.task(place).log_name
                detail = f"id {id_text(id)} is that of position {first[id]} already"
                found.append(Finding(kinds.ID, name, offset, position, detail))
            else:
                first[id] = position
    return found
