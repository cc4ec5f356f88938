"""Adding sealed segments to the file `filter`.

1. Blocks are appended by one process at a time, under a lock on the file itself. No process waits for
   it: one that does not get it leaves its segments to the next one.
2. Where 4 segments in a row have blocks of their own, a block of all 4 takes their place, and one of 16 that
   of four such. Where a compaction replaced some of these, the others get blocks of their own again.
3. What readers may have mapped is never changed or cut. If anything but whole blocks is in the file, or
   too many that are not used, another file replaces it.
4. Nothing is synced: every byte is under a CRC, and what a power loss takes is added again.
"""

from __future__ import annotations

import os

from evlog.errors import CorruptionError, EvlogError
from evlog.files.disk.file_lock import FileLock
from evlog.files.disk.files import map_file
from evlog.files.format.filter import (
    JOINED,
    decode_blocks,
    encode_block,
    encode_filter_header,
    identity_of,
    join_blocks,
    joined_size,
    maybe_decode_block,
    single_block,
)
from evlog.files.format.headers import FormatFault
from evlog.files.log.parts import SegmentMoved
from evlog.files.log.segment_filter import STALE, FilterFault, UsedBlock
from evlog.files.write.derived import replace_derived

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from typing import Final

    from evlog.files.disk.files import Disk, WriteFile
    from evlog.files.log.log import Log

_KEYS_AT_ONCE: Final = 1 << 18  # a tenth of a second; the next call continues
_MAX_UNUSED: Final = 64  # blocks, of which each costs a reader 0.7 µs, and at most a third of the bytes
_MAX_JOINED_BYTES: Final = 1 << 26  # in one call
_MAX_GROWTH: Final = 2  # of the tables, which in a group have the size of the largest


def extend_filter(log: Log, disk: Disk, start: Callable[[int], bool] | None = None) -> None:
    """Add sealed segments that the filter does not cover, the newest first.

    Args:
        start: have another process do it; called with the descriptor of the locked file, which that process
            inherits. False: it could not be started.
    """
    log.filter.is_due = False
    lock = FileLock(log.filter.path, 0.0, disk)
    try:
        file = lock.maybe_acquire()
        if file is None:
            return
        if start is not None and start(file.fd):
            lock.leave()
            return
        try:
            _extend_locked(log, file, disk)
        finally:
            lock.release()
    except (EvlogError, SegmentMoved):
        pass  # no space, no permission, a damaged segment: a durable append must not fail because of it
    finally:
        lock.close()


def complete_filter_locked(log: Log, file: WriteFile, disk: Disk) -> None:
    """Add the sealed segments that the filter does not cover, until another file replaces the locked one."""
    for _ in range(len(log.sealed)):
        _extend_locked(log, file, disk)
        if not (log.filter.is_due and os.fstat(file.fd).st_nlink):
            return


def _extend_locked(log: Log, file: WriteFile, disk: Disk) -> None:
    filter, store_id = log.filter, log.manifest.store_id_bytes
    raw = map_file(filter.path)
    try:
        blocks, end = decode_blocks(raw, store_id)
    except FormatFault:
        blocks, end = [], 0
    is_whole = 0 < end == len(raw) and not filter.is_damaged
    kept, fresh = [], []
    for used in filter.load(log.sealed).blocks:
        if not is_whole and not _is_sound(used):
            continue
        if STALE in used.places:
            fresh += _split(used)
        else:
            kept.append(used)
    filter.is_due = filter.is_damaged = False
    covered = {place for used in (*kept, *fresh) for place in used.places}
    fresh += _blocks_without(log, covered)
    for width in (1, JOINED):
        for group in _groups(log, [*kept, *fresh], width):
            kept = [used for used in kept if used.top not in group.places]
            fresh = [used for used in fresh if used.top not in group.places] + [group]
    added = b"".join(_contents(fresh))
    used_bytes = len(added) + sum(used.block.end - used.block.start for used in kept)
    if not is_whole or len(blocks) - len(kept) > _MAX_UNUSED or end + len(added) > 1.5 * used_bytes:
        content = b"".join((encode_filter_header(store_id), *_contents(kept), added))
        replace_derived(filter.path, content, disk)
    elif added:
        disk.write_at(file, added, end)
    else:
        return
    filter.note_extended()


def _contents(blocks: Sequence[UsedBlock]) -> list[memoryview]:
    return [used.raw[used.block.start : used.block.end] for used in blocks]


def _is_sound(used: UsedBlock) -> bool:
    try:
        used.check_all()
    except FilterFault:
        return False
    return True


def _new(content: bytes, places: list[int]) -> UsedBlock:
    block = maybe_decode_block(content, 0, len(content))
    assert block is not None
    return UsedBlock(memoryview(content), block, places)


def _split(used: UsedBlock) -> list[UsedBlock]:
    """Return blocks of one segment each in the place of one of which some segments were replaced."""
    if not _is_sound(used):
        return []
    return [
        _new(single_block(used.raw, used.block, at), [place])
        for at, place in enumerate(used.places)
        if place != STALE
    ]


def _groups(log: Log, blocks: Sequence[UsedBlock], width: int) -> Iterator[UsedBlock]:
    """Iterate over blocks that are each made of several of `width` segments, which follow each other."""
    run: list[UsedBlock] = []
    joined_bytes = 0
    for used in sorted([used for used in blocks if len(used.places) == width], key=lambda used: used.top):
        if run and run[-1].top + 1 != used.places[0]:
            run.clear()
        run.append(used)
        if len(run) < JOINED:
            continue
        size = sum(each.block.end - each.block.start for each in run)
        if size > _MAX_JOINED_BYTES:  # of huge segments: at the next call it would be as large
            run.clear()
            continue
        joined_bytes += size
        if joined_bytes > _MAX_JOINED_BYTES:
            log.filter.is_due = True
            return
        if not all(map(_is_sound, run)):
            log.filter.is_due = log.filter.is_damaged = True
        elif joined_size([each.block for each in run]) <= _MAX_GROWTH * size:
            places = [place for each in run for place in each.places]
            yield _new(join_blocks([(each.raw, each.block) for each in run]), places)
        run.clear()


def _blocks_without(log: Log, covered: Collection[int]) -> Iterator[UsedBlock]:
    """Make blocks for sealed segments that have none, newest first, until they hold enough keys."""
    keys, sealed = 0, log.sealed
    for place in range(len(sealed) - 1, -1, -1):
        if place in covered:
            continue
        if keys > _KEYS_AT_ONCE:
            log.filter.is_due = True
            break
        try:
            parts = sealed[place].filter_keys()
        except CorruptionError:
            continue  # a damaged event: the segment is looked into
        keys += sum(map(len, parts))
        yield _new(encode_block(identity_of(sealed[place].info), *parts), [place])
