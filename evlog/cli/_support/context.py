"""`read --context`: the events around those that match, each once and in order, as grep shows lines."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from evlog.model.events import Event
    from evlog.store import EventStore


def with_context(
    store: EventStore, matches: Iterator[Event], count: int, stream: str | None, category: str | None
) -> Iterator[Event]:
    """Yield the matches, and around each some events of the stream, category or store that hold them.

    Args:
        matches: by version if `stream` is given, else by position.
    """

    def between(after: int, to: int | None, *, last: bool = False) -> Iterator[Event]:
        """Return the first events, or the last ones backwards, in a span of versions or positions."""
        if to is not None and to <= after:
            return iter(())
        if stream is not None:
            return store.read(stream, after + 1, to, limit=count, reverse=last)
        return store.read_all(after, to, category=category, limit=count, reverse=last)

    shown = 0  # the version or position up to which everything is shown or left out
    begun = False
    for match in matches:
        place = match.version if stream is not None else match.position
        if begun:
            for event in between(shown, place - 1):
                yield event
                shown = event.version if stream is not None else event.position
        yield from [*between(shown, place - 1, last=True)][::-1]
        yield match
        shown, begun = place, True
    if begun:
        yield from between(shown, None)
