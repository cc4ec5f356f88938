"""Copying one store into another, on any two engines, exactly once. Read this first.

1. An identical mirror has the source's positions, so its own end says up to where the source was copied. A
   piece is appended only at that end, so nothing is copied twice or left out, whenever a run is killed. A run
   that continues needs only the destination to know where.
2. The destination records which store it is a mirror of, and refuses every other change until `cutover`. A
   fork is copied in the same way (`fork.py`), under an id of its own, so that neither continues the other.
3. A merge gives events new positions, versions and times. Each of its appends also writes, into a stream of
   the store's own, up to which position of the source it came. Events whose ids the destination knows are
   skipped.
4. Only one mirror at a time writes to a destination: it holds the lock of a subscription's name.
5. A cutover first marks the source as moved, which ends its appends, then copies the rest, then opens the
   destination. Killed in between, it is run again.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, closing
from operator import add
from typing import TYPE_CHECKING, Final

from evlog.errors import InvalidArgument, MirrorBusy, SubscriptionBusy, Unsupported
from evlog.model.arguments import check_functions, check_number
from evlog.model.filters import EVERYTHING, LogSelection
from evlog.model.history import Standing, refusal
from evlog.model.named import NamedTuple
from evlog.store import EventStore, open
from evlog.transfer.compare import is_merged
from evlog.transfer.pieces import PIECE_EVENTS, ReadAhead, read_pieces
from evlog.transfer.subscriptions import LOCK_NAME, copy_subscriptions
from evlog.transfer.targets import OPEN, Copied, IdenticalTarget, MergeTarget, refuse_mirrors_only

if TYPE_CHECKING:
    from typing import Self

    from evlog.engine import CheckpointStore, Engine, Feed, Progress
    from evlog.model.history import HistoryPiece
    from evlog.transfer.compare import Comparison

    Store = EventStore | str | os.PathLike[str]

_REST_SECONDS: Final = 1.0  # how often a mirror that follows looks at the source's subscriptions and removals


class MirrorPlan(NamedTuple):
    """What a mirror would copy."""

    after: int
    """the position of the source up to which everything was copied before"""
    position: int
    """the last position of the source"""
    events: int
    removed: int
    """removed events, whose ids are copied"""
    subscriptions: int


class MirrorResult(NamedTuple):
    """What a mirror has copied since it began."""

    position: int
    """the position of the source up to which everything is copied"""
    events: int
    duplicates: int
    """of a merge: events that were there already, with the same content"""
    removed: int
    """removed events, whose ids are known now"""
    lost: int
    """positions of events that are damaged at the source: neither readable nor known as removed"""
    subscriptions: int


def mirror(
    source: Store,
    destination: Store,
    *,
    merge: bool = False,
    cutover: bool = False,
    progress: Progress | None = None,
) -> MirrorResult:
    """Copy a store into another one, on any two engines, exactly once; durable when this returns.

    If a run was killed, the next one continues it. Each store may be an open one, or its path or URL. The
    destination is created if it does not exist.

    Args:
        source: is only read, except by `cutover`.
        destination: empty, or made by a mirror of the same source. It gets the same events, with their ids,
            versions, positions and times, the ids of removed events, policies and named subscriptions.
        merge: append to whatever the destination holds instead. Events get its positions, versions and
            times; those whose ids it knows are skipped.
        cutover: then move to the destination for good: the source takes no appends any more.
        progress: called with how many positions are copied, and how many there are.

    Raises:
        MirrorConflict: the destination holds other events. IdConflict: of a merge, an id with other content.
        MirrorBusy: another mirror writes to the destination.
        MirrorLimit: an append is over the destination's limit; it and what follows was not written.
        SubscriptionBusy: of a cutover: a named subscription of the source is running.
        Whatever reading the source and appending to the destination raises.
    """
    if merge and cutover:
        raise InvalidArgument("a merge cannot be cut over: its positions are others; leave one of them out")
    check_functions(progress=progress)
    with ExitStack() as stack:
        stores = []
        for store, create in ((source, False), (destination, True)):
            stores.append(
                store if isinstance(store, EventStore) else stack.enter_context(open(store, create=create))
            )
        run = stack.enter_context(Mirror(*stores, merge=merge))
        return run.cut_over(progress) if cutover else run.copy(progress)


def plan_mirror(source: EventStore, destination: EventStore | None, *, merge: bool = False) -> MirrorPlan:
    """Return what `mirror` would copy; nothing is written. Without a destination, a new one is meant."""
    after, engine = 0, engine_of("source", source)
    head = engine.head()
    if destination is not None:
        target = (MergeTarget if merge else IdenticalTarget)(engine, engine_of("destination", destination))
        after = target.begin(claim=False)
        target.check_limits(after, head)
        target.begin_range(after, head)
    events = removed = 0
    for event in engine.read_all(LogSelection(after, head)):
        events += not merge or is_merged(event)
    if not merge:
        removed = sum(1 for _ in engine.read_removed(after, head))
    return MirrorPlan(after, head, events, removed, 0 if merge else len(engine.checkpoint_names()))


def promote(store: EventStore) -> None:
    """Let a mirror take appends, for example because its source is lost; durable when this returns.

    A source that was cut over can be promoted, too, to return to it: it takes appends again.

    Raises:
        InvalidArgument: it is neither. StoreIsMirror: it is an unfinished fork.
        MirrorBusy: a mirror is writing to it.
    """
    engine = engine_of("store", store)
    standing = engine.standing
    if standing == OPEN:
        raise InvalidArgument(f"{engine.address} is not a mirror; it takes appends already")
    if standing.is_unfinished_fork:
        raise refusal(engine.address, standing)
    refuse_mirrors_only(engine)
    lock = acquire_lock(engine)
    try:
        if not engine.change_standing(standing, OPEN):
            raise MirrorBusy(engine.address)
    finally:
        lock.release()


def make_durable(engine: Engine, position: int) -> None:
    """Return once the events up to a position are durable: their writer may have been killed before that."""
    try:
        feed = engine.follow(EVERYTHING)
    except Unsupported:  # a topic of many partitions, where all that is there is durable
        return
    with closing(feed):
        feed.make_durable(position)


def engine_of(name: str, store: EventStore) -> Engine:
    """Return the engine of an open store, which the argument of this name must be."""
    if not isinstance(store, EventStore):
        raise InvalidArgument(f"{name} is {store!r:.80}; give an open store")
    return store.engine


def acquire_lock(destination: Engine) -> CheckpointStore:
    lock = destination.checkpoint(LOCK_NAME)
    try:
        lock.acquire()
    except SubscriptionBusy:
        raise MirrorBusy(destination.address) from None
    return lock


class Mirror:
    """A mirror between two open stores: a context manager that holds the destination's mirror lock.

    Args:
        source, destination, merge: as `mirror`.
        piece_events: at most this many events are appended at once, unless one append at the source has more.

    Raises:
        InvalidArgument: both are the same store.
        MirrorBusy, MirrorConflict: as `mirror`; from entering it.
    """

    _identical = IdenticalTarget

    def __init__(
        self,
        source: EventStore,
        destination: EventStore,
        *,
        merge: bool = False,
        piece_events: int = PIECE_EVENTS,
    ) -> None:
        piece_events = check_number("piece_events", piece_events)
        self._source = engine_of("source", source)
        self._destination = engine_of("destination", destination)
        if self._source.store_id == self._destination.store_id:
            raise InvalidArgument("source and destination are the same store, or a backup of it; name two")
        self._merge = merge
        self._target = (MergeTarget if merge else self._identical)(self._source, self._destination)
        self._piece_events = min(piece_events, self._target.most_events or piece_events)
        self._lock: CheckpointStore | None = None  # held while it is entered
        self._feed: Feed | None = None
        self._stopped = False  # set by any thread
        self._rest_due = 0.0  # when a mirror that follows copies what is not in events
        self._moved = False  # by a cutover that has ended
        self._position = self._subscriptions = 0
        self._copied = Copied()

    def __enter__(self) -> Self:
        self._lock = acquire_lock(self._destination)
        try:
            self._moved = self._has_moved()
            self._position = self._destination.head() if self._moved else self._target.begin(claim=True)
            make_durable(self._destination, self._destination.head())  # it is not copied again
            self._feed = self._source.follow(EVERYTHING)
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        feed, self._feed = self._feed, None
        lock, self._lock = self._lock, None
        if feed is not None:
            feed.close()
        if lock is not None:
            lock.release()

    def _has_moved(self) -> bool:
        moved_to = self._source.standing.moved_to
        opened = self._destination.standing == OPEN and self._destination.head() > 0
        return not self._merge and moved_to == self._destination.address and opened

    @property
    def result(self) -> MirrorResult:
        """What was copied since this object was made."""
        return MirrorResult(self._position, *self._copied, self._subscriptions)

    def stop(self) -> None:
        """End `copy` after the present piece, and `follow`; from any thread or signal handler."""
        self._stopped = True
        if (feed := self._feed) is not None:
            feed.wake()

    # --- copying

    def copy(self, progress: Progress | None = None) -> MirrorResult:
        """Copy up to what is now the end of the source; durable when this returns.

        Args:
            progress: called after each piece with how many positions are copied, and how many there are.
        """
        end = self._entered().end()
        self._target.check_limits(self._position, end)
        self._copy_to(end, progress)
        self._copy_rest()
        return self.result

    def copy_history(self, to: int, progress: Progress | None) -> MirrorResult:
        """Copy up to a position of the source, without its subscriptions; durable when this returns."""
        self._entered().end()
        self._target.check_limits(self._position, to)
        self._copy_to(to, progress)
        self._remove(is_following=False)
        return self.result

    def follow(self, progress: Progress | None = None) -> MirrorResult:
        """Copy new events as they are committed at the source, until `stop`.

        Args:
            progress: as in `copy`; also called when there is nothing to copy any more, before it waits.
        """
        feed = self._entered()
        while not (self._stopped or self._moved):
            end = feed.committed(self._position)
            is_behind = end > self._position
            if is_behind:
                self._copy_to(end, progress)
            elif progress is not None:
                progress(self._position, self._position)
            if time.monotonic() >= self._rest_due:
                self._copy_rest(is_following=True)
            if not is_behind:
                feed.wait(self._position, _REST_SECONDS)
        self._copy_rest()
        return self.result

    def _entered(self) -> Feed:
        if self._feed is None:
            raise InvalidArgument("the mirror was not entered; use it in a with statement")
        return self._feed

    def _copy_to(self, end: int, progress: Progress | None, *, may_stop: bool = True) -> None:
        begin = self._position
        if end <= begin or self._moved:
            return
        self._target.begin_range(begin, end)
        pieces = read_pieces(self._source, begin, end, self._piece_events)
        if end - begin <= self._piece_events:
            for piece in pieces:
                self._append(piece)
        else:
            with ReadAhead(pieces) as ahead:
                for piece in ahead:
                    self._append(piece)
                    if progress is not None:
                        progress(self._position - begin, end - begin)
                    if self._stopped and may_stop:
                        return
        if progress is not None:
            progress(end - begin, end - begin)

    def _append(self, piece: HistoryPiece) -> None:
        self._target.check_piece(piece)
        copied = self._target.append(piece)
        self._copied = Copied(*map(add, self._copied, copied))
        self._position = piece.end

    def _copy_rest(self, *, is_following: bool = False) -> None:
        """Copy what is not in events: which events were removed, and the subscriptions."""
        if self._merge or self._moved:
            return
        self._remove(is_following=is_following)
        self._subscriptions = copy_subscriptions(self._source, self._destination, self._position)
        self._rest_due = time.monotonic() + _REST_SECONDS

    def _remove(self, *, is_following: bool) -> None:
        removed = self._target.remove(self._position, is_following=is_following)
        self._copied = self._copied._replace(removed=self._copied.removed + removed)

    # --- comparing and moving

    def check(self, progress: Progress | None = None) -> Comparison:
        """Compare both stores, event by event, up to where the destination has come. Nothing is written.

        It does not need to be entered.
        """
        return self._target.compare(progress)

    def cut_over(self, progress: Progress | None = None) -> MirrorResult:
        """Move to the destination for good: end the source's appends, copy the rest, open the destination.

        Later writers of the source get StoreMoved with the destination's address. If it fails before the
        destination was opened, the source takes appends again; if it was killed, run it again.

        Raises:
            SubscriptionBusy: a named subscription of the source is running. Nothing was changed.
            StoreIsMirror, StoreMoved: the source is a mirror itself, or was moved elsewhere.
        """
        feed, source, destination = self._entered(), self._source, self._destination
        if self._merge:
            raise InvalidArgument("a merge cannot be cut over: its positions are others")
        if self._moved:
            return self.result
        refuse_mirrors_only(destination)
        for name in source.checkpoint_names():
            if source.checkpoint(name).is_running():
                raise SubscriptionBusy(name)
        self.copy(progress)
        if self._stopped:
            return self.result
        moved, own = Standing(moved_to=destination.address), Standing(mirror_of=source.store_id)
        if not (source.change_standing(OPEN, moved) or source.change_standing(moved, moved)):
            raise refusal(source.address, source.standing)
        opening = False
        try:
            with ExitStack() as held:
                for name in source.checkpoint_names():  # also one that has begun meanwhile
                    place = source.checkpoint(name)
                    place.acquire()
                    held.callback(place.release)
                end = feed.end()
                self._copy_to(end, progress, may_stop=False)
                self._copy_rest()
                opening = True
                if not destination.change_standing(own, OPEN, head=end):
                    self._target.conflict("it was promoted meanwhile", "use one of the two from here on")
        except BaseException:
            if not opening:  # else it may have been opened
                source.change_standing(moved, OPEN)
            raise
        self._moved = True
        return self.result
