"""Connections to a server: its address, a pool of idle connections, and the translation of its errors.

1. A connection is used by one thread at a time. A forked child opens its own: the parent's stay open and
   unused in it, because closing one would end the parent's session.
2. An append or a page of events goes through `Session.run`: statements prepared once, parameters and results
   in the binary format, one round trip. Everything else uses psycopg's cursors, which adapt every value. That
   costs more than a short statement itself.
3. A statement may last, and wait for others. When the server has sent nothing for some seconds, evlog asks
   for a sign of life on another connection. If there is none, the connection counts as broken: the server is
   suspended. TCP does not notice that, because the system of such a server answers for it.
4. An interrupt (Ctrl-C) asks the server to cancel the statement, and closes the connection.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import re
import select
import socket
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, quote, urlencode
from uuid import UUID

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import SerializationFailure, error_from_result
from psycopg.pq import ConnStatus, ExecStatus, PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row
from psycopg.waiting import Ready, Wait

from evlog.engine import make_url, split_url
from evlog.engines.waiting import Pause, timeouts_of
from evlog.errors import (
    EngineError,
    EvlogError,
    InvalidArgument,
    LockTimeout,
    StoreAccessDenied,
    StoreClosed,
    StoreFull,
    StoreNotFound,
    StoreReplaced,
    StoreUnreachable,
    UnsupportedFormat,
)
from evlog.process.forks import register_fork_reset
from evlog.process.threads import interruptible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, TypeAlias, TypeVar

    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn, PGresult
    from psycopg.rows import RowFactory

    Row = tuple[Any, ...]
    Connection: TypeAlias = psycopg.Connection[Row]
    Parameters = Sequence[bytes | None]
    _T = TypeVar("_T")

# In a program that sets up no logging, psycopg's warnings of broken connections would go to stderr.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

FORMAT: Final = 1  # of the schema
# What a statement says that waited for a lock while the schema was dropped: XX000, an internal error.
_DROPPED: Final = re.compile(r"(could not open relation with OID|cache lookup failed for) ")
# `{same}` casts a text with this end to a number. That fails, and the error of PostgreSQL quotes the text.
_OTHER_STORE: Final = " is another store of evlog"
_NEWER: Final = " is a newer format of evlog"
_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,40}", re.ASCII)
# What libpq is told unless the URL says otherwise. A server that vanishes without closing its connections is
# noticed after ten seconds, so that there is time left to try others. TCP alone takes 15 minutes if a request
# was lost, and two hours if an answer was.
_TIMEOUTS: Final = {
    "connect_timeout": 10,  # seconds, for each host; psycopg would wait 130
    "tcp_user_timeout": 10_000,  # milliseconds
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
_SILENT_SECONDS: Final = 10.0  # after which a server is asked for a sign of life
_GIVEN_UP_SECONDS: Final = 0.5  # between two questions whether it is waited for any longer
_CANCEL_SECONDS: Final = 0.3  # for how long a server that is to cancel a statement is asked
_ASK_FOR_LIFE: Final = (8).to_bytes(4) + (80877103).to_bytes(4)  # SSLRequest: answered by S, N or an error
_inherited: Final[list[Connection]] = []  # a parent's connections in a forked child, never closed


class DatabaseNotFound(StoreNotFound):
    """The server has no such database. evlog creates stores in a database, not the database itself."""

    def __init__(self, address: str) -> None:
        EvlogError.__init__(self, f"no database at {address}", "create it with createdb, or correct the URL")
        self.path, self.was_open = address, False


class Address:
    """A store's address: the connection string for libpq, the schema, and a text without the password."""

    def __init__(self, url: str) -> None:
        parts = split_url(url)
        options = parse_qsl(parts.query, keep_blank_values=True)
        own = dict(option for option in options if option[0] in ("schema", "listen", "timeout"))
        rest = [option for option in options if option[0] not in own]
        self.schema = own.get("schema", "evlog")
        if not _SCHEMA.fullmatch(self.schema):
            raise InvalidArgument(f"invalid schema {self.schema!r}; use lower-case letters, digits and _")
        if own.get("listen", "yes") not in ("yes", "no"):
            raise InvalidArgument(f"invalid listen {own['listen']!r} in the URL; use yes or no")
        self.listens = own.get("listen", "yes") == "yes"  # whether a connection is a session of the server
        self.may_be_pooled = "listen" not in own
        self.is_open = False  # the store
        self._same = "true"  # until then
        self.prologue = b""  # what each session begins with: its database may commit without a flush
        query = urlencode(rest, quote_via=quote)  # libpq knows no + for a space
        self.conninfo = make_url("postgresql", parts.netloc, parts.path, query)
        user, at, host = parts.netloc.rpartition("@")
        shown = [(name, "***" if "password" in name else value) for name, value in options]
        self.text = make_url(
            "postgresql", user.partition(":")[0] + at + host, parts.path, urlencode(shown, safe="*")
        )
        self.timeout_seconds, self.open_timeout_seconds = timeouts_of(own.get("timeout"), self.text)
        try:
            given = conninfo_to_dict(self.conninfo)
        except psycopg.ProgrammingError as error:
            reason = str(error).strip()
            for secret in filter(None, (parts.netloc, user.partition(":")[2])):
                reason = reason.replace(secret, "***")
            raise InvalidArgument(f"invalid URL {self.text} ({reason})") from None
        timeouts = {name: value for name, value in _TIMEOUTS.items() if name not in given}
        if "connect_timeout" in timeouts:
            timeouts["connect_timeout"] = min(timeouts["connect_timeout"], math.ceil(self.timeout_seconds))
        if "PGCONNECT_TIMEOUT" in os.environ:
            timeouts.pop("connect_timeout", None)
        self.conninfo = make_conninfo(self.conninfo, **timeouts)

    def expect(self, store_id: str) -> None:
        """Have each statement with `{same}` fail in any other store, and in one of a newer format."""
        same = (
            "(select case when store_id <> '{id}' then (store_id::text || '{other}')::int "
            "when format > {format} then (format::text || '{newer}')::int else 1 end from {schema}.log) = 1"
        )
        parts = {"id": str(UUID(store_id)), "other": _OTHER_STORE, "format": str(FORMAT), "newer": _NEWER}
        for name, part in parts.items():
            same = same.replace(f"{{{name}}}", part)
        self.is_open, self._same = True, same

    def sql(self, text: str, **parts: str) -> bytes:
        """Return a statement with `{schema}` and other parts filled in: the only place that builds one.

        Parts are names and conditions of evlog's own; values are always parameters. `{same}` is a condition
        that is true, or fails the statement if the schema was dropped, and another store made in its place.
        It costs a prepared statement less than 10 µs of 120, and one that is planned each time 40 µs of 150.
        """
        for name, part in {**parts, "same": self._same, "schema": self.schema}.items():
            text = text.replace(f"{{{name}}}", part)
        return text.encode()


class Statement:
    """A statement with `$1`, `$2` … for its parameters, by default prepared once in each session."""

    __slots__ = ("name", "text")
    _numbers = itertools.count()

    def __init__(self, text: bytes, *, is_prepared: bool = True) -> None:
        self.name = b"evlog_%d" % next(self._numbers) if is_prepared else b""
        self.text = text


class Session(psycopg.Connection["Row"]):
    """A connection with a short way for statements of evlog's own.

    Attributes:
        prepares: whether statements stay prepared; a pooler may change the session between two of them.
        is_warned: whether the server has sent a warning since this was set to false.
        silent_seconds: after which the server is asked for a sign of life.
        is_given_up: asked twice a second during a wait; true: the server is not waited for any longer.
    """

    def __init__(self, pgconn: PGconn, row_factory: RowFactory[Row] = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self.prepares = True
        self.is_warned = False
        self.silent_seconds = _SILENT_SECONDS
        self.is_given_up: Callable[[], bool] = _never
        self.add_notice_handler(self._note)
        self._evlog_statements: set[bytes] = set()  # the names of those that are prepared
        self._evlog_generation = 0  # part of the names
        self._evlog_poll = select.poll()
        self._evlog_poll.register(pgconn.socket, select.POLLIN)

    def _note(self, notice: psycopg.errors.Diagnostic) -> None:
        self.is_warned = self.is_warned or notice.sqlstate == "01000"

    def forget_statements(self) -> None:
        """Prepare all statements again by other names: a caller with the session may have removed them."""
        self._evlog_generation += 1
        self._evlog_statements.clear()

    def wait(self, gen: PQGen[_T], *_: object, **__: object) -> _T:
        """Wait for what psycopg asks the server, and for its own statements. Rules 3 and 4."""
        try:
            wanted = next(gen)
            while True:
                wanted = gen.send(self._ready(wanted))
        except StopIteration as done:
            result: _T = done.value
            return result
        except psycopg.Error:
            raise
        except BaseException:
            self.cancel_and_close()
            raise

    def run(self, *transactions: Sequence[tuple[Statement, Parameters]]) -> list[PGresult]:
        """Send transactions in one go, each of one statement or more, and return the statements' results.

        Parameters and results are in the binary format.

        Raises:
            psycopg.Error: a statement failed, or the connection. Transactions after it may have been done.
        """
        pgconn, prepared = self.pgconn, self._evlog_statements
        suffix = b"_%d" % self._evlog_generation if self._evlog_generation else b""
        prepares: list[list[bytes | None]] = []  # of each expected result: the name that it prepares
        pgconn.enter_pipeline_mode()
        for statements in transactions:
            names: list[bytes | None] = []
            prepares.append(names)
            for statement, parameters in statements:
                given, formats = list(parameters), [1] * len(parameters)  # psycopg 3.2 takes no tuple
                if not (self.prepares and statement.name):
                    pgconn.send_query_params(statement.text, given, None, formats, 1)
                else:
                    name = statement.name + suffix
                    if name not in prepared:
                        pgconn.send_prepare(name, statement.text)
                        names.append(name)
                    pgconn.send_query_prepared(name, given, formats, 1)
                names.append(None)
            pgconn.pipeline_sync()
        received = self.wait(self._receive(len(transactions)))
        pgconn.exit_pipeline_mode()
        results, failure = [], None
        for names, answers in zip(prepares, received, strict=True):
            for at, result in enumerate(answers):  # one more than expected if only the commit failed
                if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
                    failure = failure or result
                elif (prepare := names[at]) is None:
                    results.append(result)
                else:
                    prepared.add(prepare)
        if failure is not None:
            raise error_from_result(failure)
        return results

    def _receive(self, syncs: int) -> PQGen[list[list[PGresult]]]:
        """Wait for the results of this many transactions: one for each statement and each preparation."""
        pgconn = self.pgconn
        while pgconn.flush():
            if (yield Wait.RW) != Ready.W:  # a server that cannot send its answers may stop receiving
                pgconn.consume_input()
        received: list[list[PGresult]] = [[]]
        while len(received) <= syncs:
            while pgconn.is_busy():
                yield Wait.R
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:  # the end of one statement's results
                if pgconn.status == ConnStatus.BAD:
                    raise psycopg.OperationalError(pgconn.get_error_message())
            elif result.status == ExecStatus.PIPELINE_SYNC:
                received.append([])
            else:
                received[-1].append(result)
        return received[:-1]

    def _ready(self, wanted: Wait) -> Ready:
        """Wait until the server has sent something, or takes something."""
        step_seconds, waited_seconds = min(self.silent_seconds, _GIVEN_UP_SECONDS), 0.0
        while not (ready := self._poll(wanted, step_seconds)):
            waited_seconds += step_seconds
            if self.is_given_up():
                self.close()
                raise psycopg.OperationalError("no answer until it was stopped")
            if waited_seconds >= self.silent_seconds:
                self.check_life()
                waited_seconds = 0.0
        return ready

    def _poll(self, wanted: Wait, seconds: float) -> Ready:
        poll, number = self._evlog_poll, self.pgconn.socket
        if wanted != Wait.R:
            poll.modify(number, select.POLLOUT | (select.POLLIN if wanted == Wait.RW else 0))
        events = poll.poll(1000 * seconds)
        if wanted != Wait.R:
            poll.modify(number, select.POLLIN)
        if not events:
            return Ready.NONE
        event = events[0][1]
        if event == select.POLLOUT:
            return Ready.W
        return Ready.RW if event & select.POLLOUT else Ready.R

    def check_life(self, seconds: float | None = None) -> None:
        """Raise OperationalError, and close the connection, if the server gives no sign of life."""
        try:
            with socket.socket(fileno=os.dup(self.pgconn.socket)) as here:
                family, there = here.family, here.getpeername()
            seconds = self.silent_seconds / 2 if seconds is None else seconds
            if interruptible(partial(_gives_sign_of_life, family, there, seconds), is_over=self.is_given_up):
                return
        except OSError:
            pass  # it has vanished, or is not waited for any longer
        self.close()
        raise psycopg.OperationalError("the server does not answer; it is suspended or has vanished")

    def cancel_and_close(self) -> None:
        """Have the server cancel its statement, if it answers at once, and close the connection."""
        try:
            if not self.closed and self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.check_life(_CANCEL_SECONDS)
                self.cancel_safe(timeout=_CANCEL_SECONDS)
        except psycopg.Error:
            pass  # the server notices that the connection is closed
        finally:
            self.close()


def _never() -> bool:
    return False


def _gives_sign_of_life(family: int, there: Any, seconds: float) -> bool:
    """Return whether a server answers in time. Raises OSError if it cannot be reached."""
    with socket.socket(family) as other:
        other.settimeout(seconds)
        other.connect(there)
        other.sendall(_ASK_FOR_LIFE)
        return bool(other.recv(1))


class Connections:
    """The open connections of one engine."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._mutex = threading.Lock()  # guards the two below
        self._idle: list[Session] = []
        self._closed = False
        register_fork_reset(self)

    @contextmanager
    def lend(self) -> Iterator[Session]:
        """Lend a connection for a `with` block; errors of the server come out as evlog's."""
        connection = self.take()
        try:
            with translated(self.address):
                yield connection
        except StoreUnreachable:
            connection.close()  # also where the server has become a standby: another one may be the primary
            raise
        finally:
            self.give_back(connection)

    def retry(self, call: Callable[[Session], _T], seconds: float | None = None) -> _T:
        """Return what a function returns that may be called twice; call it again if the connection breaks.

        Args:
            seconds: for how long; None: the address's time-out.
        """
        tries = _Tries(self.address.timeout_seconds if seconds is None else seconds)
        while True:
            try:
                with self.lend() as connection:
                    return call(connection)
            except (StoreUnreachable, EngineError) as error:
                self.forget_idle()
                if not tries.take(error):
                    raise

    def retry_each(self, call: Callable[[Session], Iterator[_T]]) -> Iterator[_T]:
        """Iterate over what a function returns; if the connection breaks, call it again.

        Args:
            call: called again, it continues after what it has returned before.
        """
        tries = _Tries(self.address.timeout_seconds)
        while True:
            try:
                with self.lend() as connection:
                    for item in call(connection):
                        yield item
                        tries = _Tries(self.address.timeout_seconds)
                    return
            except (StoreUnreachable, EngineError) as error:
                self.forget_idle()
                if not tries.take(error):
                    raise

    def fetch(self, query: str, values: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
        """Return the rows of a query with `{schema}` and `%s` in it; `retry` says when it is sent again."""
        statement = self.address.sql(query)
        return self.retry(lambda session: session.execute(statement, values or None).fetchall())

    def take(self) -> Session:
        """Return a connection in autocommit mode that no other thread uses.

        Raises:
            StoreClosed: the engine is closed.
            StoreUnreachable, StoreAccessDenied, StoreNotFound: no connection can be made.
        """
        while True:
            with self._mutex:
                if self._closed:
                    raise StoreClosed(self.address.text)
                if not self._idle:
                    break
                connection = self._idle.pop()
            if not wait_readable([connection.fileno()], 0):
                return connection
            connection.close()  # the server has ended it while it was idle
        with translated(self.address):
            connection = Session.connect(
                self.address.conninfo,
                autocommit=True,
                application_name="evlog",
                client_encoding="utf-8",
                # With statements of its own psycopg deallocates all after a rollback, those of `run`, too.
                prepare_threshold=None,
            )
            connection.prepares = self.address.listens
            connection.silent_seconds = min(_SILENT_SECONDS, self.address.timeout_seconds / 3)
            try:
                if self.address.prologue:
                    connection.execute(self.address.prologue)
            except BaseException:
                connection.close()
                raise
            return connection

    def give_back(self, connection: Session) -> None:
        """Keep a connection for the next use, if it is still good for one."""
        usable = (
            connection.pgconn.transaction_status == TransactionStatus.IDLE
            and connection.pgconn.pipeline_status == PipelineStatus.OFF
        )
        with self._mutex:
            if usable and not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def forget_idle(self) -> None:
        """Close the idle connections: after one broke, the others probably did, too."""
        with self._mutex:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Close the idle connections; those in use are closed when they are given back."""
        with self._mutex:
            self._closed = True
        self.forget_idle()

    def check_open(self) -> None:
        """Raise StoreClosed after `close`."""
        if self._closed:
            raise StoreClosed(self.address.text)

    def reset_after_fork(self) -> None:
        """Begin without connections in a forked child."""
        self._mutex = threading.Lock()
        leave_to_parent(self._idle)
        self._idle = []


class _Tries:
    """The tries of a call that may be made twice."""

    def __init__(self, seconds: float) -> None:
        self._pause = Pause(time.monotonic() + seconds)
        self._is_moving = False

    def take(self, error: StoreUnreachable | EngineError) -> bool:
        """Wait before the next try; return false if another one cannot help, or the time is over."""
        cause = error.__cause__
        # A standby cancels a read of what its primary has removed.
        if isinstance(error, EngineError) and not isinstance(cause, SerializationFailure):
            return False
        if isinstance(cause, psycopg.Error) and is_read_only(cause):
            if self._is_moving:
                return False
            self._is_moving = True  # another connection may lead to the primary
        return self._pause.take()


def wait_readable(descriptors: list[int], seconds: float) -> list[int]:
    """Return the descriptors that can be read, or are at their end, within a time."""
    poll = select.poll()  # select(2) takes no number above 1,023
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(seconds * 1000)]


def leave_to_parent(connections: Sequence[Connection]) -> None:
    """Keep a parent's connections open in a forked child: closing one would end the parent's session."""
    _inherited.extend(connections)


@contextmanager
def translated(address: Address) -> Iterator[None]:
    """Raise errors of the server and of its connection as evlog's."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, address) from error


def translate(
    error: psycopg.Error, address: Address, lock_timeout_seconds: float | None = None
) -> EvlogError:
    """Return evlog's error for one of psycopg's. Without a time of the caller's, the server's has run out."""
    state, where = error.sqlstate or "", address.text
    lines = (error.diag.message_primary or str(error)).splitlines()
    # libpq's question is answered by evlog's own advice, and has no mark between it and the reason.
    told = [line for line in lines if not line.startswith("\tIs the server running")]
    text = "; ".join(" ".join(line.split()) for line in told)
    if state.startswith("28") or state == "42501" or "authentication failed" in text or "pg_hba" in text:
        return StoreAccessDenied(where, text)
    if state == "3D000" or re.search(r'database "[^"]*" does not exist', text):
        return StoreNotFound(where, was_open=True) if address.is_open else DatabaseNotFound(where)
    if state in {"3F000", "42P01", "42883"} or _DROPPED.match(text):
        return StoreNotFound(where, was_open=True)
    if re.search(r'role "[^"]*" (does not exist|is not perm)|no password supplied|permission denied', text):
        return StoreAccessDenied(where, text)
    if text.startswith("connection is bad: invalid "):  # libpq has looked at an option
        return InvalidArgument(f"invalid URL {where} ({text.partition(': ')[2]})")
    if _OTHER_STORE in text:
        return StoreReplaced(where)
    if (newer := re.search(rf"(\d+){_NEWER}", text)) is not None:
        return UnsupportedFormat(where, int(newer[1]), FORMAT)
    if state == "53100":
        return StoreFull(where, text)
    if state == "55P03":
        return LockTimeout(where, lock_timeout_seconds)
    if is_read_only(error):
        return StoreUnreachable(where, f"it takes no writes: {text}")
    if is_broken(error):
        return StoreUnreachable(where, text)
    return EngineError(where, text)


def is_read_only(error: psycopg.Error) -> bool:
    """Return whether the server is a standby, or has been made read-only."""
    return error.sqlstate in ("25006", "55000")  # 55000: of a function that a standby does not have


def is_broken(error: psycopg.Error) -> bool:
    """Return whether the connection failed, and not the statement; the server may be starting or ending."""
    state = error.sqlstate
    broken = isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    return (broken and state is None) or (state or "").startswith(("08", "57P", "53300"))
