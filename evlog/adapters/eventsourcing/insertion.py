"""One append for all that a call inserts, and what keeps the library's versions unique.

The library numbers the events of an aggregate itself, from its `INITIAL_VERSION` on: 1, or 0 if a program
says so. evlog numbers the events of a stream from 1 on.

1. Events (`Successive`) follow each other without a gap: version N is appended where the stream is at N - 1.
   The two numbers are the same, and nothing is stored but the event.
2. Where they differ, or could, the event's metadata hold the library's: of aggregates that begin at 0, of
   those that were deleted and begin again, and of what is inserted with the first event.
3. In a stream the library's versions rise, and none is greater than evlog's, so no version is accepted twice
   under rule 1.
4. Snapshots (`Sparse`) have any version, and an older one may come later. Their id is made from it, so each
   is there once; the metadata have the version, and the highest so far, which says how far a search must go.
5. What was processed (`Processed`) is an event in a stream of its own. The next must be of a later
   notification; the stream's expected version makes that certain.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, Protocol

from eventsourcing.persistence import IntegrityError, StoredEvent, Tracking

from evlog.adapters.eventsourcing.selection import SPARSE_METADATA, VERSION_METADATA, highest_of, version_of
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

_TRACKED: Final = "Tracked"
_CODES: Final = (BINARY_CODE, JSON_CODE)
_MOST_TOPICS: Final = 1 << 14

_topics: set[str] = set()  # names that passed the check: a program has few


class Part(Protocol):
    """Events of an append, and what they expect of their streams."""

    streams: list[str]
    expected: dict[str, ExpectedVersion]

    def events(self) -> list[EncodedEvent]:
        """Return the events, one for each of `streams`."""

    def correct(self, error: WrongExpectedVersion) -> None:
        """Prepare for another try. Raises IntegrityError if the events conflict with what is there."""


def append(store: EventStore, parts: Sequence[Part]) -> Sequence[int]:
    """Append all parts as one, or nothing; return the positions.

    Raises:
        IntegrityError: they conflict with what is there.
    """
    streams = [stream for part in parts for stream in part.streams]
    while True:
        events: list[EncodedEvent] = []
        expected: dict[str, ExpectedVersion] = {}
        for part in parts:
            events += part.events()
            expected |= part.expected
        try:
            result = store.append_encoded(streams, events, expected=expected)
        except WrongExpectedVersion as error:
            for part in parts:
                if error.stream in part.expected:
                    part.correct(error)
                    break
            else:
                raise
        else:
            if any(result.duplicates):
                raise IntegrityError(f"all of it is there already, in {streams[0]!r}")
            return result.positions


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
                if version < 0:
                    raise IntegrityError(f"version {version} of {event.originator_id} is below 0")
                first[stream] = version
            elif version != last[stream] + 1:
                raise IntegrityError(
                    f"version {version} of {event.originator_id} does not follow version {last[stream]}"
                )
            last[stream] = version
        self._first = first
        self.expected: dict[str, ExpectedVersion] = {
            stream: version - 1 if version else 0 for stream, version in first.items()
        }
        self._explicit = {stream for stream, version in first.items() if version <= 1}

    def events(self) -> list[EncodedEvent]:
        explicit = self._explicit
        rows: list[EncodedEvent] = []
        for stream, event, code in zip(self.streams, self._stored, _codes(self._stored), strict=True):
            metadata = VERSION_METADATA % event.originator_version if stream in explicit else None
            rows.append((event.topic, None, code, event.state, metadata))
        return rows

    def correct(self, error: WrongExpectedVersion) -> None:
        stream = error.stream
        first, last = self._first[stream], self._store.last(stream)
        if last is None or version_of(last) != first - 1:
            there = "nothing is there" if last is None else f"the last one there is {version_of(last)}"
            raise IntegrityError(f"version {first} cannot be inserted into {stream!r}: {there}") from error
        self.expected[stream] = last.version
        self._explicit.add(stream)


class Sparse:
    """Snapshots: of any versions, each once."""

    def __init__(self, store: EventStore, streams: list[str], stored: Sequence[StoredEvent]) -> None:
        versions = [event.originator_version for event in stored]
        if len(set(zip(streams, versions, strict=True))) < len(stored):
            raise IntegrityError("a version is inserted twice at once")
        self._store = store
        self._stored = stored
        self.streams = streams
        self.expected: dict[str, ExpectedVersion] = {}
        self._highest: dict[str, int] = {}
        for stream in dict.fromkeys(streams):
            self._look(stream)

    def events(self) -> list[EncodedEvent]:
        highest = dict(self._highest)
        rows: list[EncodedEvent] = []
        for stream, event, code in zip(self.streams, self._stored, _codes(self._stored), strict=True):
            version = event.originator_version
            highest[stream] = max(highest[stream], version)
            metadata = SPARSE_METADATA % (version, highest[stream])
            rows.append((event.topic, id_of_key(f"{stream}/{version}"), code, event.state, metadata))
        return rows

    def correct(self, error: WrongExpectedVersion) -> None:
        self._look(error.stream)

    def _look(self, stream: str) -> None:
        version, last = _end_of(self._store, stream)
        self.expected[stream] = version
        self._highest[stream] = -1 if last is None else highest_of(last)


class Processed:
    """What was processed of another application's notifications.

    Args:
        known: by stream, its version and the notification there, as its recorder has seen them last.
    """

    def __init__(
        self, store: EventStore, stream: str, tracking: Tracking, known: dict[str, tuple[int, int]]
    ) -> None:
        self._store = store
        self._tracking = tracking
        self._known = known
        self._stream = stream
        self.streams = [stream]
        self.expected: dict[str, ExpectedVersion] = {}
        version, processed = known.get(stream) or self._look()
        self._expect(version, processed)

    def events(self) -> list[EncodedEvent]:
        data = b'{"notification_id":%d}' % self._tracking.notification_id
        return [(_TRACKED, None, JSON_CODE, data, None)]

    def correct(self, error: WrongExpectedVersion) -> None:
        del error
        self._expect(*self._look())

    def done(self) -> None:
        """Remember this notification, so that the next insertion need not look it up."""
        version = self.expected[self._stream]
        assert isinstance(version, int)
        self._known[self._stream] = version + 1, self._tracking.notification_id

    def _look(self) -> tuple[int, int]:
        version, last = _end_of(self._store, self._stream)
        return version, -1 if last is None else notification_id_of(last)

    def _expect(self, version: int, processed: int) -> None:
        self.expected[self._stream] = version
        tracking = self._tracking
        if processed >= tracking.notification_id:
            raise IntegrityError(
                f"notification {tracking.notification_id} of {tracking.application_name!r} is not after "
                f"{processed}, which was processed last"
            )


def _end_of(store: EventStore, stream: str) -> tuple[int, Event | None]:
    """Return a stream's version and its last event; None for the event if no event is visible."""
    last = store.last(stream)
    if last is None:
        version = store.stream_version(stream)
        last = store.last(stream)  # again: an event may have been appended before the version was read
        if last is None:
            return version, None
    return last.version, last


def notification_id_of(event: Event) -> int:
    """Return the notification that an event of `Processed` is about."""
    return int(json.loads(event.data)["notification_id"])


class Others:
    """Events of a program's own, which expect nothing."""

    def __init__(self, streams: list[str], events: list[EncodedEvent]) -> None:
        self.streams = streams
        self.expected: dict[str, ExpectedVersion] = {}
        self._events = events

    def events(self) -> list[EncodedEvent]:
        return self._events

    def correct(self, error: WrongExpectedVersion) -> None:
        raise error


def _codes(stored: Sequence[StoredEvent]) -> list[int]:
    """Return how each state is kept. Raises InvalidEvent or EventTooLarge for one that cannot be."""
    states = [event.state for event in stored]
    for topic in {event.topic for event in stored} - _topics:
        if len(_topics) >= _MOST_TOPICS:
            _topics.clear()
        _topics.add(check_type(topic))
    if (size := max(map(len, states))) > MAX_EVENT_BYTES:
        raise EventTooLarge(size, MAX_EVENT_BYTES)
    return [_CODES[is_json] for is_json in are_json(states)]


def are_json(states: Sequence[bytes]) -> list[bool]:
    """Return for each state whether it is a JSON object that evlog keeps byte for byte.

    It is then kept as JSON, so that it can be read and searched as such, else as binary.
    """
    likely = [state.startswith(b"{") for state in states]
    if not any(likely) or (all(likely) and _is_json(states)):
        return likely
    return [state.startswith(b"{") and _is_json([state]) for state in states]


def _is_json(states: Sequence[bytes]) -> bool:
    try:
        return not check_json(states)  # line breaks would become spaces
    except InvalidEvent:
        return False
