"""Checks of arguments: texts, whole numbers and durations; each may be None.

Each raises InvalidArgument with the argument's name.
"""

from __future__ import annotations

from evlog.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_MOST: Final = (1 << 63) - 1  # what every engine can count to


def check_texts(**texts: str | None) -> None:
    """Refuse what is not a text."""
    for name, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise InvalidArgument(f"{name} is {text!r}; give a text")


def check_numbers(**numbers: int | None) -> None:
    """Refuse what is not a whole number from 0 up to the largest that every engine can count to."""
    for name, value in numbers.items():
        if value is None or (value.__class__ is int and 0 <= value <= _MOST):
            continue  # the common case
        is_whole = hasattr(value, "__index__")  # an int, or for example numpy's
        if not is_whole or not 0 <= value <= _MOST:
            allowed = f"at most {_MOST}" if is_whole and value > 0 else "0 or more"
            raise InvalidArgument(f"invalid {name} {value!r}; use a whole number, {allowed}")


def check_seconds(**durations: float | None) -> None:
    """Refuse a duration that is negative or NaN, and what is not a number."""
    for name, seconds in durations.items():
        try:
            if seconds is None or (hasattr(seconds, "__float__") and float(seconds) >= 0):
                continue
        except (ValueError, OverflowError):
            pass  # a signalling NaN, or an int beyond every float
        raise InvalidArgument(f"invalid {name} {seconds!r:.80}; use seconds, 0 or more, or None")
