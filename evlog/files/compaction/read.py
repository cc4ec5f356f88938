"""Reading a share of a sealed segment for a compaction: what stays as bytes, what goes as what is left of it.

Of what stays nothing is decoded; of what goes all is, and dealt with column by column, since a step of Python
for each event would cost more than all else. Reads only, so that a helper process can do it.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import compress
from typing import Final, NamedTuple
from zlib import crc32

from evlog.errors import CorruptionError
from evlog.files.format.entries import ENTRY_BYTES, column, column_array
from evlog.files.format.removed_events import content_seed, pack_events, sort_events
from evlog.files.log.log import open_sealed
from evlog.files.log.manifest import SegmentInfo
from evlog.files.log.segment import SealedSegment, Segment
from evlog.model.events import Record

_MANY_EVENTS: Final = 16  # of smaller frames each costs more than its events one by one
_FEW_SHARE: Final = 3
_RECORDS_AT_ONCE: Final = 256
_MAX_SEEDS: Final = 1 << 16
_GO: Final = re.compile(b"\x01+")
_STAY: Final = re.compile(b"\x00+")


class Source(NamedTuple):
    """A sealed segment, for a process that has it to open."""

    store: str
    store_id: bytes
    info: SegmentInfo


class Share(NamedTuple):
    """What some neighbouring entries come to."""

    raws: bytes  # the records that stay, one behind the other
    rows: bytes  # their entries, as they were
    removed: bytes  # the rows of the events that are removed, sorted by id
    read_bytes: int  # records and entries
    names: str  # of the streams that lose something, by lines: as one it passes between processes at no cost


class Span(NamedTuple):
    """Some neighbouring entries of a segment."""

    segment: SealedSegment
    low: int
    high: int
    flags: bytes  # one byte an entry: 1 if it goes; empty if all stay

    @property
    def rows(self) -> bytes:
        return bytes(self.segment.entries[self.low * ENTRY_BYTES : self.high * ENTRY_BYTES])


def read_share_of(source: Source, low: int, high: int, flags: bytes) -> Share:
    """`read_share` of a segment that this process opens itself."""
    return read_share(Span(_open(source), low, high, flags))


@lru_cache(maxsize=1)
def _open(source: Source) -> SealedSegment:
    """The segment, kept open until another one is asked for."""
    return open_sealed(*source)


def forget_source() -> None:
    """Let go of the segment that `read_share_of` has opened."""
    _open.cache_clear()


def read_share(span: Span) -> Share:
    """Read what is asked for.

    Raises:
        CorruptionError: an event is damaged, whether it stays or goes.
    """
    segment, _, _, flags = span
    segment.checked_entries()
    rows = span.rows
    read_bytes = len(rows) + sum(column(rows, "length"))
    if 1 not in flags:
        return Share(_read_raws(segment, rows), rows, b"", read_bytes, "")
    went, kept = pick_going(span), _pick(rows, flags, _STAY)
    ids: list[bytes] = []
    positions, crcs = array("Q"), array("I")
    names: set[str] = set()
    for records in read_going(span):
        its_positions, _, streams, types, its_ids, _, codes, datas, _ = zip(*records, strict=True)
        positions.extend(its_positions)
        ids += its_ids
        crcs.extend(map(crc32, datas, map(_seeds.__getitem__, zip(streams, types, codes, strict=True))))
        names.update(streams)
    hashes, versions = column_array(went, "stream_hash"), column_array(went, "version")
    removed = sort_events(pack_events(ids, positions, hashes, versions, crcs))
    return Share(_read_raws(segment, kept), kept, removed, read_bytes, "\n".join(names))


class _Seeds(dict[tuple[str, str, int], int]):
    """The content seeds of streams, types and content types; emptied before it takes much memory."""

    def __missing__(self, key: tuple[str, str, int]) -> int:
        if len(self) >= _MAX_SEEDS:
            self.clear()
        seed = self[key] = content_seed(*key)
        return seed


_seeds: Final = _Seeds()


def read_going(span: Span) -> Iterator[Sequence[Record]]:
    """The records of what goes, checked, some at a time: to have few at once is what makes it fast."""
    segment, low, high, flags = span
    # At two looks a frame of so many events: where most find another frame, frames are smaller.
    looks = column_array(span.rows, "frame")[:: _MANY_EVENTS // 2]
    if flags.count(1) * _FEW_SHARE < high - low or len(set(looks)) * 2 > len(looks) + 1:
        numbers = list(compress(range(low, high), flags))
        yield from segment.records(numbers, first=_RECORDS_AT_ONCE)
        return
    # A frame at a time, what stays is decoded in vain, and yet all costs less than what goes one by one.
    at = 0
    for records in segment.scan(low, high):
        if going := list(compress(records, flags[at : at + len(records)])):
            yield going
        at += len(records)


def pick_going(span: Span) -> bytes:
    """The entries of what goes."""
    return _pick(span.rows, span.flags, _GO)


def _pick(rows: bytes, flags: bytes, run: re.Pattern[bytes]) -> bytes:
    spans = [match.span() for match in run.finditer(flags)]
    return b"".join([rows[low * ENTRY_BYTES : high * ENTRY_BYTES] for low, high in spans])


def _read_raws(segment: Segment, rows: bytes) -> bytes:
    """The bytes of the records that the entries speak of, checked."""
    lengths, crcs = column(rows, "length"), column(rows, "crc")
    raws = segment.log_pieces(list(zip(column(rows, "offset"), lengths, lengths, strict=True)))
    if list(map(crc32, raws)) != crcs:
        at = next(at for at, raw in enumerate(raws) if crc32(raw) != crcs[at])
        raise CorruptionError(segment.log_path, column(rows, "offset")[at], "a record fails its CRC")
    return b"".join(raws)
