"""One decision, made from the events of a stream or of a query, and appended as one.

1. The events are appended on the condition that the stream is at the version that was read, or that no new
   event matches the query. If another writer was first, the decision is made again, from the longer history.
2. Between two tries is a random pause: at most the time that the decision took, doubled after each failed
   try. So writers whose decisions take long do not collide again and again.
3. With a key, the n-th event of the decision has the idempotency key KEY/n. All of them are one frame, so the
   decision is in the log as soon as KEY/1 is. It is then not made again: another run would perhaps decide
   otherwise, or give another number of events. A decision to append nothing leaves no trace.
4. Each event of a decision with a key says what it was decided from, in `$decidedFrom` of its metadata. So a
   key that is used for another stream by mistake is a conflict, and not taken for a decision that was made.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from evlog.errors import ConditionFailed, IdConflict, InvalidEvent, WrongExpectedVersion
from evlog.model.appends import AppendRequest
from evlog.model.events import id_of_key, id_text
from evlog.model.filters import LogSelection
from evlog.model.links import KEY, add_links

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from evlog.engine import Engine
    from evlog.model.appends import BatchResult, ExpectedVersion
    from evlog.model.events import EncodedEvent, Event
    from evlog.model.queries import Query, QueryResult
    from evlog.model.types import Condition

    Decided = tuple[list[str], list[EncodedEvent]]
    """The stream of each new event, and the events."""

_FIRST_PAUSE_SECONDS: Final = 0.001
_LAST_PAUSE_SECONDS: Final = 2.0
_KEYS_AT_ONCE: Final = 8
_DECIDED_FROM: Final = "$decidedFrom"


class Store(Protocol):
    """What a decision needs of a store."""

    engine: Engine

    def read(self, stream: str) -> Iterator[Event]: ...

    def stream_version(self, stream: str) -> int: ...

    def query(self, query: Query) -> QueryResult: ...

    def append_encoded(
        self,
        streams: Sequence[str],
        events: Sequence[EncodedEvent],
        *,
        expected: Mapping[str, ExpectedVersion] | None = None,
        conditions: Condition | Iterable[Condition] = (),
    ) -> BatchResult: ...


def transact(
    store: Store,
    about: str | Query,
    decide: Callable[[list[Event], int], Decided],
    *,
    retries: int,
    key: str | None,
) -> BatchResult | None:
    """Decide, and append what was decided; durable when this returns.

    Args:
        about: a stream's name, or a query.
        decide: called with the events, and the stream's version or the log's last position. What it raises
            ends the transaction.
        retries: how often a decision that came too late is made again.

    Returns:
        Where the events are, also those of a decision that was made before; None if nothing was decided.

    Raises:
        WrongExpectedVersion, ConditionFailed: other writers were first each time.
        As `EventStore.append`.
    """
    losses = 0
    while True:
        if key is not None and (before := _maybe_made_before(store.engine, about, key)) is not None:
            return before
        began = time.monotonic()
        expected: dict[str, ExpectedVersion] = {}
        conditions: tuple[Condition, ...] = ()
        if isinstance(about, str):
            place = store.stream_version(about)  # first: an event that comes in between makes the append fail
            history = list(store.read(about))
            if history:
                place = history[-1].version
            expected[about] = place
        else:
            history = found = store.query(about)
            place, conditions = found.position, (found.unchanged,)
        streams, events = decide(history, place)
        if not events:
            return None
        if key is not None:
            events = [_with_key(event, about, f"{key}/{number}") for number, event in enumerate(events, 1)]
        try:
            result = store.append_encoded(streams, events, expected=expected, conditions=conditions)
        except (WrongExpectedVersion, ConditionFailed):
            losses += 1
            if losses > retries:
                raise
            _pause(time.monotonic() - began, losses)
        except IdConflict:
            # Perhaps another run with the same key was first, and has decided otherwise.
            before = None if key is None else _maybe_made_before(store.engine, about, key)
            if before is None:
                raise
            return before
        else:
            if key is not None and any(result.duplicates):  # the other run may have more events
                return _maybe_made_before(store.engine, about, key) or result
            return result


def _with_key(event: EncodedEvent, about: str | Query, key: str) -> EncodedEvent:
    type, id, code, data, metadata = event
    if id is not None:
        raise InvalidEvent("id", "is given together with a key for the decision; leave it out")
    linked = add_links(metadata or b"{}", {KEY: key, _DECIDED_FROM: str(about)})
    assert isinstance(linked, bytes)  # as it was before
    return (type, id_of_key(key), code, data, linked)


def _maybe_made_before(engine: Engine, about: str | Query, key: str) -> BatchResult | None:
    """Return where the events of the decision with this key are, durable; None if it was not made.

    Events that a compaction has removed are left out. The decision counts as made all the same.

    Raises:
        IdConflict: the key belongs to something else.
    """
    positions = _positions(engine, key)
    if not positions:
        return None
    events = [event for position in positions for event in engine.read_all(LogSelection.at(position))]
    if not events:
        from evlog.model.appends import BatchResult

        return BatchResult([], [], [], [], [])
    for event in events:
        source = event.link(_DECIDED_FROM)
        if source != str(about) and event.idempotency_key is not None:  # a redacted one has neither
            reason = "belongs to no decision"
            if source is not None:
                reason = f"belongs to a decision about {source!r:.80}"
            raise IdConflict(id_text(event.id_bytes), event.stream, event.position, reason, key)
    # Appended again as duplicates: the writer that made the decision may have died before it was durable.
    encoded = [event[3:5] + event[6:] for event in events]
    return engine.append(AppendRequest([event.stream for event in events], encoded))


def _positions(engine: Engine, key: str) -> list[int]:
    """Return the position of KEY/1, KEY/2 and so on, up to the first that is not known."""
    positions: list[int] = []
    count = 1  # most keys are new
    while True:
        first = len(positions) + 1
        ids = [id_of_key(f"{key}/{number}") for number in range(first, first + count)]
        known = engine.find_ids(ids)
        for id in ids:
            if id not in known:
                return positions
            positions.append(known[id])
        count = _KEYS_AT_ONCE


def _pause(decision_seconds: float, losses: int) -> None:
    from random import uniform

    longest_seconds = max(_FIRST_PAUSE_SECONDS, decision_seconds) * 2 ** min(losses - 1, 16)
    time.sleep(uniform(0, min(longest_seconds, _LAST_PAUSE_SECONDS)))  # noqa: S311 - nothing secret
