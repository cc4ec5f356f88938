"""The directory engine: an event store in files, without a server. Read this first.

    append -> Writer (files/write) -> a frame in the active segment
    read   <- files/log: segments and indexes, without a lock

A `DirectoryEngine` holds a `Log` (what is on disk, as last seen) and, once something is appended, a `Writer`.
Many processes may hold the same store. Reading needs no permission to write. After a fork the child may use
the object; each object with a mutex is reset in it.
"""

from __future__ import annotations

import os
import threading

from evlog.errors import StoreClosed, StoreNotFound
from evlog.files.disk.files import DISK
from evlog.files.format.hashes import hash_ids, hash_stream
from evlog.files.format.paths import check_path
from evlog.files.log.crafted import refuses_crafted_content, without_crafted_content
from evlog.files.log.log import Log
from evlog.files.log.read import read_log, selection_of
from evlog.files.log.read_stream import Bounds, maybe_read_few, read_stream
from evlog.files.write.writer import Writer
from evlog.model.appends import AppendRequest
from evlog.model.filters import ANYTHING
from evlog.process.forks import register_fork_reset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evlog.engine import Capabilities, Progress
    from evlog.files.disk.files import Disk
    from evlog.files.follow.checkpoint_file import SubscriptionFiles
    from evlog.files.follow.feed import CommittedFeed
    from evlog.files.follow.snapshot_file import SnapshotFile
    from evlog.files.write.plan import Plan
    from evlog.model.appends import BatchResult, ExpectedVersion
    from evlog.model.events import Event
    from evlog.model.filters import EventFilter, LogSelection, StreamSelection
    from evlog.model.history import HistoryPiece, RemovedRecord, Standing
    from evlog.model.policy_changes import PolicyChange
    from evlog.model.redaction import RedactionResult
    from evlog.model.reports import (
        Compaction,
        PolicyInfo,
        Retention,
        StoreInfo,
        StreamInfo,
        TornTail,
        VerifyReport,
    )
    from evlog.model.retention import Rules


class DirectoryEngine:
    """A store in a directory, held open. An `evlog.engine.Engine`.

    Args:
        path: the directory; made absolute here, so that the working directory may change later.
        create: create the store if there is none.
        segment_bytes, segment_events: the size at which a new store begins another segment; None: the
            defaults.
        sync: whether an append returns only when it is on the device.
        lock_timeout_seconds: how long to wait for other writers; None waits without a limit.
    """

    def __init__(
        self,
        path: str,
        *,
        create: bool = False,
        segment_bytes: int | None = None,
        segment_events: int | None = None,
        sync: bool = True,
        lock_timeout_seconds: float | None = None,
        disk: Disk = DISK,
    ) -> None:
        self.address = absolute(path)
        self._sync = sync
        self._lock_timeout_seconds = lock_timeout_seconds
        self._disk = disk
        self.created = False
        if create:
            from evlog.files.write.create import DEFAULT_SEGMENT_BYTES, DEFAULT_SEGMENT_EVENTS, create_store

            self.created = create_store(
                self.address,
                DEFAULT_SEGMENT_BYTES if segment_bytes is None else segment_bytes,
                DEFAULT_SEGMENT_EVENTS if segment_events is None else segment_events,
                lock_timeout_seconds,
                disk,
            )
        # Guards the opening and closing of the two below; both are replaced whole.
        self._mutex = threading.Lock()
        self._log: Log | None = _open_log(self.address)
        self._writer: Writer | None = None
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        self._mutex = threading.Lock()

    # --- what is open

    @property
    def store_id(self) -> str:
        """The store's own id, as text."""
        return self._opened().manifest.store_id

    @property
    def capabilities(self) -> Capabilities:
        """What a directory can do."""
        from evlog.engine import Capabilities
        from evlog.model.events import MAX_EVENT_BYTES

        durability = (
            "An append returns when its events are on the device (fdatasync)."
            if self._sync
            else "An append returns when the operating system has its events; a power loss can take them."
        )
        return Capabilities(engine="directory", durability=durability, max_event_bytes=MAX_EVENT_BYTES)

    @property
    def torn_tails(self) -> list[TornTail]:
        writer = self._writer
        return [] if writer is None else writer.torn_tails

    def close(self) -> None:
        """Close the files. What was acknowledged is durable already; reads under way may continue."""
        with self._mutex:
            writer, log = self._writer, self._log
            self._writer = self._log = None
        if writer is not None:
            writer.close()
        if log is not None:
            log.close()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._log is None

    def _opened(self) -> Log:
        log = self._log
        if log is None:
            raise StoreClosed(self.address)
        return log

    @refuses_crafted_content
    def _refreshed(self) -> Log:
        log = self._log or self._opened()
        log.refresh()
        return log

    def _sound(self) -> Log:
        """Return the refreshed log, for an answer that damage at its end could make wrong."""
        log = self._refreshed()
        log.raise_damage()
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

    # --- appending and reading

    @refuses_crafted_content
    def append(self, request: AppendRequest) -> BatchResult:
        """Append all events as one frame, or none; durable when this returns (with `sync`)."""
        return (self._writer or self._open_writer()).append(request)

    @refuses_crafted_content
    def plan(self, request: AppendRequest) -> Plan:
        """Return what `append` would write, and write nothing: for an engine that has its index here.

        Raises:
            What `append` raises to refuse it; a mirror does not.
        """
        return self._open_writer().plan(request)

    def read_stream(self, selection: StreamSelection) -> Iterator[Event]:
        stream, first_version, last_version, filter, limit, reverse = selection
        if filter is ANYTHING:
            log = self._log or self._opened()
            few = maybe_read_few(log, stream, first_version, last_version, reverse=reverse, limit=limit)
            if few is not None:
                return few
        bounds = Bounds(first_version, last_version, filter.since_us, filter.until_us)
        types = None if filter.types is None else frozenset(filter.types)
        return read_stream(
            self._refreshed(),
            stream,
            bounds,
            types,
            reverse=reverse,
            limit=limit,
            tags=filter.tags,
            content=filter.make_matcher(),
        )

    def read_all(self, selection: LogSelection) -> Iterator[Event]:
        after, to, filter, limit, reverse = selection
        return read_log(
            self._refreshed(), selection_of(filter, after + 1, to, limit=limit), reverse=reverse, limit=limit
        )

    @refuses_crafted_content
    def find_ids(self, ids: Sequence[bytes]) -> dict[bytes, int]:
        log = self._sound()
        found = log.retry_on_compaction(lambda: log.find_ids(ids, hash_ids(ids)))
        return {
            ids[at]: place[0] if isinstance(place, tuple) else place.position for at, place in found.items()
        }

    @refuses_crafted_content
    def versions(self, streams: Sequence[str]) -> list[int]:
        log = self._sound()
        return log.retry_on_compaction(
            lambda: [log.find_version(stream, hash_stream(stream)) for stream in streams]
        )

    @refuses_crafted_content
    def streams(
        self, category: str | None, prefix: str | None, *, include_deleted: bool, include_system: bool
    ) -> Iterator[StreamInfo]:
        from evlog.files.log.catalog import list_streams

        found = list_streams(
            self._sound(), category, prefix, include_deleted=include_deleted, include_system=include_system
        )
        return without_crafted_content(found, self.address)

    @refuses_crafted_content
    def head(self) -> int:
        return self._sound().head

    @refuses_crafted_content
    def info(self) -> StoreInfo:
        from evlog.files.log.catalog import describe

        return describe(self._sound())

    # --- following

    @refuses_crafted_content
    def follow(self, filter: EventFilter) -> CommittedFeed:
        from evlog.files.follow.feed import CommittedFeed

        return CommittedFeed(self._refreshed(), filter, self._disk)

    def checkpoint(self, name: str) -> SubscriptionFiles:
        """Return the files of the subscription with this checked name."""
        from evlog.files.follow.checkpoint_file import SubscriptionFiles

        return SubscriptionFiles(self.address, self.store_id, name, self._disk)

    def checkpoint_names(self) -> list[str]:
        from evlog.files.follow.checkpoint_file import list_names

        self._opened()
        return list_names(self.address)

    # --- snapshots

    def snapshot(self, name: str, stream: str | None) -> SnapshotFile:
        """Return the file of the snapshot with this checked name."""
        from evlog.files.follow.snapshot_file import SnapshotFile

        return SnapshotFile(self.address, self.store_id, name, stream, self._disk)

    @refuses_crafted_content
    def snapshot_names(self) -> list[tuple[str, str | None]]:
        from evlog.files.follow.snapshot_file import list_snapshots

        log = self._refreshed()
        return log.retry_on_compaction(lambda: list_snapshots(log))

    def removals(self) -> int:
        return self._refreshed().manifest.removed_events

    # --- retention

    @refuses_crafted_content
    def rules(self) -> Rules:
        """Return the rules in force now."""
        return self._sound().policies().rules()

    def flush(self) -> None:
        """Return once all that was appended is durable (with `sync`)."""
        writer = self._open_writer()
        writer.make_durable(writer.exclusively(lambda tail, _planner: tail.end_locked()))

    @refuses_crafted_content
    def set_retention(self, change: PolicyChange) -> None:
        from evlog.decisions.policies import set_retention

        set_retention(self, change)

    @refuses_crafted_content
    def delete_stream(self, stream: str, *, tombstone: bool, expected: ExpectedVersion) -> int:
        from evlog.decisions.policies import delete_stream

        return delete_stream(self, stream, tombstone=tombstone, expected=expected)

    @refuses_crafted_content
    def retention(self, stream: str | None, category: str | None) -> Retention:
        """Return what is kept of a stream, by its and its category's policy, or of a category's streams."""
        from evlog.model.reports import retention_of

        log = self._sound()
        if stream is None:
            return retention_of(log.policies().rules().categories.get(category or ""), 0)
        rule = log.policies().rule_for(stream)
        if rule is None:
            return retention_of(rule, 0)
        return retention_of(
            rule, log.retry_on_compaction(lambda: log.find_version(stream, hash_stream(stream)))
        )

    @refuses_crafted_content
    def policies(self) -> list[PolicyInfo]:
        from evlog.decisions.policies import policies

        return policies(self)

    @refuses_crafted_content
    def redact(self, events: Sequence[Event], reason: str) -> RedactionResult:
        """Erase the content of these events for every reader, durably; `compact` erases the bytes."""
        from evlog.model.redaction import RedactionResult, encode_redaction
        from evlog.model.retention import REDACTIONS_STREAM

        position = 0
        if events:
            request = AppendRequest.own(REDACTIONS_STREAM, encode_redaction(events, reason))
            (position,) = self.append(request).positions
        else:
            self.flush()  # an earlier redaction, whose writer may have died before it was durable
        return RedactionResult(tuple(event.position for event in events), (), position, erased=False)

    @refuses_crafted_content
    def compact(self, *, dry_run: bool, force: bool, compress: bool, progress: Progress | None) -> Compaction:
        """Remove what policies hide, and merge small segments; durable when this returns."""
        from evlog.files.compaction.compact import compact, plan_compaction

        log = self._refreshed()
        if dry_run:
            return plan_compaction(log, compress=compress)
        writer = self._open_writer()
        if not self._sync:  # that a compaction began must be durable before it removes anything
            writer = Writer(log, sync=True, lock_timeout_seconds=self._lock_timeout_seconds, disk=self._disk)
        try:
            return compact(
                log,
                writer,
                self._disk,
                force=force,
                compress=compress,
                progress=progress,
                lock_timeout_seconds=self._lock_timeout_seconds,
            )
        finally:
            if not self._sync:
                writer.close()

    # --- mirrors

    @property
    def standing(self) -> Standing:
        from evlog.model.history import Standing

        return Standing(*self._refreshed().manifest.standing)

    @refuses_crafted_content
    def change_standing(self, before: Standing, after: Standing, *, head: int | None = None) -> bool:
        from evlog.files.write.standing import change_standing

        return change_standing(self._opened(), self._open_writer(), self._disk, before, after, head)

    @refuses_crafted_content
    def read_frames(self, after: int, to: int) -> Iterator[tuple[int, Event]]:
        from evlog.files.log.history import read_frames

        return read_frames(self._refreshed(), after, to)

    @refuses_crafted_content
    def read_removed(self, after: int, to: int) -> Iterator[RemovedRecord]:
        from evlog.files.log.history import read_removed

        return read_removed(self._refreshed(), after, to)

    @refuses_crafted_content
    def append_history(self, piece: HistoryPiece) -> None:
        from evlog.files.compaction.history import append_history

        append_history(self._opened(), self._open_writer(), self._disk, piece)

    @refuses_crafted_content
    def remove_history(self, source_id: str, removed: Sequence[RemovedRecord]) -> None:
        from evlog.files.compaction.history import remove_history

        remove_history(
            self._refreshed(),
            self._open_writer(),
            self._disk,
            source_id,
            removed,
            lock_timeout_seconds=self._lock_timeout_seconds,
        )

    # --- checking

    @refuses_crafted_content
    def verify(self, *, quick: bool, against: str | None, progress: Progress | None) -> VerifyReport:
        """Check everything on disk."""
        self._opened()
        from evlog.files.directory import verify_store

        try:
            return verify_store(self.address, quick=quick, against=against, progress=progress)
        except StoreNotFound:
            raise StoreNotFound(self.address, was_open=True) from None


@refuses_crafted_content
def _open_log(path: str) -> Log:
    return Log(path)


def absolute(path: str) -> str:
    """Return the absolute path of a store.

    Raises:
        InvalidArgument: it cannot be a path.
        StoreNotFound: it is relative, and the working directory was removed.
    """
    try:
        return os.path.abspath(check_path(path))
    except FileNotFoundError:
        raise StoreNotFound(path) from None
