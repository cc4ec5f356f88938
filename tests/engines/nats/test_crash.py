"""A cluster of three servers of which leaders and followers are killed under eight writers and a follower.

Nothing acknowledged is lost or doubled, positions and versions have no gaps, and what the follower saw is
there.
`EVLOG_TEST_KILLS=20` kills more often.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import evlog
from tests.engines.load import loading
from tests.support.nats import Cluster, serving
from tests.support.postgresql import scratch
from tests.support.programs import run_python

KILLS = int(os.environ.get("EVLOG_TEST_KILLS", "2"))
APPENDS_BETWEEN = 60


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three servers. A test starts again what it kills."""
    with scratch() as folder, serving(folder, 3) as made:
        yield made


def test_nothing_acknowledged_is_lost_when_leaders_and_followers_are_killed(cluster: Cluster) -> None:
    with loading(cluster.url("killed", timeout=100)) as load:
        for kill in range(KILLS):
            load.wait_for_appends(APPENDS_BETWEEN)
            leader = cluster.leader("killed")
            victim = leader if kill % 2 else (leader + 1) % 3
            cluster.kill(victim)
            load.wait_for_appends(APPENDS_BETWEEN)
            cluster.start(victim)
        load.wait_for_appends(APPENDS_BETWEEN)


def test_without_a_majority_nothing_is_acknowledged_and_nothing_is_wrong_afterwards(cluster: Cluster) -> None:
    with evlog.open(cluster.url("majority", timeout=100), create=True) as store:
        store.append("a", [evlog.NewEvent("T", number) for number in range(10)])
        leader = cluster.leader("majority")
        cluster.await_ready()
        for number in ((leader + 1) % 3, (leader + 2) % 3):
            cluster.kill(number)
    url = cluster.url("majority", timeout=5)
    done = run_python("-m", "evlog", "-s", url, "append", "a", "T", "10", code=12)
    assert done.stdout == ""
    assert done.stderr.startswith("evlog: ")
    for number in ((leader + 1) % 3, (leader + 2) % 3):
        cluster.start(number)
    with evlog.open(cluster.url("majority", timeout=100)) as store:
        result = store.append("a", [evlog.NewEvent("T", 11)])
        events = list(store.read("a"))
        assert events[-1].id == result.ids[0]
        assert [int(event.data) for event in events[:10]] == list(range(10))
        assert len(events) in (11, 12)  # what was not acknowledged may be there, once
        assert [event.version for event in events] == list(range(1, len(events) + 1))
        assert store.verify().ok


def test_a_server_that_lags_behind_makes_no_read_stale(cluster: Cluster) -> None:
    """Each client reads what was acknowledged before it asked, though any server may answer it."""
    with evlog.open(cluster.url("lagging", timeout=100), create=True) as store:
        store.append("a", [evlog.NewEvent("T", 0)])
        late = (cluster.leader("lagging") + 1) % 3
        with cluster.suspended(late):
            for number in range(1, 20):
                store.append("a", [evlog.NewEvent("T", number)])
        for number in range(20, 30):
            store.append("a", [evlog.NewEvent("T", number)])
            with evlog.open(cluster.url("lagging", timeout=100)) as other:
                assert other.head == number + 1
                assert len(list(other.read_all())) == number + 1
                assert other.stream_version("a") == number + 1
