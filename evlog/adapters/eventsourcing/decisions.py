"""Dynamic consistency boundaries (dcb.events) as the library has them: decisions with tags, in one stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Final, Literal

from eventsourcing.dcb.api import (
    DCBAppendCondition,
    DCBEvent,
    DCBQuery,
    DCBReadResponse,
    DCBRecorder,
    DCBSequencedEvent,
    DCBSubscription,
)
from eventsourcing.persistence import ProgrammingError

from evlog.adapters.eventsourcing.errors import as_persistence_error, translated
from evlog.adapters.eventsourcing.insertion import are_json
from evlog.adapters.eventsourcing.recorders import EvlogRecorder
from evlog.errors import ConditionFailed, EvlogError
from evlog.model.encoding import encode_events
from evlog.model.events import Event, NewEvent
from evlog.model.queries import IfNone, Query
from evlog.store import EventStore

_PURPOSE: Final = "decisions"
_KINDS: Final[tuple[Literal["binary", "json"], ...]] = ("binary", "json")


class EvlogDCBRecorder(EvlogRecorder, DCBRecorder):
    """Records events with tags, on condition that no other event has some tags and types."""

    def __init__(self, store: EventStore, *, application: str = "") -> None:
        super().__init__(store, application=application, purpose=_PURPOSE)

    @translated
    def read(
        self, query: DCBQuery | None = None, *, after: int | None = None, limit: int | None = None
    ) -> DCBReadResponse:
        """Return the events that a query selects, read as they are asked for, and a position as `head`.

        With a limit the response's `head` is the position of the last event returned, else the last position
        of the store when it was called: what a condition can begin after.
        """
        head = self.store.head
        events = islice(self._select(query, after or 0, head), limit)
        if limit is None:
            return _Response(events, head or None)
        found = list(events)
        return _Response(iter(found), found[-1].position if found else None)

    def _select(self, query: DCBQuery | None, after: int, to: int) -> Iterator[Event]:
        """Iterate over the events that one of the query's items selects, each once, by position."""
        items = _as_query(query).items
        found = [
            self.store.read_all(after, to, category=self.category, types=types or None, tags=tags)
            for types, tags in items
        ]
        return found[0] if len(found) == 1 else _distinct(merge(*found, key=itemgetter(0)))

    @translated
    def append(self, events: Sequence[DCBEvent], condition: DCBAppendCondition | None = None) -> int:
        """Append events as one, durable when this returns; return the position of the last.

        Raises:
            IntegrityError: an event that the condition's query selects is after `condition.after`.
        """
        if not events:
            raise ProgrammingError("no events to append; give at least one")
        kinds = [_KINDS[is_json] for is_json in are_json([event.data for event in events])]
        new = encode_events(
            [
                NewEvent(event.type, event.data, tags=event.tags, content_type=kind)
                for event, kind in zip(events, kinds, strict=True)
            ]
        )
        streams = [self.category] * len(new)
        if condition is None:
            return self.store.append_encoded(streams, new).positions[-1]
        query, after = condition.fail_if_events_match, condition.after or 0
        while True:
            unless = IfNone(_as_query(query), after)
            try:
                return self.store.append_encoded(streams, new, conditions=unless).positions[-1]
            except ConditionFailed as error:
                # A condition is about the whole store. Events of others that match it do not count here.
                after = self._passed(error, query, after)

    def _passed(self, error: ConditionFailed, query: DCBQuery, after: int) -> int:
        """Return up to where none of the recorder's own events match a query, or raise the error."""
        head = self.store.head
        matched = next(self.store.read_all(error.position - 1, error.position), None)
        if matched is None or matched.stream == self.category:
            raise error
        if next(self._select(query, after, head), None) is not None:
            raise error
        return head

    @translated
    def subscribe(self, query: DCBQuery | None = None, *, after: int | None = None) -> EvlogDCBSubscription:
        """Return an iterator over the events that a query selects, which waits for more."""
        return EvlogDCBSubscription(self, query, after)


class EvlogDCBSubscription(DCBSubscription[EvlogDCBRecorder]):
    """Events as they come, each once it is durable. `stop`, from any thread, ends it at once."""

    def __init__(
        self, recorder: EvlogDCBRecorder, query: DCBQuery | None = None, after: int | None = None
    ) -> None:
        super().__init__(recorder=recorder, query=query, after=after)
        self._selected = _as_query(query)
        items = self._selected.items
        types = {type for types, _ in items for type in types} if all(types for types, _ in items) else None
        tags = items[0][1] if len(items) == 1 else ()
        self._run = recorder.store.subscribe(after=after, category=recorder.category, types=types, tags=tags)

    @translated
    def __next__(self) -> DCBSequencedEvent:
        while (event := self._run.next_event()) is not None:
            if self._selected.selects(event.type, event[8]):
                return _sequenced(event)
        raise StopIteration

    def stop(self) -> None:
        super().stop()
        self._run.close()


class _Response(DCBReadResponse):
    def __init__(self, events: Iterator[Event], head: int | None) -> None:
        self._events = events
        self._head = head

    @property
    def head(self) -> int | None:
        return self._head

    def __next__(self) -> DCBSequencedEvent:
        try:
            return _sequenced(next(self._events))
        except EvlogError as error:
            raise as_persistence_error(error) from error


def _sequenced(event: Event) -> DCBSequencedEvent:
    return DCBSequencedEvent(DCBEvent(event.type, event.data, list(event.tags)), event.position)


def _as_query(query: DCBQuery | None) -> Query:
    """Return the library's query as evlog's; without items it selects everything."""
    items = query.items if query is not None else []
    if not items:
        return Query()
    return Query.of_items(dict.fromkeys(Query(item.types, item.tags).items[0] for item in items))


def _distinct(events: Iterable[Event]) -> Iterator[Event]:
    """Leave out events that come a second time, one right after the other."""
    position = 0
    for event in events:
        if event.position != position:
            position = event.position
            yield event
