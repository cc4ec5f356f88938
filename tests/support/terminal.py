"""A terminal with a session of its own, as a shell in a window has it: Ctrl-C, Ctrl-Z, job control."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from typing import Self

PATIENCE_SECONDS = 60.0  # nothing takes that long; a test that hangs ends
CTRL_C = "\x03"
CTRL_Z = "\x1a"
TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class TerminalSession:
    """A program that leads a session on a new terminal."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str], columns: int = 80) -> None:
        self._master, slave = pty.openpty()
        self.resize(columns)
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *arguments],
            env=env,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.shown = ""
        self._limit = threading.Timer(PATIENCE_SECONDS, self.process.kill)
        self._limit.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._limit.cancel()
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, text: str) -> str:
        """Read until the text is shown; return what was shown up to and with it, and forget that."""
        while text not in self.shown:
            piece = self._read()
            assert piece, f"the terminal was closed before {text!r} came; it showed {self.shown!r}"
            self.shown += piece
        before, found, self.shown = self.shown.partition(text)
        return before + found

    def wait(self) -> int:
        """Read to the end, wait for the program, and return its exit code."""
        while piece := self._read():
            self.shown += piece
        return self.process.wait()

    def _read(self) -> str:
        piece = b"\r"
        while piece == b"\r":  # a piece of which nothing is shown is not the end
            try:
                piece = os.read(self._master, 4096)
            except OSError:
                return ""  # so ends a terminal that no process has open
        return piece.decode(errors="replace").replace("\r", "")
