"""Reading for engines that leave it to an object of their own, the reader."""

from __future__ import annotations

from functools import wraps
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from evlog.model.events import Event
    from evlog.model.filters import LogSelection, StreamSelection
    from evlog.model.reports import StreamInfo

    _Reader = TypeVar("_Reader")
    _Selection = TypeVar("_Selection", StreamSelection, LogSelection)


class ServerReader(Protocol):
    """What reads a store. Its methods are those of `evlog.engine.Engine`."""

    def read_stream(self, selection: StreamSelection) -> Iterator[Event]: ...

    def read_all(self, selection: LogSelection) -> Iterator[Event]: ...

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

    def read_stream(self, selection: StreamSelection) -> Iterator[Event]:
        return self.reader.read_stream(selection)

    def read_all(self, selection: LogSelection) -> Iterator[Event]:
        return self.reader.read_all(selection)

    def find_ids(self, ids: Sequence[bytes]) -> dict[bytes, int]:
        return self.reader.find_ids(ids)

    def versions(self, streams: Sequence[str]) -> list[int]:
        return self.reader.versions(streams)

    def streams(
        self, category: str | None, prefix: str | None, *, include_deleted: bool, include_system: bool
    ) -> Iterator[StreamInfo]:
        return self.reader.streams(
            category, prefix, include_deleted=include_deleted, include_system=include_system
        )


def matching_content(
    read: Callable[[_Reader, _Selection], Iterator[Event]],
) -> Callable[[_Reader, _Selection], Iterator[Event]]:
    """Decorate a method of a reader that may return events whose content the filter does not select."""

    @wraps(read)
    def matched(reader: _Reader, selection: _Selection) -> Iterator[Event]:
        content = selection.filter.make_matcher()
        if content is None:
            return read(reader, selection)
        events = read(reader, selection._replace(limit=None))
        return islice(filter(content, events), selection.limit)

    return matched
