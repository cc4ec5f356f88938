"""Neighbouring frames of a log, decoded column by column: a frame costs a share of a few calls of C.

`frames.py` defines the header. Here it is ten cells of 4 bytes; cells 4 and 5 are one number, the position of
the first event.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from operator import le
from struct import Struct
from typing import Final
from zlib import crc32

from evlog.files.format.entries import ENTRY_BYTES, column_array
from evlog.files.format.frames import FRAME_HEADER_BYTES, FRAME_MAGIC, MAX_BODY_BYTES
from evlog.files.format.headers import FormatFault
from evlog.model.named import NamedTuple

_HEAD: Final = Struct("<4sI")  # magic and body length
_CHECKED_FIELDS: Final = Struct("36s4x")  # what the CRC covers
_U64: Final = Struct("8s")


class Frames(NamedTuple):
    """Neighbouring frames, by columns; of the offsets there is one more, their end."""

    offsets: Sequence[int]
    counts: Sequence[int]
    durable: Sequence[int]
    first_positions: Sequence[int]
    index_crcs: Sequence[int]
    body_crcs: Sequence[int]
    bodies: Sequence[bytes | memoryview]


def frame_offsets(window: bytes, base: int) -> list[int]:
    """Return where frames begin by the lengths in their headers, and where the last whole one ends."""
    offsets = [base]
    place, last = 0, len(window) - FRAME_HEADER_BYTES
    while place <= last:
        magic, body_bytes = _HEAD.unpack_from(window, place)
        place += FRAME_HEADER_BYTES + body_bytes
        if magic != FRAME_MAGIC or place > len(window):
            break
        offsets.append(base + place)
    return offsets


def decode_headers(window: bytes, base: int, offsets: Sequence[int], tag: int) -> Frames:
    """Do what `decode_frame_header` does, for many frames by columns.

    Raises:
        FormatFault: something is wrong with one of them.
    """
    headers = b"".join([window[at - base : at - base + FRAME_HEADER_BYTES] for at in offsets[:-1]])
    view = memoryview(window)
    bodies = [view[low - base + FRAME_HEADER_BYTES : high - base] for low, high in pairwise(offsets)]
    cells = memoryview(headers).cast("I")
    counts: list[int] = cells[2::10].tolist()
    durable: list[int] = cells[3::10].tolist()
    places = chain.from_iterable(_U64.iter_unpack(array("Q", offsets[:-1])))
    crcs = map(crc32, chain.from_iterable(_CHECKED_FIELDS.iter_unpack(headers)), map(crc32, places))
    if (
        cells[9::10].tolist() != list(crcs)
        or set(cells[8::10].tolist()) != {tag}
        or 0 in counts
        or not all(map(le, durable, offsets))
        or max(map(len, bodies)) > MAX_BODY_BYTES
    ):
        raise FormatFault("a frame is damaged")
    first_positions: list[int] = memoryview(headers).cast("Q")[2::5].tolist()
    index_crcs, body_crcs = cells[6::10].tolist(), cells[7::10].tolist()
    return Frames(offsets, counts, durable, first_positions, index_crcs, body_crcs, bodies)


def body_crcs_hold(frames: Frames, rows: bytes) -> bool:
    """Return whether each frame's body has the CRC that its header names, by the entries of its records."""
    crcs = column_array(rows, "crc_after")
    return [crcs[end - 1] for end in accumulate(frames.counts)] == frames.body_crcs


def entries_crcs_hold(frames: Frames, rows: bytes, crc: int) -> bool:
    """Return whether each frame's running CRC is that of all entries up to its own."""
    view = memoryview(rows)
    ends = [number * ENTRY_BYTES for number in accumulate(frames.counts, initial=0)]
    pieces = [view[low:high] for low, high in pairwise(ends)]
    return list(map(crc32, pieces, [crc, *frames.index_crcs[:-1]])) == list(frames.index_crcs)
