"""Named subscriptions: beginning a run, handling its events, and managing what is stored.

A name has a filter, a checkpoint and one run at a time. The next run continues where the last one ended.
Delivery is at least once, in order: a checkpoint passes an event only after it was acknowledged or parked.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial

from evlog.errors import (
    CorruptionError,
    InvalidArgument,
    SubscriptionAhead,
    SubscriptionNotFound,
    UnsupportedFormat,
)
from evlog.model.arguments import check_number, list_of
from evlog.model.checkpoints import Checkpoint, ParkedEvent
from evlog.model.events import Event, moment_of, now_ns
from evlog.model.filters import ANYTHING, EventFilter, LogSelection
from evlog.model.named import NamedTuple
from evlog.subscriptions import shards
from evlog.subscriptions.retry import WrongHandler, call, check_takes, describe_error, upcasting
from evlog.subscriptions.run import Subscription, checkpoint_at, kept
from evlog.subscriptions.shards import as_shard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from datetime import datetime

    from evlog.engine import CheckpointStore, Engine
    from evlog.model.events import Upcast
    from evlog.subscriptions.retry import Handler


class SubscriptionInfo(NamedTuple):
    """A named subscription: its filter, its position, and how far it is behind.

    Attributes:
        position: everything up to and including it was scanned.
        lag_events: positions after it, matching or not.
        lag_seconds: the age of the first event that was not scanned; 0 if all were.
        parked: how many events are parked.
        running: whether a run holds the name, here or in another process.
        saved_us: when the checkpoint was saved, microseconds since 1970.
        damage: what is wrong with its checkpoint, which `reset_subscription` repairs, or with its parked
            events; None if nothing is. A checkpoint at an event that the log does not have is damage, too.
    """

    name: str
    filter: EventFilter
    position: int
    lag_events: int
    lag_seconds: float
    parked: int
    running: bool
    saved_us: int
    damage: str | None = None

    @property
    def saved_time(self) -> datetime:
        """When it was saved, in UTC."""
        return moment_of(self.saved_us)


class ReplayResult(NamedTuple):
    """How many parked events were handled, and how many not.

    Attributes:
        succeeded: handled; they have left the list.
        failed: failed again; they stay in the list, with the new error.
        removed: removed from the log by a compaction; they have left the list.
    """

    succeeded: int
    failed: int
    removed: int


def begin(
    engine: Engine,
    name: str | None,
    filter: EventFilter,
    after: int | None,
    *,
    to: int | None,
    follow: bool,
    idle_seconds: float | None,
    timeout_seconds: float | None,
    shard: tuple[int, int] | None,
    upcast: Upcast | None,
) -> Subscription:
    """Begin a run. Arguments and errors are those of `EventStore.subscribe`."""
    run = partial(
        Subscription,
        engine,
        to=to,
        follow=follow,
        idle_seconds=idle_seconds,
        timeout_seconds=timeout_seconds,
        upcast=upcast,
    )
    if name is None:
        if shard is not None:
            raise InvalidArgument("only a named subscription is shared by shards; give it a name")
        start, filter = _start(engine, after, filter)
        return run(filter, start)
    part = as_shard(shard)

    # For the first run of the name: where it begins, and its checkpoint, which is at the last event before.
    begun: list[tuple[int, Checkpoint]] = []

    def first() -> Checkpoint:
        start = _first_start(engine, after, filter)
        begun.append((start, checkpoint_at(engine, start, kept(filter))))
        return begun[0][1]

    checkpoint, known = shards.acquire(engine, name, part, first)
    try:
        if known.filter is not None and kept(filter) == ANYTHING:
            filter = known.filter  # this run gives no filter, so the name's is used
        start = _check_known(engine, name, known, kept(filter))
        if begun and known.position == begun[0][1].position:
            start = begun[0][0]
        if known.filter is None:
            checkpoint.save(known._replace(filter=kept(filter)))
            checkpoint.sync()
        own_name, takes = shards.name_of(name, part), None if part is None else part.takes
        return run(kept(filter), start, checkpoint=checkpoint, name=own_name, takes=takes)
    except BaseException:
        checkpoint.release()
        raise


def list_all(engine: Engine) -> list[SubscriptionInfo]:
    """Return every subscription, by name; a damaged one with its damage."""
    head = engine.head()
    found = (_maybe_describe(engine, name, head) for name in engine.checkpoint_names())
    return [info for info in found if info is not None]


def describe(engine: Engine, name: str) -> SubscriptionInfo:
    """Return one subscription; of one that is shared by shards, the least of them all.

    Raises:
        SubscriptionNotFound: there is none of this name.
        CorruptionError: its checkpoint is damaged.
        SubscriptionAhead: it is at an event that the log does not have.
    """
    head = engine.head()
    found = []
    for each in shards.members(engine, name):
        checkpoint = engine.checkpoint(each)
        found.append(_describe(engine, each, checkpoint, _load_known(checkpoint, each), head))
        if found[-1].damage is not None:
            raise SubscriptionAhead(each, found[-1].position, head)
    last = min(found, key=lambda info: info.position)
    return last._replace(
        name=name,
        parked=sum(info.parked for info in found),
        running=any(info.running for info in found),
        saved_us=min(info.saved_us for info in found),
    )


def reset(engine: Engine, name: str, to: int) -> None:
    """Make the next run begin after position `to`, durably; repair a damaged checkpoint."""
    with _acquired(engine, name) as places:
        head = engine.head()
        if not 0 <= to <= head:
            raise InvalidArgument(f"cannot reset to position {to}; give one from 0 to {head}")
        for each, checkpoint in places:
            filter: EventFilter | None
            try:
                filter = _load_known(checkpoint, each).filter
            except CorruptionError:
                filter = None  # not known any more: the next run sets it
            checkpoint.save(checkpoint_at(engine, to, filter))
            checkpoint.sync()


def delete(engine: Engine, name: str) -> None:
    """Delete the subscription and all it parked; durable when this returns."""
    with _acquired(engine, name) as places:
        for _, checkpoint in places:
            checkpoint.delete()


def parked(engine: Engine, name: str) -> list[ParkedEvent]:
    """Return the parked events, shard by shard, in the order in which they were first parked."""
    found: list[ParkedEvent] = []
    for each in shards.members(engine, name):
        checkpoint = engine.checkpoint(each)
        _load_known(checkpoint, each)
        found += checkpoint.parked()
    return found


def replay(
    engine: Engine,
    name: str,
    handler: Handler,
    positions: Collection[int] | None = None,
    upcast: Upcast | None = None,
) -> ReplayResult:
    """Call the handler with each parked event, or those at some positions; unpark it if that succeeds."""
    check_takes(handler, "the event")
    handler = upcasting(handler, upcast)
    succeeded = failed = removed = 0
    with _acquired(engine, name) as places:
        for checkpoint, place in _chosen(places, positions, name):
            event = _maybe_read(engine, place.position)
            if event is None:
                checkpoint.unpark(place.position)
                removed += 1
                continue
            try:
                call(handler, event)
            except WrongHandler:
                raise
            except Exception as error:  # noqa: BLE001 - it is kept with the event
                checkpoint.park(event, describe_error(error), place.attempts + 1)
                failed += 1
            else:
                checkpoint.unpark(place.position)
                succeeded += 1
    return ReplayResult(succeeded, failed, removed)


def drop(engine: Engine, name: str, positions: Collection[int]) -> None:
    """Remove parked events from the list, unhandled; durable when this returns."""
    with _acquired(engine, name) as places:
        for checkpoint, place in _chosen(places, positions, name):
            checkpoint.unpark(place.position)


def _chosen(
    places: list[tuple[str, CheckpointStore]], positions: Collection[int] | None, name: str
) -> list[tuple[CheckpointStore, ParkedEvent]]:
    """Return the parked events at some positions, None for all, each with where it is parked.

    Raises:
        InvalidArgument: no event is parked at one of them.
    """
    for each, checkpoint in places:
        _load_known(checkpoint, each)
    parked = [(checkpoint, place) for _, checkpoint in places for place in checkpoint.parked()]
    if positions is None:
        return parked
    positions = [check_number("position", each) for each in list_of("positions", positions)]
    unknown = set(positions).difference(place.position for _, place in parked)
    if unknown:
        raise not_parked(name, min(unknown))
    return [(checkpoint, place) for checkpoint, place in parked if place.position in positions]


def not_parked(name: str, position: int) -> InvalidArgument:
    """Return the error for a position at which a subscription has no parked event."""
    return InvalidArgument(
        f"subscription {name!r} has no parked event at position {position}",
        "give the position of an event that is parked",
    )


def _maybe_read(engine: Engine, position: int) -> Event | None:
    """Return the event at a position; None if a compaction has removed it."""
    return next(engine.read_all(LogSelection.at(position)), None)


@contextmanager
def _acquired(engine: Engine, name: str) -> Iterator[list[tuple[str, CheckpointStore]]]:
    """Acquire all checkpoints of a subscription, damaged or not; yield each with its name."""
    places = []
    with ExitStack() as held:
        for each in shards.members(engine, name):  # nothing is created for a mistyped name
            checkpoint = engine.checkpoint(each)
            shards.acquire_one(engine, checkpoint)
            held.callback(checkpoint.release)
            places.append((each, checkpoint))
        yield places


def _load_known(checkpoint: CheckpointStore, name: str) -> Checkpoint:
    known = checkpoint.load()
    if known is None:
        raise SubscriptionNotFound(name)
    return known


def _maybe_describe(engine: Engine, name: str, head: int) -> SubscriptionInfo | None:
    checkpoint = engine.checkpoint(name)
    try:
        known = checkpoint.load()
        return None if known is None else _describe(engine, name, checkpoint, known, head)
    except (CorruptionError, UnsupportedFormat) as error:
        return SubscriptionInfo(name, EventFilter(), 0, head, 0.0, 0, checkpoint.is_running(), 0, str(error))


def _describe(
    engine: Engine, name: str, checkpoint: CheckpointStore, known: Checkpoint, head: int
) -> SubscriptionInfo:
    lag_seconds = 0.0
    if known.position < head:
        try:
            following = next(engine.read_all(LogSelection(known.position, head, limit=1)), None)
        except CorruptionError:  # of the log, not of the subscription: the event before it is a little older
            following = next(engine.read_all(LogSelection.last(known.position)), None)
        if following is not None:
            lag_seconds = max(0.0, now_ns() / 1e9 - following.time_us / 1e6)
    try:
        damage = None if _is_of(engine, known) else str(SubscriptionAhead(name, known.position, head))
    except CorruptionError:  # of the log, too
        damage = None
    return SubscriptionInfo(
        name,
        known.filter or EventFilter(),
        known.position,
        max(0, head - known.position),
        lag_seconds,
        len(checkpoint.parked()),
        checkpoint.is_running(),
        known.time_us,
        damage,
    )


def _start(engine: Engine, after: int | None, filter: EventFilter) -> tuple[int, EventFilter]:
    """Return where a run without a checkpoint begins; the filter keeps a time only if it is yet to come."""
    since_us, after = filter.since_us, after or 0
    if since_us is None:
        return after, filter
    head = engine.head()
    first = next(
        engine.read_all(LogSelection(filter=EventFilter(since_us=since_us, include_system=True), limit=1)),
        None,
    )
    if first is not None:
        return max(after, first.position - 1), kept(filter)
    return max(after, head), filter


def _first_start(engine: Engine, after: int | None, filter: EventFilter) -> int:
    """Return where the first run of a name begins.

    Raises:
        InvalidArgument: that is not in the log yet, so the next run could not tell it from a lost log.
    """
    start, left = _start(engine, after, filter)
    if left.since_us is not None and left.since_us > now_ns() // 1000:
        raise InvalidArgument("since is in the future; give a named subscription a time that has passed")
    head = engine.head()
    if start > head:
        raise InvalidArgument(f"position {start} is beyond the log's end, {head}; begin after {head} at most")
    return start


def _check_known(engine: Engine, name: str, known: Checkpoint, filter: EventFilter) -> int:
    """Return where the next run of a name begins.

    Raises:
        InvalidArgument: the name has another filter.
        SubscriptionAhead: the event at its position is not in this log.
    """
    if known.filter is not None and known.filter != filter:
        raise InvalidArgument(
            f"subscription {name!r} is for {known.filter}, not for {filter}; "
            "use its own filter, another name, or delete it first"
        )
    if not _is_of(engine, known):
        raise SubscriptionAhead(name, known.position, engine.head())
    return known.position


def _is_of(engine: Engine, known: Checkpoint) -> bool:
    """Return whether the log has, or had, the event of a checkpoint."""
    position, event_id = known.position, known.event_id
    if event_id is None:
        return True
    event = _maybe_read(engine, position)
    return event.id_bytes == event_id if event else engine.find_ids([event_id]).get(event_id) == position
