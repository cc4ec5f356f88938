"""What a store reports of itself: its streams, sizes and policies, and what verify and compact did.

Every engine returns these values; they are imported only by the commands that need them.
"""

from __future__ import annotations

from evlog.model.events import moment_of
from evlog.model.named import NamedTuple, set_late_types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta
    from typing import Any, Final
    from uuid import UUID

    from evlog.model.redaction import Redaction
    from evlog.model.retention import Rule

# How much a finding matters.
DAMAGE: Final = "damage"  # something is lost, or a reader fails or gets a wrong answer
NOTE: Final = "note"  # nothing is lost: a crash or a copy leaves it, and evlog clears or rebuilds it


class Retention(NamedTuple):
    """What is kept of a stream, or of every stream of a category.

    Attributes:
        max_count: how many of the last events stay visible; None: all.
        max_age_seconds: for how long an event stays visible; None: without a limit.
        before: the first version that stays visible; 1: all do.
        deleted: whether the stream was deleted, and nothing was appended since.
        tombstone: whether nothing may be appended to it ever again.
    """

    max_count: int | None = None
    max_age_seconds: int | None = None
    before: int = 1
    deleted: bool = False
    tombstone: bool = False

    @property
    def max_age(self) -> timedelta | None:
        """`max_age_seconds` as a timedelta."""
        from datetime import timedelta

        return None if self.max_age_seconds is None else timedelta(seconds=self.max_age_seconds)


def retention_of(rule: Rule | None, last_version: int) -> Retention:
    """Return the rule as users see it, for a stream with this last version."""
    if rule is None:
        return Retention()
    max_age_seconds = None if rule.max_age_us is None else rule.max_age_us // 1_000_000
    before = max(rule.truncate_before, rule.deleted + 1)
    return Retention(rule.max_count, max_age_seconds, before, rule.is_deleted(last_version), rule.tombstone)


class StreamInfo(NamedTuple):
    """One stream: how many events it has, its first and last version, and when the last was written.

    Attributes:
        events: how many are visible.
        first_version: of the visible ones; if none is visible, the version after `last_version`.
        last_version: of the stream, visible or not.
        last_time_us: when the last event was written, microseconds since 1970.
        retention: what was set for the stream or its category; None if nothing was.
    """

    stream: str
    events: int
    first_version: int
    last_version: int
    last_time_us: int
    retention: Retention | None = None

    @property
    def name(self) -> str:
        """The same as `stream`: its name in version 0.1.0."""
        return self.stream

    @property
    def last_time(self) -> datetime:
        """When its last event was written, UTC."""
        return moment_of(self.last_time_us)


class StoreInfo(NamedTuple):
    """A store in numbers; positions are 0 and times None while it is empty.

    Attributes:
        path: the directory, or the URL without a password.
        format: the version of the format of its files.
        events: as many as `read_all` gives, so hidden events count.
        streams: how many exist; deleted ones do not.
        bytes: of all files.
        first_time, last_time: when the first and the last event were written, UTC.
        policies: for how many streams and categories something is set, other than a deletion.
        compressed_segments: segments whose logs are compressed.
        saved_bytes: by how much these logs are smaller than before.
        clock_ahead_seconds: by how much the last event's time is ahead of the clock; 0 if it is not. Every
            later event gets at least that time, because time never decreases.
    """

    path: str
    id: UUID
    format: int
    events: int
    streams: int
    bytes: int
    segments: int
    first_position: int
    last_position: int
    first_time: datetime | None
    last_time: datetime | None
    policies: int
    deleted_streams: int
    compressed_segments: int = 0
    saved_bytes: int = 0
    clock_ahead_seconds: float = 0.0


_TIME = '__import__("datetime").datetime | None'
set_late_types(StoreInfo, id='__import__("uuid").UUID', first_time=_TIME, last_time=_TIME)


class PolicyInfo(NamedTuple):
    """What is kept of one stream, or of the streams of one category: one of the names is None."""

    stream: str | None
    category: str | None
    retention: Retention


class TornTail(NamedTuple):
    """The end of a log that was cut: an append that was never acknowledged.

    Attributes:
        path: of the log.
        offset: where it was cut, in bytes.
        cut_bytes: how many bytes were removed.
    """

    path: str
    offset: int
    cut_bytes: int


class Finding(NamedTuple):
    """One thing that is not as it must be.

    Attributes:
        kind: a word for it, such as "tail"; programs may depend on it.
        severity: DAMAGE or NOTE.
        file: a path below the store.
        offset: in the file, in bytes; None: the file as a whole.
        position: of the event; None: no single event.
        detail: a sentence.
    """

    kind: str
    severity: str
    file: str
    offset: int | None
    position: int | None
    detail: str


class Loss(NamedTuple):
    """Events that are damaged beyond repair, as far as undamaged files tell.

    `events` is how many; `streams` has the versions that each stream lost, by its name, or by its hash
    ("#" and 16 hex digits) where no whole event tells the name. It is empty where nothing is known.
    """

    file: str
    first_position: int
    last_position: int
    events: int
    streams: Mapping[str, list[int]]


set_late_types(Loss, streams='__import__("collections.abc").abc.Mapping[str, list[int]]')


class VerifyReport(NamedTuple):
    """What `verify` looked at and what it found.

    `digest` is `POSITION:SHA256`, of everything up to and including `position`, to be pinned and given to
    `against` later. It is None after a quick check, and if a log is missing.
    """

    events: int
    """with those of the store's own"""
    segments: int
    bytes: int
    position: int
    digest: str | None
    findings: tuple[Finding, ...]
    redactions: tuple[Redaction, ...] | None = None
    """with `against`: later redactions of events up to that position"""

    @property
    def ok(self) -> bool:
        """Whether no damage was found; notes may have been."""
        return all(finding.severity != DAMAGE for finding in self.findings)

    def as_object(self) -> dict[str, Any]:
        """Return the report as it is printed in a pipe."""
        return {
            "ok": self.ok,
            "events": self.events,
            "segments": self.segments,
            "bytes": self.bytes,
            "digest": self.digest,
            "findings": [finding._asdict() for finding in self.findings],
        } | (
            {}
            if self.redactions is None
            else {"redactions": [redaction.as_object() for redaction in self.redactions]}
        )


set_late_types(VerifyReport, redactions='tuple[__import__("evlog").Redaction, ...] | None')


class Backup(NamedTuple):
    """What a backup holds, and what this run did for it.

    Attributes:
        position: the last one in the copy.
        bytes: of all files of the copy.
        copied_bytes: of files that this run copied.
        linked_bytes: of files to which this run gave a second name: source and copy share them.
        findings: of the check of the copy.
    """

    position: int
    events: int
    bytes: int
    copied_bytes: int
    linked_bytes: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no damage was found in the copy; notes may have been."""
        return all(finding.severity != DAMAGE for finding in self.findings)

    def as_object(self) -> dict[str, Any]:
        """Return the report as it is printed in a pipe."""
        return {"ok": self.ok} | self._asdict() | {"findings": [found._asdict() for found in self.findings]}


class Removal(NamedTuple):
    """What a rule removes of one stream: how many events, and their bytes in the log."""

    rule: dict[str, Any]
    stream: str
    events: int
    bytes: int


set_late_types(Removal, rule='dict[str, __import__("typing").Any]')


class Compaction(NamedTuple):
    """What a compaction did, or with `dry_run` would do.

    Attributes:
        position: the last position that it looked at.
        removals: of a dry run: what would be removed of each stream, most events first. Else empty.
        bytes_before, bytes_after: of all files of segments; `bytes_after` is 0 in a dry run.
        resumed: whether it continued one that was interrupted.
        segments_compressed: how many logs were compressed, or would be.
        uncompressed_bytes, compressed_bytes: of these logs, before and after; estimated in a dry run.
        events_erased: redacted events whose content was removed from the files.
    """

    position: int
    removals: list[Removal]
    events_removed: int
    segments_before: int
    segments_after: int
    bytes_before: int
    bytes_after: int
    resumed: bool
    segments_compressed: int = 0
    uncompressed_bytes: int = 0
    compressed_bytes: int = 0
    events_erased: int = 0
