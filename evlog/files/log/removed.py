"""Reading a .removed file: removed events by id, and streams that lost their last event by name.

The file is mapped, and each page is checked before it is used. The file cannot be derived again, so a damaged
page that is needed is a CorruptionError.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from itertools import repeat
from operator import rshift
from struct import Struct
from zlib import crc32

from evlog.errors import CorruptionError
from evlog.files.disk.files import map_file
from evlog.files.format.hashes import hash_again, hash_ids, hash_stream, hash_tag, hash_type
from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    KIND_IDS,
    KIND_STREAMS,
    KIND_TAGS,
    FileHeader,
    FormatFault,
)
from evlog.files.format.removed_events import (
    EVENT,
    EVENT_BYTES,
    STREAM,
    STREAM_BYTES,
    TAG,
    TAG_BYTES,
    RemovedShape,
    content_crcs,
    decode_stream,
    event_ids,
)
from evlog.files.format.sorted_index import PAGE_BYTES
from evlog.files.log.segment import read_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from evlog.files.format.removed_events import EmptyStream, RemovedTag

_GROUP: Final = Struct("<II")  # where a group begins and ends
_LAST_HASH: Final = (1 << 64) - 1


class RemovedEvent:
    """A removed event: where it was in the log, and the CRC of its content (0: not kept)."""

    __slots__ = ("content_crc", "position", "stream_hash", "version")

    def __init__(self, position: int, stream_hash: int, version: int, content_crc: int) -> None:
        self.position = position
        self.stream_hash = stream_hash
        self.version = version
        self.content_crc = content_crc

    def has_content(self, stream: str, type: str, content_type: int, data: bytes) -> bool:
        """Return whether this is the content, as far as it is kept."""
        if not self.content_crc:
            return True
        (crc,) = content_crcs([hash_type(type)], [content_type], [data])
        return self.stream_hash == hash_stream(stream) and self.content_crc == crc


class RemovedEvents:
    """One mapped .removed file.

    Args:
        expected: the header that the file must have, but for its counts.
        file_bytes: the size that the manifest names.

    Raises:
        FileNotFoundError: the file is missing; a compaction may have replaced the manifest.
        CorruptionError: it is not whole, or belongs to another segment.
    """

    def __init__(self, path: str, expected: FileHeader, file_bytes: int) -> None:
        self.path = path
        self._file = map_file(path)
        header = read_header(bytes(self._file[:FILE_HEADER_BYTES]), path)
        if header._replace(keys=0, postings=0, source_crc=0, tags=0) != expected:
            raise CorruptionError(path, 0, "its header names another segment; was the file swapped?")
        size, shape = len(self._file), RemovedShape(header)
        if size != file_bytes or size != shape.file_bytes:
            detail = f"the file has {size} bytes, {file_bytes} were written"
            raise CorruptionError(path, min(size, file_bytes), detail)
        self.events = header.keys
        self._streams = header.postings
        self._tags = header.tags
        self._shape = shape
        self._crcs = self._file[shape.crcs_at :].cast("I")
        # Threads share it without a lock: a page that two threads check at once is only checked twice.
        self._checked = bytearray(len(self._crcs))

    def find(self, id: bytes) -> RemovedEvent | None:
        """Return the removed event with this id."""
        shape = self._shape
        at = shape.starts_at + 4 * (hash_ids([id])[0] >> 32 - shape.group_bits)
        low, high = _GROUP.unpack(self._bytes(at, at + _GROUP.size))
        if not low <= high <= self.events:
            raise CorruptionError(self.path, at, "a group of removed events is not where it can be")
        low, high = (FILE_HEADER_BYTES + EVENT_BYTES * number for number in (low, high))
        rows = bytes(self._bytes(low, high))
        at = rows.find(id)
        while at >= 0 and at % EVENT_BYTES:  # by chance, in another column
            at = rows.find(id, at + 1)
        return RemovedEvent(*EVENT.unpack_from(rows, at)[1:]) if at >= 0 else None

    def is_grouped(self) -> bool:
        """Return whether `find` finds every event: each is in its group."""
        shape = self._shape
        groups = list(map(rshift, hash_ids(self.ids()), repeat(32 - shape.group_bits)))
        starts = [bisect_left(groups, group) for group in range((1 << shape.group_bits) + 1)]
        return (
            groups == sorted(groups)  # quick where they are
            and array("I", starts).tobytes() == self._bytes(shape.starts_at, shape.streams_at)
        )

    def check_all(self) -> None:
        """Raise CorruptionError if a page is damaged."""
        self._bytes(FILE_HEADER_BYTES, self._shape.crcs_at)

    def rows(self) -> memoryview:
        """Return the rows of all events, by group; `event_column` reads them."""
        return self._bytes(FILE_HEADER_BYTES, self._shape.starts_at)

    def ids(self) -> tuple[bytes, ...]:
        """Return the ids of all events, by group."""
        return event_ids(self.rows())

    def id_hashes(self, low: int, high: int) -> list[int]:
        """Return the hashes of ids from `low` to below `high`, by group."""
        shape = self._shape
        shift = 32 - shape.group_bits
        starts = self._bytes(shape.starts_at, shape.streams_at).cast("I")
        first, end = starts[low >> shift], starts[(high - 1 >> shift) + 1]
        if not first <= end <= self.events:
            raise CorruptionError(
                self.path, shape.starts_at, "a group of removed events is not where it can be"
            )
        first, end = (FILE_HEADER_BYTES + EVENT_BYTES * number for number in (first, end))
        ids = event_ids(self._bytes(first, end))
        return [id_hash for id_hash in hash_ids(ids) if low <= id_hash < high]

    def version_of(self, stream: str, stream_hash: int) -> int:
        """Return the last version of a stream that lost its last event here, else 0."""
        at = bisect_left(range(self._streams), stream_hash, key=self._stream_hash)
        while at < self._streams and self._stream_hash(at) == stream_hash:
            name, version, _ = self._stream(at)
            if name == stream:
                return version
            at += 1
        return 0

    def stream_hashes(self) -> list[int]:
        """Return the hashes of the streams that lost their last event here, sorted."""
        return self._stream_rows().cast("Q")[::3].tolist()

    def stream_versions(self) -> list[int]:
        """Return the last versions of these streams, in the order of `stream_hashes`."""
        return self._stream_rows().cast("I")[4::6].tolist()

    def streams(self) -> list[EmptyStream]:
        """Return the streams that lost their last event here: name, last version and its time."""
        return list(map(self._stream, range(self._streams)))

    def hashes(self) -> dict[int, Sequence[int]]:
        """Return the hashes of these streams, and of the ids and tags of all events, by kind of index."""
        tags = [tag for tag, _, _, _ in self.tags()]
        return {KIND_STREAMS: self.stream_hashes(), KIND_IDS: hash_ids(self.ids()), KIND_TAGS: tags}

    def tags(self) -> list[RemovedTag]:
        """Return the tags of all events, sorted."""
        return list(TAG.iter_unpack(self._bytes(self._shape.tags_at, self._shape.names_at)))

    def find_first(self, types: Sequence[str], tags: Sequence[str], after: int) -> int | None:
        """Return the position of the first event after another with one of the types and all of the tags.

        Args:
            types: none: of any type.
            tags: at least one.
        """
        wanted = set(map(hash_again, types))
        found: set[int] | None = None
        for tag in tags:
            key = hash_tag(tag), hash_again(tag)
            at = bisect_right(range(self._tags), (*key, after, _LAST_HASH), key=self._tag)
            places = set[int]()
            while at < self._tags and (row := self._tag(at))[:2] == key:
                if not wanted or row[3] in wanted:
                    places.add(row[2])
                at += 1
            found = places if found is None else found & places
        return min(found, default=None) if found else None

    def _tag(self, number: int) -> RemovedTag:
        at = self._shape.tags_at + number * TAG_BYTES
        row: RemovedTag = TAG.unpack(self._bytes(at, at + TAG_BYTES))
        return row

    def _stream_hash(self, number: int) -> int:
        at = self._shape.streams_at + number * STREAM_BYTES
        stream_hash: int = STREAM.unpack(self._bytes(at, at + STREAM_BYTES))[0]
        return stream_hash

    def _stream_rows(self) -> memoryview:
        return self._bytes(self._shape.streams_at, self._shape.tags_at)

    def _stream(self, number: int) -> EmptyStream:
        try:
            return decode_stream(
                self._stream_rows(), self._bytes(self._shape.names_at, self._shape.crcs_at), number
            )
        except FormatFault as fault:
            raise CorruptionError(self.path, self._shape.streams_at, str(fault)) from None

    def _bytes(self, start: int, end: int) -> memoryview:
        """Return bytes of the file, from checked pages."""
        first = (start - FILE_HEADER_BYTES) // PAGE_BYTES
        for page in range(first, -(-(end - FILE_HEADER_BYTES) // PAGE_BYTES)):
            if not self._checked[page]:
                at = FILE_HEADER_BYTES + page * PAGE_BYTES
                if crc32(self._file[at : min(at + PAGE_BYTES, self._shape.crcs_at)]) != self._crcs[page]:
                    raise CorruptionError(self.path, at, "a page of removed events fails its CRC")
                self._checked[page] = 1
        return self._file[start:end]
