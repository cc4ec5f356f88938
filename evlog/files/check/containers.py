"""Reading a compressed log past all damage, with every byte checked.

A block that cannot be unpacked is a finding, and reads as zeros, which are never a frame or a record. Where
the header or the table of blocks is damaged, the blocks are found without them: by the seek table alone, or
one after the other by their own structure; zstandard's checksums then say which of them are whole. The file
is read with `pread`, not mapped: a file that is cut or a device that fails must not kill the process.
"""

from __future__ import annotations

from array import array
from typing import Final
from zlib import crc32

from evlog.files.check import findings as kinds
from evlog.files.disk.files import ReadFile
from evlog.files.disk.zstd import BlockFault, content_size, require_zstandard, unpack
from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    KIND_LOG,
    FileHeader,
    FormatFault,
    decode_file_header,
)
from evlog.files.format.manifest import SegmentInfo
from evlog.files.format.seek_table import (
    BLOCK_BYTES,
    FOOTER_BYTES,
    HEAD_BYTES,
    MAX_BLOCK_BYTES,
    BlockTable,
    count_blocks,
    decode_head,
    decode_tail,
    encode_head,
    encode_tail,
    frame_end,
    log_header,
    make_table,
    tail_bytes,
)
from evlog.files.log.compressed import BlockLog
from evlog.model.reports import Finding

_NO_CRC: Final = 1  # of a block that is not there: an empty one has the CRC 0


class Container:
    """The file of a compressed log: what is wrong with it, and where its blocks are.

    Args:
        name: of the file, as findings have it.
        expected: the header of the log, None if that is not known.
        log_bytes: the length of the log, None if that is not known.
        compressed_bytes: the length of the file, as it was written.

    Raises:
        FileNotFoundError: it is missing.
    """

    def __init__(
        self, path: str, name: str, expected: FileHeader | None, log_bytes: int | None, compressed_bytes: int
    ) -> None:
        self.path = path
        self.findings: list[Finding] = []
        self._name = name
        self._file = ReadFile(path)
        self._size = self._file.size()
        if self._size != compressed_bytes:
            detail = f"it has {self._size} bytes, {compressed_bytes} were written"
            self.find(kinds.LENGTH, min(self._size, compressed_bytes), detail)
        self._log_bytes = log_bytes
        self.header = self._check_head(expected)
        self._table = self._check_table()

    def __getitem__(self, place: slice) -> bytes:
        return self._file.read(place.stop - place.start, place.start)

    def table(self) -> BlockTable:
        """Return where the blocks are, as far as undamaged parts of the file tell.

        Raises:
            ExtraNotInstalled: they have to be unpacked for that.
        """
        return self._table or self._table_by_itself() or self._walk()

    def find(self, kind: str, offset: int, detail: str) -> None:
        """Add a finding."""
        self.findings.append(kinds.damage(kind, self._name, offset, None, detail))

    def _check_head(self, expected: FileHeader | None) -> FileHeader | None:
        try:
            header = decode_head(self[0:HEAD_BYTES])
        except FormatFault as fault:
            self.find(kinds.HEADER, 0, str(fault))
            return None
        if expected is not None and log_header(header) != expected:
            self.find(kinds.HEADER, 0, "its header names another store or segment; was the file swapped?")
            return None
        return header

    def _check_table(self) -> BlockTable | None:
        header, log_bytes = self.header, self._log_bytes
        if header is None:
            return None
        tail_at = max(HEAD_BYTES, self._size - tail_bytes(header.keys))
        tail = self[tail_at : self._size]
        try:
            if crc32(tail) != header.source_crc:
                raise FormatFault("its table of blocks fails its CRC")
            table = decode_tail(tail, self._size)
            if (table.blocks, table.block_bytes) != (header.keys, header.postings):
                raise FormatFault("its table of blocks is not what its header says")
            if log_bytes is not None and table.log_bytes != log_bytes:
                raise FormatFault(f"it holds {table.log_bytes} bytes of a log of {log_bytes}")
        except FormatFault as fault:
            self.find(kinds.BLOCK, tail_at, str(fault))
            return None
        return table

    def _table_by_itself(self) -> BlockTable | None:
        """Return the table by the end of the file alone; None if that is damaged, too."""
        try:
            count = count_blocks(self[max(0, self._size - FOOTER_BYTES) : self._size])
            tail_at = self._size - tail_bytes(count)
            table = decode_tail(self[tail_at : self._size], self._size) if tail_at > HEAD_BYTES else None
        except FormatFault:
            return None
        if table is None or self._log_bytes not in (None, table.log_bytes):
            return None
        require_zstandard(self.path)
        return table._replace(crcs=array("I", (self._crc(table, number) for number in range(table.blocks))))

    def _crc(self, table: BlockTable, number: int) -> int:
        """Return the CRC that a block must have where the table is damaged: its own, if it is whole."""
        packed = self[table.offsets[number] : table.offsets[number + 1]]
        try:
            unpack(packed, table.content_bytes(number))
        except BlockFault:
            return crc32(packed) ^ 1
        return crc32(packed)

    def _walk(self) -> BlockTable:
        """Find the blocks one after the other, up to the first that zstandard's checksum refuses."""
        require_zstandard(self.path)
        raw = self[0 : self._size]
        sizes: list[int] = []
        contents: list[int] = []
        crcs: list[int] = []
        at = HEAD_BYTES
        try:
            while not contents or contents[-1] == contents[0]:
                end = frame_end(raw, at)
                packed = raw[at:end]
                size = content_size(packed)
                if not 0 < size <= MAX_BLOCK_BYTES or (contents and size > contents[0]):
                    break
                unpack(packed, size)
                sizes.append(end - at)
                contents.append(size)
                crcs.append(crc32(packed))
                at = end
        except (FormatFault, BlockFault):
            pass  # here begins the damage, or what follows the blocks
        block_bytes = contents[0] if contents else BLOCK_BYTES
        log_bytes = self._log_bytes or sum(contents)
        missing = max(0, -(-log_bytes // block_bytes) - len(sizes))
        return make_table(block_bytes, log_bytes, sizes + [0] * missing, crcs + [_NO_CRC] * missing)

    def maybe_repaired(self, log: FileHeader) -> bytes | None:
        """Return the whole file as it was written, if every block of the log is whole; else None."""
        table, reader = self.table(), CheckedLog(self)
        for number in range(table.blocks):
            reader.block(number)
        if reader.damaged_blocks or not table.blocks:
            return None
        tail = encode_tail(table)
        head = encode_head(log, table.block_bytes, table.blocks, tail)
        return head + self[HEAD_BYTES : table.offsets[-1]] + tail


class CheckedLog(BlockLog):
    """The bytes of a compressed log, with zeros in the place of damaged blocks."""

    def __init__(self, container: Container) -> None:
        super().__init__(container.path, container, container.table())
        self._container = container
        self.damaged_blocks: set[int] = set()

    @property
    def findings(self) -> list[Finding]:
        """The findings so far, of the file and of the blocks that were read."""
        return self._container.findings

    def _damaged(self, number: int, detail: str) -> bytes:
        at, end = self._table.offsets[number : number + 2]
        if number not in self.damaged_blocks and number - 1 not in self.damaged_blocks:
            # One finding for neighbours: half a file may be missing.
            self._container.find(kinds.BLOCK, at, detail if at < end else "blocks of the log are missing")
        self.damaged_blocks.add(number)
        return bytes(self._table.content_bytes(number))


def open_container(store: str, store_id: bytes, info: SegmentInfo) -> Container:
    """Open the container of a segment's compressed log. Raises as `Container` does."""
    log_bytes = info.log_bytes if info.sealed else None
    path, name = info.path(store, info.log_suffix), f"{info.name}.{info.log_suffix}"
    return Container(path, name, info.header(KIND_LOG, store_id), log_bytes, info.compressed_bytes)


def open_log(store: str, store_id: bytes, info: SegmentInfo) -> ReadFile | CheckedLog:
    """Open a segment's log, compressed or not, to be read past all damage.

    Raises:
        FileNotFoundError: it is missing.
        ExtraNotInstalled: it is compressed, and zstandard is not installed.
    """
    path = info.path(store, info.log_suffix)
    if info.compressed_bytes:
        require_zstandard(path)
        return CheckedLog(open_container(store, store_id, info))
    return ReadFile(path)


def written_header(container: Container) -> FileHeader | None:
    """Return the header of the log in a container, by the container's header or by the log's first bytes."""
    if container.header is not None:
        return log_header(container.header)
    try:
        return decode_file_header(CheckedLog(container).read(FILE_HEADER_BYTES, 0))
    except FormatFault:
        return None
