"""Following a store in NATS: a consumer that pushes the headers of new messages, and polling each second.

1. A consumer delivers only messages that a majority has stored, so no failure takes them back.
2. The consumer is in one server's memory. When that server ends, the feed makes another one. Until then, and
   if a message was lost, the feed finds new events by asking the leader every second.
"""

from __future__ import annotations

import json
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from evlog.engines.following import ServerFeed
from evlog.engines.messages import POSITION, TIME
from evlog.engines.nats.connections import ANSWER_SECONDS
from evlog.engines.nats.jetstream import Stored
from evlog.engines.nats.session import Denied, Lost, NoResponder, Session
from evlog.errors import StoreNotFound, StoreUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from evlog.engines.nats.jetstream import JetStream
    from evlog.engines.nats.reading import Reader
    from evlog.model.events import Event
    from evlog.model.filters import EventFilter, LogSelection

_LOOK_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 0.05
_INACTIVE_NANOSECONDS: Final = 30_000_000_000  # the server removes a consumer whose client has left
_LONG_SECONDS: Final = 1e6


class NatsFeed(ServerFeed):
    """One follower's view of the log. For one thread at a time, except `wake`."""

    def __init__(
        self,
        jetstream: JetStream,
        reader: Reader,
        subject: str,
        filter: EventFilter,
        read_all: Callable[[LogSelection], Iterator[Event]],
    ) -> None:
        self._session: Session | None = None
        super().__init__(filter, read_all)
        self._jetstream = jetstream
        self._reader = reader
        self._subject = subject

    def wait(self, after: int, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + min(timeout_seconds, _LONG_SECONDS)
        if self._session is None or self._session.is_broken or self._session.pid != os.getpid():
            self._begin()
        while self._committed <= after:
            now = time.monotonic()
            if now >= deadline:
                return False
            if self._listen(min(deadline, now + _LOOK_SECONDS)):
                return False
            if self._committed <= after and time.monotonic() - now >= _LOOK_SECONDS * 0.9:
                self._check(after)
        return True

    def close(self) -> None:
        """Close the connection, with which the consumer ends."""
        session, self._session = self._session, None
        if session is not None and session.pid == os.getpid():
            session.close()
        super().close()

    def _look(self) -> None:
        connections = self._jetstream.connections
        deadline = time.monotonic() + connections.address.timeout_seconds
        while True:
            try:
                seconds = min(ANSWER_SECONDS, max(0.0, deadline - time.monotonic()))
                tail = self._ask(partial(self._reader.tail, seconds), connections.address.text)
                break
            except StoreUnreachable:
                if self._waking.is_set() or time.monotonic() >= deadline:
                    raise
        # While it is connected, the store was not restored: the servers were not started again.
        self._is_doubtful |= self._session is None or self._session.has_ended()
        position = tail.number(POSITION)
        if position < self._committed:
            self._reader.state()  # raises StoreReplaced if it is another store's
        if self._continues(position, connections.address.text):
            self._committed, self._mark = position, (position, tail.number(TIME))

    def _listen(self, deadline: float) -> bool:
        """Wait for pushed messages until the deadline or the first one; return whether `wake` was called."""
        session = self._session
        if session is None or session.is_broken:
            self._begin()
            return False
        try:
            message = session.poll(deadline, self._waking.fileno())
        except Lost:
            session.close()
            return False
        except Denied as error:
            raise self._jetstream.connections.denied(error) from None
        self._waking.drain()
        if self._waking.take():
            return True
        try:
            while message is not None:  # and all others that have arrived
                if POSITION in message.headers:
                    pushed = Stored(0, self._subject, message.headers, b"")
                    position = pushed.number(POSITION)
                    if position > self._committed:
                        self._committed, self._mark = position, (position, pushed.number(TIME))
                message = session.poll(0.0, self._waking.fileno())
        except Lost:
            session.close()
        return False

    def _check(self, after: int) -> None:
        """Ask the leader. If it has a new message that was not pushed, have the consumer made again."""
        self._is_doubtful = True  # the stream may have been restored, too
        self._look()
        if self._committed > after and self._session is not None:
            self._session.close()

    def _begin(self) -> None:
        """Connect, and make a consumer of the messages from now on."""
        if self._session is not None and self._session.pid == os.getpid():
            self._session.close()
        connections = self._jetstream.connections
        pause_until = time.monotonic() + connections.address.timeout_seconds
        while True:
            connections.check_open()
            try:
                self._session = self._ask(self._listening, connections.address.text, Session.close)
                self._is_doubtful = True
                break
            except (Lost, NoResponder) as error:
                if self._waking.is_set() or time.monotonic() > pause_until:
                    raise connections.unreachable(error) from None
                self._waking.wait(_RETRY_SECONDS)
            except Denied as error:
                raise connections.denied(error) from None
        self._look()  # for messages from before the consumer

    def _listening(self) -> Session:
        """Return a connection that a new consumer sends messages to."""
        session = self._jetstream.connections.take()
        try:
            inbox = b"_INBOX.evlog." + os.urandom(12).hex().encode()
            session.subscribe(inbox)
            self._make_consumer(session, inbox)
        except BaseException:
            session.close()
            raise
        return session

    def _make_consumer(self, session: Session, inbox: bytes) -> None:
        stream, name = self._jetstream.stream, os.urandom(8).hex()
        question = {
            "stream_name": stream,
            "action": "create",
            "config": {
                "name": name,
                "deliver_subject": inbox.decode(),
                "deliver_policy": "new",
                "ack_policy": "none",
                "filter_subject": self._subject,
                "headers_only": True,
                "mem_storage": True,
                "num_replicas": 1,
                "inactive_threshold": _INACTIVE_NANOSECONDS,
            },
        }
        subject = f"$JS.API.CONSUMER.CREATE.{stream}.{name}.{self._subject}"
        deadline = time.monotonic() + ANSWER_SECONDS
        error = session.request_json(subject, json.dumps(question).encode(), deadline).get("error")
        if error is not None:
            failure = self._jetstream.failure(error)
            raise failure if isinstance(failure, StoreNotFound) else Lost(str(error.get("description")))
