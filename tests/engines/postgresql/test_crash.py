"""Every process of the server is killed under writers and a follower, again and again.

What was acknowledged is there, positions and versions have no gaps, and what the follower saw is there.
`EVLOG_TEST_KILLS=10` kills it more often.
"""

from __future__ import annotations

import os
from pathlib import Path

import evlog
from evlog import NewEvent
from tests.engines.load import loading
from tests.support.postgresql import scratch, serving

KILLS = int(os.environ.get("EVLOG_TEST_KILLS", "3"))
APPENDS_BETWEEN = 100


def test_nothing_acknowledged_is_lost_when_the_server_is_killed(postgresql_programs: Path) -> None:
    # The page cache survives a killed server, so `fsync` may be off; what no process flushes, is lost.
    settings = {"fsync": "off", "wal_writer_delay": "10s"}
    with (
        scratch() as folder,
        serving(folder, postgresql_programs, **settings) as server,
        loading(server.url(schema="killed")) as load,
    ):
        for _ in range(KILLS):
            load.wait_for_appends(APPENDS_BETWEEN)
            server.kill()
            server.start(**settings)
        load.wait_for_appends(APPENDS_BETWEEN)


def test_a_checkpoint_is_kept_by_a_database_that_commits_without_a_flush(postgresql_programs: Path) -> None:
    settings = {"fsync": "off", "wal_writer_delay": "10s", "synchronous_commit": "off"}
    with scratch() as folder, serving(folder, postgresql_programs, **settings) as server:
        with evlog.open(server.url(), create=True) as store, evlog.open(server.url()) as other:
            store.append("a", [NewEvent("T", number) for number in range(10)])
            with store.subscribe("n", follow=False) as run, other.subscribe("m", follow=False) as second:
                for each in (run, second):
                    while (event := each.next_event()) is not None:
                        each.park(event, "error", 1)
                server.kill()
        server.start(**settings)
        with evlog.open(server.url()) as store:
            for name in ("n", "m"):
                info = store.subscription(name)
                assert (info.position, info.parked) == (10, 10)
