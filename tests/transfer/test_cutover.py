"""A store is moved while processes append to it: all that was acknowledged is there, all writers are told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

import evlog
from evlog.testing.mirroring import everything
from tests.support.programs import start_python

WRITERS = 4
LONG_SECONDS = 120.0

# Prints the id of each event that is acknowledged, and where the store has moved to in the end.
WRITER = """
import sys, evlog
with evlog.open(sys.argv[1]) as store:
    number = 0
    try:
        while True:
            result = store.append(f"s-{sys.argv[2]}", [evlog.NewEvent("T", number)], number)
            number += 1
            print(result.ids[0], flush=True)
    except evlog.StoreMoved as moved:
        print(moved.moved_to, flush=True)
"""


@pytest.mark.parametrize("way", ["to a directory", "to PostgreSQL", "from PostgreSQL"])
def test_nothing_that_was_acknowledged_is_left_behind(
    tmp_path: Path, postgresql_url: Callable[[], str], way: str
) -> None:
    source = postgresql_url() if way == "from PostgreSQL" else str(tmp_path / "source")
    destination = postgresql_url() if way == "to PostgreSQL" else str(tmp_path / "destination")
    evlog.open(source, create=True).close()
    writers = [start_python("-c", WRITER, source, str(me), stdin=None) for me in range(WRITERS)]

    def give_up() -> None:
        for writer in writers:
            writer.kill()

    limit = threading.Timer(LONG_SECONDS, give_up)
    limit.start()
    outputs = [writer.stdout for writer in writers if writer.stdout is not None]
    acknowledged = {UUID(output.readline().strip()) for output in outputs}
    with evlog.open(source) as one, evlog.open(destination, create=True) as other:
        done = evlog.mirror(one, other, cutover=True)
        for writer, output in zip(writers, outputs, strict=True):
            with output:
                *ids, moved_to = output.read().split()
            assert writer.wait() == 0
            assert moved_to == other.path
            acknowledged.update(map(UUID, ids))
        limit.cancel()
        assert everything(one) == everything(other)
        assert {event.id for event in other.read_all()}.issuperset(acknowledged)
        assert done.position == other.head == one.head
        assert other.append("after", [evlog.NewEvent("T")]).first_position == done.position + 1
        assert one.verify().ok
        assert other.verify().ok
