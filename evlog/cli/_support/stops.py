"""What ends a command that follows: a signal, a timeout, or a reader that has left; all as one exception.

1. Each of these raises `Stopped` in the main thread, wherever that is waiting. Only the first one counts, and
   it is raised once: a second Ctrl-C is never needed, and cannot interrupt the cleaning up after the first.
2. Code that must not be interrupted (the start of a command, the saving of a checkpoint) runs inside `held`.
   A stop that comes meanwhile is raised at the end of the block.
3. A reader that has left stops only the waiting for events. While events are written, the write itself fails.
4. Python loses an exception that is raised in a `__del__` or a callback of its import system. A stop that
   comes there, or during any import, is raised a moment later.
5. A reader that does not read does not delay the end: what it does not take at once is dropped.
"""

from __future__ import annotations

import os
import select
import signal
import time
from _thread import TIMEOUT_MAX  # threading has it too, but costs an import

from evlog.cli._support import console
from evlog.errors import BY_SIGNAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, Final, NoReturn, Self

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# How a thread tells the main one that stdout has no reader. Not SIGPIPE: that also comes when a command does
# not read its stdin. SIGURG has no effect where no handler is set, and no other use here.
_READER_LEFT: Final = signal.SIGURG
_AGAIN_SECONDS: Final = 0.1


class Stopped(BaseException):
    """The command must end because of a signal. Not an error: code that handles errors must not catch it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum

    @property
    def is_timeout(self) -> bool:
        """Whether the time is over."""
        return self.signum == signal.SIGALRM


class Stops:
    """A block in which signals end what the main thread does.

    Args:
        timeout_seconds: SIGALRM comes after this time, and repeatedly: if it comes just before the main
            thread waits, it does not wake it. None: never.
        watch_reader: stop waiting for events when the reader of stdout has left.
    """

    def __init__(self, timeout_seconds: float | None = None, *, watch_reader: bool = True) -> None:
        self.held = _Held(self._hold, holding=True)
        self.let_through = _Held(self._hold, holding=False)
        self.waiting = False  # whether the main thread waits for an event
        self._timeout_seconds = timeout_seconds
        self._watch_reader = watch_reader
        self._former: dict[int, Any] = {}
        self._signum: int | None = None  # the first signal
        self._holding = False
        self._raised = False
        self._watching = False  # set by the main thread, read by the one that watches

    def __enter__(self) -> Self:
        # A signal that was ignored stays ignored: nohup, and `&` in a script, want that.
        wanted = [signum for signum in _ENDING if signal.getsignal(signum) is not signal.SIG_IGN]
        for signum in (*wanted, _READER_LEFT, signal.SIGALRM):
            self._former[signum] = signal.signal(signum, self._handle)
        if self._timeout_seconds is not None:
            # Python's clock ends after 292 years.
            signal.setitimer(signal.ITIMER_REAL, min(self._timeout_seconds, TIMEOUT_MAX), _AGAIN_SECONDS)
        if self._watch_reader:
            self._start_watching()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.ignore()
        self._watching = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in self._former.items():
            signal.signal(signum, handler)
        if isinstance(error, Stopped):
            console.flush_at_once()

    def ignore(self) -> None:
        """Raise no stop from here on: the command is ending already."""
        self._raised = True

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == _READER_LEFT and not self.waiting:
            return  # it is sent again
        if self._signum is None:
            self._signum = signum
        if self._holding:
            return
        if _loses_exceptions(frame):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS, _AGAIN_SECONDS)
        else:
            self._raise_once()

    def _hold(self, holding: bool) -> None:
        self._holding = holding
        if not holding:
            self._raise_once()

    def _raise_once(self) -> None:
        if self._signum is not None and not self._raised:
            self._raised = True
            raise Stopped(self._signum)

    def _start_watching(self) -> None:
        """Watch stdout if it is a pipe: nothing else tells a process that waits that the reader has left."""
        fd = console.pipe_of_stdout()
        if fd is None:
            return
        import threading

        from evlog.process.threads import without_signals

        self._watching = True
        try:
            without_signals(threading.Thread(target=self._wait_for_hang_up, args=(fd,), daemon=True).start)
        except RuntimeError:  # no thread can be started: the next write fails if the reader has left
            self._watching = False

    def _wait_for_hang_up(self, fd: int) -> None:
        import threading

        poll = select.poll()
        poll.register(fd, 0)  # hang-ups and errors are always reported
        poll.poll()
        while self._watching and not self._raised:
            # Sent repeatedly: a signal that comes just before the main thread waits does not wake it.
            signal.pthread_kill(threading.main_thread().ident or 0, _READER_LEFT)
            time.sleep(_AGAIN_SECONDS)


def _loses_exceptions(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


class _Held:
    """A block that no stop may interrupt; or a part of such a block, which a stop may interrupt again."""

    def __init__(self, hold: Callable[[bool], None], *, holding: bool) -> None:
        self._hold = hold
        self._holding = holding

    def __enter__(self) -> None:
        self._hold(self._holding)

    def __exit__(self, *_: object) -> None:
        self._hold(not self._holding)


def reader_has_left() -> bool:
    """Return whether stdout is a pipe that has no reader any more."""
    fd = console.pipe_of_stdout()
    if fd is None:
        return False
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


def end_by(stopped: Stopped) -> NoReturn:
    """End the command in the way that the signal asks for.

    Raises:
        KeyboardInterrupt, ClosedPipe, Terminated: as app.py knows them. SIGALRM is left to the caller.
    """
    if stopped.signum == signal.SIGINT:
        raise KeyboardInterrupt from None
    if stopped.signum == _READER_LEFT:
        raise console.ClosedPipe from None
    raise console.Terminated(stopped.signum) from None


def end_at_once_by(signum: int) -> None:
    """Have a signal end the process from now on, whatever it does then.

    The system does so by itself. A handler of Python would run only once the main thread runs: if the signal
    comes just before that waits, not before something else wakes it.
    """
    is_first = os.getpid() == 1  # of a container: no signal's default action ends it
    signal.signal(signum, (lambda signum, _frame: die_by(signum)) if is_first else signal.SIG_DFL)


def die_by(signum: int) -> NoReturn:
    """End by the signal: a shell then ends the loop or script around evlog, a supervisor sees a clean end."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    # The first process of a container is not ended by a signal's default action.
    os._exit(BY_SIGNAL + signum)
