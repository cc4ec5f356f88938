"""The story of an event: what it belongs to, what caused it, and what it caused.

1. A story has a correlation id: that of the event, or the event's own id if it has none. All events with this
   correlation id are in the story, and the event whose id it is.
2. The causes of these events are in it, and the events that they caused, also without a correlation id.
3. A cause comes before its effects, so one pass from the first cause on finds all effects.
"""

from __future__ import annotations

from heapq import merge
from typing import TYPE_CHECKING

from evlog.errors import EventNotFound
from evlog.model.events import Event, id_text
from evlog.model.filters import EventFilter, LogSelection
from evlog.model.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from evlog.engine import Engine
    from evlog.model.events import Upcast

    Get = Callable[[str], Event]
    """Returns the event with an id. Raises EventNotFound, InvalidArgument."""


class TracedEvent(NamedTuple):
    """An event in its story.

    Attributes:
        depth: 0 if its cause is not in the story; else one more than that of its cause.
        caused_by: the id of its cause, in the story or not; None if it names none.
    """

    event: Event
    depth: int
    caused_by: str | None


class Story:
    """The story of an event, searched piece by piece, so that a reader of a long log gets early results.

    Pieces may be searched in any order, but only one pass from `first` on is sure to find every effect.

    Args:
        engine: the log.
        event: what the story is of.
        get: finds the causes.

    Attributes:
        found: the events of the story that are known, by position.
        first: the position of the first cause; no effect is before it.
    """

    def __init__(self, engine: Engine, event: Event, get: Get) -> None:
        ancestors = [event]
        seen = {id_text(event.id_bytes)}
        while (cause := _maybe_get(get, ancestors[-1].causation_id)) is not None:
            if id_text(cause.id_bytes) in seen:
                break  # a circle, which only foreign metadata can have
            seen.add(id_text(cause.id_bytes))
            ancestors.append(cause)
        root = ancestors[-1]
        self._engine = engine
        self._correlation = event.correlation_id or root.correlation_id or id_text(root.id_bytes)
        head = _maybe_get(get, self._correlation)
        self.found = {each[0]: each for each in (*ancestors, *([head] if head is not None else ()))}
        self.first = min(self.found)
        self._members = {id_text(each.id_bytes) for each in self.found.values()}

    def search(self, after: int, to: int | None) -> list[Event]:
        """Return what is found after position `after` up to and including `to`, and was not known."""
        correlated = EventFilter(metadata=[("$correlationId", self._correlation)])
        reads = [self._engine.read_all(LogSelection(after, to, correlated))]
        if to is None or to >= self.first:
            caused = EventFilter(metadata=[("$causationId", None)])
            begin = max(after, self.first - 1)
            reads.append(self._engine.read_all(LogSelection(begin, to, caused)))
        new = []
        for each in merge(*reads):
            if each.correlation_id == self._correlation or each.causation_id in self._members:
                self._members.add(id_text(each.id_bytes))
                if each[0] not in self.found:
                    self.found[each[0]] = each
                    new.append(each)
        return new


def trace(engine: Engine, event: Event, get: Get, upcast: Upcast | None) -> list[TracedEvent]:
    """Return the story of an event as it is stored, by position, in today's shape."""
    story = Story(engine, event, get)
    story.search(0, None)
    events = [story.found[position] for position in sorted(story.found)]
    return _with_depths(events if upcast is None else [upcast(event) for event in events])


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
