"""Following: the reader tells each feed when the topic had something new."""

from __future__ import annotations

import select
import socket
import time
from typing import TYPE_CHECKING, Final

from evlog.model.filters import LogSelection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from evlog.engines.kafka.topic import Reader
    from evlog.model.events import Event
    from evlog.model.filters import EventFilter

_TICK_SECONDS: Final = 1.0  # between two looks at what the reader could not tell


class KafkaFeed:
    """One follower's view of the log. For one thread at a time, except `wake`.

    Args:
        committed_head: the last position that is applied; everything applied is committed.
        head: the same, once everything is applied that was committed before the call.
    """

    polling = False

    def __init__(
        self,
        reader: Reader,
        filter: EventFilter,
        read_all: Callable[..., Iterator[Event]],
        committed_head: Callable[[], int],
        head: Callable[[], int],
    ) -> None:
        self._reader = reader
        self._filter = filter
        self._read_all = read_all
        self._committed_head = committed_head
        self._head = head
        self._woken = False  # set by any thread, cleared by the one that waits
        self._out, self._in = socket.socketpair()
        self._in.setblocking(False)
        self._notify = _Notify(self._in)  # no method of this object, which would make a cycle
        reader.listen(self._notify)

    def committed(self, after: int) -> int:
        """Return the last position that may be delivered now."""
        committed = self._committed_head()
        return committed if committed > after else self._head()

    def end(self) -> int:
        """Return the last position of the log."""
        return self._head()

    def read(self, after: int, to: int) -> Iterator[Event]:
        """Iterate over the feed's events behind `after`, up to and including `to`."""
        return self._read_all(LogSelection(after, to, self._filter))

    def wait(self, after: int, timeout_seconds: float) -> bool:
        """Wait until `committed` is beyond `after`; False when the time is over or `wake` was called."""
        deadline = time.monotonic() + timeout_seconds
        poll = select.poll()
        poll.register(self._out.fileno(), select.POLLIN)
        while self._committed_head() <= after:
            self._reader.check()
            self._reader.listen(self._notify)  # again: this may be a forked child
            left = deadline - time.monotonic()
            if self._woken or left <= 0:
                self._woken = False
                return False
            if poll.poll(min(left, _TICK_SECONDS) * 1000):
                self._out.recv(4096)
        return True

    def wake(self) -> None:
        """End the present or the next wait; from any thread or signal handler."""
        self._woken = True
        self._notify()

    def make_durable(self, position: int) -> None:
        """Return at once: what is committed stays."""

    def close(self) -> None:
        """Take it off the reader."""
        self._reader.forget(self._notify)
        self._in.close()
        self._out.close()

    def __del__(self) -> None:
        """Close it: a loop may be all that a program does with a subscription."""
        self.close()


class _Notify:
    """Wakes a feed by its socket."""

    def __init__(self, wakes: socket.socket) -> None:
        self._wakes = wakes

    def __call__(self) -> None:
        try:
            self._wakes.send(b"x")
        except OSError:
            pass  # full of wakes, or closed
