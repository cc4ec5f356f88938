"""The result of an append, decided by the client: for engines whose servers cannot decide it.

1. An engine reads the log as of one moment (`LogView`), decides, and writes on the condition that nothing was
   appended since. If the condition fails, it reads and decides again. So a decision is exact.
2. The order is every engine's: standing, known ids, schemas, tombstones, expected versions, conditions.
   Known ids come before versions and conditions, so that a retry succeeds.
3. Nothing is written here, so a refused append leaves nothing behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from evlog.errors import (
    ConditionFailed,
    IdConflict,
    InvalidArgument,
    StreamTombstoned,
    WrongExpectedVersion,
)
from evlog.model.appends import NO_STREAM, STREAM_EXISTS, BatchResult, SchemasChanged
from evlog.model.events import Event, check_readable_name, check_stream_name, id_text, make_ids, now_ns
from evlog.model.history import RemovedRecord, check_standing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from evlog.model.appends import AppendRequest
    from evlog.model.events import EncodedEvent
    from evlog.model.history import Standing
    from evlog.model.queries import IfNone
    from evlog.model.retention import Rules

DIGEST_BYTES: Final = 24
"""The length of a content digest made here. A digest of another length is another engine's: not compared."""


class LogView(Protocol):
    """The log at one moment. A decision requests only the look-ups that it needs, each for many keys."""

    @property
    def address(self) -> str:
        """The store's address, for errors."""

    @property
    def head(self) -> int:
        """The last position."""

    @property
    def time_us(self) -> int:
        """The time of the last event, microseconds since 1970; 0 if there was none."""

    @property
    def standing(self) -> Standing:
        """What the store is to others."""

    @property
    def rules(self) -> Rules:
        """The retention policies in force, and the version of the schemas' stream."""

    def known(self, ids: Sequence[bytes]) -> Mapping[bytes, Event | RemovedRecord]:
        """Return the events that have these ids, those removed too."""

    def versions(self, streams: Sequence[str]) -> Mapping[str, int]:
        """Return the last version of each stream that ever had an event."""

    def first_match(self, condition: IfNone) -> int | None:
        """Return the position of the first event, also a removed one, that breaks a condition."""


class PendingAppend:
    """An append that may be tried several times: the request, and the ids that evlog has made for it.

    Raises:
        InvalidArgument, InvalidStreamName: it can never be made.
    """

    def __init__(self, request: AppendRequest) -> None:
        if not request.events:
            raise InvalidArgument("no events to append; give at least one")
        for stream in dict.fromkeys(request.streams):
            (check_readable_name if request.system else check_stream_name)(stream)
        self.streams = request.streams
        self.events = request.events
        self.expectations = request.expectations
        self.conditions = request.conditions
        self.skip_known = request.skip_known
        self.schemas = request.schemas
        self.made: frozenset[bytes] = frozenset()  # ids that evlog made; a known one is this append's

    def give_ids(self, ids: Sequence[bytes] | None = None) -> None:
        """Give each event its id, so that an append that may have been made is found when it is sent again.

        Args:
            ids: those of a decision whose outcome is unknown; None: new ones.
        """
        if ids is None:
            made = iter(make_ids(len(self.events)))
            ids = [event[1] or next(made) for event in self.events]
        pairs = list(zip(self.events, ids, strict=True))
        self.made |= frozenset(id for event, id in pairs if event[1] is None)
        self.events = [(event[0], id, event[2], event[3], event[4]) for event, id in pairs]


class Decision:
    """What to write for an append, and what it returns once that is written.

    Attributes:
        new: the events to write, in order; empty for a retry. They are one frame.
        result: of the whole append.
    """

    __slots__ = ("new", "result")

    def __init__(self, new: list[Event], result: BatchResult) -> None:
        self.new = new
        self.result = result


def decide(
    view: LogView, pending: PendingAppend, make: Callable[[int, int], list[bytes]] | None = None
) -> Decision:
    """Return the result of an append.

    Args:
        make: makes ids, given the position of the first event to write and how many are needed.

    Raises:
        StoreIsMirror, StoreMoved, IdConflict, SchemasChanged, StreamTombstoned, WrongExpectedVersion,
        ConditionFailed, InvalidArgument, InvalidEvent: it is refused.
    """
    check_standing(view.address, view.standing)
    streams, events = pending.streams, pending.events
    known = _find_known(view, pending)
    ids = [None if at in known else event[1] for at, event in enumerate(events)]
    twins = find_twins(streams, events, ids, skip_known=pending.skip_known)
    new = [at for at in range(len(events)) if at not in known and at not in twins]
    if not new:
        return Decision([], _result(pending, known, twins, {}))
    if known and not pending.skip_known:
        found = next(iter(known.values()))
        reason = "is known, but not all ids of its append are"
        raise IdConflict(_id_text(found), found.stream, found.position, reason)
    names = [streams[at] for at in new] if len(new) < len(events) else streams
    expected = [each.stream for each in pending.expectations]
    versions = dict(view.versions(list(dict.fromkeys([*names, *expected]))))
    _check(view, pending, names, new, versions)
    for condition in pending.conditions:
        _check_condition(view, condition)
    first = view.head + 1
    missing = sum(events[at][1] is None for at in new)
    made = iter((make(first, missing) if make is not None else make_ids(missing)) if missing else ())
    time_us = max(view.time_us, now_ns() // 1000)
    written: dict[int, Event] = {}
    for position, (at, stream) in enumerate(zip(new, names, strict=True), first):
        type, id, code, data, metadata = events[at]
        version = versions[stream] = versions.get(stream, 0) + 1
        written[at] = Event(
            (position, version, stream, type, id or next(made), time_us, code, data, metadata)
        )
    return Decision(list(written.values()), _result(pending, known, twins, written))


def content_digest(stream: str, type: str, code: int, data: bytes) -> bytes:
    """Return what is kept of a removed event's content, to tell a retry from a conflict."""
    from hashlib import blake2b

    name, kind = stream.encode(), type.encode()
    lengths = b"%d %d %d " % (len(name), len(kind), code)
    return blake2b(lengths + name + kind + data, digest_size=DIGEST_BYTES).digest()


def removed_record(event: Event, *, is_last: bool) -> RemovedRecord:
    """Return what is kept of an event that is removed.

    Args:
        is_last: it is the last of its stream: its time is kept.
    """
    digest = b"" if event.redacted else content_digest(event.stream, event.type, event[6], event.data)
    place = (event.position, event.version, event.stream, event.id_bytes)
    return RemovedRecord(*place, digest, event.time_us if is_last else 0, encode_tags(event))


# --- ids


def _find_known(view: LogView, pending: PendingAppend) -> dict[int, Event | RemovedRecord]:
    """Return by index what is stored under the ids that were given, once the contents are compared."""
    given = list(dict.fromkeys(event[1] for event in pending.events if event[1] is not None))
    found = view.known(given) if given else {}
    if not found:
        return {}
    known = {}
    for at, (stream, event) in enumerate(zip(pending.streams, pending.events, strict=True)):
        stored = None if event[1] is None else found.get(event[1])
        if stored is None:
            continue
        if not _is_same(stored, stream, event):
            raise IdConflict(
                _id_text(stored), stored.stream, stored.position, "is known with different content"
            )
        known[at] = stored
    return known


def _is_same(stored: Event | RemovedRecord, stream: str, event: EncodedEvent) -> bool:
    type, _, code, data, _ = event
    if isinstance(stored, RemovedRecord):
        if stored.stream != stream:
            return False
        digest = stored.digest
        return len(digest) != DIGEST_BYTES or digest == content_digest(stream, type, code, data)
    return stored.redacted or (stored.stream, stored.type, stored[6], stored.data) == (
        stream,
        type,
        code,
        data,
    )


def _id_text(stored: Event | RemovedRecord) -> str:
    return id_text(stored.id if isinstance(stored, RemovedRecord) else stored.id_bytes)


def find_twins(
    streams: Sequence[str], events: Sequence[EncodedEvent], ids: Sequence[bytes | None], *, skip_known: bool
) -> dict[int, int]:
    """Return the events whose id was given before in the same append, with the index of the first.

    Args:
        ids: of the events; None: it cannot be given twice.

    Raises:
        InvalidEvent: there is one, without `skip_known`.
        IdConflict: the first one has other content.
    """
    if len(set(ids)) == len(ids):
        return {}
    first: dict[bytes, int] = {}
    twins = {}
    for at, id in enumerate(ids):
        if id is None or (twin := first.setdefault(id, at)) == at:
            continue
        if not skip_known:
            from evlog.model.links import given_twice

            raise given_twice(id_text(id), events[at][4])
        one, other = events[twin], events[at]
        if (streams[twin], one[0], one[2], one[3]) != (streams[at], other[0], other[2], other[3]):
            raise IdConflict(id_text(id), streams[at], 0, "is in one append twice, with different content")
        twins[at] = twin
    return twins


# --- conditions


def _check(
    view: LogView, pending: PendingAppend, names: Sequence[str], new: list[int], versions: dict[str, int]
) -> None:
    """Raise unless all streams are as the append expects, and the schemas as it was checked against."""
    rules = view.rules
    if pending.schemas not in (None, rules.schemas):
        raise SchemasChanged
    has_rules = bool(rules.streams)
    if has_rules:
        for name in dict.fromkeys(names):
            rule = rules.rule_for(name)
            if rule is not None and rule.tombstone:
                raise StreamTombstoned(name)
    for expectation in pending.expectations:
        stream, expected = expectation.stream, expectation.version
        actual = versions.get(stream, 0)
        before = sum(at < expectation.at and pending.streams[at] == stream for at in new)
        if has_rules and not before and expected in (NO_STREAM, STREAM_EXISTS):
            rule = rules.rule_for(stream)
            if rule is not None and rule.is_deleted(actual):
                actual = 0  # as in KurrentDB: a deleted stream does not exist, though its versions continue
        actual += before
        if not expectation.is_met(actual):
            raise WrongExpectedVersion(stream, expected, actual)


def _check_condition(view: LogView, condition: IfNone) -> None:
    if condition.after > view.head:
        after = condition.after
        raise InvalidArgument(f"position {after} is beyond the log's end, {view.head}; read again")
    position = view.first_match(condition)
    if position is not None:
        raise ConditionFailed(str(condition.query), condition.after, position)


def _result(
    pending: PendingAppend,
    known: dict[int, Event | RemovedRecord],
    twins: dict[int, int],
    written: dict[int, Event],
) -> BatchResult:
    places: list[Event | RemovedRecord] = []
    duplicates = []
    for at in range(len(pending.events)):
        stored = known.get(at)
        twin = twins.get(at)
        is_new = at in written
        places.append(places[twin] if twin is not None else written[at] if stored is None else stored)
        duplicates.append(not is_new and (stored is None or _id_of(stored) not in pending.made))
    return BatchResult(
        pending.streams,
        [place[1] for place in places],
        [place[0] for place in places],
        list(map(_id_of, places)),
        duplicates,
    )


def _id_of(stored: Event | RemovedRecord) -> bytes:
    return stored.id if isinstance(stored, RemovedRecord) else stored.id_bytes


# --- tags of removed events


_TAGS_MAGIC: Final = b"T"
_TAG_BYTES: Final = 16


def encode_tags(event: Event) -> bytes:
    """Return what is kept of a removed event's type and tags, for conditions: digests, not the texts."""
    tags = event.tags
    return _TAGS_MAGIC + b"".join(map(tag_digest, (event.type, *tags))) if tags else b""


def removed_matches(condition: IfNone, removed: RemovedRecord) -> bool:
    """Return whether a removed event breaks a condition. Only the tags of such an event are remembered."""
    if not removed.tags.startswith(_TAGS_MAGIC) or removed.position <= condition.after:
        return False
    if removed.stream.startswith("$"):
        return False
    type, own = removed.tags[1 : 1 + _TAG_BYTES], set(tag_digests(removed.tags))
    return any(
        tags and (not types or type in map(tag_digest, types)) and own.issuperset(map(tag_digest, tags))
        for types, tags in condition.query.items
    )


def tag_digests(tags: bytes) -> list[bytes]:
    """Return the digests of the tags in what is kept of them; none of those of another engine."""
    if not tags.startswith(_TAGS_MAGIC):
        return []
    return [tags[at : at + _TAG_BYTES] for at in range(1 + _TAG_BYTES, len(tags), _TAG_BYTES)]


def tag_digest(text: str) -> bytes:
    """Return the digest of a tag, or of a type."""
    from hashlib import blake2b

    return blake2b(text.encode(), digest_size=_TAG_BYTES).digest()
