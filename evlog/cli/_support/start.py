"""Where `evlog tail` starts: from -n, --after and --since to one position.

The position is found by reading backwards, so only as many events are read as are asked for, however many the
store holds. One subscription then delivers everything from there on.
"""

from __future__ import annotations

from evlog.model.events import microseconds_of
from evlog.model.filters import LogSelection, StreamSelection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    import evlog
    from evlog.model.events import Event
    from evlog.model.filters import EventFilter


def start_position(
    store: evlog.EventStore,
    filter: EventFilter,
    *,
    last: int | None,
    after: int | None,
    to: int | None,
    since: datetime | None,
    until: datetime | None,
) -> int:
    """Return the position after which to start.

    Args:
        last: start with the last events, this many; None: with the first one.
        after: a version if the filter names a stream, else a position; events up to it are left out.
        to: where the run ends; the last events are the last ones up to this position.
        since, until: events before the first and from the second time on are left out.
    """
    engine, stream, begin = store.engine, filter.stream, after or 0
    since_us, until_us = (None if when is None else microseconds_of(when) for when in (since, until))
    chosen = filter.replace(stream=None, since_us=since_us, until_us=until_us)

    def read(limit: int, *, reverse: bool) -> Iterator[Event]:
        if stream is None:
            return engine.read_all(LogSelection(begin, to if reverse else None, chosen, limit, reverse))
        return engine.read_stream(StreamSelection(stream, begin + 1, None, chosen, limit, reverse))

    head = store.head  # read first: what comes later is delivered anyway
    if to is not None:
        head = min(head, to)
    if last is not None:
        return min((event.position - 1 for event in read(last, reverse=True)), default=head)
    if after is None and since is None and stream is None:
        return 0  # a stream can begin later: retention hides its first events
    first = next(read(1, reverse=False), None)
    return head if first is None else first.position - 1
