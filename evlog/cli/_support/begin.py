"""Where `evlog tail` begins: what -n, --after, --since and --until-type say, as one position.

It is found by reading backwards what is wanted, so that it costs as many events as are asked for, not as the
store holds. Everything is then delivered from there on by one subscription.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import evlog
from evlog.model.events import Event


class Wanted(NamedTuple):
    """Which events, as the command line says it; None: all of them."""

    stream: str | None = None
    category: str | None = None
    types: list[str] | None = None
    since: datetime | None = None


def find_begin(
    store: evlog.EventStore, wanted: Wanted, last: int | None, after: int | None, seen_type: str | None
) -> int:
    """The position behind which to begin.

    Args:
        last: begin with the last so many; None: with the first.
        after: a version where a stream is wanted, else a position; nothing up to it is delivered.
        seen_type: an event of this type that is there already must not be left out.
    """
    head = store.head  # before anything is read: what comes later is delivered anyway
    if last is None:
        if after is None and wanted.since is None and wanted.stream is None:
            return 0  # else: what the retention of a stream hides is not its beginning
        first = next(_read(store, wanted, after, limit=1), None)
        return head if first is None else first.position - 1
    begin = head
    for event in _read(store, wanted, after, reverse=True, limit=last):
        begin = min(begin, event.position - 1)
    if seen_type is not None:
        seen = next(_read(store, wanted._replace(types=[seen_type]), after, reverse=True, limit=1), None)
        begin = begin if seen is None else min(begin, seen.position - 1)
    return begin


def _read(
    store: evlog.EventStore, wanted: Wanted, after: int | None, *, limit: int, reverse: bool = False
) -> Iterator[Event]:
    begin = after or 0
    stream, category, types, since = wanted
    if stream is None:
        return store.read_all(
            begin, category=category, types=types, since=since, limit=limit, reverse=reverse
        )
    return store.read(stream, begin + 1, types=types, since=since, limit=limit, reverse=reverse)
