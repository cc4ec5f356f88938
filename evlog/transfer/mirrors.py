"""Copying one store into another, on any two engines, exactly once. Read this first.

1. An identical mirror has the source's positions, so its own end says up to where the source was copied. A
   piece is appended only behind that end: nothing comes twice, and nothing is left out, whenever a run is
   killed. A restart asks the destination alone.
2. The destination keeps whose mirror it is, and refuses every other change until `cutover`.
3. A merge gives new positions, versions and times. Each of its appends also writes, into a stream of the
   store's own, up to which position of the source it came. Ids deduplicate what was there before.
4. Only one mirror at a time writes to a destination: it holds the lock of a subscription's name.
5. A cutover first marks the source as moved, which ends its appends, then copies the rest, then opens the
   destination. Killed in between, it is run again.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from evlog.errors import (
    InvalidArgument,
    MirrorBusy,
    MirrorConflict,
    MirrorLimit,
    SubscriptionBusy,
)
from evlog.model.events import JSON_CODE, SYSTEM_PREFIX
from evlog.model.filters import EVERYTHING
from evlog.model.history import Standing, refusal
from evlog.model.json_text import decode_json, encode_json
from evlog.model.named import NamedTuple
from evlog.model.retention import MIRRORED_TYPE
from evlog.store import EventStore, open
from evlog.transfer.compare import Comparison, compare, compare_merged
from evlog.transfer.pieces import PIECE_EVENTS, ReadAhead, read_pieces
from evlog.transfer.subscriptions import LOCK_NAME, copy_subscriptions

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from evlog.engine import CheckpointStore, Engine, Feed, Progress
    from evlog.model.history import HistoryPiece

    Store = EventStore | str | os.PathLike[str]

_OPEN: Final = Standing()
_SUBSCRIPTIONS_SECONDS: Final = 1.0  # how often a mirror that follows looks at the source's subscriptions
_MIRROR_STREAM: Final = "$$$mirror-"  # then the source's id: like a policy's, it keeps only its last event


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
    """positions without an event that is there or known as removed: damage that the source had"""
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

    A run that was killed is continued by the next. Each store may be an open one, or its path or URL. The
    destination is created if it is not there.

    Args:
        source: it is only read, except by `cutover`.
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
    after, engine = 0, source.engine
    head = engine.head()
    if destination is not None:
        after = Mirror(source, destination, merge=merge).begin(head)
    events = removed = 0
    for event in engine.read_all(after, head, EVERYTHING, reverse=False, limit=None):
        events += not (merge and event.stream.startswith(SYSTEM_PREFIX))
    if not merge:
        removed = sum(1 for _ in engine.read_removed(after, head))
    return MirrorPlan(after, head, events, removed, 0 if merge else len(engine.checkpoint_names()))


def promote(store: EventStore) -> None:
    """Let a mirror take appends by itself, where its source is lost; durable when this returns.

    A source that was cut over takes appends again, too: for when its new place is given up.

    Raises:
        InvalidArgument: it is neither. MirrorBusy: a mirror is writing to it.
    """
    engine = store.engine
    standing = engine.standing
    if standing == _OPEN:
        raise InvalidArgument(f"{engine.address} is not a mirror; it takes appends already")
    lock = _acquire_lock(engine)
    try:
        if not engine.change_standing(standing, _OPEN):
            raise MirrorBusy(engine.address)
    finally:
        lock.release()


def _acquire_lock(destination: Engine) -> CheckpointStore:
    lock = destination.checkpoint(LOCK_NAME)
    try:
        lock.acquire()
    except SubscriptionBusy:
        raise MirrorBusy(destination.address) from None
    return lock


class Mirror:
    """A mirror between two open stores: a context manager, which holds the destination's lock.

    Args:
        source, destination, merge: as `mirror`.
        piece_events: this many are appended at once, more only where one append at the source has more.

    Raises:
        InvalidArgument: both are the same store.
        MirrorBusy, MirrorConflict: as `mirror`; from entering it.
    """

    def __init__(
        self,
        source: EventStore,
        destination: EventStore,
        *,
        merge: bool = False,
        piece_events: int = PIECE_EVENTS,
    ) -> None:
        if source.engine.store_id == destination.engine.store_id:
            raise InvalidArgument("source and destination are the same store; name two")
        self._source: Engine = source.engine
        self._destination: Engine = destination.engine
        self._merge = merge
        self._piece_events = piece_events
        self._lock: CheckpointStore | None = None  # held while it is entered
        self._feed: Feed | None = None
        self._stopped = False  # set by any thread
        self._subscriptions_due = 0.0
        self._moved = False
        self._position = self._events = self._duplicates = self._removed = self._lost = 0
        self._subscriptions = 0

    def __enter__(self) -> Self:
        self._lock = _acquire_lock(self._destination)
        try:
            self._position = self._begin(claim=True)
            self._feed = self._source.follow(EVERYTHING)
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        feed, self._feed = self._feed, None
        lock, self._lock = self._lock, None
        if feed is not None:
            feed.close()
        if lock is not None:
            lock.release()

    @property
    def result(self) -> MirrorResult:
        """What was copied since this object was made."""
        return MirrorResult(
            self._position, self._events, self._duplicates, self._removed, self._lost, self._subscriptions
        )

    def stop(self) -> None:
        """End `copy` after the present piece, and `follow`; from any thread or signal handler."""
        self._stopped = True
        if (feed := self._feed) is not None:
            feed.wake()

    # --- where it begins

    def begin(self, head: int) -> int:
        """Return up to which position everything is copied; check that the rest up to `head` may be."""
        after = self._begin(claim=False)
        self._check_limits(after, head)
        return after

    def _begin(self, *, claim: bool) -> int:
        """Return up to which position of the source everything is copied.

        Args:
            claim: make an empty destination the source's mirror.
        """
        source, destination = self._source, self._destination
        standing, own = destination.standing, Standing(mirror_of=source.store_id)
        if self._merge:
            if standing != _OPEN:
                raise refusal(destination.address, standing)
            return self._merged_position()
        if source.standing.moved_to == destination.address and standing == _OPEN and destination.head():
            self._moved = True  # a cutover that has ended
            return destination.head()
        if standing.moved_to:
            raise refusal(destination.address, standing)
        if standing == _OPEN and not destination.head():
            if not claim:
                return 0
            if destination.change_standing(_OPEN, own, head=0):
                standing = own
        if standing != own:
            self._conflict(
                f"it is a mirror of store {standing.mirror_of}"
                if standing.mirror_of
                else "it holds other events",
                "use an empty destination, or --merge to append to it",
            )
        return self._check_end()

    def _check_end(self) -> int:
        """Return the end of the mirror, whose last event must be the source's."""
        source, destination = self._source, self._destination
        position = destination.head()
        last = next(destination.read_all(0, position, EVERYTHING, reverse=True, limit=1), None)
        if position > source.head() or (
            last is not None and source.find_ids([last.id_bytes]).get(last.id_bytes) != last.position
        ):
            self._conflict(
                f"its last event (position {position}) is not the source's",
                "use an empty destination; one of the two was restored from an older copy",
            )
        return position

    def _conflict(self, reason: str, advice: str) -> None:
        raise MirrorConflict(self._source.address, self._destination.address, reason, advice)

    def _merged_position(self) -> int:
        stream = _MIRROR_STREAM + self._source.store_id
        last = next(self._destination.read_stream(stream, 1, None, EVERYTHING, reverse=True, limit=1), None)
        if last is None:
            return 0
        position: int = decode_json(last.data.decode())["position"]
        if position > self._source.head():
            self._conflict(
                f"the source ends before position {position}, which was merged",
                "use another destination; the source was restored from an older copy",
            )
        return position

    # --- copying

    def copy(self, progress: Progress | None = None) -> MirrorResult:
        """Copy up to what is now the end of the source; durable when this returns.

        Args:
            progress: called after each piece with how many positions are copied, and how many there are.
        """
        end = self._entered().end()
        self._check_limits(self._position, end)
        self._copy_to(end, progress)
        self._copy_subscriptions()
        return self.result

    def copy_history(self, to: int, progress: Progress | None = None) -> MirrorResult:
        """Copy up to a position of the source, without its subscriptions; durable when this returns."""
        self._entered().end()
        self._check_limits(self._position, to)
        self._copy_to(to, progress)
        return self.result

    def follow(self, progress: Progress | None = None) -> MirrorResult:
        """Copy new events as they are committed at the source, until `stop`.

        Args:
            progress: as in `copy`; also called when there is nothing to copy any more, before it waits.
        """
        feed = self._entered()
        while not self._stopped:
            end = feed.committed(self._position)
            if end > self._position:
                self._copy_to(end, progress)
                continue
            if progress is not None:
                progress(self._position, self._position)
            self._copy_subscriptions(every_seconds=_SUBSCRIPTIONS_SECONDS)
            feed.wait(self._position, _SUBSCRIPTIONS_SECONDS)
        self._copy_subscriptions()
        return self.result

    def _entered(self) -> Feed:
        if self._feed is None:
            raise InvalidArgument("the mirror was not entered; use it in a with statement")
        return self._feed

    def _copy_to(self, end: int, progress: Progress | None) -> None:
        begin = self._position
        if end <= begin or self._moved:
            return
        piece_events = min(self._piece_events, self._most_events() or self._piece_events)
        pieces = read_pieces(self._source, begin, end, piece_events)
        if end - begin <= piece_events:
            for piece in pieces:
                self._append(piece)
        else:
            with ReadAhead(pieces) as ahead:
                for piece in ahead:
                    self._append(piece)
                    if progress is not None:
                        progress(self._position - begin, end - begin)
                    if self._stopped:
                        return
        if progress is not None:
            progress(end - begin, end - begin)

    def _append(self, piece: HistoryPiece) -> None:
        if self._has_limits():
            self._check_piece(piece)
        if self._merge:
            self._append_merged(piece)
        else:
            self._destination.append_history(piece)
            self._events += len(piece.events)
            self._removed += len(piece.removed)
            self._lost += piece.lost
        self._position = piece.end

    def _append_merged(self, piece: HistoryPiece) -> None:
        events = [event for event in piece.events if not event.stream.startswith(SYSTEM_PREFIX)]
        if not events:
            return
        data = encode_json({"source": self._source.store_id, "position": piece.end}).encode()
        done = self._destination.append(
            [*(event.stream for event in events), _MIRROR_STREAM + self._source.store_id],
            [
                *((event.type, event.id_bytes, event[6], event.data, event[8]) for event in events),
                (MIRRORED_TYPE, None, JSON_CODE, data, None),
            ],
            skip_known=True,
            system=True,
        )
        self._events += done.appended - 1
        self._duplicates += done.duplicate_count

    # --- limits

    def _most_events(self) -> int | None:
        """Return how many events of the source the destination takes in one append; None: any number."""
        most = self._destination.capabilities.max_append_events
        return most if most is None or not self._merge else most - 1  # a merge adds one of its own

    def _has_limits(self) -> bool:
        ours, theirs = self._source.capabilities, self._destination.capabilities
        return self._most_events() is not None or theirs.max_event_bytes < ours.max_event_bytes

    def _check_limits(self, after: int, to: int) -> None:
        """Raise, before anything is written, if an append of the source is over the destination's limit."""
        if self._has_limits():
            for piece in read_pieces(self._source, after, to):
                self._check_piece(piece)

    def _check_piece(self, piece: HistoryPiece) -> None:
        most, most_bytes = self._most_events(), self._destination.capabilities.max_event_bytes
        for event in piece.events:
            size = len(event.data) + len(event[8] or b"")
            if size > most_bytes:
                raise MirrorLimit(event.position, f"an event of {size} bytes", f"{most_bytes} bytes")
        for frame, count in Counter(piece.frames).items():
            if most is not None and count > most:
                raise MirrorLimit(frame, f"an append of {count} events", f"{most} events")

    # --- subscriptions

    def _copy_subscriptions(self, *, every_seconds: float = 0.0) -> None:
        if self._merge or self._moved or time.monotonic() < self._subscriptions_due:
            return
        self._subscriptions = copy_subscriptions(self._source, self._destination, self._position)
        self._subscriptions_due = time.monotonic() + every_seconds

    # --- comparing and moving

    def check(self, progress: Progress | None = None) -> Comparison:
        """Compare both stores, event by event, up to where the destination has come. Nothing is written.

        It does not need to be entered.
        """
        if self._merge:
            return compare_merged(self._source, self._destination, self._merged_position(), progress)
        return compare(self._source, self._destination, progress)

    def cut_over(self, progress: Progress | None = None) -> MirrorResult:
        """Move to the destination for good: end the source's appends, copy the rest, open the destination.

        Later writers of the source get StoreMoved with the destination's address. If it fails before the
        destination was opened, the source takes appends again; if it was killed, run it again.

        Raises:
            SubscriptionBusy: a named subscription of the source is running. Nothing was changed.
            StoreIsMirror, StoreMoved: the source is a mirror itself, or was moved elsewhere.
        """
        feed = self._entered()
        if self._merge:
            raise InvalidArgument("a merge cannot be cut over: its positions are others")
        if self._moved:
            return self.result
        source, destination = self._source, self._destination
        moved, own = Standing(moved_to=destination.address), Standing(mirror_of=source.store_id)
        self.copy(progress)
        with ExitStack() as held:
            for name in source.checkpoint_names():
                place = source.checkpoint(name)
                place.acquire()
                held.callback(place.release)
            if not (source.change_standing(_OPEN, moved) or source.change_standing(moved, moved)):
                raise refusal(source.address, source.standing)
            opening = False
            try:
                self._copy_to(feed.end(), progress)
                self._copy_subscriptions()
                opening = True
                if not destination.change_standing(own, _OPEN, head=self._position):
                    self._conflict("it was changed meanwhile", "run it again")
            except BaseException:
                if not opening:  # else it may have been opened
                    source.change_standing(moved, _OPEN)
                raise
            self._moved = True
        return self.result
