"""Times on a command line: WHEN (ISO 8601, `today`, an age such as `-15m`) and durations such as `10m`.

What has no zone is UTC, because an event's time is; a date alone is its first moment. Pure: the present
comes in as an argument, so that one command sees one present.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from evlog.errors import InvalidArgument

_AGE: Final = re.compile(r"-(\d{1,12})([smhdw])")
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw]?)", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_when(text: str, now: datetime | None = None) -> datetime:
    """Turn a WHEN into an aware datetime in UTC.

    Args:
        text: ISO 8601, `now`, `today`, `yesterday`, or an age: `-` number `s`, `m`, `h`, `d` or `w`.
        now: the present, aware; left out, the clock's.

    Raises:
        InvalidArgument: the text is none of these, or lies outside the years 1 to 9999.
    """
    now = datetime.now(UTC) if now is None else now.astimezone(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    text = text.strip()
    word = text.lower()
    try:
        if word == "now":
            return now
        if word == "today":
            return midnight
        if word == "yesterday":
            return midnight - timedelta(days=1)
        age = _AGE.fullmatch(word)
        if age is not None:
            return now - timedelta(**{_UNITS[age[2]]: int(age[1])})
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument(
            f"{text!r} is no time; give ISO 8601 such as 2026-11-23T10:51:00Z, "
            "now, today, yesterday, or an age such as -90s, -15m, -2h or -7d"
        ) from None


def parse_duration(text: str) -> float:
    """Turn a duration into seconds.

    Args:
        text: a number of seconds, or a number and a unit: `s`, `m`, `h`, `d` or `w`; fractions are allowed.

    Raises:
        InvalidArgument: the text is no such thing.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    try:
        if found is not None:
            return timedelta(**{_UNITS[found[2] or "s"]: float(found[1])}).total_seconds()
    except OverflowError:
        pass  # longer than any clock runs
    raise InvalidArgument(f"{text!r} is no duration; give seconds such as 90 or 0.5, or 15m, 2h, 7d")
