"""A store in numbers: streams, sizes, policies. Reads only indexes if they suffice, else the log.

1. A stream's versions have no gap: a compaction removes the oldest. So the first and last entry of each
   stream hash tell everything about a stream, and together they must account for every event.
   To count streams after a compaction, the last versions suffice: they add up to the last position.
2. Where they do not (two names with one hash), the log is counted.
3. The streams of a category, or with a prefix that has a `-`, are a range of the hashes: only these are
   looked at, if they are few. Other prefixes are in no index, so every stream is decoded for them.
4. A stream is kept as one row of bytes, 80 and its name: a million take 350 MB with all that finds them.
   Records, in a dict by hash, would take twice as much, and the data of an event for each stream.
5. Policies are applied at the end. The visible events of a stream are its last ones, and their number follows
   from its last version. Only events that age are counted, for all streams at once, by their hashes.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import chain, compress, pairwise
from struct import Struct

from evlog.files.disk.files import bytes_in
from evlog.files.format import paths
from evlog.files.format.entries import ENTRY_BYTES, ENTRY_STREAM, column, column_array
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

    from evlog.files.log.log import Log
    from evlog.files.log.parts import Part
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
    rows = log.retry_on_compaction(lambda: _all_rows(log, only))
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
    visible = VisibleCounts(log, rows)
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
        count = _maybe_count_by_hash(log)
        return len(_all_rows(log)) if count is None else count
    total = 0
    for part, count in parts:
        total += column(part.entries()[: count * ENTRY_BYTES], "version").count(1)
    return total


def _maybe_count_by_hash(log: Log) -> int | None:
    """Return the number of streams; None if the last versions by hash do not account for every event."""
    seen, total = set[int](), 0
    with log.mutex:
        parts, head = log.parts(), log.head
        for part in reversed(parts):  # the last version of a stream counts
            if part.count:
                hashes, numbers = part.index.heads()
                versions = column_array(part.entries(), "version")
                is_new = [stream_hash not in seen for stream_hash in hashes]
                total += sum(map(versions.__getitem__, compress(numbers, is_new)))
                seen.update(hashes)
    emptied = emptied_versions(parts, seen)
    return len(seen) + len(emptied) if total + sum(emptied.values()) == head else None


def emptied_versions(parts: Iterable[Part], seen: set[int]) -> dict[int, int]:
    """Return the last version of each stream that compactions left without events, by the stream's hash.

    Args:
        seen: the hashes of the streams that have events.
    """
    last: dict[int, int] = {}
    for part in parts:
        removed = part.removed if isinstance(part, SealedPart) else None
        if removed is not None:
            for key, version in zip(removed.stream_hashes(), removed.stream_versions(), strict=True):
                if key not in seen:
                    last[key] = max(version, last.get(key, 0))
    return last


def all_streams(log: Log) -> Iterator[StreamInfo]:
    """Iterate over all streams by name, also those of which a compaction kept only the last version."""
    return map(_decode_row, log.retry_on_compaction(lambda: _all_rows(log)))


def _all_rows(log: Log, category: str | None = None) -> list[bytes]:
    """Return a row for each stream, by name.

    Args:
        category: return at least the streams of this category.
    """
    rows = _from_heads(log, category)
    if rows is None:
        rows = _from_log(log)
    count = len(rows)
    for part in log.sealed:
        if part.removed is not None:
            rows += [
                _encode_row(name, version, version + 1, 0, time_us)
                for name, version, time_us in part.removed.streams()
            ]
    rows.sort()
    if len(rows) > count:  # of the rows of one stream the last counts: it has the highest version
        ends = pairwise(chain(rows, (b"",)))
        return [row for row, after in ends if row[:_AT] != after[:_AT]]
    return rows


def _encode_row(name: str, last_version: int, first_version: int, events: int, time_us: int) -> bytes:
    """Return the numbers of a stream behind its name; the rows of streams are in the order of their names."""
    return name.encode() + _NUMBERS.pack(last_version, first_version, events, time_us)


def _decode_row(row: bytes) -> StreamInfo:
    last_version, first_version, events, time_us = _NUMBERS.unpack(row[_AT:])
    return StreamInfo(row[:_AT].decode(), events, first_version, last_version, time_us)


def _from_heads(log: Log, category: str | None) -> list[bytes] | None:
    """Return streams by their first and last events, or None if these do not account for every event.

    Args:
        category: return at least its streams, and all with the same hash; None: all streams.
    """
    with log.mutex:
        parts = log.parts()
        found = None if category is None else _maybe_find(parts, category)
        numbers: Sequence[Sequence[int] | None] = found or [None] * len(parts)
        counts = [
            part.count if some is None else len(some) for part, some in zip(parts, numbers, strict=True)
        ]
        newest = _last_entries(parts[-1], numbers[-1])  # of one moment with its count: the others do not grow
    older = zip(reversed(parts[:-1]), reversed(numbers[:-1]), strict=True)
    lasts = chain([(parts[-1], newest)], ((part, _last_entries(part, some)) for part, some in older))
    rows = [
        _encode_row(name, version, 1, version, time_us)
        for _, version, name, _, _, time_us, *_ in _records_of_new(lasts)
    ]
    if any(part.info.generation for part in parts):
        firsts = (
            (part, _first_entries(part, count, some))
            for part, count, some in zip(parts, counts, numbers, strict=True)
        )
        first_rows = [_encode_row(record[2], 0, record[1], 0, 0) for record in _records_of_new(firsts)]
        rows.sort()
        first_rows.sort()
        for at, (row, first_row) in enumerate(zip(rows, first_rows, strict=True)):
            if row[:_AT] != first_row[:_AT]:
                return None
            name, _, _, version, time_us, _ = _decode_row(row)
            first_version = _decode_row(first_row).first_version
            rows[at] = _encode_row(name, version, first_version, version - first_version + 1, time_us)
    return rows if sum(_NUMBERS.unpack(row[_AT:])[2] for row in rows) == sum(counts) else None


def _records_of_new(ends: Iterable[tuple[Part, dict[int, int]]]) -> Iterator[Record]:
    """Iterate over the records of one entry of each stream hash: that in the first segment that has any."""
    seen = set[int]()
    for part, entries in ends:
        numbers = sorted(number for key, number in entries.items() if key not in seen)
        seen.update(entries)
        yield from chain.from_iterable(part.segment.records(numbers))


def _last_entries(part: Part, numbers: Sequence[int] | None) -> dict[int, int]:
    """Return the number of each stream's last entry in a segment, or among some, by the stream's hash."""
    if numbers is None:
        return dict(zip(*part.index.heads(), strict=True))
    return dict(zip(_stream_hashes(part, numbers), numbers, strict=True))


def _first_entries(part: Part, count: int, numbers: Sequence[int] | None) -> dict[int, int]:
    """Return the same of each stream's first entry, among the first `count` of the segment, or among some."""
    if numbers is None:
        numbers = range(count)
        hashes = column(part.entries()[: count * ENTRY_BYTES], "stream_hash")
    else:
        hashes = _stream_hashes(part, numbers)
    # Backwards, because the last value of a key stays.
    return dict(zip(reversed(hashes), reversed(numbers), strict=True))


def _maybe_find(parts: list[Part], category: str) -> list[Sequence[int]] | None:
    """Return the numbers of a category's entries in each segment, rising; None if they are many."""
    found: list[Sequence[int]] = []
    for part in parts:
        numbers = part.index.maybe_find_category(hash_category(category), 0, part.count)
        if numbers is None:
            return None
        found.append(numbers)
    return found


def _stream_hashes(part: Part, numbers: Sequence[int]) -> list[int]:
    """Return the stream hashes of these entries."""
    entries, hash_in = part.entries(), ENTRY_STREAM.unpack_from
    return [hash_in(entries, number * ENTRY_BYTES)[0] for number in numbers]


def _from_log(log: Log) -> list[bytes]:
    """Return all streams, counted event by event."""
    found: dict[str, list[int]] = {}
    for part in log.parts():
        for records in part.segment.scan(0, part.count):
            for record in records:
                counts = found.get(record[2])
                if counts is None:
                    found[record[2]] = [1, record[1], record[1], record[5]]
                else:
                    counts[0] += 1
                    counts[2:] = record[1], record[5]
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
        rows: of all streams of the store, for hashes that several of them share.
    """

    def __init__(self, log: Log, rows: list[bytes]) -> None:
        self._log = log
        self._rules = log.policies().rules()
        self._now_us = now_ns() // 1000
        self._rows = rows
        self._recent: dict[int, Counter[int]] = {}
        self._shared: set[int] | None = None  # hashes of several names

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
        if self._shared is None:
            hashes = sorted(hash_stream(row[:_AT].decode()) for row in self._rows)
            self._shared = {key for key, after in pairwise(hashes) if key == after}
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
