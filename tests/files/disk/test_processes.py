"""Helper processes: their results are this process's own, and neither their end nor ours leaves anything."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

if sys.platform == "linux":
    import fcntl

from evlog.files.disk.processes import (
    _PIPE_BYTES,
    _RESULTS_WAITING,
    MAX_PROCESSES,
    CallBeside,
    Workers,
    _Run,
    core_count,
)
from tests.support.contention import wait_until
from tests.support.programs import next_line, start_python, suspend

TASKS = [(number, 7) for number in range(40)]
RESULTS = [divmod(number, 7) for number, _ in TASKS]


@pytest.mark.parametrize("ahead", [1, 2])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_results_come_in_order(count: int, ahead: int) -> None:
    with Workers(count) as workers:
        assert workers.count == count == 1 + len(workers._helpers)
        for _ in range(2):
            assert list(workers.run_in_order(divmod, TASKS, ahead=ahead)) == RESULTS


@pytest.mark.parametrize("count", [1, 3])
def test_what_only_this_process_can_do_is_done_once_and_here(count: int) -> None:
    done: list[int] = []
    with Workers(count) as workers:
        results = dict(workers.run(divmod, TASKS, first=lambda: done.append(os.getpid())))
    assert results == dict(enumerate(RESULTS))
    assert done == [os.getpid()]


def test_results_that_no_pipe_holds_come_whole() -> None:
    sizes = [(1, 3 * _PIPE_BYTES), (2, _PIPE_BYTES), (3, 5)]
    with Workers(2) as workers:
        results = workers.run_in_order(bytes.__mul__, [(bytes((byte,)), size) for byte, size in sizes])
        assert list(results) == [bytes((byte,)) * size for byte, size in sizes]


def test_calls_and_results_that_no_pipe_holds_do_not_block_each_other() -> None:
    call = (bytes(_PIPE_BYTES), 2)
    with Workers(2) as workers:
        helper = workers._helpers[0]
        wait_until(lambda: helper.ready)
        end = threading.Timer(60, helper.process.kill)  # what it had to do is done here then
        end.start()
        for result in workers.run_in_order(bytes.__mul__, [call] * 12, ahead=4):
            assert len(result) == 2 * _PIPE_BYTES
        assert workers.count == 2
        end.cancel()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a pipe is as large as it is")
def test_a_pipe_holds_a_whole_result() -> None:
    with Workers(2) as workers:
        assert fcntl.fcntl(workers._helpers[0].answers, fcntl.F_GETPIPE_SZ) == _PIPE_BYTES


def test_helpers_really_work() -> None:
    """Else every other test here would pass in this process alone."""
    with Workers(2) as workers:
        wait_until(lambda: workers._helpers[0].ready)
        work = "sum(range(200_000)) and __import__('os').getpid()"
        pids = {pid for _, pid in workers.run(eval, [(work,)] * 100)}
    assert len(pids) == 2


def test_a_helper_gets_no_calls_that_another_process_would_be_idle_without() -> None:
    run = _Run([(divmod, task) for task in TASKS[:9]], ahead=4, results=100, processes=2)
    held: list[int] = []
    while (at := run.maybe_take(len(held))) is not None:
        held.append(at)
    assert held == [0, 1, 2]  # of the six that are left, this process makes three meanwhile
    assert [run.maybe_take(0) for _ in range(7)] == [3, 4, 5, 6, 7, 8, None]


def test_a_helper_holds_as_many_calls_as_were_asked_for() -> None:
    run = _Run([(divmod, task) for task in TASKS], ahead=4, results=100, processes=2)
    assert [run.maybe_take(held) for held in range(5)] == [0, 1, 2, 3, None]


def test_helpers_import_a_module_before_they_are_asked() -> None:
    with Workers(2, "no_such_module") as workers:
        assert workers._helpers[0].process.wait(timeout=60) == 1
        assert dict(workers.run(divmod, TASKS)) == dict(enumerate(RESULTS))


def test_a_helper_is_given_work_while_it_imports_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (tmp_path / "behind_a_gate.py").write_text(f"open({str(gate)!r}).close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    with Workers(2, "behind_a_gate") as workers:
        wait_until(lambda: workers._helpers[0].ready)


def test_what_a_dead_helper_had_to_do_is_done_here() -> None:
    with Workers(3) as workers:
        for helper in workers._helpers:
            helper.process.kill()

        def is_noticed() -> bool:
            assert dict(workers.run(divmod, TASKS, ahead=2)) == dict(enumerate(RESULTS))
            return workers.count == 1

        wait_until(is_noticed)  # one that was ready may be killed before it is sent anything


def test_a_helper_that_dies_under_way_is_not_missed() -> None:
    with Workers(3) as workers:
        run = workers.run_in_order(divmod, TASKS, ahead=2)
        begun = [next(run)]
        workers._helpers[0].process.kill()
        assert begun + list(run) == RESULTS


@pytest.mark.parametrize("ahead", [1, 2])
def test_a_call_that_cannot_be_pickled_is_made_here(ahead: int) -> None:
    taken: list[int] = []
    with Workers(2) as workers:
        helper = workers._helpers[0]
        wait_until(lambda: helper.ready)

        def wait_until_the_helper_has_tried() -> None:
            wait_until(lambda: not helper._thread.is_alive() or len(taken) > 0)

        class Unpicklable:
            def __reduce__(self) -> str:
                taken.append(1)
                raise MemoryError

        calls = [(Unpicklable(),) for _ in range(20)]
        results = dict(workers.run(id, calls, ahead=ahead, first=wait_until_the_helper_has_tried))
        assert results == {at: id(value) for at, (value,) in enumerate(calls)}
        assert list(workers.run_in_order(divmod, TASKS, ahead=ahead)) == RESULTS
        assert workers.count == 2


@pytest.mark.parametrize("count", [1, 3])
def test_an_error_in_a_helper_is_raised_here(count: int) -> None:
    with Workers(count) as workers, pytest.raises(ZeroDivisionError):
        list(workers.run(divmod, [(7, 2), (8, 2), (9, 0)]))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_no_helper_outlives_who_started_it(end: signal.Signals) -> None:
    program = (
        "import time; from evlog.files.disk.processes import Workers\n"
        "with Workers(3) as workers:\n"
        "    print(*[helper.process.pid for helper in workers._helpers], flush=True)\n"
        "    list(workers.run(time.sleep, [(0.01,)] * 100_000))\n"
    )
    with start_python("-c", program, stderr=subprocess.DEVNULL) as process:
        pids = [int(word) for word in next_line(process).split()]
        process.send_signal(end)
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline, "a helper goes on"
        time.sleep(0.01)


def test_leaving_a_run_early_waits_for_nothing() -> None:
    with Workers(3) as workers:
        next(workers.run(time.sleep, [(0.0,)] * 10 + [(60.0,)] * 50, ahead=2))


def test_a_run_that_was_left_early_does_not_disturb_the_next() -> None:
    with Workers(3) as workers:
        for _ in range(5):
            run = workers.run(divmod, TASKS, ahead=2)
            next(run)
            del run
            assert list(workers.run_in_order(divmod, TASKS)) == RESULTS


def test_results_that_a_slow_caller_has_not_taken_are_bounded() -> None:
    with Workers(2) as workers:
        wait_until(lambda: workers._helpers[0].ready)
        run = workers.run(divmod, TASKS * 10)
        next(run)
        shared = run.gi_frame.f_locals["run"]  # type: ignore[attr-defined]
        wait_until(lambda: shared.results.qsize() == _RESULTS_WAITING)
        assert not shared._room.acquire(blocking=False)
        assert len(list(run)) == len(TASKS * 10) - 1


@pytest.mark.parametrize("ahead", [1, 3])
def test_results_that_wait_for_a_suspended_helper_are_bounded(ahead: int) -> None:
    taken: list[int] = []

    class Number:
        """A call of `index` with it waits, in this process, until the helper was sent one."""

        def __init__(self, value: int) -> None:
            self.value = value

        def __index__(self) -> int:
            wait_until(lambda: len(taken) > 0)
            return self.value

        def __reduce__(self) -> tuple[type[int], tuple[int]]:
            taken.append(self.value)
            return int, (self.value,)

    with Workers(2) as workers:
        helper = workers._helpers[0]
        wait_until(lambda: helper.ready)
        suspend(helper.process.pid)
        end = threading.Timer(60, helper.process.kill)  # what it had to do is done here then
        end.start()
        run = workers.run_in_order(operator.index, [(Number(number),) for number in range(100)], ahead=ahead)
        for number in range(100):
            assert next(run) == number
            assert len(run.gi_frame.f_locals["done"]) <= 4 * ahead  # type: ignore[attr-defined]
        assert list(run) == []
        assert end.is_alive()
        end.cancel()
        assert 0 < len(taken) <= ahead


def test_an_executable_that_is_not_python_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "frozen", True, raising=False)
        with Workers(3) as workers:
            assert (workers.count, dict(workers.run(divmod, TASKS))) == (1, dict(enumerate(RESULTS)))
    application = tmp_path / "application"
    application.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexec sleep 600\n", "utf-8")
    application.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(application))
    with Workers(3) as workers:
        assert (workers.count, dict(workers.run(divmod, TASKS))) == (1, dict(enumerate(RESULTS)))
    assert not (tmp_path / "started").exists()


def test_a_helper_that_is_never_ready_delays_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\nexec sleep 600\n", "utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with Workers(3) as workers:
        for _ in range(2):
            assert dict(workers.run(divmod, TASKS, ahead=2)) == dict(enumerate(RESULTS))


def test_processes_are_capped() -> None:
    assert 1 <= core_count() <= MAX_PROCESSES
    with Workers(100) as workers:
        assert workers.count == MAX_PROCESSES


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_neither_uses_nor_keeps_the_helpers() -> None:
    with Workers(2) as workers:
        wait_until(lambda: workers._helpers[0].ready)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(writing)
            right = dict(workers.run(divmod, TASKS)) == dict(enumerate(RESULTS)) and workers.count == 1
            workers.close()
            os.read(reading, 1)  # lives until the parent says so
            os._exit(0 if right else 1)
        os.close(reading)
        helper = workers._helpers[0]
        helper.runs.put(None)
        helper._thread.join()
        helper.tasks.close()  # the only end of this pipe: the helper ends
        assert helper.process.wait(20) == 0
        os.close(writing)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_call_beside_is_made_in_another_process(tmp_path: Path, two_cores: None) -> None:
    call = CallBeside.maybe_start(os.mkdir, str(tmp_path / "made"))
    assert call is not None
    call.end(60)
    assert call.is_done()
    assert (tmp_path / "made").is_dir()
    assert not is_running(call.process.pid)


def test_a_call_beside_that_takes_too_long_is_killed(two_cores: None) -> None:
    call = CallBeside.maybe_start(signal.pause)
    assert call is not None
    assert not call.is_done()
    call.end(0)
    assert call.is_done()
    assert not is_running(call.process.pid)


def test_a_call_beside_whose_process_the_program_has_waited_for_is_done(two_cores: None) -> None:
    call = CallBeside.maybe_start(os.getpid)
    assert call is not None
    os.waitpid(call.process.pid, 0)
    assert call.is_done()
    call.end(0)


def test_no_call_is_made_beside_on_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evlog.files.disk.processes.core_count", lambda: 1)
    assert CallBeside.maybe_start(os.getpid) is None


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evlog.files.disk.processes.core_count", lambda: 2)


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
