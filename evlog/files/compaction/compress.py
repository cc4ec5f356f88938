"""Writing a sealed segment's log in compressed form beside the plain one, if that makes it smaller.

The bytes of the log do not change, so its indexes and digests stay. The log is checked before, and each block
is unpacked again and compared, because the plain file is removed once the manifest names this one. It is
synced, but no manifest names it yet: a file that a crash leaves is ignored. Nothing here takes a lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final
from zlib import crc32

from evlog.errors import CorruptionError
from evlog.files.disk.files import Disk
from evlog.files.disk.zstd import BlockFault, pack, require_zstandard, unpack
from evlog.files.format import paths
from evlog.files.format.frames import FRAME_HEADER_BYTES
from evlog.files.format.headers import FILE_HEADER_BYTES
from evlog.files.format.manifest import SegmentInfo
from evlog.files.format.seek_table import (
    BLOCK_BYTES,
    HEAD_BYTES,
    encode_head,
    encode_tail,
    make_table,
    tail_bytes,
)
from evlog.files.log.sealed_segment import SealedSegment

_WORTH: Final = 0.95  # a log that compresses to a larger share than this stays plain
_SAMPLES: Final = 64  # blocks, spread over a log: an estimate within some percent
_WRITE_BYTES: Final = 1 << 20
_BLOCKS_AT_ONCE: Final = 64  # are compressed between two calls of the progress

Progress = Callable[[int], None]
"""Called now and then with the bytes of the log that were compressed since the last call."""


def compressed_path(store: str, info: SegmentInfo) -> str:
    """Return where the log of a segment is once it is compressed."""
    return info.path(store, paths.COMPRESSED_LOG)


def maybe_estimate(segment: SealedSegment) -> int | None:
    """Estimate the bytes that a segment would take compressed; None if that saves too little.

    Raises:
        ExtraNotInstalled: zstandard is not installed.
    """
    require_zstandard(segment.log_path)
    log_bytes = segment.info.log_bytes
    blocks = -(-log_bytes // BLOCK_BYTES)
    samples = [segment.log_bytes(at * BLOCK_BYTES, BLOCK_BYTES) for at in _spread(blocks)]
    share = sum(len(pack(sample)) for sample in samples) / sum(map(len, samples))
    size = HEAD_BYTES + round(share * log_bytes) + tail_bytes(blocks)
    return size if size <= _WORTH * log_bytes else None


def _spread(blocks: int) -> Iterator[int]:
    count = min(blocks, _SAMPLES)
    return (number * blocks // count for number in range(count))


def maybe_compress(path: str, segment: SealedSegment, disk: Disk, progress: Progress) -> SegmentInfo | None:
    """Write the log of a plain segment in compressed form; the file is synced, its name is not.

    Args:
        path: the new file. A part of it may be there when an error is raised.

    Returns:
        What the manifest has to say of the segment; None, without a file, if compressing saves too little.

    Raises:
        CorruptionError: the log is damaged.
        ExtraNotInstalled: zstandard is not installed.
        StoreFull, StoreIOError: the disk fails.
    """
    if maybe_estimate(segment) is None:
        progress(segment.info.log_bytes)
        return None
    _check_frames(segment)
    size = _write(path, segment, disk, progress)
    if size > _WORTH * segment.info.log_bytes:  # the estimate was wrong
        disk.remove(path)
        return None
    return segment.info._replace(compressed_bytes=size)


def _check_frames(segment: SealedSegment) -> None:
    """Raise CorruptionError if a frame is damaged: damage must not be compressed."""
    offset = FILE_HEADER_BYTES
    while offset < segment.end:
        header, body = segment.frame(offset)
        segment.check_frame(header, offset, body)
        offset += FRAME_HEADER_BYTES + header.length


def _check_block(path: str, packed: bytes, content: bytes, offset: int) -> None:
    """Raise CorruptionError if a block does not unpack to its content: the plain log will be removed."""
    try:
        same = unpack(packed, len(content)) == content
    except BlockFault:
        same = False
    if not same:
        raise CorruptionError(path, offset, "a block is not what was compressed; the memory may be faulty")


def _write(path: str, segment: SealedSegment, disk: Disk, progress: Progress) -> int:
    log_bytes = segment.info.log_bytes
    block_bytes = min(BLOCK_BYTES, log_bytes)  # as many as the first block holds
    sizes: list[int] = []
    crcs: list[int] = []
    waiting: list[bytes] = []
    written = end = HEAD_BYTES
    file = disk.open(path, create=True, truncate=True)
    try:
        for at in range(0, log_bytes, block_bytes):
            content = segment.log_bytes(at, min(block_bytes, log_bytes - at))
            packed = pack(content)
            _check_block(path, packed, content, end)
            sizes.append(len(packed))
            crcs.append(crc32(packed))
            waiting.append(packed)
            end += len(packed)
            if end - written >= _WRITE_BYTES:
                disk.write_at(file, b"".join(waiting), written)
                written, waiting = end, []
            if len(sizes) % _BLOCKS_AT_ONCE == 0:
                progress(_BLOCKS_AT_ONCE * block_bytes)
        progress(log_bytes % (_BLOCKS_AT_ONCE * block_bytes))
        tail = encode_tail(make_table(block_bytes, log_bytes, sizes, crcs))
        disk.write_at(file, b"".join([*waiting, tail]), written)
        # Last, because it holds the CRC of the tail; without it the file is not valid.
        disk.write_at(file, encode_head(segment.header, block_bytes, len(sizes), tail), 0)
        disk.sync(file)
    finally:
        disk.close(file)
    return end + len(tail)
