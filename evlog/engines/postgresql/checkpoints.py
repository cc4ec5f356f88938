"""A named subscription: rows of two tables, and an advisory lock that ends with its holder.

1. The lock is a session's. The server is told to notice soon when its client has vanished. A pooler gives no
   session: there the lock is an open transaction's, which occupies a connection of the pool, and other
   connections save once the first has answered. That transaction keeps no snapshot, so it does not delay
   vacuum.
2. When the session or the transaction ends (a restart of the server, a failover), the run has lost the lock.
   It takes the lock again and continues if the checkpoint is the one that it saved last: no other run has
   saved one meanwhile.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final
from uuid import UUID

import psycopg

from evlog.engines.postgresql.connections import Connections, Statement, translated
from evlog.engines.waiting import RELEASE_SECONDS, Pause
from evlog.errors import CorruptionError, StoreUnreachable, SubscriptionBusy
from evlog.model.checkpoints import Checkpoint, ParkedEvent
from evlog.model.filters import EventFilter

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from evlog.engines.postgresql.connections import Connection, Row, Session
    from evlog.model.events import Event

    _T = TypeVar("_T")

# Of a client that vanishes without closing its connection: after ten seconds. The default is two hours.
_LOCK: Final = (
    b"select pg_try_advisory_lock(hashtextextended(%s, 0)), set_config('tcp_user_timeout', '10000', false), "
    b"set_config('tcp_keepalives_idle', '5', false), set_config('tcp_keepalives_interval', '2', false), "
    b"set_config('tcp_keepalives_count', '3', false)"
)
_UNLOCK: Final = Statement(b"select pg_advisory_unlock(hashtextextended($1, 0))", is_prepared=False)
_IDLE_TIMEOUT_SERVER: Final = 140_000  # has a limit for idle sessions
_STAY: Final = b"set idle_session_timeout = 0"
_STAY_NO_LONGER: Final = Statement(b"reset idle_session_timeout", is_prepared=False)
_ROLLBACK: Final = Statement(b"rollback", is_prepared=False)
_LOCK_TRANSACTION: Final = b"select pg_try_advisory_xact_lock(hashtextextended(%s, 0))"
_BEGIN: Final = (
    b"begin isolation level read committed read only; set local idle_in_transaction_session_timeout = 0"
)


class PostgresqlCheckpoint:
    """One named subscription. For one thread at a time."""

    def __init__(self, connections: Connections, store_id: str, name: str) -> None:
        self._connections = connections
        self._name = name
        self._lock = f"{store_id}/{name}"
        self._is_pooled = not connections.address.listens
        self._holder: Session | None = None  # its session, or its transaction, holds the lock
        self._transaction: tuple[Session, ExitStack] | None = None  # between begin and end
        # The checkpoint as this run has saved it last; two while the answer to the second is outstanding.
        self._known: tuple[tuple[int, bytes | None], ...] = ()

    def acquire(self) -> None:
        """Begin a run or a change. Raises SubscriptionBusy."""
        pause = Pause(time.monotonic() + self._connections.address.timeout_seconds)
        while True:
            try:
                return self._acquire()
            except StoreUnreachable:
                self._connections.forget_idle()
                if not pause.take():
                    raise

    def _acquire(self) -> None:
        connection = self._connections.take()
        try:
            with translated(self._connections.address):
                if self._is_pooled:
                    connection.execute(_BEGIN)
                lock = _LOCK_TRANSACTION if self._is_pooled else _LOCK
                ((is_taken, *_),) = connection.execute(lock, (self._lock,)).fetchall()
                if not is_taken:
                    raise SubscriptionBusy(self._name)
                if not self._is_pooled and connection.info.server_version >= _IDLE_TIMEOUT_SERVER:
                    connection.execute(_STAY)
            self._holder = connection
        finally:
            if self._holder is None:
                self._connections.give_back(connection)  # closed, if it is in a transaction

    def release(self) -> None:
        holder, self._holder = self._holder, None
        self._known = ()
        if holder is not None:
            holder.silent_seconds, before = RELEASE_SECONDS / 2, holder.silent_seconds
            try:
                if self._is_pooled:
                    holder.run([(_ROLLBACK, ())])
                else:
                    holder.run([(_UNLOCK, (self._lock.encode(),))])
                    if holder.info.server_version >= _IDLE_TIMEOUT_SERVER:
                        holder.run([(_STAY_NO_LONGER, ())])
                holder.silent_seconds = before
            except psycopg.Error:
                holder.close()  # its session has ended, and the lock with it
            self._connections.give_back(holder)

    def is_running(self) -> bool:
        (row,) = self._connections.fetch(
            "select exists (select 1 from pg_locks where locktype = 'advisory' and objsubid = 1 and granted "
            "and database = (select oid from pg_database where datname = current_database()) "
            "and (classid::bigint << 32 | objid::bigint) = hashtextextended(%s, 0))",
            (self._lock,),
        )
        return bool(row[0])

    def load(self) -> Checkpoint | None:
        rows = self._execute(
            "select last_position, event_id, filter::text, "
            "(extract(epoch from updated_at) * 1000000)::bigint "
            "from {schema}.subscription_checkpoints where {same} and subscription_id = %s",
            (self._name,),
        )
        if not rows:
            return None
        position, event_id, filter, time_us = rows[0]
        id_bytes = None if event_id is None else event_id.bytes
        if self._holder is not None and not self._known:
            self._known = ((position, id_bytes),)
        return Checkpoint(position, id_bytes, None if filter is None else self._filter_of(filter), time_us)

    def create(self, checkpoint: Checkpoint) -> None:
        self._execute(
            "insert into {schema}.subscription_checkpoints (last_position, event_id, filter, updated_at, "
            "subscription_id) values (%s, %s, %s, case when {same} then clock_timestamp() end, %s) "
            "on conflict (subscription_id) do update "
            "set last_position = excluded.last_position, event_id = excluded.event_id, "
            "filter = excluded.filter, updated_at = excluded.updated_at",
            self._row(checkpoint),
        )
        self._known = (checkpoint[:2],)

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint, durably."""
        self._known = (*self._known[:1], checkpoint[:2])
        self._change(
            "update {schema}.subscription_checkpoints set last_position = %s, event_id = %s, filter = %s, "
            "updated_at = clock_timestamp() where {same} and subscription_id = %s",
            self._row(checkpoint),
        )
        if self._transaction is None:
            self._known = self._known[-1:]

    def sync(self) -> None:
        """Return at once: `save` is durable."""

    def begin(self, position: int) -> Session:
        """Begin a transaction that the caller writes in, too, and return its connection.

        It is the session that holds the lock: if the lock is lost, so is the transaction. Behind a pooler it
        is another one, and the row of the checkpoint keeps a second run from saving.
        """
        return self._as_holder(lambda: self._begin(position))

    def _begin(self, position: int) -> Session:
        with translated(self._connections.address), ExitStack() as stack:
            connection = self._connections.take() if self._is_pooled else self._holder
            assert connection is not None  # acquired
            if self._is_pooled:
                stack.callback(self._connections.give_back, connection)
            stack.enter_context(connection.transaction())
            row = connection.execute(
                self._connections.address.sql(
                    "select last_position from {schema}.subscription_checkpoints "
                    "where {same} and subscription_id = %s for update"
                ),
                (self._name,),
            ).fetchone()
            if row != (position,):
                raise SubscriptionBusy(self._name)
            self._transaction = connection, stack.pop_all()
        return connection

    def end(self, error: BaseException | None) -> None:
        assert self._transaction is not None
        (connection, stack), self._transaction = self._transaction, None
        connection.forget_statements()
        if error is not None:
            self._known = self._known[:1]
            stack.__exit__(type(error), error, error.__traceback__)
            return
        with translated(self._connections.address):
            stack.close()
        self._known = self._known[-1:]

    def delete(self) -> None:
        self._execute(
            "delete from {schema}.subscription_checkpoints where {same} and subscription_id = %s",
            (self._name,),
        )

    def parked(self) -> list[ParkedEvent]:
        rows = self._execute(
            "select global_position, stream_id, version, event_type, id, error, attempts, "
            "(extract(epoch from parked_at) * 1000000)::bigint "
            "from {schema}.parked_events where {same} and subscription_id = %s order by number",
            (self._name,),
        )
        return [ParkedEvent(*row) for row in rows]

    def park(self, event: Event, error: str, attempts: int) -> None:
        self._change(
            "insert into {schema}.parked_events (subscription_id, global_position, stream_id, version, "
            "event_type, id, error, attempts, parked_at) values (%s, %s, %s, %s, %s, %s, %s, %s, "
            "case when {same} then clock_timestamp() end) "
            "on conflict (subscription_id, global_position) do update "
            "set error = excluded.error, attempts = excluded.attempts, parked_at = excluded.parked_at",
            (
                self._name,
                event.position,
                event.stream,
                event.version,
                event.type,
                event.id,
                error.replace("\0", "\ufffd"),  # text in PostgreSQL cannot hold a NUL
                attempts,
            ),
        )

    def unpark(self, position: int) -> None:
        self._change(
            "delete from {schema}.parked_events "
            "where {same} and subscription_id = %s and global_position = %s",
            (self._name, position),
        )

    def _row(self, checkpoint: Checkpoint) -> tuple[Any, ...]:
        event_id = None if checkpoint.event_id is None else UUID(bytes=checkpoint.event_id)
        filter = None if checkpoint.filter is None else json.dumps(checkpoint.filter.as_object())
        return checkpoint.position, event_id, filter, self._name

    def _filter_of(self, text: str) -> EventFilter:
        try:
            return EventFilter.of_object(json.loads(text))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            reason = f"the filter of subscription {self._name!r} cannot be read ({error})"
            raise CorruptionError(self._connections.address.text, None, reason) from None

    def _change(self, statement: str, parameters: tuple[Any, ...]) -> None:
        """Execute a statement that can be executed twice; again with the lock taken again, if it is lost."""
        self._as_holder(lambda: self._execute(statement, parameters))

    def _as_holder(self, call: Callable[[], _T]) -> _T:
        """Call a function with the lock; if it was lost outside a transaction, take it and call again."""
        pause = Pause(time.monotonic() + self._connections.address.timeout_seconds)
        while True:
            if self._holder is None:
                raise SubscriptionBusy(self._name)  # the lock was lost before, and another run has it
            try:
                return call()
            except StoreUnreachable:
                if self._transaction is not None or not self._known:
                    raise
                self._acquire_again(pause)

    def _acquire_again(self, pause: Pause) -> None:
        """Take the lost lock again.

        Raises:
            SubscriptionBusy: another run has it, or has saved a checkpoint meanwhile.
            StoreUnreachable: the server was not back in time.
        """
        known = self._known
        while True:
            holder, self._holder = self._holder, None
            if holder is not None:
                holder.close()
            try:
                self._acquire()
                there = self.load()
            except (StoreUnreachable, SubscriptionBusy):  # the server is away, or has yet to end the session
                if not pause.take():
                    self.release()
                    raise
            else:
                break
        if there is None or there[:2] not in known:
            self.release()
            raise SubscriptionBusy(self._name)

    def _execute(self, statement: str, parameters: tuple[Any, ...]) -> list[Row]:
        sql = self._connections.address.sql(statement)
        if self._transaction is not None:
            with translated(self._connections.address):
                return _run(self._transaction[0], sql, parameters)
        if self._holder is not None:
            with translated(self._connections.address):
                if not self._is_pooled:
                    return _run(self._holder, sql, parameters)
                self._holder.execute("select")  # fails if the lock is lost
        return self._connections.retry(lambda connection: _run(connection, sql, parameters))


def _run(connection: Connection, sql: bytes, parameters: tuple[Any, ...]) -> list[Row]:
    cursor = connection.execute(sql, parameters)
    return cursor.fetchall() if cursor.description else []
