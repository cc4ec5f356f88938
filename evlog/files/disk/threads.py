"""Threads that no signal is delivered to.

The kernel gives a process's signal to any thread that does not block it. Python runs the handlers in the main
thread only: where another thread got the signal, a sleep or a wait of the main thread runs to its end,
and a Ctrl-C seems lost. So a new thread blocks them all, and every signal interrupts the main thread.
"""

from __future__ import annotations

import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    Result = TypeVar("Result")


def without_signals(start: Callable[[], Result]) -> Result:
    """Return `start()`, which starts threads; the threads block signals, but those for their own faults."""
    if not hasattr(signal, "pthread_sigmask"):  # pragma: no cover - no POSIX
        return start()
    faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - faults)  # a new thread inherits it
        return start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
