"""Following: the reader notifies each feed when it has applied new records."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from evlog.engines.following import ServerFeed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from evlog.engines.kafka.reading import Reader
    from evlog.model.events import Event
    from evlog.model.filters import EventFilter, LogSelection

_TICK_SECONDS: Final = 1.0  # between two checks whether the reader has ended
_LOOK_SECONDS: Final = 10.0  # between two questions to brokers that are silent: the topic may be deleted


class KafkaFeed(ServerFeed):
    """One follower's view of the log. For one thread at a time, except `wake`.

    Args:
        committed_head: the last position that is applied; everything applied is committed.
        head: the same, once everything is applied that was committed before the call.
    """

    def __init__(
        self,
        reader: Reader,
        filter: EventFilter,
        read_all: Callable[[LogSelection], Iterator[Event]],
        committed_head: Callable[[], int],
        head: Callable[[], int],
    ) -> None:
        super().__init__(filter, read_all)
        self._reader = reader
        self._committed_head = committed_head
        self._head = head
        self._notify = self._waking.notify  # a method of this object would be a reference cycle
        reader.listen(self._notify)

    def committed(self, after: int) -> int:
        committed = self._committed_head()
        return committed if committed > after else self.end()

    def end(self) -> int:
        return self._ask(self._head, self._reader.address)

    def wait(self, after: int, timeout_seconds: float) -> bool:
        looked = time.monotonic()
        deadline = looked + timeout_seconds
        while self._committed_head() <= after:
            if time.monotonic() - looked >= _LOOK_SECONDS:
                self.end()
                looked = time.monotonic()
            self._reader.check()
            self._reader.listen(self._notify)  # again: this may be a forked child
            left = deadline - time.monotonic()
            if self._waking.take() or left <= 0:
                return False
            self._waking.wait(min(left, _TICK_SECONDS))
        return True

    def close(self) -> None:
        """End the reader's notifications."""
        self._reader.forget(self._notify)
        super().close()
