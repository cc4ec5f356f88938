"""The one module that knows zstandard, which is optional: imported when a block is first packed or unpacked.

Bytes from a file are not trusted here: a block says how many bytes it holds before any are allocated for it,
and is refused if it is not as many as it must. Objects of zstandard serve one thread at a time, so each
thread has its own.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from evlog.errors import ZstdNotInstalled

# Measured on blocks of 16 KiB of small JSON events: levels 1 to 3 pack 0.22 at 470 MB/s, 6 packs 0.20 at
# 110 MB/s, 9 the same at 50. A dictionary made of the segment's own blocks gave 0.24: they are alike inside.
_LEVEL: Final = 3


class BlockFault(ValueError):
    """Bytes that are not a block of the size that it must have."""


class _Local(threading.local):
    """A thread's own objects."""

    library: Any = None
    packer: Any = None
    unpacker: Any = None


_local: Final = _Local()


def need_zstandard(path: str) -> None:
    """Make sure that zstandard is there.

    Raises:
        ZstdNotInstalled: it is not, and is needed for what is at the path.
    """
    if _local.library is not None:
        return
    try:
        import zstandard
    except ImportError:
        raise ZstdNotInstalled(path) from None
    # A size and a checksum: whoever has only the blocks can still tell whether one is whole.
    _local.packer = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True, write_content_size=True)
    _local.unpacker = zstandard.ZstdDecompressor()
    _local.library = zstandard


def pack(content: bytes | memoryview) -> bytes:
    """A block of the content. `need_zstandard` was called in this thread."""
    packed: bytes = _local.packer.compress(content)
    return packed


def unpack(packed: bytes, size: int) -> bytes:
    """The content of a block, which must be `size` bytes. `need_zstandard` was called in this thread.

    Raises:
        BlockFault: it is not such a block.
    """
    zstandard = _local.library
    try:
        if zstandard.frame_content_size(packed) == size:
            content: bytes = _local.unpacker.decompress(packed, size, allow_extra_data=False)
            if len(content) == size:
                return content
    except zstandard.ZstdError as error:
        raise BlockFault(f"zstandard says: {error}") from None
    raise BlockFault("it does not hold as many bytes as it must")


def content_size(packed: bytes) -> int:
    """How many bytes a block says that it holds; -1 if it does not say so. As `unpack` otherwise."""
    try:
        size: int = _local.library.frame_content_size(packed)
    except _local.library.ZstdError as error:
        raise BlockFault(f"zstandard says: {error}") from None
    return size
