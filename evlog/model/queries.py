"""Queries, and the conditions of an append. Pure.

A query selects events across streams by type and tags. As in dcb.events, it is a list of items, and an event
must match one of them. As a text, on the command line and in errors:

    type=Enrolled|Moved,tag=course:c1          one item: one of the types, and all tags
    tag=course:c1,tag=student:s9;type=Closed   two items
    *                                          every event

A value that begins with `"`, or holds one of `,` `;` `|`, is written as a JSON string: `tag="a,b"`.
"""

from __future__ import annotations

from evlog.errors import InvalidArgument
from evlog.model.arguments import list_of, maybe_whole
from evlog.model.events import check_type, tags_of
from evlog.model.json_text import encode_json, scan_json
from evlog.model.tags import check_wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

    from evlog.model.events import Event

    _Events = list[Event]
else:
    _Events = list

_ALL: Final = "*"
_SPECIAL: Final = frozenset(',;|"')
_ADVICE: Final = "write for example 'type=Enrolled|Moved,tag=course:c1'"

Item = tuple[tuple[str, ...], tuple[str, ...]]
"""The types of which an event must have one (none: any type), and the tags of which it must have all."""


class Query:
    """Events that have one of some types and all of some tags; `|` joins queries. Immutable.

        Query(types=["Enrolled", "Moved"], tags=["course:c1"]) | Query(tags=["student:s9"])

    Args:
        types: none: events of any type.
        tags: none: events with any tags, or without.

    Attributes:
        items: for each query that was joined, its types and its tags, both sorted.
    """

    __slots__ = ("items",)

    items: tuple[Item, ...]

    def __init__(self, types: Iterable[str] = (), tags: Iterable[str] = ()) -> None:
        if isinstance(types, str):
            raise InvalidArgument(f"types is the text {types!r:.80}; give a list of event types")
        checked = tuple(sorted(set(map(check_type, list_of("types", types)))))
        object.__setattr__(self, "items", ((checked, check_wanted(tags)),))

    @classmethod
    def of_items(cls, items: Iterable[Item]) -> Query:
        """Return the query of items that another query had."""
        query = object.__new__(cls)
        object.__setattr__(query, "items", tuple(items))
        return query

    @classmethod
    def parse(cls, text: str) -> Query:
        """Return the query that a text stands for, or raise InvalidArgument."""
        if not isinstance(text, str):
            raise InvalidArgument(f"a query cannot be {text!r:.80}; give a text such as type=Paid")
        parts = [cls(types, tags) for types, tags in _parse(text)]
        query = parts[0]
        for part in parts[1:]:
            query |= part
        return query

    def __or__(self, other: Query) -> Query:
        if not isinstance(other, Query):
            return NotImplemented
        return Query.of_items(dict.fromkeys(self.items + other.items))

    def matches(self, event: Event) -> bool:
        """Return whether the query selects an event; never one of the store's own."""
        return not event.stream.startswith("$") and self.selects(event.type, event[8])

    def selects(self, type: str, metadata: bytes | None) -> bool:
        """Return whether an event of this type, with this metadata as it is encoded, is selected."""
        own: frozenset[str] | None = None
        for types, tags in self.items:
            if types and type not in types:
                continue
            if not tags:
                return True
            if own is None:
                own = frozenset(tags_of(metadata))
            if own.issuperset(tags):
                return True
        return False

    def __str__(self) -> str:
        return ";".join(map(_item_text, self.items))

    def __repr__(self) -> str:
        return " | ".join(f"Query(types={list(types)!r}, tags={list(tags)!r})" for types, tags in self.items)

    def __eq__(self, other: object) -> bool:
        return self.items == other.items if isinstance(other, Query) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.items)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Query cannot be changed; make another one with {name}={value!r}")

    def __reduce__(self) -> tuple[object, ...]:
        return Query.of_items, (self.items,)


def as_query(query: Query | str) -> Query:
    """Return a query, also from its text."""
    if isinstance(query, str):
        return Query.parse(query)
    if not isinstance(query, Query):
        raise InvalidArgument(f"invalid query {query!r:.80}; give a Query, or its text")
    return query


class IfNone:
    """A condition of an append: no event after a position matches a query.

    Args:
        query: a Query, or its text.
        after: only events after this position count. Left out, all events that the log ever had count, so
            at most one event ever matches the query.
    """

    __slots__ = ("after", "query")

    def __init__(self, query: Query | str, after: int = 0) -> None:
        position = maybe_whole(after)
        if position is None or isinstance(after, bool) or position < 0:
            raise InvalidArgument(f"invalid after {after!r:.80}; use a position, 0 or more")
        self.query = as_query(query)
        self.after = position

    def __eq__(self, other: object) -> bool:
        return (self.query, self.after) == (other.query, other.after) if isinstance(other, IfNone) else False

    def __hash__(self) -> int:
        return hash((self.query, self.after))

    def __repr__(self) -> str:
        return f"IfNone({str(self.query)!r}, after={self.after})"


class QueryResult(_Events):
    """The events that a query selects, in the order of their positions, as of one position.

    Attributes:
        query: the query.
        position: the last position of the log when it was made, also when nothing matched.
    """

    def __init__(self, query: Query, events: Iterable[Event], position: int) -> None:
        super().__init__(events)
        self.query = query
        self.position = position

    @property
    def unchanged(self) -> IfNone:
        """The condition that a decision based on this result needs: nothing else that matches has come."""
        return IfNone(self.query, self.position)


# --- the text


def _item_text(item: Item) -> str:
    types, tags = item
    parts = [f"type={'|'.join(map(_value_text, types))}"] if types else []
    parts += [f"tag={_value_text(tag)}" for tag in tags]
    return ",".join(parts) or _ALL


def _value_text(value: str) -> str:
    return encode_json(value) if not _SPECIAL.isdisjoint(value) or value != value.strip() else value


def _parse(text: str) -> list[tuple[list[str], list[str]]]:
    """Return the types and tags of each item of a query's text."""
    items: list[tuple[list[str], list[str]]] = [([], [])]
    at, mark = 0, ";"
    while mark:
        if text[at : at + 1] == _ALL and mark == ";" and text[at + 1 : at + 2] in ("", ";"):
            at += 1
        else:
            name, equals, _ = text[at:].partition("=")
            if not equals or name.strip() not in ("type", "tag"):
                raise _bad(text, "each part is type=… or tag=…")
            at += len(name) + 1
            at = _parse_values(text, at, items[-1][name.strip() == "tag"], several=name.strip() == "type")
        mark = text[at : at + 1]
        at += 1
        if mark == ";":
            items.append(([], []))
    return items


def _parse_values(text: str, at: int, values: list[str], *, several: bool) -> int:
    """Add the values that begin at an index of a text to a list; return the index after them."""
    while True:
        if text[at : at + 1] == '"':
            try:
                value, at = scan_json(text, at)
            except ValueError:
                raise _bad(text, "a quoted value must be a JSON string") from None
        else:
            end = min((found for mark in ",;|" if (found := text.find(mark, at)) >= 0), default=len(text))
            value, at = text[at:end].strip(), end
        values.append(value)
        mark = text[at : at + 1]
        if mark != "|":
            break
        if not several:
            raise _bad(text, "| is only between types; quote a tag that holds it")
        at += 1
    if mark not in ("", ",", ";"):
        raise _bad(text, "nothing can follow a quoted value but , ; or |")
    return at


def _bad(text: str, reason: str) -> InvalidArgument:
    return InvalidArgument(f"invalid query {text!r:.200}: {reason}; {_ADVICE}")
