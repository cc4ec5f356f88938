"""EventStore: the whole of evlog for a Python program. Read this first.

    NewEvent -> encode_events -> Writer -> frame -> Log <- reader -> Event

A store object holds a `Log` (what is on disk, as last seen) and, once something is appended, a `Writer`.
Appending and reading stand here; following, retention and checking in the three classes beside.
Every method may be called from any thread; many processes may hold the same store. Reading takes no lock
and needs no permission to write. After a fork the child may go on using the object.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from evlog.arguments import as_list, as_types, check_bounds
from evlog.errors import InvalidArgument
from evlog.files.format import paths
from evlog.files.format.hashes import hash_stream
from evlog.files.log.catalog import describe, list_streams
from evlog.files.log.read import Bounds, Selection, microseconds, read_log, read_stream
from evlog.files.write.create import DEFAULT_SEGMENT_BYTES, DEFAULT_SEGMENT_EVENTS
from evlog.model.appends import ANY, BatchResult, Expectation, ExpectedVersion, check_expected
from evlog.model.events import (
    EncodedEvent,
    Event,
    NewEvent,
    check_readable_name,
    check_stream_name,
    encode_events,
)
from evlog.model.reports import StoreInfo, StreamInfo
from evlog.model.results import AppendResult, Results, result_of
from evlog.store_checking import Checking
from evlog.store_following import Following
from evlog.store_keeping import Keeping

Append = tuple[str, Iterable[NewEvent]] | tuple[str, Iterable[NewEvent], ExpectedVersion]


def open(
    path: str | os.PathLike[str],
    create: bool = False,
    *,
    segment_bytes: int = DEFAULT_SEGMENT_BYTES,
    segment_events: int = DEFAULT_SEGMENT_EVENTS,
    sync: str = "always",
    lock_timeout: float | None = None,
) -> EventStore:
    """Open the store in a directory.

    Args:
        path: the directory.
        create: make the store if there is none, durable when this returns.
        segment_bytes: size in bytes at which a new store begins another segment.
        segment_events: number of events at which a new store begins another segment.
        sync: "always": an append returns when it is on the device. "none": when the operating system has
            it, which survives the process but not a power loss.
        lock_timeout: seconds that an append waits for other writers. None, as in PostgreSQL, waits for as
            long as it takes: the lock dies with its holder, so only a stopped process can hold it up.

    Raises:
        StoreNotFound: there is no store, and `create` is false.
        NotAStore: the path holds something else.
        UnsupportedFormat: it was written by a newer evlog.
        CorruptionError: its manifest or the beginning of its active log is damaged.
        StoreAccessDenied, StoreFull: the file system refuses.
        InvalidArgument: a setting is out of bounds.
    """
    return EventStore(
        os.fspath(path),
        create,
        segment_bytes=segment_bytes,
        segment_events=segment_events,
        sync=sync,
        lock_timeout=lock_timeout,
    )


class EventStore(Following, Keeping, Checking):
    """An open store. Made by `evlog.open`; a context manager that closes it."""

    # --- appending

    def append(
        self, stream: str, events: Iterable[NewEvent], expected: ExpectedVersion = ANY
    ) -> AppendResult:
        """Append events to one stream, all of them or none.

        Durable when this returns, unless the store was opened with sync="none"; also when it is a duplicate.

        Args:
            stream: the stream's name; it begins to exist with its first event.
            events: at least one. Their ids, where given, make a retry harmless: if all are known with the
                same stream, type and data, nothing is written and the result says `duplicate`.
            expected: the version that the stream must have, or ANY, NO_STREAM (0) or STREAM_EXISTS, with the
                meaning of KurrentDB's ExpectedVersion (whose first version is 0 where evlog's is 1).

        Raises:
            WrongExpectedVersion: the stream has another version. Nothing was written, as with all below.
            IdConflict: an id is known with other content, or only some of the ids are known.
            InvalidArgument: a bad name or event, or one that is too large.
            LockTimeout: other writers held the lock for longer than `lock_timeout`.
            StoreFull: there is no room; the store works again once there is.
            StoreIOError: the disk failed. The append is not acknowledged and may or may not be there: open
                the store again and retry with the same ids.
            CorruptionError: acknowledged events are damaged at the very place to be appended to.
        """
        encoded = encode_events(as_list(events))
        expected = check_expected(expected)
        expectations = () if expected == ANY else (Expectation(0, check_stream_name(stream), expected),)
        batch = self._open_writer().append([stream] * len(encoded), encoded, expectations)
        return result_of(batch, 0, len(encoded))

    def append_many(self, appends: Iterable[Append]) -> Sequence[AppendResult]:
        """Append to several streams in one atomic frame: all of it, or nothing.

        Args:
            appends: (stream, events) or (stream, events, expected); the versions are checked in order, each
                after what comes before it in the same call.

        Returns:
            One result for each append, in order.

        Raises:
            As `append`.
        """
        streams: list[str] = []
        events: list[NewEvent] = []
        expectations: list[Expectation] = []
        ends: list[int] = []
        end = 0
        for append in appends:
            stream, new = append[0], append[1]
            if len(append) > 2 and (expected := check_expected(append[2])) != ANY:
                expectations.append(Expectation(end, check_stream_name(stream), expected))
            events += new if new.__class__ is list else as_list(new)
            count = len(events) - end
            if count == 1:
                streams.append(stream)
            elif count:
                streams.extend((stream,) * count)
            else:
                raise InvalidArgument("there is nothing to append; give at least one event for each stream")
            end += count
            ends.append(end)
        return Results(self._open_writer().append(streams, encode_events(events), expectations), ends)

    def append_encoded(
        self,
        streams: Sequence[str],
        events: Sequence[EncodedEvent],
        *,
        expected: Mapping[str, ExpectedVersion] | None = None,
        skip_known: bool = False,
    ) -> BatchResult:
        """Append events that are encoded already, as one frame: what importers use.

        Args:
            streams: the stream of each event.
            events: as `evlog.model.events.encode_events` makes them; their data is not checked again.
            expected: the version that a stream must have before all this.
            skip_known: skip events whose id is known with the same content, instead of refusing a batch of
                which only a part is known.

        Raises:
            As `append`.
        """
        if len(streams) != len(events):
            raise InvalidArgument(
                f"{len(events)} events for {len(streams)} streams; give one stream an event"
            )
        expectations = [
            Expectation(0, check_stream_name(stream), check_expected(version))
            for stream, version in (expected or {}).items()
        ]
        return self._open_writer().append(streams, events, expectations, skip_known=skip_known)

    # --- reading

    def read(
        self,
        stream: str,
        from_version: int = 1,
        to_version: int | None = None,
        *,
        types: Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[Event]:
        """The visible events of one stream, in version order; none for a stream that does not exist.

        What the stream's retention hides when the iteration begins is left out, see `set_retention`.

        Args:
            from_version, to_version: inclusive.
            types: only events of these types.
            since, until: aware datetimes; `since` is inclusive, `until` is not.
            reverse: from the last to the first.
            limit: at most so many.

        Raises:
            CorruptionError: while iterating, when an event is damaged; those before it were right.
            InvalidArgument: a bound is negative or a datetime has no time zone.
        """
        check_bounds(from_version=from_version, to_version=to_version, limit=limit)
        bounds = Bounds(from_version, to_version, microseconds(since), microseconds(until))
        wanted = as_types(types)
        check_readable_name(stream)
        return read_stream(self._refreshed(), stream, bounds, wanted, reverse=reverse, limit=limit)

    def read_all(
        self,
        after: int = 0,
        to: int | None = None,
        *,
        category: str | None = None,
        types: Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        reverse: bool = False,
        limit: int | None = None,
        include_system: bool = False,
    ) -> Iterator[Event]:
        """The events of all streams, in the order in which they were written.

        Also those that the retention of their stream hides, until a compaction removes them. The store's own
        events have positions, too: where they are left out, positions have gaps.

        Args:
            after: a position, exclusive: "where I stopped". to: a position, inclusive.
            category: only streams of this category.
            types, since, until, reverse, limit: as `read`.
            include_system: also the store's own events, in streams whose names begin with `$`.

        Raises:
            As `read`.
        """
        check_bounds(after=after, to=to, limit=limit)
        selection = Selection(
            after + 1,
            to,
            category,
            as_types(types),
            microseconds(since),
            microseconds(until),
            include_system,
        )
        return read_log(self._refreshed(), selection, reverse=reverse, limit=limit)

    def stream_version(self, stream: str) -> int:
        """The version of the stream's last event, visible or not; 0 if there never was one.

        Of a deleted stream, too: its next event has the version behind it. See `has_stream`.
        """
        check_readable_name(stream)
        log = self._refreshed()
        log.raise_damage()  # the stream may have events there
        return log.settled(lambda: log.find_version(stream, hash_stream(stream)))

    def has_stream(self, stream: str) -> bool:
        """Whether there is such a stream: it has events and is not deleted. What STREAM_EXISTS goes by."""
        version = self.stream_version(stream)
        rule = self._opened().policies().rule_for(stream)
        return version > 0 and (rule is None or not rule.is_deleted(version))

    def streams(
        self,
        category: str | None = None,
        prefix: str | None = None,
        *,
        include_deleted: bool = False,
        include_system: bool = False,
    ) -> Iterator[StreamInfo]:
        """The streams by name, all or those of a category or with a prefix.

        Args:
            include_deleted: also streams that were deleted; nothing of them is visible.
            include_system: also the store's own, whose names begin with `$`.
        """
        log = self._refreshed()
        log.raise_damage()
        return list_streams(
            log, category, prefix, include_deleted=include_deleted, include_system=include_system
        )

    @property
    def head(self) -> int:
        """The last position in the log, 0 when it is empty."""
        log = self._refreshed()
        log.raise_damage()
        return log.head

    @property
    def id(self) -> UUID:
        """The store's own id."""
        return UUID(self._opened().manifest.store_id)

    def info(self) -> StoreInfo:
        """The store in numbers: events, streams, bytes, segments, first and last position and time."""
        log = self._refreshed()
        log.raise_damage()
        return describe(log)


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is a store at the path."""
    return os.path.lexists(paths.manifest_path(os.fspath(path)))
