"""What the reader of a store's topic fills: the local index, and what the store is to others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from confluent_kafka import TopicPartition

from evlog.engines.kafka.client import is_lost, lost_records, translate
from evlog.engines.kafka.index import Place, last_event, load_place, open_index, remove_index, save_place
from evlog.engines.kafka.records import Assembler, maybe_identify
from evlog.errors import CorruptionError, MirrorConflict, StoreUnreachable
from evlog.model.history import HistoryPiece, Standing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from evlog.engines.kafka.client import Client
    from evlog.files.engine import DirectoryEngine
    from evlog.model.history import RemovedRecord

_SAVE_RECORDS: Final = 500  # read again at most, when the index is opened the next time
_LOOK_SECONDS: Final = 10.0


class Applying:
    """An `evlog.engines.kafka.reading.Applied`. Its reader's thread writes; any may read the attributes.

    Attributes:
        index: the local index.
        head: the last position that is applied.
        time_us: the last event's time.
        standing: what the store is to others.
        expected: what this process is sending: the piece, and the headers of its first and last record. Its
            records, with nothing in between, need not be decoded.
    """

    def __init__(self, client: Client, store_id: str) -> None:
        self._client = client
        self._topic = client.address.topic
        self._store_id = store_id
        self.index: DirectoryEngine = open_index(store_id)
        self.head = 0
        self.time_us = 0
        self.standing = Standing()
        self.expected: tuple[HistoryPiece, dict[str, bytes], dict[str, bytes]] | None = None
        self._assembler = Assembler(client.address.text, store_id, 0)
        self._place = Place()
        self._unsaved = 0  # records
        self._is_saved = False

    def begin(self) -> int:
        """Return the offset of the last event that is in the index; build it again where it does not fit."""
        place = load_place(self.index)
        if place.id and self.index.find_ids([place.id]).get(place.id) != place.position:
            place = Place()  # a power loss took the end of the index
        if place.id and not self._is_in_topic(place):
            self.index.close()
            remove_index(self._store_id)
            self.index, place = open_index(self._store_id), Place()
        last = last_event(self.index)
        self.standing = Standing(place.mirror_of, place.moved_to)
        self.time_us = 0 if last is None else last.time_us
        self.head = self.index.head()
        self._assembler = Assembler(self._client.address.text, self._store_id, self.head, last)
        self._place, self._unsaved, self._is_saved = place, 0, bool(place.id)
        return place.offset

    def _is_in_topic(self, place: Place) -> bool:
        """Return whether the event that was applied last is where it was; else brokers have lost records."""
        if self._client.end(self._topic, self._client.address.timeout_seconds) <= place.offset:
            return False
        consumer = self._client.make_consumer()
        try:
            consumer.assign([TopicPartition(self._topic, 0, place.offset)])
            message = consumer.poll(_LOOK_SECONDS)
            while message is not None and message.error() is not None and message.error().retriable():
                message = consumer.poll(_LOOK_SECONDS)
            if message is None:
                raise StoreUnreachable(self._client.address.text, "no answer in time")
            if message.error() is not None and is_lost(message.error()):
                raise CorruptionError(self._client.address.text, None, lost_records(self._topic))
            if message.error() is not None:
                raise translate(message.error(), self._client.address.text)
            found = maybe_identify(message.key(), dict(message.headers() or ()))
            return message.offset() == place.offset and found == (place.position, place.id)
        finally:
            consumer.close()

    def apply(self, messages: Sequence[Any]) -> None:
        """Apply records in order: what is whole, with as few writes to the index as possible."""
        whole: list[HistoryPiece] = []
        at = 0
        while at < len(messages):
            message = messages[at]
            headers = dict(message.headers() or ())
            piece = self._maybe_take_expected(messages, at, headers)
            if piece is None:
                done = self._assembler.feed(message.offset(), message.key(), message.value(), headers)
                at += 1
            else:
                done = piece
                at += len(piece.events)
            if isinstance(done, HistoryPiece) and done.events:
                last = done.events[-1]
                self._place = Place(messages[at - 1].offset(), last[0], last[4], *self.standing)
            if isinstance(done, HistoryPiece) and done.is_whole:
                whole.append(done)
            elif done is not None:
                self._append(whole)
                whole = []
                self._apply_other(done)
        self._append(whole)
        self.head = self._assembler.head
        self._unsaved += len(messages)
        is_due = self._unsaved >= _SAVE_RECORDS or not self._is_saved
        if is_due and self._place.id and self._assembler.is_between:
            save_place(self.index, self._place)
            self._unsaved, self._is_saved = 0, True

    def _apply_other(self, done: HistoryPiece | Standing | list[RemovedRecord]) -> None:
        if isinstance(done, HistoryPiece):
            self._append([done])
        elif isinstance(done, Standing):
            self.standing = done
        else:
            self.index.remove_history(self._store_id, done)

    def _maybe_take_expected(
        self, messages: Sequence[Any], at: int, headers: dict[str, bytes]
    ) -> HistoryPiece | None:
        """Return the piece that this process has sent, if these are its records."""
        if self.expected is None or headers != self.expected[1]:
            return None
        piece, _, last = self.expected
        end = at + len(piece.events) - 1
        if end >= len(messages) or dict(messages[end].headers() or ()) != last:
            return None
        return piece if self._assembler.take_whole(piece) else None

    def _append(self, pieces: list[HistoryPiece]) -> None:
        """Append pieces to the index, as one; another process may have appended some of it."""
        if not pieces:
            return
        first, last = pieces[0], pieces[-1]
        piece = first if first is last else _join(pieces)
        if piece.events:
            self.time_us = piece.events[-1][5]
        while (head := self.index.head()) < last.end:
            if head < piece.after:
                raise CorruptionError(self.index.address, None, "the local index has lost its end")
            if head > piece.after:
                kept = head - piece.after  # only pieces without gaps are joined, or found in part
                piece = HistoryPiece(
                    piece.source_id, head, piece.end, piece.events[kept:], piece.frames[kept:]
                )
            try:
                self.index.append_history(piece)
            except MirrorConflict:
                continue  # another process was faster


def _join(pieces: list[HistoryPiece]) -> HistoryPiece:
    events = [event for piece in pieces for event in piece.events]
    frames = [frame for piece in pieces for frame in piece.frames]
    return HistoryPiece(pieces[0].source_id, pieces[0].after, pieces[-1].end, events, frames)
