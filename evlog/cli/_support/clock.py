"""Times for people: local on a terminal, UTC in a pipe, always with their zone."""

from __future__ import annotations

import time

from evlog.cli._support import console


def readable_time(time_us: int, *, exact: bool = False) -> str:
    """Return a moment to the second.

    It is local time on a terminal, `2026-11-23 11:51:00+01`, and UTC in a pipe, `2026-11-23 10:51:00Z`.

    Args:
        time_us: microseconds since 1970.
        exact: show the microseconds, too.
    """
    seconds, fraction_us = divmod(time_us, 1_000_000)
    local = console.stdout_is_terminal()
    try:
        moment = time.localtime(seconds) if local else time.gmtime(seconds)
    except (OverflowError, ValueError, OSError):
        return str(time_us)  # in a year that no calendar has: evlog never writes that
    text = "{:04d}-{:02d}-{:02d} {:02d}:{:02d}:{:02d}".format(*moment[:6])
    fraction = f".{fraction_us:06d}" if exact else ""
    return text + fraction + (_offset(moment.tm_gmtoff) if local else "Z")


def _offset(seconds: int) -> str:
    """Return an offset from UTC as ISO 8601 writes it, at its shortest: `+01`, `+05:30`."""
    minutes = abs(seconds) // 60
    text = f"{'-' if seconds < 0 else '+'}{minutes // 60:02d}"
    return f"{text}:{minutes % 60:02d}" if minutes % 60 else text
