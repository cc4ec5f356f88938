"""Takes events from a subscription, hands each on, and knows when to stop.

What has arrived is never kept back: events are gathered into one write only while the next one is at hand. No
checkpoint is saved while some are gathered, so what was not written is not taken for done.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from evlog.cli._support import console
from evlog.errors import EvlogError
from evlog.model.events import Event
from evlog.model.json_lines import encode_lines

if TYPE_CHECKING:
    import evlog
    from evlog.cli._support.live import LiveTable

_GATHERED: Final = 1000
_GATHERED_BYTES: Final = 256 * 1024


class End(Enum):
    """Why a delivery ended."""

    REACHED = "what was waited for came"
    IDLE = "nothing came for so long"
    HEAD = "there are no more"


class Goal(NamedTuple):
    """What is waited for: so many events, or an event of a type; None: nothing."""

    events: int | None = None
    until_type: str | None = None


class Sink(Protocol):
    """Where events go.

    Attributes:
        gathers: whether it keeps events until `flush`.
        undone: the first event that it took and has not dealt with, if it gathers.
    """

    gathers: bool

    @property
    def undone(self) -> Event | None: ...

    def take(self, event: Event) -> None:
        """Deal with an event, or keep it until `flush`."""

    def flush(self) -> None:
        """Deal with what was kept."""


class Printer:
    """Prints events: JSON lines, or rows of a table.

    Args:
        heading_first: show the names of the columns before there is a row: somebody waits.
    """

    gathers = True

    def __init__(self, table: LiveTable | None, *, heading_first: bool = False) -> None:
        self._table = table
        self._events: list[Event] = []
        self._bytes = 0
        if table is not None and heading_first:
            console.write_now(table.draw([]))

    @property
    def undone(self) -> Event | None:
        return self._events[0] if self._events else None

    def take(self, event: Event) -> None:
        self._events.append(event)
        self._bytes += len(event.data)
        if len(self._events) >= _GATHERED or self._bytes >= _GATHERED_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._events:
            form = self._table.draw if self._table else _as_lines
            console.write_now(form(self._events))
            self._events.clear()
            self._bytes = 0


def _as_lines(events: list[Event]) -> bytes:
    return b"".join(encode_lines(events))


def deliver(
    subscription: evlog.Subscription,
    sink: Sink,
    goal: Goal,
    *,
    after_version: int = 0,
    follow: bool,
    idle_seconds: float | None,
) -> End:
    """Hand on events until there is a reason to stop.

    Args:
        after_version: events of this version and below are left out.
        follow: wait for events to come; else the end of what is there is the end.
        idle_seconds: how long to wait for the next one; None: for ever.
    """
    try:
        return _deliver(
            subscription, sink, goal, after_version, End.IDLE if follow else End.HEAD, idle_seconds
        )
    except EvlogError:
        sink.flush()  # what came before the damage is whole
        raise


def _deliver(
    subscription: evlog.Subscription,
    sink: Sink,
    goal: Goal,
    after_version: int,
    end: End,
    idle_seconds: float | None,
) -> End:
    left = goal.events
    while True:
        event = subscription.next_event(idle_seconds)
        if event is None:
            return end
        while event is not None:
            if event.version > after_version:
                sink.take(event)
                left = left and left - 1
                if left == 0 or event.type == goal.until_type:
                    sink.flush()
                    subscription.acknowledge()
                    return End.REACHED
            event = subscription.next_at_hand() if sink.gathers else None
        sink.flush()
