"""A store of its own that begins with another one's history: for trying things out.

A fork is copied as a mirror is, and then opened. Until it is opened, it is a mirror of `fork_id`, which no
mirror continues and no promotion opens. A fork that is killed before that continues when it is run again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evlog.errors import InvalidArgument
from evlog.model.arguments import check_functions, maybe_number
from evlog.model.events import Event, make_ids
from evlog.model.history import HistoryPiece
from evlog.model.named import NamedTuple
from evlog.model.redaction import encode_redaction, since
from evlog.model.retention import REDACTIONS_STREAM
from evlog.store import EventStore
from evlog.transfer.compare import event_at
from evlog.transfer.mirrors import Mirror, engine_of
from evlog.transfer.targets import OPEN, ForkTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from evlog.engine import Progress
    from evlog.model.redaction import Redaction


class ForkResult(NamedTuple):
    """What a fork begins with."""

    id: str
    """its own store id"""
    position: int
    """the last position that it has of the source"""
    events: int
    """copied by this run"""


def fork(
    source: EventStore, destination: EventStore, *, at: int | None = None, progress: Progress | None = None
) -> ForkResult:
    """Copy a store's history up to a position into a new store; durable when this returns.

    Events keep their ids, versions, positions and times; policies and the ids of removed events are copied,
    named subscriptions are not. If an append goes beyond `at`, its events up to there are copied. Both
    stores go their own ways from then on. Killed before its end, it is run again with the same arguments.

    Args:
        source: is only read.
        destination: an empty store, or one that a killed fork of the same source left.
        at: the last position to copy; None: all that is there now.
        progress: called with how many positions are copied, and how many there are.

    Raises:
        InvalidArgument: the source does not reach `at`, or both are the same store.
        MirrorConflict: the destination holds events of its own, is a mirror, or a fork of another store.
        MirrorBusy, MirrorLimit: as `mirror`.
    """
    check_functions(progress=progress)
    to = last_position(source, at)
    with _Copying(source, destination) as copying:
        copying.open_at(to, source.redactions, progress)
    return ForkResult(destination.engine.store_id, to, copying.result.events)


class _Copying(Mirror):
    """The copying of a fork."""

    _identical = ForkTarget

    def open_at(
        self, to: int, redactions: Callable[[], Iterable[Redaction]], progress: Progress | None
    ) -> None:
        """Copy up to a position, and let the destination take appends; durable when this returns.

        Args:
            redactions: returns the source's redactions; called after the events are copied, because more may
                be made meanwhile.
        """
        if self._position > to:
            self._target.conflict(f"it goes beyond position {to}", "fork into a new directory")
        redacted = self._destination.head() - self._position  # by a run that was killed
        if self._position < to and redacted:
            reason = f"it was forked up to position {self._position}"
            self._target.conflict(reason, "fork up to there again, or into a new directory")
        self.copy_history(to, progress)
        self._redact(since(redactions(), to), to, redacted)
        if not self._destination.change_standing(self._target.standing, OPEN):
            self._target.conflict("it was opened meanwhile", "fork into a new directory")

    def _redact(self, redactions: Iterable[Redaction], to: int, done: int) -> None:
        """Redact what was redacted at the source after the copied history, before the content can be used.

        Args:
            done: how many of the redactions are there already.
        """
        engine, id = self._destination, self._target.source_id
        version = engine.versions([REDACTIONS_STREAM])[0]
        position = to + done
        for redaction in redactions:
            there = [event for place in redaction.positions if (event := event_at(engine, place))]
            if not engine.capabilities.redaction and any(not event.redacted for event in there):
                self._target.refuse_redaction(redaction.position)  # it was made during the copying
            if there and done:
                done -= 1
            elif there:
                version, position = version + 1, position + 1
                type, _, code, *content = encode_redaction(there, redaction.reason)
                place = (position, version, REDACTIONS_STREAM, type, make_ids(1)[0], redaction.time_us)
                event = Event((*place, code, *content))
                engine.append_history(HistoryPiece(id, position - 1, position, [event], [position]))
        if position > to:
            engine.remove_history(id, [])  # erases the bytes

    def _has_moved(self) -> bool:
        """Return False: a fork never opens what its source has moved to."""
        return False


def last_position(source: EventStore, at: int | None) -> int:
    """Return the last position to copy.

    Raises:
        InvalidArgument: the source does not reach `at`.
    """
    at = maybe_number("at", at)
    head = engine_of("source", source).head()
    if at is None:
        return head
    if at > head:
        raise InvalidArgument(f"position {at} is beyond the log's end, {head}; give {head} at most")
    return at
