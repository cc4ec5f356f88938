"""The recorders of aggregates, applications and processes, and of what was processed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from threading import Event as Flag
from typing import Any, Final, Literal
from uuid import UUID

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    DataError,
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
from evlog.adapters.eventsourcing.insertion import (
    Others,
    Part,
    Processed,
    Sparse,
    Successive,
    append,
    notification_id_of,
)
from evlog.adapters.eventsourcing.selection import (
    Pages,
    originator_id_of,
    select_sparse,
    select_successive,
    version_of,
)
from evlog.model.encoding import encode_events
from evlog.model.events import Event, NewEvent
from evlog.store import EventStore

EVENTS: Final = "events"
_RECENT: Final = 16
_MOST_IDS: Final = 1 << 16
_INTERRUPT_SECONDS: Final = 0.05

OriginatorIdType = Literal["uuid", "text"]
Appends = Iterable[tuple[str, Iterable[NewEvent]]]


class EvlogRecorder(Recorder):
    """What all recorders have.

    Args:
        store: an open store, which the caller closes.
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
        """Append the events as one; return their positions. Subclasses append more together with them."""
        del kwargs
        return append(self.store, [self._part_of(stored_events)]) if stored_events else []

    def _part_of(self, stored: Sequence[StoredEvent]) -> Part:
        streams: list[str] = []
        before: object = None  # mostly the id of all: the events of an aggregate have the same object
        for event in stored:
            if event.originator_id is not before:
                before = event.originator_id
                name = f"{self.category}-{before}"
            streams.append(name)
        return (Successive if self.purpose == EVENTS else Sparse)(self.store, streams, stored)

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
        """Return the events of an aggregate, by version.

        Raises:
            DataError: one of them was redacted.
        """
        stream = f"{self.category}-{originator_id}"
        select = select_successive if self.purpose == EVENTS else select_sparse
        found = list(select(self.store, stream, gt, lte, desc=desc, limit=limit))
        for version, event in found:
            if event[7] == b"null" and event.redacted:
                raise DataError(
                    f"version {version} of {stream!r} was redacted, so it cannot be rebuilt from its events; "
                    "take a snapshot before events are redacted"
                )
        if self.originator_id_type == "text" or not isinstance(originator_id, UUID):
            originator_id = originator_id_of(stream, as_uuid=self.originator_id_type == "uuid")
        return [StoredEvent(originator_id, version, event[3], event[7]) for version, event in found]


class EvlogApplicationRecorder(EvlogAggregateRecorder, ApplicationRecorder):
    """Also gives the events of all aggregates in their order; a notification's id is a position."""

    def __init__(self, store: EventStore, **options: Any) -> None:
        super().__init__(store, **options)
        self._ids: dict[str, UUID | str] = {}  # by stream; not guarded: threads may add the same pairs twice
        self._pages = Pages(self.store, self.category)

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
        found: Iterable[Event]
        if topics or stop is not None:
            found = self.store.read_all(
                after, stop, category=self.category, types=topics or None, limit=limit
            )
        else:
            found = self._pages.read(after, limit)
        return list(map(self.notification_of, found))

    @translated
    def max_notification_id(self) -> int | None:
        """Return the position of the last event; None if there is none."""
        store, category = self.store, self.category
        for after in (max(store.head - _RECENT, 0), 0):  # as a rule one of the last events is it
            for event in store.read_all(after, category=category, reverse=True, limit=1):
                return event.position
        return None

    @translated
    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> EvlogSubscription:
        """Return an iterator over the events after a position, which waits for more."""
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


class EvlogTrackingRecorder(EvlogRecorder, TrackingRecorder):
    """Records how far another application's events were processed, together with the results."""

    def __init__(self, store: EventStore, **options: Any) -> None:
        super().__init__(store, **options)
        self._known: dict[str, tuple[int, int]] = {}  # see Processed; threads replace whole items

    @translated
    def insert_tracking(self, tracking: Tracking, appends: Appends = ()) -> None:
        """Append what was processed; durable when this returns.

        Args:
            tracking: the application, and the notification; greater than the last one.
            appends: streams and new events for them, appended together: the content of a read model in
                the same store. So each notification counts once, also after a crash.

        Raises:
            IntegrityError: this notification, or a later one, was processed before. Nothing is appended.
        """
        streams: list[str] = []
        events: list[NewEvent] = []
        for stream, new in appends:
            before = len(events)
            events += new
            streams += [stream] * (len(events) - before)
        self._append_processed([Others(streams, list(encode_events(events)))], tracking)

    def _append_processed(self, parts: Sequence[Part], tracking: Tracking) -> Sequence[int]:
        stream = self._tracking_stream(tracking.application_name)
        processed = Processed(self.store, stream, tracking, self._known)
        positions = append(self.store, [*parts, processed])
        processed.done()
        return positions[:-1]

    def _tracking_stream(self, application_name: str) -> str:
        return f"{self._application}.tracking-{application_name}"

    @translated
    def max_tracking_id(self, application_name: str) -> int | None:
        """Return the last notification of an application that was processed; None if there is none."""
        last = self.store.last(self._tracking_stream(application_name))
        return None if last is None else notification_id_of(last)

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
        parts = [self._part_of(stored_events)] if stored_events else []
        return self._append_processed(parts, tracking)
