"""Comparing a mirror with its source, from data that is read back on both sides.

An event that the source has removed since it was copied is not a difference, but is counted: the source still
knows its id. An event that the source has redacted since is compared by its digest, which redaction keeps.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

import msgpack

from evlog.model.events import SYSTEM_PREFIX, Event, id_text
from evlog.model.filters import LogSelection
from evlog.model.named import NamedTuple
from evlog.model.redaction import record_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evlog.engine import Engine, Progress

_pack: Final = msgpack.Packer().pack
_PROGRESS_EVENTS: Final = 1000
_BATCH_EVENTS: Final = 1000


class Difference(NamedTuple):
    """The first event that is not the same in both stores."""

    position: int
    """at the source"""
    detail: str


class Comparison(NamedTuple):
    """What a comparison found."""

    events: int
    """how many are the same"""
    removed_since: int
    """how many the source has removed since they were copied"""
    position: int
    """up to where both were compared"""
    behind: int
    """how many positions of the source have not been copied yet"""
    digest: str | None
    """as `verify` of the source gives it for the events up to `position`; None for a merge or a difference"""
    difference: Difference | None

    @property
    def ok(self) -> bool:
        """Whether no difference was found."""
        return self.difference is None


def compare(source: Engine, destination: Engine, progress: Progress | None = None) -> Comparison:
    """Compare an identical mirror with its source, up to where the mirror has come."""
    position = destination.head()
    head = source.head()
    digest = sha256()
    events = removed_since = 0
    difference = None
    if position > head:
        detail = f"the source ends at position {head}, before the destination, which ends at {position}"
        difference = Difference(head, detail)
    for ours, theirs in _pairs(_read(source, position), _read(destination, position)):
        if ours is not None and theirs is not None and (own := _digest(ours)) == _digest(theirs):
            digest.update(own)
            events += 1
            if progress is not None and not events % _PROGRESS_EVENTS:
                progress(ours[0], position)
        elif ours is None and theirs is not None and knows(source, theirs.position, theirs.id_bytes):
            removed_since += 1
        else:
            difference = difference or _describe(ours, theirs)
            break
    difference = difference or _compare_removed(source, destination, position)
    pin = None if difference else f"{position}:{digest.hexdigest()}"
    return Comparison(events, removed_since, position, max(0, head - position), pin, difference)


def _digest(event: Event) -> bytes:
    """Return the digest of an event's record; that of a redacted one is kept in its place."""
    if event.redacted:
        return bytes.fromhex(record_digest(event))
    return sha256(_pack(tuple(event))).digest()


def _read(engine: Engine, to: int) -> Iterator[Event]:
    return engine.read_all(LogSelection(to=to))


def _pairs(ours: Iterator[Event], theirs: Iterator[Event]) -> Iterator[tuple[Event | None, Event | None]]:
    """Iterate over the events of both by position; None where one of them has none."""
    one, other = next(ours, None), next(theirs, None)
    while one is not None or other is not None:
        if one is None or (other is not None and other[0] < one[0]):
            yield None, other
            other = next(theirs, None)
        elif other is None or one[0] < other[0]:
            yield one, None
            one = next(ours, None)
        else:
            yield one, other
            one, other = next(ours, None), next(theirs, None)


def knows(engine: Engine, position: int, id: bytes) -> bool:
    """Return whether a store has, or had, the event with this id at this position."""
    return engine.find_ids([id]).get(id) == position


_FIELDS: Final = ("position", "version", "stream", "type", "id", "time", "content type", "data", "metadata")


def _describe(ours: Event | None, theirs: Event | None) -> Difference:
    if theirs is None:
        assert ours is not None
        return Difference(ours[0], f"event {id_text(ours[4])} is not in the destination")
    if ours is None:
        return Difference(theirs[0], f"event {id_text(theirs[4])} is only in the destination")
    unlike = [name for name, one, other in zip(_FIELDS, ours, theirs, strict=True) if one != other]
    return Difference(ours[0], f"event {id_text(ours[4])} has another {' and '.join(unlike)}")


def _compare_removed(source: Engine, destination: Engine, position: int) -> Difference | None:
    """Compare what both know of removed events: all of them are known at the source."""
    known = {(each.position, each.version, each.id) for each in source.read_removed(0, position)}
    for each in destination.read_removed(0, position):
        own = (each.position, each.version, each.id)
        if own not in known:
            return Difference(each.position, f"removed event {id_text(each.id)} is only in the destination")
        known.discard(own)
    unknown = sorted(known)  # removed at the source since they were copied, or unknown
    for at in range(0, len(unknown), _BATCH_EVENTS):
        batch = unknown[at : at + _BATCH_EVENTS]
        found = destination.find_ids([id for _, _, id in batch])
        for place, _, id in batch:
            if found.get(id) != place:
                return Difference(place, f"removed event {id_text(id)} is not known in the destination")
    return None


# --- merged stores


def is_merged(event: Event) -> bool:
    """Return whether a merge appends an event: not the store's own, and none without its content."""
    return not (event.stream.startswith(SYSTEM_PREFIX) or event.redacted)


def compare_merged(source: Engine, destination: Engine, to: int, progress: Progress | None) -> Comparison:
    """Compare the source, up to a position, with a store that it was merged into: by the events' ids."""
    events = 0
    batch: list[Event] = []
    difference = None

    def look() -> Difference | None:
        found = destination.find_ids([event.id_bytes for event in batch])
        for event in batch:
            place = found.get(event.id_bytes)
            copy = None if place is None else event_at(destination, place)
            if place is None or (copy is not None and _content(copy) != _content(event)):
                what = "is not in the destination" if place is None else "has other content there"
                return Difference(event[0], f"event {id_text(event[4])} {what}")
        return None

    for event in _read(source, to):
        if not is_merged(event):
            continue
        batch.append(event)
        if len(batch) == _BATCH_EVENTS:
            if (difference := look()) is not None:
                break
            events += len(batch)
            batch.clear()
            if progress is not None:
                progress(event[0], to)
    else:
        difference = look()
        events += 0 if difference else len(batch)
    return Comparison(events, 0, to, source.head() - to, None, difference)


def event_at(engine: Engine, position: int) -> Event | None:
    """Return the event at a position; None if it was removed."""
    return next(engine.read_all(LogSelection.at(position)), None)


def _content(event: Event) -> tuple[object, ...]:
    return event[2:5] + event[6:8]
