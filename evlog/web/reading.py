"""Pages of events that match, forwards or backwards; each is searched for a bounded time.

1. A page is a range of numbers: versions where one stream is selected, positions otherwise.
2. The log is searched piece by piece. The pieces grow while they are searched quickly, so a selection that an
   index answers needs few, and a pattern that occurs nowhere can be given up after each. A search ends also
   inside a piece, after an event: a hundred events may have a gigabyte of data. Only rows of them are kept.
3. An answer says how far it came. A page asks again from there, or stops.
4. A search is for plain text, not a regular expression: one that backtracks without end would hold the
   interpreter's lock, and block every request and Ctrl-C until the process is killed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from evlog.errors import EvlogError, InvalidArgument
from evlog.model.events import now_moment
from evlog.model.matching import pattern_of_text
from evlog.model.when import parse_when
from evlog.web.shown import as_row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.datastructures import QueryParams

    from evlog.model.events import Event
    from evlog.store import EventStore

SEARCH_SECONDS: Final = 0.15
_PIECE_SECONDS: Final = 0.05
_FIRST_PIECE: Final = 2048
_MOST_EVENTS: Final = 500


class Page(NamedTuple):
    """Some events, the newest first, and how far the search for them came."""

    events: list[dict[str, Any]]
    """as rows"""
    bound: int
    """where to continue: before this number if it was searched backwards, else after it"""
    more: bool
    """whether there is more to search"""
    top: int
    """the last number that there was when the search began"""
    problem: str | None = None
    """the damage that ended the search"""


class Selection(NamedTuple):
    """Which events a page is about."""

    stream: str | None
    options: dict[str, Any]
    """as `EventStore.read` and `read_all` take them"""

    def top(self, store: EventStore) -> int:
        """Return the last number."""
        return store.head if self.stream is None else store.stream_version(self.stream)

    def number(self, row: dict[str, Any]) -> int:
        """Return the number of an event."""
        number: int = row["position" if self.stream is None else "version"]
        return number

    def read(self, store: EventStore, after: int, to: int, *, reverse: bool, limit: int) -> Iterator[Event]:
        """Iterate over the events whose number is greater than `after`, up to and including `to`."""
        if self.stream is None:
            return store.read_all(after, to, reverse=reverse, limit=limit, **self.options)
        return store.read(self.stream, after + 1, to, reverse=reverse, limit=limit, **self.options)


def selection_of(query: QueryParams) -> Selection:
    """Return what a page asks for.

    Raises:
        InvalidArgument: a filter makes no sense.
    """
    now = now_moment()
    given = {name: query[name] for name in query if query[name]}
    options: dict[str, Any] = {
        name: parse_when(given[name], now) for name in ("since", "until") if name in given
    }
    if "text" in given:
        options["grep"] = pattern_of_text(given["text"])  # see rule 4
    if "correlation" in given:
        options["correlation"] = given["correlation"]
    for name, option in (("type", "types"), ("tag", "tags")):
        if texts := list(filter(None, query.getlist(name))):
            options[option] = texts
    stream, category = given.get("stream"), given.get("category")
    if category is not None:
        if stream is not None:
            raise InvalidArgument("stream and category both say which streams", "leave one of them empty")
        options["category"] = category
    return Selection(stream, options)


def number_of(query: QueryParams, name: str, most: int | None = None) -> int | None:
    """Return a whole number that a request gives; None if it gives none.

    Raises:
        InvalidArgument: it is not such a number.
    """
    text = query.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 19 and (most is None or int(text) <= most)):
        raise InvalidArgument(f"invalid {name} {text[:40]!r}", "use a whole number")
    return int(text)


def read_page(store: EventStore, query: QueryParams) -> Page:
    """Return a page.

    Args:
        query: the filters; `before` and `after`, both exclusive; `limit`; and `order`: the page begins at
            the upper bound and reads backwards (`older`), or at the lower one and reads forwards (`newer`).

    Raises:
        InvalidArgument: it makes no sense. As `EventStore.read`, but damage is in the page.
    """
    selection = selection_of(query)
    top = selection.top(store)
    after, before = number_of(query, "after") or 0, number_of(query, "before")
    limit = number_of(query, "limit", _MOST_EVENTS) or 1
    high = top if before is None else max(0, min(top, before - 1))
    older = query.get("order") != "newer"
    events: list[dict[str, Any]] = []
    try:
        bound, more = _search(store, selection, min(after, high), high, limit, events, older=older)
        problem = None
    except EvlogError as error:
        if isinstance(error, ValueError):  # the request's fault
            raise
        bound, more, problem = 0, False, str(error)
    if not older:
        events.reverse()
    return Page(events, bound, more, top, problem)


def _search(
    store: EventStore,
    selection: Selection,
    low: int,
    high: int,
    limit: int,
    found: list[dict[str, Any]],
    *,
    older: bool,
) -> tuple[int, bool]:
    """Add the first events in (low, high] to `found`, or with `older` the last ones, the last one first.

    Returns:
        After which to continue, or with `older` before which; and whether to continue.
    """
    clock = _Clock()
    while low < high and len(found) <= limit and not clock.is_over():
        begin = max(low, high - clock.piece) if older else low
        end = high if older else min(high, low + clock.piece)
        wanted = limit + 1 - len(found)  # one more, which says that there is one
        is_cut = clock.add(found, selection.read(store, begin, end, reverse=older, limit=wanted))
        if older:
            high = selection.number(found[-1]) - 1 if is_cut else begin
        else:
            low = selection.number(found[-1]) if is_cut else end
        clock.end_piece()
    if len(found) > limit:
        del found[limit:]
        return selection.number(found[-1]), True
    return high + 1 if older else low, low < high


class _Clock:
    """How long a search has taken, and how long its next piece may be.

    Attributes:
        piece: a number of positions or versions.
    """

    def __init__(self) -> None:
        self.piece = _FIRST_PIECE
        self._begin = self._piece_begin = time.monotonic()

    def add(self, found: list[dict[str, Any]], events: Iterator[Event]) -> bool:
        """Add rows of a piece's events until the time is over; return whether that left any out."""
        for event in events:
            found.append(as_row(event))
            if time.monotonic() - self._begin > SEARCH_SECONDS:
                return True
        return False

    def end_piece(self) -> None:
        now = time.monotonic()
        self.piece = self.piece * 2 if now - self._piece_begin < _PIECE_SECONDS else max(1, self.piece // 2)
        self._piece_begin = now

    def is_over(self) -> bool:
        return self._piece_begin - self._begin > SEARCH_SECONDS
