"""Proving a part of a log right, at the least cost: what it is if all is well, or None for "look closely".

This is the fast one of two looks. It takes .offsets for what it claims to be, goes through the log by it, and
compares whole columns of frame headers and of records at a time, so that an event costs a share of a few
calls of C. Nothing is believed: all that `LogCheck` checks of a log without damage is checked here, and the
entries are made anew from the records and compared byte for byte. What does not come out even, whatever the
reason, is left to `LogCheck`, which says what is wrong. Parts are proved without a look at the parts before
them, by all cores at once; `proving` holds them against each other. Nothing here writes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, chain, compress, pairwise
from operator import le, lt, ne, sub
from struct import Struct
from struct import error as struct_error
from typing import Annotated, Final, Literal, NamedTuple
from zlib import crc32

import msgspec
from msgspec import Meta

from evlog.errors import EvlogError
from evlog.files.check.rows import NOT_RECORDS, RowEncoder, Runs, decode_raws
from evlog.files.check.segments import SegmentTask
from evlog.files.disk.files import ReadFile
from evlog.files.format.entries import ENTRY, ENTRY_BYTES, column
from evlog.files.format.frames import FRAME_HEADER_BYTES, FRAME_MAGIC, array_head, decode_frame_header
from evlog.files.format.headers import FILE_HEADER_BYTES, FormatFault, NewerFormat

_WINDOW_BYTES: Final = 1 << 18  # stays in the processor's cache while it is looked at
_FRAME_FIELDS: Final = Struct("36s4x")
_U64: Final = Struct("8s")
_MAGIC: Final = int.from_bytes(FRAME_MAGIC, "little")
_Record = tuple[
    int,
    Annotated[int, Meta(ge=1)],
    str,
    str,
    Annotated[bytes, Meta(min_length=16, max_length=16)],
    int,
    Literal[0, 1, 2],
    bytes,
    bytes | None,
]
_decode_records: Final = msgspec.msgpack.Decoder(list[_Record]).decode
NO_PROOF: Final = (*NOT_RECORDS, struct_error, FormatFault, NewerFormat, EvlogError, OSError)


class Doubt(ValueError):
    """Something is not as it must be, or not as simple as it is supposed to be here."""


class Part(NamedTuple):
    """Some of a segment's entries, with the whole frames that hold them."""

    task: SegmentTask
    low: int
    high: int


class Proof(NamedTuple):
    """What a part is, by the log itself."""

    entries: int
    start: int
    end: int
    first_position: int
    last_position: int
    first_time_us: int
    last_time_us: int
    crc_before: int
    """the running CRC of all entries before it, as the frame before it claims"""
    entries_crc: int
    vouched: int
    missing: tuple[bytes, bytes]
    """runs of positions that it lacks between its first and its last event, as `Runs` packs them"""


# --- a part


def maybe_prove(part: Part) -> Proof | None:
    """Look at all frames and records of a part; None if anything is not as it must be."""
    try:
        return _Prover(part).run()
    except NO_PROOF:
        return None


class _Prover:
    def __init__(self, part: Part) -> None:
        task, low, high = part
        self._tag = task.info.tag
        self._gaps = task.info.generation > 0
        self._log = task.open_log()
        self._encoder = RowEncoder()
        size = (high - low) * ENTRY_BYTES
        offsets = ReadFile(f"{task.path}.offsets")
        self._rows = memoryview(offsets.read(size, FILE_HEADER_BYTES + low * ENTRY_BYTES))
        if len(self._rows) != size:
            raise Doubt
        frames = column(self._rows, "frame")
        self._firsts = [0, *compress(range(1, len(frames)), map(ne, frames[1:], frames))]
        self._offsets = [frames[first] for first in self._firsts]
        self._firsts.append(len(frames))
        self._offsets.append(_end_of(self._rows[-ENTRY_BYTES:]))
        self.crc = 0
        if low:
            frame = ENTRY.unpack(offsets.read(ENTRY_BYTES, FILE_HEADER_BYTES + (low - 1) * ENTRY_BYTES))[5]
            header = decode_frame_header(self._log.read(FRAME_HEADER_BYTES, frame), 0, frame, self._tag)
            self.crc = header.index_crc
        self.vouched = 0
        self._missing = Runs()
        self.last_position = 0
        self.last_time_us = 0

    def run(self) -> Proof:
        offsets = self._offsets
        if min(map(sub, offsets[1:], offsets)) <= FRAME_HEADER_BYTES:
            raise Doubt
        before = self.crc
        low, last = 0, len(offsets) - 1
        first_position = first_time_us = 0
        while low < last:
            high = max(low + 1, bisect_right(offsets, offsets[low] + _WINDOW_BYTES) - 1)
            position, time_us = self._look_at(low, high)
            if not low:
                first_position, first_time_us = position, time_us
            low = high
        return Proof(
            len(self._rows) // ENTRY_BYTES,
            offsets[0],
            offsets[-1],
            first_position,
            self.last_position,
            first_time_us,
            self.last_time_us,
            before,
            self.crc,
            self.vouched,
            self._missing.packed(),
        )

    def _look_at(self, low: int, high: int) -> tuple[int, int]:
        """Look at frames low..high-1; position and time of the first record."""
        offsets = self._offsets[low : high + 1]
        firsts = self._firsts[low : high + 1]
        counts = list(map(sub, firsts[1:], firsts))
        rows = self._rows[firsts[0] * ENTRY_BYTES : firsts[-1] * ENTRY_BYTES]
        window = self._log.read(offsets[-1] - offsets[0], offsets[0])
        if len(window) != offsets[-1] - offsets[0]:
            raise Doubt
        heads = list(map(array_head, counts))
        content: bytes | memoryview
        if len(counts) == 1:
            positions = self._check_frame(window, offsets[0], counts[0], rows)
            content = memoryview(window)[FRAME_HEADER_BYTES:]
            if content[: len(heads[0])] != heads[0]:
                raise Doubt
        else:
            bodies = _bodies(window, offsets)
            positions = self._check_frames(window, offsets, counts, bodies, rows)
            if not all(map(bytes.startswith, bodies, heads)):
                raise Doubt
            inner = [body[len(head) :] for body, head in zip(bodies, heads, strict=True)]
            content = array_head(sum(counts)) + b"".join(inner)
        return self._check_records(content, offsets[:-1], heads, counts, positions, rows)

    def _check_frame(self, window: bytes, offset: int, count: int, rows: memoryview) -> list[int]:
        header = decode_frame_header(window, 0, offset, self._tag)
        self.crc = crc32(rows, self.crc)
        if (header.length, header.events) != (len(window) - FRAME_HEADER_BYTES, count):
            raise Doubt
        if header.index_crc != self.crc or header.body_crc != crc32(memoryview(window)[FRAME_HEADER_BYTES:]):
            raise Doubt
        self.vouched = max(self.vouched, header.durable)
        return [header.first_position]

    def _check_frames(
        self, window: bytes, offsets: list[int], counts: list[int], bodies: list[bytes], rows: memoryview
    ) -> list[int]:
        """What `_check_frame` does, of many small frames by columns; the position that each begins with."""
        base = offsets[0]
        headers = b"".join([window[at - base : at - base + FRAME_HEADER_BYTES] for at in offsets[:-1]])
        cells = memoryview(headers).cast("I")
        index_crcs: list[int] = cells[6::10].tolist()
        durable: list[int] = cells[3::10].tolist()
        places = chain.from_iterable(_U64.iter_unpack(array("Q", offsets[:-1])))
        crcs = list(map(crc32, chain.from_iterable(_FRAME_FIELDS.iter_unpack(headers)), map(crc32, places)))
        at = list(accumulate(counts, initial=0))
        pieces = [rows[low * ENTRY_BYTES : high * ENTRY_BYTES] for low, high in pairwise(at)]
        if (
            cells[9::10].tolist() != crcs
            or set(cells[0::10].tolist()) != {_MAGIC}
            or set(cells[8::10].tolist()) != {self._tag}
            or cells[1::10].tolist() != list(map(len, bodies))
            or cells[2::10].tolist() != counts
            or not all(map(le, durable, offsets))
            or cells[7::10].tolist() != list(map(crc32, bodies))
            or list(map(crc32, pieces, [self.crc, *index_crcs[:-1]])) != index_crcs
        ):
            raise Doubt
        self.crc = index_crcs[-1]
        self.vouched = max(self.vouched, *durable)
        return memoryview(headers).cast("Q")[2::5].tolist()

    def _check_records(
        self,
        content: bytes | memoryview,
        offsets: list[int],
        heads: list[bytes],
        counts: list[int],
        begins: list[int],
        rows: memoryview,
    ) -> tuple[int, int]:
        """Compare the records with the entries and with each other."""
        records = _decode_records(content)
        positions, versions, streams, types, ids, times, _, _, _ = zip(*records, strict=True)
        count = len(positions)
        if positions != tuple(range(positions[0], positions[0] + count)) and not (
            self._gaps and all(map(lt, positions, positions[1:]))
        ):
            raise Doubt
        step = positions[0] - self.last_position if self.last_position else 1
        if step < 1 or (step > 1 and not self._gaps) or times[0] < self.last_time_us:
            raise Doubt
        if [positions[at] for at in accumulate(counts[:-1], initial=0)] != begins:
            raise Doubt
        if times.count(times[0]) != count and not all(map(le, times, times[1:])):
            raise Doubt
        raws = decode_raws(content)
        if self._encoder.encode(offsets, heads, counts, raws, streams, types, ids, versions) != rows:
            raise Doubt
        self._missing.add(self.last_position or positions[0] - 1, positions)
        self.last_position, self.last_time_us = positions[-1], times[-1]
        return positions[0], times[0]


def _bodies(window: bytes, offsets: Sequence[int]) -> list[bytes]:
    """The bodies of the frames in a window."""
    base = offsets[0]
    return [window[low - base + FRAME_HEADER_BYTES : high - base] for low, high in pairwise(offsets)]


def _end_of(row: bytes | memoryview) -> int:
    """Where the record of an entry ends in the log."""
    offset, length = ENTRY.unpack(row)[2:4]
    return int(offset + length)
