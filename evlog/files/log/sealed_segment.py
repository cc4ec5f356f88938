"""A segment that never changes: its log is mapped, and so are its entries.

If its .offsets is missing or damaged, its entries are derived from the log, silently.
"""

from __future__ import annotations

from zlib import crc32

from evlog.errors import CorruptionError, EvlogError
from evlog.files.disk.files import map_file
from evlog.files.format.entries import ENTRY_BYTES, derive_entries
from evlog.files.format.frames import FRAME_HEADER_BYTES
from evlog.files.format.headers import FILE_HEADER_BYTES, KIND_OFFSETS, FormatFault, decode_file_header
from evlog.files.log.segment import Segment, check_header, read_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from evlog.files.format.manifest import SegmentInfo
    from evlog.files.log.segment import InMemory


class SealedSegment(Segment):
    """A segment that never changes: mapped, and checked against what the manifest says of it.

    Raises:
        FileNotFoundError: its log is not there; the manifest may have moved on.
        CorruptionError: its log is shorter or longer than it was, or belongs to something else.
    """

    def __init__(self, store: str, store_id: bytes, info: SegmentInfo) -> None:
        super().__init__(store, store_id, info)
        self._open_log()
        self.count = info.events
        self.end = info.log_bytes
        self._entries_checked = False
        self._entries_rebuilt = False
        self.entries = self._map_entries()

    def _open_log(self) -> None:
        log_bytes = self.info.log_bytes
        self._log = map_file(self.log_path)
        self._map: InMemory = self._log.obj  # type: ignore[assignment]  # slices of it are bytes
        header = read_header(bytes(self._log[:FILE_HEADER_BYTES]), self.log_path)
        check_header(header, self.log_path, self.header)
        if len(self._log) != log_bytes:
            raise CorruptionError(
                self.log_path,
                min(len(self._log), log_bytes),
                f"the file has {len(self._log)} bytes, {log_bytes} were sealed",
            )

    def maybe_in_memory(self) -> InMemory:
        return self._map

    def window(self, offset: int, length: int) -> tuple[bytes | memoryview, int]:  # noqa: ARG002 - all of it
        return self._log, 0

    def checked_entries(self) -> bytes | bytearray | memoryview:
        """Return the entries, checked to be those that were sealed."""
        if not self._entries_checked:
            if crc32(self.entries) != self.info.offsets_crc:
                self.entries = self._derive_entries()
            self._entries_checked = True
        return self.entries

    @property
    def entries_damaged(self) -> bool:
        """Whether .offsets was found missing or damaged, and was replaced in memory."""
        return self._entries_rebuilt

    def repair_entries(self) -> bool:
        if self._entries_checked:
            return False
        before = self.entries
        return self.checked_entries() is not before

    def _map_entries(self) -> bytes | memoryview:
        try:
            raw = map_file(self.offsets_path)
            header = decode_file_header(bytes(raw[:FILE_HEADER_BYTES]))
        except (FileNotFoundError, FormatFault, EvlogError):
            return self._derive_entries()
        entries = raw[FILE_HEADER_BYTES:]
        if header != self.header._replace(kind=KIND_OFFSETS) or len(entries) != self.count * ENTRY_BYTES:
            return self._derive_entries()
        return entries

    def _derive_entries(self) -> bytes:
        """Derive all entries from the log; the CRCs of its frames prove them."""
        parts = []
        offset = FILE_HEADER_BYTES
        while offset < self.end:
            header, body = self.frame(offset)
            try:
                parts.append(derive_entries(header, offset, body))
            except FormatFault as fault:
                raise CorruptionError(self.log_path, offset, str(fault), header.first_position) from None
            offset += FRAME_HEADER_BYTES + header.length
        entries = b"".join(parts)
        if len(entries) != self.count * ENTRY_BYTES:
            raise CorruptionError(
                self.log_path,
                None,
                f"it holds {len(entries) // ENTRY_BYTES} events, {self.count} were sealed",
            )
        self._entries_checked = self._entries_rebuilt = True
        return entries
