"""Thread schedules: stop a thread at a line of the package, let others run, and continue.

A test repeats its scene with line 1, 2 … until the thread ends before it stops. So each race between two
lines is tested every time.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import evlog

PACKAGE = os.path.dirname(evlog.__file__)


class Stopped(threading.Thread):
    """A thread that stops at the n-th line of the package that it runs after `armed` is set.

    Args:
        job: what it does.
        line: the number of the line, from 1.
        files: only lines of these files count (the ends of their paths); all, if none are named.
    """

    def __init__(self, job: Callable[[], object], line: int, files: tuple[str, ...] = ()) -> None:
        super().__init__(daemon=True)
        self.armed = threading.Event()
        self.result: Any = None
        self._job = job
        self._left = line
        self._files = files
        self._stopped = threading.Event()
        self._continue = threading.Event()

    def run(self) -> None:
        sys.settrace(self._trace)
        try:
            self.result = self._job()
        except BaseException as error:  # noqa: BLE001 - for the test to judge
            self.result = error
        finally:
            sys.settrace(None)
            self._stopped.set()

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(PACKAGE) or (self._files and not name.endswith(self._files)):
            return None
        if event == "line" and self.armed.is_set():
            self._left -= 1
            if self._left == 0:
                self._stopped.set()
                self._continue.wait(60)
        return self._trace

    def start_and_stop(self) -> bool:
        """Start; return whether the thread stopped at its line, rather than ended before it."""
        self.start()
        assert self._stopped.wait(60)
        return self._left == 0

    def finish(self) -> Any:
        """Let it continue to its end; return what the job returned, or its error."""
        self._continue.set()
        self.join(60)
        assert not self.is_alive(), "the thread hangs"
        return self.result
