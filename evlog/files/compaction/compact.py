"""Compaction: removing what policies hide, one step after another, while everybody goes on.

The log itself says that one began: `$CompactionStarted`, in the stream `$compactions`, holds the position and
the time that everything else follows from, and `$CompactionFinished` that it is done. One without the other
is taken up again, with its own position and time, by whoever compacts next. A step writes one segment in the
place of some, syncs it, and replaces the manifest under the writers' lock: a crash leaves the old store or
the new one. Steps go from the oldest segments to the newest, so that at any moment what is gone of a stream
is its beginning.

Compressing changes no event, so the log does not speak of it: each step puts one file in the place of
another, and the next compaction goes on with what it finds. What was compressed is compressed again when it
is written anew: whoever wanted an archive small does not want it to grow by the next compaction.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from evlog.errors import CompactionRunning, EvlogError, LockTimeout
from evlog.files.compaction.compress import compressed_path, maybe_compress, maybe_estimate
from evlog.files.compaction.plan import Piece, Plan, Point, after_sealing, make_plan
from evlog.files.compaction.rewrite import Target, remove_files, rewrite
from evlog.files.compaction.state import (
    COMPACTIONS_STREAM,
    FINISHED_TYPE,
    STARTED_TYPE,
    Started,
    check_subscriptions,
    entries_crc,
    events_gone,
    find_unfinished,
    segment_bytes,
)
from evlog.files.compaction.step import remove_unnamed, replace_segments
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import Disk
from evlog.files.disk.processes import Workers, core_count, without_collector
from evlog.files.disk.zstd import need_zstandard
from evlog.files.format import paths
from evlog.files.log.log import Log
from evlog.files.log.manifest import SegmentInfo
from evlog.files.log.segment import SealedSegment
from evlog.files.write.recovery import sync_names
from evlog.files.write.writer import Writer
from evlog.model.events import JSON_CODE
from evlog.model.reports import Compaction

_ASKING_SECONDS: Final = 0.1  # who only asks whether a compaction runs holds its lock for some microseconds
_BYTES_WORTH_HELPERS: Final = 8 << 20  # one is up after 50 ms
_MAX_PROCESSES: Final = 4
_MAX_RULES: Final = 1000  # that a started event names; they stand in the log anyway


class Compressed(NamedTuple):
    """Segments whose logs were compressed."""

    segments: int = 0
    bytes_before: int = 0
    bytes_after: int = 0

    def plus(self, bytes_before: int, bytes_after: int) -> Compressed:
        return Compressed(self.segments + 1, self.bytes_before + bytes_before, self.bytes_after + bytes_after)


Progress = Callable[[int, int], None]
"""Called with the bytes that were worked through, and how many there are in all."""


def plan_compaction(log: Log, *, compress: bool = False) -> Compaction:
    """What `compact` would remove now. Writes nothing.

    Args:
        compress: also say how much compressing would save, by a sample of each segment.

    Raises:
        CorruptionError: the log is damaged.
        ZstdNotInstalled: it takes zstandard, which is not there.
    """
    log.raise_damage()
    started = log.settled(lambda: find_unfinished(log))
    plan = log.settled(lambda: make_plan(log, _point_of(log, started), Workers(1), by_stream=True))
    events = sum(removal.events for removal in plan.removals)
    merged = sum(len(group) - 1 for group in plan.groups)
    segments, size = len(log.manifest.segments), segment_bytes(log.store)
    saved = log.settled(lambda: _estimate(log)) if compress else Compressed()
    resumed = started is not None
    return Compaction(
        plan.point.position, plan.removals, events, segments, segments - merged, size, 0, resumed, *saved
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

    Interrupted anywhere, also by an exception out of `progress`, it is taken up again by the next call.

    Args:
        force: also remove events that a named subscription has not come to yet.
        compress: then also compress the logs of all sealed segments, as far as that makes them smaller.
        progress: called every few milliseconds.
        lock_timeout_seconds: how long to wait for writers, at each step.

    Raises:
        CompactionRunning: another process is at it.
        SubscriptionBehind: events would go that a named subscription has yet to see. Nothing was changed.
        LockTimeout, StoreFull, StoreIOError: the rest is left to the next call.
        CorruptionError: an event is damaged. Steps that were done stay done.
        ZstdNotInstalled: it takes zstandard, which is not there.
    """
    lock = FileLock(paths.compaction_path(log.store), _ASKING_SECONDS, disk)
    try:
        lock.acquire()
    except LockTimeout:
        lock.close()
        raise CompactionRunning(log.store) from None
    try:
        run = _Run(log, writer, disk, lock_timeout_seconds)
        try:
            return run.run(force=force, compress=compress, progress=progress)
        finally:
            run.close()
    finally:
        lock.release()
        lock.close()


class _Run:
    """One compaction, from the lock to the finished event."""

    def __init__(self, log: Log, writer: Writer, disk: Disk, lock_timeout_seconds: float | None) -> None:
        self._log = log
        self._writer = writer
        self._disk = disk
        self._lock = FileLock(paths.lock_path(log.store), lock_timeout_seconds, disk, readable=False)
        self._compressed = Compressed()
        self._progress: Progress | None = None
        self._done = self._total = 0

    def run(self, *, force: bool, compress: bool, progress: Progress | None) -> Compaction:
        log = self._log
        log.refresh()
        log.raise_damage()
        with self._lock:
            log.refresh()
            # A killed process may have replaced the manifest without syncing its name. Until that is durable,
            # a power loss can bring the old manifest back, and the files that only it names must stay.
            sync_names(log.store, self._disk)
            remove_unnamed_files_locked(log, self._disk)
        # They come up while this process plans.
        with Workers(self._process_count(), "evlog.files.compaction.rewrite") as workers:
            return self._run(workers, force=force, compress=compress, progress=progress)

    def _process_count(self) -> int:
        """How many processes are worth it."""
        size = sum(part.segment.end for part in self._log.parts())
        return min(core_count(), _MAX_PROCESSES) if size >= _BYTES_WORTH_HELPERS else 1

    def _run(self, workers: Workers, *, force: bool, compress: bool, progress: Progress | None) -> Compaction:
        log = self._log
        started = log.settled(lambda: find_unfinished(log))
        point = _point_of(log, started)
        seen = log.settled(lambda: entries_crc(log, point.position))
        plan = log.settled(lambda: without_collector(make_plan, log, point, workers))
        if not force:
            check_subscriptions(log, plan, self._disk)
        if compress and (plan.groups or plan.seals or _plain_segments(log)):
            need_zstandard(log.store)  # before anything is changed
        resumed = started is not None
        segments = len(log.manifest.segments)
        before = after = segment_bytes(log.store)
        if started is None and (plan.groups or plan.seals):
            started = self._append_started(plan)
        events = 0
        if started is not None:
            log.refresh()
            if plan.seals and log.active.first_position <= point.position:
                self._writer.seal()
                log.refresh()
            # The last events may have been cut off, and others written, when a failed sync was found.
            if seen != log.settled(lambda: entries_crc(log, point.position)):
                plan = log.settled(lambda: make_plan(log, point, workers))
            elif plan.seals:
                plan = log.settled(lambda: after_sealing(log, plan))
        self._progress = progress
        self._total = sum(piece.work_bytes for group in plan.groups for piece in group)
        self._total += sum(info.log_bytes for info in _plain_segments(log, plan)) if compress else 0
        if started is not None:
            for group in plan.groups:
                self._do_step(group, plan, workers, compress=compress)
            events, before = events_gone(log) - started.events_gone, started.bytes
            after = segment_bytes(log.store)
            self._append_finished(started, events, before, after)
            log.refresh()
        if compress:
            self._compress_all(_plain_segments(log))
            after = segment_bytes(log.store)
        left = len(log.manifest.segments)
        return Compaction(
            point.position, plan.removals, events, segments, left, before, after, resumed, *self._compressed
        )

    def close(self) -> None:
        self._lock.close()

    def _step_on(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(self._done, self._total)

    def _do_step(self, group: Sequence[Piece], plan: Plan, workers: Workers, *, compress: bool) -> None:
        """Write one segment in the place of a group, and have the manifest name it."""
        log, disk = self._log, self._disk
        infos = [piece.part.info for piece in group]
        target = Target.of(log.store, log.manifest, infos)
        try:
            info = rewrite(target, group, plan.bounds, disk, workers, self._step_on)
            if compress or any(old.compressed_bytes for old in infos):
                plain = SealedSegment(log.store, target.store_id, info)
                info = self._write_compressed(plain, lambda _: self._step_on(0)) or info
                remove_unnamed(log.store, log.manifest._replace(segments=(info,)), [info], disk)
        except (EvlogError, KeyboardInterrupt):
            remove_files(target, disk)  # no room, perhaps: what was written takes some
            raise
        replace_segments(log, self._lock, disk, infos, info)

    def _compress_all(self, infos: Sequence[SegmentInfo]) -> None:
        self._total = self._done + sum(info.log_bytes for info in infos)  # some were sealed meanwhile
        for info in infos:
            self._compress(info)

    def _compress(self, info: SegmentInfo) -> None:
        """Have the manifest name the compressed form of a segment's log, if it is worth it."""
        log, disk = self._log, self._disk
        plain = SealedSegment(log.store, log.manifest.store_id_bytes, info)
        try:
            compressed = self._write_compressed(plain, self._step_on)
        except (EvlogError, KeyboardInterrupt):
            disk.remove(compressed_path(log.store, info))
            raise
        if compressed is not None:
            replace_segments(log, self._lock, disk, [info], compressed)

    def _write_compressed(self, plain: SealedSegment, step_on: Callable[[int], None]) -> SegmentInfo | None:
        path = compressed_path(self._log.store, plain.info)
        info = maybe_compress(path, plain, self._disk, step_on)
        if info is not None:
            self._compressed = self._compressed.plus(info.log_bytes, info.compressed_bytes)
        return info

    def _append_started(self, plan: Plan) -> Started:
        point, rules = plan.point, plan.rules
        gone, size = events_gone(self._log), segment_bytes(self._log.store)
        data = {
            "position": point.position,
            "time": point.time_us,
            "rules": rules[:_MAX_RULES],
            "more_rules": max(0, len(rules) - _MAX_RULES),
            "events_gone": gone,
            "bytes": size,
            "digest": None,
        }
        return Started(self._append(STARTED_TYPE, data), point, gone, size)

    def _append_finished(self, started: Started, events: int, before: int, after: int) -> None:
        data = {"started": started.at, "events_removed": events, "bytes_before": before, "bytes_after": after}
        self._append(FINISHED_TYPE, data)

    def _append(self, type: str, data: dict[str, Any]) -> int:
        raw = json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()
        event = (type, None, JSON_CODE, raw, None)
        return self._writer.append([COMPACTIONS_STREAM], [event], system=True).positions[0]


def remove_unnamed_files_locked(log: Log, disk: Disk) -> None:
    """Remove what an interrupted compaction, or a roll, has left; nobody else compacts or rolls meanwhile."""
    directory = paths.segments_path(log.store)
    for name in sorted(os.listdir(directory)):
        meaning = paths.maybe_parse_segment_name(name)
        if meaning is not None and not log.manifest.names(meaning):
            disk.remove(f"{directory}/{name}")


def _point_of(log: Log, started: Started | None) -> Point:
    return Point(log.head, time.time_ns() // 1000) if started is None else started.point


def _plain_segments(log: Log, plan: Plan | None = None) -> list[SegmentInfo]:
    """The sealed segments that are not compressed, without those that a plan writes anew."""
    written = {piece.part.info for group in plan.groups for piece in group} if plan else set()
    infos = [part.info for part in log.sealed]
    return [info for info in infos if not info.compressed_bytes and info not in written]


def _estimate(log: Log) -> Compressed:
    """What compressing would give."""
    found = Compressed()
    for part in log.sealed:
        if not part.info.compressed_bytes and (size := maybe_estimate(part.segment)) is not None:
            found = found.plus(part.info.log_bytes, size)
    return found
