"""A topic of many partitions: a mirror's destination, and nothing else.

1. The stream's name is the key and decides about the partition, so a stream's events are in order. Nothing
   orders the events of two partitions, so evlog does not read such a topic. Other consumers do.
2. Up to where the source is copied is a record in the compacted topic beside it, written in the transaction
   of the events: a restart finds it there.
3. The transactional id is the topic's, as in `writing.py`: of two mirrors, one is fenced.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

from evlog.engines.kafka.keyed import TopicEngine
from evlog.engines.kafka.records import FORMAT, encode_events
from evlog.engines.kafka.writing import Decision
from evlog.errors import Unsupported
from evlog.model.events import SYSTEM_PREFIX, Event
from evlog.model.history import Standing, check_continues, check_mirror
from evlog.model.reports import Retention, StoreInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evlog.engines.kafka.reading import Reader
    from evlog.model.filters import LogSelection
    from evlog.model.history import HistoryPiece, RemovedRecord
    from evlog.model.reports import PolicyInfo

_COPIED = ("copied",)  # the key of the record that says how far the source is copied


class PartitionedTopic(TopicEngine):
    """An `evlog.engine.Engine` that takes a mirror, and refuses everything else."""

    def _open_reader(self) -> Reader:
        self._records.make_topic()
        return self._records.reader

    # --- up to where the source is copied

    def _copied(self, *, current: bool = True) -> dict[str, Any]:
        record = self._records.get(_COPIED) if current else self._records.find(_COPIED)
        copied: dict[str, Any] = {"mirror_of": "", "moved_to": "", "last": None, "position": 0}
        return copied if record is None else copied | json.loads(record.value)

    def head(self) -> int:
        """Return the last position that was copied."""
        position: int = self._copied()["position"]
        return position

    @property
    def standing(self) -> Standing:
        """What the topic is to others now."""
        copied = self._copied()
        return Standing(copied["mirror_of"], copied["moved_to"])

    def change_standing(self, before: Standing, after: Standing, *, head: int | None = None) -> bool:
        """Replace the standing, durably, if it is `before` and the source was copied up to `head`."""
        is_sent = False

        def decide() -> Decision[bool]:
            nonlocal is_sent
            copied = self._copied(current=False)
            standing = Standing(copied["mirror_of"], copied["moved_to"])
            if standing == after and (is_sent or before == after):
                return Decision(True)
            if standing != before or head not in (None, copied["position"]):
                return Decision(False)
            is_sent = True
            value = copied | after._asdict()
            return Decision(True, [self._records.encode(_COPIED, json.dumps(value).encode())])

        return self._writer.write(decide, fence=True)

    def append_history(self, piece: HistoryPiece) -> None:
        """Append the events of a piece, and up to where the source is copied, in one transaction."""
        self._client.check_open()
        is_sent = False

        def decide() -> Decision[None]:
            nonlocal is_sent
            copied = self._copied(current=False)
            check_mirror(self.address, (copied["mirror_of"], copied["moved_to"]), piece.source_id)
            if is_sent and copied["position"] == piece.end:
                return Decision(None)
            check_continues(self.address, copied["position"], piece.after, piece.source_id)
            is_sent = True
            copied["position"] = piece.end
            if piece.events:
                last = piece.events[-1]
                copied["last"] = [*last[:4], last.id_bytes.hex(), last.time_us]
            value = json.dumps(copied, ensure_ascii=False).encode()
            return Decision(None, [*encode_events(piece), self._records.encode(_COPIED, value)])

        self._writer.write(decide)

    def remove_history(self, source_id: str, removed: Sequence[RemovedRecord]) -> None:
        """Do nothing: a topic keeps what it was given, and evlog does not read this one."""

    def read_all(self, selection: LogSelection) -> Iterator[Event]:
        """Iterate over the last event, without its content; a mirror asks for no other."""
        if not selection.reverse or selection.limit != 1:
            self._refuse()
        last = self._copied()["last"]
        if last is not None:
            position, version, stream, type, id, time_us = last
            yield Event((position, version, stream, type, bytes.fromhex(id), time_us, 0, b"", None))

    def versions(self, streams: Sequence[str]) -> list[int]:
        """Return 0 for the store's own streams, which nothing is read from here."""
        if not all(stream.startswith(SYSTEM_PREFIX) for stream in streams):
            self._refuse()
        return [0] * len(streams)

    def read_removed(self, after: int, to: int) -> Iterator[RemovedRecord]:  # noqa: ARG002
        """Iterate over nothing: which events were removed is not kept."""
        return iter(())

    def info(self) -> StoreInfo:
        """Return the topic in numbers, as far as they are known."""
        position = self.head()
        return StoreInfo(
            path=self.address,
            id=UUID(self.store_id),
            format=FORMAT,
            events=position,
            streams=0,
            bytes=0,
            segments=self._partitions,
            first_position=min(1, position),
            last_position=position,
            first_time=None,
            last_time=None,
            policies=0,
            deleted_streams=0,
        )

    def policies(self) -> list[PolicyInfo]:
        """Return none: the source's policies are not kept."""
        return []

    def retention(self, stream: str | None, category: str | None) -> Retention:  # noqa: ARG002
        """Return that everything is kept."""
        return Retention()

    def snapshot_names(self) -> list[tuple[str, str | None]]:
        """Return none."""
        return []

    # --- everything else

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        self._client.check_open()
        raise Unsupported(
            "kafka",
            f"this in a topic of {self._partitions} partitions, which only takes a mirror",
            "use a topic of one partition, or the mirror's source",
        )

    append = read_stream = find_ids = streams = follow = snapshot = set_retention = _refuse
    delete_stream = redact = compact = verify = read_frames = removals = _refuse
