"""Which sealed segments may hold a stream, a type, an id or a tag, by the file `filter`.

1. The file is derived, and only saves work. A segment that it does not cover is always searched.
2. A table is used after its pages have been checked. A damaged block counts as not there.
3. The file is mapped again only when enough segments are not covered: a process that rolls has sealed these
   segments itself, and searches them quickly.
4. The view for one list of sealed segments is one value, replaced whole, so threads need no lock.
"""

from __future__ import annotations

from itertools import repeat
from zlib import crc32

from evlog.errors import EvlogError
from evlog.files.disk.files import map_file
from evlog.files.format import paths
from evlog.files.format.filter import (
    CELL_BYTES,
    LookUp,
    check_filter_header,
    filter_keys,
    find_blocks,
    find_key,
    lowest_bits,
    maybe_decode_block,
    members_at,
    shift_of,
)
from evlog.files.format.headers import FormatFault
from evlog.files.format.sorted_index import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Final

    from evlog.files.format.filter import Block, Identity
    from evlog.files.log.parts import SealedParts

_CHECKED_AT_ONCE: Final = PAGE_BYTES  # a table up to this size is checked whole when it is first used
_WORTH_LESS: Final = 0.75  # of the keys, for which a look-up of fewer is prepared
_MANY_KEYS: Final = 64  # look-ups, after which all tables are checked whole
_MAX_UNCOVERED: Final = 2  # and one in 64 segments
_MAX_FOUND: Final = 256  # answers that are kept: a page of a stream in 38 segments takes 6 µs less
STALE: Final = -1


class FilterFault(Exception):
    """A damaged page of a block."""

    def __init__(self, start: int) -> None:
        super().__init__(f"the filter's block at offset {start} is damaged")
        self.start = start


class UsedBlock:
    """A block that is used for some segments, and which of its pages are checked."""

    __slots__ = ("_checked", "_whole", "block", "places", "raw", "top")

    def __init__(self, raw: memoryview, block: Block, places: list[int]) -> None:
        self.block = block
        self.places = places  # of its segments in the list of sealed ones; STALE: another block is used
        self.top = max(places)
        self.raw = raw
        # Threads share these without a lock: a page that two of them check at once is only checked twice.
        self._checked = bytearray(-(-(block.end - block.tables_at) // PAGE_BYTES))
        self._whole: set[int] = set()  # the tables that are checked

    def table(self, kind: int) -> memoryview:
        """Return one of its tables."""
        at, slots = self.block.tables[kind]
        return self.raw[at : at + CELL_BYTES * slots * len(self.places)]

    def check(self, kind: int, keys: Sequence[int] | None) -> None:
        """Check the pages that an answer for these keys rests on; None: the whole table.

        Raises:
            FilterFault: one is damaged.
        """
        if kind in self._whole:
            return
        at, slots = self.block.tables[kind]
        width = CELL_BYTES * len(self.places)
        first = at - self.block.tables_at
        if keys is None or slots * width <= _CHECKED_AT_ONCE:
            end = first + slots * width
            self._check_pages(range(first // PAGE_BYTES, -(-end // PAGE_BYTES)))
            self._whole.add(kind)
        elif slots:
            shift = shift_of(slots)
            self._check_pages([(first + (key >> shift) * width) // PAGE_BYTES for key in keys])

    def check_all(self) -> None:
        """Check all tables. Raises as `check`."""
        self._check_pages(range(len(self._checked)))

    def _check_pages(self, pages: Sequence[int]) -> None:
        raw, block, checked = self.raw, self.block, self._checked
        for page in pages:
            if not checked[page]:
                at, crc_at = block.tables_at + page * PAGE_BYTES, block.crcs_at + 4 * page
                crc = int.from_bytes(raw[crc_at : crc_at + 4], "little")
                if crc32(raw[at : min(at + PAGE_BYTES, block.end)]) != crc:
                    raise FilterFault(block.start)
                checked[page] = 1

    def find(self, kind: int, look_up: LookUp, indexes: Sequence[int]) -> dict[int, list[int]]:
        """Return the indexes of the keys that may be in each segment, by its place; `check` comes before."""
        hits = look_up.find(self.table(kind), len(self.places))
        return {
            place: [indexes[at] for at in own]
            for place, own in zip(self.places, hits, strict=True)
            if own and place != STALE
        }


class BlocksOfKind:
    """The blocks that have any key of one kind, and their tables together."""

    __slots__ = ("_lowest_bits", "_places", "_tables", "blocks")

    def __init__(self, blocks: Sequence[UsedBlock], kind: int) -> None:
        self.blocks: list[UsedBlock] = []
        self._places: list[int] = []
        self._tables: list[tuple[int, int, memoryview]] = []
        for used in blocks:
            slots = used.block.tables[kind][1]
            if slots:
                self.blocks.append(used)
                self._places += used.places
                self._tables.append((shift_of(slots), CELL_BYTES * len(used.places), used.table(kind)))
        self._lowest_bits = lowest_bits(len(self._places))

    def find(self, key: int) -> list[int]:
        """Return the places of the segments that may have a key, STALE among them; checks come before."""
        places = self._places
        return [places[number] for number in find_key(key, self._tables, self._lowest_bits)]


class FilterView:
    """What the filter says of one list of sealed segments."""

    __slots__ = ("_by_kind", "_looks", "blocks", "found", "sealed", "uncovered")

    def __init__(self, blocks: list[UsedBlock], sealed: SealedParts, uncovered: list[int]) -> None:
        self.blocks = blocks  # those of the newest segments first
        self.sealed = sealed
        self.uncovered = uncovered  # the places of the segments without a block, rising
        self._by_kind: dict[int, BlocksOfKind] = {}  # made when first asked for
        self._looks: dict[int, int] = {}  # by kind: how many keys were looked up
        self.found: dict[tuple[int, tuple[int, ...]], list[int]] = {}  # the last answers, by kind and hashes

    def of_kind(self, kind: int) -> BlocksOfKind:
        """Return the blocks that have any key of this kind."""
        return self._by_kind.get(kind) or self._by_kind.setdefault(kind, BlocksOfKind(self.blocks, kind))

    def check(self, kind: int, keys: Sequence[int]) -> None:
        """Check every page that an answer for the keys rests on.

        Raises:
            FilterFault: one is damaged.
        """
        looks = self._looks.get(kind, 0)
        if looks < _MANY_KEYS:
            looks += len(keys)
            for used in self.of_kind(kind).blocks:
                used.check(kind, keys if looks < _MANY_KEYS else None)
            self._looks[kind] = looks

    def grown(self, sealed: SealedParts) -> FilterView | None:
        """Return the same for a list that has later segments, too; None if those are too many."""
        known = len(self.sealed)
        uncovered = [*self.uncovered, *range(known, len(sealed))]
        if not sealed.begins_with(self.sealed) or len(uncovered) > _MAX_UNCOVERED + len(sealed) // 64:
            return None
        view = FilterView(self.blocks, sealed, uncovered)
        view._by_kind, view._looks = self._by_kind, self._looks
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
        self._view: FilterView | None = None  # replaced whole

    def places(self, sealed: SealedParts, kind: int, *hashes: int) -> list[int]:
        """Return the places of the segments that may hold one of the streams, types or tags, newest first.

        The list is kept for the next look-up: the caller does not change it.
        """
        if not sealed:
            return []
        view = self._view
        known = view.found.get((kind, hashes)) if view is not None and view.sealed is sealed else None
        if known is not None:
            return known
        keys = filter_keys(kind, hashes)
        view = self._checked_view(sealed, kind, keys)
        found = set(view.uncovered)
        for key in keys:
            found.update(view.of_kind(kind).find(key))
        found.discard(STALE)
        if len(view.found) >= _MAX_FOUND:
            view.found.clear()
        known = view.found[kind, hashes] = sorted(found, reverse=True)
        return known

    def candidates(
        self, sealed: SealedParts, kind: int, hashes: Sequence[int], known: Sequence[int] = ()
    ) -> Iterator[tuple[int, Sequence[int]]]:
        """Iterate over the segments that may hold some of the streams or ids with these hashes, newest first.

        Args:
            known: a number for each hash, or none; those that the caller has set need not be looked up.

        Yields:
            A segment's place, and the indexes in `hashes` of what it may hold.
        """
        asked: Sequence[int] = range(len(hashes))
        if known:
            asked = [at for at in asked if not known[at]]
        if not (sealed and asked):
            return
        if len(hashes) == 1:  # a third of the time
            for place in self.places(sealed, kind, hashes[0]):
                yield place, [0]
            return
        keys = filter_keys(kind, hashes)
        look_up = LookUp([keys[at] for at in asked] if known else keys)
        view = self._checked_view(sealed, kind, look_up.keys)
        found: dict[int, Sequence[int]] = dict.fromkeys(view.uncovered, asked)
        for used in view.of_kind(kind).blocks:
            for place in sorted([place for place in found if place > used.top], reverse=True):
                yield place, found.pop(place)
            left = [at for at in asked if not known[at]] if known else asked
            if len(left) < _WORTH_LESS * len(asked):
                look_up, asked = LookUp([keys[at] for at in left]), left
            found.update(used.find(kind, look_up, asked))
        for place in sorted(found, reverse=True):
            yield place, found[place]

    def load(self, sealed: SealedParts, damaged: frozenset[int] = frozenset()) -> FilterView:
        """Map the file as it is now, and use it from the next look-up on.

        Args:
            damaged: where blocks begin that are not used.
        """
        place_of: dict[Identity, int] = dict(zip(sealed.identities(), range(len(sealed)), strict=True))
        blocks = []
        try:
            raw = map_file(self.path)
            check_filter_header(raw, self._store_id)
            ends = find_blocks(raw)
            for number in range(len(ends) - 2, -1, -1):
                at = ends[number]
                members = members_at(raw, at)
                if place_of.keys().isdisjoint(members) or at in damaged:
                    continue  # its segments were replaced, or have a later block
                block = maybe_decode_block(raw, at, ends[number + 1])
                if block is not None:
                    places = list(map(place_of.pop, members, repeat(STALE)))
                    blocks.append(UsedBlock(raw, block, places))
        except (FileNotFoundError, FormatFault, EvlogError):
            pass
        blocks.sort(key=lambda used: used.top, reverse=True)
        self.is_due = bool(place_of) or any(STALE in used.places for used in blocks)
        view = self._view = FilterView(blocks, sealed, list(place_of.values()))
        return view

    def uncovered_events(self) -> int:
        """Return how many events, also removed ones, are in the segments that have no block yet."""
        view = self._view
        infos = [view.sealed[place].info for place in view.uncovered] if view is not None else []
        return sum(info.events + info.removed_events for info in infos)

    def note_extended(self) -> None:
        """Have the next look-up map the file again, if blocks that are now in it are worth that."""
        view = self._view
        if view is None or len(view.uncovered) > len(view.sealed) // 64:
            self._view = None

    def _view_of(self, sealed: SealedParts) -> FilterView:
        view = self._view
        if view is not None:
            if view.sealed is sealed:
                return view
            view = view.grown(sealed)
            self._view = view
        return view or self.load(sealed)

    def _checked_view(self, sealed: SealedParts, kind: int, keys: Sequence[int]) -> FilterView:
        """Return the view of these segments, with every page checked that an answer for the keys rests on."""
        damaged: frozenset[int] = frozenset()
        while True:
            view = self._view_of(sealed)
            try:
                view.check(kind, keys)
                return view
            except FilterFault as fault:
                self.is_damaged = True
                damaged |= {fault.start}
                self.load(sealed, damaged)
                self.is_due = True
