"""The line on a terminal's stderr that shows how far a long command is.

The working loop itself draws it, a few times a second: there is no thread, and a command that ends at once
draws nothing. `console` removes the line before anything else is printed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from time import monotonic
from typing import Final, TypeVar

from evlog.cli._support import console

T = TypeVar("T")

_EVERY_SECONDS: Final = 0.2
_BAR_COLUMNS: Final = 20


class Progress:
    """Shows how many bytes, or events, of all are done, in the shape of the engines' progress functions."""

    def __init__(self, *, counts_bytes: bool = True) -> None:
        self._text = _size if counts_bytes else _count
        self._started = monotonic()
        self._next = self._started + _EVERY_SECONDS

    def __call__(self, done: int, total: int) -> None:
        """Draw the line, if it is time to."""
        now = monotonic()
        if done >= total:  # the next output may come much later
            console.clear_status()
            self._started = now
        if now < self._next or done >= total:
            return
        self._next = now + _EVERY_SECONDS
        rate = done / (now - self._started)
        share = done / total if total else 0.0
        bar = "█" * int(share * _BAR_COLUMNS)
        parts = [
            f"{bar:░<{_BAR_COLUMNS}}",
            f"{share:.0%}",
            f"{self._text(done)} of {self._text(total)}",
            f"{self._text(rate)}/s",
        ]
        if rate:
            parts.append(f"{_duration((total - done) / rate)} left")
        console.show_status("  ".join(parts))


class LinesProgress:
    """Shows how many lines of stdin were read and events appended; of a file also how much is done."""

    def __init__(self, fd: int) -> None:
        about = os.fstat(fd)
        self._fd = fd
        self._total_bytes = about.st_size if stat.S_ISREG(about.st_mode) else 0
        self._started = monotonic()
        self._next = self._started + _EVERY_SECONDS

    def show(self, lines: int, summary: dict[str, object]) -> None:
        """Draw the line, if it is time to."""
        now = monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY_SECONDS
        parts = [
            f"{lines:,} lines",
            f"{summary['appended']:,} appended",
            f"{lines / (now - self._started):,.0f}/s",
        ]
        parts += [f"{summary[name]:,} {name}" for name in ("duplicates", "skipped") if summary[name]]
        if self._total_bytes:
            parts.append(f"{os.lseek(self._fd, 0, os.SEEK_CUR) / self._total_bytes:.0%}")
        console.show_status(" · ".join(parts))


def with_progress(work: Callable[[Callable[[int, int], None] | None], T], *, counts_bytes: bool = True) -> T:
    """Do the work with a function that draws its progress; None if stderr is not a terminal."""
    try:
        return work(Progress(counts_bytes=counts_bytes) if console.can_show_status() else None)
    finally:
        console.clear_status()


def _count(count: float) -> str:
    return f"{count:,.0f}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
