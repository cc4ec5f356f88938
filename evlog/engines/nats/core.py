"""What the parts of the engine share, and opening or creating a store's streams."""

from __future__ import annotations

import json
import re
import time
from random import SystemRandom
from typing import TYPE_CHECKING, Final
from uuid import UUID

from evlog.engines.keyed import StoreRecords
from evlog.engines.messages import POSITION
from evlog.engines.nats.appends import Appender
from evlog.engines.nats.connections import Connections
from evlog.engines.nats.jetstream import FORMAT, JetStream, WrongSequence
from evlog.engines.nats.layout import Control, Subjects, encode_control
from evlog.engines.nats.reading import Reader
from evlog.engines.nats.records import Records
from evlog.engines.nats.session import Lost, NoResponder
from evlog.engines.waiting import Pause
from evlog.errors import NotAStore, ServerUnsuitable, StoreNotFound, UnsupportedFormat
from evlog.model.events import id_text, make_ids

if TYPE_CHECKING:
    from typing import Any

    from evlog.engines.nats.address import Address
    from evlog.engines.nats.session import Session

OLDEST: Final = (2, 15)
"""The first version whose checks of an atomic batch are right (nats-server issue 8376)."""

_FIRST_BITS: Final = 39  # an id has room for sequences of 40 bits
_ID: Final = "evlog.id"
_FORMAT: Final = "evlog.format"
_IN_USE: Final = (10058, 10052)
_NO_JETSTREAM: Final = (10039, 10076)


class Core:
    """An open store."""

    def __init__(self, address: Address, *, create: bool, lock_timeout_seconds: float | None) -> None:
        self.address = address
        self.connections = Connections(address)
        try:
            self.max_payload = _check_server(self.connections)
            self.jetstream = JetStream(self.connections, address.stream)
            self.created = self._has_begun = False
            self.config = self._open(create=create)
            self.jetstream.first_sequence = _first_sequence(self.config)
            if (most := int(self.config.get("max_msg_size", -1))) > 0:
                self.max_payload = min(self.max_payload, most)
            self.store_id = _store_id(address, self.config)
            self.subjects = Subjects(address.name, self.store_id)
            self.jetstream.store_id, self.jetstream.control = self.store_id, self.subjects.control
            self.reader = Reader(self.jetstream, self.subjects)
            self.appender = Appender(
                self.connections,
                self.jetstream,
                self.subjects,
                self.reader,
                lock_timeout_seconds,
                self.max_payload,
            )
            self._bucket = JetStream(self.connections, address.bucket)
            bucket = Records(self.connections, self._bucket, self.max_payload, self.make_bucket)
            self.records = StoreRecords(bucket, self.store_id, self.reader.state)
            if not self._has_begun:
                self._begin()
        except BaseException:
            self.connections.close()
            raise
        self.erased: set[int] = set()  # positions of redactions whose events' messages are erased
        self.purged: dict[str, int] = {}  # up to which version of a stream this engine has purged it

    def _open(self, *, create: bool) -> dict[str, Any]:
        try:
            answer = self.jetstream.call("STREAM.INFO", {})
            config: dict[str, Any] = answer["config"]
            self._has_begun = answer["state"]["last_seq"] >= _first_sequence(config)
        except StoreNotFound:
            _check_account(self.connections)
            if not create:
                raise StoreNotFound(self.address.text) from None
            config = self._create()
        _check_config(self.address, config)
        return config

    def _create(self) -> dict[str, Any]:
        store_id = id_text(make_ids(1)[0])
        config = {
            "name": self.address.stream,
            "description": "an event store of evlog",
            "subjects": [Subjects(self.address.name, store_id).all],
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "num_replicas": self._replicas(),
            "allow_direct": True,
            "allow_atomic": True,
            "duplicate_window": 1_000_000_000,  # unused: evlog finds duplicates by its own ids
            "metadata": {_ID: store_id, _FORMAT: str(FORMAT)},
        }
        answer = _create_stream(self.jetstream, config)
        self.created = answer is not None
        if answer is None:  # another process has made it
            answer = self.jetstream.call("STREAM.INFO", {})
        made: dict[str, Any] = answer["config"]
        self.created = made.get("metadata", {}).get(_ID) == store_id
        return made

    def _replicas(self) -> int:
        if self.address.replicas is not None:
            return self.address.replicas
        with self.connections.lend() as session:
            return 3 if session.info.get("cluster") else 1

    def _begin(self) -> None:
        """Store the first message, if that was not done."""
        pause = Pause(time.monotonic() + self.address.timeout_seconds)
        while self.jetstream.last(">") is None:
            try:
                control = encode_control(self.subjects, Control(), 0, 0)
                self.appender.publish_all([control], self.jetstream.first_sequence - 1)
            except WrongSequence:
                pass  # another process has stored it
            except (Lost, NoResponder) as error:  # the next read shows whether it is there
                if not pause.take():
                    raise self.connections.unreachable(error) from None

    def make_bucket(self) -> None:
        """Make the bucket of records."""
        config = {
            "name": self.address.bucket,
            "description": "subscriptions and snapshots of an event store of evlog",
            "subjects": [f"$KV.{self.address.bucket.removeprefix('KV_')}.>"],
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "max_msgs_per_subject": 1,
            "num_replicas": self.config.get("num_replicas", 1),
            "allow_direct": True,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "duplicate_window": 1_000_000_000,
        }
        _create_stream(self._bucket, config)

    def head(self) -> int:
        return self.reader.tail().number(POSITION)


def _create_stream(jetstream: JetStream, config: dict[str, Any]) -> dict[str, Any] | None:
    """Make a stream; None if there is one.

    Its sequences begin at a random one. What is stored or erased names a sequence, and the server checks
    nothing else: a process that still has an earlier stream of that name open must not find its sequences in
    this one. Rejected: the time, because a stream can be made again within any tick of it.
    """
    config["first_seq"] = 1 + SystemRandom().getrandbits(_FIRST_BITS)
    subject, data = f"$JS.API.STREAM.CREATE.{jetstream.stream}", json.dumps(config).encode()
    address = jetstream.connections.address
    end = time.monotonic() + address.timeout_seconds

    def ask(session: Session, deadline: float) -> dict[str, Any]:
        answer = session.request_json(subject, data, deadline)
        error = answer.get("error", {})
        is_beginning = time.monotonic() < end - address.timeout_seconds / 2
        if error.get("err_code") in (10008, 10009, 10005, 10074) and is_beginning:
            raise Lost(str(error.get("description")))  # a cluster that has just started has too few servers
        return answer

    answer = jetstream.connections.retry(ask)
    if "error" not in answer:
        return answer
    code, text = answer["error"].get("err_code"), str(answer["error"].get("description"))
    if code in _IN_USE:
        return None
    if code in (10005, 10074) or "replicas" in text:
        raise ServerUnsuitable(address.text, text, "run more servers, or use ?replicas=1")
    raise jetstream.failure(answer["error"])


def _first_sequence(config: dict[str, Any]) -> int:
    """Return the sequence of the first message of a stream; earlier versions of evlog did not choose it."""
    return int(config.get("first_seq") or 1)


def _check_server(connections: Connections) -> int:
    """Return the largest payload that the server takes, or raise ServerUnsuitable."""
    where, seconds = connections.address.text, connections.address.open_timeout_seconds
    info = connections.retry(lambda session, _: session.info, seconds)
    version = str(info.get("version", "0"))
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST:
        raise ServerUnsuitable(where, f"its NATS server is {version}", "use NATS server 2.15 or newer")
    if not info.get("jetstream"):
        raise ServerUnsuitable(where, "its NATS server runs without JetStream", "enable JetStream")
    return int(info.get("max_payload", 1 << 20))


def _check_account(connections: Connections) -> None:
    """Raise ServerUnsuitable if the user's account has no JetStream."""
    answer = connections.retry(lambda session, deadline: session.request_json("$JS.API.INFO", b"", deadline))
    if answer.get("error", {}).get("err_code") in _NO_JETSTREAM:
        where = connections.address.text
        raise ServerUnsuitable(where, "its account has no JetStream", "enable JetStream for the account")


def _check_config(address: Address, config: dict[str, Any]) -> None:
    """Raise ServerUnsuitable if the stream may lose events, or lacks what an append needs."""
    metadata = config.get("metadata", {})
    if _ID not in metadata:
        raise NotAStore(address.text, "its stream was not made by evlog")
    found = metadata.get(_FORMAT, "")
    if found != str(FORMAT):  # an older one has other subjects
        raise UnsupportedFormat(address.text, int(found) if found.isdecimal() else 0, FORMAT)
    wanted = {
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_age": 0,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "allow_direct": True,
        "allow_atomic": True,
    }
    for name, value in wanted.items():
        if config.get(name) != value:
            reason = f"{name} of stream {address.stream} is {config.get(name)!r}"
            raise ServerUnsuitable(address.text, reason, f"set it to {value!r}")


def _store_id(address: Address, config: dict[str, Any]) -> str:
    try:
        return str(UUID(config["metadata"][_ID]))
    except ValueError:
        raise NotAStore(address.text, "its id is not a UUID") from None
