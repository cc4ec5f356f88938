"""Following a store in DynamoDB: polling the item that says where the log ends.

The read of that item is strongly consistent, and every event up to its position is durable. While no event is
appended, the pauses between polls grow. A table that was restored from a backup in a pause longer than they
are is noticed by the last event that was seen.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final

from evlog.engines.following import ServerFeed
from evlog.errors import StoreUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from evlog.engines.dynamodb.core import Core
    from evlog.model.events import Event
    from evlog.model.filters import EventFilter, LogSelection

_FIRST_POLL_SECONDS: Final = 0.02
_LAST_POLL_SECONDS: Final = 0.5
_DOUBT_SECONDS: Final = 5.0  # a table is not deleted and restored in a shorter time


class DynamodbFeed(ServerFeed):
    """One follower's view of the log. For one thread at a time, except `wake`."""

    polling = True

    def __init__(
        self, core: Core, filter: EventFilter, read_all: Callable[[LogSelection], Iterator[Event]]
    ) -> None:
        super().__init__(filter, read_all)
        self._core = core
        self._looked = time.monotonic()

    def wait(self, after: int, timeout_seconds: float) -> bool:
        deadline, pause_seconds = time.monotonic() + timeout_seconds, _FIRST_POLL_SECONDS
        while True:
            if self.committed(after) > after:
                return True
            left = deadline - time.monotonic()
            if self._waking.take() or left <= 0:
                return False
            self._waking.wait(min(left, pause_seconds))
            pause_seconds = min(_LAST_POLL_SECONDS, 1.1 * pause_seconds)

    def _look(self) -> None:
        deadline = time.monotonic() + self._core.client.timeout_seconds
        while True:
            try:
                state = self._ask(partial(self._core.state, is_patient=False), self._core.address.text)
            except StoreUnreachable:
                if self._waking.is_set() or time.monotonic() >= deadline:
                    raise
                self._waking.wait(_LAST_POLL_SECONDS)
            else:
                break
        now = time.monotonic()
        self._is_doubtful |= now - self._looked >= _DOUBT_SECONDS
        self._looked = now
        if self._continues(state.position, self._core.address.text):
            self._committed, self._mark = state.position, (state.position, state.time_us)
