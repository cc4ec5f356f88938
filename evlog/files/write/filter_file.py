"""Adding sealed segments to the file `filter`.

1. Blocks are appended by one process at a time, under a lock on the file itself. No process waits for
   it: one that does not get it leaves its segments to the next one.
2. What readers may have mapped is never changed or cut. If anything but whole blocks is in the file, or
   mostly stale ones, another file replaces it.
3. Nothing is synced: every byte is under a CRC, and what a power loss takes is added again.
"""

from __future__ import annotations

import os

from evlog.errors import CorruptionError, EvlogError
from evlog.files.disk.file_lock import FileLock
from evlog.files.format.filter import encode_block, encode_filter_header
from evlog.files.log.parts import SegmentMoved
from evlog.files.log.segment_filter import FilterFault, check_block
from evlog.files.write.derived import replace_derived

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Final

    from evlog.files.disk.files import Disk, WriteFile
    from evlog.files.format.filter import Identity
    from evlog.files.log.log import Log

_KEYS_AT_ONCE: Final = 1 << 18  # a tenth of a second; the next call continues
_MANY: Final = 64


def extend_filter(log: Log, disk: Disk, keys_at_once: int = _KEYS_AT_ONCE) -> None:
    """Add sealed segments that the filter does not cover, the newest first.

    Args:
        keys_at_once: after this many keys the rest is left to the next call.
    """
    log.filter.is_due = False
    lock = FileLock(log.filter.path, 0.0, disk)
    try:
        file = lock.maybe_acquire()
        if file is None:
            return
        try:
            _extend_locked(log, file, disk, keys_at_once)
        finally:
            lock.release()
    except (EvlogError, SegmentMoved):
        pass  # no room, no permission, a damaged segment: an append that is durable must not fail by it
    finally:
        lock.close()


def _extend_locked(log: Log, file: WriteFile, disk: Disk, keys_at_once: int) -> None:
    filter, sealed = log.filter, log.sealed
    covered = None if filter.is_damaged else filter.covered_by(os.fstat(file.fd))
    if covered is not None and len(covered) <= 2 * len(sealed) + _MANY:
        fresh = _blocks_without(log, covered, keys_at_once)
        if fresh:
            disk.write_at(file, b"".join(fresh.values()), os.fstat(file.fd).st_size)
            filter.note_appended(os.fstat(file.fd), frozenset(fresh))
        return
    raw, blocks, end = filter.load()
    is_whole = (
        end == len(raw) and end and not filter.is_damaged and filter.covered_by(os.fstat(file.fd)) is not None
    )
    if is_whole and len(blocks) <= 2 * len(sealed) + _MANY:
        _extend_locked(log, file, disk, keys_at_once)
        return
    kept = {part.info[:3]: b"" for part in sealed if part.info[:3] in blocks}
    for identity in list(kept):
        try:
            check_block(raw, identity, blocks[identity])
            kept[identity] = bytes(raw[blocks[identity].start : blocks[identity].end])
        except FilterFault:
            del kept[identity]
    filter.is_damaged = False
    kept |= _blocks_without(log, kept.keys(), keys_at_once)
    content = [encode_filter_header(log.manifest.store_id_bytes), *kept.values()]
    replace_derived(filter.path, b"".join(content), disk)


def _blocks_without(log: Log, covered: Collection[Identity], keys_at_once: int) -> dict[Identity, bytes]:
    """Return blocks for sealed segments that have none, newest first, until they hold `keys_at_once` keys."""
    fresh: dict[Identity, bytes] = {}
    keys = 0
    for part in reversed(log.sealed):
        identity = part.info[:3]
        if identity in covered:
            continue
        if keys > keys_at_once:
            log.filter.is_due = True
            break
        try:
            parts = part.filter_keys()
        except CorruptionError:
            continue  # a damaged event: the segment is looked into
        keys += sum(map(len, parts))
        fresh[identity] = encode_block(identity, *parts)
    return fresh
