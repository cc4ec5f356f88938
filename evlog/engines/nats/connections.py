"""The connections of an open store, and retries while a server restarts or a leader is elected.

1. A connection is used by one thread at a time. A forked child opens its own.
2. A read is sent again, to any server, until the address's time-out. An append is not: `Appender` first finds
   out whether it was stored.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from evlog.engines.nats.session import CONNECT_SECONDS, Denied, Lost, NoResponder, NotConnected, Session
from evlog.engines.waiting import Pause
from evlog.errors import StoreAccessDenied, StoreClosed, StoreUnreachable
from evlog.process.forks import register_fork_reset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from evlog.engines.nats.address import Address

Result = TypeVar("Result")

ANSWER_SECONDS: Final = 4.0
"""The time-out of one answer. A cluster elects a leader in a second or two."""
_LEAST_SECONDS: Final = 0.05  # the shortest time-out of a try: the last one has little time left


class Connections:
    """Connections to any of the servers."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._mutex = threading.Lock()  # guards the three below
        self._idle: list[Session] = []
        self._servers = list(address.servers)  # the one that answered last is first
        self._closed = False
        register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Leave the connections to the parent."""
        self._mutex = threading.Lock()
        self._idle = []

    def close(self) -> None:
        """Close the idle connections; those in use are closed when they are given back."""
        with self._mutex:
            self._closed = True
        self._forget_idle()

    def check_open(self) -> None:
        """Raise StoreClosed after `close`."""
        if self._closed:
            raise StoreClosed(self.address.text)

    def take(self, end: float | None = None) -> Session:
        """Return a connection, which the caller gives back.

        Args:
            end: until when one is tried to make, with an equal share of the time for each server; None: for
                the address's time-out.

        Raises:
            NotConnected: no server answered.
        """
        self.check_open()
        if end is None:
            end = time.monotonic() + self.address.timeout_seconds
        with self._mutex:
            while self._idle:
                session = self._idle.pop()
                if not session.has_ended():  # else what is sent would count as lost, and not as never sent
                    return session
                session.close()
            servers = list(self._servers)
        reasons = []
        for tried, server in enumerate(servers):
            share = (end - time.monotonic()) / (len(servers) - tried)
            try:
                session = Session(self.address, *server, max(_LEAST_SECONDS, min(share, CONNECT_SECONDS)))
            except Lost as error:
                reasons.append(str(error))
                continue
            except Denied as error:
                raise self.denied(error) from None
            with self._mutex:
                self._servers = [server, *(other for other in self._servers if other != server)]
                self._learn(session)
            return session
        raise NotConnected("; ".join(reasons))

    def give_back(self, session: Session) -> None:
        """Keep a connection for the next user, unless it is broken or belongs to a parent."""
        if session.pid != os.getpid():
            return
        with self._mutex:
            if not self._closed and not session.is_broken:
                session.forget()
                self._idle.append(session)
                return
        session.close()

    @contextmanager
    def lend(self, end: float | None = None) -> Iterator[Session]:
        """Lend a connection. After a failure it is closed, and so are the idle ones.

        Args:
            end: as for `take`.
        """
        session = self.take(end)
        try:
            yield session
        except Denied as error:
            raise self.denied(error) from None
        except Lost:
            session.close()
            self._forget_idle()
            raise
        except BaseException:
            session.close()  # an answer may still arrive
            raise
        finally:
            self.give_back(session)

    def retry(
        self, operation: Callable[[Session, float], Result], timeout_seconds: float | None = None
    ) -> Result:
        """Return what an operation returns; call it again while servers cannot answer.

        Args:
            operation: gets a connection, and until when an answer is waited for.
            timeout_seconds: for how long; None: the address's.

        Raises:
            StoreUnreachable: the time is over.
        """
        if timeout_seconds is None:
            timeout_seconds = self.address.timeout_seconds
        end = time.monotonic() + timeout_seconds
        pause = Pause(end)
        while True:
            try:
                with self.lend(end) as session:
                    return operation(session, min(end, time.monotonic() + ANSWER_SECONDS))
            except (Lost, NoResponder) as error:
                if not pause.take():
                    raise self.unreachable(error) from None

    def unreachable(self, error: Exception) -> StoreUnreachable:
        """Return the error for servers that do not answer."""
        reason = str(error) or "no server leads the stream; too few are running"
        return StoreUnreachable(self.address.text, reason)

    def denied(self, error: Exception) -> StoreAccessDenied:
        """Return the error for what a server refuses to its user."""
        return StoreAccessDenied(self.address.text, str(error))

    def _forget_idle(self) -> None:
        with self._mutex:
            idle, self._idle = self._idle, []
        for session in idle:
            session.close()

    def _learn(self, session: Session) -> None:
        """Add the servers that a server of the cluster names. The caller has the mutex."""
        for url in session.info.get("connect_urls", ()):
            host, _, port = url.rpartition(":")
            server = (host.strip("[]"), int(port))
            if server not in self._servers and len(self._servers) < 32:
                self._servers.append(server)
