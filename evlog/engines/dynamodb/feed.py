"""Following a store in DynamoDB: polling the item that says where the log ends.

That item is read strongly consistent, and what it counts is durable. While nothing comes, polls get rarer.
"""

from __future__ import annotations

import select
import socket
import time
from typing import TYPE_CHECKING, Final

from evlog.errors import StoreUnreachable
from evlog.model.filters import LogSelection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from evlog.engines.dynamodb.core import Core
    from evlog.model.events import Event
    from evlog.model.filters import EventFilter

_FIRST_POLL_SECONDS: Final = 0.02
_LAST_POLL_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = 30.0  # of a service that does not answer


class DynamodbFeed:
    """One follower's view of the log. For one thread at a time, except `wake`."""

    polling = True

    def __init__(self, core: Core, filter: EventFilter, read_all: Callable[..., Iterator[Event]]) -> None:
        self._core = core
        self._filter = filter
        self._read_all = read_all
        self._committed = 0
        self._woken = False  # set by any thread, cleared by the one that waits
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_in.setblocking(False)

    def committed(self, after: int) -> int:
        """Return the last position that may be delivered now."""
        if self._committed <= after:
            self._look()
        return self._committed

    def end(self) -> int:
        """Return the last position of the log."""
        self._look()
        return self._committed

    def read(self, after: int, to: int) -> Iterator[Event]:
        """Iterate over the feed's events behind `after`, up to and including `to`."""
        return self._read_all(LogSelection(after, to, self._filter))

    def wait(self, after: int, timeout_seconds: float) -> bool:
        """Wait until `committed` is beyond `after`; False when the time is over or `wake` was called."""
        deadline, pause_seconds = time.monotonic() + timeout_seconds, _FIRST_POLL_SECONDS
        while True:
            if self.committed(after) > after:
                return True
            left = deadline - time.monotonic()
            if self._woken or left <= 0:
                self._woken = False
                return False
            self._sleep(min(left, pause_seconds))
            pause_seconds = min(_LAST_POLL_SECONDS, 1.1 * pause_seconds)

    def wake(self) -> None:
        """End the present or the next wait; from any thread or signal handler."""
        self._woken = True
        try:
            self._wake_in.send(b"x")
        except OSError:
            pass  # full of wakes, or closed

    def make_durable(self, position: int) -> None:
        """Return at once: what the log counts is durable."""

    def close(self) -> None:
        """Free what wakes it."""
        self._wake_in.close()
        self._wake_out.close()

    def __del__(self) -> None:
        """Close it: a loop may be all that a program does with a subscription."""
        self.close()

    def _look(self) -> None:
        deadline = time.monotonic() + _RETRY_SECONDS
        while True:
            try:
                self._committed = max(self._committed, self._core.state().position)
                return
            except StoreUnreachable:
                if self._woken or time.monotonic() >= deadline:
                    raise
                self._sleep(_LAST_POLL_SECONDS)

    def _sleep(self, seconds: float) -> None:
        poll = select.poll()  # select(2) takes no number above 1,023
        poll.register(self._wake_out, select.POLLIN)
        if poll.poll(seconds * 1000):
            self._wake_out.recv(4096)
