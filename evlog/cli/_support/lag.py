"""`subscriptions wait` and `check`: waiting for a subscription, and reporting one that is behind."""

from __future__ import annotations

import time

from evlog.cli._support.stops import Stopped, Stops, end_by
from evlog.errors import EXIT_BEHIND, EXIT_TIMEOUT, EvlogError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    import evlog

_LOOK_AGAIN_SECONDS: Final = 0.1  # polling: no notification comes when another process saves a checkpoint


class NotPassed(EvlogError):
    """--timeout ran out before the subscription had scanned the position."""

    exit_code = EXIT_TIMEOUT

    def __init__(self, name: str, position: int, target: int) -> None:
        super().__init__(
            f"--timeout ran out: subscription {name!r} is at position {position}, not yet at {target}",
            "increase --timeout, or look whether it runs: `evlog subscriptions`",
        )
        self.name = name
        self.position = position
        self.target = target


class SubscriptionsBehind(EvlogError):
    """A subscription has more lag, or more parked events, than is allowed."""

    exit_code = EXIT_BEHIND

    def __init__(self, reasons: Sequence[str], names: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.names = list(names)


def wait_until_passed(
    store: evlog.EventStore, name: str, position: int | None, timeout_seconds: float | None
) -> evlog.SubscriptionInfo:
    """Wait until a subscription has scanned a position, and return it.

    Args:
        position: None: the present end of the log.

    Raises:
        NotPassed: the time is over.
    """
    target = store.head if position is None else position
    info = store.subscription(name)
    if timeout_seconds == 0 and info.position < target:  # a timer of 0 seconds never ends
        raise NotPassed(name, info.position, target)
    try:
        with Stops(timeout_seconds) as stops:
            stops.waiting = True
            while info.position < target:
                time.sleep(_LOOK_AGAIN_SECONDS)
                info = store.subscription(name)
            stops.waiting = False
    except Stopped as stopped:
        if stopped.is_timeout:
            raise NotPassed(name, info.position, target) from None
        end_by(stopped)
    return info


def check_lag(found: Sequence[evlog.SubscriptionInfo], max_lag: int | None, max_parked: int | None) -> None:
    """Raise SubscriptionsBehind if one of the subscriptions is over a limit."""
    reasons, names = [], []
    for info in found:
        over = []
        if max_lag is not None and info.lag_events > max_lag:
            over.append(f"is {info.lag_events} behind (at most {max_lag} allowed)")
        if max_parked is not None and info.parked > max_parked:
            over.append(f"has {info.parked} parked (at most {max_parked} allowed)")
        if over:
            reasons.append(f"subscription {info.name!r} {' and '.join(over)}")
            names.append(info.name)
    if reasons:
        raise SubscriptionsBehind(reasons, names)
