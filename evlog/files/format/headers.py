"""The header that begins every binary file, and the kinds of file."""

from __future__ import annotations

import sys
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

_U32: Final = Struct("<I")
if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("evlog maps little-endian files as they are; this machine is big-endian")


FORMAT_VERSION: Final = 1
FILE_HEADER_BYTES: Final = 64
KIND_LOG, KIND_OFFSETS, KIND_STREAMS, KIND_TYPES, KIND_IDS, KIND_REMOVED, KIND_COMPRESSED = range(1, 8)
FILE_MAGIC: Final = b"\x89evlog\r\n"
_FILE_HEADER: Final = Struct("<8sHHI16sQIIIIII")


class FormatFault(ValueError):
    """Bytes that are not what this format says; the reader of the file turns it into an error with a path."""


class NewerFormat(ValueError):
    """A whole and sound header of a later format."""

    def __init__(self, found: int) -> None:
        super().__init__(f"format {found}")
        self.found = found


class FileHeader(NamedTuple):
    """The first 64 bytes of a binary file."""

    kind: int
    generation: int
    store_id: bytes
    first_position: int
    tag: int
    keys: int = 0
    postings: int = 0
    source_crc: int = 0


def encode_file_header(header: FileHeader) -> bytes:
    """The 64 bytes that begin a binary file."""
    kind, generation, store_id, first_position, tag, keys, postings, source_crc = header
    raw = _FILE_HEADER.pack(
        FILE_MAGIC, FORMAT_VERSION, kind, generation, store_id, first_position, tag, keys, postings,
        source_crc, 0, 0,
    )  # fmt: skip
    return raw[:-4] + _U32.pack(crc32(raw[:-4]))


def decode_file_header(raw: bytes) -> FileHeader:
    """Decode the first 64 bytes of a binary file.

    Raises:
        FormatFault: they are not a file header, or one that is damaged.
        NewerFormat: they are a sound header of a later format.
    """
    if len(raw) < FILE_HEADER_BYTES:
        raise FormatFault(f"its header is cut off after {len(raw)} bytes")
    fields = _FILE_HEADER.unpack_from(raw)
    if fields[0] != FILE_MAGIC:
        raise FormatFault("it does not begin with evlog's magic")
    if fields[11] != crc32(raw[: FILE_HEADER_BYTES - 4]):
        raise FormatFault("its header fails its CRC")
    if fields[1] > FORMAT_VERSION:
        raise NewerFormat(fields[1])
    return FileHeader(fields[2], *fields[3:10])
