"""Threads that evlog starts: a signal must interrupt the main thread, where its handler runs."""

from __future__ import annotations

import signal
import threading

import pytest

from evlog.process.threads import CallsBehind, interruptible, without_signals
from tests.test_layers import PACKAGE


def blocked_signals() -> set[int]:
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def test_a_thread_blocks_the_signals_of_the_process_and_its_starter_does_not() -> None:
    before = blocked_signals()
    found: list[set[int]] = []
    thread = threading.Thread(target=lambda: found.append(blocked_signals()))
    without_signals(thread.start)
    thread.join()
    assert found[0] >= {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGCHLD}
    assert not found[0] & {signal.SIGSEGV, signal.SIGBUS}  # else a fault handler would not see them
    assert blocked_signals() == before


def test_an_interrupt_while_a_thread_starts_leaves_no_signal_blocked() -> None:
    before = blocked_signals()
    with pytest.raises(KeyboardInterrupt):
        without_signals(lambda: signal.raise_signal(signal.SIGINT))
    assert blocked_signals() == before


def test_calls_behind_are_made_while_this_thread_continues_and_waited_for() -> None:
    made: list[bool] = []
    may_end = threading.Event()
    with CallsBehind() as behind:
        for _ in range(3):
            behind.call(lambda: made.append(may_end.wait(60)))
        assert made == []
        may_end.set()
    assert made == [True] * 3


def test_an_error_of_a_call_behind_is_raised_at_the_end() -> None:
    def fail() -> None:
        raise OSError("full")

    def leave_with(error: Exception) -> None:
        with CallsBehind() as behind:
            behind.call(fail)
            raise error

    behind = CallsBehind()
    behind.call(fail)
    with pytest.raises(OSError, match="full"):
        behind.__exit__(None, None, None)
    with pytest.raises(ZeroDivisionError):  # the first one is not hidden
        leave_with(ZeroDivisionError())


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_what_a_call_returns_after_it_was_left_behind_is_discarded(is_interrupted: bool) -> None:
    may_end, has_ended, discarded = threading.Event(), threading.Event(), list[str]()

    def call() -> str:
        assert may_end.wait(60)
        return "a connection"

    def discard(result: str) -> None:
        discarded.append(result)
        has_ended.set()

    def is_over() -> bool:
        if is_interrupted:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt if is_interrupted else TimeoutError):
        interruptible(call, is_over=is_over, discard=discard)
    may_end.set()
    assert has_ended.wait(60)
    assert discarded == ["a connection"]
    assert interruptible(call, is_over=lambda: False, discard=discard) == "a connection"
    assert len(discarded) == 1


def test_where_no_thread_can_be_started_a_call_is_made_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    made: list[int] = []
    with CallsBehind() as behind:
        behind.call(made.append, 1)
        assert made == [1]


def test_every_thread_of_the_package_is_started_without_signals() -> None:
    starters = [
        path for path in PACKAGE.rglob("*.py") if path.name != "threads.py" and "testing" not in path.parts
    ]
    assert starters
    for path in starters:
        text = path.read_text("utf-8")
        starts = "Thread(" in text or "ThreadPoolExecutor(" in text
        assert not starts or "without_signals(" in text, path
