"""A sealed segment written again with other content and right checksums, as only a defect in evlog would."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import msgpack

from evlog import EventStore
from evlog.files.disk.files import DISK
from evlog.files.format import paths
from evlog.files.format.entries import ENTRY_BYTES, derive_entries
from evlog.files.format.frames import FrameHeader, encode_body, encode_frame_header
from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    KIND_LOG,
    KIND_OFFSETS,
    decode_file_header,
    encode_file_header,
)
from evlog.files.format.lines import crc_of_line
from evlog.files.format.manifest import SegmentInfo
from evlog.files.format.marks import MARK_BYTES, WRITTEN_MAGIC, maybe_decode_mark
from evlog.files.format.sorted_index import SORTED_SUFFIXES, build_sorted, page_crcs, sorted_shape
from evlog.files.log.manifest_file import leave_mark, read_manifest, replace_manifest
from evlog.files.log.parts import SealedPart
from tests.support.helpers import engine_of

Frames = list[list[list[Any]]]
"""frames of records of nine fields"""
POSITION, VERSION, STREAM, TYPE, ID, TIME, CODE, DATA, METADATA = range(9)


def read_frames(store: EventStore, place: int) -> Frames:
    """Return the records of a sealed segment, by frame."""
    part = engine_of(store)._refreshed().parts()[place]
    assert isinstance(part, SealedPart)
    return [[list(record) for record in frame] for frame in part.segment.scan(0, part.count)]


def forge(
    store: EventStore,
    place: int,
    frames: Frames,
    *,
    change_header: Callable[[FrameHeader], FrameHeader] = lambda header: header,
    encode: Callable[[list[bytes]], bytes] = encode_body,
    change_entries: Callable[[bytearray], None] = lambda _: None,
    change_index: Mapping[int, Callable[[memoryview], None]] = {},
) -> SegmentInfo:
    """Write a sealed segment with these frames, and have the manifest say so.

    Args:
        change_header: of each frame, before its CRC is made.
        encode: makes the body of a frame from its records.
        change_entries: of each frame, before the running CRC is made.
        change_index: by kind, what is between the header and the CRCs of its pages.
    """
    manifest = read_manifest(store.path)
    info = manifest.segments[place]
    own = info.header(KIND_LOG, manifest.store_id_bytes)
    log, entries = bytearray(encode_file_header(own)), bytearray()
    for records in frames:
        raws = [msgpack.packb(record) for record in records]
        plain, body = encode_body(raws), encode(raws)
        header = FrameHeader(len(plain), len(records), 64, records[0][POSITION], 0, crc32(plain), info.tag)
        rows = bytearray(_entries(header, len(log), plain, records))
        header = header.replace(length=len(body), body_crc=crc32(body))
        change_entries(rows)
        entries += rows
        header = change_header(header.replace(index_crc=crc32(entries)))
        log += encode_frame_header(header, len(log)) + body
    times = [record[TIME] for records in frames for record in records]
    info = info._replace(
        events=len(entries) // ENTRY_BYTES,
        last_position=max(info.last_position, frames[-1][-1][POSITION]),
        log_bytes=len(log),
        offsets_crc=crc32(entries),
        first_time_us=info.first_time_us if info.generation else times[0],
        last_time_us=info.last_time_us if info.generation else times[-1],
    )
    _write(store, info, "log", bytes(log))
    _write(store, info, "offsets", encode_file_header(own._replace(kind=KIND_OFFSETS)) + bytes(entries))
    for kind, suffix in SORTED_SUFFIXES.items():
        raw = bytearray(build_sorted(own._replace(kind=kind, source_crc=info.offsets_crc), bytes(entries)))
        if kind in change_index:
            found = decode_file_header(bytes(raw[:FILE_HEADER_BYTES]))
            shape = sorted_shape(kind, found.keys, found.postings)
            change_index[kind](memoryview(raw)[FILE_HEADER_BYTES : shape.crcs_at])
            raw[shape.crcs_at :] = page_crcs(bytes(raw[FILE_HEADER_BYTES : shape.crcs_at]))
        _write(store, info, suffix, bytes(raw))
    replace_info(store, place, info)
    return info


def replace_info(store: EventStore, place: int, info: SegmentInfo) -> None:
    """Change what the manifest says of a segment."""
    manifest = read_manifest(store.path)
    segments = (*manifest.segments[:place], info, *manifest.segments[place + 1 :])
    mark = maybe_decode_mark(WRITTEN_MAGIC, Path(store.path, "durable").read_bytes()[:MARK_BYTES])
    replace_manifest(store.path, manifest._replace(segments=segments), DISK)
    if mark is not None:
        mark.manifest_crc = crc_of_line(Path(store.path, "manifest.json").read_bytes())
        leave_mark(store.path, WRITTEN_MAGIC, mark, DISK)


def _entries(header: FrameHeader, offset: int, body: bytes, records: list[list[Any]]) -> bytes:
    """Return the right entries; for values that are not records, those of as many sound ones."""
    try:
        return derive_entries(header, offset, body)
    except ValueError:
        sound = encode_body([msgpack.packb([header.first_position, 1, "s", "T", bytes(16), 1, 0, b"", None])])
        one = header.replace(events=1, length=len(sound), body_crc=crc32(sound))
        return derive_entries(one, offset, sound) * len(records)


def _write(store: EventStore, info: SegmentInfo, suffix: str, content: bytes) -> None:
    path = paths.segment_path(store.path, info.first_position, info.generation, suffix)
    with open(path, "wb") as file:
        file.write(content)
