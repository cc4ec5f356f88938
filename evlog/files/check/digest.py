"""The head digest: one SHA-256 of the whole history up to a position, to pin elsewhere and compare later.

    d(0) = SHA-256(store id)
    d(k) = SHA-256(d(k-1) || SHA-256(log of segment k))

A segment's log is hashed from its first byte to the end of the record at the position (to its own end in
every segment but the last). So a roll does not change the digest of a position, and `POSITION:DIGEST` shows
later whether anything before it was rewritten. A compaction rewrites logs, and records in `$compactions` what
it is about to remove and by which rules: that explains a digest that no longer holds.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final, NamedTuple

from evlog.errors import EvlogError, InvalidArgument
from evlog.files.check.containers import CheckedLog
from evlog.files.check.task import SegmentTask
from evlog.files.disk.files import ReadFile
from evlog.files.format.entries import ENTRY, ENTRY_BYTES
from evlog.files.format.frames import decode_record
from evlog.files.format.headers import FormatFault
from evlog.files.log.log import Log
from evlog.files.log.read_stream import Bounds, read_stream
from evlog.model.retention import COMPACTIONS_STREAM, STARTED_TYPE

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PIN: Final = re.compile(r"(\d{1,20}):([0-9a-fA-F]{64})", re.ASCII)
_PIECE_BYTES: Final = 1 << 20


class Pin(NamedTuple):
    """A head digest that an earlier report gave."""

    position: int
    digest: str


class LogDigest(NamedTuple):
    """The SHA-256 of a log, and the one up to the pinned record (b"" if that is not in it)."""

    whole: bytes
    pinned: bytes
    sound: bool
    """whether a compressed log unpacked without a fault"""


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


def chain_digests(store_id: bytes, logs: Iterable[bytes]) -> str:
    """Return the head digest in hex, from the SHA-256 of each segment's log, oldest first."""
    digest = sha256(store_id).digest()
    for log in logs:
        digest = sha256(digest + log).digest()
    return digest.hex()


def hash_log(task: SegmentTask, end: int, entries: bytes) -> LogDigest:
    """Hash a log up to an offset; `entries` are those of its .offsets, to find the pinned record by.

    Raises:
        FileNotFoundError: the log is missing.
    """
    log = task.open_log()
    digest = sha256()
    pinned = b""
    edge = _end_of_position(log, entries, task.pin_position) if task.pin_position else 0
    at = 0
    while at < end:
        stop = edge if at < edge <= end else end
        piece = log.read(min(_PIECE_BYTES, stop - at), at)
        if not piece:
            break
        digest.update(piece)
        at += len(piece)
        if at == edge:
            pinned = digest.copy().digest()
    return LogDigest(digest.digest(), pinned, not (isinstance(log, CheckedLog) and log.findings))


def _end_of_position(log: ReadFile | CheckedLog, entries: bytes, position: int) -> int:
    """Return where the record of a position ends in the log; 0 if it is not there."""

    def place(number: int) -> tuple[int, int]:
        offset, length = ENTRY.unpack_from(entries, number * ENTRY_BYTES)[2:4]
        return offset, length

    def position_of(number: int) -> int:
        offset, length = place(number)
        return decode_record(log.read(length, offset))[0]

    count = len(entries) // ENTRY_BYTES
    try:
        number = bisect_left(range(count), position, key=position_of)
        found = number < count and position_of(number) == position
    except FormatFault:  # damage, which is found elsewhere
        return 0
    return sum(place(number)) if found else 0


# --- why a digest does not hold


def explain_compaction(store: str, pin: Pin) -> str:
    """Return why the digest of a position does not hold: the last compaction that reached it."""
    started = None
    try:
        log = Log(store)
        notes = read_stream(log, COMPACTIONS_STREAM, Bounds(), {STARTED_TYPE}, reverse=False, limit=None)
        for event in notes:
            document = _maybe_object(event.data)
            if document is None:
                continue
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
