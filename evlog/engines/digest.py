"""The digest of a log, for engines that verify it: of every event, or up to a pinned position.

The digest of a position is SHA-256 over the SHA-256 of each record up to there (as msgpack, as in a log of a
directory), which a redacted event keeps. So a store and its mirror on another engine have the same one.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import msgpack

from evlog.model.redaction import record_digest, unnamed
from evlog.model.reports import DAMAGE, Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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

    def check_pin(self, count_removed: Callable[[int], int]) -> list[Finding]:
        """Check that the pinned position has the digest that was given. Call `end` before.

        Args:
            count_removed: returns how many events up to a position were removed.
        """
        if self._pin is None or self._pinned == self._pin[1]:
            return []
        position, removed = self._pin[0], count_removed(self._pin[0])
        detail = f"history up to position {position} is not what was pinned" + (
            f"; compactions have removed {removed} of its events: pin a new digest" if removed else ""
        )
        return [Finding("against", DAMAGE, "", None, position, detail)]

    def check_redacted(self, redactions: Sequence[Redaction], standing: Standing) -> list[Finding]:
        """Check that redactions name all redacted events; those of a mirror may come later."""
        strange = unnamed(self.redacted, redactions)
        if not strange or any(standing):
            return []
        detail = f"{len(strange)} events are redacted, and no redaction names them"
        return [Finding("redacted", DAMAGE, "", None, strange[0], detail)]
