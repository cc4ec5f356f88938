"""Retention and redaction, for engines that keep policies as events and erase redacted content at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from evlog.decisions import policies as kept
from evlog.engine import Engine
from evlog.model.appends import AppendRequest
from evlog.model.redaction import RedactionResult, encode_redaction
from evlog.model.retention import REDACTIONS_STREAM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evlog.model.events import Event


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
