"""The recorders of aggregates, applications and processes, and of what was processed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from threading import Event as Flag
from typing import Any, Final, Literal
from uuid import UUID

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    IntegrityError,
    Notification,
    ProcessRecorder,
    Recorder,
    StoredEvent,
    Subscription,
    Tracking,
    TrackingRecorder,
    WaitInterruptedError,
)

from evlog.adapters.eventsourcing.errors import translated
from evlog.adapters.eventsourcing.versions import (
    Insertion,
    Sparse,
    Successive,
    originator_id_of,
    select_sparse,
    select_successive,
    version_of,
)
from evlog.errors import WrongExpectedVersion
from evlog.model.appends import ExpectedVersion
from evlog.model.encoding import encode_events
from evlog.model.events import JSON_CODE, EncodedEvent, Event, NewEvent
from evlog.store import EventStore

EVENTS: Final = "events"
_TRACKED: Final = "Tracked"
_MOST_IDS: Final = 1 << 16
_INTERRUPT_SECONDS: Final = 0.05

OriginatorIdType = Literal["uuid", "text"]
Appends = Iterable[tuple[str, Iterable[NewEvent]]]


class EvlogRecorder(Recorder):
    """What all recorders have.

    Args:
        store: an open store; who opened it closes it.
        application: the name of the application or projection that it belongs to; it begins the names of all
            streams.
        purpose: what is recorded of aggregates: "events", or for example "snapshots".
        originator_id_type: what the ids of aggregates are when they are read.
    """

    def __init__(
        self,
        store: EventStore,
        *,
        application: str = "",
        purpose: str = EVENTS,
        originator_id_type: OriginatorIdType = "uuid",
    ) -> None:
        self.store = store
        self.purpose = purpose
        self.originator_id_type = originator_id_type
        # A category ends at the first dash.
        self._application = application.replace("-", "_") or EVENTS
        self.category = self._application if purpose == EVENTS else f"{self._application}.{purpose}"


class EvlogAggregateRecorder(EvlogRecorder, AggregateRecorder):
    """Records the events of aggregates, each in a stream of its own, or their snapshots."""

    @translated
    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Append the events as one, durable when this returns.

        Raises:
            IntegrityError: a version is there already, or does not follow the last one.
        """
        self._insert(stored_events, **kwargs)
        return None

    def _insert(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int]:
        del kwargs  # for subclasses
        return self._append(stored_events, None) if stored_events else []

    def _append(self, stored: Sequence[StoredEvent], tracking: _Tracking | None) -> Sequence[int]:
        """Append the events, and what was processed with them; return the positions of the events."""
        insertion: Insertion | None = None
        if stored:
            streams = [f"{self.category}-{event.originator_id}" for event in stored]
            kind = Successive if self.purpose == EVENTS else Sparse
            insertion = kind(self.store, streams, stored)
        result = append(self.store, insertion, tracking)
        return result[: len(stored)]

    @translated
    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """Return the events of an aggregate, by version."""
        stream = f"{self.category}-{originator_id}"
        select = select_successive if self.purpose == EVENTS else select_sparse
        found = select(self.store, stream, gt, lte, desc=desc, limit=limit)
        if self.originator_id_type == "text" or not isinstance(originator_id, UUID):
            originator_id = originator_id_of(stream, as_uuid=self.originator_id_type == "uuid")
        return [StoredEvent(originator_id, version, event[3], event[7]) for version, event in found]


class EvlogApplicationRecorder(EvlogAggregateRecorder, ApplicationRecorder):
    """Also gives the events of all aggregates in their order; a notification's id is a position."""

    def __init__(
        self,
        store: EventStore,
        *,
        application: str = "",
        purpose: str = EVENTS,
        originator_id_type: OriginatorIdType = "uuid",
    ) -> None:
        super().__init__(
            store, application=application, purpose=purpose, originator_id_type=originator_id_type
        )
        self._ids: dict[str, UUID | str] = {}  # by stream; not guarded: threads may add the same pairs twice

    @translated
    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Append as `EvlogAggregateRecorder`, and return the notifications' ids."""
        return self._insert(stored_events, **kwargs)

    @translated
    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """Return events from one position to another, both inclusive unless said otherwise."""
        after = 0 if start is None else max(start - inclusive_of_start, 0)
        events = self.store.read_all(after, stop, category=self.category, types=topics or None, limit=limit)
        return list(map(self.notification_of, events))

    @translated
    def max_notification_id(self) -> int | None:
        """Return the position of the last event; None if there is none."""
        events = self.store.read_all(category=self.category, reverse=True, limit=1)
        return next((event.position for event in events), None)

    @translated
    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> EvlogSubscription:
        """Return an iterator over the events behind a position that waits for more."""
        return EvlogSubscription(self, gt, topics)

    def notification_of(self, event: Event) -> Notification:
        """Return an event of one of the aggregates as a notification."""
        position, version, stream, topic, _, _, _, state, metadata = event
        originator_id = self._ids.get(stream)
        if originator_id is None:
            if len(self._ids) >= _MOST_IDS:
                self._ids.clear()
            as_uuid = self.originator_id_type == "uuid"
            originator_id = self._ids[stream] = originator_id_of(stream, as_uuid=as_uuid)
        if metadata is not None:
            version = version_of(event)
        return Notification(originator_id, version, topic, state, position)


class EvlogSubscription(Subscription[EvlogApplicationRecorder]):
    """Events as they come, each once they are durable. `stop`, from any thread, ends it at once."""

    def __init__(
        self, recorder: EvlogApplicationRecorder, gt: int | None = None, topics: Sequence[str] = ()
    ) -> None:
        super().__init__(recorder=recorder, gt=gt, topics=topics)
        self._run = recorder.store.subscribe(after=gt, category=recorder.category, types=topics or None)

    @translated
    def __next__(self) -> Notification:
        event = self._run.next_event()
        if event is None:
            raise StopIteration
        return self._recorder.notification_of(event)

    def stop(self) -> None:
        super().stop()
        self._run.close()


# --- what was processed


class _Tracking:
    """What an append says to have processed of another application, and the stream that has it."""

    def __init__(self, stream: str, tracking: Tracking) -> None:
        self.stream = stream
        self.notification_id = tracking.notification_id
        self.application_name = tracking.application_name

    def expected(self, store: EventStore) -> int:
        """Return the version that the stream must have; raise IntegrityError if that was processed before."""
        last = store.last(self.stream)
        if last is None:
            return store.stream_version(self.stream)
        processed = _notification_id_of(last)
        if processed >= self.notification_id:
            raise IntegrityError(
                f"notification {self.notification_id} of {self.application_name!r} is not after {processed}, "
                "which was processed last"
            )
        return last.version

    def event(self) -> EncodedEvent:
        return _TRACKED, None, JSON_CODE, b'{"notification_id":%d}' % self.notification_id, None


def _notification_id_of(event: Event) -> int:
    return int(json.loads(event.data)["notification_id"])


def append(
    store: EventStore,
    insertion: Insertion | None,
    tracking: _Tracking | None,
    more: tuple[list[str], list[EncodedEvent]] = ([], []),
) -> list[int]:
    """Append all of it as one, or nothing; return the positions.

    Raises:
        IntegrityError: it conflicts with what is there.
    """
    streams = [*(insertion.streams if insertion else ()), *more[0]]
    if tracking is not None:
        streams.append(tracking.stream)
    while True:
        events = [*(insertion.events() if insertion else ()), *more[1]]
        expected: dict[str, ExpectedVersion] = dict(insertion.expected) if insertion else {}
        if tracking is not None:
            events.append(tracking.event())
            expected[tracking.stream] = tracking.expected(store)
        try:
            result = store.append_encoded(streams, events, expected=expected)
        except WrongExpectedVersion as error:
            if insertion is not None and error.stream in insertion.expected:
                insertion.correct(error)
            elif tracking is None or error.stream != tracking.stream:
                raise
            continue  # what was processed is looked up again
        if any(result.duplicates):
            raise IntegrityError(f"a snapshot of {streams[0]!r} with this version is there already")
        return result.positions


class EvlogTrackingRecorder(EvlogRecorder, TrackingRecorder):
    """Records how far another application's events were processed, with what came of it."""

    @translated
    def insert_tracking(self, tracking: Tracking, appends: Appends = ()) -> None:
        """Append what was processed; durable when this returns.

        Args:
            tracking: the application, and the notification; greater than the last one.
            appends: streams and new events for them that are appended together with it: what a read model in
                the same store consists of. So each notification counts once, also after a crash.

        Raises:
            IntegrityError: this notification, or a later one, was processed before. Nothing is appended.
        """
        streams: list[str] = []
        events: list[NewEvent] = []
        for stream, new in appends:
            before = len(events)
            events += new
            streams += [stream] * (len(events) - before)
        append(self.store, None, self._tracking_of(tracking), (streams, encode_events(events)))

    def _tracking_of(self, tracking: Tracking) -> _Tracking:
        return _Tracking(self._tracking_stream(tracking.application_name), tracking)

    def _tracking_stream(self, application_name: str) -> str:
        return f"{self._application}.tracking-{application_name}"

    @translated
    def max_tracking_id(self, application_name: str) -> int | None:
        """Return the last notification of an application that was processed; None if there is none."""
        last = self.store.last(self._tracking_stream(application_name))
        return None if last is None else _notification_id_of(last)

    @translated
    def wait(
        self,
        application_name: str,
        notification_id: int | None,
        timeout: float = 1.0,
        interrupt: Flag | None = None,
    ) -> None:
        """Wait until a notification was processed, by whichever process; this takes milliseconds to notice.

        Raises:
            TimeoutError: it was not in time.
            WaitInterruptedError: `interrupt` was set.
        """
        if self.has_tracking_id(application_name, notification_id):
            return
        deadline = time.monotonic() + timeout
        stream = self._tracking_stream(application_name)
        with self.store.subscribe(stream=stream, after=self.store.head) as run:
            while not self.has_tracking_id(application_name, notification_id):
                if interrupt is not None and interrupt.is_set():
                    raise WaitInterruptedError
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(
                        f"notification {notification_id} of {application_name!r} was not processed within "
                        f"{timeout} seconds"
                    )
                run.next_event(left if interrupt is None else min(left, _INTERRUPT_SECONDS))


class EvlogProcessRecorder(EvlogTrackingRecorder, EvlogApplicationRecorder, ProcessRecorder):
    """Records new events together with what they were made from, in one append: exactly once."""

    def _insert(
        self, stored_events: Sequence[StoredEvent], *, tracking: Tracking | None = None, **kwargs: Any
    ) -> Sequence[int]:
        if tracking is None:
            return super()._insert(stored_events, **kwargs)
        return self._append(stored_events, self._tracking_of(tracking))
