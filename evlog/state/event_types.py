"""Event types and the classes of their data, in both directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from evlog.errors import InvalidArgument
from evlog.model.arguments import list_of
from evlog.model.events import Event, NewEvent, check_type


class EventTypes:
    """Which class the data of each event type have: a msgspec Struct, a dataclass or a pydantic model.

    Args:
        types: classes by event type; or classes, whose names are the event types.
    """

    def __init__(self, types: Mapping[str, type] | Iterable[type]) -> None:
        if isinstance(types, Mapping):
            pairs = [*types.items()]
        else:
            pairs = [(_name_of(each), each) for each in list_of("types", types)]
        self._kinds: dict[str, type] = {}
        self._names: dict[type, str] = {}
        for name, kind in pairs:
            if name in self._kinds:
                raise InvalidArgument(f"event type {name!r} has two classes; give it one")
            self._kinds[check_type(name)] = kind
            self._names.setdefault(kind, name)

    def __contains__(self, type: object) -> bool:
        """Return whether an event type has a class."""
        return type in self._kinds

    def new(self, data: Any, **options: Any) -> NewEvent:
        """Return an event with this data, of the type that is registered for its class.

        Args:
            options: as `NewEvent`.

        Raises:
            InvalidArgument: no event type has this class.
        """
        name = self._names.get(data.__class__)
        if name is None:
            raise InvalidArgument(
                f"no event type has the class {data.__class__.__name__}; add it to the types"
            )
        return NewEvent(name, data, **options)

    def decode(self, event: Event) -> Any:
        """Return the data of an event as its class.

        Raises:
            InvalidArgument: its type has no class. InvalidEvent: the data do not fit it.
        """
        kind = self._kinds.get(event[3])
        if kind is None:
            raise InvalidArgument(f"event type {event[3]!r:.80} has no class; add it to the types")
        return event.json(kind)


def _name_of(kind: type) -> str:
    if not isinstance(kind, type):
        raise InvalidArgument(
            f"types cannot hold {kind!r:.80}; give classes, or a dict of them by event type"
        )
    return kind.__name__
