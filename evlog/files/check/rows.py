"""Entries of .offsets made anew from the columns of decoded records, to compare the file with. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate, chain, compress, repeat
from operator import add, lt, sub
from typing import Any, Final
from zlib import crc32

import msgspec

from evlog.files.format.entries import pack_entries
from evlog.files.format.frames import FRAME_HEADER_BYTES
from evlog.files.format.frames import NOT_RECORDS as DECODING_RAISES
from evlog.files.format.hashes import hash_ids, hash_stream, hash_type

_MAX_NAMES: Final = 1 << 18
# What decoding raises here of bytes that pass their CRC: a program wrote them so.
NOT_RECORDS: Final = (*DECODING_RAISES, msgspec.MsgspecError)
decode_raws: Final = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


class Runs:
    """Runs of positions that a log lacks, by their first and last ones."""

    def __init__(self) -> None:
        self.firsts = array("Q")
        self.lasts = array("Q")

    def add(self, before: int, positions: Sequence[int]) -> None:
        """Add what is missing between these rising positions, and between them and the one before them."""
        if positions[-1] - before == len(positions):
            return
        befores = list(map(add, chain((before,), positions[:-1]), repeat(1)))
        ends = map(sub, positions, repeat(1))
        missing = list(map(lt, befores, positions))
        self.firsts.extend(list(compress(befores, missing)))
        self.lasts.extend(list(compress(ends, missing)))

    def packed(self) -> tuple[bytes, bytes]:
        return self.firsts.tobytes(), self.lasts.tobytes()


def missing_positions(runs: tuple[bytes, bytes], *more: range) -> list[int]:
    """The positions of packed runs, and of more runs behind them."""
    firsts, lasts = (array("Q", raw) for raw in runs)
    ends = map(add, lasts, repeat(1))
    return list(chain(chain.from_iterable(map(range, firsts, ends)), *more))


class RowEncoder:
    """Makes entries; remembers the hashes of names from one call to the next."""

    def __init__(self) -> None:
        self._hash_of_stream: dict[str, int] = {}
        self._hash_of_type: dict[str, int] = {}

    def encode(
        self,
        frame_offsets: Sequence[int],
        heads: Sequence[bytes],
        counts: Sequence[int],
        raws: Sequence[Any],
        streams: Sequence[str],
        types: Sequence[str],
        ids: Sequence[bytes],
        versions: Sequence[int],
    ) -> bytes:
        """The entries of the records of neighbouring frames.

        Args:
            frame_offsets, heads, counts: of each frame its offset, the head of its array, and its records.
            raws: the bytes of each record, and then its fields.
        """
        lengths = array("I", list(map(len, raws)))
        return pack_entries(
            array("Q", _hashes(self._hash_of_stream, streams, hash_stream)),
            hash_ids(ids),
            _record_offsets(frame_offsets, heads, counts, lengths),
            lengths,
            array("I", list(map(crc32, raws))),
            _repeated(frame_offsets, counts),
            array("I", versions),
            array("I", _hashes(self._hash_of_type, types, hash_type)),
        )


def _repeated(frame_offsets: Sequence[int], counts: Sequence[int]) -> array[int]:
    if len(counts) == 1:
        return array("I", frame_offsets) * counts[0]
    if len(counts) == sum(counts):
        return array("I", frame_offsets)
    return array("I", list(chain.from_iterable(map(repeat, frame_offsets, counts))))


def _hashes(cache: dict[str, int], names: Sequence[str], make: Callable[[str], int]) -> list[int]:
    """The hash of each name; each distinct name is hashed once."""
    try:
        return list(map(cache.__getitem__, names))
    except KeyError:
        if len(cache) > _MAX_NAMES:
            cache.clear()
        for name in set(names).difference(cache):
            cache[name] = make(name)
        return [cache[name] for name in names]


def _record_offsets(
    frame_offsets: Sequence[int], heads: Sequence[bytes], counts: Sequence[int], lengths: array[int]
) -> array[int]:
    """Where each record begins: behind the one before it, or behind the head of its frame."""
    first = frame_offsets[0] + FRAME_HEADER_BYTES + len(heads[0])
    if len(frame_offsets) == 1:
        return array("I", list(accumulate(lengths[:-1], initial=first)))
    gaps = [0] * (len(lengths) - 1)
    for at, head in zip(accumulate(counts[:-1]), heads[1:], strict=True):
        gaps[at - 1] = FRAME_HEADER_BYTES + len(head)
    return array("I", list(accumulate(map(add, lengths, gaps), initial=first)))
