"""What a look at a store finds: findings, and the report that `evlog verify` prints.

A finding names what is not as it was written, where, and whether anything is lost by it. The kinds are part
of the command line's contract, so a new one is added, never renamed. Pure: plain values, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

# Kinds of findings. Those of what is derived lose nothing: `--repair` makes it anew.
MANIFEST: Final = "manifest"  # manifest.json is damaged, or says of a segment what is not true
MISSING: Final = "missing"  # a file is not there
EXTRA: Final = "extra"  # a file that nothing names
LENGTH: Final = "length"  # a file has another length than it must have
HEADER: Final = "header"  # a file does not begin as it must: damaged, or swapped
FRAME: Final = "frame"  # a frame of a log is damaged
RECORD: Final = "record"  # a record is not what it must be, though its frame's CRC holds
ORDER: Final = "order"  # positions do not rise, or times fall
VERSION: Final = "version"  # a stream's versions are not 1, 2, 3 …
ID: Final = "id"  # an id belongs to two events
INDEX: Final = "index"  # an index does not say what the log says
BLOCK: Final = "block"  # a block of a compressed log, or the table of them, is damaged
TAIL: Final = "tail"  # the log ends with what a crash left of an append that was never acknowledged
MARK: Final = "mark"  # `durable` does not say how far the log is synced
CHECKPOINT: Final = "checkpoint"  # a subscription's checkpoint is damaged or beyond the log
GONE: Final = "gone"  # what is left of compacted events is not what the log lacks
DIGEST: Final = "digest"  # history is not what it was when the digest was pinned
COMPACTED: Final = "compacted"  # the same, and a compaction explains it


# How much a finding matters.
DAMAGE: Final = "damage"  # a reader fails or is told something wrong, or something is lost
NOTE: Final = "note"  # nothing is lost: a crash or a copy leaves it, and evlog clears or rebuilds it


class Finding(NamedTuple):
    """One thing that is not as it must be; `file` is a path below the store, `severity` DAMAGE or NOTE."""

    kind: str
    severity: str
    file: str
    offset: int | None
    position: int | None
    detail: str


def damage(kind: str, file: str, offset: int | None, position: int | None, detail: str) -> Finding:
    """Return a finding that makes a report not ok."""
    return Finding(kind, DAMAGE, file, offset, position, detail)


def note(kind: str, file: str, offset: int | None, position: int | None, detail: str) -> Finding:
    """Return a finding by which nothing is lost."""
    return Finding(kind, NOTE, file, offset, position, detail)


class Loss(NamedTuple):
    """Events that are damaged beyond repair, as far as anything still knows of them.

    `events` is how many; `streams` has the versions that each stream lost, by its name, or by its hash
    ("#" and 16 hex digits) where no whole event tells the name. It is empty where nothing is known.
    """

    file: str
    first_position: int
    last_position: int
    events: int
    streams: Mapping[str, list[int]]


class VerifyReport(NamedTuple):
    """What `verify` looked at and what it found.

    `position` and `digest` are the head digest: of everything up to and with that position. `digest` is
    None where it was not asked for (quick), or where a log is not there to be hashed.
    """

    events: int
    segments: int
    bytes: int
    position: int
    digest: str | None
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no damage was found; notes may have been."""
        return all(finding.severity != DAMAGE for finding in self.findings)

    @property
    def head_digest(self) -> str | None:
        """The head digest as `POSITION:DIGEST`, to be pinned and given to `against` later."""
        return None if self.digest is None else f"{self.position}:{self.digest}"

    def as_object(self) -> dict[str, Any]:
        """The report as it is printed in a pipe."""
        return {
            "ok": self.ok,
            "events": self.events,
            "segments": self.segments,
            "bytes": self.bytes,
            "digest": self.head_digest,
            "findings": [finding._asdict() for finding in self.findings],
        }
