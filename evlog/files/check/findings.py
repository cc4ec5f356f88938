"""What a look at a store finds: findings, and the report that `evlog verify` prints.

A finding names what is not as it was written, where, and whether anything is lost by it. The kinds are part
of the command line's contract, so a new one is added, never renamed. Pure: plain values, no I/O.
"""

from __future__ import annotations

from typing import Final

from evlog.model.reports import DAMAGE, NOTE, Finding

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


def damage(kind: str, file: str, offset: int | None, position: int | None, detail: str) -> Finding:
    """Return a finding that makes a report not ok."""
    return Finding(kind, DAMAGE, file, offset, position, detail)


def note(kind: str, file: str, offset: int | None, position: int | None, detail: str) -> Finding:
    """Return a finding by which nothing is lost."""
    return Finding(kind, NOTE, file, offset, position, detail)
