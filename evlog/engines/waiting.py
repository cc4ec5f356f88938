"""For how long engines wait for their servers: the same for all, whatever a server's client would do.

1. While servers restart, fail over or do not answer, a call is tried again for `timeout` seconds, which is an
   option of every URL. Then it raises StoreUnreachable, or AppendUnknown if an append was sent.
2. Opening a store takes less: a wrong address should be noticed soon. An option in the URL holds for both.
3. Closing hardly waits for a server that does not answer: a lease and a session's lock end by themselves.
"""

from __future__ import annotations

import time
from typing import Final

from evlog.errors import InvalidArgument

RELEASE_SECONDS: Final = 0.5
_CALL_SECONDS: Final = 30.0
_OPEN_SECONDS: Final = 3.0
_FIRST_PAUSE_SECONDS: Final = 0.02
_LAST_PAUSE_SECONDS: Final = 0.5


def timeouts_of(text: str | None, address: str) -> tuple[float, float]:
    """Return for how long a call is tried again, and for how long a server is looked for at open.

    Args:
        text: the URL's option `timeout`, if it has one; `address` is the URL for errors.

    Raises:
        InvalidArgument: it is not a number of seconds.
    """
    if text is None:
        return _CALL_SECONDS, _OPEN_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise InvalidArgument(f"invalid timeout {text!r} in {address}; use seconds, such as timeout=30")
    return seconds, seconds


class Pause:
    """Pauses between tries, each longer than the last, until a deadline."""

    def __init__(self, end: float) -> None:
        self._end = end
        self._seconds = _FIRST_PAUSE_SECONDS

    def take(self) -> bool:
        """Wait before the next try; False if the time is over."""
        left = self._end - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(self._seconds, left))
        self._seconds = min(2 * self._seconds, _LAST_PAUSE_SECONDS)
        return True
