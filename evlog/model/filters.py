"""Which events a read, a subscription or a fold is about: one value instead of many arguments.

1. An `EventFilter` says what an event must have: a stream, category, type, tags, metadata, text and time.
   `make_filter` makes it from a user's arguments.
2. An engine reads a `StreamSelection`, a filter with versions of one stream, or a `LogSelection`, a filter
   with positions.
"""

from __future__ import annotations

from evlog.errors import InvalidArgument
from evlog.model.arguments import list_of
from evlog.model.events import check_type, microseconds_of
from evlog.model.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import datetime
    from typing import Any, Self
    from uuid import UUID

    from evlog.model.events import Event
    from evlog.model.matching import ContentMatcher


class EventFilter:
    """A selection of events; every field that is given must match. Immutable, equal by its fields.

    Args:
        stream: only events of this stream.
        category: only events of the streams of this category.
        types: only events of these types; None selects all types.
        tags: only events that have all of these tags; none selects all events.
        metadata: only events whose metadata have these fields: pairs of a name and a text, see
            `evlog/model/matching.py`; None as the text means any value.
        grep: only events in whose data, metadata or tags each of these patterns is found.
        since_us: only events written at or after this time, in microseconds since 1970.
        until_us: only events written before this time.
        include_system: also the store's own events, in streams whose names begin with `$`. A filter that
            names such a stream always includes its events.
    """

    __slots__ = (
        "category", "grep", "include_system", "metadata", "since_us", "stream", "tags", "types", "until_us",
    )  # fmt: skip

    stream: str | None
    category: str | None
    types: tuple[str, ...] | None
    tags: tuple[str, ...]
    metadata: tuple[tuple[str, str | None], ...]
    grep: tuple[str, ...]
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
        metadata: Iterable[tuple[str, str | None]] = (),
        grep: Iterable[str] = (),
        since_us: int | None = None,
        until_us: int | None = None,
        include_system: bool = False,
    ) -> None:
        put = object.__setattr__
        put(self, "stream", stream)
        put(self, "category", category)
        put(self, "types", None if types is None else tuple(sorted(list_of("types", types))))
        put(self, "tags", () if tags is None else tuple(sorted(list_of("tags", tags))))
        put(self, "metadata", tuple(list_of("metadata", metadata)))
        put(self, "grep", tuple(list_of("grep", grep)))
        put(self, "since_us", since_us)
        put(self, "until_us", until_us)
        put(self, "include_system", include_system)

    def as_object(self) -> dict[str, Any]:
        """Return what a named subscription keeps of it: all but the times, and what is not set."""
        types = None if self.types is None else list(self.types)
        kept: dict[str, Any] = {"stream": self.stream, "category": self.category, "types": types}
        if self.tags:
            kept["tags"] = list(self.tags)
        if self.metadata:
            kept["metadata"] = dict(self.metadata)
        if self.grep:
            kept["grep"] = list(self.grep)
        return kept

    @classmethod
    def of_object(cls, kept: dict[str, Any]) -> EventFilter:
        """Return the filter that `as_object` has returned.

        Raises:
            ValueError, LookupError, TypeError, AttributeError: it is not such an object.
        """
        stream, category, fields = kept["stream"], kept["category"], kept.get("metadata", {})
        types, tags, grep = kept["types"], kept.get("tags", []), kept.get("grep", [])
        texts = [stream, category, *fields.values()]
        if not all(text is None or isinstance(text, str) for text in texts):
            raise ValueError(f"{texts!r:.80} are not all texts")
        for found in ([] if types is None else types, tags, grep):
            if not (isinstance(found, list) and all(isinstance(one, str) for one in found)):
                raise ValueError(f"{found!r:.80} is not a list of texts")
        return cls(stream, category, types, tags, metadata=sorted(fields.items()), grep=grep)

    def selects(self, event: Event) -> bool:
        """Return whether the filter selects an event, apart from its content: see `make_matcher`."""
        return (
            self.stream in (None, event.stream)
            and self.category in (None, event.category)
            and (self.types is None or event.type in self.types)
            and (not self.tags or set(self.tags).issubset(event.tags))
            and (self.since_us is None or event.time_us >= self.since_us)
            and (self.until_us is None or event.time_us < self.until_us)
        )

    def make_matcher(self) -> ContentMatcher | None:
        """Return a check of metadata and data; None if any content matches."""
        if not self.metadata and not self.grep:
            return None
        from evlog.model.matching import ContentMatcher

        return ContentMatcher(self.metadata, self.grep)

    def replace(self, **changes: Any) -> EventFilter:
        """Return the filter with some fields changed."""
        return EventFilter(**{name: getattr(self, name) for name in _FIELDS} | changes)

    def _key(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in _FIELDS)

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
            f"{name} {_in_words(getattr(self, name))}"
            for name in _FIELDS[:6]
            if getattr(self, name) not in (None, ()) or (name == "types" and self.types == ())
        ]
        return ", ".join(kept) or "all events"


def _in_words(value: str | tuple[Any, ...]) -> str:
    if isinstance(value, str):
        return repr(value)
    words = [repr(one) if isinstance(one, str) else "=".join(map(str, one)) for one in value]
    return " and ".join(words) or "none"


_FIELDS = tuple(EventFilter.__annotations__)  # in the order of the arguments
ANYTHING = EventFilter()
EVERYTHING = EventFilter(include_system=True)


class StreamSelection(NamedTuple):
    """What `Engine.read_stream` is asked for: visible events of one stream, in the order of their versions.

    Versions are inclusive. The filter's stream and category are ignored.
    """

    stream: str
    first_version: int = 1
    last_version: int | None = None  # None: to the end
    filter: EventFilter = ANYTHING
    limit: int | None = None
    reverse: bool = False


class LogSelection(NamedTuple):
    """What `Engine.read_all` is asked for: the events after position `after`, up to and including `to`.

    The store's own events are left out, unless the filter includes them or names their stream.
    """

    after: int = 0
    to: int | None = None  # None: to the end
    filter: EventFilter = EVERYTHING
    limit: int | None = None
    reverse: bool = False

    @classmethod
    def at(cls, position: int) -> Self:
        """Return the selection of the event at a position."""
        return cls(position - 1, position, EVERYTHING, 1)

    @classmethod
    def last(cls, to: int | None = None) -> Self:
        """Return the selection of the last event up to a position; None: of all."""
        return cls(0, to, EVERYTHING, 1, reverse=True)


def _revive(*values: Any) -> EventFilter:
    return EventFilter(**dict(zip(_FIELDS, values, strict=True)))


def make_filter(
    stream: str | None,
    category: str | None,
    types: Collection[str] | None,
    since: datetime | None = None,
    until: datetime | None = None,
    tags: Collection[str] | None = None,
    include_system: bool = False,
    *,
    correlation: UUID | str | None = None,
    metadata: Mapping[str, object] | None = None,
    grep: str | Collection[str] | None = None,
) -> EventFilter:
    """Return the filter of what a user gives, or raise InvalidArgument that says what is wrong with it."""
    if tags is not None and not isinstance(tags, str | bytes):  # a text is refused below
        tags = list_of("tags", tags)
    content_is_given = not (correlation is None and metadata is None and grep is None)
    if (
        not (tags or include_system or content_is_given)
        and (stream is None and category is None and types is None)
        and (since is None and until is None)
    ):
        return ANYTHING  # the common case: ten times as fast as the code below
    check_category(category)
    if isinstance(types, str):
        raise InvalidArgument(f"types is the text {types!r}; give a list of event types")
    if content_is_given:
        from evlog.model.matching import check_fields, check_patterns

        if correlation is not None:
            metadata = {**(metadata or {}), "$correlationId": correlation}
        return make_filter(stream, category, types, since, until, tags, include_system).replace(
            metadata=check_fields(metadata or {}), grep=() if grep is None else check_patterns(grep)
        )
    if tags:
        from evlog.model.tags import check_wanted

        tags = check_wanted(tags)
    return EventFilter(
        stream,
        category,
        None if types is None else set(map(check_type, list_of("types", types))),
        tags or (),
        since_us=_microseconds(since),
        until_us=_microseconds(until),
        include_system=include_system,
    )


def check_category(category: str | None) -> None:
    """Raise InvalidArgument for a text that no stream has as its category."""
    if category is None:
        return
    if not isinstance(category, str):
        raise InvalidArgument(f"category is {category!r}; give a text")
    if "-" in category:
        raise InvalidArgument(
            f"invalid category {category!r:.80}; use the part of a stream's name before its first -"
        )


def _microseconds(moment: datetime | None) -> int | None:
    """Return a moment as microseconds since 1970, or raise InvalidArgument if it has no time zone."""
    if moment is None:
        return None
    from datetime import datetime

    if not isinstance(moment, datetime):
        raise InvalidArgument(f"{moment!r} is not a datetime; give one with a time zone")
    if moment.tzinfo is None:
        raise InvalidArgument(f"{moment.isoformat()} has no time zone; give an aware datetime")
    return microseconds_of(moment)
