"""Every process of the server is killed under writers and a follower, again and again.

What was acknowledged is there, positions and versions have no gaps, and what the follower saw is there.
"""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path
from typing import Any
from uuid import UUID

import evlog
from evlog import NewEvent
from tests.support.postgresql import PostgresqlServer, serving

KILLS = int(os.environ.get("EVLOG_TEST_KILLS", "3"))
APPENDS_BETWEEN = 60
LONG_SECONDS = 120.0


class Load:
    """Four writers and a follower on a server that dies."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.changed = threading.Condition()  # guards the next three
        self.acknowledged: dict[UUID, int] = {}
        self.followed: list[tuple[int, UUID]] = []
        self.errors: list[BaseException] = []
        self.ended = threading.Event()

    def write(self, me: int) -> None:
        try:
            with evlog.open(self.url) as store:
                version = 0
                while not self.ended.is_set():
                    result = store.append(f"s-{me}", [NewEvent("T", version)], version)
                    version = result.last_version
                    with self.changed:
                        self.acknowledged[result.ids[0]] = result.first_position
                        self.changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.fail(error)

    def follow(self) -> None:
        try:
            with evlog.open(self.url) as store:
                after = 0
                while not self.ended.is_set():
                    try:
                        with store.subscribe(after=after) as run:
                            while not self.ended.is_set():
                                event = run.next_event(0.1)
                                if event is not None:
                                    after = event.position
                                    with self.changed:
                                        self.followed.append((event.position, event.id))
                    except evlog.StoreUnreachable:
                        pass  # in the middle of a page: begin again behind the last event
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        with self.changed:
            self.errors.append(error)
            self.changed.notify_all()

    def wait_for(self, appends: int) -> None:
        with self.changed:
            assert self.changed.wait_for(
                lambda: self.errors or len(self.acknowledged) >= appends, LONG_SECONDS
            )
            assert not self.errors, self.errors


def test_nothing_acknowledged_is_lost_when_the_server_is_killed(postgresql_programs: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="evlog-test-") as folder:
        os.chmod(folder, 0o755)  # the server runs as another user
        settings: dict[str, Any] = {"fsync": "off", "wal_writer_delay": "10s"}
        with serving(Path(folder), postgresql_programs, **settings) as server:
            kill_and_compare(server, settings)


def kill_and_compare(server: PostgresqlServer, settings: dict[str, Any]) -> None:
    load = Load(server.url(schema="killed"))
    evlog.open(load.url, create=True).close()
    threads = [threading.Thread(target=load.write, args=(me,)) for me in range(4)]
    threads.append(threading.Thread(target=load.follow))
    for thread in threads:
        thread.start()
    try:
        for _ in range(KILLS):
            load.wait_for(len(load.acknowledged) + APPENDS_BETWEEN)
            server.kill()
            server.start(**settings)
        load.wait_for(len(load.acknowledged) + APPENDS_BETWEEN)
    finally:
        load.ended.set()
        for thread in threads:
            thread.join(LONG_SECONDS)
    assert not load.errors, load.errors
    with evlog.open(load.url) as store:
        events = list(store.read_all())
        assert store.verify().ok
    positions = {event.id: event.position for event in events}
    assert [event.position for event in events] == list(range(1, len(events) + 1))
    assert {id: positions.get(id) for id in load.acknowledged} == load.acknowledged
    at = {event.position: event.id for event in events}
    assert [(position, at.get(position)) for position, _ in load.followed] == load.followed
    assert [position for position, _ in load.followed] == list(range(1, len(load.followed) + 1))
    for me in range(4):
        own = [event for event in events if event.stream == f"s-{me}"]
        assert [event.version for event in own] == list(range(1, len(own) + 1))
        assert [event.data for event in own] == [str(number).encode() for number in range(len(own))]
