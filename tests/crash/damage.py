"""A small store in memory, to be damaged: three sealed segments and an active one of three frames.

Damage is done to the bytes, which are then put into a directory; so a test of it is a line in a table.
"""

from __future__ import annotations

import functools
import os
import struct
from zlib import crc32

from tests.crash import check, recordings
from tests.crash.check import open_store
from tests.crash.disk import World
from tests.crash.history import History, Knowledge, all_known
from tests.crash.states import State

STORE = "above/store"
DIRECTORIES = ["above", STORE, f"{STORE}/segments"]
DURABLE = f"{STORE}/durable"
MANIFEST = f"{STORE}/manifest.json"
SEALED = (1, 5, 8)  # the first positions of the sealed segments
ACTIVE = 12

Files = dict[str, bytes]


def segment(first_position: int, suffix: str) -> str:
    return f"{STORE}/segments/{first_position:020d}.0.{suffix}"


def build_store(root: str) -> History:
    """Make the store in a directory; return what was sent to it."""
    os.mkdir(f"{root}/above")
    history = History(World(root))
    with open_store(f"{root}/{STORE}", create=True) as store:
        for appends in recordings.sample_appends(0) + recordings.sample_appends(20)[:2]:
            history.send(store, appends)
    return history


@functools.cache
def _built() -> tuple[Files, Knowledge]:
    with recordings.scratch() as root:
        history = build_store(root)
        files = read_files(root)
        log = segment(ACTIVE, "log")
        return files | {log: files[log].rstrip(b"\0")}, all_known(history.batches)


def sound_store() -> tuple[State, Knowledge]:
    """Return the store as it was written, without preallocated zeros, and what its clients know."""
    files, known = _built()
    return State(dict(files), DIRECTORIES), known


def read_files(root: str) -> Files:
    """Return the content of every file below the root, by its path from there."""
    files = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = f"{directory}/{name}"
            with open(path, "rb") as file:
                files[os.path.relpath(path, root)] = file.read()
    return files


def flip(content: bytes, offset: int, bit: int = 0) -> bytes:
    """Return the content with one bit flipped; a negative offset counts from the end."""
    damaged = bytearray(content)
    damaged[offset] ^= 1 << bit
    return bytes(damaged)


def frame_offsets(log: bytes) -> list[int]:
    """Return where the frames of a log begin."""
    return check.frame_offsets(log)[:-1]


def newer_header(content: bytes) -> bytes:
    """Return the same file with a sound header of format 2."""
    header = content[:8] + struct.pack("<H", 2) + content[10:60]
    return header + struct.pack("<I", crc32(header)) + content[64:]


def newer_manifest(content: bytes) -> bytes:
    body = content[: content.rindex(b',"crc32"')].replace(b'{"format":1', b'{"format":2')
    return b'%s,"crc32":"%08x"}\n' % (body, crc32(body))
