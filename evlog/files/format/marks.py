"""The file `durable`: how far the active log is written and synced, and whether a sync of it failed.

It holds four marks of 52 bytes, each zeros where nothing is known. It is never synced: a missing, damaged or
old mark is safe, because it only understates what is acknowledged and synced. The acknowledged mark can
outlive frames that a power loss takes, so recovery removes it where it is beyond the end of the log.

    offset  size  mark
         0    52  written       the manifest, and how far its active log is written or being written
        52    52  acknowledged  how far writers with sync="none" have acknowledged it
       104    52  durable       how far it is synced
       156    52  suspect       a write or sync failed here: read the tail back from the device

    offset  size  field
         0     4  magic  "evWR", "evAK", "evDU" or "evSU", in the order of the marks
         4     4  tag of the segment
         8     4  offset, the end of a frame
        12     4  events up to there             (written; else 0)
        16     4  CRC of their .offsets entries  (written; else 0)
        20     8  time of the last of them, µs   (written; else 0)
        28     4  the CRC in the manifest        (written; else 0)
        32    16  no event up to there, also no removed one, has an id above this one: a batch of ids
                  above it needs no look-up      (written; else, and where it is not known: bytes ff)
        48     4  CRC of bytes 0..47

The written mark comes first: a writer leaves it before it writes the frame, and removes it before it replaces
the manifest. So a reader that has taken in all that the mark names need not look at anything else until the
mark changes. A writer that is killed in between leaves a mark that names what is not there: then readers look
at manifest and log each time, until the next writer leaves a mark.
"""

from __future__ import annotations

from struct import Struct
from zlib import crc32

from evlog.model.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_U32: Final = Struct("<I")
MARK_BYTES: Final = 52
MARKS_BYTES: Final = 4 * MARK_BYTES
WRITTEN_MAGIC: Final = b"evWR"
ACKNOWLEDGED_MAGIC: Final = b"evAK"
DURABLE_MAGIC: Final = b"evDU"
SUSPECT_MAGIC: Final = b"evSU"
_IN_ORDER: Final = (WRITTEN_MAGIC, ACKNOWLEDGED_MAGIC, DURABLE_MAGIC, SUSPECT_MAGIC)
MARK_AT: Final = {magic: MARK_BYTES * place for place, magic in enumerate(_IN_ORDER)}
SUSPECT_AT: Final = MARK_AT[SUSPECT_MAGIC]
NO_MARK: Final = bytes(MARK_BYTES)
_MARK: Final = Struct("<4sIIIIQI16sI")
_MARK_FIELDS: Final = Struct("<4sIIIIQI16s")
LOWEST_ID: Final = bytes(16)
UNBOUNDED: Final = b"\xff" * 16  # no id is above it, so all are looked up
MARK_PLACE: Final = Struct("<4sII")  # magic, tag and offset, for a reader that need not check the CRC


class Mark:
    """How far a log is written or synced; only a mark of what is written has the fields after `offset`."""

    __slots__ = ("events", "highest_id", "index_crc", "manifest_crc", "offset", "tag", "time_us")

    def __init__(
        self,
        tag: int,
        offset: int,
        events: int = 0,
        index_crc: int = 0,
        time_us: int = 0,
        manifest_crc: int = 0,
        highest_id: bytes = UNBOUNDED,
    ) -> None:
        self.tag = tag
        self.offset = offset
        self.events = events
        self.index_crc = index_crc
        self.time_us = time_us
        self.manifest_crc = manifest_crc
        self.highest_id = highest_id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mark) and encode_mark(b"", self) == encode_mark(b"", other)

    __hash__ = None  # type: ignore[assignment]


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
        """How far the log is known to be acknowledged, in bytes."""
        return max(self.durable_offset, self.acknowledged.offset if self.acknowledged else 0)


def encode_mark(magic: bytes, mark: Mark) -> bytes:
    """Return the 52 bytes of a mark."""
    raw = _MARK_FIELDS.pack(
        magic,
        mark.tag,
        mark.offset,
        mark.events,
        mark.index_crc,
        mark.time_us,
        mark.manifest_crc,
        mark.highest_id,
    )
    return raw + _U32.pack(crc32(raw))


def maybe_decode_mark(magic: bytes, raw: bytes) -> Mark | None:
    """Return the mark, or None where there is none or it is damaged."""
    if len(raw) != MARK_BYTES:
        return None
    found, tag, offset, events, index_crc, time_us, manifest_crc, highest_id, crc = _MARK.unpack(raw)
    if found != magic or crc != crc32(raw[:-4]):
        return None
    return Mark(tag, offset, events, index_crc, time_us, manifest_crc, highest_id)


def decode_marks(raw: bytes, tag: int) -> Marks:
    """Return what the content of `durable` says of the segment with the tag."""
    marks = [maybe_decode_mark(magic, raw[at : at + MARK_BYTES]) for magic, at in MARK_AT.items()]
    return Marks(*[mark if mark is not None and mark.tag == tag else None for mark in marks])


def once_synced(raw: bytes) -> bytes:
    """Return what `durable` will hold when all that is written is synced, if nothing else happens before."""
    _, tag, offset = MARK_PLACE.unpack_from(raw)
    at = MARK_AT[DURABLE_MAGIC]
    return raw[:at] + encode_mark(DURABLE_MAGIC, Mark(tag, offset)) + raw[at + MARK_BYTES :]
