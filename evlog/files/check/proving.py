"""Proving all of a store's segments: what there is to be done, in pieces for all cores, and what came of it.

Three kinds of pieces to a segment, none of which waits for another: parts of its log, the SHA-256 of the log
(a chain, so never in parts), and its indexes. A segment is proved if all of its pieces are.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise
from typing import Any, Final, NamedTuple

from evlog.errors import EvlogError
from evlog.files.check.across import Made, make
from evlog.files.check.containers import CheckedLog
from evlog.files.check.indexes import SUFFIXES
from evlog.files.check.proof import NO_PROOF, Part, Proof, maybe_prove
from evlog.files.check.rows import Runs
from evlog.files.check.segments import SegmentCheck, SegmentTask, check_sorted
from evlog.files.disk.files import ReadFile
from evlog.files.disk.processes import Call
from evlog.files.format.entries import ENTRY, ENTRY_BYTES
from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    KIND_OFFSETS,
    FormatFault,
    NewerFormat,
    decode_file_header,
)
from evlog.files.log.manifest import SegmentInfo
from evlog.files.log.segment import Segment
from evlog.model.reports import Finding

_PIECE_BYTES: Final = 1 << 20
# Small enough that no core idles long at the end, large enough that nothing done once for each matters.
_PART_BYTES: Final = 16 << 20
_PART_EVENTS: Final = 1 << 16


class IndexProof(NamedTuple):
    """The sorted indexes of a segment are right; of one that has none yet, what they would say."""

    made: Made | None


def maybe_prove_indexes(task: SegmentTask, count: int) -> IndexProof | None:
    """Look at the sorted indexes and versions of a segment whose .offsets is right; None for a finding."""
    try:
        entries = ReadFile(f"{task.path}.offsets").read(count * ENTRY_BYTES, FILE_HEADER_BYTES)
    except (FileNotFoundError, EvlogError):
        return None
    if len(entries) != count * ENTRY_BYTES:
        return None
    if not task.info.sealed:
        made = make(entries)
        return None if made is None else IndexProof(made)
    found: list[Finding] = []
    odd = check_sorted(task, entries, found, [])
    return None if found or odd else IndexProof(None)


# --- pieces
def plan_parts(task: SegmentTask) -> list[Part]:
    """The parts of a segment to be proved; none where .offsets cannot lead the way."""
    info = task.info
    if info.first_position <= task.pin_position and not 0 < info.last_position < task.pin_position:
        return []  # the digest within it is wanted
    try:
        offsets = ReadFile(f"{task.path}.offsets")
        header = decode_file_header(offsets.read(FILE_HEADER_BYTES, 0))
    except (FileNotFoundError, FormatFault, NewerFormat, EvlogError):
        return []
    own = Segment(task.store, task.store_id, info).header
    count, rest = divmod(offsets.size() - FILE_HEADER_BYTES, ENTRY_BYTES)
    if header != own._replace(kind=KIND_OFFSETS) or (info.sealed and (count, rest) != (info.events, 0)):
        return []

    def entry(number: int) -> tuple[int, ...]:
        fields: tuple[int, ...] = ENTRY.unpack(
            offsets.read(ENTRY_BYTES, FILE_HEADER_BYTES + number * ENTRY_BYTES)
        )
        return fields

    if not info.sealed:  # others may be appending
        count = bisect_left(range(count), task.size, key=lambda number: entry(number)[2])
    edges = [0]
    step = max(1, min(_PART_EVENTS, count * _PART_BYTES // max(task.size, 1)))
    while edges[-1] < count:
        edge = edges[-1] + step
        if edge + step // 2 >= count:
            edges.append(count)
            break
        frame = entry(edge)[5]
        numbers = range(count)
        first = bisect_left(numbers, frame, edges[-1], edge, key=lambda number: entry(number)[5])
        if first == edges[-1]:  # a frame of many
            first = bisect_right(numbers, frame, edge, key=lambda number: entry(number)[5])
        edges.append(first)
    return [Part(task, low, high) for low, high in pairwise(edges)]


def maybe_hash(task: SegmentTask) -> bytes | None:
    """The SHA-256 of a log with the header and the length that it must have; None if it has not."""
    try:
        log = task.open_log()
        found = decode_file_header(log.read(FILE_HEADER_BYTES, 0))
        size = log.size()
    except NO_PROOF:
        return None
    if found != Segment(task.store, task.store_id, task.info).header:
        return None
    if size < task.size or (task.info.sealed and size != task.info.log_bytes):
        return None
    digest = sha256()
    for at in range(0, task.size, _PIECE_BYTES):
        digest.update(log.read(min(_PIECE_BYTES, task.size - at), at))
    if isinstance(log, CheckedLog) and log.findings:  # every block was unpacked by now
        return None
    return digest.digest()


def maybe_joined(
    task: SegmentTask, proofs: Sequence[Proof | None], digest: bytes | None
) -> SegmentCheck | None:
    """What `check_segment` finds of a segment whose sorted indexes are proved, if its parts are, too."""
    info = task.info
    own = [proof for proof in proofs if proof is not None]
    if digest is None or len(own) < len(proofs):
        return None
    first, last = own[0], own[-1]
    events = sum(proof.entries for proof in own)
    if (first.start, first.crc_before, last.end) != (FILE_HEADER_BYTES, 0, task.size):
        return None
    if not all(_goes_on(before, proof, gaps=info.generation > 0) for before, proof in pairwise(own)):
        return None
    if first.first_position < info.first_position or (
        first.first_position > info.first_position and not info.generation
    ):
        return None
    if info.sealed and not _is_as_sealed(info, events, first, last):
        return None
    return SegmentCheck(
        findings=[],
        events=events,
        entry_count=events,
        end=last.end,
        last_position=last.last_position,
        first_time_us=first.first_time_us,
        last_time_us=last.last_time_us,
        entries_crc=last.entries_crc,
        digest=digest,
        pinned_digest=b"",
        tail_bytes=0,
        vouched=max(proof.vouched for proof in own),
        damaged=False,
        entries_known=True,
        offsets_sound=True,
        sound_indexes=list(SUFFIXES) if info.sealed else [],
        odd_streams=[],
        missing=_missing(info, own),
    )


def _missing(info: SegmentInfo, proofs: Sequence[Proof]) -> tuple[bytes, bytes]:
    """The positions that a segment lacks, in its parts and before each."""
    runs = Runs()
    reached = info.first_position - 1
    for proof in proofs:
        runs.add(reached, (proof.first_position,))
        runs.firsts.frombytes(proof.missing[0])
        runs.lasts.frombytes(proof.missing[1])
        reached = proof.last_position
    return runs.packed()


def _goes_on(before: Proof, after: Proof, *, gaps: bool) -> bool:
    """Whether one part is the neighbour of the other."""
    step = after.first_position - before.last_position
    return (
        (after.start, after.crc_before) == (before.end, before.entries_crc)
        and (step == 1 or (gaps and step > 1))
        and after.first_time_us >= before.last_time_us
    )


def _is_as_sealed(info: SegmentInfo, events: int, first: Proof, last: Proof) -> bool:
    """Whether the log is what the manifest says; what a compaction left lies within what was there."""
    if (events, last.entries_crc) != (info.events, info.offsets_crc):
        return False
    if info.generation:
        return (
            last.last_position <= info.last_position
            and first.first_time_us >= info.first_time_us
            and last.last_time_us <= info.last_time_us
        )
    bounds = last.last_position, first.first_time_us, last.last_time_us
    return bounds == (info.last_position, info.first_time_us, info.last_time_us)


# --- all segments


class Proving:
    """The pieces of some segments, and their results as they come."""

    def __init__(self, tasks: Sequence[SegmentTask]) -> None:
        self._tasks = tasks
        parts = [plan_parts(task) for task in tasks]
        self._indexes: list[IndexProof | None] = [None] * len(tasks)
        self._digests: list[bytes | None] = [None] * len(tasks)
        self._proofs: list[list[Proof | None]] = [[None] * len(own) for own in parts]
        self._places: list[tuple[list[Any], int]] = []
        self.calls: list[Call] = []
        """what is to be called, those first that cannot be shared"""
        for at, own in enumerate(parts):
            if own:
                self._add((maybe_prove_indexes, (tasks[at], own[-1].high)), self._indexes, at)
                self._add((maybe_hash, (tasks[at],)), self._digests, at)
        for at, own in enumerate(parts):
            for number, part in enumerate(own):
                self._add((maybe_prove, (part,)), self._proofs[at], number)

    def _add(self, call: Call, results: list[Any], at: int) -> None:
        self.calls.append(call)
        self._places.append((results, at))

    def take(self, at: int, result: Any) -> None:
        """Take the result of a call."""
        results, place = self._places[at]
        results[place] = result

    def maybe_check(self, at: int) -> SegmentCheck | None:
        """What a check of a segment finds, if it is proved."""
        if self._indexes[at] is None or not self._proofs[at]:
            return None
        return maybe_joined(self._tasks[at], self._proofs[at], self._digests[at])

    def made(self, at: int) -> Made | None:
        """What a segment's sorted indexes would say, if it has none."""
        proof = self._indexes[at]
        return None if proof is None else proof.made
