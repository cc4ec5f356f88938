"""One connection to a NATS server, for one thread at a time: the client protocol, as text lines and payloads.

1. A request has an inbox of its own, so a late answer to an earlier request is never taken for its answer.
2. A batch of a thousand messages is sent by one write: the client protocol is lines of text, and evlog has
   all of them before it sends the first. nats-py would run a coroutine for each.
3. After any failure the connection is closed. `Connections` decides what is sent again.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from evlog.errors import InvalidArgument

if TYPE_CHECKING:
    from typing import Any

    from evlog.engines.nats.address import Address

_RECEIVE_BYTES: Final = 1 << 18
CONNECT_SECONDS: Final = 5.0
"""The time-out of a connection attempt."""
_SEND_SECONDS: Final = 4  # for how long a server may take nothing of what is sent to it
_PUSHED: Final = b"2"
_STATUS_LINE: Final = b"NATS/1.0"
_ENDED: Final = getattr(select, "POLLRDHUP", 0)  # of Linux; other systems report POLLHUP unasked


class Lost(Exception):
    """The connection was lost, or the server did not answer in time."""


class NotConnected(Lost):
    """No connection could be made: nothing was sent."""


class Denied(Exception):
    """The server refuses the user, or what the user does."""


class NoResponder(Exception):
    """No server answers requests on this subject now: nothing was received."""


class Message(NamedTuple):
    """What was received."""

    subject: bytes
    subscription: bytes  # b"1": an answer in this connection's inbox
    status: bytes  # of a message without content: b"404", b"503"; else empty
    headers: dict[str, bytes]
    data: bytes


class Session:
    """A connection, made within the given time. Raises Lost, Denied and NoResponder."""

    def __init__(self, address: Address, host: str, port: int, timeout_seconds: float) -> None:
        self.info: dict[str, Any] = {}
        self.is_broken = self._has_begun = False
        self.pid = os.getpid()
        self._buffer = bytearray()
        self._at = 0  # where the unread part of the buffer begins
        self._inbox = b"_INBOX." + os.urandom(12).hex().encode()
        self._requests = 0
        self._early: dict[bytes, list[Message]] = {}  # answers to other requests than the one waited for
        deadline = time.monotonic() + timeout_seconds
        try:
            self._socket = socket.create_connection((host, port), timeout_seconds)
        except OSError as error:
            raise Lost(f"{host}:{port}: {error.strerror or error}") from None
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            most = struct.pack("ll", _SEND_SECONDS, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, most)
            self._begin(address, host, deadline)
            self._end = select.poll()
            self._end.register(self._socket, _ENDED)
        except (OSError, Lost) as error:
            self.close()
            raise Lost(f"{host}:{port}: {error}") from None
        except BaseException:
            self.close()
            raise

    def _begin(self, address: Address, host: str, deadline: float) -> None:
        line = self._line(deadline)
        if not line.startswith(b"INFO "):
            raise Lost("it is not a NATS server")
        self.info = json.loads(line[5:])
        if address.uses_tls or self.info.get("tls_required"):
            import ssl

            try:
                context = ssl.create_default_context(cafile=address.ca)
            except OSError as error:
                raise InvalidArgument(f"the certificates {address.ca!r} cannot be read ({error})") from None
            self._socket = context.wrap_socket(self._socket, server_hostname=host)
        self._socket.settimeout(None)
        options = {
            "verbose": False,
            "pedantic": False,
            "lang": "evlog",
            "version": "1",
            "protocol": 1,
            "headers": True,
            "no_responders": True,
            "name": "evlog",
        } | _credentials(address)
        self.send(b"CONNECT %b\r\nSUB %b.* 1\r\nPING\r\n" % (json.dumps(options).encode(), self._inbox))
        while self._line(deadline) != b"PONG":
            pass
        self._has_begun = True

    def close(self) -> None:
        """Close it."""
        self.is_broken = True
        self._socket.close()

    def has_ended(self) -> bool:
        """Return whether the server has ended the connection, also if what it has sent is not read yet."""
        return self.is_broken or bool(self._end.poll(0))

    def send(self, raw: bytes | bytearray) -> None:
        """Send lines of the protocol."""
        try:
            self._socket.sendall(raw)
        except BlockingIOError:
            self.is_broken = True
            raise Lost("the server takes no data") from None
        except OSError as error:
            self.is_broken = True
            raise Lost(str(error.strerror or error)) from None

    def new_inbox(self) -> bytes:
        """Return a subject whose messages this connection receives; answers to others are dropped."""
        self._requests += 1
        return b"%b.%d" % (self._inbox, self._requests)

    def ask(self, subject: str, data: bytes) -> bytes:
        """Send a request; return the inbox where `receive` finds the answer."""
        inbox = self.new_inbox()
        self.send(b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), inbox, len(data), data))
        return inbox

    def request(self, subject: str, data: bytes, deadline: float) -> Message:
        """Send a request and return its answer."""
        return self.receive(self.ask(subject, data), deadline)

    def request_json(self, subject: str, data: bytes, deadline: float) -> dict[str, Any]:
        """Send a request and return its answer, which is a JSON object."""
        answer: dict[str, Any] = json.loads(self.request(subject, data, deadline).data)
        return answer

    def receive(self, inbox: bytes, deadline: float) -> Message:
        """Return the next message in an inbox."""
        while True:
            early = self._early.get(inbox)
            message = early.pop(0) if early else self._next(deadline)
            if message.subject != inbox:
                self._early.setdefault(message.subject, []).append(message)
                continue
            if message.status == b"503":
                raise NoResponder
            return message

    def forget(self) -> None:
        """Drop answers that arrived too late: another thread uses the connection next."""
        self._early.clear()

    def subscribe(self, subject: bytes) -> None:
        """Receive the messages of a subject, too."""
        self.send(b"SUB %b %b\r\n" % (subject, _PUSHED))

    def poll(self, deadline: float, wake: int) -> Message | None:
        """Return the next message that `subscribe` brings; None if the time is over or `wake` is readable.

        What a consumer pushes has the subject that it was stored with, or the consumer's: the servers decide.
        """
        while True:
            if self._has_message():
                message = self._next(time.monotonic() + CONNECT_SECONDS)  # the rest of it is on its way
                if message.subscription == _PUSHED:
                    return message
                continue
            waiter = select.poll()
            waiter.register(self._socket, select.POLLIN)
            waiter.register(wake, select.POLLIN)
            left = deadline - time.monotonic()
            ready = [number for number, _ in waiter.poll(max(0.0, min(left, 1e6)) * 1000)]
            if wake in ready or not ready:
                return None
            self._fill(time.monotonic() + CONNECT_SECONDS)

    # --- parsing

    def _has_message(self) -> bool:
        return self._buffer.find(b"\r\n", self._at) >= 0

    def _next(self, deadline: float) -> Message:
        while True:
            line = self._line(deadline)
            if line[:5] == b"HMSG ":
                words = line.split(b" ")
                header, total = int(words[-2]), int(words[-1])
                raw = self._take(total + 2, deadline)
                status, headers = parse_headers(raw[:header])
                return Message(words[1], words[2], status, headers, raw[header:total])
            if line[:4] == b"MSG ":
                words = line.split(b" ")
                raw = self._take(int(words[-1]) + 2, deadline)
                return Message(words[1], words[2], b"", {}, raw[:-2])

    def _line(self, deadline: float) -> bytes:
        """Return the next line that is not a ping, an error or information about the server."""
        while True:
            end = self._buffer.find(b"\r\n", self._at)
            if end < 0:
                self._fill(deadline)
                continue
            line = bytes(self._buffer[self._at : end])
            self._at = end + 2
            if line == b"PING":
                self.send(b"PONG\r\n")
            elif line[:4] == b"-ERR":
                self._refuse(line[4:].strip(b" '").decode(errors="replace"))
            elif line[:5] == b"INFO " and self.info:
                self.info |= json.loads(line[5:])
            else:
                return line

    def _refuse(self, text: str) -> None:
        self.is_broken = True
        lower = text.lower()
        is_begin = not self._has_begun and ("authorization" in lower or "authentication" in lower)
        if is_begin or "permissions" in lower:
            raise Denied(text)
        raise Lost(text)  # also of a user that is refused from now on: what it has sent may be done

    def _take(self, count: int, deadline: float) -> bytes:
        while len(self._buffer) - self._at < count:
            self._fill(deadline)
        raw = bytes(self._buffer[self._at : self._at + count])
        self._at += count
        return raw

    def _fill(self, deadline: float) -> None:
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        left = deadline - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(min(left, 1e6))
            raw = self._socket.recv(_RECEIVE_BYTES)
        except TimeoutError:
            self.is_broken = True
            raise Lost("no answer in time") from None
        except OSError as error:
            self.is_broken = True
            raise Lost(str(error.strerror or error)) from None
        finally:
            if self._socket.fileno() >= 0:
                self._socket.settimeout(None)
        if not raw:
            self.is_broken = True
            raise Lost("the server closed the connection")
        self._buffer += raw


def parse_headers(raw: bytes) -> tuple[bytes, dict[str, bytes]]:
    """Return the status and the headers of a message."""
    first, *lines = raw[:-4].split(b"\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(b": ")
        headers[name.decode()] = value
    return first[len(_STATUS_LINE) + 1 :][:3], headers


def _credentials(address: Address) -> dict[str, Any]:
    if address.user is not None:
        return {"user": address.user, "pass": address.password or ""}
    return {"auth_token": address.token} if address.token else {}
