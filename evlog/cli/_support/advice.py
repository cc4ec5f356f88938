"""What a user of the command line can do about an error whose own advice is for a Python program."""

from __future__ import annotations

from evlog import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_ADVICE: Final[dict[type[errors.EvlogError], str]] = {
    errors.StoreNotFound: "create it with `evlog init`, or name another one with --store",
    errors.StreamNotFound: "`evlog streams` lists the streams",
    errors.SubscriptionNotFound: "`evlog subscriptions list` lists the subscriptions",
    errors.LockTimeout: "try again, or increase --lock-timeout",
    errors.SubscriptionBehind: "let it catch up, or use --force",
}


def message_of(error: errors.EvlogError) -> str:
    """Return the error's message with advice for the command line."""
    advice = _ADVICE.get(type(error))
    return str(error) if advice is None else f"{error.problem}; {advice}"
