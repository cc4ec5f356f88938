"""Takes events from a subscription, hands each on, and knows when to stop.

What has arrived is never kept back: events are gathered into one write only while the next one is at hand. No
checkpoint is saved while some are gathered, so an event that was not written is not acknowledged.
"""

from __future__ import annotations

from evlog.cli._support import console
from evlog.errors import EvlogError
from evlog.model.json_lines import encode_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final, Protocol

    import evlog
    from evlog.cli._support.output import Form
    from evlog.cli._support.stops import Stops
    from evlog.model.events import Event

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


_GATHERED: Final = 1000
_GATHERED_BYTES: Final = 256 * 1024

# Why a delivery ended.
REACHED: Final = "what was waited for came"
IDLE: Final = "no event came for too long"
HEAD: Final = "there are no more events"


class StopCondition:
    """What a delivery waits for: a number of events, or an event of one of some types; neither: nothing.

    Attributes:
        fail_types: an event of one of these ends it, too, as a failure.
        failed_by: that event, once it came.
    """

    __slots__ = ("_missing", "count", "fail_types", "failed_by", "until_types")

    def __init__(
        self, count: int | None = None, until_types: Sequence[str] = (), fail_types: Sequence[str] = ()
    ) -> None:
        self.count = count
        self.until_types = tuple(until_types)
        self.fail_types = tuple(fail_types)
        self.failed_by: Event | None = None
        self._missing = count

    def __bool__(self) -> bool:
        return self.count is not None or bool(self.until_types)

    def __str__(self) -> str:
        if self.until_types:
            return f"an event of type {' or '.join(map(repr, self.until_types))}"
        return "one event" if self.count == 1 else f"{self.count} events"

    def is_met_by(self, event: Event) -> bool:
        """Count an event, and return whether nothing more is waited for."""
        if event.type in self.fail_types:
            self.failed_by = event
            return True
        if self._missing is not None:
            self._missing -= 1
        return self._missing == 0 or event.type in self.until_types


class Printer:
    """Prints events.

    Args:
        form: what draws them; None: JSON lines.
        heading_first: print the names of a table's columns before there is a row, for a user who waits.
    """

    gathers = True

    def __init__(self, form: Form | None, *, heading_first: bool = False) -> None:
        self._draw = _as_lines if form is None else form.draw
        self._events: list[Event] = []
        self._bytes = 0
        if form is not None:
            console.write_now(form.heading() if heading_first else form.begin())

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
            console.write_now(self._draw(self._events))
            self._events.clear()
            self._bytes = 0


def _as_lines(events: Sequence[Event]) -> bytes:
    return b"".join(encode_lines(events))


def deliver(
    subscription: evlog.Subscription,
    sink: Sink,
    condition: StopCondition,
    stops: Stops,
    *,
    after_version: int = 0,
    follow: bool,
    idle_seconds: float | None,
) -> str:
    """Hand on events until there is a reason to stop, and return it.

    Args:
        after_version: events of this version and below are left out.
        follow: wait for new events; else stop after the last one there is.
        idle_seconds: how long to wait for the next one; None: without a limit.
    """
    try:
        while True:
            stops.waiting = True
            event = subscription.next_event(idle_seconds)
            stops.waiting = False
            if event is None:
                return IDLE if follow else HEAD
            while event is not None:
                if event.version > after_version:
                    sink.take(event)
                    if condition.is_met_by(event):
                        sink.flush()
                        subscription.acknowledge()
                        return REACHED
                event = subscription.next_at_hand() if sink.gathers else None
            sink.flush()
    except EvlogError:
        sink.flush()  # the events before the damage
        raise
    finally:
        stops.waiting = False
