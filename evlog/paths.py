"""File name ⇄ meaning: the one module that builds and parses the names in a store.

    STORE/manifest.json  lock  durable  compaction
    STORE/segments/<first position, 20 digits>.<generation>.<log|offsets|streams|types|ids|gone>

It touches no file. Names that it did not build parse to None.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

MANIFEST: Final = "manifest.json"
LOCK: Final = "lock"
DURABLE: Final = "durable"
COMPACTION: Final = "compaction"
SEGMENTS: Final = "segments"
TEMPORARY: Final = ".tmp"  # appended to a file's name while it is being written
SUFFIXES: Final = ("log", "offsets", "streams", "types", "ids", "gone")

# What may lie in a directory that is about to become a store: the leftovers of an interrupted `init`.
INIT_LEFTOVERS: Final = frozenset({LOCK, DURABLE, SEGMENTS, MANIFEST + TEMPORARY})

_SEGMENT_NAME: Final = re.compile(r"(\d{20})\.(\d{1,10})\.(log|offsets|streams|types|ids|gone)", re.ASCII)


class SegmentFile(NamedTuple):
    """What the name of a file in `segments/` says."""

    first_position: int
    generation: int
    suffix: str


def manifest_path(store: str) -> str:
    return f"{store}/{MANIFEST}"


def lock_path(store: str) -> str:
    return f"{store}/{LOCK}"


def durable_path(store: str) -> str:
    return f"{store}/{DURABLE}"


def compaction_path(store: str) -> str:
    return f"{store}/{COMPACTION}"


def segments_path(store: str) -> str:
    return f"{store}/{SEGMENTS}"


def segment_path(store: str, first_position: int, generation: int, suffix: str) -> str:
    return f"{store}/{SEGMENTS}/{first_position:020d}.{generation}.{suffix}"


def maybe_parse_segment_name(name: str) -> SegmentFile | None:
    """The meaning of a file name in `segments/`, or None for a name that is not evlog's."""
    match = _SEGMENT_NAME.fullmatch(name)
    if match is None:
        return None
    return SegmentFile(int(match[1]), int(match[2]), match[3])
