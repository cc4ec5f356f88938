"""A pager for long output on a terminal, chosen as git chooses it.

Output is kept until it is longer than the screen. Only then is the pager started; it gets the kept output,
then everything as it is written. Shorter output goes to the terminal as if there were no pager.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from typing import Any, Final

from evlog.cli._support import console

# What git sets: quit if the text fits one screen, show colours, leave the text on the screen.
_LESS_OPTIONS: Final = "FRX"
_NOT_STARTED: Final = (126, 127)  # a shell's exit codes for a command that it could not run
_DEFAULT_ROWS: Final = 24
_KEPT_BYTES: Final = 1024 * 1024  # a pager that took more than a pipe holds was started
_STYLE: Final = re.compile(rb"\x1b\[[0-9;]*m")


class Paged:
    """While it is entered, output that is longer than the terminal goes through the user's pager.

    The pager is $EVLOG_PAGER, else $PAGER, else less. An empty one, or `cat`, means none, and so does a
    terminal without cursor control (TERM=dumb). Without a terminal nothing is changed.
    """

    def __init__(self) -> None:
        self._command = _pager_command() if console.stdout_is_terminal() else ""
        self._kept = bytearray()  # what to show if the pager cannot be started
        self._rows = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._former: Any = None

    def __enter__(self) -> None:
        if self._command:
            console.flush()
            console.redirect(self._write)

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: object) -> None:
        """Show the rest, and wait until the user leaves the pager."""
        if not self._command:
            return
        try:
            console.flush()
        except console.ClosedPipe:
            if kind is None:
                raise
        finally:
            self._end()

    def _write(self, data: bytes) -> None:
        if len(self._kept) <= _KEPT_BYTES:
            self._kept += data
        if self._process is None:
            self._rows += _rows_of(data)
            if self._rows < _terminal_rows():
                return
            self._start()
            data = bytes(self._kept)
        if self._process is None:
            return
        try:
            console.write_all(self._process.stdin, data)
        except BrokenPipeError:
            if self._process.wait() not in _NOT_STARTED:
                raise  # the user has left it
            self._end()

    def _start(self) -> None:
        environment = {"LESS": _LESS_OPTIONS, "LV": "-c", **os.environ}
        # Ctrl-C is the pager's, from its first moment: in less it ends a search.
        self._former = signal.signal(signal.SIGINT, self._on_interrupt)
        try:
            self._process = subprocess.Popen(  # noqa: S602
                self._command, shell=True, stdin=subprocess.PIPE, env=environment, bufsize=0
            )
        except OSError:
            self._end()

    def _on_interrupt(self, _signum: int, _frame: object) -> None:
        if self._process is not None and self._process.poll() is not None:
            raise KeyboardInterrupt

    def _end(self) -> None:
        """Wait for the pager; give the terminal what no pager has shown."""
        console.redirect(None)
        self._command = ""
        shown = False
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            shown = self._process.wait() not in _NOT_STARTED
        if self._former is not None:
            signal.signal(signal.SIGINT, self._former)
        if not shown:
            console.write_now(console.Styled(self._kept))  # it was escaped when it came


def show(text: bytes) -> None:
    """Show text, whose control characters are evlog's own, in the pager if that is worth it."""
    with Paged():
        console.write(console.Styled(text))


def _pager_command() -> str:
    if os.environ.get("TERM") == "dumb":  # less would ask before each page whether to continue
        return ""
    for name in ("EVLOG_PAGER", "PAGER"):
        if name in os.environ:
            command = os.environ[name].strip()
            return "" if command == "cat" else command
    found = any(os.access(os.path.join(folder, "less"), os.X_OK) for folder in os.get_exec_path())
    return "less" if found else ""


def _rows_of(data: bytes) -> int:
    """Return how many rows of the terminal some lines take."""
    columns = console.columns()
    lines = _STYLE.sub(b"", data).decode(errors="replace").split("\n")[:-1]
    return sum(1 + max(0, len(line) - 1) // columns for line in lines)


def _terminal_rows() -> int:
    try:
        return os.get_terminal_size(1).lines or _DEFAULT_ROWS
    except OSError:
        return _DEFAULT_ROWS
