"""Following a server's store: the base class of feeds, and the socket that ends their waits."""

from __future__ import annotations

import select
import socket
import time
from typing import TYPE_CHECKING, Final

from evlog.errors import StoreReplaced, StoreUnreachable
from evlog.model.filters import EventFilter, LogSelection
from evlog.process.threads import interruptible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from evlog.model.events import Event

    _T = TypeVar("_T")

_SHORTER_SECONDS: Final = 5.0  # a server that lags behind may answer meanwhile
_STOP_SECONDS: Final = 1.0  # for how long a follower that is to stop waits for an answer


class ServerFeed:
    """A base class of feeds: `evlog.engine.Feed` without `wait`. A subclass defines `wait` and `_look`.

    Args:
        read_all: reads the log, as `Engine.read_all`.
    """

    polling = False

    def __init__(self, filter: EventFilter, read_all: Callable[[LogSelection], Iterator[Event]]) -> None:
        self._filter = filter
        self._read_all = read_all
        self._waking = Waking()
        self._committed = 0
        self._mark = (0, 0)  # a committed position, and the time of its event; the last one that was seen
        self._is_doubtful = False  # the connection was lost: the log may be another one now
        self._shorter_since: float | None = None

    def _look(self) -> None:
        """Ask the server for the committed position."""
        raise NotImplementedError

    def _ask(self, call: Callable[[], _T], address: str, discard: Callable[[_T], object] | None = None) -> _T:
        """Return what a call of the server returns.

        A second after `wake` the call is left behind, in a thread that ends once its client gives up.

        Args:
            discard: called with what the call returns after that.

        Raises:
            StoreUnreachable: it was left behind.
        """
        try:
            return interruptible(call, is_over=self._waking.is_overdue, discard=discard)
        except TimeoutError:
            raise StoreUnreachable(address, "no answer until it was stopped") from None

    def _continues(self, end: int, address: str) -> bool:
        """Return whether the log, which ends at this position, still has what this follower has seen.

        A restored backup, or a standby that lacked the last appends, has other events at positions that were
        seen. A follower that continued there would skip them.

        Returns:
            false while the log is shorter than it was.

        Raises:
            StoreReplaced: it has another event, or stays shorter.
        """
        position, time_us = self._mark
        if end < position:
            now = time.monotonic()
            self._shorter_since = self._shorter_since or now
            if now - self._shorter_since >= _SHORTER_SECONDS:
                raise StoreReplaced(address)
            return False
        self._shorter_since = None
        if self._is_doubtful and position:
            filter = EventFilter(include_system=True)
            event = next(self._read_all(LogSelection(position - 1, position, filter)), None)
            if event is not None and event[5] != time_us:  # None: a compaction has removed it
                raise StoreReplaced(address)
        self._is_doubtful = False
        return True

    def committed(self, after: int) -> int:
        if self._committed <= after:
            self._look()
        return self._committed

    def end(self) -> int:
        self._look()
        return self._committed

    def read(self, after: int, to: int) -> Iterator[Event]:
        return self._read_all(LogSelection(after, to, self._filter))

    def wake(self) -> None:
        self._waking.set()

    def make_durable(self, position: int) -> None:
        """Return at once: what a server of this kind shows as committed is durable."""

    def close(self) -> None:
        """Close the socket that ends waits."""
        self._waking.close()

    def __del__(self) -> None:
        """Close the feed of a subscription that a program iterates over and never closes."""
        if hasattr(self, "_waking"):
            self.close()


class Waking:
    """Ends a wait, from any thread or signal handler. The wait is on a socket, beside others."""

    def __init__(self) -> None:
        self._is_set = False  # set by any thread, cleared by the one that waits
        self._set_at = 0.0
        self._out, self._in = socket.socketpair()
        self._out.setblocking(False)
        self._in.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when a wait has to end."""
        return self._out.fileno()

    def notify(self) -> None:
        """End the present or the next wait once, so that its caller asks the server again."""
        try:
            self._in.send(b"x")
        except OSError:
            pass  # full of wakes, or closed

    def set(self) -> None:
        """End every wait until `take` is called."""
        self._set_at = time.monotonic()
        self._is_set = True
        self.notify()

    def is_set(self) -> bool:
        """Return whether a wait has to end."""
        return self._is_set

    def is_overdue(self) -> bool:
        """Return whether a wait should have ended a second ago."""
        return self._is_set and time.monotonic() - self._set_at >= _STOP_SECONDS

    def take(self) -> bool:
        """Return whether a wait has to end, once."""
        was_set, self._is_set = self._is_set, False
        return was_set

    def wait(self, seconds: float, *others: int) -> None:
        """Wait until `notify` or `set` is called, or one of the other descriptors can be read."""
        poll = select.poll()  # select(2) takes no number above 1,023
        for descriptor in (self.fileno(), *others):
            poll.register(descriptor, select.POLLIN)
        if poll.poll(seconds * 1000):
            self.drain()

    def drain(self) -> None:
        """Read what `notify` has written to the socket."""
        try:
            self._out.recv(4096)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Close the sockets."""
        self._in.close()
        self._out.close()
