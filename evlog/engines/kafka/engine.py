"""The Kafka engine: implements `evlog.engine.Engine` with a topic and its local index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

from evlog.engine import Capabilities
from evlog.engines.kafka.address import Address
from evlog.engines.kafka.applying import Applying
from evlog.engines.kafka.client import Client, Topic
from evlog.engines.kafka.feed import KafkaFeed
from evlog.engines.kafka.index import snapshot_names
from evlog.engines.kafka.keyed import TopicEngine
from evlog.engines.kafka.partitions import PartitionedTopic
from evlog.engines.kafka.reading import Reader
from evlog.engines.kafka.records import FORMAT, encode_event, encode_forget, encode_piece, encode_standing
from evlog.engines.kafka.writing import Decision
from evlog.engines.keyed import check_checkpoints
from evlog.engines.reading import ReadsByReader
from evlog.errors import EventTooLarge, ServerUnsuitable, StoreNotFound, Unsupported
from evlog.model.events import MAX_EVENT_BYTES, Event, now_ns
from evlog.model.history import HistoryPiece, check_continues, check_mirror, check_standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from evlog.engine import Progress
    from evlog.files.engine import DirectoryEngine
    from evlog.files.follow.snapshot_file import SnapshotFile
    from evlog.model.appends import AppendRequest, BatchResult
    from evlog.model.filters import EventFilter
    from evlog.model.history import RemovedRecord, Standing
    from evlog.model.reports import PolicyInfo, Retention, StoreInfo, VerifyReport

NAME = "kafka"
_HEADER_BYTES = 4096  # of a record beside the event's data and metadata, at most


def open_engine(
    url: str,
    *,
    create: bool,
    sync: bool,  # noqa: ARG001 - all replicas in sync have every append
    lock_timeout_seconds: float | None,
) -> KafkaEngine | PartitionedTopic:
    """Open the store in a topic: `kafka://host[:port][,host…]/topic[?setting=value…]`.

    Raises:
        StoreNotFound: there is no such topic, and `create` is false.
        StoreUnreachable, StoreAccessDenied: no broker answers, or the brokers refuse.
        ServerUnsuitable: the topic may lose records.
    """
    address = Address(url)
    client = Client(address)
    found, created = client.describe(address.topic), False
    if found is None:
        if not create:
            raise StoreNotFound(address.text)
        forever = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
        created = client.create(address.topic, address.partitions or 1, **forever)
        while found is None:  # the brokers learn of it one after another
            found = client.describe(address.topic)
    client.topic_id = found.id
    if address.partitions not in (None, found.partitions):
        reason = (
            f"topic {address.topic} has {found.partitions} partitions, and the URL says {address.partitions}"
        )
        raise ServerUnsuitable(address.text, reason, "correct the URL")
    kind: type[KafkaEngine | PartitionedTopic] = KafkaEngine if found.partitions == 1 else PartitionedTopic
    return kind(
        client, found, capabilities_of(found), created=created, lock_timeout_seconds=lock_timeout_seconds
    )


def capabilities_of(topic: Topic) -> Capabilities:
    """Return what a store in a topic can do."""
    copies = f"all replicas in sync have its events, at least {topic.min_in_sync} of {topic.replicas}"
    return Capabilities(
        engine=NAME,
        durability=f"An append returns when {copies}. Brokers write to their disks later: what a power loss "
        "takes from all of them at once is lost.",
        max_event_bytes=min(topic.max_message_bytes - _HEADER_BYTES, MAX_EVENT_BYTES),
        retention=False,
        compaction=False,
        redaction=False,
        verify="digest",
    )


def _refusal(operation: str) -> Callable[..., NoReturn]:
    """Return a method that refuses an operation, whatever its arguments are."""

    def refuse(self: KafkaEngine, *_: Any, **__: Any) -> NoReturn:
        self._client.check_open()
        raise Unsupported(NAME, operation)

    return refuse


class KafkaEngine(TopicEngine, ReadsByReader):
    """A store in a topic of one partition."""

    def _open_reader(self) -> Reader:
        self._applying = Applying(self._client, self.store_id)
        self._reader = Reader(self._client, self._client.address.topic, self._applying)
        return self._reader

    def close(self) -> None:
        super().close()
        self._applying.index.close()

    @property
    def reader(self) -> DirectoryEngine:
        """What reads the store: the local index."""
        return self._index()

    def _index(self) -> DirectoryEngine:
        """Return the local index, with everything that was committed before the call."""
        self._client.check_open()
        self._reader.catch_up()
        return self._applying.index

    # --- appending

    def append(self, request: AppendRequest) -> BatchResult:
        """Append all events in one transaction, or none; all replicas in sync have them when this returns."""
        self._client.check_open()
        most = self.capabilities.max_event_bytes
        for event in request.events:
            if (size := len(event[3]) + len(event[4] or b"")) > most:
                raise EventTooLarge(size, most)
        state, own = self._applying, request.events
        made: frozenset[bytes] | None = None  # ids that evlog made: a known one is of an earlier try

        def decide() -> Decision[BatchResult]:
            nonlocal own, made
            check_standing(self.address, state.standing)
            plan = state.index.plan(request._replace(events=own))
            head = state.index.head()
            result = plan.result(head + 1)
            if made is not None:
                result.duplicates = [
                    known and id not in made for known, id in zip(result.duplicates, result.ids, strict=True)
                ]
            if not plan.events:
                return Decision(result)
            if made is None:
                pairs = zip(own, result.ids, strict=True)
                made = frozenset(id for event, id in pairs if event[1] is None)
            own = [
                (event[0], id, *event[2:]) for event, id in zip(own, result.ids, strict=True)
            ]  # found when it is tried again
            now_us = max(state.time_us, now_ns() // 1000)
            last = b"%d" % (head + len(plan.events))
            rows = zip(plan.events, plan.ids, plan.streams, plan.versions, strict=True)
            written = [
                Event((position, version, stream, type, id, now_us, code, data, metadata))
                for position, ((type, _, code, data, metadata), id, stream, version) in enumerate(
                    rows, head + 1
                )
            ]
            sent = [encode_event(event, head + 1, last) for event in written]
            frames = [head + 1] * len(written)
            piece = HistoryPiece(self.store_id, head, head + len(written), written, frames)
            state.expected = piece, sent[0][2], sent[-1][2]
            return Decision(result, sent)

        return self._writer.write(decide)

    # --- reading

    def head(self) -> int:
        return self._index().head()

    def info(self) -> StoreInfo:
        """Return the store in numbers; `bytes` are those of the local index."""
        return self._index().info()._replace(path=self.address, id=UUID(self.store_id), format=FORMAT)

    def removals(self) -> int:
        """Return how many events the source of a mirror has removed."""
        return self._index().removals()

    # --- following

    def follow(self, filter: EventFilter) -> KafkaFeed:
        index = self._index()
        return KafkaFeed(self._reader, filter, index.read_all, lambda: self._applying.head, self.head)

    # --- snapshots

    def snapshot(self, name: str, stream: str | None) -> SnapshotFile:
        """Return the place of the snapshot with this checked name, in the local index."""
        self._client.check_open()
        return self._applying.index.snapshot(name, stream)

    def snapshot_names(self) -> list[tuple[str, str | None]]:
        self._client.check_open()
        return snapshot_names(self._applying.index)

    # --- what a topic cannot do: it keeps what it was given, and none of its records can be erased

    set_retention = _refusal("retention")
    delete_stream = _refusal("deleting a stream")
    redact = _refusal("redaction")
    compact = _refusal("compaction")

    def retention(self, stream: str | None, category: str | None) -> Retention:
        """Return what is kept; in a mirror by the policies of its source."""
        return self._index().retention(stream, category)

    def policies(self) -> list[PolicyInfo]:
        """Return every policy that the source of a mirror has."""
        return self._index().policies()

    def verify(self, *, quick: bool, against: str | None, progress: Progress | None) -> VerifyReport:
        """Check the local index, and compare each event in the topic with it."""
        from evlog.engines.kafka.verify import verify

        index = self._index()
        report = verify(self._client, index, self.store_id, quick=quick, against=against, progress=progress)
        return report._replace(findings=(*report.findings, *check_checkpoints(self.records, self.head)))

    # --- mirrors

    @property
    def standing(self) -> Standing:
        """What the store is to others now."""
        self._index()
        return self._applying.standing

    def change_standing(self, before: Standing, after: Standing, *, head: int | None = None) -> bool:
        self._client.check_open()
        state, is_sent = self._applying, False

        def decide() -> Decision[bool]:
            nonlocal is_sent
            if is_sent and state.standing == after:
                return Decision(True)
            if state.standing != before or head not in (None, state.index.head()):
                return Decision(False)
            is_sent = True
            return Decision(True, [] if before == after else [encode_standing(after)])

        return self._writer.write(decide, fence=True)

    def read_frames(self, after: int, to: int) -> Iterator[tuple[int, Event]]:
        return self._index().read_frames(after, to)

    def read_removed(self, after: int, to: int) -> Iterator[RemovedRecord]:
        """Iterate over the events after position `after` up to `to` that a mirror's source has removed."""
        return self._index().read_removed(after, to)

    def append_history(self, piece: HistoryPiece) -> None:
        """Append a piece of the source's history in one transaction; all replicas in sync have it then."""
        self._client.check_open()
        state, is_sent = self._applying, False

        def decide() -> Decision[None]:
            nonlocal is_sent
            head = state.index.head()
            check_mirror(self.address, state.standing, piece.source_id)
            if is_sent and head == piece.end:
                return Decision(None)
            check_continues(self.address, head, piece.after, piece.source_id)
            is_sent = True
            return Decision(None, encode_piece(piece))

        self._writer.write(decide)

    def remove_history(self, source_id: str, removed: Sequence[RemovedRecord]) -> None:
        """Forget what the source's compactions have removed: it stays in the topic, unread."""
        self._client.check_open()

        def decide() -> Decision[None]:
            check_mirror(self.address, self._applying.standing, source_id)
            return Decision(None, encode_forget(removed))

        self._writer.write(decide)
