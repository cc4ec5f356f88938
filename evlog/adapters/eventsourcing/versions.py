"""How the versions of aggregates are kept in streams, and what keeps them unique.

The library numbers the events of an aggregate itself, from its `INITIAL_VERSION` on: 1, or 0 if a program
says so. evlog numbers the events of a stream from 1 on.

1. Events (`Successive`) follow each other without a gap: version N is appended where the stream is at N - 1.
   The two numbers are the same, and nothing is stored but the event.
2. Where they differ, or could, the event's metadata hold the library's: of aggregates that begin at 0, of
   those that were deleted and begin again, and of what is inserted with the first event.
3. In a stream the library's versions rise, and none is greater than evlog's: so rule 1 never lets a version
   in twice.
4. Snapshots (`Sparse`) have any version, and an older one may come later. Their id is made from it, so each
   is there once; the metadata have the version, and the highest so far, which says how far a search must go.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, Protocol
from uuid import UUID

from eventsourcing.persistence import IntegrityError, StoredEvent

from evlog.errors import EventTooLarge, InvalidEvent, WrongExpectedVersion
from evlog.model.appends import ExpectedVersion
from evlog.model.encoding import check_json
from evlog.model.events import (
    BINARY_CODE,
    JSON_CODE,
    MAX_EVENT_BYTES,
    EncodedEvent,
    Event,
    check_type,
    id_of_key,
)
from evlog.store import EventStore

_VERSION: Final = "originator_version"
_HIGHEST: Final = "highest_version"
_VERSION_BEGINS: Final = b'{"originator_version":'

_topics: set[str] = set()  # names that passed the check: a program has few
_MOST_TOPICS: Final = 1 << 14


# --- writing


class Insertion(Protocol):
    """What one call inserts, as an append."""

    streams: list[str]
    expected: dict[str, ExpectedVersion]

    def events(self) -> list[EncodedEvent]:
        """Return the events, one for each stream in `streams`."""

    def correct(self, error: WrongExpectedVersion) -> None:
        """Prepare for another try. Raises IntegrityError if the events conflict with what is there."""


class Successive:
    """Events of aggregates, each with the version after the one before."""

    def __init__(self, store: EventStore, streams: list[str], stored: Sequence[StoredEvent]) -> None:
        self._store = store
        self._stored = stored
        self.streams = streams
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        for stream, event in zip(streams, stored, strict=True):
            version = event.originator_version
            if stream not in first:
                first[stream] = version
            elif version != last[stream] + 1:
                raise IntegrityError(
                    f"version {version} of {event.originator_id} does not follow version {last[stream]}"
                )
            last[stream] = version
        if min(first.values()) < 0:
            raise IntegrityError("a version is below 0")
        self._first = first
        self.expected: dict[str, ExpectedVersion] = {
            stream: max(version - 1, 0) for stream, version in first.items()
        }
        self._explicit = {stream for stream, version in first.items() if version <= 1}

    def events(self) -> list[EncodedEvent]:
        rows: list[EncodedEvent] = []
        for stream, event, code in zip(self.streams, self._stored, content_codes(self._stored), strict=True):
            metadata = None
            if stream in self._explicit:
                metadata = b"%b%d}" % (_VERSION_BEGINS, event.originator_version)
            rows.append((event.topic, None, code, event.state, metadata))
        return rows

    def correct(self, error: WrongExpectedVersion) -> None:
        stream = error.stream
        last = self._store.last(stream)
        first = self._first[stream]
        if last is None or version_of(last) != first - 1:
            there = "nothing" if last is None else f"version {version_of(last)}"
            raise IntegrityError(
                f"version {first} of {stream!r} is to be inserted, and {there} is the last that is there"
            ) from error
        self.expected[stream] = last.version
        self._explicit.add(stream)


class Sparse:
    """Snapshots: any versions, each once."""

    def __init__(self, store: EventStore, streams: list[str], stored: Sequence[StoredEvent]) -> None:
        self._store = store
        self._stored = stored
        self.streams = streams
        versions = [event.originator_version for event in stored]
        if len(set(zip(streams, versions, strict=True))) < len(stored):
            raise IntegrityError("a version is inserted twice at once")
        self.expected: dict[str, ExpectedVersion] = {}
        self._highest: dict[str, int] = {}
        for stream in dict.fromkeys(streams):
            self._look(stream)

    def _look(self, stream: str) -> None:
        last = self._store.last(stream)
        self.expected[stream] = self._store.stream_version(stream) if last is None else last.version
        self._highest[stream] = -1 if last is None else _highest_of(last)

    def events(self) -> list[EncodedEvent]:
        highest = dict(self._highest)
        rows: list[EncodedEvent] = []
        for stream, event, code in zip(self.streams, self._stored, content_codes(self._stored), strict=True):
            version = event.originator_version
            highest[stream] = max(highest[stream], version)
            metadata = b'%b%d,"%b":%d}' % (_VERSION_BEGINS, version, _HIGHEST.encode(), highest[stream])
            rows.append((event.topic, id_of_key(f"{stream}/{version}"), code, event.state, metadata))
        return rows

    def correct(self, error: WrongExpectedVersion) -> None:
        self._look(error.stream)


def content_codes(stored: Sequence[StoredEvent]) -> list[int]:
    """Return how each state is kept: as JSON if it is such, so that it can be read and searched as JSON.

    Raises:
        InvalidEvent, EventTooLarge: one cannot be stored.
    """
    for event in stored:
        if event.topic not in _topics:
            if len(_topics) >= _MOST_TOPICS:
                _topics.clear()
            _topics.add(check_type(event.topic))
        if len(event.state) > MAX_EVENT_BYTES:
            raise EventTooLarge(len(event.state), MAX_EVENT_BYTES)
    return [JSON_CODE if is_json else BINARY_CODE for is_json in are_json([event.state for event in stored])]


def are_json(states: Sequence[bytes]) -> list[bool]:
    """Return for each text whether it is a JSON object that evlog keeps byte for byte."""
    likely = [state for state in states if state.startswith(b"{")]
    if not likely:
        return [False] * len(states)
    if _is_json(likely):
        return [state.startswith(b"{") for state in states]
    return [state.startswith(b"{") and _is_json([state]) for state in states]


def _is_json(states: Sequence[bytes]) -> bool:
    try:
        return not check_json(states)  # line breaks would become spaces
    except InvalidEvent:
        return False


# --- reading


def version_of(event: Event) -> int:
    """Return the library's version of an event."""
    metadata = event[8]
    if metadata is None:
        return event.version
    if metadata.startswith(_VERSION_BEGINS):
        digits = metadata[len(_VERSION_BEGINS) : -1]
        if digits.isdigit():
            return int(digits)
    return _number(metadata, _VERSION, event.version)


def _highest_of(event: Event) -> int:
    return _number(event[8] or b"{}", _HIGHEST, version_of(event))


def _number(metadata: bytes, name: str, default: int) -> int:
    """Return a number of the metadata, which others may have written."""
    value = json.loads(metadata).get(name, default)
    return value if isinstance(value, int) else default


def select_successive(
    store: EventStore, stream: str, gt: int | None, lte: int | None, *, desc: bool, limit: int | None
) -> Iterator[tuple[int, Event]]:
    """Return events with their versions, both bounds as `select_events` has them."""
    least = 1 if gt is None else max(gt + 1, 1)  # evlog's version is not smaller
    found = ((version_of(event), event) for event in store.read(stream, least, reverse=desc))
    return islice(_within(found, gt, lte, desc=desc), limit)


def _within(
    found: Iterable[tuple[int, Event]], gt: int | None, lte: int | None, *, desc: bool
) -> Iterator[tuple[int, Event]]:
    for version, event in found:
        if lte is not None and version > lte:
            if desc:
                continue
            return
        if gt is not None and version <= gt:
            if desc:
                return
            continue
        yield version, event


def select_sparse(
    store: EventStore, stream: str, gt: int | None, lte: int | None, *, desc: bool, limit: int | None
) -> Iterator[tuple[int, Event]]:
    """Return the same of events in any order; the last few are found without reading the others."""
    found: dict[int, Event] = {}
    for event in store.read(stream, reverse=True):
        version, highest = version_of(event), _highest_of(event)
        if (gt is None or version > gt) and (lte is None or version <= lte):
            found[version] = event
        bound = highest - (version == highest)  # of all that were inserted before
        is_enough = desc and limit is not None and len(found) >= limit
        if (gt is not None and bound <= gt) or (is_enough and (not limit or sorted(found)[-limit] > bound)):
            break
    return islice(((version, found[version]) for version in sorted(found, reverse=desc)), limit)


# --- ids of aggregates


def originator_id_of(stream: str, *, as_uuid: bool) -> UUID | str:
    """Return the id of the aggregate that a stream is of: what is behind its category."""
    text = stream.partition("-")[2]
    return UUID(text) if as_uuid else text
