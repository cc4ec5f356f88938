"""Decoding the records of neighbouring frames, every field checked, and deriving their entries. Pure.

1. A valid CRC proves nothing here: types, ranges, names and JSON are checked as by an append.
2. Entries are derived from the records alone, so that a comparison with .offsets proves both.
3. Whole columns are checked at a time, by a few calls of C, because a loop over events is much slower.
4. A batch of records is decoded at a time, so that a large frame does not become as many objects at once.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, chain, compress, repeat
from operator import add, lt, sub
from threading import local
from typing import Annotated, Final
from zlib import crc32

import msgspec
from msgspec import Meta

from evlog.errors import InvalidEvent, InvalidStreamName
from evlog.files.check.digest import digests_of
from evlog.files.check.tags import TagDecoder, TagRows
from evlog.files.format.entries import pack_entries, running_crcs
from evlog.files.format.frames import FRAME_HEADER_BYTES, NOT_RECORDS, array_head
from evlog.files.format.hashes import hash_ids, hash_stream, hash_type
from evlog.files.format.headers import FormatFault
from evlog.files.format.marks import LOWEST_ID
from evlog.model.encoding import check_json
from evlog.model.events import MAX_TIME_US, MAX_VERSION, METADATA_PREFIX, check_readable_name, check_type
from evlog.model.named import NamedTuple
from evlog.model.retention import COMPACTIONS_STREAM, METADATA_TYPE, STARTED_TYPE, as_words, from_words
from evlog.process.threads import without_signals

_OTHER_COUNT: Final = "a frame does not hold as many records as its header says"
_MAX_NAMES: Final = 1 << 18
_SHORT_BYTES: Final = 2048
_BATCH_BYTES: Final = 1 << 18  # 3 % faster than a window of 1 MiB, which becomes 5 MB of objects
_JSON, _TEXT = 0, 1  # content types
_STARTED_FIELDS: Final = ("position", "time", "removed_before", "bytes")
_OWN_TYPES: Final = frozenset({METADATA_TYPE, STARTED_TYPE})
_POLICY_WORDS: Final = frozenset({"$maxCount", "$maxAge", "$tb", "$deleted", "$tombstone"})

Record = tuple[
    Annotated[int, Meta(ge=1)],
    Annotated[int, Meta(ge=1, le=MAX_VERSION)],
    str,
    str,
    Annotated[bytes, Meta(min_length=16, max_length=16)],
    Annotated[int, Meta(ge=0, le=MAX_TIME_US)],
    Annotated[int, Meta(ge=0, le=2)],
    bytes,
    bytes | None,
]
_FIELDS: Final = ("position", "version", "stream", "type", "id", "time", "content type", "data", "metadata")
_decode_records: Final = msgspec.msgpack.Decoder(list[Record]).decode
_decode_raws: Final = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode_json: Final = msgspec.json.Decoder(msgspec.Raw).decode
_decode_json_list: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


Read = Callable[[int, int], bytes]
Batch = tuple[list[msgspec.Raw], list[int], bytes]
"""Neighbouring records, their lengths, and the array of them."""


class Decoded(NamedTuple):
    """The records of some frames, as far as the checks of a log need them."""

    positions: list[int]
    times: list[int]
    entries: bytes
    """their bytes in .offsets; the last of a frame has the CRC that the frame's body has"""
    digests: list[bytes]
    metadatas: list[bytes | None]
    tags: TagRows
    highest_id: bytes


class _Columns:
    """Columns of records, to which batches of records are added."""

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.times: list[int] = []
        self.digests: list[bytes] = []
        self.metadatas: list[bytes | None] = []
        self.highest_id = LOWEST_ID
        self.versions = array("I")
        self.stream_hashes = array("Q")
        self.id_hashes = array("I")
        self.type_hashes = array("I")
        self.tags = array("I")
        self.tag_rows = TagRows(array("Q"), array("I"))


@contextmanager
def _raising_format_faults() -> Iterator[None]:
    """Raise what bytes that are no records lead to as FormatFault."""
    try:
        yield
    except (InvalidEvent, InvalidStreamName) as error:
        raise FormatFault(f"a record makes no sense: {error}") from None
    except FormatFault:
        raise
    except (*NOT_RECORDS, RecursionError, msgspec.MsgspecError) as error:  # JSON can be nested too deeply
        raise FormatFault(f"a frame does not hold records: {error}") from None


class RecordDecoder(local):
    """Decodes and checks records; remembers the hashes of names from one call to the next, in each thread."""

    def __init__(self) -> None:
        self._stream_hashes = _Hashes(check_readable_name, hash_stream, 8)
        self._type_hashes = _Hashes(check_type, hash_type, 4)
        self._tags = TagDecoder()

    def decode(
        self, frame_offsets: Sequence[int], counts: Sequence[int], bodies: Sequence[bytes | memoryview]
    ) -> Decoded:
        """Decode the records of neighbouring frames. Their CRCs are computed, and compared by the caller.

        Args:
            frame_offsets, counts, bodies: of each frame its offset, how many records it holds, and its body.

        Raises:
            FormatFault: they are not what an append writes.
        """
        heads = list(map(array_head, counts))
        return self._decode(frame_offsets, counts, heads, _batches_in(heads, counts, bodies))

    def decode_large(self, frame_offset: int, lengths: Sequence[int], read: Read) -> Decoded:
        """Do the same for one frame that is read piece by piece.

        Args:
            lengths: those of its records, for example from .offsets. Wrong ones are found: no record but the
                last of a piece ends where the piece does.
            read: returns bytes of the log, given their number and their offset.
        """
        counts, heads = [len(lengths)], [array_head(len(lengths))]
        batches = _batches_read(frame_offset + FRAME_HEADER_BYTES, heads[0], lengths, read)
        return self._decode([frame_offset], counts, heads, batches)

    @_raising_format_faults()
    def _decode(
        self,
        frame_offsets: Sequence[int],
        counts: Sequence[int],
        heads: Sequence[bytes],
        batches: Iterator[Batch],
    ) -> Decoded:
        columns, crcs = _Columns(), _RunningCrcs(heads, counts)
        lengths: list[int] = []
        for its, its_lengths, content in batches:
            try:
                self._add_batch(columns, content)
            except msgspec.ValidationError as error:
                raise FormatFault(f"a record makes no sense: {_named(str(error), len(lengths))}") from None
            columns.digests += digests_of(its)
            crcs.add(its)
            lengths += its_lengths
        entries = pack_entries(
            columns.stream_hashes,
            columns.id_hashes,
            _record_offsets(frame_offsets, heads, counts, lengths),
            array("I", lengths),
            crcs.before,
            crcs.after,
            _repeat(frame_offsets, counts),
            columns.versions,
            columns.type_hashes,
            columns.tags,
        )
        return Decoded(
            columns.positions,
            columns.times,
            entries,
            columns.digests,
            columns.metadatas,
            columns.tag_rows,
            columns.highest_id,
        )

    def _add_batch(self, columns: _Columns, content: bytes) -> None:
        """Decode and check an array of records, and add them to the columns."""
        records = _decode_records(content)
        positions, versions, streams, types, ids, times, codes, datas, metadatas = zip(*records, strict=True)
        _check_contents(codes, datas, metadatas)
        if not _OWN_TYPES.isdisjoint(types):
            _check_own_events(streams, types, datas)
        columns.tags.fromlist(self._tags.decode(metadatas, columns.tag_rows, len(columns.positions)))
        columns.positions += positions
        columns.times += times
        columns.metadatas += metadatas
        columns.versions.fromlist(list(versions))
        columns.stream_hashes.frombytes(self._stream_hashes.of(streams))
        columns.id_hashes.extend(hash_ids(ids))
        columns.highest_id = max((columns.highest_id, *ids))
        columns.type_hashes.frombytes(self._type_hashes.of(types))


def _batches_in(
    heads: Sequence[bytes], counts: Sequence[int], bodies: Sequence[bytes | memoryview]
) -> Iterator[Batch]:
    """Yield the records of neighbouring frames."""
    for body, head in zip(bodies, heads, strict=True):
        if body[: len(head)] != head:
            raise FormatFault(_OTHER_COUNT)
    if len(bodies) == 1:
        content = bodies[0]
    else:
        inner = [body[len(head) :] for body, head in zip(bodies, heads, strict=True)]
        content = memoryview(array_head(sum(counts)) + b"".join(inner))
    raws = _decode_raws(content)
    lengths = list(map(len, raws))
    at = len(content) - sum(lengths)
    step = max(1, len(raws) * _BATCH_BYTES // len(content))
    for low in range(0, len(raws), step):
        its, its_lengths = raws[low : low + step], lengths[low : low + step]
        end = at + sum(its_lengths)
        yield its, its_lengths, b"".join((array_head(len(its)), content[at:end]))
        at = end


def _batches_read(offset: int, head: bytes, lengths: Sequence[int], read: Read) -> Iterator[Batch]:
    """Yield the records of the frame whose body is at an offset of the log."""
    if read(len(head), offset) != head:
        raise FormatFault(_OTHER_COUNT)
    offset += len(head)
    step = max(1, len(lengths) * _BATCH_BYTES // max(1, sum(lengths)))
    for low in range(0, len(lengths), step):
        own = lengths[low : low + step]
        size = sum(own)
        content = array_head(len(own)) + read(size, offset)
        its = _decode_raws(content)
        yield its, list(map(len, its)), content
        offset += size


def _named(error: str, first: int) -> str:
    """Replace msgspec's path of a field (`$[3][5]`) by the field's name and the record's number in its frame.

    Args:
        first: the number of the first record of the batch, from 0.
    """
    head, separator, path = error.partition(" - at `$[")
    number, _, field = path.removesuffix("]`").partition("][")
    if not separator or not number.isdigit() or not field.isdigit() or int(field) >= len(_FIELDS):
        return error
    return f"{head} as its {_FIELDS[int(field)]} (record {first + int(number) + 1} of its frame)"


class _Hashes(dict[str, bytes]):
    """The hashes of names, as they are in entries; each distinct name is checked and hashed once."""

    def __init__(self, check: Callable[[str], object], hash: Callable[[str], int], size: int) -> None:
        super().__init__()
        self._check = check
        self._hash = hash
        self._bytes = size

    def __missing__(self, name: str) -> bytes:
        self._check(name)
        if len(self) > _MAX_NAMES:
            self.clear()
        packed = self[name] = self._hash(name).to_bytes(self._bytes, "little")
        return packed

    def of(self, names: Sequence[str]) -> bytes:
        """Return the hash of each name."""
        return b"".join(map(self.__getitem__, names))


def _repeat(frame_offsets: Sequence[int], counts: Sequence[int]) -> array[int]:
    """Return the offset of its frame for each record."""
    if len(counts) == sum(counts):
        return array("I", frame_offsets)
    cells = array("I")
    for offset, count in zip(frame_offsets, counts, strict=True):
        cells += array("I", (offset,)) * count
    return cells


def _record_offsets(
    frame_offsets: Sequence[int], heads: Sequence[bytes], counts: Sequence[int], lengths: list[int]
) -> array[int]:
    """Return the offset of each record: after the one before it, or after the head of its frame."""
    firsts = [
        offset + FRAME_HEADER_BYTES + len(head) for offset, head in zip(frame_offsets, heads, strict=True)
    ]
    if len(counts) == len(lengths):
        return array("I", firsts)
    cells = array("I")
    low = 0
    for first, count in zip(firsts, counts, strict=True):
        cells.fromlist(list(accumulate(lengths[low : low + count - 1], initial=first)))
        low += count
    return cells


class _RunningCrcs:
    """The CRC of its frame's body before and after each record, of records that are added in batches.

    A batch of large records is in the processor's cache by then: their CRCs take half the time.
    """

    def __init__(self, heads: Sequence[bytes], counts: Sequence[int]) -> None:
        self.before, self.after = array("I"), array("I")
        self._firsts = array("I", list(map(crc32, heads)))
        self._are_single = sum(counts) == len(counts)
        self._frames = zip(self._firsts, counts, strict=True)
        self._left = 0  # how many records of the current frame are still to come

    def add(self, raws: Sequence[msgspec.Raw]) -> None:
        """Add the next records."""
        if self._are_single:
            at = len(self.before)
            firsts = self._firsts[at : at + len(raws)]
            self.before += firsts
            self.after.fromlist(list(map(crc32, raws, firsts)))
            return
        at = 0
        while at < len(raws):
            if not self._left:
                self._crc, self._left = next(self._frames)
            own = raws[at : at + self._left]
            crcs = running_crcs(own, self._crc)
            self.before.fromlist(crcs[:-1])
            self.after.fromlist(crcs[1:])
            self._crc = crcs[-1]
            self._left -= len(own)
            at += len(own)


RECORDS: Final = RecordDecoder()


# --- data and metadata


def _check_contents(codes: Sequence[int], datas: Sequence[bytes], metadatas: Sequence[bytes | None]) -> None:
    if any(codes):
        b"\n".join(compress(datas, map(_TEXT.__eq__, codes))).decode()
        datas = list(compress(datas, map(_JSON.__eq__, codes)))
    if datas:
        _check_json(datas, "data")
    if metadatas.count(None) < len(metadatas):
        objects = [metadata for metadata in metadatas if metadata is not None]
        _check_json(objects, "metadata")
        if {metadata.lstrip()[:1] for metadata in objects} != {b"{"}:
            raise FormatFault("a record's metadata is not a JSON object")


def _check_own_events(streams: Sequence[str], types: Sequence[str], datas: Sequence[bytes]) -> None:
    """Check the content of the store's own events, which writers and compactions act on."""
    import json  # a helper starts sooner without it

    for stream, type, data in zip(streams, types, datas, strict=True):
        if type == METADATA_TYPE and stream.startswith(METADATA_PREFIX):
            words = json.loads(data)
            if not isinstance(words, dict):
                raise FormatFault("a retention policy is not a JSON object")
            known = as_words(from_words(words))
            for word in _POLICY_WORDS.intersection(words):
                if words[word] not in (known.get(word), None, False) and not (
                    word == "$tb" and words[word] == 1
                ):
                    raise FormatFault(f"a retention policy has an invalid {word}")
        elif type == STARTED_TYPE and stream == COMPACTIONS_STREAM:
            started = json.loads(data)
            fields = [started.get(name) for name in _STARTED_FIELDS] if isinstance(started, dict) else [None]
            if not all(value.__class__ is int and value >= 0 for value in fields):
                raise FormatFault("the start of a compaction makes no sense")


def _check_json(texts: Sequence[bytes], field: str) -> None:
    """Raise unless each is strict JSON on one line.

    Short texts are decoded together, as one JSON array: the elements' lengths show that no comma or bracket
    of one text combines with the next one. What is refused here is checked again as an append checks it.
    """
    lengths = list(map(len, texts))
    pieces: Sequence[bytes]
    elements: Iterator[msgspec.Raw]
    if sum(lengths) > _SHORT_BYTES * len(texts):
        pieces, elements = texts, map(_decode_json, texts)
    else:
        pieces = [b"[%s]" % b",".join(texts)]
        elements = chain.from_iterable(map(_decode_json_list, pieces))
    try:
        found = list(map(len, elements))
        for piece in pieces:
            if not piece.isascii():
                piece.decode()
    except (ValueError, RecursionError):
        found = []
    if found != lengths:
        from concurrent.futures import ThreadPoolExecutor  # a helper starts sooner without it

        # A new thread's stack is empty, so that this accepts whatever depth of nesting an append accepted.
        with ThreadPoolExecutor(1) as thread:
            checks = without_signals(lambda: thread.map(lambda text: check_json([text], field), texts))
            for _ in checks:
                pass
    if any(b"\n" in piece or b"\r" in piece for piece in pieces):
        raise FormatFault(f"a record's {field} has a line break between its tokens")


# --- positions


class Runs:
    """Runs of positions that a log lacks, by their first and last ones."""

    def __init__(self) -> None:
        self.firsts = array("Q")
        self.lasts = array("Q")

    def add(self, before: int, positions: Sequence[int]) -> None:
        """Add what is missing between these rising positions, and between them and the one before them."""
        if positions[-1] - before == len(positions):
            return
        befores = list(map(add, chain((before,), positions[:-1]), repeat(1)))
        ends = map(sub, positions, repeat(1))
        missing = list(map(lt, befores, positions))
        self.firsts.extend(list(compress(befores, missing)))
        self.lasts.extend(list(compress(ends, missing)))

    def packed(self) -> tuple[bytes, bytes]:
        """Return both columns as bytes, to travel between processes."""
        return self.firsts.tobytes(), self.lasts.tobytes()
