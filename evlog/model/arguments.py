"""Checks of arguments: texts, whole numbers, durations, functions, lists. Most may be None.

Each raises InvalidArgument with the argument's name.
"""

from __future__ import annotations

from operator import index

from evlog.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Final, TypeVar

    Item = TypeVar("Item")

_MOST: Final = (1 << 63) - 1  # what every engine can count to
_GENERATOR: Final = 0x20  # CO_GENERATOR of `inspect`, whose import costs milliseconds
_ASYNC: Final = 0x80 | 0x200  # CO_COROUTINE, CO_ASYNC_GENERATOR


def check_texts(**texts: str | None) -> None:
    """Refuse what is not a text."""
    for name, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise InvalidArgument(f"{name} is {text!r}; give a text")


def check_number(name: str, number: int) -> int:
    """Return a whole number as an int, also numpy's, whose sums can overflow.

    Raises:
        InvalidArgument: it is not a whole number from 0 up to the largest that every engine can count to.
    """
    if number.__class__ is int and 0 <= number <= _MOST:
        return number  # the common case
    whole = maybe_whole(number)
    if whole is None or not 0 <= whole <= _MOST:
        allowed = f"at most {_MOST}" if whole is not None and whole > 0 else "0 or more"
        raise InvalidArgument(f"invalid {name} {number!r:.80}; use a whole number, {allowed}")
    return whole


def maybe_number(name: str, number: int | None) -> int | None:
    """Return what `check_number` does; None stays None."""
    return None if number is None else check_number(name, number)


def maybe_whole(value: object) -> int | None:
    """Return a whole number as an int, also numpy's; None if it is anything else."""
    try:
        return index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def check_seconds(**durations: float | None) -> list[Any]:
    """Return durations as floats, also a Decimal; None stays None.

    Raises:
        InvalidArgument: one is negative, NaN, or not a number.
    """
    checked: list[float | None] = []
    for name, seconds in durations.items():
        try:
            if seconds is not None and not hasattr(seconds.__class__, "__float__"):
                raise TypeError
            checked.append(None if seconds is None else float(seconds))
            if seconds is None or checked[-1] >= 0:  # type: ignore[operator]
                continue
        except (TypeError, ValueError, OverflowError):
            pass  # also a signalling NaN, an int beyond every float, an array
        raise InvalidArgument(f"invalid {name} {seconds!r:.80}; use seconds, 0 or more, or None")
    return checked


def check_functions(*needed: str, **functions: Callable[..., object] | None) -> None:
    """Refuse what cannot be called; also None, where the name is among the needed ones."""
    for name, function in functions.items():
        if not callable(function) and (function is not None or name in needed):
            raise InvalidArgument(f"{name} is {function!r:.80}; give a function")


def check_ordinary(name: str, function: Callable[..., object], *, may_yield: bool = False) -> None:
    """Refuse what cannot be called, and async and generator functions: a call of them runs nothing."""
    check_functions(name, **{name: function})
    flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
    if flags & (_ASYNC if may_yield else _ASYNC | _GENERATOR):
        kind = "an async" if flags & _ASYNC else "a generator"
        raise InvalidArgument(
            f"{name} is {kind} function, of which a call runs nothing; give an ordinary function"
        )


def list_of(name: str, values: Iterable[Item]) -> list[Item]:
    """Return values as a list, a list as it is; None is refused, and all else that has no values."""
    if values.__class__ is list:
        return values
    try:
        found = iter(values)
    except TypeError:
        raise InvalidArgument(f"{name} is {values!r:.80}; give a list") from None
    return list(found)
