"""Reading: a stream, the log, events by tag, ids and streams.

1. Reads go up to the position at which the log ended when they began. What is beyond is not committed.
2. Streams, tags, ids and heads are read strongly consistent.
3. The index `by_position` follows the table after a while, and may show a position before an earlier one. But
   positions have no gaps, and what was removed is listed. So a page in which a position is missing is asked
   for again, and nothing is skipped.
4. In an index by category or type a reader could not distinguish a gap from an event that is not shown yet.
   So such reads go through the log; the service filters it, and says of each page how many it looked at.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from evlog.engines.deciding import removed_matches, tag_digest
from evlog.engines.dynamodb.core import read_heads
from evlog.engines.dynamodb.items import (
    GAPS,
    HEADS,
    INDEX,
    decode_event,
    decode_gap,
    decode_head,
    decode_id,
    decode_removed,
    decode_tag,
    event_key,
    id_key,
    number,
    number_in,
    stream_key,
    tag_key,
    version_key,
)
from evlog.errors import StoreUnreachable
from evlog.model.events import SYSTEM_PREFIX, Event, now_ns
from evlog.model.history import RemovedRecord
from evlog.model.queries import IfNone, Query
from evlog.model.reports import StreamInfo, retention_of
from evlog.model.retention import KEEP_ALL, first_visible_version, hides, visible_since_us

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from evlog.engines.dynamodb.client import Item
    from evlog.engines.dynamodb.core import Core
    from evlog.engines.dynamodb.items import Head, LogState
    from evlog.model.filters import EventFilter, LogSelection, StreamSelection
    from evlog.model.redaction import Redacted
    from evlog.model.retention import Rule

_HOLE_SECONDS: Final = 30.0  # for the index to show what the table has; it usually takes milliseconds
_SHORT_RANGE: Final = 500  # of positions: the log is read for one stream's events, not the whole stream
_MAX_OPERANDS: Final = 100  # of IN: the service's limit
_MORE: Final = 8
_LARGE_PAGE: Final = 1000
_LOOKED_UP: Final = 100  # at once


class IndexBehind(StoreUnreachable):
    """The index does not show what the table must have."""


class Reader:
    """Reads of one engine. Any thread may use it."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._client = core.client

    # --- events

    def read_stream(self, selection: StreamSelection) -> Iterator[Event]:
        stream, first_version, last_version, filter, limit, reverse = selection
        state = self._core.state()
        rule = self._core.policies.rules(state).rule_for(stream) if state.policies else None
        now_us, last = now_ns() // 1000, 0
        if rule is not None:
            last = read_heads(self._client, [stream], state.position)[stream].version
            first_version = max(first_version, first_visible_version(rule, last))
        events = self.stream_events(state, stream, first_version, last_version, reverse=reverse, limit=limit)
        shown = (event for event in events if rule is None or not hides(rule, event, last, now_us))
        return select(shown, filter.replace(stream=stream), limit)

    def stream_events(
        self,
        state: LogState,
        stream: str,
        first: int,
        last: int | None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[Event]:
        """Iterate over the events of a stream between two versions, as of a state; `limit` is a hint."""
        redacted = self._core.redacted(state)
        bounds = version_key(max(1, first)), "VERSION$" if last is None else version_key(max(0, last))
        for item in self._client.query(stream_key(stream), *bounds, reverse=reverse, page=limit):
            event = Event(redacted.record(decode_event(item)))
            if event.position <= state.position:
                yield event

    def read_all(self, selection: LogSelection) -> Iterator[Event]:
        after, to, filter, limit, reverse = selection
        state = self._core.state()
        after, to = max(0, after), state.position if to is None else min(to, state.position)
        events: Iterable[Event]
        if to <= after or limit == 0:
            return iter(())
        if filter.tags:
            events = self._tagged_events(state, after, to, filter.tags, reverse=reverse)
        elif filter.stream is not None and to - after > _SHORT_RANGE:
            found = self.stream_events(state, filter.stream, 1, None, reverse=reverse)
            events = (event for event in found if after < event.position <= to)
        else:
            pages = LogPages(self._core, state, after, to, filter, reverse=reverse, limit=limit)
            events = (event for event, _ in pages)
        if not filter.include_system and filter.stream is None:
            events = (event for event in events if not event.stream.startswith(SYSTEM_PREFIX))
        return select(events, filter, limit)

    def read_frames(self, after: int, to: int) -> Iterator[tuple[int, Event]]:
        """Iterate over all events between two positions, each with the first position of its append."""
        state = self._core.state()
        after, to = max(0, after), min(to, state.position)
        pages = LogPages(self._core, state, after, to, None, reverse=False, limit=None)
        return ((max(frame, after + 1), event) for event, frame in pages)

    def _tagged_events(
        self, state: LogState, after: int, to: int, tags: Sequence[str], *, reverse: bool
    ) -> Iterator[Event]:
        """Iterate over events that have the first of some tags: by its items, which are consistent."""
        redacted = self._core.redacted(state)
        partition, first = tag_key(tag_digest(tags[0]), after + 1)
        items = self._client.query(partition, first, number(to), reverse=reverse)
        while page := list(islice(items, _LOOKED_UP)):
            keys = [event_key(place.stream, place.version) for place in map(decode_tag, page)]
            found = self._client.get_many(keys)
            for key in keys:
                if key in found:  # else it was removed
                    yield Event(redacted.record(decode_event(found[key])))

    # --- look-ups

    def find_ids(self, ids: Sequence[bytes]) -> dict[bytes, int]:
        return {id: known[0] for id, known in self.known(self._core.state(), ids).items()}

    def versions(self, streams: Sequence[str]) -> list[int]:
        heads = read_heads(self._client, list(dict.fromkeys(streams)), self._core.state().position)
        return [heads[stream].version for stream in streams]

    def known(self, state: LogState, ids: Sequence[bytes]) -> dict[bytes, Event | RemovedRecord]:
        """Return what is known of ids: of a redacted event that it is one, else its place and digest."""
        found = self._client.get_many([id_key(id) for id in ids])
        records = [record for record in map(decode_id, found.values()) if record.position <= state.position]
        known: dict[bytes, Event | RemovedRecord] = {record.id: record for record in records}
        redacted = self._core.redacted(state)
        erased = [record for record in records if record.position in redacted]
        keys = [event_key(record.stream, record.version) for record in erased]
        for item in self._client.get_many(keys).values() if keys else ():
            event = Event(redacted.record(decode_event(item)))
            known[event.id_bytes] = event
        return known

    def first_match(self, state: LogState, condition: IfNone, redacted: Redacted) -> int | None:
        """Return the first position, also of a removed event, that breaks a condition."""
        found = [
            position
            for types, tags in condition.query.items
            if (position := self._first_of_item(state, types, tags, condition.after, redacted)) is not None
        ]
        return min(found, default=None)

    def _first_of_item(
        self, state: LogState, types: tuple[str, ...], tags: tuple[str, ...], after: int, redacted: Redacted
    ) -> int | None:
        if not tags:
            from evlog.model.filters import EventFilter

            if after >= state.position:
                return None
            filter = EventFilter(types=types or None)
            pages = LogPages(self._core, state, after, state.position, filter, reverse=False, limit=None)
            events = (event for event, _ in pages if not event.stream.startswith(SYSTEM_PREFIX))
            first = next(select(events, filter, 1), None)
            return None if first is None else first.position
        condition = IfNone(Query.of_items([(types, tags)]), after)
        partition, first_key = tag_key(tag_digest(tags[0]), after + 1)
        for item in self._client.query(partition, first_key, number(state.position)):
            record = decode_tag(item)
            if record.position not in redacted and removed_matches(condition, record):
                return record.position
        return None

    def streams(
        self, category: str | None, prefix: str | None, *, include_deleted: bool, include_system: bool
    ) -> Iterator[StreamInfo]:
        state = self._core.state()
        rules, now_us = self._core.policies.rules(state), now_ns() // 1000
        for name, head in self.heads(state, category, prefix):
            if name.startswith(SYSTEM_PREFIX) and not include_system:
                continue
            first, count, kept = head.version - head.events + 1, head.events, None
            rule = rules.rule_for(name)
            if rule is not None and rule != KEEP_ALL:
                kept = retention_of(rule, head.version)
                if kept.deleted and not include_deleted:
                    continue
                first = self._first_visible(state, name, rule, head, now_us)
                count = max(0, head.version - first + 1)
            yield StreamInfo(name, count, first, head.version, head.time_us, kept)

    def heads(
        self, state: LogState, category: str | None = None, prefix: str | None = None
    ) -> Iterator[tuple[str, Head]]:
        """Iterate over the streams that have events or had them, by name."""
        prefix = prefix or ""
        if category is not None and not prefix.startswith(category + "-"):
            if prefix and not (category + "-").startswith(prefix):
                return
            prefix = category
        for item in self._client.query(HEADS, prefix, prefix + "\U0010ffff"):
            name, head = item["SK"]["S"], decode_head(item, state.position)
            if head.version and category in (None, name.partition("-")[0]):
                yield name, head

    def _first_visible(self, state: LogState, stream: str, rule: Rule, head: Head, now_us: int) -> int:
        """Return the first visible version of a stream; beyond the last one if none is."""
        first = max(head.version - head.events + 1, first_visible_version(rule, head.version))
        if visible_since_us(rule, now_us) is None or first > head.version:
            return first
        for event in self.stream_events(state, stream, first, None):
            if not hides(rule, event, head.version, now_us):
                return event.version
        return head.version + 1

    def removed(self, after: int, to: int) -> Iterator[RemovedRecord]:
        """Iterate over the removed events between two positions, by position."""
        state = self._core.state()
        items = self._client.query(GAPS, number(after + 1), number(min(to, state.position)))
        records = (record for record in map(decode_removed, items) if record is not None)
        while page := list(islice(records, _LOOKED_UP)):
            heads = read_heads(self._client, [record.stream for record in page], state.position)
            for record in page:
                is_last = heads[record.stream].version == record.version
                yield record if is_last else record._replace(time_us=0)


class LogPages:
    """Events and frames of the log between two positions, checked for holes, by pages of the index."""

    def __init__(
        self,
        core: Core,
        state: LogState,
        after: int,
        to: int,
        filter: EventFilter | None,
        *,
        reverse: bool,
        limit: int | None,
    ) -> None:
        self._core = core
        self._state = state
        self._low, self._high = after + 1, to  # of what is left
        self._terms = _terms(filter)
        self._reverse = reverse
        self._page = None if limit is None else limit + _MORE  # some may be the store's own

    def __iter__(self) -> Iterator[tuple[Event, int]]:
        """Iterate over the events with the position of the first of their append."""
        redacted = self._core.redacted(self._state)
        while self._low <= self._high:
            first, last, items = self._read_page()
            for item in items:
                yield Event(redacted.record(decode_event(item))), number_in(item, "frame")
            if self._reverse:
                self._high = first - 1
            else:
                self._low = last + 1
            if self._page is not None:  # the filter selects few events
                self._page = 4 * self._page if self._page < _LARGE_PAGE else None

    def _read_page(self) -> tuple[int, int, list[Item]]:
        """Return a page without holes: the positions that it reaches from and to, and its items."""
        deadline, pause_seconds = time.monotonic() + _HOLE_SECONDS, 0.005
        while True:
            terms = {} if self._state.has_gaps else self._terms  # which would hide what is missing
            answer = self._query(terms)
            items, stopped = answer["Items"], answer.get("LastEvaluatedKey")
            first, last = self._low, self._high
            if stopped is not None:
                at = int(stopped["position"]["N"])
                first, last = (at, last) if self._reverse else (first, at)
            gaps = self._gaps(first, last) if self._state.has_gaps else []
            missing = sum(end - begin + 1 for begin, end in gaps)
            if gaps:
                items = [item for item in items if not _within(gaps, number_in(item, "position"))]
            looked_at = answer["ScannedCount"] if terms else len(items)
            if looked_at == last - first + 1 - missing:
                return first, last, items
            if time.monotonic() >= deadline:
                reason = f"its index {INDEX} does not show all events from position {first} to {last}"
                raise IndexBehind(self._core.address.text, reason)
            time.sleep(pause_seconds)
            pause_seconds = min(0.2, 2 * pause_seconds)
            self._state = self._core.state()._replace(position=self._state.position)  # of a compaction

    def _query(self, terms: dict[str, Any]) -> Any:
        names = {"#log": "log", "#position": "position"} | terms.get("names", {})
        values = {
            ":log": {"S": "LOG"},
            ":low": {"N": str(self._low)},
            ":high": {"N": str(self._high)},
            **terms.get("values", {}),
        }
        given = {"FilterExpression": terms["text"]} if terms else {}
        if self._page is not None:
            given["Limit"] = self._page
        return self._core.client.call(
            "query",
            IndexName=INDEX,
            KeyConditionExpression="#log = :log AND #position BETWEEN :low AND :high",
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=values,
            ScanIndexForward=not self._reverse,
            **given,
        )

    def _gaps(self, low: int, high: int) -> list[tuple[int, int]]:
        """Return the ranges of positions that are not there, of those between two, rising."""
        gaps = []
        for item in self._core.client.query(GAPS, number(low)):
            first, last = decode_gap(item)
            if first > high:
                break
            gaps.append((max(low, first), min(high, last)))
        return gaps


def _within(gaps: list[tuple[int, int]], position: int) -> bool:
    """Return whether a position is in one of the rising ranges; an index may still show removed ones."""
    at = bisect_left(gaps, position, key=itemgetter(1))
    return at < len(gaps) and gaps[at][0] <= position


def _terms(filter: EventFilter | None) -> dict[str, Any]:
    """Return what the service can filter by; it may let too much through."""
    texts, names, values = [], {}, {}
    if filter is None:
        return {}
    if filter.stream is not None:
        texts.append("#stream = :stream")
        values[":stream"] = {"S": filter.stream}
    if filter.category is not None:
        texts.append("begins_with(#stream, :category)")
        values[":category"] = {"S": filter.category}
    if texts:
        names["#stream"] = "stream"
    if filter.types and len(filter.types) <= _MAX_OPERANDS:
        names["#type"] = "type"
        values |= {f":type{at}": {"S": type} for at, type in enumerate(filter.types)}
        texts.append(f"#type IN ({', '.join(f':type{at}' for at in range(len(filter.types)))})")
    if filter.since_us is not None:
        names["#time"] = "time"
        texts.append("#time >= :since")
        values[":since"] = {"N": str(filter.since_us)}
    return {"text": " AND ".join(texts), "names": names, "values": values} if texts else {}


def select(events: Iterable[Event], filter: EventFilter, limit: int | None) -> Iterator[Event]:
    """Iterate over those of the events that a filter selects."""
    content = filter.make_matcher() or (lambda _: True)
    return islice((event for event in events if filter.selects(event) and content(event)), limit)
