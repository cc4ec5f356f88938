"""Checking what holds across segments: a stream's versions rise by one, and no id belongs to two events.

1. A range of hashes is checked at a time, over all segments in order: memory does not grow with the store,
   and processes share the ranges.
2. A hash only finds candidates. The names and ids in the records decide, and are read only for candidates.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, compress, pairwise, repeat
from operator import eq, lt, sub
from typing import Final

from evlog.errors import EvlogError
from evlog.files.check import findings as kinds
from evlog.files.check.known import POSITION_BITS, Known, Segments, map_sorted
from evlog.files.check.task import SegmentTask
from evlog.files.disk.files import map_file
from evlog.files.format import paths
from evlog.files.format.entries import ENTRY, ENTRY_BYTES
from evlog.files.format.filter import LookUp, decode_blocks, filter_keys, identity_of, single_table
from evlog.files.format.hashes import hash_ids
from evlog.files.format.headers import FormatFault
from evlog.files.format.sorted_index import WITH_TAGS, page_crcs, suffixes_of
from evlog.model.events import id_text
from evlog.model.named import NamedTuple
from evlog.model.reports import Finding

HASHES_AT_ONCE: Final = 1 << 16
SEGMENTS_AT_ONCE: Final = 16  # for whose blocks the filter is read
_POSITION: Final = (1 << POSITION_BITS) - 1
_KEYS_AT_ONCE: Final = 4096  # columns of few stay in the processor's cache


# --- versions


def odd_streams_in(known: Sequence[Known], low: int, high: int) -> list[int]:
    """Return the hashes of streams whose versions, present and removed, do not rise by one from 1.

    Streams that share a hash are among them, too: `check_stream` looks at names.
    """
    segments = Segments(known)
    last: dict[int, int] = {}
    missing: defaultdict[int, list[range]] = defaultdict(list)
    odd: set[int] = set()
    gaps = False
    for place, segment in segments:
        gaps = gaps or segment.gaps
        heads = segments.heads(place, low, high)
        if heads is None or not heads.stream_hashes:
            continue
        keys, firsts, ends = heads
        steps = list(map(sub, firsts, map(last.get, keys, repeat(0))))
        if steps.count(1) != len(steps):
            for key, step, first in zip(keys, steps, firsts, strict=True):
                if step < 1:
                    odd.add(key)
                elif step > 1:
                    missing[key].append(range(first - step + 1, first))
        last.update(zip(keys, ends, strict=True))
    removed: defaultdict[int, list[int]] = defaultdict(list)
    for keys, cells in segments.removed(low, high):
        deque(map(list.append, map(removed.__getitem__, keys), cells), maxlen=0)
    tops: dict[int, int] = {}
    for key, version in segments.empty_streams(low, high):
        tops[key] = max(version, tops.get(key, 0))
    for key, version in tops.items():
        if version > last.get(key, 0):
            missing[key].append(range(last.get(key, 0) + 1, version + 1))
    for key in removed.keys() | missing.keys():
        if not _explain_each_other(removed[key], missing[key], gaps=gaps):
            odd.add(key)
    return sorted(odd)


def _explain_each_other(removed: list[int], missing: Sequence[range], *, gaps: bool) -> bool:
    """Return whether the missing versions are the removed ones; with gaps others may be missing.

    Args:
        removed: as `Segments.removed` gives versions and positions.
    """
    removed.sort()
    versions, positions = _versions_and_positions(removed)
    if not all(map(lt, versions, versions[1:])) or not all(map(lt, positions, positions[1:])):
        return False
    wanted = sum(map(len, missing))
    if len(versions) == wanted:  # so what may be a gap of any size is short enough to expand
        return versions == sorted(chain.from_iterable(missing))
    return gaps and len(versions) < wanted and all(any(at in span for span in missing) for at in versions)


def _versions_and_positions(removed: Sequence[int]) -> tuple[list[int], list[int]]:
    return [cell >> POSITION_BITS for cell in removed], [cell & _POSITION for cell in removed]


_NO_END: Final = 1 << 64


class _Gap(NamedTuple):
    """Versions of a stream that no segment holds, and the positions between which they were."""

    stream: str
    versions: range
    low: int
    high: int
    finding: Finding


def check_stream(segments: Segments, stream_hash: int) -> list[Finding]:
    """Check every event of the streams with this hash, by name."""
    found: list[Finding] = []
    gaps: list[_Gap] = []
    last: dict[str, tuple[int, int]] = {}
    unsure = False
    for place, segment in segments:
        unsure = unsure or segment.gaps
        for number in segments.numbers_of_stream(place, stream_hash):
            read = None if number is None else segments.maybe_record(place, number)
            if read is None:
                unsure = True  # it is damaged, which is found elsewhere
                continue
            (position, version, stream, *_), offset = read
            before, low = last.get(stream, (0, 0))
            last[stream] = max(before, version), position
            if version == before + 1 or (version > before and unsure):
                continue
            detail = f"goes from version {before} to {version}"
            if not before:
                detail = f"begins with version {version}; no compaction removed those before"
            detail = f"stream {stream!r} {detail}"
            finding = kinds.damage(kinds.VERSION, segment.task.log_name, offset, position, detail)
            if version <= before:
                found.append(finding)
            else:
                gaps.append(_Gap(stream, range(before + 1, version), low, position, finding))
    return found if found or unsure else _check_gaps(segments, stream_hash, gaps, last)


def _check_gaps(
    segments: Segments, stream_hash: int, gaps: list[_Gap], last: Mapping[str, tuple[int, int]]
) -> list[Finding]:
    """Compare the versions that streams with this hash lack with their removed events."""
    names = set(last)
    found_cells = chain.from_iterable(cells for _, cells in segments.removed(stream_hash, stream_hash + 1))
    removed = list(zip(*_versions_and_positions(sorted(found_cells)), strict=True))
    ends: dict[str, int] = {}
    for name, version in segments.empty_names(stream_hash):
        ends[name] = max(version, ends.get(name, 0))
    for name, version in ends.items():
        before, low = last.get(name, (0, 0))
        names.add(name)
        if version > before:
            span = f"versions {before + 1} to {version} of stream {name!r}"
            detail = f"{span} are neither in the log nor among the removed events"
            finding = kinds.damage(kinds.GONE, paths.SEGMENTS, None, None, detail)
            gaps.append(_Gap(name, range(before + 1, version + 1), low, _NO_END, finding))
    left: defaultdict[int, list[int]] = defaultdict(list)
    for version, position in removed:
        left[version].append(position)
    gaps.sort(key=lambda gap: (gap.high < _NO_END, gap.high))
    found = [gap.finding for gap in gaps if not _take(left, gap)]
    unexplained = [(version, position) for version, positions in left.items() for position in positions]
    in_order = len(names) > 1 or all(
        one[0] < other[0] and one[1] < other[1] for one, other in pairwise(removed)
    )
    if not found and (unexplained or not in_order):
        version, position = (unexplained or removed)[0]
        name = " or ".join(repr(name) for name in sorted(names)[:3]) or "that nothing names"
        detail = f"removed events name version {version} of stream {name} otherwise than the log"
        found.append(kinds.damage(kinds.GONE, paths.SEGMENTS, None, position, detail))
    return found


def _take(left: Mapping[int, list[int]], gap: _Gap) -> bool:
    """Take the versions of a gap from the removed ones; return whether all of them are removed.

    Several streams may share a hash. Those without events come first and take the last positions; of the
    others, the gap that ends first takes the first ones. So each finds its own.
    """
    if len(gap.versions) > len(left):
        return False
    for version in gap.versions:
        positions = left.get(version, [])
        at = len(positions) - 1 if gap.high == _NO_END else bisect_right(positions, gap.low)
        if not 0 <= at < len(positions) or not gap.low < positions[at] < gap.high:
            return False
        del positions[at]
    return True


# --- ids


def repeated_hashes(known: Sequence[Known], low: int, high: int) -> list[int]:
    """Return the upper halves of id hashes in the range that two events share, mostly by chance."""
    segments = Segments(known)
    hashes: list[int] = []
    for place, _ in segments:
        hashes += segments.id_hashes(place, low, high)
    for removed in segments.removed_id_hashes(low, high):
        hashes += removed
    hashes.sort()  # as many rising runs as there are segments: they are merged
    return sorted(set(compress(hashes, map(eq, hashes, hashes[1:]))))


def check_ids(known: Sequence[Known], uppers: Sequence[int]) -> list[Finding]:
    """Find the ids that belong to two events, of those whose hashes have one of these upper halves."""
    segments = Segments(known)
    places: dict[int, list[tuple[int, int]]] = {}
    for place, _ in segments:
        entries = segments.entries(place)
        if entries is None:
            continue
        for number in segments.numbers_of_ids(place, uppers):
            id_hash = ENTRY.unpack_from(entries, number * ENTRY_BYTES)[1]
            places.setdefault(id_hash, []).append((place, number))
    found = []
    first: dict[bytes, int] = {}

    def add(id: bytes, position: int, name: str, offset: int | None) -> None:
        if first.setdefault(id, position) != position:
            detail = f"id {id_text(id)} belongs to position {first[id]} already"
            found.append(kinds.damage(kinds.ID, name, offset, position, detail))

    for path, id, position in segments.removed_ids(set(uppers)):
        add(id, position, f"{paths.SEGMENTS}/{path.rpartition('/')[2]}", None)
    removed = set(hash_ids(list(first)))
    for id_hash, same in places.items():
        for place, number in same if len(same) > 1 or id_hash in removed else ():
            read = segments.maybe_record(place, number)
            if read is not None:
                record, offset = read
                add(record[4], record[0], segments.task(place).log_name, offset)
    return found


# --- the filter


def check_filter(known: Sequence[Known]) -> list[Finding]:
    """Check the blocks of these segments in `filter` against their sorted indexes and removed events."""
    first = known[0].task
    name = f"{paths.SEGMENTS}/{paths.FILTER}"
    try:
        raw = map_file(paths.filter_path(first.store))
        blocks = decode_blocks(raw, first.store_id)[0]
    except (FileNotFoundError, FormatFault):
        return []  # there is none, or that is found already
    found, is_sound = [], dict[int, bool]()
    last = {member: (block, place) for block in blocks for place, member in enumerate(block.members)}
    for segment in known:
        task = segment.task
        block, place = last.get(identity_of(task.info), (None, 0))
        suffixes = suffixes_of(task.info.tagged_events)
        if block is None or not set(suffixes).issubset(segment.sound_indexes):
            continue
        if block.start not in is_sound:
            crcs = page_crcs(raw[block.tables_at : block.end])
            is_sound[block.start] = crcs == bytes(raw[block.crcs_at : block.tables_at])
            if not is_sound[block.start]:
                detail = f"a page fails its CRC; {kinds.DERIVED}"
                found.append(kinds.note(kinds.INDEX, name, block.start, None, detail))
        if is_sound[block.start] and not all(
            _has_keys(single_table(raw, block, place, kind), keys) for kind, keys in _filter_keys(task)
        ):
            detail = f"it hides keys of {task.name}, though its CRCs hold: look-ups miss events"
            found.append(kinds.damage(kinds.INDEX, name, block.start, None, detail))
    return found


def _filter_keys(task: SegmentTask) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield what the filter must have of a segment whose sorted indexes are right, by kind."""
    removed_hashes: dict[int, Sequence[int]] = {}
    try:
        if (removed := task.open_removed()) is not None:
            removed_hashes = removed.hashes()
    except (FileNotFoundError, EvlogError):
        pass  # `removals` finds that
    indexed = suffixes_of(task.info.tagged_events)
    for kind in WITH_TAGS:
        hashes: list[int] = map_sorted(task, kind)[0].tolist() if kind in indexed else []
        yield kind, filter_keys(kind, [*hashes, *removed_hashes.get(kind, ())])


def _has_keys(table: bytes, keys: Sequence[int]) -> bool:
    """Return whether a table of the filter has each of these keys."""
    pieces = (keys[low : low + _KEYS_AT_ONCE] for low in range(0, len(keys), _KEYS_AT_ONCE))
    return all(LookUp(piece).are_all_in(table) for piece in pieces)
