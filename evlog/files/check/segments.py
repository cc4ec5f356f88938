"""Checking one segment: its log, its .offsets, its sorted indexes, the versions within it.

1. The work is divided for all cores: the sorted indexes, and parts of the log. .offsets says where a part
   begins; the checks of the parts prove it.
2. If all parts are right and fit together, the segment is right. Otherwise `check_segment` checks it again in
   one piece, and reports what is wrong.
3. A `SegmentCheck` says what the checks across segments need: which of its derived files are right.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from struct import Struct
from typing import Any, Final
from zlib import crc32

from evlog.errors import EvlogError
from evlog.files.check import findings as kinds
from evlog.files.check.digest import NO_DIGEST, HeadDigest, join_digests
from evlog.files.check.indexes import Postings, check_index, check_tags, check_versions, versions_rise_by_one
from evlog.files.check.logs import LogCheck
from evlog.files.check.offsets import Unclear
from evlog.files.check.records import Runs
from evlog.files.check.tags import NO_TAGS, build_index, count_events
from evlog.files.check.task import BEGINNING, LogSummary, SegmentTask, Start, sealed_fault
from evlog.files.disk.files import ReadFile
from evlog.files.disk.processes import Call
from evlog.files.format.entries import ENTRY_BYTES, ENTRY_FRAME, ENTRY_PLACE, count_tagged
from evlog.files.format.frames import FRAME_HEADER_BYTES, decode_frame_header
from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    KIND_IDS,
    KIND_OFFSETS,
    KIND_STREAMS,
    KIND_TAGS,
    FormatFault,
    decode_file_header,
)
from evlog.files.format.marks import LOWEST_ID
from evlog.files.format.sorted_index import SORTED_SUFFIXES, WITH_TAGS, sort_ids
from evlog.model.named import NamedTuple
from evlog.model.reports import Finding

# Small enough that no core idles long at the end and a pipe holds the digests of a part, 32 bytes an event;
# large enough that the fixed costs of a part do not count.
_PART_BYTES: Final = 8 << 20
_PART_EVENTS: Final = 1 << 14
_UNREADABLE: Final = (FileNotFoundError, FormatFault, EvlogError)


class Keys(NamedTuple):
    """What the sorted indexes of a segment would say, if it has none that are right."""

    stream_hashes: bytes
    """u64, rising"""
    first_versions: bytes
    """u32, of each stream; and its last one"""
    last_versions: bytes
    id_hashes: bytes
    """u32, rising: the upper half of each id's hash"""


class IndexCheck(NamedTuple):
    """What was found in the sorted indexes of a segment."""

    findings: list[Finding]
    sound: list[int]
    """the kinds of those that are right"""
    odd_streams: list[int]
    """hashes of the streams whose versions do not rise by one, or of several streams that share one"""
    keys: Keys | None


class SegmentCheck(NamedTuple):
    """What was found in one segment."""

    log: LogSummary
    indexes: IndexCheck

    @property
    def findings(self) -> list[Finding]:
        return self.log.findings + self.indexes.findings

    def without_digests(self) -> SegmentCheck:
        """Return the same without 32 bytes for each record, once they are in the head digest."""
        return self._replace(log=self.log._replace(digest=self.log.digest._replace(records=b"")))


NO_INDEXES: Final = IndexCheck([], [], [], None)


# --- in one piece


def check_segment(task: SegmentTask) -> SegmentCheck:
    """Check a segment and name what is wrong with it.

    Raises:
        FileNotFoundError: its log is missing.
    """
    check = LogCheck(task).run()
    entries = bytes(check.entries)
    log = check.summary()
    indexes = check_indexes(task, entries) if log.entries_known else NO_INDEXES
    return _with_tags(task, log, indexes)


def maybe_check_segment(task: SegmentTask) -> SegmentCheck | None:
    """Check a segment; None if its log is missing."""
    try:
        return check_segment(task)
    except FileNotFoundError:
        return None


def check_indexes(task: SegmentTask, entries: bytes) -> IndexCheck:
    """Check a segment's sorted indexes, and its versions, against its entries."""
    info = task.info
    findings: list[Finding] = []
    sound: list[int] = []
    by_stream: Postings | None = None
    if info.sealed:
        header = task.header._replace(source_crc=info.offsets_crc)
        for kind, suffix in SORTED_SUFFIXES.items():
            name = f"{task.name}.{suffix}"
            index = check_index(f"{task.path}.{suffix}", name, header._replace(kind=kind), entries)
            if isinstance(index, Finding):
                findings.append(index)
            else:
                sound.append(kind)
                by_stream = index if kind == KIND_STREAMS else by_stream
        tagged = count_tagged(entries) if crc32(entries) == info.offsets_crc else info.tagged_events
        if tagged != info.tagged_events:
            detail = f"the manifest says that {info.tagged_events} of its events have tags, not {tagged}"
            findings.append(kinds.damage(kinds.MANIFEST, task.log_name, None, None, detail))
    if by_stream is not None and KIND_IDS in sound and versions_rise_by_one(by_stream, entries):
        return IndexCheck(findings, sound, [], None)
    versions = check_versions(entries, gaps=bool(info.lost_events))
    keys = None
    if by_stream is None or KIND_IDS not in sound:
        streams = sorted(versions.first)
        keys = Keys(
            array("Q", streams).tobytes(),
            array("I", map(versions.first.__getitem__, streams)).tobytes(),
            array("I", map(versions.last.__getitem__, streams)).tobytes(),
            sort_ids(entries)[0].tobytes(),
        )
    return IndexCheck(findings, sound, sorted(versions.odd), keys)


def _with_tags(task: SegmentTask, log: LogSummary, indexes: IndexCheck) -> SegmentCheck:
    """Check .tags, too, with the tags that the check of the log gave, which are not needed any more."""
    tags, log = log.tags, log._replace(tags=NO_TAGS)
    if not task.info.sealed or not task.info.tagged_events:
        return SegmentCheck(log, indexes)
    header = task.header._replace(kind=KIND_TAGS, source_crc=task.info.offsets_crc)
    # The tags of a damaged event are not known.
    is_known = count_events(tags) == task.info.tagged_events
    content = build_index(header, tags) if is_known else None
    suffix = WITH_TAGS[KIND_TAGS]
    finding = check_tags(f"{task.path}.{suffix}", f"{task.name}.{suffix}", header, content)
    if finding is not None:
        return SegmentCheck(log, indexes._replace(findings=[*indexes.findings, finding]))
    return SegmentCheck(
        log, indexes._replace(sound=[*indexes.sound, KIND_TAGS] if is_known else indexes.sound)
    )


def missing_segment(task: SegmentTask) -> SegmentCheck:
    """Return what is known of a segment whose log is missing."""
    info = task.info
    lost = f"{info.events} events, positions {info.first_position} to {info.last_position}"
    if not info.sealed:
        lost = f"all events from position {info.first_position} on"
    finding = kinds.damage(
        kinds.MISSING, task.log_name, None, info.first_position, f"the log is missing: {lost} are lost"
    )
    known = info.sealed and crc32(_read_entries(task, info.events)) == info.offsets_crc
    log = LogSummary(
        findings=[finding],
        start=FILE_HEADER_BYTES,
        end=FILE_HEADER_BYTES,
        whole_events=0,
        entry_count=info.events,
        first_position=0,
        last_position=info.last_position or info.first_position - 1,
        first_time_us=0,
        last_time_us=0,
        crc_before=0,
        entries_crc=info.offsets_crc,
        durable=0,
        tail_bytes=0,
        damaged=True,
        entries_known=known,
        offsets_sound=known,
        missing=Runs().packed(),
        tags=NO_TAGS,
        digest=NO_DIGEST,
        highest_id=LOWEST_ID,
    )
    return SegmentCheck(log, NO_INDEXES)


def _read_entries(task: SegmentTask, count: int) -> bytes:
    """Read a segment's first entries from .offsets; fewer if there are not that many."""
    try:
        return task.read_entries(count)
    except (FileNotFoundError, EvlogError):
        return b""


# --- in pieces


class Part(NamedTuple):
    """A part of a segment's log: entries low..high-1, and where their frames end."""

    task: SegmentTask
    low: int
    high: int
    end: int


def maybe_check_part(part: Part) -> LogSummary | None:
    """Check a part of a log; None if anything is wrong with it."""
    task, low, _, end = part
    try:
        start = _start_of(task, low)
        return LogCheck(task, start, end).run().summary()
    except (Unclear, *_UNREADABLE):
        return None


def maybe_check_indexes(task: SegmentTask, count: int) -> IndexCheck | None:
    """Check the sorted indexes of a segment whose .offsets is right; None where that is too short."""
    entries = _read_entries(task, count)
    return check_indexes(task, entries) if len(entries) == count * ENTRY_BYTES else None


def plan_parts(task: SegmentTask) -> list[Part]:
    """Return the parts of a segment to check; none where .offsets cannot tell them."""
    info = task.info
    try:
        offsets = ReadFile(f"{task.path}.offsets")
        header = decode_file_header(offsets.read(FILE_HEADER_BYTES, 0))
    except _UNREADABLE:
        return []
    count, rest = divmod(offsets.size() - FILE_HEADER_BYTES, ENTRY_BYTES)
    if header != task.header._replace(kind=KIND_OFFSETS) or (
        info.sealed and (count, rest) != (info.events, 0)
    ):
        return []

    def cell(number: int, of: Struct) -> int:
        row = offsets.read(ENTRY_BYTES, FILE_HEADER_BYTES + number * ENTRY_BYTES)
        value: int = of.unpack(row.ljust(ENTRY_BYTES, b"\0"))[0]
        return value

    def frame(number: int) -> int:
        return cell(number, ENTRY_FRAME)

    if not info.sealed:  # writers may be appending
        count = bisect_left(range(count), task.size, key=lambda number: cell(number, ENTRY_PLACE))
    edges = [0]
    step = max(1, min(_PART_EVENTS, count * _PART_BYTES // max(task.size, 1)))
    numbers = range(count)
    while edges[-1] + step + step // 2 < count:
        edge = edges[-1] + step
        first = bisect_left(numbers, frame(edge), edges[-1], edge, key=frame)
        if first == edges[-1]:  # a frame of many events
            first = bisect_right(numbers, frame(edge), edge, key=frame)
        edges.append(first)
    if edges[-1] < count:
        edges.append(count)
    ends = [*map(frame, edges[1:-1]), task.size]
    return [Part(task, low, high, end) for (low, high), end in zip(pairwise(edges), ends, strict=False)]


def _start_of(task: SegmentTask, number: int) -> Start:
    """Return where the part from an entry on begins, with the running CRC that the frame before it names."""
    if not number:
        return BEGINNING
    offsets = ReadFile(f"{task.path}.offsets")
    rows = offsets.read(2 * ENTRY_BYTES, FILE_HEADER_BYTES + (number - 1) * ENTRY_BYTES)
    if len(rows) < 2 * ENTRY_BYTES:
        raise Unclear
    (before,), (frame,) = ENTRY_FRAME.iter_unpack(rows)
    raw = task.open_log().read(FRAME_HEADER_BYTES, before)
    return Start(frame, number, decode_frame_header(raw, 0, before, task.info.tag).index_crc)


def maybe_join(task: SegmentTask, parts: Sequence[LogSummary | None]) -> LogSummary | None:
    """Return the result of the whole log, joined from its parts; None if the whole log has to be checked.

    Each part was checked with an assumption about the part before it. If each assumption is the result of
    that part, all are proved.
    """
    own = [part for part in parts if part is not None]
    if not own or len(own) < len(parts):
        return None
    info, first, last = task.info, own[0], own[-1]
    missing = Runs()
    reached = info.first_position - 1
    for before, part in zip([None, *own], own, strict=False):
        if before is not None and (
            (part.start, part.crc_before) != (before.end, before.entries_crc)
            or part.first_time_us < before.last_time_us
        ):
            return None
        if part.first_position <= reached or (part.first_position > reached + 1 and not info.generation):
            return None
        missing.add(reached, (part.first_position,))
        missing.firsts.frombytes(part.missing[0])
        missing.lasts.frombytes(part.missing[1])
        reached = part.last_position
    whole = last._replace(
        start=first.start,
        whole_events=sum(part.whole_events for part in own),
        entry_count=sum(part.entry_count for part in own),
        first_position=first.first_position,
        first_time_us=first.first_time_us,
        crc_before=0,
        durable=max(part.durable for part in own),
        missing=missing.packed(),
        tags=(b"".join([part.tags[0] for part in own]), b"".join([part.tags[1] for part in own])),
        digest=join_digests([part.digest for part in own]),
        highest_id=max(part.highest_id for part in own),
    )
    whole_end = max(task.size, task.synced)
    if (first.start, first.crc_before, last.end) != (FILE_HEADER_BYTES, 0, whole_end):
        return None
    return None if info.sealed and sealed_fault(info, whole) else whole


class Pieces:
    """The pieces of all segments, and their results as they come."""

    def __init__(self, tasks: Sequence[SegmentTask], digest: HeadDigest) -> None:
        self._tasks = tasks
        self._digest = digest
        parts = [plan_parts(task) for task in tasks]
        self._results: list[list[Any]] = [[None] * (1 + len(own)) for own in parts]
        self._left = [1 + len(own) for own in parts]  # how many results of each segment are still to come
        self._checks: dict[int, SegmentCheck] = {}
        self._places: list[tuple[int, int]] = []
        self.calls: list[Call] = []
        """what is to be called; first what cannot be shared"""
        for at, own in enumerate(parts):
            if own:
                self._add((maybe_check_indexes, (tasks[at], own[-1].high)), at, 0)
        for at, own in enumerate(parts):
            for number, part in enumerate(own, 1):
                self._add((maybe_check_part, (part,)), at, number)

    def _add(self, call: Call, at: int, number: int) -> None:
        self.calls.append(call)
        self._places.append((at, number))

    def take(self, call: int, result: Any) -> None:
        """Keep the result of a call."""
        at, number = self._places[call]
        results = self._results[at]
        results[number] = result
        self._left[at] -= 1
        if self._left[at]:
            return
        indexes, *parts = results
        results.clear()
        log = maybe_join(self._tasks[at], parts)
        if log is not None and indexes is not None and log.digest.sound:
            self._digest.add(at, log.digest)
            self._checks[at] = _with_tags(self._tasks[at], log, indexes).without_digests()

    def maybe_check(self, at: int) -> SegmentCheck | None:
        """Return the check of a segment; None if it has to be checked in one piece."""
        return self._checks.get(at)
