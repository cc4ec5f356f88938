"""One partition of a topic: reading it in a thread, and writing to it in turns with all other writers.

1. A reader gives each committed record to `apply`, in order. `catch_up` returns once everything is applied
   that was committed before the call.
2. A writer's transactional id is the topic's, so the brokers know one writer at a time. To begin, a writer
   fences the one before it: that one's transaction is aborted, and it can never commit another. Then it
   catches up. What it decides from there on is right until it is fenced itself, and then it cannot commit.
3. A writer keeps its turn until it is fenced: a writer that is alone begins once.
4. Where it is not known whether a transaction was committed, the writer begins again, which settles it,
   catches up and decides again. The decision must find out what was done before.
5. An append returns once its records can be read: a commit is answered a moment before that.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from confluent_kafka import KafkaException, TopicPartition

from evlog.engines.kafka.client import (
    ANSWER_SECONDS,
    RETRY_SECONDS,
    is_end,
    is_fencing,
    is_lost,
    is_transient,
    leave_to_parent,
    lost_records,
    translate,
)
from evlog.errors import (
    AppendUnknown,
    CorruptionError,
    EvlogError,
    LockTimeout,
    StoreClosed,
    StoreUnreachable,
)
from evlog.files.disk.fork import register_fork_reset
from evlog.files.disk.threads import without_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from evlog.engines.kafka.client import Client
    from evlog.engines.kafka.records import Record
    from evlog.files.disk.file_lock import FileLock

_POLL_SECONDS: Final = 0.1
_MANY_RECORDS: Final = 10_000  # taken at once
_LONGEST_PAUSE_SECONDS: Final = 0.25  # between two tries of a writer that is fenced again and again
_TURN_SECONDS: Final = 2.0  # how long a writer waits for another one of this machine, before it fences it
_STUCK_SECONDS: Final = 30.0  # and for how long it then does not wait again

Result = TypeVar("Result")


class Applied(Protocol):
    """What a reader fills."""

    def begin(self) -> int:
        """Return the offset to read from."""

    def apply(self, messages: Sequence[Any]) -> None:
        """Take records in order."""


class Reader:
    """Reads a partition from an offset on. Everything in it may be called from any thread."""

    def __init__(self, client: Client, topic: str, applied: Applied) -> None:
        self._client = client
        self._topic = topic
        self._applied = applied
        self._start()
        register_fork_reset(self)

    def _start(self) -> None:
        self.changed = threading.Condition()  # guards all below
        self._thread: threading.Thread | None = None
        self._end = 0  # everything before this offset is applied
        self._error: EvlogError | None = None
        self._listeners: list[Callable[[], None]] = []
        self._consumer: Any = None

    def reset_after_fork(self) -> None:
        """Begin again in a forked child, which has no thread of this kind."""
        if self._consumer is not None:
            leave_to_parent(self._consumer)
        self._start()

    def catch_up(self, seconds: float = RETRY_SECONDS) -> None:
        """Return once everything is applied that was committed before the call.

        Raises:
            StoreUnreachable, StoreNotFound, StoreAccessDenied, StoreClosed, CorruptionError.
        """
        deadline = time.monotonic() + seconds
        (end,) = self._client.ends(self._topic, seconds=seconds)
        # The last record is the end of a transaction, which no consumer is given.
        self.wait_for(end - 1, deadline)

    def wait_for(self, offset: int, deadline: float) -> None:
        """Return once every record before this offset is applied. Raises as `catch_up`."""
        with self.changed:
            self._begin_locked()
            while self._end < offset:
                if self._error is not None:
                    raise self._error
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
            raise self._error

    def _begin_locked(self) -> None:
        if self._thread is None and self._error is None:
            self._client.check_open()
            self._thread = threading.Thread(target=self._run, name="evlog-kafka-reader", daemon=True)
            without_signals(self._thread.start)

    def _run(self) -> None:
        consumer = None
        try:
            self._end = self._applied.begin()
            consumer = self._consumer = self._client.make_consumer()
            consumer.assign([TopicPartition(self._topic, 0, self._end)])
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
            self._error = error

    def _take(self, messages: Sequence[Any]) -> None:
        records, end = [], self._end
        for message in messages:
            error = message.error()
            if error is None:
                records.append(message)
                end = message.offset() + 1
            elif is_end(error):
                end = max(end, message.offset())
            elif is_lost(error):
                raise CorruptionError(self._client.address.text, None, lost_records(self._topic))
            elif not is_transient(error):
                raise KafkaException(error)
        if records:
            self._applied.apply(records)
        with self.changed:
            self._end = end
            self._tell_locked()

    def _tell_locked(self) -> None:
        self.changed.notify_all()
        for call in self._listeners:
            call()


class Decision(Generic[Result]):
    """What a writer is to write, and what it returns once that is done."""

    def __init__(self, result: Result, records: Iterable[Record] = ()) -> None:
        self.result = result
        self.records = records


class Writer:
    """Writes to the partition, in turns with all others that have the same transactional id.

    Args:
        reader: of the topic that the last record of every transaction goes to.
        partition: -1 has the key decide, as Kafka's own clients do.
        turn: a lock between the writers of this machine, so that they do not fence each other in the middle.
        lock_timeout_seconds: how long it tries while it is fenced again and again; None: without a limit.
    """

    def __init__(
        self,
        client: Client,
        reader: Reader,
        topic: str,
        turn: FileLock,
        *,
        lock_timeout_seconds: float | None,
        max_message_bytes: int,
        partition: int = 0,
    ) -> None:
        self._client = client
        self._reader = reader
        self._topic = topic
        self._turn = turn
        self._partition = partition
        self._lock_timeout_seconds = lock_timeout_seconds
        self._settings = {
            "transactional.id": f"evlog.{topic}",
            "message.max.bytes": max(max_message_bytes, 1_000_000),
            "partitioner": "murmur2_random",
        }
        self._start()
        register_fork_reset(self)

    def _start(self) -> None:
        self._mutex = threading.Lock()  # guards the three below
        self._stuck_until = 0.0  # until when no other wait for the turn is worth it; 0: it is
        self._producer: Any = None  # with the turn, as far as it knows
        self._spare: Any = None  # connected already; made once another writer was met

    def reset_after_fork(self) -> None:
        """Begin again in a forked child: what the parent has is its own."""
        for producer in (self._producer, self._spare):
            if producer is not None:
                leave_to_parent(producer)
        self._start()

    def close(self) -> None:
        """Free the producers."""
        with self._mutex:
            self._drop()
            spare, self._spare = self._spare, None
        _free(spare)

    def write(self, decide: Callable[[], Decision[Result]], *, fence: bool = False) -> Result:
        """Write what `decide` returns, as a transaction, and return its result; durable then.

        Args:
            decide: called with everything applied that was committed before, again and again where another
                writer came in between. Its refusals are raised.
            fence: end the turn of any other writer, also if nothing is written.

        Raises:
            AppendUnknown, StoreUnreachable: the brokers did not answer in time.
            LockTimeout: other writers were faster for too long.
        """
        with self._mutex:
            held = self._take_turn()
            try:
                return self._write_locked(decide, fence=fence)
            finally:
                if held:
                    self._turn.release()

    def _take_turn(self) -> bool:
        """Wait for the writers of this machine, but not for one that is suspended: it is fenced."""
        deadline = time.monotonic() + _TURN_SECONDS
        while self._turn.maybe_acquire() is None:
            now = time.monotonic()
            if now < self._stuck_until:
                return False
            if now >= deadline:
                self._stuck_until = now + _STUCK_SECONDS
                return False
            time.sleep(0.001)
        self._stuck_until = 0.0
        return True

    def _write_locked(self, decide: Callable[[], Decision[Result]], *, fence: bool) -> Result:
        if fence:
            self._drop()
        state = _Tries()
        while True:
            try:
                done = self._try_locked(decide, state)
                if done is not None:
                    return done.result
            except (KafkaException, StoreUnreachable) as error:
                self._drop()
                self._client.check_open()
                self._pause(error, state)
            except EvlogError:
                raise
            except BaseException:
                self._drop()  # interrupted, perhaps within a transaction
                raise

    def _try_locked(self, decide: Callable[[], Decision[Result]], state: _Tries) -> Decision[Result] | None:
        """Decide and write; return None if the decision may be another now that everything is applied."""
        left = max(1.0, state.deadline - time.monotonic())
        if self._producer is None:
            self._fence(state.deadline)
            self._reader.catch_up(left)
            state.is_current = True
        try:
            decision = decide()
        except EvlogError:
            if state.is_current:
                raise
            decision = None
        records = [] if decision is None else list(decision.records)
        if records:
            state.is_current, state.is_sent = False, True
            self._reader.wait_for(self._send(records, state.deadline) + 1, state.deadline)
        elif not state.is_current:
            self._reader.catch_up(left)
            state.is_current = True
            return None
        return decision

    def _pause(self, error: KafkaException | StoreUnreachable, state: _Tries) -> None:
        """Wait a little before the next try. Raises what a caller is told if there is none."""
        cause = error.args[0] if isinstance(error, KafkaException) else None
        found = error if cause is None else translate(cause, self._client.address.text)
        if cause is not None and is_fencing(cause):
            state.fenced += 1
            state.deadline = time.monotonic() + RETRY_SECONDS
            limit = self._lock_timeout_seconds
            if limit is not None and time.monotonic() - state.begun >= limit:
                raise LockTimeout(self._client.address.text, limit) from error
            if state.fenced > 1:
                longest = min(_LONGEST_PAUSE_SECONDS, 0.01 * 2.0**state.fenced)
                time.sleep(random.uniform(0.0, longest))  # noqa: S311 - so that two do not meet again
        elif not (cause is None or is_transient(cause)):
            raise found from error
        elif time.monotonic() < state.deadline:
            time.sleep(0.02)
        elif state.is_sent:
            raise AppendUnknown(self._client.address.text, found.problem) from error
        else:
            raise found from error

    def _fence(self, deadline: float) -> None:
        """Become the one writer: the transaction of any other is aborted, and it can commit no more."""
        met_others = self._spare is not None
        producer, self._spare = self._spare, None
        try:
            if producer is None:
                producer = self._client.make_producer(**self._settings)
            # Until a broker has answered, the client looks for its coordinator every 500 ms only.
            producer.list_topics(self._topic, timeout=_left(deadline))
            producer.init_transactions(_left(deadline))
        except BaseException:
            _free(producer)
            raise
        self._producer = producer
        if met_others:
            self._spare = self._client.make_producer(**self._settings)

    def _drop(self) -> None:
        """Give up the present producer: what it has begun is aborted by the next one, if not committed."""
        producer, self._producer = self._producer, None
        if producer is not None:
            _free(producer)
            if self._spare is None and not self._client.is_closed:
                self._spare = self._client.make_producer(**self._settings)

    def _send(self, records: Sequence[Record], deadline: float) -> int:
        """Send the records as a transaction, and return the offset of the last; committed then."""
        producer = self._producer
        sent: list[tuple[Any, Any]] = []

        def note(failure: Any, message: Any) -> None:
            sent.append((failure, message))

        producer.begin_transaction()
        left = len(records)
        for key, value, headers, time_ms, topic in records:
            to, partition = (topic, 0) if topic else (self._topic, self._partition)
            left -= 1
            told = None if left else note  # of the last record
            while True:
                try:
                    producer.produce(to, value, key, partition, told, told, time_ms, headers)
                    break
                except BufferError:
                    producer.poll(0.01)
        producer.commit_transaction(_left(deadline))
        failure, message = sent[-1]
        if failure is not None:
            raise KafkaException(failure)
        offset: int = message.offset()
        return offset


class _Tries:
    """What a writer has tried for one decision."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.deadline = self.begun + RETRY_SECONDS
        self.fenced = 0
        self.is_sent = False  # it may be written
        self.is_current = False  # everything is applied that can be there


def _left(deadline: float) -> float:
    return max(0.5, min(ANSWER_SECONDS, deadline - time.monotonic()))


def _free(producer: Any) -> None:
    """Let a producer go without waiting for what it has begun."""
    if producer is not None:
        producer.purge()
