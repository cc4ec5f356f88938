"""Threads that no signal is delivered to.

The kernel delivers a signal of the process to any thread that does not block it, but Python runs handlers in
the main thread only. If another thread gets the signal, a sleep or a wait of the main thread runs to its end,
and a Ctrl-C seems lost. So new threads block all signals, and every signal interrupts the main thread.
"""

from __future__ import annotations

import signal
from threading import Event, Thread, current_thread, main_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self, TypeVar

    Result = TypeVar("Result")


_LOOK_SECONDS = 0.1


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


def interruptible(
    call: Callable[[], Result],
    seconds: float | None = None,
    is_over: Callable[[], bool] | None = None,
    discard: Callable[[Result], object] | None = None,
) -> Result:
    """Return what a call returns that handles no signal: code in C, or a wait for a server.

    In the main thread it is made by another thread, so that an interrupt ends the wait for it. Then, and when
    the time is over, that thread is left behind.

    Args:
        seconds: for how long the call is waited for; None: without a limit.
        is_over: asked ten times a second; true: the time is over.
        discard: called with what the call returns after it was left behind.

    Raises:
        TimeoutError: the time is over.
    """
    if current_thread() is not main_thread() and seconds is None and is_over is None:
        return call()
    results: list[Result] = []
    errors: list[BaseException] = []
    is_left = Event()

    def drop() -> None:
        try:
            result = results.pop()
        except IndexError:  # the other thread has taken it
            return
        if discard is not None:
            discard(result)

    def make() -> None:
        try:
            results.append(call())
            if is_left.is_set():
                drop()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = Thread(target=make, name="evlog-interruptible", daemon=True)
    without_signals(thread.start)
    try:
        if is_over is None:
            thread.join(seconds)
        else:
            while thread.is_alive() and not is_over():
                thread.join(_LOOK_SECONDS)
    except BaseException:
        is_left.set()
        drop()
        raise
    is_left.set()
    if errors:
        raise errors[0]
    try:
        return results.pop()
    except IndexError:
        raise TimeoutError from None


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
