"""What clients sent, and what was acknowledged to them: no crash may contradict it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import evlog
from evlog import AppendResult, NewEvent
from evlog.model.encoding import encode_events
from evlog.model.events import Event
from evlog.store import EventStore
from tests.crash.model import Op

Append = tuple[str, list[NewEvent]]
Content = tuple[str, str, bytes, str, bytes, bytes]  # stream, type, id, content type, data, metadata


class Place(NamedTuple):
    position: int
    version: int
    content: Content


@dataclass
class Batch:
    """One append: what was sent, and where it is once it was acknowledged."""

    appends: Sequence[Append]
    results: Sequence[AppendResult] | None = None

    @functools.cached_property
    def contents(self) -> list[Content]:
        """The content of each event, as a read must return it."""
        rows = []
        for stream, events in self.appends:
            for event, (type, id, _, data, metadata) in zip(events, encode_events(events), strict=True):
                assert id is not None, "a test's events carry their ids, so that they can be sent again"
                rows.append((stream, type, id, event.content_type, data, metadata or b"{}"))
        return rows

    def places(self) -> list[Place]:
        """Return where each event is by its acknowledgement."""
        assert self.results is not None
        contents = iter(self.contents)
        return [
            Place(result.first_position + at, result.first_version + at, next(contents))
            for (_, events), result in zip(self.appends, self.results, strict=True)
            for at in range(len(events))
        ]


def content_of(event: Event) -> Content:
    return (event.stream, event.type, event.id_bytes, event.content_type, event.data, event[8] or b"{}")


class Notebook(Protocol):
    """Where notes stand among the operations on a disk: a test disk's world, or a recorded device."""

    mutex: threading.RLock

    def note(self, what: str, batch: int, /) -> None: ...


@dataclass
class History:
    """All batches of a test, in the order in which they were first sent."""

    world: Notebook
    batches: list[Batch] = field(default_factory=list)

    def send(self, store: EventStore, appends: Sequence[Append]) -> int:
        """Append, and note when it was sent and acknowledged; return the number of the batch."""
        number = self.sent(appends)
        self.acked(number, store.append_many(appends))
        return number

    def sent(self, appends: Sequence[Append]) -> int:
        with self.world.mutex:
            self.batches.append(Batch(appends))
            self.world.note("sent", len(self.batches) - 1)
            return len(self.batches) - 1

    def acked(self, number: int, results: Sequence[AppendResult]) -> None:
        self.batches[number].results = results
        self.world.note("acked", number)


@dataclass
class Knowledge:
    """What clients know at one moment: which batches they sent, which were acknowledged.

    `delivered`: how many events, from the first on, a follower was given. Of a subscription `handled` is the
    position of the last event that it was given, `parked` is how many were parked.
    """

    batches: list[Batch]
    sent: list[int] = field(default_factory=list)
    acked: list[int] = field(default_factory=list)
    created: bool = False
    delivered: int = 0
    handled: int = 0
    parked: int = 0

    def take_in(self, op: Op) -> None:
        if op.kind != "note":
            return
        if op.path == "created":
            self.created = True
        else:
            (self.sent if op.path == "sent" else self.acked).append(op.token)

    def acked_places(self) -> list[Place]:
        return [place for number in self.acked for place in self.batches[number].places()]


def all_known(batches: list[Batch]) -> Knowledge:
    """Return that all batches were sent, and that those with results were acknowledged."""
    acked = [number for number, batch in enumerate(batches) if batch.results is not None]
    return Knowledge(batches, list(range(len(batches))), acked, created=True)


def event(number: int, data: object = None, **more: object) -> NewEvent:
    """Return the test's event of this number; its id follows from the number."""
    return NewEvent(
        f"Type{number % 3}",
        {"n": number} if data is None else data,
        id=evlog.idempotency_id(f"event {number}"),
        tags=[f"t:{number % 5}"] if number % 4 else None,
        **more,  # type: ignore[arg-type]
    )
