"""How the store under `tests/golden/store` was made: every event, time, id and tag in it.

The files there are committed and nothing regenerates them. If a change makes them differ, the change
has made another format, which needs another version.
"""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from evlog import EventStore, NewEvent
from tests.support.helpers import Clock, FixedRandom, small_store

STORE = Path(__file__).parent / "store"
FILES = sorted(str(path.relative_to(STORE)) for path in STORE.rglob("*") if path.is_file())

FIRST_US = 1_700_000_000_000_000

NONE = b"{}"
TAGS = {1: ("order:1", 'größe:"XL"'), 2: ("order:1",), 5: ("order:2",)}  # by position

# position, version, stream, type, id, time in µs since FIRST_US, content type, data, metadata
EVENTS: list[tuple[int, int, str, str, str, int, str, bytes, bytes]] = [
    (
        1,
        1,
        "order-1",
        "OrderPlaced",
        "00000000-0000-0000-0000-0000000000a1",
        0,
        "json",
        b'{"total":30}',
        b'{"$correlationId":"c-1"}',
    ),
    (
        2,
        2,
        "order-1",
        "OrderPaid",
        "018bcfe5-6ddc-7000-9011-121314151617",
        1_500_000,
        "json",
        b'{"amount": 10}',
        NONE,
    ),
    (
        3,
        1,
        "café",
        "Note",
        "00000000-0000-0000-0000-0000000000a2",
        1_500_000,
        "text",
        "grüß\nGott".encode(),
        NONE,
    ),
    (
        4,
        1,
        "blob",
        "Blob",
        "00000000-0000-0000-0000-0000000000a3",
        2_000_000,
        "binary",
        bytes(range(256)),
        NONE,
    ),
    (5, 1, "order-2", "OrderPlaced", "018bcfe5-71c4-7000-9011-121314151617", 2_500_000, "json", b"{}", NONE),
    (
        6,
        2,
        "order-2",
        "OrderPlaced",
        "018bcfe5-71c4-7000-9819-1a1b1c1d1e1f",
        2_500_000,
        "json",
        b'"two"',
        NONE,
    ),
    (
        7,
        3,
        "order-1",
        "OrderShipped",
        "00000000-0000-0000-0000-0000000000a4",
        2_500_000,
        "json",
        b"[1,2]",
        NONE,
    ),
]


def write(path: Path, clock: Clock, fixed_random: FixedRandom) -> EventStore:
    """Write the same store again."""
    assert fixed_random.tags == 0
    clock.us = FIRST_US
    store = small_store(path, segment_events=4)
    placed = NewEvent(
        "OrderPlaced", {"total": 30}, id=_id(0xA1), metadata={"$correlationId": "c-1"}, tags=TAGS[1]
    )
    store.append("order-1", [placed])
    clock.us = FIRST_US + 1_500_000
    note = NewEvent("Note", "grüß\nGott", id=_id(0xA2), content_type="text")
    store.append_many(
        [("order-1", [NewEvent("OrderPaid", b'{"amount": 10}', tags=TAGS[2])]), ("café", [note])]
    )
    clock.us = FIRST_US + 2_000_000
    store.append("blob", [NewEvent("Blob", bytes(range(256)), id=_id(0xA3), content_type="binary")])
    clock.us = FIRST_US + 2_500_000
    store.append("order-2", [NewEvent("OrderPlaced", tags=TAGS[5]), NewEvent("OrderPlaced", "two")])
    clock.us = FIRST_US + 1_000_000  # set back
    store.append("order-1", [NewEvent("OrderShipped", [1, 2], id=_id(0xA4))])
    return store


def _id(number: int) -> UUID:
    return UUID(int=number)
