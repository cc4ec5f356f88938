"""Threads that evlog starts: a signal must interrupt the main thread, where its handler runs."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from evlog.files.disk.threads import without_signals
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


@pytest.mark.parametrize(
    "path",
    [path for path in PACKAGE.rglob("*.py") if path.name != "threads.py" and "testing" not in path.parts],
    ids=lambda path: path.name,
)
def test_every_thread_of_the_package_is_started_without_signals(path: Path) -> None:
    text = path.read_text("utf-8")
    if "Thread(" in text or "ThreadPoolExecutor(" in text:
        assert "without_signals(" in text
