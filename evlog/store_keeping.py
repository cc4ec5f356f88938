"""What is kept, as a store offers it: retention, deletion, and the compaction that removes what they hide."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from evlog.arguments import check_target
from evlog.errors import InvalidArgument
from evlog.files.format.hashes import hash_stream
from evlog.files.log.visibility import list_policies
from evlog.files.write.retention import check_before, check_max_age, check_max_count, delete, set_words
from evlog.files.write.writer import Writer
from evlog.handle import Handle
from evlog.model.appends import ANY, ExpectedVersion, check_expected
from evlog.model.events import check_stream_name
from evlog.model.reports import PolicyInfo, Retention, retention_of

if TYPE_CHECKING:  # what is rare is imported when it is used: a shell command lives for 0.1 s
    from evlog.files.compaction.compact import Progress
    from evlog.model.reports import Compaction


class Keeping(Handle):
    """What limits a stream to a part of its events."""

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
        check_target(stream, category)
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
        check_target(stream, category)
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

    def policies(self) -> list[PolicyInfo]:
        """Every retention that was set, by stream and by category, the deletions too."""
        log = self._refreshed()
        log.raise_damage()
        return list_policies(log)

    def compact(
        self,
        *,
        dry_run: bool = False,
        force: bool = False,
        compress: bool = False,
        progress: Progress | None = None,
    ) -> Compaction:
        """Remove the events that policies hide, and merge small segments; durable when this returns.

        Positions, versions, ids, times and bytes of all other events stay; so do the last version of every
        stream and the knowledge of every id. Others read and write meanwhile. As with KurrentDB's scavenge
        nothing that is removed comes back. Interrupted, also by an exception out of `progress`, the next call
        goes on with it.

        Args:
            dry_run: only say what would go.
            force: also remove events that a named subscription has not come to yet.
            compress: also compress the logs of sealed segments with zstandard, where that makes them smaller
                (the extra `evlog-store[zstd]`). They are read as before, and stay compressed in later
                compactions. No event, position or digest changes.
            progress: called every few milliseconds with the bytes that are done, and all that there are.

        Raises:
            SubscriptionBehind: a named subscription has not come to events that would go.
            CompactionRunning: another process is at it.
            LockTimeout, StoreFull, StoreIOError: the next call goes on.
            CorruptionError: an event is damaged; it is neither copied, compressed nor removed.
            ZstdNotInstalled: it takes zstandard, which is not there.
        """
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
