"""Takes events from a subscription, hands each on, and knows when to stop.

Events are gathered into one write only while the next one is ready without waiting, so none is delayed. No
checkpoint is saved while some are gathered, so an event that was not written is not acknowledged.
"""

from __future__ import annotations

from itertools import chain

from evlog.cli._support import console
from evlog.errors import EvlogError
from evlog.model.json_lines import encode_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Final, Protocol

    import evlog
    from evlog.cli._support.output import Form
    from evlog.cli._support.stops import Stops
    from evlog.model.events import Event

    class Sink(Protocol):
        """Where events go.

        Attributes:
            gathers: whether it keeps events until `flush`.
            undone: if it gathers, the first event that it took and has not handled.
        """

        gathers: bool

        @property
        def undone(self) -> Event | None: ...

        def take(self, events: Iterable[Event]) -> None:
            """Handle events, or keep them until `flush`."""

        def flush(self) -> None:
            """Handle the events that were kept."""


_GATHERED: Final = 1000
_GATHERED_BYTES: Final = 256 * 1024

# Why a delivery ended.
REACHED: Final = "what was waited for came"
IDLE: Final = "no event came for too long"
HEAD: Final = "there are no more events, or none that may be delivered"


class StopCondition:
    """The end that a delivery waits for: a number of events, events of certain types, a position, or nothing.

    Attributes:
        to: where the subscription ends.
        fail_types: an event of one of these ends it, too, as a failure.
        failed_by: that event, once it came.
        is_met: whether nothing more is waited for.
    """

    __slots__ = ("_missing", "count", "fail_types", "failed_by", "is_met", "to", "until_types")

    def __init__(
        self,
        count: int | None = None,
        until_types: Sequence[str] = (),
        fail_types: Sequence[str] = (),
        to: int | None = None,
    ) -> None:
        self.count = count
        self.until_types = tuple(until_types)
        self.fail_types = tuple(fail_types)
        self.to = to
        self.failed_by: Event | None = None
        self.is_met = False
        self._missing = count

    def __bool__(self) -> bool:
        return self.count is not None or self.to is not None or bool(self.until_types)

    def __str__(self) -> str:
        if self.until_types:
            return f"an event of type {' or '.join(map(repr, self.until_types))}"
        if self.count is None:
            return f"position {self.to}"
        return "one event" if self.count == 1 else f"{self.count} events"

    def until_met(self, events: Iterable[Event]) -> Iterator[Event]:
        """Iterate over the events, counting them, up to and including the one that meets the condition."""
        for event in events:
            yield event
            if event.type in self.fail_types:
                self.failed_by = event
            elif self._missing is not None:
                self._missing -= 1
            self.is_met = self.failed_by is event or self._missing == 0 or event.type in self.until_types
            if self.is_met:
                return


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
        if form is not None:
            console.write_now(form.heading() if heading_first else form.begin())

    @property
    def undone(self) -> Event | None:
        return self._events[0] if self._events else None

    def take(self, events: Iterable[Event]) -> None:
        gathered, size_bytes = self._events, 0
        for event in events:
            gathered.append(event)
            size_bytes += len(event[7])
            if size_bytes >= _GATHERED_BYTES or len(gathered) >= _GATHERED:
                self.flush()
                size_bytes = 0

    def flush(self) -> None:
        if self._events:
            console.write_now(self._draw(self._events))
            self._events.clear()


def _as_lines(events: Sequence[Event]) -> bytes:
    return b"".join(encode_lines(events))


def deliver(
    subscription: evlog.Subscription,
    sink: Sink,
    condition: StopCondition,
    stops: Stops,
    *,
    after_version: int,
    follow: bool,
    idle_seconds: float | None,
) -> str:
    """Hand on events until there is a reason to stop, and return it.

    Args:
        after_version: leave out events up to this version; 0: none.
        follow: wait for new events; else stop after the last one there is.
        idle_seconds: how long to wait for the next one; None: without a limit.
    """
    is_watching = bool(condition) or bool(condition.fail_types)
    try:
        while True:
            stops.waiting = True
            event = subscription.next_event(idle_seconds)
            stops.waiting = False
            if event is None:
                is_at_end = condition.to is not None and subscription.position >= condition.to
                return HEAD if is_at_end or not follow else IDLE
            events: Iterable[Event] = (event,)
            if sink.gathers:
                events = chain(events, subscription.events_at_hand())
            if after_version:
                events = (event for event in events if event.version > after_version)
            sink.take(condition.until_met(events) if is_watching else events)
            sink.flush()
            if condition.is_met:
                subscription.acknowledge()
                return REACHED
    except EvlogError:
        sink.flush()  # the events before the damage
        raise
    finally:
        stops.waiting = False
