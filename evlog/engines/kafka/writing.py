"""Writing to one partition of a topic, in turns with all other writers.

1. A writer's transactional id is the topic's, so the brokers know one writer at a time. To begin, a writer
   fences the one before it: that one's transaction is aborted, and it can never commit another. Then the new
   writer reads to the end of the topic. Its decisions are right until it is fenced; then it cannot commit.
2. A writer keeps its turn until it is fenced: a writer that is alone begins once.
3. If it is not known whether a transaction was committed, the writer begins again, which ends the transaction
   one way or the other, reads to the end and decides again. The decision finds what was written before.
4. An append returns once its records can be read, which is shortly after the brokers answer the commit. If
   they cannot be read, the append is made all the same; the next read, and the next append, raise the reason.
"""

from __future__ import annotations

import random
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from confluent_kafka import KafkaException

from evlog.engines.kafka.client import (
    ANSWER_SECONDS,
    is_fencing,
    is_transient,
    leave_to_parent,
    translate,
)
from evlog.errors import (
    ENDS_RETRIES,
    EvlogError,
    LockTimeout,
    StoreReplaced,
    StoreUnreachable,
    unknown_after,
)
from evlog.model.events import now_ns
from evlog.process.forks import register_fork_reset
from evlog.process.threads import interruptible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from evlog.engines.kafka.client import Client
    from evlog.engines.kafka.reading import Reader
    from evlog.engines.kafka.records import Record
    from evlog.files.disk.file_lock import FileLock

_LONGEST_PAUSE_SECONDS: Final = 0.25  # between two tries of a writer that is fenced again and again
_TURN_SECONDS: Final = 2.0  # how long a writer waits for another one of this machine, before it fences it
_STUCK_SECONDS: Final = 30.0  # and for how long it then does not wait again
_CLOSE_SECONDS: Final = 0.1  # how long `close` waits for an append of another thread, which then notices

Result = TypeVar("Result")


class Decision(Generic[Result]):
    """What a writer is to write, and what it returns once that is done."""

    def __init__(self, result: Result, records: Iterable[Record] = ()) -> None:
        self.result = result
        self.records = records
        self.offset: int | None = None  # of the last record, once it is committed


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
            "batch.size": min(max_message_bytes, 1_000_000) or 1_000_000,  # brokers refuse a larger one
            "partitioner": "murmur2_random",
        }
        self._start()
        register_fork_reset(self)

    def _start(self) -> None:
        self._mutex = threading.Lock()  # guards the three below
        self._stuck_until = 0.0  # until when no other wait for the turn is worth it; 0: it is
        self._producer: Any = None  # has the turn, unless another writer has fenced it
        self._spare: Any = None  # connected already; made once another writer was met

    def reset_after_fork(self) -> None:
        """Begin again in a forked child, without the parent's producers."""
        for producer in (self._producer, self._spare):
            if producer is not None:
                leave_to_parent(producer)
        self._start()

    def close(self) -> None:
        """Free the producers."""
        if self._mutex.acquire(timeout=_CLOSE_SECONDS):  # else a call that was interrupted still has it
            try:
                self._drop()
                spare, self._spare = self._spare, None
            finally:
                self._mutex.release()
            _free(spare)

    def write(self, decide: Callable[[], Decision[Result]], *, fence: bool = False) -> Result:
        """Write what `decide` returns, as a transaction, and return its result; durable then.

        Args:
            decide: called with everything applied that was committed before, again and again where another
                writer came in between. Its refusals are raised.
            fence: end the turn of any other writer, also if nothing is written.

        Raises:
            AppendUnknown: it was sent, and no later try has shown whether it was written.
            StoreUnreachable: the brokers did not answer in time.
            LockTimeout: other writers were faster for too long.
        """
        with self._mutex:
            held = self._take_turn()
            state = _Tries(self._client.address.timeout_seconds)
            try:
                return self._write_locked(decide, state, fence=fence)
            except ENDS_RETRIES as error:
                if not state.is_unsure:
                    raise
                raise unknown_after(error, self._client.address.text) from error
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

    def _write_locked(self, decide: Callable[[], Decision[Result]], state: _Tries, *, fence: bool) -> Result:
        if fence:
            self._drop()
        while True:
            try:
                done = self._try_locked(decide, state)
                if done is not None:
                    return done.result
            except (KafkaException, StoreUnreachable) as error:
                self._drop()
                self._pause(error, state)
                self._client.check_open()
            except StoreReplaced:
                self._drop()
                raise
            except EvlogError:
                raise
            except BaseException:
                self._drop()  # interrupted, perhaps within a transaction
                raise

    def _try_locked(self, decide: Callable[[], Decision[Result]], state: _Tries) -> Decision[Result] | None:
        """Decide and write; return None if the decision may be another now that everything is applied."""
        state.is_sending, left = False, max(1.0, state.deadline - time.monotonic())
        if self._producer is None:
            self._fence(state.deadline)
            self._reader.catch_up(left)
            state.is_current = True
        elif self._client.is_unsure():
            self._reader.catch_up(left)  # raises StoreReplaced if the topic was made again
        try:
            decision = decide()
        except EvlogError:
            if state.is_current:
                raise
            decision = None
        records = [] if decision is None else list(decision.records)
        if records:
            state.is_current, state.is_sending = False, True
            state.is_unsure = False  # a try before this one was aborted: the decision has not found it
            self._check_limit(state)
            assert decision is not None
            decision.offset = offset = self._send(records, state.deadline)
            try:
                self._reader.wait_for(offset + 1, state.deadline)
            except EvlogError:
                self._drop()  # the next append begins by reading, which raises it again
        elif not state.is_current:
            self._reader.catch_up(left)
            state.is_current = True
            return None
        return decision

    def _pause(self, error: KafkaException | StoreUnreachable, state: _Tries) -> None:
        """Pause before the next try. Raises the error for the caller if there is none."""
        cause = error.args[0] if isinstance(error, KafkaException) else None
        found = error if cause is None else translate(cause, self._client.address.text)
        is_fenced = cause is not None and is_fencing(cause)
        if not (is_fenced or cause is None or is_transient(cause)):
            raise found from error
        state.is_unsure |= state.is_sending  # if fenced, too: a commit that was not answered is sent again
        if is_fenced:
            state.fenced += 1
            state.deadline = time.monotonic() + self._client.address.timeout_seconds
            if not state.is_unsure:
                self._check_limit(state)
            if state.fenced > 1:
                longest = min(_LONGEST_PAUSE_SECONDS, 0.01 * 2.0**state.fenced)
                time.sleep(random.uniform(0.0, longest))  # noqa: S311 - so that two do not meet again
        elif time.monotonic() >= state.deadline:
            raise found from error
        else:
            time.sleep(0.02)

    def _check_limit(self, state: _Tries) -> None:
        """Raise LockTimeout if other writers were faster for too long."""
        limit = self._lock_timeout_seconds
        if limit is not None and state.fenced and time.monotonic() - state.begun >= limit:
            raise LockTimeout(self._client.address.text, limit)

    def _fence(self, deadline: float) -> None:
        """Become the one writer: the transaction of any other is aborted, and it can commit no more."""
        met_others = self._spare is not None
        producer, self._spare = self._spare, None
        try:
            if producer is None:
                producer = self._client.make_producer(**self._settings)
            # Until a broker has answered, the client looks for its coordinator every 500 ms only.
            interruptible(partial(producer.list_topics, self._topic, timeout=_left(deadline)))
            interruptible(partial(producer.init_transactions, _left(deadline)))
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
        producer, end = self._producer, self._reader.end
        sent: list[tuple[Any, Any]] = []

        def note(failure: Any, message: Any) -> None:
            sent.append((failure, message))

        producer.begin_transaction()
        left, now_ms = len(records), now_ns() // 1_000_000
        for key, value, headers, time_ms, topic in records:
            to, partition = (topic, 0) if topic else (self._topic, self._partition)
            left -= 1
            told = None if left else note  # of the last record
            time_ms = min(time_ms, now_ms)  # brokers refuse times ahead; `Evlog-Time` has the event's
            while True:
                try:
                    producer.produce(to, value, key, partition, told, told, time_ms, headers)
                    break
                except BufferError:
                    producer.poll(0.01)
        interruptible(partial(producer.commit_transaction, _left(deadline)))
        failure, message = sent[-1]
        if failure is not None:
            raise KafkaException(failure)
        offset: int = message.offset()
        if offset < end:
            self._client.check_topic()
        return offset


class _Tries:
    """What a writer has tried for one decision."""

    def __init__(self, seconds: float) -> None:
        self.begun = time.monotonic()
        self.deadline = self.begun + seconds
        self.fenced = 0
        self.is_sending = False  # the present try has begun a transaction
        self.is_unsure = False  # an earlier one has, and may have committed it
        self.is_current = False  # everything is applied that can be there


def _left(deadline: float) -> float:
    return max(0.5, min(ANSWER_SECONDS, deadline - time.monotonic()))


def _free(producer: Any) -> None:
    """Free a producer without waiting for its transaction."""
    if producer is not None:
        producer.purge()
