"""File name ⇄ meaning: the one module that builds and parses the names in a store.

    STORE/manifest.json  lock  durable  compaction  queue
    STORE/segments/filter
    STORE/segments/<first position, 20 digits>.<generation>.<suffix>
                   log  log.zst  offsets  streams  types  ids  tags  removed
    STORE/subscriptions/<name, escaped>.<json|parked|lock>
    STORE/snapshots/<name, escaped>.log  <name, escaped>.<hash of the stream, 16 hex digits>.stream  lock

Names that it did not build parse to None.
"""

from __future__ import annotations

import os

from evlog.errors import InvalidArgument
from evlog.model.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

MANIFEST: Final = "manifest.json"
LOCK: Final = "lock"
DURABLE: Final = "durable"
COMPACTION: Final = "compaction"
QUEUE: Final = "queue"
FILTER: Final = "filter"
SEGMENTS: Final = "segments"
SUBSCRIPTIONS: Final = "subscriptions"
SNAPSHOTS: Final = "snapshots"
TEMPORARY: Final = ".tmp"  # appended to a file's name while it is being written
LOG: Final = "log"
COMPRESSED_LOG: Final = "log.zst"  # by its name `zstd -d` makes the .log of it
OFFSETS: Final = "offsets"
REMOVED: Final = "removed"
SUFFIXES: Final = (LOG, COMPRESSED_LOG, OFFSETS, "streams", "types", "ids", "tags", REMOVED)

# What may lie in a directory that is about to become a store: the leftovers of an interrupted `init`.
INIT_LEFTOVERS: Final = frozenset({LOCK, DURABLE, SEGMENTS, MANIFEST + TEMPORARY})

# A subscription may have any name; its file has only characters that every file system keeps apart. Other
# bytes, capitals among them, are written as %xx; a name that becomes longer than 200 by that is %% and base
# 32, lower case, unpadded.
_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")
_MAX_ESCAPED: Final = 200
_BASE32: Final = "%%"
_SUBSCRIPTION_SUFFIXES: Final = ("json", "parked", "lock")
_POSITION_DIGITS: Final = 20
_MAX_GENERATION_DIGITS: Final = 10


class SegmentFile(NamedTuple):
    """The meaning of a file name in `segments/`."""

    first_position: int
    generation: int
    suffix: str


def check_path(store: str | os.PathLike[str]) -> str:
    """Return the path of a store as a text, or raise InvalidArgument for what cannot be one."""
    path = os.fspath(store) if isinstance(store, str | os.PathLike) else store
    if not isinstance(path, str) or not path or "\0" in path:
        raise InvalidArgument(f"invalid path {path!r}; give the store's directory")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise InvalidArgument(f"invalid path {path!r}; the file system cannot have this name") from None
    return path


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


def filter_path(store: str) -> str:
    return f"{store}/{SEGMENTS}/{FILTER}"


def segments_path(store: str) -> str:
    return f"{store}/{SEGMENTS}"


def segment_name(first_position: int, generation: int) -> str:
    """Return the path of a segment's files below the store, without their suffix."""
    return f"{SEGMENTS}/{first_position:020d}.{generation}"


def segment_path(store: str, first_position: int, generation: int, suffix: str) -> str:
    return f"{store}/{segment_name(first_position, generation)}.{suffix}"


def maybe_parse_segment_name(name: str) -> SegmentFile | None:
    """Return the meaning of a file name in `segments/`, or None for a name that is not evlog's."""
    position, _, rest = name.partition(".")
    generation, _, suffix = rest.partition(".")
    if (
        suffix not in SUFFIXES
        or len(position) != _POSITION_DIGITS
        or len(generation) > _MAX_GENERATION_DIGITS
    ):
        return None
    if not (position + generation).isascii() or not (position.isdigit() and generation.isdigit()):
        return None
    if str(int(generation)) != generation:
        return None
    return SegmentFile(int(position), int(generation), suffix)


def subscriptions_path(store: str) -> str:
    return f"{store}/{SUBSCRIPTIONS}"


def subscription_path(store: str, name: str, suffix: str) -> str:
    return f"{store}/{SUBSCRIPTIONS}/{_escape(name)}.{suffix}"


def maybe_parse_subscription_name(file_name: str) -> tuple[str, str] | None:
    """Return the subscription's name and the suffix in a file name, or None if it is not evlog's."""
    escaped, _, suffix = file_name.rpartition(".")
    if not escaped or suffix not in _SUBSCRIPTION_SUFFIXES:
        return None
    try:
        name = _unescape(escaped)
    except ValueError:
        return None
    return (name, suffix) if _escape(name) == escaped else None


def snapshots_path(store: str) -> str:
    return f"{store}/{SNAPSHOTS}"


def snapshots_lock_path(store: str) -> str:
    return f"{store}/{SNAPSHOTS}/lock"


def snapshot_path(store: str, name: str, stream_hash: int | None) -> str:
    """Return the path of the snapshot of a stream, or of a selection of the log (None)."""
    suffix = "log" if stream_hash is None else f"{stream_hash:016x}.stream"
    return f"{store}/{SNAPSHOTS}/{_escape(name)}.{suffix}"


def maybe_parse_snapshot_name(file_name: str) -> tuple[str, int | None] | None:
    """Return the snapshot's name and the hash of its stream, or None if it is not evlog's name of a file."""
    rest, _, suffix = file_name.rpartition(".")
    escaped, _, stream = rest.rpartition(".") if suffix == "stream" else (rest, "", "")
    try:
        name, stream_hash = _unescape(escaped), int(stream, 16) if stream else None
    except ValueError:
        return None
    return (name, stream_hash) if snapshot_path("", name, stream_hash).endswith(f"/{file_name}") else None


def is_snapshot_name(file_name: str) -> bool:
    """Return whether a file in `snapshots/` holds a snapshot."""
    return file_name.endswith((".log", ".stream"))


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
