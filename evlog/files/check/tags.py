"""The tags of events, decoded together, and .tags against them.

Each tag's text is decoded once: its check, its bits in the entry and its row of .tags come from that. The
arrays of a batch of events are decoded as one, and encoded again: the same bytes show that an append wrote
them. Decoded in a batch, an event with two tags takes half the time.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import reduce
from itertools import chain, compress, repeat
from operator import or_
from typing import Final

import msgspec

from evlog.files.format.hashes import hash_tag, tag_bits
from evlog.files.format.headers import FileHeader, FormatFault
from evlog.files.format.sorted_index import build_tags
from evlog.model.events import TAGS_BEGIN, tags_of
from evlog.model.json_text import encode_json
from evlog.model.named import NamedTuple
from evlog.model.tags import MAX_TAGS, check_tags

_MAX_KNOWN: Final = 1 << 17
_ARRAY_AT: Final = len(TAGS_BEGIN) - 1
_AFTER_ARRAY: Final = frozenset(b",}")
_decode_lists: Final = msgspec.json.Decoder(list[list[str]]).decode


class TagRows(NamedTuple):
    """Tags by columns: the hash of each, and the number of its event, rising."""

    hashes: array[int]
    numbers: array[int]

    def packed(self) -> tuple[bytes, bytes]:
        """Return both columns as bytes, to travel between processes."""
        return self.hashes.tobytes(), self.numbers.tobytes()


NO_TAGS: Final = (b"", b"")


def build_index(header: FileHeader, tags: tuple[bytes, bytes]) -> bytes:
    """Return what .tags must be, given the tags of a segment as `TagRows.packed` gives them."""
    hashes, numbers = array("Q", tags[0]), array("I", tags[1])
    return build_tags(header, zip(hashes, numbers, strict=True))


def count_events(tags: tuple[bytes, bytes]) -> int:
    """Return how many events have these tags."""
    return len(set(array("I", tags[1])))


class TagDecoder:
    """Decodes and checks tags; remembers the hashes and bits of those that it has seen."""

    def __init__(self) -> None:
        self._hashes: dict[str, int] = {}
        self._bits: dict[int, int] = {}

    def decode(self, metadatas: Sequence[bytes | None], rows: TagRows, first: int) -> list[int]:
        """Add a row for each tag of some events; return the bits that each event's entry has.

        Args:
            first: the number of the first event.

        Raises:
            FormatFault, ValueError, InvalidEvent: tags are not as an append writes them.
        """
        if metadatas.count(None) == len(metadatas):
            return [0] * len(metadatas)
        has_tags = [metadata is not None and metadata.startswith(TAGS_BEGIN) for metadata in metadatas]
        own = [metadata for metadata in compress(metadatas, has_tags) if metadata is not None]
        if not own:
            return [0] * len(metadatas)
        lists = _maybe_lists(own) or list(map(_checked_tags, own))
        try:
            hashes = [set(map(self._hashes.__getitem__, tags)) for tags in lists]
        except KeyError:
            self._learn(set(chain.from_iterable(lists)))
            hashes = [set(map(self._hashes.__getitem__, tags)) for tags in lists]
        counts = list(map(len, hashes))
        if counts != list(map(len, lists)):  # two tags of an event are the same, or share a hash
            _ = list(map(_checked_tags, own))
        rows.hashes.extend(list(chain.from_iterable(hashes)))
        numbers = compress(range(first, first + len(metadatas)), has_tags)
        rows.numbers.extend(list(chain.from_iterable(map(repeat, numbers, counts))))
        bits = iter([reduce(or_, map(self._bits.__getitem__, its)) for its in hashes])
        return [next(bits) if has else 0 for has in has_tags]

    def _learn(self, tags: set[str]) -> None:
        """Check the tags that are not known yet, and hash them."""
        if len(self._hashes) > _MAX_KNOWN:
            self._hashes.clear()
            self._bits.clear()
        for tag in tags.difference(self._hashes):
            check_tags((tag,))
            hash = self._hashes[tag] = hash_tag(tag)
            self._bits[hash] = tag_bits((hash,))


def _maybe_lists(metadatas: Sequence[bytes]) -> Sequence[Sequence[str]]:
    """Return the tags in each metadata, all decoded at once; nothing if one has to be looked at by itself.

    Args:
        metadatas: JSON objects that begin with tags.
    """
    ends = [metadata.find(b'"]', _ARRAY_AT) + 2 for metadata in metadatas]
    text = b"[%s]" % b",".join([raw[_ARRAY_AT:end] for raw, end in zip(metadatas, ends, strict=True)])
    if not {raw[end] for raw, end in zip(metadatas, ends, strict=True)} <= _AFTER_ARRAY:
        return ()
    try:
        lists = _decode_lists(text)
    except msgspec.MsgspecError:
        return ()
    if len(lists) != len(metadatas) or max(map(len, lists)) > MAX_TAGS or msgspec.json.encode(lists) != text:
        return ()
    return lists


def _checked_tags(metadata: bytes) -> tuple[str, ...]:
    """Return the tags of one event, or raise FormatFault."""
    tags = tags_of(metadata)
    if check_tags(tags) != tags or not metadata.startswith(TAGS_BEGIN[:-1] + encode_json(tags).encode()):
        raise FormatFault("a record's tags are not as an append writes them")
    return tags
