"""Calling a handler until it succeeds, and describing why it did not."""

from __future__ import annotations

import time
from types import AsyncGeneratorType, CoroutineType, GeneratorType

from evlog.errors import EvlogError, InvalidArgument
from evlog.model.arguments import check_functions, check_number, check_seconds
from evlog.model.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Final, TypeVar

    from evlog.model.events import Event, Upcast
    from evlog.model.types import OnFailure

    _T = TypeVar("_T")
    Handler = Callable[[Event], object]
    OnRetry = Callable[[Exception, int, float], object]

FIRST_RETRY_SECONDS: Final = 0.1
LAST_RETRY_SECONDS: Final = 10.0
MAX_SLEEP_SECONDS: Final = 1 << 30  # a sleep of more than 292 years would be an error
MAX_ERROR_CHARACTERS: Final = 10_000


def check_handling(
    handler: Callable[..., object],
    retries: int,
    retry_delay: float | None,
    on_failure: OnFailure,
    *,
    in_transaction: bool = False,
) -> None:
    """Refuse arguments of `Subscription.consume` that make no sense."""
    if on_failure not in ("stop", "park"):
        raise InvalidArgument(f"invalid on_failure {on_failure!r}; use 'stop' or 'park'")
    check_number("retries", retries)
    check_functions("handler", handler=handler)
    check_takes(handler, "the event", *(["a connection"] if in_transaction else []))
    check_seconds(retry_delay=retry_delay)


def check_takes(handler: Callable[..., object], *arguments: str) -> None:
    """Refuse a handler that takes other arguments: every call of it would fail, and its event be parked."""
    from inspect import signature  # imported late: it takes as long as a command's own modules

    try:
        parameters = signature(handler)
    except (ValueError, TypeError):
        return  # what is written in C may not tell
    try:
        parameters.bind(*arguments)
    except TypeError as error:
        given = " and ".join(arguments)
        raise InvalidArgument(f"the handler cannot be called with {given}: {error}") from None


class WrongHandler(InvalidArgument):
    """The handler cannot handle any event: none has failed, and none is parked."""


class Failure(NamedTuple):
    """The last error of a handler, and how many times it was called."""

    error: Exception
    attempts: int


def call(handler: Callable[..., object], *arguments: object) -> None:
    """Call the handler.

    Raises:
        WrongHandler: it is a coroutine function or a generator function, of which a call runs nothing: its
            event would be acknowledged unhandled.
    """
    refuse_unrun(handler(*arguments))


def refuse_unrun(result: object) -> None:
    """Raise WrongHandler for what a call of a coroutine function or a generator function returns."""
    if isinstance(result, CoroutineType | GeneratorType | AsyncGeneratorType):
        if not isinstance(result, AsyncGeneratorType):
            result.close()
        raise WrongHandler(
            f"the handler returned a {type(result).__name__}, of which nothing has run",
            "give a function that has handled the event when it returns; see `evlog help asyncio`",
        )


def upcasting(handler: Callable[..., _T], upcast: Upcast | None) -> Callable[..., _T]:
    """Return the handler for events as they are stored: an upcaster's failure is then the handler's."""
    if upcast is None:
        return handler
    return lambda event, *connection: handler(upcast(event), *connection)


def attempt(
    handler: Handler,
    event: Event,
    retries: int,
    on_retry: OnRetry | None = None,
    *,
    delay_seconds: float | None = None,
    rest: Callable[[float], object] | None = None,
) -> Failure | None:
    """Call the handler with the event until it returns, with pauses.

    Args:
        retries: return after this many failures; 0 counts as 1.
        delay_seconds: as `pauses`.
        on_retry: called after each failure but the last, with the error, its number, and the pause in
            seconds.
        rest: waits for some seconds; returns whether to give up, which leaves fewer failures than `retries`.

    Returns:
        None if the handler returned, else its last failure.

    Raises:
        WrongHandler: as `call`.
    """
    attempts = 0
    for pause_seconds in pauses(delay_seconds):
        try:
            call(handler, event)
        except WrongHandler:
            raise
        except Exception as error:  # noqa: BLE001 - the caller decides what a failure means
            attempts += 1
            failure = Failure(error, attempts)
        else:
            return None
        if attempts >= retries:
            return failure
        if on_retry is not None:
            on_retry(failure.error, attempts, pause_seconds)
        if (rest or time.sleep)(min(pause_seconds, MAX_SLEEP_SECONDS)):
            return failure
    raise AssertionError("pauses do not end")


def pauses(delay_seconds: float | None = None) -> Iterator[float]:
    """Iterate over the pauses after the failures of one event, in seconds; they do not end.

    Args:
        delay_seconds: of every pause; None: pauses that grow from a tenth of a second to ten seconds.
    """
    pause_seconds = FIRST_RETRY_SECONDS if delay_seconds is None else float(delay_seconds)
    while True:
        yield pause_seconds
        if delay_seconds is None:
            pause_seconds = min(2 * pause_seconds, LAST_RETRY_SECONDS)


def describe_error(error: Exception) -> str:
    """Return an error as it is kept with a parked event; an evlog error by its text alone."""
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception whose own text fails must still be parked
        text = ""
    if not isinstance(error, EvlogError):
        text = f"{name}: {text}" if text else name
    if len(text) > MAX_ERROR_CHARACTERS:
        text = text[: MAX_ERROR_CHARACTERS - 1] + "…"
    return text.encode(errors="backslashreplace").decode()  # a lone surrogate is no UTF-8
