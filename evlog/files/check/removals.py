"""Checking a segment's file of removed events against the positions that its log lacks.

The missing positions must be exactly those of the removed events. Positions are compared here, segment by
segment; `across` compares versions, stream by stream. No gap is expanded to its positions: a crafted log may
claim a gap of any size.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import chain, compress, repeat
from operator import add, eq, gt, sub
from zlib import crc32

from evlog.errors import CorruptionError, EvlogError
from evlog.files.check import findings as kinds
from evlog.files.check.task import SegmentTask
from evlog.files.disk.files import ReadFile
from evlog.files.format import paths
from evlog.files.format.removed_events import event_column
from evlog.model.reports import Finding

_PIECE_BYTES = 1 << 20


def check_removed_length(task: SegmentTask) -> Finding | None:
    """Check that the file of a segment's removed events is there, and as long as the manifest says."""
    name, wanted = f"{task.name}.removed", task.info.removed_bytes
    if not wanted:
        if not task.info.removed_events:
            return None
        detail = f"it names {task.info.removed_events} removed events, and no file of them"
        return kinds.damage(kinds.MANIFEST, paths.MANIFEST, None, task.info.first_position, detail)
    try:
        size = ReadFile(f"{task.path}.removed").size()
    except FileNotFoundError:
        detail = "it is missing: a retry of an event that a compaction removed would be written again"
        return kinds.damage(kinds.MISSING, name, None, None, detail)
    if size != wanted:
        detail = f"it has {size} bytes, {wanted} were written"
        return kinds.damage(kinds.LENGTH, name, min(size, wanted), None, detail)
    return None


def check_removed(task: SegmentTask) -> Finding | None:
    """Check the file of a segment's removed events by itself: what the manifest says of it, and its order."""
    finding = check_removed_length(task)
    info, name = task.info, f"{task.name}.removed"
    if finding is not None or not info.removed_bytes:
        return finding
    file = ReadFile(f"{task.path}.removed")
    found = at = 0
    while piece := file.read(_PIECE_BYTES, at):
        found = crc32(piece, found)
        at += len(piece)
    if found != info.removed_crc:
        detail = "it fails its CRC: ids of removed events are damaged"
        return kinds.damage(kinds.INDEX, name, None, None, detail)
    try:
        removed = task.open_removed()
        if removed is None:
            return None
        removed.check_all()
        hashes, tags, grouped = removed.stream_hashes(), removed.tags(), removed.is_grouped()
        removed.streams()
    except CorruptionError as damage:
        return kinds.damage(kinds.GONE, name, damage.offset, None, damage.detail)
    if removed.events != info.removed_events:
        detail = f"it holds {removed.events} events, not {info.removed_events}, as the manifest says"
        return kinds.damage(kinds.GONE, name, None, None, detail)
    if not grouped or any(map(gt, hashes, hashes[1:])) or any(map(gt, tags, tags[1:])):
        return kinds.damage(
            kinds.GONE, name, None, None, "its rows are not in order: a reader misses some of them"
        )
    return None


def check_removals(
    task: SegmentTask, missing: tuple[bytes, bytes] | None, last_position: int, reached: int
) -> list[Finding]:
    """Check a segment's removed events by themselves, and against the positions that its log lacks.

    Args:
        missing: the runs of positions that it lacks, as `Runs` packs them; None if its log is damaged.
        last_position: its last event's.
        reached: where the segment before it ends.
    """
    finding = check_removed(task)
    if finding is not None:
        return [finding]
    if missing is None:
        return []
    try:
        removed = task.open_removed()
        positions = sorted(event_column(removed.rows(), "position")) if removed is not None else []
        tagged = {tag[2] for tag in removed.tags()} if removed is not None else set[int]()
    except (FileNotFoundError, EvlogError):
        return []  # replaced meanwhile
    if strange := tagged.difference(positions):
        detail = "it has tags of events that it does not name: conditions of appends count others"
        return [kinds.damage(kinds.GONE, f"{task.name}.removed", None, min(strange), detail)]
    firsts, lasts = (array("Q", raw) for raw in missing)
    if last_position < task.info.last_position:
        firsts.append(last_position + 1)
        lasts.append(task.info.last_position)
    lost = max(0, task.info.lost_events - (task.info.first_position - reached - 1))
    return _compare(task, positions, firsts, lasts, lost)


def _compare(
    task: SegmentTask, removed: list[int], firsts: Sequence[int], lasts: Sequence[int], lost: int
) -> list[Finding]:
    """Compare rising positions with the runs that a log lacks; `lost` more may be missing."""
    missing = sum(map(sub, lasts, firsts)) + len(firsts)
    runs = map(range, firsts, map(add, lasts, repeat(1)))
    if not lost and missing == len(removed) and removed == list(chain.from_iterable(runs)):
        return []
    found = []
    places = [bisect_right(firsts, position) - 1 for position in removed]
    unknown = [
        position
        for position, place in zip(removed, places, strict=True)
        if place < 0 or position > lasts[place]
    ]
    twice = list(compress(removed, map(eq, removed, removed[1:])))
    if unknown or twice:
        named = len(unknown) + len(twice)
        detail = f"it names {named} removed events that the log still holds, or names them twice"
        found.append(kinds.damage(kinds.GONE, f"{task.name}.removed", None, (unknown or twice)[0], detail))
    lacking = missing - (len(set(removed)) - len(set(unknown)))
    if lacking > lost:
        detail = f"{lacking - lost} positions are neither in the log nor among the removed events"
        position = _first_lacking(removed, firsts, lasts)
        found.append(kinds.damage(kinds.GONE, task.log_name, None, position, detail))
    elif lacking < lost:
        detail = f"the manifest says that {lost} events were lost, and {lacking} are"
        found.append(kinds.damage(kinds.GONE, task.log_name, None, None, detail))
    return found


def _first_lacking(removed: list[int], firsts: Sequence[int], lasts: Sequence[int]) -> int | None:
    for first, last in zip(firsts, lasts, strict=True):
        at = bisect_left(removed, first)
        for position in range(first, last + 1):
            if at == len(removed) or removed[at] != position:
                return position
            at += 1
    return None
