"""The clients of one store: asking the brokers, making topics, and their errors as evlog's."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import UUID

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec, ResourceType

from evlog.errors import (
    EngineError,
    InvalidArgument,
    ServerUnsuitable,
    StoreAccessDenied,
    StoreClosed,
    StoreNotFound,
    StoreReplaced,
    StoreUnreachable,
)
from evlog.model.named import NamedTuple
from evlog.process.threads import interruptible, without_signals

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from evlog.engines.kafka.address import Address
    from evlog.errors import EvlogError

ANSWER_SECONDS: Final = 10.0  # of one question to the brokers
_UNKNOWN_SECONDS: Final = 5.0  # a broker that starts may not know its topics yet
_REMADE_SECONDS: Final = 0.5  # a topic is not deleted and made again in a shorter time
_LOOK_SECONDS: Final = 1.0
_CREATE_SECONDS: Final = 30.0
_RETRY_PAUSE_SECONDS: Final = 0.2
_MOST_REPLICAS: Final = 3


def _codes(names: str) -> frozenset[int]:
    return frozenset(getattr(KafkaError, name) for name in names.split())


_DENIED: Final = _codes(
    "_AUTHENTICATION SASL_AUTHENTICATION_FAILED TOPIC_AUTHORIZATION_FAILED "
    "GROUP_AUTHORIZATION_FAILED CLUSTER_AUTHORIZATION_FAILED "
    "TRANSACTIONAL_ID_AUTHORIZATION_FAILED _SSL"
)
_MISSING: Final = _codes("UNKNOWN_TOPIC_OR_PART _UNKNOWN_TOPIC _UNKNOWN_PARTITION")
_FENCED: Final = _codes(
    "_FENCED PRODUCER_FENCED INVALID_PRODUCER_EPOCH INVALID_PRODUCER_ID_MAPPING "
    "UNKNOWN_PRODUCER_ID CONCURRENT_TRANSACTIONS INVALID_TXN_STATE"
)
(_BAD_SETTING,) = _codes("_INVALID_ARG")
_END: Final = _codes("_PARTITION_EOF")
_NO_OFFSET: Final = _codes("_AUTO_OFFSET_RESET OFFSET_OUT_OF_RANGE")
# What another try cannot change. All else is a broker that restarts, a leader that moves, or no answer.
_REFUSED: Final = _codes(
    "MSG_SIZE_TOO_LARGE RECORD_LIST_TOO_LARGE INVALID_RECORD POLICY_VIOLATION INVALID_CONFIG "
    "INVALID_REPLICATION_FACTOR INVALID_PARTITIONS INVALID_REQUEST UNSUPPORTED_VERSION "
    "UNSUPPORTED_FOR_MESSAGE_FORMAT TOPIC_EXCEPTION INVALID_REQUIRED_ACKS INVALID_TIMESTAMP "
    "_UNSUPPORTED_FEATURE _NOT_IMPLEMENTED _CRIT_SYS_RESOURCE _READ_ONLY"
)


class Topic(NamedTuple):
    """What the brokers say of a topic."""

    id: str
    """the text of a UUID, a new one each time a topic of this name is made"""
    partitions: int
    max_message_bytes: int
    replicas: int
    min_in_sync: int


class Client:
    """What asks the brokers, shared by all threads; a forked child makes its own."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.is_closed = False
        self.topic_id = ""  # of the store's topic, once it is open
        self._seen = 0.0  # when the brokers last said that this is the topic's id
        self._admin: Any = None
        self._process = 0

    @property
    def admin(self) -> Any:
        """The client that asks; one for each process."""
        admin = self._admin
        if admin is not None and self._process != os.getpid():
            leave_to_parent(admin)
            admin = None
        if admin is None:
            with translated(self.address.text):
                admin = self._admin = without_signals(lambda: AdminClient(self.address.settings))
            self._process = os.getpid()
        return admin

    def check_open(self) -> None:
        """Raise StoreClosed after `close`."""
        if self.is_closed:
            raise StoreClosed(self.address.text)

    def close(self) -> None:
        """Refuse what comes later. Clients end with their last use."""
        self.is_closed = True

    def make_producer(self, **settings: Any) -> Any:
        """Return a producer whose records are acknowledged by all replicas in sync."""
        given = {
            **self.address.settings,
            "acks": "all",
            "enable.idempotence": True,
            "queue.buffering.max.messages": 10_000_000,
            **settings,
        }
        with translated(self.address.text):
            return without_signals(lambda: Producer(given))

    def make_consumer(self, **settings: Any) -> Any:
        """Return a consumer of what is committed. It commits no offsets, and says where a topic ends."""
        given = {
            "fetch.wait.max.ms": 100,  # an aborted transaction at the end is only noticed after it
            "fetch.error.backoff.ms": 50,
            **self.address.settings,
            "group.id": f"evlog.{self.address.topic}",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            **settings,
        }
        with translated(self.address.text):
            return without_signals(lambda: Consumer(given))

    # --- questions

    def end(self, topic: str, seconds: float) -> int:
        """Return the offset after the last committed record of a topic of one partition.

        Raises:
            StoreUnreachable: the brokers did not answer in time. StoreNotFound, StoreReplaced, StoreClosed.
        """
        partition = TopicPartition(topic, 0)
        deadline = time.monotonic() + seconds
        missing_since: float | None = None
        while True:
            self.check_open()
            admin = self.admin
            try:
                with translated(self.address.text):
                    answers = admin.list_offsets(
                        {partition: OffsetSpec.latest()},
                        isolation_level=IsolationLevel.READ_COMMITTED,
                        request_timeout=max(1.0, min(ANSWER_SECONDS, deadline - time.monotonic())),
                    )
                    offset: int = answers[partition].result(ANSWER_SECONDS + 1).offset
                if offset >= 0:
                    if self.is_unsure():
                        self.check_topic()
                    return offset
                raise StoreUnreachable(self.address.text, "a broker that starts has no offset yet")
            except (StoreUnreachable, StoreNotFound):
                now = time.monotonic()
                is_missing = self.is_missing(topic) or self.is_missing(self.address.topic)
                missing_since = (missing_since or now) if is_missing else None
                if missing_since is not None and now - missing_since >= _UNKNOWN_SECONDS:
                    raise StoreNotFound(self.address.text, was_open=True) from None
                if now >= deadline:
                    raise
                if self._admin is admin:
                    self._admin = None  # it may not ask again about a partition that had no leader
                time.sleep(_RETRY_PAUSE_SECONDS)

    def is_missing(self, topic: str) -> bool:
        """Return whether a broker answers that it knows no such topic."""
        try:
            call = partial(self.admin.list_topics, topic, timeout=_LOOK_SECONDS)
            found = interruptible(call).topics[topic].error
        except KafkaException:
            return False
        return found is not None and found.code() in _MISSING

    def describe(self, topic: str) -> Topic | None:
        """Return what a topic is, and None if there is none.

        Raises:
            StoreUnreachable, StoreAccessDenied, ServerUnsuitable: it cannot be asked.
        """
        with translated(self.address.text):
            self._meet()
            answers = self.admin.describe_topics(TopicCollection([topic]), request_timeout=ANSWER_SECONDS)
            try:
                found = answers[topic].result(ANSWER_SECONDS + 1)
            except KafkaException as error:
                if error.args[0].code() in _MISSING:
                    return None
                raise
            resource = ConfigResource(ResourceType.TOPIC, topic)
            answers = self.admin.describe_configs([resource], request_timeout=ANSWER_SECONDS)
            settings = {
                name: each.value for name, each in answers[resource].result(ANSWER_SECONDS + 1).items()
            }
        text = str(found.topic_id or "")
        id = _uuid_of(text)
        if id is None:
            reason = "its brokers give topics no ids"
            raise ServerUnsuitable(self.address.text, reason, "use Kafka 3.3 or later")
        self._check_settings(topic, settings)
        replicas = min(len(each.replicas) for each in found.partitions)
        in_sync = int(settings["min.insync.replicas"])
        if replicas > 1 and in_sync < 2:
            reason = (
                f"topic {topic} has min.insync.replicas={in_sync}: a broker can lose what it acknowledged"
            )
            raise ServerUnsuitable(self.address.text, reason, "set min.insync.replicas=2")
        return Topic(str(id), len(found.partitions), int(settings["max.message.bytes"]), replicas, in_sync)

    def is_unsure(self) -> bool:
        """Return whether the store's topic may have been made again since the brokers were last asked."""
        return time.monotonic() - self._seen >= _REMADE_SECONDS

    def check_topic(self) -> None:
        """Raise StoreReplaced if the store's topic was deleted and made again since it was opened."""
        topic, now = self.address.topic, time.monotonic()
        with translated(self.address.text):
            answers = self.admin.describe_topics(TopicCollection([topic]), request_timeout=ANSWER_SECONDS)
            found = answers[topic].result(ANSWER_SECONDS + 1)
        if str(_uuid_of(str(found.topic_id))) != self.topic_id:
            raise StoreReplaced(self.address.text)
        self._seen = now

    def _meet(self) -> None:
        """Return once a broker answers. Raises KafkaException if none does in time."""
        address = self.address
        seconds = address.timeout_seconds if self.topic_id else address.open_timeout_seconds
        deadline = time.monotonic() + seconds
        while True:
            try:
                left = max(0.1, deadline - time.monotonic())
                interruptible(partial(self.admin.list_topics, address.topic, timeout=left))
            except KafkaException as error:
                self.admin.poll(0)  # has it report
                if self.address.refusal is not None:
                    raise KafkaException(self.address.refusal) from error
                if not is_transient(error.args[0]) or time.monotonic() >= deadline:
                    raise
            else:
                return

    def _check_settings(self, topic: str, settings: dict[str, str]) -> None:
        wanted = {"unclean.leader.election.enable": "false"}
        if topic == self.address.topic:
            wanted |= {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
        else:
            wanted |= {"cleanup.policy": "compact"}
        for name, value in wanted.items():
            if settings.get(name) != value:
                reason = f"topic {topic} has {name}={settings.get(name)}, so records can be lost"
                raise ServerUnsuitable(self.address.text, reason, f"set {name}={value}")

    def create(self, topic: str, partitions: int, **settings: str) -> bool:
        """Make a topic that keeps everything it is given; return whether it was not there before."""
        with translated(self.address.text):
            self._meet()
            brokers = len(self.admin.list_topics(timeout=ANSWER_SECONDS).brokers)
            replicas = self.address.replicas or min(_MOST_REPLICAS, brokers)
            new = NewTopic(
                topic,
                partitions,
                replicas,
                config={
                    "min.insync.replicas": "2" if replicas > 1 else "1",
                    "unclean.leader.election.enable": "false",
                    **settings,
                },
            )
            try:
                self.admin.create_topics([new], operation_timeout=ANSWER_SECONDS)[topic].result(
                    _CREATE_SECONDS
                )
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
                return False
        return True


def _uuid_of(text: str) -> UUID | None:
    """Return the UUID of a topic, which Kafka writes in base64."""
    from base64 import urlsafe_b64decode

    try:
        raw = urlsafe_b64decode(text + "==")
    except ValueError:
        return None
    return UUID(bytes=raw) if len(raw) == 16 and any(raw) else None


# --- errors


def is_end(error: Any) -> bool:
    """Return whether a consumer has only come to the end of what is committed."""
    return bool(error.code() in _END)


def is_lost(error: Any) -> bool:
    """Return whether the offset that a consumer is to read from is not there."""
    return bool(error.code() in _NO_OFFSET)


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Raise errors of the client as evlog's."""
    try:
        yield
    except KafkaException as error:
        raise translate(error.args[0], address) from error
    except TimeoutError as error:
        raise StoreUnreachable(address, "no answer in time") from error


def translate(error: Any, address: str) -> EvlogError:
    """Return evlog's error for one of the client's."""
    code, text = error.code(), error.str().strip().replace("\n", " ") or error.name()
    if code == _BAD_SETTING:
        return InvalidArgument(f"a setting of {address} makes no sense ({text})")
    if code in _DENIED:
        return StoreAccessDenied(address, text)
    if code in _MISSING:
        return StoreNotFound(address, was_open=True)
    return EngineError(address, text) if code in _REFUSED else StoreUnreachable(address, text)


def lost_records(topic: str) -> str:
    """Return what is wrong with such a topic."""
    return f"topic {topic} lacks its first records; other programs must not delete any"


def is_transient(error: Any) -> bool:
    """Return whether the same call may succeed a moment later, in a topic that was there."""
    return isinstance(translate(error, ""), StoreUnreachable | StoreNotFound)


def is_fencing(error: Any) -> bool:
    """Return whether another writer has begun, so that this one's transaction cannot be committed."""
    return error.code() in _FENCED


# --- fork


def leave_to_parent(client: object) -> None:
    """Never free a parent's client in a forked child: its threads are not there to end it."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(client))
