"""The story of an event: what it belongs to, what caused it, and what it caused.

1. The story is all events with the event's correlation id, or for an event without one with its own id, and
   the event that has this id.
2. Causes of these are in it, and what these caused, also without a correlation id.
3. A cause comes before its effects, so one pass from the first cause on finds all effects.
"""

from __future__ import annotations

from heapq import merge
from typing import TYPE_CHECKING

from evlog.errors import EventNotFound
from evlog.model.events import id_text
from evlog.model.filters import EventFilter
from evlog.model.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from evlog.engine import Engine
    from evlog.model.events import Event

    Get = Callable[[str], Event]
    """Returns the event with an id. Raises EventNotFound, InvalidEvent."""


class TracedEvent(NamedTuple):
    """An event in its story."""

    event: Event
    depth: int  # 0: its cause is unknown; else one more than that of its cause
    caused_by: str | None  # the id of its cause, known or not


def trace(engine: Engine, event: Event, get: Get) -> list[TracedEvent]:
    """Return the story of an event, by position."""
    ancestors = [event]
    seen = {id_text(event.id_bytes)}
    while (cause := _maybe_get(get, ancestors[-1].causation_id)) is not None:
        if id_text(cause.id_bytes) in seen:
            break  # a circle, which only foreign metadata can have
        seen.add(id_text(cause.id_bytes))
        ancestors.append(cause)
    root = ancestors[-1]
    correlation = event.correlation_id or root.correlation_id or id_text(root.id_bytes)
    head = _maybe_get(get, correlation)
    known = {each[0]: each for each in (*ancestors, *([head] if head is not None else ()))}
    found = dict(known)
    members = {id_text(each.id_bytes) for each in known.values()}
    correlated = EventFilter(metadata=[("$correlationId", correlation)])
    caused = EventFilter(metadata=[("$causationId", None)])
    reads = [
        engine.read_all(0, None, correlated, reverse=False, limit=None),
        engine.read_all(min(known) - 1, None, caused, reverse=False, limit=None),
    ]
    for each in merge(*reads):
        if each.correlation_id == correlation or each.causation_id in members:
            found[each[0]] = each
            members.add(id_text(each.id_bytes))
    return _with_depths([found[position] for position in sorted(found)])


def _maybe_get(get: Get, id: str | None) -> Event | None:
    if id is None:
        return None
    try:
        return get(id)
    except (EventNotFound, ValueError):  # it was removed, or another system's id
        return None


def _with_depths(events: list[Event]) -> list[TracedEvent]:
    depths: dict[str, int] = {}
    traced = []
    for event in events:
        cause = event.causation_id
        depth = depths.get(cause, -1) + 1 if cause is not None else 0
        depths[id_text(event.id_bytes)] = depth
        traced.append(TracedEvent(event, depth, cause))
    return traced
