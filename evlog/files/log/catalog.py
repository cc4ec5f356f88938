"""A store in numbers: streams, sizes, policies. Reads only indexes if they suffice, else the log.

1. A stream's versions have no gap: a compaction removes the oldest. So the first and last entry of each
   stream hash tell everything about a stream, and together they must account for every event.
   To count streams after a compaction, the last versions suffice: they add up to the last position.
2. Where they do not, names share a hash: by chance the first two among a million of one category. Their
   versions do not follow each other; their entries alone are counted name by name.
3. The streams of a category, or with a prefix that has a `-`, are a range of the hashes: only these are
   looked at, if they are few. Other prefixes are in no index: for them the bytes of an event of each stream
   are searched, and decoded only where they have it.
4. A stream is kept as one row of bytes, 80 and its name: a million take 350 MB with all that finds them.
   Records, in a dict by hash, would take twice as much, and the data of an event for each stream.
5. Policies are applied at the end. The visible events of a stream are its last ones, and their number follows
   from its last version. Only events that age are counted, for all streams at once, by their hashes.
"""

from __future__ import annotations

from array import array
from collections import Counter
from functools import partial
from itertools import chain, compress, pairwise
from struct import Struct

from evlog.files.disk.files import bytes_in
from evlog.files.format import paths
from evlog.files.format.entries import ENTRY_BYTES, ENTRY_STREAM, ENTRY_VERSION, column, column_array
from evlog.files.format.hashes import hash_category, hash_stream
from evlog.files.format.headers import FORMAT_VERSION
from evlog.files.log.parts import SealedPart
from evlog.files.log.read_stream import Bounds, read_stream
from evlog.model.events import SYSTEM_PREFIX, category_of, moment_of, now_ns
from evlog.model.named import NamedTuple
from evlog.model.reports import Retention, StoreInfo, StreamInfo, retention_of
from evlog.model.retention import KEEP_ALL, first_visible_version, visible_since_us

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from evlog.files.format.removed_events import EmptyStream
    from evlog.files.log.log import Log
    from evlog.files.log.parts import Part
    from evlog.files.log.removed import RemovedEvents
    from evlog.model.events import Record

_NUMBERS = Struct(">xQQQQ")  # behind a name: its last and first version, events, time; x ends the name
_AT = -_NUMBERS.size  # where they begin in a row


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
    with log.mutex:
        looks, head = _looks(log, None), log.head
    parts = [look.part for look in looks]
    lasts = _lasts(looks)
    emptied = emptied_versions(parts, lasts.seen)
    if lasts.versions + sum(emptied.values()) == head:
        return lasts.count + len(emptied)
    by_hash, by_name, _ = tell_apart(looks)
    if sum(by_hash.values()) + sum(by_name.values()) == head:
        return len(by_hash) + len(by_name)
    return len(_rows(log)[0])


def tell_apart(looks: Sequence[Look]) -> tuple[dict[int, int], dict[str, int], set[int]]:
    """Return the last versions of all streams, by hash, or else by name, and the hashes of these names.

    By name: of names that share a hash, and of those that compactions left without events.
    """
    by_hash, shared = _last_versions(looks)
    by_name = {name: version for name, version, _ in _emptied(look.part for look in looks)}
    shared |= by_hash.keys() & set(map(hash_stream, by_name))
    by_name |= {info.stream: info.last_version for info in map(_decode_row, _count_each(looks, shared))}
    return {key: by_hash[key] for key in by_hash.keys() - shared}, by_name, shared


def emptied_versions(parts: Iterable[Part], seen: set[int]) -> dict[int, int]:
    """Return the last version of each stream that compactions left without events, by the stream's hash.

    Args:
        seen: the hashes of the streams that have events.
    """
    last: dict[int, int] = {}
    for removed in _removed(parts):
        for key, version in zip(removed.stream_hashes(), removed.stream_versions(), strict=True):
            if key not in seen:
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
    looks = _looks(log, category)
    rows, shared = _by_ends(looks, prefix)
    if counted := _count_each(looks, shared):
        names = {row[:_AT] for row in counted}
        rows = [row for row in rows if row[:_AT] not in names] + counted
    rows.sort()
    emptied = [
        _encode_row(name, version, version + 1, 0, time_us)
        for name, version, time_us in _emptied(look.part for look in looks)
    ]
    if emptied:  # of the rows of one stream the last counts: it has the highest version
        ends = pairwise(chain(sorted(rows + emptied), (b"",)))
        rows = [row for row, after in ends if row[:_AT] != after[:_AT]]
    return rows, shared


def _encode_row(name: str, last_version: int, first_version: int, events: int, time_us: int) -> bytes:
    """Return the numbers of a stream behind its name; the rows of streams are in the order of their names."""
    return name.encode() + _NUMBERS.pack(last_version, first_version, events, time_us)


def _decode_row(row: bytes) -> StreamInfo:
    last_version, first_version, events, time_us = _NUMBERS.unpack(row[_AT:])
    return StreamInfo(row[:_AT].decode(), events, first_version, last_version, time_us)


def _by_ends(looks: list[Look], prefix: str) -> tuple[list[bytes], set[int]]:
    """Return the streams by the first and last entry of each hash, and the hashes for which this is wrong.

    Args:
        prefix: return the streams whose names begin with it.
    """
    lasts = _lasts(looks)
    firsts = _firsts(looks) if any(look.part.info.generation for look in looks) else None
    events = lasts.versions - (firsts.versions - firsts.count if firsts else 0)
    is_sure = events == sum(len(look.numbers) for look in looks)
    shared = set[int]() if is_sure else _last_versions(looks)[1]
    rows = [
        _encode_row(name, version, 1, version, time_us)
        for _, version, name, _, _, time_us, *_ in lasts.records(prefix)
    ]
    if firsts is None:
        return rows, shared
    first_versions = [_encode_row(record[2], 0, record[1], 0, 0) for record in firsts.records(prefix)]
    rows.sort()
    first_versions.sort()
    if [row[:_AT] for row in rows] != [row[:_AT] for row in first_versions]:
        # Of these hashes the first entry is of one stream and the last one of another.
        apart = {row[:_AT] for row in rows} ^ {row[:_AT] for row in first_versions}
        shared |= {hash_stream(name.decode()) for name in apart}
        rows = [row for row in rows if row[:_AT] not in apart]
        first_versions = [row for row in first_versions if row[:_AT] not in apart]
    for at, (row, first_row) in enumerate(zip(rows, first_versions, strict=True)):
        name, _, _, version, time_us, _ = _decode_row(row)
        first_version = _decode_row(first_row).first_version
        rows[at] = _encode_row(name, version, first_version, version - first_version + 1, time_us)
    return rows, shared


class Look:
    """What is looked at in a segment: all of its first entries, or some.

    Args:
        numbers: of these entries, rising; a range of the first ones.

    Attributes:
        newest: what `lasts` returned once, of the same moment as the numbers, where the segment grows.
    """

    def __init__(self, part: Part, numbers: Sequence[int]) -> None:
        self.part = part
        self.numbers = numbers
        self.newest: dict[int, int] | None = None

    def lasts(self) -> dict[int, int]:
        """Return the number of each stream's last entry, by the stream's hash."""
        if self.newest is not None:
            return self.newest
        if isinstance(self.numbers, range):
            return dict(zip(*self.part.index.heads(), strict=True))
        return dict(zip(self.hashes(), self.numbers, strict=True))

    def firsts(self) -> dict[int, int]:
        """Return the number of each stream's first entry, by the stream's hash."""
        # Backwards, because the last value of a key stays.
        return dict(zip(reversed(self.hashes()), reversed(self.numbers), strict=True))

    def hashes(self) -> list[int]:
        """Return the stream hash of each entry."""
        entries = self.part.entries()
        if isinstance(self.numbers, range):
            return column(entries[: len(self.numbers) * ENTRY_BYTES], "stream_hash")
        return [ENTRY_STREAM.unpack_from(entries, number * ENTRY_BYTES)[0] for number in self.numbers]

    def versions(self, numbers: Iterable[int]) -> Iterator[int]:
        """Return the versions of some of the entries."""
        entries = self.part.entries()
        if isinstance(self.numbers, range):
            return map(column_array(entries, "version").__getitem__, numbers)
        return (ENTRY_VERSION.unpack_from(entries, number * ENTRY_BYTES)[0] for number in numbers)


def _looks(log: Log, category: str | None) -> list[Look]:
    """Return the entries of a category, and of others with the same hash; all, if they are many."""
    with log.mutex:
        parts = log.parts()
        found = None if category is None else _maybe_find(parts, category)
        looks = list(map(Look, parts, found or [range(part.count) for part in parts]))
        looks[-1].newest = looks[-1].lasts()
        return looks


class _Ends:
    """An entry of each stream hash: that in the first segment that has any.

    Args:
        ends: segments, each with the number of an entry for each of its stream hashes.

    Attributes:
        seen: the hashes.
        count, versions: how many entries they are, and the sum of their versions.
    """

    def __init__(self, ends: Iterable[tuple[Look, dict[int, int]]]) -> None:
        self.seen = set[int]()
        self.count = self.versions = 0
        self._numbers: list[tuple[Part, Sequence[int]]] = []
        for look, entries in ends:
            numbers = array("I", sorted(number for key, number in entries.items() if key not in self.seen))
            self.seen.update(entries)
            self.count += len(numbers)
            self.versions += sum(look.versions(numbers))
            self._numbers.append((look.part, numbers))

    def records(self, prefix: str) -> Iterator[Record]:
        """Iterate over the records of streams whose names begin with this."""
        text = prefix.encode()
        may_hold = (lambda raw: text in raw) if text else None  # it copies all bytes
        for part, numbers in self._numbers:
            for records in part.segment.records(numbers, may_hold=may_hold):
                yield from (record for record in records if record[2].startswith(prefix))


def _lasts(looks: Sequence[Look]) -> _Ends:
    return _Ends((look, look.lasts()) for look in reversed(looks))


def _firsts(looks: Sequence[Look]) -> _Ends:
    return _Ends((look, look.firsts()) for look in looks)


def _last_versions(looks: Sequence[Look]) -> tuple[dict[int, int], set[int]]:
    """Return the last version by stream hash, and the hashes whose versions do not follow each other."""
    last: dict[int, int] = {}
    shared = set[int]()
    for look in looks:
        for key, version in zip(look.hashes(), look.versions(look.numbers), strict=True):
            if last.get(key, version - 1) != version - 1:
                shared.add(key)
            last[key] = version
    return last, shared


def _count_each(looks: Sequence[Look], hashes: set[int]) -> list[bytes]:
    """Return the streams with these hashes, counted event by event."""
    found: dict[str, list[int]] = {}
    for look in looks if hashes else ():
        numbers = list(compress(look.numbers, map(hashes.__contains__, look.hashes())))
        for records in look.part.segment.records(numbers):
            for _, version, name, _, _, time_us, *_ in records:
                counts = found.setdefault(name, [0, version, 0, 0])
                counts[0], counts[2:] = counts[0] + 1, (version, time_us)
    return [
        _encode_row(name, last, first, events, time_us)
        for name, (events, first, last, time_us) in found.items()
    ]


def _maybe_find(parts: list[Part], category: str) -> list[Sequence[int]] | None:
    """Return the numbers of a category's entries in each segment, rising; None if they are many."""
    found: list[Sequence[int]] = []
    for part in parts:
        numbers = part.index.maybe_find_category(hash_category(category), 0, part.count)
        if numbers is None:
            return None
        found.append(numbers)
    return found


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
