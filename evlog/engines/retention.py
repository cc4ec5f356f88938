"""Retention and redaction, for engines that keep policies as events and erase redacted content at once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

from evlog.decisions import policies as kept
from evlog.decisions import unread
from evlog.engine import Engine
from evlog.model.appends import AppendRequest
from evlog.model.events import JSON_CODE
from evlog.model.filters import LogSelection
from evlog.model.redaction import RedactionResult, encode_redaction
from evlog.model.retention import COMPACTIONS_STREAM, FINISHED_TYPE, REDACTIONS_STREAM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from evlog.model.checkpoints import Checkpoint
    from evlog.model.events import Event
    from evlog.model.filters import EventFilter


def check_subscriptions(
    known: Iterable[tuple[str, Checkpoint | None]],
    read_all: Callable[[LogSelection], Iterator[Event]],
    last_hidden: Mapping[str, int],
) -> None:
    """Raise SubscriptionBehind if a subscription has yet to read an event that a compaction would remove.

    Args:
        known: the subscriptions by name.
        last_hidden: of each stream, the position of the last event to be removed. All before it are, too.
    """
    last = max(last_hidden.values(), default=0)

    def find_last(after: int, filter: EventFilter) -> int:
        for event in read_all(LogSelection(after, last, filter, reverse=True)):
            if event.position <= last_hidden.get(event.stream, 0):
                return event.position
        return 0

    unread.check_subscriptions(known, last, find_last)


def finished_compaction(events: int, position: int) -> AppendRequest:
    """Return the append that records how many events a compaction removed, up to a position."""
    data = json.dumps({"events": events, "position": position}).encode()
    return AppendRequest.own(COMPACTIONS_STREAM, (FINISHED_TYPE, None, JSON_CODE, data, None))


class ErasingEngine(Engine, Protocol):
    """An engine that erases the content of redacted events where it is kept."""

    def erase(self) -> None:
        """Erase the content of every redacted event; durable when this returns."""


class KeepsPolicies:
    """The methods of an engine that keeps policies as events. A base class of engines, without state."""

    set_retention = kept.set_retention
    delete_stream = kept.delete_stream
    retention = kept.retention
    policies = kept.policies

    def redact(self: ErasingEngine, events: Sequence[Event], reason: str) -> RedactionResult:
        """Erase the content of these events, durably: for readers by the redaction, then where it is kept."""
        position = 0
        if events:
            request = AppendRequest.own(REDACTIONS_STREAM, encode_redaction(events, reason))
            (position,) = self.append(request).positions
        self.erase()
        return RedactionResult(tuple(event.position for event in events), (), position, erased=True)
