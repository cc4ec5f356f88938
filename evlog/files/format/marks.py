"""The marks in the file `durable`."""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

_U32: Final = Struct("<I")
MARK_BYTES: Final = 40
MARKS_BYTES: Final = 4 * MARK_BYTES
WRITTEN_MAGIC: Final = b"evWR"
ACKNOWLEDGED_MAGIC: Final = b"evAK"
DURABLE_MAGIC: Final = b"evDU"
SUSPECT_MAGIC: Final = b"evSU"
MARK_AT: Final = {WRITTEN_MAGIC: 0, ACKNOWLEDGED_MAGIC: 40, DURABLE_MAGIC: 80, SUSPECT_MAGIC: 120}
NO_MARK: Final = bytes(MARK_BYTES)
_MARK: Final = Struct("<4sIIIIQ8xI")
_MARK_FIELDS: Final = Struct("<4sIIIIQ8x")
MARK_PLACE: Final = Struct("<4sII")  # magic, tag and offset of a mark, for who need not check it


class Mark(NamedTuple):
    """How far a log is written or synced; from `events` on only of a mark that says how far it is written."""

    tag: int
    offset: int
    events: int = 0
    index_crc: int = 0
    time_us: int = 0


class Marks(NamedTuple):
    """What `durable` says of one segment; None where nothing is known."""

    written: Mark | None
    acknowledged: Mark | None
    durable: Mark | None
    suspect: Mark | None

    @property
    def durable_offset(self) -> int:
        """How far the log is known to be synced, in bytes; 0 if that is not known."""
        return self.durable.offset if self.durable else 0

    @property
    def acknowledged_offset(self) -> int:
        """How far the log is known to be acknowledged, in bytes; 0 if that is not known."""
        return max(self.durable_offset, self.acknowledged.offset if self.acknowledged else 0)


def encode_mark(magic: bytes, mark: Mark) -> bytes:
    """The 40 bytes of a mark in the file `durable`."""
    raw = _MARK_FIELDS.pack(magic, *mark)
    return raw + _U32.pack(crc32(raw))


def maybe_decode_mark(magic: bytes, raw: bytes) -> Mark | None:
    """The mark, or None where there is none or it is damaged: then nothing is known, which is always safe."""
    if len(raw) != MARK_BYTES:
        return None
    found, tag, offset, events, index_crc, time_us, crc = _MARK.unpack(raw)
    if found != magic or crc != crc32(raw[:-4]):
        return None
    return Mark(tag, offset, events, index_crc, time_us)


def decode_marks(raw: bytes, tag: int) -> Marks:
    """What the content of `durable` says of the segment with the tag."""
    marks = [maybe_decode_mark(magic, raw[at : at + MARK_BYTES]) for magic, at in MARK_AT.items()]
    return Marks._make(mark if mark is not None and mark.tag == tag else None for mark in marks)
