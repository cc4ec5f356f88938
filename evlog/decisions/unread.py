"""Whether a compaction would remove events that a named subscription has yet to read."""

from __future__ import annotations

from evlog.errors import SubscriptionBehind
from evlog.model.filters import ANYTHING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from evlog.model.checkpoints import Checkpoint
    from evlog.model.filters import EventFilter


def check_subscriptions(
    known: Iterable[tuple[str, Checkpoint | None]], last: int, find_last: Callable[[int, EventFilter], int]
) -> None:
    """Raise SubscriptionBehind if a subscription would deliver an event that is to be removed.

    Args:
        known: the subscriptions by name. Where the filter is not known after damage, all events count.
        last: the position of the last event that is to be removed; 0: none is.
        find_last: returns the position of the last event to be removed that a read with this filter finds
            after a position; 0: there is none.
    """
    for name, checkpoint in known:
        if checkpoint is None or checkpoint.position >= last:
            continue
        missed = find_last(checkpoint.position, checkpoint.filter or ANYTHING)
        if missed:
            raise SubscriptionBehind(name, checkpoint.position, missed)
