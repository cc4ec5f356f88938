"""The digest of a log, for engines that verify it: of every event, or up to a pinned position.

The digest of a position is SHA-256 over the SHA-256 of each record up to there (as msgpack, as in a log of a
directory), which a redacted event keeps. So a store and its mirror on another engine have the same one.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import msgpack

from evlog.model.redaction import record_digest
from evlog.model.reports import DAMAGE, Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evlog.model.events import Event
    from evlog.model.history import Standing
    from evlog.model.redaction import Redaction


class LogDigest:
    """Events are added in position order.

    Args:
        pin: a position and what its digest was; None: nothing is pinned.

    Attributes:
        redacted: the positions of redacted events.
    """

    def __init__(self, pin: tuple[int, str] | None = None) -> None:
        self._whole = sha256()
        self._pack = msgpack.Packer().pack
        self._pin = pin
        self._pinned: str | None = None
        self.redacted: list[int] = []

    def add(self, event: Event) -> None:
        """Add the next event."""
        if self._pin is not None and self._pinned is None and event.position > self._pin[0]:
            self._pinned = self._whole.hexdigest()
        if event.redacted:
            self.redacted.append(event.position)
            self._whole.update(bytes.fromhex(record_digest(event)))
        else:
            self._whole.update(sha256(self._pack(tuple(event))).digest())

    def end(self, head: int) -> str:
        """Return the digest of the log, which ends at this position: `POSITION:DIGEST`."""
        if self._pin is not None and self._pinned is None and head >= self._pin[0]:
            self._pinned = self._whole.hexdigest()
        return f"{head}:{self._whole.hexdigest()}"

    def is_pin_met(self) -> bool:
        """Return whether the pinned position has the digest that was given; true if nothing is pinned."""
        return self._pin is None or self._pinned == self._pin[1]


def changed_finding(pin: tuple[int, str], removed: int) -> Finding:
    """Return the finding for a pin that is not met; `removed`: how many events before it were removed."""
    detail = f"history up to position {pin[0]} is not what was pinned" + (
        f"; compactions have removed {removed} of its events: pin a new digest" if removed else ""
    )
    return Finding("against", DAMAGE, "", None, pin[0], detail)


def check_redacted(
    redacted: Sequence[int], redactions: Sequence[Redaction], standing: Standing
) -> list[Finding]:
    """Check that redactions name all redacted events; those of a mirror may come later."""
    named = {position for redaction in redactions for position in redaction.positions}
    unnamed = [position for position in redacted if position not in named]
    if not unnamed or any(standing):
        return []
    detail = f"{len(unnamed)} events are redacted, and no redaction names them"
    return [Finding("redacted", DAMAGE, "", None, unnamed[0], detail)]
