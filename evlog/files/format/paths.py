"""File name ⇄ meaning: the one module that builds and parses the names in a store.

    STORE/manifest.json  lock  durable  compaction  queue
    STORE/segments/<first position, 20 digits>.<generation>.<log|log.zst|offsets|streams|types|ids|removed>
    STORE/subscriptions/<name, escaped>.<json|parked|lock>

It touches no file. Names that it did not build parse to None.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

MANIFEST: Final = "manifest.json"
LOCK: Final = "lock"
DURABLE: Final = "durable"
COMPACTION: Final = "compaction"
QUEUE: Final = "queue"
SEGMENTS: Final = "segments"
SUBSCRIPTIONS: Final = "subscriptions"
TEMPORARY: Final = ".tmp"  # appended to a file's name while it is being written
LOG: Final = "log"
COMPRESSED_LOG: Final = "log.zst"  # by its name `zstd -d` makes the .log of it
SUFFIXES: Final = (LOG, COMPRESSED_LOG, "offsets", "streams", "types", "ids", "removed")

# What may lie in a directory that is about to become a store: the leftovers of an interrupted `init`.
INIT_LEFTOVERS: Final = frozenset({LOCK, DURABLE, SEGMENTS, MANIFEST + TEMPORARY})

# A subscription's name may hold anything, its file's name only what every file system keeps apart: other
# bytes, capitals among them, are escaped; a name that gets too long by that is written in base 32.
_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")
_MAX_ESCAPED: Final = 200
_BASE32: Final = "%%"
_SUBSCRIPTION_NAME: Final = re.compile(r"(.+)\.(json|parked|lock)", re.ASCII)

_SEGMENT_NAME: Final = re.compile(
    r"(\d{20})\.(\d{1,10})\.(log|log\.zst|offsets|streams|types|ids|removed)", re.ASCII
)


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


def queue_path(store: str) -> str:
    return f"{store}/{QUEUE}"


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


def subscriptions_path(store: str) -> str:
    return f"{store}/{SUBSCRIPTIONS}"


def subscription_path(store: str, name: str, suffix: str) -> str:
    return f"{store}/{SUBSCRIPTIONS}/{_escape(name)}.{suffix}"


def maybe_parse_subscription_name(file_name: str) -> tuple[str, str] | None:
    """The subscription's name and the suffix in a file name, or None for one that is not evlog's."""
    match = _SUBSCRIPTION_NAME.fullmatch(file_name)
    if match is None:
        return None
    try:
        name = _unescape(match[1])
    except ValueError:
        return None
    return (name, match[2]) if _escape(name) == match[1] else None


def _escape(name: str) -> str:
    raw = name.encode()
    escaped = "".join(
        chr(byte) if byte in _PLAIN and (at or byte != ord(".")) else f"%{byte:02x}"
        for at, byte in enumerate(raw)
    )
    if len(escaped) <= _MAX_ESCAPED:
        return escaped
    from base64 import b32encode

    return _BASE32 + b32encode(raw).decode().rstrip("=").lower()


def _unescape(text: str) -> str:
    if text.startswith(_BASE32):
        from base64 import b32decode

        coded = text[len(_BASE32) :].upper()
        return b32decode(coded + "=" * (-len(coded) % 8)).decode()
    first, *rest = text.encode().split(b"%")
    return (first + b"".join(bytes([int(part[:2], 16)]) + part[2:] for part in rest)).decode()
