"""Reading the events of an aggregate by the library's versions; `insertion.py` says how they are kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final
from uuid import UUID

from evlog.model.events import Event
from evlog.store import EventStore

VERSION_METADATA: Final = b'{"originator_version":%d}'
SPARSE_METADATA: Final = b'{"originator_version":%d,"highest_version":%d}'
_BEGINS: Final = VERSION_METADATA.partition(b"%")[0]


def version_of(event: Event) -> int:
    """Return the library's version of an event."""
    metadata = event[8]
    if metadata is None:
        return event.version
    digits = metadata[len(_BEGINS) : -1]
    if metadata.startswith(_BEGINS) and digits.isdigit():
        return int(digits)
    return _number(metadata, "originator_version", event.version)


def highest_of(event: Event) -> int:
    """Return the highest version up to this event, of events in any order."""
    return _number(event[8] or b"{}", "highest_version", version_of(event))


def _number(metadata: bytes, name: str, default: int) -> int:
    value = json.loads(metadata).get(name, default)
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
    """Return the id of the aggregate that a stream is of: what is behind its category."""
    text = stream.partition("-")[2]
    return UUID(text) if as_uuid else text
