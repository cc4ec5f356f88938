"""The kinds of findings, and how to make one. Pure.

1. DAMAGE: an event or an id is lost, a reader fails, or a reader gets a wrong answer.
2. NOTE: nothing is lost. A crash or a copy leaves it, and evlog clears or rebuilds it; or a foreign file.
3. The kinds are part of the command line's contract: a new one is added, none is renamed.
4. A detail says what is wrong and what that costs; the command line adds what to do.
"""

from __future__ import annotations

from typing import Final

from evlog.model.reports import DAMAGE, NOTE, Finding

MANIFEST: Final = "manifest"  # manifest.json is damaged, or says of a segment what is not true
MISSING: Final = "missing"  # a file is missing
EXTRA: Final = "extra"  # a file that the manifest does not name
LENGTH: Final = "length"  # a file does not have the length that it must have
HEADER: Final = "header"  # a file's header is damaged, or another file's
FRAME: Final = "frame"  # a frame of a log is damaged
RECORD: Final = "record"  # a record makes no sense, though its frame's CRC holds
ORDER: Final = "order"  # positions do not rise, or times fall
VERSION: Final = "version"  # a stream's versions do not rise by one
ID: Final = "id"  # an id belongs to two events
INDEX: Final = "index"  # an index does not say what the log says
BLOCK: Final = "block"  # a block of a compressed log, or the table of them, is damaged
TAIL: Final = "tail"  # a torn tail: a part of an append that was never acknowledged
MARK: Final = "mark"  # `durable` does not say how far the log is synced
CHECKPOINT: Final = "checkpoint"  # a subscription's checkpoint is damaged, or of another log
SNAPSHOT: Final = "snapshot"  # a snapshot is damaged; the next fold rebuilds it
GONE: Final = "gone"  # the removed events are not the ones that the log lacks
REDACTED: Final = "redacted"  # what is in a redacted event's place does not fit its redaction
DIGEST: Final = "digest"  # history changed since the digest was pinned
COMPACTED: Final = "compacted"  # the same, and a compaction explains it

DERIVED: Final = "it is derived, nothing is lost"


def torn_tail(size: int) -> str:
    """Return the detail of a torn tail."""
    return f"{size} bytes of an append that was never acknowledged; the next writer cuts them"


def damage(kind: str, file: str, offset: int | None, position: int | None, detail: str) -> Finding:
    """Return a finding that makes a report not ok."""
    return Finding(kind, DAMAGE, file, offset, position, detail)


def note(kind: str, file: str, offset: int | None, position: int | None, detail: str) -> Finding:
    """Return a finding by which nothing is lost."""
    return Finding(kind, NOTE, file, offset, position, detail)
