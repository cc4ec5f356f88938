"""The .removed file: what a compaction keeps of the events that it removed from a segment.

    file header   kind 6; keys: number of events, postings: of streams, source CRC: bytes of the names, then
                  (at 56) the number of tags

    event         40 bytes, by the group of its id, in a group by position:
         0    16  id
        16     8  position
        24     8  stream hash
        32     4  version
        36     4  content CRC; 0: not kept, then the id alone tells a retry

    starts        u32 x (groups + 1): where each group's events begin, by number; the last: where all end

    stream        24 bytes, sorted by hash; each stream that lost its last event:
         0     8  stream hash
         8     8  time of its last event, µs
        16     4  version of its last event
        20     4  where its name ends, in bytes from the first name

    tag           32 bytes, sorted; each tag of a removed event:
         0     8  hash of the tag
         8     8  another hash of it (`hash_again`)
        16     8  position of the event
        24     8  the other hash of its type

    names         UTF-8, in the order of the streams
    page CRCs     u32 of every 4,096 bytes between the file header and here

The groups are a power of two, 2**b: with more than 512 events, b is the number of bits of (events - 1) / 512,
at most 12, else 0. The group of an id is the upper b bits of its hash (`hashes.py`).

An id must never be written twice, also after its event was removed, so whole ids are kept. Conditions of
appends count removed events by their tags, so hashes of these are kept, 128 bits each. The file is not an
index: nothing can derive it again. The manifest names its size and its CRC. The content CRC is that of the
data, begun with (type hash) XOR (content type).
A digest of each event could become a further section before the page CRCs.
"""

from __future__ import annotations

from array import array
from collections import deque
from itertools import accumulate, pairwise, repeat
from operator import rshift, xor
from struct import Struct
from zlib import crc32

from evlog.files.format.hashes import hash_again, hash_ids, hash_stream, hash_tag
from evlog.files.format.headers import FILE_HEADER_BYTES, FileHeader, FormatFault, encode_file_header
from evlog.files.format.sorted_index import PAGE_BYTES, page_crcs
from evlog.model.events import tags_of
from evlog.model.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Final

    from evlog.model.events import Record

EmptyStream = tuple[str, int, int]
"""A stream without events: its name, and version and time (µs) of its last event."""

RemovedTag = tuple[int, int, int, int]
"""A tag of a removed event: both hashes of the tag, the event's position, the other hash of its type."""

ID_BYTES: Final = 16
EVENT_BYTES: Final = 40
STREAM_BYTES: Final = 24
EVENT: Final = Struct("<16sQQII")
STREAM: Final = Struct("<QQII")
TAG_BYTES: Final = 32
TAG: Final = Struct("<QQQQ")
_GROUP_EVENTS: Final = 512  # of a group, on average at most: 20 KB to search for an id
_MAX_GROUP_BITS: Final = 12
_COLUMNS: Final[dict[str, tuple[str, int, int]]] = {
    "position": ("Q", 2, 5),
    "stream_hash": ("Q", 3, 5),
    "version": ("I", 8, 10),
    "content_crc": ("I", 9, 10),
}


class RemovedShape:
    """Where the parts of a file begin, in bytes from its start."""

    __slots__ = ("crcs_at", "file_bytes", "group_bits", "names_at", "starts_at", "streams_at", "tags_at")

    def __init__(self, header: FileHeader) -> None:
        self.group_bits = group_bits(header.keys)
        self.starts_at = FILE_HEADER_BYTES + EVENT_BYTES * header.keys
        self.streams_at = self.starts_at + 4 * ((1 << self.group_bits) + 1)
        self.tags_at = self.streams_at + STREAM_BYTES * header.postings
        self.names_at = self.tags_at + TAG_BYTES * header.tags
        self.crcs_at = self.names_at + header.source_crc
        self.file_bytes = self.crcs_at + 4 * -(-(self.crcs_at - FILE_HEADER_BYTES) // PAGE_BYTES)


class GroupedEvents(NamedTuple):
    """Rows by group, and how many each group has."""

    rows: bytes
    counts: array[int]


def group_bits(events: int) -> int:
    """Return how many bits of an id's hash choose its group, given the number of events in the file."""
    return min(max(0, events - 1) // _GROUP_EVENTS, (1 << _MAX_GROUP_BITS) - 1).bit_length()


def group_events(events: bytes, id_hashes: Iterable[int], bits: int) -> GroupedEvents:
    """Return rows by group.

    With some thousand rows at a time it takes 60 ns a row, and `join_groups` 20 ns. Rejected: sorting all
    rows by their ids, which takes 400 ns a row.
    """
    rows = _format(f"{EVENT_BYTES}s", events).unpack(events)
    groups: list[list[bytes]] = [[] for _ in range(1 << bits)]
    own = map(groups.__getitem__, map(rshift, id_hashes, repeat(32 - bits)))
    deque(map(list.append, own, rows), maxlen=0)
    return GroupedEvents(b"".join(map(b"".join, groups)), array("I", map(len, groups)))


def join_groups(pieces: Sequence[GroupedEvents]) -> GroupedEvents:
    """Return the rows of all pieces by group, in a group piece by piece."""
    if len(pieces) == 1:
        return pieces[0]
    cut = []
    for rows, counts in pieces:
        ends = [end * EVENT_BYTES for end in accumulate(counts, initial=0)]
        cut.append([rows[low:high] for low, high in pairwise(ends)])
    counts = array("I", map(sum, zip(*[piece.counts for piece in pieces], strict=True)))
    return GroupedEvents(b"".join(map(b"".join, zip(*cut, strict=True))), counts)


def encode_removed(
    header: FileHeader, events: bytes, streams: Iterable[EmptyStream], tags: Iterable[RemovedTag] = ()
) -> bytes:
    """Return a whole .removed file.

    Args:
        header: what the file belongs to; its counts are filled in here.
        events: rows by position, as `pack_events` makes them.
        tags: in any order.
    """
    ids = event_ids(events)
    return encode_grouped(header, group_events(events, hash_ids(ids), group_bits(len(ids))), streams, tags)


def encode_grouped(
    header: FileHeader, events: GroupedEvents, streams: Iterable[EmptyStream], tags: Iterable[RemovedTag] = ()
) -> bytes:
    """Return the same, of rows that are by group already, with the `group_bits` of their number."""
    ordered = sorted((hash_stream(name), name.encode(), version, time) for name, version, time in streams)
    ends = accumulate(len(name) for _, name, _, _ in ordered)
    rows = [
        STREAM.pack(key, time, version, end)
        for (key, _, version, time), end in zip(ordered, ends, strict=True)
    ]
    names = b"".join(name for _, name, _, _ in ordered)
    packed = [TAG.pack(*row) for row in sorted(tags)]
    starts = array("I", accumulate(events.counts, initial=0)).tobytes()
    content = b"".join([events.rows, starts, *rows, *packed, names])
    header = header._replace(
        keys=len(events.rows) // EVENT_BYTES, postings=len(rows), source_crc=len(names), tags=len(packed)
    )
    return b"".join((encode_file_header(header), content, page_crcs(content)))


def pack_events(
    ids: Iterable[bytes],
    positions: Sequence[int],
    stream_hashes: Sequence[int],
    versions: Sequence[int],
    content_crcs: Iterable[int],
) -> bytes:
    """Return rows made of these columns."""
    rows = bytearray(EVENT_BYTES * len(positions))
    halves = array("Q", b"".join(ids))
    with memoryview(rows) as flat, flat.cast("Q") as wide, flat.cast("I") as narrow:
        with memoryview(halves) as cells:
            wide[0::5], wide[1::5] = cells[0::2], cells[1::2]
        wide[2::5] = memoryview(array("Q", positions))
        wide[3::5] = memoryview(array("Q", stream_hashes))
        narrow[8::10] = memoryview(array("I", versions))
        narrow[9::10] = memoryview(array("I", content_crcs))
    return bytes(rows)


def tags_of_removed(records: Iterable[Record]) -> list[RemovedTag]:
    """Return what is kept of the tags of events that are removed."""
    return [
        (hash_tag(tag), hash_again(tag), record[0], hash_again(record[3]))
        for record in records
        for tag in tags_of(record[8])
    ]


def event_ids(events: bytes | memoryview) -> tuple[bytes, ...]:
    """Return the ids of the rows."""
    return _format(f"{ID_BYTES}s{EVENT_BYTES - ID_BYTES}x", events).unpack(events)


def _format(row: str, events: bytes | memoryview) -> Struct:
    """Return the format of all rows. `struct.unpack` would keep the last 100 of them, megabytes each."""
    return Struct(row * (len(events) // EVENT_BYTES))


def event_column(events: bytes | memoryview, name: str) -> list[int]:
    """Return one column of the rows: position, stream_hash, version or content_crc."""
    code, at, step = _COLUMNS[name]
    with memoryview(events) as view, view.cast("B") as flat, flat.cast(code) as cells:  # type: ignore[call-overload]
        values: list[int] = cells[at::step].tolist()
    return values


def decode_stream(rows: bytes | memoryview, names: bytes | memoryview, number: int) -> EmptyStream:
    """Decode the stream of this number.

    Raises:
        FormatFault: the row does not fit its name.
    """
    stream_hash, time_us, version, end = STREAM.unpack_from(rows, number * STREAM_BYTES)
    start = STREAM.unpack_from(rows, (number - 1) * STREAM_BYTES)[3] if number else 0
    try:
        name = str(names[start:end], "utf-8")
    except UnicodeDecodeError:
        name = ""
    if not start < end <= len(names) or hash_stream(name) != stream_hash:
        raise FormatFault("a removed stream's name does not have its hash")
    return name, version, time_us


def content_crcs(
    type_hashes: Iterable[int], content_types: Sequence[int], datas: Iterable[bytes]
) -> Iterator[int]:
    """Return what retries of removed events must have in common with them, beside their streams."""
    if any(content_types):
        type_hashes = map(xor, type_hashes, content_types)
    return map(crc32, datas, type_hashes)
