"""Times as people write them: WHEN (ISO 8601, `10:51`, `today`, an age such as `-15m`) and durations (`10m`).

A time without a zone is local time; a date alone is its midnight. Pure: the present is an argument, so that
one command sees one present.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta

from evlog.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_PART: Final = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)([smhdw])", re.ASCII)
_PARTS: Final = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)
_SECONDS: Final = re.compile(r"\d{1,12}(?:\.\d{1,9})?", re.ASCII)
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DAYS: Final = {"today": 0, "yesterday": 1}
_NO_MONTHS: Final = "minutes are m, and a month has no fixed length"


def parse_when(text: str, now: datetime) -> datetime:
    """Return the moment that a WHEN names, in UTC.

    Args:
        text: ISO 8601; `now`; `today` or `yesterday`, also with a time of day after it; a time of day alone;
            `@` and seconds since 1970; or an age such as `-1h30m`, with or without its minus sign.
        now: the present, aware.

    Raises:
        InvalidArgument: the text is none of these, or is outside the years 1 to 9999.
    """
    text = text.strip()
    try:
        moment = _moment(text, now).astimezone(UTC)
    except (ValueError, OverflowError):
        why = f" ({_NO_MONTHS})" if _PARTS.fullmatch(text.removeprefix("-").replace("M", "m")) else ""
        raise InvalidArgument(
            f"invalid time {text!r}{why}",
            "use ISO 8601 such as 2026-11-23T10:51:00Z, a time of day such as 10:51, now, today, yesterday, "
            "or an age such as -90s, -15m, -1h or -7d",
        ) from None
    return moment


def _moment(text: str, now: datetime) -> datetime:
    word = text.lower()
    if word == "now":
        return now
    if text.startswith("@") and _SECONDS.fullmatch(text[1:]):
        return datetime.fromtimestamp(float(text[1:]), UTC)
    age = _maybe_seconds(text.removeprefix("-"))
    if age is not None:
        return now - timedelta(seconds=age)
    day, _, clock = word.partition(" ")
    today = now.astimezone().date()
    if day in _DAYS:
        at = time.fromisoformat(clock.strip()) if clock else time()
        return datetime.combine(today - timedelta(days=_DAYS[day]), at)
    if ":" in day and "-" not in text:
        return datetime.combine(today, time.fromisoformat(text))
    return datetime.fromisoformat(text)


def parse_duration(text: str) -> float:
    """Return a duration in seconds.

    Args:
        text: a number of seconds, or numbers with units: `s`, `m`, `h`, `d` or `w`; fractions are allowed.

    Raises:
        InvalidArgument: the text is not a duration.
    """
    text = text.strip()
    seconds = float(text) if _SECONDS.fullmatch(text) else _maybe_seconds(text)
    if seconds is None or seconds > timedelta.max.total_seconds():
        why = f" ({_NO_MONTHS})" if "M" in text else ""
        raise InvalidArgument(
            f"invalid duration {text!r}{why}", "use seconds such as 90 or 0.5, or for example 15m, 2h or 7d"
        )
    return seconds


def _maybe_seconds(text: str) -> float | None:
    """Return the sum of parts such as `1h30m`; a capital M is refused, for many people it is a month."""
    text = text if "M" in text else text.lower()
    if not _PARTS.fullmatch(text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
