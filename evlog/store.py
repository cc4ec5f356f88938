"""EventStore: the whole of evlog for a Python program. Read this first.

    NewEvent -> encode_events -> Engine.append          Event <- Engine.read_stream, Engine.read_all

`open` chooses the engine: a directory, or a server by its URL. An `EventStore` checks arguments, encodes
events and passes them on; `evlog/engine.py` says what an engine does. Every method may be called from any
thread.
"""

from __future__ import annotations

import os
from _weakref import ref  # weakref has it too, but costs an import

from evlog.errors import (
    EventNotFound,
    ExtraNotInstalled,
    IdConflict,
    InvalidArgument,
    InvalidEvent,
    InvalidSchema,
    SchemaViolation,
)
from evlog.model.appends import (
    ANY,
    AppendRequest,
    Expectation,
    Results,
    SchemasChanged,
    check_expected,
    result_of,
    results_by_stream,
    split_conditions,
)
from evlog.model.arguments import (
    check_functions,
    check_number,
    check_ordinary,
    check_seconds,
    check_texts,
    list_of,
    maybe_number,
    maybe_whole,
)
from evlog.model.encoding import encode_events
from evlog.model.events import (
    SYSTEM_PREFIX,
    NewEvent,
    check_readable_name,
    check_stream_name,
    id_of_key,
    id_text,
    upcast_all,
)
from evlog.model.filters import LogSelection, StreamSelection, check_category, make_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime, timedelta
    from typing import Any, Final, NoReturn, Self, TypeVar
    from uuid import UUID

    from evlog.engine import Capabilities, Engine, Progress
    from evlog.model.appends import AppendResult, BatchResult
    from evlog.model.checkpoints import ParkedEvent
    from evlog.model.events import EncodedEvent, Event, Upcast
    from evlog.model.history import Standing
    from evlog.model.new_events import NewEvents
    from evlog.model.queries import IfNone, Query, QueryResult
    from evlog.model.redaction import Redaction, RedactionResult
    from evlog.model.reports import (
        Compaction,
        PolicyInfo,
        Retention,
        StoreInfo,
        StreamInfo,
        TornTail,
        VerifyReport,
    )
    from evlog.model.types import Append, Condition, ExpectedVersion, OnFailure, Sync
    from evlog.schemas.registry import Schema, Schemas
    from evlog.state.compute import State
    from evlog.state.fold import Fold, S
    from evlog.state.snapshots import SnapshotInfo
    from evlog.state.trace import TracedEvent
    from evlog.state.upcasting import Upcasters
    from evlog.subscriptions.named import ReplayResult, SubscriptionInfo
    from evlog.subscriptions.run import Subscription

    _Item = TypeVar("_Item")


def open(
    path: str | os.PathLike[str],
    create: bool = False,
    *,
    segment_bytes: int | None = None,
    segment_events: int | None = None,
    sync: Sync = "always",
    lock_timeout: float | None = None,
    upcasters: Upcasters | None = None,
) -> EventStore:
    """Open the store in a directory, or on a server.

    Args:
        path: the directory, or a URL (`scheme://…`) of a server whose engine is installed.
        create: create the store if there is none, durable when this returns.
        segment_bytes: size in bytes at which a new store in a directory begins another segment (64 MiB).
        segment_events: number of events at which it begins another segment (262,144).
        sync: "always": an append returns when it is on the device. "none": when the operating system has
            it, which survives the process but not a power loss.
        lock_timeout: seconds that an append waits for other writers; None waits without a limit. The lock is
            freed when its holder dies, so only a suspended process can hold it up.
        upcasters: what turns old events into today's shape whenever this object reads them.

    Raises:
        StoreNotFound: there is no store, and `create` is false.
        NotAStore: the path holds something else.
        UnsupportedFormat: it was written by a newer evlog.
        CorruptionError: its manifest or the beginning of its active log is damaged.
        StoreAccessDenied, StoreFull: the file system refuses.
        InvalidArgument: a setting is out of bounds, or no engine has the URL's scheme.
    """
    if sync not in ("always", "none"):
        raise InvalidArgument(f"invalid sync {sync!r}; use 'always' or 'none'")
    (lock_timeout,) = check_seconds(lock_timeout=lock_timeout)
    if isinstance(path, str) and "://" in path:
        from evlog.engine import maybe_find_opener

        opener = maybe_find_opener(path)
        if opener is not None:
            if segment_bytes is not None or segment_events is not None:
                raise InvalidArgument("segment_bytes and segment_events are for a store in a directory")
            return EventStore(
                opener(path, create=create, sync=sync == "always", lock_timeout_seconds=lock_timeout),
                upcasters=upcasters,
            )
    from evlog.files.engine import DirectoryEngine
    from evlog.files.format.paths import check_path

    return EventStore(
        DirectoryEngine(
            check_path(path),
            create=create,
            segment_bytes=segment_bytes,
            segment_events=segment_events,
            sync=sync == "always",
            lock_timeout_seconds=lock_timeout,
        ),
        upcasters=upcasters,
    )


class EventStore:
    """An open store. Made by `evlog.open`; a context manager that closes it.

    Attributes:
        engine: what the store runs on, an `evlog.engine.Engine`.
        path: the store's directory, absolute, or its URL without a password.
        created: whether opening it has created the store.
    """

    def __init__(self, engine: Engine, *, upcasters: Upcasters | None = None) -> None:
        self.engine = engine
        self._upcast = None if upcasters is None else _upcast_of(upcasters)
        self.path = engine.address
        self.created = engine.created
        self._closed = False
        # As last read; None until the engine reports that there are schemas. Threads replace it whole.
        self._schemas: Schemas | None = None
        # The subscriptions that were begun, weakly. Threads add to it and copy it, each in one step of C.
        self._runs: set[ref[Subscription]] = set()

    def close(self) -> None:
        """Close the store and end its subscriptions. What was acknowledged is durable already.

        Threads that use the store get StoreClosed; reads under way may continue.

        Raises:
            StoreFull, StoreIOError: a checkpoint could not be saved; the last events will come again.
        """
        self._closed = True
        failure: BaseException | None = None
        for begun in list(self._runs):
            if (run := begun()) is not None:
                try:
                    run.close_with_store()
                except BaseException as error:  # noqa: BLE001 - the others are closed all the same
                    failure = failure or error
        self.engine.close()
        if failure is not None:
            raise failure

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<EventStore {self.path!r}{' (closed)' if self._closed else ''}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an EventStore cannot be copied or sent to another process; call evlog.open(store.path) there"
        )

    # --- appending

    def append(
        self,
        stream: str,
        events: Iterable[NewEvent],
        expected: ExpectedVersion = ANY,
        *,
        conditions: Condition | Iterable[Condition] = (),
    ) -> AppendResult:
        """Append events to one stream, all of them or none.

        Durable when this returns, also if it is a duplicate, unless the store was opened with sync="none".

        Args:
            stream: the stream's name; it begins to exist with its first event.
            events: at least one. Their ids, where given, make a retry harmless: if all are known with the
                same stream, type and data, nothing is written and the result says `duplicate`.
            expected: the version that the stream must have, or ANY, NO_STREAM (0) or STREAM_EXISTS, with the
                meaning of KurrentDB's ExpectedVersion (whose first version is 0 where evlog's is 1).
            conditions: what else must be true: an IfNone (no event matches a query: the append condition of
                dcb.events), an IfVersion (another stream is at a version), or a list of them.

        Raises:
            WrongExpectedVersion: the stream has another version. Nothing was written, as with all below.
            ConditionFailed: an event matches the query of a condition.
            IdConflict: an id is known with other content, or only some of the ids are known.
            InvalidArgument: a bad name or event, or one that is too large.
            SchemaViolation: its data does not fit the schema of its type.
            LockTimeout: other writers held the lock for longer than `lock_timeout`.
            StoreFull: the disk is full; the store works again once there is space.
            StoreIOError: the disk failed. The append is not acknowledged and may or may not be there: open
                the store again and retry with the same ids.
            CorruptionError: acknowledged events are damaged at the place to append to.
        """
        encoded = encode_events(_as_list(events))
        expected = check_expected(expected)
        # The engine checks the stream's name.
        expectations = () if expected == ANY else (Expectation(0, stream, expected),)
        batch = self._append([stream] * len(encoded), encoded, expectations, conditions)
        return result_of(batch, 0, len(encoded))

    def append_many(
        self,
        appends: Iterable[Append] | NewEvents,
        *,
        conditions: Condition | Iterable[Condition] = (),
        skip_known: bool = False,
    ) -> Sequence[AppendResult]:
        """Append to several streams in one atomic frame: all of it, or nothing.

        Args:
            appends: (stream, events) or (stream, events, expected); the versions are checked in order, each
                after what comes before it in the same call. Or NewEvents: each of its events is an append.
            conditions: as `append`; they are about the log before this call.
            skip_known: skip events whose id is known with the same content, instead of refusing a batch of
                which only a part is known. So an import can run again whatever was added to its input. No
                append may then expect a version.

        Returns:
            One result for each append, in order; `duplicate` says that all its events were known.

        Raises:
            As `append`. An InvalidEvent or EventTooLarge says by `index` which of NewEvents it is.
        """
        if appends.__class__ is not list:  # the common case needs no import
            from evlog.model.new_events import NewEvents

            if isinstance(appends, NewEvents):
                columns = appends.streams, appends.encode()
                batch = self._append(*columns, (), conditions, skip_known=skip_known)
                return Results(batch, range(1, len(appends) + 1))
        streams: list[str] = []
        events: list[NewEvent] = []
        expectations: list[Expectation] = []
        ends: list[int] = []
        end = 0
        for append in list_of("appends", appends):
            try:
                stream, new = append[0], append[1]
                if len(append) > 3:
                    raise TypeError
            except (TypeError, LookupError):
                raise InvalidArgument(
                    f"invalid append {append!r}; give (stream, events) or (stream, events, expected)"
                ) from None
            if len(append) > 2 and (expected := check_expected(append[2])) != ANY:
                expectations.append(Expectation(end, check_stream_name(stream), expected))
            events += new if new.__class__ is list else _as_list(new)
            count = len(events) - end
            if count == 1:
                streams.append(stream)
            elif count:
                streams.extend((stream,) * count)
            else:
                raise InvalidArgument("no events to append; give at least one event for each stream")
            end += count
            ends.append(end)
        if skip_known and expectations:
            raise InvalidArgument(
                "skip_known takes no expected versions: what is skipped was appended at an older one",
                "give pairs (stream, events)",
            )
        encoded = encode_events(events)
        return Results(self._append(streams, encoded, expectations, conditions, skip_known=skip_known), ends)

    def append_encoded(
        self,
        streams: Sequence[str],
        events: Sequence[EncodedEvent],
        *,
        expected: Mapping[str, ExpectedVersion] | None = None,
        conditions: Condition | Iterable[Condition] = (),
        skip_known: bool = False,
    ) -> BatchResult:
        """Append events that are encoded already, as one frame: what importers use.

        Args:
            streams: the stream of each event.
            events: as `evlog.model.encoding.encode_events` makes them; their data is not checked again.
            expected: the version that a stream must have before all this.
            conditions: as `append_many`.
            skip_known: skip events whose id is known with the same content, instead of refusing a batch of
                which only a part is known.

        Raises:
            As `append`.
        """
        streams, events = list_of("streams", streams), list_of("events", events)
        if len(streams) != len(events):
            raise InvalidArgument(
                f"{len(events)} events for {len(streams)} streams; give one stream for each event"
            )
        if expected is not None and not hasattr(expected, "items"):
            raise InvalidArgument(f"expected cannot be {expected!r:.80}; give a dict of versions by stream")
        expectations = [
            Expectation(0, check_stream_name(stream), check_expected(version))
            for stream, version in (expected or {}).items()
        ]
        return self._append(streams, events, expectations, conditions, skip_known=skip_known)

    def transact(
        self,
        about: str | Query,
        decide: Callable[[list[Event]], Iterable[NewEvent | tuple[str, Iterable[NewEvent]]] | None],
        *,
        retries: int = 10,
        key: str | None = None,
    ) -> Sequence[AppendResult]:
        """Read a stream or a query, decide, and append what was decided; again if another writer was first.

        The decision is appended only if the stream is still at the version that was read, or if no new event
        matches the query. Durable when this returns.

        Args:
            about: what the decision is made from: the name of a stream, which need not exist yet, or a Query.
            decide: called with the events; it returns new events for the stream, and pairs (stream, events)
                for other streams, which are appended together. None or nothing: nothing is appended. It may
                be called several times. What it raises ends the transaction.
            retries: how often a decision that came too late is made again, after a short pause.
            key: any text that names this decision: it is made once, also across crashes. The n-th event
                has the idempotency key `KEY/n`; when KEY/1 is known, `decide` is not called, and the result
                is that of the first time. A decision to append nothing is not remembered.

        Returns:
            A result for each stream in turn; none if nothing was appended.

        Raises:
            WrongExpectedVersion, ConditionFailed: other writers were first each time. Nothing was written.
            As `append`, and what `decide` raises.
        """
        from evlog.decisions.transact import transact

        if isinstance(about, str):
            check_stream_name(about)
        retries = check_number("retries", retries)
        check_ordinary("decide", decide, may_yield=True)
        if key is not None:
            id_of_key(key)  # raises if the text cannot be a key, before anything is decided

        def encoded(history: list[Event], _place: int) -> tuple[list[str], list[EncodedEvent]]:
            streams: list[str] = []
            events: list[NewEvent] = []
            for item in _as_list(decide(history) or ()):
                if isinstance(item, tuple):
                    try:
                        stream, given = item
                    except ValueError:
                        raise InvalidArgument(
                            f"invalid pair {item!r:.80}; return pairs of a stream and its events"
                        ) from None
                    new = _as_list(given)
                elif isinstance(about, str):
                    stream, new = about, [item]
                else:
                    raise InvalidArgument("an event has no stream; return pairs of a stream and its events")
                before = len(events)
                events += new
                streams += [stream] * (len(events) - before)
            return streams, list(encode_events(events))

        batch = transact(self, about, encoded, retries=retries, key=key)
        return [] if batch is None else results_by_stream(batch)

    def _append(
        self,
        streams: Sequence[str],
        events: Sequence[EncodedEvent],
        expectations: Sequence[Expectation],
        conditions: Condition | Iterable[Condition],
        *,
        skip_known: bool = False,
    ) -> BatchResult:
        """Append what fits its schemas; have a conflict name the key that its id was made from."""
        queries: Sequence[IfNone] = ()
        if conditions != ():
            versions, queries = split_conditions(conditions)
            expectations = (*expectations, *(Expectation(0, each.stream, each.version) for each in versions))
        schemas = self._schemas
        try:
            while True:
                try:
                    if schemas is not None:
                        schemas.check(self.engine, events)
                    version = 0 if schemas is None else schemas.version
                    return self.engine.append(
                        AppendRequest(streams, events, expectations, queries, skip_known, version, False)
                    )
                except (SchemasChanged, SchemaViolation, InvalidSchema, ExtraNotInstalled):
                    from evlog.schemas.registry import maybe_newer

                    schemas = maybe_newer(self.engine, schemas)
                    if schemas is None:
                        raise
                    self._schemas = schemas
        except IdConflict as error:
            from evlog.model.links import KEY, text_in

            metadata = [event[4] for event in events if event[1] and id_text(event[1]) == error.id]
            key = text_in(metadata[0], KEY) if metadata else None
            if key is None:
                raise
            raise IdConflict(error.id, error.stream, error.position, error.reason, key) from None

    # --- reading

    def read(
        self,
        stream: str,
        from_version: int = 1,
        to_version: int | None = None,
        *,
        types: Collection[str] | None = None,
        tags: Collection[str] | None = None,
        correlation: UUID | str | None = None,
        metadata: Mapping[str, object] | None = None,
        grep: str | Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[Event]:
        """Iterate over the visible events of one stream, in version order; none if it does not exist.

        As for `last` and `stream_version`, a stream that does not exist has no events; only methods that
        change it raise StreamNotFound. Events that the stream's retention hides when the iteration begins are
        left out, see `set_retention`.

        Args:
            from_version, to_version: inclusive: versions have no gaps, so the next one is known. Positions
                have gaps; `read_all` and `subscribe` begin after the last one that was seen, with `after`.
            types: only events of these types.
            tags: only events that have all of these tags.
            correlation: only events with this correlation id.
            metadata: only events whose metadata have these fields, e.g. {"user": "ann"}: with this string, or
                with what is written like this in JSON.
            grep: only events in whose data, metadata or tags this is found: a text, a regular expression of
                Python's, or several of them.
            since, until: aware datetimes; `since` is inclusive, `until` is not.
            reverse: from the last to the first.
            limit: at most this many events.

        Raises:
            CorruptionError: while iterating, when an event is damaged; those before it were right.
            InvalidArgument: a bound is negative, a datetime has no time zone, or another thread takes events
                of the same iterator: a store is for all threads, an iterator for one at a time.
        """
        from_version = check_number("from_version", from_version)
        to_version, limit = maybe_number("to_version", to_version), maybe_number("limit", limit)
        check_readable_name(stream)
        filter = make_filter(
            None, None, types, since, until, tags, correlation=correlation, metadata=metadata, grep=grep
        )
        selection = StreamSelection(stream, from_version, to_version, filter, limit, reverse)
        return self._in_shape(self.engine.read_stream(selection))

    def read_all(
        self,
        after: int = 0,
        to: int | None = None,
        *,
        category: str | None = None,
        types: Collection[str] | None = None,
        tags: Collection[str] | None = None,
        correlation: UUID | str | None = None,
        metadata: Mapping[str, object] | None = None,
        grep: str | Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        reverse: bool = False,
        limit: int | None = None,
        include_system: bool = False,
    ) -> Iterator[Event]:
        """Iterate over the events of all streams, in the order in which they were written.

        Events that the retention of their stream hides are included until a compaction removes them. The
        store's own events have positions, too: where they are left out, positions have gaps.

        Args:
            after: a position, exclusive: "where I stopped". to: a position, inclusive.
            category: only streams of this category.
            types, tags, correlation, metadata, grep, since, until, reverse, limit: as `read`.
            include_system: also the store's own events, in streams whose names begin with `$`.

        Raises:
            As `read`.
        """
        after, to, limit = check_number("after", after), maybe_number("to", to), maybe_number("limit", limit)
        filter = make_filter(
            None,
            category,
            types,
            since,
            until,
            tags,
            include_system,
            correlation=correlation,
            metadata=metadata,
            grep=grep,
        )
        return self._in_shape(self.engine.read_all(LogSelection(after, to, filter, limit, reverse)))

    def _in_shape(self, events: Iterator[Event]) -> Iterator[Event]:
        """Iterate over events in today's shape."""
        return upcast_all(events, self._upcast)

    def query(self, query: Query | str) -> QueryResult:
        """Return the events that a query selects, in the order of the log: what a decision is based on.

        Events that retention hides are included until a compaction removes them; the store's own are not. All
        of them are in memory at once.

        Args:
            query: a Query, or its text such as "type=Enrolled|Moved,tag=course:c1".

        Returns:
            A list, whose `position` is the position it was made at, also when nothing matched. With its
            `unchanged` as a condition, `append` appends only if nothing that matches has come since.
        """
        from evlog.model.queries import QueryResult, as_query

        query = as_query(query)
        position = self.engine.head()
        found: dict[int, Event] = {}
        for types, tags in query.items:
            filter = make_filter(None, None, types or None, tags=tags)
            events = self.engine.read_all(LogSelection(0, position, filter))
            found.update((event[0], event) for event in self._in_shape(events))
        ordered = sorted(found) if len(query.items) > 1 else found
        return QueryResult(query, map(found.__getitem__, ordered), position)

    def get(self, event: UUID | str | bytes | int) -> Event:
        """Return one event: by its id (a UUID, its text, or its 16 bytes), or by its position.

        An event that retention hides is returned until a compaction removes it.

        Raises:
            EventNotFound: there is none, or it was removed.
            InvalidArgument: this is neither an id nor a position.
        """
        found = self._get_stored(event)
        return found if self._upcast is None else self._upcast(found)

    def _get_stored(self, event: UUID | str | bytes | int) -> Event:
        position: int | None = maybe_whole(event)
        if position is not None:
            check_number("position", position)
            name: str | int = position
        else:
            from evlog.model.encoding import encode_id

            try:
                id = encode_id(event)  # type: ignore[arg-type]  # it is no int
            except InvalidEvent:
                raise InvalidArgument(f"invalid event {event!r:.80}; give its id or its position") from None
            name, position = id_text(id), self.engine.find_ids([id]).get(id)
        if position:
            for found in self.engine.read_all(LogSelection.at(position)):
                return found
        raise EventNotFound(name, removed=isinstance(name, str) and position is not None)

    def last(self, stream: str) -> Event | None:
        """Return the last visible event of a stream; None if it has none, or does not exist."""
        return next(self.read(stream, reverse=True, limit=1), None)

    def trace(self, event: UUID | str | bytes | int) -> list[TracedEvent]:
        """Return the story of an event, by position: causes, effects, and all with its correlation id.

        An event without a correlation id is the beginning of a story that has its id. The log is searched, at
        about a million events a second; the story is in memory.

        Args:
            event: an id or a position, as `get` takes them.

        Raises:
            EventNotFound: there is none, or it was removed.
        """
        from evlog.state.trace import trace

        return trace(self.engine, self._get_stored(event), self._get_stored, self._upcast)

    def stream_version(self, stream: str) -> int:
        """Return the version of the stream's last event, visible or not; 0 if it never had one.

        A deleted stream keeps its version: its next event has the version after it. See `has_stream`.
        """
        return self.engine.versions([check_readable_name(stream)])[0]

    def has_stream(self, stream: str) -> bool:
        """Return whether the stream has events and is not deleted: what STREAM_EXISTS requires."""
        return self.stream_version(stream) > 0 and not self.engine.retention(stream, None).deleted

    def streams(
        self,
        category: str | None = None,
        prefix: str | None = None,
        *,
        include_deleted: bool = False,
        include_system: bool = False,
    ) -> Iterator[StreamInfo]:
        """Iterate over the streams by name, all or those of a category or with a prefix.

        Args:
            include_deleted: also streams that were deleted; nothing of them is visible.
            include_system: also the store's own, whose names begin with `$`.
        """
        check_texts(prefix=prefix)
        check_category(category)
        return self.engine.streams(
            category, prefix, include_deleted=include_deleted, include_system=include_system
        )

    # --- states

    def state(
        self,
        stream: str | None = None,
        fold: Fold[S] | Callable[[Any, Event], Any] | None = None,
        initial: Any = None,
        *,
        at: int | None = None,
        until: datetime | None = None,
        snapshot: str | None = None,
        category: str | None = None,
        types: Collection[str] | None = None,
        tags: Collection[str] | None = None,
        correlation: UUID | str | None = None,
        metadata: Mapping[str, object] | None = None,
        grep: str | Collection[str] | None = None,
        since: datetime | None = None,
        query: Query | str | None = None,
    ) -> State[S]:
        """Fold events into a state: those of a stream by version, or a selection of the log by position.

        The events of a stream that retention hides are left out; a selection has them until a compaction
        removes them.

        Args:
            stream: its events are folded; left out, those of all streams.
            fold: a function of a state and an event that returns the next state, or a Fold; left out, the
                data of the events are merged (JSON Merge Patch, RFC 7396).
            initial: the state before the first event, or a function that makes it; each call gets a copy.
            at: the state as of this version of the stream, or without one as of this position.
            until: the state as of this time: only events before it.
            snapshot: keep the result under this name, and next time fold only what is new. State and position
                are saved in one step, so a selection's snapshot is a projection that has each event exactly
                once. The state must be JSON, or what a Fold's `kind` says. A snapshot is rebuilt by itself
                whenever it is not what all events would give: with another fold or selection, after a
                restore, deletion, or change of retention.
            category, types, tags, correlation, metadata, grep, since: as `read_all`.
            query: a Query or its text, instead of types and tags; not with a stream.

        Raises:
            InvalidArgument: arguments that make no sense, or a state that is not JSON for a snapshot.
            StoreAccessDenied, StoreFull: the snapshot cannot be saved.
            CorruptionError: an event is damaged. What the fold raises.
        """
        from evlog.model.queries import as_query
        from evlog.state.compute import Selection, compute
        from evlog.state.fold import as_fold

        at = maybe_number("at", at)
        if stream is not None:
            check_readable_name(stream)
            if category is not None or query is not None:
                raise InvalidArgument("stream excludes category and query; give one of them")
        if query is not None and (types is not None or tags):
            raise InvalidArgument("query excludes types and tags; put them into the query")
        folding = as_fold(fold, initial)
        filter = make_filter(
            None, category, types, since, until, tags, correlation=correlation, metadata=metadata, grep=grep
        )
        selection = Selection(stream, filter, None if query is None else as_query(query), at)
        state, keep = compute(self.engine, selection, folding, snapshot, self._upcast)
        keep()
        return state._replace(value=folding.value(state.value))

    def snapshots(self) -> list[SnapshotInfo]:
        """Return the snapshots that `state` keeps, by name; one that is damaged says so in `damage`."""
        from evlog.state.snapshots import list_all

        return list_all(self.engine)

    def snapshot(self, name: str, stream: str | None = None) -> SnapshotInfo:
        """Return a snapshot of a stream, or of a selection of the log, as it was saved last.

        Raises:
            SnapshotNotFound: there is none. CorruptionError: it is damaged; the next `state` rebuilds it.
        """
        from evlog.state.snapshots import describe

        _check_stream(stream)
        return describe(self.engine, name, stream)

    def delete_snapshot(self, name: str, stream: str | None = None) -> None:
        """Delete a snapshot, also a damaged one; durable when this returns.

        Raises:
            SnapshotNotFound: there is none.
        """
        from evlog.state.snapshots import delete

        _check_stream(stream)
        delete(self.engine, name, stream)

    def wait_for(
        self, name: str, position: int, *, stream: str | None = None, timeout: float | None = None
    ) -> bool:
        """Wait until a snapshot has everything up to a position, so that a program reads its own writes.

        Another thread or process keeps the snapshot, which may not exist yet.

        Args:
            name: of the snapshot; with `stream` of that stream's.
            position: such as the `last_position` of an append.
            timeout: seconds; None waits without a limit.

        Returns:
            Whether the snapshot came that far in time.
        """
        from evlog.model.checkpoints import check_kept_name
        from evlog.state.snapshots import position_of

        check_kept_name(name, "snapshot")
        position = check_number("position", position)
        _check_stream(stream)
        return _wait_until(lambda: position_of(self.engine, name, stream) >= position, timeout)

    # --- the store

    @property
    def head(self) -> int:
        """The last position in the log, 0 when it is empty."""
        return self.engine.head()

    @property
    def id(self) -> UUID:
        """The store's own id."""
        from uuid import UUID

        return UUID(self.engine.store_id)

    @property
    def capabilities(self) -> Capabilities:
        """What the store's engine can do."""
        return self.engine.capabilities

    @property
    def standing(self) -> Standing:
        """Whether the store is a mirror, or has moved: then it refuses every change. `evlog help mirror`."""
        return self.engine.standing

    @property
    def torn_tails(self) -> Sequence[TornTail]:
        """What this object removed from the end of the log: appends that a crash left unfinished."""
        return self.engine.torn_tails

    def info(self) -> StoreInfo:
        """Return the store in numbers: events, streams, bytes, segments, first and last position and time."""
        return self.engine.info()

    # --- schemas

    def set_schema(self, type: str, schema: dict[str, Any] | bool | str | bytes) -> Schema:
        """Set the JSON Schema that the data of an event type has to fit from now on; durable on return.

        Appends that begin later are checked, in every process. Events that are there are not. Each schema is
        an event of the store's own, so earlier versions are kept. Needs the extra `schemas`.

        Args:
            type: the event type.
            schema: a JSON Schema, or its JSON text. It must not refer to anything outside itself.

        Returns:
            The schema with its version; the present one if nothing changes.

        Raises:
            InvalidSchema: it is not a JSON Schema.
            ExtraNotInstalled: the library that checks data is missing.
            As `append`.
        """
        from evlog.schemas.registry import set_schema

        return set_schema(self.engine, type, schema)

    def schema(self, type: str, version: int | None = None) -> Schema:
        """Return the schema of an event type, or an earlier version of it, also of a removed one.

        Raises:
            SchemaNotFound: there is none.
        """
        from evlog.schemas.registry import find

        version = maybe_number("version", version)
        return find(self.engine, type, version)

    def schemas(self) -> list[Schema]:
        """Return the schemas in force, by type."""
        from evlog.schemas.registry import load

        return [schema for _, schema in sorted(load(self.engine).current.items())]

    def remove_schema(self, type: str) -> None:
        """Stop checking an event type; its schema's versions are kept. Durable when this returns.

        Raises:
            SchemaNotFound: it has none.
        """
        from evlog.schemas.registry import remove_schema

        remove_schema(self.engine, type)

    # --- following

    def subscribe(
        self,
        name: str | None = None,
        *,
        after: int | None = None,
        stream: str | None = None,
        category: str | None = None,
        types: Collection[str] | None = None,
        tags: Collection[str] | None = None,
        correlation: UUID | str | None = None,
        metadata: Mapping[str, object] | None = None,
        grep: str | Collection[str] | None = None,
        since: datetime | None = None,
        to: int | None = None,
        follow: bool = True,
        idle: float | None = None,
        timeout: float | None = None,
        shard: tuple[int, int] | None = None,
    ) -> Subscription:
        """Follow the log: every matching event in position order, also those that come later.

        An event is delivered once it is acknowledged by its writer. Within one run every event comes exactly
        once; events that a named subscription delivered and did not save when it died come again in its next
        run. Events that a policy hides are delivered until a compaction removes them, as in `read_all`.

        Args:
            name: a durable subscription (1 to 100 bytes of UTF-8); its next run continues where it ended.
            after: the first run begins after this position; left out, at the beginning.
            stream, category, types, tags, correlation, metadata, grep: only these events, as `read_all`. A
                name keeps its filter: its next run need not give one.
            since: the first run begins with the first event written at or after this time.
            to: the run ends after this position, which it waits for. So the next run continues after it.
            follow: wait for more; if false, end at the present end of the log.
            idle: seconds; the iteration ends when no event came for this long.
            timeout: seconds; this long after its begin the iteration delivers what is committed by then, and
                ends. None, of both: wait without a limit. The command line's options have the same names.
            shard: (K, N): N runs share the name, and this one takes the streams whose hash is K, from 1 to N.
                Each has a checkpoint of its own, `NAME#K/N`; the first run creates all N. The number of runs
                can change once all shards are at the same position: the new ones continue there.

        Raises:
            SubscriptionBusy: a run of this name and shard is under way, or any run with another N.
            ShardsApart: the N of a name changes, and its shards are not at the same position.
            InvalidArgument: a bad name or bound, another filter than the name has, or for the first run of a
                name a beginning that is not in the log yet.
            SubscriptionAhead: the log does not have the event at which the subscription is: one of them was
                restored from another copy. `reset_subscription` says where to continue.
            CorruptionError: the checkpoint is damaged.
            StoreAccessDenied: a named subscription has to write its checkpoint, and may not.
        """
        from evlog.subscriptions.named import begin

        after, to = maybe_number("after", after), maybe_number("to", to)
        idle, timeout = check_seconds(idle=idle, timeout=timeout)
        if stream is not None:
            check_readable_name(stream)
            if category is not None:
                raise InvalidArgument("stream and category exclude each other; give one of them")
        filter = make_filter(
            stream, category, types, since, None, tags, correlation=correlation, metadata=metadata, grep=grep
        )
        run = begin(
            self.engine,
            name,
            filter,
            after,
            to=to,
            follow=follow,
            idle_seconds=idle,
            timeout_seconds=timeout,
            shard=shard,
            upcast=self._upcast,
        )
        self._runs.add(ref(run, self._runs.discard))
        if self._closed:  # by another thread, which may not have seen this run
            run.close_with_store()
        return run

    def consume(
        self,
        name: str,
        handler: Callable[[Event], object] | Callable[[Event, Any], object],
        *,
        after: int | None = None,
        stream: str | None = None,
        category: str | None = None,
        types: Collection[str] | None = None,
        tags: Collection[str] | None = None,
        correlation: UUID | str | None = None,
        metadata: Mapping[str, object] | None = None,
        grep: str | Collection[str] | None = None,
        since: datetime | None = None,
        to: int | None = None,
        follow: bool = True,
        idle: float | None = None,
        timeout: float | None = None,
        shard: tuple[int, int] | None = None,
        retries: int = 3,
        retry_delay: float | None = None,
        on_failure: OnFailure = "stop",
        in_transaction: bool = False,
    ) -> None:
        """Call the handler with every event of a named subscription: at least once, in order.

        The checkpoint passes an event after the handler has returned. Returns when the subscription ends: by
        `to`, `follow`, `idle` or `timeout`; raises StoreClosed when the store is closed. To end it from
        another thread or a signal handler, take the two steps that this takes, and call `stop` of the run:

            with store.subscribe(name) as run:
                signal.signal(signal.SIGTERM, lambda *_: run.stop())
                run.consume(handler)

        Args:
            handler: called with the event. It has failed if it, or an upcaster of the event, raises an
                Exception. A coroutine or generator function is refused, because calling it runs nothing; use
                evlog.aio with asyncio.
            in_transaction: call the handler with the event and a connection to the store's database, in a
                transaction that also saves the checkpoint: what the handler writes by that connection is
                there exactly once. See `Subscription.transaction`. Only PostgreSQL offers it.
            retries: how many times the handler fails on one event before `on_failure` decides; 0 counts as 1.
            retry_delay: seconds between two tries; None: 0.1 s, 0.2 s … 10 s.
            on_failure: "stop": raise the last error; the next run begins with that event. "park": set the
                event aside with the error, for `parked` and `replay_parked`, and continue.
            after, stream, category, types, tags, correlation, metadata, grep, since, to, follow, idle,
                timeout, shard: as `subscribe`.

        Raises:
            As `subscribe`, and what the handler raised last.
            InvalidArgument: the handler cannot handle any event; none is acknowledged or parked.
            Unsupported: the engine does not offer `in_transaction`.
        """
        from evlog.model.checkpoints import check_kept_name
        from evlog.subscriptions.retry import check_handling

        check_kept_name(name)
        check_handling(handler, retries, retry_delay, on_failure, in_transaction=in_transaction)
        with self.subscribe(
            name,
            after=after,
            stream=stream,
            category=category,
            types=types,
            tags=tags,
            correlation=correlation,
            metadata=metadata,
            grep=grep,
            since=since,
            to=to,
            follow=follow,
            idle=idle,
            timeout=timeout,
            shard=shard,
        ) as subscription:
            subscription.consume(
                handler,
                retries=retries,
                retry_delay=retry_delay,
                on_failure=on_failure,
                in_transaction=in_transaction,
            )

    def subscriptions(self) -> list[SubscriptionInfo]:
        """Return the named subscriptions, by name; one whose files are damaged says so in `damage`."""
        from evlog.subscriptions.named import list_all

        return list_all(self.engine)

    def subscription(self, name: str) -> SubscriptionInfo:
        """Return one named subscription.

        Raises:
            SubscriptionNotFound: there is none of this name. As with all methods below.
        """
        from evlog.subscriptions.named import describe

        return describe(self.engine, name)

    def wait_for_subscription(self, name: str, position: int, *, timeout: float | None = None) -> bool:
        """Wait until a subscription has handled everything up to a position, also in another process.

        A run saves its checkpoint, which says how far it has come, about once a second.

        Args:
            name: of the subscription; if it is shared by shards, all of them.
            position: such as the `last_position` of an append. Its event need not match the filter.
            timeout: seconds; None waits without a limit, also if no run is under way.

        Returns:
            Whether the subscription came that far in time.

        Raises:
            SubscriptionAhead, CorruptionError: its checkpoint makes no sense for this log, or is damaged.
        """
        position = check_number("position", position)
        return _wait_until(lambda: self.subscription(name).position >= position, timeout)

    def reset_subscription(self, name: str, to: int) -> None:
        """Make the next run begin after position `to` (0: with the first event); durable when this returns.

        This also repairs a damaged checkpoint. Its filter is lost, so the next run sets the filter.

        Raises:
            SubscriptionBusy: it is running. InvalidArgument: the position is beyond the end of the log.
        """
        from evlog.subscriptions.named import reset

        to = check_number("to", to)
        reset(self.engine, name, to)

    def delete_subscription(self, name: str) -> None:
        """Delete the checkpoint and the parked events; durable when this returns.

        Raises:
            SubscriptionBusy: it is running.
        """
        from evlog.subscriptions.named import delete

        delete(self.engine, name)

    def parked(self, name: str) -> list[ParkedEvent]:
        """Return the events that the subscription parked, with their errors, in the order of parking."""
        from evlog.subscriptions.named import parked

        return parked(self.engine, name)

    def replay_parked(
        self, name: str, handler: Callable[[Event], object], positions: Collection[int] | None = None
    ) -> ReplayResult:
        """Call the handler with each parked event; when it returns, the event leaves the list.

        Events that a compaction has removed from the log leave the list, too, and are counted.

        Args:
            positions: only the events at these positions; None: all.

        Raises:
            SubscriptionBusy: the subscription is running.
            InvalidArgument: no event is parked at one of the positions.
        """
        from evlog.subscriptions.named import replay

        return replay(self.engine, name, handler, positions, self._upcast)

    def drop_parked(self, name: str, positions: Collection[int]) -> None:
        """Give up on parked events: they leave the list, and stay in the log; durable when this returns.

        Raises:
            SubscriptionBusy, InvalidArgument: as `replay_parked`.
        """
        from evlog.subscriptions.named import drop

        drop(self.engine, name, positions)

    # --- retention

    def set_retention(
        self,
        stream: str | None = None,
        *,
        category: str | None = None,
        max_count: int | None = None,
        max_age: timedelta | int | None = None,
        before: int | None = None,
        clear: bool = False,
    ) -> Retention:
        """Set what is kept of a stream, or of every stream of a category; durable when this returns.

        Other events are hidden from `read` at once, in every process, and stay in `read_all` until a
        compaction removes them. Their versions, positions and ids stay used. A setting that is not given
        stays as it is; a stream's own setting is used instead of its category's. The settings are an event in
        the stream `$$STREAM` (or `$$$ce-CATEGORY`), with KurrentDB's meaning of $maxCount, $maxAge and $tb.

        Args:
            stream, category: one of them. The stream need not exist yet.
            max_count: keep this many of the last events.
            max_age: seconds or a timedelta; hide what is older at the moment of each read.
            before: hide the versions below this one; of a stream only, and at most its next version.
            clear: first remove what was set before, a deletion too: events that are hidden and were not
                removed yet become visible again.

        Returns:
            What is kept from now on, as `retention` returns it.

        Raises:
            StreamTombstoned: the stream was deleted permanently.
            InvalidArgument: nothing is given, or a setting makes no sense.
            LockTimeout, StoreFull, StoreIOError, CorruptionError: as `append`.
        """
        from evlog.model.policy_changes import check_change

        self.engine.set_retention(check_change(stream, category, max_count, max_age, before, clear=clear))
        return self.engine.retention(stream, category)

    def retention(self, stream: str | None = None, *, category: str | None = None) -> Retention:
        """Return what is kept of a stream, by its and its category's settings, or of a category's streams."""
        from evlog.model.policy_changes import check_target

        check_target(stream, category)
        return self.engine.retention(stream, category)

    def policies(self) -> list[PolicyInfo]:
        """Return every retention that is set, by stream and by category, deletions too."""
        return self.engine.policies()

    def delete_stream(self, stream: str, *, tombstone: bool = False, expected: ExpectedVersion = ANY) -> int:
        """Delete a stream: its events are hidden, and the next compaction removes them. Durable on return.

        The stream no longer exists: as after KurrentDB's soft delete, NO_STREAM is met, STREAM_EXISTS is not.
        If an event is appended later, it gets the version after the last one, and the stream consists of that
        event alone. Deleting a deleted stream succeeds.

        Args:
            tombstone: nothing can be appended to this name any more; retries of its events still succeed.
                With NO_STREAM expected, also for a name that was never used.
            expected: as `append`.

        Returns:
            The version of the stream's last event, up to which it is hidden.

        Raises:
            StreamNotFound: it never had an event.
            WrongExpectedVersion: it has another version.
            LockTimeout, StoreFull, StoreIOError, CorruptionError: as `append`.
        """
        check_stream_name(stream)
        return self.engine.delete_stream(stream, tombstone=tombstone, expected=check_expected(expected))

    def redact(self, *events: UUID | str | bytes | int, reason: str) -> RedactionResult:
        """Erase the data, metadata and tags of events: an event of the store's own says which, when and why.

        Durable when this returns. From then on every reader, follower, fold, condition and export sees these
        events without content: `event.redacted` is true, and position, version, stream, type, id and time are
        as before. An id stays known, and a retry of the append is a duplicate by its id alone. In a directory
        the next `compact` removes the bytes from every file; a server removes them at once. What was
        copied before, to backups, forks and exports, must be deleted or redacted there; mirrors follow, and
        snapshots that may hold it are deleted.

        Args:
            events: positions or ids. Those that are redacted already stay so.
            reason: kept in the store, for an audit: it should not hold personal data itself.

        Raises:
            EventNotFound: one of them is not there. Nothing was redacted.
            InvalidArgument: no event or no reason is given, or one is the store's own.
            LockTimeout, StoreFull, StoreIOError, CorruptionError: as `append`.
        """
        from evlog.model.redaction import MAX_EVENTS, check_reason

        check_reason(reason)
        if not 0 < len(events) <= MAX_EVENTS:
            raise InvalidArgument(f"{len(events)} events to redact; give 1 to {MAX_EVENTS} positions or ids")
        found = {event.position: event for event in map(self._get_stored, events)}
        for event in found.values():
            if event.stream.startswith(SYSTEM_PREFIX):
                raise InvalidArgument(f"position {event.position} is an event of the store's own, not data")
        named = {position for redaction in self.redactions() for position in redaction.positions}
        already = tuple(position for position in found if position in named)
        new = [event for position, event in found.items() if position not in named]
        result = self.engine.redact(new, reason)._replace(already=already)
        # A fold that runs now saves no snapshot, and deletes one that it is saving at this moment.
        deleted = [info for info in self.snapshots() if info.damage or info.position >= min(found)]
        for info in deleted:
            self.engine.snapshot(info.name, info.stream).delete()
        return result._replace(snapshots=tuple(dict.fromkeys(info.name for info in deleted)))

    def redactions(self) -> list[Redaction]:
        """Return every redaction in its order: the erased events, when and why."""
        from evlog.model.redaction import maybe_decode_redaction
        from evlog.model.retention import REDACTIONS_STREAM

        found = map(maybe_decode_redaction, self.read(REDACTIONS_STREAM))
        return [redaction for redaction in found if redaction is not None]

    def compact(
        self,
        *,
        dry_run: bool = False,
        force: bool = False,
        compress: bool = False,
        progress: Progress | None = None,
    ) -> Compaction:
        """Remove the events that policies hide, and merge small segments; durable when this returns.

        Positions, versions, ids, times and bytes of all other events stay the same, and so do the last
        version of every stream and the knowledge of every id. Others read and write meanwhile. Removed events
        do not come back. If it is interrupted, also by an exception from `progress`, the next call continues
        it.

        Args:
            dry_run: only return what would be removed.
            force: also remove events that a named subscription has not read yet.
            compress: then also compress the logs of sealed segments with zstandard, if that makes them
                smaller. They are read as before, and stay compressed when a later compaction rewrites them.
                No event, position or digest changes.
            progress: called every few milliseconds with how much is done, and how much there is: bytes, or
                events on a server.

        Raises:
            SubscriptionBehind: a named subscription has not read events that would be removed.
            CompactionRunning: another process is compacting the store.
            LockTimeout, StoreFull, StoreIOError: the next call continues.
            CorruptionError: an event is damaged; it is neither copied, compressed nor removed.
            ExtraNotInstalled: zstandard is needed and not installed.
        """
        check_functions(progress=progress)
        done = self.engine.compact(dry_run=dry_run, force=force, compress=compress, progress=progress)
        from evlog.model.retention import REDACTIONS_STREAM

        if not dry_run and self.engine.versions([REDACTIONS_STREAM])[0]:
            from evlog.state.snapshots import delete_outdated

            delete_outdated(self.engine)  # a redaction that was killed may have left them
        return done

    def verify(
        self, *, quick: bool = False, against: str | None = None, progress: Progress | None = None
    ) -> VerifyReport:
        """Check everything that is stored against everything else; others can write meanwhile.

        Args:
            quick: check only lengths, headers and the end of the log: fast, also in a large store.
            against: the `digest` of an earlier report, `POSITION:SHA256`: check that the history up to there
                has not changed since.
            progress: called with how much is checked, and how much there is: bytes, or events on a server.

        Raises:
            InvalidArgument: `against` is not such a text, or is given together with `quick`.
            StoreNotFound, NotAStore, UnsupportedFormat, StoreAccessDenied: there is nothing to check.
        """
        check_texts(against=against)
        check_functions(progress=progress)
        return self.engine.verify(quick=quick, against=against, progress=progress)


# --- arguments


def _upcast_of(upcasters: Upcasters) -> Upcast:
    from evlog.state.upcasting import upcast_of

    return upcast_of(upcasters)


def _as_list(events: Iterable[_Item]) -> list[_Item]:
    if isinstance(events, list):
        return events
    if isinstance(events, NewEvent):
        raise InvalidArgument("events must be a list of NewEvent; put the one event into a list")
    return list_of("events", events)


_FIRST_PAUSE_SECONDS: Final = 0.001
_LAST_PAUSE_SECONDS: Final = 0.05


def pauses_until(timeout_seconds: float | None) -> Iterator[float]:
    """Return the seconds to wait between two looks, longer each time, until the time from now is over."""
    import time

    deadline = float("inf") if timeout_seconds is None else time.monotonic() + timeout_seconds

    def pauses() -> Iterator[float]:
        pause_seconds = _FIRST_PAUSE_SECONDS
        while (left_seconds := deadline - time.monotonic()) > 0:
            yield min(pause_seconds, left_seconds)
            pause_seconds = min(2 * pause_seconds, _LAST_PAUSE_SECONDS)

    return pauses()


def _wait_until(is_reached: Callable[[], bool], timeout: float | None) -> bool:
    """Wait for a snapshot or a checkpoint: no engine reports that one was replaced. False: not in time."""
    import time

    pauses = pauses_until(*check_seconds(timeout=timeout))
    while not is_reached():
        pause_seconds = next(pauses, None)
        if pause_seconds is None:
            return False
        time.sleep(pause_seconds)
    return True


def _check_stream(stream: str | None) -> None:
    if stream is not None:
        check_readable_name(stream)
