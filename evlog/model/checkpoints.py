"""What a named subscription keeps: its filter, its place in the log, and the events that it parked."""

from __future__ import annotations

from evlog.errors import InvalidArgument
from evlog.model.events import maybe_name_fault, moment_of
from evlog.model.named import NamedTuple, set_late_types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from evlog.model.filters import EventFilter

MAX_KEPT_NAME_BYTES = 100  # of a subscription, or a snapshot


class Checkpoint(NamedTuple):
    """The place of a subscription in the log.

    Everything up to `position` is scanned. `event_id` is the id of the event at that position; a log in which
    this event is not at this position is not the log that was scanned (restored from a backup, for example).
    """

    position: int  # of an event; 0 before the first
    event_id: bytes | None  # None at position 0
    filter: EventFilter | None  # None: damaged and reset since; the next run sets it
    time_us: int = 0  # when it was saved, microseconds since 1970; set by the engine


class ParkedEvent(NamedTuple):
    """An event that was set aside because its handler failed: its place in the log, and the error.

    Attributes:
        error: the last error, as a text.
        attempts: how many times its handler was called.
        time_us: when it was parked, microseconds since 1970.
    """

    position: int
    stream: str
    version: int
    type: str
    id: UUID
    error: str
    attempts: int
    time_us: int

    @property
    def time(self) -> datetime:
        """When it was parked, in UTC."""
        return moment_of(self.time_us)


set_late_types(ParkedEvent, id='__import__("uuid").UUID')


def check_kept_name(name: str, kind: str = "subscription") -> str:
    """Return the name of a subscription or a snapshot, or raise InvalidArgument with what is wrong."""
    reason = maybe_name_fault(name, MAX_KEPT_NAME_BYTES)
    if reason is not None:
        raise InvalidArgument(
            f"{kind} name {name!r:.80} {reason}; use 1 to {MAX_KEPT_NAME_BYTES} bytes of printable UTF-8"
        )
    return name
