"""What makes a compaction's steps durable, and what the log records of compactions.

The manifest is the commit point of each step. `$CompactionStarted` and `$CompactionFinished`, in the stream
`$compactions`, record the whole: one without the other is a compaction that was interrupted.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from functools import partial
from itertools import chain

from evlog.decisions.unread import check_subscriptions as decide
from evlog.errors import CorruptionError, EvlogError, StoreFull
from evlog.files.compaction.hidden import CutOff
from evlog.files.disk.files import ReadFile, bytes_in, list_directory
from evlog.files.follow.checkpoint_file import SubscriptionFiles, list_names
from evlog.files.follow.snapshot_file import remove_leftovers
from evlog.files.format import paths
from evlog.files.format.hashes import hash_stream
from evlog.files.format.headers import KIND_STREAMS
from evlog.files.format.paths import SegmentFile
from evlog.files.log.later import maybe_later_log, outdated
from evlog.files.log.manifest_file import read_manifest
from evlog.files.log.read import selection_of
from evlog.files.write.derived import remove_leftovers_locked
from evlog.files.write.roll import replace_manifest_locked, sync_names
from evlog.model.appends import AppendRequest
from evlog.model.events import JSON_CODE
from evlog.model.named import NamedTuple
from evlog.model.retention import COMPACTIONS_STREAM, FINISHED_TYPE, STARTED_TYPE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Final

    from evlog.files.compaction.plan import Plan
    from evlog.files.disk.file_lock import FileLock
    from evlog.files.disk.files import Disk
    from evlog.files.format.manifest import Manifest, SegmentInfo
    from evlog.files.log.log import Log
    from evlog.files.write.writer import Writer
    from evlog.model.events import Record
    from evlog.model.filters import EventFilter

_MAX_RULES: Final = 1000  # that a started event names; the log has all of them
_LARGE_BYTES: Final = 1 << 20  # of a file whose removal takes 0.5 ms or more, if it is in memory
_MAX_LARGE: Final = 12  # files, because a process may have few descriptors

# --- the segments


def clear_leftovers(log: Log, lock: FileLock, disk: Disk) -> None:
    """Remove what an interrupted compaction, roll or index has left; no other process compacts meanwhile.

    Raises:
        CorruptionError: the manifest is older than a log; no file of the log was removed.
    """
    remove_leftovers(log.store, disk)
    with lock:
        log.look()
        # A killed process may have replaced the manifest without syncing its name. Until that is durable, a
        # power loss can bring the old manifest back, and the files that only it names must stay.
        sync_names(log.store, disk)
        later = maybe_later_log(log.store, log.manifest)
        if later is not None:
            raise outdated(log.store, later)
        directory = paths.segments_path(log.store)
        names = [(name, paths.maybe_parse_segment_name(name)) for name in list_directory(directory)]
        unnamed = [name for name, meaning in names if meaning and not log.manifest.names(meaning)]
        disk.remove_all(directory, unnamed)
        remove_leftovers_locked(log.store, disk)


def replace_segments(
    log: Log,
    lock: FileLock,
    disk: Disk,
    old: Sequence[SegmentInfo],
    new: SegmentInfo,
    check: Callable[[], None] | None = None,
) -> list[ReadFile]:
    """Have the manifest name a segment, whose files are synced, in the place of others; durable on return.

    Args:
        check: called with the lock, when the log was looked at; raises if the segment must not be named.

    Returns:
        Large files of the others, which have lost their names. To close them frees their space.

    Raises:
        StoreFull: the new segment's files are removed, unless the new manifest is in place.
        LockTimeout, StoreIOError: the files are there, and the next compaction removes what nothing names.
    """
    disk.sync_dir(paths.segments_path(log.store))  # before the manifest may name them
    large = _open_large(log.store, old)
    with lock:
        log.look()
        if check is not None:
            check()
        manifest = log.manifest
        after = manifest._replace(segments=_replaced(manifest.segments[:], old, new))
        try:
            replace_manifest_locked(log, after, disk)
        except StoreFull:  # mostly before the new manifest was in place
            remove_unnamed(log.store, read_manifest(log.store), [new], disk)
            raise
        # A process that has these files open or mapped keeps them; one that opens them by name finds the
        # manifest replaced. Under the lock, so that a backup that holds it sees no name disappear.
        remove_unnamed(log.store, after, old, disk)
    return large


def _open_large(store: str, infos: Iterable[SegmentInfo]) -> list[ReadFile]:
    """Open the largest files of segments that are about to be replaced.

    A file's space is freed when the last process closes it, in 10 to 20 ms for 40 MB that are in memory. That
    must not be under the writers' lock, nor in the next append of a writer that has mapped the file.
    """
    sizes: list[tuple[int, str]] = []
    for info in infos:
        for suffix in paths.SUFFIXES:
            path = info.path(store, suffix)
            with suppress(FileNotFoundError):
                sizes.append((os.stat(path).st_size, path))
    sizes.sort(reverse=True)
    opened: list[ReadFile] = []
    for size, path in sizes[:_MAX_LARGE]:
        if size >= _LARGE_BYTES:
            try:
                opened.append(ReadFile(path))
            except (EvlogError, FileNotFoundError):
                break  # this process has few descriptors
    return opened


def remove_unnamed(store: str, manifest: Manifest, infos: Iterable[SegmentInfo], disk: Disk) -> None:
    """Remove those files of these segments that the manifest does not name."""
    for info in infos:
        for suffix in paths.SUFFIXES:
            file = SegmentFile(info.first_position, info.generation, suffix)
            if not manifest.names(file):
                disk.remove(paths.segment_path(store, *file))


def _replaced(
    segments: Sequence[SegmentInfo], old: Sequence[SegmentInfo], new: SegmentInfo
) -> tuple[SegmentInfo, ...]:
    at = segments.index(old[0])
    assert list(segments[at : at + len(old)]) == list(old)  # only this process compacts
    return (*segments[:at], new, *segments[at + len(old) :])


def segment_bytes(store: str) -> int:
    """Return the bytes of all files of segments."""
    return bytes_in(paths.segments_path(store))


def entries_crc(log: Log, position: int) -> int:
    """Return the CRC of the entries up to the end of a position's frame, in the segment that has it."""
    for part in reversed(log.parts()):
        if part.first_position <= position:
            count = part.segment.number_of(position + 1)
            return part.segment.crc_in_frame(count - 1) if count else 0
    return 0


# --- what the log records


class Started(NamedTuple):
    """A compaction that the log says was begun."""

    at: int  # the position of the event that says so
    cut_off: CutOff
    removed_before: int  # how many events earlier compactions had removed
    bytes: int  # of all files of segments, then


def find_unfinished(log: Log) -> Started | None:
    """Return the compaction that was begun and not finished, if there is one.

    Raises:
        CorruptionError: the event that began it makes no sense.
    """
    stream_hash = hash_stream(COMPACTIONS_STREAM)
    for part in log.stream_parts(stream_hash):
        for number in part.index.find_newest_first(KIND_STREAMS, stream_hash):
            record = part.segment.record(number)
            if record[2] != COMPACTIONS_STREAM:
                continue
            if record[3] == FINISHED_TYPE:
                return None
            if record[3] == STARTED_TYPE:
                return _decode_started(record, part.segment.log_path)
    return None


def _decode_started(record: Record, path: str) -> Started:
    try:
        data = json.loads(record[7])
        numbers = [data[name] for name in ("position", "time", "removed_before", "bytes")]
    except (ValueError, LookupError, TypeError, RecursionError):
        numbers = []
    if [type(number) for number in numbers] != [int] * 4 or not 0 <= numbers[0] < record[0]:
        raise CorruptionError(path, None, "the start of a compaction makes no sense", record[0])
    return Started(record[0], CutOff(*numbers[:2]), *numbers[2:])


def append_started(log: Log, writer: Writer, plan: Plan) -> Started:
    """Record that a compaction begins; durable when this returns."""
    cut_off, rules = plan.cut_off, plan.rules
    removed, size = log.manifest.removed_events, segment_bytes(log.store)
    data = {
        "position": cut_off.position,
        "time": cut_off.time_us,
        "rules": rules[:_MAX_RULES],
        "more_rules": max(0, len(rules) - _MAX_RULES),
        "removed_before": removed,
        "bytes": size,
        "digest": None,
    }
    return Started(_append(writer, STARTED_TYPE, data), cut_off, removed, size)


def append_finished(writer: Writer, started: Started, events: int, bytes_after: int) -> None:
    """Record that a compaction is done."""
    data = {
        "started": started.at,
        "events_removed": events,
        "bytes_before": started.bytes,
        "bytes_after": bytes_after,
    }
    _append(writer, FINISHED_TYPE, data)


def _append(writer: Writer, type: str, data: dict[str, Any]) -> int:
    raw = json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()
    event = (type, None, JSON_CODE, raw, None)
    return writer.append(AppendRequest.own(COMPACTIONS_STREAM, event)).positions[0]


# --- subscriptions


def check_subscriptions(log: Log, plan: Plan, disk: Disk) -> None:
    """Raise SubscriptionBehind if events are removed that a named subscription has yet to deliver.

    Raises:
        CorruptionError: a checkpoint is damaged.
    """
    names = list_names(log.store) if plan.last_hidden else ()
    known = ((name, SubscriptionFiles(log.store, log.manifest.store_id, name, disk).load()) for name in names)
    decide(known, plan.last_hidden, partial(_find_last, plan))


def _find_last(plan: Plan, after: int, filter: EventFilter) -> int:
    """Return the position of the last removed event after a position that the filter selects, else 0."""
    matches = selection_of(filter, after + 1, None).matcher()
    for segment in reversed(plan.segments):
        if segment.last_hidden <= after:
            continue
        log, hidden = segment.part.segment, segment.hidden
        low = log.number_of(after + 1)
        numbers = [number for number in range(len(hidden) - 1, low - 1, -1) if hidden[number]]
        for record in chain.from_iterable(log.records(numbers)):
            if matches is None or matches(record):
                return record[0]
    return 0
