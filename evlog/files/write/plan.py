"""Planning one append under the writers' lock: which events are new, whether conditions hold, the versions.

1. Deduplicate first, so that a retry after a lost acknowledgement succeeds instead of conflicting. A retry is
   an id with the same stream, type and data; metadata may differ, as with KurrentDB. Ids above every id that
   the store has seen are new without a look-up: a tenth less for UUIDv7s, whose ids rise.
2. Then check the conditions against the log as it is now: tombstones, expected versions, and that no event
   matches a query.
3. Then number the new events. Nothing is written here, so a refused append leaves nothing behind.

Stream versions that were looked up are remembered, until another process writes to a stream with the hash of
the name. They are advanced as events are numbered; if the plan is not written, they are looked up again.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import chain
from operator import itemgetter

from evlog.errors import (
    ConditionFailed,
    CorruptionError,
    IdConflict,
    InvalidArgument,
    InvalidEvent,
    StreamTombstoned,
    WrongExpectedVersion,
)
from evlog.files.format.frames import encode_records
from evlog.files.format.hashes import (
    hash_each,
    hash_ids,
    hash_stream,
    hash_type,
    maybe_hash_tags,
    maybe_tag_bits,
    tag_bits,
)
from evlog.files.format.marks import UNBOUNDED
from evlog.files.log.read import find_first, may_match_after
from evlog.model.appends import NO_STREAM, STREAM_EXISTS, BatchResult, SchemasChanged, damaged_schema
from evlog.model.events import MAX_VERSION, column_of, id_text, make_ids
from evlog.model.retention import SCHEMAS_STREAM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from typing import Any, Final, TypeVar

    from evlog.files.log.log import Log
    from evlog.files.log.policies import PolicyTable
    from evlog.files.log.removed import RemovedEvent
    from evlog.model.appends import Append
    from evlog.model.events import EncodedEvent, Record
    from evlog.model.queries import IfNone, Query

    _T = TypeVar("_T")

    Known = dict[int, Record | int]
    """By index in the append: the event that already has the id, or the index of its twin in the append."""

# Of streams whose version has to be looked up: everywhere, or only in the sealed segments.
_UNKNOWN: Final = -1
_NOT_ACTIVE: Final = -2
_MAX_REMEMBERED: Final = 1 << 20  # streams; with more the memory is cleared
_MAX_REMEMBERED_TYPES: Final = 1 << 16
_MANY: Final = 16  # events; fewer are looked up one by one


class Plan:
    """The new events of one append with their versions, and what is known of the others."""

    __slots__ = (
        "_append", "_known", "events", "id_hashes", "ids", "numbers", "records",
        "retried", "stream_hashes", "streams", "tags", "type_hashes", "versions",
    )  # fmt: skip

    def __init__(self, append: Append, known: Known, ids: Sequence[bytes], id_hashes: Sequence[int]) -> None:
        self._append = append
        self._known = known
        self.streams = append.streams
        self.events = append.events
        self.ids = ids
        self.id_hashes = id_hashes
        self.numbers: Sequence[int] = ()  # of the streams, as `Planner` counts them
        self.stream_hashes: Sequence[int] = ()
        self.versions: list[int] = []
        self.type_hashes: Sequence[int] = ()
        self.tags: Sequence[int] | None = None  # the bits of each event's tags; None: none has any
        self.records: Sequence[Record] | None = None  # of a mirror: as they are at the source
        self.retried: BatchResult | None = None  # of an append that was found in the log as a whole
        if known:
            new = [at for at in range(len(ids)) if at not in known]
            self.streams = [self.streams[at] for at in new]
            self.events = [self.events[at] for at in new]
            self.ids = [ids[at] for at in new]
            self.id_hashes = [id_hashes[at] for at in new]

    def result(self, first_position: int) -> BatchResult:
        """Return the result of the whole append, once its new events are written from this position on."""
        if self.retried is not None:
            return self.retried
        append, known = self._append, self._known
        new = range(first_position, first_position + len(self.events))
        if not known:
            return BatchResult(self.streams, self.versions, list(new), self.ids, [False] * len(new))
        if not new and not append.skip_known:  # a retry: no event has a twin in this append
            found: list[Record] = list(known.values())  # type: ignore[arg-type]
            versions, positions = [record[1] for record in found], [record[0] for record in found]
            ids = [record[4] for record in found]
            return BatchResult(append.streams, versions, positions, ids, [True] * len(found))
        places = zip(new, self.versions, self.ids, strict=True)
        rows: list[tuple[int, int, bytes]] = []
        for at in range(len(append.events)):
            twin = known.get(at)
            if twin is None:
                rows.append(next(places))
            elif isinstance(twin, int):  # the same event earlier in this append
                rows.append(rows[twin])
            else:
                rows.append((twin[0], twin[1], twin[4]))
        positions, versions, ids = (list(column) for column in zip(*rows, strict=True))
        return BatchResult(append.streams, versions, positions, ids, [at in known for at in range(len(rows))])


class Planner:
    """Plans the appends of one writer. Its `…_locked` methods need the writers' lock."""

    def __init__(self, log: Log) -> None:
        self._log = log
        # All below is guarded by the writers' lock.
        self._type_hashes: dict[str, int] = {}  # by name
        self._streams = _Streams()
        self._planned: Sequence[int] = ()  # the numbers of a plan that is not written yet
        self.highest_id = UNBOUNDED  # no event of the store has an id above it, also no removed one

    def name_streams_locked(self, plan: Plan) -> None:
        """Set the numbers and hashes of the streams in a plan, and forget one that was not written."""
        for number in self._planned:
            self._streams.versions[number] = _UNKNOWN
        self._planned = ()
        if len(self._streams) > _MAX_REMEMBERED:
            self._streams = _Streams()
        plan.numbers = list(map(self._streams.__getitem__, plan.streams))
        plan.stream_hashes = array("Q", b"".join(_items(self._streams.hashes, plan.numbers)))

    def plan_locked(self, append: Append) -> Plan:
        """Return what to write for an append, once it may be written.

        Raises:
            IdConflict, InvalidEvent, StreamTombstoned, WrongExpectedVersion, InvalidArgument: it is refused.
            SchemasChanged: its events have to be checked against other schemas.
        """
        plan = self._find_known_locked(append)
        if plan.events:
            self.name_streams_locked(plan)
            self._check_locked(plan, append)
            if append.conditions:
                plan.tags = self._check_queries_locked(plan.events, append.conditions)
            else:
                plan.tags = _maybe_of_tags(maybe_tag_bits, plan.events)
            plan.versions = self.next_versions_locked(plan.streams, plan.numbers)
            plan.type_hashes = self._hash_types_locked(plan.events)
        return plan

    def _hash_types_locked(self, events: Sequence[EncodedEvent]) -> Sequence[int]:
        cache = self._type_hashes
        types = column_of(events, 0)
        try:
            return _items(cache, types)
        except KeyError:
            if len(cache) > _MAX_REMEMBERED_TYPES:
                cache = self._type_hashes = {}
            for type in set(types):
                cache[type] = hash_type(type)
            return _items(cache, types)

    # --- deduplication

    def _find_known_locked(self, append: Append) -> Plan:
        """Return a plan of the events that are not known already, with their ids, made where missing."""
        events = append.events
        given: Sequence[bytes | None] = column_of(events, 1)
        missing = 0 if all(given) else given.count(None)
        if missing == len(given):
            made = make_ids(missing)
            return Plan(append, {}, made, hash_ids(made))
        unused = iter(make_ids(missing) if missing else ())
        ids: Sequence[bytes] = [id or next(unused) for id in given] if missing else given  # type: ignore[assignment]
        highest = self.highest_id
        if ids[0] > highest and min(ids) > highest and len(set(ids)) == len(ids):
            return Plan(append, {}, ids, hash_ids(ids))
        if len(ids) >= _MANY and not missing:
            retried = self._maybe_find_retried(append, ids)
            if retried is not None:
                plan = Plan(append, {}, (), ())
                plan.events, plan.retried = (), retried
                return plan
        id_hashes = hash_ids(ids)
        known: Known = {}
        distinct = set(id_hashes)
        found = self._log.find_ids(ids, id_hashes, distinct)
        if found:
            redacted = self._log.policies().redacted or ()
            for at, record in found.items():
                type, id, code, data, _ = events[at]
                if id is None:
                    continue
                stream = append.streams[at]
                if isinstance(record, tuple) and (
                    record[2:4] + record[6:8] == (stream, type, code, data)
                    or (redacted and record[0] in redacted)  # its content is erased: the id alone decides
                ):
                    known[at] = record
                else:
                    known[at] = _check_same(record, id, stream, events[at])
        if len(distinct) < len(ids) and len(set(ids)) < len(ids):
            _find_twins(append, ids, known)
        if known and not append.skip_known and len(known) < len(events):
            record = next(record for record in known.values() if not isinstance(record, int))
            reason = "is known, but not all ids of its append are"
            raise IdConflict(id_text(record[4]), record[2], record[0], reason)
        return Plan(append, known, ids, id_hashes)

    def _maybe_find_retried(self, append: Append, ids: Sequence[bytes]) -> BatchResult | None:
        """Return the result of an append whose events follow each other in the active segment, as they are.

        They are encoded again and compared with the log: three times as fast as decoding the events in the
        log.
        """
        active, count = self._log.active, len(ids)
        first = active.index.maybe_last_id(hash_ids(ids[:1])[0])
        if first is None or first + count > active.count:
            return None
        segment, numbers = active.segment, range(first, first + count)
        first_position = active.first_position + first
        versions, time_us = segment.versions_in_entries(numbers), segment.record(first)[5]
        records = encode_records(append.events, ids, append.streams, versions, first_position, time_us)
        if b"".join(records) != segment.raw_records(numbers):
            return None
        positions = list(range(first_position, first_position + count))
        return BatchResult(append.streams, versions, positions, ids, [True] * count)

    # --- conditions

    def _check_locked(self, plan: Plan, append: Append) -> None:
        """Raise unless all streams are as the append expects, and the schemas as it was checked against."""
        policies = self._log.policies()
        if append.schemas is not None and append.schemas != policies.schemas:
            self._check_schemas_locked(append.schemas, policies.schemas)
        if policies.any:
            _check_tombstones(plan.streams, policies)
        expectations = append.expectations
        self._look_up_locked([expectation.stream for expectation in expectations])
        places: dict[int, list[int]] = {}  # of each stream's events in this append, by the stream's number
        if any(expectation.at for expectation in expectations):
            for at, number in enumerate(plan.numbers):
                places.setdefault(number, []).append(at)
        for expectation in expectations:
            stream, expected = expectation.stream, expectation.version
            actual = self._streams.version_of(stream)
            before = bisect_left(places.get(self._streams[stream], ()), expectation.at)
            if not before and expected in (NO_STREAM, STREAM_EXISTS) and policies.any:
                rule = policies.rule_for(stream)
                if rule is not None and rule.is_deleted(actual):
                    # As in KurrentDB: a deleted stream does not exist, though its versions continue.
                    actual = 0
            actual += before
            if not expectation.is_met(actual):
                raise WrongExpectedVersion(stream, expected, actual)

    def _check_queries_locked(
        self, events: Sequence[EncodedEvent], conditions: Sequence[tuple[int, IfNone]]
    ) -> list[int] | None:
        """Raise if an event in the log, or an earlier one of this append, matches a condition's query.

        Return the bits of each event's tags: they are decoded once for both.
        """
        log, head = self._log, self._log.head
        tags = _maybe_of_tags(maybe_hash_tags, events)
        places = _places_by_tag(tags, conditions[-1][0]) if tags is not None else {}
        may_match = may_match_after(log.active, [condition for _, condition in conditions])
        for (at, condition), may in zip(conditions, may_match, strict=True):
            query, after = condition.query, condition.after
            if after > head:
                raise InvalidArgument(f"position {after} is beyond the log's end, {head}; read again")
            position = find_first(log, query.items, after) if may else None
            if position is None and (number := _maybe_selected(query, events, at, places)) is not None:
                position = head + 1 + number
            if position is not None:
                raise ConditionFailed(str(query), after, position)
        return None if tags is None else list(map(tag_bits, tags))

    def _check_schemas_locked(self, checked: int, actual: int | None) -> None:
        """Raise unless the events were checked against the present schemas."""
        if actual is None:  # damage hides it from the policies
            try:
                actual = self._version_locked(SCHEMAS_STREAM)
            except CorruptionError as error:
                raise damaged_schema(error) from None
        if checked != actual:
            raise SchemasChanged

    # --- versions

    def next_versions_locked(self, streams: Sequence[str], numbers: Sequence[int]) -> list[int]:
        """Return the version that each event of an append gets.

        Raises:
            InvalidArgument: a stream is full.
        """
        self._planned = numbers
        remembered, versions = self._streams.versions, []
        for number in numbers:
            version = remembered[number] + 1
            if version <= 0:
                self._look_up_locked(streams)
                version = remembered[number] + 1
            remembered[number] = version
            versions.append(version)
        try:
            array("I", versions)  # a third of the time of `max`
        except OverflowError:
            reason = f"a stream holds at most {MAX_VERSION} events; begin another stream"
            raise InvalidArgument(reason) from None
        return versions

    def _version_locked(self, stream: str) -> int:
        self._look_up_locked((stream,))
        return self._streams.version_of(stream)

    def _look_up_locked(self, streams: Iterable[str]) -> None:
        """Look up the last version of each stream, together, where it is not remembered."""
        numbers = self._streams
        names = {n: name for name in streams if numbers.versions[n := numbers[name]] < 0}
        if not names:
            return
        in_active = any(numbers.versions[number] != _NOT_ACTIVE for number in names)
        hashes = [int.from_bytes(numbers.hashes[number], "little") for number in names]
        found = self._log.find_versions(list(names.values()), hashes, in_active=in_active)
        for number, version in zip(names, found, strict=True):
            numbers.versions[number] = version

    def remember_locked(self, plan: Plan) -> None:
        """Remember the versions that a written plan gave its events."""
        if plan.numbers is not self._planned:  # of a mirror, with versions of its source
            for number, version in zip(plan.numbers, plan.versions, strict=True):
                self._streams.versions[number] = version
        self._planned = ()

    def begin_segment_locked(self) -> None:
        """Take note that the active segment is empty."""
        self._streams.version_of_new = _NOT_ACTIVE if self._log.sealed else 0

    def forget_locked(self, hashes: Collection[int] | None) -> None:
        """Look up again the streams with these hashes, or all of them: another process wrote to them."""
        self._streams.forget(hashes)


class _Streams(dict[str, int]):
    """Streams, numbered as they are first asked for, with what is remembered of each by its number.

    So each event's name is looked up once, a batch of them in one pass of C. The passes after that over
    arrays and lists take half the time of passes over dicts by name.
    """

    def __init__(self) -> None:
        # As bytes: those of a batch are joined in half the time that numbers take to become an array.
        self.hashes: list[bytes] = []
        self.versions: list[int] = []  # the last one; _UNKNOWN or _NOT_ACTIVE: it has to be looked up
        # Of a stream without a number: known while all in the active segment have one.
        self.version_of_new = _UNKNOWN
        self._owners: dict[int, int] = {}  # by hash: the first number that has it
        self._second: set[int] = set()  # the other numbers, forgotten together: hashes are rarely equal

    def __missing__(self, stream: str) -> int:
        if stream.__class__ is not str:
            # Equal texts need not have equal hashes: a subclass of `str` may have its own.
            number = self[stream] = self[str.__str__(stream)]
            return number
        hash, number = hash_stream(stream), len(self.hashes)
        self.versions.append(_UNKNOWN)
        self.hashes.append(hash.to_bytes(8, "little"))
        if self._owners.setdefault(hash, number) != number:
            self._second.add(number)
        self.versions[number] = self.version_of_new
        self[stream] = number  # last: an interrupt may come before
        return number

    def version_of(self, stream: str) -> int:
        return self.versions[self[stream]]

    def forget(self, hashes: Collection[int] | None) -> None:
        """Do what `Planner.forget_locked` says."""
        if hashes is None or hashes:
            self.version_of_new = _UNKNOWN
        if hashes is None:
            self.versions = [_UNKNOWN] * len(self.versions)
        elif known := self._owners.keys() & hashes:
            for number in chain(map(self._owners.__getitem__, known), self._second):
                self.versions[number] = _UNKNOWN


def _items(cells: Any, keys: Sequence[Any]) -> tuple[Any, ...]:
    """Return the items at these keys or indexes, 1.5 times as fast as by a `map`."""
    # The first key comes twice: with a single key, itemgetter would return no tuple.
    return itemgetter(*keys, keys[0])(cells)[:-1]  # type: ignore[no-any-return]


def _places_by_tag(tags: Sequence[Sequence[int]], end: int) -> dict[int, list[int]]:
    """Return the indexes, rising and below `end`, of the events that have each tag, by the tag's hash."""
    places: dict[int, list[int]] = {}
    for at, hashes in zip(range(end), tags, strict=False):
        for hash in hashes:
            places.setdefault(hash, []).append(at)
    return places


def _maybe_selected(
    query: Query, events: Sequence[EncodedEvent], end: int, places: dict[int, list[int]]
) -> int | None:
    """Return the index of the first event before `end` that the query selects; None if there is none.

    Events are found by tag. Comparing each of many joined appends with all before it would take a third of
    the time of their frame.
    """
    if not end:
        return None
    numbers = [places.get(hash_each(tags)[0], ()) if tags else range(end) for _, tags in query.items]
    found = [n for n in chain.from_iterable(numbers) if n < end and query.selects(events[n][0], events[n][4])]
    return min(found, default=None)


def _maybe_of_tags(call: Callable[[Sequence[bytes | None]], _T], events: Sequence[EncodedEvent]) -> _T:
    """Return what a call makes of the tags in each event's metadata."""
    try:
        return call(column_of(events, 4))
    except ValueError as error:
        raise InvalidEvent("metadata", f"is not as `encode_events` makes it: {error}") from None


def _find_twins(append: Append, ids: Sequence[bytes], known: Known) -> None:
    """Add what an append has twice to `known`, with `skip_known`; else refuse it."""
    streams, events = append.streams, append.events
    first: dict[bytes, int] = {}
    for at, id in enumerate(ids):
        twin = first.setdefault(id, at)
        if twin == at or at in known:
            continue
        if not append.skip_known:
            from evlog.model.links import given_twice

            raise given_twice(id_text(id), events[at][4])
        if (streams[twin], *_content(events[twin])) != (streams[at], *_content(events[at])):
            reason = "is in one append twice, with different content"
            raise IdConflict(id_text(id), streams[at], 0, reason)
        known[at] = twin


def _content(event: EncodedEvent) -> tuple[str, int, bytes]:
    return event[0], event[2], event[3]


def _check_same(found: Record | RemovedEvent, id: bytes, stream: str, event: EncodedEvent) -> Record:
    """Return the removed event that has the id, once its content is known to be the same; else raise.

    Of a removed event only a CRC of the content is kept; where not even that is, the id decides.
    """
    type, _, code, data, metadata = event
    if not isinstance(found, tuple):
        if not found.has_content(stream, type, code, data):
            reason = "is known with different content, of an event that was compacted away"
            raise IdConflict(id_text(id), stream, found.position, reason)
        return (found.position, found.version, stream, type, id, 0, code, data, metadata)
    raise IdConflict(id_text(id), found[2], found[0], "is known with different content")


def _check_tombstones(streams: Sequence[str], policies: PolicyTable) -> None:
    for stream in dict.fromkeys(streams):
        rule = policies.rule_for(stream)
        if rule is not None and rule.tombstone:
            raise StreamTombstoned(stream)
