"""The hashes under which streams, types, ids and tags are looked up.

A hash only finds candidates: the name or the id in the record decides. Collisions cost time, never
correctness.

    stream  u64  upper 24 bits: of BLAKE2b-24 of its category; lower 40: of BLAKE2b-40 of the name. An
                 attacker who chooses names cannot make many collide
    type    u32  CRC-32 of the name
    id      u32  CRC-32 of all 16 bytes: ids that share most of their bytes (UUIDv1, counters, padded
                 ObjectIds) spread as well as random ones
    tag     u64  BLAKE2b-64 of the tag
    again   u64  BLAKE2b-64 with the salt "again" of a tag or a type, in .removed, where no text is kept

Streams of one category are neighbours in an index that is sorted by their hashes. So a category is found by a
range of hashes, without an index of its own.

An entry keeps 32 bits for all tags of an event together, a Bloom filter: each tag sets the bits whose numbers
are bits 0..4, 5..9, 10..14 and 15..19 of its hash. They are 0 if, and only if, the event has no tag. Of
events with two tags each, one of 400 seems to have any given tag.
"""

from __future__ import annotations

from array import array
from zlib import crc32

from evlog.model.events import TAGS_BEGIN, tags_of

try:
    from _blake2 import blake2b  # hashlib's own, without the 3 ms that importing hashlib costs
except ImportError:  # pragma: no cover - another interpreter than CPython
    from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Final


_NAME_BYTES: Final = 5
_copy_name_hash: Final = blake2b(digest_size=_NAME_BYTES).copy  # 1.5 times as fast as a new one
# Of a stream's hash: the bits that its category does not determine.
NAME_BITS: Final = (1 << 8 * _NAME_BYTES) - 1
_MAX_KNOWN_CATEGORIES: Final = 1 << 12
_known_categories: dict[str, bytes] = {}  # the bytes after the name's; threads share it, as the next one
_MAX_KNOWN_TAGS: Final = 1 << 16
_known_tags: dict[str, int] = {}  # threads share it: two that clear it only compute hashes again


def hash_stream(stream: str) -> int:
    """Return the 64-bit hash of a stream's name."""
    name = _copy_name_hash()
    name.update(stream.encode())
    category = stream.partition("-")[0]
    try:
        known = _known_categories[category]
    except KeyError:
        if len(_known_categories) > _MAX_KNOWN_CATEGORIES:
            _known_categories.clear()
        known = _known_categories[category] = hash_category(category).to_bytes(8, "little")[_NAME_BYTES:]
    return int.from_bytes(name.digest() + known, "little")


def hash_category(category: str) -> int:
    """Return the least 64-bit hash that a stream of the category can have; with NAME_BITS, the greatest."""
    return int.from_bytes(blake2b(category.encode(), digest_size=3).digest(), "little") << 40


def hash_type(type: str) -> int:
    """Return the 32-bit hash of an event type."""
    return crc32(type.encode())


def hash_ids(ids: Sequence[bytes]) -> array[int]:
    """Return the 32-bit hash of each id of 16 bytes."""
    return array("I", list(map(crc32, ids)))


def hash_tag(tag: str) -> int:
    """Return the 64-bit hash of a tag."""
    return int.from_bytes(blake2b(tag.encode(), digest_size=8).digest(), "little")


def hash_again(text: str) -> int:
    """Return another 64-bit hash of a tag or a type, for where the text itself is not kept."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8, salt=b"again").digest(), "little")


def hash_tags(metadata: bytes | None) -> list[int]:
    """Return the hashes of an event's tags.

    Raises:
        ValueError: its metadata is not as evlog writes it.
    """
    return hash_each(tags_of(metadata))


def hash_each(tags: Sequence[str]) -> list[int]:
    """Return the hash of each of some tags; those of tags that are often used are remembered."""
    try:
        return [_known_tags[tag] for tag in tags]
    except KeyError:
        if len(_known_tags) > _MAX_KNOWN_TAGS:
            _known_tags.clear()
        hashes = list(map(hash_tag, tags))
        _known_tags.update(zip(tags, hashes, strict=True))
        return hashes


def tag_bits(hashes: Iterable[int]) -> int:
    """Return the bits that an entry has for tags with these hashes."""
    bits = 0
    for hash in hashes:
        bits |= 1 << (hash & 31) | 1 << (hash >> 5 & 31) | 1 << (hash >> 10 & 31) | 1 << (hash >> 15 & 31)
    return bits


def maybe_hash_tags(metadatas: Sequence[bytes | None]) -> list[list[int]] | None:
    """Return the hashes of each event's tags, by its metadata; None if no event has any.

    Raises:
        ValueError: some metadata is not as evlog writes it.
    """
    if metadatas.count(None) == len(metadatas):
        return None
    has_tags = [metadata is not None and metadata.startswith(TAGS_BEGIN) for metadata in metadatas]
    if not any(has_tags):
        return None
    return [hash_tags(metadata) if has else [] for metadata, has in zip(metadatas, has_tags, strict=True)]


def maybe_tag_bits(metadatas: Sequence[bytes | None]) -> list[int] | None:
    """Return the bits for the tags of each event, by its metadata, as `maybe_hash_tags` does."""
    hashes = maybe_hash_tags(metadatas)
    return None if hashes is None else list(map(tag_bits, hashes))
