"""Reading a sealed segment whose log is compressed: only the blocks that a read touches are unpacked.

`BlockLog` returns the bytes of the log by their offsets in it, so everything above reads frames and records
as in a plain log. A block is checked before it is unpacked; a failure is a CorruptionError with the offset in
the file. Blocks that records were read from stay in memory, up to 64 MiB for all logs of the process: without
them, a stream whose events are spread costs the unpacking of a block for each.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final
from zlib import crc32

from evlog.errors import CorruptionError
from evlog.files.disk.files import map_file
from evlog.files.disk.zstd import BlockFault, require_zstandard, unpack
from evlog.files.format.headers import FileHeader, FormatFault
from evlog.files.format.manifest import SegmentInfo
from evlog.files.format.seek_table import (
    HEAD_BYTES,
    BlockTable,
    decode_head,
    decode_tail,
    log_header,
    tail_bytes,
)
from evlog.files.log.sealed_segment import SealedSegment
from evlog.files.log.segment import check_header, read_header

_CACHE_BYTES: Final = 64 << 20  # as much as is kept of an active log
_AHEAD_BYTES: Final = 1 << 16  # a reader of frames in order gets at least this many

_SKIPPED: Final = 61  # a block to drop is chosen among about this many of the oldest; a prime number
# The blocks in memory: each log's own, and a number in it. Threads share it without a lock:
# each step is one operation, and a thread that loses a race unpacks a block again.
_kept: Final[deque[tuple[dict[int, bytes], int]]] = deque()


class BlockLog:
    """The bytes of a log by their offsets in it, from the blocks of a compressed file.

    Args:
        path: of the file, for errors.
        raw: the file's content; slices of it are bytes.
        table: where its blocks are.
    """

    def __init__(self, path: str, raw: Any, table: BlockTable) -> None:
        self.path = path
        self._raw = raw
        self._table = table
        self._block_bytes = table.block_bytes
        self._blocks: dict[int, bytes] = {}
        self._last = -1, b""  # the last block of the last window, with its number; replaced whole

    def __del__(self) -> None:
        if hasattr(self, "_blocks"):
            self._blocks.clear()  # `_kept` refers to it for a while

    def size(self) -> int:
        """Return the length of the log in bytes."""
        return self._table.log_bytes

    def read(self, length: int, offset: int) -> bytes:
        """Return up to `length` bytes of the log at the offset; fewer only at its end."""
        return self[offset : offset + length]

    def __getitem__(self, place: slice) -> bytes:
        """Return the same, so that records are sliced from this log as from a plain one in memory."""
        start, stop, block_bytes = place.start, place.stop, self._block_bytes
        number = start // block_bytes
        first = number * block_bytes
        piece = self._blocks.get(number, b"")[start - first : stop - first]
        if len(piece) == stop - start:
            return piece
        end = min(-(-stop // block_bytes), self._table.blocks)
        return b"".join(map(self.block, range(number, end)))[start - first : stop - first]

    def window(self, offset: int, length: int) -> tuple[bytes, int]:
        """Return the blocks that hold `length` bytes at the offset, and the offset at which they begin."""
        block_bytes = self._block_bytes
        first = offset // block_bytes
        end = min(-(-(offset + length) // block_bytes), self._table.blocks)
        # A scan unpacks each block once: it must not drive out what others look up.
        known, last = self._blocks.get, self._last
        blocks = [
            known(number) or (last[1] if number == last[0] else self._unpack(number))
            for number in range(first, end)
        ]
        if blocks:
            self._last = end - 1, blocks[-1]  # where the next window begins
        return (blocks[0] if len(blocks) == 1 else b"".join(blocks)), first * block_bytes

    def block(self, number: int) -> bytes:
        """Return the content of a block.

        Raises:
            CorruptionError: it is damaged.
            ExtraNotInstalled: zstandard is not there.
        """
        content = self._blocks.get(number)
        if content is None:
            content = self._blocks[number] = self._unpack(number)
            _kept.append((self._blocks, number))
            while len(_kept) * self._block_bytes > _CACHE_BYTES:
                # Not always the oldest: readers that return to the same blocks in turn, more than memory
                # holds, would read just the dropped one next.
                _kept.rotate(-(number % _SKIPPED))
                blocks, dropped = _kept.popleft()
                blocks.pop(dropped, None)
        return content

    def _unpack(self, number: int) -> bytes:
        table = self._table
        at, end = table.offsets[number], table.offsets[number + 1]
        packed = self._raw[at:end]
        if crc32(packed) != table.crcs[number]:
            return self._damaged(number, "a block of the compressed log fails its CRC")
        require_zstandard(self.path)
        try:
            return unpack(packed, table.content_bytes(number))
        except BlockFault as fault:
            return self._damaged(number, f"a block of the compressed log cannot be unpacked: {fault}")

    def _damaged(self, number: int, detail: str) -> bytes:
        raise CorruptionError(self.path, self._table.offsets[number], detail)


def open_blocks(path: str, expected: FileHeader, info: SegmentInfo) -> BlockLog:
    """Open the compressed log of a segment, whose log has the expected header.

    Raises:
        FileNotFoundError: it is not there.
        CorruptionError, UnsupportedFormat, NotAStore: it is not that log; nothing of it can be found.
    """
    raw: Any = map_file(path).obj
    if len(raw) != info.compressed_bytes:
        detail = f"the file has {len(raw)} bytes, {info.compressed_bytes} were written"
        raise CorruptionError(path, min(len(raw), info.compressed_bytes), detail)
    header = read_header(raw[:HEAD_BYTES], path, decode_head)
    check_header(log_header(header), path, expected)
    tail_at = max(HEAD_BYTES, len(raw) - tail_bytes(header.keys))
    tail = raw[tail_at:]
    if crc32(tail) != header.source_crc:
        raise CorruptionError(path, tail_at, "its table of blocks fails its CRC")
    try:
        table = decode_tail(tail, len(raw))
    except FormatFault as fault:
        raise CorruptionError(path, tail_at, str(fault)) from None
    if (table.blocks, table.block_bytes, table.log_bytes) != (header.keys, header.postings, info.log_bytes):
        raise CorruptionError(path, tail_at, "its table of blocks is not that of this log")
    return BlockLog(path, raw, table)


class CompressedSegment(SealedSegment):
    """A sealed segment whose log is compressed. Raises as `SealedSegment` does."""

    def _open_log(self) -> None:
        self._blocks = open_blocks(self.log_path, self.header, self.info)

    def maybe_in_memory(self) -> BlockLog:
        return self._blocks

    def window(self, offset: int, length: int) -> tuple[bytes | memoryview, int]:
        window, window_at = self._blocks.window(offset, max(length, _AHEAD_BYTES))
        return memoryview(window), window_at
