"""EventStore: the whole of evlog for a Python program. Read this first.

    NewEvent -> encode_events -> Writer -> frame -> Log <- reader -> Event

A store object holds a `Log` (what is on disk, as last seen) and, once something is appended, a `Writer`.
Every method may be called from any thread; many processes may hold the same store. Reading takes no lock
and needs no permission to write. After a fork the child may go on using the object.
"""

from __future__ import annotations

import builtins
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self, overload
from uuid import UUID

from evlog import paths, subscriptions
from evlog.batch import ANY, BatchResult, Expectation, ExpectedVersion, check_expected
from evlog.catalog import StoreInfo, StreamInfo, describe, list_streams
from evlog.checkpoint import Filter, ParkedEvent
from evlog.create import DEFAULT_SEGMENT_BYTES, DEFAULT_SEGMENT_EVENTS, create_store
from evlog.disk import DISK, Disk
from evlog.errors import InvalidArgument, StoreClosed
from evlog.events import (
    EncodedEvent,
    Event,
    NewEvent,
    category_of,
    check_readable_name,
    check_stream_name,
    check_type,
    encode_events,
)
from evlog.findings import VerifyReport
from evlog.follow import Subscription
from evlog.format import hash_stream
from evlog.log import Log
from evlog.policies import Retention, retention_of
from evlog.reader import Bounds, Selection, microseconds, read_log, read_stream
from evlog.recovery import TornTail
from evlog.retention import check_before, check_max_age, check_max_count, delete, set_words
from evlog.subscriptions import ReplayResult, SubscriptionInfo
from evlog.visibility import PolicyInfo, list_policies
from evlog.writer import Writer

if TYPE_CHECKING:  # what is rare is imported when it is used: a shell command lives for 0.1 s
    from evlog.compact import Compaction, Progress
    from evlog.repair import RepairReport
    from evlog.salvage import SalvageReport


class AppendResult(NamedTuple):
    """Where the events of one append to one stream stand; those of the first time, if it is a duplicate."""

    stream: str
    first_position: int
    last_position: int
    first_version: int
    last_version: int
    duplicate: bool
    id_bytes: tuple[bytes, ...]

    @property
    def ids(self) -> tuple[UUID, ...]:
        """The events' ids, in order."""
        return tuple(UUID(bytes=id) for id in self.id_bytes)


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


class EventStore:
    """An open store. Made by `evlog.open`; a context manager that closes it."""

    def __init__(
        self,
        path: str,
        create: bool,
        *,
        segment_bytes: int,
        segment_events: int,
        sync: str,
        lock_timeout: float | None,
        disk: Disk = DISK,
    ) -> None:
        if sync not in ("always", "none"):
            raise InvalidArgument(f"sync is {sync!r}; give 'always' or 'none'")
        if lock_timeout is not None and not lock_timeout >= 0:
            raise InvalidArgument(f"lock_timeout is {lock_timeout!r}; give seconds, 0 or more, or None")
        if not path or "\0" in path:
            raise InvalidArgument(f"{path!r} is no path; give the store's directory")
        self.path = path
        self._sync = sync == "always"
        self._lock_timeout_seconds = lock_timeout
        self._disk = disk
        self._mutex = threading.Lock()
        self._writer: Writer | None = None
        self.created = create and create_store(path, segment_bytes, segment_events, lock_timeout, disk)
        self._log: Log | None = Log(path)

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
        encoded = encode_events(_listed(events))
        expected = check_expected(expected)
        expectations = () if expected == ANY else (Expectation(0, check_stream_name(stream), expected),)
        batch = self._open_writer().append([stream] * len(encoded), encoded, expectations)
        return _result(batch, 0, len(encoded))

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
            events += new if new.__class__ is list else _listed(new)
            count = len(events) - end
            if count == 1:
                streams.append(stream)
            elif count:
                streams.extend((stream,) * count)
            else:
                raise InvalidArgument("there is nothing to append; give at least one event for each stream")
            end += count
            ends.append(end)
        return _Results(self._open_writer().append(streams, encode_events(events), expectations), ends)

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
            events: as `evlog.events.encode_events` makes them; their data is not checked again.
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
        _check_bounds(from_version=from_version, to_version=to_version, limit=limit)
        bounds = Bounds(from_version, to_version, microseconds(since), microseconds(until))
        wanted = _as_types(types)
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
        _check_bounds(after=after, to=to, limit=limit)
        selection = Selection(
            after + 1,
            to,
            category,
            _as_types(types),
            microseconds(since),
            microseconds(until),
            include_system,
        )
        return read_log(self._refreshed(), selection, reverse=reverse, limit=limit)

    # --- following

    def subscribe(
        self,
        name: str | None = None,
        *,
        after: int | None = None,
        stream: str | None = None,
        category: str | None = None,
        types: Collection[str] | None = None,
        since: datetime | None = None,
        follow: bool = True,
        timeout: float | None = None,
    ) -> Subscription:
        """Follow the log: every matching event in position order, those that come later too.

        An event is given out once it is acknowledged. Within one run none is given out twice or left out;
        what a named subscription gave out and did not save when it died comes again in its next run. What a
        policy hides comes out until a compaction removes it, as in `read_all`: so nothing is missed by age.

        Args:
            name: a durable subscription (1 to 100 bytes of UTF-8): its next run goes on where this one ended.
            after: where the first run begins: behind this position. Left out, at the beginning.
            stream, category, types: only these events. A name keeps its filter.
            since: where the first run begins: with the first event written then or later.
            follow: wait for more; if false, end where the log ends now.
            timeout: seconds; iteration ends when no event came for so long. None waits for ever.

        Raises:
            SubscriptionBusy: a run of this name is under way.
            InvalidArgument: a bad name or bound, or another filter than the name has.
            CorruptionError: the checkpoint is damaged or beyond the end of the log.
            StoreAccessDenied: a named subscription needs to write its checkpoint, and may not.
        """
        _check_bounds(after=after)
        if timeout is not None and not timeout >= 0:
            raise InvalidArgument(f"timeout is {timeout!r}; give seconds, 0 or more, or None")
        if stream is not None:
            check_readable_name(stream)
            if category is not None:
                raise InvalidArgument("stream and category exclude each other; give one of them")
        kept = _as_types(types)
        filter = Filter(stream, category, None if kept is None else tuple(sorted(kept)))
        since_us = microseconds(since)
        return subscriptions.begin(
            self._refreshed(),
            name,
            filter,
            after,
            since_us,
            follow=follow,
            timeout_seconds=timeout,
            disk=self._disk,
        )

    def consume(
        self,
        name: str,
        handler: Callable[[Event], object],
        *,
        after: int | None = None,
        stream: str | None = None,
        category: str | None = None,
        types: Collection[str] | None = None,
        since: datetime | None = None,
        follow: bool = True,
        timeout: float | None = None,
        retries: int = 3,
        on_failure: str = "stop",
    ) -> None:
        """Call the handler with every event of a named subscription: at least once, in order.

        The checkpoint passes an event after the handler has returned. Returns when the subscription ends.

        Args:
            handler: gets the event. It failed if it raises an Exception.
            retries: how many failures on one event are borne; between them are 0.1 s, 0.2 s … 10 s.
            on_failure: "stop": raise the last error; the next run begins with that event. "park": put the
                event aside with the error, for `parked` and `replay_parked`, and go on.
            after, stream, category, types, since, follow, timeout: as `subscribe`.

        Raises:
            As `subscribe`, and what the handler raised last.
        """
        if on_failure not in ("stop", "park"):
            raise InvalidArgument(f"on_failure is {on_failure!r}; give 'stop' or 'park'")
        _check_bounds(retries=retries)
        with self.subscribe(
            name,
            after=after,
            stream=stream,
            category=category,
            types=types,
            since=since,
            follow=follow,
            timeout=timeout,
        ) as subscription:
            subscriptions.consume(subscription, handler, retries=retries, park=on_failure == "park")

    def subscriptions(self) -> builtins.list[SubscriptionInfo]:
        """The named subscriptions, by name: how far each is, and how far behind."""
        return subscriptions.list_all(self._refreshed(), self._disk)

    def subscription(self, name: str) -> SubscriptionInfo:
        """One named subscription.

        Raises:
            SubscriptionNotFound: there is none of this name. As with all methods below.
        """
        return subscriptions.describe(self._refreshed(), name, self._disk)

    def reset_subscription(self, name: str, to: int) -> None:
        """Have the next run begin behind position `to` (0: with the first event); durable when this returns.

        Raises:
            SubscriptionBusy: it is running. InvalidArgument: the position is beyond the end of the log.
        """
        _check_bounds(to=to)
        subscriptions.reset(self._refreshed(), name, to, self._disk)

    def delete_subscription(self, name: str) -> None:
        """Forget the checkpoint and the parked events; durable when this returns.

        Raises:
            SubscriptionBusy: it is running.
        """
        subscriptions.delete(self._refreshed(), name, self._disk)

    def parked(self, name: str) -> builtins.list[ParkedEvent]:
        """The events that the subscription put aside, with their errors, in the order in which it did."""
        return subscriptions.parked(self._refreshed(), name, self._disk)

    def replay_parked(self, name: str, handler: Callable[[Event], object]) -> ReplayResult:
        """Call the handler with each parked event; those for which it returns leave the list.

        Raises:
            SubscriptionBusy: the subscription is running.
        """
        return subscriptions.replay(self._refreshed(), name, handler, self._disk)

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

    # --- checking

    def verify(
        self,
        *,
        quick: bool = False,
        against: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> VerifyReport:
        """Check everything on disk against everything else; writers may go on meanwhile.

        Args:
            quick: only lengths, headers and the end of the log: a moment, whatever the size.
            against: a `POSITION:DIGEST` that an earlier report gave as `head_digest`: whether history up to
                there is what it was.
            progress: is called with the bytes checked so far and their total.

        Raises:
            InvalidArgument: `against` is no such text, or was asked for together with `quick`.
            StoreNotFound, NotAStore, UnsupportedFormat, StoreAccessDenied: there is nothing to check.
        """
        self._opened()
        return verify_store(self.path, quick=quick, against=against, progress=progress)

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
        """Say what is kept of a stream, or of every stream of a category; durable when this returns.

        What is not kept is hidden from `read` at once and from every process, and stays in `read_all` until a
        compaction removes it. Versions, positions and ids stay taken. A setting that is not given stays as it
        is; a stream's own setting goes before its category's. The settings are an event in the stream
        `$$STREAM` (or `$$$ce-CATEGORY`) and have KurrentDB's meaning of $maxCount, $maxAge and $tb.

        Args:
            stream, category: one of them. The stream need not exist yet.
            max_count: keep this many of the last events.
            max_age: keep what was written in the last so many seconds, as of the moment of each read.
            before: hide the versions below this one; of a stream only, and at most its next version.
            clear: first forget what was set before, a deletion too: what is hidden and was not compacted away
                becomes visible again.

        Returns:
            What is kept from now on, as `retention` says it.

        Raises:
            StreamTombstoned: the stream was deleted for ever.
            InvalidArgument: nothing is given, or it makes no sense.
            LockTimeout, StoreFull, StoreIOError, CorruptionError: as `append`.
        """
        self._check_target(stream, category)
        count, seconds, first = check_max_count(max_count), check_max_age(max_age), check_before(before)
        if (count, seconds, first) == (None, None, None) and not clear:
            raise InvalidArgument("nothing is set; give max_count, max_age, before or clear")
        if category is not None and first is not None:
            raise InvalidArgument(
                "before is a version of one stream; give max_count or max_age for a category"
            )
        set_words(
            self._opened(),
            self._open_writer(),
            stream,
            category,
            max_count=count,
            max_age_seconds=seconds,
            before=first,
            clear=clear,
        )
        return self.retention(stream, category=category)

    def retention(self, stream: str | None = None, *, category: str | None = None) -> Retention:
        """What is kept of a stream, by its own settings and its category's, or of a category's streams."""
        self._check_target(stream, category)
        log = self._refreshed()
        log.raise_damage()
        if stream is None:
            return retention_of(log.policies().rules().categories.get(category or ""), 0)
        rule = log.policies().rule_for(stream)
        if rule is None:
            return retention_of(rule, 0)
        return retention_of(rule, log.settled(lambda: log.find_version(stream, hash_stream(stream))))

    def delete_stream(self, stream: str, *, tombstone: bool = False, expected: ExpectedVersion = ANY) -> int:
        """Delete a stream: its events are hidden, and the next compaction removes them. Durable on return.

        The stream exists no more: as after KurrentDB's soft delete, NO_STREAM is met, STREAM_EXISTS is not.
        Should an event be appended again, it gets the version after the last one, and the stream consists of
        that event alone. Deleting what is deleted succeeds.

        Args:
            tombstone: nothing may be appended to this name ever again; retries of its events succeed still.
                With NO_STREAM expected, also a name that was never used.
            expected: as `append`.

        Returns:
            The version of the stream's last event, up to which it is hidden.

        Raises:
            StreamNotFound: it never had an event.
            WrongExpectedVersion: it has another version.
            LockTimeout, StoreFull, StoreIOError, CorruptionError: as `append`.
        """
        check_stream_name(stream)
        expected = check_expected(expected)
        return delete(self._opened(), self._open_writer(), stream, tombstone=tombstone, expected=expected)

    def policies(self) -> builtins.list[PolicyInfo]:
        """Every retention that was set, by stream and by category, the deletions too."""
        log = self._refreshed()
        log.raise_damage()
        return list_policies(log)

    @property
    def torn_tails(self) -> builtins.list[TornTail]:
        """What this object cut from the end of the log: appends that a crash had left unfinished."""
        return [] if self._writer is None else self._writer.torn_tails

    # --- maintenance

    def compact(
        self, *, dry_run: bool = False, force: bool = False, progress: Progress | None = None
    ) -> Compaction:
        """Remove the events that policies hide, and merge small segments; durable when this returns.

        Positions, versions, ids, times and bytes of all other events stay; so do the last version of every
        stream and the knowledge of every id. Others read and write meanwhile. As with KurrentDB's scavenge
        nothing that is removed comes back. Interrupted, also by an exception out of `progress`, the next call
        goes on with it.

        Args:
            dry_run: only say what would go.
            force: also remove events that a named subscription has not come to yet.
            progress: called every few milliseconds with the bytes that are done, and all that there are.

        Raises:
            SubscriptionBehind: a named subscription has not come to events that would go.
            CompactionRunning: another process is at it.
            LockTimeout, StoreFull, StoreIOError: the next call goes on.
            CorruptionError: an event is damaged; it is neither copied nor removed.
        """
        from evlog.compact import compact, plan_compaction

        log = self._refreshed()
        if dry_run:
            return plan_compaction(log)
        writer = self._open_writer()
        if not self._sync:  # that a compaction began must be durable before it removes anything
            writer = Writer(log, sync=True, lock_timeout_seconds=self._lock_timeout_seconds, disk=self._disk)
        try:
            return compact(
                log,
                writer,
                self._disk,
                force=force,
                progress=progress,
                lock_timeout_seconds=self._lock_timeout_seconds,
            )
        finally:
            if not self._sync:
                writer.close()

    # --- closing

    def close(self) -> None:
        """Close the store. What was acknowledged is durable already; reads under way may go on."""
        with self._mutex:
            if self._writer is not None:
                self._writer.close()
            if self._log is not None:
                self._log.close()
            self._writer = None
            self._log = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<EventStore {self.path!r}{' (closed)' if self._log is None else ''}>"

    def _check_target(self, stream: str | None, category: str | None) -> None:
        if (stream is None) == (category is None):
            raise InvalidArgument("give either a stream or a category")
        if stream is not None:
            check_stream_name(stream)
        elif category_of(check_stream_name(category or "")) != category:
            raise InvalidArgument(
                f"{category!r} is no category: one ends before the first - of a stream's name"
            )

    def _opened(self) -> Log:
        if self._log is None:
            raise StoreClosed(self.path)
        return self._log

    def _refreshed(self) -> Log:
        log = self._opened()
        log.refresh()
        log.grow_tables()
        return log

    def _open_writer(self) -> Writer:
        writer = self._writer
        if writer is not None:
            return writer
        with self._mutex:
            if self._writer is None:
                self._writer = Writer(
                    self._opened(),
                    sync=self._sync,
                    lock_timeout_seconds=self._lock_timeout_seconds,
                    disk=self._disk,
                )
            return self._writer


def verify_store(
    path: str | os.PathLike[str],
    *,
    quick: bool = False,
    against: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """What `EventStore.verify` does, also for a store that is too damaged to be opened.

    Raises:
        As `EventStore.verify`.
    """
    from evlog import verify
    from evlog.digest import parse_pin

    if quick and against is not None:
        raise InvalidArgument("a digest needs every byte, and quick reads few; give one of the two")
    pin = None if against is None else parse_pin(against)
    return verify.verify_store(os.fspath(path), quick=quick, pin=pin, progress=progress)


def repair_store(
    path: str | os.PathLike[str],
    *,
    lock_timeout: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RepairReport:
    """Verify a store and mend what loses nothing: indexes, a torn tail, leftovers of crashes.

    What is damaged for good stays as it is; the result says which events that costs. Durable on return.

    Args:
        lock_timeout: seconds to wait for other writers; None waits for as long as it takes.
        progress: as in `EventStore.verify`.

    Raises:
        LockTimeout: other writers held the lock for longer than `lock_timeout`.
        StoreFull, StoreIOError: the disk refuses; running it again goes on.
        As `EventStore.verify`.
    """
    from evlog import repair

    return repair.repair_store(os.fspath(path), lock_timeout_seconds=lock_timeout, progress=progress)


def salvage_store(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> SalvageReport:
    """Copy all that is whole of a damaged store into a new one; the old one is only read.

    Events keep position, version, id and time; where some are lost there are gaps, and the result lists
    them. The new store has the old one's id, so use one of the two. Durable on return.

    Args:
        out: a directory that is empty or not there yet.
        progress: as in `EventStore.verify`.

    Raises:
        NotAStore: there is something at `out`, or nothing to salvage.
        StoreFull, StoreIOError, StoreAccessDenied: the disk refuses.
    """
    from evlog import salvage

    return salvage.salvage_store(os.fspath(path), os.fspath(out), progress=progress)


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is a store at the path."""
    return os.path.lexists(paths.manifest_path(os.fspath(path)))


def _listed(events: Iterable[NewEvent]) -> list[NewEvent]:
    if isinstance(events, list):
        return events
    if isinstance(events, NewEvent):
        raise InvalidArgument("events must be a list of NewEvent; put the one event into a list")
    return list(events)


def _check_bounds(**bounds: int | None) -> None:
    for name, value in bounds.items():
        if value is not None and value < 0:
            raise InvalidArgument(f"{name} is {value!r}; give a whole number, 0 or more")


def _as_types(types: Collection[str] | None) -> frozenset[str] | None:
    if isinstance(types, str):
        raise InvalidArgument(f"types is the text {types!r}; give a list of event types")
    return None if types is None else frozenset(map(check_type, types))


class _Results(Sequence[AppendResult]):
    """The results of an append, made when looked at: a bulk load looks at none of its million."""

    __slots__ = ("_batch", "_ends")

    def __init__(self, batch: BatchResult, ends: list[int]) -> None:
        self._batch = batch
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, at: int) -> AppendResult: ...
    @overload
    def __getitem__(self, at: slice) -> list[AppendResult]: ...
    def __getitem__(self, at: int | slice) -> AppendResult | list[AppendResult]:
        if isinstance(at, slice):
            return [self[number] for number in range(len(self))[at]]
        number = range(len(self))[at]
        return _result(self._batch, self._ends[number - 1] if number else 0, self._ends[number])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # compares like a list

    def __repr__(self) -> str:
        return repr(list(self))


def _result(batch: BatchResult, start: int, end: int) -> AppendResult:
    """What became of the events from `start` to `end`, all of one stream."""
    streams, versions, positions, ids, duplicates = batch
    return AppendResult(
        streams[start],
        positions[start],
        positions[end - 1],
        versions[start],
        versions[end - 1],
        duplicates[start],
        tuple(ids[start:end]),
    )
