"""The progress line of `append --lines` on a terminal: lines read, events appended, and the rate.

The appending loop itself draws one line on stderr a few times a second: there is no thread, and a command
that ends at once draws nothing. If stdin is a file, the line shows how much of it is done.
"""

from __future__ import annotations

import os
import stat
from time import monotonic
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

_EVERY_SECONDS: Final = 0.2


class Progress:
    """A line on stderr that shows what the loop has done; `close` clears it."""

    def __init__(self, fd: int) -> None:
        about = os.fstat(fd)
        self._fd = fd
        self._total_bytes = about.st_size if stat.S_ISREG(about.st_mode) else 0
        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        self._started = monotonic()
        self._next = self._started + _EVERY_SECONDS

    def show(self, lines: int, summary: dict[str, object]) -> None:
        """Draw the line, if it is time to."""
        now = monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY_SECONDS
        if not self._live.is_started:
            self._live.start()
        parts = [
            f"{lines:,} lines",
            f"{summary['appended']:,} appended",
            f"{lines / (now - self._started):,.0f}/s",
        ]
        parts += [f"{summary[name]:,} {name}" for name in ("duplicates", "skipped") if summary[name]]
        if self._total_bytes:
            parts.append(f"{os.lseek(self._fd, 0, os.SEEK_CUR) / self._total_bytes:.0%}")
        self._live.update(Text(" · ".join(parts)), refresh=True)

    def close(self) -> None:
        """Take the line away."""
        self._live.stop()
