"""Reading one partition of a topic, in a thread.

A reader gives each committed record to `apply`, in order. `catch_up` returns once everything is applied that
was committed before the call.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

from confluent_kafka import KafkaException, TopicPartition

from evlog.engines.kafka.client import (
    is_end,
    is_lost,
    is_transient,
    leave_to_parent,
    lost_records,
    translate,
)
from evlog.errors import CorruptionError, EvlogError, StoreClosed, StoreNotFound, StoreUnreachable
from evlog.process.forks import register_fork_reset
from evlog.process.threads import without_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from evlog.engines.kafka.client import Client

_POLL_SECONDS: Final = 0.1
_MANY_RECORDS: Final = 10_000  # taken at once


class Applied(Protocol):
    """What a reader fills."""

    def begin(self) -> int:
        """Return the offset to read from."""

    def apply(self, messages: Sequence[Any]) -> None:
        """Take records in order."""


class Reader:
    """Reads a partition from an offset on. Everything in it may be called from any thread."""

    def __init__(self, client: Client, topic: str, applied: Applied) -> None:
        self.address = client.address.text
        self._client = client
        self._topic = topic
        self._applied = applied
        self._start()
        register_fork_reset(self)

    def _start(self) -> None:
        self.changed = threading.Condition()  # guards all below
        self._thread: threading.Thread | None = None
        self.end = 0  # everything before this offset is applied; written by the thread
        self._error: EvlogError | None = None
        self._listeners: list[Callable[[], None]] = []
        self._consumer: Any = None

    def reset_after_fork(self) -> None:
        """Begin again in a forked child, which has no thread of this kind."""
        if self._consumer is not None:
            leave_to_parent(self._consumer)
        self._start()

    def catch_up(self, seconds: float | None = None) -> None:
        """Return once everything is applied that was committed before the call.

        Args:
            seconds: for how long brokers that do not answer are waited for; None: for the address's time-out.

        Raises:
            StoreReplaced: the topic was made again.
            StoreUnreachable, StoreNotFound, StoreAccessDenied, StoreClosed, CorruptionError.
        """
        seconds = self._client.address.timeout_seconds if seconds is None else seconds
        deadline = time.monotonic() + seconds
        read = self.end
        while (end := self._client.end(self._topic, seconds)) < read:  # or a broker restarts
            if time.monotonic() >= deadline:
                raise StoreUnreachable(self._client.address.text, "its topic is shorter than it was")
            time.sleep(_POLL_SECONDS)
        # The last record is the end of a transaction, which no consumer is given.
        self.wait_for(end - 1, deadline)

    def wait_for(self, offset: int, deadline: float) -> None:
        """Return once every record before this offset is applied. Raises as `catch_up`."""
        with self.changed:
            self._begin_locked()
            while self.end < offset:
                if self._error is not None:
                    raise self._error.unraised()
                self._client.check_open()
                left = deadline - time.monotonic()
                if left <= 0:
                    raise StoreUnreachable(self._client.address.text, "no answer in time")
                self.changed.wait(min(left, 1.0))

    def listen(self, call: Callable[[], None]) -> None:
        """Call from now on when something was applied, or the reader has ended."""
        with self.changed:
            self._begin_locked()
            if call not in self._listeners:
                self._listeners.append(call)

    def forget(self, call: Callable[[], None]) -> None:
        """End what `listen` began."""
        with self.changed:
            if call in self._listeners:
                self._listeners.remove(call)

    def check(self) -> None:
        """Raise what has ended the reader."""
        if self._error is not None:
            raise self._error.unraised()

    def _begin_locked(self) -> None:
        if self._thread is None and self._error is None:
            self._client.check_open()
            self._thread = threading.Thread(target=self._run, name="evlog-kafka-reader", daemon=True)
            without_signals(self._thread.start)

    def _run(self) -> None:
        consumer = None
        try:
            self.end = self._applied.begin()
            consumer = self._consumer = self._client.make_consumer()
            consumer.assign([TopicPartition(self._topic, 0, self.end)])
            while not self._client.is_closed:
                first = consumer.poll(_POLL_SECONDS)
                if first is not None:
                    self._take([first, *consumer.consume(_MANY_RECORDS, 0)])
        except KafkaException as error:
            self._fail(translate(error.args[0], self._client.address.text))
        except EvlogError as error:
            self._fail(error)
        finally:
            if consumer is not None:
                consumer.close()
            with self.changed:
                self._consumer = None
                self._error = self._error or StoreClosed(self._client.address.text)
                self._tell_locked()

    def _fail(self, error: EvlogError) -> None:
        with self.changed:
            self._error = error.unraised()

    def _take(self, messages: Sequence[Any]) -> None:
        records, end = [], self.end
        for message in messages:
            error = message.error()
            if error is None:
                records.append(message)
                end = message.offset() + 1
            elif is_end(error):
                end = max(end, message.offset())
            elif is_lost(error):
                self._client.check_topic()
                raise CorruptionError(self._client.address.text, None, lost_records(self._topic))
            elif not is_transient(error):
                raise KafkaException(error)
        if records:
            if not self._are_own():
                return
            self._applied.apply(records)
        with self.changed:
            self.end = end
            self._tell_locked()

    def _are_own(self) -> bool:
        """Return true once the brokers say that what was read is of the store's topic; false if closed."""
        while not self._client.is_closed:
            try:
                if self._client.is_unsure():
                    self._client.check_topic()
            except (StoreUnreachable, StoreNotFound):
                time.sleep(_POLL_SECONDS)
            else:
                return True
        return False

    def _tell_locked(self) -> None:
        self.changed.notify_all()
        for call in self._listeners:
            call()
