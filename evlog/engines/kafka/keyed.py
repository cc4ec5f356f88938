"""Subscriptions as records by key, in a compacted topic beside the store's: `<topic>.evlog`.

1. The key is a JSON array of texts, the value a JSON object; a record without a value deletes. Kafka's
   compaction keeps the last record of each key.
2. The revision of a record is its offset. Only the writer whose turn it is replaces a record (`writing.py`).
   It has read the topic to its end, so the revision that it compares with is the present one.
3. All records are held in memory: there is one for each subscription and each parked event.
4. The topic is made with the first record. A store without one has no subscriptions.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from evlog.engines.kafka.index import turn_lock
from evlog.engines.kafka.reading import Reader
from evlog.engines.kafka.writing import Decision, Result, Writer
from evlog.engines.keyed import KeepsSubscriptions, Record
from evlog.errors import AppendUnknown, CorruptionError, StoreUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from evlog.engine import Capabilities
    from evlog.engines.kafka.client import Client, Topic
    from evlog.engines.kafka.records import Record as TopicRecord
    from evlog.files.disk.file_lock import FileLock
    from evlog.model.reports import TornTail

    Key = tuple[str, ...]

_STORE: Final = (
    "Evlog-Store"  # the header that names the store's id: a new topic of the name is another store
)


class TopicRecords:
    """An `evlog.engines.keyed.KeyValue`."""

    engine = "kafka"

    def __init__(
        self, client: Client, store_id: str, turn: FileLock, *, lock_timeout_seconds: float | None
    ) -> None:
        self.address = client.address.text
        self._client = client
        self._store_id = store_id.encode()
        self._topic = client.address.own_topic
        self._is_there = False  # the topic; it stays
        self._found: dict[Key, Record] = {}  # replaced by the reader's thread only
        self.reader = Reader(client, self._topic, self)
        self._writer = Writer(
            client,
            self.reader,
            self._topic,
            turn,
            lock_timeout_seconds=lock_timeout_seconds,
            max_message_bytes=0,
        )

    # --- what the reader fills

    def begin(self) -> int:
        """Read from the beginning."""
        self._found = {}
        return 0

    def apply(self, messages: Sequence[Any]) -> None:
        """Take records in order."""
        found = dict(self._found)
        for message in messages:
            if dict(message.headers() or ()).get(_STORE) != self._store_id:
                continue
            try:
                key = tuple(map(str, json.loads(message.key())))
            except (ValueError, TypeError) as error:
                where = f"{self._topic}, offset {message.offset()}"
                raise CorruptionError(where, None, f"its key makes no sense ({error})") from None
            if message.value() is None:
                found.pop(key, None)
            else:
                found[key] = Record(message.value(), message.offset())
        self._found = found

    # --- records by key

    def find(self, key: Key) -> Record | None:
        """Return a record as it was read last, for what has caught up."""
        return self._found.get(key)

    def get(self, key: Key) -> Record | None:
        return self._current().get(key)

    def list(self, prefix: Key) -> Iterator[tuple[Key, Record]]:
        return iter([item for item in self._current().items() if item[0][: len(prefix)] == prefix])

    def put(self, key: Key, value: bytes, revision: int | None) -> int | None:
        """Write a record durably if the present one has this revision; return the new one, else None."""
        self.make_topic()

        sent: Decision[int | None] | None = None

        def decide() -> Decision[int | None]:
            nonlocal sent
            present = self._found.get(key)
            if present is not None and present.value == value and present.revision != revision and sent:
                return Decision(present.revision)  # sent before, and the answer was lost
            if (None if present is None else present.revision) != revision:
                return Decision(None)
            sent = Decision(None, [self.encode(key, value)])
            return sent

        found = self._write(decide)
        # The record that is there now may be another run's.
        return found if sent is None or sent.offset is None else sent.offset

    def delete(self, key: Key, revision: int) -> bool:

        def decide() -> Decision[bool]:
            present = self._found.get(key)
            if present is None and is_sent:
                return Decision(True)
            if present is None or present.revision != revision:
                return Decision(False)
            is_sent.append(True)
            return Decision(True, [self.encode(key, None)])

        is_sent: list[bool] = []
        return self._exists() and self._write(decide)

    def _write(self, decide: Callable[[], Decision[Result]]) -> Result:
        try:
            return self._writer.write(decide)
        except AppendUnknown as error:
            raise StoreUnreachable(self.address, error.reason) from error

    def close(self) -> None:
        """Free what it holds."""
        self._writer.close()

    def encode(self, key: Key, value: bytes | None) -> TopicRecord:
        """Return the record of a topic for one by key."""
        name = json.dumps(key, ensure_ascii=False, separators=(",", ":")).encode()
        return name, value, {_STORE: self._store_id}, 0, self._topic

    def _current(self) -> dict[Key, Record]:
        self._client.check_open()
        if not self._exists():
            self._client.check_topic()
            return {}
        self.reader.catch_up()
        return self._found

    def _exists(self) -> bool:
        if not self._is_there:
            self._is_there = self._client.describe(self._topic) is not None
        return self._is_there

    def make_topic(self) -> None:
        """Make the topic, if it is not there."""
        if not self._exists():
            self._client.create(self._topic, 1, **{"cleanup.policy": "compact"})
            while not self._exists():
                pass  # brokers learn of it one after another


class TopicEngine(KeepsSubscriptions):
    """What an engine on a topic has, whatever the number of its partitions. A base class."""

    def __init__(
        self,
        client: Client,
        topic: Topic,
        capabilities: Capabilities,
        *,
        created: bool,
        lock_timeout_seconds: float | None,
    ) -> None:
        self.address = client.address.text
        self.store_id = topic.id
        self.created = created
        self.torn_tails: Sequence[TornTail] = ()
        self.capabilities = capabilities
        self._client = client
        self._records = TopicRecords(
            client, topic.id, turn_lock(topic.id, "keyed"), lock_timeout_seconds=lock_timeout_seconds
        )
        self._partitions = topic.partitions
        self._writer = Writer(
            client,
            self._open_reader(),
            client.address.topic,
            turn_lock(topic.id, "turn"),
            lock_timeout_seconds=lock_timeout_seconds,
            max_message_bytes=topic.max_message_bytes,
            partition=0 if topic.partitions == 1 else -1,
        )

    def _open_reader(self) -> Reader:
        """Open and return what reads the topic that the last record of every append goes to."""
        raise NotImplementedError

    def close(self) -> None:
        self._client.close()
        self._writer.close()
        self._records.close()

    @property
    def records(self) -> TopicRecords:
        """The records of the store's subscriptions."""
        self._client.check_open()
        return self._records
