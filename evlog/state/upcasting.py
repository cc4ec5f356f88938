"""Upcasting: old events in today's shape, when they are read.

1. Functions are registered by event type. They run in the order in which they were registered, each on the
   data that the one before returned.
2. A function may give the event another type. Then those of the new type run.
3. What is stored never changes. Mirrors, backups and retries have it as it is, and filters ask for the types
   that are stored: `stored_types` names them.
4. The functions are called for what a program gets, and for nothing that the store reads for itself, for a
   checkpoint or a redaction. So a function that raises stops only the calls that return its event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from evlog.errors import InvalidArgument
from evlog.model.arguments import check_ordinary
from evlog.model.encoding import check_json, dump_json, encode_text
from evlog.model.events import JSON_CODE, TEXT_CODE, Event, check_type

if TYPE_CHECKING:
    from collections.abc import Callable

    from evlog.model.events import Upcast

    Function = Callable[[Any, Event], Any]
    _Function = TypeVar("_Function", bound=Function)


class Upcasters:
    """Functions that turn the data of old events into today's shape; give them to `evlog.open`.

        upcasters = evlog.Upcasters()

        @upcasters("OrderPlaced")
        def add_currency(data, event):
            return {"currency": "EUR", **data}

    A function takes the data and the event as it is stored, and returns the data: what JSON is parsed to, or
    the bytes of text and binary data. It is called for every event of its type, old and new, so it has to see
    which it has; not for a redacted event, which has no data.
    """

    def __init__(self) -> None:
        self._steps: dict[str, list[tuple[Function, str | None]]] = {}

    def __call__(self, type: str, *, to: str | None = None) -> Callable[[_Function], _Function]:
        """Register the function below for an event type; see `register`."""

        def decorate(function: _Function) -> _Function:
            self.register(type, function, to=to)
            return function

        return decorate

    def register(self, type: str, function: Function, *, to: str | None = None) -> None:
        """Register a function.

        Args:
            type: of the events that it is called for.
            to: the type that they have from then on; left out, they keep theirs.

        Raises:
            InvalidArgument: events of this type get another one before, or types would go in a circle.
        """
        check_ordinary("function", function)
        if check_type(type) in self._steps and self._steps[type][-1][1] is not None:
            raise InvalidArgument(f"{type!r} becomes {self._steps[type][-1][1]!r}; register for that type")
        if to is not None and self.final_type(check_type(to)) == self.final_type(type):
            raise InvalidArgument(f"{type!r} would become {to!r}, which becomes {type!r}; end the circle")
        self._steps.setdefault(type, []).append((function, to))

    def final_type(self, type: str) -> str:
        """Return the type that events of a stored type have when they are read."""
        while type in self._steps and (to := self._steps[type][-1][1]) is not None:
            type = to
        return type

    def stored_types(self, *types: str) -> list[str]:
        """Return the stored types of the events that are read with these types: what a filter needs."""
        known = dict.fromkeys([*types, *self._steps])
        return [type for type in known if self.final_type(type) in types]

    def upcast(self, event: Event) -> Event:
        """Return an event in today's shape; the same one, if no function is registered for its type.

        Raises:
            InvalidArgument: a function returned nothing, or what JSON cannot hold.
        """
        type = event[3]
        if type not in self._steps:
            return event
        if event.redacted:  # there is nothing that a function could look at
            return Event((*event[:3], self.final_type(type), *event[4:]))
        is_json = event[6] == JSON_CODE
        data = event.json() if is_json else event.data
        while type in self._steps:
            before = type
            for function, to in self._steps[before]:
                given, data = data, function(data, event)
                if data is None and given is not None:  # JSON null stays null
                    name = getattr(function, "__qualname__", function)
                    raise InvalidArgument(f"the upcaster {name} returned None; return the data")
                type = to or type
            if type == before:
                break
        code = event[6]
        if code == TEXT_CODE and isinstance(data, str | bytes):
            data = encode_text(data)
        elif not isinstance(data, bytes):
            code, data = JSON_CODE, dump_json(data, "data")
        elif is_json:
            check_json([data])
        return Event((*event[:3], type, *event[4:6], code, data, event[8]))


def upcast_of(upcasters: Upcasters) -> Upcast:
    """Return the function that turns an event into today's shape; refuse what is not `Upcasters`."""
    if not isinstance(upcasters, Upcasters):
        raise InvalidArgument(f"upcasters is {upcasters!r:.80}; give evlog.Upcasters")
    return upcasters.upcast
