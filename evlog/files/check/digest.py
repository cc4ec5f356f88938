"""The head digest: one SHA-256 of the whole history up to a position, to pin elsewhere and compare later.

    SHA-256(digest of each event's record, by position)

The digest of a record is the SHA-256 of its bytes; that of a redacted one is kept in its place. So neither a
roll, nor merging or compressing segments, nor a redaction changes the digest of a position, and
`POSITION:DIGEST` shows later whether anything else did, also in a mirror, which has the digest of its source.
A compaction that removes events records in `$compactions` what and by which rules: that explains a digest
that no longer holds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from hashlib import sha256
from itertools import chain
from typing import Final

from msgspec import Raw

from evlog.files.check.containers import CheckedLog
from evlog.files.disk.files import ReadFile
from evlog.files.format.entries import column
from evlog.files.format.frames import decode_record
from evlog.files.format.headers import FormatFault
from evlog.model.events import REDACTED_BEGIN
from evlog.model.named import NamedTuple
from evlog.model.redaction import digest_in

DIGEST_BYTES: Final = 32
_digest: Final = type(sha256()).digest  # for `map`, which needs no loop in Python


class LogDigest(NamedTuple):
    """The digests of a log's records."""

    records: bytes
    """32 bytes a record, by position"""
    pinned: int | None
    """how many of them are up to the pinned position; None if that is in another segment"""
    redacted: tuple[int, ...]
    """the positions of the records that stay in a redacted event's place"""
    sound: bool
    """whether the whole log could be read, and unpacked if it is compressed"""


NO_DIGEST: Final = LogDigest(b"", None, (), sound=False)


class HeadDigest:
    """The digest of all segments, computed while the digests of their records come, in any order.

    Digests are dropped as soon as they are used: a large store has more records than memory should hold.
    """

    def __init__(self, segments: int) -> None:
        self._whole = sha256()
        self._pinned: str | None = self._whole.hexdigest()
        self._segments = segments
        self._waiting: dict[int, LogDigest] = {}
        self._next = 0
        self._sound = True
        self.redacted: list[int] = []

    def add(self, at: int, log: LogDigest) -> None:
        """Take the digests of one segment's records; the first that came for a segment counts."""
        if at >= self._next:
            self._waiting.setdefault(at, log)
        while (ready := self._waiting.pop(self._next, None)) is not None:
            self._sound = self._sound and ready.sound
            if ready.pinned is not None:
                pinned = self._whole.copy()
                pinned.update(ready.records[: DIGEST_BYTES * ready.pinned])
                self._pinned = pinned.hexdigest() if self._sound else None
            self._whole.update(ready.records)
            self.redacted += ready.redacted
            self._next += 1

    @property
    def whole(self) -> str | None:
        """The digest of the log's end; None if a log is not there to be read."""
        return self._whole.hexdigest() if self._sound and self._next == self._segments else None

    @property
    def pinned(self) -> str | None:
        """The digest of the pinned position; None if it is not known."""
        return self._pinned


def digests_of(raws: Sequence[bytes | Raw]) -> list[bytes]:
    """Return the digest of each record, by the records' bytes."""
    return list(map(_digest, map(sha256, raws)))


class RecordDigests:
    """The digests of a log's records, made while its check decodes them.

    Args:
        pin_position: a position for which the digest is wanted as well, 0 if none.
    """

    def __init__(self, pin_position: int) -> None:
        self._pin_position = pin_position
        self._records: list[bytes] = []
        self._pinned = 0
        self._redacted: list[int] = []

    def add(self, found: list[bytes], positions: Sequence[int], metadatas: Sequence[bytes | None]) -> None:
        """Add records that follow each other: the digests of their bytes, their positions and metadata."""
        if metadatas.count(None) < len(metadatas):
            for at, metadata in enumerate(metadatas):
                if metadata is not None and metadata.startswith(REDACTED_BEGIN):
                    self._take_kept(found, at, positions[at], metadata)
        self._records += found
        if self._pin_position:
            self._pinned += bisect_right(positions, self._pin_position)

    def _take_kept(self, found: list[bytes], at: int, position: int, metadata: bytes) -> None:
        """Replace the digest of a redacted record by that of the event before it was redacted."""
        try:
            found[at] = bytes.fromhex(digest_in(metadata))
        except ValueError:
            return  # damage, which is found elsewhere
        self._redacted.append(position)

    def add_damaged(self, log: ReadFile | CheckedLog, entries: bytes) -> None:
        """Add the records of these entries, as far as they can be read, from a damaged part of a log."""
        for offset, length in zip(column(entries, "offset"), column(entries, "length"), strict=True):
            raw = log.read(length, offset)
            try:
                record = decode_record(raw)
                self.add(digests_of([raw]), record[:1], record[8:])
            except (FormatFault, TypeError, AttributeError):
                self._records += digests_of([raw])

    def finish(self, *, sound: bool) -> LogDigest:
        """Return all of them."""
        pinned = self._pinned if self._pin_position else None
        return LogDigest(b"".join(self._records), pinned, tuple(self._redacted), sound)


def join_digests(parts: Sequence[LogDigest]) -> LogDigest:
    """Return the digests of a log whose parts were checked by themselves."""
    pinned = [part.pinned for part in parts if part.pinned is not None]
    return LogDigest(
        b"".join([part.records for part in parts]),
        sum(pinned) if pinned else None,
        tuple(chain.from_iterable(part.redacted for part in parts)),
        all(part.sound for part in parts),
    )
