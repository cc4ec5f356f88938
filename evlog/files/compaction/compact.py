"""Compaction: removing the events that policies hide, step by step, while others read and write.

Read this first. The flow of one compaction, `_Run`:

1. Remove what an interrupted one left (commit).
2. Plan at a cut-off (a position and a time): which events are hidden, which segments lose some (plan).
3. Append `$CompactionStarted` with the cut-off to the stream `$compactions`. If the next steps are
   interrupted, the next compaction resumes at the same cut-off.
4. For each group of segments, oldest first: write one segment in their place (rewrite), perhaps compressed
   (compress), sync it, and replace the manifest under the writers' lock (commit). A crash leaves the old
   store or the new one, and at any moment the removed events of a stream are its oldest. Helper processes
   read the next groups meanwhile.
5. Append `$CompactionFinished`.

A step that would remove what a policy no longer hides is not committed. Then all of this is done again: the
compaction goes on like one that was interrupted.

Events that a redaction names lose their content in step 4. Readers see no difference.

Compression changes no event, so the log does not record it. A compressed segment that is rewritten is
compressed again, so that the next compaction does not make an archive larger.
"""

from __future__ import annotations

from contextlib import closing

from evlog.errors import CompactionRunning, EvlogError, LockTimeout
from evlog.files.compaction.commit import (
    append_finished,
    append_started,
    check_subscriptions,
    clear_leftovers,
    entries_crc,
    find_unfinished,
    remove_unnamed,
    replace_segments,
    segment_bytes,
)
from evlog.files.compaction.compress import compressed_path, maybe_compress, maybe_estimate
from evlog.files.compaction.hidden import CutOff
from evlog.files.compaction.plan import after_sealing, find_unerased, make_plan
from evlog.files.compaction.rewrite import OutputSegment, read_groups, rewrite
from evlog.files.disk.file_lock import FileLock, holder_of
from evlog.files.disk.processes import Workers, core_count, without_collector
from evlog.files.disk.zstd import require_zstandard
from evlog.files.format import paths
from evlog.files.log.sealed_segment import SealedSegment
from evlog.files.write.group_commit import clear_requests
from evlog.model.events import now_ns
from evlog.model.named import NamedTuple
from evlog.model.reports import Compaction
from evlog.model.retention import Rules, shows_more

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final

    from evlog.engine import Progress
    from evlog.files.compaction.commit import Started
    from evlog.files.compaction.plan import Plan, SegmentPlan
    from evlog.files.compaction.rewrite import ReadResults
    from evlog.files.disk.files import Disk, ReadFile
    from evlog.files.format.manifest import SegmentInfo
    from evlog.files.log.log import Log
    from evlog.files.write.writer import Writer

_ASKING_SECONDS: Final = 0.1  # a process that only asks whether a compaction runs holds its lock for µs
_BYTES_WORTH_HELPERS: Final = 8 << 20  # a helper process starts in 50 ms


class Compressed(NamedTuple):
    """Segments whose logs were compressed."""

    segments: int = 0
    bytes_before: int = 0
    bytes_after: int = 0

    def plus(self, bytes_before: int, bytes_after: int) -> Compressed:
        return Compressed(self.segments + 1, self.bytes_before + bytes_before, self.bytes_after + bytes_after)


def plan_compaction(log: Log, *, compress: bool) -> Compaction:
    """Return what `compact` would remove now. Writes nothing.

    Args:
        compress: also estimate what compressing would save, by a sample of each segment.

    Raises:
        CorruptionError: the log is damaged.
        ExtraNotInstalled: zstandard is needed and not installed.
    """
    log.raise_damage()
    started = log.retry_on_compaction(lambda: find_unfinished(log))
    plan = log.retry_on_compaction(lambda: _plan(log, started, Workers(1), by_stream=True))
    merged = sum(len(group) - 1 for group in plan.groups)
    segments = len(log.manifest.segments)
    saved = log.retry_on_compaction(lambda: _estimate(log)) if compress else Compressed()
    return Compaction(
        plan.cut_off.position,
        plan.removals,
        events_removed=sum(removal.events for removal in plan.removals),
        segments_before=segments,
        segments_after=segments - merged + plan.seals,
        bytes_before=segment_bytes(log.store),
        bytes_after=0,
        resumed=started is not None,
        segments_compressed=saved.segments,
        uncompressed_bytes=saved.bytes_before,
        compressed_bytes=saved.bytes_after,
        events_erased=plan.events_erased,
    )


def compact(
    log: Log,
    writer: Writer,
    disk: Disk,
    *,
    force: bool,
    compress: bool = False,
    progress: Progress | None = None,
    lock_timeout_seconds: float | None = None,
) -> Compaction:
    """Remove what policies hide, and merge small neighbouring segments. Durable when this returns.

    Interrupted anywhere, also by an exception out of `progress`, it is resumed by the next call.

    Args:
        force: also remove events that a named subscription has yet to deliver.
        compress: then also compress the logs of all sealed segments, where that makes them smaller.
        progress: called every few milliseconds.
        lock_timeout_seconds: how long to wait for writers, at each step.

    Raises:
        CompactionRunning: another process compacts.
        SubscriptionBehind: a named subscription has yet to deliver hidden events. Nothing was changed.
        LockTimeout, StoreFull, StoreIOError: the rest is left to the next call.
        CorruptionError: an event is damaged. Steps that were done stay done.
        ExtraNotInstalled: zstandard is needed and not installed.
    """
    lock = acquire_lock(log.store, disk)
    try:
        run = _Run(log, writer, disk, lock_timeout_seconds, compress=compress, progress=progress)
        try:
            done = run.run_as_policies_allow(force=force)
            if done.resumed and run.has_unerased():  # redacted after the cut-off of the earlier one
                again = run.run_as_policies_allow(force=force)
                done = again._replace(
                    resumed=True,
                    events_removed=done.events_removed + again.events_removed,
                    segments_before=done.segments_before,
                    bytes_before=done.bytes_before,
                )
            return done
        finally:
            run.close()
    finally:
        lock.release()
        lock.close()


def acquire_lock(store: str, disk: Disk, timeout_seconds: float | None = _ASKING_SECONDS) -> FileLock:
    """Return the lock of compactions, acquired. Raises CompactionRunning."""
    lock = FileLock(paths.compaction_path(store), timeout_seconds, disk, readable=False)
    try:
        lock.acquire()
    except LockTimeout:
        lock.close()
        raise CompactionRunning(store, holder_of(lock.path)) from None
    return lock


class _PoliciesRelaxed(Exception):
    """A policy no longer hides everything that it hid when the compaction was planned."""


class _Run:
    """One compaction, from the lock to the finished event."""

    def __init__(
        self,
        log: Log,
        writer: Writer,
        disk: Disk,
        lock_timeout_seconds: float | None,
        *,
        compress: bool,
        progress: Progress | None,
    ) -> None:
        self._log = log
        self._writer = writer
        self._disk = disk
        self._lock = FileLock(paths.lock_path(log.store), lock_timeout_seconds, disk, readable=False)
        self._compress = compress
        self._compressed = Compressed()
        self._progress = progress
        self._done = self._total = 0
        self._erased = 0  # events
        self._policies = Rules()  # from before the plan was made
        self._replaced: list[ReadFile] = []  # of the last step: files without a name

    def run_as_policies_allow(self, *, force: bool) -> Compaction:
        """Do everything; again for the rest, if a policy was relaxed meanwhile."""
        log = self._log
        log.look()
        resumed = log.retry_on_compaction(lambda: find_unfinished(log)) is not None
        segments = len(log.manifest.segments)
        while True:
            try:
                return self._run(force=force, resumed=resumed, segments_before=segments)
            except _PoliciesRelaxed:
                continue

    def _run(self, *, force: bool, resumed: bool, segments_before: int) -> Compaction:
        log = self._log
        log.look()
        log.raise_damage()
        size = sum(part.segment.end for part in log.parts())
        # Helpers start while this process plans.
        with Workers(core_count() if size >= _BYTES_WORTH_HELPERS else 1, rewrite.__module__) as workers:
            clear_leftovers(log, self._lock, self._disk)
            started = log.retry_on_compaction(lambda: find_unfinished(log))
            self._policies = log.retry_on_compaction(lambda: log.policies().rules())
            plan = log.retry_on_compaction(lambda: without_collector(_plan, log, started, workers))
            seen = log.retry_on_compaction(lambda: entries_crc(log, plan.cut_off.position))
            if not force:
                log.retry_on_compaction(lambda: check_subscriptions(log, plan, self._disk))
            if self._compress and (plan.groups or plan.seals or _plain_segments(log)):
                require_zstandard(log.store)  # before anything is changed
            before = after = segment_bytes(log.store)
            if started is None and (plan.groups or plan.seals):
                started = append_started(log, self._writer, plan)
            events = 0
            if started is not None:
                plan = self._seal(plan, started, seen, workers)
                self._count_work(plan)
                with closing(read_groups(log, plan.groups, workers)) as results:
                    for group in plan.groups:
                        self._do_step(group, results, workers)
                if self._erased:
                    with self._lock:  # no writer leads; a writer whose request is lost appends for itself
                        clear_requests(log.store, self._disk)
                # A power loss must not bring back the names of files that hold what was redacted.
                self._disk.sync_dir(paths.segments_path(log.store))
                events, before = log.manifest.removed_events - started.removed_before, started.bytes
                after = segment_bytes(log.store)
                append_finished(self._writer, started, events, after)
                log.look()
        if self._compress:
            self._compress_all(_plain_segments(log))
            after = segment_bytes(log.store)
        return Compaction(
            plan.cut_off.position,
            plan.removals,
            events_removed=events,
            segments_before=segments_before,
            segments_after=len(log.manifest.segments),
            bytes_before=before,
            bytes_after=after,
            resumed=resumed,
            segments_compressed=self._compressed.segments,
            uncompressed_bytes=self._compressed.bytes_before,
            compressed_bytes=self._compressed.bytes_after,
            events_erased=self._erased,
        )

    def has_unerased(self) -> bool:
        """Return whether a redacted event still has its content."""
        log = self._log
        log.look()

        def look() -> bool:
            redacted = log.policies().redacted
            return any(find_unerased(part, redacted, log.head) for part in log.parts())

        return log.retry_on_compaction(look)

    def close(self) -> None:
        self._lock.close()

    def _seal(self, plan: Plan, started: Started, seen: int, workers: Workers) -> Plan:
        """Seal the active segment if it loses events; return the plan for what is sealed then."""
        log, position = self._log, plan.cut_off.position
        log.look()
        if plan.seals and log.active.first_position <= position:
            self._writer.seal()
            log.look()
        # After a failed sync a writer may have cut the last events off, and others may be in their place.
        if seen == log.retry_on_compaction(lambda: entries_crc(log, position)):
            return log.retry_on_compaction(lambda: after_sealing(log, plan)) if plan.seals else plan
        again = log.retry_on_compaction(lambda: _plan(log, started, workers))
        seen = log.retry_on_compaction(lambda: entries_crc(log, position))
        return self._seal(again, started, seen, workers) if again.seals else again

    def _do_step(self, group: Sequence[SegmentPlan], results: ReadResults, workers: Workers) -> None:
        """Write one segment in the place of a group, and have the manifest name it."""
        log, disk = self._log, self._disk
        infos = [segment.part.info for segment in group]
        output = OutputSegment.of(log.store, log.manifest, infos)
        with output.removed_on_failure(disk):
            info = rewrite(output, group, results, disk, workers, self._step_on)
            if self._compress or any(old.compressed_bytes for old in infos):
                plain = SealedSegment(log.store, output.store_id, info)
                info = self._write_compressed(plain, lambda _: self._step_on(0)) or info
                remove_unnamed(log.store, log.manifest._replace(segments=(info,)), [info], disk)
        # Not in a thread: beside one that computes it waits for the interpreter while it holds the lock.
        self._replaced = replace_segments(log, self._lock, disk, infos, info, self._check_policies)
        self._erased += sum(len(segment.redacted) for segment in group)

    def _check_policies(self) -> None:
        """Raise _PoliciesRelaxed if a user takes back a policy that the plan follows."""
        if shows_more(self._log.policies().rules(), self._policies):
            raise _PoliciesRelaxed

    def _compress_all(self, infos: Sequence[SegmentInfo]) -> None:
        self._total = self._done + sum(info.log_bytes for info in infos)  # some were sealed meanwhile
        log, disk = self._log, self._disk
        for info in infos:
            plain = SealedSegment(log.store, log.manifest.store_id_bytes, info)
            try:
                compressed = self._write_compressed(plain, self._step_on)
            except (EvlogError, KeyboardInterrupt):
                disk.remove(compressed_path(log.store, info))
                raise
            if compressed is not None:
                self._replaced = replace_segments(log, self._lock, disk, [info], compressed)

    def _write_compressed(self, plain: SealedSegment, step_on: Callable[[int], None]) -> SegmentInfo | None:
        path = compressed_path(self._log.store, plain.info)
        info = maybe_compress(path, plain, self._disk, step_on)
        if info is not None:
            self._compressed = self._compressed.plus(info.log_bytes, info.compressed_bytes)
        return info

    def _count_work(self, plan: Plan) -> None:
        self._total = self._done + sum(segment.work_bytes for group in plan.groups for segment in group)
        if self._compress:
            self._total += sum(info.log_bytes for info in _plain_segments(self._log, plan))

    def _step_on(self, size: int) -> None:
        self._done += size
        self._replaced = []  # busy writers have closed them meanwhile
        if self._progress is not None:
            self._progress(self._done, self._total)


def _plan(log: Log, started: Started | None, workers: Workers, *, by_stream: bool = False) -> Plan:
    cut_off = CutOff(log.head, now_ns() // 1000) if started is None else started.cut_off
    return make_plan(log, cut_off, workers, resumed=started is not None, by_stream=by_stream)


def _plain_segments(log: Log, plan: Plan | None = None) -> list[SegmentInfo]:
    """Return the sealed segments that are not compressed, without those that a plan rewrites."""
    rewritten = {segment.part.info for group in plan.groups for segment in group} if plan else set()
    infos = [part.info for part in log.sealed]
    return [info for info in infos if not info.compressed_bytes and info not in rewritten]


def _estimate(log: Log) -> Compressed:
    """Estimate what compressing would give."""
    found = Compressed()
    for part in log.sealed:
        if not part.info.compressed_bytes and (size := maybe_estimate(part.segment)) is not None:
            found = found.plus(part.info.log_bytes, size)
    return found
