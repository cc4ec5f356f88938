"""Writing down what is left of events that went: the bytes of a .gone file, from columns. Does no I/O."""

from __future__ import annotations

import zlib
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from operator import xor
from zlib import crc32

from evlog.files.format.entries import subtract_columns, xor_columns
from evlog.files.format.hashes import hash_stream
from evlog.files.format.headers import FileHeader, encode_file_header
from evlog.files.log.removed import (
    FEW_EVENTS,
    RAW_DEFLATE,
    ROW_BYTES,
    STRETCH_EVENTS,
    GoneColumns,
    GoneShape,
    GoneStream,
)


def content_seeds(lower_stream_hashes: array[int], type_hashes: array[int]) -> array[int]:
    """What the content checks of events begin with, but for their content types."""
    return xor_columns(lower_stream_hashes, type_hashes)


def content_crcs(seeds: Iterable[int], content_types: Sequence[int], datas: Iterable[bytes]) -> Iterator[int]:
    """The content checks of many events, from their seeds; not cut yet."""
    if any(content_types):
        seeds = map(xor, seeds, content_types)
    return map(crc32, datas, seeds)


def encode_gone(header: FileHeader, events: GoneColumns, streams: Iterable[GoneStream]) -> bytes:
    """A whole .gone file, of events in position order; what the header lacks is filled in."""
    count = len(events.positions)
    tops = events.uppers.tobytes()[3::4]
    buckets = _in_buckets(_encode_rows(events), tops)
    starts = range(0, count, STRETCH_EVENTS)
    parts = [_encode_stretch(events, tops, slice(at, at + STRETCH_EVENTS)) for at in starts]
    ordered = sorted((hash_stream(stream.name), stream) for stream in streams)
    parts.append(_encode_streams(ordered))
    shape = GoneShape.of(count)
    ends = accumulate(map(len, parts[:-1]), initial=shape.stretches_at)
    directory = b"".join(
        [
            array("I", accumulate((len(bucket) // ROW_BYTES for bucket in buckets), initial=0)).tobytes(),
            array("I", map(crc32, buckets)).tobytes(),
            array("I", ends).tobytes(),
            array("I", map(crc32, parts)).tobytes(),
            array("Q", map(events.positions.__getitem__, starts)).tobytes(),
        ]
    )
    header = header._replace(keys=count, postings=len(ordered), source_crc=crc32(directory))
    return b"".join([encode_file_header(header), directory, *buckets, *parts])


def _encode_rows(events: GoneColumns) -> array[int]:
    """The part of each event that stands in its bucket, as one number."""
    rows = bytearray(ROW_BYTES * len(events.positions))
    at = 0
    for column, width in ((events.uppers, 3), (events.id_crcs, 3), (events.content_crcs, 2)):
        raw = column.tobytes()
        for byte in range(width):
            rows[at::ROW_BYTES] = raw[byte::4]
            at += 1
    return array("Q", bytes(rows))


def _in_buckets(rows: array[int], tops: bytes) -> list[bytes]:
    """The rows of each bucket, in the order in which they come."""
    if len(rows) < FEW_EVENTS:
        return [rows.tobytes()]
    buckets = [array("Q") for _ in range(256)]
    deque(map(array.append, map(buckets.__getitem__, tops), rows), maxlen=0)
    return [bucket.tobytes() for bucket in buckets]


def _encode_stretch(events: GoneColumns, tops: bytes, own: slice) -> bytes:
    positions = events.positions[own]
    steps = subtract_columns(positions, positions[:1] + positions[:-1])
    return tops[own] + _deflate(steps) + _deflate(events.versions[own])


def _deflate(column: array[int]) -> bytes:
    """The lowest bytes of all numbers, then the next, as far as there is one that is not zero."""
    raw, width = column.tobytes(), column.itemsize
    planes = [raw[at::width] for at in range(width)]
    while len(planes) > 1 and not planes[-1].strip(b"\0"):
        planes.pop()
    # The fastest way: nothing repeats but neighbours.
    deflate = zlib.compressobj(wbits=RAW_DEFLATE, strategy=zlib.Z_RLE)
    return deflate.compress(b"".join(planes)) + deflate.flush()


def _encode_streams(ordered: Sequence[tuple[int, GoneStream]]) -> bytes:
    names = [stream.name.encode() for _, stream in ordered]
    return b"".join(
        [
            array("Q", (stream_hash for stream_hash, _ in ordered)).tobytes(),
            array("Q", (stream.time_us for _, stream in ordered)).tobytes(),
            array("I", (stream.version for _, stream in ordered)).tobytes(),
            array("I", accumulate(map(len, names))).tobytes(),
            *names,
        ]
    )
