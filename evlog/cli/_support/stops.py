"""What ends a command that follows: signals, the clock, and a reader that left, all as one exception.

Each becomes a `Stopped` in the main thread, wherever that is waiting. The first one counts and is raised
once: no second Ctrl-C is needed, and none can break the cleaning up that follows the first. What must not
be torn apart (a child being started, a checkpoint being saved) runs inside `held`; a stop that comes
meanwhile is raised at its end.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final, NoReturn, Self

from evlog.cli._support import console

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# How a thread tells the main one that stdout has no reader. Not SIGPIPE: a command that leaves its stdin
# unread causes that, too. SIGURG does nothing where nobody waits for it, and has no other use here.
_READER_LEFT: Final = signal.SIGURG
_WATCH_AGAIN_SECONDS: Final = 0.1


class Stopped(BaseException):
    """It is time to end, because of this signal; no error, so nothing that handles errors may catch it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum

    @property
    def is_timeout(self) -> bool:
        """Whether it was the clock."""
        return self.signum == signal.SIGALRM


class Stops:
    """While it is entered, signals end what the main thread does.

    Args:
        timeout_seconds: SIGALRM comes after so long; None: never.
    """

    def __init__(self, timeout_seconds: float | None = None) -> None:
        self.held = _Held(self._hold, holding=True)
        self.let_through = _Held(self._hold, holding=False)
        self._timeout_seconds = timeout_seconds
        self._former: dict[int, Any] = {}
        self._signum: int | None = None  # what came
        self._holding = False
        self._raised = False
        self._watching = False

    def __enter__(self) -> Self:
        # What was ignored stays so: nohup and `&` in a script mean it.
        wanted = [signum for signum in _ENDING if signal.getsignal(signum) is not signal.SIG_IGN]
        for signum in (*wanted, _READER_LEFT, signal.SIGALRM):
            self._former[signum] = signal.signal(signum, self._handle)
        if self._timeout_seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, self._timeout_seconds)
        self._watch_reader()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ignore()
        self._watching = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in self._former.items():
            signal.signal(signum, handler)

    def ignore(self) -> None:
        """Let nothing stop what is done from here on: it is the end already."""
        self._raised = True

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        if self._signum is None:
            self._signum = signum
        if not self._holding:
            self._raise_once()

    def _hold(self, holding: bool) -> None:
        self._holding = holding
        if not holding:
            self._raise_once()

    def _raise_once(self) -> None:
        if self._signum is not None and not self._raised:
            self._raised = True
            raise Stopped(self._signum)

    def _watch_reader(self) -> None:
        """Where stdout is a pipe, notice when its reader leaves: nothing else tells one who only waits."""
        if sys.stdout is None:
            return
        try:
            fd = sys.stdout.fileno()
        except OSError:
            return  # no descriptor, as in a test
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            self._watching = True
            threading.Thread(target=self._wait_for_hang_up, args=(fd,), daemon=True).start()

    def _wait_for_hang_up(self, fd: int) -> None:
        poll = select.poll()
        poll.register(fd, 0)  # no event asked for: what is left are hang-ups and errors
        poll.poll()
        while self._watching and not self._raised:
            # Once more for a signal that came just before the main thread began to wait, and did not wake it.
            signal.pthread_kill(threading.main_thread().ident or 0, _READER_LEFT)
            time.sleep(_WATCH_AGAIN_SECONDS)


class _Held:
    """A stretch of code that no stop may interrupt, or a part of one that it may interrupt all the same."""

    def __init__(self, hold: Callable[[bool], None], *, holding: bool) -> None:
        self._hold = hold
        self._holding = holding

    def __enter__(self) -> None:
        self._hold(self._holding)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hold(not self._holding)


def end_by(stopped: Stopped) -> NoReturn:
    """End the command in the way that the signal asks for.

    Raises:
        KeyboardInterrupt, ClosedPipe, Terminated: as app.py knows them. SIGALRM is the caller's business.
    """
    if stopped.signum == signal.SIGINT:
        raise KeyboardInterrupt from None
    if stopped.signum == _READER_LEFT:
        raise console.ClosedPipe from None
    raise console.Terminated(stopped.signum) from None
