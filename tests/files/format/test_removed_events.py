"""The file of removed events: what reading it leaves in memory."""

from __future__ import annotations

import tracemalloc

from evlog.files.format.removed_events import EVENT_BYTES, event_ids, group_events


def test_reading_rows_keeps_nothing_in_memory() -> None:
    tracemalloc.start()
    try:
        for number in range(1000, 1040):
            event_ids(bytes(EVENT_BYTES * number))
            group_events(bytes(EVENT_BYTES * number), [0] * number, 0)
        assert tracemalloc.get_traced_memory()[0] < 100_000  # each format of 1,000 rows has more than 30,000
    finally:
        tracemalloc.stop()
