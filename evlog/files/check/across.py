"""Checking what holds across segments: versions go on, and no id belongs to two events.

Done for a range of hashes (or of id folds) at a time, over all segments in order, so that memory does not
grow with the store and two processes can share the work. What is found by hash is a suspicion: the names
and ids in the records decide, and are read only then.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import compress, pairwise, repeat
from operator import eq, sub
from typing import Final, NamedTuple
from zlib import crc32

from evlog.errors import CorruptionError
from evlog.files.check import findings as kinds
from evlog.files.check import indexes
from evlog.files.check.indexes import SUFFIXES, Postings, make_postings, pick
from evlog.files.check.logs import LogCheck
from evlog.files.check.segments import SegmentTask, open_removed
from evlog.files.disk.files import ReadFile, map_file
from evlog.files.format.entries import ENTRY, ENTRY_BYTES, column
from evlog.files.format.frames import decode_record
from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    KIND_IDS,
    KIND_STREAMS,
    FormatFault,
    decode_file_header,
)
from evlog.files.format.removed_events import event_column
from evlog.files.format.sorted_index import sorted_shape
from evlog.files.log.removed import RemovedEvents
from evlog.model.events import Record, id_text
from evlog.model.reports import Finding

FOLDS_AT_ONCE: Final = 1 << 16
KEYS_AT_ONCE: Final = 1 << 19  # about 100 MB in a process
HASH_END: Final = 1 << 64
FOLD_END: Final = 1 << 32
_MAX_CACHED: Final = 4


class Made(NamedTuple):
    """What the sorted indexes of a segment that has none yet would say."""

    stream_hashes: bytes
    """u64, rising"""
    first_versions: bytes
    """u32, of each stream; and its last one"""
    last_versions: bytes
    folds: bytes
    """u32, rising: the upper half of each id's fold"""


class Heads(NamedTuple):
    """Some streams of a segment, by rising hash, with the first and the last version of each in there."""

    stream_hashes: list[int]
    first_versions: Sequence[int]
    last_versions: Sequence[int]


class Known(NamedTuple):
    """A segment that was checked by itself, and what of its files is to be believed."""

    task: SegmentTask
    entry_count: int
    entries_known: bool
    offsets_sound: bool
    sound_indexes: Sequence[int]
    gaps: bool
    """whether any versions may be missing in it: it was salvaged, or is damaged"""
    made: Made | None = None


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

    def heads(self, place: int, low: int, high: int) -> Heads | None:
        """The streams whose hash is from `low` to below `high`; None where nothing knows the entries."""
        made = self._segments[place].made
        if made is not None:
            hashes = memoryview(made.stream_hashes).cast("Q")
            its = slice(bisect_left(hashes, low), bisect_left(hashes, high))
            firsts = memoryview(made.first_versions).cast("I")[its]
            return Heads(hashes[its].tolist(), firsts, memoryview(made.last_versions).cast("I")[its])
        entries = self.entries(place)
        if entries is None:
            return None
        keys, starts, numbers = self.streams(place, low, high)
        if not keys:
            return Heads([], [], [])
        versions = memoryview(entries).cast("B").cast("I")[8::10]
        first, last = pick(numbers, starts[:-1]), pick(numbers, [end - 1 for end in starts[1:]])
        return Heads(keys, pick(versions, first), pick(versions, last))

    def numbers_of_stream(self, place: int, stream_hash: int) -> Sequence[int | None]:
        """The entries of the streams with this hash; None among them stands for those that nothing knows."""
        if self.entries(place) is None:
            return (None,)
        keys, starts, numbers = self.streams(place, stream_hash, stream_hash + 1)
        return list(numbers[starts[0] : starts[1]]) if keys else ()

    def gone_streams(self, low: int, high: int) -> dict[int, int]:
        """The streams of which some segment has nothing left, with the last version of each."""
        versions: dict[int, int] = {}
        for removed in self._removed_files():
            hashes = removed.stream_hashes()
            its = slice(bisect_left(hashes, low), bisect_left(hashes, high))
            for stream_hash, version in zip(hashes[its], removed.stream_versions()[its], strict=True):
                versions[stream_hash] = max(version, versions.get(stream_hash, 0))
        return versions

    def went(self, before: int, version: int, low: int, high: int) -> bool:
        """Whether events of all versions between two went from between two positions."""
        wanted = set(range(before + 1, version))
        for removed in self._removed_files():
            rows = removed.rows()
            places = zip(event_column(rows, "position"), event_column(rows, "version"), strict=True)
            wanted.difference_update(its for position, its in places if low < position < high)
        return not wanted

    def _removed_files(self) -> Iterator[RemovedEvents]:
        """What is left of the events that went, of the segments where that is whole."""
        for segment in self._segments:
            try:
                removed = open_removed(segment.task)
                if removed is not None:
                    removed.check_all()
            except (FileNotFoundError, CorruptionError):
                continue  # which is found elsewhere
            if removed is not None:
                yield removed

    def folds(self, place: int, low: int, high: int) -> list[int]:
        """The upper halves of the id folds from `low` to below `high`, rising."""
        segment = self._segments[place]
        if KIND_IDS in segment.sound_indexes or segment.made is not None:
            if segment.made is not None:
                keys = memoryview(segment.made.folds).cast("I")
            else:
                keys = _map_sorted(segment.task, KIND_IDS)[0]
            return keys[bisect_left(keys, low) : bisect_left(keys, high)].tolist()
        made = self._made.get((place, KIND_IDS))
        if not isinstance(made, list):
            made = sorted(column(self.entries(place) or b"", "id_hash_upper"))
            self._keep((place, KIND_IDS), made)
        return made[bisect_left(made, low) : bisect_left(made, high)]

    def numbers_of_folds(self, place: int, uppers: Sequence[int]) -> Iterator[int]:
        """The entries with these upper halves of an id fold."""
        segment = self._segments[place]
        if KIND_IDS not in segment.sound_indexes:
            wanted = set(uppers)
            cells = column(self.entries(place) or b"", "id_hash_upper")
            yield from compress(range(len(cells)), map(wanted.__contains__, cells))
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


def ranges(events: int, end: int, least: int) -> list[tuple[int, int]]:
    """`end` cut into ranges, so many at least, that hold about KEYS_AT_ONCE of so many evenly spread keys."""
    parts = max(-(-events // KEYS_AT_ONCE), least)
    bounds = [end * part // parts for part in range(parts + 1)]
    return list(pairwise(bounds))


# --- versions


class StreamsLook(NamedTuple):
    """What a look at the streams of a range of hashes found."""

    odd: list[int]
    """the hashes of those whose versions do not go on across segments"""
    lacking: Counter[int]
    """how many begin behind version n, by n: those before went, if a compaction was here"""


def look_at_streams(known: Sequence[Known], low: int, high: int) -> StreamsLook:
    """Look at the versions of the streams whose hash is in the range."""
    segments = Segments(known)
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    odd: set[int] = set()
    gaps = cut = False
    for place, segment in segments:
        gaps = gaps or segment.gaps
        cut = cut or segment.task.info.generation > 0
        heads = segments.heads(place, low, high)
        if heads is None or not heads.stream_hashes:
            continue
        keys, firsts, ends = heads
        steps = list(map(sub, firsts, map(last.get, keys, repeat(0))))
        if steps.count(1) != len(steps):
            for key, step in zip(keys, steps, strict=True):
                if step < 1 or (step > 1 and not gaps and (key in last or not cut)):
                    odd.add(key)
                elif step > 1 and key not in last:
                    first[key] = step - 1
        last.update(zip(keys, ends, strict=True))
    gone = segments.gone_streams(low, high)
    lacking = Counter(first.values())
    lacking.update(version for key, version in gone.items() if key not in last)
    return StreamsLook(sorted(odd), lacking)


def check_stream(segments: Segments, stream_hash: int) -> tuple[list[Finding], list[int]]:
    """Look at every event of the streams with this hash, by name.

    Returns:
        What is wrong with their versions; and those that are missing between others and seem to have gone.
    """
    found: list[Finding] = []
    went: list[int] = []
    last: dict[str, int] = {}
    at: dict[str, int] = {}
    gaps = unsure = cut = False
    for place, segment in segments:
        gaps = gaps or segment.gaps
        cut = cut or segment.task.info.generation > 0
        for number in segments.numbers_of_stream(place, stream_hash):
            read = None if number is None else segments.maybe_record(place, number)
            if read is None:
                unsure = True  # it is damaged, which is found elsewhere
                continue
            (position, version, stream, *_), offset = read
            before, low = last.get(stream, 0), at.get(stream, 0)
            last[stream], at[stream] = max(before, version), position
            if version > before and (version == before + 1 or gaps or unsure):
                continue
            if version > before and cut and (not before or segments.went(before, version, low, position)):
                went += range(before + 1, version) if before else ()
                continue
            detail = f"stream {_shortened(stream)!r} goes from version {before} to {version}"
            found.append(kinds.damage(kinds.VERSION, segment.task.log_name, offset, position, detail))
    return found, went


def check_beginnings(known: Sequence[Known], behind: Collection[int], most: int) -> list[Finding]:
    """The streams that begin behind one of these versions: more do than what went accounts for.

    Those of which it is certain, if there are any: nothing of their versions went before their first event.
    """
    segments = Segments(known)
    events = sum(segment.entry_count for segment in known)
    certain: list[Finding] = []
    likely: list[Finding] = []
    for low, high in ranges(events, HASH_END, 1):
        seen: set[int] = set()
        for place, segment in segments:
            heads = segments.heads(place, low, high)
            for stream_hash, first in zip(*heads[:2], strict=True) if heads is not None else ():
                if stream_hash in seen or first - 1 not in behind or len(likely) + len(certain) >= most:
                    continue
                number = next(iter(segments.numbers_of_stream(place, stream_hash)))
                read = None if number is None else segments.maybe_record(place, number)
                if read is None:
                    continue
                (position, _, stream, *_), offset = read
                went = segments.went(0, first, 0, position)
                why = "more streams do than what went accounts for" if went else "not all before it went"
                detail = f"stream {_shortened(stream)!r} begins with version {first}, and {why}"
                finding = kinds.damage(kinds.VERSION, segment.task.log_name, offset, position, detail)
                (likely if went else certain).append(finding)
            if heads is not None:
                seen.update(heads.stream_hashes)
    return certain or likely


def _shortened(stream: str) -> str:
    return stream if len(stream) <= 60 else stream[:59] + "…"


# --- ids


def folds_twice(known: Sequence[Known], low: int, high: int) -> list[int]:
    """The upper halves of an id's fold that two events share, of those in the range; by chance mostly."""
    segments = Segments(known)
    folds: list[int] = []
    for place, _ in segments:
        folds += segments.folds(place, low, high)
    folds.sort()  # as many rising runs as there are segments: they are merged
    return sorted(set(compress(folds, map(eq, folds, folds[1:]))))


def check_folds(known: Sequence[Known], uppers: Sequence[int]) -> list[Finding]:
    """The ids that belong to two events, of those whose folds have one of these upper halves."""
    segments = Segments(known)
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
                found.append(kinds.damage(kinds.ID, name, offset, position, detail))
            else:
                first[id] = position
    return found


# --- without sorted indexes


def make(entries: bytes) -> Made | None:
    """What the sorted indexes of these entries would say; None if a stream's versions do not go on by one."""
    postings = make_postings(entries, KIND_STREAMS)
    versions = column(entries, "version")
    if indexes.odd_streams(postings, versions, gaps=False):
        return None
    firsts = pick(postings.numbers, postings.starts[:-1])
    lasts = pick(postings.numbers, [end - 1 for end in postings.starts[1:]])
    return Made(
        array("Q", postings.keys).tobytes(),
        array("I", pick(versions, firsts)).tobytes(),
        array("I", pick(versions, lasts)).tobytes(),
        array("I", sorted(column(entries, "id_hash_upper"))).tobytes(),
    )
