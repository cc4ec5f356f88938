"""Which records of a damaged segment are whole, and which events are lost.

A frame whose body fails its CRC may still hold whole records: the entries of .offsets have the CRC of each,
and a later frame's running CRC, or the manifest, proves the entries. A record without such proof counts as
lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from zlib import crc32

from evlog.errors import EvlogError
from evlog.files.check.logs import LogCheck
from evlog.files.check.offsets import OffsetsCheck
from evlog.files.check.records import RECORDS
from evlog.files.check.removals import check_removed
from evlog.files.check.segments import missing_segment
from evlog.files.check.task import SegmentTask
from evlog.files.disk.files import ReadFile
from evlog.files.format.entries import ENTRY, ENTRY_BYTES, ENTRY_PLACE, column
from evlog.files.format.frames import array_head, decode_record
from evlog.files.format.hashes import hash_stream
from evlog.files.format.headers import FILE_HEADER_BYTES, FormatFault
from evlog.model.named import NamedTuple
from evlog.model.reports import Loss


class Lost(NamedTuple):
    """Events that are damaged: entry numbers, with the entries where these are known."""

    first_number: int
    events: int
    entries: list[tuple[int, int]]
    """stream hash and version of each"""


class SegmentRecords:
    """A segment, record by record.

    Raises:
        FileNotFoundError: its log is missing.
    """

    def __init__(self, task: SegmentTask) -> None:
        self.task = task
        self.check = LogCheck(task).run()
        self._log = task.open_log()

    def whole_records(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield number, offset of the frame and bytes of each record that is as it was written."""
        for number, row in self._rows():
            offset, length, before, after, frame = row[2:7]
            raw = self._log.read(length, offset)
            if length and len(raw) == length and crc32(raw, before) == after and _is_record(raw):
                yield number, frame, raw

    def lost(self) -> list[Lost]:
        """Return what is damaged, in order."""
        whole = {number for number, _, _ in self.whole_records()}
        rows = dict(self._rows())
        found = []
        for damage in self.check.damages:
            numbers = range(damage.first_number, damage.first_number + damage.events)
            if not damage.entries_known:
                found.append(Lost(damage.first_number, damage.events, []))
                continue
            for number in numbers:
                if number not in whole:
                    row = rows[number]
                    found.append(Lost(number, 1, [(row[0], row[7])]))
        return found

    def _rows(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield the known entries with their numbers."""
        unknown = [damage for damage in self.check.damages if not damage.entries_known]
        number = 0
        for at in range(0, len(self.check.entries), ENTRY_BYTES):
            while unknown and unknown[0].first_number == number:
                number += unknown.pop(0).events
            yield number, ENTRY.unpack_from(self.check.entries, at)
            number += 1


def _is_record(raw: bytes) -> bool:
    """Return whether these bytes are a record whose content makes sense."""
    try:
        RECORDS.decode([0], [1], [array_head(1) + raw])
    except FormatFault:
        return False
    return True


def lost_in_segment(task: SegmentTask, tasks: Sequence[SegmentTask]) -> list[Loss]:
    """Return what a segment lost, with the streams' names where any whole event in the store tells them."""
    try:
        lost = SegmentRecords(task).lost()
    except FileNotFoundError:
        lost = [_all_of(task)]
    losses: list[Loss] = []
    names = _names_of({stream_hash for run in lost for stream_hash, _ in run.entries}, tasks)
    for run in _joined(lost):
        streams: dict[str, list[int]] = {}
        for stream_hash, version in run.entries:
            streams.setdefault(names.get(stream_hash, f"#{stream_hash:016x}"), []).append(version)
        first = task.info.first_position + run.first_number
        last = first + run.events - 1
        if task.info.generation and task.info.sealed:  # positions have gaps: only their range is known
            first, last = task.info.first_position, task.info.last_position
        losses.append(Loss(task.log_name, first, last, run.events, streams))
    return losses + lost_ids(task)


def lost_ids(task: SegmentTask) -> list[Loss]:
    """Return the loss of a damaged file of removed events: no event, but the ids of those events."""
    if check_removed(task) is None:
        return []
    return [Loss(f"{task.name}.removed", task.info.first_position, task.info.last_position, 0, {})]


def _all_of(task: SegmentTask) -> Lost:
    if not task.info.sealed:
        rows = OffsetsCheck(task, []).between(FILE_HEADER_BYTES, task.synced, 0)
        return Lost(0, len(rows) // ENTRY_BYTES, [(row[0], row[7]) for row in ENTRY.iter_unpack(rows)])
    known = missing_segment(task)
    entries = []
    if known.log.entries_known:
        rows = task.read_entries(task.info.events)
        entries = [(row[0], row[7]) for row in ENTRY.iter_unpack(rows)]
    return Lost(0, task.info.events, entries)


def _joined(lost: list[Lost]) -> list[Lost]:
    """Join neighbouring runs of lost events."""
    joined: list[Lost] = []
    for run in lost:
        last = joined[-1] if joined else None
        together = last is not None and last.first_number + last.events == run.first_number
        if last is not None and together and bool(last.entries) == bool(run.entries):
            entries = last.entries + run.entries
            joined[-1] = Lost(last.first_number, last.events + run.events, entries)
        else:
            joined.append(run)
    return joined


def _names_of(hashes: set[int], tasks: Sequence[SegmentTask]) -> dict[int, str]:
    """Return the names of streams by their hashes, as far as any whole event tells them."""
    names: dict[int, str] = {}
    for task in tasks:
        if not hashes:
            break
        try:
            offsets, log = ReadFile(f"{task.path}.offsets"), task.open_log()
            rows = offsets.read(offsets.size(), FILE_HEADER_BYTES)
        except (FileNotFoundError, EvlogError):
            continue
        rows = rows[: len(rows) // ENTRY_BYTES * ENTRY_BYTES]
        for number, stream_hash in enumerate(column(rows, "stream_hash")):
            if stream_hash not in hashes:
                continue
            offset, length, before, after = ENTRY_PLACE.unpack_from(rows, number * ENTRY_BYTES)
            raw = log.read(length, offset)
            if crc32(raw, before) != after or not _is_record(raw):
                continue
            name = decode_record(raw)[2]
            if hash_stream(name) == stream_hash:
                names[stream_hash] = name
                hashes = hashes - {stream_hash}
    return names
