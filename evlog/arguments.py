"""What several methods of a store are given, checked in one way, before anything is looked at on disk."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from evlog.errors import InvalidArgument
from evlog.model.events import NewEvent, category_of, check_stream_name, check_type


def as_list(events: Iterable[NewEvent]) -> list[NewEvent]:
    if isinstance(events, list):
        return events
    if isinstance(events, NewEvent):
        raise InvalidArgument("events must be a list of NewEvent; put the one event into a list")
    return list(events)


def check_bounds(**bounds: int | None) -> None:
    for name, value in bounds.items():
        if value is not None and value < 0:
            raise InvalidArgument(f"{name} is {value!r}; give a whole number, 0 or more")


def as_types(types: Collection[str] | None) -> frozenset[str] | None:
    if isinstance(types, str):
        raise InvalidArgument(f"types is the text {types!r}; give a list of event types")
    return None if types is None else frozenset(map(check_type, types))


def check_target(stream: str | None, category: str | None) -> None:
    """Check that it is one stream or one category that is meant."""
    if (stream is None) == (category is None):
        raise InvalidArgument("give either a stream or a category")
    if stream is not None:
        check_stream_name(stream)
    elif category_of(check_stream_name(category or "")) != category:
        raise InvalidArgument(f"{category!r} is no category: one ends before the first - of a stream's name")
