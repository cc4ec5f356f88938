"""Helper processes: they come to what this process would, and neither their end nor ours leaves anything."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from evlog.workers import Workers

TASKS = [(number, 7) for number in range(40)]
RESULTS = [divmod(number, 7) for number, _ in TASKS]


@pytest.mark.parametrize("ahead", [1, 2])
@pytest.mark.parametrize(("count", "lends_a_hand", "helpers"), [(1, True, 0), (2, False, 2), (3, True, 2)])
def test_results_come_in_order(count: int, helpers: int, ahead: int, *, lends_a_hand: bool) -> None:
    with Workers(count, lends_a_hand=lends_a_hand) as workers:
        assert workers.count == helpers
        for _ in range(2):
            assert list(workers.run_in_order(divmod, TASKS, ahead=ahead)) == RESULTS


@pytest.mark.parametrize("lends_a_hand", [False, True])
def test_what_a_dead_helper_had_to_do_is_done_here(*, lends_a_hand: bool) -> None:
    with Workers(3, lends_a_hand=lends_a_hand) as workers:
        for helper in workers._helpers:
            helper._process.kill()
        assert dict(workers.run(divmod, TASKS, ahead=2)) == dict(enumerate(RESULTS))
        assert not workers.count


def test_a_helper_that_dies_under_way_is_not_missed() -> None:
    with Workers(3) as workers:
        run = workers.run_in_order(divmod, TASKS, ahead=2)
        begun = [next(run)]
        workers._helpers[0]._process.kill()
        assert begun + list(run) == RESULTS


@pytest.mark.parametrize("lends_a_hand", [False, True])
def test_an_error_in_a_helper_is_raised_here(*, lends_a_hand: bool) -> None:
    with Workers(2, lends_a_hand=lends_a_hand) as workers, pytest.raises(ZeroDivisionError):
        list(workers.run(divmod, [(7, 2), (8, 2), (9, 0)]))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_no_helper_outlives_who_started_it(end: signal.Signals) -> None:
    program = (
        "import time; from evlog.workers import Workers\n"
        "with Workers(2) as workers:\n"
        "    print(*[helper._process.pid for helper in workers._helpers], flush=True)\n"
        "    list(workers.run(time.sleep, [(0.01,)] * 100_000))\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        process.send_signal(end)
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline, "a helper goes on"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
