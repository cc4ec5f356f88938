"""Crafted content: bytes that no evlog wrote, with right CRCs, become CorruptionError where they are met.

Checking the types of all fields costs as much as decoding them (0.25 µs a record), so reading does not check
them. A field that makes no sense makes the code fail that uses it; the engine turns that failure into a
CorruptionError. `verify` checks each field. What a caller's own function raises meanwhile stays what it is.
"""

from __future__ import annotations

import errno
import struct

from evlog.errors import CorruptionError, EvlogError, StoreClosed, UnsafeFile
from evlog.files.disk.opening import error_for
from evlog.files.format.frames import NOT_RECORDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Final, TypeVar

    Function = TypeVar("Function", bound=Callable[..., Any])
    Item = TypeVar("Item")

# No MemoryError: what is allocated has a bound, whatever lengths are in a file, so the process lacks memory.
SENSELESS: Final = (*NOT_RECORDS, struct.error, AssertionError)


def senseless(error: BaseException, path: str) -> EvlogError:
    """Return the error to raise for a failure over the content of the store at the path."""
    if isinstance(error, OSError):
        place = str(error.filename or path)
        if error.errno in (errno.ENOENT, errno.ENOTDIR) and place != path:
            return UnsafeFile(place, "it is missing, or in something that is not a directory")
        return error_for(error, place)
    cause = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    return CorruptionError(path, None, f"its content makes no sense ({cause})")


class _CallerFailed(BaseException):
    """Carries what `progress` raised past everything that would take it for a failure of the store."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class _Progress:
    """The caller's `progress`, which raises nothing but `_CallerFailed`."""

    def __init__(self, call: Callable[[int, int], None]) -> None:
        self._call = call

    def __call__(self, done: int, total: int) -> None:
        try:
            self._call(done, total)
        except Exception as error:  # noqa: BLE001 - it is raised again as it is
            raise _CallerFailed(error) from None


def refuses_crafted_content(function: Function) -> Function:
    """Decorate a method of an engine, or a function whose first argument is the store's path.

    What the argument `progress` raises is raised as it is.
    """

    def guarded(first: Any, *arguments: Any, **named: Any) -> Any:
        progress = named.get("progress")
        is_outermost = not isinstance(progress, _Progress)  # one of these may call another one
        if progress is not None and is_outermost:
            named["progress"] = _Progress(progress)
        try:
            return function(first, *arguments, **named)
        except _CallerFailed as failed:
            if not is_outermost:
                raise
            raise failed.error from None
        except EvlogError:
            raise
        except (OSError, *SENSELESS) as error:
            if getattr(first, "is_closed", False):  # by another thread, meanwhile
                raise StoreClosed(first.address) from None
            raise senseless(error, getattr(first, "address", first)) from error

    guarded.__doc__, guarded.__name__ = function.__doc__, function.__name__
    return guarded  # type: ignore[return-value]


def without_crafted_content(items: Iterable[Item], path: str) -> Iterator[Item]:
    """Yield from an iterable over the content of the store at the path."""
    try:
        yield from items
    except EvlogError:
        raise
    except (OSError, *SENSELESS) as error:
        raise senseless(error, path) from error
