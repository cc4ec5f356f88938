"""Which sealed segments may hold a stream, a type, an id or a tag, by the file `filter`.

1. The file is derived, and only saves work. A segment that it does not cover is looked into.
2. A table is used after its pages have been checked. What is damaged counts as not covered.
3. The file is mapped again only when enough segments are not covered: a process that rolls has just sealed
   those itself, and looks into them quickly.
4. What is known for one list of sealed segments is one value, replaced whole, so threads need no lock.
"""

from __future__ import annotations

import os
from zlib import crc32

from evlog.errors import EvlogError
from evlog.files.disk.files import map_file
from evlog.files.format import paths
from evlog.files.format.filter import MARKS, SEVERAL, LookUp, decode_blocks, filter_key
from evlog.files.format.headers import KIND_IDS, KIND_STREAMS, KIND_TAGS, KIND_TYPES, FormatFault
from evlog.files.format.sorted_index import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Final, Protocol

    from evlog.files.format.filter import Block, Identity
    from evlog.files.format.manifest import SegmentInfo

    class Sealed(Protocol):
        """What is needed of a sealed segment."""

        @property
        def info(self) -> SegmentInfo: ...


_CHECKED_AT_ONCE: Final = PAGE_BYTES  # a table up to this size is checked whole when it is first used
_LOOKS_BEFORE_CHECKING_ALL: Final = 64
_MAX_UNCOVERED: Final = 2  # and one in 64 segments


class FilterFault(Exception):
    """A damaged page of a segment's block."""

    def __init__(self, identity: Identity) -> None:
        super().__init__(f"the filter's block of the segment {identity} is damaged")
        self.identity = identity


class _Table:
    """One table of one block, and which of its pages are checked."""

    __slots__ = ("_block", "_first", "_looks", "_raw", "cells", "identity", "place", "unchecked")

    def __init__(self, raw: memoryview, identity: Identity, place: int, block: Block, kind: int) -> None:
        at, slots = block.table(kind)
        self.place = place  # in the list of sealed segments
        self.identity = identity
        self.cells = raw[at : at + slots]
        self.unchecked = True
        self._raw = raw
        self._block = block
        self._first = at - block.tables_at
        self._looks = 0
        if slots <= _CHECKED_AT_ONCE:
            self.check_all()

    def check(self, keys: Sequence[int]) -> None:
        """Check the pages that an answer for these keys rests on.

        Raises:
            FilterFault: one is damaged.
        """
        self._looks += len(keys)
        if self._looks > _LOOKS_BEFORE_CHECKING_ALL:
            self.check_all()
            return
        slots = len(self.cells)
        for key in keys:
            self._check_page((self._first + (key * slots >> 32)) // PAGE_BYTES)

    def check_all(self) -> None:
        """Check the whole table. Raises as `check`."""
        end = self._first + len(self.cells)
        for page in range(self._first // PAGE_BYTES, -(-end // PAGE_BYTES)):
            self._check_page(page)
        self.unchecked = False

    def _check_page(self, page: int) -> None:
        block = self._block
        at = block.tables_at + page * PAGE_BYTES
        end = min(at + PAGE_BYTES, block.end)
        crc = self._raw[block.crcs_at + 4 * page : block.crcs_at + 4 * page + 4]
        if crc32(self._raw[at:end]) != int.from_bytes(crc, "little"):
            raise FilterFault(self.identity)


class _View:
    """What the filter says of one list of sealed segments."""

    __slots__ = ("blocks", "by_kind", "raw", "sealed", "uncovered")

    def __init__(
        self, raw: memoryview, blocks: dict[Identity, Block], sealed: Sequence[Sealed], uncovered: list[int]
    ) -> None:
        self.raw = raw
        self.blocks = blocks
        self.sealed = sealed
        self.uncovered = uncovered  # the places of the segments without a block, rising
        self.by_kind: dict[int, list[_Table]] = {}  # made when first asked for

    def tables(self, kind: int) -> list[_Table]:
        """Return the tables of the covered segments that have any key of this kind."""
        tables = self.by_kind.get(kind)
        if tables is None:
            blocks = self.blocks
            tables = [
                _Table(self.raw, identity, place, block, kind)
                for place, part in enumerate(self.sealed)
                if (block := blocks.get(identity := part.info[:3])) is not None and block.table(kind)[1]
            ]
            self.by_kind[kind] = tables
        return tables

    def grown(self, sealed: Sequence[Sealed]) -> _View | None:
        """Return the same for a list that has later segments, too; None if those are too many."""
        known = len(self.sealed)
        uncovered = [*self.uncovered, *range(known, len(sealed))]
        if sealed[:known] != self.sealed or len(uncovered) > _MAX_UNCOVERED + len(sealed) // 64:
            return None
        view = _View(self.raw, self.blocks, sealed, uncovered)
        view.by_kind = self.by_kind
        return view


class SegmentFilter:
    """The filter of one store, for one log.

    Args:
        store: the store's directory.
        store_id: as in the manifest.
    """

    def __init__(self, store: str, store_id: bytes) -> None:
        self.path = paths.filter_path(store)
        # Set by look-ups, cleared by a writer: blocks should be added; a block is damaged.
        self.is_due = self.is_damaged = False
        self._store_id = store_id
        self._view: _View | None = None  # replaced whole
        # Replaced whole: device and inode of the file, where its last whole block ends, whose blocks it has.
        self._covered: tuple[tuple[int, int], int, frozenset[Identity]] | None = None

    def places(self, sealed: Sequence[Sealed], kind: int, hash: int) -> list[int]:
        """Return the places of the segments that may hold the stream, type or tag, newest first."""
        if not sealed:
            return []
        key = filter_key(kind, hash)
        view = self._checked_view(sealed, kind, (key,))
        own = SEVERAL, key % MARKS + 1
        places = view.uncovered + [
            table.place
            for table in view.tables(kind)
            if (cells := table.cells)[key * len(cells) >> 32] in own
        ]
        places.sort(reverse=True)
        return places

    def candidates(
        self, sealed: Sequence[Sealed], kind: int, hashes: Sequence[int]
    ) -> Iterator[tuple[int, Sequence[int]]]:
        """Iterate over the segments that may hold some of the streams or ids with these hashes, newest first.

        Yields:
            A segment's place, and the indexes in `hashes` of what it may hold.
        """
        if not (sealed and hashes):
            return
        look_up = LookUp(hashes if kind == KIND_IDS else [filter_key(kind, hash) for hash in hashes])
        view = self._checked_view(sealed, kind, look_up.keys)
        uncovered = view.uncovered[:]
        for table in reversed(view.tables(kind)):
            while uncovered and uncovered[-1] > table.place:
                yield uncovered.pop(), range(len(hashes))
            if found := look_up.find(table.cells):
                yield table.place, found
        for place in reversed(uncovered):
            yield place, range(len(hashes))

    def load(self) -> tuple[memoryview, dict[Identity, Block], int]:
        """Map the file as it is now, and use it from the next look-up on.

        Returns:
            Its content, its blocks, and where the last whole one ends (0 if it is not the filter of this
            store).
        """
        self._view = self._covered = None
        try:
            status = os.stat(self.path)
            raw = map_file(self.path)
            blocks, end = decode_blocks(raw, self._store_id)
        except (OSError, EvlogError, FormatFault):
            return memoryview(b""), {}, 0
        self._covered = (status.st_dev, status.st_ino), end, frozenset(blocks)
        return raw, blocks, end

    def covered_by(self, status: os.stat_result) -> frozenset[Identity] | None:
        """Return whose blocks the file with this status has; None if it must be loaded to know that."""
        covered = self._covered
        if covered is None or covered[:2] != ((status.st_dev, status.st_ino), status.st_size):
            return None
        return covered[2]

    def note_appended(self, status: os.stat_result, identities: frozenset[Identity]) -> None:
        """Remember that the file, which has this status now, has these blocks, too."""
        covered = self._covered
        if covered is not None:
            self._covered = covered[0], status.st_size, covered[2] | identities
        view = self._view
        if view is None or len(view.uncovered) > len(view.sealed) // 64:
            self._view = None  # the next look-up maps the file again

    def _view_of(self, sealed: Sequence[Sealed]) -> _View:
        view = self._view
        if view is not None:
            if view.sealed is sealed:
                return view
            view = view.grown(sealed)
        if view is None:
            raw, blocks, _ = self.load()
            uncovered = [place for place, part in enumerate(sealed) if part.info[:3] not in blocks]
            self.is_due = bool(uncovered)
            view = _View(raw, blocks, sealed, uncovered)
        self._view = view
        return view

    def _checked_view(self, sealed: Sequence[Sealed], kind: int, keys: Sequence[int]) -> _View:
        """Return the view of these segments, with every page checked that an answer for the keys rests on."""
        while True:
            view = self._view_of(sealed)
            try:
                for table in view.tables(kind):
                    if table.unchecked:
                        table.check(keys)
                return view
            except FilterFault as fault:
                self._forget(view, fault.identity)

    def _forget(self, view: _View, identity: Identity) -> None:
        """Treat a segment as one without a block: its block is damaged."""
        blocks = {key: block for key, block in view.blocks.items() if key != identity}
        uncovered = [place for place, part in enumerate(view.sealed) if part.info[:3] not in blocks]
        self._view = _View(view.raw, blocks, view.sealed, uncovered)
        self.is_due = self.is_damaged = True


def check_block(raw: memoryview, identity: Identity, block: Block) -> None:
    """Raise FilterFault if a page of the block is damaged."""
    for kind in (KIND_STREAMS, KIND_TYPES, KIND_IDS, KIND_TAGS):
        _Table(raw, identity, 0, block, kind).check_all()
