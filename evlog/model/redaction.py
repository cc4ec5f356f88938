"""Redactions: which events were erased, when and why; and the record that stays in an event's place. Pure.

A redaction is an event of type `$Redacted` in the stream `$redactions`:

    {"events":[{"position":17,"id":"0193…","digest":"9f86…"}],"reason":"request 881"}

1. From then on each of these events is read as its redacted record: position, version, stream, type, id and
   time as before, the data `null`, and as metadata `{"$redacted":"DIGEST"}`. Tags are in the metadata, too.
2. The digest is the SHA-256 of the record before. The head digest of a log is made of such digests, so it
   stays the same when events are redacted, and nothing else can change unnoticed.
3. What is read is the same before and after the bytes are erased: by a compaction, or at once on a server.
4. No user writes `$redacted`: metadata that is given with that name is refused.
"""

from __future__ import annotations

from evlog.errors import InvalidArgument
from evlog.model.events import JSON_CODE, REDACTED_BEGIN, id_text, maybe_name_fault, moment_of
from evlog.model.named import NamedTuple
from evlog.model.retention import REDACTED_TYPE, REDACTIONS_STREAM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from typing import Any, Final

    from evlog.model.events import EncodedEvent, Event, Record


_DATA: Final = b"null"
_DIGEST_CHARACTERS: Final = 64
_MAX_REASON_CHARACTERS: Final = 1000
MAX_EVENTS: Final = 100_000  # in one redaction


class Redaction(NamedTuple):
    """One redaction: the events that it erased, when and why."""

    position: int
    """of the event that says so"""
    time_us: int
    """of that event, µs since 1970"""
    reason: str
    events: tuple[tuple[int, bytes, str], ...]
    """position, id and digest of each erased event"""

    @property
    def positions(self) -> tuple[int, ...]:
        """The positions of the erased events."""
        return tuple(position for position, _, _ in self.events)

    @property
    def time(self) -> datetime:
        """When it was made, in UTC."""
        return moment_of(self.time_us)

    def as_object(self) -> dict[str, Any]:
        """Return it as it is printed in a pipe."""
        return {
            "position": self.position,
            "time": self.time.isoformat().replace("+00:00", "Z"),
            "reason": self.reason,
            "redacted": self.positions,
        }


class RedactionResult(NamedTuple):
    """What `redact` did."""

    redacted: tuple[int, ...]
    """the positions of the events that it redacted"""
    already: tuple[int, ...]
    """of those that were redacted before"""
    position: int
    """of the event that says so; 0 if nothing was left to redact"""
    erased: bool
    """whether the bytes are erased for certain; if not, `compact` erases those that are still there"""
    snapshots: tuple[str, ...] = ()
    """names of snapshots that may have held what was erased, and were deleted"""


def check_reason(reason: str) -> str:
    """Return the reason, or raise InvalidArgument."""
    if not isinstance(reason, str) or not reason.strip():
        raise InvalidArgument("a redaction needs a reason; give a text that says why, without personal data")
    if len(reason) > _MAX_REASON_CHARACTERS:
        raise InvalidArgument(f"the reason is longer than {_MAX_REASON_CHARACTERS} characters; shorten it")
    fault = maybe_name_fault(reason, 4 * _MAX_REASON_CHARACTERS)
    if fault is not None:
        raise InvalidArgument(f"the reason {fault}; give one line of text")
    return reason


def since(redactions: Iterable[Redaction], position: int) -> tuple[Redaction, ...]:
    """Return the redactions of events up to a position that were made after the event there was written."""
    return tuple(
        redaction._replace(events=events)
        for redaction in redactions
        if redaction.position > position
        and (events := tuple(event for event in redaction.events if event[0] <= position))
    )


def unnamed(redacted: Iterable[int], redactions: Iterable[Redaction]) -> list[int]:
    """Return those of the positions of redacted events that no redaction names."""
    named = {position for redaction in redactions for position in redaction.positions}
    return [position for position in redacted if position not in named]


# --- as an event


def encode_redaction(events: Iterable[Event], reason: str) -> EncodedEvent:
    """Return the event that redacts these events."""
    import json

    named = [
        {"position": event[0], "id": id_text(event[4]), "digest": record_digest(event)} for event in events
    ]
    data = json.dumps({"events": named, "reason": reason}, ensure_ascii=False, separators=(",", ":"))
    return (REDACTED_TYPE, None, JSON_CODE, data.encode(), None)


def maybe_decode_redaction(record: Record) -> Redaction | None:
    """Return the redaction that an event makes; None if it makes none, as nothing of evlog writes it."""
    import json

    if record[2] != REDACTIONS_STREAM or record[3] != REDACTED_TYPE:
        return None
    try:
        document = json.loads(record[7])
        events = tuple(
            (int(each["position"]), bytes.fromhex(each["id"].replace("-", "")), str(each["digest"]))
            for each in document["events"]
        )
        return Redaction(record[0], record[5], str(document["reason"]), events)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


# --- the record in an event's place


def is_redacted(record: Sequence[Any]) -> bool:
    """Return whether a record is one that stays in a redacted event's place."""
    metadata = record[8]
    return metadata is not None and metadata.startswith(REDACTED_BEGIN)


def redacted_record(record: Record, digest: str) -> Record:
    """Return what stays of a record; the same if it was redacted before."""
    if is_redacted(record):
        return record
    return (*record[:6], JSON_CODE, _DATA, b'%b%b"}' % (REDACTED_BEGIN, digest.encode()))


def record_digest(record: Record | Event) -> str:
    """Return the SHA-256 of a record in hex, and of a redacted one that of the record before."""
    if is_redacted(record):
        return digest_in(record[8] or b"")
    from hashlib import sha256

    from msgpack import packb

    return sha256(packb(tuple(record))).hexdigest()


def digest_in(metadata: bytes) -> str:
    """Return the digest in the metadata of a redacted event."""
    return metadata[len(REDACTED_BEGIN) : len(REDACTED_BEGIN) + _DIGEST_CHARACTERS].decode("ascii", "replace")


class Redacted:
    """The redacted events of a store, and their records as readers get them. Immutable."""

    def __init__(self, redactions: Iterable[Redaction]) -> None:
        self._digests = {place: digest for redaction in redactions for place, _, digest in redaction.events}
        self._first = min(self._digests, default=1)
        self._last = max(self._digests, default=0)

    def __contains__(self, position: int) -> bool:
        return position in self._digests

    def within(self, first: int, last: int) -> list[int]:
        """Return the positions between two others, inclusive, rising."""
        if last < self._first or first > self._last:
            return []
        return sorted(position for position in self._digests if first <= position <= last)

    def record(self, record: Record) -> Record:
        """Return a record as readers get it."""
        digest = self._digests.get(record[0])
        return record if digest is None else redacted_record(record, digest)

    def records(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return records as readers get them."""
        digests = self._digests
        if digests.keys().isdisjoint([record[0] for record in records]):
            return records
        return [self.record(record) for record in records]
