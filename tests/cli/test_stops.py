"""What ends a command: it is not lost, and a reader that does not read does not hold up the end."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from evlog.cli import app
from evlog.cli._support import console
from evlog.cli._support.stops import Stopped, Stops
from evlog.errors import EXIT_INTERRUPTED

LONG_SECONDS = 30.0


def stop_of(do: Callable[[Stops], object], timeout_seconds: float | None = None) -> Stopped:
    """Return what ends a command that does something and then waits."""
    try:
        with Stops(timeout_seconds, watch_reader=False) as stops:
            do(stops)
            time.sleep(LONG_SECONDS)
    except Stopped as stopped:
        return stopped
    pytest.fail("the stop was lost")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGALRM])
def test_a_stop_during_an_import_comes_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals
) -> None:
    name = f"interrupted_by_{signum:d}"
    (tmp_path / f"{name}.py").write_text(f"import signal; signal.raise_signal({signum:d}); whole = True")
    monkeypatch.syspath_prepend(tmp_path)
    assert stop_of(lambda _: import_module(name)).signum == signum
    assert sys.modules.pop(name).whole


def test_a_stop_while_an_object_is_deleted_is_not_lost() -> None:
    class Interrupted:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    assert stop_of(lambda _: Interrupted()).signum == signal.SIGTERM


def test_a_timeout_may_be_longer_than_pythons_clock() -> None:
    with Stops(1e300):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 9e9
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_timeout_that_did_not_wake_the_main_thread_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(stops: Stops) -> None:
        with stops.held:
            time.sleep(0.01)
            monkeypatch.setattr(stops, "_signum", None)  # as if its handler had not run yet

    assert stop_of(lose, 0.001).is_timeout


def test_after_a_stop_only_what_the_reader_takes_at_once_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as ours, open(writer, "wb", buffering=0) as theirs:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(theirs, write_through=True))
        console.write(b"x" * 60_000)
        stop_of(lambda _: signal.raise_signal(signal.SIGTERM))
        for _ in range(2):  # a pipe has 64 KiB
            console.write(b"y" * 60_000)
            console.flush_at_once()
        console.flush()  # nothing is left: this would wait
        taken = ours.read(1 << 20)
        assert taken.count(b"x") == 60_000
        assert 0 < taken.count(b"y") <= 5536


def test_a_second_interrupt_while_an_error_is_reported_gives_no_traceback(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_error: Exception) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(console, "report", interrupted)
    assert app.run(["read", "--store", str(here / "missing")]) == EXIT_INTERRUPTED
