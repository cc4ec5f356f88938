"""The hashes under which streams, types and ids are looked up.

A hash only finds candidates: the name or the id in the record decides. Collisions cost time, never
correctness.

    stream  u64  BLAKE2b-64 of the name: an attacker who chooses names cannot make many collide
    type    u32  CRC-32 of the name
    id      u64  upper half: CRC-32 of all 16 bytes; lower half: bytes 12..15 as they are

The sorted files keep the upper half of an id's hash. It depends on every byte of the id, so ids that share
most of their bytes (UUIDv1, counters, padded ObjectIds) spread as well as random ones.
"""

from __future__ import annotations

from array import array
from zlib import crc32

try:
    from _blake2 import blake2b  # hashlib's own, without the 3 ms that importing hashlib costs
except ImportError:  # pragma: no cover - another interpreter than CPython
    from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def hash_stream(stream: str) -> int:
    """Return the 64-bit hash of a stream's name."""
    return int.from_bytes(blake2b(stream.encode(), digest_size=8).digest(), "little")


def hash_type(type: str) -> int:
    """Return the 32-bit hash of an event type."""
    return crc32(type.encode())


def hash_ids(ids: Sequence[bytes]) -> array[int]:
    """Return the 64-bit hash of each id of 16 bytes; 0.13 µs an id in bulk."""
    if len(ids) == 1:
        return array("Q", (crc32(ids[0]) << 32 | int.from_bytes(ids[0][12:], "little"),))
    cells = array("I", bytes(8 * len(ids)))
    cells[0::2] = array("I", b"".join(ids))[3::4]
    cells[1::2] = array("I", map(crc32, ids))
    return array("Q", cells.tobytes())
