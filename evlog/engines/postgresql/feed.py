"""Following a store in PostgreSQL: by LISTEN where the server offers it, else by polling.

1. A position is committed once the write-ahead log is flushed beyond it. The feed reads the last position
   together with the end of the write-ahead log. The position is committed when the flush has passed that end.
2. A crash of the server makes such a pair meaningless, so the feed discards it with the connection. A pooler
   hides the crash.
3. Where the server waits for synchronous standbys, its own flush is not enough: a failover takes back what
   they do not have.
4. A standby is sent what its primary has flushed, so what it shows is committed. It is polled.
5. In the cases 2 and 3, and when the flush is late, the feed reads the position in a transaction that is
   flushed as an append is. Its answer means that what it read is flushed, and that the standbys have it.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg.errors import ReadOnlySqlTransaction

from evlog.engines.following import ServerFeed
from evlog.engines.postgresql.connections import Connections, leave_to_parent, translated
from evlog.errors import StoreUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg import Notify

    from evlog.engines.postgresql.connections import Session
    from evlog.model.events import Event
    from evlog.model.filters import EventFilter, LogSelection

_TIME: Final = (
    "(select (extract(epoch from created_at) * 1000000)::bigint from {schema}.events "
    "where global_position = position)"
)
_FLUSH_SECONDS: Final = 0.001
_FLUSH_LOOKS: Final = 5
_STANDBY_SECONDS: Final = 1.0  # how long `committed` waits for standbys; a flush alone takes milliseconds
_LISTEN_TICK_SECONDS: Final = 1.0  # a lost notification delays an event by this much at most
_POLL_SECONDS: Final = 0.05


class PostgresqlFeed(ServerFeed):
    """One follower's view of the log. For one thread at a time, except `wake`."""

    def __init__(
        self,
        connections: Connections,
        filter: EventFilter,
        read_all: Callable[[LogSelection], Iterator[Event]],
        flush: Callable[[], None],
    ) -> None:
        self._connection: Session | None = None  # for this feed alone: it listens
        super().__init__(filter, read_all)
        self._connections = connections
        self._flush = flush
        self._look_statement = connections.address.sql(
            "select position, inserted::text, flushed::text, flushed >= %s::pg_lsn, is_standby, "
            "not is_standby and current_setting('synchronous_standby_names') <> '', {time} "
            "from {schema}.head, (select pg_is_in_recovery() as is_standby) s, lateral ("
            "select case when is_standby then '0/0' else pg_current_wal_insert_lsn() end as inserted, "
            "case when is_standby then '0/0' else pg_current_wal_flush_lsn() end as flushed) w where {same}",
            time=_TIME,
        )
        self._flushed_look_statement = connections.address.sql(
            "select position, set_config('synchronous_commit', 'on', true), "
            "pg_logical_emit_message(true, 'evlog', ''), {time} from {schema}.head where {same}",
            time=_TIME,
        )
        self.polling = not connections.address.listens
        self._process = os.getpid()
        # A position, the flush that makes it committed, and the time of its event, unless that was removed.
        self._pending: tuple[int, str, int | None] | None = None
        self._has_standbys = False  # the server waits for synchronous standbys
        self._is_flushing = False  # the answer to the flushed look is outstanding
        self._silent_since = 0.0  # when it was sent, or the server has last given a sign of life
        self._notifications: list[Notify] = []  # since the last look

    def committed(self, after: int) -> int:
        if self._committed <= after:
            self._look()
            for _ in range(_FLUSH_LOOKS):  # the writer usually flushes at this moment
                if self._pending is None or self._must_flush() or self._committed > after:
                    break
                self._sleep(_FLUSH_SECONDS)
                self._look()
            self._finish_flush(after + 1, _STANDBY_SECONDS)
        return self._committed

    def end(self) -> int:
        """Return the last position of the log, flushed."""
        self._look()
        if self._pending is not None:
            self._finish_flush(self._pending[0], None)
        return self._committed

    def wait(self, after: int, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        while True:
            self._notifications.clear()
            if self.committed(after) > after:
                return True
            left = deadline - time.monotonic()
            if self._waking.take() or left <= 0:
                return False
            if not self._notifications:
                self._sleep(min(left, self._tick()))

    def make_durable(self, position: int) -> None:
        """Return once the position is flushed."""
        if position > self._committed:
            self._flush()

    def close(self) -> None:
        """Close the connection; in a forked child, leave the connection to the parent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._process == os.getpid():
                connection.cancel_and_close()  # else its session may wait for a standby
            else:
                leave_to_parent([connection])
        super().close()

    def _tick(self) -> float:
        return _POLL_SECONDS if self.polling else _LISTEN_TICK_SECONDS

    def _sleep(self, seconds: float) -> None:
        connection = self._connection
        others = [] if connection is None or connection.closed else [connection.fileno()]
        self._waking.wait(seconds, *others)

    def _look(self) -> None:
        deadline = time.monotonic() + self._connections.address.timeout_seconds
        while True:
            try:
                with translated(self._connections.address):
                    connection = self._opened()
                    if self._is_flushing and not self._has_flushed(connection):
                        return
                    flushed = self._pending[1] if self._pending else "0/0"
                    row = connection.execute(self._look_statement, (flushed,)).fetchone()
                break
            except StoreUnreachable:
                if self._connection is not None:
                    self._connection.close()  # also where the server has become a standby
                if self._waking.is_set() or time.monotonic() >= deadline:
                    raise
                self._sleep(_POLL_SECONDS)
        assert row is not None
        position, inserted, flush, passed, is_standby, self._has_standbys, time_us = row
        if is_standby and position < self._mark[0]:
            return  # another one that lags behind
        if not self._continues(position, self._connections.address.text):
            return
        if self._pending is not None and passed and not self._must_flush():
            self._commit(self._pending[0], self._pending[2])
            self._pending = None
        if position > self._committed and self._pending is None:
            if _lsn(flush) >= _lsn(inserted) and not self._has_standbys:  # in one statement: no crash between
                self._commit(position, time_us)
            else:
                self._pending = (position, inserted, time_us)

    def _commit(self, position: int, time_us: int | None) -> None:
        self._committed = max(self._committed, position)
        if time_us is not None and position > self._mark[0]:
            self._mark = (position, time_us)

    def _finish_flush(self, position: int, seconds: float | None) -> None:
        """Flush until a position is committed. Return earlier after a crash, a time-out or `wake`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self._committed < position and self._pending is not None and self._connection is not None:
            if not self._is_flushing:
                try:
                    self._connection.is_warned = False
                    self._connection.pgconn.send_query(self._flushed_look_statement)
                    self._connection.pgconn.flush()
                    self._is_flushing, self._silent_since = True, time.monotonic()
                except psycopg.Error:
                    pass  # `_look` below opens another connection
            left = _LISTEN_TICK_SECONDS if deadline is None else deadline - time.monotonic()
            if self._waking.is_set() or left <= 0:
                return
            self._sleep(left)
            self._look()

    def _has_flushed(self, connection: Session) -> bool:
        """Receive the answer to the flushed look, if it has arrived; its position is committed."""
        server = connection.pgconn
        server.flush()  # libpq may not have sent the whole request
        server.consume_input()
        if server.is_busy():
            if time.monotonic() - self._silent_since >= connection.silent_seconds:
                connection.check_life()  # it may wait for a standby
                self._silent_since = time.monotonic()
            return False
        self._is_flushing = False
        while (result := server.get_result()) is not None:
            if result.status != psycopg.pq.ExecStatus.TUPLES_OK:
                connection.close()
                raise psycopg.OperationalError(result.get_error_message())
            if connection.is_warned:  # the wait for a standby was cancelled: the look is made again
                continue
            time_us = result.get_value(0, 3)
            self._commit(int(result.get_value(0, 0) or 0), None if time_us is None else int(time_us))
            self._pending = None
        return True

    def _must_flush(self) -> bool:
        """Return whether the pair of rule 1 is not enough: rules 2 and 3."""
        return self._has_standbys or self.polling

    def _opened(self) -> Session:
        connection = self._connection
        if connection is None or connection.closed:
            self._connection = self._pending = None
            self._is_flushing = False
            connections = self._connections
            connection = self._ask(connections.take, connections.address.text, connections.give_back)
            self._connection = connection
            connection.is_given_up = self._waking.is_overdue  # of an object that has no reference back
            self._is_doubtful = True
            self.polling = not self._connections.address.listens
            if not self.polling:
                connection.add_notify_handler(self._notifications.append)  # a method would be a cycle
                try:
                    connection.execute(self._connections.address.sql("listen evlog_{schema}"))
                except ReadOnlySqlTransaction:  # a standby
                    self.polling = True
        return connection


def _lsn(text: str) -> int:
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)
