"""A reader of stores that shares no code with evlog, written from the docstrings of `evlog/files/format`.

It imports only the standard library and msgpack, checks the CRCs of what it reads, and raises ValueError if
something is not as specified. A port to another language can begin here.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from bisect import bisect_left
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

PAGE_BYTES = 4096


class Event(NamedTuple):
    position: int
    version: int
    stream: str
    type: str
    id: bytes
    time_us: int
    content_type: int
    data: bytes
    metadata: bytes | None


class Header(NamedTuple):
    magic: bytes
    format: int
    kind: int
    generation: int
    store_id: bytes
    first_position: int
    tag: int
    keys: int
    postings: int
    source_crc: int
    zero: int
    crc: int


def expect(is_so: bool, what: str) -> None:
    if not is_so:
        raise ValueError(what)


def read_manifest(store: Path) -> dict[str, Any]:
    """Return the manifest; its segments are dicts by the names in `fields`."""
    raw = (store / "manifest.json").read_bytes()
    manifest: dict[str, Any] = json.loads(raw)
    body = raw[: raw.rindex(b',"crc32"')]
    expect(int(manifest["crc32"], 16) == zlib.crc32(body), "the manifest fails its CRC")
    expect(manifest["format"] == 1, "another format")
    fields = manifest["fields"]
    manifest["segments"] = [dict(zip(fields, row, strict=False)) for row in manifest["segments"]]
    return manifest


def read_header(raw: bytes, kind: int) -> Header:
    header = Header(*struct.unpack("<8sHHI16sQIIIIII", raw[:64]))
    expect(header.magic == b"\x89evlog\r\n" and header.format == 1, "not a file of evlog")
    expect(header.crc == zlib.crc32(raw[:60]), "a header fails its CRC")
    expect(header.kind == kind, "a file of another kind")
    return header


def hash_stream(name: str) -> int:
    low = hashlib.blake2b(name.encode(), digest_size=5).digest()
    high = hashlib.blake2b(name.partition("-")[0].encode(), digest_size=3).digest()
    return int.from_bytes(low + high, "little")


def hash_tag(tag: str) -> int:
    return int.from_bytes(hashlib.blake2b(tag.encode(), digest_size=8).digest(), "little")


def read_log(raw: bytes, tag: int) -> list[tuple[int, list[Event]]]:
    """Return each frame's offset and events, up to the first bytes that are no frame."""
    expect(read_header(raw, 1).tag == tag, "a log of another segment")
    frames, at = [], 64
    while raw[at : at + 4] == b"\xe5EVF":
        length, count, _, first, _, body_crc, own_tag, crc = struct.unpack_from("<IIIQIIII", raw, at + 4)
        expect(crc == zlib.crc32(struct.pack("<Q", at) + raw[at : at + 36]), "a frame header fails its CRC")
        body = raw[at + 40 : at + 40 + length]
        expect(own_tag == tag and zlib.crc32(body) == body_crc, "a frame's body fails its CRC")
        events = [Event(*record) for record in msgpack.unpackb(body)]
        expect(len(events) == count and events[0].position == first, "a frame is not what its header says")
        frames.append((at, events))
        at += 40 + length
    return frames


class Segment:
    """A segment of a store: its events, and what its indexes say of them."""

    def __init__(self, store: Path, row: dict[str, Any]) -> None:
        self.prefix = f"{row['first_position']:020d}.{row['generation']}"
        self.folder = store / "segments"
        self.sealed = row["last_position"] > 0
        self.row = row
        log = self.path("log").read_bytes()
        self.frames = read_log(log, row["tag"])
        self.events = [event for _, events in self.frames for event in events]
        raw = self.path("offsets").read_bytes()
        read_header(raw, 2)
        self.entries = [
            struct.unpack_from("<QIIIIIIIIII", raw, 64 + 48 * number) for number in range(len(self.events))
        ]
        expect(not self.sealed or zlib.crc32(raw[64:]) == row["offsets_crc"], ".offsets fails its CRC")
        for event, (stream, _, id, offset, length, before, after, _, version, type, zero) in zip(
            self.events, self.entries, strict=True
        ):
            record = log[offset : offset + length]
            expect(
                Event(*msgpack.unpackb(record)) == event and zlib.crc32(record, before) == after, "an entry"
            )
            hashes = hash_stream(event.stream), zlib.crc32(event.id), zlib.crc32(event.type.encode())
            expect((stream, id, type, version, zero) == (*hashes, event.version, 0), "an entry")

    def path(self, suffix: str) -> Path:
        return self.folder / f"{self.prefix}.{suffix}"

    def removed(self) -> list[tuple[int, int, bytes]]:
        """Return position, version and id of the events that a compaction removed from the segment."""
        if not self.row["removed_events"]:
            return []
        raw = self.path("removed").read_bytes()
        header = read_header(raw, 6)
        expect(zlib.crc32(raw) == self.row["removed_crc"], ".removed fails its CRC")
        rows = struct.iter_unpack("<16sQQII", raw[64 : 64 + 40 * header.keys])
        return sorted((position, version, id) for id, position, _, version, _ in rows)

    def find(self, suffix: str, key: int) -> list[Event]:
        """Return the events that a sorted index has for a hash: candidates."""
        raw = self.path(suffix).read_bytes()
        kind = {"streams": 3, "types": 4, "ids": 5, "tags": 9}[suffix]
        header = read_header(raw, kind)
        expect(header.source_crc == self.row["offsets_crc"], "a stale index")
        width = 4 if suffix == "ids" else 8
        starts_at = 64 + header.keys * width
        postings_at = starts_at + (0 if suffix == "ids" else 4 * (header.keys + 1))
        end = postings_at + 4 * header.postings
        crcs = [zlib.crc32(raw[at : min(at + PAGE_BYTES, end)]) for at in range(64, end, PAGE_BYTES)]
        expect(raw[end:] == struct.pack(f"<{len(crcs)}I", *crcs), "a page fails its CRC")
        keys = struct.unpack_from(f"<{header.keys}{'I' if width == 4 else 'Q'}", raw, 64)
        postings = struct.unpack_from(f"<{header.postings}I", raw, postings_at)
        at = bisect_left(keys, key)
        if suffix == "ids":
            return [self.events[postings[n]] for n in range(at, len(keys)) if keys[n] == key]
        if at == len(keys) or keys[at] != key:
            return []
        start, stop = struct.unpack_from("<II", raw, starts_at + 4 * at)
        return [self.events[number] for number in postings[start:stop]]


def read_store(path: Path) -> list[Segment]:
    """Return the segments of a store without compressed ones, oldest first."""
    return [Segment(path, row) for row in read_manifest(path)["segments"]]
