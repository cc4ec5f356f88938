"""Which events a read, a subscription or a fold is about: one value instead of many arguments."""

from __future__ import annotations

from evlog.errors import InvalidArgument
from evlog.model.events import check_type

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from datetime import datetime
    from typing import Any


class EventFilter:
    """A selection of events; every field that is given must match. Immutable, equal by its fields.

    Args:
        stream: only events of this stream.
        category: only events of the streams of this category.
        types: only events of these types; None selects all types.
        tags: only events that have all of these tags; none selects all events.
        since_us: only events written at or after this time, in microseconds since 1970.
        until_us: only events written before this time.
        include_system: also the store's own events, in streams whose names begin with `$`. A filter that
            names such a stream always includes its events.
    """

    __slots__ = ("category", "include_system", "since_us", "stream", "tags", "types", "until_us")

    stream: str | None
    category: str | None
    types: tuple[str, ...] | None
    tags: tuple[str, ...]
    since_us: int | None
    until_us: int | None
    include_system: bool

    def __init__(
        self,
        stream: str | None = None,
        category: str | None = None,
        types: Iterable[str] | None = None,
        tags: Iterable[str] = (),
        *,
        since_us: int | None = None,
        until_us: int | None = None,
        include_system: bool = False,
    ) -> None:
        put = object.__setattr__
        put(self, "stream", stream)
        put(self, "category", category)
        put(self, "types", None if types is None else tuple(sorted(types)))
        put(self, "tags", tuple(sorted(tags)) if tags else ())
        put(self, "since_us", since_us)
        put(self, "until_us", until_us)
        put(self, "include_system", include_system)

    def as_object(self) -> dict[str, Any]:
        """Return what a named subscription keeps of it: all but the times; `tags` only if there are any."""
        types = None if self.types is None else list(self.types)
        kept: dict[str, Any] = {"stream": self.stream, "category": self.category, "types": types}
        if self.tags:
            kept["tags"] = list(self.tags)
        return kept

    def replace(self, **changes: Any) -> EventFilter:
        """Return the filter with some fields changed."""
        return EventFilter(**{name: getattr(self, name) for name in _FIELDS} | changes)

    def _key(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in EventFilter.__slots__)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, EventFilter) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an EventFilter cannot be changed; make another one with {name}={value!r}")

    def __reduce__(self) -> tuple[object, ...]:
        return _revive, self._key()

    def __repr__(self) -> str:
        given = [
            f"{name}={getattr(self, name)!r}"
            for name in _FIELDS
            if getattr(self, name) not in (None, False, ())
        ]
        return f"EventFilter({', '.join(given)})"

    def __str__(self) -> str:
        kept = [
            f"{name} {getattr(self, name)!r}"
            for name in _FIELDS[:4]
            if getattr(self, name) not in (None, ()) or (name == "types" and self.types == ())
        ]
        return ", ".join(kept) or "all events"


_FIELDS = ("stream", "category", "types", "tags", "since_us", "until_us", "include_system")
ANYTHING = EventFilter()
EVERYTHING = EventFilter(include_system=True)


def _revive(
    category: str | None,
    include_system: bool,
    since_us: int | None,
    stream: str | None,
    tags: tuple[str, ...],
    types: tuple[str, ...] | None,
    until_us: int | None,
) -> EventFilter:
    return EventFilter(
        stream, category, types, tags, since_us=since_us, until_us=until_us, include_system=include_system
    )


def make_filter(
    stream: str | None,
    category: str | None,
    types: Collection[str] | None,
    since: datetime | None = None,
    until: datetime | None = None,
    tags: Collection[str] | None = None,
    include_system: bool = False,
) -> EventFilter:
    """Return the filter of what a user gives, or raise InvalidArgument that says what is wrong with it."""
    if isinstance(types, str):
        raise InvalidArgument(f"types is the text {types!r}; give a list of event types")
    if not include_system and not tags and (stream, category, types, since, until) == (None,) * 5:
        return ANYTHING
    if tags:
        from evlog.model.tags import check_wanted

        tags = check_wanted(tags)
    return EventFilter(
        stream,
        category,
        None if types is None else set(map(check_type, types)),
        tags or (),
        since_us=_microseconds(since),
        until_us=_microseconds(until),
        include_system=include_system,
    )


def _microseconds(moment: datetime | None) -> int | None:
    """Return a moment as microseconds since 1970, or raise InvalidArgument if it has no time zone."""
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise InvalidArgument(f"{moment.isoformat()} has no time zone; give an aware datetime")
    from datetime import UTC, datetime

    # In UTC: within one zone Python subtracts clock faces.
    difference = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (difference.days * 86_400 + difference.seconds) * 1_000_000 + difference.microseconds
