"""Where a named subscription is kept: rows, and an advisory lock that ends with its holder.

The lock is a session's. A pooler gives no session: there the lock is an open transaction's, which occupies a
connection of the pool, and other connections save once the first has answered. That transaction keeps no
snapshot, so it does not delay vacuum.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final
from uuid import UUID

import psycopg

from evlog.engines.postgresql.connections import Connections, translated
from evlog.errors import CorruptionError, SubscriptionBusy
from evlog.model.checkpoints import Checkpoint, ParkedEvent
from evlog.model.filters import EventFilter

if TYPE_CHECKING:
    from typing import Any

    from evlog.engines.postgresql.connections import Connection, Row, Session
    from evlog.model.events import Event


_LOCK: Final = b"select pg_try_advisory_lock(hashtextextended(%s, 0))"
_UNLOCK: Final = b"select pg_advisory_unlock(hashtextextended(%s, 0))"
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

    def acquire(self) -> None:
        """Begin a run or a change. Raises SubscriptionBusy."""
        connection = self._connections.take()
        try:
            with translated(self._connections.address):
                if self._is_pooled:
                    connection.execute(_BEGIN)
                lock = _LOCK_TRANSACTION if self._is_pooled else _LOCK
                row = connection.execute(lock, (self._lock,)).fetchone()
            assert row is not None
            if not row[0]:
                raise SubscriptionBusy(self._name)
            self._holder = connection
        finally:
            if self._holder is None:
                self._connections.give_back(connection)  # closed, if it is in a transaction

    def release(self) -> None:
        """End what `acquire` began."""
        holder, self._holder = self._holder, None
        if holder is not None:
            try:
                if self._is_pooled:
                    holder.rollback()
                else:
                    holder.execute(_UNLOCK, (self._lock,))
            except psycopg.Error:
                holder.close()  # its session has ended, and the lock with it
            self._connections.give_back(holder)

    def is_running(self) -> bool:
        """Whether a run holds it now, here or elsewhere."""
        (row,) = self._execute(
            "select exists (select 1 from pg_locks where locktype = 'advisory' and objsubid = 1 and granted "
            "and database = (select oid from pg_database where datname = current_database()) "
            "and (classid::bigint << 32 | objid::bigint) = hashtextextended(%s, 0))",
            (self._lock,),
        )
        return bool(row[0])

    def load(self) -> Checkpoint | None:
        """Return the checkpoint; None if there is no such subscription. Raises CorruptionError."""
        rows = self._execute(
            "select last_position, event_id, filter::text, "
            "(extract(epoch from updated_at) * 1000000)::bigint "
            "from {schema}.subscription_checkpoints where subscription_id = %s",
            (self._name,),
        )
        if not rows:
            return None
        position, event_id, filter, time_us = rows[0]
        id_bytes = None if event_id is None else event_id.bytes
        return Checkpoint(position, id_bytes, None if filter is None else self._filter_of(filter), time_us)

    def create(self, checkpoint: Checkpoint) -> None:
        """Add the subscription, durably, with nothing parked."""
        self._execute(
            "insert into {schema}.subscription_checkpoints (last_position, event_id, filter, updated_at, "
            "subscription_id) values (%s, %s, %s, clock_timestamp(), %s)",
            self._row(checkpoint),
        )

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint, durably."""
        self._execute(
            "update {schema}.subscription_checkpoints set last_position = %s, event_id = %s, filter = %s, "
            "updated_at = clock_timestamp() where subscription_id = %s",
            self._row(checkpoint),
        )

    def sync(self) -> None:
        """Return at once: `save` is durable."""

    def begin(self, position: int) -> Session:
        """Begin a transaction that the caller writes in, too, and return its connection.

        It is the session that holds the lock: if the lock is lost, so is the transaction. Behind a pooler it
        is another one, and the row of the checkpoint keeps a second run from saving.
        """
        with translated(self._connections.address), ExitStack() as stack:
            connection = self._connections.take() if self._is_pooled else self._holder
            assert connection is not None  # acquired
            if self._is_pooled:
                stack.callback(self._connections.give_back, connection)
            stack.enter_context(connection.transaction())
            row = connection.execute(
                self._connections.address.sql(
                    "select last_position from {schema}.subscription_checkpoints "
                    "where subscription_id = %s for update"
                ),
                (self._name,),
            ).fetchone()
            if row != (position,):
                raise SubscriptionBusy(self._name)
            self._transaction = connection, stack.pop_all()
        return connection

    def end(self, error: BaseException | None) -> None:
        """End the transaction: commit it, durably, or with an error roll it back."""
        assert self._transaction is not None
        (connection, stack), self._transaction = self._transaction, None
        connection.forget_statements()
        if error is not None:
            stack.__exit__(type(error), error, error.__traceback__)
            return
        with translated(self._connections.address):
            stack.close()

    def delete(self) -> None:
        """Delete the subscription and what it parked, durably."""
        self._execute(
            "delete from {schema}.subscription_checkpoints where subscription_id = %s", (self._name,)
        )

    def parked(self) -> list[ParkedEvent]:
        """Return the parked events in the order in which they were parked first."""
        rows = self._execute(
            "select global_position, stream_id, version, event_type, id, error, attempts, "
            "(extract(epoch from parked_at) * 1000000)::bigint "
            "from {schema}.parked_events where subscription_id = %s order by number",
            (self._name,),
        )
        return [ParkedEvent(*row) for row in rows]

    def park(self, event: Event, error: str, attempts: int) -> None:
        """Park an event, or update its error; durable when this returns."""
        self._execute(
            "insert into {schema}.parked_events (subscription_id, global_position, stream_id, version, "
            "event_type, id, error, attempts, parked_at) values (%s, %s, %s, %s, %s, %s, %s, %s, "
            "clock_timestamp()) on conflict (subscription_id, global_position) do update "
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
        """Remove a parked event from the list; durable when this returns."""
        self._execute(
            "delete from {schema}.parked_events where subscription_id = %s and global_position = %s",
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
        with self._connections.lend() as connection:
            return _run(connection, sql, parameters)


def _run(connection: Connection, sql: bytes, parameters: tuple[Any, ...]) -> list[Row]:
    cursor = connection.execute(sql, parameters)
    return cursor.fetchall() if cursor.description else []
