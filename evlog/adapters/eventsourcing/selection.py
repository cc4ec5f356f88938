"""Reading the events of an aggregate by the library's versions; `insertion.py` says how they are kept."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import islice
from operator import itemgetter
from typing import Final, NamedTuple
from uuid import UUID

from evlog.model.events import Event
from evlog.store import EventStore

VERSION_METADATA: Final = b'{"originator_version":%d}'
SPARSE_METADATA: Final = b'{"originator_version":%d,"highest_version":%d}'
_BEGINS: Final = VERSION_METADATA.partition(b"%")[0]
_AHEAD_EVENTS: Final = 250
_AHEAD_BYTES: Final = 1 << 20
_AHEAD_SECONDS: Final = 0.5
_POSITION: Final = itemgetter(0)


def version_of(event: Event) -> int:
    """Return the library's version of an event."""
    metadata = event[8]
    if metadata is None:
        return event.version
    if isinstance(metadata, bytes) and metadata.startswith(_BEGINS):
        digits = metadata[len(_BEGINS) : -1]
        if digits.isdigit():
            return int(digits)
    return _number(event, "originator_version", event.version)


def highest_of(event: Event) -> int:
    """Return the highest version up to this event, of events in any order."""
    return _number(event, "highest_version", version_of(event))


def _number(event: Event, name: str, default: int) -> int:
    value = event.metadata.get(name, default)
    return value if isinstance(value, int) else default


def select_successive(
    store: EventStore, stream: str, gt: int | None, lte: int | None, *, desc: bool, limit: int | None
) -> Iterator[tuple[int, Event]]:
    """Iterate over events and their versions, in order; the bounds are those of `select_events`."""
    least = 1 if gt is None else max(gt + 1, 1)  # evlog's version is not smaller
    found = ((version_of(event), event) for event in store.read(stream, least, reverse=desc))
    return islice(_within(found, gt, lte, desc=desc), limit)


def _within(
    found: Iterable[tuple[int, Event]], gt: int | None, lte: int | None, *, desc: bool
) -> Iterator[tuple[int, Event]]:
    for version, event in found:
        if lte is not None and version > lte:
            if desc:
                continue
            return
        if gt is not None and version <= gt:
            if desc:
                return
            continue
        yield version, event


def select_sparse(
    store: EventStore, stream: str, gt: int | None, lte: int | None, *, desc: bool, limit: int | None
) -> Iterator[tuple[int, Event]]:
    """Do the same for events in any order; the highest are mostly found without reading the others."""
    found: dict[int, Event] = {}
    for event in store.read(stream, reverse=True):
        version, highest = version_of(event), highest_of(event)
        if (gt is None or version > gt) and (lte is None or version <= lte):
            found[version] = event
        bound = highest - (version == highest)  # of all that were inserted before
        if gt is not None and bound <= gt:
            break
        if (
            desc
            and limit is not None
            and len(found) >= limit
            and (not limit or sorted(found)[-limit] > bound)
        ):
            break
    return islice(((version, found[version]) for version in sorted(found, reverse=desc)), limit)


def originator_id_of(stream: str, *, as_uuid: bool) -> UUID | str:
    """Return the id of the aggregate that a stream is of: what follows its category."""
    text = stream.partition("-")[2]
    return UUID(text) if as_uuid else text


class _Kept(NamedTuple):
    """The events after position `after`, in a log that ended at `head`."""

    after: int
    head: int
    events: list[Event]
    is_all: bool
    """whether these are all events up to the head"""
    until: float
    """when the events expire, by the monotonic clock"""


class Pages:
    """The events of a category, a page at a time. A page that follows the last one is read with later ones.

    The library reads its notification logs in pages of ten; reading ahead makes that four times as fast.
    Events that were read ahead are used for half a second at most, and only while the log has not grown: a
    redaction also makes it grow.
    """

    def __init__(self, store: EventStore, category: str) -> None:
        self._store = store
        self._category = category
        # Threads replace each of these whole. A race between them changes only how much is read ahead.
        self._kept = _Kept(0, -1, [], is_all=False, until=0.0)
        self._next = -1

    def read(self, after: int, limit: int) -> list[Event]:
        """Return the first events after a position, at most `limit`."""
        head, kept = self._store.head, self._kept
        at = bisect_right(kept.events, after, key=_POSITION)
        is_there = kept.is_all or at + limit <= len(kept.events)
        if not is_there or kept.head != head or kept.after > after or time.monotonic() >= kept.until:
            if after != self._next or limit >= _AHEAD_EVENTS:
                found = self._read(after, head, limit)
                self._next = found[-1].position if found else -1
                return found
            kept = self._kept = self._read_ahead(after, head, limit)
            at = 0
        found = kept.events[at : at + limit]
        self._next = found[-1].position if found else -1
        return found

    def _read_ahead(self, after: int, head: int, limit: int) -> _Kept:
        until = time.monotonic() + _AHEAD_SECONDS
        events: list[Event] = []
        size_bytes = 0
        ahead = self._store.read_all(after, head, category=self._category, limit=_AHEAD_EVENTS)
        for event in ahead:
            events.append(event)
            size_bytes += len(event[7])
            if size_bytes >= _AHEAD_BYTES and len(events) >= limit:
                return _Kept(after, head, events, is_all=False, until=until)
        return _Kept(after, head, events, is_all=len(events) < _AHEAD_EVENTS, until=until)

    def _read(self, after: int, head: int, limit: int) -> list[Event]:
        # Most often all positions in this range are of the category, so nothing after the page is read.
        found = list(self._store.read_all(after, min(head, after + limit), category=self._category))
        if len(found) < limit and after + limit < head:
            left = limit - len(found)
            found += self._store.read_all(after + limit, head, category=self._category, limit=left)
        return found
