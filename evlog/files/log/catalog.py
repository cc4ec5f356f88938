"""A store in numbers: streams, sizes, policies. Reads only indexes if they suffice, else the log.

1. A stream's versions have no gap: a compaction removes the oldest. So the first and last entry of each
   stream hash tell everything about a stream, and together they must account for every event.
   After a compaction the last versions of all streams add up to the last position.
2. Where they do not, names share a hash: by chance the first two among a million of one category. Their
   entries alone are counted name by name.
3. The streams of a category, or with a prefix that has a `-`, are a range of the hashes: only these are
   looked at. Other prefixes are in no index: for them the bytes of an event of each stream are searched, and
   decoded only where they have it.
4. The range of the hashes is taken piece by piece, so that the dicts which join the segments stay small. Of a
   stream one row of bytes is kept, about 80 and its name, to sort the names: a million take 120 MB.
5. Policies are applied at the end. The visible events of a stream are its last ones, and their number follows
   from its last version. Only events that age are counted, for all streams at once, by their hashes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from functools import partial
from itertools import chain, pairwise
from struct import Struct

from evlog.files.disk.files import bytes_in
from evlog.files.format import paths
from evlog.files.format.entries import ENTRY_BYTES, ENTRY_STREAM, column, column_view
from evlog.files.format.frames import unpack_records
from evlog.files.format.hashes import NAME_BITS, hash_category, hash_stream
from evlog.files.format.headers import FORMAT_VERSION
from evlog.files.format.sorted_index import group_entries
from evlog.files.log.index import Groups
from evlog.files.log.parts import SealedPart
from evlog.files.log.read_stream import Bounds, read_stream
from evlog.files.log.segment import RECORDS_AT_ONCE
from evlog.model.events import SYSTEM_PREFIX, category_of, moment_of, now_ns
from evlog.model.named import NamedTuple
from evlog.model.reports import Retention, StoreInfo, StreamInfo, retention_of
from evlog.model.retention import KEEP_ALL, first_visible_version, visible_since_us

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from typing import Final

    from evlog.files.format.removed_events import EmptyStream
    from evlog.files.log.log import Log
    from evlog.files.log.parts import Part
    from evlog.files.log.removed import RemovedEvents
    from evlog.model.events import Record

_NUMBERS = Struct(">xQQQQ")  # behind a name: its last and first version, events, time; x ends the name
_AT = -_NUMBERS.size  # where they begin in a row
_LAST_HASH: Final = (1 << 64) - 1
_NUMBER: Final = (1 << 32) - 1  # the bits of a number of an entry, or of a version
_MOST_PIECES: Final = 16  # each looks into all segments, of which perhaps only few are open at a time
_LEAST_PIECE: Final = 1 << 17  # keys of all segments: dicts of 30 MB
_SAMPLED: Final = 4093  # a prime: of segments with the same keys not the same are taken


def list_streams(
    log: Log,
    category: str | None,
    prefix: str | None,
    *,
    include_deleted: bool = False,
    include_system: bool = False,
) -> Iterator[StreamInfo]:
    """Iterate over the streams in the order of their names: all, or those of a category or with a prefix."""
    only = category_of(prefix) if category is None and prefix is not None and "-" in prefix else category
    rows, shared = log.retry_on_compaction(lambda: _rows(log, only, prefix or category or ""))
    chosen = (
        info
        for info in map(_decode_row, rows)
        if (prefix is None or info.stream.startswith(prefix))
        and (category is None or category_of(info.stream) == category)
        and (include_system or not info.stream.startswith(SYSTEM_PREFIX))
    )
    if not log.policies().any:
        yield from chosen
        return
    visible = VisibleCounts(log, shared)
    for info in chosen:
        name, events, first_version, last_version, last_time_us, _ = info
        kept = log.retry_on_compaction(
            partial(visible.count, name, events, first_version, last_version, last_time_us)
        )
        if kept is None:
            yield info
        elif include_deleted or not kept.retention.deleted:
            yield StreamInfo(
                name, kept.events, kept.first_version, last_version, last_time_us, kept.retention
            )


def describe(log: Log) -> StoreInfo:
    """Return the store in numbers."""
    return log.retry_on_compaction(lambda: _describe(log))


def _describe(log: Log) -> StoreInfo:
    with log.mutex:
        parts = [(part, part.count) for part in log.parts()]
    first, last = _edge(log, first=True), _edge(log, first=False)
    system_events, system_streams = _count_system(log, parts)
    packed = [part.info for part, _ in parts if part.info.compressed_bytes]
    policies, deleted = count_policies(log) if system_events else (0, 0)
    from uuid import UUID

    return StoreInfo(
        path=log.store,
        id=UUID(log.manifest.store_id),
        format=FORMAT_VERSION,
        events=sum(count for _, count in parts) - system_events,
        streams=_count_streams(log, parts) - system_streams - deleted,
        bytes=bytes_in(log.store) + bytes_in(paths.segments_path(log.store)),
        segments=len(parts),
        first_position=first[0] if first else 0,
        last_position=last[0] if last else 0,
        first_time=moment_of(first[5]) if first else None,
        last_time=moment_of(last[5]) if last else None,
        policies=policies,
        deleted_streams=deleted,
        clock_ahead_seconds=max(0, last[5] - now_ns() // 1000) / 1e6 if last else 0.0,
        compressed_segments=len(packed),
        saved_bytes=sum(info.log_bytes - info.compressed_bytes for info in packed),
    )


def _count_system(log: Log, parts: list[tuple[Part, int]]) -> tuple[int, int]:
    """Return how many events are the store's own, and of how many streams."""
    own, events, names = log.policies().system_numbers, 0, set()
    for part, count in parts:
        if not (numbers := [number for number in own(part) if number < count]):
            continue
        for records in part.segment.records(numbers):
            streams = [record[2] for record in records if record[2][0] == SYSTEM_PREFIX]
            events += len(streams)
            names.update(streams)
    return events, len(names)


def _count_streams(log: Log, parts: list[tuple[Part, int]]) -> int:
    """Return the number of streams: that of first versions, as long as no compaction removed any."""
    if any(part.info.generation for part, _ in parts):
        return _count_by_last_versions(log)
    total = 0
    for part, count in parts:
        total += column(part.entries()[: count * ENTRY_BYTES], "version").count(1)
    return total


def _count_by_last_versions(log: Log) -> int:
    """Return the number of streams, also of those of which a compaction kept only the last version."""
    looks, head = _looks(log)
    found = maybe_tell_apart(looks, head)
    return len(_rows(log)[0]) if found is None else found[0]


def maybe_tell_apart(looks: Sequence[Look], position: int) -> tuple[int, set[int]] | None:
    """Return the number of streams up to a position, and the hashes of those whose names share one.

    None if the last versions do not account for every position.
    """
    return _Ends(looks, only_last=True).maybe_add_up(position) or _Ends(looks).maybe_tell_apart(position)


def emptied_versions(parts: Iterable[Part]) -> dict[int, int]:
    """Return the last version of each stream that a compaction left without events, by the stream's hash."""
    last: dict[int, int] = {}
    for removed in _removed(parts):
        for key, version in zip(removed.stream_hashes(), removed.stream_versions(), strict=True):
            last[key] = max(version, last.get(key, 0))
    return last


def _emptied(parts: Iterable[Part]) -> Iterator[EmptyStream]:
    """Iterate over the streams that lost their last event in a compaction; a stream may come again, later."""
    for removed in _removed(parts):
        yield from removed.streams()


def _removed(parts: Iterable[Part]) -> Iterator[RemovedEvents]:
    """Iterate over what compactions removed from each segment."""
    for part in parts:
        if isinstance(part, SealedPart) and part.removed is not None:
            yield part.removed


def all_streams(log: Log) -> Iterator[StreamInfo]:
    """Iterate over all streams by name, also those of which a compaction kept only the last version."""
    return map(_decode_row, log.retry_on_compaction(lambda: _rows(log)[0]))


def _rows(log: Log, category: str | None = None, prefix: str = "") -> tuple[list[bytes], set[int]]:
    """Return a row for each stream, by name, and the hashes that several streams share.

    Args:
        category, prefix: return at least the streams of the category whose names begin with the prefix.
    """
    looks, head = _looks(log, category)
    ends = _Ends(looks)
    rows = list(ends.rows(prefix))
    shared = set(ends.shared)
    if ends.is_compacted:
        told = None if category is not None else ends.maybe_tell_apart(head)
        shared |= ends.find_mixed(prefix, rows) if told is None else told[1]
    if counted := _count_each(looks, shared):
        names = {row[:_AT] for row in counted}
        rows = [row for row in rows if row[:_AT] not in names] + counted
    rows.sort()
    emptied = [
        _encode_row(name, version, version + 1, 0, time_us)
        for name, version, time_us in _emptied(look.part for look in looks)
    ]
    if emptied:  # of the rows of one stream the last counts: it has the highest version
        both = pairwise(chain(sorted(rows + emptied), (b"",)))
        rows = [row for row, after in both if row[:_AT] != after[:_AT]]
    return rows, shared


def _encode_row(name: str, last_version: int, first_version: int, events: int, time_us: int) -> bytes:
    """Return the numbers of a stream behind its name; the rows of streams are in the order of their names."""
    return name.encode() + _NUMBERS.pack(last_version, first_version, events, time_us)


def _decode_row(row: bytes) -> StreamInfo:
    last_version, first_version, events, time_us = _NUMBERS.unpack(row[_AT:])
    return StreamInfo(row[:_AT].decode(), events, first_version, last_version, time_us)


class Look:
    """What is looked at in a segment: its first entries, of all streams or of a category.

    Args:
        count: how many entries.
        category: also others with the hash of its name are looked at.
    """

    def __init__(self, part: Part, count: int, category: str | None = None) -> None:
        self.part = part
        self.count = count
        self.low = 0 if category is None else hash_category(category)
        self.high = _LAST_HASH if category is None else self.low | NAME_BITS
        self._groups: Groups | None = None  # of an unsorted segment, all at once

    def find(self, low: int, high: int) -> Groups:
        """Return the entries of the streams with hashes from low to high."""
        groups, part = self._groups, self.part
        if groups is None:
            if isinstance(part, SealedPart) and self.count == part.count:
                found = part.index.maybe_find_streams(low, high)
                if found is not None:
                    return found
            groups = self._groups = self._group()
        first, end = bisect_left(groups.keys, low), bisect_right(groups.keys, high)
        starts = groups.starts[first : end + 1]
        return Groups(groups.keys[first:end], starts, groups.numbers[starts[0] : starts[-1]])

    def find_ends(self, low: int, high: int, *, first: bool) -> tuple[Sequence[int], list[int], int]:
        """Return the hashes from low to high, the first or last entry of each, and how many there are."""
        keys, starts, entries = self.find(low, high)
        before = starts[0] if first else starts[0] + 1
        places = starts[:-1] if first else starts[1:]
        return keys, [entries[place - before] for place in places], len(entries)

    def versions(self) -> Sequence[int]:
        """Return the version of each entry."""
        return column_view(self._entries(), "version")

    def _group(self) -> Groups:
        entries, numbers = self._entries(), None
        if self.high != _LAST_HASH:
            numbers = self.part.index.maybe_find_category(self.low, 0, self.count)
        if numbers is None:
            return Groups(*group_entries(column(entries, "stream_hash")))
        hashes = [ENTRY_STREAM.unpack_from(entries, number * ENTRY_BYTES)[0] for number in numbers]
        return Groups(*group_entries(hashes, numbers))

    def _entries(self) -> bytes | memoryview:
        entries = self.part.entries()[: self.count * ENTRY_BYTES]
        return bytes(entries) if isinstance(entries, bytearray) else entries


def _looks(log: Log, category: str | None = None) -> tuple[list[Look], int]:
    """Return what is to be looked at of all segments, and the last position at that moment."""
    with log.mutex:
        return [Look(part, part.count, category) for part in log.parts()], log.head


class _Ends:
    """The first and the last entry of each stream hash.

    Args:
        only_last: find nothing but what `maybe_add_up` needs, in half of the time.

    Attributes:
        is_compacted: whether a compaction may have removed the first versions of streams.
        shared: hashes whose versions have a gap, or are there several times, with their last versions.
    """

    def __init__(self, looks: Sequence[Look], *, only_last: bool = False) -> None:
        self._looks = looks
        self._only_last = only_last
        self.is_compacted = any(look.part.info.generation for look in looks)
        self._count = self._versions = 0  # of last entries, and the sum of their versions
        # By segment: a last entry's number << 32 | the first version of the stream.
        self._lasts = [array("Q") for _ in looks]
        self._firsts = [array("I") for _ in looks]  # numbers of first entries, once there was a compaction
        self.shared: dict[int, int] = {}
        self._emptied = emptied_versions(look.part for look in looks) if self.is_compacted else {}
        self._again: dict[int, int] = {}  # last versions by hashes that a compaction left without events, too
        for low, high in pairwise(_cuts(looks)):
            self._add(low, high - 1)

    def _add(self, low: int, high: int) -> None:
        firsts: dict[int, int] = {}
        if self.is_compacted and not self._only_last:
            for at, look in enumerate(self._looks):
                keys, numbers, _ = look.find_ends(low, high, first=True)
                fresh = [
                    (key, number) for key, number in zip(keys, numbers, strict=True) if key not in firsts
                ]
                self._firsts[at].extend([number for _, number in fresh])
                column = look.versions() if fresh else ()
                firsts.update((key, column[number]) for key, number in fresh)
        seen = set[int]()
        events, total, first_version = 0, 0, firsts.get
        for at, look in reversed(list(enumerate(self._looks))):
            keys, numbers, count = look.find_ends(low, high, first=False)
            lasts = [
                number << 32 | first_version(key, 1)
                for key, number in zip(keys, numbers, strict=True)
                if key not in seen
            ]
            events += count
            if not lasts:
                continue
            column = look.versions()
            total += sum([column[last >> 32] for last in lasts])
            if self._emptied:
                for key in self._emptied.keys() & set(keys) - seen:
                    self._again[key] = column[look.find(key, key).numbers[-1]]
            seen.update(keys)
            if not self._only_last:
                self._lasts[at].extend(lasts)
        self._count += len(seen)
        self._versions += total
        # Each name beside another adds to what is missing, unless a compaction has removed first versions.
        if not self._only_last and (self.is_compacted or events != total):
            self._find_shared(low, high, firsts)

    def _find_shared(self, low: int, high: int, firsts: dict[int, int]) -> None:
        """Note the hashes whose entries are not as many as their versions."""
        last, events = dict[int, int](), dict[int, int]()
        for look in self._looks:
            keys, starts, entries = look.find(low, high)
            column = look.versions()
            for key, (start, end) in zip(keys, pairwise(starts), strict=True):
                last[key] = column[entries[end - starts[0] - 1]]
                events[key] = events.get(key, 0) + end - start
        for key, version in last.items():
            if events[key] != version - firsts.get(key, 1) + 1:
                self.shared[key] = version

    def maybe_add_up(self, position: int) -> tuple[int, set[int]] | None:
        """Return what `maybe_tell_apart` does, if no names share a hash; None if some may."""
        emptied = sum(version for key, version in self._emptied.items() if key not in self._again)
        if self._versions + emptied == position:
            return self._count + len(self._emptied) - len(self._again), set()
        return None

    def maybe_tell_apart(self, position: int) -> tuple[int, set[int]] | None:
        """Return what the function of this name does, if the entries are those of all streams."""
        if (found := self.maybe_add_up(position)) is not None:
            return found
        apart = self.shared | self._again
        by_name = {name: version for name, version, _ in _emptied(look.part for look in self._looks)}
        counted = map(_decode_row, _count_each(self._looks, apart.keys()))
        by_name |= {info.stream: info.last_version for info in counted}
        if self._versions - sum(apart.values()) + sum(by_name.values()) == position:
            return self._count - len(apart) + len(by_name), set(apart)
        return None

    def rows(self, prefix: str) -> Iterator[bytes]:
        """Iterate over the rows of streams with the prefix. Where names share a hash they are wrong."""
        for look, lasts in zip(self._looks, self._lasts, strict=True):
            codes = sorted(lasts)
            numbers = array("I", [code >> 32 for code in codes])
            for at, record in _records(look.part, numbers, prefix):
                first_version = codes[at] & _NUMBER
                _, version, name, _, _, time_us, *_ = record
                events = max(0, version - first_version + 1)  # below 0 of names that share a hash
                yield _encode_row(name, version, first_version, events, time_us)

    def find_mixed(self, prefix: str, rows: Iterable[bytes]) -> set[int]:
        """Return the hashes of which the first entry is of one stream and the last one of another."""
        names = {row[:_AT] for row in rows}
        for look, numbers in zip(self._looks, self._firsts, strict=True):
            for _, record in _records(look.part, sorted(numbers), prefix):
                names ^= {record[2].encode()}
        return {hash_stream(name.decode()) for name in names}


def _cuts(looks: Sequence[Look]) -> list[int]:
    """Return where the pieces of the hashes begin, and after the last one; there are at most 16."""
    total, sample = 0, list[int]()
    for look in looks:
        keys = look.find(look.low, look.high).keys
        sample += keys[-total % _SAMPLED :: _SAMPLED]
        total += len(keys)
    sample.sort()
    count = min(_MOST_PIECES, total // _LEAST_PIECE + 1)
    inner = [sample[len(sample) * number // count] for number in range(1, count)]
    return [looks[0].low, *inner, looks[0].high + 1]


def _records(part: Part, numbers: Sequence[int], prefix: str) -> Iterator[tuple[int, Record]]:
    """Iterate over the records of streams with the prefix, each with its place among the numbers."""
    text, at = prefix.encode(), 0
    while at < len(numbers):
        pieces, count = part.segment.pieces(numbers[at : at + RECORDS_AT_ONCE])
        if not text or text in b"".join(pieces):  # a join copies all bytes
            for place, record in enumerate(unpack_records(pieces, count), at):
                if record[2].startswith(prefix):
                    yield place, record
        at += count


def _count_each(looks: Sequence[Look], hashes: Collection[int]) -> list[bytes]:
    """Return the streams with these hashes, counted event by event."""
    found: dict[str, list[int]] = {}
    for look in looks if hashes else ():
        numbers = sorted(chain.from_iterable(look.find(key, key).numbers for key in hashes))
        for records in look.part.segment.records(numbers):
            for _, version, name, _, _, time_us, *_ in records:
                counts = found.setdefault(name, [0, version, 0, 0])
                counts[0], counts[2:] = counts[0] + 1, (version, time_us)
    return [
        _encode_row(name, last, first, events, time_us)
        for name, (events, first, last, time_us) in found.items()
    ]


def _edge(log: Log, *, first: bool) -> Record | None:
    parts = log.parts() if first else reversed(log.parts())
    for part in parts:
        if part.count:
            return part.segment.record(0 if first else part.count - 1)
    return None


# --- what policies leave visible


class Visible(NamedTuple):
    """The visible part of a stream: the number of its events, the first version, and the policy."""

    events: int
    first_version: int
    retention: Retention


def count_policies(log: Log) -> tuple[int, int]:
    """Return for how many streams and categories something is set, and how many streams are deleted."""
    rules = log.policies().rules()
    names = (name for name, rule in rules.streams.items() if rule != KEEP_ALL)
    return rules.counts({name: log.find_version(name, hash_stream(name)) for name in names})


class VisibleCounts:
    """Counts what is visible of one stream after another, all at the same moment.

    Args:
        shared: the hashes that several of them share.
    """

    def __init__(self, log: Log, shared: set[int]) -> None:
        self._log = log
        self._rules = log.policies().rules()
        self._now_us = now_ns() // 1000
        self._shared = shared
        self._recent: dict[int, Counter[int]] = {}

    def count(
        self, stream: str, events: int, first_version: int, last_version: int, last_time_us: int
    ) -> Visible | None:
        """Return the visible part of a stream of which this is in the log; None if nothing is set for it."""
        rule = self._rules.rule_for(stream)
        if rule is None or rule == KEEP_ALL:
            return None
        retention = retention_of(rule, last_version)
        first = max(first_version, first_visible_version(rule, last_version))
        since_us = visible_since_us(rule, self._now_us)
        if first > last_version or (since_us is not None and last_time_us < since_us):
            return Visible(0, last_version + 1, retention)
        left: int | None = last_version - first + 1
        if events != last_version - first_version + 1:
            left = None  # it has gaps
        elif since_us is not None:
            recent = self._maybe_count_since(stream, since_us)
            left = None if recent is None else min(recent, last_version - first + 1)
        if left is None:
            return self._count_by_reading(stream, last_version, retention)
        return Visible(left, last_version - left + 1, retention)

    def _count_by_reading(self, stream: str, last_version: int, retention: Retention) -> Visible:
        bounds = Bounds(last_version=last_version)
        versions = [
            e.version for e in read_stream(self._log, stream, bounds, None, reverse=False, limit=None)
        ]
        return Visible(len(versions), versions[0] if versions else last_version + 1, retention)

    def _maybe_count_since(self, stream: str, since_us: int) -> int | None:
        """Return the stream's number of events since then; None if other streams have its hash, too."""
        stream_hash = hash_stream(stream)
        if stream_hash in self._shared:
            return None
        recent = self._recent.get(since_us)
        if recent is None:
            recent = self._recent[since_us] = self._count_since(since_us)
        return recent[stream_hash]

    def _count_since(self, since_us: int) -> Counter[int]:
        counts: Counter[int] = Counter()
        with self._log.mutex:
            parts = [(part, part.count) for part in self._log.parts()]
        for part, count in parts:
            if not count or (isinstance(part, SealedPart) and part.info.last_time_us < since_us):
                continue
            low = part.segment.number_at_time(since_us, count)
            counts.update(column(part.entries()[low * ENTRY_BYTES : count * ENTRY_BYTES], "stream_hash"))
        return counts
