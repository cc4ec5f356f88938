"""A state: events folded from the beginning, or from a snapshot on.

The rules for when a snapshot can be used are in snapshots.py. A state as of an earlier moment uses a snapshot
from before that moment, and saves none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic

import msgspec

from evlog.model.checkpoints import check_kept_name
from evlog.model.events import moment_of, upcast_all
from evlog.model.filters import EventFilter, LogSelection, StreamSelection
from evlog.model.json_text import decode_json, encode_json
from evlog.model.named import NamedTuple
from evlog.model.retention import REDACTIONS_STREAM
from evlog.state.fold import S
from evlog.state.snapshots import Content, maybe_load, save

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from evlog.engine import Engine
    from evlog.model.events import Event, Upcast
    from evlog.model.queries import Query
    from evlog.state.fold import Fold


class State(NamedTuple, Generic[S]):
    """A state, and the events that it was folded from.

    Attributes:
        value: the state; its type is that of the Fold, if one was given.
        events: how many were folded, also those that a snapshot had in it.
        version: of a stream, that of its last folded event; 0 if there was none, and for a selection.
        position: of a stream, that of its last folded event; of a selection, the last one scanned.
        time_us: when the last event was written, microseconds since 1970; 0 if there was none.
    """

    value: S
    events: int
    version: int
    position: int
    time_us: int

    @property
    def time(self) -> datetime | None:
        """When the last event was written; None if there was none."""
        return moment_of(self.time_us) if self.events else None


class Selection:
    """Which events are folded: those of a stream, or of the log, that a filter or a query selects.

    Args:
        stream: None: of all streams.
        filter: what else must match; its `until_us` bounds the fold, and is not part of a snapshot.
        query: instead of the filter's types and tags; not with a stream.
        at: the last version of the stream, or the last position; None: the end.
    """

    def __init__(
        self, stream: str | None, filter: EventFilter, query: Query | None = None, at: int | None = None
    ) -> None:
        self.stream = stream
        self.filter = filter
        self.query = query
        self.at = at

    @property
    def is_present(self) -> bool:
        """Whether this is about the present, and not about an earlier moment."""
        return self.at is None and self.filter.until_us is None

    def as_object(self) -> dict[str, Any]:
        """Return what a snapshot keeps of it."""
        kept = {name: value for name, value in self.filter.as_object().items() if value is not None}
        if self.filter.since_us is not None:
            kept["since_us"] = self.filter.since_us
        if self.query is not None:
            kept["query"] = str(self.query)
        plain: dict[str, Any] = decode_json(encode_json(kept))  # msgspec takes no subclass of str, as numpy's
        return plain

    def read(
        self, engine: Engine, after: int, to: int | None, *, limit: int | None = None
    ) -> Iterator[Event]:
        """Iterate over the events after a version (or position) up to another one."""
        if self.stream is not None:
            return engine.read_stream(StreamSelection(self.stream, after + 1, to, self.filter, limit))
        if self.query is None:
            return engine.read_all(LogSelection(after, to, self.filter, limit))
        return _merged_by_position(
            [
                engine.read_all(LogSelection(after, to, self.filter.replace(types=types or None, tags=tags)))
                for types, tags in self.query.items
            ]
        )


def _merged_by_position(reads: list[Iterator[Event]]) -> Iterator[Event]:
    from heapq import merge

    last = 0
    for event in merge(*reads):  # an event begins with its position
        if event[0] != last:
            last = event[0]
            yield event


def compute(
    engine: Engine, selection: Selection, fold: Fold, snapshot: str | None, upcast: Upcast | None
) -> tuple[State, Callable[[], None]]:
    """Return the state of a selection, before `Fold.value` makes the user's value of it; and how to keep it.

    Args:
        snapshot: begin with the snapshot of this name; None: no snapshot.
        upcast: turns each event into today's shape before it is folded.

    Returns:
        The state, and a function that keeps it in the snapshot, where that changes. It raises what the engine
        does where the snapshot cannot be saved.

    Raises:
        CorruptionError: an event is damaged. What the fold or `upcast` raises.
    """
    stream, end = selection.stream, selection.at
    if stream is None:
        head = engine.head()
        end = head if end is None else min(end, head)
    if snapshot is None:
        return _folded(engine, selection, fold, None, end, upcast)[0], _keep_nothing
    check_kept_name(snapshot, "snapshot")
    fold.check_named()
    # Counted before the events are read, because a compaction or a redaction may come during the read.
    removals = engine.removals() if stream is None else 0
    redactions = engine.versions([REDACTIONS_STREAM])[0]
    raw, base = maybe_load(engine, snapshot, stream)
    if base is not None and (
        base.redactions != redactions or not _is_usable(engine, selection, fold, base, end, removals)
    ):
        base = None
    kept = None if base is None else _maybe_decoded(fold, base)
    state, first_version = _folded(engine, selection, fold, kept, end, upcast)
    if not selection.is_present or state.position <= (0 if kept is None else kept[0].position):
        return state, _keep_nothing
    last = next(engine.read_all(LogSelection.last(state.position)), None)
    # After a redaction meanwhile the state may hold what was erased, and could not be used.
    if last is None or engine.versions([REDACTIONS_STREAM])[0] != redactions:
        return state, _keep_nothing
    content = Content(
        fold=fold.name,
        fold_version=fold.version,
        initial_crc=fold.initial_crc(),
        selection=selection.as_object(),
        position=state.position,
        event_id=last.id_bytes.hex(),
        event_position=last.position,
        state=msgspec.Raw(fold.encode(state.value)),
        events=state.events,
        version=state.version,
        first_version=first_version,
        removals=removals,
        redactions=redactions,
        time_us=state.time_us,
    )

    def keep() -> None:
        save(engine, snapshot, stream, content, raw)
        if engine.versions([REDACTIONS_STREAM])[0] != redactions:
            # The redaction may have looked for snapshots before this one was there.
            engine.snapshot(snapshot, stream).delete()

    return state, keep


def _keep_nothing() -> None:
    """Do nothing: there is no snapshot, or it is as the state is."""


def _folded(
    engine: Engine,
    selection: Selection,
    fold: Fold,
    kept: tuple[Content, Any] | None,
    end: int | None,
    upcast: Upcast | None,
) -> tuple[State, int]:
    """Return the state after the events that follow a snapshot, and the version of the first event of all."""
    is_stream = selection.stream is not None
    first_version = 0
    after = 0
    if kept is None:
        start = State(fold.start(), 0, 0, 0, 0)
    else:
        base, value = kept
        start = State(value, base.events, base.version, base.position, base.time_us)
        first_version = base.first_version
        after = base.version if is_stream else base.position
    events = selection.read(engine, after, end)
    if is_stream and kept is None:
        from itertools import chain

        first = next(events, None)
        if first is not None:
            first_version = first.version
            events = chain((first,), events)
    value, count, last = fold.run(start.value, upcast_all(events, upcast))
    state = start._replace(value=value, events=start.events + count)
    if last is not None:
        state = state._replace(version=last[1] if is_stream else 0, position=last[0], time_us=last[5])
    if not is_stream and end is not None:
        state = state._replace(position=end)
    return state, first_version


def _maybe_decoded(fold: Fold, base: Content) -> tuple[Content, Any] | None:
    """Return a snapshot and the state in it; None if it is not of the fold's kind, which has changed."""
    try:
        return base, fold.decode(bytes(base.state))
    except ValueError:  # msgspec's and pydantic's errors are ValueErrors
        return None


def _is_usable(
    engine: Engine, selection: Selection, fold: Fold, base: Content, end: int | None, removals: int
) -> bool:
    """Return whether a snapshot is what all events up to its position would give."""
    until_us = selection.filter.until_us
    known = base.fold, base.fold_version, base.initial_crc, base.selection
    if known != (fold.name, fold.version, fold.initial_crc(), selection.as_object()):
        return False
    reached = base.version if selection.stream is not None else base.position
    if (end is not None and reached > end) or (until_us is not None and base.time_us >= until_us):
        return False
    event = next(engine.read_all(LogSelection.at(base.event_position)), None)
    if event is None or event.id_bytes.hex() != base.event_id:
        return False
    if selection.stream is None:
        return base.removals == removals
    first = next(selection.read(engine, 0, None, limit=1), None)
    return first is not None and first.version == base.first_version
