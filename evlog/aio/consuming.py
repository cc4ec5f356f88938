"""Handling the events of a subscription in a task: retries, and parking what fails.

This is `consume` of `evlog/subscriptions/named.py` with `await`. An event is handled to its end before the
next one is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from evlog.subscriptions.retry import Failure, WrongHandler, describe_error, pauses, refuse_unrun, upcasting

if TYPE_CHECKING:
    from evlog.aio.subscription import AsyncSubscription
    from evlog.model.events import Event

    Handler = Callable[[Event], object]


async def consume(
    subscription: AsyncSubscription,
    handler: Handler,
    *,
    retries: int,
    park: bool,
    delay_seconds: float | None,
) -> None:
    """Handle every event of the run. Arguments and errors are those of `AsyncStore.consume`."""
    handler = upcasting(handler, await subscription.take_upcast())
    async for event in subscription:
        failure = await _attempt(handler, event, retries, delay_seconds)
        if failure is None:
            continue
        if not park:
            raise failure.error
        await subscription.park(event, describe_error(failure.error), failure.attempts)


async def _attempt(
    handler: Handler, event: Event, retries: int, delay_seconds: float | None
) -> Failure | None:
    attempts = 0
    for pause_seconds in pauses(delay_seconds):
        try:
            result = handler(event)
            if isinstance(result, Awaitable):
                await result
            else:
                refuse_unrun(result)
            return None
        except WrongHandler:
            raise
        except Exception as error:  # noqa: BLE001 - the caller decides what a failure means
            attempts += 1
            if attempts >= retries:
                return Failure(error, attempts)
        await asyncio.sleep(pause_seconds)
    raise AssertionError("pauses do not end")
