"""Shards: N consumers that share a subscription, each with the streams whose hash is its own.

1. Consumer K of N is kept under the name `NAME#K/N`, with a checkpoint and parked events like any other.
   Without shards there is one, under NAME.
2. A stream always belongs to the same K of N, so its events stay in order: by the CRC-32 of its name.
3. The first run makes the checkpoints of all N, so that all begin at the same place.
4. To change N, all former consumers must be at the same position, and none of them may run. The new ones
   begin at that position, and take over the parked events.
5. Consumers of two different N never run at the same time. The new checkpoints are made before the former
   ones are deleted: from then on no former consumer begins, and one that has begun is found by its lock. A
   process that dies in between leaves both sets, at one position, and the next run finishes the change.
6. A process that makes or deletes checkpoints holds the lock of NAME.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from zlib import crc32

from evlog.errors import InvalidArgument, ShardsApart, SubscriptionBusy, SubscriptionNotFound
from evlog.model.arguments import maybe_whole
from evlog.model.checkpoints import check_kept_name
from evlog.model.filters import LogSelection
from evlog.model.named import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Final

    from evlog.engine import CheckpointStore, Engine
    from evlog.model.checkpoints import Checkpoint, ParkedEvent
    from evlog.model.events import Event

MAX_SHARDS: Final = 1000
_ATTEMPTS: Final = 500
_AGAIN_SECONDS: Final = 0.02


class Shard(NamedTuple):
    """Consumer `number` of `total`, from 1."""

    number: int
    total: int

    def takes(self, event: Event) -> bool:
        """Return whether the event's stream is the consumer's."""
        return shard_of(event[2], self.total) == self.number


def shard_of(stream: str, count: int) -> int:
    """Return the number, from 1, of the consumer that has a stream."""
    return crc32(stream.encode()) % count + 1


def as_shard(shard: tuple[int, int] | None) -> Shard | None:
    """Return a checked shard; None for the only one.

    Raises:
        InvalidArgument: it is not a number of at least 1 and a count of at least that number.
    """
    if shard is None:
        return None
    if not isinstance(shard, tuple) or len(shard) != 2:
        raise InvalidArgument(f"invalid shard {shard!r:.80}", "give a number and a count, such as (1, 3)")
    number, count = map(maybe_whole, shard)
    if number is None or count is None or not 1 <= number <= count <= MAX_SHARDS:
        raise InvalidArgument(
            f"invalid shard {shard[0]!r} of {shard[1]!r}",
            f"give a number from 1 to the count, which is at most {MAX_SHARDS}",
        )
    return Shard(number, count) if count > 1 else None


def name_of(name: str, shard: Shard | None) -> str:
    """Return the name under which a consumer is kept."""
    return name if shard is None else f"{name}#{shard.number}/{shard.total}"


def maybe_parse(name: str) -> tuple[str, Shard] | None:
    """Return the subscription and the shard in a consumer's name; None if it has no shard."""
    base, found, rest = name.rpartition("#")
    number, slash, count = rest.partition("/")
    if not (base and found and slash and number.isdecimal() and count.isdecimal() and rest.isascii()):
        return None
    shard = Shard(int(number), int(count))
    return (base, shard) if name_of(base, shard) == name else None


def check_name(name: str, shard: Shard | None) -> str:
    """Return the name under which a consumer is kept.

    Raises:
        InvalidArgument: it cannot be one.
    """
    check_kept_name(name)
    if maybe_parse(name) is not None:
        raise InvalidArgument(f"{name!r} is the name of a shard", "give the name before the # and the shard")
    return check_kept_name(name_of(name, shard))


def members(engine: Engine, name: str) -> list[str]:
    """Return the consumers of a subscription that have a checkpoint, by number; or the one that is named.

    Raises:
        SubscriptionNotFound: there is none.
    """
    check_kept_name(name)
    found = _members(engine, name)
    if not found:
        raise SubscriptionNotFound(name)
    return found


def _members(engine: Engine, name: str) -> list[str]:
    found: list[tuple[int, int, str]] = []
    for each in engine.checkpoint_names():
        if each == name:
            found.append((0, 0, each))
        elif each.startswith(name) and (parsed := maybe_parse(each)) is not None and parsed[0] == name:
            found.append((parsed[1].total, parsed[1].number, each))
    return [each for _, _, each in sorted(found)]


def acquire_one(engine: Engine, checkpoint: CheckpointStore) -> None:
    """Begin a run or a change, unless the subscription belongs to another store now."""
    checkpoint.acquire()
    try:
        standing = engine.standing
        if any(standing):
            from evlog.model.history import refusal

            raise refusal(engine.address, standing)
    except BaseException:  # also an interrupt: the lock must not stay taken
        checkpoint.release()
        raise


def acquire(
    engine: Engine, name: str, shard: Shard | None, first: Callable[[], Checkpoint]
) -> tuple[CheckpointStore, Checkpoint]:
    """Return a consumer's checkpoint, acquired, and what is in it; the checkpoints of all are there then.

    Args:
        first: returns what the first run of the name begins with.

    Raises:
        SubscriptionBusy: a consumer runs that must not run.
        ShardsApart: the number of consumers changes, and they are not level.
    """
    own = check_name(name, shard)
    targets = (
        [own] if shard is None else [name_of(name, Shard(k + 1, shard.total)) for k in range(shard.total)]
    )
    while True:
        if set(_members(engine, name)) != set(targets):
            lock = _lock(engine, name)
            try:
                _Change(engine, name, lock).run(targets, first)
            finally:
                lock.release()
        place = engine.checkpoint(own)
        if shard is None:
            acquire_one(engine, place)
        else:
            _acquire_shard(engine, name, place)
        try:
            known = place.load()
            if known is not None and set(_members(engine, name)) == set(targets):
                return place, known
        except BaseException:
            place.release()
            raise
        place.release()  # another number of consumers came in between


def _acquire_shard(engine: Engine, name: str, place: CheckpointStore) -> None:
    """Acquire a consumer's checkpoint; wait while another one holds it to make the checkpoints of all."""
    lock = engine.checkpoint(name)
    for _ in range(_ATTEMPTS):
        try:
            return acquire_one(engine, place)
        except SubscriptionBusy:
            if not lock.is_running():
                break
        time.sleep(_AGAIN_SECONDS)
    return acquire_one(engine, place)


class _Change:
    """A change of the consumers of a subscription, by a process that holds the lock of its name."""

    def __init__(self, engine: Engine, name: str, lock: CheckpointStore) -> None:
        self._engine = engine
        self._name = name
        self._lock = lock

    def run(self, targets: Sequence[str], first: Callable[[], Checkpoint]) -> None:
        """Make checkpoints for these consumers at the position of all others, then delete the others."""
        present = _members(self._engine, self._name)
        if set(present) == set(targets):
            return  # another run has done it
        places = ((each, self._engine.checkpoint(each).load()) for each in present)
        found = {each: known for each, known in places if known is not None}
        _check_level(self._name, {each: known.position for each, known in found.items()})
        begin = next(iter(found.values())) if found else first()
        leaving = [each for each in found if each not in targets]
        missing = [each for each in targets if each not in found]
        for each in missing:
            with self._held(each) as place:
                place.create(begin)
        try:
            self._check_ended(found, leaving)
        except (SubscriptionBusy, ShardsApart):
            self._delete(missing)
            raise
        self._move_parked(leaving, targets)
        self._delete(leaving)

    @contextmanager
    def _held(self, each: str) -> Iterator[CheckpointStore]:
        if each == self._name:
            yield self._lock
            return
        place = self._engine.checkpoint(each)
        acquire_one(self._engine, place)
        try:
            yield place
        finally:
            place.release()

    def _check_ended(self, found: dict[str, Checkpoint], leaving: Sequence[str]) -> None:
        """Raise SubscriptionBusy if a former consumer is running, ShardsApart if one has moved on."""
        positions = {each: known.position for each, known in found.items()}
        for each in leaving:
            with self._held(each) as place:  # acquired: it is not running, and cannot start any more
                known = place.load()
                positions[each] = 0 if known is None else known.position
        _check_level(self._name, positions)

    def _move_parked(self, leaving: Sequence[str], targets: Sequence[str]) -> None:
        """Move each event that a former consumer parked to the consumer that has its stream now."""
        parked = [event for each in leaving for event in self._engine.checkpoint(each).parked()]
        for number, each in enumerate(targets, 1):
            own = [event for event in parked if shard_of(event.stream, len(targets)) == number]
            with self._held(each) as place:
                _park(self._engine, place, own)

    def _delete(self, consumers: Sequence[str]) -> None:
        for each in consumers:
            with self._held(each) as place:
                place.delete()


def _check_level(name: str, positions: dict[str, int]) -> None:
    if len(set(positions.values())) > 1:
        raise ShardsApart(name, positions)


def _lock(engine: Engine, name: str) -> CheckpointStore:
    """Return the checkpoint of NAME, acquired; wait while another consumer makes checkpoints."""
    place = engine.checkpoint(name)
    for _ in range(_ATTEMPTS):
        try:
            acquire_one(engine, place)
        except SubscriptionBusy:
            if place.load() is not None:
                raise  # it runs
        else:
            return place
        time.sleep(_AGAIN_SECONDS)
    raise SubscriptionBusy(name)


def _park(engine: Engine, place: CheckpointStore, parked: Sequence[ParkedEvent]) -> None:
    for each in parked:
        for event in engine.read_all(LogSelection.at(each.position)):
            place.park(event, each.error, each.attempts)
