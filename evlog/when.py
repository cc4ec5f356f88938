"""WHEN on a command line: ISO 8601, a word such as `today`, or an age such as `-15m`, as a moment in UTC.

What has no zone is UTC, because an event's time is; a date alone is its first moment. Pure: the present
comes in as an argument, so that one command sees one present.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from evlog.errors import InvalidArgument

_AGE: Final = re.compile(r"-(\d{1,12})([smhdw])")
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
