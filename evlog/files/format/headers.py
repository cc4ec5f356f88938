r"""The header that begins every binary file, in this and in all later formats.

    offset  size  field
         0     8  magic  89 65 76 6c 6f 67 0d 0a  ("\x89evlog\r\n")
         8     2  format version (1)
        10     2  kind: 1 log, 2 offsets, 3 streams, 4 types, 5 ids, 6 removed events,
                  7 compressed log, 8 filter, 9 tags
        12     4  generation of the segment (0; a compaction increments it)
        16    16  store id, a UUID
        32     8  first position of the segment
        40     4  tag: random, chosen with the segment; its log and indexes carry the same
        44     4  keys       (kinds 3 to 5, 9: number of keys; others: see the module of the kind)
        48     4  postings   (kinds 3 to 5, 9: number of postings; others: see the module of the kind)
        52     4  source CRC (kinds 3 to 5, 9: of the .offsets entries; others: see the module of the kind)
        56     4  zero       (kind 6: see its module)
        60     4  CRC of bytes 0..59

The header of a filter names no segment: everything between the store id and the CRC is zero.
"""

from __future__ import annotations

import sys
from struct import Struct
from zlib import crc32

from evlog.model.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("evlog maps little-endian files as they are; this machine is big-endian")

FORMAT_VERSION: Final = 1
FILE_HEADER_BYTES: Final = 64
KIND_LOG, KIND_OFFSETS, KIND_STREAMS, KIND_TYPES, KIND_IDS, KIND_REMOVED, KIND_COMPRESSED = range(1, 8)
KIND_FILTER: Final = 8
KIND_TAGS: Final = 9
FILE_MAGIC: Final = b"\x89evlog\r\n"
_FILE_HEADER: Final = Struct("<8sHHI16sQIIIIII")
_U32: Final = Struct("<I")


class FormatFault(ValueError):
    """Bytes that break the format. The reader of the file turns this into an error with a path."""


class NewerFormat(FormatFault):
    """An undamaged header of a later format."""

    def __init__(self, found: int) -> None:
        super().__init__(f"its header is of format {found}")
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
    tags: int = 0


def encode_file_header(header: FileHeader) -> bytes:
    """Return the 64 bytes that begin a binary file."""
    kind, generation, store_id, first_position, tag, keys, postings, source_crc, tags = header
    raw = _FILE_HEADER.pack(
        FILE_MAGIC, FORMAT_VERSION, kind, generation, store_id, first_position, tag, keys, postings,
        source_crc, tags, 0,
    )  # fmt: skip
    return raw[:-4] + _U32.pack(crc32(raw[:-4]))


def decode_file_header(raw: bytes) -> FileHeader:
    """Decode the first 64 bytes of a binary file.

    Raises:
        FormatFault: they are not a file header, or it is damaged; NewerFormat: it is of a later format.
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
    return FileHeader(fields[2], *fields[3:11])
