"""Checking a sealed segment's sorted indexes against its entries, and the entries' versions.

An index is right if its keys rise, every entry is in it exactly once and under its own key, and the entries
of a key rise: then it is the one that would be built. Pieces of columns are compared at a time: in a loop, an
entry would cost more than all other checks of it. Nothing here opens a log.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import chain, compress, islice, repeat
from operator import add, eq, ge, itemgetter, lt, sub
from typing import Final

from evlog.errors import EvlogError
from evlog.files.check import findings as kinds
from evlog.files.disk.files import ReadFile
from evlog.files.format.entries import column, column_array
from evlog.files.format.headers import (
    FILE_HEADER_BYTES,
    KIND_IDS,
    FileHeader,
    FormatFault,
    decode_file_header,
)
from evlog.files.format.sorted_index import COLUMN, PAGE_BYTES, page_crcs, sorted_shape
from evlog.files.log.column_index import Entries
from evlog.model.named import NamedTuple
from evlog.model.reports import Finding

_NUMBERS_AT_ONCE: Final = 4096  # as objects in the processor's cache; whole columns took a third longer


class Postings(NamedTuple):
    """A sorted index: keys, where the postings of each begin (and the last one's end), postings."""

    keys: memoryview
    starts: list[int]
    numbers: memoryview


class IndexWrong(Exception):
    """The file is not the index of these entries.

    `believed`: its CRCs hold, so a reader does not notice and gets wrong answers.
    """

    def __init__(self, kind: str, offset: int | None, detail: str, *, believed: bool = False) -> None:
        super().__init__(detail)
        self.finding_kind = kind
        self.offset = offset
        self.believed = believed


def check_index(path: str, name: str, expected: FileHeader, entries: Entries) -> Postings | Finding:
    """Check one sorted index; return what it says, or what is wrong with it.

    Args:
        path: the file. name: its path below the store, for the finding.
        expected: the header that it must have, but for its counts.
        entries: the segment's entries, known to be right.
    """
    try:
        postings = _read_postings(path, expected)
        _check_postings(postings, expected.kind, column_array(entries, COLUMN[expected.kind]))
        return postings
    except IndexWrong as wrong:
        return _finding_for(wrong, name)


def check_tags(path: str, name: str, expected: FileHeader, content: bytes | None) -> Finding | None:
    """Check .tags, and return what is wrong with it.

    Args:
        content: what it must be, as it is built of the records; None: not known.
    """
    try:
        if content is not None and _open(path).read(len(content) + 1, 0) == content:
            return None
        _read_postings(path, expected)  # says what is damaged
        if content is None:
            return None
        raise IndexWrong(kinds.INDEX, None, "it is not the index of these events", believed=True)
    except IndexWrong as wrong:
        return _finding_for(wrong, name)


def _finding_for(wrong: IndexWrong, name: str) -> Finding:
    if wrong.believed:
        detail = f"{wrong}, though its CRCs hold: readers miss events; a repair rebuilds it"
        return kinds.damage(wrong.finding_kind, name, wrong.offset, None, detail)
    return kinds.note(wrong.finding_kind, name, wrong.offset, None, f"{wrong}; {kinds.DERIVED}")


def open_index(path: str, expected: FileHeader) -> tuple[ReadFile, FileHeader]:
    """Open a sorted index, and return its header as well.

    Raises:
        IndexWrong: it is missing, or its header or its length is wrong.
    """
    file = _open(path)
    try:
        header = decode_file_header(file.read(FILE_HEADER_BYTES, 0))
    except (FormatFault, EvlogError) as fault:
        raise IndexWrong(kinds.HEADER, 0, str(fault)) from None
    if header._replace(keys=0, postings=0) != expected:
        raise IndexWrong(
            kinds.HEADER, 0, "its header names another store, segment or source: swapped, or stale"
        )
    shape = sorted_shape(header.kind, header.keys, header.postings)
    size = file.size()
    if size != shape.file_bytes:
        detail = f"it has {size} bytes, not {shape.file_bytes}"
        raise IndexWrong(kinds.LENGTH, min(size, shape.file_bytes), detail)
    return file, header


def _open(path: str) -> ReadFile:
    try:
        return ReadFile(path)
    except FileNotFoundError:
        raise IndexWrong(kinds.MISSING, None, "it is missing") from None


def _read_postings(path: str, expected: FileHeader) -> Postings:
    file, header = open_index(path, expected)
    shape = sorted_shape(header.kind, header.keys, header.postings)
    raw = memoryview(file.read(shape.file_bytes, 0))
    found, crcs = page_crcs(raw[FILE_HEADER_BYTES : shape.crcs_at]), bytes(raw[shape.crcs_at :])
    if found != crcs:
        bad = next(at for at in range(0, len(found), 4) if found[at : at + 4] != crcs[at : at + 4])
        offset = FILE_HEADER_BYTES + bad // 4 * PAGE_BYTES
        raise IndexWrong(kinds.INDEX, offset, "a page of it fails its CRC")
    keys = raw[shape.keys_at : shape.starts_at]
    return Postings(
        keys.cast("I" if header.kind == KIND_IDS else "Q"),
        raw[shape.starts_at : shape.postings_at].cast("I").tolist(),
        raw[shape.postings_at : shape.crcs_at].cast("I"),
    )


def _check_postings(postings: Postings, kind: int, cells: array[int]) -> None:
    """Raise IndexWrong unless each of the column's cells is found under its own key, once and in order."""
    keys, starts, numbers = postings
    count = len(cells)
    if len(numbers) != count:
        raise IndexWrong(
            kinds.INDEX, None, f"it has {len(numbers)} postings for {count} events", believed=True
        )
    if not count:
        return
    if kind == KIND_IDS:
        _check_ids(keys, numbers, cells)
    else:
        _check_groups(keys.tolist(), starts, numbers, cells)


def _check_ids(keys: memoryview, numbers: memoryview, cells: array[int]) -> None:
    foreign, falling = len(keys) != len(numbers), False
    key = number = -1
    for its_keys, its_numbers in zip(_pieces(keys), _pieces(numbers), strict=False):
        foreign |= _pick_cells(cells, its_numbers) != tuple(its_keys)
        # `sorted` of a rising list takes a tenth of the time of comparing neighbours.
        falling |= key > its_keys[0] or its_keys != sorted(its_keys)
        ties = compress(range(len(its_keys)), map(eq, chain((key,), its_keys), its_keys))  # a few by chance
        falling |= any(its_numbers[at] <= (its_numbers[at - 1] if at else number) for at in ties)
        key, number = its_keys[-1], its_numbers[-1]
    if foreign:
        raise IndexWrong(kinds.INDEX, None, "a posting is under another event's key", believed=True)
    if falling:
        raise IndexWrong(kinds.INDEX, None, "its keys or postings do not rise", believed=True)


def _check_groups(keys: list[int], starts: list[int], numbers: memoryview, cells: array[int]) -> None:
    foreign = False
    falls: set[int] = set()
    low, number = 0, -1
    wanted = chain.from_iterable(map(repeat, keys, _lengths(starts)))
    for its_numbers in _pieces(numbers):
        high = low + len(its_numbers)
        foreign |= _pick_cells(cells, its_numbers) != tuple(islice(wanted, high - low))
        falls.update(compress(range(low, high), map(ge, chain((number,), its_numbers), its_numbers)))
        low, number = high, its_numbers[-1]
    if not _rises(keys) or not _rises(starts) or starts[0] or starts[-1] != len(cells):
        raise IndexWrong(kinds.INDEX, None, "its keys or starts do not rise", believed=True)
    if foreign:
        raise IndexWrong(kinds.INDEX, None, "a posting is under another event's key", believed=True)
    if not falls.issubset(starts):
        raise IndexWrong(kinds.INDEX, None, "the postings of a key do not rise", believed=True)


def _pieces(column: memoryview) -> Iterator[list[int]]:
    for low in range(0, len(column), _NUMBERS_AT_ONCE):
        yield column[low : low + _NUMBERS_AT_ONCE].tolist()


def _pick_cells(cells: array[int], numbers: Sequence[int]) -> tuple[int, ...]:
    try:
        return pick(cells, numbers)
    except IndexError:
        raise IndexWrong(kinds.INDEX, None, "a posting is beyond the segment's end", believed=True) from None


def _rises(values: list[int]) -> bool:
    """Return whether each is greater than the one before it."""
    return all(map(lt, values, islice(values, 1, None)))


def pick(values: Sequence[int], numbers: Sequence[int]) -> tuple[int, ...]:
    """Return the values with these numbers, all in one call."""
    if not numbers:
        return ()
    if len(numbers) == 1:
        return (values[numbers[0]],)
    picked: tuple[int, ...] = itemgetter(*numbers)(values)
    return picked


def _lengths(starts: Sequence[int]) -> map[int]:
    return map(sub, islice(starts, 1, None), starts)


class StreamVersions(NamedTuple):
    """The versions that a segment's streams have in it, by the streams' hashes."""

    first: dict[int, int]
    last: dict[int, int]
    odd: set[int]
    """hashes of the streams whose versions do not rise by one, or of several streams that share one"""


def versions_rise_by_one(by_stream: Postings, entries: Entries) -> bool:
    """Return whether each stream's versions rise by one, by a .streams that is right.

    It costs a third of what `check_versions` does, which names the streams whose versions do not.
    """
    _, starts, numbers = by_stream
    versions = column_array(entries, "version")
    firsts = pick(versions, pick(numbers, starts[:-1]))
    wanted = chain.from_iterable(map(range, firsts, map(add, firsts, _lengths(starts))))
    return all(pick(versions, its) == tuple(islice(wanted, len(its))) for its in _pieces(numbers))


def check_versions(entries: Entries, *, gaps: bool) -> StreamVersions:
    """Check the versions in entries, in the order of the log.

    Args:
        gaps: a salvage was here, so versions need only rise.
    """
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    odd: set[int] = set()
    for stream_hash, version in zip(column(entries, "stream_hash"), column(entries, "version"), strict=True):
        before = last.get(stream_hash)
        if before is None:
            first[stream_hash] = version
        elif version != before + 1 and not (gaps and version > before):
            odd.add(stream_hash)
        last[stream_hash] = version
    return StreamVersions(first, last, odd)
