"""Eight writer processes whose commits take long: positions have no gaps, and a follower skips nothing."""

from __future__ import annotations

from pathlib import Path

import psycopg

from tests.engines.load import loading
from tests.support.postgresql import OLDEST, scratch, serving

# Each flush waits 2 ms for others that may share it. That needs fsync.
SETTINGS = {"fsync": "on", "commit_delay": "2000", "commit_siblings": "0"}


@OLDEST
def test_a_follower_skips_nothing_while_commits_are_slow(postgresql_programs: Path) -> None:
    with (
        scratch() as folder,
        serving(folder, postgresql_programs, **SETTINGS) as server,
        loading(server.url(schema="slow")) as load,
        psycopg.connect(server.url(), autocommit=True) as other,
    ):
        for _ in range(5):
            load.wait_for_appends(40)
            with other.transaction():  # no writer can commit while this lock is held
                other.execute("lock table slow.events in share mode")
                other.execute("select pg_sleep(0.05)")
        load.wait_for_appends(40)
