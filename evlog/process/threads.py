"""Threads that no signal is delivered to.

The kernel delivers a signal of the process to any thread that does not block it, but Python runs handlers in
the main thread only. If another thread gets the signal, a sleep or a wait of the main thread runs to its end,
and a Ctrl-C seems lost. So new threads block all signals, and every signal interrupts the main thread.
"""

from __future__ import annotations

import signal
from threading import Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self, TypeVar

    Result = TypeVar("Result")


def without_signals(start: Callable[[], Result]) -> Result:
    """Return `start()`, which starts threads. They block all signals except those for their own faults."""
    if not hasattr(signal, "pthread_sigmask"):  # pragma: no cover - no POSIX
        return start()
    faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - faults)  # a new thread inherits it
        return start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class CallsBehind:
    """Calls that wait for the device, each in a thread, while this thread continues.

    A context manager: it ends when all calls have ended, and raises the error of one of them, if any.
    """

    def __init__(self) -> None:
        self._threads: list[Thread] = []
        self._errors: list[BaseException] = []

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Begin to make this call."""

        def make() -> None:
            try:
                function(*arguments)
            except BaseException as error:  # noqa: BLE001 - raised where the caller waits
                self._errors.append(error)

        thread = Thread(target=make, name="evlog-behind", daemon=True)
        try:
            without_signals(thread.start)
        except RuntimeError:  # no thread can be started
            make()
        else:
            self._threads.append(thread)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        for thread in self._threads:
            thread.join()
        if self._errors and error is None:
            raise self._errors[0]
