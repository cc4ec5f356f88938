"""Redacting events: a redaction is appended, and every reader applies it. A compaction erases the bytes."""

from __future__ import annotations

from evlog.model.appends import AppendRequest
from evlog.model.redaction import RedactionResult, encode_redaction
from evlog.model.retention import REDACTIONS_STREAM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from evlog.files.write.writer import Writer
    from evlog.model.events import Event


def redact(writer: Writer, events: Sequence[Event], reason: str) -> RedactionResult:
    """Append a redaction of these events; it and all earlier ones are durable when this returns."""
    if not events:
        writer.make_durable(writer.exclusively(lambda tail, _planner: tail.end_locked()))
        return RedactionResult((), (), 0, erased=False)
    event = encode_redaction(events, reason)
    (position,) = writer.append(AppendRequest.own(REDACTIONS_STREAM, event)).positions
    return RedactionResult(tuple(event[0] for event in events), (), position, erased=False)
