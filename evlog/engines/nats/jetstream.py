"""JetStream's requests, as the engine needs them. Sequences are JetStream's: places of messages in a stream.

1. The leader of a stream answers a get of one message. Any replica answers a get of a batch, and may be
   behind. So the leader says which message is the last one of a filter, and batches are requested until it
   arrives.
2. A get of the last messages of several subjects is one replica's view of one moment: its answer says up to
   which sequence that replica was. A server ends an answer at its `max_pending`, 64 MiB by default, and says
   how many messages are left. They are requested until none is.
3. A stream may be deleted and made again under its name, as another store. What a request finds, or does not
   find, is this store's if the control message that was found with it, or after it, names this store.
"""

from __future__ import annotations

import json
import os
import re
import time
from base64 import b64decode
from typing import TYPE_CHECKING, Final, NamedTuple

from evlog.engines.nats.connections import ANSWER_SECONDS, Connections
from evlog.engines.nats.session import Lost, NoResponder, Session, parse_headers
from evlog.engines.waiting import Pause
from evlog.errors import (
    CorruptionError,
    EngineError,
    StoreAccessDenied,
    StoreFull,
    StoreNotFound,
    StoreReplaced,
    StoreUnreachable,
    UnsupportedFormat,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

BATCH: Final = 1000
"""The most messages in an atomic batch, and in one answer."""

STORE: Final = "Evlog-Store"
"""The header of control messages that names the store's id."""

FORMAT: Final = 2
FORMAT_HEADER: Final = "Evlog-Format"
"""The header of control messages that tells programs with the store open of a newer format."""

_CHECK_SECONDS: Final = 1.0
_NOT_FOUND: Final = (b"404", 10037)
_NO_STREAM: Final = 10059
_WRONG_SEQUENCE: Final = (10070, 10071, 10164)
_FULL: Final = (10023, 10047, 10077, 10028, 10002)
# The request is right, but a leader is missing or was just elected, or the server is overloaded.
_TRANSIENT: Final = (10008, 10009, 10167, 10176, 10210)
_SEQUENCE: Final = "Nats-Sequence"


class WrongSequence(Exception):
    """A stream does not end where a message expected it; nothing was written."""


class Stored(NamedTuple):
    """A message as it is stored."""

    sequence: int
    subject: str
    headers: dict[str, bytes]
    data: bytes

    def number(self, header: str) -> int:
        """Return a header that is a number. Raises CorruptionError: evlog has not stored the message."""
        try:
            return int(self.headers[header])
        except (LookupError, ValueError):
            raise self.damaged(f"its header {header} is missing, or no number") from None

    def damaged(self, detail: str) -> CorruptionError:
        """Return the error for a message that evlog has not stored so."""
        return CorruptionError(f"message {self.sequence} of {self.subject}", None, detail)


class Outgoing(NamedTuple):
    """A message that is to be stored."""

    subject: bytes
    headers: bytes  # lines, each with its end
    data: bytes


class JetStream:
    """One stream of JetStream.

    Attributes:
        first_sequence: at which its sequences begin.
        store_id: of the store that was opened.
        control: the subject whose last message names the store; empty: of a bucket, which has none.
    """

    def __init__(self, connections: Connections, stream: str) -> None:
        self.connections = connections
        self.stream = stream
        self.first_sequence = 1
        self.store_id = ""
        self.control = ""

    # --- the stream

    def call(self, operation: str, question: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request of JetStream's API about this stream. Raises StoreNotFound."""
        subject, data = f"$JS.API.{operation}.{self.stream}", json.dumps(question).encode()

        def ask(session: Session, deadline: float) -> dict[str, Any]:
            answer = session.request_json(subject, data, deadline)
            if answer.get("error", {}).get("err_code") in _TRANSIENT:
                raise Lost(answer["error"]["description"])
            return answer

        answer = self.connections.retry(ask)
        if "error" in answer:
            raise self.failure(answer["error"])
        return answer

    def check_there(self) -> None:
        """Raise StoreNotFound if a server says at once that there is no such stream."""
        subject = f"$JS.API.STREAM.INFO.{self.stream}"
        try:
            answer = self.connections.retry(
                lambda session, deadline: session.request_json(subject, b"", deadline), _CHECK_SECONDS
            )
        except StoreUnreachable:
            return
        if answer.get("error", {}).get("err_code") == _NO_STREAM:
            raise StoreNotFound(self.connections.address.text, was_open=True)

    def failure(self, error: dict[str, Any]) -> Exception:
        """Return evlog's error for an error of the server."""
        code, text = error.get("err_code"), str(error.get("description"))
        where = self.connections.address.text
        if code == _NO_STREAM:
            return StoreNotFound(where, was_open=True)
        if code in _FULL or "insufficient" in text or "exceeded" in text:
            return StoreFull(where, text)
        if "not authorized" in text or error.get("code") == 403:
            return StoreAccessDenied(where, text)
        return EngineError(where, text)

    # --- reading

    def last(self, filter: str) -> Stored | None:
        """Return the last message whose subject matches a filter, as the leader has it."""
        return self._get({"last_by_subj": filter})

    def last_control(self) -> Stored:
        """Return the last control message, as the leader has it. Raises StoreReplaced."""
        return self._own(self.last(self.control))

    def last_and_control(
        self, filter: str, timeout_seconds: float | None = None
    ) -> tuple[Stored | None, Stored]:
        """Return the last messages of a filter and of control, this one not earlier. Raises StoreReplaced."""
        subject = f"$JS.API.STREAM.MSG.GET.{self.stream}"

        def ask(session: Session, deadline: float) -> list[Stored | None]:
            data = [json.dumps({"last_by_subj": each}).encode() for each in (filter, self.control)]
            inboxes = [session.ask(subject, each) for each in data]
            return [self._stored(session.receive(inbox, deadline).data) for inbox in inboxes]

        last, control = self.connections.retry(ask, timeout_seconds)
        return last, self._own(control)

    def _own(self, control: Stored | None) -> Stored:
        """Return a control message of this store.

        Raises:
            StoreReplaced: it is another store's. UnsupportedFormat: a newer evlog has changed the store.
        """
        found, own = self.needed(control), self.store_id.encode()
        if found.headers.get(STORE, own) != own:
            raise StoreReplaced(self.connections.address.text)
        if FORMAT_HEADER in found.headers and (format := found.number(FORMAT_HEADER)) > FORMAT:
            raise UnsupportedFormat(self.connections.address.text, format, FORMAT)
        return found

    def needed(self, stored: Stored | None) -> Stored:
        """Return a message that every store has. Raises CorruptionError: another program has removed it."""
        if stored is None:
            reason = f"another program has removed messages from stream {self.stream}"
            raise CorruptionError(self.connections.address.text, None, reason)
        return stored

    def get(self, sequence: int) -> Stored | None:
        """Return the message with a sequence, as the leader has it."""
        return self._get({"seq": sequence})

    def next(self, filter: str, sequence: int) -> Stored | None:
        """Return the first message of a filter from a sequence on, as the leader has it."""
        return self._get({"seq": max(1, sequence), "next_by_subj": filter})

    def _get(self, question: dict[str, Any]) -> Stored | None:
        data = json.dumps(question).encode()
        subject = f"$JS.API.STREAM.MSG.GET.{self.stream}"

        def ask(session: Session, deadline: float) -> Stored | None:
            return self._stored(session.request(subject, data, deadline).data)

        return self.connections.retry(ask)

    def _stored(self, raw: bytes) -> Stored | None:
        answer = json.loads(raw)
        if "error" in answer:
            if answer["error"].get("err_code") in _NOT_FOUND:
                return None
            if answer["error"].get("err_code") in _TRANSIENT:
                raise Lost(answer["error"]["description"])
            raise self.failure(answer["error"])
        found = answer["message"]
        headers = parse_headers(b64decode(found["hdrs"]))[1] if "hdrs" in found else {}
        return Stored(found["seq"], found["subject"], headers, b64decode(found.get("data", "")))

    def scan(self, filter: str, first: int, last: int) -> Iterator[Stored]:
        """Iterate over the messages of a filter between two sequences; see `chunks`."""
        for found in self.chunks(filter, first, last):
            yield from found

    def chunks(self, filter: str, first: int, last: int) -> Iterator[list[Stored]]:
        """Iterate over the messages of a filter between two sequences, many at a time.

        Args:
            last: of a message that the leader has shown. Replicas that do not have it are asked again.
        """
        at = first
        pause = None
        while at <= last:
            found = self.connections.retry(
                lambda session, deadline, at=at: self._batch(  # type: ignore[misc]
                    session,
                    {"seq": max(1, at), "next_by_subj": filter, "batch": min(BATCH, last - at + 1)},
                    deadline,
                )
            )
            if found:
                at, pause = found[-1].sequence + 1, None
                while found and found[-1].sequence > last:
                    found.pop()
                if found:
                    yield found
                continue
            following = self.next(filter, at)  # the replica is behind, or what was last is removed
            if following is None or following.sequence > last:
                return
            pause = pause or Pause(time.monotonic() + self.connections.address.timeout_seconds)
            if not pause.take():
                raise self._behind()

    def look(self, subjects: Sequence[str]) -> tuple[Stored, dict[str, Stored], int]:
        """Return the stream's last message, the last ones of subjects, and the sequence these are as of.

        Args:
            subjects: without wildcards, fewer than `BATCH`. The last control message is found, too.

        Raises:
            CorruptionError: there is no control message. StoreReplaced: it is another store's.
        """
        anchor = self.control

        def ask(session: Session, deadline: float) -> tuple[Stored | None, dict[str, Stored], int]:
            subject = f"$JS.API.STREAM.MSG.GET.{self.stream}"
            end = session.ask(subject, json.dumps({"last_by_subj": ">"}).encode())
            tail: Stored | None = None
            found: dict[str, Stored] = {}
            rest, up_to = list(subjects), None
            while rest or up_to is None:
                fitting = _fitting(rest, int(session.info.get("max_payload", 1 << 20)) // 2)
                inbox = self._ask(session, {"multi_last": [anchor, *rest[:fitting]]})
                if up_to is None:
                    tail = self._stored(session.receive(end, deadline).data)
                some, as_of, left = self._receive(session, inbox, deadline)
                found |= {each.subject: each for each in some}
                rest = [*(name for name in rest[:fitting] if left and name not in found), *rest[fitting:]]
                up_to = as_of if up_to is None else min(up_to, as_of)
            return tail, found, up_to

        tail, found, up_to = self.connections.retry(ask)
        if anchor not in found:  # the replica is behind, or there is none
            self.last_control()
            up_to = 0
        else:
            self._own(found[anchor])
        return self.needed(tail), found, up_to

    def look_at_end(self, subjects: Sequence[str]) -> tuple[Stored, Stored, dict[str, Stored]]:
        """Return the last message, and the last control one and those of subjects as of it.

        Raises as `look`.
        """
        for tail, found, up_to in self._looks(subjects):
            if up_to == tail.sequence:
                return tail, found[self.control], found
        raise self._behind()

    def _looks(self, subjects: Sequence[str]) -> Iterator[tuple[Stored, dict[str, Stored], int]]:
        """Iterate over what `look` returns until the address's time-out."""
        end = time.monotonic() + self.connections.address.timeout_seconds
        while time.monotonic() < end:
            yield self.look(subjects)

    def _behind(self) -> StoreUnreachable:
        return self.connections.unreachable(Lost("a replica does not catch up"))

    def last_of_each(self, subjects: Sequence[str]) -> dict[str, Stored]:
        """Return the last messages of subjects without wildcards, from a replica that is not behind."""
        found: dict[str, Stored] = {}
        for at in range(0, len(subjects), BATCH - 1):
            least = 0
            for tail, last, up_to in self._looks(subjects[at : at + BATCH - 1]):
                least = least or tail.sequence
                if up_to >= least:
                    found |= last
                    break
            else:
                raise self._behind()
        return found

    def _batch(self, session: Session, question: dict[str, Any], deadline: float) -> list[Stored]:
        try:
            return self._receive(session, self._ask(session, question), deadline)[0]
        except (Lost, NoResponder):  # what no server answers, either, about a stream that was deleted
            self.check_there()
            raise

    def _ask(self, session: Session, question: dict[str, Any]) -> bytes:
        return session.ask(f"$JS.API.DIRECT.GET.{self.stream}", json.dumps(question).encode())

    def _receive(self, session: Session, inbox: bytes, deadline: float) -> tuple[list[Stored], int, int]:
        """Return the messages of a batch, up to which sequence they were looked for, and how many are left.

        The numbers are 0 where the server does not say them.
        """
        found: list[Stored] = []
        while True:
            message = session.receive(inbox, deadline)
            headers = message.headers
            if message.status or _SEQUENCE not in headers:
                if message.status not in (b"204", b"404"):
                    raise EngineError(self.connections.address.text, f"status {message.status.decode()}")
                up_to, left = headers.get("Nats-UpTo-Sequence", b"0"), headers.get("Nats-Num-Pending", b"0")
                return found, int(up_to), int(left)
            found.append(
                Stored(int(headers[_SEQUENCE]), headers["Nats-Subject"].decode(), headers, message.data)
            )

    # --- writing

    def publish(self, messages: Sequence[Outgoing], condition: bytes = b"") -> int:
        """Store messages, all or none, and return the sequence of the last.

        Args:
            condition: a header line that says when they may be stored.

        Raises:
            WrongSequence: the condition does not hold, or one in the messages' own headers.
            Lost: they may be stored or not.
            NoResponder: they are not.
        """
        with self.connections.lend() as session:
            inbox = session.new_inbox()
            session.send(self._encode(messages, condition, inbox))
            answer = json.loads(session.receive(inbox, time.monotonic() + ANSWER_SECONDS).data)
        if "error" not in answer:
            return int(answer["seq"])
        error = answer["error"]
        if error.get("err_code") in _WRONG_SEQUENCE:
            raise WrongSequence(str(error.get("description")))
        if error.get("err_code") in _TRANSIENT:
            raise Lost(str(error.get("description")))
        raise self.failure(error)

    def _encode(self, messages: Sequence[Outgoing], condition: bytes, inbox: bytes) -> bytes:
        if len(messages) == 1:
            ((subject, headers, data),) = messages
            lines = b"NATS/1.0\r\n%b%b\r\n" % (condition, headers)
            sizes = (len(lines), len(lines) + len(data))
            return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject, inbox, *sizes, lines, data)
        batch = b"%b" % os.urandom(12).hex().encode()
        parts = []
        last = len(messages)
        for number, (subject, headers, data) in enumerate(messages, 1):
            own = condition if number == 1 else b"Nats-Batch-Commit: 1\r\n" if number == last else b""
            lines = b"NATS/1.0\r\nNats-Batch-Id: %b\r\nNats-Batch-Sequence: %d\r\n%b%b\r\n" % (
                batch, number, own, headers,
            )  # fmt: skip
            reply = inbox + b" " if number == last else b""
            parts.append(
                b"HPUB %b %b%d %d\r\n%b%b\r\n"
                % (subject, reply, len(lines), len(lines) + len(data), lines, data)
            )
        return b"".join(parts)

    def purge(self, subject: str, before: int) -> int:
        """Remove the messages of a subject with sequences below another; return how many there were."""
        return int(self.call("STREAM.PURGE", {"filter": subject, "seq": before})["purged"])

    def erase(self, sequence: int) -> None:
        """Remove a message, and overwrite its bytes."""
        try:
            self.call("STREAM.MSG.DELETE", {"seq": sequence})
        except EngineError as error:
            if not re.search("not found|no message|EOF", error.reason):
                raise


def _fitting(subjects: Sequence[str], most_bytes: int) -> int:
    """Return how many of the first subjects are together at most so long, at least one."""
    size = 0
    for number, subject in enumerate(subjects):
        size += len(subject) + 4  # quotes, a comma and a space
        if size > most_bytes and number:
            return number
    return len(subjects)


def publish_one(jetstream: JetStream, subject: str, data: bytes, headers: bytes) -> int:
    """Store one message, on the conditions in its headers, and return its sequence. Raises as `publish`."""
    return jetstream.publish([Outgoing(subject.encode(), headers, data)])
