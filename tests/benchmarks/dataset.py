"""The events that every peer is given: made from a seed, so that any batch can be made again later.

A batch is a list of plain tuples; what a peer needs beyond that (objects, rows, versions) it makes itself
inside the timed part. This module knows no peer.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

BATCH_EVENTS: Final = 1000
TYPES: Final = ("OrderPlaced", "OrderPaid", "OrderPacked", "OrderShipped", "OrderClosed")

_FIRST_MS: Final = 1_764_000_000_000
_PER_MS: Final = 250  # UUIDv7: as many new ids a millisecond as a fast writer makes

IdKind = Literal["uuid4", "uuid7"]
Layout = Literal["random", "even", "aged"]

_STRIDE: Final = 7919  # a prime: neighbours in the log are no neighbours by name


class Item(NamedTuple):
    """One event before a peer has touched it."""

    stream: str
    type: str
    id: bytes
    data: bytes


Batch = list[Item]


@dataclass(frozen=True)
class Dataset:
    """Batches of 1,000 events, numbered from 0.

    Args:
        events: how many in all; a multiple of 1,000.
        streams: how many streams they belong to.
        ids: "uuid4" (random) or "uuid7" (in order of time).
        layout: "random": a random stream for each event. "even": they come round in turn. "aged": every
            stream gets the same number of events, four in five streams live through 100,000 consecutive
            events and are then left alone (`local_stream`), one in five is spread over the whole log
            (`spread_stream`).
    """

    events: int
    streams: int
    ids: IdKind = "uuid4"
    layout: Layout = "random"
    seed: int = 2

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Yield batches `start` to `stop` (exclusive)."""
        for number in range(start, self.batch_count if stop is None else stop):
            yield self.batch(number)

    @property
    def batch_count(self) -> int:
        return self.events // BATCH_EVENTS

    def batch(self, number: int) -> Batch:
        """Batch `number`: the same at every call. Numbers past the end give further events."""
        rng = random.Random(self.seed << 40 | number)
        ids = _make_ids(rng, self.ids, number * BATCH_EVENTS)
        names = self._draw_streams(rng, number)
        first = number * BATCH_EVENTS
        return [
            Item(name, TYPES[(first + at) % 5], id, _make_payload(first + at, id))
            for at, (name, id) in enumerate(zip(names, ids, strict=True))
        ]

    def draw_existing(self, number: int) -> Batch:
        """Return further events of streams that exist: with ids that no batch below `number` has."""
        rng = random.Random(self.seed << 41 | number)
        return [
            item._replace(stream=self.local_stream(rng) if at % 5 else self.spread_stream(rng))
            for at, item in enumerate(self.batch(number))
        ]

    def local_stream(self, rng: random.Random) -> str:
        """Return the name of a stream whose events are close together ("aged"), or of any."""
        if self.layout != "aged":
            return f"order-{rng.randrange(self.streams)}"
        windows = max(1, self.events // 100_000)
        window = rng.randrange(windows)
        return f"order-{window}-{rng.randrange(self._local_per_window)}"

    def spread_stream(self, rng: random.Random) -> str:
        """Return the name of a stream whose events are spread over the whole log ("aged"), or of any."""
        if self.layout != "aged":
            return self.local_stream(rng)
        return f"customer-{rng.randrange(self.streams // 5)}"

    @property
    def _local_per_window(self) -> int:
        windows = max(1, self.events // 100_000)
        return self.streams * 4 // 5 // windows

    def _draw_streams(self, rng: random.Random, number: int) -> list[str]:
        if self.layout == "random":
            return [f"order-{rng.randrange(self.streams)}" for _ in range(BATCH_EVENTS)]
        if self.layout == "even":
            first = number * BATCH_EVENTS
            return [f"order-{(first + at) * _STRIDE % self.streams}" for at in range(BATCH_EVENTS)]
        window, place = divmod(number, 100)
        per_window, spread = self._local_per_window, self.streams // 5
        names = []
        for at in range(BATCH_EVENTS):
            if at % 5:
                local = place * 800 + at - at // 5 - 1
                names.append(f"order-{window}-{local % per_window}")
            else:
                names.append(f"customer-{(number * 200 + at // 5) % spread}")
        return names


def json_line(item: Item) -> bytes:
    """Return the item as one line of `append --lines` input, without an id."""
    return b'{"stream":%s,"type":"%s","data":%s}\n' % (
        json.dumps(item.stream).encode(),
        item.type.encode(),
        item.data,
    )


def _make_payload(number: int, id: bytes) -> bytes:
    head = b'{"order":%d,"amount":%d,"currency":"EUR","customer":"' % (number, id[0] * 7 + 1)
    return head + id.hex().encode()[: 98 - len(head)].ljust(98 - len(head), b"x") + b'"}'


def _make_ids(rng: random.Random, kind: IdKind, first: int) -> list[bytes]:
    raw = rng.randbytes(16 * BATCH_EVENTS)
    ids = []
    for at in range(BATCH_EVENTS):
        id = raw[16 * at : 16 * at + 16]
        variant = bytes((id[8] & 0x3F | 0x80,))
        if kind == "uuid4":
            ids.append(id[:6] + bytes((id[6] & 0x0F | 0x40,)) + id[7:8] + variant + id[9:])
        else:
            ms, within = divmod(first + at, _PER_MS)
            head = (_FIRST_MS + ms).to_bytes(6, "big") + (0x7000 | within * 16 + (id[7] & 15)).to_bytes(
                2, "big"
            )
            ids.append(head + variant + id[9:])
    return ids
