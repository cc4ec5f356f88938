"""Eight writer processes and a follower: under contention, with the same ids, killed, and on a cut network.

The stand-in keeps its data in memory, so it is not killed itself. `EVLOG_TEST_KILLS=20` kills more writers.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import evlog
from evlog.testing.base import numbers
from tests.engines.load import loading
from tests.support.ministack import Ministack
from tests.support.programs import let_go, start_python
from tests.support.tcp_proxy import ANSWER, REQUEST, proxying

KILLS = int(os.environ.get("EVLOG_TEST_KILLS", "3"))
RACERS = 8
IDS = 10

# Appends the same ids as all others, and prints which of them it was the first to append.
RACER = """
import sys, evlog
from uuid import UUID
with evlog.open(sys.argv[1]) as store:
    sys.stdin.readline()
    for n in range(int(sys.argv[2])):
        result = store.append("a", [evlog.NewEvent("T", n, id=UUID(int=n + 1))])
        print(n, result.first_position, int(result.duplicate))
"""


def test_nothing_acknowledged_is_lost_when_writers_are_killed(dynamodb_url: Callable[[], str]) -> None:
    with loading(dynamodb_url()) as load:
        for number in range(KILLS):
            load.wait_for_appends(20)
            load.replace_writer(number)
        load.wait_for_appends(20)


def test_nothing_acknowledged_is_lost_or_doubled_when_connections_are_cut(
    dynamodb_server: Ministack, dynamodb_url: Callable[[], str]
) -> None:
    with proxying(dynamodb_server.port) as proxy:
        url = dynamodb_url().replace(str(dynamodb_server.port), str(proxy.port))
        with loading(url) as load:
            for number in range(KILLS):
                load.wait_for_appends(10)
                proxy.cut((REQUEST, ANSWER)[number % 2], passing=number)
            load.wait_for_appends(20)
        assert proxy.cuts


def test_the_same_ids_raced_by_eight_processes_are_stored_once(dynamodb_url: Callable[[], str]) -> None:
    url = dynamodb_url()
    evlog.open(url, create=True).close()
    racers = [start_python("-c", RACER, url, str(IDS)) for _ in range(RACERS)]
    for racer in racers:
        let_go(racer)
    lines = [line.split() for racer in racers for line in racer.communicate()[0].splitlines()]
    assert all(racer.returncode == 0 for racer in racers)
    with evlog.open(url) as store:
        events = list(store.read("a"))
        assert sorted(numbers(events)) == list(range(IDS))
        assert store.verify().ok
    places = {int(event.data): event.position for event in events}
    assert len(lines) == RACERS * IDS
    assert all(places[int(number)] == int(position) for number, position, _ in lines)
    assert sum(duplicate == "0" for _, _, duplicate in lines) == IDS
