"""Reading for engines that have a reader, which knows the server and nothing of what events contain."""

from __future__ import annotations

from builtins import filter as filter_events
from itertools import islice
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evlog.model.events import Event
    from evlog.model.filters import EventFilter
    from evlog.model.reports import StreamInfo


class ServerReader(Protocol):
    """What reads a store; of filters, all but the content of events counts."""

    def read_stream(
        self,
        stream: str,
        first_version: int,
        last_version: int | None,
        filter: EventFilter,
        *,
        reverse: bool,
        limit: int | None,
    ) -> Iterator[Event]: ...

    def read_all(
        self, after: int, to: int | None, filter: EventFilter, *, reverse: bool, limit: int | None
    ) -> Iterator[Event]: ...

    def find_ids(self, ids: Sequence[bytes]) -> dict[bytes, int]: ...

    def versions(self, streams: Sequence[str]) -> list[int]: ...

    def streams(
        self, category: str | None, prefix: str | None, *, include_deleted: bool, include_system: bool
    ) -> Iterator[StreamInfo]: ...


class ReadsByReader:
    """The reading methods of an engine that has a reader. A base class of engines, without state."""

    @property
    def reader(self) -> ServerReader:
        """What reads the store."""
        raise NotImplementedError

    def read_stream(
        self,
        stream: str,
        first_version: int,
        last_version: int | None,
        filter: EventFilter,
        *,
        reverse: bool,
        limit: int | None,
    ) -> Iterator[Event]:
        """Iterate over the visible events of a stream."""
        content = filter.make_matcher()
        events = self.reader.read_stream(
            stream,
            first_version,
            last_version,
            filter,
            reverse=reverse,
            limit=limit if content is None else None,
        )
        return events if content is None else islice(filter_events(content, events), limit)

    def read_all(
        self, after: int, to: int | None, filter: EventFilter, *, reverse: bool, limit: int | None
    ) -> Iterator[Event]:
        """Iterate over the events behind `after` up to and including `to`."""
        content = filter.make_matcher()
        events = self.reader.read_all(
            after, to, filter, reverse=reverse, limit=limit if content is None else None
        )
        return events if content is None else islice(filter_events(content, events), limit)

    def find_ids(self, ids: Sequence[bytes]) -> dict[bytes, int]:
        """Return the positions of known ids, also of those whose events were removed."""
        return self.reader.find_ids(ids)

    def versions(self, streams: Sequence[str]) -> list[int]:
        """Return the last version of each stream, visible or not."""
        return self.reader.versions(streams)

    def streams(
        self, category: str | None, prefix: str | None, *, include_deleted: bool, include_system: bool
    ) -> Iterator[StreamInfo]:
        """Iterate over the streams by name."""
        return self.reader.streams(
            category, prefix, include_deleted=include_deleted, include_system=include_system
        )
