"""New events by columns: what an importer, a migration or a bulk load has before any object is made of it."""

from __future__ import annotations

from evlog.errors import EventTooLarge, InvalidArgument, InvalidEvent
from evlog.model.arguments import list_of
from evlog.model.encoding import encode_events, maybe_encode_columns
from evlog.model.events import NewEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any
    from uuid import UUID

    from evlog.model.events import EncodedEvent


class NewEvents:
    """Events that are to be appended together, by columns: for `EventStore.append_many`.

    Iterating over it yields the appends that it means: one for each event, any version expected. Appending
    the columns takes half the time of these appends. For that, events have no metadata and no tags, data
    that is JSON in `bytes`, and ids that are left out or 16 `bytes`: then no object is made for an event.

        rows = [("order-1", "OrderPaid", b'{"amount":5}'), ("order-2", "OrderPaid", b'{"amount":7}')]
        streams, types, data = zip(*rows)
        store.append_many(NewEvents(streams, types, data))

    Args:
        streams: the stream of each event; a text: the stream of all.
        types: the type of each; a text: the type of all.
        data: of each event, as in NewEvent. Its length is the number of events.
        ids, metadata, tags: of each event, as in NewEvent; None: no event has one.
        content_type: of each; a text: of all.

    Raises:
        InvalidArgument: a column has another length than `data`.
    """

    __slots__ = ("_columns", "streams")
    __hash__ = None  # type: ignore[assignment]  # data may be a dict

    def __init__(
        self,
        streams: str | Iterable[str],
        types: str | Iterable[str],
        data: Iterable[Any],
        *,
        ids: Iterable[UUID | str | bytes | None] | None = None,
        metadata: Iterable[dict[str, Any] | bytes | None] | None = None,
        tags: Iterable[Iterable[str] | None] | None = None,
        content_type: str | Iterable[str] = "json",
    ) -> None:
        # Copies: what the caller does with its own columns later changes nothing.
        datas = list(list_of("data", data))
        count = len(datas)
        self.streams = _column_of("streams", streams, count)
        self._columns = (
            _column_of("types", types, count),
            _column_of("ids", ids, count),
            datas,
            _column_of("metadata", metadata, count),
            _column_of("tags", tags, count),
            _column_of("content_type", content_type, count),
        )

    def __len__(self) -> int:
        return len(self.streams)

    def __iter__(self) -> Iterator[tuple[str, list[NewEvent]]]:
        for stream, *fields in zip(self.streams, *self._columns, strict=True):
            yield stream, [_event_of(*fields)]

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, NewEvents) else NotImplemented

    def __repr__(self) -> str:
        return f"<NewEvents: {len(self)}>"

    def encode(self) -> Sequence[EncodedEvent]:
        """Check the events and return what a record holds of each.

        Raises:
            InvalidEvent, EventTooLarge: the first event that cannot be stored; `index` says which.
        """
        if not len(self):
            return []
        try:
            columns = maybe_encode_columns(*self._columns)
            return encode_events(list(map(_event_of, *self._columns))) if columns is None else columns
        except (InvalidEvent, EventTooLarge):
            for index, fields in enumerate(zip(*self._columns, strict=True)):
                try:
                    encode_events([_event_of(*fields)])
                except InvalidEvent as error:
                    raise InvalidEvent(error.field, error.reason, index) from None
                except EventTooLarge as error:
                    raise EventTooLarge(error.size_bytes, error.limit_bytes, index) from None
            raise


def _event_of(type: Any, id: Any, data: Any, metadata: Any, tags: Any, content_type: Any) -> NewEvent:
    return NewEvent(type, data, id=id, metadata=metadata, tags=tags, content_type=content_type)


def _column_of(name: str, values: str | Iterable[Any] | None, count: int) -> list[Any]:
    """Return a list with a value for each event."""
    if values is None or isinstance(values, str):
        return [values] * count
    column = list(list_of(name, values))
    if len(column) != count:
        raise InvalidArgument(f"{len(column)} {name} for the data of {count} events; give one for each event")
    return column
