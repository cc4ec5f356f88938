"""The head digest: one SHA-256 of the whole history up to a position, to pin elsewhere and compare later.

    SHA-256(digest of each event's record, by position)

The digest of a record is the SHA-256 of its bytes; that of a redacted one is kept in its place. So neither a
roll, nor merging or compressing segments, nor a redaction changes the digest of a position, and
`POSITION:DIGEST` shows later whether anything else did, also in a mirror, which has the digest of its source.
A compaction that removes events records in `$compactions` what and by which rules: that explains a digest
that no longer holds.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import chain
from typing import Any, Final, NamedTuple

from msgspec import Raw

from evlog.errors import EvlogError, InvalidArgument
from evlog.files.check.containers import CheckedLog
from evlog.files.disk.files import ReadFile
from evlog.files.format.entries import column
from evlog.files.format.frames import decode_record
from evlog.files.format.headers import FormatFault
from evlog.files.log.log import Log
from evlog.files.log.read_stream import Bounds, read_stream
from evlog.model.events import REDACTED_BEGIN
from evlog.model.redaction import digest_in
from evlog.model.retention import COMPACTIONS_STREAM, STARTED_TYPE

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PIN: Final = re.compile(r"(\d{1,20}):([0-9a-fA-F]{64})", re.ASCII)
DIGEST_BYTES: Final = 32


class Pin(NamedTuple):
    """A head digest that an earlier report gave."""

    position: int
    digest: str


class LogDigest(NamedTuple):
    """The digests of a log's records."""

    records: bytes
    """32 bytes a record, by position"""
    pinned: int | None
    """how many of them are up to the pinned position; None if that is in another segment"""
    redacted: tuple[int, ...]
    """the positions of the records that stay in a redacted event's place"""
    sound: bool
    """whether all was there to be read, and a compressed log unpacked without a fault"""


NO_DIGEST: Final = LogDigest(b"", None, (), sound=False)


class HeadDigest:
    """The digest of all segments, made as the digests of their records come, in any order.

    What comes is dropped as soon as it is used: a large store has more records than memory should hold.
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
        while (log_ := self._waiting.pop(self._next, None)) is not None:
            self._sound = self._sound and log_.sound
            if log_.pinned is not None:
                pinned = self._whole.copy()
                pinned.update(log_.records[: DIGEST_BYTES * log_.pinned])
                self._pinned = pinned.hexdigest() if self._sound else None
            self._whole.update(log_.records)
            self.redacted += log_.redacted
            self._next += 1

    @property
    def whole(self) -> str | None:
        """The digest of the log's end; None if a log is not there to be read."""
        return self._whole.hexdigest() if self._sound and self._next == self._segments else None

    @property
    def pinned(self) -> str | None:
        """The digest of the pinned position; None if it is not known."""
        return self._pinned


def parse_pin(text: str) -> Pin:
    """Return the pin that `verify` prints as `POSITION:DIGEST`.

    Raises:
        InvalidArgument: it is something else.
    """
    match = _PIN.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(
            f"invalid digest {text!r}; pass POSITION:DIGEST, as an earlier verify printed it as digest"
        )
    return Pin(int(match[1]), match[2].lower())


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

    def add(
        self,
        raws: Sequence[bytes | Raw],
        positions: Sequence[int],
        metadatas: Sequence[bytes | None],
    ) -> None:
        """Add records that follow each other: their bytes, positions and metadata."""
        found = [digest.digest() for digest in map(sha256, raws)]
        if metadatas.count(None) < len(metadatas):
            for at, metadata in enumerate(metadatas):
                if metadata is not None and metadata.startswith(REDACTED_BEGIN):
                    self._take_kept(found, at, positions[at], metadata)
        self._records += found
        if self._pin_position:
            self._pinned += bisect_right(positions, self._pin_position)

    def _take_kept(self, found: list[bytes], at: int, position: int, metadata: bytes) -> None:
        """Put the digest of the event in whose place a record is in the place of the record's own."""
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
                self.add([raw], record[:1], record[8:])
            except (FormatFault, TypeError, AttributeError):
                self._records.append(sha256(raw).digest())

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


# --- why a digest does not hold


def explain_compaction(store: str, pin: Pin) -> str:
    """Return why the digest of a position does not hold: the last compaction that reached it."""
    started = None
    try:
        log = Log(store)
        notes = read_stream(log, COMPACTIONS_STREAM, Bounds(), {STARTED_TYPE}, reverse=False, limit=None)
        for event in notes:
            document = _maybe_object(event.data)
            if document is None or not document.get("rules"):
                continue  # it removed nothing
            if document.get("position") == pin.position and document.get("digest") == pin.digest:
                when = _when(event.time_us)
                rules = _rules(document)
                return f"history was as pinned until it was compacted on {when} {rules}; pin a new digest"
            started = started or (event.time_us, document)
    except EvlogError:
        pass  # damage that is reported already
    if started is None:
        return f"history up to position {pin.position} was compacted; pin a new digest"
    time_us, document = started
    return (
        f"history up to position {pin.position} was compacted, first on {_when(time_us)} {_rules(document)}; "
        "pin a new digest"
    )


def _maybe_object(data: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _when(time_us: int) -> str:
    return (_EPOCH + timedelta(microseconds=time_us)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _rules(document: dict[str, Any]) -> str:
    rules = document.get("rules")
    if not isinstance(rules, list) or not rules:
        return "by rules that it does not name"
    shown = [json.dumps(rule, ensure_ascii=True, separators=(",", ":")) for rule in rules[:5]]
    more = f" and {len(rules) - 5} more" if len(rules) > 5 else ""
    return f"by {', '.join(shown)}{more}"
